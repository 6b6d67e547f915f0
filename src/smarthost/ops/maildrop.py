# SPDX-License-Identifier: MIT
"""Picks up what local programs left in the drop directory: read, filed, durable, and only then deleted.

Once a second one call of the system tells whether there is anything; what cannot be filed now stays and is tried again.
What the relay refuses for good goes back to its sender as a report; what is no message, or has nobody to report to, is
set aside in corrupt/ with a line in the log. Blocking work is done in a thread. Before its mail is filed a file's name
gets the id, so that one left by a crash between commit and deletion is known as filed; only where a message had to be
cut in two for its many recipients may that mail go out twice.
"""

import asyncio
import contextlib
import os
import pwd
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from smarthost.assemble import Relay
from smarthost.backends.maildrop import Dropped, Entry, Flaw, Look, MailDrop
from smarthost.config import Config
from smarthost.config.surroundings import SYSTEM_STATE_DIR
from smarthost.mail.address import Domain
from smarthost.mail.errors import ConfigError, StoreError, SubmissionRefused
from smarthost.mail.reply import Reply
from smarthost.mail.settlement import OwedReport, SettledRecipient, State
from smarthost.ops.words import printable
from smarthost.ports import Clock, Sink
from smarthost.queue.store import Filter
from smarthost.settle.dsn import write_report

Submit = Callable[..., Awaitable[object]]  # assemble.Relay.submit
Refuse = Callable[[str], Reply | None]
IsKnown = Callable[[str], Awaitable[bool]]

SYSTEM_DROP = Path("/var/spool/smarthost/maildrop")
LOOK_S = 1.0  # a local program's mail may wait that long
RETRY_S = 10.0
STOPPING_S = 20.0  # of daemon.GRACE_S; a batch takes milliseconds unless the disk hangs
NOTES = 20  # lines a minute; a local user must not fill the log
BATCH = 16  # commits share an fsync
BATCH_OCTETS = 8 << 20
_HEADER_OCTETS = 64 * 1024  # mail.settlement.OwedReport


class PickUpTerms(Struct, frozen=True):
    """What the pick-up is told. `users`: names of those who may leave mail, ("*",) for everybody.

    `is_required`: the directory was configured, so the start fails where it cannot be used.
    """

    hostname: str
    message_octets: int
    recipients: int
    owner_uid: int
    users: tuple[str, ...] = ("*",)
    is_required: bool = False


class Taken(Struct, frozen=True):
    """What became of one file. `is_done`: delete it; `is_later`: it stays for another time."""

    entry: Entry
    is_done: bool = False
    is_later: bool = False


class _Filing:
    """A file under way: it gets another name, and its recipients are done with one after another."""

    def __init__(self, entry: Entry, done: set[str]) -> None:
        self.entry = entry
        self.done = done


