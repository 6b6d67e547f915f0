# SPDX-License-Identifier: MIT
"""A sender on virtual time before scripted exchangers: what the tests of this folder share."""

from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from smarthost.mail.content import Content, InlineContent
from smarthost.mail.envelope import Body
from smarthost.mail.hop import Host, SessionPolicy
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.plan import Plan
from smarthost.mail.record import Record
from smarthost.mail.result import AttemptResult
from smarthost.ports import Permit, Refused
from smarthost.route.health import HostHealth
from smarthost.send.attempt import Sender
from smarthost.send.opening import AttemptTerms
from smarthost.send.pool import Pool
from smarthost.testing.network import MemoryNetwork
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.simulation import Simulation, run_simulation

BEST, WORSE = "192.0.2.1", "192.0.2.2"
CONTENT = b"Subject: test\r\n\r\n.dot\r\nbody\r\n"
PREFIX = b"Received: from here\r\n"


class Notes:
    """A Sink that remembers."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        self.records.append(record)

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append((what, facts))


class Ledger:
    """A HostGate that admits everybody but `refused`, and writes down what permits were closed with."""

    def __init__(self) -> None:
        self.refused: dict[str, float] = {}
        self.stalled: list[str] = []
        self.broken: set[str] = set()  # whoever is admitted there is a probe
        self.closed: list[tuple[str, str, str]] = []  # source, address, how

    def usable(self, source: str, address: str) -> Refused | None:
        until = self.refused.get(address)
        return None if until is None else Refused(until, f"{address} failed before")

    def admit(self, source: str, address: str) -> Permit | Refused:
        return self.usable(source, address) or LedgerPermit(self, source, address)


class LedgerPermit:
    def __init__(self, ledger: Ledger, source: str, address: str) -> None:
        self._ledger, self._key = ledger, (source, address)

    def succeeded(self) -> None:
        self._ledger.closed.append((*self._key, "succeeded"))

    @property
    def is_probe(self) -> bool:
        return self._key[1] in self._ledger.broken

    def failed(self, step: str, detail: str, name: str = "") -> None:
        self._ledger.closed.append((*self._key, f"failed at {step}"))

    def stalls(self, step: str, detail: str, name: str = "") -> None:
        self._ledger.stalled.append(self._key[1])

    def withdrawn(self) -> None:
        self._ledger.closed.append((*self._key, "withdrawn"))


class SendRig:
    """Everything an attempt needs, in memory; `lease` and `plan` are what the tests vary."""

    def __init__(
        self,
        simulation: Simulation,
        *,
        soft_bounce: bool = False,
        transactions: int = 100,
        health: HostHealth | None = None,
    ) -> None:
        self.clock = simulation.clock
        self.network = MemoryNetwork(simulation.clock, simulation.random, latency_s=0.01)
        self.gate = Ledger()
        self.sink = Notes()
        self.pool = Pool(simulation.clock, idle_s=5.0, transactions=transactions)
        self.stored: Content = InlineContent(CONTENT)
        self.sender = Sender(
            AttemptTerms(
                dialer=self.network,
                gate=self.gate if health is None else health,
                pool=self.pool,
                clock=self.clock,
                sink=self.sink,
                read_content=self._read,
                soft_bounce=soft_bounce,
            )
        )

    async def _read(self, id: str) -> Content:
        return self.stored

    async def listen(self, exchanger: ScriptedExchanger, address: str = BEST) -> ScriptedExchanger:
        await self.network.listener().listen(address, 25, exchanger.accept)
        return exchanger

    def lease(self, *recipients: str, reverse_path: str = "alice@example.org", content: bytes = CONTENT) -> Lease:
        addresses = recipients or ("bob@example.net",)
        leased = tuple(LeasedRecipient(n, address, "example.net") for n, address in enumerate(addresses))
        return Lease(
            "0" * 16, self.clock.wall() - 2, reverse_path, Body.SEVEN_BIT, False, "192.0.2.9", reverse_path, PREFIX,
            len(content), InlineContent(content), leased,
        )  # fmt: skip

    async def attempt(self, lease: Lease | None = None, plan: Plan | None = None) -> AttemptResult:
        return await self.sender.attempt(lease or self.lease(), plan or plan_for(BEST))


def plan_for(*addresses: str, **policy: object) -> Plan:
    hosts = tuple(Host(f"mx{n}.example.net", (address,), 10 * n) for n, address in enumerate(addresses, 1))
    return Plan("example.net", "lane", hosts, replace(SessionPolicy("relay.example.org"), **policy), "direct MX")


def in_simulation(scenario: Callable[[Simulation], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of a coroutine that runs on virtual time."""

    def test() -> None:
        async def main(simulation: Simulation) -> None:
            await scenario(simulation)

        run_simulation(main, seed=1)

    test.__name__ = scenario.__name__
    test.__doc__ = scenario.__doc__
    return test


def outcomes(result: AttemptResult) -> list[str]:
    return [verdict.outcome.value for verdict in result.verdicts]


def verbs(exchanger: ScriptedExchanger, session: int = 0) -> Sequence[str]:
    return [command.split(b" ")[0].decode() for command in exchanger.sessions[session].commands]
