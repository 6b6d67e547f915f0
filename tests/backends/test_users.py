# SPDX-License-Identifier: MIT
"""The users file: who may log in, what it costs, and which mistakes in it are named."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import argon2
import pytest

from smarthost.backends import users as users_module
from smarthost.backends.users import KNOWN_S, WAITING, UserFile, hash_password, prepare, verify
from smarthost.backends.watched import LOOK_S
from smarthost.mail.errors import ConfigError, StoreError
from smarthost.mail.user import User
from smarthost.testing.clock import FakeClock

CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=7168, parallelism=1)
HASHED = CHEAP.hash("correct horse")
FINGERPRINT = "ab" * 32
ALICE = f"""
[alice]
password = "{HASHED}"
senders = ["alice@example.org", "@Example.COM", "*", "@bücher.example"]
certificates = ["{":".join(["AB"] * 32)}"]
messages_per_minute = 60
recipients_per_minute = 600
"""
NAMED = f'password = "{HASHED}"\nsenders = ["*"]\n'
KNOWN = User(
    "alice",
    ("alice@example.org", "@example.com", "*", "@xn--bcher-kva.example"),
    messages_per_minute=60,
    recipients_per_minute=600,
)


class Desk:
    """A users file, and what its verifying cost."""

    def __init__(self, path: Path, text: str = ALICE) -> None:
        self.path = path
        path.touch(mode=0o600)
        path.write_text(text)
        self.clock = FakeClock()
        self.notes: list[tuple[Any, ...]] = []
        self.verified: list[tuple[bytes, bytes]] = []
        self.users = UserFile(path, self.clock, lambda level, what, **facts: self.notes.append((level, what, facts)))
        self.users._verify = self.count

    def count(self, hashed: bytes, password: bytes) -> bool:
        self.verified.append((hashed, password))
        return verify(hashed, password)

    async def ask(self, name: str, password: str) -> User | None:
        answer: asyncio.Future[User | None] = asyncio.get_running_loop().create_future()
        self.users.check(name, password, answer.set_result)
        assert not answer.done(), "answered later, never from inside the call"
        return await asyncio.wait_for(answer, 10)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "users.toml")
    yield desk
    desk.users.close()


@pytest.mark.asyncio
async def test_right_password(desk: Desk) -> None:
    """Who knows the password is the user, with what he may do; domains are compared in one form."""
    assert await desk.ask("alice", "correct horse") == KNOWN
    assert desk.notes == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("alice", "wrong"),
        ("alice", ""),
        ("alice", "correct horse "),
        ("Alice", "correct horse"),
        ("bob", "correct horse"),
        ("", ""),
        ("alice\x00correct", "horse"),
        ("\udcff", "\udcff"),
    ],
)
async def test_every_no_costs_one_hash_of_the_same_kind(desk: Desk, name: str, password: str) -> None:
    """The time of an answer tells nobody which users there are: each no is one hash with the same parameters."""
    assert await desk.ask(name, password) is None

    ((hashed, _),) = desk.verified
    assert hashed.rsplit(b"$", 2)[0] == HASHED.encode().rsplit(b"$", 2)[0]
    assert argon2.extract_parameters(hashed.decode()) == argon2.extract_parameters(HASHED)


@pytest.mark.asyncio
async def test_wrong_password_again_costs_a_hash_again(desk: Desk) -> None:
    """Only what was right is remembered."""
    for _ in range(2):
        assert await desk.ask("alice", "wrong") is None

    assert len(desk.verified) == 2


@pytest.mark.asyncio
async def test_right_password_again_costs_nothing_for_ten_minutes(desk: Desk) -> None:
    """A client that logs in for each message is hashed once; nobody else gets in by that."""
    for _ in range(3):
        assert await desk.ask("alice", "correct horse") == KNOWN
    assert len(desk.verified) == 1
    assert await desk.ask("alice", "correct hors") is None
    assert await desk.ask("alic", "ecorrect horse") is None

    desk.clock.advance(KNOWN_S)
    assert await desk.ask("alice", "correct horse") == KNOWN
    assert len(desk.verified) == 4


@pytest.mark.asyncio
async def test_passwords_are_not_kept(desk: Desk) -> None:
    """What is remembered of a right password is of no use in another process."""
    await desk.ask("alice", "correct horse")

    ((digest, _),) = desk.users._watched.value.known.values()
    assert len(digest) == 32
    other = Desk(desk.path.with_suffix(".2"))
    await other.ask("alice", "correct horse")
    assert other.users._watched.value.known["alice"][0] != digest
    other.users.close()


@pytest.mark.asyncio
async def test_new_password_is_in_force_within_a_second(desk: Desk) -> None:
    """A password that was changed because it leaked is out at once, though it was right a moment ago."""
    await desk.ask("alice", "correct horse")
    desk.path.write_text(ALICE.replace(HASHED, CHEAP.hash("battery staple")))
    desk.clock.advance(LOOK_S)

    assert await desk.ask("alice", "correct horse") is None
    assert await desk.ask("alice", "battery staple") == KNOWN


@pytest.mark.asyncio
async def test_spoilt_file_keeps_the_users(desk: Desk) -> None:
    """A mistake while the relay runs locks nobody out; the log says which file and what is wrong."""
    desk.path.write_text("[alice\n")
    desk.clock.advance(LOOK_S)

    assert await desk.ask("alice", "correct horse") == KNOWN
    ((level, what, facts),) = desk.notes
    assert (level, what) == ("error", "users file not taken")
    assert "is not TOML" in facts["why"]
    assert "line 1" in facts["why"]


@pytest.mark.asyncio
async def test_crowd_is_told_to_come_back(desk: Desk) -> None:
    """A storm of guesses cannot fill memory: beyond a hundred who wait the answer is a local trouble, so a 454."""
    answers: list[User | None] = []
    desk.users._verify = lambda hashed, password: False
    for _ in range(WAITING):
        desk.users.check("alice", "guess", answers.append)

    with pytest.raises(StoreError, match="too many passwords"):
        desk.users.check("alice", "correct horse", answers.append)

    while len(answers) < WAITING:
        await asyncio.sleep(0)
    desk.users.check("alice", "guess", answers.append)
    while len(answers) <= WAITING:
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_certificate(desk: Desk) -> None:
    """A certificate stands for a user by its fingerprint, however that was written."""
    assert desk.users.find_certificate(FINGERPRINT) == KNOWN
    assert desk.users.find_certificate("cd" * 32) is None
    assert desk.users.find_certificate("") is None


@pytest.mark.asyncio
@pytest.mark.slow
async def test_user_with_a_certificate_only_has_no_password(tmp_path: Path) -> None:
    """No password opens an account that has none, and it costs the same to try."""
    desk = Desk(tmp_path / "users.toml", f'[robot]\ncertificates = ["{FINGERPRINT}"]\nsenders = ["*"]\n')

    assert desk.users.find_certificate(FINGERPRINT) == User("robot", ("*",))
    assert await desk.ask("robot", "") is None
    assert len(desk.verified) == 1
    desk.users.close()


@pytest.mark.asyncio
async def test_names_and_passwords_in_any_normal_form(tmp_path: Path) -> None:
    """A Mac sends decomposed letters, a PC composed ones: the same user types the same password."""
    hashed = CHEAP.hash(prepare("cafe\u0301"))
    desk = Desk(tmp_path / "users.toml", f'["zo\u00eb"]\npassword = "{hashed}"\nsenders = ["*"]\n')

    assert await desk.ask("zoe\u0308", "caf\u00e9") == User("zo\u00eb", ("*",))
    desk.users.close()


@pytest.mark.slow
def test_hash_for_the_file(tmp_path: Path) -> None:
    """What the command line makes is what the file takes."""
    hashed = hash_password("caf\u00e9")

    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert verify(hashed.encode(), prepare("cafe\u0301").encode())
    Desk(tmp_path / "users.toml", f'[alice]\npassword = "{hashed}"\nsenders = ["*"]\n').users.close()


def test_file_everybody_can_read_is_noted(tmp_path: Path) -> None:
    """Hashes are for nobody's eyes; the relay starts all the same, and says so."""
    (tmp_path / "users.toml").touch()
    (tmp_path / "users.toml").chmod(0o644)
    desk = Desk(tmp_path / "users.toml")

    assert [(level, what) for level, what, _ in desk.notes] == [("warning", "users file readable by everybody")]
    desk.users.close()


