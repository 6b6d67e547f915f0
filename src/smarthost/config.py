# SPDX-License-Identifier: MIT
"""Text -> frozen Config: TOML, then flags over it, then what the machine says; every error names its key and line.

All errors of a text are found in one pass, so that an operator mends a file once. A key not in the tables below is an
error. Durations end up in fields named _s, sizes in _octets. docs/configuration.md explains each key, and a test holds
it to these tables. Callers: ops (files and flags), assemble and embedders (`parse_config`). Reads files, writes none.
"""

import os  # noqa: TID251 - the environment names the state directory
import socket  # noqa: TID251 - gethostname; no network is touched
import tomllib
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smarthost import config_text as read
from smarthost.config_text import Endpoint, Network
from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import Credentials, TlsLevel

DEFAULT_FILE = Path("/etc/smarthost/smarthost.toml")
SYSTEM_STATE_DIR = Path("/var/lib/smarthost")
_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_DAY_S = 86400.0


class NextHopSection(Struct, frozen=True, kw_only=True):
    """A host that takes mail from us: the default one, or one of a route."""

    host: str
    port: int = 25
    tls: TlsLevel = TlsLevel.OPPORTUNISTIC
    implicit_tls: bool = False
    credentials: Credentials | None = None
    ca_file: Path | None = None


class RouteSection(Struct, frozen=True, kw_only=True):
    """Where mail for some domains goes: to a next hop, or nowhere ("refuse" has the text); neither means direct MX."""

    domains: tuple[str, ...]
    next_hop: NextHopSection | None = None
    refuse: str = ""


class DnsSection(Struct, frozen=True, kw_only=True):
    """Whom to ask; no servers means those of /etc/resolv.conf."""

    servers: tuple[Endpoint, ...] = ()
    timeout_s: float = 10.0


class MxSection(Struct, frozen=True, kw_only=True):
    """Direct delivery to mail exchangers."""

    port: int = 25
    allow_private: bool = False


class RetrySection(Struct, frozen=True, kw_only=True):
    """When a deferred recipient is tried again, and when we give up (RFC 5321 4.5.4.1)."""

    first_s: float = 300.0
    longest_s: float = 4000.0
    jitter: float = 0.1
    expire_after_s: float = 5 * _DAY_S


class LimitsSection(Struct, frozen=True, kw_only=True):
    """What clients may ask of us, and what we ask of hosts."""

    message_octets: int = 50 << 20
    recipients: int = 1000
    errors: int = 20  # Postfix's smtpd_hard_error_limit
    connections: int = 1000
    connections_per_client: int = 250  # a quarter: one client cannot shut out the others
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
    relay_from: tuple[Network, ...] = _LOOPBACK
    postmaster: str = ""
    soft_bounce: bool = False
    next_hop: NextHopSection | None = None
    routes: tuple[RouteSection, ...] = ()
    dns: DnsSection = DnsSection()
    mx: MxSection = MxSection()
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


class Surroundings(Struct, frozen=True):
    """What the machine says where the operator is silent."""

    host_name: str
    state_dir: Path

    @staticmethod
    def look() -> "Surroundings":
        """Ask the machine: gethostname (never a resolver, whose guess would go into EHLO) and the environment."""
        return Surroundings(socket.gethostname().lower(), default_state_dir(os.environ, is_root=os.geteuid() == 0))


class Setting(NamedTuple):
    """A key's field and how its value is read."""

    field: str
    read: Callable[[object], Any]


