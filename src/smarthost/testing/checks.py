# SPDX-License-Identifier: MIT
"""What every Clock, Dialer, Listener and Connection must hold, the real and the fake alike.

Each check is a coroutine that asserts. Whoever writes a backend of their own runs them on it; ours run in
tests/conformance/test_ports.py.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from smarthost.mail.errors import ConfigError, ConnectFailed, TlsFailed
from smarthost.mail.hop import TlsFacts
from smarthost.ports import Clock, Connection, Dialer, Listener, TlsRequest, TlsService

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
PATIENCE_S = 10.0  # how long a check waits for what must happen; nothing takes long, a failure must end
LATE_S = 0.25  # ports.Clock.deadline
_MEGABYTE = bytes(range(256)) * 4096


async def check_clock(clock: Clock, let_pass: Callable[[float], Awaitable[None]]) -> None:
    """Check a Clock; `let_pass` lets seconds pass on it."""
    await _check_clocks_go_on(clock, let_pass)
    await _check_deadlines_expire_in_order(clock, let_pass)
    await _check_deadlines_move(clock, let_pass)
    await _check_sleep(clock, let_pass)


async def check_connections(
    dialer: Dialer, listener: Listener, address: str, tls: tuple[TlsRequest, TlsService]
) -> None:
    """Check a Dialer, a Listener and the Connections between them; `address` is one to listen on.

    `tls`: how who dials and who listens shake hands; they must come to an agreement.
    """
    await _check_dialling(dialer, listener, address)
    for check in (
        _check_octets_arrive,
        _check_early_octets_wait,
        _check_pause_stops,
        _check_full_then_writable,
        _check_close_flushes,
        _check_abort,
        _check_errors_are_contained,
    ):
        await check(await Line.open(dialer, listener, address))
        listener.pause()
    for upgrade in (_check_starttls, _check_implicit_tls, _check_clear_text_is_no_handshake):
        await upgrade(await Line.open(dialer, listener, address), *tls)
        listener.pause()
    await _check_dropped_when_nobody_receives(dialer, listener, address)
    await _check_pause_refuses(dialer, listener, address)
    await listener.close()


class Ear:
    """A Receiver that remembers all it is told, and notices being told from inside a call of ours."""

    def __init__(self) -> None:
        self.octets = bytearray()
        self.told: list[str] = []
        self.ends: list[Exception | None] = []
        self.facts: TlsFacts | None = None
        self.fails = False
        self._news = asyncio.Event()

    def received(self, chunk: bytes) -> None:
        assert chunk, "a chunk is never empty"
        self.octets += chunk
        self._note("received")
        if self.fails:
            raise ZeroDivisionError("a receiver with a bug")

    def writable(self) -> None:
        self._note("writable")

    def secured(self, facts: TlsFacts) -> None:
        self.facts = facts
        self._note("secured")

    def ended(self) -> bool:
        return False

    def lost(self, why: Exception | None) -> None:
        self.ends.append(why)
        self._note("lost")

    def _note(self, what: str) -> None:
        self.told.append(what)
        self._news.set()

    async def until(self, claim: Callable[[], bool]) -> None:
        """Wait until something told makes the claim true."""
        async with asyncio.timeout(PATIENCE_S):
            while not claim():
                self._news.clear()
                await self._news.wait()

    async def until_lost(self) -> None:
        await self.until(lambda: bool(self.ends))

    def quietly(self, call: Callable[..., T], *arguments: object) -> T:
        """Call a connection and see that this ear is told nothing meanwhile."""
        before = len(self.told)
        result = call(*arguments)
        assert len(self.told) == before, f"{call} told {self.told[before:]} from inside the call"
        return result


class Line:
    """Both ends of one connection, each with an ear; `near` has dialled and is attached by `attach_near`."""

    def __init__(self, dialer: Dialer, bound: tuple[str, int], near: Connection, far: Connection, far_ear: Ear) -> None:
        self.dialer = dialer
        self.bound = bound
        self.near, self.near_ear = near, Ear()
        self.far, self.far_ear = far, far_ear

    @classmethod
    async def open(cls, dialer: Dialer, listener: Listener, address: str) -> "Line":
        """Listen on a free port, dial it, and have the far end greet at once."""
        made: asyncio.Queue[tuple[Connection, Ear]] = asyncio.Queue()

        def accepted(connection: Connection) -> Ear:
            ear = Ear()
            connection.write([b"hello", b" there"])
            made.put_nowait((connection, ear))
            return ear

        bound = await listener.listen(address, 0, accepted)
        async with asyncio.timeout(PATIENCE_S):
            near = await dialer.dial(*bound, source="", timeout_s=PATIENCE_S)
            far, far_ear = await made.get()
        line = cls(dialer, bound, near, far, far_ear)
        line._made = made
        return line

    _made: "asyncio.Queue[tuple[Connection, Ear]]"

    async def attach_near(self) -> None:
        self.near_ear.quietly(self.near.attach, self.near_ear)
        await self.near_ear.until(lambda: len(self.near_ear.octets) == len(b"hello there"))
        assert self.near_ear.octets == b"hello there"
        self.near_ear.octets.clear()

    async def let_network_settle(self) -> None:
        """Send something there and back on another connection: what was sent before has had its time."""
        other = await self.dialer.dial(*self.bound, source="", timeout_s=PATIENCE_S)
        ear = Ear()
        other.attach(ear)
        far, far_ear = await self._made.get()
        for index in range(3):
            other.write([b"ping"])
            await far_ear.until(lambda awaited=4 * index + 4: len(far_ear.octets) == awaited)  # type: ignore[misc]
            far.write([b"pong"])
            await ear.until(lambda awaited=11 + 4 * index + 4: len(ear.octets) == awaited)  # type: ignore[misc]
        other.close()
        await far_ear.until_lost()
        await ear.until_lost()

    async def hang_up(self) -> None:
        self.near_ear.quietly(self.near.close)
        await self.near_ear.until_lost()
        await self.far_ear.until_lost()
        self.see_one_end()

    def see_one_end(self) -> None:
        for ear in (self.near_ear, self.far_ear):
            assert len(ear.ends) == 1, "lost is told exactly once"
            assert ear.told[-1] == "lost", "lost is told last"


async def _check_octets_arrive(line: Line) -> None:
    await line.attach_near()
    assert line.near.peer == line.far.local
    assert line.far.peer == line.near.local

    assert line.near_ear.quietly(line.near.write, [b"MAIL", b"", b" FROM", b":<>\r\n"]) is True
    line.near_ear.quietly(line.near.write, [b"DATA\r\n"])
    sent = b"MAIL FROM:<>\r\nDATA\r\n"
    await line.far_ear.until(lambda: len(line.far_ear.octets) == len(sent))
    line.far.write([b"250 ok\r\n"])
    await line.near_ear.until(lambda: len(line.near_ear.octets) == 8)

    assert line.far_ear.octets == sent
    await line.hang_up()
    assert line.near_ear.ends == [None], "our own close is no error"
    assert line.far_ear.ends == [None], "a clean end is no error"


async def _check_early_octets_wait(line: Line) -> None:
    await line.let_network_settle()

    await line.attach_near()

    await line.hang_up()


async def _check_pause_stops(line: Line) -> None:
    await line.attach_near()

    line.near_ear.quietly(line.near.pause)
    line.far.write([b"later"])
    await line.let_network_settle()
    assert not line.near_ear.octets, "a paused connection tells of nothing"
    line.near_ear.quietly(line.near.resume)
    await line.near_ear.until(lambda: bool(line.near_ear.octets))
    line.far.write([b" on"])
    await line.near_ear.until(lambda: len(line.near_ear.octets) == 8)

    assert line.near_ear.octets == b"later on"
    await line.hang_up()


async def _check_full_then_writable(line: Line) -> None:
    await line.attach_near()
    line.near.pause()

    written = len(_MEGABYTE)
    while line.far_ear.quietly(line.far.write, [_MEGABYTE]):
        written += len(_MEGABYTE)
        assert written < 256 * len(_MEGABYTE), "a peer that reads nothing must fill us"
        await asyncio.sleep(0)
    assert "writable" not in line.far_ear.told
    line.near.resume()
    await line.far_ear.until(lambda: "writable" in line.far_ear.told)
    await line.near_ear.until(lambda: len(line.near_ear.octets) == written)

    assert bytes(line.near_ear.octets[-len(_MEGABYTE) :]) == _MEGABYTE
    await line.hang_up()


async def _check_close_flushes(line: Line) -> None:
    await line.attach_near()

    line.near.write([_MEGABYTE])
    line.near_ear.quietly(line.near.close)
    assert line.near.write([b"too late"]) is True, "a write after close is ignored"
    line.near.close()
    await line.far_ear.until_lost()
    await line.near_ear.until_lost()

    assert line.far_ear.octets == _MEGABYTE
    line.see_one_end()
    assert line.near_ear.ends == [None]
    assert line.near.write([b"far too late"]) is True, "a write after lost is ignored"


async def _check_abort(line: Line) -> None:
    await line.attach_near()

    line.near_ear.quietly(line.near.abort)
    line.near.abort()
    line.near.close()
    await line.near_ear.until_lost()
    await line.far_ear.until_lost()

    line.see_one_end()
    assert line.near_ear.ends == [None]


async def _check_errors_are_contained(line: Line) -> None:
    await line.attach_near()
    reports: list[object] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, report: reports.append(report.get("exception")))
    line.near_ear.fails = True

    try:
        line.far.write([b"trigger"])
        await line.near_ear.until_lost()
        await line.far_ear.until_lost()
    finally:
        loop.set_exception_handler(before)

    line.see_one_end()
    assert [type(report) for report in reports] == [ZeroDivisionError]
    assert line.near_ear.ends != [None], "a bug is no clean end"


async def _check_starttls(line: Line, request: TlsRequest, service: TlsService) -> None:
    await line.attach_near()
    line.near.write([b"STARTTLS\r\n"])
    await line.far_ear.until(lambda: len(line.far_ear.octets) == 10)
    line.far.write([b"220 go\r\n"])
    line.far_ear.quietly(line.far.upgrade, service)
    await line.near_ear.until(lambda: len(line.near_ear.octets) == 8)
    line.far_ear.octets.clear()
    line.near_ear.octets.clear()

    line.near_ear.quietly(line.near.upgrade, request)

    await _check_secured(line, request)


async def _check_implicit_tls(line: Line, request: TlsRequest, service: TlsService) -> None:
    await line.attach_near()

    line.far_ear.quietly(line.far.upgrade, service)
    line.near_ear.quietly(line.near.upgrade, request)

    await _check_secured(line, request)


async def _check_secured(line: Line, request: TlsRequest) -> None:
    for ear in (line.near_ear, line.far_ear):
        await ear.until(lambda ear=ear: ear.facts is not None or bool(ear.ends))  # type: ignore[misc]
        assert ear.told.count("secured") == 1, ear.ends
    near, far = line.near_ear.facts, line.far_ear.facts
    assert near is not None
    assert far is not None
    assert (near.version, near.cipher, near.verified) == (far.version, far.cipher, request.verified)
    line.near.write([b"EHLO", b" relay.example\r\n"])
    await line.far_ear.until(lambda: len(line.far_ear.octets) == 20)
    line.far.write([b"250 mx.example\r\n"])
    await line.near_ear.until(lambda: len(line.near_ear.octets) == 16)
    assert line.far_ear.octets == b"EHLO relay.example\r\n"
    assert line.near_ear.octets == b"250 mx.example\r\n"
    await line.hang_up()
    assert line.far_ear.ends == [None]


async def _check_clear_text_is_no_handshake(line: Line, request: TlsRequest, service: TlsService) -> None:
    await line.attach_near()
    told = len(line.far_ear.told)

    line.far.upgrade(service)
    line.near.write([b"MAIL FROM:<>\r\n"])
    await line.far_ear.until_lost()

    assert line.far_ear.told[told:] == ["lost"], "what came in clear is never told"
    assert isinstance(line.far_ear.ends[0], TlsFailed)
    await line.near_ear.until_lost()


async def _check_dialling(dialer: Dialer, listener: Listener, address: str) -> None:
    bound = await listener.listen(address, 0, lambda connection: None)
    assert bound[0] == address
    assert bound[1] > 0
    error = await _fail_with(ConfigError, listener.listen(*bound, lambda connection: None))
    assert f"{bound[1]}" in str(error), "the error names the port"
    listener.pause()


async def _check_dropped_when_nobody_receives(dialer: Dialer, listener: Listener, address: str) -> None:
    bound = await listener.listen(address, 0, lambda connection: None)
    near = await dialer.dial(*bound, source=address, timeout_s=PATIENCE_S)
    ear = Ear()

    near.attach(ear)
    await ear.until_lost()

    assert ear.told == ["lost"]
    listener.pause()


async def _check_pause_refuses(dialer: Dialer, listener: Listener, address: str) -> None:
    line = await Line.open(dialer, listener, address)
    await line.attach_near()

    listener.pause()
    error = await _fail_with(ConnectFailed, dialer.dial(*line.bound, source="", timeout_s=PATIENCE_S))
    assert "refused" in str(error)
    assert error.step == "connect", "it is the host that refuses"
    line.far.write([b"still here"])
    await line.near_ear.until(lambda: len(line.near_ear.octets) == 10)

    await line.hang_up()


async def _fail_with(kind: type[E], call: Awaitable[object]) -> E:
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


async def _check_clocks_go_on(clock: Clock, let_pass: Callable[[float], Awaitable[None]]) -> None:
    wall, monotonic = clock.wall(), clock.monotonic()

    await let_pass(0.05)

    assert abs((clock.wall() - wall) - (clock.monotonic() - monotonic)) < 0.02
    assert clock.monotonic() - monotonic >= 0.049


async def _check_deadlines_expire_in_order(clock: Clock, let_pass: Callable[[float], Awaitable[None]]) -> None:
    fired: list[tuple[str, float]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: fired.append((name, clock.monotonic()))

    start = clock.monotonic()
    due = {"last": 0.21, "first": 0.01, "second": 0.02, "third": 0.15}
    for name, seconds in due.items():
        clock.deadline(seconds, note(name))
    await let_pass(0.25 + LATE_S)

    assert [name for name, _ in fired] == ["first", "second", "third", "last"]
    for name, at in fired:
        late = at - start - due[name]
        assert late >= -1e-9, f"{name} was {-late} s early"  # sums of floats
        assert late <= LATE_S + 0.1, f"{name} was {late} s late"  # 0.1: a busy machine


async def _check_deadlines_move(clock: Clock, let_pass: Callable[[float], Awaitable[None]]) -> None:
    fired: list[str] = []
    later = clock.deadline(0.1, lambda: fired.append("later"))
    sooner = clock.deadline(300, lambda: fired.append("sooner"))
    cancelled = clock.deadline(0.1, lambda: fired.append("cancelled"))

    later.restart(300)
    sooner.restart(0.1)
    cancelled.cancel()
    cancelled.cancel()
    await let_pass(0.1 + LATE_S)
    assert fired == ["sooner"]
    later.restart(0.05)
    sooner.restart(0.06)
    cancelled.restart(0.07)
    await let_pass(0.1 + LATE_S)
    assert fired == ["sooner", "later", "sooner", "cancelled"], "each is revived"
    later.cancel()
    await let_pass(0.1)

    assert len(fired) == 4, "each fires once"


async def _check_sleep(clock: Clock, let_pass: Callable[[float], Awaitable[None]]) -> None:
    start = clock.monotonic()
    sleepers: Sequence[asyncio.Task[None]] = [asyncio.ensure_future(clock.sleep(s)) for s in (0.05, 0, 300)]
    await asyncio.sleep(0)

    await let_pass(0.06)
    await asyncio.gather(*sleepers[:2])
    assert clock.monotonic() - start >= 0.05
    sleepers[2].cancel()
    await asyncio.wait(sleepers[2:])

    assert sleepers[2].cancelled()
