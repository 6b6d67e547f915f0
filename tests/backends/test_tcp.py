# SPDX-License-Identifier: MIT
"""TCP beyond what the conformance checks ask: errors in words, the peer's misconduct, and what a bug of ours costs."""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from smarthost.backends import sockets
from smarthost.backends.clock import SystemClock
from smarthost.backends.connection import FLUSH_S, LINGER_S, TcpConnection
from smarthost.backends.tcp import TcpDialer, TcpListener
from smarthost.mail.errors import ConfigError, ConnectFailed, ConnectionLost
from smarthost.ports import Clock, Connection, Receiver
from smarthost.testing.checks import Ear
from smarthost.testing.clock import FakeClock

Run = Callable[[Coroutine[Any, Any, None]], None]
HOME = "127.0.0.1"
EVERY_LOOP = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


@contextmanager
def listening(backlog: int = 16) -> Any:
    """A bare listening socket: a peer that is not ours."""
    with socket.create_server((HOME, 0), backlog=backlog) as sock:
        yield sock


async def dial(
    sock: socket.socket, clock: Clock | None = None, source: str = "", timeout_s: float = 5
) -> TcpConnection:
    """Dial a bare listening socket."""
    host, port = sock.getsockname()[:2]
    return await TcpDialer(clock or SystemClock()).dial(host, port, source=source, timeout_s=timeout_s)


async def meet(sock: socket.socket, clock: Clock | None = None) -> tuple[TcpConnection, Ear, socket.socket]:
    """Dial a bare listening socket, and give our end with its ear, and the far end as a bare socket."""
    connection = await dial(sock, clock)
    far, _ = sock.accept()
    far.setblocking(False)
    ear = Ear()
    connection.attach(ear)
    return connection, ear, far


async def collect_reports(during: Coroutine[Any, Any, None]) -> list[type[BaseException]]:
    """Give what the loop's exception handler was told meanwhile."""
    reports: list[type[BaseException]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, report: reports.append(type(report["exception"])))
    await during
    return reports


@EVERY_LOOP
def test_refused_dial_says_so(run: Run) -> None:
    """A host where nothing listens is told apart from one that does not answer."""
    with listening() as sock:
        nobody = sock.getsockname()

    async def main() -> None:
        with pytest.raises(ConnectFailed, match=r"^connection refused$") as failed:
            await TcpDialer(SystemClock()).dial(*nobody, source="", timeout_s=5)
        assert failed.value.step == "connect"

    run(main())


@EVERY_LOOP
def test_silent_host_times_out_with_the_time_in_the_text(run: Run) -> None:
    """A host that drops our packets costs the connect timeout and no more."""

    async def main() -> None:
        with listening(backlog=0) as sock, socket.create_connection(sock.getsockname()):
            filled = [socket.socket() for _ in range(2)]
            for other in filled:
                other.setblocking(False)
                other.connect_ex(sock.getsockname())
            with pytest.raises(ConnectFailed, match=r"^timed out after 0\.1 s$") as failed:
                await dial(sock, timeout_s=0.1)
            for other in filled:
                other.close()
        assert failed.value.step == "connect"

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize(
    ("address", "source", "text"),
    [
        ("mx.example", "", "'mx.example' is not an IP address"),
        ("127.0.0.1", "::1", "source address ::1 cannot reach 127.0.0.1"),
        ("127.0.0.1", "192.0.2.7", "the source address is not on this machine"),
        ("127.0.0.1", "nonsense", "source address nonsense cannot reach"),
    ],
)
def test_our_own_fault_is_not_the_hosts(run: Run, address: str, source: str, text: str) -> None:
    """What fails on our side names its cause and counts as local, so that no host is marked as broken for it."""

    async def main() -> None:
        with pytest.raises(ConnectFailed, match=text) as failed:
            await TcpDialer(SystemClock()).dial(address, 9, source=source, timeout_s=5)
        assert failed.value.step == "local"

    run(main())


