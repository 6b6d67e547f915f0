# SPDX-License-Identifier: MIT
"""Damaged stores: the damaged entry is isolated and told, everything else goes on, and nothing vanishes in silence."""

import asyncio
import os
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from smarthost.backends.sqlite import pages, salvage, soundness
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.envelope import DsnRequest, Envelope, Notify, SenderTls
from smarthost.mail.errors import StoreError
from smarthost.mail.identity import decode_id
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import State
from smarthost.queue.leases import Wish
from smarthost.queue.store import Filter
from smarthost.testing.stores.trial import HOUR, NOW, Trial, content_of

pytestmark = pytest.mark.asyncio
LARGE = 200 * 1024  # in a file
PAGE = 4096


class NoMaker:
    """These tests open by themselves."""

    make = crash = restart = set_full = None


class Opened:
    """An open store, and what it told an operator."""

    def __init__(self, path: Path) -> None:
        self.troubles: list[str] = []
        self.news: list[str] = []
        self.store = SqliteStore(path, on_trouble=self.troubles.append, on_news=self.news.append)
        self.trial: Trial

    async def damaged(self) -> list[tuple[str, str, str]]:
        """The records of damage: id, recipient, why."""
        records = await self.store.records(0, 1_000)
        return [(each.id, each.recipient, each.why) for each in records if each.kind is Kind.DAMAGED]

    async def states(self) -> dict[str, str]:
        """What is in the queue: states by address."""
        found = (await self.store.find(Filter(), None, 1_000)).messages
        return {each.address: each.state for message in found for each in message.recipients}

    async def delivered(self) -> dict[str, bytes]:
        """Lease all that is due, read it, settle it as relayed: content by address."""
        found = {}
        while domains := (await self.store.due(NOW + 2 * HOUR, 100)).domains:
            for lease in await self.store.lease([each.domain for each in domains], NOW + 2 * HOUR, 100):
                try:
                    octets = content_of(await self.store.content(lease.id))
                except StoreError:
                    await self.store.settle([self.trial.settlement(lease, State.DEFERRED, due=NOW, counted=False)])
                    continue
                found.update({each.address: octets for each in lease.recipients})
                await self.store.settle([self.trial.settlement(lease, State.RELAYED)])
        return found

    async def mended(self) -> None:
        """Wait until the store serves (again)."""
        async with asyncio.timeout(20):
            while self.store.refusal is not None:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Opened]:
    """Open the store, and close it again."""
    found = Opened(path)
    await found.store.open()
    found.trial = Trial(NoMaker(), found.store)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        await found.store.close()


