# SPDX-License-Identifier: MIT
"""`smarthost users hash`: a password's hash for the users file."""

import sys

import click

from smarthost.ops import exits


@click.group()
def users() -> None:
    """Make hashes for the users file; `smarthost config check` looks at the file itself."""


@users.command("hash")
def make_hash() -> None:
    """Read a password (asked for, or one line of standard input) and print its hash."""
    from smarthost.backends.users import hash_password

    if sys.stdin.isatty():
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    else:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:  # a pipe whose beginning failed: the user would have no password, and nobody would know
            raise exits.CommandFailed("no password on standard input", exits.NO_INPUT)
    try:
        click.echo(hash_password(password))
    except ValueError as error:
        raise exits.CommandFailed(f"not a password that could be used: {error}", exits.BAD_INPUT) from None
