# SPDX-License-Identifier: MIT
"""The command `smarthost`: which commands there are, and how each ends. A command's code is imported when it runs.

Exit codes are sysexits (ops.exits); an error is one line on standard error that begins with "smarthost:".
"""

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from smarthost.ops import exits

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": ("smarthost.ops.serve", "serve"),
    "demo": ("smarthost.ops.cli", "demo"),
    "send": ("smarthost.ops.send", "send"),
    "why": ("smarthost.ops.why", "why"),
    "queue": ("smarthost.ops.queue", "queue"),
    "hosts": ("smarthost.ops.hosts", "hosts"),
    "top": ("smarthost.ops.top", "top"),
    "plan": ("smarthost.ops.plan", "plan"),
    "suspend": ("smarthost.ops.suspend", "suspend"),
    "suspensions": ("smarthost.ops.suspend", "suspensions"),
    "pause": ("smarthost.ops.pause", "pause"),
    "resume": ("smarthost.ops.pause", "resume"),
    "reload": ("smarthost.ops.reload", "reload"),
    "backup": ("smarthost.ops.backup", "backup"),
    "drain": ("smarthost.ops.drain", "drain"),
    "events": ("smarthost.ops.events", "events"),
    "doctor": ("smarthost.ops.doctor.command", "doctor"),
    "ping": ("smarthost.ops.ping", "ping"),
    "config": ("smarthost.ops.settings", "config"),
    "dkim": ("smarthost.ops.dkim", "dkim"),
    "users": ("smarthost.ops.users", "users"),
    "tokens": ("smarthost.ops.tokens", "tokens"),
    "completion": ("smarthost.ops.completion", "completion"),
}
_STDOUT = 1
# Of a write to what standard output is: a full disk or quota, a file too large, a device in trouble, not for writing.
_OUTPUT_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class _Commands(click.Group):
    """The top of the command line: knows names, loads modules late, turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        try:
            ended = super().invoke(ctx)
            if sys.stdout is not None:  # `>&-`
                sys.stdout.flush()
        except BrokenPipeError:  # `smarthost queue list | head`: whoever read had enough
            _forget_output()
            return exits.OK
        return ended

    def main(self, *arguments: Any, **settings: Any) -> NoReturn:  # noqa: ANN401 - click's own signature
        settings["standalone_mode"] = False
        sys.exit(_ended(lambda: super(_Commands, self).main(*arguments, **settings)))


def _forget_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)  # or Python's last flush would complain


def _output_trouble(error: Exception) -> str:
    """Say why standard output could not be written; "" if that is not what failed: files have names in their errors."""
    if isinstance(error, OSError) and error.errno in _OUTPUT_TROUBLE and error.filename is None:
        return os.strerror(error.errno or 0)
    return ""


def _ended(run: Any) -> int:  # noqa: ANN401
    """Run a command and give its exit code, whatever way it ended."""
    from smarthost.mail.errors import SmarthostError

    try:
        code = run()
        return code if isinstance(code, int) else exits.OK
    except click.UsageError as error:
        error.show()
        return exits.USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        return exits.USAGE
    except click.Abort:
        _complain("interrupted")
        return 130  # 128 + SIGINT, as shells have it
    except exits.CommandFailed as error:
        _complain(str(error))
        return error.code
    except SmarthostError as error:
        _complain(str(error))
        return exits.code_for(error)
    except Exception as error:  # noqa: BLE001 - the outermost edge of ops
        if why := _output_trouble(error):
            _forget_output()
            _complain(f"cannot write the output: {why}")
            return exits.IO_ERROR
        traceback.print_exc()
        _complain("this is a bug of smarthost: please report it with the lines above")
        return exits.SOFTWARE


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error is no better: the exit code says it
        for line in text.splitlines():
            click.echo(f"smarthost: {line}", err=True)


def _print_version(ctx: click.Context, _: click.Parameter, is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        click.echo(f"smarthost {version('smarthost')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Version.")
def cli() -> None:
    """A smart host: takes mail, keeps it safe, and hands it on."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines.")
def demo(*, as_json: bool) -> int:
    """Show the whole story on loopback: a relay, DNS, good and bad hosts, mail; ends by itself."""
    from smarthost.ops.demo import run_demo

    return run_demo(live=sys.stdout.isatty(), as_json=as_json)


def main() -> NoReturn:
    """Run the command line of this process."""
    cli.main(prog_name="smarthost")
