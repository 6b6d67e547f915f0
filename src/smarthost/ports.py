# SPDX-License-Identifier: MIT
"""All that smarthost asks of the world. Stages import only this; backends/ answers it for real, testing/ in simulation.

Every protocol here has one conformance check in smarthost.testing that the real thing and the fake both pass.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from msgspec import Struct

from smarthost.mail.hop import TlsFacts
from smarthost.mail.record import Record
from smarthost.mail.user import User


class Deadline(Protocol):
    """A moment by which something must have happened; cheap to move (no timer of its own)."""

    def restart(self, seconds: float) -> None:
        """Count `seconds` from now again; revives a cancelled or expired deadline."""

    def cancel(self) -> None:
        """Never expire; harmless when it has already."""


class Clock(Protocol):
    """Two clocks that must not be mixed, and the one wheel on which all deadlines turn."""

    def wall(self) -> float:
        """Seconds since 1970 for what survives a restart: wall at start + boot time elapsed, never stepped back."""

    def monotonic(self) -> float:
        """Seconds for what does not survive a restart."""

    def deadline(self, seconds: float, expired: Callable[[], None]) -> Deadline:
        """Call `expired` once after `seconds`, at most a quarter of a second late; never before."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; safe to cancel."""


class Random(Protocol):
    """What chance we take (a subset of random.Random)."""

    def random(self) -> float: ...
    def shuffle(self, x: list[Any], /) -> None: ...
    def getrandbits(self, k: int, /) -> int: ...


class Receiver(Protocol):
    """Whoever is told what a Connection does. No method may block or raise."""

    def received(self, chunk: bytes) -> None:
        """Octets came in (never empty)."""

    def writable(self) -> None:
        """A write that answered False has drained enough to go on."""

    def secured(self, facts: TlsFacts) -> None:
        """The handshake that `upgrade` began has succeeded."""

    def ended(self) -> bool:
        """The peer says nothing more, and may still hear; True: there is something to say to it, and a close to follow.

        False: nothing, so the connection ends. Not called within TLS.
        """

    def lost(self, why: Exception | None) -> None:
        """The connection is gone: None after a clean end by the peer or by our own close. Called exactly once, last."""


class TlsRequest(Struct, frozen=True, gc=False):
    """How to shake hands as a client: `server_name` for SNI and name; `verified`: certificate and name must hold."""

    server_name: str
    verified: bool


class TlsService(Protocol):
    """Our own side of TLS as a server: certificate, key, what is asked of clients. Opaque but for this."""

    @property
    def can_serve(self) -> bool:
        """Is there a certificate that could be shown now?"""


class Connection(Protocol):
    """A byte stream that pushes. After `attach` it calls the receiver, never from inside a call of ours to it."""

    @property
    def peer(self) -> tuple[str, int]:
        """IP address text (IPv4-mapped addresses are shown as IPv4) and port.

        Port 0: a balancer that did not say for whom it connects.
        """

    @property
    def local(self) -> tuple[str, int]: ...

    def attach(self, receiver: Receiver) -> None:
        """Say who is told; required once, before anything can be received."""

    def write(self, buffers: Sequence[bytes]) -> bool:
        """Send all buffers in order in one write; False: pause until `writable`. Ignored once lost."""

    def pause(self) -> None:
        """Stop receiving."""

    def resume(self) -> None: ...

    def upgrade(self, tls: TlsRequest | TlsService) -> None:
        """Begin TLS, as a client or as a server; `secured` or `lost` (with TlsFailed) follows.

        The receiver must hold no unread octets: whoever calls it checks that first (response injection).
        """

    def close(self) -> None:
        """Flush what was written, then close; bounded in time by the implementation."""

    def abort(self) -> None:
        """Close at once; unsent octets are dropped."""


class Dialer(Protocol):
    """Opens connections to others."""

    async def dial(self, address: str, port: int, *, source: str, timeout_s: float) -> Connection:
        """Connect to an IP address text; `source` is a local address or "".

        Raises: ConnectFailed: refused, unreachable, or `timeout_s` passed; its text says which. Safe to cancel.
        """


class Authenticator(Protocol):
    """Knows the users who may submit mail. Never raises for what a client sent."""

    def check(self, username: str, password: str, answered: Callable[[User | None], None]) -> None:
        """Look the password up, off the loop, and call `answered` later: the user, or None for any kind of no.

        Takes as long for a user who does not exist as for a wrong password. Raises: StoreError: users cannot be read;
        StoreBusy: too many wait for an answer.
        """

    def find_user(self, name: str) -> User | None:
        """Give the user of this name, for whom somebody vouches whom the operator trusts."""

    def find_certificate(self, fingerprint: str) -> User | None:
        """Give the user whose client certificate has this SHA-256 (lower-case hex), if there is one."""


class SigningKey(Struct, frozen=True, gc=False):
    """A DKIM key that may sign for `domain` (d=); the public one is at SELECTOR._domainkey.DOMAIN.

    `algorithm`: "rsa-sha256" or "ed25519-sha256". `handle`: the keyring's own.
    """

    domain: str
    selector: str
    algorithm: str
    handle: int


