# SPDX-License-Identifier: MIT
"""Who may ask for what over HTTP: tokens of 256 bits, of which the tokens file keeps nothing but the SHA-256.

A token is random, so one hash is enough: nobody can try 2**256. It is told once, when it is made, and never logged. The
file is TOML, written whole and renamed, and read again when it changes: a token that was removed is refused from then
on, in sessions of the page, too. The command `smarthost tokens` and the daemon use it; a crash leaves the old file.
"""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from stat import S_IRWXO
from typing import Any

import msgspec
from msgspec import Struct

from smarthost.backends.watched import Note, WatchedFiles
from smarthost.mail.errors import ConfigError
from smarthost.ports import Clock

PREFIX = "smarthost_"  # lets secret scanners, and people, see what it is
SECRET_OCTETS = 32
TOKEN_CHARACTERS = 256  # whatever is longer is none of ours
TOKENS = 1000  # each costs a comparison in each request
REQUESTS_PER_MINUTE = 6000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEAD = "# Written by `smarthost tokens`. A token itself is nowhere: only its SHA-256.\n"


class Scope(Enum):
    """What a token may do."""

    READ = "read"  # see the queue, messages without content, hosts, records
    INJECT = "inject"  # hand in mail
    OPERATE = "operate"  # change the queue, hosts, suspensions, the pause; implies read
    CONTENT = "content"  # read the content of messages, where http.show_content allows it; implies read


class Token(Struct, frozen=True):
    """Who asks: by name, and what that may do. `digest` is the SHA-256 of the secret, in hex."""

    name: str
    scopes: frozenset[Scope]
    digest: str = ""
    requests_per_minute: int = REQUESTS_PER_MINUTE

    def may(self, scope: Scope) -> bool:
        """Does it have this scope, itself or by another that implies it?"""
        implied = scope is Scope.READ and self.scopes & {Scope.OPERATE, Scope.CONTENT}
        return scope in self.scopes or bool(implied)


class _Entry(Struct, forbid_unknown_fields=True):
    sha256: str
    scope: list[str]
    requests_per_minute: int = REQUESTS_PER_MINUTE
    created: Any = None


class Tokens:
    """The tokens of a file that may change under us. Raises: ConfigError: the file cannot be used."""

    def __init__(self, file: Path, clock: Clock, note: Note) -> None:
        self._file = file
        self._watched = WatchedFiles((str(file),), self._load, clock, note, complaint="tokens not taken")
        if file.stat().st_mode & S_IRWXO:
            note("warning", "tokens file open to everybody", file=str(file), cure=f"chmod o= {file}")

    def _load(self) -> tuple[Token, ...]:
        return read_tokens(self._file)

    def find(self, secret: str) -> Token | None:
        """Give whose secret this is; takes the same time whichever it is, or none."""
        digest = digest_of(secret)
        found = None
        for token in self._watched.value:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def find_again(self, digest: str) -> Token | None:
        """Give the token with this digest as it is now; None: it was removed."""
        return next((token for token in self._watched.value if token.digest == digest), None)


def digest_of(secret: str) -> str:
    """Give the SHA-256 of a secret in hex; of text that is none of ours, of an empty one."""
    text = secret if len(secret) <= TOKEN_CHARACTERS and secret.isascii() else ""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_tokens(file: Path) -> tuple[Token, ...]:
    """Read a tokens file. Raises: ConfigError: names the file, the token and the key."""
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}", key="http.tokens_file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not TOML: {error}", key="http.tokens_file") from error
    if len(tables) > TOKENS:
        raise ConfigError(f"{file} has more than {TOKENS:,} tokens: remove some", key="http.tokens_file")
    return tuple(_read_token(file, name, table) for name, table in tables.items())


def _read_token(file: Path, name: str, table: object) -> Token:
    try:
        check_name(name)
        entry = msgspec.convert(table, _Entry)
        if not _DIGEST.fullmatch(entry.sha256):
            raise ValueError("sha256: expected 64 hexadecimal digits in lower case")
        if entry.requests_per_minute < 1:
            raise ValueError("requests_per_minute: at least 1")
        return Token(name, read_scopes(entry.scope), entry.sha256, entry.requests_per_minute)
    except (ValueError, msgspec.ValidationError) as error:
        raise ConfigError(f"{file}: token {name!r}: {error}", key="http.tokens_file") from error


def check_name(name: str) -> None:
    """Raises: ValueError: not a name that can stand in logs and records as it is."""
    if not _NAME.fullmatch(name):
        raise ValueError("a name has 1 to 64 letters, digits, dots, hyphens, underscores or @, a letter or digit first")


def read_scopes(texts: Iterable[str]) -> frozenset[Scope]:
    """Raises: ValueError: no scope, or one that is none."""
    known = {scope.value: scope for scope in Scope}
    chosen = list(texts)
    for text in chosen:
        if text not in known:
            raise ValueError(f"scope: {text!r} is none of {', '.join(known)}")
    if not chosen:
        raise ValueError(f"scope: missing: some of {', '.join(known)}")
    return frozenset(known[text] for text in chosen)


def add_token(file: Path, name: str, scopes: frozenset[Scope], now: str) -> str:
    """Make a token, write its digest to the file (made if need be), and give it: nobody can ask for it again.

    `now`: ISO 8601. Raises: ValueError: the name is taken, or none. ConfigError, OSError: the file.
    """
    check_name(name)
    secret = PREFIX + secrets.token_urlsafe(SECRET_OCTETS)
    with _locked(file):
        tables = _tables(file)
        if name in tables:
            raise ValueError(f"there is a token {name!r} already: remove it first, or choose another name")
        if len(tables) >= TOKENS:
            raise ValueError(f"there are {TOKENS:,} tokens already: remove some")
        scope = sorted(each.value for each in scopes)
        _write(file, {**tables, name: {"sha256": digest_of(secret), "scope": scope, "created": now}})
    return secret


def remove_token(file: Path, name: str) -> bool:
    """Take a token out of the file; False: there is none of this name. Raises: ConfigError, OSError."""
    with _locked(file):
        tables = dict(_tables(file))
        if tables.pop(name, None) is None:
            return False
        _write(file, tables)
    return True


def _tables(file: Path) -> Mapping[str, Mapping[str, Any]]:
    if not file.exists():
        return {}
    read_tokens(file)  # what is wrong with it is said, not written over
    return tomllib.loads(file.read_text("utf-8"))


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Let one command at a time change the file: two that read the same would lose one token."""
    directory = os.open(file.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _write(file: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
    lines = [_HEAD]
    for name, table in tables.items():
        pairs = [f"{key} = {_toml(value)}" for key, value in table.items()]
        lines.append("\n".join([f"\n[{_toml(name)}]", *pairs]) + "\n")
    new = file.with_name(f".{file.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write("".join(lines))
            opened.flush()
            os.fsync(opened.fileno())
        _keep_owner(file, new)
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _keep_owner(file: Path, new: Path) -> None:
    """Leave owner and mode as they were: root adds a token, and the daemon's user must still be able to read it."""
    try:
        before = file.stat()
    except FileNotFoundError:
        return
    os.chown(new, before.st_uid, before.st_gid)
    new.chmod(before.st_mode & 0o7777)


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    # A JSON string or number is TOML, too.
    return msgspec.json.encode(value).decode() if isinstance(value, str | int) else str(value)
