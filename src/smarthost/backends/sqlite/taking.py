# SPDX-License-Identifier: MIT
"""Leases what the child's rows say is free: by domain, by age, and what is delayed without having been told.

The rows are read elsewhere and may be older than what is known here (queue.leases), so each is judged again before it
is leased. How far the sweep for untold delays has come is memory only: after a start it looks through all once more.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec.msgpack import Decoder

from smarthost.backends.sqlite import wire
from smarthost.backends.sqlite.keeper import Keeper
from smarthost.backends.sqlite.rows import to_lease
from smarthost.mail.identity import encode_id
from smarthost.mail.lease import Lease
from smarthost.queue.leases import Leases, Reading

_ROUNDS = 100  # a read whose rows others leased meanwhile is repeated; with k askers at once the last needs k rounds
_KEYS = 500  # messages looked at again in one question
_DUE = Decoder(wire.LeaseRows)
_LEASES = Decoder(list[wire.LeaseRow])
_DELAYED = Decoder(wire.DelayedRows)
_ALL = Decoder(wire.AllRows)


class DelaySweep:
    """What the sweep for untold delays need not read again: all messages up to (at, key), except some.

    Those are the messages that were leased when it came by, to others or by itself: they are told when their settlement
    says so, or not at all (given back, failed), so each sweep looks at them until they are told or gone.
    And those that became durable behind it, for which `filed` is called; and those that were held then, which the verb
    that lets them go puts into `again`.
    """

    __slots__ = ("again", "at", "key", "until")

    def __init__(self) -> None:
        self.at = float("-inf")
        self.key = -1
        self.until = float("-inf")  # messages received before it may have been passed
        self.again: dict[int, str] = {}  # ids by key

    def filed(self, key: int, id: str, received_at: float) -> None:
        """A message has become durable, perhaps behind the sweep."""
        if received_at < self.until:
            self.again[key] = id

    def passed(self, at: float, key: int) -> None:
        """All up to this was read."""
        self.at, self.key = max((self.at, self.key), (at, key))


class Taker:
    """Asks the child what may be leased, and leases it. Part of one store, on its event loop."""

    def __init__(self, keeper: Keeper, leases: Leases, delays: DelaySweep, give_back: Callable[[Lease], None]) -> None:
        self._keeper = keeper
        self._leases = leases
        self._delays = delays
        self._give_back = give_back
        self._handing: dict[int, list[Lease]] = {}  # what is found and about to be handed out, by identity

    def in_hand(self) -> list[tuple[str, int]]:
        """Give (message id, recipient number) of what is leased already and about to be handed out."""
        return [(lease.id, each.n) for found in self._handing.values() for lease in found for each in lease.recipients]

    async def lease(self, domains: Collection[str], now: float, n: int) -> tuple[Lease, ...]:
        """Lease at most `n` messages' due recipients in these domains, earliest due first; fewer: there are no more."""
        wanted = list(dict.fromkeys(domains))
        found: list[Lease] = []
        self._handing[id(found)] = found
        try:
            for _ in range(_ROUNDS):
                with self._leases.reading() as reading:
                    ask = wire.AskLease(wanted, now, n - len(found), self._leases.of_domains(wanted))
                    answer = await self._keeper.ask(ask, _DUE)
                    leases, is_whole = self._take(answer.messages, reading)
                found += leases
                if is_whole and not answer.is_cut:  # what is damaged counts as leased from now on
                    break
        except BaseException:  # an error or a cancellation in a later round: nobody gets the leases of the earlier ones
            self._give_all_back(found)
            raise
        finally:
            del self._handing[id(found)]
        return tuple(found)

    async def sweep(self, received_before: float, n: int) -> tuple[Lease, ...]:
        """Lease all recipients (whatever their due time, held ones not) of at most `n` messages older than that."""
        with self._leases.reading() as reading:
            leased = [(key, recipient) for key, recipient, _ in self._leases.all()]
            rows = await self._keeper.ask(wire.AskSweep(received_before, n, leased), _LEASES)
            return tuple(self._take(rows, reading)[0])

    async def sweep_delayed(self, received_before: float, n: int) -> tuple[Lease, ...]:
        """Lease the DEFERRED recipients of at most `n` messages older than that whose delay was not told."""
        found: list[Lease] = []
        self._handing[id(found)] = found
        try:
            await self._look_again(received_before, n, found)
            await self._look_on(received_before, n, found)
        except BaseException:
            self._give_all_back(found)
            raise
        finally:
            del self._handing[id(found)]
        return tuple(found)

    async def sweep_held(self, now: float, n: int) -> tuple[Lease, ...]:
        """Lease what is held and whose hold is over, of at most `n` messages."""
        with self._leases.reading() as reading:
            leased = [(key, recipient) for key, recipient, _ in self._leases.all()]
            rows = await self._keeper.ask(wire.AskHeldOver(now, n, leased), _LEASES)
            return tuple(self._take(rows, reading)[0])

    async def lease_all(self, after: int, n: int) -> tuple[tuple[Lease, ...], int | None]:
        """Lease what is unfinished of at most `n` messages behind a key; gives the last key, None: that was all."""
        with self._leases.reading() as reading:
            leased = [(key, recipient) for key, recipient, _ in self._leases.all()]
            answer = await self._keeper.ask(wire.AskAll(after, n, leased), _ALL)
            return tuple(self._take(answer.messages, reading)[0]), answer.last

    async def _look_again(self, received_before: float, n: int, found: list[Lease]) -> None:
        again = self._delays.again
        keys = [key for key, id in again.items() if not self._leases.is_message_leased(id)]
        for start in range(0, len(keys), _KEYS):
            if _count(found) >= n:
                return
            portion = keys[start : start + _KEYS]
            with self._leases.reading() as reading:
                rows = await self._keeper.ask(wire.AskUntold(portion), _LEASES)
                for key in set(portion).difference([row.key for row in rows]):
                    again.pop(key, None)
                self._take_some([row for row in rows if row.received_at < received_before], n, found, reading)

    async def _look_on(self, received_before: float, n: int, found: list[Lease]) -> None:
        delays = self._delays
        delays.until = max(delays.until, received_before)
        is_end = False
        while not is_end and _count(found) < n:
            with self._leases.reading() as reading:
                ask = wire.AskDelayed(received_before, n - _count(found), delays.at, delays.key)
                answer = await self._keeper.ask(ask, _DELAYED)
                delays.again.update([(row.key, encode_id(row.key, row.tag)) for row in answer.messages])
                delays.passed(answer.at, answer.key)
                self._take_some(answer.messages, n, found, reading)
                is_end = answer.is_end

    def _take_some(self, rows: Iterable[wire.LeaseRow], n: int, found: list[Lease], reading: Reading) -> None:
        """Lease what is free of these rows until `found` has `n` messages."""
        ids = {lease.id for lease in found}
        for row in rows:
            id = encode_id(row.key, row.tag)
            if id in ids or len(ids) < n:
                leases = self._take([row], reading)[0]
                ids.update([lease.id for lease in leases])
                found += leases

    def _take(self, rows: Sequence[wire.LeaseRow], reading: Reading) -> tuple[list[Lease], bool]:
        """Lease what is still free of these rows; says if all of it was."""
        found = []
        is_whole = True
        for row in rows:
            id = encode_id(row.key, row.tag)
            free = [each for each in row.recipients if self._leases.is_free(id, each.n, reading)]
            is_whole = is_whole and len(free) == len(row.recipients)
            if not free:
                continue
            for each in free:
                self._leases.take(id, row.key, each.n, each.domain)
            found.append(to_lease(row, id, free))
        return found, is_whole

    def _give_all_back(self, found: Iterable[Lease]) -> None:
        for lease in found:
            self._give_back(lease)


def _count(found: Iterable[Lease]) -> int:
    """Count the messages that leases are of."""
    return len({lease.id for lease in found})
