# SPDX-License-Identifier: MIT
"""Which file is read, and where a daemon is looked for."""

from pathlib import Path

import pytest

from smarthost.config import accept, find_state_dir, read_config_file
from smarthost.mail.errors import ConfigError


def test_the_default_file_is_read_if_it_exists(tmp_path: Path) -> None:
    """Without --config, the file in /etc holds if there is one, and the Config says which it was."""
    default = tmp_path / "smarthost.toml"
    default.write_text('hostname = "a.example"\n')

    reading = read_config_file(None, default=default)

    assert reading.file == str(default)
    assert (accept(reading).hostname, accept(reading).file) == ("a.example", str(default))


def test_without_any_file_the_defaults_hold(tmp_path: Path) -> None:
    """No file is no error."""
    reading = read_config_file(None, {"hostname": "a.example"}, default=tmp_path / "missing")

    assert accept(reading).file == ""


def test_a_named_file_wins_over_the_default(tmp_path: Path) -> None:
    """With --config, the default file is not looked at."""
    default, named = tmp_path / "default", tmp_path / "named"
    default.write_text("not toml")
    named.write_text('hostname = "b.example"\n')

    assert accept(read_config_file(named, default=default)).hostname == "b.example"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"a = 1\nb = '\xff'\n", "line 2: not UTF-8, which TOML must be"),
        (b"a = \n", "line 1: not TOML: Invalid value"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A missing, binary or broken file is one clear error."""
    file = tmp_path / "smarthost.toml"
    if content is not None:
        file.write_bytes(content)

    reading = read_config_file(file)

    assert ([str(error) for error in reading.errors], reading.file) == ([said], str(file))


def test_a_directory_as_file_says_so(tmp_path: Path) -> None:
    """A directory given as configuration file is not a traceback."""
    assert str(read_config_file(tmp_path).errors[0]) == "cannot be read: Is a directory"


def test_commands_find_their_daemon_by_flag_then_file_then_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--state-dir wins, else the file's state_dir, else the machine's default."""
    monkeypatch.setenv("STATE_DIRECTORY", "/run/from-systemd")
    file = tmp_path / "smarthost.toml"
    file.write_text("state_dir = '/srv/mail'\nunknown = 'does not matter here'\n")
    silent = tmp_path / "silent.toml"
    silent.write_text("")

    assert find_state_dir("/given", file) == Path("/given")
    assert find_state_dir(None, file) == Path("/srv/mail")
    assert find_state_dir(None, None, default=file) == Path("/srv/mail")
    assert find_state_dir(None, silent) == Path("/run/from-systemd")
    assert find_state_dir(None, None, default=tmp_path / "missing") == Path("/run/from-systemd")


@pytest.mark.parametrize("content", [b"state_dir = 5", b"a = ", b"\xff", None])
def test_commands_do_not_guess_from_a_broken_file(tmp_path: Path, content: bytes | None) -> None:
    """A file that does not say where the daemon is must not lead to another daemon."""
    file = tmp_path / "smarthost.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=r"state_dir: .*smarthost\.toml"):
        find_state_dir(None, file)


def test_without_any_file_an_error_says_where_one_would_be(tmp_path: Path) -> None:
    """Who has no file learns which one was looked for; an option that is wrong is nobody's file."""
    spelled = {"hostname": "--hostname", "dns.servers": "--dns"}
    missing = tmp_path / "missing"

    of_default = read_config_file(None, {"mx.allow_private": 7}, default=missing)
    of_flag = read_config_file(None, {"hostname": "vm"}, spelled, default=missing)

    assert str(of_default.errors[-1]).endswith(f"(no {missing}: defaults)")
    assert "(no " not in str(of_flag.errors[0])
    assert str(of_flag.errors[0]).startswith("--hostname: ")
