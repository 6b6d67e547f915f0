# SPDX-License-Identifier: MIT
"""What an operator can choose, as frozen values with their defaults. Durations end in _s, sizes in _octets. Pure."""

from collections.abc import Mapping
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from msgspec import Struct

from smarthost.accept.listeners import Mode as Mode
from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.route.table import Families
from smarthost.smtp.limits import Limits

Network = IPv4Network | IPv6Network
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
DAY_S = 86400.0
_ACCEPT = Limits()


class Endpoint(Struct, frozen=True):
    """A host (name or IP address text) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Protocol(Enum):
    """What is spoken with a next hop."""

    SMTP = "smtp"
    LMTP = "lmtp"


class ListenerTls(Enum):
    """What a listener does about TLS."""

    NONE = "none"
    OFFERED = "offered"
    REQUIRED = "required"


class BareNewline(Enum):
    """What becomes of content with a CR or LF that is no part of a CRLF."""

    REJECT = "reject"
    NORMALISE = "normalise"


class NextHopSection(Struct, frozen=True, kw_only=True):
    """A host that takes mail from us: one of the default ones, or of a route."""

    host: str
    port: int = 25
    protocol: Protocol = Protocol.SMTP
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    implicit_tls: bool = False
    families: Families = Families.BOTH
    credentials: Credentials | None = None
    password_file: Path | None = None  # where the password was read
    ca_file: Path | None = None
    source: str = ""
    hostname: str = ""


class RouteSection(Struct, frozen=True, kw_only=True):
    """Where mail for some domains, or of some senders, goes: to next hops in order, or nowhere ("refuse" has the text);
    neither means direct MX.

    `families`, `tls`, `source` and `hostname` are for direct MX, where None and "" mean MxSection's and the default; a
    next hop has its own.
    """

    domains: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    next_hops: tuple[NextHopSection, ...] = ()
    refuse: str = ""
    families: Families | None = None
    tls: TlsLevel | None = None
    source: str = ""
    hostname: str = ""


class TlsSection(Struct, frozen=True, kw_only=True):
    """Our own certificate, and whether clients are asked for theirs."""

    certificate_file: Path | None = None
    key_file: Path | None = None
    client_certificates: bool = False
    client_ca_file: Path | None = None


class AuthSection(Struct, frozen=True, kw_only=True):
    """Who may log in."""

    users_file: Path | None = None


class ListenerSection(Struct, frozen=True, kw_only=True):
    """Addresses to listen on, and what for. `tls`, `relay_from` and the files: None means the default of the mode,
    of the top, and of TlsSection."""

    listen: tuple[Endpoint, ...]
    mode: Mode = Mode.RELAY
    tls: ListenerTls | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    relay_from: tuple[Network, ...] | None = None
    proxy_from: tuple[Network, ...] = ()
    xclient_from: tuple[Network, ...] = ()
    bare_newline: BareNewline = BareNewline.REJECT


class NetworkSection(Struct, frozen=True, kw_only=True):
    """What clients of some networks may do. None: as LimitsSection; 0: no limit. No senders: any."""

    networks: tuple[Network, ...]
    senders: tuple[str, ...] = ()
    connections: int | None = None
    connections_per_minute: int | None = None
    messages_per_minute: int | None = None
    recipients_per_minute: int | None = None
    errors_per_minute: int | None = None


class DkimSection(Struct, frozen=True, kw_only=True):
    """A key that signs mail whose From: is in one of these domains."""

    domains: tuple[str, ...]
    selector: str
    key_file: Path


class DnsSection(Struct, frozen=True, kw_only=True):
    """Whom to ask; no servers means those of /etc/resolv.conf."""

    servers: tuple[Endpoint, ...] = ()
    timeout_s: float = 10.0
    alias_lookups: int = 3


class MxSection(Struct, frozen=True, kw_only=True):
    """Direct delivery to mail exchangers."""

    port: int = 25
    allow_private: bool = False
    families: Families = Families.BOTH
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC


class HostsSection(Struct, frozen=True, kw_only=True):
    """How long hosts that do not work are left alone, and how long one may take while others are at hand."""

    first_pause_s: float = 5.0
    longest_pause_s: float = 3600.0
    forget_after_s: float = 4 * 3600.0
    patience_s: float = 8.0


class RetrySection(Struct, frozen=True, kw_only=True):
    """When a deferred recipient is tried again, and when we give up (RFC 5321 4.5.4.1)."""

    first_s: float = 300.0
    longest_s: float = 4000.0
    jitter: float = 0.1
    delay_warning_s: float = 4 * 3600.0
    expire_after_s: float = 5 * DAY_S


class LimitsSection(Struct, frozen=True, kw_only=True):
    """What clients may ask of us, and what we ask of hosts. The rates are for a client's network, 0 is no limit."""

    message_octets: int = _ACCEPT.message_octets
    recipients: int = _ACCEPT.recipients
    errors: int = _ACCEPT.errors
    connections: int = _ACCEPT.connections
    connections_per_client: int = _ACCEPT.connections_per_client
    client_prefix_ipv4: int = 32
    client_prefix_ipv6: int = 64
    connections_per_minute: int = 0
    messages_per_minute: int = 0
    recipients_per_minute: int = 0
    errors_per_minute: int = 0
    sessions_per_lane: int = 20
    messages_per_session: int = 100
    idle_session_s: float = 5.0


