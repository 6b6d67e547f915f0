# SPDX-License-Identifier: MIT
"""One transaction: what MAIL and RCPT said, the content that follows, and the Message they make.

Pure. Decides what travels with a message; not who may send it (accept.standing) nor when it is ours (accept.reception).
"""

from collections.abc import Callable

from smarthost.accept import trace
from smarthost.accept.intake import Intake
from smarthost.mail.address import Address
from smarthost.mail.content import Draft
from smarthost.mail.envelope import NULL_REVERSE_PATH, DsnRequest, Envelope, SenderTls
from smarthost.mail.message import Message
from smarthost.smtp.wire import MailReceived

_UNASKED = DsnRequest()


class Transaction:
    """Used again for each message of a session."""

    __slots__ = ("_recipients", "_requests", "intake", "mail")

    def __init__(self, draft: Callable[[], Draft]) -> None:
        self.intake = Intake(draft)
        self.mail: MailReceived | None = None
        self._recipients: list[Address] = []
        self._requests: list[DsnRequest] = []  # empty while nobody asked for anything

    def begin(self, mail: MailReceived) -> None:
        self.mail = mail

    def add(self, recipient: Address, request: DsnRequest | None) -> None:
        """Take an accepted recipient."""
        if request is not None or self._requests:
            missing = len(self._recipients) - len(self._requests)
            self._requests += [_UNASKED] * missing
            self._requests.append(request or _UNASKED)
        self._recipients.append(recipient)

    @property
    def reverse_path(self) -> str:
        mail = self.mail
        return NULL_REVERSE_PATH if mail is None or mail.reverse_path is None else mail.reverse_path.text

    def to_message(
        self, id: str, now: float, stamp: trace.ReceivedStamp, *, client: str, user: str, signs: bool, submits: str
    ) -> Message:
        """Give the message. `submits`: our hostname where missing fields are added, else "".

        Raises: StoreError: the draft cannot be finished.
        """
        mail = self.mail
        assert mail is not None, "content follows MAIL"
        reverse_path = self.reverse_path
        prefix = stamp.write(id, now, self._recipients, smtputf8=mail.smtputf8)
        if submits:
            prefix += self.intake.missing_fields(now, id, submits)
        if mail.requires_tls:
            tls = SenderTls.REQUIRED
        else:
            tls = SenderTls.OPTIONAL if self.intake.tls_optional else SenderTls.DEFAULT
        envelope = Envelope(
            reverse_path,
            tuple(self._recipients),
            mail.body,
            mail.smtputf8,
            mail.ret,
            mail.envid,
            tls,
            tuple(self._requests),
        )
        content = self.intake.hand_over()
        return Message(id, now, envelope, prefix, content, client, user or reverse_path or client, signs, user)

    def forget(self) -> None:
        """Drop everything; ready for the next message."""
        self.mail = None
        self._recipients = []
        if self._requests:
            self._requests = []
        self.intake.drop()
