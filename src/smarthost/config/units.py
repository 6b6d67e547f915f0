# SPDX-License-Identifier: MIT
"""What one value may look like: raw TOML value -> typed value.

A reader takes what tomllib gave and answers the value, or raises ValueError with a text that says what was expected and
what was there; the caller adds key and line. Pure.
"""

import re
from collections.abc import Callable
from enum import Enum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from smarthost.config.forms import takes, takes_several
from smarthost.config.nearest import did_you_mean
from smarthost.config.surroundings import credentials_directory
from smarthost.config.values import Endpoint, Network
from smarthost.mail.address import to_domain
from smarthost.mail.record import Kind

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
Reader = Callable[[object], T]

_STRING = {"type": "string"}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+", re.ASCII)
_DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|[smhdw]))+$"  # for readers of a JSON Schema
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_OCTETS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", re.ASCII)
_HOST_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")  # RFC 5321 4.1.2: sub-domain = Let-dig [Ldh-str]
LEVELS = ("info", "warning", "error")
_SELECTOR = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*")


def text(raw: object) -> str:
    """Read a text that is not empty and has no control character."""
    if not isinstance(raw, str):
        raise ValueError(f"expected a text in quotes, got {_spell(raw)}")
    if not raw or any(ord(character) < 32 or ord(character) == 127 for character in raw):
        raise ValueError(f"expected a text without control characters that is not empty, got {_spell(raw)}")
    return raw


def boolean(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"expected true or false, got {_spell(raw)}")
    return raw


def whole(low: int, high: int, why: str = "") -> Reader[int]:
    """Read a whole number within bounds; `why` names the source of the bound that is likely to be met."""

    def read(raw: object) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool):
            raise ValueError(f"expected a whole number, got {_spell(raw)}")
        _check_bounds(raw, low, high, f"{low} to {high}", why)
        return raw

    bounds = {"type": "integer", "minimum": low, "maximum": high}
    return takes(read, f"{low:,} to {high:,}", bounds)


def fraction(raw: object) -> float:
    """Read a part of one: 0 to below 1."""
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 <= raw < 1:
        raise ValueError(f"expected a number from 0 to below 1, got {_spell(raw)}")
    return float(raw)


def duration(low_s: float, high_s: float, why: str = "") -> Reader[float]:
    """Read seconds as a number, or a text such as "90s", "5m", "1h30m", "5d"."""

    def read(raw: object) -> float:
        if isinstance(raw, str) and _DURATION.fullmatch(raw):
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(raw))
        elif isinstance(raw, int | float) and not isinstance(raw, bool):
            seconds = float(raw)
        else:
            raise ValueError(f'expected a duration such as "90s", "5m", "4h" or "5d", or seconds, got {_spell(raw)}')
        _check_bounds(seconds, low_s, high_s, f"{duration_text(low_s)} to {duration_text(high_s)}", why)
        return seconds

    bounds = f"{duration_text(low_s)} to {duration_text(high_s)}"
    number = {"type": "number", "minimum": low_s, "maximum": high_s}
    return takes(read, f"duration, {bounds}", {"anyOf": [{"type": "string", "pattern": _DURATION_PATTERN}, number]})


