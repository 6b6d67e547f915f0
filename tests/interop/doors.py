# SPDX-License-Identifier: MIT
"""A daemon with every kind of door at once, each at a port of its own, that hands all mail to one far side."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.interop.certificates import Certificate
from tests.live.rig import Daemon, serving

from smarthost.backends.users import hash_password

USER = "alice"
PASSWORD = "correct horse's staple"  # smtplib has no way to say another than ASCII

_CONFIG = """
[tls]
certificate_file = "{chain}"
key_file = "{key}"
[auth]
users_file = "{users}"
[[listener]]
listen = ["127.0.0.1:0"]
mode = "submission"
[[listener]]
listen = ["127.0.0.1:0"]
mode = "submissions"
[[listener]]
listen = ["127.0.0.1:0"]
mode = "lmtp"
[[listener]]
listen = ["127.0.0.1:0"]
proxy_from = ["127.0.0.1"]
relay_from = ["192.0.2.0/24"]
[[listener]]
listen = ["127.0.0.1:0"]
xclient_from = ["127.0.0.1"]
relay_from = ["192.0.2.0/24"]
"""
_USERS = """
[{name}]
password = "{hash}"
senders = ["alice@example.org", "δοκιμή@παράδειγμα.gr"]
"""


class Doors(NamedTuple):
    """The daemon, and its ports by kind of door."""

    daemon: Daemon
    relay: int
    submission: int
    submissions: int
    lmtp: int
    proxied: int
    xclient: int


@cache
def hash_of(password: str) -> str:
    """Hash a password once for all tests: that takes its time, by design."""
    return hash_password(password)


@contextmanager
def all_doors(home: Path, far_port: int, tls: Certificate, further: str = "") -> Iterator[Doors]:
    """Run the daemon for a block. `further`: more of its configuration."""
    users = home / "users.toml"
    users.write_text(_USERS.format(name=USER, hash=hash_of(PASSWORD)))
    config = _CONFIG.format(chain=tls.chain, key=tls.key, users=users)
    with serving(home / "state", "--next-hop", f"127.0.0.1:{far_port}", config=config + further) as daemon:
        yield Doors(daemon, *[port for _, port in daemon.bound])