def entry(**keys: object) -> str:
    """Give a file with one user, changed."""
    lines = {"password": f'"{HASHED}"', "senders": '["*"]', **keys}
    return "[alice]\n" + "\n".join(f"{key} = {value}" for key, value in lines.items() if value is not None)


def hash_like(**parts: object) -> str:
    """Give a hash with other parameters."""
    salt, digest = HASHED.split("$")[-2:]
    chosen = {"kind": "argon2id", "v": 19, "m": 7168, "t": 1, "p": 1, "salt": salt, "digest": digest, **parts}
    return '"${kind}$v={v}$m={m},t={t},p={p}${salt}${digest}"'.format(**chosen)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[alice\n", r"is not TOML: .*line 1"),
        ("alice = 3", "user 'alice': Expected `object`, got `int`"),
        (entry(pasword='"x"'), "user 'alice': Object contains unknown field `pasword`"),
        (entry(senders='"alice@example.org"'), r"user 'alice': Expected `array`, got `str` - at `\$.senders`"),
        (entry(senders=None), "user 'alice': senders: missing: .* or \"\\*\" for any"),
        (entry(senders="[]"), "user 'alice': senders: missing"),
        (entry(senders='["alice"]'), "user 'alice': senders: 'alice' is no address"),
        (entry(senders='["alice@"]'), "user 'alice': senders: a domain has 1 to 255 octets"),
        (entry(senders='["a\\nb@example.org"]'), r"user 'alice': senders: 'a\\nb@example.org' is no address"),
        (entry(password=None), "user 'alice': password: there is none"),
        (entry(password='"secret"'), "user 'alice': password: no argon2id hash"),
        (entry(password='"$2b$12$abcdefghijklmnopqrstuv"'), "user 'alice': password: no argon2id hash"),
        (entry(password=hash_like(kind="argon2i")), "user 'alice': password: no argon2id hash"),
        (entry(password=hash_like(v=16)), "user 'alice': password: no argon2id hash"),
        (entry(password=hash_like(m=4096)), "user 'alice': password: argon2id with m=4096: must be 7168 to 1048576"),
        (entry(password=hash_like(m=1048577)), "user 'alice': password: argon2id with m=1048577"),
        (entry(password=hash_like(t=1000)), "user 'alice': password: argon2id with t=1000: must be 1 to 20"),
        (entry(password=hash_like(p=64)), "user 'alice': password: argon2id with p=64: must be 1 to 16"),
        (entry(password=hash_like(salt="AAAA")), "user 'alice': password: an argon2id hash needs 8 octets of salt"),
        (entry(password=hash_like(digest="AAAA")), "user 'alice': password: an argon2id hash needs .* 16 to 64"),
        (entry(password=hash_like(digest=HASHED[-43:-1])), "user 'alice': password: an argon2id hash that was cut"),
        (entry(password=hash_like(digest="AAAAA")), "user 'alice': password: an argon2id hash that was cut"),
        (entry(certificates='["abcd"]'), "user 'alice': certificates: 'abcd' is no SHA-256 in hex"),
        (entry(messages_per_minute=0), "user 'alice': messages_per_minute: at least 1"),
        (entry(recipients_per_minute=-1), "user 'alice': recipients_per_minute: at least 1"),
        (
            entry(messages_per_minute='"60"'),
            r"user 'alice': Expected `int \| null`, got `str` - at `\$.messages_per_minute`",
        ),
        (f'[""]\npassword = "{HASHED}"', "user '': a name has 1 to 255 octets"),
        (f'["a\\u0007"]\npassword = "{HASHED}"', r"user 'a\\x07': a name has 1 to 255 octets, and no control"),
        (f'["{"a" * 256}"]\npassword = "{HASHED}"', "a name has 1 to 255 octets"),
        (f'["\u00eb"]\n{NAMED}["e\u0308"]\n{NAMED}', "user '\u00eb' stands there twice"),
        (ALICE + ALICE.replace("alice", "bob"), "user 'bob': certificates: .* is that of 'alice' already"),
    ],
    ids=lambda value: "" if "argon2id" in value else None,  # salts differ from process to process
)
def test_mistakes_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    """A mistake at the start names the file, the user and the key."""
    with pytest.raises(ConfigError, match=complaint) as failed:
        Desk(tmp_path / "users.toml", text)

    assert str(tmp_path / "users.toml") in str(failed.value)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """A relay that is to know users does not start without their file."""
    with pytest.raises(ConfigError, match=r"users\.toml cannot be read: No such file"):
        UserFile(tmp_path / "users.toml", FakeClock(), print)