class PickUp:
    """Takes mail from one drop directory until its block ends.

    `submit` is that of the Relay, `refuse` says why it would refuse a recipient, or None; `is_known` whether a message
    of this id was ever committed.
    """

    def __init__(
        self,
        drop: MailDrop,
        submit: Submit,
        refuse: Refuse,
        is_known: IsKnown,
        clock: Clock,
        sink: Sink,
        read_terms: Callable[[], PickUpTerms],
    ) -> None:
        self._drop = drop
        self._submit = submit
        self._refuse = refuse
        self._is_known = is_known
        self._clock = clock
        self._sink = sink
        self._read_terms = read_terms
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._is_busy = False
        self._look_anyway_at = 0.0
        self._filed: set[tuple[int, int]] = set()  # files that could not be deleted, and must not be filed again
        self._partly: dict[int, set[str]] = {}  # of files that wait, by inode: recipients that are done with
        self._notes_left = NOTES
        self._notes_until = 0.0

    @property
    def _terms(self) -> PickUpTerms:
        return self._read_terms()  # a reload may have changed them

    async def __aenter__(self) -> Self:
        """Open the directory and begin. Raises: ConfigError: it was configured, and cannot be used."""
        try:
            await asyncio.to_thread(self._drop.open)
        except ConfigError as error:
            if self._terms.is_required:
                raise
            self._sink.note("warning", "no drop directory: sendmail works for root alone", why=str(error))
            return self
        self._task = asyncio.create_task(self._pick_up())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what is being filed is filed and deleted, within a bound, or it would go out twice."""
        self._is_stopping = True
        if self._task is not None:
            if self._is_busy:
                await asyncio.wait({self._task}, timeout=STOPPING_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._drop.close()

    async def _pick_up(self) -> None:
        while not self._is_stopping:
            self._is_busy = True
            has_more = False
            try:
                has_more = await self._look()
            except OSError as error:
                self._note("error", "drop directory in trouble", why=error.strerror or str(error))
            except Exception as error:  # noqa: BLE001 - an edge of ops: a bug met in one file must not end the pick-up
                self._look_anyway_at = self._clock.monotonic() + RETRY_S
                self._note("error", "pick-up failed", why=repr(error))
            finally:
                self._is_busy = False
            if not (self._is_stopping or has_more):
                await self._clock.sleep(LOOK_S)

    async def _look(self) -> bool:
        """Take what is there, if anything is new or something was left; True: there is more, and it goes on at once."""
        is_time = bool(self._look_anyway_at) and self._clock.monotonic() >= self._look_anyway_at
        look = await asyncio.to_thread(self._look_if_changed, is_time)
        if look is None:
            return False
        if is_time:
            self._look_anyway_at = 0.0
        if look.is_whole:
            inodes = {each.inode for each in look.entries}
            self._partly = {inode: done for inode, done in self._partly.items() if inode in inodes}
            self._filed &= {each.key for each in look.entries}
        for name, why in look.strays:
            self._note("warning", "no mail in the drop directory", file=printable(name), why=why)
        fresh = [each for each in look.entries if each.key not in self._filed]
        for batch in _batches(fresh):
            taken = await asyncio.gather(*[self._take(entry) for entry in batch])
            await self._remove([each.entry for each in taken if each.is_done])
            is_all_later = all(each.is_later for each in taken)
            if any(each.is_later for each in taken):
                self._look_anyway_at = self._clock.monotonic() + RETRY_S
            if self._is_stopping or is_all_later:  # whatever hinders it hinders the others
                return False
        return bool(fresh) and not look.is_whole

    def _look_if_changed(self, is_time: bool) -> Look | None:
        return self._drop.look() if is_time or self._drop.has_changed() else None

    async def _remove(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        for entry, why in await asyncio.to_thread(self._drop.remove, entries):
            self._filed.add(entry.key)
            self._note("error", "file of mail that was taken cannot be deleted", file=printable(entry.name), why=why)

    async def _take(self, entry: Entry) -> Taken:
        """File what one file holds."""
        user, found = await asyncio.to_thread(self._read, entry)
        if isinstance(found, Flaw) and not found.is_lasting:
            return self._put_off(entry, user, found.why)
        if isinstance(found, Flaw):
            return await self._set_aside(entry, user, found.why)
        if not self._may_send(entry.uid, user):
            return await self._set_aside(entry, user, "maildrop.users does not name this user")
        try:
            if entry.id and await self._is_known(entry.id):  # filed, and then the daemon was killed
                return Taken(entry, is_done=True)
            return await self._file(entry, found, user)
        except SubmissionRefused as error:
            if error.reply.is_permanent:
                return await self._set_aside(entry, user, f"refused, and its sender cannot be told: {error}")
            return self._put_off(entry, user, str(error))
        except StoreError as error:
            return self._put_off(entry, user, str(error))

    def _put_off(self, entry: Entry, user: str, why: str) -> Taken:
        file = printable(entry.name)
        self._note("warning", "mail in the drop directory has to wait", file=file, **_of(entry, user), why=why)
        return Taken(entry, is_later=True)

    def _read(self, entry: Entry) -> tuple[str, Dropped | Flaw]:
        return name_user(entry.uid), self._drop.read(entry, self._terms.message_octets)

    def _may_send(self, uid: int, user: str) -> bool:
        return uid in (0, self._terms.owner_uid) or "*" in self._terms.users or user in self._terms.users

    async def _file(self, entry: Entry, dropped: Dropped, user: str) -> Taken:
        """Submit it, and report what is refused for good. Raises: SubmissionRefused, StoreError."""
        client = f"uid {entry.uid} {user}".rstrip()
        refused = [(each, why) for each in dropped.head.recipients if (why := self._refuse(each)) is not None]
        if any(why.is_temporary for _, why in refused):
            raise SubmissionRefused(next(why for _, why in refused if why.is_temporary))
        filing = _Filing(entry, self._partly.setdefault(entry.inode, set()))
        if refused:
            await self._report(dropped, refused, client, filing.done)
        unfit = {each for each, _ in refused}
        fit = [each for each in dropped.head.recipients if each not in unfit and each not in filing.done]
        chunks = list(_chunks(fit, self._terms.recipients))
        for chunk in chunks:
            drawn = self._marking(filing) if len(chunks) == 1 else None  # a name holds one id
            try:
                await self._submit(dropped.content, dropped.head.reverse_path, chunk, client=client, drawn=drawn)
            except SubmissionRefused as error:
                if not error.reply.is_permanent:
                    raise
                await self._report(dropped, [(each, error.reply) for each in chunk], client, filing.done)
            filing.done.update(chunk)
        self._partly.pop(entry.inode, None)
        return Taken(filing.entry, is_done=True)

    def _marking(self, filing: "_Filing") -> Callable[[str], Awaitable[None]]:
        async def drawn(id: str) -> None:
            with contextlib.suppress(OSError):  # a mark is for a crash; without it there may be a duplicate
                filing.entry = await asyncio.to_thread(self._drop.mark, filing.entry, id)

        return drawn

    async def _report(
        self, dropped: Dropped, refused: Sequence[tuple[str, Reply]], client: str, done: set[str]
    ) -> None:
        """File a report to the sender, once. Raises: SubmissionRefused: there is none, or he cannot be written to."""
        sender = dropped.head.reverse_path
        if refused[0][0] in done:
            return
        if not sender:
            raise SubmissionRefused(refused[0][1])
        why = "; ".join(dict.fromkeys(str(reply) for _, reply in refused))
        self._note("warning", "mail of a local program refused", client=client, reverse_path=sender, why=why)
        report = write_refusal(dropped, refused, hostname=self._terms.hostname, now=self._clock.wall())
        await self._submit(report, "", [sender])
        done.update([each for each, _ in refused])

    async def _set_aside(self, entry: Entry, user: str, why: str) -> Taken:
        path = await asyncio.to_thread(self._drop.set_aside, entry)
        file = printable(path or entry.name)
        self._note("warning", "file in the drop directory set aside", file=file, **_of(entry, user), why=printable(why))
        return Taken(entry)

    def _note(self, level: str, what: str, **facts: object) -> None:
        """Tell the log, a bounded number of lines a minute."""
        now = self._clock.monotonic()
        if now >= self._notes_until:
            if self._notes_left < 0:
                self._sink.note("warning", "drop directory: lines left out", lines=-self._notes_left)
            self._notes_left, self._notes_until = NOTES, now + 60.0
        self._notes_left -= 1
        if self._notes_left >= 0:
            self._sink.note(level, what, **facts)


def directory_of(config: Config) -> Path:
    """Give the drop directory: the configured one, else the system's daemon has the system's, others their own."""
    if config.maildrop.directory is not None:
        return config.maildrop.directory
    return SYSTEM_DROP if config.state_dir == SYSTEM_STATE_DIR else config.state_dir / "maildrop"


def pick_up(config: Config, relay: Relay, clock: Clock, sink: Sink) -> PickUp:
    """Give the pick-up that a configuration asks for; the relay has started when it is opened."""

    directory = directory_of(config)
    is_private = not config.maildrop.users or directory.parent == config.state_dir

    async def is_known(id: str) -> bool:
        try:
            is_queued = bool((await relay.find(Filter(id=id), n=1)).messages)
            return is_queued or bool(await relay.store.history(id, 1))
        except ValueError:  # somebody made a name up
            return False

    drop = MailDrop(directory, is_open=not is_private)
    return PickUp(
        drop,
        relay.submit,
        lambda text: relay.refuse_recipient(text),
        is_known,
        clock,
        sink,
        lambda: _terms_of(relay.config),
    )


def _terms_of(config: Config) -> PickUpTerms:
    return PickUpTerms(
        hostname=config.hostname,
        message_octets=config.limits.message_octets,
        recipients=config.limits.recipients,
        owner_uid=os.geteuid(),
        users=config.maildrop.users,
        is_required=config.maildrop.directory is not None,
    )


def name_user(uid: int) -> str:
    """Give the name of a local user, fit for a Received: field, or ""; blocks while the system looks."""
    with contextlib.suppress(KeyError):
        name = pwd.getpwuid(uid).pw_name[:32]
        return "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "?" for each in name)
    return ""


def write_refusal(dropped: Dropped, refused: Iterable[tuple[str, Reply]], *, hostname: str, now: float) -> bytes:
    """Write the report about recipients that the relay itself refused."""
    id = secrets.token_hex(8)
    owed = OwedReport(
        id=id,
        received_at=now,
        reverse_path=dropped.head.reverse_path,
        smtputf8=not dropped.head.reverse_path.isascii(),
        prefix=b"",
        header=dropped.content[:_HEADER_OCTETS],
        recipients=tuple([_bounced(n, address, reply) for n, (address, reply) in enumerate(refused)]),
        octets=len(dropped.content),
        ret="HDRS",
    )
    return write_report(owed, reporting_mta=hostname, now=now, id=id)


def _bounced(n: int, address: str, reply: Reply) -> SettledRecipient:
    return SettledRecipient(
        n=n,
        address=address,
        domain=Domain(""),
        state=State.BOUNCED,
        due=0.0,
        attempts=0,
        status=reply.enhanced,
        last_reply=str(reply),
        why=f"This relay does not take it: {reply}",
        report_owed=True,
    )


def _batches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut into batches that fit into memory; a large message is one by itself."""
    batch: list[Entry] = []
    for entry in entries:
        if batch and (len(batch) == BATCH or sum(each.octets for each in batch) + entry.octets > BATCH_OCTETS):
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch


def _chunks(recipients: Sequence[str], n: int) -> Iterator[list[str]]:
    for start in range(0, len(recipients), n):
        yield list(recipients[start : start + n])


def _of(entry: Entry, user: str) -> dict[str, object]:
    return {"uid": entry.uid, "user": user}
