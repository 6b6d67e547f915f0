# SPDX-License-Identifier: MIT
"""`smarthost doctor` as an operator calls it."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smarthost.ops import cli, exits
from smarthost.ops.doctor import examination
from smarthost.ops.doctor.findings import Findings
from smarthost.ops.doctor.world import World


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, ["doctor", *arguments])


def place(directory: Path) -> tuple[str, ...]:
    """Give options that touch nothing outside: a state directory, a name, a name server that is not there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return "--state-dir", str(directory), "--hostname", "relay.example.org", "--dns", f"127.0.0.1:{port}"


def scripted(say: Callable[[Findings], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: World, told: Findings) -> None:
        say(told)

    monkeypatch.setattr(examination, "CHECKS", {"disk": check})


def test_lines_have_level_check_what_was_seen_and_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the last one counts; what strangers said cannot move the terminal."""

    def say(told: Findings) -> None:
        told.ok("all is well")
        told.fail("bad \x1b[31mred", "mend it")

    scripted(say, monkeypatch)

    ended = run(*place(tmp_path))

    lines = ended.output.splitlines()
    assert lines[:3] == [
        "ok    disk      all is well",
        r"fail  disk      bad \x1b[31mred",
        "                cure: mend it",
    ]
    assert lines[3].startswith("1 ok, 0 warn, 1 fail, 0 skip, in ")
    assert 1 == ended.exit_code


def test_json_lines_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each finding, the last with the counts."""
    scripted(lambda told: told.warn("hm", "look"), monkeypatch)

    first, last = map(json.loads, run(*place(tmp_path), "--json").output.splitlines())

    assert {"check": "disk", "level": "warn", "seen": "hm", "cure": "look"} == first
    assert {"ok": 0, "warn": 1, "fail": 0, "skip": 0} == {key: last[key] for key in last if key != "took_s"}


@pytest.mark.parametrize(
    ("say", "usual", "strict"),
    [
        (lambda told: told.ok("x"), 0, 0),
        (lambda told: told.skip("x"), 0, 0),
        (lambda told: told.warn("x", "y"), 0, 1),
        (lambda told: told.fail("x", "y"), 1, 1),
    ],
    ids=["ok", "skip", "warn", "fail"],
)
def test_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[[Findings], None], usual: int, strict: int
) -> None:
    """1 when something failed; with --strict a warning is enough."""
    scripted(say, monkeypatch)

    assert (usual, strict) == (run(*place(tmp_path)).exit_code, run(*place(tmp_path), "--strict").exit_code)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "nonsense"), "--only nonsense: no such check; there are config, daemon, disk"),
        (("--public-address", "x"), "--public-address: 'x' does not appear to be"),
        (("--domain", "a..b"), "--domain: "),
    ],
)
def test_a_wrong_option_is_64(
    arguments: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that says which are right."""
    ended = CliRunner().invoke(cli.cli, ["doctor", *arguments])

    assert exits.USAGE == ended.exit_code
    assert said in ended.output + capfd.readouterr().err


def test_a_wrong_configuration_is_a_line_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    """The file's own state directory is looked at, however wrong the rest of it is."""
    file, state = tmp_path / "smarthost.toml", tmp_path / "state"
    state.mkdir(mode=0o700)
    file.write_text(f'state_dir = "{state}"\nnonsense = 1\nhostname = "relay.example.org"\n')

    ended = run("--config", str(file), "--only", "config,disk", "--only", "clock")

    assert f"fail  config    {file}: line 2: nonsense" in ended.output
    assert f"{state}: fsync p50" in ended.output
    assert 1 == ended.exit_code


def test_a_machine_without_network_is_told_so_quickly(tmp_path: Path) -> None:
    """Everything real, name server and exchangers not there: lines with cures, no traceback, within the time."""
    started = time.monotonic()

    ended = run(*place(tmp_path), "--json", "--domain", "example.org", "--only", "resolver,name,egress,domains")

    found = [json.loads(line) for line in ended.output.splitlines()][:-1]
    assert time.monotonic() - started < 18
    assert 1 == ended.exit_code
    assert {"resolver", "name", "egress", "domains"} == {each["check"] for each in found}
    assert "no name server answers" in ended.output
    assert not any("broke" in each["seen"] for each in found)
    assert all(each["cure"] for each in found if each["level"] in ("warn", "fail"))


def test_no_daemon_is_no_fault(tmp_path: Path) -> None:
    """Before the first start, too."""
    ended = run(*place(tmp_path), "--only", "daemon")

    assert 0 == ended.exit_code
    assert "skip  daemon    no daemon runs for" in ended.output


def test_the_page_describes_every_check_and_every_option() -> None:
    """docs/doctor.md is held to the command."""
    from smarthost.ops.doctor.command import doctor

    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
    of_serve = {"--listen", "--hostname", "--next-hop", "--dns", "--mx-port", "--allow-private", "--relay-from"}
    options = {option for each in doctor.params for option in each.opts} - of_serve

    assert [] == sorted(option for option in options if f"`{option}" not in page)
    assert [] == [name for name in examination.CHECKS if f"\n**{name}** " not in page]
