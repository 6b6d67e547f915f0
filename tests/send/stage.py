# SPDX-License-Identifier: MIT
"""A session on virtual time before a scripted host: what the tests of sessions share."""

from collections.abc import Callable, Iterator, Sequence

from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body
from smarthost.mail.errors import SmarthostError, StoreError
from smarthost.mail.hop import SessionPolicy
from smarthost.ports import Connection, Receiver
from smarthost.send.session import Session, SetupFailed
from smarthost.smtp.client import Transaction
from smarthost.testing.network import MemoryNetwork
from smarthost.testing.peers import Act, ScriptedPeer
from smarthost.testing.simulation import Simulation, run_simulation

ADDRESS = "192.0.2.1"
BANNER = (b"", b"220 mx ESMTP\r\n")
PLAIN = (b"EHLO relay.example.org\r\n", b"250 mx\r\n")
WITH_TLS = (b"EHLO relay.example.org\r\n", b"250-mx\r\n250 STARTTLS\r\n")
WITH_AUTH = (b"EHLO relay.example.org\r\n", b"250-mx\r\n250 AUTH PLAIN\r\n")
STARTTLS = (b"STARTTLS\r\n", b"220 go\r\n")
LETTER = Transaction("ann@example.org", ("bob@example.net",), 12, Body.SEVEN_BIT, False)
MAIL = (b"MAIL FROM:<ann@example.org>\r\n", b"250 ok\r\n")
RCPT = (b"RCPT TO:<bob@example.net>\r\n", b"250 ok\r\n")
DATA = (b"DATA\r\n", b"354 go\r\n")
CONTENT = InlineContent(b"Subject: x\r\n\r\nhello\r\n")
DOT = (b"Subject: x\r\n\r\nhello\r\n.\r\n", b"250 2.0.0 taken\r\n")

Steps = Sequence[tuple[bytes, bytes | Act]]


class Stage:
    """A scripted host and a session to it, on virtual time."""

    def __init__(self, simulation: Simulation) -> None:
        self.clock = simulation.clock
        self.network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.01)
        self.peer = ScriptedPeer(())

    async def dial(self, steps: Steps, **policy: object) -> Session:
        self.peer = ScriptedPeer(steps)
        port = self.network.listener()
        bound = await port.listen(ADDRESS, 0, self.peer.accept)
        return await self._connect(bound[1], policy)

    async def dial_to(self, accept: Callable[[Connection], Receiver], **policy: object) -> Session:
        bound = await self.network.listener().listen(ADDRESS, 0, accept)
        return await self._connect(bound[1], policy)

    async def _connect(self, port: int, policy: dict[str, object]) -> Session:
        connection = await self.network.dial(ADDRESS, port, source="", timeout_s=10)
        terms = SessionPolicy("relay.example.org", **policy)  # type: ignore[arg-type]
        return Session(connection, self.clock, ("mx.example.net", ADDRESS, terms))

    async def ready(self, *steps: tuple[bytes, bytes | Act], **policy: object) -> Session:
        session = await self.dial((BANNER, PLAIN, *steps), **policy)
        assert await session.set_up() is None
        return session

    @property
    def octets(self) -> bytes:
        return bytes(self.peer.sessions[0].octets)

    async def is_hung_up(self) -> bool:
        await self.clock.sleep(0.1)
        return bool(self.peer.sessions[0].lost_why)


def on_stage(scenario: Callable[[Stage], object]) -> Callable[[], None]:
    def test() -> None:
        async def main(simulation: Simulation) -> None:
            await scenario(Stage(simulation))  # type: ignore[misc]

        run_simulation(main, seed=1)

    test.__name__ = scenario.__name__
    test.__doc__ = scenario.__doc__
    return test


def why(failed: SetupFailed | None) -> SmarthostError:
    assert failed is not None
    assert isinstance(failed.said, SmarthostError)
    return failed.said


class Stream:
    """Content in pieces, as from a file; may break."""

    def __init__(self, pieces: int, breaks: bool = False) -> None:
        self.octets = pieces * 65_536
        self._pieces, self._breaks = pieces, breaks

    def chunks(self) -> Iterator[bytes]:
        for _ in range(self._pieces):
            yield (b"x" * 62 + b"\r\n") * 1024
        if self._breaks:
            raise StoreError("unreadable")
