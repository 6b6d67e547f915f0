# SPDX-License-Identifier: MIT
"""Which recipients are leased, and what operators wish for them meanwhile. Memory only: a crash gives all leases back.

Every Store keeps one. A store that reads its rows elsewhere (another process, a snapshot) wraps each read that leads
to leases in `reading()`: whatever was leased at any moment since the read began counts as not free, because the rows
read may be older than the settlement that ended the lease, and leasing them again would deliver twice.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from msgspec import Struct

from smarthost.mail.content import Content
from smarthost.mail.identity import decode_id
from smarthost.mail.lease import LEASE_RECIPIENTS, Lease, LeasedRecipient
from smarthost.mail.message import Message

Reading = set[tuple[str, int]]


ENDS = frozenset({"cancel", "bounce", "expire"})  # verbs that end a recipient: nothing takes such a wish back


_VERBS = frozenset({"retry", "hold", "release", "cancel", "bounce", "expire", "reroute"})
_OUTLASTED: dict[str, frozenset[str]] = {  # what a wish outlasts that is said after it
    "retry": frozenset(),
    "hold": frozenset({"retry", "reroute"}),
    "release": frozenset(),
    "reroute": frozenset({"retry"}),
    **dict.fromkeys(ENDS, _VERBS),
}


class Wish(Struct, frozen=True, gc=False):
    """A verb said upon a recipient at `now`, by whom and why; `via`: for "reroute" (mail.address.send_via).

    Said upon a leased one, its settlement, or the end of its lease, applies it.
    """

    verb: str
    now: float
    by: str = ""
    reason: str = ""
    via: str = ""


class Leases:
    """The leased recipients, by message and by domain. Owned by one store on one event loop."""

    def __init__(self) -> None:
        self._messages: dict[str, tuple[int, dict[int, str]]] = {}  # id -> (store key, recipient number -> domain)
        self._domains: dict[str, dict[tuple[int, int], None]] = {}  # dicts, not sets: their order is reproducible
        self._wishes: dict[tuple[str, int], Wish] = {}
        self._readings: list[Reading] = []

    def take(self, id: str, key: int, n: int, domain: str) -> None:
        """Lease one recipient; it must be free."""
        entry = self._messages.get(id)
        if entry is None:
            self._messages[id] = (key, {n: domain})
        else:
            entry[1][n] = domain
        leased = self._domains.get(domain)
        if leased is None:
            self._domains[domain] = {(key, n): None}
        else:
            leased[key, n] = None

    def take_all(self, lease: Lease) -> None:
        """Lease the recipients of a Lease that is about to be handed out."""
        key = decode_id(lease.id)[0]
        for recipient in lease.recipients:
            self.take(lease.id, key, recipient.n, recipient.domain)

    def end(self, id: str, n: int) -> Wish | None:
        """End one recipient's lease and give the wish that is still open for it; harmless when it was not leased."""
        entry = self._messages.get(id)
        if entry is None:
            return None
        key, numbers = entry
        domain = numbers.pop(n, None)
        if domain is None:
            return None
        if not numbers:
            del self._messages[id]
        leased = self._domains[domain]
        del leased[key, n]
        if not leased:
            del self._domains[domain]
        for reading in self._readings:
            reading.add((id, n))
        return self._wishes.pop((id, n), None) if self._wishes else None

    def key(self, id: str) -> int:
        """Give the store key of an id, cheaply when the message is leased. Raises: ValueError: not an id."""
        entry = self._messages.get(id)
        return decode_id(id)[0] if entry is None else entry[0]

    def is_leased(self, id: str, n: int) -> bool:
        entry = self._messages.get(id)
        return entry is not None and n in entry[1]

    def is_message_leased(self, id: str) -> bool:
        return id in self._messages

    def is_free(self, id: str, n: int, reading: Reading) -> bool:
        """May it be leased on the word of a row that this read found?"""
        return not self.is_leased(id, n) and (id, n) not in reading

    def of_domains(self, domains: Iterable[str]) -> list[tuple[int, int]]:
        """Give (store key, number) of what is leased in these domains."""
        return [pair for domain in domains for pair in self._domains.get(domain, ())]

    def all(self) -> list[tuple[int, int, str]]:
        """Give (store key, number, domain) of everything leased."""
        return [(key, n, domain) for domain, leased in self._domains.items() for key, n in leased]

    def each(self) -> Iterator[tuple[str, int]]:
        """Give (message id, recipient number) of everything leased."""
        for id, (_, numbers) in self._messages.items():
            for n in numbers:
                yield id, n

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Give the leases that end while this read lasts."""
        reading: Reading = set()
        self._readings.append(reading)
        try:
            yield reading
        finally:
            self._readings = [each for each in self._readings if each is not reading]

    def wish(self, id: str, n: int, wish: Wish) -> None:
        """Keep a wish for a leased recipient; the last one counts, but some outlast others.

        Nothing takes back one that ends it. Neither a retry nor another way lets held mail go, nor does a retry take
        another way back: as it is with what nobody works on.
        """
        earlier = self._wishes.get((id, n))
        if earlier is None or wish.verb not in _OUTLASTED[earlier.verb]:
            self._wishes[id, n] = wish

    @property
    def has_wishes(self) -> bool:
        return bool(self._wishes)

    def open_wish(self, id: str, n: int) -> Wish | None:
        """Take the wish that a settlement is about to apply."""
        return self._wishes.pop((id, n), None) if self._wishes else None

    def clear(self) -> None:
        """Give everything back."""
        self._messages.clear()
        self._domains.clear()
        self._wishes.clear()


def fresh_leases(message: Message, domains: Collection[str], content: Content | None) -> tuple[Lease, ...]:
    """Cut leases for a new message's recipients in `domains`, at most 100 each; no `content`: it is to be read back.

    A message with progress is not new, and has its schedule: nothing of it is leased here.
    """
    if message.progress:
        return ()
    envelope = message.envelope
    if envelope.requests:
        recipients = [
            LeasedRecipient(n, address.text, address.domain, notify=request.notify, orcpt=request.orcpt)
            for n, (address, request) in enumerate(zip(envelope.recipients, envelope.requests, strict=True))
            if address.domain in domains
        ]
    else:
        recipients = [
            LeasedRecipient(n, address.text, address.domain)
            for n, address in enumerate(envelope.recipients)
            if address.domain in domains
        ]
    if 0 < len(recipients) <= LEASE_RECIPIENTS:
        return (cut_lease(message, content, recipients),)
    return tuple(
        cut_lease(message, content, recipients[start : start + LEASE_RECIPIENTS])
        for start in range(0, len(recipients), LEASE_RECIPIENTS)
    )


def cut_lease(message: Message, content: Content | None, recipients: Iterable[LeasedRecipient]) -> Lease:
    """Give the lease of these recipients of a message."""
    envelope = message.envelope
    return Lease(
        message.id,
        message.received_at,
        envelope.reverse_path,
        envelope.body,
        envelope.smtputf8,
        message.client,
        message.sender,
        message.prefix,
        message.content.octets,
        content,
        tuple(recipients),
        envelope.ret,
        envelope.envid,
        envelope.tls,
    )
