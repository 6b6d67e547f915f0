# SPDX-License-Identifier: MIT
"""The system's programs that interop tests need: where they are; and Postfix in a scratch instance of its own.

A missing program fails a test in CI (env CI) and skips it loudly elsewhere: nobody shall believe that it was tried.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import psutil
import pytest
from tests.live.raw import RawClient
from tests.live.rig import WAIT_S, eventually
from tests.live.sink import free_port

_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"  # not on an ordinary user's PATH in Debian
_ROUNDS = 3  # starts of Postfix, should somebody else take its port


def require(condition: object, missing: str) -> None:
    """Fail in CI, skip elsewhere, unless the condition holds."""
    if condition:
        return
    if os.environ.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(f"NOT TRIED: {missing}")
    pytest.fail(f"in CI nothing may be left out: {missing}")


def program(name: str) -> str:
    """Give the path of a program, or end the test."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":" + _SBIN)
    require(path, f"{name} is not installed: run tools/system-packages")
    assert path is not None, "require ends the test"
    return path


# As Debian ships it, but: no local mail, routes by a table in the file, and nothing rewritten or wrapped that need not
# be (header rewriting, smtp_line_length_limit), so that a difference is ours.
_MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
myhostname = postfix.example.org
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relay_domains = {domains}
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions =
smtp_dns_support_level = disabled
transport_maps = inline:{{ {routes} }}
local_header_rewrite_clients =
smtp_line_length_limit = 0
smtputf8_enable = yes
message_size_limit = 52428800
"""
_MASTER_CF = """\
cleanup unix n - n - 0 cleanup
pickup unix n - n 60 1 pickup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
tlsmgr unix - - n 1000? 1 tlsmgr
"""


class Postfix(NamedTuple):
    """A scratch instance that runs: its home, where it takes mail, and its further doors by name."""

    home: Path
    port: int
    doors: dict[str, int]

    def log(self) -> str:
        """Give its log."""
        return (self.home / "mail.log").read_text()

    def flush(self) -> None:
        """Let it try all its mail again now."""
        subprocess.run([program("postfix"), "-c", self.home / "conf", "flush"], check=True, capture_output=True)


@contextmanager
def postfix(
    routes: Mapping[str, int | str],
    *,
    main: str = "",
    doors: Mapping[str, str] = MappingProxyType({}),
    transports: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Postfix]:
    """Run a scratch Postfix that takes mail for the domains of `routes` and sends each to that port or next hop.

    `main`: more lines of main.cf. `doors`, `transports`: further servers and clients of its, by name, with their
    options of master.cf ("-o name=value"); a next hop in `routes` is then "transport:[host]:port".
    """
    program("postfix")
    require(os.geteuid() == 0, "Postfix's master only starts as root")
    home = Path(tempfile.mkdtemp(prefix="smarthost-postfix-", dir="/tmp"))
    try:
        home.chmod(0o755)  # its own user walks through it, as it could not through pytest's directories
        for name in ("conf", "queue", "data"):
            (home / name).mkdir()
        shutil.chown(home / "data", "postfix")
        hops = {domain: hop if isinstance(hop, str) else f"smtp:[127.0.0.1]:{hop}" for domain, hop in routes.items()}
        table = ", ".join(f"{{{domain} = {hop}}}" for domain, hop in hops.items())
        (home / "conf/main.cf").write_text(_MAIN_CF.format(home=home, routes=table, domains=" ".join(routes)) + main)
        clients = "".join(f"{name} unix - - n - - smtp {options}\n" for name, options in transports.items())
        master, port, further = _start(home, {"": "", **doors}, clients)
        try:
            yield Postfix(home, port, further)
        finally:
            _stop(master)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _start(home: Path, doors: Mapping[str, str], clients: str) -> tuple["subprocess.Popen[bytes]", int, dict[str, int]]:
    daemons = subprocess.run([program("postconf"), "-dh", "daemon_directory"], capture_output=True, check=True)
    said = ""
    for _ in range(_ROUNDS):
        ports = {name: free_port() for name in doors}
        servers = [f"127.0.0.1:{ports[name]} inet n - n - - smtpd {options}\n" for name, options in doors.items()]
        (home / "conf/master.cf").write_text("".join(servers) + _MASTER_CF + clients)
        check = subprocess.run([program("postfix"), "-c", home / "conf", "check"], capture_output=True, check=False)
        assert check.returncode == 0, check.stderr.decode()
        # In the foreground, so that it is ours to wait for
        master = subprocess.Popen(
            [Path(daemons.stdout.decode().strip()) / "master", "-c", home / "conf", "-s"],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        eventually(partial(_has_come_up, master, ports[""]), "Postfix greets")
        if master.poll() is None:
            return master, ports[""], ports
        said = (home / "mail.log").read_text()[-2000:]
    raise AssertionError(f"Postfix does not start: {said}")


def _has_come_up(master: "subprocess.Popen[bytes]", port: int) -> bool:
    return master.poll() is not None or greets(port, "220 postfix.example.org")


def greets(port: int, banner: str = "220") -> bool:
    """Is there a server whose banner begins so?"""
    try:
        with RawClient(port) as client:
            return client.greeting.startswith(banner)
    except OSError:
        return False


def _stop(master: "subprocess.Popen[bytes]") -> None:
    """What `postfix stop` does: TERM to the master, which ends the others; whoever is left then is killed."""
    family = psutil.Process(master.pid).children(recursive=True)
    master.send_signal(signal.SIGTERM)
    master.wait(WAIT_S)
    _, alive = psutil.wait_procs(family, timeout=5)
    for each in alive:
        each.kill()
