# SPDX-License-Identifier: MIT
"""The commands in the pages are those that exist: options are looked up, TOML is read, marked blocks are run."""

import contextlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.docs.pages import PAGES, ROOT, Block, blocks, invocations, is_kept
from tests.live.rig import WAIT_S, Daemon

from smarthost.config import parse_config
from smarthost.mail.errors import ConfigError
from smarthost.ops.cli import cli
from smarthost.ops.doctor.examination import CHECKS

_NO_PROBE_MEANWHILE = '[hosts]\nfirst_pause = "1h"\n'
_NO_INPUT = 66
NAMES = [page.name for page in PAGES]
ALL = sorted({*PAGES, *(ROOT / "docs").glob("*.md")})
RUN = [page for page in PAGES[1:] if any(block.how for block in blocks(page, "sh", "console"))]


@pytest.mark.parametrize("page", ALL, ids=[page.name for page in ALL])
def test_each_command_and_option_exists(page: Path) -> None:
    """Who copies a command from a page is never told that there is no such option."""
    wrong = [f"{where}: {error}" for where, words in invocations(page) if (error := _error_of(words))]

    assert not wrong, "\n".join(wrong)


def _error_of(words: list[str]) -> str:
    """Give what click says of a command line, but for files that are not here."""
    command: click.Command = cli
    ctx = click.Context(cli, info_name="smarthost")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(ctx, words[0])
        if found is None:
            return f"no command {words[0]}"
        ctx = click.Context(found, info_name=words[0], parent=ctx)
        command, words = found, words[1:]
    for option, value in itertools.pairwise(words):
        if option == "--only" and not set(value.split(",")) <= set(CHECKS):
            return f"no check {value}"
    try:
        with contextlib.suppress(click.exceptions.Exit):
            command.make_context(ctx.info_name, list(words), parent=ctx.parent)
    except (click.MissingParameter, click.BadOptionUsage, click.exceptions.NoArgsIsHelpError) as error:
        return "" if len(words) < 2 else error.format_message()  # `smarthost drain --to` in running text
    except click.UsageError as error:
        return "" if "does not exist" in error.format_message() else error.format_message()
    return ""


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_each_toml_block_is_a_configuration(page: Path, tmp_path: Path) -> None:
    """Who copies TOML from a page has a file that loads."""
    (tmp_path / "secret").write_text("secret\n")
    for block in blocks(page, "toml"):
        text = re.sub(r'"/etc/smarthost/[^"]*"', f'"{tmp_path}/secret"', block.text)
        try:
            parse_config(text, {"state_dir": str(tmp_path / "state"), "hostname": "relay.example.org"})
        except ConfigError as error:
            raise AssertionError(f"{page.name}, from line {block.line}: {error}") from None


@pytest.mark.slow
def test_the_ten_minutes_are_as_the_page_says(tmp_path: Path) -> None:
    """Who follows the first page, command by command, sees what it shows."""
    shell = Shell(tmp_path)
    with contextlib.ExitStack() as stack:
        for block in blocks(PAGES[0], "sh", "console"):
            if block.how == "run: serve":
                stack.enter_context(shell.serving(block.text))
            elif block.how:
                shell.try_out(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=[page.name for page in RUN])
def test_marked_blocks_print_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    """Two messages wait for a host that refuses connections; each block that is marked is run against that daemon."""
    marked = [block for block in blocks(page, "sh", "console") if block.how]
    shell = Shell(tmp_path)
    next_hop = f"127.0.0.1:{shell.ports['1025']}"
    with Daemon(tmp_path / "state", "--next-hop", next_hop, config=_NO_PROBE_MEANWHILE) as daemon:
        for address in ("bob@example.net", "dave@example.net"):
            shell.run(f"echo hello | smarthost send --from ann@example.org --to {address}")
        daemon.line("deferred", recipient="bob@example.net")
        for block in marked:
            shell.try_out(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_each_program_runs(page: Path, tmp_path: Path) -> None:
    """Who copies a program from a page has one that ends well, though nobody answers at its next hop."""
    port = _free_port()
    for block in blocks(page, "python"):
        program = block.text.replace("127.0.0.1:1025", f"127.0.0.1:{port}")
        ran = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True, text=True, timeout=WAIT_S, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert ran.returncode == 0, f"{page.name}, from line {block.line}: {ran.stderr}"
        assert ran.stdout, f"{page.name}, from line {block.line}: it says nothing"


class Shell:
    """Runs what a page says in a directory of its own, with free ports for those that the page names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {name: str(_free_port()) for name in ("2525", "1025")}
        programs = directory / ".venv" / "bin"
        programs.mkdir(parents=True)
        program = programs / "smarthost"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m smarthost "$@"\n')
        program.chmod(0o755)
        inherited = {name: os.environ[name] for name in ("HOME", "PYTHONPATH", "LANG", "LC_ALL") if name in os.environ}
        self._environ = {
            **inherited, "PATH": f"{programs}:/usr/bin:/bin", "STATE_DIRECTORY": str(directory / "state"), "TZ": "UTC"
        }  # fmt: skip

    def run(self, command: str, *, fine: tuple[int, ...] = (0,)) -> str:
        """Run a command and give what it prints. Raises: AssertionError: it ended otherwise."""
        ran = subprocess.run(
            ["/bin/sh", "-c", self._here(command)],
            capture_output=True, text=True, timeout=WAIT_S, check=False, cwd=self.directory, env=self._environ,
        )  # fmt: skip
        assert ran.returncode in fine, f"{command}: ended with {ran.returncode}: {ran.stderr}"
        return ran.stdout

    def try_out(self, block: Block) -> None:
        """Run the commands of a block, and compare. Raises: AssertionError."""
        ends_at = time.monotonic() + (WAIT_S if block.how == "run: until" else 0.0)
        for step in block.steps():
            if block.how == "run: perhaps":
                self.run(step.command, fine=(0, _NO_INPUT))
                continue
            printed = self.run(step.command)
            while not is_kept(step.promised, printed) and time.monotonic() < ends_at:
                printed = self.run(step.command)
            assert is_kept(step.promised, printed), (
                f"{block.page.name}, from line {block.line}: {step.command}\nprints\n{printed}\ninstead of\n"
                + "\n".join(step.promised)
            )

    @contextlib.contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """Run a daemon in the background, as in another terminal."""
        words = self._here(command).split()
        with subprocess.Popen(
            [shutil.which("smarthost", path=self._environ["PATH"]) or "", *words[1:]],
            stderr=subprocess.PIPE, text=True, cwd=self.directory, env=self._environ,
        ) as process:  # fmt: skip
            assert process.stderr is not None, "started with a pipe"
            try:
                for line in process.stderr:
                    if '"what":"ready"' in line:
                        break
                else:
                    raise AssertionError(f"not started: {command}")
                yield
            finally:
                process.terminate()
                process.stderr.read()

    def _here(self, command: str) -> str:
        if "smarthost serve" in command and "--listen" not in command:
            command = f"{command.rstrip()} --listen 127.0.0.1:2525"
        for named, port in self.ports.items():
            command = re.sub(rf"127\.0\.0\.1:{named}\b", f"127.0.0.1:{port}", command)
        return command


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
