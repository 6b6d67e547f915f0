# SPDX-License-Identifier: MIT
"""Group commit: what shares a batch, and who is told what when a commit fails. The child is played by the test."""

import asyncio
from collections.abc import Sequence

import pytest

from smarthost.backends.sqlite import wire
from smarthost.backends.sqlite.batch import Batch
from smarthost.backends.sqlite.commits import BATCH_ITEMS, CRASHES, IN_FLIGHT, Commits
from smarthost.backends.sqlite.items import Item, Notes, Release
from smarthost.backends.sqlite.pace import Pace
from smarthost.mail.errors import StoreError, StoreFull
from smarthost.mail.identity import encode_id
from smarthost.testing.clock import FakeClock


class PlayedKeeper:
    """A keeper whose child is the test: it lists the batches sent and answers when told to."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.at_hand: set[int] = set()
        self.starts: list[bool] = []
        self.dropped: list[str] = []
        self.is_stopped = False
        self.is_finished = False

    def start(self, is_reopening: bool, damage: str = "") -> bool:
        self.starts.append(is_reopening)
        return True

    def commit(self, buffers: Sequence[bytes]) -> None:
        number = wire.BatchHead(*wire.BATCH_HEAD.unpack(buffers[0])).number
        self.sent.append(number)
        self.at_hand.add(number)

    def drop(self, names: Sequence[str]) -> None:
        self.dropped += names

    def stop(self) -> None:
        self.is_stopped = True

    def finish(self) -> None:
        self.is_finished = True

    def reap(self, wait_s: float) -> None:
        pass


class Entry:
    """An item that remembers what it was told."""

    def __init__(self, name: str, *, is_kept: bool = False, day: int = 0, parts: Sequence["Entry"] = ()) -> None:
        self.name = name
        self.is_kept = is_kept
        self.day = day
        self.crashes = 0
        self.told: list[str] = []
        self._parts = parts
        self.batch: Batch | None = None

    def enter(self, batch: Batch) -> None:
        self.batch = batch
        batch.note(self.name, b"x")

    def parts(self) -> Sequence[Item]:
        return self._parts or (self,)

    def committed(self) -> None:
        self.told.append("committed")

    def failed(self, error: StoreError, is_undone: bool) -> None:
        self.told.append(f"{type(error).__name__} {'undone' if is_undone else 'unknown'}")

    def rejected(self, error: StoreError) -> str | None:
        self.told.append("rejected")
        return f"{self.name} given up"


class Unhurried(Pace):
    """Keeps no batch waiting for company, however busy the machine is."""

    def hold_s(self) -> float:
        return 0.0


class Line:
    """A line of commits on a played keeper."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.troubles: list[str] = []
        self.keeper = PlayedKeeper()
        self.commits = Commits(self.clock, self.troubles.append)
        self.commits._pace = Unhurried()

    async def open(self) -> "Line":
        opening = asyncio.ensure_future(self.commits.open(self.keeper))  # type: ignore[arg-type]
        await turn()
        self.commits.greeted(wire.Hello("", 17))
        assert await opening == 17
        return self

    async def submit(self, *entries: Entry) -> None:
        for entry in entries:
            self.commits.submit(entry)
        await turn()

    async def answer(
        self, code: int = wire.OK, text: str = "", gone: Sequence[tuple[int, int]] = (), number: int | None = None
    ) -> None:
        """Answer the oldest batch that the child has, or the one with this number."""
        number = number or min(self.keeper.at_hand)
        self.keeper.at_hand.discard(number)
        self.commits.committed(wire.Outcome(number, code, text, list(gone)))
        await turn()

    async def lose(self) -> None:
        """Let the child die."""
        self.keeper.at_hand.clear()
        self.commits.lost()
        await turn()

    async def reopen(self) -> None:
        """Let another child greet."""
        self.keeper.at_hand.clear()
        self.clock.advance(10.0)
        self.commits.greeted(wire.Hello("", 17))
        await turn()


async def turn() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


pytestmark = pytest.mark.asyncio