async def fill(path: Path, count: int = 40, octets: int = 3_000) -> dict[str, bytes]:
    """Queue messages, one recipient each; gives the content by address."""
    made = {}
    async with opened(path) as it:
        for number in range(count):
            address, content = f"r{number}@d{number % 5}.example", f"{number}\r\n".encode() * (octets // 4)
            await it.store.add(it.trial.message(address, content=content), ())
            made[address] = content
    return made


def sql(path: Path, *statements: str) -> None:
    """Do to a closed store what no code of ours does."""
    db = apsw.Connection(str(path / "queue.db"))
    for statement in statements:
        db.execute(statement)
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()


def change(path: Path, old: bytes, new: bytes) -> None:
    """Change octets where they lie in the database's file."""
    octets = (path / "queue.db").read_bytes()
    assert len(old) == len(new)
    assert octets.count(old) == 1
    (path / "queue.db").write_bytes(octets.replace(old, new))


def write(path: Path, octets: bytes) -> None:
    """Put other octets into a file."""
    path.write_bytes(octets)


def zero_page(path: Path) -> None:
    """Lose a page of recipients."""
    octets = bytearray((path / "queue.db").read_bytes())
    leaves = [at for at in range(PAGE, len(octets), PAGE) if octets[at] == pages.INDEX_LEAF]
    at = next(at for at in leaves if octets.count(b"@d", at, at + PAGE) > 5)
    octets[at : at + PAGE] = bytes(PAGE)
    (path / "queue.db").write_bytes(octets)


def kept(path: Path) -> list[str]:
    """The names of what a salvage kept."""
    return sorted(each.name for each in path.glob("queue.db.*"))


@pytest.mark.parametrize("n", [1, 7, 50])
async def test_damaged_entries_hide_nothing_that_is_due_behind_them(tmp_path: Path, n: int) -> None:
    """Fewer leases than asked for mean that there are no more: the feed looks again only a minute later."""
    await fill(tmp_path)
    sql(
        tmp_path,
        "UPDATE message SET reverse_path = 'other@client.example' WHERE key IN (SELECT key FROM message LIMIT 9)",
    )
    async with opened(tmp_path) as it:
        domains = [f"d{number}.example" for number in range(5)]
        found = await it.store.lease(domains, NOW + HOUR, n)

        assert min(n, 40 - 9) == len(found)
        assert min(n, 40 - 9) == len({lease.id for lease in found})


# What checksums find


async def test_message_is_kept_with_checksums_that_anybody_can_compute(tmp_path: Path) -> None:
    """The numbers are CRC-32, as documented: of the content below, of the envelope above; of each recipient."""
    async with opened(tmp_path) as it:
        plain = it.trial.message("a@dest.example", "b@dest.example", content=b"Subject: x\r\n\r\n")
        requests = (DsnRequest(Notify.SUCCESS, "rfc822;x"), DsnRequest())
        asked = Envelope(
            "s@o.example", plain.envelope.recipients, ret="HDRS", envid="e1", tls=SenderTls.REQUIRED, requests=requests
        )
        message = Message(plain.id, NOW, asked, b"P: x\r\n", plain.content, "192.0.2.7", "key")
        await it.store.add(message, ())

    db = apsw.Connection(str(tmp_path / "queue.db"))
    rows: list[tuple[int, int]] = db.execute("SELECT checksum, recipients FROM message").fetchall()  # type: ignore[assignment]
    ((number, count),) = rows
    own = [each for (each,) in db.execute("SELECT checksum FROM recipient ORDER BY n")]
    db.close()

    text = f"{message.id}\0s@o.example\x007BIT\x00192.0.2.7\0key\0HDRS\0e1\0required"
    row = zlib.crc32(b"P: x\r\n", zlib.crc32(text.encode(), 2 << 1)) & 0x7FFFFFFF
    assert (number & 0xFFFFFFFF, number >> 32, count) == (zlib.crc32(b"Subject: x\r\n\r\n"), row, 2)
    assert own == [
        zlib.crc32(b"a@dest.example\0dest.example\x002\0rfc822;x", row),
        zlib.crc32(b"b@dest.example\0dest.example", row + 1),
    ]


Change = Callable[[Path, str], None]
CHANGES: dict[str, Change] = {
    "content": lambda path, id: change(path, b"the secret", b"the secreT"),
    "reverse-path": lambda path, id: change(path, b"victim@origin.example7BIT", b"fictim@origin.example7BIT"),
    "prefix": lambda path, id: change(path, b"Received: by victim", b"Received: by fictim"),
    "file": lambda path, id: write(path / "content" / id, b"y" * LARGE),
    "file cut": lambda path, id: os.truncate(path / "content" / id, 1_000),
    "file gone": lambda path, id: (path / "content" / id).unlink(),
    "content gone": lambda path, id: sql(path, f"DELETE FROM content WHERE key = {decode_id(id)[0]}"),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_changed_message_is_held_and_told_and_the_rest_goes_on(tmp_path: Path, what: str) -> None:
    """A flipped octet never goes out: the operator hears of it once, and finds the message held."""
    async with opened(tmp_path) as it:
        victim = it.trial.message(
            "v1@dest.example", "v2@dest.example", reverse_path="victim@origin.example",
            prefix=b"Received: by victim\r\n", content=b"x" * LARGE if what.startswith("file") else b"the secret\r\n",
        )  # fmt: skip
        await it.store.add(victim, ())
        await it.trial.add("other@dest.example")
    CHANGES[what](tmp_path, victim.id)

    async with opened(tmp_path) as it:
        assert list(await it.delivered()) == ["other@dest.example"]

        assert await it.states() == {"v1@dest.example": "held", "v2@dest.example": "held"}
        records = await it.damaged()
        assert [(id, address) for id, address, _ in records] == [
            (victim.id, "v1@dest.example"), (victim.id, "v2@dest.example"),
        ]  # fmt: skip
        assert all(why.startswith("damaged: its ") for _, _, why in records)
        (trouble,) = it.troubles
        assert victim.id in trouble
    async with opened(tmp_path) as it:
        assert await it.delivered() == {}
        assert it.troubles == []


async def test_changed_address_is_held_and_the_other_recipient_is_served(tmp_path: Path) -> None:
    """Mail is not sent to an address that nobody wrote; who shares the message gets it all the same."""
    async with opened(tmp_path) as it:
        victim = await it.trial.add("victim@dest.example", "other@dest.example")
    change(tmp_path, b"victim@dest.example", b"fictim@dest.example")

    async with opened(tmp_path) as it:
        assert list(await it.delivered()) == ["other@dest.example"]
        assert await it.damaged() == [
            (victim.id, "fictim@dest.example", "damaged: its address does not match its checksum")
        ]
        assert await it.states() == {"fictim@dest.example": "held"}


async def test_content_found_damaged_under_a_lease_is_not_tried_again(tmp_path: Path) -> None:
    """The attempt that could not read it defers it, as it must; it is held all the same, and no domain stays due."""
    async with opened(tmp_path) as it:
        message = it.trial.message("a@dest.example", content=b"the secret\r\n")
        await it.store.add(message, ())
    change(tmp_path, b"the secret", b"the secreT")

    async with opened(tmp_path) as it:
        (lease,) = await it.store.lease(["dest.example"], NOW, 10)
        with pytest.raises(StoreError, match=f"{message.id} is damaged"):
            await it.store.content(message.id)
        await it.store.settle([it.trial.settlement(lease, State.DEFERRED, due=NOW, counted=False)])

        assert await it.states() == {"a@dest.example": "held"}
        assert (await it.store.due(NOW, 10)).domains == ()


async def test_damaged_message_is_tried_again_when_what_was_lost_is_put_back(tmp_path: Path) -> None:
    """The operator restores the file and says retry: it goes out. Without that it is found damaged, and held, again."""
    async with opened(tmp_path) as it:
        message = it.trial.message("a@dest.example", content=b"x" * LARGE)
        await it.store.add(message, ())
        file = tmp_path / "content" / message.id
        file.unlink()
        assert await it.delivered() == {}

        await it.store.change(Filter(), Wish("retry", NOW), None, 10)
        assert await it.delivered() == {}
        assert await it.states() == {"a@dest.example": "held"}
        assert len(it.troubles) == 2
        file.write_bytes(b"x" * LARGE)
        await it.store.change(Filter(), Wish("retry", NOW), None, 10)

        assert await it.delivered() == {"a@dest.example": b"x" * LARGE}


async def test_report_is_not_sent_to_a_changed_reverse_path(tmp_path: Path) -> None:
    """Who would be told is not who sent it: the report is given up, with a record."""
    async with opened(tmp_path) as it:
        message = it.trial.message("a@dest.example", reverse_path="victim@origin.example")
        leases = await it.store.add(message, {"dest.example"})
        await it.store.settle([it.trial.settlement(lease, State.BOUNCED, owed=True) for lease in leases])
    db = (tmp_path / "queue.db").read_bytes()
    at = db.index(b"victim@origin.example7BIT")  # in the message's row, not in the record
    (tmp_path / "queue.db").write_bytes(db[:at] + b"f" + db[at + 1 :])

    async with opened(tmp_path) as it:
        assert await it.store.lease_report(NOW) is None
        while await it.store.count() != (0, 0):
            await asyncio.sleep(0.005)
        assert [(id, address) for id, address, _ in await it.damaged()] == [(message.id, "a@dest.example")]


async def test_mail_of_an_older_release_has_no_checksums_and_goes_out(tmp_path: Path) -> None:
    """What nobody computed is not missed."""
    made = await fill(tmp_path, 3)
    sql(tmp_path, "UPDATE message SET checksum = NULL, recipients = NULL", "UPDATE recipient SET checksum = NULL")

    async with opened(tmp_path) as it:
        assert await it.delivered() == made
        assert it.troubles == []


async def test_large_content_that_was_just_received_is_not_read_twice(tmp_path: Path) -> None:
    """A fresh message goes out as it is; only what waited on the disk is checked."""
    async with opened(tmp_path) as it:
        message = it.trial.message("a@dest.example", content=b"x" * LARGE)
        await it.store.add(message, {"dest.example"})
        (tmp_path / "content" / message.id).write_bytes(b"y" * LARGE)

        assert content_of(await it.store.content(message.id)) == b"y" * LARGE
        with pytest.raises(StoreError, match="does not match its checksum"):
            await it.store.content(message.id)


# What is wrong with the structure


async def test_leaf_of_recipients_is_lost_and_they_are_named(tmp_path: Path) -> None:
    """Of a page of zeros nothing can be saved; who was on it is named, the others are served."""
    made = await fill(tmp_path, 300, 20)
    zero_page(tmp_path)

    async with opened(tmp_path) as it:
        (trouble,) = it.troubles
        (news,) = it.news
        found = await it.delivered()
        lost = await it.damaged()
        assert await it.store.count() == (0, 0)

    assert "salvage is under way" in news
    assert "lost: " in trouble
    assert found == {address: made[address] for address in found}
    assert len(found) + len(lost) == 300
    assert len(lost) > 5
    assert kept(tmp_path)[0].startswith("queue.db.damaged-")


async def test_damaged_index_costs_nothing(tmp_path: Path) -> None:
    """An index that disagrees with its table is made anew from it."""
    made = await fill(tmp_path, 30)
    sql(
        tmp_path,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = replace(sql, '''held''', '''deferred''') WHERE name = 'recipient_held'",
    )

    async with opened(tmp_path) as it:
        assert await it.delivered() == made
        assert await it.damaged() == []
        assert "saved 30 messages with 30 recipients" in it.troubles[0]


async def test_head_of_the_database_may_be_gone(tmp_path: Path) -> None:
    """Without the page that says what it is, mail with checksums is known as ours; records tell what was delivered."""
    made = await fill(tmp_path, 300, 20)
    path = tmp_path / "queue.db"
    before = path.read_bytes()
    async with opened(tmp_path) as it:
        for lease in await it.store.lease([f"d{n}.example" for n in range(5)], NOW, 250):
            await it.store.settle([it.trial.settlement(lease, State.RELAYED)])
            del made[lease.recipients[0].address]
    image = pages.Image(path, pages.Promise(b"", 0))
    free, are_all = image.free_pages()
    image.close()
    assert are_all
    octets = bytearray(path.read_bytes())
    leaves = [at for at in range(PAGE, len(before), PAGE) if before[at] == pages.INDEX_LEAF]
    for at, number in zip(leaves, sorted(free), strict=False):  # what such pages may hold still
        octets[(number - 1) * PAGE : number * PAGE] = before[at : at + PAGE]
    path.write_bytes(bytes(PAGE) + octets[PAGE:])

    async with opened(tmp_path) as it:
        assert await it.damaged() == []
        assert await it.delivered() == made


async def test_head_that_changed_places_with_another_page_costs_nothing(tmp_path: Path) -> None:
    """A page is known by what is on it, wherever it lies; what was delivered before does not come again."""
    made = await fill(tmp_path, 60)
    async with opened(tmp_path) as it:
        for lease in await it.store.lease(["d1.example", "d2.example"], NOW, 100):
            await it.store.settle([it.trial.settlement(lease, State.RELAYED)])
            for each in lease.recipients:
                del made[each.address]
    octets = (tmp_path / "queue.db").read_bytes()
    places = [at for at in range(PAGE, len(octets), PAGE) if octets[at] == pages.TABLE_LEAF]
    for at in places[:3]:
        first, other = octets[:PAGE], octets[at : at + PAGE]
        (tmp_path / "queue.db").write_bytes(other + octets[PAGE:at] + first + octets[at + PAGE :])

        async with opened(tmp_path) as it:
            states = await it.states()
            told = {address for _, address, why in await it.damaged() if "lost" not in why}
        assert set(states) == set(made)
        assert {address for address, state in states.items() if state == "held"} == told
        for old in tmp_path.glob("queue.db.damaged-*"):
            old.unlink()


@pytest.mark.parametrize("with_index", [True, False], ids=["after a kill", "after a power cut"])
async def test_torn_log_costs_only_what_was_on_the_torn_page(tmp_path: Path, with_index: bool) -> None:
    """SQLite ends at the first wrong frame of its log, in silence; what was committed behind it is not given up."""
    it = Opened(tmp_path)
    await it.store.open()
    it.trial = Trial(NoMaker(), it.store)  # type: ignore[arg-type]
    for number in range(20):
        await it.trial.add(f"r{number}@dest.example")
    it.store.kill()
    wal = tmp_path / "queue.db-wal"
    octets = bytearray(wal.read_bytes())
    frame = PAGE + 24
    octets[32 + 20 * frame + 3_000] ^= 0xFF
    wal.write_bytes(octets)
    if not with_index:  # the log's index is never synced
        (tmp_path / "queue.db-shm").unlink()

    async with opened(tmp_path) as again:
        assert "its log breaks off after" in again.troubles[0]
        found, lost = await again.delivered(), await again.damaged()

    assert len(found) + len({address for _, address, _ in lost}) == 20
    assert len(found) >= 19


async def test_end_of_the_log_that_is_gone_is_told(tmp_path: Path) -> None:
    """What was committed last and is cut off has no name; that it is gone is said all the same."""
    it = Opened(tmp_path)
    await it.store.open()
    it.trial = Trial(NoMaker(), it.store)  # type: ignore[arg-type]
    for number in range(20):
        await it.trial.add(f"r{number}@dest.example")
    it.store.kill()
    os.truncate(tmp_path / "queue.db-wal", (tmp_path / "queue.db-wal").stat().st_size // 2)

    async with opened(tmp_path) as again:
        assert "the end of the log is gone" in again.troubles[0]
        assert 0 < len(await again.delivered()) < 20


async def test_end_of_the_database_that_is_gone_is_told(tmp_path: Path) -> None:
    """What lay there alone has no name; that there was something is said, and the rest is delivered."""
    made = await fill(tmp_path, 40)
    path = tmp_path / "queue.db"
    os.truncate(path, path.stat().st_size // PAGE * 9 // 10 * PAGE)

    async with opened(tmp_path) as it:
        told = it.troubles[0]
        found, lost = await it.delivered(), await it.damaged()

    assert "the end of the database is gone, " in told
    assert found
    assert set(found) | {address for _, address, _ in lost} <= set(made)


async def test_crash_in_a_commit_is_no_damage(tmp_path: Path) -> None:
    """Frames of a transaction that never ended are what every kill -9 may leave: nobody is alarmed."""
    it = Opened(tmp_path)
    await it.store.open()
    it.trial = Trial(NoMaker(), it.store)  # type: ignore[arg-type]
    await it.trial.add("a@dest.example")
    it.store.kill()
    wal = tmp_path / "queue.db-wal"
    octets = wal.read_bytes()
    head = struct.pack(">II", 2, 0) + octets[16:24] + bytes(8)  # a page that was written, and no commit
    wal.write_bytes(octets + head + bytes(PAGE))

    async with opened(tmp_path) as again:
        assert again.troubles == []
        assert list(await again.delivered()) == ["a@dest.example"]


async def test_message_row_that_is_gone_takes_only_its_own(tmp_path: Path) -> None:
    """Recipients without their message can never be sent: they are named and left out."""
    made = await fill(tmp_path, 5)
    sql(tmp_path, "DELETE FROM message WHERE key = (SELECT min(key) FROM message)")

    async with opened(tmp_path) as it:
        (gone,) = await it.damaged()
        assert gone[1:] == ("r0@d0.example", "lost: its message is gone")
        assert set(await it.delivered()) == set(made) - {"r0@d0.example"}
        assert await it.store.count() == (0, 0)


async def test_recipient_that_is_gone_is_missed(tmp_path: Path) -> None:
    """A message knows how many recipients it came with, and records know who of them has ended."""
    async with opened(tmp_path) as it:
        message, (lease,) = await it.trial.add_leased("a@dest.example", "b@dest.example", "c@dest.example")
        await it.store.settle([it.trial.settlement(lease, State.RELAYED, only={0})])
    sql(tmp_path, "DELETE FROM recipient WHERE n = 1", "UPDATE recipient SET state = 'lost in thought'")

    async with opened(tmp_path) as it:
        assert sorted(await it.damaged()) == [
            (message.id, "", "lost: a recipient of it is gone"),
            (message.id, "c@dest.example", "damaged: its state is none that we know: 'lost in thought'"),
        ]
        assert await it.states() == {"c@dest.example": "held"}


async def test_numbers_are_never_given_out_again_after_a_salvage(tmp_path: Path) -> None:
    """The highest number survives the loss of the row that keeps it, and a nonsense in that row does not."""
    await fill(tmp_path, 3)
    async with opened(tmp_path) as it:
        before = it.store.last_number
    for nonsense in ("DELETE FROM highest", f"UPDATE highest SET number = {(1 << 62) + 5}"):
        sql(tmp_path, nonsense)

        async with opened(tmp_path) as it:
            assert before <= it.store.last_number < before + (1 << 40)


# While it runs


async def test_damage_met_while_running_is_mended_and_mail_goes_on(tmp_path: Path) -> None:
    """The store reopens by itself, with what could be saved; verdicts that were under way are kept."""
    await fill(tmp_path, 60, 20)
    async with opened(tmp_path) as it:
        leases = await it.store.lease(["d1.example"], NOW, 3)
        octets = bytearray((tmp_path / "queue.db").read_bytes())
        for at in range(PAGE, len(octets), PAGE):
            if octets[at] in (pages.INDEX_LEAF, pages.INDEX_INTERIOR):
                octets[at] = 0x77
        (tmp_path / "queue.db").write_bytes(octets)
        settling = it.store.settle([it.trial.settlement(lease, State.RELAYED) for lease in leases])
        with pytest.raises(StoreError):
            await it.store.lease(["d2.example"], NOW, 100)
        await it.mended()

        assert "salvage" in "".join(it.news)
        assert any("the queue's database was damaged" in trouble for trouble in it.troubles)
        found = await it.delivered()
        told = {address for _, address, _ in await it.damaged()}
        assert len(set(found) | told | {each.address for lease in leases for each in lease.recipients}) <= 60
        del settling
        message = await it.trial.add("new@dest.example")
        assert message.id in {lease.id for lease in await it.store.lease(["dest.example"], NOW, 10)}


# What is no damage, and what a crash leaves


async def test_sound_database_stays_as_it_is(tmp_path: Path) -> None:
    """Nobody salvages what is whole."""
    await fill(tmp_path, 5)

    assert soundness.find_damage(tmp_path / "queue.db", pages.promise(tmp_path / "queue.db")) == ""
    async with opened(tmp_path) as it:
        assert it.troubles == it.news == []
    assert kept(tmp_path) == []


async def test_disk_that_does_not_read_is_not_salvaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO is the disk's trouble, and no reason to make a new database of half of the old one."""
    await fill(tmp_path, 60, 20)
    path = tmp_path / "queue.db"
    zero_page(tmp_path)
    whole = path.read_bytes()

    def refuse(fd: int, octets: int, at: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        salvage.salvage(path, "a page of zeros", pages.Promise(b"", 0), lambda news: None)

    assert path.read_bytes() == whole
    assert kept(tmp_path) == []


STEPS = ("link", "rename", "unlink", "fsync")


@pytest.mark.parametrize("step", range(1, 12))
async def test_salvage_that_is_interrupted_at_any_step_leaves_all_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whatever a crash leaves, the next start finds the old database or the new one, never one with a foreign log."""
    made = await fill(tmp_path, 40, 20)
    async with opened(tmp_path) as it:
        await it.trial.add("late@dest.example")
        it.store.kill()  # so that there is a log
    path = tmp_path / "queue.db"
    count = 0

    class Crash(BaseException):
        """Power is off."""

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                raise Crash
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            salvage.salvage(path, "so we say", pages.promise(path), lambda news: None)
        except Crash:
            pass
        else:
            assert count < step

    async with opened(tmp_path) as it:
        found = await it.delivered()
    assert set(found) == {*made, "late@dest.example"}
    assert not path.with_name("queue.db.salvaged").exists()


async def test_the_log_of_the_old_database_is_never_read_into_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frames say what lies on which page, and in the new database that page is another one."""
    await fill(tmp_path, 600, 20)
    few = "address NOT LIKE 'r%7@%'"
    sql(tmp_path, f"DELETE FROM recipient WHERE {few}", *[
        f"DELETE FROM {table} WHERE key NOT IN (SELECT message FROM recipient)" for table in ("content", "message")
    ])  # fmt: skip
    async with opened(tmp_path) as it:
        await it.trial.add("late@dest.example")
        it.store.kill()
    path = tmp_path / "queue.db"
    with monkeypatch.context() as patch:
        patch.setattr(salvage, "finish", lambda path: None)  # the power is off before
        salvage.salvage(path, "so we say", pages.promise(path), lambda news: None)

    async with opened(tmp_path) as it:
        found = await it.delivered()
        told = [*it.troubles, *it.news]

    assert (61, []) == (len(found), told)


@pytest.mark.parametrize("what", ["written", "zeros"])
async def test_a_crash_in_the_very_first_start_is_taken_back_by_the_next(tmp_path: Path, what: str) -> None:
    """The one time there is a rollback journal: who only reads cannot undo it, and nothing is damaged."""
    made = apsw.Connection(str(tmp_path / "other.db"))
    made.pragma("journal_mode", "wal")
    made.close()
    journal = struct.pack(">8sIIIII", bytes.fromhex("d9d505f920a163d7"), 0, 1, 0, 512, PAGE)  # before: no page at all
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state/queue.db-journal").write_bytes(journal.ljust(512, b"\0"))
    page = (tmp_path / "other.db").read_bytes() if what == "written" else bytes(PAGE)
    (tmp_path / "state/queue.db").write_bytes(page)

    made_mail = await fill(tmp_path / "state", 3)
    async with opened(tmp_path / "state") as it:
        found, told = await it.delivered(), [*it.troubles, *it.news]

    assert (made_mail, []) == (found, told)


async def test_salvage_again_and_again_is_refused(tmp_path: Path) -> None:
    """A machine that damages each new database needs a person, and its disk is not filled with copies."""
    await fill(tmp_path, 2)
    for _ in range(salvage.TIMES_AN_HOUR):
        sql(tmp_path, "DELETE FROM highest")
        async with opened(tmp_path):
            pass
    sql(tmp_path, "DELETE FROM highest")

    with pytest.raises(StoreError, match="look at the disk and the memory"):
        await SqliteStore(tmp_path).open()


async def test_what_happened_is_still_found_after_a_salvage(tmp_path: Path) -> None:
    """Records of mail that has gone, and by whom and what they are found, are saved with the queue."""
    async with opened(tmp_path) as it:
        message = replace(it.trial.message("bob@d1.example", "cid@d1.example"), message_id="<m@x.example>")
        accepted = Record(
            7,
            Kind.ACCEPTED,
            NOW,
            message.id,
            recipients=("bob@d1.example", "cid@d1.example"),
            message_id="<m@x.example>",
        )
        await it.store.add(message, (), accepted)
        await it.delivered()
    await fill(tmp_path)
    zero_page(tmp_path)

    async with opened(tmp_path) as it:
        assert kept(tmp_path), "it was salvaged"
        for text in ("bob@d1.example", "CID@d1.example", "<m@x.example>"):
            assert [message.id] == [record.id for record in await it.store.accepted_for(text, 10)]
        kinds = [record.kind for record in await it.store.history(message.id, 10)]
        assert [Kind.ACCEPTED, Kind.RELAYED, Kind.RELAYED] == kinds
        assert not any(message.id[:13] in each for each in it.troubles), "nothing is missed of what has gone"


@pytest.mark.parametrize("is_known", [True, False])
async def test_sending_another_way_makes_no_damage_valid(tmp_path: Path, is_known: bool) -> None:
    """An address that nobody wrote is not sent to, whatever an operator says to it."""
    await fill(tmp_path, 2)
    sql(tmp_path, "UPDATE recipient SET address = 'r0@EVIL.example' WHERE address = 'r0@d0.example'")
    async with opened(tmp_path) as it:
        if is_known:
            await it.delivered()
        await it.store.change(Filter(), Wish("reroute", NOW, via="relay.example:25"), None, 100)
        await it.store.change(Filter(), Wish("retry", NOW), None, 100)

        assert "r0@EVIL.example" not in await it.delivered()


async def test_released_mail_is_warned_of_like_other_mail(tmp_path: Path) -> None:
    """The sweep for delays has passed it while it was held, and comes back to it."""
    async with opened(tmp_path) as it:
        await it.store.add(it.trial.message("a@d.example"), ())
        await it.store.change(Filter(), Wish("hold", NOW), None, 10)
        await it.store.add(it.trial.message("b@d.example"), ())
        for lease in await it.store.sweep_delayed(NOW + HOUR, 100):
            it.store.give_back(lease)
        await it.store.change(Filter(), Wish("release", NOW), None, 10)

        told = {each.address for lease in await it.store.sweep_delayed(NOW + HOUR, 100) for each in lease.recipients}
        assert {"a@d.example", "b@d.example"} == told
