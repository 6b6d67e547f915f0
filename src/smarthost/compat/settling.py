# SPDX-License-Identifier: MIT
"""What a verdict means for a message of a directory queue: it waits, and until when, or it goes back to its sender.

Decided by settle.decide, timed by queue.schedule, reported by settle.dsn, as in the relay; this is only the way there
and back. A report is durable in the queue before the message it is about may be removed: a crash in between at worst
has the message tried and reported again. How often a message was tried is memory only.
"""

import os
import re
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

from msgspec import Struct, structs
from twisted.mail.smtp import DNSNAME

from smarthost.compat.addresses import read_addresses, read_recipient
from smarthost.compat.envelope import write_envelope
from smarthost.compat.incoming import open_regular
from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.result import AttemptResult, Verdict
from smarthost.mail.settlement import OwedReport, SettledRecipient
from smarthost.ports import Random
from smarthost.queue.schedule import RetrySchedule
from smarthost.settle.decide import decide
from smarthost.settle.dsn import report_message
from smarthost.settle.dsn_original import HEADER_OCTETS

_LATEST = 253402300799.0  # the last second of 9999: no date can be written after it, and a file may claim any time
GRACE_S = 4 * 3600.0  # for which a message is tried at least before it expires
_NO_ID = re.compile(r"[^A-Za-z0-9._-]+")


class Wait(Struct, frozen=True):
    """Why a message is not tried now. `due` by the clock `seconds`; `awaits`: the domain none of whose hosts could be
    asked, then these hosts; () for one that waits for something else.
    """

    attempts: int
    due: float
    awaits: tuple[str, ...] = ()


class Waits:
    """How often each message of a queue was tried, and when it may be tried again."""

    def __init__(
        self,
        schedule: Callable[[], RetrySchedule],
        seconds: Callable[[], float],
        wall: Callable[[], float],
        random: Random,
    ) -> None:
        """`schedule` is asked each time, for a program may set another; `wall` dates what is reported."""
        self.wall = wall
        self._schedule = schedule
        self._seconds = seconds
        self._random = random
        self._waits: dict[str, Wait] = {}
        self._began: float | None = None  # by `seconds`, when something was first tried

    def __len__(self) -> int:
        return len(self._waits)

    def attempts(self, name: str) -> int:
        """Tell how often a message was tried in this process."""
        wait = self._waits.get(name)
        return 0 if wait is None else wait.attempts

    def due(self, names: Iterable[str]) -> list[str]:
        """Give those that may be tried now, in their order."""
        now, waits = self._seconds(), self._waits
        return [name for name in names if name not in waits or waits[name].due <= now]

    def retry_at(self, attempts: int, received_at: float) -> float | None:
        """Give the wall time of the next attempt, or None: it has expired. See: settle.decide.RetryAt."""
        now, schedule = self.wall(), self._schedule()
        if schedule.is_expired(received_at, now):
            return None
        return schedule.next_attempt(attempts, now, received_at, self._random)

    def with_grace(self, letter: "Letter") -> "Letter":
        """Give a message such an age that it does not expire in the first hours, whatever its file's time says.

        A directory moved here, files restored from a backup, a clock that was wrong: none is a reason to bounce at the
        first temporary failure.
        """
        now, schedule = self._seconds(), self._schedule()
        if self._began is None:
            self._began = now
        grace_s = min(GRACE_S, schedule.expire_after_s)
        earliest = self.wall() - (now - self._began) - (schedule.expire_after_s - grace_s)
        return structs.replace(letter, received_at=max(letter.received_at, earliest))

    def is_overdue(self, received_at: float) -> bool:
        """Is a message so old that its last attempt, too, must be over? Then it expires unattempted."""
        schedule = self._schedule()
        began = self._seconds() - (self._began if self._began is not None else self._seconds())
        return began > GRACE_S and received_at < schedule.sweep_before(self.wall())

    def defer(self, name: str, attempts: int, due: float, awaits: tuple[str, ...] = ()) -> None:
        """Let a message wait until `due` (wall), counted from now: a stepped clock does not change it."""
        self._waits[name] = Wait(attempts, self._seconds() + max(0.0, due - self.wall()), awaits)

    def put_off(self, name: str) -> None:
        """Count an attempt, and let a message wait by the schedule alone: whoever knows its age cannot be asked."""
        attempts, now = self.attempts(name) + 1, self.wall()
        self.defer(name, attempts, self._schedule().next_attempt(attempts, now, now, self._random))

    def release(self, awaited: str) -> set[str]:
        """A host answers again, or one of a domain: what awaited it is due at once. Gives the domains of these."""
        now = self._seconds()
        domains = set()
        for name, wait in self._waits.items():
            if awaited in wait.awaits:
                domains.add(wait.awaits[0])
                self._waits[name] = Wait(wait.attempts, now)
        return domains

    def forget(self, name: str) -> None:
        """The message is done with."""
        self._waits.pop(name, None)

    def keep_only(self, names: set[str]) -> None:
        """Forget all others: their files were taken away."""
        self._waits = {name: wait for name, wait in self._waits.items() if name in names}