class Keyring(Protocol):
    """Keeps the DKIM keys, and makes signatures without stopping the loop."""

    def keys_for(self, domain: str) -> Sequence[SigningKey]:
        """Give all keys of this domain, or of the nearest one above it that has any."""

    def sign(
        self, texts: Sequence[tuple[SigningKey, bytes]], signed: Callable[[Sequence[bytes] | Exception], None]
    ) -> None:
        """Sign each text with its key; `signed` is called once, at once or later, with the signatures in order."""

    def aside(self, work: Callable[[], bytes], done: Callable[[bytes | Exception], None]) -> None:
        """Do long work beside the loop; `done` is called later, on the loop, with its result or what it raised."""


class Listener(Protocol):
    """Accepts connections from others."""

    async def listen(
        self,
        host: str,
        port: int,
        accepted: Callable[[Connection], Receiver | None],
        proxies: Sequence[str] = (),
    ) -> tuple[str, int]:
        """Accept on host:port (port 0: any) and give the bound address; `accepted` answers None to drop a connection.

        From these networks (CIDR) a PROXY header must come first, and `peer` is then the client it names; a connection
        without one, or with a wrong one, is dropped. From everyone else it is never read.

        Raises: ConfigError: the address cannot be bound, with the reason.
        """

    def pause(self) -> None:
        """Stop accepting; connections already made go on."""

    async def close(self) -> None:
        """Stop accepting and forget the listening sockets."""


class AnswerStatus(Enum):
    """How a DNS question ended."""

    FOUND = "found"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"  # and every other refusal to answer: lame, REFUSED, FORMERR, bogus
    TIMEOUT = "timeout"


class MxRecord(Struct, frozen=True, gc=False):
    """An MX record; `exchange` as lower-case text without trailing dot, "" for the root (null MX)."""

    preference: int
    exchange: str


class Answer(Struct, frozen=True, gc=False):
    """What DNS said to one question.

    `mx` for type MX, `addresses` for A and AAAA. `canonical` is the name at the end of the aliases within this answer
    (equal to the question's name when there are none), `aliases` those passed on the way: a failure has them only if
    they are what failed, a loop or too long a chain. `ttl_s` is the least TTL of
    the answer, for a negative one that of the SOA. `secure`: validated (AD). `stale`: past its TTL, served because the
    resolver does not answer. `is_cut`: there was more than was read, so what is missing here may exist all the same.
    `detail`: for failures, what happened, in one line. `texts`: for TXT each record as one text, its strings joined;
    for PTR the names (lower case, no trailing dot). What is no printable ASCII is escaped there.
    """

    name: str
    rdtype: str  # "MX", "A", "AAAA", "TXT", "PTR"
    status: AnswerStatus
    mx: tuple[MxRecord, ...] = ()
    addresses: tuple[str, ...] = ()
    canonical: str = ""
    aliases: tuple[str, ...] = ()
    ttl_s: int = 0
    secure: bool = False
    stale: bool = False
    is_cut: bool = False
    detail: str = ""
    texts: tuple[str, ...] = ()


class Resolver(Protocol):
    """Asks DNS."""

    async def ask(self, name: str, rdtype: str) -> Answer:
        """Answer one question (A-label without trailing dot; a type of Answer's); failures are values, within 30 s.

        Never raises for what DNS or the network does. Questions in flight are shared; safe to cancel.
        """


class Permit(Protocol):
    """Leave to dial a host once; close it with what happened, exactly once."""

    @property
    def is_probe(self) -> bool:
        """Is the host known as broken, and this the one dial that may find out whether it still is?"""

    def succeeded(self) -> None:
        """The host greeted us and took our EHLO."""

    def failed(self, step: str, detail: str, name: str = "") -> None:
        """Connect, banner, EHLO or TLS failed: counts against the host, which was dialled under this name."""

    def stalls(self, step: str, detail: str, name: str = "") -> None:
        """Nothing came so far, and we go on waiting; others had better not. Does not close the permit."""

    def withdrawn(self) -> None:
        """Nothing was learned."""


class Refused(Struct, frozen=True, gc=False):
    """The host must not be dialled before `until` (wall seconds); `why` is one line of evidence.

    `is_unreachable`: nobody answered there, which tells less than what another address has said.
    """

    until: float
    why: str
    is_unreachable: bool = False


class HostGate(Protocol):
    """Remembers which hosts are broken; asked at each dial."""

    def admit(self, source: str, address: str) -> Permit | Refused:
        """May (source address or "", host address) be dialled now?"""

    def usable(self, source: str, address: str) -> Refused | None:
        """Would `admit` refuse? Takes no permit."""


class Sink(Protocol):
    """Where records and log lines go; never blocks, never raises."""

    def record(self, record: Record) -> None:
        """Tell about something that happened to a recipient."""

    def note(self, level: str, what: str, **facts: object) -> None:
        """Tell about something else: level is "info", "warning" or "error"; `what` is a stable phrase."""
