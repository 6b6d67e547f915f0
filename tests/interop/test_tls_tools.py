# SPDX-License-Identifier: MIT
"""What the tools say of our TLS that postmasters test a server with: openssl s_client and posttls-finger."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from tests.interop.certificates import Certificate, certificate
from tests.interop.doors import Doors, all_doors
from tests.interop.programs import program
from tests.live.rig import WAIT_S
from tests.live.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]


class Rig(NamedTuple):
    """The daemon's doors and the certificate that they show."""

    doors: Doors
    tls: Certificate


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("tls-tools")
    with certificate() as tls, Sink() as sink, all_doors(home, sink.port, tls) as doors:
        yield Rig(doors, tls)


def s_client(rig: Rig, *arguments: str, port: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run openssl s_client to our STARTTLS, or to the port of another door; it says QUIT inside."""
    starttls = () if port else ("-starttls", "smtp", "-name", "client.example.org")
    to = ["-connect", f"127.0.0.1:{port or rig.doors.relay}", "-CAfile", str(rig.tls.ca), "-crlf", "-ign_eof"]
    return subprocess.run(
        [program("openssl"), "s_client", *to, *starttls, *arguments],
        input="QUIT\n",
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
@pytest.mark.parametrize("is_implicit", [False, True])
def test_openssl_verifies_our_certificate(rig: Rig, version: str, *, is_implicit: bool) -> None:
    """The chain is valid for our name, by STARTTLS and from the first octet, and the session goes on inside."""
    verify = [f"-{version}", "-verify_return_error", "-verify_hostname", "localhost"]

    ran = s_client(rig, *verify, port=rig.doors.submissions if is_implicit else 0)

    assert ran.returncode == 0, ran.stderr
    assert "Verify return code: 0 (ok)" in ran.stdout
    assert "Verified peername: localhost" in ran.stdout
    assert "221 2.0.0" in ran.stdout
    assert ("New, TLSv1.2" in ran.stdout) == (version == "tls1_2")


@pytest.mark.parametrize("version", ["tls1", "tls1_1"])
@pytest.mark.parametrize("is_implicit", [False, True])
def test_old_versions_of_tls_are_refused(rig: Rig, version: str, *, is_implicit: bool) -> None:
    """TLS 1.0 and 1.1 (RFC 8996) get an alert, even from a client that would take any cipher for them."""
    ran = s_client(rig, f"-{version}", "-cipher", "ALL@SECLEVEL=0", port=rig.doors.submissions if is_implicit else 0)

    assert ran.returncode != 0
    assert "alert protocol version" in ran.stderr
    assert "221" not in ran.stdout


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_a_session_is_resumed(rig: Rig, tmp_path: Path, version: str) -> None:
    """A client that comes back with its session spares both sides the whole handshake."""
    kept = str(tmp_path / "session")

    first = s_client(rig, f"-{version}", "-sess_out", kept)
    again = s_client(rig, f"-{version}", "-sess_in", kept)

    assert "\nNew, TLS" in first.stdout
    assert "\nReused, TLS" in again.stdout
    assert "221 2.0.0" in again.stdout


def posttls_finger(rig: Rig, tmp_path: Path, *arguments: str, match: str = "", port: int = 0) -> str:
    """Run Postfix's posttls-finger; give what it found out. `match`: what the certificate must have."""
    (tmp_path / "main.cf").write_text(
        "compatibility_level = 3.6\nmyhostname = finger.example.org\ninet_protocols = ipv4\n"
    )
    ran = subprocess.run(
        [program("posttls-finger"), "-c", *arguments, f"[127.0.0.1]:{port or rig.doors.relay}", *filter(None, [match])],
        env={**os.environ, "MAIL_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return ran.stderr + ran.stdout


def test_posttls_finger_finds_tls_that_it_can_verify(rig: Rig, tmp_path: Path) -> None:
    """At the level verify it names the certificate and calls the connection verified."""
    said = posttls_finger(rig, tmp_path, "-l", "verify", "-F", str(rig.tls.ca), match="localhost")

    assert "Verified TLS connection established to 127.0.0.1[127.0.0.1]" in said
    assert "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384" in said
    assert "matched peername: localhost" in said


def test_posttls_finger_trusts_our_fingerprint(rig: Rig, tmp_path: Path) -> None:
    """A certificate pinned by its fingerprint, without any authority; another fingerprint is not verified."""
    leaf = x509.load_pem_x509_certificate(rig.tls.chain.read_bytes())
    right = leaf.fingerprint(hashes.SHA256()).hex(":").upper()
    pinned = ["-l", "fingerprint", "-d", "sha256"]

    assert "Verified TLS connection established" in posttls_finger(rig, tmp_path, *pinned, match=right)
    wrong = "00:" * 31 + "00"
    assert "Verified TLS connection established" not in posttls_finger(rig, tmp_path, *pinned, match=wrong)


def test_posttls_finger_without_any_wish(rig: Rig, tmp_path: Path) -> None:
    """At the level may there is TLS, which nobody vouches for."""
    said = posttls_finger(rig, tmp_path, "-l", "may")

    assert "Untrusted TLS connection established to 127.0.0.1[127.0.0.1]" in said
    assert "TLSv1.3" in said


def test_posttls_finger_finds_no_tls_where_there_is_none(rig: Rig, tmp_path: Path) -> None:
    """The same tool says so of a host without STARTTLS: it would notice."""
    with Sink() as sink:
        assert "TLS connection established" not in posttls_finger(rig, tmp_path, "-l", "may", port=sink.port)
