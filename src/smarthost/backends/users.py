# SPDX-License-Identifier: MIT
"""The users who may submit mail, in a TOML file of argon2id hashes: a ports.Authenticator.

Passwords are hashed in two threads (cffi lets go of the GIL; 25 ms each with the usual parameters), for at most 100
who wait. Every check of a password costs one hash, whether the user exists or not; but one that was right a short while
ago is known by a keyed digest, so that a client that logs in for each message costs no hash each. The file is read
again when it changes, and what was known is forgotten then. Who may send what as a user is not decided here.
"""

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import sys
import threading
import tomllib
import unicodedata
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from stat import S_IROTH
from typing import Any, TypeVar

import argon2
import msgspec
from argon2.exceptions import Argon2Error
from argon2.low_level import Type, verify_secret

from smarthost.backends.watched import Note, WatchedFiles
from smarthost.mail.address import to_domain
from smarthost.mail.errors import ConfigError, StoreBusy, StoreError
from smarthost.mail.user import User
from smarthost.ports import Clock

THREADS = 2
WAITING = 100  # 8 s of hashing: who comes then is told to come back, which keeps guessing from filling memory
KNOWN_S = 600.0
SALT_OCTETS = 8  # RFC 9106 3.1
HASH_OCTETS = 16
NAME_OCTETS = 255
# m, least: OWASP's weakest argon2id; most: two threads' worth must fit the machine. All of them in KiB, passes, lanes.
_BOUNDS = {"m": (7 * 1024, 1024 * 1024), "t": (1, 20), "p": (1, 16)}
_HASH = re.compile(
    r"\$argon2id\$v=19\$m=(?P<m>[0-9]{1,9}),t=(?P<t>[0-9]{1,9}),p=(?P<p>[0-9]{1,9})"
    r"\$(?P<salt>[A-Za-z0-9+/]{1,100})\$(?P<hash>[A-Za-z0-9+/]{1,100})"
)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

# OWASP's least: 19 MiB, 2 passes, 1 lane. RFC 9106 4 has 64 MiB, 3 passes, 4 lanes: a guess would cost the relay six
# times as much as it does, on four threads beside the loop, and guesses are slowed by other means. A file may have it.
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_Verify = Callable[[bytes, bytes], bool]
T = TypeVar("T")


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""

    password: str | None = None
    senders: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    messages_per_minute: int | None = None
    recipients_per_minute: int | None = None


class _Users:
    """What one reading of the file gave, and whose password was right since."""

    def __init__(self) -> None:
        self.by_name: dict[str, User] = {}
        self.hashes: dict[str, bytes] = {}
        self.by_fingerprint: dict[str, User] = {}
        self.dummy = b""
        self.known: dict[str, tuple[bytes, float]] = {}  # by name: digest of the right password, monotonic end


def _yield_to_mail() -> None:
    """Hash with the CPU that mail leaves: ten who guessed took two thirds of its rate on two cores, and now nothing."""
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own; the lanes of a hash inherit this one
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


class UserFile:
    """Raises: ConfigError: the file cannot be read, or a user's entry is wrong; it names the user and the key."""

    def __init__(self, path: str | Path, clock: Clock, note: Note) -> None:
        self._path = Path(path)
        self._clock = clock
        self._note = note
        self._secret = secrets.token_bytes(32)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2", initializer=_yield_to_mail)
        self._waiting = 0
        self._verify: _Verify = verify  # tests count
        self._watched = WatchedFiles((str(path),), self._load, clock, note, complaint="users file not taken")

    def check(self, username: str, password: str, answered: Callable[[User | None], None]) -> None:
        """See ports.Authenticator. Raises: StoreBusy, StoreError."""
        users = self._watched.value
        name, secret = prepare(username), prepare(password).encode("utf-8", "surrogatepass")
        digest = self._digest(name, secret)
        loop = asyncio.get_running_loop()
        known, until = users.known.get(name, (b"", 0.0))
        if self._clock.monotonic() < until and hmac.compare_digest(known, digest):
            loop.call_soon(answered, users.by_name[name])
            return
        if self._waiting >= WAITING:
            raise StoreBusy("too many passwords wait to be checked")
        hashed = users.hashes.get(name, users.dummy)
        try:
            future = loop.run_in_executor(self._pool, self._verify, hashed, secret)
        except RuntimeError as error:  # no thread can be started
            raise StoreError(f"passwords cannot be checked: {error}") from error
        self._waiting += 1
        future.add_done_callback(partial(self._conclude, users, name, digest, answered))

    def find_user(self, name: str) -> User | None:
        """See ports.Authenticator."""
        return self._watched.value.by_name.get(prepare(name))

    def find_certificate(self, fingerprint: str) -> User | None:
        """See ports.Authenticator."""
        return self._watched.value.by_fingerprint.get(fingerprint)

    def close(self) -> None:
        """Begin no further check; those who wait are not answered."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _conclude(
        self,
        users: _Users,
        name: str,
        digest: bytes,
        answered: Callable[[User | None], None],
        future: "asyncio.Future[bool]",
    ) -> None:
        self._waiting -= 1
        if future.cancelled():
            return
        failure = future.exception()
        if failure is not None:  # who asked waits, whatever it was
            self._note("error", "a password could not be checked", why=repr(failure))
        is_right = failure is None and future.result()
        user = users.by_name.get(name) if is_right and name in users.hashes else None
        if user is not None:
            users.known[name] = digest, self._clock.monotonic() + KNOWN_S
        answered(user)

    def _digest(self, name: str, secret: bytes) -> bytes:
        """Give what stands for name and password without giving them away; the name ends where its NUL is."""
        return hmac.digest(self._secret, name.encode("utf-8", "surrogatepass") + b"\0" + secret, hashlib.sha256)

    def _load(self) -> _Users:
        try:
            text = self._path.read_text(encoding="utf-8")
            mode = self._path.stat().st_mode
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror or error}", key="users_file") from error
        except ValueError as error:
            raise ConfigError(f"{self._path} is not UTF-8", key="users_file") from error
        try:
            tables = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{self._path} is not TOML: {error}", key="users_file") from error
        try:
            users = _read_users(tables)
        except _BadEntry as error:
            raise ConfigError(f"{self._path}: {error}", key="users_file") from error
        if mode & S_IROTH:
            self._note("warning", "users file readable by everybody", file=str(self._path), mode=oct(mode & 0o777))
        return users


def hash_password(password: str) -> str:
    """Give the argon2id hash to put in the users file, salted anew each time; takes 25 ms and 19 MiB."""
    return _HASHER.hash(prepare(password))


def verify(hashed: bytes, password: bytes) -> bool:
    """Does the password make this hash? Blocks for as long as hashing takes."""
    try:
        return verify_secret(hashed, password, Type.ID)
    except Argon2Error:  # a mismatch, or no memory for it
        return False


def prepare(text: str) -> str:
    """Give the form in which names and passwords are compared: NFC, else as they are (RFC 8265 3.4 and 4.2)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class _BadEntry(Exception):
    """Names the user and the key."""