@EVERY_LOOP
def test_source_address_is_used(run: Run) -> None:
    """Mail leaves from the address the operator chose."""

    async def main() -> None:
        with listening() as sock:
            connection = await dial(sock, source="127.0.0.9")
            far, (host, _) = sock.accept()
            assert host == "127.0.0.9" == connection.local[0]
            connection.abort()
            far.close()
            await asyncio.sleep(0)

    run(main())


@EVERY_LOOP
def test_cancelled_dial_leaves_no_socket(run: Run) -> None:
    """A dial that is given up leaves nothing open (an unclosed socket would fail this test)."""

    async def main() -> None:
        with listening() as sock:
            for rounds in range(4):
                task = asyncio.ensure_future(dial(sock))
                for _ in range(rounds):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await asyncio.sleep(0)

    run(main())


@EVERY_LOOP
def test_small_writes_leave_at_once(run: Run) -> None:
    """Nagle's algorithm is off on both ends: a command does not wait for the acknowledgement of the one before."""

    async def main() -> None:
        accepted: list[TcpConnection] = []
        listener = TcpListener(SystemClock())

        def accept(connection: Connection) -> Receiver:
            assert isinstance(connection, TcpConnection)
            accepted.append(connection)
            return Ear()

        bound = await listener.listen(HOME, 0, accept)
        near = await TcpDialer(SystemClock()).dial(*bound, source="", timeout_s=5)
        ear = Ear()
        near.attach(ear)
        while not accepted:
            await asyncio.sleep(0)
        for end in (near, *accepted):
            sock = end._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        near.close()
        await ear.until_lost()
        await listener.close()

    run(main())


@EVERY_LOOP
def test_reset_is_lost_with_the_reason(run: Run) -> None:
    """A peer that resets the connection is not taken for one that said goodbye."""

    async def main() -> None:
        with listening() as sock:
            _, ear, far = await meet(sock)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            far.close()
            await ear.until_lost()

        assert [str(why) for why in ear.ends] == ["connection reset by peer"]
        assert isinstance(ear.ends[0], ConnectionLost)

    run(main())


@EVERY_LOOP
def test_last_words_of_the_peer_are_heard_before_the_end(run: Run) -> None:
    """A host that writes its reply and closes at once is heard out, even if we attach late."""

    async def main() -> None:
        with listening() as sock:
            connection = await dial(sock)
            far, _ = sock.accept()
            far.sendall(b"421 too busy\r\n")
            far.close()
            for _ in range(10):
                await asyncio.sleep(0)
            ear = Ear()
            connection.attach(ear)
            await ear.until_lost()

        assert ear.octets == b"421 too busy\r\n"
        assert ear.ends == [None]

    run(main())


@EVERY_LOOP
def test_connection_lost_before_anyone_attached_is_told_later(run: Run) -> None:
    """Whoever attaches to a dead connection is told so, after the call."""

    async def main() -> None:
        with listening() as sock:
            connection = await dial(sock)
            connection.abort()
            for _ in range(10):
                await asyncio.sleep(0)
            ear = Ear()
            ear.quietly(connection.attach, ear)
            await ear.until_lost()

        assert ear.ends == [None]

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("who", ["we", "they"])
def test_close_waits_only_so_long_for_a_peer_that_reads_nothing(run: Run, who: str) -> None:
    """A peer that takes nothing cannot keep our closed connection for ever, whoever closed."""

    async def main() -> None:
        clock = FakeClock()
        with listening() as sock:
            connection, ear, far = await meet(sock, clock)
            while connection.write([bytes(1 << 20)]):
                pass
            if who == "we":
                connection.close()
            else:
                far.shutdown(socket.SHUT_WR)
                while clock.next_due_s is None:
                    await asyncio.sleep(0)
            clock.advance(FLUSH_S - 1)
            await asyncio.sleep(0.01)
            assert not ear.ends
            clock.advance(1 + LINGER_S)
            await ear.until_lost()
            far.close()

        assert isinstance(ear.ends[0], ConnectionLost)
        assert "within 30 s" in str(ear.ends[0])
        assert "writable" not in ear.told

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("paused", [False, True])
def test_close_flushes_though_the_peer_goes_on_talking(run: Run, paused: bool) -> None:
    """Our last words arrive even if the peer has sent what nobody reads any more: no reset overtakes them."""
    last_words = bytes(range(256)) * 8192

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with listening() as sock:
            connection, ear, far = await meet(sock, FakeClock())
            if paused:
                connection.pause()
            far.send(b"RCPT TO:<a@example>\r\n" * 1000)
            connection.write([last_words])
            connection.close()
            far.send(b"RCPT TO:<b@example>\r\n" * 1000)
            heard = bytearray()
            while octets := await loop.sock_recv(far, 1 << 20):
                heard += octets
            far.close()
            await ear.until_lost()

        assert heard == last_words
        assert ear.told == ["lost"]
        assert ear.ends == [None]

    run(main())


