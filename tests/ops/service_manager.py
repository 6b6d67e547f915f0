# SPDX-License-Identifier: MIT
"""A service manager for tests, as systemd is one: passes listening sockets, hears what is notified, starts again.

What it starts is the real daemon, or any command line, as a process of its own. All waits have an end.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 30.0
SERVE = (sys.executable, "-m", "smarthost", "serve")
# Becomes the command: only then is its process id known, and sockets must be at 3 and following.
_LAUNCH = """
import os, sys
passed = [int(each) for each in sys.argv[1].split(",") if each]
moved = [os.dup(each) if each < 3 + len(passed) else each for each in passed]
for at, each in enumerate(moved, 3):
    os.dup2(each, at)
if passed:
    os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Service:
    """One run of a command under the manager; `heard` is what it notified, a text for each datagram."""

    def __init__(self, process: "subprocess.Popen[bytes]", notify: socket.socket) -> None:
        self.process = process
        self.heard: list[str] = []
        self._notify = notify
        self._news = threading.Condition()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        while True:
            try:
                text = self._notify.recv(65536).decode()
            except (OSError, ValueError):
                return
            with self._news:
                self.heard.append(text)
                self._news.notify_all()

    def wait_for(self, part: str, times: int = 1) -> str:
        """Wait until so many datagrams with this part were heard; give the last of them."""

        def found() -> list[str]:
            return [each for each in self.heard if part in each]

        with self._news:
            if not self._news.wait_for(lambda: len(found()) >= times, WAIT_S):
                self.process.kill()
                said = self.process.communicate()[1].decode(errors="replace")[-4000:]
                raise AssertionError(f"{times} x {part!r} not heard within {WAIT_S} s, but {self.heard[-20:]}; {said}")
            return found()[-1]

    def stop(self) -> tuple[int, str]:
        """Stop it with SIGTERM; gives its exit code and what it wrote to standard error."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for its end; gives its exit code and what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, errors.decode(errors="replace")


@contextmanager
def managed(
    directory: Path, command: Sequence[str], sockets: dict[str, socket.socket] | None = None, **environ: str
) -> Iterator[Service]:
    """Run a command as a service; `sockets` are passed under their names. What still runs at the end is killed."""
    sockets = sockets or {}
    address = directory / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(address))
        numbers = [each.fileno() for each in sockets.values()]
        told = {"LISTEN_FDS": str(len(numbers)), "LISTEN_FDNAMES": ":".join(sockets)} if sockets else {}
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, ",".join(map(str, numbers)), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=numbers,
            env={**os.environ, "NOTIFY_SOCKET": str(address), **told, **environ},
        )
        try:
            yield Service(process, notify)
        finally:
            process.kill()
            process.communicate()