async def test_items_of_one_turn_share_a_batch() -> None:
    """What is enqueued in one turn of the event loop costs one fsync."""
    line = await Line().open()
    entries = [Entry(str(n)) for n in range(5)]

    await line.submit(*entries)

    assert len(line.keeper.sent) == 1
    await line.answer()
    assert [entry.told for entry in entries] == [["committed"]] * 5


async def test_items_collect_while_batches_are_committed() -> None:
    """While the disk is busy, and its next work is at hand, everything waits for the batch after that together."""
    line = await Line().open()
    for number in range(IN_FLIGHT):
        await line.submit(Entry(f"first {number}"))
    later = [Entry(str(n)) for n in range(3)]

    for entry in later:
        await line.submit(entry)
    assert len(line.keeper.sent) == IN_FLIGHT
    await line.answer(number=1)

    assert len(line.keeper.sent) == IN_FLIGHT + 1
    assert len({id(entry.batch) for entry in later}) == 1
    assert [entry.told for entry in later] == [[]] * 3


async def test_batches_are_bounded() -> None:
    """More than a batch may hold goes in several."""
    line = await Line().open()

    await line.submit(*[Entry(str(n)) for n in range(BATCH_ITEMS + 1)])
    await line.answer()

    assert len(line.keeper.sent) == 2


async def test_records_of_different_days_do_not_share_a_batch() -> None:
    """A batch writes into one day's table of records."""
    line = await Line().open()
    entries = [Entry("a", day=20260101), Entry("b"), Entry("c", day=20260102)]

    await line.submit(*entries)
    await line.answer()

    assert entries[0].batch is entries[1].batch
    assert entries[2].batch is not entries[1].batch
    assert entries[2].batch is not None
    assert entries[2].batch.day == 20260102


async def test_full_disk_refuses_mail_and_repeats_settlements_at_once() -> None:
    """Without space new mail is told so, while settlements go again without it."""
    line = await Line().open()
    mail, settlement = Entry("mail"), Entry("settlement", is_kept=True)
    await line.submit(mail, settlement)

    await line.answer(wire.FULL, "database or disk is full")

    assert mail.told == ["StoreFull undone"]
    assert isinstance(line.commits.refusal(), StoreFull)
    assert len(line.keeper.sent) == 2
    await line.answer()
    assert settlement.told == ["committed"]


async def test_full_disk_is_tried_again_after_a_second() -> None:
    """When not even settlements find room, they are kept and repeated; mail may try again then, too."""
    line = await Line().open()
    settlement = Entry("settlement", is_kept=True)
    await line.submit(settlement)
    await line.answer(wire.FULL)
    assert settlement.told == ["StoreFull undone"]
    assert len(line.keeper.sent) == 1

    line.clock.advance(1.0)
    await turn()

    assert line.commits.refusal() is None
    assert len(line.keeper.sent) == 2
    await line.answer()
    assert settlement.told[-1] == "committed"


async def test_poison_fails_alone() -> None:
    """One impossible row does not take its neighbours down: each goes again by itself."""
    line = await Line().open()
    entries = [Entry("good"), Entry("poison", is_kept=True), Entry("fine")]
    await line.submit(*entries)

    await line.answer(wire.FAULTY, "constraint failed")
    for code in (wire.OK, wire.FAULTY, wire.OK):
        await line.answer(code, "constraint failed")

    assert [entry.told for entry in entries] == [["committed"], ["rejected"], ["committed"]]
    assert line.troubles == ["poison given up"]
    assert line.commits.refusal() is None


async def test_poisoned_item_is_divided() -> None:
    """Of many settlements handed over together, only the impossible one is given up."""
    line = await Line().open()
    parts = [Entry("one", is_kept=True), Entry("two", is_kept=True)]
    await line.submit(Entry("both", is_kept=True, parts=parts))

    for code in (wire.FAULTY, wire.OK, wire.FAULTY):
        await line.answer(code)

    assert [part.told for part in parts] == [["committed"], ["rejected"]]