def size(low: int, high: int, why: str = "") -> Reader[int]:
    """Read octets as a number, or a text such as "512KiB", "50MiB", "10MB"."""

    def read(raw: object) -> int:
        found = _SIZE.fullmatch(raw.strip()) if isinstance(raw, str) else None
        if found is not None and found[2].upper() in _OCTETS:
            octets = int(float(found[1]) * _OCTETS[found[2].upper()])
        elif isinstance(raw, int) and not isinstance(raw, bool):
            octets = raw
        else:
            raise ValueError(f'expected a size such as "512KiB" or "50MiB", or octets, got {_spell(raw)}')
        _check_bounds(octets, low, high, f"{size_text(low)} to {size_text(high)}", why)
        return octets

    number = {"type": "integer", "minimum": low, "maximum": high}
    units = {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([KMG]i?[Bb]|[Bb])?\s*$"}
    return takes(read, f"size, {size_text(low)} to {size_text(high)}", {"anyOf": [units, number]})


def host_name(raw: object) -> str:
    """Read a host name as EHLO and Received: need it: letters, digits, hyphens and dots, lower-cased."""
    try:
        name = str(to_domain(text(raw)))
    except ValueError as error:
        raise ValueError(f"not a host name: {_spell(raw)} ({error})") from None
    if not all(_HOST_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"not a host name: {_spell(raw)} (letters, digits, hyphens and dots only)")
    return name


def mailbox(raw: object) -> str:
    """Read an address such as postmaster@example.org."""
    local, at, domain = text(raw).rpartition("@")
    if not at or not local or " " in local or "<" in local:
        raise ValueError(f"not an address: {_spell(raw)} (expected local@domain)")
    if not domain.startswith("["):
        try:
            host_name(domain)
        except ValueError as error:
            raise ValueError(f"not an address: {_spell(raw)} ({error})") from None
    return text(raw)


def network(raw: object) -> Network:
    """Read a CIDR network or a single address; host bits must be clear, since a slip there opens a relay."""
    try:
        written = text(raw)
        return ip_network(written)
    except ValueError as error:
        try:
            meant = str(ip_network(str(raw), strict=False))
        except ValueError:
            raise ValueError(f'not a network: {_spell(raw)} (expected CIDR such as "10.0.0.0/8")') from error
        raise ValueError(f'not a network: {_spell(raw)} has host bits set; did you mean "{meant}"?') from error


def endpoint(default_port: int | None = None, *, numeric: bool = False, any_port: bool = False) -> Reader[Endpoint]:
    """Read HOST:PORT ("[::1]:25" for IPv6); `numeric`: an IP address or localhost only; `any_port`: 0 is fine."""
    form = "IP:PORT" if numeric else "HOST:PORT"

    def read(raw: object) -> Endpoint:
        host, port = _split_port(text(raw))
        if port is None and default_port is None:
            raise ValueError(f"expected {form}, got {_spell(raw)} (the port is missing)")
        if port is not None and not (port.isascii() and port.isdecimal() and 0 <= int(port) <= 65535):
            raise ValueError(f"expected {form}, got {_spell(raw)} (a port is a number from 0 to 65535)")
        number = default_port if port is None else int(port)
        if number is None or (number == 0 and not any_port):
            raise ValueError(f"expected {form}, got {_spell(raw)} (port 0 means nothing here)")
        return Endpoint(_numeric_host(host, form) if numeric else _named_host(host, form), number)

    return takes(read, f"`{form}`" if default_port is None else f"`{form}` or `{form.partition(':')[0]}`", _STRING)


def hop_host(raw: object) -> str:
    """Read the name or IP address of a host to hand mail to."""
    return _named_host(text(raw).removeprefix("[").removesuffix("]"), "a host name or IP address")


def one_of(kind: type[E]) -> Reader[E]:
    """Read one of an enumeration's texts."""
    known = [each.value for each in kind]

    def read(raw: object) -> E:
        if not isinstance(raw, str) or raw not in known:
            meant = did_you_mean(raw, known, '"{}"') if isinstance(raw, str) else ""
            raise ValueError(f"expected one of {', '.join(known)}, got {_spell(raw)}{meant}")
        return kind(raw)

    return takes(read, ", ".join(f'`"{each}"`' for each in known), {"type": "string", "enum": known})


def local_address(raw: object) -> str:
    """Read an IP address of this machine."""
    try:
        return str(ip_address(text(raw)))
    except ValueError:
        raise ValueError(f"expected an IP address of this machine, got {_spell(raw)}") from None


def sender(raw: object) -> str:
    """Read whom a rule about senders means: "alice@example.org", "@example.org", or who logged in, "user:alice"."""
    written = text(raw)
    if written.startswith("user:") and len(written) > len("user:"):
        return written
    if written.startswith("@"):
        return "@" + host_name(written[1:])
    return mailbox(written)


def allowed_sender(raw: object) -> str:
    """Read a reverse-path, a domain of them, or "*" for any."""
    if raw == "*":
        return "*"
    written = text(raw)
    return "@" + host_name(written[1:]) if written.startswith("@") else mailbox(written)


def selector(raw: object) -> str:
    """Read a DKIM selector (RFC 6376 3.1): labels of a DNS name."""
    written = text(raw)
    if not _SELECTOR.fullmatch(written) or len(written) > 63:
        raise ValueError(f'not a DKIM selector: {_spell(raw)} (letters, digits, hyphens and dots, such as "s2026")')
    return written.lower()


def log_level(raw: object) -> str:
    if not isinstance(raw, str) or raw not in LEVELS:
        meant = did_you_mean(raw, LEVELS, '"{}"') if isinstance(raw, str) else ""
        raise ValueError(f"expected one of {', '.join(LEVELS)}, got {_spell(raw)}{meant}")
    return raw


def route_domain(raw: object) -> str:
    """Read a recipient domain, or "*.domain" for everything below it."""
    written = text(raw)
    below = written.startswith("*.")
    return "*." + host_name(written[2:]) if below else host_name(written)


def origin(raw: object) -> str:
    """Read the address of a web site without a path: "https://relay.example.org"."""
    written = text(raw).removesuffix("/")
    scheme, separator, place = written.partition("://")
    host, _ = _split_port(place)
    if scheme not in ("http", "https") or not separator or not host or set(place) & set("/?#@\\ "):
        raise ValueError(f'expected such as "https://relay.example.org", without a path, got {_spell(raw)}')
    return written.lower()


def web_address(raw: object) -> str:
    """Read a URL that records are posted to: http or https, without a password, which would be shown and logged."""
    written = text(raw)
    form = 'expected such as "https://hooks.example.org/mail"'
    if not written.isascii() or " " in written:
        raise ValueError(f"{form}, in ASCII and without spaces, got {_spell(raw)}")
    try:
        parts = urlsplit(written)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError(f"{form}, got {_spell(raw)}")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError(f"{form}, without a user, password or #fragment (requests are signed with secret_file)")
    return written


def record_kind(raw: object) -> str:
    """Read a kind of record."""
    return one_of(Kind)(raw).value


def syslog(raw: object) -> str:
    """Read where a syslog is: "unix:/dev/log", "udp:HOST:PORT", or HOST:PORT for TCP."""
    written = text(raw)
    if written.startswith("unix:"):
        if not written.startswith("unix:/"):
            raise ValueError(f'expected "unix:" and a path that begins with "/", got {_spell(raw)}')
        return written
    is_udp = written.startswith("udp:")
    try:
        there = endpoint()(written.removeprefix("udp:"))
    except ValueError as error:
        raise ValueError(f'expected "unix:/dev/log", "udp:HOST:PORT" or "HOST:PORT": {error}') from None
    return f"udp:{there}" if is_udp else str(there)


def path(raw: object) -> Path:
    """Read a path; what follows $CREDENTIALS_DIRECTORY/ is a credential that the service manager passed."""
    written = text(raw)
    if not written.startswith("$"):
        return Path(written).expanduser().absolute()
    variable, _, name = written.partition("/")
    if variable not in ("$CREDENTIALS_DIRECTORY", "${CREDENTIALS_DIRECTORY}") or not name:
        raise ValueError(f"expected a path, or $CREDENTIALS_DIRECTORY/NAME, got {_spell(raw)}")
    if (directory := credentials_directory()) is None:
        raise ValueError(
            "CREDENTIALS_DIRECTORY is not set: systemd sets it for a service that has "
            f"LoadCredential={name}:FILE; in a shell set it to the directory of {name}"
        )
    return directory / name


def several(item: Reader[T], *, at_least: int = 0) -> Reader[tuple[T, ...]]:
    """Read an array; the error names the element."""

    def read(raw: object) -> tuple[T, ...]:
        if not isinstance(raw, list | tuple):
            raise ValueError(f"expected an array such as [...], got {_spell(raw)}")
        if len(raw) < at_least:
            raise ValueError(f"expected at least {at_least} element")
        values, wrong = [], []
        for index, element in enumerate(raw):
            try:
                values.append(item(element))
            except ValueError as error:
                wrong.append(f"element {index + 1}: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return tuple(values)

    return takes_several(read, item, at_least)


def duration_text(seconds: float) -> str:
    """Write seconds as the shortest exact text that `duration` reads."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{seconds:.12g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:.12g}ms"


def size_text(octets: int) -> str:
    """Write octets as the shortest exact text that `size` reads."""
    for unit in ("GiB", "MiB", "KiB"):
        if octets and octets % _OCTETS[unit.upper()] == 0:
            return f"{octets // _OCTETS[unit.upper()]}{unit}"
    return f"{octets}B"


def _spell(raw: object) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, str):
        return f'"{raw[:80]}"' if raw.isprintable() else ascii(raw[:80])
    if isinstance(raw, dict):
        return "a table"
    return "an array" if isinstance(raw, list) else str(raw)[:80]


def _check_bounds(number: float, low: float, high: float, bounds: str, why: str) -> None:
    if not low <= number <= high:  # also false for nan, which TOML has
        raise ValueError(f"expected {bounds}{f' ({why})' if why else ''}, got {number:.12g}")


def _split_port(written: str) -> tuple[str, str | None]:
    if written.startswith("["):
        host, _, rest = written[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") else ("" if rest else None)
    if written.count(":") > 1:  # an IPv6 address without brackets has no room for a port
        return written, None
    host, colon, port = written.partition(":")
    return host, port if colon else None


def _numeric_host(host: str, form: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        raise ValueError(f"expected {form} such as 127.0.0.1:2525 or [::1]:2525, got host {_spell(host)}") from None


def _named_host(host: str, form: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if re.fullmatch(r"[0-9.]+", host):
        raise ValueError(f"expected {form}, got {_spell(host)} (not an IP address)")
    try:
        return host_name(host)
    except ValueError as error:
        raise ValueError(f"expected {form}; {error}") from None
