# SPDX-License-Identifier: MIT
"""Who a client is by now, and what it may do: the one place that decides who gets in.

Pure. A client is an address until it proves more; TLS forgets what it proved before (RFC 3207 4.2), and only AUTH, a
certificate of a user, or the word of a trusted proxy makes it a user. Where users submit, nobody else may send; where
machines relay, networks count (accept.policy), and users may relay from anywhere. AUTH= of MAIL is evidence of nothing.
What follows from that is worked out when it changes, not for each command.
"""

from functools import lru_cache

from msgspec.structs import replace

from smarthost.accept import replies
from smarthost.accept.clients import Allowance, Clients, NetworkAllowance
from smarthost.accept.listeners import ListenerTerms, Mode
from smarthost.accept.policy import LOOPBACK, Networks
from smarthost.accept.senders import Senders, senders_of
from smarthost.mail.address import Address
from smarthost.mail.hop import TlsFacts
from smarthost.mail.reply import Reply
from smarthost.mail.user import User
from smarthost.smtp.offer import NOTHING, Offer, ServerSettings

MECHANISMS = ("PLAIN", "LOGIN")
_ANY = ("*",)
_LOOPBACK = Networks(LOOPBACK, "loopback")


class Door:
    """A listener's terms, made ready. Raises: ConfigError: names `xclient_from` or `transfer_from`."""

    def __init__(self, terms: ListenerTerms) -> None:
        self.terms = terms
        self.policy = terms.policy
        self.greeting = replies.greeting(terms.settings.hostname, is_lmtp=terms.settings.is_lmtp)
        self.is_for_users = terms.mode in (Mode.SUBMISSION, Mode.SUBMISSIONS)
        self.begins_with_tls = terms.implicit_tls or terms.mode is Mode.SUBMISSIONS
        self.submits_to = terms.settings.hostname if self.is_for_users else ""  # who adds missing fields, if anybody
        self.proxies = Networks(terms.xclient_from, "xclient_from") if terms.xclient_from else None
        self.nodes = Networks(terms.transfer_from, "transfer_from") if terms.transfer_from else None
        # Nobody is offered more.
        self.is_plain = terms.tls is None and terms.users is None and self.proxies is None and self.nodes is None
        self._strict_settings = replace(terms.settings, normalises_newlines=False)

    @property
    def can_secure(self) -> bool:
        """Is there a certificate to show now?"""
        return self.terms.tls is not None and self.terms.tls.can_serve

    def settings_for(self, standing: "Standing") -> ServerSettings:
        """Give the settings for a client that has just come: newlines are mended for our own machines only."""
        return self.terms.settings if standing.may_relay else self._strict_settings