@EVERY_LOOP
def test_close_lingers_only_so_long_for_a_peer_that_does_not_close(run: Run) -> None:
    """A peer that has taken all and does not close in turn is left after two seconds."""

    async def main() -> None:
        clock = FakeClock()
        with listening() as sock:
            connection, ear, far = await meet(sock, clock)
            connection.write([b"221 bye\r\n"])
            connection.close()
            await asyncio.sleep(0.01)
            assert not ear.ends
            clock.advance(LINGER_S)
            await ear.until_lost()
            assert far.recv(100) == b"221 bye\r\n"
            far.close()

        assert ear.ends == [None]
        assert clock.next_due_s is None

    run(main())


@EVERY_LOOP
def test_flushed_close_leaves_no_deadline(run: Run) -> None:
    """A close that went well takes its bound off the clock."""

    async def main() -> None:
        clock = FakeClock()
        with listening() as sock:
            connection, ear, far = await meet(sock, clock)
            while connection.write([bytes(1 << 20)]):
                pass
            connection.close()
            assert clock.next_due_s is not None
            loop = asyncio.get_running_loop()
            while await loop.sock_recv(far, 1 << 20):
                pass
            far.close()
            await ear.until_lost()

        assert ear.ends == [None]
        assert clock.next_due_s is None

    run(main())


class Clumsy(Ear):
    """A receiver with a bug in one of its methods."""

    def __init__(self, bug: str) -> None:
        super().__init__()
        self.bug = bug

    def writable(self) -> None:
        super().writable()
        if self.bug == "writable":
            raise ZeroDivisionError

    def ended(self) -> bool:
        return False

    def lost(self, why: Exception | None) -> None:
        super().lost(why)
        if self.bug == "lost":
            raise ZeroDivisionError


@EVERY_LOOP
@pytest.mark.parametrize("bug", ["writable", "lost"])
def test_receiver_that_raises_loses_its_connection_only(run: Run, bug: str) -> None:
    """A bug of ours costs one connection, and is reported."""

    async def main() -> None:
        with listening() as sock:
            connection, _, far = await meet(sock)
            ear = Clumsy(bug)
            connection.attach(ear)

            async def provoke() -> None:
                while connection.write([bytes(1 << 20)]):
                    pass
                loop = asyncio.get_running_loop()
                if bug == "lost":
                    connection.abort()
                while not ear.ends:
                    await loop.sock_recv(far, 1 << 20)

            reports = await collect_reports(provoke())
            far.close()

        assert reports == [ZeroDivisionError]
        assert len(ear.ends) == 1

    run(main())


