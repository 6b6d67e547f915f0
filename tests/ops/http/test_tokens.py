# SPDX-License-Identifier: MIT
"""Tokens: made once, kept as hashes, refused when removed; and the command that does it."""

import hashlib
import time
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.ops.rig import CollectingSink

from smarthost.mail.errors import ConfigError
from smarthost.ops.exits import CommandFailed
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.rates import Rates
from smarthost.ops.http.tokens import Scope, Token, Tokens, add_token, read_tokens, remove_token
from smarthost.ops.tokens import tokens as command
from smarthost.testing.clock import FakeClock

NOW = "2026-11-22T00:00:00Z"
READ = frozenset({Scope.READ})


def test_a_token_is_told_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    """Whoever reads the tokens file cannot use what is in it."""
    file = tmp_path / "tokens.toml"

    secret = add_token(file, "anna", READ, NOW)

    written = file.read_text()
    assert secret not in written
    assert hashlib.sha256(secret.encode()).hexdigest() in written
    assert 0o600 == file.stat().st_mode & 0o777
    assert len(secret) > 43, "256 bits"


def test_two_tokens_are_two_secrets_and_a_name_is_one_tokens(tmp_path: Path) -> None:
    """A second token of the same name is refused, and loses nothing."""
    file = tmp_path / "tokens.toml"
    first = add_token(file, "anna", READ, NOW)
    second = add_token(file, "bot.2", frozenset({Scope.INJECT}), NOW)

    with pytest.raises(ValueError, match="remove it first"):
        add_token(file, "anna", READ, NOW)

    assert first != second
    assert ["anna", "bot.2"] == [token.name for token in read_tokens(file)]


def test_a_removed_token_is_refused_without_a_restart(tmp_path: Path) -> None:
    """The daemon sees the changed file by itself; the other tokens stay."""
    file, clock = tmp_path / "tokens.toml", FakeClock(time.time())
    gone, stays = add_token(file, "gone", READ, NOW), add_token(file, "stays", READ, NOW)
    tokens = Tokens(file, clock, CollectingSink().note)
    assert tokens.find(gone) is not None

    assert remove_token(file, "gone")
    clock.advance(10)

    assert tokens.find(gone) is None
    assert tokens.find(stays) is not None
    assert not remove_token(file, "gone")


def test_a_token_is_found_by_all_of_it(tmp_path: Path) -> None:
    """A part of a token, more than it, another's, and rubbish are nobody's."""
    file = tmp_path / "tokens.toml"
    secret = add_token(file, "anna", READ, NOW)
    tokens = Tokens(file, FakeClock(), CollectingSink().note)

    for wrong in ("", secret[:-1], secret + "x", secret.upper(), "\udc80é", "x" * 100_000):
        assert tokens.find(wrong) is None
    found = tokens.find(secret)
    assert found is not None
    assert "anna" == found.name


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        (Scope.READ, {Scope.READ}),
        (Scope.INJECT, {Scope.INJECT}),
        (Scope.OPERATE, {Scope.OPERATE, Scope.READ}),
        (Scope.CONTENT, {Scope.CONTENT, Scope.READ}),
    ],
)
def test_operators_and_readers_of_content_may_look_injectors_may_not(scope: Scope, may: set[Scope]) -> None:
    """What a program that sends mail holds does not open the queue."""
    token = Token("t", frozenset({scope}))

    assert may == {each for each in Scope if token.may(each)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "not TOML"),
        ('[anna]\nsha256 = "00"\nscope = ["read"]', "token 'anna': sha256"),
        (f'[anna]\nsha256 = "{"0" * 64}"\nscope = []', "scope: missing"),
        (f'[anna]\nsha256 = "{"0" * 64}"\nscope = ["root"]', "'root' is none of read, inject"),
        (f'["a b"]\nsha256 = "{"0" * 64}"\nscope = ["read"]', "a name has 1 to 64"),
        (f'[anna]\nsha256 = "{"0" * 64}"\nscope = ["read"]\nadmin = true', "unknown field `admin`"),
        (f'[anna]\nsha256 = "{"0" * 64}"\nscope = ["read"]\nrequests_per_minute = 0', "at least 1"),
    ],
)
def test_a_wrong_tokens_file_is_named_with_the_token_and_the_key(text: str, said: str, tmp_path: Path) -> None:
    """An operator finds the line without reading the code."""
    file = tmp_path / "tokens.toml"
    file.write_text(text)

    with pytest.raises(ConfigError, match="(?s)" + said) as raised:
        read_tokens(file)
    assert str(file) in str(raised.value)


def test_a_token_may_ask_so_often_a_minute() -> None:
    """A program gone wild is told to wait, and then served again; others are not held up by it."""
    clock = FakeClock()
    rates = Rates(clock, CollectingSink().note)
    wild = Token("wild", READ, "a", requests_per_minute=60)

    for _ in range(6):
        rates.count(wild)
    with pytest.raises(Problem) as raised:
        rates.count(wild)

    assert 429 == raised.value.body.status
    assert "1" <= raised.value.headers["retry-after"]
    rates.count(Token("calm", READ, "b"))
    clock.advance(2)
    rates.count(wild)


def test_the_command_makes_lists_and_removes_tokens(tmp_path: Path) -> None:
    """add prints the token alone on standard output; list never shows one; remove removes it."""
    config, file = tmp_path / "c.toml", tmp_path / "tokens.toml"
    config.write_text(f'[http]\ntokens_file = "{file}"\n')
    run = CliRunner()

    added = run.invoke(command, ["add", "anna", "--scope", "operate", "--config", str(config)])
    listed = run.invoke(command, ["list", "--config", str(config)])
    removed = run.invoke(command, ["remove", "anna", "--file", str(file)])

    secret = added.stdout.strip()
    assert secret.startswith("smarthost_")
    assert "not shown again" in added.stderr
    assert "anna" in listed.stdout
    assert "operate" in listed.stdout
    assert secret not in listed.output
    assert "removed: anna\n" == removed.output
    assert {} == tomllib.loads(file.read_text())


def test_the_command_says_which_file_it_wants(tmp_path: Path) -> None:
    """Without a file in the configuration the cure is named."""
    config = tmp_path / "c.toml"
    config.write_text("[log]\n")

    result = CliRunner().invoke(command, ["add", "anna", "--config", str(config)])

    assert isinstance(result.exception, CommandFailed)
    assert "tokens_file in [http]" in str(result.exception)