_PORT = read.whole(1, 65535)
TOP_KEYS: Mapping[str, Setting] = {
    "hostname": Setting("hostname", read.host_name),
    "state_dir": Setting("state_dir", read.path),
    "listen": Setting("listen", read.several(read.endpoint(numeric=True, any_port=True), at_least=1)),
    "relay_from": Setting("relay_from", read.several(read.network)),
    "postmaster": Setting("postmaster", read.mailbox),
    "soft_bounce": Setting("soft_bounce", read.boolean),
}
SECTION_KEYS: Mapping[str, tuple[type[Struct], Mapping[str, Setting]]] = {
    "dns": (
        DnsSection,
        {
            "servers": Setting("servers", read.several(read.endpoint(53, numeric=True))),
            "timeout": Setting("timeout_s", read.duration(0.1, 30)),  # ports.Resolver: an answer within 30 s
        },
    ),
    "mx": (MxSection, {"port": Setting("port", _PORT), "allow_private": Setting("allow_private", read.boolean)}),
    "retry": (
        RetrySection,
        {
            "first": Setting("first_s", read.duration(0.1, _DAY_S)),
            "longest": Setting("longest_s", read.duration(0.1, 7 * _DAY_S)),
            "jitter": Setting("jitter", read.fraction),
            "expire_after": Setting("expire_after_s", read.duration(1, 30 * _DAY_S)),
        },
    ),
    "limits": (
        LimitsSection,
        {
            "message_size": Setting(
                "message_octets", read.size(64 << 10, 2 << 30, "RFC 5321 4.5.3.1.7: 64 KiB at least")
            ),
            "recipients": Setting("recipients", read.whole(100, 100_000, "RFC 5321 4.5.3.1.8: 100 at least")),
            "errors": Setting("errors", read.whole(1, 10_000)),
            "connections": Setting("connections", read.whole(1, 100_000)),
            "connections_per_client": Setting("connections_per_client", read.whole(1, 100_000)),
            "sessions_per_lane": Setting("sessions_per_lane", read.whole(1, 1000)),
            "messages_per_session": Setting("messages_per_session", read.whole(1, 100_000)),
            # RFC 5321 4.5.3.2.7: a host hangs up after five idle minutes, so a longer wait keeps dead sessions
            "idle_session": Setting("idle_session_s", read.duration(0, 300)),
        },
    ),
    "log": (LogSection, {"level": Setting("level", read.log_level), "accepted": Setting("accepted", read.boolean)}),
}
NEXT_HOP_KEYS: Mapping[str, Setting] = {
    "host": Setting("host", read.hop_host),
    "port": Setting("port", _PORT),
    "tls": Setting("tls", read.tls_level),
    "implicit_tls": Setting("implicit_tls", read.boolean),
    "username": Setting("username", read.text),
    "password": Setting("password", read.text),
    "password_file": Setting("password_file", read.path),
    "ca_file": Setting("ca_file", read.path),
}
ROUTE_KEYS: Mapping[str, Setting] = {
    "domains": Setting("domains", read.several(read.route_domain, at_least=1)),
    "refuse": Setting("refuse", read.text),
}
_TABLES = ("next_hop", "route", *SECTION_KEYS)


def parse_config(text: str, flags: Mapping[str, object] = {}, surroundings: Surroundings | None = None) -> Config:
    """Give the Config of a TOML text with `flags` (dotted key -> raw value) laid over it.

    Raises: ConfigError: the first error with its key and line; where there are more, its text lists all, one a line.
    """
    return accept(read_config(text, flags, surroundings=surroundings))


def accept(reading: Reading) -> Config:
    """Give the Config of a Reading. Raises: ConfigError: as `parse_config`."""
    if reading.config is not None:
        return reading.config
    first = reading.errors[0]
    if len(reading.errors) == 1:
        raise first
    others = "".join(f"\n{error}" for error in reading.errors[1:])
    raise ConfigError(first.detail + others, key=first.key, line=first.line)


def read_config_file(
    path: Path | None, flags: Mapping[str, object] = {}, spelled: Mapping[str, str] = {}, default: Path = DEFAULT_FILE
) -> Reading:
    """Read a file (None: the default one if it exists) with flags over it."""
    if path is None and not default.exists():
        return read_config("", flags, spelled)
    file = default if path is None else path
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        return Reading(None, (ConfigError(f"cannot be read: {error.strerror}"),), str(file))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return Reading(None, (ConfigError("not UTF-8, which TOML must be", line=line),), str(file))
    return read_config(text, flags, spelled, file=str(file))


