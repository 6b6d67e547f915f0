# SPDX-License-Identifier: MIT
"""A next hop with a real certificate and a real password: another smarthost, over TCP and TLS on loopback."""

import asyncio
from pathlib import Path

import pytest
import trustme
from tests.ops.doctor.rig import Rig, levels
from tests.ops.rig import CollectingSink

from smarthost import Relay
from smarthost.backends.clock import SystemClock
from smarthost.backends.tcp import TcpDialer
from smarthost.backends.tls import TlsContexts
from smarthost.backends.users import hash_password
from smarthost.config import parse_config
from smarthost.ops.doctor.examination import examine
from smarthost.ops.doctor.findings import Finding
from smarthost.ops.doctor.world import Wishes
from smarthost.testing.dns import Zone

NAME = "smtp.example.net"
AUTHORITY = trustme.CA(key_type=trustme.KeyType.ECDSA)


def upstream(directory: Path, name: str) -> str:
    """Give the configuration of a relay that takes mail from alice, with a certificate for `name`."""
    certificate = AUTHORITY.issue_cert(name)
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / "certificate.pem")
    users = directory / "users.toml"
    users.write_text(f'[alice]\npassword = "{hash_password("right")}"\nsenders = ["@example.org"]\n')
    users.chmod(0o600)
    return f"""
hostname = "{NAME}"
state_dir = "{directory / "upstream"}"
listen = ["127.0.0.1:0"]
[tls]
certificate_file = "{directory / "certificate.pem"}"
[auth]
users_file = "{users}"
[[listener]]
mode = "submission"
listen = ["127.0.0.1:0"]
"""


def ask(directory: Path, *, name: str = NAME, password: str = "right", tls: str = "verified") -> list[Finding]:
    """Examine the way to that relay; its password is tried."""

    async def run() -> list[Finding]:
        async with Relay.from_config(parse_config(upstream(directory, name)), CollectingSink()) as relay:
            port = relay.bound[-1][1]
            config = f"""
[[next_hop]]
host = "{NAME}"
port = {port}
username = "alice"
password = "{password}"
tls = "{tls}"
"""
            rig = Rig(config, zone=Zone({NAME: "A 127.0.0.1"}), wishes=Wishes(blocklist="", login=True))
            clock = SystemClock()
            trusted = TlsContexts(ca_text=AUTHORITY.cert_pem.bytes().decode())
            rig.change(clock=clock, dialer=TcpDialer(clock, trusted))
            return await examine(rig.world, ["egress"], 10, lambda finding: None)

    return asyncio.run(run())


@pytest.mark.slow
def test_a_good_certificate_and_the_right_password_are_ok(tmp_path: Path) -> None:
    """What mail will find is what the doctor found."""
    found = ask(tmp_path)

    assert levels(found) == ["ok", "ok"]
    assert "TLSv1.3" in found[0].seen
    assert "verified" in found[0].seen
    assert "takes the password of alice" in found[1].seen


@pytest.mark.slow
def test_a_wrong_password_is_told_with_the_hosts_words(tmp_path: Path) -> None:
    """The password itself is not."""
    found = ask(tmp_path, password="wrong-word")

    assert levels(found) == ["ok", "fail"]
    assert "535" in found[1].seen
    assert "wrong-word" not in found[1].seen


@pytest.mark.slow
def test_a_certificate_for_another_name_fails_or_endangers_the_password(tmp_path: Path) -> None:
    """Verified: no session. Only required: a session that anybody in between can read."""
    verified = ask(tmp_path, name="other.example.net")
    required = ask(tmp_path, name="other.example.net", tls="required")

    assert levels(verified) == ["fail"]
    assert "failed at tls" in verified[0].seen
    assert levels(required) == ["ok", "warn", "ok"]
    assert "can read the password" in required[1].seen
