# SPDX-License-Identifier: MIT
"""Debian's Postfix as a system that is killed and started again, beside smarthost; the same words as crash.relay.Relay.

Its queue and its data are in `state`, which may lie on an image that loses power; configuration and log are in the
run's directory, and nothing under /etc or /var/spool is read or written. Durable as shipped. Each start is what
`postfix start-fg` does, which repairs what a crash left; must be root. It judges nothing.
"""

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

from bench.children import Scratch
from bench.failure import RunFailed
from bench.network import await_banner
from bench.postfix import MAIN_CF, MASTER_CF
from bench.programs import find_program, require_program

from crash.running import Running

READY_S = 60.0
QMGR_WOKEN_S = 5
# Deferred mail is tried again at once, as in crash.relay.CONFIG; the log lies outside of what is crashed; and nobody is
# written to about a crash: what arrives is what was sent.
RETRY_CF = """\
maillog_file = {config}/log/mail.log
maillog_file_prefixes = {config}/log
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
notify_classes =
"""
_QUEUES = ("incoming", "active", "deferred", "maildrop", "corrupt", "hold")


def missing_for_postfix() -> list[str]:
    """Say in one line each what it needs and does not find."""
    lines = [
        f"{name} is not installed: run tools/system-packages, or leave Postfix out with --no-postfix"
        for name in ("postfix", "postconf")
        if find_program(name) is None
    ]
    if os.geteuid() != 0:
        lines.append("Postfix's master only starts as root: run as root, or leave it out with --no-postfix")
    return lines


class Postfix(Running):
    """A scratch instance; `start` it again after `kill` on the same state directory and port.

    `state` is made if it is not there; Postfix's own user must be able to walk to it.
    """

    def __init__(self, scratch: Scratch, state: Path, sink_port: int, *, main_cf: str = "") -> None:
        super().__init__(scratch, "postfix")
        self.state = state
        self._config = scratch.directory(f"{state.name}-{self.port}-conf")
        self._log = self._config / "log" / "mail.log"
        self._log.parent.mkdir(mode=0o755)
        self._log.touch()
        for path in (self._log.parent, self._log):
            shutil.chown(path, "postfix")  # postsuper writes there without being root
        (self._config / "main.cf").write_text(self._settings(sink_port) + main_cf)
        (self._config / "master.cf").write_text(_woken_soon(MASTER_CF.format(port=self.port)))

    def _settings(self, sink_port: int) -> str:
        """Give main.cf: the one of the benchmark, in which what comes later would win, but with a warning each time."""
        retry = RETRY_CF.format(config=self._config)
        names = {line.partition("=")[0].strip() for line in retry.splitlines()}
        tuned = MAIN_CF.format(home=self.state, sink_port=sink_port).splitlines()
        return "\n".join(line for line in tuned if line.partition("=")[0].strip() not in names) + "\n" + retry

    def start(self, *, is_awaited: bool = True) -> None:
        """Start; returns when it greets, or at once. Raises: RunFailed: it ended before, or did not greet in time."""
        self.starts += 1
        self._make_directories()
        check = subprocess.run(
            [require_program("postfix"), "-c", self._config, "check"],
            capture_output=True, text=True, check=False, timeout=READY_S,
        )  # fmt: skip
        if check.returncode != 0:
            raise RunFailed(f"postfix check: {check.stderr.strip() or check.returncode}")
        child = self.begin([_daemons() / "master", "-c", self._config, "-s"])
        if is_awaited:
            await_banner(self.port, child, READY_S)

    def _make_directories(self) -> None:
        for name in ("queue", "data"):
            (self.state / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.chown(self.state / "data", "postfix")

    def complaint(self) -> str:
        """Give its last words."""
        lines = self._log.read_text(errors="replace").splitlines()[-3:]
        return " | ".join([self._scratch.complaint(self.name), *lines])[-600:]

    def kill(self) -> None:
        """SIGKILL to all its processes at once: they are one process group; returns when they are gone."""
        self.kill_group()

    def left_over(self) -> int:
        """Count the messages: queue files that are complete, which their mode 0700 says."""
        return sum(map(_is_complete, (path for queue in _QUEUES for path in (self.state / "queue" / queue).rglob("*"))))

    def await_empty(self, timeout_s: float) -> int:
        """Wait until no message is left, or time is up; give how many are."""
        deadline = time.monotonic() + timeout_s
        while (left := self.left_over()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def _woken_soon(master_cf: str) -> str:
    """A queue manager that was killed is started by the next mail, or else when it is to be woken: after 300 s."""
    assert " 300 1 qmgr" in master_cf, "as the benchmark has it"
    return master_cf.replace(" 300 1 qmgr", f" {QMGR_WOKEN_S} 1 qmgr")


def _is_complete(path: Path) -> bool:
    """What smtpd had not yet acknowledged when it was killed lies there for a day, without this bit."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IXUSR)


def _daemons() -> Path:
    answer = subprocess.run(
        [require_program("postconf"), "-dh", "daemon_directory"], capture_output=True, text=True, check=True
    )
    return Path(answer.stdout.strip())
