# SPDX-License-Identifier: MIT
"""Moves the queue to another node, message by message, each with its schedule; and keeps new mail out meanwhile.

Joins store, journey and sessions with the other node. A message is here or there, and for a moment both: it is settled
here once the other node has said 250, so a crash between the two has it moved, or delivered, twice, and never lost.
What cannot be moved stays and is named; then, and whenever it is broken off, this node goes on as before. When
everything has gone it takes no new mail until `cancel`. Nothing of that survives a restart: then it serves again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from smarthost.commits import Commits
from smarthost.mail.envelope import SenderTls
from smarthost.mail.errors import ConnectFailed, NoNewMail, StoreError
from smarthost.mail.hop import SessionPolicy, TlsLevel
from smarthost.mail.lease import Lease
from smarthost.mail.plan import NoPlan, Plan
from smarthost.mail.progress import DrainEnd, DrainOutcome, Moving, Staying
from smarthost.ports import Clock, Dialer, Sink
from smarthost.queue.audit import Claim
from smarthost.queue.store import Filter, Store
from smarthost.send.handover import HandedOver, hand_over
from smarthost.send.session import Session, SetupFailed
from smarthost.settle.moved import settle_moved
from smarthost.smtp.limits import CONNECT_S
from smarthost.smtp.steps import Step

SESSIONS = 8  # at a time; four fill the disk of the other node, more hide what a round trip takes
LEASES = 100  # read at a time: 1 ms
UNANSWERED = 499  # moved, and not known here yet: a crash moves these again
REFUSED_IN_A_ROW = 20  # then it is the other node that does not work, and not the mail
LOST_IN_A_ROW = 3
TRIES = 2  # of one message; a session that breaks twice over it may break because of it
LOOK_S = 0.2  # between two looks whether attempts under way have ended
PATIENCE_S = 90.0  # for reports that are owed: each waits 60 s at most
STOP_S = 10.0  # for transactions under way, when it is to end early
REST_NAMED = 1000  # messages
MOVE_S = 3600.0  # what a lease takes at most; a transaction has less by the RFC's times
_DRAINING = "This node is being drained, its queue moves to another: try again later"
_DRAINED = "This node has been drained and takes no mail: try again later"

_EVERYTHING = Filter()

News = Callable[[Moving | Staying], None]


class DrainTerms(Struct, frozen=True):
    """The parts that are joined here. `plan_to` looks up the other node; the last four are the journey's."""

    store: Store
    clock: Clock
    sink: Sink
    dialer: Dialer
    next_seq: Callable[[], int]
    plan_to: Callable[[str, int], Awaitable[Plan | NoPlan]]
    begin_drain: Callable[[], None]
    end_drain: Callable[[], None]
    is_quiet: Callable[[], bool]
    commits: Commits


class _Broken(Exception):
    """There is no going on with the other node; the text says why."""


class _NotOffered(_Broken):
    """It does not take queues from us."""