class Letter(Struct, frozen=True):
    """A message of a queue as its files tell it. `received_at`: wall seconds."""

    name: str
    path: str
    sender: str
    recipient: str
    received_at: float


def read_letter(queue: Any, name: str) -> Letter:
    """Read a message's envelope. Raises: OSError, pickle.UnpicklingError."""
    with queue.getEnvelopeFile(name) as file:
        sender, recipient = read_addresses(file, f"{name}-H")
    path = os.fsdecode(queue.getPath(name))
    written = Path(f"{path}-D").stat().st_mtime
    return Letter(name, path, sender, recipient, min(max(written, 0.0), _LATEST))


def settle(
    letter: Letter, verdict: Verdict, attempts: int, retry_at: Callable[[int, float], float | None], now: float
) -> SettledRecipient:
    """Decide what becomes of a message after an attempt that ended in this verdict."""
    recipient = LeasedRecipient(0, letter.recipient, _domain_of(letter.recipient), attempts)
    lease = Lease(
        letter.name,
        letter.received_at,
        letter.sender,
        Body.SEVEN_BIT,
        False,
        "local",
        letter.sender,
        b"",
        0,
        None,
        (recipient,),
    )
    settlement = decide(AttemptResult(lease, now, (verdict,)), now=now, retry_at=retry_at, next_seq=count().__next__)
    return settlement.recipients[0]


def file_report(queue: Any, letter: Letter, settled: SettledRecipient, now: float, hostname: str = "") -> bool:
    """Put the report (DSN) to the sender into the queue; False: nobody can be told. `hostname`: ours, as EHLO said it.

    Raises: OSError: it is not durable.
    """
    if not isinstance(read_recipient(letter.sender), Address):
        return False
    id = _NO_ID.sub("_", letter.name)
    header = _read_header(f"{letter.path}-D")
    owed = OwedReport(id, letter.received_at, letter.sender, False, b"", header, (settled,))
    report = report_message(owed, reporting_mta=_our_name(hostname), now=now, id=f"{id}.report")
    if report is None or not isinstance(report.content, InlineContent):
        return False
    _keep(queue, letter, report.content.body)
    return True


def _keep(queue: Any, letter: Letter, content: bytes) -> None:
    """Put a report into the queue. Raises: OSError: it is not durable, and gone as far as it can be."""
    envelope, receiver = queue.createNewMessage()
    failures: list[BaseException] = []
    try:
        with envelope:
            write_envelope(envelope, "", letter.sender)
        for line in content.split(b"\r\n")[:-1]:
            receiver.lineReceived(line)
        receiver.eomReceived().addErrback(lambda failure: failures.append(failure.value))
    except OSError:
        receiver.connectionLost()
        raise
    if failures:
        raise OSError(f"the report about {letter.name} was not filed: {failures[0]}") from failures[0]


def _our_name(hostname: str) -> str:
    try:
        return to_domain(hostname)
    except ValueError:  # it was never said, or is none
        return DNSNAME.decode("ascii", "replace")


def _read_header(path: str) -> bytes:
    """Read the first octets of a message file, none if they cannot be read; settle.dsn cuts the header section out."""
    try:
        with open_regular(path) as file:
            octets = file.read(HEADER_OCTETS)
    except OSError:
        return b""  # the sender hears what became of the message all the same: unread, it would stay for ever
    return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")[:HEADER_OCTETS]


def _domain_of(recipient: str) -> str:
    try:
        return to_domain(recipient.rpartition("@")[2])
    except ValueError:
        return ""
