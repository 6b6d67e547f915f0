# SPDX-License-Identifier: MIT
"""What a verdict means for a message of a directory queue: it waits, and until when, or it goes back to its sender.

Decided by settle.decide, timed by queue.schedule, reported by settle.dsn, as in the relay; this is only the way there
and back. A report is durable in the queue before the message it is about may be removed: a crash in between at worst
has the message tried and reported again. How often a message was tried is memory only.
"""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from msgspec import Struct
from twisted.mail.smtp import DNSNAME

from smarthost.compat.addresses import read_addresses
from smarthost.compat.envelope import write_envelope
from smarthost.mail.address import to_domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.result import AttemptResult, Verdict
from smarthost.mail.settlement import OwedReport, SettledRecipient
from smarthost.ports import Random
from smarthost.queue.schedule import RetrySchedule
from smarthost.settle.decide import decide
from smarthost.settle.dsn import HEADER_OCTETS, report_message


class Waits:
    """How often each message of a queue was tried, and when it may be tried again."""

    def __init__(
        self,
        schedule: Callable[[], RetrySchedule],
        seconds: Callable[[], float],
        wall: Callable[[], float],
        random: Random,
    ) -> None:
        """`schedule` is asked each time, for a program may set another; `seconds` never steps, `wall` may."""
        self.wall = wall
        self._schedule = schedule
        self._seconds = seconds
        self._random = random
        self._waits: dict[str, tuple[int, float]] = {}  # attempts, and when by `seconds` the next is due

    def attempts(self, name: str) -> int:
        """Tell how often a message was tried in this process."""
        return self._waits.get(name, (0, 0.0))[0]

    def is_due(self, name: str) -> bool:
        """May it be tried now?"""
        return self._seconds() >= self._waits.get(name, (0, 0.0))[1]

    def retry_at(self, attempts: int, received_at: float) -> float | None:
        """Give the wall time of the next attempt, or None: it has expired. See: settle.decide.RetryAt."""
        now, schedule = self.wall(), self._schedule()
        if schedule.is_expired(received_at, now):
            return None
        return schedule.next_attempt(attempts, now, received_at, self._random)

    def defer(self, name: str, attempts: int, due: float) -> None:
        """Let a message wait until `due` (wall), counted from now: a stepped clock does not change it."""
        self._waits[name] = (attempts, self._seconds() + max(0.0, due - self.wall()))

    def forget(self, name: str) -> None:
        """The message is done with."""
        self._waits.pop(name, None)

    def keep_only(self, names: set[str]) -> None:
        """Forget all others: their files were taken away."""
        if len(self._waits) > len(names):
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
    path = os.fspath(queue.getPath(name))
    return Letter(name, path, sender, recipient, Path(f"{path}-D").stat().st_mtime)


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
    owed = OwedReport(
        letter.name, letter.received_at, letter.sender, False, b"", _read_header(f"{letter.path}-D"), (settled,)
    )
    reporting_mta = hostname or DNSNAME.decode("ascii", "replace")
    report = report_message(owed, reporting_mta=reporting_mta, now=now, id=f"{letter.name}.report")
    if report is None or not isinstance(report.content, InlineContent):
        return False
    envelope, receiver = queue.createNewMessage()
    try:
        with envelope:
            write_envelope(envelope, "", letter.sender)
        for line in report.content.body.split(b"\r\n")[:-1]:
            receiver.lineReceived(line)
    except OSError:
        receiver.connectionLost()
        raise
    failures: list[BaseException] = []
    receiver.eomReceived().addErrback(lambda failure: failures.append(failure.value))
    if failures:
        raise OSError(f"the report about {letter.name} was not filed: {failures[0]}") from failures[0]
    return True


def _read_header(path: str) -> bytes:
    """Read the first octets of a message file; settle.dsn cuts the header section out of them."""
    with Path(path).open("rb") as file:
        octets = file.read(HEADER_OCTETS)
    return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")[:HEADER_OCTETS]


def _domain_of(recipient: str) -> str:
    try:
        return to_domain(recipient.rpartition("@")[2])
    except ValueError:
        return ""
