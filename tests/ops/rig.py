# SPDX-License-Identifier: MIT
"""A relay that only remembers, for tests of what an operator touches; and as a script, `smarthost` with that relay."""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from smarthost.config import Config
from smarthost.mail.backup import Backup
from smarthost.mail.errors import ConfigError, StoreError, StoreLocked, SubmissionRefused
from smarthost.mail.explanation import Explanation, HostReport
from smarthost.mail.progress import DrainEnd, Moving, Staying
from smarthost.mail.record import Record
from smarthost.mail.reply import reply
from smarthost.ops.control import ControlServer
from smarthost.ops.door import Door
from smarthost.ports import Sink
from smarthost.queue.audit import AuditFigures, Finding
from smarthost.queue.store import NULL_PATH, Changed, Filter, Page, StoredMessage, StoredRecipient, Tally


class Receipt(Struct, frozen=True):
    id: str


class CollectingSink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.notes: list[tuple[str, str, dict[str, object]]] = []

    def record(self, record: Record) -> None:
        self.records.append(record)

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append((level, what, facts))


def recipient(address: str, n: int = 0, **facts: object) -> StoredRecipient:
    """Give a recipient that waits for its first attempt."""
    plain = StoredRecipient(
        n=n,
        address=address,
        domain=address.rpartition("@")[2],
        state="deferred",
        due=0.0,
        attempts=0,
        last_reply="",
        status="",
        why="",
    )
    return replace(plain, **facts)


def message(
    id: str, *addresses: str, reverse_path: str = "alice@example.org", received_at: float = 0.0
) -> StoredMessage:
    return StoredMessage(
        id=id,
        received_at=received_at,
        reverse_path=reverse_path,
        client="192.0.2.7",
        sender=reverse_path,
        octets=5120,
        recipients=tuple(recipient(address, n) for n, address in enumerate(addresses)),
    )


class FakeQueue:
    """Finds and changes what it was given, a page at a time."""

    def __init__(self, *messages: StoredMessage, leased: Sequence[str] = ()) -> None:
        self.messages = list(messages)
        self.leased = frozenset(leased)
        self.asked: list[tuple[Filter, str | None, int]] = []
        self.changes: list[tuple[Filter, str]] = []
        self.orders: list[tuple[str, str, str, str, bool]] = []
        self.sent: list[tuple[bytes, str, tuple[str, ...]]] = []

    def door(self, **replaced: object) -> Door:
        return replace(
            Door(submit=self.submit, find=self.find, change=self.change, count=self.count, message_octets=1 << 20),
            **replaced,
        )

    async def count(self) -> tuple[int, int]:
        return len(self.messages), sum(len(message.recipients) for message in self.messages)

    async def submit(self, content: bytes, reverse_path: str, recipients: Sequence[str]) -> Receipt:
        for address in recipients:
            if address.endswith("@refused.example"):
                raise SubmissionRefused(reply(550, "5.7.1", "Not for you"))
            if address.endswith("@broken.example"):
                raise StoreError("the disk is full")
            if address.endswith("@bug.example"):
                raise KeyError("a bug")
        self.sent.append((content, reverse_path, tuple(recipients)))
        return Receipt(f"{len(self.sent):016d}")

    async def find(self, which: Filter, cursor: str | None, n: int) -> Page:
        self.asked.append((which, cursor, n))
        if which.id and len(which.id) != 16:
            raise ValueError(f"a message id has 16 characters: {which.id!r}")
        start = int(cursor or 0)
        matching = [found for each in self.messages if (found := _restricted(each, which)) is not None]
        end = start + n
        return Page(tuple(matching[start:end]), str(end) if end < len(matching) else None)

    async def change(
        self,
        which: Filter,
        verb: str,
        cursor: str | None,
        n: int,
        *,
        by: str,
        reason: str,
        via: str,
        dry_run: bool,
    ) -> Changed:
        self.changes.append((which, verb))
        self.orders.append((verb, by, reason, via, dry_run))
        pairs = [
            ((each.id, recipient.n), recipient.address in self.leased)
            for each in self.messages
            if (found := _restricted(each, which)) is not None
            for recipient in found.recipients
        ]
        return Changed(
            tuple(pair for pair, is_leased in pairs if not is_leased),
            tuple(pair for pair, is_leased in pairs if is_leased),
            None,
        )


def _restricted(message: StoredMessage, which: Filter) -> StoredMessage | None:
    if which.id not in ("", message.id) or which.reverse_path not in ("", message.reverse_path or NULL_PATH):
        return None
    recipients = tuple(
        each
        for each in message.recipients
        if which.recipient in ("", each.address) and which.domain in ("", each.domain)
    )
    return replace(message, recipients=recipients) if recipients else None


def host(address: str, name: str, **facts: object) -> HostReport:
    """Give a host that failed once, at 1000, and is probed next at 1005."""
    plain = HostReport(
        address=address,
        name=name,
        service="",
        state="open",
        failures=1,
        since=1000.0,
        last_failure_at=1000.0,
        step="connect",
        detail="connection refused",
        next_probe_at=1005.0,
        steps=(("connect", 1),),
    )
    return replace(plain, **facts)