async def test_failed_fsync_ends_the_child_and_keeps_settlements() -> None:
    """After an I/O error nothing is retried on that connection: another child opens the database anew."""
    line = await Line().open()
    mail, settlement, waiting = Entry("mail"), Entry("settlement", is_kept=True), Entry("waiting")
    await line.submit(mail, settlement)
    await line.submit(waiting)

    await line.answer(wire.FATAL, "IOError: disk I/O error")

    assert mail.told == ["StoreError unknown"]
    assert waiting.told == ["StoreError unknown"]
    assert settlement.told == ["StoreError unknown"]
    assert line.keeper.is_stopped
    assert isinstance(line.commits.refusal(), StoreError)
    assert line.keeper.starts == [False, True]
    late = Entry("late")
    await line.submit(late)
    assert late.told == ["StoreError undone"]

    await line.reopen()

    assert line.commits.refusal() is None
    await line.answer()
    assert settlement.told == ["StoreError unknown", "committed"]
    assert mail.told == ["StoreError unknown"]


async def test_settlements_said_during_an_outage_are_kept() -> None:
    """What a host has said while the store was down is committed when it is back."""
    line = await Line().open()
    await line.lose()
    settlement = Entry("settlement", is_kept=True)

    await line.submit(settlement)
    assert settlement.told == ["StoreError undone"]
    await line.reopen()
    await line.answer()

    assert settlement.told[-1] == "committed"


async def test_outage_is_retried_less_and_less_often() -> None:
    """A database that cannot be reopened is tried again, and each failure is told."""
    line = await Line().open()
    line.commits.lost()
    await turn()
    assert line.keeper.starts == [False, True]

    for number in range(3):
        line.commits.greeted(wire.Hello("queue.db is damaged", 0))
        line.commits.lost()
        await turn()
        line.clock.advance(10.0)
        assert len(line.keeper.starts) == 3 + number

    assert str(line.commits.refusal()) == "queue.db is damaged"
    assert line.troubles.count("the store cannot be reopened: queue.db is damaged") == 3


async def test_settlement_that_kills_the_child_is_given_up() -> None:
    """A row that crashes the database process every time must not do so for ever, and its neighbours survive it."""
    line = await Line().open()
    innocent, killer = Entry("innocent", is_kept=True), Entry("killer", is_kept=True)
    await line.submit(innocent, killer)

    for _ in range(CRASHES + 2):
        if killer.told[-1:] == ["rejected"]:
            break
        await line.lose()
        await line.reopen()
        if innocent.told[-1:] != ["committed"]:
            await line.answer()

    assert innocent.told[-1] == "committed"
    assert killer.told[-1] == "rejected"
    assert "killer given up" in line.troubles


async def test_innocent_batch_behind_a_deadly_one_is_not_blamed() -> None:
    """Of two batches that the child had, only the one in hand can have killed it."""
    line = await Line().open()
    killer, behind = Entry("killer", is_kept=True), Entry("behind", is_kept=True)
    await line.submit(killer)
    await line.submit(behind)

    for _ in range(CRASHES):
        await line.lose()
        assert "rejected" not in behind.told
        await line.reopen()
        if "committed" not in behind.told:
            await line.answer()  # it goes first: it was not in hand

    assert killer.told[-1] == "rejected"
    assert behind.told[-1] == "committed"


async def test_stalled_disk_refuses_new_mail() -> None:
    """A commit that takes very long means a disk that hangs: no more responsibility is taken."""
    line = await Line().open()
    await line.submit(Entry("mail"))
    line.clock.advance(5.0)
    assert line.commits.refusal() is None

    line.clock.advance(6.0)

    assert "has not finished a commit" in str(line.commits.refusal())
    await line.answer()
    assert line.commits.refusal() is None


