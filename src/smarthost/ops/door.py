# SPDX-License-Identifier: MIT
"""What the daemon can be asked for on the control socket, as callables: `assemble.Relay` offers them. Values only."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Never, Protocol

from msgspec import Struct

from smarthost.mail.backup import Backup
from smarthost.mail.change import Change, Effects
from smarthost.mail.explanation import Explanation, HostReport
from smarthost.mail.progress import DrainEnd, Moving, Staying
from smarthost.mail.record import Record
from smarthost.mail.story import Story, Summary, Suspension
from smarthost.ops.outbox.report import OutboxReport
from smarthost.queue.audit import AuditFigures, Finding
from smarthost.queue.store import Changed, Filter, Page

Differs = tuple[tuple[Change, ...], Effects | None] | None  # None: still counting


class ChangeQueue(Protocol):
    """Applies a verb to one portion, as assemble.Relay.change."""

    def __call__(
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
    ) -> Awaitable[Changed]: ...


class Filing(Protocol):
    """What a submission gives."""

    @property
    def id(self) -> str: ...


async def _checks_nothing() -> AsyncGenerator[Finding | None, None]:
    raise NotImplementedError("this daemon does not offer it")
    yield None


def _drains_nothing() -> bool:
    raise NotImplementedError("this daemon does not offer it")


async def _compares_nothing(*_: object) -> AsyncGenerator[Differs, None]:
    raise NotImplementedError("this daemon does not offer it")
    yield None


async def _never_stands() -> tuple[HostReport, ...]:
    return ()


def _watches_nothing() -> tuple[float, dict[str, float], dict[str, float]]:
    raise NotImplementedError("this daemon does not offer it")


async def _not_offered(*_: object) -> Never:
    raise NotImplementedError("this daemon does not offer it")


class Door(Struct, frozen=True):
    """What the daemon can be asked for, as `assemble.Relay` offers it.

    `hosts` gives those that are not closed whose name, address or service is the text ("": all), whatever its case,
    longest broken first; `reset_hosts` closes them, makes due what waited, and gives what they were.
    `find_standstill` gives those for which all mail waits. `explain` raises
    SubmissionRefused for a recipient the relay would refuse, ValueError for what is no address; True means to probe.
    `resume` gives how many messages and recipients go on. `drain` and `cancel_drain` are drain.Drain's.
    """

    submit: Callable[[bytes, str, Sequence[str]], Awaitable[Filing]]
    find: Callable[[Filter, str | None, int], Awaitable[Page]]
    change: ChangeQueue
    count: Callable[[], Awaitable[tuple[int, int]]]
    message_octets: int
    why: Callable[[str, int], Awaitable[tuple[Story, ...]]] = _not_offered
    summary: Callable[[int], Awaitable[Summary]] = _not_offered
    domains_of_lane: Callable[[str], Awaitable[tuple[str, ...]]] = _not_offered
    suspend: Callable[[str, str, str], Awaitable[Suspension]] = _not_offered
    end_suspension: Callable[[str, str], Awaitable[Suspension]] = _not_offered
    suspensions: Callable[[], tuple[Suspension, ...]] = tuple
    watch: Callable[[], tuple[float, dict[str, float], dict[str, float]]] = _watches_nothing
    hosts: Callable[[str], Awaitable[tuple[HostReport, ...]]] = _not_offered
    reset_hosts: Callable[[str], Awaitable[tuple[HostReport, ...]]] = _not_offered
    find_standstill: Callable[[], Awaitable[tuple[HostReport, ...]]] = _never_stands
    explain: Callable[[str, bool, str], Awaitable[Explanation]] = _not_offered
    pause: Callable[[], Awaitable[None]] = _not_offered
    resume: Callable[[], Awaitable[tuple[int, int]]] = _not_offered
    back_up: Callable[[str], Awaitable[Backup]] = _not_offered
    is_paused: Callable[[], bool] = lambda: False
    refusal: Callable[[], Exception | None] = lambda: None
    drain: Callable[[str, int, Callable[[Moving | Staying], None]], Awaitable[DrainEnd]] = _not_offered
    cancel_drain: Callable[[], bool] = _drains_nothing
    check: Callable[[], AsyncGenerator[Finding | None, None]] = _checks_nothing
    reload: Callable[[str], Awaitable[tuple[str, tuple[Change, ...]]]] = _not_offered
    compare: Callable[[str, str, str | None, str], AsyncGenerator[Differs, None]] = _compares_nothing
    figures: Callable[[], AuditFigures] = AuditFigures
    records: Callable[[int, int], Awaitable[tuple[Record, ...]]] = _not_offered
    record_horizon: Callable[[], int] = lambda: 0
    outboxes: Callable[[], Sequence[OutboxReport]] = tuple
    version: str = ""
    listen: tuple[tuple[str, int], ...] = ()
