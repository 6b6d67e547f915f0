# SPDX-License-Identifier: MIT
"""The sweeps: what is too old expires, and of what waits for too long its sender is warned, attempted or not.

Each is a loop over the store by age, since what was never attempted meets no other event. Decides nothing: that is
settle.decide's. relay.py runs them and commits what they settle. A crash leaves nothing of theirs behind.
"""

from collections.abc import Awaitable, Callable, Coroutine

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.errors import StoreError
from smarthost.mail.lease import Lease
from smarthost.mail.settlement import Settlement
from smarthost.ports import Clock, Sink
from smarthost.queue.schedule import RetrySchedule
from smarthost.queue.store import Store
from smarthost.settle import decide

SWEEP_S = 60.0
SWEEP_LEASES = 100


class SweepTerms(Struct, frozen=True):
    """`until_settled` waits for a slow disk; `suspension` gives (until, why) for a domain that waits as a whole."""

    store: Store
    clock: Clock
    sink: Sink
    schedule: RetrySchedule
    next_seq: Callable[[], int]
    commit: Callable[[Settlement], None]
    until_settled: Callable[[], Awaitable[None]]
    suspension: Callable[[str], tuple[float, str] | None]


class Sweeps:
    """Both sweeps. One event loop."""

    def __init__(self, terms: SweepTerms) -> None:
        self._terms = terms
        self._warns = bool(terms.schedule.delay_warning_s)  # does the loop for that run?

    def adopt(self, schedule: RetrySchedule) -> tuple[Callable[[], Coroutine[None, None, None]], ...]:
        """Go by another schedule, from the next look on; gives what is to be run as well from now on."""
        self._terms = replace(self._terms, schedule=schedule)
        if self._warns or not schedule.delay_warning_s:
            return ()
        self._warns = True
        return (self.warn_of_delays,)

    @property
    def loops(self) -> tuple[Callable[[], Coroutine[None, None, None]], ...]:
        """What is to be run as long as mail moves."""
        if not self._warns:
            return (self.expire_old_mail,)
        return (self.expire_old_mail, self.warn_of_delays)

    async def expire_old_mail(self) -> None:
        """Expire what is too old, whatever state it is in, also when it was never attempted."""
        while True:
            terms = self._terms
            leases = await self._ask(terms.store.sweep, terms.schedule.sweep_before(terms.clock.wall()))
            held = await self._ask(terms.store.sweep_held, terms.clock.wall())
            for lease in (*leases, *held):
                terms.commit(decide.expire(lease, now=terms.clock.wall(), next_seq=terms.next_seq))
            if len(leases) < SWEEP_LEASES and len(held) < SWEEP_LEASES:
                await terms.clock.sleep(SWEEP_S)

    async def warn_of_delays(self) -> None:
        """Owe a report for what waits for too long, and is not being tried: an attempt does that itself.

        Begins late: after hours of our own absence most of the mail is on its way before anybody is warned of it.
        """
        leases: tuple[Lease, ...] = ()
        while True:
            if len(leases) < SWEEP_LEASES:
                await self._terms.clock.sleep(SWEEP_S)
            terms = self._terms
            if not terms.schedule.delay_warning_s:  # by now
                leases = ()
                continue
            leases = await self._ask(terms.store.sweep_delayed, terms.schedule.warn_before(terms.clock.wall()))
            for lease in leases:
                terms.commit(self._warn(lease))

    def _warn(self, lease: Lease) -> Settlement:
        terms, now = self._terms, self._terms.clock.wall()
        return decide.warn_of_delay(lease, now=now, next_seq=terms.next_seq, why_waiting=self._why_waiting)

    def _why_waiting(self, domain: str) -> str:
        suspension = self._terms.suspension(domain)
        return "" if suspension is None else suspension[1]

    async def _ask(
        self, sweep: Callable[[float, int], Awaitable[tuple[Lease, ...]]], until: float
    ) -> tuple[Lease, ...]:
        await self._terms.until_settled()  # a backlog is not read into memory whole while commits hang
        try:
            return await sweep(until, SWEEP_LEASES)
        except StoreError as failure:
            self._terms.sink.note("error", "store does not say what is old", why=str(failure))
            return ()
