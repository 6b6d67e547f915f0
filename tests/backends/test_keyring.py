# SPDX-License-Identifier: MIT
"""Keys in files: what is refused, what is taken up again, and a signing process that dies or hangs."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from smarthost.backends import keyring
from smarthost.backends.clock import SystemClock
from smarthost.backends.keyring import KeyFile, KeyFiles, load_key
from smarthost.mail.errors import ConfigError
from smarthost.mail.record import Record

RSA = rsa.generate_private_key(65537, 2048)


class Notes:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def record(self, record: Record) -> None: ...
    def note(self, level: str, what: str, **facts: object) -> None:
        self.told.append((level, what))


def write(path: Path, key: object, password: bytes = b"") -> Path:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))  # type: ignore[attr-defined]
    os.utime(path, (time.time() - 60, time.time() - 60))  # it rests since a minute
    return path


async def signature(keys: KeyFiles, text: bytes, domain: str = "example.org") -> Sequence[bytes]:
    done: asyncio.Future[Sequence[bytes] | Exception] = asyncio.get_running_loop().create_future()
    keys.sign([(key, text) for key in keys.keys_for(domain)], done.set_result)
    answer = await done
    assert not isinstance(answer, Exception)
    return answer


def files(path: Path) -> list[KeyFile]:
    return [KeyFile(("example.org",), "s1", path)]


@pytest.mark.asyncio
async def test_an_rsa_key_signs_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Another's code verifies it, and the loop did not do it."""
    notes = Notes()
    keys = KeyFiles(files(write(tmp_path / "k", RSA)), SystemClock(), notes)
    try:
        (made,) = await signature(keys, b"text")
        child = keys._helper._child
    finally:
        keys.close()

    RSA.public_key().verify(made, b"text", PKCS1v15(), SHA256())
    assert child is not None
    assert child.returncode is not None, "it does not outlive us"
    assert notes.told == []


@pytest.mark.asyncio
async def test_a_signing_process_that_is_killed_costs_no_signature(tmp_path: Path) -> None:
    """What it owed is signed here, and the next one starts it again."""
    notes = Notes()
    keys = KeyFiles(files(write(tmp_path / "k", RSA)), SystemClock(), notes)
    try:
        await signature(keys, b"first")
        first = keys._helper._child
        assert first is not None
        os.kill(first.pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(signature(keys, b"owed"))
        await asyncio.sleep(0)
        os.kill(first.pid, signal.SIGKILL)
        (made,) = await waiting
        (again,) = await signature(keys, b"again")
        assert keys._helper._child is not first
    finally:
        keys.close()

    RSA.public_key().verify(made, b"owed", PKCS1v15(), SHA256())
    RSA.public_key().verify(again, b"again", PKCS1v15(), SHA256())
    assert ("error", "signing process died") in notes.told


@pytest.mark.asyncio
async def test_a_signing_process_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mail waits some seconds for it, no longer."""
    notes = Notes()
    keys = KeyFiles(files(write(tmp_path / "k", RSA)), SystemClock(), notes)
    try:
        await signature(keys, b"first")
        monkeypatch.setattr(keyring, "PATIENCE_S", 0.2)
        child = keys._helper._child
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        (made,) = await signature(keys, b"owed")
    finally:
        keys.close()

    RSA.public_key().verify(made, b"owed", PKCS1v15(), SHA256())
    assert ("error", "signing process hangs") in notes.told


@pytest.mark.asyncio
async def test_the_nearest_domain_with_a_key_signs(tmp_path: Path) -> None:
    """A key of example.org signs for its subdomains, unless they have their own."""
    path = write(tmp_path / "k", ed25519.Ed25519PrivateKey.generate())
    both = [KeyFile(("example.org",), "s1", path), KeyFile(("a.example.org",), "s2", path)]
    keys = KeyFiles(both, SystemClock(), Notes())

    assert [key.selector for key in keys.keys_for("x.example.org")] == ["s1"]
    assert [key.selector for key in keys.keys_for("b.a.example.org")] == ["s2"]
    assert keys.keys_for("example.net") == ()


@pytest.mark.asyncio
async def test_a_renewed_key_is_taken_up_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a restart; the log says which file and why."""
    monkeypatch.setattr("smarthost.backends.watched.LOOK_S", 0.0)
    path, notes = write(tmp_path / "k", RSA), Notes()
    keys = KeyFiles(files(path), SystemClock(), notes)
    other = rsa.generate_private_key(65537, 2048)
    try:
        await signature(keys, b"text")
        write(path, other)
        (made,) = await signature(keys, b"text")
        other.public_key().verify(made, b"text", PKCS1v15(), SHA256())
        path.write_text("rubbish")
        os.utime(path, (time.time() - 30, time.time() - 30))
        (made,) = await signature(keys, b"text")
        other.public_key().verify(made, b"text", PKCS1v15(), SHA256())
    finally:
        keys.close()

    assert ("error", "DKIM key not taken") in notes.told


@pytest.mark.parametrize("kind", ["missing", "rubbish", "encrypted", "short", "ec"])
def test_a_file_without_a_usable_key_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """At the start, before any mail is taken."""
    path = tmp_path / "k.pem"
    if kind == "rubbish":
        path.write_text("-----BEGIN NOTHING-----")
    elif kind == "encrypted":
        write(path, RSA, b"secret")
    elif kind == "short":
        pem = Path(__file__).with_name("rsa512.pem")
        path.write_bytes(pem.read_bytes())
    elif kind == "ec":
        write(path, ec.generate_private_key(ec.SECP256R1()))

    with pytest.raises(ConfigError, match=str(path)):
        load_key(path)


@pytest.mark.asyncio
async def test_long_work_is_done_beside_the_loop(tmp_path: Path) -> None:
    """Its result and its failure come back the same way."""
    keys = KeyFiles(files(write(tmp_path / "k", RSA)), SystemClock(), Notes())
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes | Exception] = loop.create_future()
    failed: asyncio.Future[bytes | Exception] = loop.create_future()

    def fail() -> bytes:
        raise OSError("disk")

    try:
        keys.aside(lambda: b"digest", done.set_result)
        keys.aside(fail, failed.set_result)
        assert await done == b"digest"
        assert isinstance(await failed, OSError)
    finally:
        keys.close()
