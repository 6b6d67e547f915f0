# SPDX-License-Identifier: MIT
"""Debian's Postfix as a system under test: a scratch instance of its own, beside any that the machine runs.

Its configuration, queue and data live in the run's directory; nothing under /etc or /var/spool is read or written.
Durability is as shipped. Must be root: Postfix's master is.
"""

import os
import shutil
import subprocess
from pathlib import Path

from bench.certificate import Certificate
from bench.children import Scratch
from bench.failure import RunFailed
from bench.network import await_banner, free_port
from bench.programs import require_program
from bench.system import StartSystem, System

# Tuned where it costs nothing in safety; each was tried beside the default, and none made Postfix slower end to end.
# in_flow_delay: its default of 1 s throttles accepting. Concurrency starts at its limit instead of feeling its way up
# from 5. No DNS: all addresses are literals. The log goes to a file, as smarthost's does.
MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
myhostname = postfix.bench.test
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
relayhost = [127.0.0.1]:{sink_port}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_dns_support_level = disabled
default_process_limit = 100
smtp_destination_concurrency_limit = 20
initial_destination_concurrency = 20
in_flow_delay = 0
"""
# Debian's master.cf without chroot (a scratch instance has none) and without what never runs here.
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
# Session caches as shipped: none in files, but tickets for clients that want them, which is what tlsmgr is for.
TLS_CF = """\
smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtp_tls_security_level = may
smtp_tls_connection_reuse = yes
"""
TLS_MASTER_CF = """\
tlsmgr unix - - n 1000? 1 tlsmgr
tlsproxy unix - - n - 0 tlsproxy
"""
_QUEUES = ("incoming", "active", "deferred", "maildrop", "corrupt", "hold")


class Postfix:
    """A running scratch instance; `root_pid` is its master."""

    name = "postfix"

    def __init__(
        self, scratch: Scratch, home: Path, sink_port: int, main_cf: str = MAIN_CF, master_cf: str = MASTER_CF
    ) -> None:
        self._home = home
        self.port = free_port()
        config = self._write_configuration(main_cf.format(home=home, sink_port=sink_port), master_cf)
        postfix = require_program("postfix")
        check = subprocess.run([postfix, "-c", config, "check"], capture_output=True, text=True, check=False)
        if check.returncode != 0:
            raise RunFailed(f"postfix check: {check.stderr.strip() or check.returncode}")
        # `postfix start` makes a daemon that no one waits for; its master in the foreground is ours to wait for.
        self._child = scratch.start("postfix", [_daemons() / "master", "-c", config, "-s"])
        self.root_pid: int | None = self._child.pid
        await_banner(self.port, self._child, 30)

    def _write_configuration(self, main_cf: str, master_cf: str) -> Path:
        config = self._home / "conf"
        for name in ("conf", "queue", "data"):
            (self._home / name).mkdir(mode=0o755)
        shutil.chown(self._home / "data", "postfix")
        (config / "main.cf").write_text(main_cf)
        (config / "master.cf").write_text(master_cf.format(port=self.port))
        return config

    def left_over(self) -> int | None:
        """Count the queue files."""
        return sum(len(names) for queue in _QUEUES for _, _, names in os.walk(self._home / "queue" / queue))

    def stop(self) -> None:
        """What `postfix stop` does: TERM to the master, which ends the others."""
        if self._child.stop(20) is None:
            raise RunFailed("Postfix's master did not end within 20 s")


def _daemons() -> Path:
    answer = subprocess.run(
        [require_program("postconf"), "-dh", "daemon_directory"], capture_output=True, text=True, check=True
    )
    return Path(answer.stdout.strip())


def start_postfix(scratch: Scratch, home: Path, sink_port: int) -> Postfix:
    """Start a scratch instance with its state in `home`."""
    return Postfix(scratch, home, sink_port)


def postfix_starter(certificate: Certificate | None) -> StartSystem:
    """Give what starts a scratch instance; with a certificate it speaks TLS on both sides."""
    if certificate is None:
        return start_postfix
    tls_cf = TLS_CF.format(certificate=certificate.certificate, key=certificate.key)

    def start(scratch: Scratch, home: Path, sink_port: int) -> System:
        return Postfix(scratch, home, sink_port, MAIN_CF + tls_cf, MASTER_CF + TLS_MASTER_CF)

    return start