@EVERY_LOOP
def test_bug_at_accept_costs_that_connection_only(run: Run) -> None:
    """A listener goes on after its callback raised."""

    async def main() -> None:
        listener = TcpListener(SystemClock())
        outcomes: list[Receiver | None] = [None, Ear()]

        def accept(connection: Connection) -> Receiver | None:
            receiver = outcomes.pop(0)
            if receiver is None:
                raise ZeroDivisionError
            connection.write([b"220 hi\r\n"])
            return receiver

        bound = await listener.listen(HOME, 0, accept)
        heard: list[Ear] = []

        async def dial_twice() -> None:
            for _ in range(2):
                ear = Ear()
                heard.append(ear)
                near = await TcpDialer(SystemClock()).dial(*bound, source="", timeout_s=5)
                near.attach(ear)
                await ear.until(lambda ear=ear: bool(ear.told))  # type: ignore[misc]
            near.close()
            await ear.until_lost()

        reports = await collect_reports(dial_twice())
        await listener.close()

        assert reports == [ZeroDivisionError]
        assert [ear.told[0] for ear in heard] == ["lost", "received"]

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize("everywhere", ["*", ""])
def test_listening_everywhere_shows_ipv4_peers_as_ipv4(run: Run, everywhere: str) -> None:
    """Whoever may relay is decided by 127.0.0.1, not by ::ffff:127.0.0.1."""

    async def main() -> None:
        peers: list[tuple[str, str]] = []
        listener = TcpListener(SystemClock())

        def accept(connection: Connection) -> None:
            peers.append((connection.peer[0], connection.local[0]))

        _, port = await listener.listen(everywhere, 0, accept)
        for address in ("127.0.0.1", "::1"):
            near = await TcpDialer(SystemClock()).dial(address, port, source="", timeout_s=5)
            ear = Ear()
            near.attach(ear)
            await ear.until_lost()
        await listener.close()

        assert peers == [("127.0.0.1", "127.0.0.1"), ("::1", "::1")]

    run(main())


@EVERY_LOOP
@pytest.mark.parametrize(
    ("host", "port", "text"),
    [
        ("localhost", 2525, r"cannot listen on localhost:2525: give an IP address, or \* for all"),
        ("192.0.2.1", 2525, r"cannot listen on 192\.0\.2\.1:2525: this machine does not have that address; choose"),
        ("2001:db8::1", 2525, r"cannot listen on \[2001:db8::1\]:2525: this machine does not have that address"),
        (HOME, 70_000, r"cannot listen on 127\.0\.0\.1:70000: .*0-65535"),
    ],
)
def test_address_that_cannot_be_bound_says_why_and_what_to_do(run: Run, host: str, port: int, text: str) -> None:
    """A wrong listen setting is an error of the configuration with its cure."""

    async def main() -> None:
        with pytest.raises(ConfigError, match=text) as failed:
            await TcpListener(SystemClock()).listen(host, port, lambda connection: None)
        assert failed.value.key == "listen"

    run(main())


@EVERY_LOOP
def test_port_in_use_says_that_another_program_listens(run: Run) -> None:
    """Two relays on one port: the second one says so."""

    async def main() -> None:
        with listening() as sock:
            port = sock.getsockname()[1]
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: another program listens there; stop it, or"):
                await TcpListener(SystemClock()).listen(HOME, port, lambda connection: None)

    run(main())


def test_missing_permission_names_the_capability() -> None:
    """Port 25 without privileges: the error says what would allow it."""
    error = PermissionError(errno.EACCES, "Permission denied")

    assert "CAP_NET_BIND_SERVICE" in sockets._cure(error)


@EVERY_LOOP
def test_port_can_be_taken_again_after_pause(run: Run) -> None:
    """A listener that was paused goes on when told to listen at the same address again."""

    async def main() -> None:
        listener = TcpListener(SystemClock())
        bound = await listener.listen(HOME, 0, lambda connection: None)
        near = await TcpDialer(SystemClock()).dial(*bound, source="", timeout_s=5)
        ear = Ear()
        near.attach(ear)
        await ear.until_lost()

        listener.pause()

        assert await listener.listen(*bound, lambda connection: None) == bound
        await listener.close()

    run(main())
