# SPDX-License-Identifier: MIT
"""Text -> Config: TOML, flags laid over it, what the machine says beneath it; all errors of a text in one pass.

An operator mends a file once. Reads password files and looks whether others can be read; else nothing of the world.
"""

import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

from smarthost.config import units
from smarthost.config.contradictions import SMTP_PORT, find_contradictions
from smarthost.config.keys import NEXT_HOP_KEYS, REPEATED_KEYS, ROUTE_KEYS, SECTION_KEYS, TABLES, TOP_KEYS, Setting
from smarthost.config.lines import key_lines, line_of, syntax_error
from smarthost.config.nearest import find_nearest
from smarthost.config.surroundings import Surroundings
from smarthost.config.values import Config, NextHopSection, Protocol, Reading, RouteSection
from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.route.table import Families


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
        detail, line = syntax_error(error, text)
        return Reading(None, (ConfigError(f"not TOML: {detail}", line=line),), file)
    except RecursionError:
        return Reading(None, (ConfigError("nested too deeply"),), file)
    lines = key_lines(text)
    reader = _Reader(lines, {key: spelled.get(key, key) for key in flags})
    _lay_over(tables, flags)
    config = reader.whole(tables, surroundings or Surroundings.look(), file)
    errors = sorted(reader.errors, key=lambda error: error.line or 0)
    return Reading(None if errors else config, tuple(errors), file, lines)


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
        self._wrong: set[str] = set()  # the tables, and keys at the top, in which something is wrong
        self._lines = lines
        self._flags = flags

    def refuse(self, key: str, detail: str) -> None:
        """Keep an error; a key without a line of its own (an inline table's) has that of its nearest parent."""
        self._wrong.add(key.partition(".")[0].partition("[")[0])
        if key in self._flags:
            self.errors.append(ConfigError(detail, key=self._flags[key]))
            return
        self.errors.append(ConfigError(detail, key=key, line=line_of(self._lines, key)))

    def whole(self, tables: Mapping[str, Any], surroundings: Surroundings, file: str) -> Config | None:
        values = self.keys("", tables, TOP_KEYS, also=TABLES)
        for name, (section, settings) in SECTION_KEYS.items():
            values[name] = section(**self.keys(name, tables.get(name, {}), settings))
        values["next_hops"] = self.next_hops("next_hop", tables.get("next_hop", []))
        values["routes"] = tuple(self.routes(tables.get("route", [])))
        for name, (field, section, settings) in REPEATED_KEYS.items():
            values[field] = tuple(self.repeated(name, section, settings, tables.get(name, [])))
        if values["listeners"]:
            values.setdefault("listen", ())
        values.setdefault("hostname", _speakable(surroundings.host_name))
        values.setdefault("state_dir", surroundings.state_dir)
        config = Config(file=file, **values)
        for key, detail in find_contradictions(config, frozenset(self._wrong)):
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
                    values[settings[key].field] = value = settings[key].read(raw)
                except ValueError as error:
                    self.refuse(dotted, str(error))
                else:
                    if key.endswith("_file") and key != "password_file":
                        self._look_at_file(dotted, value)
            elif key not in also:
                self.refuse(dotted, "unknown key" + _suggestion(at, key, (*settings, *also)))
                self._wrong.add(find_nearest(key, (*settings, *also)))  # it may be meant, and is not missing then
        return values

    def repeated(
        self, name: str, section: type[Struct], settings: Mapping[str, Setting], raw: object
    ) -> Iterator[Struct]:
        """Read the tables of [[name]]."""
        if not isinstance(raw, list):
            self.refuse(name, f"expected [[{name}]] with two brackets, once for each")
            return
        needed = {field.name for field in fields(section) if field.required}
        for number, table in enumerate(raw, 1):
            at = f"{name}[{number}]"
            wrong_before = len(self.errors)
            values = self.keys(at, table, settings)
            missing = needed - values.keys() if isinstance(table, dict) else set()
            for key in sorted(missing - table.keys()) if isinstance(table, dict) else ():
                self.refuse(f"{at}.{key}", "missing")
            if len(self.errors) == wrong_before and isinstance(table, dict):
                yield section(**values)

    def next_hops(self, at: str, raw: object) -> tuple[NextHopSection, ...]:
        """Read one next hop, or an array of them in the order in which they are tried."""
        if not isinstance(raw, list):
            hop = self.next_hop(at, raw)
            return () if hop is None else (hop,)
        hops = [self.next_hop(f"{at}[{number}]", each) for number, each in enumerate(raw, 1)]
        return tuple([hop for hop in hops if hop is not None])

    def next_hop(self, at: str, raw: object) -> NextHopSection | None:
        if isinstance(raw, str):
            try:
                there = units.endpoint(25)(raw)
            except ValueError as error:
                self.refuse(at, str(error))
                return None
            return NextHopSection(host=there.host, port=there.port)
        wrong_before = len(self.errors)
        values = self.keys(at, raw, NEXT_HOP_KEYS)
        if isinstance(raw, dict) and "host" not in raw:
            self.refuse(f"{at}.host", "missing: which host takes the mail?")
        password_file = values.get("password_file")
        username, password = values.pop("username", None), self._password(at, values)
        if len(self.errors) > wrong_before:
            return None
        if (username is None) != (password is None):
            self.refuse(at, "username needs password_file (or password), and either needs username")
            return None
        is_secret = username is not None or values.get("implicit_tls", False)
        values.setdefault("tls", TlsLevel.VERIFIED if is_secret else TlsLevel.OPPORTUNISTIC)
        credentials = Credentials(username, password) if username is not None and password is not None else None
        hop = NextHopSection(credentials=credentials, password_file=password_file, **values)
        if hop.protocol is Protocol.LMTP and hop.port == SMTP_PORT:
            self.refuse(f"{at}.port", f"LMTP is not spoken at port {SMTP_PORT} (RFC 2033 5): set another")
        if (detail := _unsafe(hop)) is not None:
            self.refuse(f"{at}.tls", detail)
        if (detail := _unreachable(hop)) is not None:
            self.refuse(f"{at}.families", detail)
        return hop

    def _look_at_file(self, dotted: str, file: Path) -> None:
        try:
            file.open("rb").close()
        except OSError as error:
            cure = "; make it: smarthost tokens add NAME" if dotted == "http.tokens_file" and not file.exists() else ""
            self.refuse(dotted, f"cannot be read: {file}: {error.strerror}{cure}")

    def _password(self, at: str, values: dict[str, Any]) -> str | None:
        literal, file = values.pop("password", None), values.pop("password_file", None)
        if literal is not None and file is not None:
            self.refuse(f"{at}.password", "set password or password_file, not both")
        if file is None:
            return literal if isinstance(literal, str) else None
        try:
            return units.text(file.read_text("utf-8").rstrip("\r\n"))
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
            if "domains" not in table and "senders" not in table:
                self.refuse(f"{at}.domains", 'missing: expected such as ["example.org", "*.example.org"] (or senders)')
            if "refuse" in table and "next_hop" in table:
                self.refuse(at, "set next_hop or refuse, not both")
            for key in ("families", "tls", "source", "hostname"):
                if key in table and ("next_hop" in table or "refuse" in table):
                    self.refuse(f"{at}.{key}", f"is for delivery by MX; write next_hop = {{ host = ..., {key} = ... }}")
            if "next_hop" in table:
                values["next_hops"] = self.next_hops(f"{at}.next_hop", table["next_hop"])
            yield RouteSection(**values)


