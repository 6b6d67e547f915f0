# SPDX-License-Identifier: MIT
"""Postfix's smtp-sink, a third party's SMTP server, which dumps each message to a file; and how to read that."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.compat.live.rig import HOST
from tests.interop.programs import greets, program
from tests.live.rig import WAIT_S, eventually
from tests.live.sink import free_port


class Dumped(NamedTuple):
    """A message as smtp-sink heard it; `mail` is the argument of MAIL."""

    mail: str
    recipient: str
    protocol: str
    content: bytes


@contextmanager
def smtp_sink() -> Iterator[tuple[int, Path]]:
    """Run Postfix's smtp-sink; give its port, and the directory that it dumps messages in."""
    sink = program("smtp-sink")
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="smarthost-sink-", dir="/tmp"))
    home.chmod(0o777)  # its own user writes in it, as it could not in pytest's directories
    command = [sink, "-4", "-d", f"{home}/dump.", f"{HOST}:{port}", "16"]
    if os.geteuid() == 0:
        command[1:1] = ["-u", "nobody"]  # as root it does not run without
    try:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            try:
                eventually(lambda: greets(port), "smtp-sink greets")
                yield port, home
            finally:
                process.terminate()
                process.communicate(timeout=WAIT_S)
    finally:
        shutil.rmtree(home)


def read_dump(file: Path) -> Dumped:
    """Read a dump of one message."""
    head, _, rest = file.read_bytes().partition(b"Received: ")
    said = dict(line.split(": ", 1) for line in head.decode().splitlines())
    content = rest.split(b"\n", 3)[3]  # its Received field has three lines
    assert content.endswith(b"\n\n"), "it adds an empty line"
    content = content[:-1].replace(b"\n", b"\r\n")
    return Dumped(said["X-Mail-Args"], said["X-Rcpt-Args"].strip("<>"), said["X-Client-Proto"], content)
