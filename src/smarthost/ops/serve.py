# SPDX-License-Identifier: MIT
"""`smarthost serve`: the command; ops.daemon does the rest and is imported only when it runs."""

from pathlib import Path

import click

from smarthost.ops import options
from smarthost.ops.settings import load, reader


@click.command()
@options.over_config
@click.option("--paused", is_flag=True, help="Take mail, but deliver none before `smarthost resume`.")
def serve(file: Path | None, *, paused: bool, **given: object) -> int:
    """Take mail and hand it on, in the foreground, until SIGTERM or SIGINT.

    Logs JSON Lines to standard error; the line whose "what" is "ready" names the listening addresses. Options replace
    what the configuration file says.
    """
    config = load(file, given)

    from smarthost.ops import daemon

    return daemon.run(config, paused=paused, reread=reader(file, given))
