# SPDX-License-Identifier: MIT
"""A command's end of the control socket: plain blocking sockets, since a command waits for one answer.

Knows no database: a command never opens it. Every failure is a CommandFailed that says what to do about it.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from smarthost.mail.reply import Reply
from smarthost.ops import exits
from smarthost.ops.place import socket_address
from smarthost.ops.verbs import (
    SOCKET_NAME,
    Answer,
    Done,
    Failed,
    Filed,
    Go,
    Pong,
    Refused,
    Request,
    decode_answer,
    to_line,
)

ANSWER_S = 60.0  # longer than a busy store needs for a page; a daemon that is silent that long hangs


class NoDaemon(exits.CommandFailed):
    """Nobody listens there."""


def ask(state_dir: Path, request: Request, content: bytes = b"", *, answer_s: float = ANSWER_S) -> Iterator[Answer]:
    """Send a request to the daemon at `state_dir` and give its answers; `content` follows when it says go.

    Raises: CommandFailed: no daemon, no permission, no answer, or its answer is a failure or refusal.
    """
    try:
        with _connect(state_dir, answer_s) as connection, connection.makefile("rb") as lines:
            connection.sendall(to_line(request))
            is_complete = False
            for line in lines:
                answer = decode_answer(line)
                if isinstance(answer, Failed):
                    raise exits.CommandFailed(answer.text, answer.exit_code)
                if isinstance(answer, Refused):
                    refusal = Reply(answer.code, answer.enhanced, (answer.text,))
                    raise exits.CommandFailed(f"refused: {refusal}", exits.code_for_reply(refusal))
                if isinstance(answer, Go):
                    connection.sendall(content)
                else:
                    yield answer
                    is_complete = isinstance(answer, Done | Filed | Pong)
            if not is_complete:
                raise exits.CommandFailed("the daemon stopped before it had told everything", exits.TEMPORARY)
    except TimeoutError as error:
        raise exits.CommandFailed(f"the daemon has not answered for {answer_s:.0f} s", exits.TEMPORARY) from error
    except (BrokenPipeError, ConnectionResetError) as error:
        raise exits.CommandFailed("the daemon closed the connection: try again", exits.TEMPORARY) from error
    except msgspec.MsgspecError as error:
        raise exits.CommandFailed(f"the daemon's answer makes no sense: {error}", exits.SOFTWARE) from error


def _connect(state_dir: Path, answer_s: float) -> socket.socket:
    path = state_dir / SOCKET_NAME
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(state_dir) as address:
            connection.settimeout(answer_s)
            connection.connect(address)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        connection.close()
        raise NoDaemon(
            f"no daemon answers at {path}: start one with `smarthost serve --state-dir {state_dir}`, "
            "or name the directory of the running one with --state-dir (or --config)",
            exits.UNAVAILABLE,
        ) from error
    except PermissionError as error:
        connection.close()
        raise exits.CommandFailed(
            f"no permission for {path}: run this as the user whose daemon it is, or as root", exits.NO_PERMISSION
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection
