# SPDX-License-Identifier: MIT
"""Which commands there are, and how each ends."""

import errno
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

from smarthost.mail.errors import ConfigError, StoreLocked
from smarthost.ops import cli, exits


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_names_every_command_that_works() -> None:
    """A newcomer sees what there is, and nothing that is not there yet."""
    code, out, _ = run("--help")

    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.strip()]
    assert code == 0
    assert listed == [
        "serve",
        "demo",
        "send",
        "why",
        "queue",
        "hosts",
        "top",
        "plan",
        "suspend",
        "suspensions",
        "pause",
        "resume",
        "reload",
        "backup",
        "drain",
        "events",
        "doctor",
        "ping",
        "config",
        "dkim",
        "users",
        "tokens",
        "completion",
    ]


def test_no_command_helps_but_is_an_error() -> None:
    """A script that forgets the command notices."""
    assert run()[0] == exits.USAGE


def test_the_version_is_the_packages() -> None:
    """--version says what is installed."""
    assert run("--version") == (0, f"smarthost {version('smarthost')}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "serve --nonsense",
        "serve extra",
        "send --from a@b.example",
        "send --to a@b.example",
        "queue",
        "queue nonsense",
        "queue list --id",
        "hosts",
        "hosts nonsense",
        "plan",
        "plan --nonsense",
        "serve --mx-port x",
        "config",
    ],
)
def test_a_wrong_command_line_is_64(arguments: str) -> None:
    """Usage errors have the exit code sysexits gives them, not 2."""
    code, _, said = run(*arguments.split())

    assert code == exits.USAGE
    assert "Error:" in said or "Usage:" in said


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (exits.CommandFailed("no daemon", 69), 69, "smarthost: no daemon\n"),
        (exits.CommandFailed("one\ntwo", 78), 78, "smarthost: one\nsmarthost: two\n"),
        (ConfigError("in use", key="listen"), 78, "smarthost: listen: in use\n"),
        (StoreLocked("taken"), 73, "smarthost: taken\n"),
        (KeyboardInterrupt(), 130, "smarthost: interrupted\n"),
        (BrokenPipeError(), 0, ""),
        (OSError(errno.ENOSPC, "full"), 74, "smarthost: cannot write the output: No space left on device\n"),
    ],
)
def test_errors_are_plain_lines_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    """An operator never sees a traceback for what can go wrong."""

    def fail(*, live: bool, as_json: bool) -> int:
        raise error

    module = type(sys)("smarthost.ops.demo")
    module.run_demo = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "smarthost.ops.demo", module)
    monkeypatch.setattr(os, "dup2", lambda *_: None)

    ended, _, told = run("demo")

    assert (ended, told.lstrip("\n")) == (code, said)


def test_a_bug_is_70_and_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw has the exit code of a bug, a trace for whoever mends it, and a line that says so."""

    def raise_it(*arguments: object, **settings: object) -> object:
        raise KeyError("unforeseen")

    monkeypatch.setattr("smarthost.config.find_state_dir", raise_it)

    code, _, told = run("queue", "list")

    assert code == exits.SOFTWARE
    assert "KeyError: 'unforeseen'" in told
    assert told.splitlines()[-1].startswith("smarthost: this is a bug")


def test_the_demos_verdict_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """`smarthost demo` fails if not everything ended as it should; without a terminal it prints plain lines."""
    asked: list[bool] = []

    def run_demo(live: bool, as_json: bool) -> int:
        asked.append(live)
        return 1

    module = type(sys)("smarthost.ops.demo")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "smarthost.ops.demo", module)

    assert run("demo")[0] == 1
    assert asked == [False]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["queue", "list", "--state-dir", "/missing"],
        ["send", "--help"],
        ["hosts", "list", "--state-dir", "/missing"],
        ["hosts", "show", "192.0.2.1", "--state-dir", "/missing"],
        ["plan", "bob@example.net", "--probe", "--state-dir", "/missing"],
    ],
)
def test_commands_start_without_what_only_the_daemon_needs(arguments: list[str]) -> None:
    """A command answers at once: neither the event loop, nor DNS, nor the database is imported for it."""
    script = (
        "import sys; from smarthost.ops.cli import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'uvloop', 'asyncio', 'dns', 'apsw', 'ssl'} & set(sys.modules)\n"
        "print('imported:', sorted(heavy))\n"
    )

    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=20, check=True
    )

    assert ran.stdout.splitlines()[-1] == "imported: []"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "smarthost"], [str(Path(sys.executable).parent / "smarthost")]]
)
def test_the_module_is_the_command(command: list[str]) -> None:
    """`python -m smarthost` and `smarthost` are the same."""
    ran = subprocess.run([*command, "why"], capture_output=True, text=True, timeout=20, check=False)

    assert (ran.returncode, ran.stdout) == (64, "")
    assert "Missing argument 'WHAT'" in ran.stderr


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error() -> None:
    """`smarthost config show | head -1` ends quietly."""
    command = f"{sys.executable} -m smarthost config show --next-hop localhost:26 | :; echo ${{PIPESTATUS[0]}}"

    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=20, check=True)

    assert (ran.stdout, ran.stderr) == ("0\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("options", [[], ["-u"]])
@pytest.mark.parametrize("arguments", ["config show --next-hop localhost:26", "--help", "plan --help", "--version"])
def test_an_output_that_cannot_be_written_is_74(options: list[str], arguments: str) -> None:
    """A full disk below a redirected output is told in one line, and is no bug of ours."""
    command = [sys.executable, *options, "-m", "smarthost", *arguments.split()]

    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=20, check=False)

    assert ran.stderr == "smarthost: cannot write the output: No space left on device\n"
    assert ran.returncode == exits.IO_ERROR
