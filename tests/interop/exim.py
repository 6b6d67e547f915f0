# SPDX-License-Identifier: MIT
"""Exim in a scratch instance of its own, in the foreground, as client and as server; unpacked by tools/system-packages.

Its configuration is the least that takes and sends mail; what it offers at a door is told apart by the door's port.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
from tests.interop.certificates import Certificate
from tests.interop.programs import greets, require
from tests.live.rig import WAIT_S, eventually
from tests.live.sink import free_port

EXIM = Path("/usr/local/lib/smarthost-interop/exim4/usr/sbin/exim4")
LOGIN = ("me@example.org", "exim-sécret")
_ROUNDS = 3  # starts, should somebody else take its ports

# Doors: `plain` offers no TLS, `tls` offers it; `auth` takes nobody without a login, nor does `old`, in LOGIN alone.
_CONF = """\
spool_directory = {home}/spool
log_file_path = {home}/%slog
pid_file_path = {home}/pid
log_selector = +all
primary_hostname = exim.example.org
exim_user = Debian-exim
exim_group = Debian-exim
deliver_drop_privilege
exim_path = {exim}
keep_environment =
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
prdr_enable
accept_8bitmime
message_size_limit = 50M
tls_certificate = {tls.chain}
tls_privatekey = {tls.key}
tls_advertise_hosts = ${{if eq{{$received_port}}{{{plain}}}{{}}{{*}}}}
auth_advertise_hosts = ${{if or{{{{eq{{$received_port}}{{{auth}}}}}{{eq{{$received_port}}{{{old}}}}}}}{{*}}{{}}}}
chunking_advertise_hosts = *
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = rcpt
acl_smtp_mail = accept

begin acl
rcpt:
  deny condition = ${{if or{{{{eq{{$received_port}}{{{auth}}}}}{{eq{{$received_port}}{{{old}}}}}}}}}
       !authenticated = *
       message = 5.7.0 Log in first
  deny local_parts = nobody
       message = 5.1.1 No such mailbox
  accept

begin routers
{routers}
begin transports
clear:
  driver = smtp
  allow_localhost
  hosts_avoid_tls = *
  hosts_try_chunking =
  message_linelength_limit = 1000000
chunked:
  driver = smtp
  allow_localhost
  hosts_avoid_tls = *
  hosts_try_chunking = *
  message_linelength_limit = 1000000
verified:
  driver = smtp
  allow_localhost
  hosts_require_tls = *
  tls_verify_certificates = {tls.ca}
  tls_verify_hosts = *
  tls_verify_cert_hostnames = *
  hosts_try_chunking = *
login:
  driver = smtp
  allow_localhost
  hosts_require_tls = *
  hosts_require_auth = *
  tls_verify_certificates = {tls.ca}
  tls_verify_hosts = *

begin retry
* * F,1h,1h

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{{login[0]}}}}}{{eq{{$auth3}}{{{login[1]}}}}}}}}}
  server_set_id = $auth2
  server_advertise_condition = ${{if and{{{{def:tls_in_cipher}}{{eq{{$received_port}}{{{auth}}}}}}}}}
  client_send = {client_plain}
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if and{{{{eq{{$auth1}}{{{login[0]}}}}}{{eq{{$auth2}}{{{login[1]}}}}}}}}}
  server_set_id = $auth1
  server_advertise_condition = ${{if def:tls_in_cipher}}
"""
_ROUTER = """\
{name}:
  driver = manualroute
  domains = {domain}
  route_data = {host}::{port}
  transport = {transport}
  self = send
"""


class Exim(NamedTuple):
    """A scratch instance that runs: its home, and its doors."""

    home: Path
    plain: int
    tls: int
    auth: int
    old: int

    def log(self) -> str:
        """Give its main log."""
        file = self.home / "mainlog"
        return file.read_text() if file.exists() else ""

    def log_line(self, *words: str) -> str:
        """Wait for a line of its log with all these words in it, and give it."""

        def find() -> list[str]:
            return [line for line in self.log().splitlines() if all(word in line for word in words)]

        eventually(find, f"Exim logs {words}: {self.log()[-3000:]}")
        return find()[0]


class Way(NamedTuple):
    """How Exim sends mail for a domain on: by which of the transports above, to which port."""

    transport: str
    port: int


@contextmanager
def exim(
    ways: Mapping[str, Way], tls: Certificate, *, login: tuple[str, str] = LOGIN, client: tuple[str, str] = LOGIN
) -> Iterator[Exim]:
    """Run a scratch Exim that sends mail for the domains of `ways` on.

    `login`: the name and password of its only user; `client`: what it says where it logs in itself.
    """
    require(EXIM.exists(), f"{EXIM} is not there: run tools/system-packages")
    require(os.geteuid() == 0, "Exim wants to start as root")
    home = Path(tempfile.mkdtemp(prefix="smarthost-exim-", dir="/tmp"))
    try:
        (home / "spool").mkdir()
        for each in (home, home / "spool"):
            shutil.chown(each, "Debian-exim", "Debian-exim")
        process, ports = _start(home, ways, tls, login, client)
        try:
            yield Exim(home, *ports)
        finally:
            _stop(process)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _start(
    home: Path, ways: Mapping[str, Way], tls: Certificate, login: tuple[str, str], client: tuple[str, str]
) -> tuple["subprocess.Popen[bytes]", list[int]]:
    routers = "".join(
        _ROUTER.format(name=f"to{n}", domain=domain, host="localhost", port=way.port, transport=way.transport)
        for n, (domain, way) in enumerate(ways.items())
    )
    for _ in range(_ROUNDS):
        ports = [free_port() for _ in range(4)]
        text = _CONF.format(
            home=home,
            tls=tls,
            routers=routers,
            login=login,
            plain=ports[0],
            auth=ports[2],
            old=ports[3],
            exim=EXIM,
            client_plain="^".join(("", *client)),
        )
        (home / "exim.conf").write_text(text)
        listen = "<; " + " ; ".join(f"[127.0.0.1]:{port}" for port in ports)
        command = [str(EXIM), "-C", str(home / "exim.conf"), "-bdf", "-oX", listen]
        with (home / "said").open("wb") as said:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        eventually(partial(_has_come_up, process, ports), f"Exim greets: {home}")
        if process.poll() is None:
            return process, ports
    raise AssertionError(f"Exim does not start: {(home / 'said').read_text()}")


def _has_come_up(process: "subprocess.Popen[bytes]", ports: list[int]) -> bool:
    return process.poll() is not None or all(greets(port, "220 exim.example.org") for port in ports)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.wait(WAIT_S)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
