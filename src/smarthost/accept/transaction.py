# SPDX-License-Identifier: MIT
"""One transaction: what MAIL and RCPT said, the content that follows, and the Message they make.

Pure. Decides what travels with a message; not who may send it (accept.standing) nor when it is ours (accept.reception).
"""

from collections.abc import Callable

from smarthost.accept import trace, transfers
from smarthost.accept.intake import Intake
from smarthost.mail.address import Address
from smarthost.mail.content import Draft
from smarthost.mail.envelope import NULL_REVERSE_PATH, DsnRequest, Envelope, SenderTls
from smarthost.mail.message import Message
from smarthost.mail.progress import Progress
from smarthost.smtp.wire import MailReceived

_UNASKED = DsnRequest()
# Globals, for 3.11 takes some 50 ns to find a member in its enum.
_REQUIRED, _OPTIONAL, _DEFAULT = SenderTls.REQUIRED, SenderTls.OPTIONAL, SenderTls.DEFAULT


class Transaction:
    """Used again for each message of a session."""

    __slots__ = ("_mail", "_progress", "_recipients", "_requests", "intake", "reverse_path")

    def __init__(self, draft: Callable[[], Draft]) -> None:
        self.intake = Intake(draft)
        self.reverse_path = NULL_REVERSE_PATH
        self._mail: MailReceived | None = None
        self._recipients: list[Address] = []
        self._requests: list[DsnRequest] | None = None  # while nobody asked for anything
        self._progress: list[Progress] = []  # of mail from another node

    @property
    def is_moved(self) -> bool:
        """Does it come from another node's queue?"""
        return self._mail is not None and self._mail.origin is not None

    def begin(self, mail: MailReceived) -> None:
        """Take an accepted MAIL; whatever was left of a transaction before it is dropped."""
        if self._mail is not None:
            self._let_go()
        self.intake.drop()
        self._mail = mail
        path = mail.reverse_path
        self.reverse_path = NULL_REVERSE_PATH if path is None else path.text

    def add(self, recipient: Address, request: DsnRequest | None) -> None:
        """Take an accepted recipient."""
        if self._requests is not None:
            self._requests.append(request or _UNASKED)
        elif request is not None:
            self._requests = [_UNASKED] * len(self._recipients)
            self._requests.append(request)
        self._recipients.append(recipient)

    def add_moved(self, recipient: Address, request: DsnRequest | None, progress: Progress) -> None:
        """Take an accepted recipient of mail from another node."""
        self.add(recipient, request)
        self._progress.append(progress)

    def hand_over(
        self,
        id: str,
        now: float,
        stamp: trace.ReceivedStamp,
        *,
        client: str,
        user: str,
        signs: tuple[str, ...],
        submits: str,
    ) -> Message:
        """Give the message and keep nothing of it. `submits`: our hostname where missing fields are added, else "".

        Raises: StoreError: the draft cannot be finished.
        """
        mail = self._mail
        assert mail is not None, "content follows MAIL"
        intake = self.intake
        reverse_path = self.reverse_path
        prefix = stamp.write(id, now, self._recipients, smtputf8=mail.smtputf8)
        message_id = intake.message_id
        if submits:
            added = intake.missing_fields(now, id, submits)
            prefix += added
            if not message_id and b"Message-ID:" in added:
                message_id = f"<{id}@{submits}>"
        tls = _REQUIRED if mail.requires_tls else _OPTIONAL if intake.tls_optional else _DEFAULT
        envelope = Envelope(
            reverse_path,
            tuple(self._recipients),
            mail.body,
            mail.smtputf8,
            mail.ret,
            mail.envid,
            tls,
            () if self._requests is None else tuple(self._requests),
        )
        content = intake.hand_over()
        message = Message(
            id, now, envelope, prefix, content, client, user or reverse_path or client, signs, user, (), message_id
        )
        if mail.origin is not None:
            message = transfers.carry_on(message, mail.origin, self._progress)
        self._let_go()
        return message

    def forget(self) -> None:
        """Drop everything; ready for the next message."""
        self._let_go()
        self.intake.drop()

    def _let_go(self) -> None:
        self._mail = None
        self._recipients = []
        self._requests = None
        if self._progress:
            self._progress = []
