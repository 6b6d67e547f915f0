# SPDX-License-Identifier: MIT
"""What Tab offers, asked as a shell asks it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.interop.programs import program
from tests.ops.rig import FakeQueue, message, running

from smarthost.ops import cli

IDS = ("6400000000000001", "6400000000000002", "7500000000000003")


def offered(line: str) -> list[str]:
    """Give what is offered at the end of a command line."""
    words = line.split(" ")
    environ = {
        **os.environ,
        "_SMARTHOST_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-c", "from smarthost.ops.cli import main; main()"]
    told = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert told.stderr == ""
    return [each.partition(",")[2] for each in told.stdout.split()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    """One command prints what the shell reads."""
    result = CliRunner().invoke(cli.cli, ["completion", shell])

    assert result.exit_code == 0
    assert f"_SMARTHOST_COMPLETE={shell}_complete" in result.stdout


def test_bash_takes_its_script(tmp_path: Path) -> None:
    """The script is one that bash itself can read, and it registers for the command."""
    script = CliRunner().invoke(cli.cli, ["completion", "bash"]).stdout
    (tmp_path / "smarthost").write_text(script)
    told = subprocess.run(
        [program("bash"), "--norc", "-c", f". {tmp_path}/smarthost; complete -p smarthost"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == "complete -o nosort -F _smarthost_completion smarthost"


@pytest.mark.slow
def test_commands_and_options_are_offered() -> None:
    """Only what works: a name that is not built yet is not offered."""
    assert "queue" in offered("smarthost ")
    assert offered("smarthost queue li") == ["list"]
    assert "--state-dir" in offered("smarthost queue list --st")


@pytest.mark.slow
def test_ids_of_queued_messages_are_offered(tmp_path: Path) -> None:
    """An id need not be copied from another terminal: the daemon that the line names is asked."""
    with running(tmp_path, FakeQueue(*[message(id, "a@b.example") for id in IDS])):
        assert offered(f"smarthost queue show --state-dir {tmp_path} 64") == list(IDS[:2])
        assert offered(f"smarthost queue show --state-dir {tmp_path} ") == list(IDS)


@pytest.mark.slow
def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(tmp_path: Path) -> None:
    """Tab never prints an error into the line."""
    assert offered(f"smarthost queue show --state-dir {tmp_path} 64") == []
