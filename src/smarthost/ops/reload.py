# SPDX-License-Identifier: MIT
"""`smarthost reload`: has the daemon take over its configuration file. Exit 0: it holds; 78: nothing was changed.

JSON Lines: a change is key, of, before, after. Also how errors and changes of a configuration are told.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options

if TYPE_CHECKING:
    from smarthost.config import Reading
    from smarthost.mail.change import Change
    from smarthost.mail.errors import ConfigError


def locate(reading: "Reading", error: "ConfigError") -> "ConfigError":
    """Give an error with the line of its key, if the file that was read has one."""
    from smarthost.config.lines import line_of
    from smarthost.mail.errors import ConfigError

    if error.line is not None or not error.key:
        return error
    return ConfigError(error.detail, key=error.key, line=line_of(reading.lines, error.key))


def tell_errors(reading: "Reading", errors: "Sequence[ConfigError]") -> list[str]:
    """Give a line for each error, with its file and line where they are known; a flag's does not name the file."""
    told = []
    for error in errors:
        where = f"{reading.file}: " if reading.file and not error.key.startswith("--") else ""
        told += [f"{where}{line}" for line in str(locate(reading, error)).split("\n")]
    return told


@click.command()
@options.place
@options.json_lines
def reload(state_dir: str | None, file: Path | None, *, as_json: bool) -> int:
    """Have the daemon take over its configuration file as it is now, while mail goes on.

    All of it holds then, or nothing has changed: with an error in it the exit code is 78. As SIGHUP, but it tells you.
    """
    from smarthost.config import find_state_dir
    from smarthost.ops import words
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Reload, Reloaded

    for answer in ask(find_state_dir(state_dir, file), Reload()):
        if isinstance(answer, Reloaded):
            tell_changes(answer.changes, as_json)
            if not as_json:
                source = answer.file or "the defaults (no file was read)"
                click.echo(words.printable(f"{source}: {words.count(len(answer.changes), 'change')} in force"))
    return exits.OK


def tell_changes(changes: Sequence["Change"], as_json: bool) -> None:
    """Print a line for each change."""
    from smarthost.ops import words

    for change in changes:
        if as_json:
            click.echo(
                words.json_line({"key": change.key, "of": change.of, "before": change.before, "after": change.after})
            )
        else:
            click.echo(words.printable(str(change)))
