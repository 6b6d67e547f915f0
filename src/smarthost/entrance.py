# SPDX-License-Identifier: MIT
"""Config -> the doors through which mail comes in: listeners with their modes, users, certificates, limits, signatures.

Part of assemble.py, which opens and closes it: knows both accept and the world. What is wrong with a file (certificate,
users, keys) is a ConfigError before anything listens. Decides nothing about mail.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from smarthost.accept.clients import Clients
from smarthost.accept.inject import Injection
from smarthost.accept.listeners import ListenerTerms, Mode, ReceptionTerms
from smarthost.accept.policy import RelayPolicy
from smarthost.accept.receptions import Receptions
from smarthost.accept.sign import Signing
from smarthost.backends.keyring import KeyFile, KeyFiles, load_key
from smarthost.backends.sockets import SocketAddress
from smarthost.backends.tls import ServerTls, TlsContexts
from smarthost.backends.users import UserFile
from smarthost.config import BareNewline, Config, Endpoint, ListenerSection, ListenerTls, Network, terms
from smarthost.mail.address import Address
from smarthost.mail.content import Draft
from smarthost.mail.errors import ConfigError
from smarthost.mail.message import Message
from smarthost.ports import Clock, Connection, Listener, Receiver, Sink
from smarthost.route.table import RouteTable
from smarthost.smtp.server import ServerSettings

Filed = Callable[[Exception | None], None]
_Accept = Callable[[Connection], Receiver | None]
_Pair = tuple[Path, Path | None]  # of a certificate and its key


class ReopeningListener(Listener, Protocol):
    """A Listener whose addresses can be left one by one, and have other balancers."""

    async def leave(self, bound: SocketAddress) -> None: ...
    def trust(self, bound: SocketAddress, proxies: Sequence[str]) -> None: ...


class _Furniture(Struct, frozen=True):
    """All that a Config makes of the entrance, opened but not in use."""

    config: Config
    users: UserFile | None
    keys: KeyFiles | None
    certificates: dict[_Pair, ServerTls]
    terms: ReceptionTerms
    injection: Injection
    rooms: tuple[tuple[str, ListenerSection, ListenerTerms], ...]  # key of the section, ...


class _Doorway:
    """What a listener calls at one address: who stands behind it may be replaced while it listens."""

    def __init__(self, key: str, endpoint: Endpoint, accept: _Accept, proxies: tuple[str, ...]) -> None:
        self.key = key
        self.endpoint = endpoint
        self.accept = accept
        self.proxies = proxies
        self.bound: SocketAddress = ("", 0)

    def __call__(self, connection: Connection) -> Receiver | None:
        return self.accept(connection)


class Refurnishing:
    """A new Config on its way into an Entrance: `open` is undone by `give_up`, `apply` cannot fail."""

    def __init__(self, furniture: _Furniture, doorways: list[_Doorway], known: Sequence[_Doorway]) -> None:
        self.furniture = furniture
        self.doorways: list[_Doorway] = []  # as they will be
        self.kept: list[tuple[_Doorway, _Doorway]] = []  # who listens there, and what is to stand there
        self.new: list[_Doorway] = []
        self.opened: list[_Doorway] = []
        self.left: list[_Doorway] = []  # before their time: they were in the way
        self.gone = list(known)
        for wanted in doorways:
            same = next((each for each in self.gone if each.endpoint == wanted.endpoint), None)
            if same is None:
                self.new.append(wanted)
            else:
                self.gone.remove(same)
                self.kept.append((same, wanted))
            self.doorways.append(same or wanted)


class Entrance:
    """All doors of one relay. Raises: ConfigError: names the file or key."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        sink: Sink,
        table: RouteTable,
        *,
        next_id: Callable[[], str],
        add: Callable[[Message, Filed], None],
        draft: Callable[[], Draft],
        refusal: Callable[[], Exception | None],
    ) -> None:
        self._clock = clock
        self._sink = sink
        self._table = table
        self._next_id = next_id
        self._add = add
        self._draft = draft
        self._refusal = refusal
        self._furniture = self._furnish(config, None)
        self._retired: list[Callable[[], None]] = []  # of former Configs, while sessions of then go on
        self._doorways: list[_Doorway] = []
        self.receptions = Receptions(self._furniture.terms)

    @property
    def injection(self) -> Injection:
        """Files what comes by no listener."""
        return self._furniture.injection

    def _furnish(self, config: Config, former: _Furniture | None) -> _Furniture:
        """Open what a Config names; of what was open before, what is the same goes on with what it has learned."""
        clock, sink = self._clock, self._sink
        is_same_users = former is not None and former.config.auth == config.auth
        users = former.users if former is not None and is_same_users else _open_users(config, clock, sink)
        is_same_keys = former is not None and former.config.dkim == config.dkim
        keys = former.keys if former is not None and is_same_keys else _open_keys(config, clock, sink)
        certificates = dict(former.certificates) if former is not None and former.config.tls == config.tls else {}
        sign = None if keys is None else Signing(keys, clock, sink).sign
        limits = terms.limits(config)
        add = _scoping(self._table, self._add) if any(route.senders for route in config.routes) else self._add
        policy = _policy(config, config.relay_from)
        injection = Injection(
            hostname=config.hostname,
            limits=limits,
            clock=clock,
            next_id=self._next_id,
            add=add,
            route_recipient=policy.route_recipient,
            refuse_recipient=lambda recipient: policy.refuse_recipient(recipient, "local", may_relay=True),
            sign=sign,
        )
        shared = ReceptionTerms(
            limits=limits,
            clock=clock,
            sink=sink,
            next_id=self._next_id,
            add=add,
            draft=self._draft,
            refusal=self._refusal,
            sign=sign,
            clients=terms.client_terms(config),
        )
        doors = _all_listeners(config)
        rooms = tuple([(key, door, self._terms_of(config, door, users, certificates)) for key, door in doors])
        return _Furniture(config, users, keys, certificates, shared, injection, rooms)

    def _terms_of(
        self, config: Config, section: ListenerSection, users: UserFile | None, certificates: dict[_Pair, ServerTls]
    ) -> ListenerTerms:
        limits, mode = terms.limits(config), section.mode
        tls = None if section.tls is ListenerTls.NONE else self._certificate(config, section, certificates)
        is_for_users = mode in (Mode.SUBMISSION, Mode.SUBMISSIONS)
        networks = config.relay_from if section.relay_from is None else section.relay_from
        is_demanded = section.tls is ListenerTls.REQUIRED or (is_for_users and section.tls is None)
        requires_tls = tls is not None and is_demanded
        return ListenerTerms(
            settings=ServerSettings(
                hostname=config.hostname,
                max_octets=limits.message_octets,
                max_recipients=limits.recipients,
                max_errors=limits.errors,
                is_lmtp=mode is Mode.LMTP,
                normalises_newlines=section.bare_newline is BareNewline.NORMALISE,
                requires_tls=requires_tls,
            ),
            policy=_policy(config, networks),
            mode=mode,
            tls=tls,
            requires_tls=requires_tls,
            implicit_tls=mode is Mode.SUBMISSIONS,
            users=users,
            xclient_from=tuple(map(str, section.xclient_from)),
            transfer_from=tuple(map(str, config.transfer_from)) if mode is Mode.RELAY else (),
        )

    def _certificate(
        self, config: Config, section: ListenerSection, certificates: dict[_Pair, ServerTls]
    ) -> ServerTls | None:
        """Give the certificate of a listener, each pair of files opened once."""
        own = config.tls
        if section.certificate_file is not None:
            files = (section.certificate_file, section.key_file)
        elif own.certificate_file is not None:
            files = (own.certificate_file, own.key_file)
        else:
            return None
        if files not in certificates:
            certificates[files] = _open_certificate(config, *files, self._clock, self._sink)
        return certificates[files]

    def _doorways_of(self, furniture: _Furniture) -> list[_Doorway]:
        doorways = []
        for key, section, door_terms in furniture.rooms:
            accept, proxies = self.receptions.door(door_terms), tuple(map(str, section.proxy_from))
            doorways += [_Doorway(key, endpoint, accept, proxies) for endpoint in section.listen]
        return doorways

    async def listen(self, listener: Listener) -> list[SocketAddress]:
        """Open all doors; gives the addresses they are bound to. Raises: ConfigError: one cannot be bound."""
        self._doorways = self._doorways_of(self._furniture)
        for doorway in self._doorways:
            await _listen_at(listener, doorway)
        return self.bound

    @property
    def bound(self) -> list[SocketAddress]:
        """The addresses that the doors are bound to."""
        return [doorway.bound for doorway in self._doorways]

    async def open(self, config: Config, listener: ReopeningListener) -> Refurnishing:
        """Open all that another Config names; nothing of what is in use has changed but where addresses overlap.

        Raises: ConfigError: something cannot be opened, and all is as it was.
        """
        furniture = self._furnish(config, self._furniture)
        change = Refurnishing(furniture, self._doorways_of(furniture), self._doorways)
        try:
            for doorway in [each for each in change.gone if any(_overlap(each, new) for new in change.new)]:
                await listener.leave(doorway.bound)
                change.left.append(doorway)
            for doorway in change.new:
                await _listen_at(listener, doorway)
                change.opened.append(doorway)
        except BaseException:
            await self.give_up(change, listener)
            raise
        return change

    async def give_up(self, change: Refurnishing, listener: ReopeningListener) -> None:
        """Undo `open`."""
        for doorway in change.opened:
            await listener.leave(doorway.bound)
        for doorway in change.left:
            try:
                doorway.bound = await listener.listen(*doorway.bound, doorway, doorway.proxies)
            except ConfigError as failure:  # somebody was quicker; the next reload tries it anew
                self._doorways = [each for each in self._doorways if each is not doorway]
                self._sink.note("error", "listener lost", key=doorway.key, listen=doorway.bound, why=str(failure))
        _close(change.furniture, self._furniture)

    def apply(self, change: Refurnishing, listener: ReopeningListener) -> None:
        """Put to use what `open` gave; sessions under way end by the terms they began with."""
        former, self._furniture = self._furniture, change.furniture
        self.receptions.adopt(change.furniture.terms)
        for doorway, wanted in change.kept:
            doorway.key, doorway.accept, doorway.proxies = wanted.key, wanted.accept, wanted.proxies
            listener.trust(doorway.bound, doorway.proxies)
        self._doorways = change.doorways
        if former.users is not change.furniture.users or former.keys is not change.furniture.keys:
            self._retire(lambda: _close(former, change.furniture))

    async def leave(self, change: Refurnishing, listener: ReopeningListener) -> None:
        """Listen no more where the Config that was put to use has no door; sessions there go on."""
        for doorway in change.gone:
            await listener.leave(doorway.bound)

    def _retire(self, close: Callable[[], None]) -> None:
        """Close what sessions of before still use once they have ended."""
        self._retired.append(close)

        def retired() -> None:
            if close in self._retired:
                self._retired.remove(close)
                close()

        self.receptions.when_over(retired)

    def close(self) -> None:
        """Let go of what looks things up aside; no door may be open any more."""
        for close in self._retired:
            close()
        self._retired.clear()
        _close(self._furniture, None)


