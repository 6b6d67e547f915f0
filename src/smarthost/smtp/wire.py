# SPDX-License-Identifier: MIT
"""Wire events: what the two protocol machines hand out. All frozen; a driver matches on their class."""

from msgspec import Struct

from smarthost.mail.address import Address
from smarthost.mail.envelope import Body
from smarthost.mail.reply import Reply

# Server side: the client asked for something that policy must answer (SmtpServer.reply)


class HelloReceived(Struct, frozen=True, gc=False):
    """EHLO or HELO; the machine composes a positive EHLO answer itself (SmtpServer.accept_hello)."""

    extended: bool
    name: str


class MailReceived(Struct, frozen=True, gc=False):
    """MAIL FROM, syntactically sound and within the SIZE limit. `size` is the declared one, or None."""

    reverse_path: Address | None  # None is the null path
    size: int | None
    body: Body
    smtputf8: bool


class RcptReceived(Struct, frozen=True, gc=False):
    """RCPT TO, syntactically sound, below the recipient limit."""

    recipient: Address


class DataReceived(Struct, frozen=True, gc=False):
    """DATA with at least one accepted recipient; answer 354 (SmtpServer.accept_data) or refuse."""


class ContentReceived(Struct, frozen=True, gc=False):
    """A piece of content, dots unstuffed. Small content comes whole in one piece. Takes no reply."""

    octets: bytes


class ContentEnded(Struct, frozen=True, gc=False):
    """The final dot. `defect` is the reply that must be given if the content is not acceptable, else None.

    Takes one reply: 250 only after the store has committed.
    """

    defect: Reply | None


class ResetReceived(Struct, frozen=True, gc=False):
    """The transaction is void (RSET, HELO, EHLO); already answered. Whatever was kept of it must be dropped."""


class QuitReceived(Struct, frozen=True, gc=False):
    """The client says goodbye; already answered: flush and close."""


class HangUp(Struct, frozen=True, gc=False):
    """The machine has had enough (too many errors, an endless line): its 421 or 5xx is queued; flush and close."""

    why: str


ServerEvent = (
    HelloReceived
    | MailReceived
    | RcptReceived
    | DataReceived
    | ContentReceived
    | ContentEnded
    | ResetReceived
    | QuitReceived
    | HangUp
)

# Client side: the host answered


class BannerReceived(Struct, frozen=True, gc=False):
    """The greeting."""

    reply: Reply


class HelloAnswered(Struct, frozen=True, gc=False):
    """The answer to EHLO, or to HELO after EHLO was refused; SmtpClient.extensions holds what was offered."""

    reply: Reply


class StarttlsAnswered(Struct, frozen=True, gc=False):
    """The answer to STARTTLS; on 220 the driver upgrades, then calls SmtpClient.secured()."""

    reply: Reply


class AuthAnswered(Struct, frozen=True, gc=False):
    """The final answer to AUTH."""

    reply: Reply


class ContentWanted(Struct, frozen=True, gc=False):
    """354 came and at least one recipient was accepted: send the content now (SmtpClient.content, content_end)."""


class TransactionEnded(Struct, frozen=True, gc=False):
    """Everything the host said about one transaction.

    `mail`: reply to MAIL. `recipients`: reply to each RCPT in order, None where it was never asked or never heard.
    `data`: reply to DATA or None. `final`: reply after the final dot or None. The machine is idle again, unless it is
    closed.
    """

    mail: Reply
    recipients: tuple[Reply | None, ...]
    data: Reply | None
    final: Reply | None


class ClosingReceived(Struct, frozen=True, gc=False):
    """The host said 421 outside any command, or answered QUIT: the session is over."""

    reply: Reply


ClientEvent = (
    BannerReceived
    | HelloAnswered
    | StarttlsAnswered
    | AuthAnswered
    | ContentWanted
    | TransactionEnded
    | ClosingReceived
)
