# SPDX-License-Identifier: MIT
"""`smarthost send`: hand in a message from standard input through the control socket.

A submission from a local text tool: bare LF becomes CRLF and a missing last line end is added. Nothing else changes.
"""

import sys
from pathlib import Path

import click
import msgspec

from smarthost.ops import exits, options


@click.command()
@click.option("--from", "reverse_path", metavar="ADDRESS", required=True, help="Reverse-path; <> for none.")
@click.option("--to", "recipients", metavar="ADDRESS", multiple=True, required=True, help="A recipient; repeat it.")
@options.place
@options.json_lines
def send(
    reverse_path: str, recipients: tuple[str, ...], state_dir: str | None, file: Path | None, *, as_json: bool
) -> None:
    """Hand in the message on standard input and print its id once it is durable."""
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Filed, Send

    where = find_state_dir(state_dir, file)
    paths = [_bare(path) for path in (reverse_path, *recipients)]
    content = as_lines(_read_message())
    for answer in ask(where, Send(paths[0], tuple(paths[1:]), len(content)), content):
        if isinstance(answer, Filed):
            click.echo(msgspec.json.encode({"id": answer.id}).decode() if as_json else answer.id)


def as_lines(content: bytes) -> bytes:
    """Give content whose lines all end in CRLF, the last one too (RFC 5321 2.3.8); a bare CR stays as it is."""
    lines = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return lines if lines.endswith(b"\r\n") else lines + b"\r\n"


def _read_message() -> bytes:
    if sys.stdin.isatty():
        click.echo("Type the message: header fields, an empty line, the text; end with Ctrl-D.", err=True)
    content = sys.stdin.buffer.read()
    if not content:
        raise exits.CommandFailed("standard input holds no message", exits.NO_INPUT)
    return content


def _bare(written: str) -> str:
    try:
        written.encode()
    except UnicodeEncodeError:
        raise exits.CommandFailed(f"not an address: {written!a} is not UTF-8", exits.BAD_INPUT) from None
    return written[1:-1] if written.startswith("<") and written.endswith(">") else written
