# SPDX-License-Identifier: MIT
"""Bugs to plant, each as other relays had it, or to prove that an invariant can fail: would the simulation find them?

Each replaces methods of the real classes from outside and gives back what puts them in place again; nothing in the
relay knows of it. Used by `--plant NAME` and by tests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from unittest import mock

from msgspec.structs import replace

from smarthost.accept import replies
from smarthost.mail.errors import StoreError
from smarthost.mail.lease import Lease
from smarthost.mail.message import Message
from smarthost.mail.plan import Plan
from smarthost.mail.record import Kind, Record
from smarthost.mail.reply import Reply
from smarthost.mail.result import AttemptResult, Outcome, Verdict
from smarthost.mail.settlement import OwedReport
from smarthost.ports import Refused
from smarthost.queue.fairness import Lane, Slots
from smarthost.queue.feed import Feed, _Supply
from smarthost.queue.leases import Wish
from smarthost.queue.memory import MemoryStore
from smarthost.queue.store import Changed, Filter
from smarthost.queue.tables import Stored, Tables
from smarthost.relay import Journey
from smarthost.route.broken import Broken
from smarthost.route.health import HostHealth
from smarthost.send import verdict
from smarthost.send.attempt import Sender
from smarthost.send.verdict import RecipientVerdict
from smarthost.smtp.client import Transaction
from smarthost.sweeps import Sweeps
from smarthost.testing.world import SimulatedWorld

Planted = AbstractContextManager[object]


def expiry_on_one_path() -> Planted:
    """Only attempts expire mail (KumoMTA 539): what waits for a dead site, and is never attempted, stays for ever."""

    async def sleep_for_ever(sweeps: Sweeps) -> None:
        await asyncio.get_running_loop().create_future()

    return mock.patch.object(Sweeps, "expire_old_mail", sleep_for_ever)


@contextmanager
def slot_leaked_by_an_error() -> Iterator[None]:
    """An attempt whose content cannot be read never gives its slot back (Haraka 3560)."""
    leaked: list[str] = []
    attempt, give_back = Sender.attempt, Slots.give_back

    async def note_failure(sender: Sender, lease: Lease, plan: Plan) -> AttemptResult:
        try:
            return await attempt(sender, lease, plan)
        except StoreError:
            leaked.append(plan.lane)
            raise

    def forget(slots: Slots, lane: Lane) -> None:
        if lane.name in leaked:
            leaked.remove(lane.name)
        else:
            give_back(slots, lane)

    with mock.patch.object(Sender, "attempt", note_failure), mock.patch.object(Slots, "give_back", forget):
        yield


def lease_never_released() -> Planted:
    """Leases at hand are dropped when a destination falls asleep, and not given back (Stalwart 1066)."""

    def drop_all(feed: Feed, supply: _Supply) -> None:
        while supply.leases:
            feed._let_go(supply.leases.popleft())

    return mock.patch.object(Feed, "_give_back_all", drop_all)


def settled_before_the_reply() -> Planted:
    """A connection that dies after the content counts as relayed: the state changes before the side effect is sure."""
    judge: Callable[..., tuple[RecipientVerdict, ...]] = verdict.after_lost_transaction

    def trust(*facts: object) -> tuple[RecipientVerdict, ...]:
        judged = judge(*facts)
        return tuple([
            replace(each, verdict=Verdict(Outcome.RELAYED, "2.0.0", "sent"), try_next_host=False)
            if each.verdict.ambiguous else each
            for each in judged
        ])  # fmt: skip

    return mock.patch.object(verdict, "after_lost_transaction", trust)


@contextmanager
def reply_dropped_on_cancellation() -> Iterator[None]:
    """After the reply a slow hook is awaited, and a stop cancels that: what the host said is forgotten."""
    attempt, stop = Sender.attempt, Journey.stop

    async def dawdle(sender: Sender, lease: Lease, plan: Plan) -> AttemptResult:
        result = await attempt(sender, lease, plan)
        await sender.terms.clock.sleep(20.0)
        return result

    async def stop_at_once(journey: Journey, grace_s: float) -> None:
        await stop(journey, 0.0)

    with mock.patch.object(Sender, "attempt", dawdle), mock.patch.object(Journey, "stop", stop_at_once):
        yield


# -- not from elsewhere: for each invariant something that breaks it -------------------------------------------------


def acknowledged_before_the_commit() -> Planted:
    """250 is said when the store was asked, not when it has answered."""
    add = Journey.add

    def hurry(journey: Journey, message: Message, filed: Callable[[Exception | None], None]) -> None:
        add(journey, message, lambda failure: None)
        filed(None)

    return mock.patch.object(Journey, "add", hurry)


def failure_answered_with_5xx() -> Planted:
    """A full disk is told to clients as a permanent failure (Haraka 1263)."""
    refusal = Reply(552, "5.3.4", ("no room, go away",))
    return mock.patch.object(replies, "for_store_failure", return_value=refusal)


def windows_ignored() -> Planted:
    """Every lane starts as many slots as it has work."""

    def start(lane: Lane) -> bool:
        lane.active += 1
        return True

    return mock.patch.object(Lane, "start", start)


def pauses_ignored() -> Planted:
    """A broken host is dialled whenever there is mail for it (KumoMTA's dead MX)."""
    refuse = HostHealth._refuse

    def refuse_some(health: HostHealth, key: tuple[str, str], broken: Broken, now: float) -> Refused | None:
        return refuse(health, key, broken, now) if key in health._probes else None

    return mock.patch.object(HostHealth, "_refuse", refuse_some)


def debt_cleared_without_a_report() -> Planted:
    """A report that is owed is forgotten."""
    file_report = MemoryStore.file_report

    def forget(
        store: MemoryStore, owed: OwedReport, report: Message | None, records: Sequence[Record]
    ) -> Awaitable[None]:
        return file_report(store, owed, None, ())

    return mock.patch.object(MemoryStore, "file_report", forget)


def report_filed_twice() -> Planted:
    """A debt is not cleared by its report, the first time."""
    pay = Tables.pay

    def pay_and_owe(
        tables: Tables, key: int, owed: OwedReport, report: tuple[int, Message] | None, records: Sequence[Record]
    ) -> None:
        stored = tables.messages.get(key)
        is_first = stored is not None and not any(each.id == owed.id for each in _reported(tables))
        before = Stored(stored.message, dict(stored.recipients), dict(stored.owed)) if stored is not None else None
        pay(tables, key, owed, report, records)
        if is_first and before is not None:
            tables.messages[key] = before

    return mock.patch.object(Tables, "pay", pay_and_owe)


def _reported(tables: Tables) -> Iterator[Record]:
    return (record for record in tables.records.values() if record.kind is Kind.REPORTED)


def own_failure_bounces() -> Planted:
    """Content that cannot be read now is a permanent failure."""
    deliver = Journey._same_verdict

    def give_up(journey: Journey, lease: Lease, one: Verdict) -> AttemptResult:
        if one.why.startswith("local failure"):
            one = replace(one, outcome=Outcome.BOUNCED, status="5.3.0")
        return deliver(journey, lease, one)

    return mock.patch.object(Journey, "_same_verdict", give_up)


def expired_at_the_first_failure_after_an_hour() -> Planted:
    """Mail is given up early."""

    def retry_at(journey: Journey, attempts: int, received_at: float) -> float | None:
        now = journey._clock.wall()
        return None if now - received_at > 3600.0 else now + 300.0

    return mock.patch.object(Journey, "_retry_at", retry_at)


def bad_reads_lose_mail() -> Planted:
    """A sweep that meets a deferred recipient deletes it (Haraka 2591)."""

    async def sweep(store: MemoryStore, received_before: float, n: int) -> tuple[Lease, ...]:
        for key, _, recipient in list(store._tables.free(store._leases)):
            if recipient.attempts > 1:
                store._tables._remove(key, recipient.n)
        return ()

    return mock.patch.object(MemoryStore, "sweep", sweep)


def clock_steps_not_followed() -> Planted:
    """The times on disk stay as they are when the clock was stepped: mail looks days older than it is."""
    return mock.patch.object(SimulatedWorld, "_follow_clock", return_value=None)


def scans_stop() -> Planted:
    """The feed does not look again at what was deferred."""
    run = Feed.run

    async def run_once(feed: Feed) -> None:
        task = asyncio.ensure_future(run(feed))
        await feed._clock.sleep(3600.0)
        task.cancel()
        await asyncio.get_running_loop().create_future()

    return mock.patch.object(Feed, "run", run_once)


def cancel_hits_others() -> Planted:
    """An operator's cancel takes a second recipient with it."""
    change = MemoryStore.change

    async def change_more(
        store: MemoryStore, which: Filter, wish: Wish, cursor: str | None, n: int, *, is_dry_run: bool = False
    ) -> Changed:
        return await change(store, Filter() if wish.verb == "cancel" else which, wish, cursor, n, is_dry_run=is_dry_run)

    return mock.patch.object(MemoryStore, "change", change_more)


def envelopes_rewritten() -> Planted:
    """Mail goes on from another reverse-path than it came from."""
    transaction: Callable[..., Transaction] = Transaction

    def rewrite(reverse_path: str, *rest: object) -> Transaction:
        return transaction(reverse_path and f"postmaster@{reverse_path.rpartition('@')[2]}", *rest)

    return mock.patch("smarthost.send.attempt.Transaction", rewrite)


PEERS: tuple[Callable[[], Planted], ...] = (
    expiry_on_one_path,
    slot_leaked_by_an_error,
    lease_never_released,
    settled_before_the_reply,
    reply_dropped_on_cancellation,
)
OURS: tuple[Callable[[], Planted], ...] = (
    acknowledged_before_the_commit,
    failure_answered_with_5xx,
    windows_ignored,
    pauses_ignored,
    debt_cleared_without_a_report,
    report_filed_twice,
    own_failure_bounces,
    expired_at_the_first_failure_after_an_hour,
    bad_reads_lose_mail,
    clock_steps_not_followed,
    scans_stop,
    cancel_hits_others,
    envelopes_rewritten,
)
PLANTS: dict[str, Callable[[], Planted]] = {plant.__name__.replace("_", "-"): plant for plant in (*PEERS, *OURS)}