async def test_slow_commits_are_told_for_a_minute_or_two() -> None:
    """How many, how long in all, and the slowest: one that hangs while it does, and none of yesterday."""
    line = await Line().open()
    await line.submit(Entry("mail"))
    line.clock.advance(2.0)
    assert line.commits.figures() == {"commits": 0, "commits_s": 0.0, "slowest_commit_s": 2.0}
    await line.answer()
    await line.submit(Entry("more"))
    line.clock.advance(0.5)
    await line.answer()
    assert line.commits.figures() == {"commits": 2, "commits_s": 2.5, "slowest_commit_s": 2.0}

    line.clock.advance(60.0)
    assert line.commits.figures()["slowest_commit_s"] == 2.0
    line.clock.advance(60.0)
    assert line.commits.figures() == {"commits": 2, "commits_s": 2.5, "slowest_commit_s": 0.0}


async def test_close_waits_for_everything_enqueued() -> None:
    """Closing commits what was enqueued before it ends the child."""
    line = await Line().open()
    first, second = Entry("first"), Entry("second")
    await line.submit(first)
    await line.submit(second)

    closing = asyncio.ensure_future(line.commits.close(10.0))
    await turn()
    await line.answer()
    assert not line.keeper.is_finished
    await line.answer()
    assert line.keeper.is_finished
    line.commits.lost()
    await closing

    assert (first.told, second.told) == (["committed"], ["committed"])


async def test_close_gives_up_on_a_hanging_disk() -> None:
    """Closing ends within its patience, and says what was not durable."""
    line = await Line().open()
    settlement = Entry("settlement", is_kept=True)
    await line.submit(settlement)

    closing = asyncio.ensure_future(line.commits.close(10.0))
    for _ in range(2):
        await turn()
        line.clock.advance(10.0)
    await closing

    assert settlement.told == ["StoreError unknown"]
    assert "1 settlements not durable" in line.troubles[0]


async def test_files_without_a_row_are_dropped_after_the_commit() -> None:
    """A content file goes when the deletion of its row is durable, not before."""
    line = await Line().open()
    await line.submit(Entry("settlement"))
    assert line.keeper.dropped == []

    await line.answer(gone=[(1 << 40, 5)])

    assert line.keeper.dropped == [encode_id(1 << 40, 5)]


async def test_each_release_is_told_its_own_number() -> None:
    """Two releases never share a batch, so that each learns how many it released; mail enters between them."""
    line = await Line().open()
    loop = asyncio.get_running_loop()
    first, second = (Release(["a.example"], 1.0, loop.create_future()) for _ in range(2))
    before, between = Entry("before"), Entry("between")

    for item in (before, first, between, second):
        line.commits.submit(item)
    await turn()
    for number, released in ((1, 7), (2, 3)):
        line.commits.committed(wire.Outcome(number, wire.OK, "", [], 0, released))
        await turn()

    assert (first.released, second.released) == (7, 3)
    assert first.future.done()
    assert line.keeper.sent == [1, 2]
    assert (before.told, between.told) == (["committed"], ["committed"])


async def test_notes_stay_in_order_when_their_batch_is_divided() -> None:
    """A wrong neighbour in the batch does not let an older note come after a younger one, nor part it from its own."""
    assert IN_FLIGHT == 1, "with more, a batch that is divided would be entered again behind later ones"
    line = await Line().open()
    loop = asyncio.get_running_loop()
    notes = [Notes({"host": value}, (), loop.create_future()) for value in (b"1", b"2", b"3")]

    line.commits.submit(notes[0])
    line.commits.submit(Entry("wrong"))
    line.commits.submit(notes[1])
    await turn()
    line.commits.submit(notes[2])
    await line.answer(wire.FAULTY, "constraint failed")
    done = []
    for code in (wire.OK, wire.FAULTY, wire.OK, wire.OK):
        await line.answer(code)
        done.append([note.future.done() for note in notes])

    assert done == [[True, False, False], [True, False, False], [True, True, False], [True, True, True]]


async def test_notes_are_not_kept_after_a_failure() -> None:
    """Whoever saves notes is told that they were not saved, and saves again what is true by then."""
    line = await Line().open()
    saving = Notes({"host": b"1"}, (), asyncio.get_running_loop().create_future())
    line.commits.submit(saving)
    await turn()
    await line.lose()
    await line.reopen()

    assert isinstance(saving.future.exception(), StoreError)
    assert line.keeper.sent == [1], "nothing was entered again"
