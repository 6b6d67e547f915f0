# SPDX-License-Identifier: MIT
"""`smarthost config diff`: what another configuration file would change, and for how much of the queue.

A running daemon is asked, which reads the text as a reload would, and counts. Without one two files are compared here.
Exit 0: nothing differs, 1: something does, 78: a file is wrong. JSON Lines: a change is key, of, before, after; the
last line is recipients, other_route, other_limit, other_tls, ways (null without a daemon).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options

if TYPE_CHECKING:
    from smarthost.config import Config
    from smarthost.mail.change import Change, Effects

DIFFERS = 1
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("new", type=_FILE, metavar="FILE")
@click.option("--against", type=_FILE, metavar="FILE", help="Compare with this file instead of what is in force.")
@options.place
@options.json_lines
def diff(new: Path, *, against: Path | None, state_dir: str | None, file: Path | None, as_json: bool) -> int:
    """Show what FILE would change, without changing anything.

    With a running daemon, as a reload of it would: compared with what is in force there, options of its start included,
    and with how many recipients in the queue would go another way. Without one, compared with the file that --config
    names (or the default one).
    """
    from smarthost.ops.client import NoDaemon
    from smarthost.ops.reload import tell_changes

    text = _text(new)
    old_text = None if against is None else _text(against)
    try:
        changes, effects = _ask(state_dir, file, text, str(new), old_text, str(against or ""))
    except NoDaemon:
        changes, effects = _compare(new, against or file), None
    tell_changes(changes, as_json)
    _tell_effects(changes, effects, as_json)
    return DIFFERS if changes else exits.OK


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise exits.CommandFailed(f"{file}: cannot be read: {error.strerror}", exits.CONFIG) from error
    except UnicodeDecodeError as error:
        raise exits.CommandFailed(f"{file}: not UTF-8, which TOML must be", exits.CONFIG) from error


def _ask(
    state_dir: str | None, file: Path | None, text: str, name: str, old_text: str | None, old_name: str
) -> "tuple[tuple[Change, ...], Effects | None]":
    import msgspec

    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import ConfigDiff, ConfigDiffers, ConfigTexts

    content = msgspec.json.encode(ConfigTexts(text, name, old_text, old_name))
    for answer in ask(find_state_dir(state_dir, file), ConfigDiff(len(content)), content):
        if isinstance(answer, ConfigDiffers):
            return answer.changes, answer.effects
    raise exits.CommandFailed("the daemon stopped before it had told everything", exits.TEMPORARY)


def _compare(new: Path, old: Path | None) -> "tuple[Change, ...]":
    from smarthost.config.changes import find_changes

    return find_changes(_read(old), _read(new))


def _read(file: Path | None) -> "Config":
    from smarthost.config import read_config_file
    from smarthost.ops.reload import tell_errors

    reading = read_config_file(file)
    if reading.config is None:
        raise exits.CommandFailed("\n".join(tell_errors(reading, reading.errors)), exits.CONFIG)
    return reading.config


def _tell_effects(changes: "tuple[Change, ...]", effects: "Effects | None", as_json: bool) -> None:
    from smarthost.ops import words

    if as_json:
        counts = (
            None
            if effects is None
            else {
                "recipients": effects.recipients,
                "other_route": effects.other_route,
                "other_limit": effects.other_limit,
                "other_tls": effects.other_tls,
                "ways": [
                    {"before": way.before, "after": way.after, "recipients": way.recipients} for way in effects.ways
                ],
            }
        )
        click.echo(
            words.json_line(counts or dict.fromkeys(("recipients", "other_route", "other_limit", "other_tls", "ways")))
        )
        return
    if not changes:
        click.echo("no difference")
    elif effects is None:
        click.echo("no daemon runs there: how much of a queue this concerns is not known")
    else:
        for way in effects.ways:
            click.echo(words.printable(f"{words.count(way.recipients, 'recipient')}: {way.before} -> {way.after}"))
        click.echo(
            f"of {words.count(effects.recipients, 'queued recipient')}: {effects.other_route:,} would go another way,"
            f" {effects.other_limit:,} by other limits, {effects.other_tls:,} with other TLS"
        )
