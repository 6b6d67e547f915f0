# SPDX-License-Identifier: MIT
"""What of `[http]` is refused before anything listens, with the cure."""

from pathlib import Path

import pytest
from tests.ops.http.rig import HERE

from smarthost.config import parse_config
from smarthost.mail.errors import ConfigError
from smarthost.ops.http import service


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name in ("tokens.toml", "cert.pem"):
        (tmp_path / name).write_text("")
    return tmp_path


def test_nothing_listens_unless_it_is_asked_for() -> None:
    """A relay that was not told to has no web server."""
    assert () == parse_config("", {}, HERE).http.listen


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        ('listen = ["0.0.0.0:8025"]\ncertificate_file = "D/cert.pem"', "http.listen", "set http.tokens_file"),
        ('listen = ["192.0.2.1:8025"]\ntokens_file = "D/tokens.toml"', "http.listen", "set http.certificate_file"),
        ('listen = ["[::]:8025"]\ntokens_file = "D/tokens.toml"', "http.listen", "set http.certificate_file"),
        ('listen = ["127.0.0.1:2525"]', "http.listen", "taken by listen already"),
        ('key_file = "D/cert.pem"', "http.key_file", "set http.certificate_file"),
        ('tokens_file = "D/none.toml"', "http.tokens_file", "cannot be read"),
        ('public_url = "relay.example.org"', "http.public_url", "https://relay.example.org"),
        ('public_url = "https://relay.example.org/x"', "http.public_url", "without a path"),
    ],
)
def test_what_would_be_unsafe_or_cannot_work_is_refused(text: str, key: str, cure: str, files: Path) -> None:
    """The error names the key and says what to set."""
    with pytest.raises(ConfigError) as raised:
        parse_config("[http]\n" + text.replace("D/", f"{files}/"), {}, HERE)

    assert key in str(raised.value)
    assert cure in str(raised.value)


def test_loopback_needs_no_certificate_and_the_world_is_fine_with_one(files: Path) -> None:
    """The usual set-ups are accepted."""
    plain = parse_config('[http]\nlisten = ["127.0.0.1:8025", "[::1]:8025"]', {}, HERE)
    text = (
        f'[http]\nlisten = ["0.0.0.0:8025"]\ntokens_file = "{files}/tokens.toml"\ncertificate_file = "{files}/cert.pem"'
    )
    world = parse_config(text, {}, HERE)

    assert 2 == len(plain.http.listen)
    assert 1 == len(world.http.listen)


def test_a_missing_extra_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without starlette the daemon says what to install, not ModuleNotFoundError."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install smarthost\[http\]"):
        service.require_extra()