def test_file_that_is_no_text(tmp_path: Path) -> None:
    """Any octets are a mistake that is named, not a crash."""
    (tmp_path / "users.toml").write_bytes(b"[\xff]")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        UserFile(tmp_path / "users.toml", FakeClock(), print)


def test_threads_are_few() -> None:
    """Each password being checked takes 64 MiB."""
    assert users_module.THREADS == 2


@pytest.mark.asyncio
async def test_emptied_file_keeps_the_users(desk: Desk) -> None:
    """A file without a user is a slip, and not a no to everybody."""
    desk.path.write_text("")
    desk.clock.advance(LOOK_S)

    assert await desk.ask("alice", "correct horse") == KNOWN
    assert ["users file not taken"] == [what for _, what, _ in desk.notes]


def test_a_start_with_an_empty_file_is_refused(tmp_path: Path) -> None:
    """Nobody could log in."""
    with pytest.raises(ConfigError, match="there is no user in it"):
        Desk(tmp_path / "users.toml", "")


@pytest.mark.asyncio
async def test_check_that_breaks_is_answered(desk: Desk) -> None:
    """Whatever it raises, who asked is answered and the log says what it was."""

    def broken(hashed: bytes, password: bytes) -> bool:
        raise MemoryError("no memory")

    desk.users._verify = broken

    assert await desk.ask("alice", "correct horse") is None
    assert ["a password could not be checked"] == [what for _, what, _ in desk.notes]
