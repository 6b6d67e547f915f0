# SPDX-License-Identifier: MIT
"""What an operator can choose, as frozen values with their defaults. Durations end in _s, sizes in _octets. Pure."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from msgspec import Struct

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


class NextHopSection(Struct, frozen=True, kw_only=True):
    """A host that takes mail from us: the default one, or one of a route."""

    host: str
    port: int = 25
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    implicit_tls: bool = False
    families: Families = Families.BOTH
    credentials: Credentials | None = None
    ca_file: Path | None = None


class RouteSection(Struct, frozen=True, kw_only=True):
    """Where mail for some domains goes: to a next hop, or nowhere ("refuse" has the text); neither means direct MX.

    `families` is for direct MX, where None means MxSection's; a next hop has its own.
    """

    domains: tuple[str, ...]
    next_hop: NextHopSection | None = None
    refuse: str = ""
    families: Families | None = None


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
    expire_after_s: float = 5 * DAY_S


class LimitsSection(Struct, frozen=True, kw_only=True):
    """What clients may ask of us, and what we ask of hosts."""

    message_octets: int = _ACCEPT.message_octets
    recipients: int = _ACCEPT.recipients
    errors: int = _ACCEPT.errors
    connections: int = _ACCEPT.connections
    connections_per_client: int = _ACCEPT.connections_per_client
    sessions_per_lane: int = 20
    messages_per_session: int = 100
    idle_session_s: float = 5.0


class LogSection(Struct, frozen=True, kw_only=True):
    """What is told on stderr."""

    level: str = "info"
    accepted: bool = True


class Config(Struct, frozen=True, kw_only=True):
    """Everything an operator can choose; `file` is where it was read from, or ""."""

    hostname: str
    state_dir: Path
    listen: tuple[Endpoint, ...] = (Endpoint("127.0.0.1", 2525),)
    relay_from: tuple[Network, ...] = LOOPBACK
    postmaster: str = ""
    soft_bounce: bool = False
    next_hop: NextHopSection | None = None
    routes: tuple[RouteSection, ...] = ()
    dns: DnsSection = DnsSection()
    mx: MxSection = MxSection()
    hosts: HostsSection = HostsSection()
    retry: RetrySection = RetrySection()
    limits: LimitsSection = LimitsSection()
    log: LogSection = LogSection()
    file: str = ""

    @property
    def relays_for_everyone(self) -> bool:
        """Is this an open relay?"""
        return any(network.prefixlen == 0 for network in self.relay_from)


class Reading(Struct, frozen=True):
    """What became of a text: a Config, or all its errors. `file` is where it came from, or ""."""

    config: Config | None
    errors: tuple[ConfigError, ...]
    file: str = ""
