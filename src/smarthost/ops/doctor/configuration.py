# SPDX-License-Identifier: MIT
"""Check `config`: does the configuration load, are its files there, matching, in date, and closed to strangers?

Opens what a start would open, by the same code (entrance.find_bad_files); adds dates and permissions. Changes nothing.
"""

import tomllib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING

from smarthost.config import Config
from smarthost.mail.errors import ConfigError
from smarthost.ops.doctor.findings import Findings
from smarthost.ops.doctor.world import World, aside
from smarthost.ports import Clock

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from smarthost.mail.record import Record

EXPIRY_WARNING_DAYS = 21  # a certificate of 90 days is renewed at 30 left: a week and a half of failed renewals
_PUBLIC_FILES = ("certificate_file", "client_ca_file", "ca_file")  # all other *_file keys name secrets
_DAY_S = 86400.0


async def check_configuration(world: World, told: Findings) -> None:
    """Load it as a start would, then look at what a start takes as it is."""
    for error in world.errors:
        told.fail(error, "mend that line; `smarthost config check` says whether more is wrong")
    if world.errors:
        return
    await aside(lambda: _look(world, told))


def _look(world: World, told: Findings) -> None:
    config = world.config
    notes = _Notes()
    from smarthost.entrance import find_bad_files

    bad = [*find_bad_files(config, world.clock, notes), *_bad_certificates_of_http(config, world.clock, notes)]
    for error in bad:
        told.fail(str(error), "mend or replace that file: a start refuses it")
    for line in notes.lines:
        told.warn(line, "smarthost config check and docs/configuration.md say more")
    if not bad:
        told.ok(f"{config.file or 'no file, the defaults'}: no errors, and its files can be used")
    for file in sorted(_certificate_files(config)):
        _judge_certificate(file, config.hostname, world.clock.wall(), told)
    _judge_permissions(config, told)


class _Notes:
    """A ports.Sink that keeps what a start would log; expired certificates are told by us, with their names."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def record(self, record: "Record") -> None:
        """Nothing happens to mail while files are looked at."""

    def note(self, level: str, what: str, **facts: object) -> None:
        if what != "certificate expired":
            self.lines.append(", ".join([what, *(f"{name} {value}" for name, value in facts.items())]))


def _bad_certificates_of_http(config: Config, clock: Clock, notes: "_Notes") -> Iterator[ConfigError]:
    """The doors for mail are entrance's; what serves HTTP needs its pair to fit as well."""
    from smarthost.backends.tls import ServerTls

    file, key_file = config.http.certificate_file, config.http.key_file
    if file is not None:
        try:
            ServerTls(str(file), str(key_file or ""), clock=clock, note=notes.note)
        except ConfigError as error:
            yield error


# -- certificates ------------------------------------------------------------------------------------------------------


def _certificate_files(config: Config) -> set[Path]:
    files = [config.tls.certificate_file, config.http.certificate_file]
    files += [section.certificate_file for section in config.listeners]
    return {file for file in files if file is not None}


def _judge_certificate(file: Path, hostname: str, now: float, told: Findings) -> None:
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError):
        return  # find_bad_files has said why
    ends = certificate.not_valid_after_utc
    left_s = ends.timestamp() - now
    cure = "renew it; the daemon takes the new file up by itself"
    if certificate.not_valid_before_utc > datetime.fromtimestamp(now, UTC):
        told.fail(
            f"{file}: not valid before {_day(certificate.not_valid_before_utc)}", "check the clock, or replace it"
        )
    if left_s <= 0:
        told.fail(f"{file}: expired on {_day(ends)}", cure)
    elif left_s < EXPIRY_WARNING_DAYS * _DAY_S:
        told.warn(f"{file}: expires on {_day(ends)}, in {int(left_s / _DAY_S)} days", cure)
    else:
        told.ok(f"{file}: valid until {_day(ends)}, {int(left_s / _DAY_S)} days")
    names = list(_names_of(certificate))
    if not any(_covers(name, hostname) for name in names):
        shown = ", ".join(names[:5]) or "no name"
        told.warn(
            f"{file}: is for {shown}, not for our hostname {hostname}",
            f"clients that verify will refuse it: have one issued for {hostname}, or set hostname to what it names",
        )


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _names_of(certificate: "Certificate") -> Iterator[str]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return
    yield from (name.lower() for name in names.get_values_for_type(x509.DNSName))


def _covers(name: str, hostname: str) -> bool:
    """RFC 9525 6.3: a wildcard stands for the whole leftmost label."""
    return name == hostname or (name.startswith("*.") and name[2:] == hostname.partition(".")[2])


# -- who may read what is secret ---------------------------------------------------------------------------------------


def _judge_permissions(config: Config, told: Findings) -> None:
    closed = 0
    for path, what in _secrets(config):
        try:
            mode = S_IMODE(path.stat().st_mode)
        except OSError as error:
            told.fail(f"{path}: cannot be looked at: {error.strerror}", "run this as the user whose daemon it is")
            continue
        if mode & 0o006:
            verb = "change" if mode & 0o002 else "read"
            told.fail(f"{path} ({what}): everybody on this machine may {verb} it, mode {mode:04o}", f"chmod 600 {path}")
        elif mode & 0o020:
            told.warn(f"{path} ({what}): its group may change it, mode {mode:04o}", f"chmod g-w {path}")
        else:
            closed += 1
    if closed:
        told.ok(f"files with secrets are closed to others: {closed}")


def _secrets(config: Config) -> Iterator[tuple[Path, str]]:
    """Give the files that hold passwords, tokens, hashes or keys, each once; the configuration, if it holds any."""
    if not config.file:
        return
    try:
        tables = tomllib.loads(Path(config.file).read_text("utf-8"))
    except (OSError, ValueError):
        return
    seen: set[Path] = set()
    for key, value in _walk(tables):
        is_file = key.endswith("_file") and key not in _PUBLIC_FILES
        path, what = (Path(value), key) if is_file else (Path(config.file), key)
        if (is_file or key in ("password", "secret", "token")) and path not in seen:
            seen.add(path)
            yield path, what


def _walk(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, below in value.items():
            yield from _walk(below, str(name))
    elif isinstance(value, Iterable):
        for below in value:
            yield from _walk(below, key)


# -- which domains we send for -----------------------------------------------------------------------------------------


def sending_domains(config: Config) -> tuple[str, ...]:
    """Give the domains that mail of ours is from, as far as the configuration and the users file tell. May block."""
    domains: dict[str, None] = dict.fromkeys(domain for section in config.dkim for domain in section.domains)
    senders = [sender for network in config.networks for sender in network.senders]
    senders += [sender for route in config.routes for sender in route.senders]
    for sender in (*senders, *_users_senders(config.auth.users_file)):
        _, at, domain = sender.rpartition("@")
        if at and not sender.startswith("user:"):
            domains[domain.lower()] = None
    return tuple(domain for each in domains if (domain := each.removeprefix("*").removeprefix(".")))


def _users_senders(file: Path | None) -> Iterator[str]:
    if file is None:
        return
    try:
        users = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError):  # find_bad_files says why
        return
    for user in users.values():
        senders = user.get("senders") if isinstance(user, dict) else None
        yield from [each for each in senders or () if isinstance(each, str)]
