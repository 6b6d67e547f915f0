# SPDX-License-Identifier: MIT
"""Warns of passwords for next hops that everybody on this machine may read. Called by the start and `config check`."""

from collections.abc import Iterator
from pathlib import Path
from stat import S_IROTH

from smarthost.config import Config
from smarthost.ports import Sink

OPEN_PASSWORD = "password file readable by everybody"  # noqa: S105 - the name of a note


def warn_of_open_passwords(config: Config, sink: Sink) -> None:
    """Say which files with passwords are open to everybody; one that cannot be looked at is others' business."""
    for file in dict.fromkeys(_password_files(config)):
        try:
            mode = file.stat().st_mode
        except OSError:
            continue
        if mode & S_IROTH:
            sink.note("warning", OPEN_PASSWORD, file=str(file), mode=oct(mode & 0o777), cure=f"chmod 600 {file}")


def _password_files(config: Config) -> Iterator[Path]:
    """Give where passwords were read: their own files, or the configuration, for those that are written there."""
    for hop in (*config.next_hops, *[hop for route in config.routes for hop in route.next_hops]):
        if hop.password_file is not None:
            yield hop.password_file
        elif hop.credentials is not None and config.file:
            yield Path(config.file)
