# SPDX-License-Identifier: MIT
"""Wire events: what the two protocol machines hand out. All frozen; a driver matches on their class."""

from msgspec import Struct

from smarthost.mail.address import Address
from smarthost.mail.envelope import Body, DsnRequest
from smarthost.mail.progress import Origin, Progress
from smarthost.mail.reply import Reply

# Server side: the client asked for something that policy must answer (SmtpServer.reply)


class HelloReceived(Struct, frozen=True, gc=False):
    """EHLO, LHLO or HELO; the machine composes a positive EHLO answer itself (SmtpServer.accept_hello)."""

    extended: bool
    name: str


class MailReceived(Struct, frozen=True, gc=False):
    """MAIL FROM, syntactically sound and within the SIZE limit. `size` is the declared one, or None.

    `ret`, `envid`: as in Envelope. `requires_tls`: REQUIRETLS, which is taken only inside TLS. `auth`: the AUTH
    parameter as written (RFC 4954 5), or "": evidence, never trusted. `origin`: another node hands us a message of its
    queue, as it may (Offer.transfer); each RCPT then says how far its recipient has come.
    """

    reverse_path: Address | None  # None is the null path
    size: int | None
    body: Body
    smtputf8: bool
    ret: str = ""
    envid: str = ""
    requires_tls: bool = False
    auth: str = ""
    origin: Origin | None = None


class RcptReceived(Struct, frozen=True, gc=False):
    """RCPT TO, syntactically sound, below the recipient limit; `request` where NOTIFY or ORCPT came with it.

    `progress`: with each, if MAIL had an `origin`; with none otherwise.
    """

    recipient: Address
    request: DsnRequest | None = None
    progress: Progress | None = None


class StarttlsReceived(Struct, frozen=True, gc=False):
    """STARTTLS with nothing behind it. Answer with SmtpServer.accept_starttls, write, upgrade the connection, and call
    SmtpServer.secured when the handshake is done; or refuse (454)."""


class AuthReceived(Struct, frozen=True, gc=False):
    """AUTH came to its end: a claim and its proof, which is never logged. Answer 235, 535 or 454."""

    mechanism: str
    username: str
    password: str

    def __repr__(self) -> str:
        return f"AuthReceived({self.mechanism!r}, {self.username!r}, ***)"


class XclientReceived(Struct, frozen=True, gc=False):
    """XCLIENT from whom it was offered: the attributes as decoded, keys in upper case. Answer 220, or refuse (550).

    After 220 the session begins anew: the machine greets with what it was given and awaits EHLO.
    """

    attributes: tuple[tuple[str, str], ...]


class BdatReceived(Struct, frozen=True, gc=False):
    """The first BDAT of a transaction (RFC 3030): content begins. Takes no reply; ContentReceived may follow."""


class ChunkEnded(Struct, frozen=True, gc=False):
    """A chunk that is not the last was read to its end. Takes one reply; a negative one voids the transaction."""

    octets: int


class DataReceived(Struct, frozen=True, gc=False):
    """DATA with at least one accepted recipient; answer 354 (SmtpServer.accept_data) or refuse."""


class ContentReceived(Struct, frozen=True, gc=False):
    """A piece of content, dots unstuffed. Small content comes whole in one piece. Takes no reply."""

    octets: bytes


class ContentEnded(Struct, frozen=True, gc=False):
    """The final dot. `defect` is the reply that must be given if the content is not acceptable, else None.

    Takes one reply: 250 only after the store has committed. In LMTP the machine says it once for each recipient. The
    end of the last BDAT is one, too; with a defect, the end of any chunk is: the rest is not wanted.
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
    | StarttlsReceived
    | AuthReceived
    | XclientReceived
    | BdatReceived
    | ChunkEnded
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
    `data`: reply to DATA or None; with BDAT, a negative reply to a chunk that was not the last. `final`: reply after
    the final dot or the last chunk, or None. `finals`: in LMTP, those of each accepted recipient, in the order of
    `recipients` (None for those not accepted or not heard), and `final` is None; else empty. The machine is idle again,
    unless it is closed.
    """

    mail: Reply
    recipients: tuple[Reply | None, ...]
    data: Reply | None
    final: Reply | None
    finals: tuple[Reply | None, ...] = ()


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