def _policy(config: Config, networks: tuple[Network, ...]) -> RelayPolicy:
    return RelayPolicy(map(str, networks), config.postmaster)


async def _listen_at(listener: Listener, doorway: _Doorway) -> None:
    endpoint = doorway.endpoint
    try:
        doorway.bound = await listener.listen(endpoint.host, endpoint.port, doorway, doorway.proxies)
    except ConfigError as error:
        raise ConfigError(error.detail, key=doorway.key) from error


def _overlap(one: _Doorway, other: _Doorway) -> bool:
    """Can only one of them be bound?"""
    if one.bound[1] != other.endpoint.port:
        return False
    first, second = ip_address(one.bound[0]), ip_address(other.endpoint.host)
    return first.version == second.version and (first == second or first.is_unspecified or second.is_unspecified)


def _close(furniture: _Furniture, other: _Furniture | None) -> None:
    """Close what is not the other's, too."""
    if furniture.users is not None and (other is None or other.users is not furniture.users):
        furniture.users.close()
    if furniture.keys is not None and (other is None or other.keys is not furniture.keys):
        furniture.keys.close()


def find_bad_files(config: Config, clock: Clock, sink: Sink) -> Iterator[ConfigError]:
    """Name what is wrong with routes, networks, users, keys and certificates, as a start would; opens no door."""
    pairs: dict[_Pair, str] = {}
    if config.tls.certificate_file is not None:
        pairs[config.tls.certificate_file, config.tls.key_file] = "tls"
    for number, each in enumerate(config.listeners, 1):
        if each.certificate_file is not None:
            pairs.setdefault((each.certificate_file, each.key_file), f"listener[{number}]")
    openers: list[tuple[str, Callable[[], object]]] = [
        ("", lambda: terms.route_table(config)),
        ("", lambda: TlsContexts(ca_file=terms.ca_file(config)).check()),
        ("", lambda: Clients(terms.client_terms(config), clock.monotonic)),
        ("auth", lambda: _try_users(config, clock, sink)),
        *[(f"dkim[{n}]", partial(load_key, section.key_file)) for n, section in enumerate(config.dkim, 1)],
        *[(place, partial(_open_certificate, config, *pair, clock, sink)) for pair, place in pairs.items()],
    ]
    for place, opener in openers:
        try:
            opener()
        except ConfigError as error:
            key = f"{place}.{error.key.rpartition('.')[2]}" if place else error.key
            yield ConfigError(error.detail, key=key)