class LogSection(Struct, frozen=True, kw_only=True):
    """What is told on stderr."""

    level: str = "info"
    accepted: bool = True


class RecordsSection(Struct, frozen=True, kw_only=True):
    """How long is remembered what happened to mail."""

    keep_s: float = 7 * DAY_S


class MaildropSection(Struct, frozen=True, kw_only=True):
    """Where sendmail leaves mail, and who may: names of local users, or "*" for all."""

    directory: Path | None = None
    users: tuple[str, ...] = ("*",)


class HttpSection(Struct, frozen=True, kw_only=True):
    """The API and the page; no `listen`: there are none."""

    listen: tuple[Endpoint, ...] = ()
    tokens_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    public_url: str = ""
    show_content: bool = False


class WebhookSection(Struct, frozen=True, kw_only=True):
    """A receiver of records by HTTP. No kinds: all."""

    url: str
    secret_file: Path
    kinds: tuple[str, ...] = ()
    ca_file: Path | None = None
    batch: int = 500
    timeout_s: float = 10.0


class EventsSection(Struct, frozen=True, kw_only=True):
    """Where else records go: a file of JSON Lines, a syslog ("unix:PATH", "udp:HOST:PORT" or "HOST:PORT")."""

    file: Path | None = None
    syslog: str = ""


class Config(Struct, frozen=True, kw_only=True):
    """Everything an operator can choose; `file` is where it was read from, or ""."""

    hostname: str
    state_dir: Path
    listen: tuple[Endpoint, ...] = (Endpoint("127.0.0.1", 2525),)
    relay_from: tuple[Network, ...] = LOOPBACK
    transfer_from: tuple[Network, ...] = ()
    postmaster: str = ""
    soft_bounce: bool = False
    next_hops: tuple[NextHopSection, ...] = ()
    routes: tuple[RouteSection, ...] = ()
    listeners: tuple[ListenerSection, ...] = ()
    networks: tuple[NetworkSection, ...] = ()
    dkim: tuple[DkimSection, ...] = ()
    tls: TlsSection = TlsSection()
    auth: AuthSection = AuthSection()
    dns: DnsSection = DnsSection()
    mx: MxSection = MxSection()
    hosts: HostsSection = HostsSection()
    retry: RetrySection = RetrySection()
    limits: LimitsSection = LimitsSection()
    log: LogSection = LogSection()
    records: RecordsSection = RecordsSection()
    maildrop: MaildropSection = MaildropSection()
    webhooks: tuple[WebhookSection, ...] = ()
    events: EventsSection = EventsSection()
    http: HttpSection = HttpSection()
    file: str = ""

    @property
    def relays_for_everyone(self) -> bool:
        """Is this an open relay?"""
        listening = [listener.relay_from for listener in self.listeners if listener.relay_from is not None]
        open_to = (self.relay_from, self.transfer_from, *listening)
        return any(network.prefixlen == 0 for networks in open_to for network in networks)


class Reading(Struct, frozen=True):
    """What became of a text: a Config, or all its errors. `file`: where it came from, or ""; `lines`: those of keys."""

    config: Config | None
    errors: tuple[ConfigError, ...]
    file: str = ""
    lines: Mapping[str, int] = {}
