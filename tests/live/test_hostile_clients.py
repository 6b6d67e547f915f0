# SPDX-License-Identifier: MIT
"""Six hundred clients that attack in ten ways at once, beside one that only wants to send its mail.

The deadlines of each attack are virtual time's. Here is the real daemon, with real sockets, TLS and password hashes.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from bench.certificate import make_certificate
from bench.hostile_clients import ATTACKS
from tests.live.hostile import memory_octets
from tests.live.raw import RawClient
from tests.live.rig import WAIT_S, serving, smarthost
from tests.live.sink import Sink

from bench import hostile_clients

pytestmark = pytest.mark.slow

GROWTH_OCTETS = 160 << 20  # of which two hashes at 64 MiB; the sessions themselves about 20
MESSAGES = 20


def test_a_client_among_attackers_is_served(tmp_path: Path) -> None:
    """Its mail is taken and relayed, memory is bounded, every attack was under way, and the daemon stops when told."""
    made = make_certificate(tmp_path)
    users = tmp_path / "users.toml"
    users.touch(mode=0o600)
    users.write_text(f'[alice]\npassword = "{_hashed(b"secret")}"\nsenders = ["*"]\n')
    config = f"""
[tls]
certificate_file = "{made.certificate}"
key_file = "{made.key}"
[auth]
users_file = "{users}"
[[listener]]
listen = ["127.0.0.1:0"]
"""
    with Sink() as sink, serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{sink.port}", config=config) as daemon:
        before = memory_octets(daemon)
        attackers = subprocess.Popen(
            [sys.executable, hostile_clients.__file__, str(daemon.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert attackers.stdout is not None, "started with a pipe"
            assert attackers.stdout.readline() == b"attacking\n"
            began = time.monotonic()
            with RawClient(daemon.port) as client:
                assert client.greeting.startswith("220")
                for n in range(MESSAGES):
                    client.send(b"Subject: good\r\n\r\nHello\r\n", f"good{n}@example.net")
            sink.wait_for(MESSAGES, 10.0)
            took_s = time.monotonic() - began
            growth = memory_octets(daemon) - before
            open_now = len(psutil.Process(daemon.process.pid).net_connections())
        finally:
            said, _ = attackers.communicate(timeout=WAIT_S)

    assert took_s < 10  # 0.2 s on an idle box
    assert growth < GROWTH_OCTETS
    assert open_now > 500
    outcome = json.loads(said)
    assert not outcome["failed"]
    assert {kind: outcome["begun"][kind] >= number for kind, (number, _) in ATTACKS.items()} == dict.fromkeys(
        ATTACKS, True
    )
    assert len(sink.arrived) == MESSAGES  # nothing of the attackers' was filed


def _hashed(password: bytes) -> str:
    answer = smarthost("users", "hash", content=password + b"\n")
    assert answer.returncode == os.EX_OK, answer.stderr
    return answer.stdout.decode().strip()
