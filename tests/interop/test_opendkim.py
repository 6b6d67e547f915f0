# SPDX-License-Identifier: MIT
"""Signatures of ours, verified by opendkim."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.accept.test_sign import ED25519, MAIL, RSA, message, signed

from smarthost.ops.dkim import record

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def verify(octets: bytes, tmp_path: Path) -> str:
    """Give what opendkim says about a message."""
    program = shutil.which("opendkim", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.fail("opendkim is missing: tools/system-packages installs it")
    (tmp_path / "keys").write_text(
        f"s1._domainkey.example.org {record(RSA)}\ns2._domainkey.example.org {record(ED25519)}\n"
    )
    (tmp_path / "conf").write_text(f"Mode v\nTestPublicKeys {tmp_path / 'keys'}\nSyslog no\n")
    (tmp_path / "mail").write_bytes(octets)
    command = [program, "-x", str(tmp_path / "conf"), "-v", "-t", str(tmp_path / "mail")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout + done.stderr


def test_opendkim_verifies_what_we_sign(tmp_path: Path) -> None:
    """RSA; and it says of a changed message that it is not good."""
    octets = signed(message(MAIL))

    assert "verification (s=s1, d=example.org, 2048-bit key) succeeded" in verify(octets, tmp_path)
    assert "succeeded" not in verify(octets.replace(b"Hello", b"Hallo"), tmp_path)