class FakeHosts:
    """Knows hosts and explanations as it was given them; `refused`, if set, is what `explain` raises."""

    def __init__(
        self, *hosts: HostReport, explanation: Explanation | None = None, refused: Exception | None = None
    ) -> None:
        self.known = list(hosts)
        self.explanation = explanation
        self.refused = refused
        self.asked: list[str] = []
        self.resets: list[str] = []
        self.explained: list[tuple[str, bool]] = []
        self.senders: list[str] = []

    def door(self, **replaced: object) -> Door:
        mine = {"hosts": self.hosts, "reset_hosts": self.reset_hosts, "explain": self.explain}
        return FakeQueue().door(**{**mine, **replaced})

    async def hosts(self, text: str) -> tuple[HostReport, ...]:
        self.asked.append(text)
        return self._matching(text)

    async def reset_hosts(self, text: str) -> tuple[HostReport, ...]:
        self.resets.append(text)
        matching = self._matching(text)
        gone = set(map(id, matching))
        self.known = [each for each in self.known if id(each) not in gone]
        return matching

    async def explain(self, address: str, probe: bool, sender: str) -> Explanation:
        self.explained.append((address, probe))
        self.senders.append(sender)
        if self.refused is not None:
            raise self.refused
        assert self.explanation is not None, "the test gave none"
        return self.explanation

    def _matching(self, text: str) -> tuple[HostReport, ...]:
        wanted = text.lower()
        return tuple(
            each
            for each in self.known
            if not wanted or wanted in (each.address.lower(), each.name.lower(), each.service.lower())
        )


class FakeRelay(FakeQueue):
    """Stands in for assemble.Relay; the hostname chooses what goes wrong at its start."""

    FAILURES: ClassVar[dict[str, Exception]] = {
        "locked.example": StoreLocked("another process owns the state directory"),
        "broken.example": StoreError("no space left on device"),
        "busy.example": ConfigError("cannot be bound: address already in use", key="listen"),
    }

    def __init__(self, config: Config, sink: Sink, paused: bool) -> None:
        super().__init__()
        self.paused = paused
        self.config = config
        self.sink = sink
        self.store = self
        self.bound: tuple[tuple[str, int], ...] = ()

    @classmethod
    def from_config(cls, config: Config, sink: Sink, *, paused: bool = False) -> "FakeRelay":
        return cls(config, sink, paused)

    async def start(self) -> None:
        if self.config.hostname in self.FAILURES:
            raise self.FAILURES[self.config.hostname]
        self.config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.bound = tuple((each.host, each.port or 40025) for each in self.config.listen)
        if self.config.hostname == "bug.example":
            asyncio.get_running_loop().call_soon(self.FAILURES.__getitem__, "a bug nobody foresaw")

    async def pause(self) -> None:
        self.paused = True

    async def resume(self) -> tuple[int, int]:
        self.paused = False
        return await self.count()

    async def back_up(self, directory: str) -> Backup:
        if Path(directory).exists():
            raise StoreError(f"{directory} is not empty")
        return Backup(directory, 2, 3, 4096)

    async def check(self) -> AsyncGenerator[Finding | None, None]:
        yield None

    async def drain(self, host: str, port: int, tell: Callable[[Moving | Staying], None]) -> DrainEnd:
        raise StoreError(f"nobody is at {host}:{port}")

    def cancel_drain(self) -> bool:
        return False

    @property
    def audit_figures(self) -> AuditFigures:
        return AuditFigures(rounds=2)

    async def report_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        return (host("192.0.2.1", "mx.example"),) if text in ("", "mx.example") else ()

    async def find_standstill(self) -> tuple[HostReport, ...]:
        return ()

    async def reset_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        return await self.report_hosts(text)

    async def explain(self, address: str, *, probe: bool = False, sender: str = "") -> Explanation:
        said = "probed" if probe else "asked"
        return Explanation(address, "example.net", "example.net", "direct MX", f"{said} about {address}")

    refusal: ClassVar[Exception | None] = None
    record_horizon: ClassVar[int] = 0

    def figures(self) -> dict[str, float]:
        return {}

    async def records(self, after: int, n: int) -> tuple[Record, ...]:
        return ()

    async def tally(self, cursor: str | None, now: float) -> Tally:
        return Tally({}, {}, {}, None)

    async def not_asked(self, *_: object, **__: object) -> None:
        raise NotImplementedError("no test asks for it")

    why = summary = domains_of_lane = suspend = end_suspension = suspensions = not_asked

    async def stop(self, grace_s: float) -> None:
        if self.config.hostname == "stuck.example":
            self.sink.note("info", "stuck")
            await asyncio.sleep(0.1)  # lets the log be written
            while True:
                pass


class Offered(Protocol):
    """What can be served: something with a door."""

    def door(self) -> Door: ...


Served = TypeVar("Served", bound=Offered)


@contextmanager
def running(state_dir: Path, queue: Served) -> Iterator[Served]:
    """Serve a control socket from a thread, as a daemon does from another process."""
    loop = asyncio.new_event_loop()
    server = ControlServer(state_dir, queue.door(), CollectingSink())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(5)
        yield queue
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


if __name__ == "__main__":
    stand_in = ModuleType("smarthost.assemble")
    stand_in.Relay = FakeRelay  # type: ignore[attr-defined]
    sys.modules["smarthost.assemble"] = stand_in
    assert Path(__file__).name == "rig.py"

    from smarthost.ops.cli import main

    main()
