# SPDX-License-Identifier: MIT
"""All sessions with clients, at all listeners together: who may begin one, how many there may be, and how they end.

Each listener gets a door. Limits are over all doors. A client that is refused hears why, but not behind a door that
begins with TLS: a handshake costs us more than it costs the client, so there it is dropped. Nothing survives a restart.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from smarthost.accept import replies
from smarthost.accept.authentication import LoginGuard
from smarthost.accept.clients import Clients, ClientTerms, NetworkTerms
from smarthost.accept.listeners import ListenerTerms, ReceptionTerms
from smarthost.accept.recent import Seldom
from smarthost.accept.reception import Lobby, Reception
from smarthost.accept.standing import Door
from smarthost.mail.errors import NoNewMail, StoreFull
from smarthost.mail.reply import Reply
from smarthost.ports import Connection

DRAIN_STEP_S = 0.02
# Sessions at a time that only hear why they are not welcome: they do not use up the room of others, and cost a
# descriptor for as long as closing takes. Who comes beyond them is dropped without a word.
TURNED_AWAY = 100


class Receptions:
    """All open sessions. Raises: ConfigError: networks or senders of `terms.clients` are none."""

    def __init__(self, terms: ReceptionTerms) -> None:
        self.terms = terms
        self._clients = Clients(_whole(terms), terms.clock.monotonic)
        self._seldom = Seldom(terms.sink, terms.clock)
        self._lobby = Lobby(
            terms=terms,
            clients=self._clients,
            guard=LoginGuard(terms.clock, self._seldom),
            seldom=self._seldom,
            readmit=self._readmit,
            forget=self._forget,
        )
        self._open: dict[Reception, bool] = {}  # in the order they came; was it greeted, or is it only told why not?
        self._turned_away = 0  # of these
        self._is_closing = False
        self._farewells: list[tuple[set[Reception], Callable[[], None]]] = []

    def adopt(self, terms: ReceptionTerms) -> None:
        """Begin sessions by other terms from now on; those that are open end by theirs, and count as before.

        Raises: ConfigError: as the constructor, and nothing has changed.
        """
        self._clients.adopt(_whole(terms), [reception.client for reception in self._open])
        self.terms = terms
        self._lobby = replace(self._lobby, terms=terms)

    def when_over(self, then: Callable[[], None]) -> None:
        """Call `then` once all sessions that are open now have ended; at once if there are none."""
        if self._open:
            self._farewells.append((set(self._open), then))
        else:
            then()

    def __len__(self) -> int:
        return len(self._open)

    def count_by_mode(self) -> Counter[str]:
        """Give how many sessions are open at listeners of each mode."""
        return Counter(each.mode for each in self._open)

    def door(self, terms: ListenerTerms) -> Callable[[Connection], Reception | None]:
        """Give what a listener calls for each connection. Raises: ConfigError: `xclient_from` is no networks."""
        return partial(self._accept, Door(terms))

    def _accept(self, door: Door, connection: Connection) -> Reception | None:
        """Begin a session: it greets, or explains why not and closes; None: it is dropped."""
        client = connection.peer[0]
        refusal = self._admit(client)
        why = ""
        if refusal is not None and (door.begins_with_tls or self._turned_away >= TURNED_AWAY):
            why = str(refusal)
        elif door.begins_with_tls and not door.can_secure:
            why = "there is no certificate"
        if why:
            self._clients.leave(client)
            self._seldom.note("warning", "connection dropped", client, client=client, why=why)
            return None
        reception = Reception(connection, door, self._lobby)
        self._open[reception] = refusal is None
        self._turned_away += refusal is not None
        reception.begin(refusal)
        return reception

    def _admit(self, client: str) -> Reply | None:
        """Count a client's connection and say whether it is welcome; in any case _clients.leave must follow."""
        is_within = self._clients.enter(client)
        if self._is_closing:
            return replies.SHUTTING_DOWN
        if len(self._open) - self._turned_away >= self.terms.limits.connections:
            return replies.TOO_BUSY
        if not is_within:
            reply, what = self._name_excess(client)
            self._seldom.note("warning", what, self._clients.find(client).network, client=client)
            return reply
        failure = self.terms.refusal()  # a disk that is full alone is told at MAIL, with the reply that means it
        if failure is None or isinstance(failure, StoreFull):
            return None
        return replies.no_new_mail(failure, 421) if isinstance(failure, NoNewMail) else replies.STORE_FAILED_AT_BANNER

    def _readmit(self, former: str, client: str) -> Reply | None:
        """A session turns out to be another client's; say whether that one is welcome."""
        self._clients.leave(former)
        return None if self._clients.enter(client) else self._name_excess(client)[0]

    def _name_excess(self, client: str) -> tuple[Reply, str]:
        if self._clients.is_banned(client):
            return replies.BANNED_FOR_ERRORS, "too many errors"
        return replies.TOO_MANY_CONNECTIONS, "too many connections"

    def _forget(self, reception: Reception, client: str) -> None:
        was_greeted = self._open.pop(reception, None)
        if was_greeted is not None:
            self._turned_away -= not was_greeted
            self._clients.leave(client)
            if self._farewells:
                self._part_from(reception)

    def _part_from(self, reception: Reception) -> None:
        for waiting, _ in self._farewells:
            waiting.discard(reception)
        over = [then for waiting, then in self._farewells if not waiting]
        self._farewells = [(waiting, then) for waiting, then in self._farewells if waiting]
        for then in over:
            then()

    async def drain(self, grace_s: float) -> None:
        """Greet nobody any more, send 421 to who is between transactions, wait for the others at most `grace_s`."""
        self._is_closing = True
        clock = self.terms.clock
        until = clock.monotonic() + grace_s
        for reception in list(self._open):
            reception.leave()
        while self._open and clock.monotonic() < until:
            await clock.sleep(DRAIN_STEP_S)
        for reception in list(self._open):
            reception.drop()


def _whole(terms: ReceptionTerms) -> ClientTerms:
    """Give the terms of clients, with those of who is in no network that is described."""
    if terms.clients.others is not None:
        return terms.clients
    return replace(terms.clients, others=NetworkTerms(connections=terms.limits.connections_per_client))