def _try_users(config: Config, clock: Clock, sink: Sink) -> None:
    if (users := _open_users(config, clock, sink)) is not None:
        users.close()


def _open_certificate(config: Config, file: Path, key_file: Path | None, clock: Clock, sink: Sink) -> ServerTls:
    opened = ServerTls(
        str(file),
        str(key_file or ""),
        client_ca_file=str(config.tls.client_ca_file or ""),
        asks_client=config.tls.client_certificates,
        clock=clock,
        note=sink.note,
    )
    _warn_if_expired(file, clock, sink)
    return opened


def _warn_if_expired(file: Path, clock: Clock, sink: Sink) -> None:
    """Say that clients which verify will not have the certificate; those that do not (RFC 7435) go on, so we start."""
    from cryptography import x509  # 77 ms, for those who need it

    ended_at = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    if ended_at <= datetime.fromtimestamp(clock.wall(), UTC):
        sink.note("warning", "certificate expired", file=str(file), since=ended_at.isoformat())


def _all_listeners(config: Config) -> tuple[tuple[str, ListenerSection], ...]:
    """Give the listeners, each with its key; `listen` is one for machines, with all its defaults."""
    for_machines = [("listen", ListenerSection(listen=config.listen))] if config.listen else []
    return (*for_machines, *[(f"listener[{n}].listen", each) for n, each in enumerate(config.listeners, 1)])


def _open_users(config: Config, clock: Clock, sink: Sink) -> UserFile | None:
    file = config.auth.users_file
    return None if file is None else UserFile(str(file), clock, sink.note)


def _open_keys(config: Config, clock: Clock, sink: Sink) -> KeyFiles | None:
    files = [KeyFile(section.domains, section.selector, section.key_file) for section in config.dkim]
    return KeyFiles(files, clock, sink) if files else None


def _scoping(table: RouteTable, add: Callable[[Message, Filed], None]) -> Callable[[Message, Filed], None]:
    """File recipients under the sender's own routes where there are any."""

    def scoped(message: Message, recipient: Address) -> Address:
        domain = table.scope(message.envelope.reverse_path, message.user, recipient.domain)
        return recipient if domain == recipient.domain else replace(recipient, domain=domain)

    def add_scoped(message: Message, filed: Filed) -> None:
        recipients = tuple([scoped(message, recipient) for recipient in message.envelope.recipients])
        add(replace(message, envelope=replace(message.envelope, recipients=recipients)), filed)

    return add_scoped
