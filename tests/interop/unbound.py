# SPDX-License-Identifier: MIT
"""A real unbound in a scratch instance: it answers from a signed zone and from local data, and asks a scripted server.

Its upstream is smarthost's ScriptedDns, so that a test decides what the world says and unbound what becomes of it.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import dns.dnssec
import dns.name
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from tests.interop.programs import program
from tests.live.rig import WAIT_S, eventually
from tests.live.sink import free_port

_NOBODY = 65534
_ROUNDS = 3  # starts, should somebody else take its port

# As Debian ships it, but: nothing outside loopback is asked; a silent upstream is given up after a second or two, and a
# slow one on a busy box is not (unbound's patience shrinks to 50 ms where answers used to be fast)
_CONF = """\
server:
    username: ""
    chroot: ""
    directory: "{home}"
    pidfile: ""
    interface: 127.0.0.1
    port: {port}
    do-ip6: no
    do-daemonize: no
    use-syslog: no
    num-threads: 1
    do-not-query-localhost: no
    ede: yes
    outbound-msg-retry: 1
    infra-cache-min-rtt: 500
    module-config: "validator iterator"
    trust-anchor-file: "{home}/anchor"
{local_data}
remote-control:
    control-enable: no
auth-zone:
    name: "{signed}"
    zonefile: "{home}/zone"
    for-downstream: no
    for-upstream: yes
    fallback-enabled: no
forward-zone:
    name: "example"
    forward-addr: {upstream}
forward-zone:
    name: "silent.example"
    forward-addr: {silent}
"""


class Unbound(NamedTuple):
    """An instance that runs: where it listens, and its process."""

    at: tuple[str, int]
    program: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        """End it, as an operator who restarts it does."""
        self.program.send_signal(signal.SIGTERM)
        self.program.wait(WAIT_S)


@contextmanager
def unbound(upstream: tuple[str, int], local_data: Sequence[str], signed: str, zone: str) -> Iterator[Unbound]:
    """Run unbound over an upstream for all below "example", but "silent.example": for that nobody answers.

    `local_data` is its own; it validates the zone `signed` with the records `zone`, and 192.0.2.66 in there is changed
    after it was signed.
    """
    program("unbound")
    home = Path(tempfile.mkdtemp(prefix="smarthost-unbound-", dir="/tmp"))
    try:
        home.chmod(0o755)  # nobody reads it
        text, anchor = _sign(signed, zone)
        (home / "zone").write_text(text.replace("192.0.2.66", "203.0.113.66"))
        (home / "anchor").write_text(anchor)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            started = _start(home, upstream, silent.getsockname(), local_data, signed)
            try:
                yield started
            finally:
                started.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _start(
    home: Path, upstream: tuple[str, int], silent: tuple[str, int], local_data: Sequence[str], signed: str
) -> Unbound:
    own = "\n".join(f"    local-data: '{record}'" for record in local_data)
    is_root = os.geteuid() == 0
    for _ in range(_ROUNDS):
        port = free_port()
        conf = _CONF.format(
            home=home,
            port=port,
            local_data=own,
            signed=signed,
            upstream="{}@{}".format(*upstream),
            silent="{}@{}".format(*silent),
        )
        (home / "unbound.conf").write_text(conf)
        with (home / "log").open("wb") as log:
            child = subprocess.Popen(
                [program("unbound"), "-c", home / "unbound.conf"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=_NOBODY if is_root else None,
                group=_NOBODY if is_root else None,
                extra_groups=[] if is_root else None,
            )
        eventually(partial(_has_come_up, child, port), "unbound listens")
        if child.poll() is None:
            return Unbound(("127.0.0.1", port), child)
    raise AssertionError(f"unbound does not start: {(home / 'log').read_text()[-2000:]}")


def _has_come_up(child: "subprocess.Popen[bytes]", port: int) -> bool:
    if child.poll() is not None:
        return True
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _sign(name: str, records: str) -> tuple[str, str]:
    """Give a zone file signed with a new key, and the key's DS record for whoever is to trust it."""
    soa = "@ 300 IN SOA ns h 1 7200 900 1209600 60\n@ 300 IN NS ns\nns 300 IN A 127.0.0.1\n"
    zone = dns.zone.from_text(soa + records, origin=name, relativize=False)
    secret = ec.generate_private_key(ec.SECP256R1())
    key = dns.dnssec.make_dnskey(secret.public_key(), "ECDSAP256SHA256", flags=257)
    dns.dnssec.sign_zone(zone, keys=[(secret, key)], lifetime=86_400, add_dnskey=True)
    text = zone.to_text(relativize=False)
    ds = dns.dnssec.make_ds(dns.name.from_text(name), key, "SHA256")
    return text, f"{name}. 300 IN DS {ds.to_text()}\n"