class Drain:
    """One event loop; one move at a time."""

    def __init__(self, terms: DrainTerms) -> None:
        self._terms = terms
        self._move: _Move | None = None
        self._refusal: NoNewMail | None = None

    @property
    def refusal(self) -> NoNewMail | None:
        """Why no new mail is taken, or None."""
        return self._refusal

    def claims(self) -> Iterator[Claim]:
        """Say what is leased to be moved."""
        if self._move is not None:
            yield from self._move.claims()

    async def run(self, host: str, port: int, tell: News) -> DrainEnd:
        """Move everything to this node; ends when nothing is left, or nothing more can be moved.

        `tell` hears of it: about once a batch how far it is, and of each message that stays. Cancelled, it lets
        transactions under way end (STOP_S), and this node goes on as before. Raises: StoreError: the store does not
        say what there is; NoNewMail: a move is under way already.
        """
        if self._move is not None:
            raise NoNewMail("a drain is under way already: wait for its end, or `smarthost drain --cancel`")
        terms = self._terms
        move = self._move = _Move(terms, host, port, tell)
        is_drained = False
        try:
            try:
                await move.find_out()
            except _Broken as why:
                outcome = DrainOutcome.NOT_OFFERED if isinstance(why, _NotOffered) else DrainOutcome.BROKEN_OFF
                return DrainEnd(outcome, 0, (await terms.store.count())[0], str(why))
            self._refusal = NoNewMail(_DRAINING)
            terms.begin_drain()
            terms.sink.note("info", "drain begins", to=move.node)
            try:
                end = await move.run()
                is_drained = end.outcome is DrainOutcome.DRAINED
            finally:
                terms.end_drain()
                self._refusal = NoNewMail(_DRAINED) if is_drained else None
                terms.sink.note("info", "drain ends", to=move.node, moved=move.moved, is_drained=is_drained)
            return end
        finally:
            self._move = None
            move.close()

    def cancel(self) -> bool:
        """End a move under way, or take mail again after one; False: there was neither."""
        if self._move is not None:
            self._move.stop(DrainOutcome.CANCELLED, "an operator cancelled it")
            return True
        was_drained, self._refusal = self._refusal is not None, None
        if was_drained:
            self._terms.sink.note("info", "drain cancelled: mail is taken again")
        return was_drained