def _suggestion(at: str, key: str, near: tuple[str, ...]) -> str:
    """Say what may be meant: a key of another table, or one that is spelled nearly so, as it would be written."""
    if at and key in TOP_KEYS:
        return f'; "{key}" belongs at the top of the file, before the first [table]'
    if nearest := find_nearest(key, near):
        if at or nearest in TOP_KEYS:
            return f"; did you mean {at}.{nearest}?" if at else f"; did you mean {nearest}?"
        return (
            f"; did you mean {f'[[{nearest}]]' if nearest in REPEATED_KEYS or nearest == 'route' else f'[{nearest}]'}?"
        )
    homes = [name for name, (_, settings) in SECTION_KEYS.items() if key in settings and name != at]
    if homes:
        return f'; "{key}" belongs in [{homes[0]}]'
    everywhere = {f"{name}.{each}": each for name, (_, settings) in SECTION_KEYS.items() for each in settings}
    meant = find_nearest(key, everywhere.values())
    return f"; did you mean {next(full for full, each in everywhere.items() if each == meant)}?" if meant else ""


def _unsafe(hop: NextHopSection) -> str | None:
    is_weak = hop.tls in (TlsLevel.NONE, TlsLevel.OPPORTUNISTIC)
    if hop.implicit_tls and is_weak:
        return f'"{hop.tls.value}" contradicts implicit_tls: choose "required" or "verified"'
    if hop.credentials is not None and is_weak and not _is_loopback(hop.host):
        return 'the password could travel in clear: choose "verified" (or "required" for a certificate of your own)'
    return None


def _unreachable(hop: NextHopSection) -> str | None:
    try:
        version = ip_address(hop.host).version
    except ValueError:
        return None
    is_used = hop.families in (Families.BOTH, Families.IPV4 if version == 4 else Families.IPV6)
    return None if is_used else f'"{hop.families.value}" leaves no way to {hop.host}'


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _speakable(host_name: str) -> str:
    """Give a name that EHLO can carry: container names such as my_app cannot."""
    try:
        return units.host_name(host_name)
    except ValueError:
        return "localhost"
