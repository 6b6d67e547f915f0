# SPDX-License-Identifier: MIT
"""A network in memory: MemoryNetwork is a Dialer, gives Listeners, and its connections can be slow, cut and starved.

Latency is time of the running event loop (real or virtual); the one use of the Clock is a dial that times out. All is
decided by the seeded Random, so a simulation repeats itself. TLS is pretended: `upgrade` gives facts, nothing is
encrypted; either side may do without it when only the other is under test. Passes testing.checks.check_connections,
as TCP does.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum

from msgspec import Struct

from smarthost.mail.errors import ConfigError, ConnectFailed, ConnectionLost, LocalProtocolError, TlsFailed
from smarthost.mail.hop import TlsFacts
from smarthost.ports import Clock, Connection, Random, Receiver, TlsRequest, TlsService

HIGH_OCTETS = 64 * 1024  # as asyncio's transports
LOW_OCTETS = 16 * 1024
HOME = "127.0.0.1"  # who dials without a source comes from here
_FIRST_PORT = 40_000
_SAME_TIME_S = 1e-9  # sums of floats: a timer may fire that much early, and nobody would look again

FINGERPRINT = "5e" * 32  # of a certificate that a test's client may show

_Address = tuple[str, int]
_Accepted = Callable[[Connection], Receiver | None]


class Chunking(Enum):
    """How what has arrived is cut into the chunks that a receiver is told of."""

    WHOLE = "whole"
    RANDOM = "random"
    OCTETS = "octets"  # byte by byte


class TlsConduct(Enum):
    """How an endpoint shakes hands."""

    VALID = "valid"
    UNTRUSTED = "untrusted"  # succeeds unless the certificate must be valid
    BROKEN = "broken"
    STALLED = "stalled"  # never ends


class Faults(Struct, frozen=True):
    """What is wrong with an endpoint; limits count the octets a connection carried in both directions together.

    `reset_after`: then both sides lose the connection. `stall_after`: then nothing arrives any more, on neither side.
    """

    refuse: bool = False
    black_hole: bool = False
    reset_after: int | None = None
    stall_after: int | None = None
    tls: TlsConduct = TlsConduct.VALID


class PretendedTls:
    """A TlsService for MemoryConnections."""

    can_serve = True


class MemoryNetwork:
    """A Dialer whose far sides are the Listeners it gives. `faults` may be changed at any time, for later dials.

    `fingerprint`: of the certificate that those who dial from now on show when they shake hands; "" for none.
    `dialling` is told each address as it is dialled, `connected` each connection as it is made: its near end.
    """

    def __init__(
        self, clock: Clock, random: Random, *, latency_s: float = 0.0, chunking: Chunking = Chunking.WHOLE
    ) -> None:
        self.faults: dict[_Address, Faults] = {}
        self.dialled: list[_Address] = []
        self.dialling: Callable[[str, int], None] = lambda address, port: None
        self.connected: Callable[[MemoryConnection], None] = lambda connection: None
        self.fingerprint = ""
        self.latency_s = latency_s
        self._clock = clock
        self._random = random
        self._chunking = chunking
        self._listening: dict[_Address, _Accepted] = {}
        self._last_port = _FIRST_PORT

    def listener(self) -> "MemoryListener":
        return MemoryListener(self)

    async def dial(self, address: str, port: int, *, source: str, timeout_s: float) -> "MemoryConnection":
        self.dialled.append((address, port))
        self.dialling(address, port)
        faults = self.faults.get((address, port), Faults())
        if faults.black_hole:
            await self._clock.sleep(timeout_s)
            raise ConnectFailed(f"timed out after {timeout_s:g} s", step="connect")
        await asyncio.sleep(2 * self.latency_s)
        accepted = self._listening.get((address, port)) or self._listening.get(("", port))
        if faults.refuse or accepted is None:
            raise ConnectFailed("connection refused", step="connect")
        cable = _Cable(self, faults)
        near = MemoryConnection(cable, (source or HOME, self.next_port()), (address, port))
        far = MemoryConnection(cable, near.peer, near.local)
        near.far, far.far = far, near
        near.fingerprint = self.fingerprint
        self.connected(near)
        asyncio.get_running_loop().call_soon(far.accept, accepted)
        return near

    def bind(self, host: str, port: int, accepted: _Accepted) -> _Address:
        """Begin to listen. Raises: ConfigError: something listens there."""
        bound = ("" if host == "*" else host, port or self.next_port())
        if bound in self._listening:
            raise ConfigError(f"cannot listen on {host}:{port}: another program listens there", key="listen")
        self._listening[bound] = accepted
        return bound

    def unbind(self, bound: _Address) -> None:
        self._listening.pop(bound, None)

    def next_port(self) -> int:
        self._last_port += 1
        return self._last_port

    def cut(self, octets: int) -> int:
        """Choose how many of `octets` that have arrived make the next chunk."""
        match self._chunking:
            case Chunking.WHOLE:
                return octets
            case Chunking.OCTETS:
                return 1
            case Chunking.RANDOM:
                return 1 + int(self._random.random() * octets)


class MemoryListener:
    """A Listener on a MemoryNetwork. No PROXY header is read: whoever dials with `source` is whom a balancer names."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._bound: list[_Address] = []

    async def listen(self, host: str, port: int, accepted: _Accepted, proxies: Sequence[str] = ()) -> _Address:
        bound = self._network.bind(host, port, accepted)
        self._bound.append(bound)
        return bound

    def pause(self) -> None:
        for bound in self._bound:
            self._network.unbind(bound)
        self._bound.clear()

    async def close(self) -> None:
        self.pause()


