# SPDX-License-Identifier: MIT
"""The programmatic door: library callers and `smarthost send` hand mail in as values, without an SMTP session.

The same duties as reception, and the same replies: addresses by the one grammar, content by the one rule for line ends,
loops refused, Received: prepended, durable before a receipt. Who may call it is decided by whoever holds the door (the
control socket checks peer credentials). A crash before the commit leaves nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from smarthost.accept import replies, trace
from smarthost.accept.intake import FILING_S
from smarthost.mail.address import Address
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import NULL_REVERSE_PATH, Body, Envelope, SenderTls
from smarthost.mail.errors import StoreError, SubmissionRefused
from smarthost.mail.message import Message
from smarthost.mail.reply import Reply, reply
from smarthost.ports import Clock
from smarthost.smtp import grammar, lines
from smarthost.smtp.limits import Limits

TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients in one submission")
NO_RECIPIENTS = reply(554, "5.5.1", "No recipients")


class Receipt(Struct, frozen=True):
    """Proof that a message is durable: its id."""

    id: str


class Injection:
    """Takes messages from code.

    `add` is that of the journey: it calls back once the message is durable. `sign` comes before it, as in
    ReceptionTerms.
    """

    def __init__(
        self,
        *,
        hostname: str,
        limits: Limits,
        clock: Clock,
        next_id: Callable[[], str],
        add: Callable[[Message, Callable[[Exception | None], None]], None],
        route_recipient: Callable[[Address], Address],
        refuse_recipient: Callable[[Address], Reply | None],
        sign: Callable[[Message, Callable[[Message], None]], None] | None = None,
    ) -> None:
        self._hostname = hostname
        self._limits = limits
        self._clock = clock
        self._next_id = next_id
        self._add = add
        self._route_recipient = route_recipient
        self._refuse_recipient = refuse_recipient
        self._sign = sign

    async def submit(
        self,
        octets: bytes,
        reverse_path: str,
        recipients: Sequence[str],
        *,
        client: str = "local",
        user: str = "",
        drawn: Callable[[str], Awaitable[None]] | None = None,
    ) -> Receipt:
        """File one message; returns when it is durable. Cancelling does not withdraw it.

        `user`: who proved to be so. `drawn`: told the id before the message is filed, for who must know of it whatever
        happens then.
        Raises: SubmissionRefused, StoreError.
        """
        tls, message_id = self._check_content(octets)
        sender = _read_reverse_path(reverse_path, self._limits.message_octets)
        addresses = self._read_recipients(recipients)
        is_utf8 = not (reverse_path.isascii() and all(address.text.isascii() for address in addresses))
        body = Body.SEVEN_BIT if octets.isascii() else Body.EIGHT_BIT_MIME
        id, now = self._next_id(), self._clock.wall()
        if drawn is not None:
            await drawn(id)
        stamp = trace.ReceivedStamp(client, self._hostname).write(id, now, addresses, smtputf8=is_utf8)
        message = Message(
            id,
            now,
            Envelope(sender, addresses, body, is_utf8, tls=tls),
            stamp,
            InlineContent(octets),
            client,
            user or sender or client,
            signs=("*",),
            user=user,
            message_id=message_id,
        )
        await self._file(message)
        return Receipt(id)

    def _check_content(self, octets: bytes) -> tuple[SenderTls, str]:
        """Give what the content asks of TLS (RFC 8689 5), and its Message-ID. Raises: SubmissionRefused."""
        hops, tls_optional, message_id = trace.survey(octets)
        defect = lines.find_defect(octets)
        if defect is None and len(octets) > self._limits.message_octets:
            defect = lines.TOO_LARGE
        if defect is None and hops >= trace.RECEIVED_LIMIT:
            defect = replies.MAIL_LOOP
        if defect is not None:
            raise SubmissionRefused(defect)
        return SenderTls.OPTIONAL if tls_optional else SenderTls.DEFAULT, message_id

    def _read_recipients(self, recipients: Sequence[str]) -> tuple[Address, ...]:
        if not recipients:
            raise SubmissionRefused(NO_RECIPIENTS)
        if len(recipients) > self._limits.recipients:
            raise SubmissionRefused(TOO_MANY_RECIPIENTS)
        return tuple([self.read_recipient(text) for text in recipients])

    def read_recipient(self, text: str) -> Address:
        """Give the address that mail for this recipient is filed under. Raises: SubmissionRefused."""
        read = grammar.parse_rcpt(b"TO:<" + _to_octets(text) + b">", True)
        refusal = read if isinstance(read, Reply) else self._refuse_recipient(read.recipient)
        if refusal is not None:
            raise SubmissionRefused(_naming(refusal, text))
        assert not isinstance(read, Reply), "a refusal was raised"
        return self._route_recipient(read.recipient)

    async def _file(self, message: Message) -> None:
        durable = asyncio.get_running_loop().create_future()

        def filed(failure: Exception | None) -> None:
            if durable.done():
                return
            if failure is None:
                durable.set_result(None)
            else:
                durable.set_exception(failure)

        late = StoreError(f"not committed after {FILING_S:.0f} s; it may be yet")
        deadline = self._clock.deadline(FILING_S, lambda: filed(late))
        try:
            if self._sign is None:
                self._add(message, filed)
            else:
                self._sign(message, lambda signed: self._add(signed, filed))
            await durable
        finally:
            deadline.cancel()


def _read_reverse_path(text: str, max_octets: int) -> str:
    read = grammar.parse_mail(b"FROM:<" + _to_octets(text) + b"> SMTPUTF8", max_octets)
    if isinstance(read, Reply):
        raise SubmissionRefused(_naming(read, text))
    return NULL_REVERSE_PATH if read.reverse_path is None else read.reverse_path.text


def _to_octets(text: str) -> bytes:
    """Give an address as octets; what could end the path early, or is no text, is refused by the grammar afterwards."""
    return text.encode("utf-8", "surrogateescape")


def _naming(refusal: Reply, text: str) -> Reply:
    shown = "".join(character if character.isprintable() else "?" for character in text[:256])
    return Reply(refusal.code, refusal.enhanced, (*refusal.lines, f"Address: {shown}"))
