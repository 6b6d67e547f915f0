# SPDX-License-Identifier: MIT
"""`smarthost backup DIRECTORY`: a copy of the queue, from the daemon that serves it or, when none does, from its files.

The copy is a state directory; `smarthost serve --state-dir DIRECTORY` restores it and begins with a pause. With --json
a line with directory, messages, recipients, octets and missing.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.mail.backup import Backup


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@options.place
@options.json_lines
def backup(directory: Path, state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Copy the queue into DIRECTORY, which must be empty or not exist yet; mail goes on meanwhile.

    The copy is whole once this command has said so. `smarthost serve --state-dir DIRECTORY` restores it, and begins
    with a pause, because what is in it may have been delivered since.
    """
    from smarthost.config import find_state_dir

    where = find_state_dir(state_dir, file)
    target = directory.absolute()
    try:
        made = _ask_the_daemon(where, target)
    except exits.CommandFailed as failure:
        if failure.code != exits.UNAVAILABLE or not (where / "queue.db").exists():
            raise
        made = _copy(where, target)
    if as_json:
        click.echo(words.json_line({name: getattr(made, name) for name in made.__struct_fields__}))
        return
    held = f"{words.count(made.messages, 'message')}, {words.count(made.recipients, 'recipient')}"
    click.echo(f"{made.directory}: {held}, {words.size_words(made.octets)} ({made.octets} octets)")
    if made.missing:
        click.echo(f"the queue has lost the content of {words.count(made.missing, 'message')}; all else is in the copy")


def _ask_the_daemon(where: Path, target: Path) -> "Backup":
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import BackedUp, BackUp

    for answer in ask(where, BackUp(str(target))):
        if isinstance(answer, BackedUp):
            return answer.backup
    raise exits.CommandFailed("the daemon did not say that the copy is whole", exits.SOFTWARE)


def _copy(where: Path, target: Path) -> "Backup":
    """Copy the queue of a daemon that does not run, whose lock is ours meanwhile."""
    import asyncio
    from importlib.metadata import version

    from smarthost.backends.clock import SystemClock
    from smarthost.backends.sqlite import directory
    from smarthost.backends.sqlite.backup import Deletions, NotBackedUp, back_up
    from smarthost.mail.backup import BackupNote

    os.umask(0o077)
    lock = asyncio.run(directory.take(where, SystemClock()))
    try:
        with _interruptible():
            note = BackupNote(time.time(), version("smarthost"))
            return back_up(where, target, note, Deletions(where / "content"))
    except NotBackedUp as error:
        raise exits.CommandFailed(str(error), exits.CANNOT_CREATE) from error
    finally:
        os.close(lock)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that nothing is left of what it made."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