def read_config(
    text: str,
    flags: Mapping[str, object] = {},
    spelled: Mapping[str, str] = {},
    *,
    surroundings: Surroundings | None = None,
    file: str = "",
) -> Reading:
    """Read a TOML text; `spelled` says how an error calls a key that a flag has set, such as "--dns"."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        detail, line = read.syntax_error(error, text)
        return Reading(None, (ConfigError(f"not TOML: {detail}", line=line),), file)
    reader = _Reader(read.key_lines(text), {key: spelled.get(key, key) for key in flags})
    _lay_over(tables, flags)
    config = reader.whole(tables, surroundings or Surroundings.look(), file)
    return Reading(None if reader.errors else config, tuple(reader.errors), file)


def find_state_dir(state_dir: str | None, file: Path | None, default: Path = DEFAULT_FILE) -> Path:
    """Say where a daemon keeps its state, from a flag, a file (however wrong the rest of it is), or the machine.

    Raises: ConfigError: the file cannot be read, is not TOML, or its state_dir is not a path.
    """
    if state_dir:
        return read.path(state_dir)
    source = file if file is not None else default if default.exists() else None
    if source is not None:
        try:
            written = tomllib.loads(source.read_text("utf-8")).get("state_dir")
            if written is not None:
                return read.path(written)
        except (OSError, ValueError) as error:  # a decoding error of either kind is a ValueError
            raise ConfigError(f"{source}: {error}", key="state_dir") from error
    return default_state_dir(os.environ, is_root=os.geteuid() == 0)


def default_state_dir(environ: Mapping[str, str], *, is_root: bool) -> Path:
    """Choose systemd's $STATE_DIRECTORY, else /var/lib/smarthost for root, else the XDG state directory."""
    if first := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(first)
    if is_root:
        return SYSTEM_STATE_DIR
    home = environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "smarthost"


def _lay_over(tables: dict[str, Any], flags: Mapping[str, object]) -> None:
    for dotted, value in flags.items():
        section, _, key = dotted.rpartition(".")
        table = tables.setdefault(section, {}) if section else tables
        if isinstance(table, dict):  # if not, the section's own error says so
            table[key] = value