class _Cable:
    """What two ends share: the network, and how much the faults still let pass."""

    def __init__(self, network: MemoryNetwork, faults: Faults) -> None:
        self.network = network
        self.faults = faults
        limits = [limit for limit in (faults.reset_after, faults.stall_after) if limit is not None]
        self.left: int | None = min(limits, default=None)

    @property
    def is_cut(self) -> bool:
        return self.left == 0

    def let_pass(self, octets: bytes) -> bytes:
        if self.left is None:
            return octets
        passed = octets[: self.left]
        self.left -= len(passed)
        return passed


class _Sealed(bytes):
    """In an inbox: octets that were written under TLS."""


class _End(Struct, frozen=True):
    """In an inbox: the connection ends here."""

    why: Exception | None


class MemoryConnection:
    """One end of a connection in memory. `written` octets were given to it, `told` ones its receiver has."""

    far: "MemoryConnection"

    def __init__(self, cable: _Cable, local: _Address, peer: _Address) -> None:
        self.local = local
        self.peer = peer
        self.fingerprint = ""
        self.written = self.told = 0
        self._cable = cable
        self._network = cable.network
        self._receiver: Receiver | None = None
        self._inbox: deque[tuple[float, bytes | _End]] = deque()  # with the time at which it arrives
        self._arrived = bytearray()  # and not told yet
        self._unread = 0  # octets written to us and not told yet, wherever they are
        self._end: _End | None = None
        self._why: Exception | None = None
        self._closed = self._lost = self._paused = self._full = self._shaking = self._has_tls = False
        self._is_spoilt = False  # octets in clear came in where TLS must be

    @property
    def is_closed(self) -> bool:
        """Has this end hung up, or seen the other do so?"""
        return self._closed

    # -- ports.Connection ---------------------------------------------------------------------------------------------

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._soon(self._tell_lost if self._lost else self._pump)

    def write(self, buffers: Sequence[bytes]) -> bool:
        if self._closed:
            return True
        if self._shaking:
            raise LocalProtocolError("write during a TLS handshake")
        octets = b"".join(buffers)
        self.written += len(octets)
        was_cut = self._cable.is_cut
        passed = self._cable.let_pass(octets)
        if passed:
            self.far.post(_Sealed(passed) if self._has_tls else passed)
        self.far._unread += len(octets)  # also what is stalled: it fills the window
        if self._cable.is_cut and not was_cut and self._cable.faults.reset_after is not None:
            for end in (self, self.far):
                end.post(_End(ConnectionLost("connection reset by peer")))
        self._full = self.far._unread > HIGH_OCTETS
        return not self._full

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._soon(self._pump)

    def upgrade(self, tls: TlsRequest | TlsService) -> None:
        if self._has_tls or self._shaking:
            raise LocalProtocolError("upgrade of a connection that has TLS already")
        self._shaking = True
        self._is_spoilt = bool(self._arrived)
        asyncio.get_running_loop().call_later(2 * self._network.latency_s, self._finish_handshake, tls)

    def close(self) -> None:
        if not self._closed:
            self._leave(None)
            if not self._cable.is_cut:
                self.far.post(_End(None))

    def abort(self) -> None:
        self.close()  # what was written is in the far kernel already: nothing is unsent

    # -- the network's side -------------------------------------------------------------------------------------------

    def accept(self, accepted: _Accepted) -> None:
        """Offer this end to a listener."""
        try:
            receiver = accepted(self)
        except Exception as error:  # noqa: BLE001 - as TcpConnection
            self._contain(error)
            return
        if receiver is None:
            self.abort()
        else:
            self.attach(receiver)

    def post(self, item: bytes | _End) -> None:
        """Let octets or the end arrive after the latency."""
        loop = asyncio.get_running_loop()
        self._inbox.append((loop.time() + self._network.latency_s, item))
        if self._network.latency_s:
            loop.call_later(self._network.latency_s, self._pump)
        else:
            loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Take in what has arrived by now, and tell it as far as the receiver lets us."""
        now = asyncio.get_running_loop().time()
        while self._inbox and self._inbox[0][0] <= now + _SAME_TIME_S:
            _, item = self._inbox.popleft()
            if isinstance(item, bytes):
                self._arrived += item
                self._is_spoilt |= self._shaking and not isinstance(item, _Sealed)
            elif self._end is None:
                self._end = item
        while self._arrived and self._is_listening():
            chunk = bytes(self._arrived[: self._network.cut(len(self._arrived))])
            del self._arrived[: len(chunk)]
            self._unread -= len(chunk)
            self.told += len(chunk)
            self._tell("received", chunk)
        if self._unread <= LOW_OCTETS:
            self.far.drained()
        if self._end is None or self._closed or self._paused or self._receiver is None:
            return
        if self._shaking:
            self._leave(TlsFailed("the peer closed the connection during the handshake", step="tls"))
        elif not self._arrived:
            self._leave(self._end.why)

    def drained(self) -> None:
        """Hear from the far end that it has read enough."""
        if self._full and not self._closed and self._receiver is not None:
            self._full = False
            self._soon(self._tell, "writable")

    def _is_listening(self) -> bool:
        return self._receiver is not None and not (self._paused or self._closed or self._shaking)

    def _tell(self, what: str, *arguments: object) -> None:
        if self._receiver is None or self._closed:
            return
        try:
            getattr(self._receiver, what)(*arguments)
        except Exception as error:  # noqa: BLE001 - as TcpConnection
            self._contain(error)

    def _contain(self, error: Exception) -> None:
        report = {"message": "a receiver raised; its connection is dropped", "exception": error}
        asyncio.get_running_loop().call_exception_handler(report)
        if not self._closed:
            self._leave(ConnectionLost(f"dropped after an error of our own: {type(error).__name__}"))
            self.far.post(_End(None))

    def _leave(self, why: Exception | None) -> None:
        self._closed = True
        self._why = why
        self._soon(self._tell_lost)

    def _tell_lost(self) -> None:
        self._lost = True
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost(self._why)

    def _finish_handshake(self, tls: TlsRequest | TlsService) -> None:
        conduct = self._cable.faults.tls
        if self._closed or self._cable.is_cut or conduct is TlsConduct.STALLED:
            return  # a reset is told by _pump, a stalled handshake never ends
        self._pump()
        must_be_valid = isinstance(tls, TlsRequest) and tls.verified
        failure = ""
        if self._is_spoilt:
            failure = "wrong version number"
        elif conduct is TlsConduct.BROKEN:
            failure = "handshake failure"
        elif must_be_valid and conduct is TlsConduct.UNTRUSTED:
            failure = "certificate not valid: self-signed certificate"
        if self._closed:
            return
        if failure:
            self._leave(TlsFailed(failure, step="tls"))
            self.far.post(_End(None))
            return
        self._shaking, self._has_tls = False, True
        shown = "" if isinstance(tls, TlsRequest) else self.far.fingerprint
        self._tell("secured", TlsFacts("TLSv1.3", "SIMULATED", must_be_valid, shown))
        self._pump()

    def _soon(self, call: Callable[..., None], *arguments: object) -> None:
        asyncio.get_running_loop().call_soon(call, *arguments)
