# SPDX-License-Identifier: MIT
"""How sendmail hands a message in: to the daemon through its control socket, else into its drop directory.

The socket is for root and the daemon's own user; only what it refuses for good is final. The directory is for
everybody, and for when nobody listens: the file is whole and synced before it has the name that the daemon looks for. A
crash before that leaves a file "tmp.*", which the daemon sweeps after a day; nobody was told that it was taken. The
other ends are ops.control and backends.maildrop. Standard library only.
"""

import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from smarthost.ops.sendmail_options import BAD_INPUT, SOFTWARE, TEMPORARY, UNAVAILABLE, Complaint

SOCKET_NAME = "control"  # ops.verbs
ANSWER_S = 60.0  # ops.client
FILING_S = 330.0  # above accept.intake.FILING_S and what hinders it: who gives up before may hand in twice
HEAD_OCTETS = 1 << 20  # backends.maildrop
UNFINISHED = "tmp."  # backends.maildrop
_ADDRESS_CODES = (501, 553, 555)  # ops.exits


class Envelope(NamedTuple):
    """Whose message it is, and for whom."""

    reverse_path: str
    recipients: Sequence[str]


class Unreachable(Complaint):
    """Nobody answers there, or not to us: another way may lead on."""


class NotNow(Complaint):
    """The daemon is there, and cannot take it at this moment."""


class Refused(Complaint):
    """The daemon refuses it for good."""


def hand_in(envelope: Envelope, content: bytes, state_dirs: Sequence[str], drops: Sequence[str]) -> str:
    """Hand a message in, and give its id, or "" where it waits for the daemon. Raises: Complaint."""
    why = ""
    for state_dir in state_dirs:
        try:
            return _send(envelope, content, state_dir)
        except Refused:
            raise
        except Unreachable as error:
            why = why or str(error)
        except Complaint as error:  # a bug of the daemon's, or its being older than we, is no reason to lose mail
            why = str(error)
            break
    try:
        drop(envelope, content, drops)
    except Complaint as error:
        raise Complaint(f"{why}; {error}" if why else str(error), error.code) from None
    return ""


def exchange(state_dir: str, request: Mapping[str, Any], content: bytes = b"") -> Iterator[dict[str, Any]]:
    """Send a request and give the answers (ops.verbs); `content` follows when the daemon says go.

    Raises: Unreachable, NotNow; Complaint: a failure, with the exit code that the daemon gave it.
    """
    try:
        with _connect(state_dir) as connection, connection.makefile("rb") as lines:
            connection.sendall(json.dumps(request).encode("utf-8", "surrogateescape") + b"\n")
            is_complete = False
            for line in lines:
                answer = json.loads(line)
                match answer["what"]:
                    case "failed":
                        kind = NotNow if answer["exit_code"] == TEMPORARY else Complaint
                        raise kind(answer["text"], answer["exit_code"])
                    case "refused":
                        raise _refusal(answer["code"], answer["enhanced"], answer["text"])
                    case "go":
                        connection.settimeout(FILING_S)
                        connection.sendall(content)
                    case what:
                        yield answer
                        is_complete = what in ("done", "filed", "pong")
    except (OSError, ValueError, KeyError, TypeError) as error:  # a timeout is an OSError, no JSON a ValueError
        raise NotNow(f"the daemon at {state_dir} did not answer as it should: {error}", TEMPORARY) from None
    if not is_complete:
        raise NotNow("the daemon stopped before it had answered", TEMPORARY)


def _connect(state_dir: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = -1
    try:
        connection.settimeout(ANSWER_S)
        # By a descriptor, since a path of more than 107 octets fits no socket address (ops.place).
        directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
    except PermissionError:
        connection.close()
        raise Unreachable(f"no permission for {state_dir}/{SOCKET_NAME}", TEMPORARY) from None
    except OSError:
        connection.close()
        raise Unreachable(f"no daemon answers at {state_dir}/{SOCKET_NAME}", TEMPORARY) from None
    finally:
        if directory >= 0:
            os.close(directory)
    return connection


def _refusal(code: int, enhanced: str, text: str) -> Complaint:
    said = f"refused: {code} {enhanced} {text}"
    if code < 500:
        return NotNow(said, TEMPORARY)
    is_malformed = code in _ADDRESS_CODES or enhanced.startswith(("5.1.", "5.5.", "5.6."))
    return Refused(said, BAD_INPUT if is_malformed else UNAVAILABLE)


def _send(envelope: Envelope, content: bytes, state_dir: str) -> str:
    request = {
        "verb": "send",
        "reverse_path": envelope.reverse_path,
        "recipients": list(envelope.recipients),
        "octets": len(content),
    }
    for answer in exchange(state_dir, request, content):
        if answer["what"] == "filed":
            return str(answer.get("id", ""))
    raise Complaint("the daemon answered something else", SOFTWARE)


def drop(envelope: Envelope, content: bytes, drops: Sequence[str]) -> str:
    """Leave a message in the first drop directory that there is; gives its path. Raises: Complaint."""
    head = {"version": 1, "reverse_path": envelope.reverse_path, "recipients": list(envelope.recipients)}
    line = json.dumps({**head, "octets": len(content)}, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
    if len(line) > HEAD_OCTETS:
        raise Complaint(f"too many recipients: their addresses have more than {HEAD_OCTETS} octets", UNAVAILABLE)
    why = ""
    for directory in drops:
        try:
            return _write(directory, (line, content))
        except FileNotFoundError:
            continue
        except OSError as error:
            why = why or f"{directory}: {error.strerror or error}"
    raise Complaint(why or f"no drop directory {' or '.join(drops)}: start smarthost once to have it made", TEMPORARY)


def _write(directory: str, pieces: Sequence[bytes]) -> str:
    """Write a file, durable under its final name before this returns. Raises: OSError: and nothing is left."""
    token = os.urandom(16).hex()  # nobody may list the directory, and nobody guesses this
    unfinished, path = f"{directory}/{UNFINISHED}{token}", f"{directory}/{token}"
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            _share(fd, os.stat(directory))
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    left = left[os.write(fd, left) :]
            os.fsync(fd)
            os.rename(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
        _sync_name(directory, fd)
    finally:
        os.close(fd)
    return path


def _share(fd: int, directory: os.stat_result) -> None:
    """Let the directory's owner read the file: through its group, which a setgid directory passes on."""
    if os.geteuid() == 0:
        os.fchown(fd, -1, directory.st_gid)
    mine = os.fstat(fd)
    is_shared = mine.st_uid != directory.st_uid and directory.st_uid != 0
    os.fchmod(fd, 0o600 if not is_shared else 0o640 if mine.st_gid == directory.st_gid else 0o644)
    assert stat.S_ISREG(mine.st_mode), "it was created"


def _sync_name(directory: str, fd: int) -> None:
    """Make the name durable: by the directory, or, for who may only write there, by the file once more.

    ext4, XFS and btrfs make the last rename of a file durable with it.
    """
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        os.fsync(fd)
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
