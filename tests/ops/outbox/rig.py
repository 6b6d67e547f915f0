# SPDX-License-Identifier: MIT
"""A source of records, a place for cursors and a receiver that only remember, for tests of what carries records."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from smarthost.mail.errors import StoreError
from smarthost.mail.record import Kind, Record
from smarthost.ops.outbox.carrier import Carrier, Undelivered
from smarthost.testing.clock import START, FakeClock


def record(seq: int, kind: Kind = Kind.RELAYED, **facts: object) -> Record:
    """Give a record; one a second."""
    return Record(seq, kind, START + seq, f"{seq:016d}", f"r{seq}@example.net", "ann@example.org", **facts)  # type: ignore[arg-type]


class FakeRecords:
    """Records as a relay gives them, and the notes of its store; `trouble`, if set, is what the store says."""

    def __init__(self, *records: Record) -> None:
        self.kept = list(records)
        self.record_horizon = max([each.seq for each in records], default=0)
        self.notes: dict[str, bytes] = {}
        self.reads: list[tuple[int, int]] = []
        self.trouble: StoreError | None = None

    def happen(self, *records: Record) -> None:
        self.kept += records
        self.record_horizon = max(each.seq for each in self.kept)

    async def records(self, after: int, n: int) -> tuple[Record, ...]:
        if self.trouble is not None:
            raise self.trouble
        self.reads.append((after, n))
        return tuple([each for each in self.kept if after < each.seq <= self.record_horizon][:n])

    async def load_notes(self, prefix: str) -> dict[str, bytes]:
        if self.trouble is not None:
            raise self.trouble
        return {name: value for name, value in self.notes.items() if name.startswith(prefix)}

    def save_notes(self, notes: Mapping[str, bytes]) -> Awaitable[None]:
        async def saved() -> None:
            if self.trouble is not None:
                raise self.trouble
            self.notes.update(notes)

        return asyncio.ensure_future(saved())


class FakeReceiver:
    """Takes `most` records at a time; before that it raises what `failures` says, one after the other."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.failures: list[Undelivered] = []
        self.got: list[int] = []
        self.tries = 0
        self.is_closed = False

    async def deliver(self, records: Sequence[Record]) -> int:
        self.tries += 1
        if self.failures:
            raise self.failures.pop(0)
        taken = records[: self.most]
        self.got += [each.seq for each in taken]
        return len(taken)

    async def close(self) -> None:
        self.is_closed = True


class Carrying:
    """A carrier that runs on a clock the test moves."""

    def __init__(
        self, source: FakeRecords, receiver: FakeReceiver, *, kinds: Sequence[str] = (), clock: FakeClock | None = None
    ) -> None:
        self.clock = clock or FakeClock()
        self.told: list[tuple[str, str, dict[str, object]]] = []
        self.carrier = Carrier(
            "webhook:test", "webhook", "http://test/", receiver, source, lambda: source, self._note, kinds=kinds,
            clock=self.clock,
        )  # fmt: skip
        self._task: asyncio.Task[None] | None = None

    def _note(self, level: str, what: str, **facts: object) -> None:
        self.told.append((level, what, facts))

    async def __aenter__(self) -> "Carrying":
        self._task = asyncio.ensure_future(self.carrier.carry_for_ever())
        await self.turn()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.crash()

    async def crash(self) -> None:
        """End as kill -9 would: nothing is saved."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, from one deadline to the next; everybody has his turn at each."""
        left = seconds
        while True:
            for _ in range(15):
                await asyncio.sleep(0)
            if left <= 0:
                return
            due = self.clock.next_due_s
            step = left if due is None else min(left, max(due, 0.001))
            self.clock.advance(step)
            left -= step

    async def until(self, is_so: Callable[[], bool], within_s: float = 600.0, step_s: float = 0.25) -> None:
        """Let time pass until something is so."""
        for _ in range(round(within_s / step_s)):
            if is_so():
                return
            await self.turn(step_s)
        raise AssertionError("it never was so")
