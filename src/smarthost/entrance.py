# SPDX-License-Identifier: MIT
"""Config -> the doors through which mail comes in: listeners with their modes, users, certificates, limits, signatures.

Part of assemble.py, which opens and closes it: knows both accept and the world. What is wrong with a file (certificate,
users, keys) is a ConfigError before anything listens. Decides nothing about mail.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from smarthost.accept.clients import Clients
from smarthost.accept.inject import Injection
from smarthost.accept.listeners import ListenerTerms, Mode, ReceptionTerms
from smarthost.accept.policy import RelayPolicy
from smarthost.accept.receptions import Receptions
from smarthost.accept.sign import Signing
from smarthost.backends.keyring import KeyFile, KeyFiles, load_key
from smarthost.backends.tls import ServerTls
from smarthost.backends.users import UserFile
from smarthost.config import BareNewline, Config, Endpoint, ListenerSection, ListenerTls, Network, terms
from smarthost.mail.address import Address
from smarthost.mail.content import Draft
from smarthost.mail.errors import ConfigError
from smarthost.mail.message import Message
from smarthost.ports import Clock, Listener, Sink
from smarthost.route.table import RouteTable
from smarthost.smtp.server import ServerSettings

Filed = Callable[[Exception | None], None]


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
        self._config = config
        self._clock = clock
        self._sink = sink
        self._certificates: dict[tuple[Path, Path | None], ServerTls] = {}
        self._users = _open_users(config, clock, sink)
        self._keys = _open_keys(config, clock, sink)
        sign = None if self._keys is None else Signing(self._keys, clock, sink).sign
        limits = terms.limits(config)
        add = _scoping(table, add) if any(route.senders for route in config.routes) else add
        policy = self._policy(config.relay_from)
        self.injection = Injection(
            hostname=config.hostname,
            limits=limits,
            clock=clock,
            next_id=next_id,
            add=add,
            route_recipient=policy.route_recipient,
            refuse_recipient=lambda recipient: policy.refuse_recipient(recipient, "local", may_relay=True),
            sign=sign,
        )
        self.receptions = Receptions(
            ReceptionTerms(
                limits=limits,
                clock=clock,
                sink=sink,
                next_id=next_id,
                add=add,
                draft=draft,
                refusal=refusal,
                sign=sign,
                clients=terms.client_terms(config),
            )
        )
        self._doors = [(section, self._terms_of(section)) for section in _all_listeners(config)]

    def _policy(self, networks: tuple[Network, ...]) -> RelayPolicy:
        return RelayPolicy((str(network) for network in networks), self._config.postmaster)

    def _terms_of(self, section: ListenerSection) -> ListenerTerms:
        config, limits, mode = self._config, terms.limits(self._config), section.mode
        tls = None if section.tls is ListenerTls.NONE else self._certificate(section)
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
            policy=self._policy(networks),
            mode=mode,
            tls=tls,
            requires_tls=requires_tls,
            implicit_tls=mode is Mode.SUBMISSIONS,
            users=self._users,
            xclient_from=tuple(map(str, section.xclient_from)),
            transfer_from=tuple(map(str, config.transfer_from)) if mode is Mode.RELAY else (),
        )

    def _certificate(self, section: ListenerSection) -> ServerTls | None:
        """Give the certificate of a listener, each pair of files opened once."""
        own = self._config.tls
        if section.certificate_file is not None:
            files = (section.certificate_file, section.key_file)
        elif own.certificate_file is not None:
            files = (own.certificate_file, own.key_file)
        else:
            return None
        if files not in self._certificates:
            self._certificates[files] = _open_certificate(self._config, *files, self._clock, self._sink)
        return self._certificates[files]

    async def listen(self, listener: Listener) -> list[tuple[str, int]]:
        """Open all doors; gives the addresses they are bound to. Raises: ConfigError: one cannot be bound."""
        bound = []
        for section, door_terms in self._doors:
            accepted = self.receptions.door(door_terms)
            proxies = tuple(map(str, section.proxy_from))
            for endpoint in section.listen:
                bound.append(await listener.listen(endpoint.host, endpoint.port, accepted, proxies))
        return bound

    def close(self) -> None:
        """Let go of what looks things up aside; no door may be open any more."""
        if self._users is not None:
            self._users.close()
        if self._keys is not None:
            self._keys.close()


def find_bad_files(config: Config, clock: Clock, sink: Sink) -> Iterator[ConfigError]:
    """Name what is wrong with routes, networks, users, keys and certificates, as a start would; opens no door."""
    named = [(config.tls.certificate_file, config.tls.key_file)]
    named += [(each.certificate_file, each.key_file) for each in config.listeners]
    pairs = {(file, key_file) for file, key_file in named if file is not None}
    openers: list[Callable[[], object]] = [
        lambda: terms.route_table(config),
        lambda: terms.ca_file(config),
        lambda: Clients(terms.client_terms(config), clock.monotonic),
        lambda: _open_users(config, clock, sink),
        *[partial(load_key, section.key_file) for section in config.dkim],
        *[partial(_open_certificate, config, *pair, clock, sink) for pair in sorted(pairs, key=str)],
    ]
    for opener in openers:
        try:
            opener()
        except ConfigError as error:
            yield error


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


def _all_listeners(config: Config) -> tuple[ListenerSection, ...]:
    """Give the listeners; `listen` is one for machines, with all its defaults."""
    short: tuple[Endpoint, ...] = config.listen
    return ((ListenerSection(listen=short),) if short else ()) + config.listeners


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