class _Reader:
    """Reads the tables of one text and gathers what is wrong with them."""

    def __init__(self, lines: Mapping[str, int], flags: Mapping[str, str]) -> None:
        self.errors: list[ConfigError] = []
        self._lines = lines
        self._flags = flags

    def refuse(self, key: str, detail: str) -> None:
        """Keep an error; a key without a line of its own (an inline table's) has that of its nearest parent."""
        if key in self._flags:
            self.errors.append(ConfigError(detail, key=self._flags[key]))
            return
        known = key
        while known and known not in self._lines:
            known = known.rpartition(".")[0]
        self.errors.append(ConfigError(detail, key=key, line=self._lines.get(known)))

    def whole(self, tables: Mapping[str, Any], surroundings: Surroundings, file: str) -> Config | None:
        values = self.keys("", tables, TOP_KEYS, also=_TABLES)
        for name, (section, settings) in SECTION_KEYS.items():
            values[name] = section(**self.keys(name, tables.get(name, {}), settings))
        if "next_hop" in tables:
            values["next_hop"] = self.next_hop("next_hop", tables["next_hop"])
        values["routes"] = tuple(self.routes(tables.get("route", [])))
        values.setdefault("hostname", surroundings.host_name)
        values.setdefault("state_dir", surroundings.state_dir)
        if self.errors:
            return None
        config = Config(file=file, **values)
        for key, detail in _contradictions(config):
            self.refuse(key, detail)
        return config

    def keys(
        self, at: str, table: object, settings: Mapping[str, Setting], also: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Read one table; `also` are keys that are somebody else's to read."""
        values: dict[str, Any] = {}
        if not isinstance(table, dict):
            self.refuse(at, f"expected a table, written as [{at}] and keys below it")
            return values
        for key, raw in table.items():
            dotted = f"{at}.{key}" if at else key
            if key in settings:
                try:
                    values[settings[key].field] = settings[key].read(raw)
                except ValueError as error:
                    self.refuse(dotted, str(error))
            elif key not in also:
                self.refuse(dotted, "unknown key" + _suggestion(key, (*settings, *also)))
        return values

    def next_hop(self, at: str, raw: object) -> NextHopSection | None:
        if isinstance(raw, str):
            try:
                there = read.endpoint(25)(raw)
            except ValueError as error:
                self.refuse(at, str(error))
                return None
            return NextHopSection(host=there.host, port=there.port)
        wrong_before = len(self.errors)
        values = self.keys(at, raw, NEXT_HOP_KEYS)
        if isinstance(raw, dict) and "host" not in raw:
            self.refuse(f"{at}.host", "missing: which host takes the mail?")
        username, password = values.pop("username", None), self._password(at, values)
        if len(self.errors) > wrong_before:
            return None
        if (username is None) != (password is None):
            self.refuse(at, "username needs password_file (or password), and either needs username")
            return None
        is_secret = username is not None or values.get("implicit_tls", False)
        values.setdefault("tls", TlsLevel.VERIFIED if is_secret else TlsLevel.OPPORTUNISTIC)
        credentials = Credentials(username, password) if username is not None and password is not None else None
        hop = NextHopSection(credentials=credentials, **values)
        if (detail := _unsafe(hop)) is not None:
            self.refuse(f"{at}.tls", detail)
        return hop

    def _password(self, at: str, values: dict[str, Any]) -> str | None:
        literal, file = values.pop("password", None), values.pop("password_file", None)
        if literal is not None and file is not None:
            self.refuse(f"{at}.password", "set password or password_file, not both")
        if file is None:
            return literal if isinstance(literal, str) else None
        try:
            return read.text(file.read_text("utf-8").rstrip("\r\n"))
        except OSError as error:
            self.refuse(f"{at}.password_file", f"cannot be read: {file}: {error.strerror}")
        except ValueError:  # and never its text: that would show the password
            self.refuse(f"{at}.password_file", f"{file}: expected one line of UTF-8 with the password")
        return None

    def routes(self, raw: object) -> Iterator[RouteSection]:
        if not isinstance(raw, list):
            self.refuse("route", "expected [[route]] with two brackets, once for each route")
            return
        for number, table in enumerate(raw, 1):
            at = f"route[{number}]"
            values = self.keys(at, table, ROUTE_KEYS, also=("next_hop",))
            if not isinstance(table, dict):
                continue
            if "domains" not in table:
                self.refuse(f"{at}.domains", 'missing: expected such as ["example.org", "*.example.org"]')
            if "refuse" in table and "next_hop" in table:
                self.refuse(at, "set next_hop or refuse, not both")
            if "next_hop" in table:
                values["next_hop"] = self.next_hop(f"{at}.next_hop", table["next_hop"])
            if "domains" in values:
                yield RouteSection(**values)


def _suggestion(key: str, near: tuple[str, ...]) -> str:
    if close := get_close_matches(key, near, n=1):
        return f'; did you mean "{close[0]}"?'
    if key in TOP_KEYS:
        return f'; "{key}" belongs at the top of the file, before the first [table]'
    homes = [name for name, (_, settings) in SECTION_KEYS.items() if key in settings]
    return f'; "{key}" belongs in [{homes[0]}]' if homes else ""


def _unsafe(hop: NextHopSection) -> str | None:
    is_weak = hop.tls in (TlsLevel.NONE, TlsLevel.OPPORTUNISTIC)
    if hop.implicit_tls and is_weak:
        return f'"{hop.tls.value}" contradicts implicit_tls: choose "required" or "verified"'
    if hop.credentials is not None and is_weak and not _is_loopback(hop.host):
        return 'the password could travel in clear: choose "verified" (or "required" for a certificate of your own)'
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """Name what is wrong between keys that are right each by itself."""
    retry, limits = config.retry, config.limits
    if retry.first_s > retry.longest_s:
        yield "retry.first", f"{read.duration_text(retry.first_s)} is above retry.longest"
    if retry.longest_s > retry.expire_after_s:
        yield "retry.longest", f"{read.duration_text(retry.longest_s)} is above retry.expire_after"
    if limits.connections_per_client > limits.connections:
        yield "limits.connections_per_client", f"{limits.connections_per_client} is above limits.connections"
    is_test_network = config.mx.allow_private and bool(config.dns.servers)
    if config.next_hop is None and not is_test_network and not _is_qualified(config.hostname):
        yield (
            "hostname",
            f'"{config.hostname}" is not fully qualified, and hosts on the internet refuse such a name in EHLO: '
            "set hostname (--hostname) to a name that DNS knows, or set next_hop (--next-hop)",
        )


def _is_qualified(hostname: str) -> bool:
    labels = hostname.split(".")
    try:
        read.host_name(hostname)
    except ValueError:
        return False
    return len(labels) > 1 and labels[-1] not in ("localdomain", "localhost") and not labels[-1].isdecimal()


# A Config as an operator sees it


def config_json(config: Config) -> bytes:
    """Give the Config as one line of JSON, field by field, without secrets."""
    return msgspec.json.encode(_redacted(config), enc_hook=str)


def config_toml(config: Config) -> str:
    """Give the Config as TOML that `parse_config` reads back, but for passwords, which are starred."""
    lines = list(_toml_lines(config, TOP_KEYS))
    for name, (_, settings) in SECTION_KEYS.items():
        lines += ["", f"[{name}]", *_toml_lines(getattr(config, name), settings)]
    if config.next_hop is not None:
        lines += ["", "[next_hop]", *_hop_lines(config.next_hop)]
    for route in config.routes:
        lines += ["", "[[route]]", *_toml_lines(route, ROUTE_KEYS)]
        if route.next_hop is not None:
            lines.append(f"next_hop = {{ {', '.join(_hop_lines(route.next_hop))} }}")
    return "\n".join(lines) + "\n"


def _toml_lines(section: Struct, settings: Mapping[str, Setting]) -> Iterator[str]:
    for key, setting in settings.items():
        value = getattr(section, setting.field)
        if value not in ("", None):
            yield f"{key} = {_toml_value(setting.field, value)}"


def _hop_lines(hop: NextHopSection) -> list[str]:
    plain = {key: setting for key, setting in NEXT_HOP_KEYS.items() if key in NextHopSection.__struct_fields__}
    lines = list(_toml_lines(hop, plain))
    if hop.credentials is not None:
        lines += [f"username = {_quoted(hop.credentials.username)}", 'password = "***"']
    return lines


def _toml_value(field: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_quoted(str(element)) for element in value)}]"
    if isinstance(value, int | float):
        if field.endswith("_s"):
            return _quoted(read.duration_text(value))
        return _quoted(read.size_text(int(value))) if field.endswith("_octets") else str(value)
    return _quoted(value.value if isinstance(value, TlsLevel) else str(value))


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()  # a JSON string is a TOML basic string


def _redacted(config: Config) -> Config:
    def without(hop: NextHopSection | None) -> NextHopSection | None:
        if hop is None or hop.credentials is None:
            return hop
        return replace(hop, credentials=replace(hop.credentials, password="***"))

    routes = tuple(replace(route, next_hop=without(route.next_hop)) for route in config.routes)
    return replace(config, next_hop=without(config.next_hop), routes=routes)
