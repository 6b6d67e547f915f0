# SPDX-License-Identifier: MIT
"""Where a sendmail finds its relay: state directories, drop directories, listeners, host name. Reads, writes nothing.

The file is that of `smarthost serve` (-C FILE.toml, else /etc/smarthost/smarthost.toml). Whoever may not read it goes
by what is usual: a cron job's mail is not lost because a file holds a password. Unlike the other commands it does not
look at $STATE_DIRECTORY, which is another service's where that service sends mail. Standard library only.
"""

import os
import re
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from smarthost.ops.sendmail_options import CONFIG, Complaint

CONFIG_FILE = "/etc/smarthost/smarthost.toml"  # config.DEFAULT_FILE
SYSTEM_STATE_DIR = "/var/lib/smarthost"  # config.surroundings
SYSTEM_DROP = "/var/spool/smarthost/maildrop"  # config.values
DROP_NAME = "maildrop"
MESSAGE_OCTETS = 50 << 20  # smtp.limits
MAILNAME = "/etc/mailname"
LISTEN = ("127.0.0.1:2525",)
_OCTETS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


class Place(NamedTuple):
    """What is known of the relay. Directories are tried in order. `users`: who may send, ("*",) for everybody."""

    host: str
    state_dirs: tuple[str, ...]
    drops: tuple[str, ...]
    listen: tuple[str, ...]
    message_octets: int
    users: tuple[str, ...]


def find_place(config: str, environ: Mapping[str, str], *, default: str = CONFIG_FILE) -> Place:
    """Find the relay. `config`: of -C; another program's file (sendmail.cf, main.cf) is passed over.

    Raises: Complaint: a file that was named cannot be read, or is not TOML.
    """
    tables = _read(config, is_named=True) if config.endswith(".toml") else _read(default, is_named=False)
    written = tables.get("state_dir")
    state_dirs = (os.path.abspath(os.path.expanduser(written)),) if isinstance(written, str) else _usual_dirs(environ)
    maildrop = tables.get("maildrop")
    drop = maildrop.get("directory") if isinstance(maildrop, dict) else None
    users = maildrop.get("users", ["*"]) if isinstance(maildrop, dict) else ["*"]
    return Place(
        host=_host(tables),
        state_dirs=state_dirs,
        drops=(os.path.abspath(drop),) if isinstance(drop, str) else _usual_drops(state_dirs),
        listen=_listen(tables),
        message_octets=_octets(tables),
        users=tuple(map(str, users)) if isinstance(users, list) else ("*",),
    )


def _read(file: str, *, is_named: bool) -> Mapping[str, Any]:
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
    except OSError as error:
        if is_named:
            raise Complaint(f"{file}: cannot be read: {error.strerror}", CONFIG) from None
        return {}
    except ValueError:
        return _refuse(file, "not UTF-8", is_named)
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return _refuse(file, f"not TOML: {error}", is_named)


def _refuse(file: str, why: str, is_named: bool) -> Mapping[str, Any]:
    if is_named:
        raise Complaint(f"{file}: {why}", CONFIG)
    sys.stderr.write(f"sendmail: warning: {file}: {why}; going by the defaults\n")
    return {}


def _usual_dirs(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Give those of config.default_state_dir: a user's own daemon first, and then the system's."""
    if os.geteuid() == 0:
        return (SYSTEM_STATE_DIR,)
    home = environ.get("XDG_STATE_HOME", "")
    if not home.startswith("/"):
        home = os.path.expanduser("~/.local/state")
    return (f"{home}/smarthost", SYSTEM_STATE_DIR) if home.startswith("/") else (SYSTEM_STATE_DIR,)


def _usual_drops(state_dirs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([SYSTEM_DROP if each == SYSTEM_STATE_DIR else f"{each}/{DROP_NAME}" for each in state_dirs])


def _host(tables: Mapping[str, Any]) -> str:
    """Give what completes an address without a domain: the relay's name, /etc/mailname, or the machine's name."""
    written = tables.get("hostname")
    if isinstance(written, str) and _NAME.fullmatch(written):
        return written.lower()
    try:
        with open(MAILNAME, encoding="utf-8") as file:
            mailname = file.readline(256).strip()
    except (OSError, ValueError):
        mailname = ""
    for name in (mailname, os.uname().nodename):
        if _NAME.fullmatch(name):
            return name.lower()
    return "localhost"


def _listen(tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the doors where machines speak SMTP in clear."""
    listeners = tables.get("listener", [])
    doors = [each for each in listeners if isinstance(each, dict)] if isinstance(listeners, list) else []
    listen = _texts(tables.get("listen", () if doors else LISTEN))
    for each in doors:
        if each.get("mode", "relay") == "relay" and each.get("tls") != "required" and "proxy_from" not in each:
            listen += _texts(each.get("listen", ()))
    return listen


def _texts(raw: object) -> tuple[str, ...]:
    return tuple([each for each in raw if isinstance(each, str)]) if isinstance(raw, list | tuple) else ()


def _octets(tables: Mapping[str, Any]) -> int:
    limits = tables.get("limits")
    written = limits.get("message_size") if isinstance(limits, dict) else None
    if isinstance(written, int):
        return written
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", written.strip()) if isinstance(written, str) else None
    if found is None or found[2].upper() not in _OCTETS:
        return MESSAGE_OCTETS
    return int(float(found[1]) * _OCTETS[found[2].upper()])