class Standing:
    """What one client is and may. `signs`: whose names in From: we sign for it (accept.senders), () for nobody's.

    Not `is_named`: a balancer did not say for whom it connects. That one has no rights by the balancer's address.
    """

    # fmt: off
    __slots__ = (
        "_allowance", "_allowances", "_clients", "_door", "_found", "_is_named", "_is_proxy", "_is_spoken_for",
        "_local", "_peer", "_senders", "client", "is_secured", "may_relay", "sends_freely", "signs", "user",
    )
    # fmt: on

    def __init__(self, door: Door, clients: Clients, peer: str, local: str, *, is_named: bool = True) -> None:
        self._door = door
        self._clients = clients
        self._peer = peer
        self._local = local
        self._is_named = is_named
        self._is_proxy = door.proxies is not None and is_named and peer in door.proxies
        self._is_spoken_for = False
        self.is_secured = False
        self.user: User | None = None
        self._senders: Senders | None
        self._allowance: NetworkAllowance | None
        self._allowances: tuple[Allowance, ...]
        self.client = peer
        self._found = clients.find(peer)
        self.became(None)

    def came_from(self, client: str, user: User | None = None) -> None:
        """The client has this address; a trusted proxy that says so may name a user, too."""
        self.client = client
        self._found = self._clients.find(client)
        self.became(user)

    def spoken_for(self) -> None:
        """A trusted proxy has said who the client is; it may pass on what that client says from now on (nginx does)."""
        self._is_spoken_for = True

    @property
    def network(self) -> str:
        """The client network it counts for."""
        return self._found.network

    def became(self, user: User | None) -> None:
        """The client proved to be this user, or what it proved is forgotten."""
        door, clients, found = self._door, self._clients, self._found
        self.user = user
        allowance = self._allowance = clients.allowance_of(found) if found.is_rated else None
        self._allowances = () if allowance is None else (allowance,)
        if user is None:
            self.may_relay = not door.is_for_users and self._is_named and door.policy.may_relay(self.client)
            self._senders = found.senders
            self.signs = (found.terms.senders or _ANY) if self.may_relay else ()
        else:
            self.may_relay = True
            self._senders = senders_of(user.senders)
            self.signs = user.senders
            if (of_user := clients.allowance_of_user(user)) is not None:
                self._allowances = (*self._allowances, of_user)
        # Whom nothing bounds is not asked about each message.
        is_bound = self._senders is not None or self._allowances or (user is None and door.is_for_users)
        self.sends_freely = not (is_bound or (door.terms.requires_tls and not self.is_secured))

    def secured(self, facts: TlsFacts) -> None:
        """TLS has begun: who the client was before counts no more, its certificate does.

        What a trusted proxy said of its address stays, as in Postfix: the proxy is still who it is.
        Raises: StoreError: users cannot be read; then it is nobody.
        """
        self.is_secured = True
        self.became(None)
        users = self._door.terms.users
        if users is not None and facts.fingerprint and not self._is_proxy:
            self.became(users.find_certificate(facts.fingerprint))

    @property
    def offer(self) -> Offer:
        """What this client may use now."""
        door, is_secured = self._door, self.is_secured
        if door.is_plain:
            return NOTHING
        return _make_offer(
            not is_secured and door.can_secure,
            self._may_log_in,
            is_secured,
            self._is_proxy and not self._is_spoken_for,
            self._is_node,
        )

    @property
    def _is_node(self) -> bool:
        """May it hand over a queue? Only who comes itself: no proxy's word makes a client a node."""
        nodes = self._door.nodes
        if nodes is None or (self._door.terms.requires_tls and not self.is_secured):
            return False
        return self._is_named and not self._is_spoken_for and self._peer in nodes

    @property
    def _may_log_in(self) -> bool:
        terms = self._door.terms
        if terms.users is None or self.is_secured:
            return terms.users is not None
        return (
            not terms.requires_tls
            and self._is_named
            and all(end in _LOOPBACK for end in (self._peer, self._local, self.client))
        )

    def refuse_mail(self, reverse_path: Address | None) -> Reply | None:
        """Refuse a reverse-path (None: the null path), or give None and count a message.

        Need not be asked while `sends_freely`: it would give None, and there is nothing to count.
        """
        door = self._door
        if door.terms.requires_tls and not self.is_secured:
            return replies.TLS_FIRST
        if door.is_for_users and self.user is None:
            return replies.AUTH_FIRST if self._may_log_in or self.is_secured else replies.TLS_FIRST
        if self._senders is not None and (refusal := self._refuse_sender(reverse_path, self._senders)) is not None:
            return refusal
        now = self._clients.monotonic()
        for allowance in self._allowances:
            if not allowance.take_message(now):
                return replies.TOO_MANY_MESSAGES
        return None

    def _refuse_sender(self, reverse_path: Address | None, senders: Senders) -> Reply | None:
        user = self.user
        if reverse_path is None:  # a network's machines report, and none of its mail is forged by that; users do not
            return None if user is None or senders.is_any else replies.NULL_SENDER_DENIED
        if senders.allow(reverse_path):
            return None
        if user is None:
            return replies.sender_denied_to_network(reverse_path.text, self.client)
        return replies.sender_denied_to_user(reverse_path.text, user.name)

    def refuse_recipient(self, recipient: Address) -> Reply | None:
        """Refuse a recipient, or give None and count it."""
        refusal = self._door.policy.refuse_recipient(recipient, self.client, may_relay=self.may_relay)
        if refusal is not None or not self._allowances:
            return refusal
        now = self._clients.monotonic()
        for allowance in self._allowances:
            if not allowance.take_recipient(now):
                return replies.TOO_MANY_RECIPIENTS
        return None

    def take_errors(self, count: int) -> bool:
        """Count 5xx replies; False: they are too many for this client's network."""
        return self._allowance is None or self._allowance.take_errors(self._clients.monotonic(), count)


@lru_cache(maxsize=32)  # all there are
def _make_offer(starttls: bool, may_log_in: bool, is_secured: bool, is_proxy: bool, is_node: bool) -> Offer:
    return Offer(starttls, MECHANISMS if may_log_in else (), is_secured, is_proxy, is_node)