def _read_users(tables: dict[str, Any]) -> _Users:
    users = _Users()
    kinds: Counter[str] = Counter()
    for written, table in tables.items():
        name = prepare(written)
        if name in users.by_name:
            raise _BadEntry(f"user {name!r} stands there twice")
        try:
            entry = msgspec.convert(table, _Entry)
            _read_user(users, name, entry)
        except (msgspec.ValidationError, ValueError) as error:
            raise _BadEntry(f"user {name!r}: {error}") from error
        if entry.password is not None:
            kinds[entry.password.rpartition("$")[0].rpartition("$")[0]] += 1  # kind, version, parameters
    if not users.by_name:  # a file that was emptied by mistake says no to everybody
        raise _BadEntry("there is no user in it")
    users.dummy = _make_dummy(kinds.most_common(1)[0][0] if kinds else _default_kind())
    return users


def _read_user(users: _Users, name: str, entry: _Entry) -> None:
    if not name or len(name.encode()) > NAME_OCTETS or not name.isprintable():
        raise ValueError(f"a name has 1 to {NAME_OCTETS} octets, and no control characters")
    if entry.password is None and not entry.certificates:
        raise ValueError("password: there is none, and no certificates either")
    if not entry.senders:
        raise ValueError(
            'senders: missing: the addresses this user sends from, "@domain" for all of one, or "*" for any'
        )
    for key in ("messages_per_minute", "recipients_per_minute"):
        if (limit := getattr(entry, key)) is not None and limit < 1:
            raise ValueError(f"{key}: at least 1, or leave it out for no limit")
    senders = tuple(_name_failure("senders", _read_sender, each) for each in entry.senders)
    user = User(name, senders, entry.messages_per_minute, entry.recipients_per_minute)
    if entry.password is not None:
        users.hashes[name] = _name_failure("password", _read_hash, entry.password)
    for each in entry.certificates:
        fingerprint = _name_failure("certificates", _read_fingerprint, each)
        other = users.by_fingerprint.setdefault(fingerprint, user)
        if other is not user:
            raise ValueError(f"certificates: {each} is that of {other.name!r} already")
    users.by_name[name] = user


def _name_failure(key: str, read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _read_sender(text: str) -> str:
    """Give "*", "@domain" or an address, the domain as an A-label in lower case."""
    if text == "*":
        return text
    local, at, domain = text.rpartition("@")
    if not at or not text.isprintable():
        raise ValueError(f'{text!r} is no address, no "@domain" and not "*"')
    return f"{local}@{to_domain(domain)}"


def _read_fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(digits):
        raise ValueError(f"{text!r} is no SHA-256 in hex: 64 digits, with or without colons")
    return digits


def _read_hash(text: str) -> bytes:
    """Give the hash if it can be verified, is worth it, and cannot exhaust the machine."""
    match = _HASH.fullmatch(text)
    if match is None:
        raise ValueError(
            'no argon2id hash, "$argon2id$v=19$m=...,t=...,p=...$salt$hash": make one with the command line'
        )
    for name, (least, most) in _BOUNDS.items():
        if not least <= int(match[name]) <= most:
            raise ValueError(f"argon2id with {name}={match[name]}: must be {least} to {most}")
    salt, digest = (_decode(match[part]) for part in ("salt", "hash"))
    if len(salt) < SALT_OCTETS or not HASH_OCTETS <= len(digest) <= 64:
        raise ValueError(f"an argon2id hash needs {SALT_OCTETS} octets of salt, and {HASH_OCTETS} to 64 of hash")
    return text.encode("ascii")


def _decode(text: str) -> bytes:
    octets = b"" if len(text) % 4 == 1 else b64decode(text + "=" * (-len(text) % 4))
    if b64encode(octets).rstrip(b"=") != text.encode("ascii"):  # the library would call each password wrong
        raise ValueError("an argon2id hash that was cut or changed")
    return octets


def _default_kind() -> str:
    return f"$argon2id$v=19$m={_HASHER.memory_cost},t={_HASHER.time_cost},p={_HASHER.parallelism}"


def _make_dummy(kind: str) -> bytes:
    """Give a hash no password is known for, without hashing: whoever is checked against it waits as for any other."""
    salt, digest = (b64encode(os.urandom(octets)).rstrip(b"=") for octets in (16, 32))
    return kind.encode("ascii") + b"$" + salt + b"$" + digest