class _Move:
    """One run: its sessions, what is at hand, and what stays."""

    def __init__(self, terms: DrainTerms, host: str, port: int, tell: News) -> None:
        self._terms = terms
        self._host = host
        self._port = port
        self._tell = tell
        self._plan: Plan
        self._idle: list[Session] = []
        self._at_hand: deque[Lease] = deque()
        self._under_way: dict[int, tuple[Lease, float]] = {}  # by identity, and since when (monotonic)
        self._cursor: str | None = None
        self._is_read = False  # this round
        self._reading = asyncio.Lock()
        self._stays: set[str] = set()  # messages that were named
        self._breaks: dict[str, int] = {}  # how often a session broke over them
        self._refused_in_a_row = 0
        self._lost_in_a_row = 0
        self._stopped: tuple[DrainOutcome, str] | None = None
        self._left = 0
        self.moved = 0

    @property
    def node(self) -> str:
        """The other node, as the operator named it."""
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def claims(self) -> Iterator[Claim]:
        now, wall = self._terms.clock.monotonic(), self._terms.clock.wall()
        for lease in self._at_hand:
            for each in lease.recipients:
                yield Claim(lease.id, each.n, "the drain", wall)
        for lease, since in self._under_way.values():
            for each in lease.recipients:
                yield Claim(lease.id, each.n, "the drain", wall + since + MOVE_S - now)

    def stop(self, outcome: DrainOutcome, why: str) -> None:
        """Begin no further transaction; the first reason counts."""
        self._stopped = self._stopped or (outcome, why)

    def close(self) -> None:
        """Give back what was not moved, and say goodbye."""
        while self._at_hand:
            self._terms.store.give_back(self._at_hand.popleft())
        for session in self._idle:
            session.quit()

    # The other node

    async def find_out(self) -> None:
        """Look the other node up, and see that it takes queues from us. Raises: _Broken, StoreError."""
        plan = await self._terms.plan_to(self._host, self._port)
        if isinstance(plan, NoPlan):
            raise _Broken(f"{self.node} is not found: {plan.why}")
        self._plan = plan
        self._idle.append(await self._open(None))
        self._left = (await self._terms.store.count())[0]

    async def _open(self, tls: TlsLevel | None) -> Session:
        """Open a session at the first address that answers; `tls`: with that at least. Raises: _Broken."""
        tried = []
        for host in self._plan.hosts:
            policy = self._plan.policy_of(host)
            if tls is not None:
                policy = replace(policy, tls=tls)
            for address in host.addresses:
                opened = await self._dial(host.name, address, policy)
                if (
                    isinstance(opened, SetupFailed) and opened.step is Step.TLS and tls is None
                ):  # RFC 7435: opportunistic
                    opened = await self._dial(host.name, address, replace(policy, tls=TlsLevel.NONE))
                if isinstance(opened, Session):
                    return self._checked(opened)
                tried.append(f"{address}: {opened.said} (at {opened.step})")
        raise _Broken(f"{self.node} does not answer: {'; '.join(tried)}")

    async def _dial(self, name: str, address: str, policy: SessionPolicy) -> Session | SetupFailed:
        try:
            connection = await self._terms.dialer.dial(address, policy.port, source=policy.source, timeout_s=CONNECT_S)
        except ConnectFailed as error:
            return SetupFailed(Step.CONNECT, error)
        session = Session(connection, self._terms.clock, (name, address, policy))
        return await session.set_up() or session

    def _checked(self, session: Session) -> Session:
        offered = session.extensions
        if offered is not None and offered.transfer:
            return session
        session.quit()
        raise _NotOffered(
            f"{self.node} does not offer XTRANSFER to this node: put the address from which this node connects into"
            " transfer_from there, and restart it (or it is no smarthost, or an older one)"
        )

    async def _session_for(self, lease: Lease) -> Session:
        """Give a session in which this message may go: REQUIRETLS asks for one that is verified (RFC 8689 4.2.1)."""
        verified = TlsLevel.VERIFIED if lease.tls is SenderTls.REQUIRED else None
        while self._idle:
            session = self._idle.pop()
            if verified is not None and (session.tls is None or not session.tls.verified):
                self._idle.append(session)
                break
            if session.is_reusable:
                return session
            session.quit()
        return await self._open(verified)

    # The queue

    async def run(self) -> DrainEnd:
        """Go through the queue until nothing is left to be moved."""
        terms = self._terms
        give_up_at = terms.clock.monotonic() + PATIENCE_S
        while True:
            before = self.moved
            await self._go_through()
            self._left = (await terms.store.count())[0]
            self._report()
            if not self._left:
                return DrainEnd(DrainOutcome.DRAINED, self.moved, 0)
            if self._stopped is not None:
                outcome, why = self._stopped
                return DrainEnd(outcome, self.moved, self._left, why)
            now = terms.clock.monotonic()
            if self.moved > before or not terms.is_quiet():
                give_up_at = now + PATIENCE_S
            elif self._left <= len(self._stays) or now >= give_up_at:
                await self._name_rest()
                return DrainEnd(DrainOutcome.PARTLY, self.moved, self._left)
            if self.moved == before:
                await terms.clock.sleep(LOOK_S)

    async def _name_rest(self) -> None:
        """Name what was never given to us: it owes a report that is not filed, or somebody else has it."""
        if self._left <= len(self._stays):
            return
        page = await self._terms.store.find(_EVERYTHING, None, REST_NAMED)
        for message in page.messages:
            if message.id not in self._stays:
                addresses = tuple([each.address for each in message.recipients])
                self._tell(Staying(message.id, addresses, f"not done with after {PATIENCE_S:.0f} s: it owes a report"))

    def _report(self) -> None:
        waits = "" if self._terms.is_quiet() else "attempts under way"
        if not waits and self._is_read and self._left > len(self._stays):
            waits = "reports that are owed"
        self._tell(Moving(self.moved, self._left, waits))

    async def _go_through(self) -> None:
        """Move what can be moved, once; returns when all of it is settled. Cancelled, it ends in order."""
        self._cursor, self._is_read = None, False
        workers = [asyncio.ensure_future(self._work()) for _ in range(SESSIONS)]
        try:
            await asyncio.wait(workers)
        except asyncio.CancelledError:
            self.stop(DrainOutcome.CANCELLED, "interrupted")
            deadline = self._terms.clock.deadline(STOP_S, lambda: _cancel_all(workers))
            try:
                await asyncio.wait(workers)
            finally:
                deadline.cancel()
                _cancel_all(workers)
            raise
        for failure in [worker.exception() for worker in workers]:
            if failure is not None:
                raise failure
        await self._terms.commits.until_answered()

    async def _work(self) -> None:
        while self._stopped is None and (lease := await self._next()) is not None:
            self._under_way[id(lease)] = lease, self._terms.clock.monotonic()
            rest: Sequence[int] = range(len(lease.recipients))
            try:
                rest = await self._hand_over(lease)
            finally:
                del self._under_way[id(lease)]
                if rest:
                    left = tuple([lease.recipients[index] for index in rest])
                    self._terms.store.give_back(replace(lease, recipients=left))

    async def _next(self) -> Lease | None:
        async with self._reading:
            while not (self._at_hand or self._is_read or self._stopped):
                leases, self._cursor = await self._terms.store.lease_all(self._cursor, LEASES)
                self._is_read = self._cursor is None
                for lease in leases:
                    if lease.id in self._stays:
                        self._terms.store.give_back(lease)
                    else:
                        self._at_hand.append(lease)
                self._report()
            return self._at_hand.popleft() if self._at_hand else None

    async def _hand_over(self, lease: Lease) -> Sequence[int]:
        """Hand over a message and settle what was taken; gives the indices of what was not."""
        everybody = range(len(lease.recipients))
        try:
            content = lease.content or await self._terms.store.content(lease.id)
            session = await self._session_for(lease)
        except StoreError as error:
            self._let_stay(lease, everybody, f"its content cannot be read: {error}")
            return everybody
        except _Broken as why:
            if lease.tls is SenderTls.REQUIRED:
                self._let_stay(lease, everybody, f"its sender asks for TLS that is verified: {why}")
            else:
                self.stop(DrainOutcome.BROKEN_OFF, str(why))
            return everybody
        heard = await hand_over(session, lease, content)
        self._take_note(lease, heard, session)
        if session.is_reusable and not heard.broke:
            self._idle.append(session)
        else:
            session.quit()
        await self._terms.commits.until_answered(UNANSWERED)  # no longer: an operator may cancel
        return [index for index in everybody if index not in heard.taken]

    def _take_note(self, lease: Lease, heard: HandedOver, session: Session) -> None:
        if heard.taken:
            self._refused_in_a_row = self._lost_in_a_row = 0
            self._terms.commits.commit(
                settle_moved(
                    lease,
                    heard.taken,
                    node=self.node,
                    address=session.key[1],
                    tls=session.tls,
                    now=self._terms.clock.wall(),
                    next_seq=self._terms.next_seq,
                )
            )
            self.moved += len(heard.taken) == len(lease.recipients)
        for why in dict.fromkeys(heard.refused.values()):
            self._let_stay(lease, [index for index, each in heard.refused.items() if each == why], why)
            if heard.was_asked and not heard.taken:
                self._count_refusal(why)
        if heard.broke:
            self._lost(lease, heard.broke)

    def _count_refusal(self, why: str) -> None:
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= REFUSED_IN_A_ROW:
            how_many = f"{REFUSED_IN_A_ROW} messages in a row"
            self.stop(DrainOutcome.BROKEN_OFF, f"{self.node} refused {how_many}, the last one so: {why}")

    def _lost(self, lease: Lease, why: str) -> None:
        self._lost_in_a_row += 1
        breaks = self._breaks[lease.id] = self._breaks.get(lease.id, 0) + 1
        if self._lost_in_a_row >= LOST_IN_A_ROW:
            self.stop(DrainOutcome.BROKEN_OFF, f"{self.node}: {why}")
        elif breaks >= TRIES:
            self._let_stay(lease, range(len(lease.recipients)), why)

    def _let_stay(self, lease: Lease, indices: Sequence[int], why: str) -> None:
        self._stays.add(lease.id)
        addresses = tuple([lease.recipients[index].address for index in indices])
        self._terms.sink.note("warning", "not moved", id=lease.id, recipients=addresses, to=self.node, why=why)
        self._tell(Staying(lease.id, addresses, why))


def _cancel_all(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
