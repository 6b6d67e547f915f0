# SPDX-License-Identifier: MIT
"""The installed daemon, judged from outside: started from a configuration file, read by its log, asked by its commands.

Nothing here imports smarthost. Every wait has an end and says what was missing.
"""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Self

PROGRAM = Path(sys.executable).with_name("smarthost")
HOSTNAME = "relay.example.org"
WAIT_S = 30.0
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # all but the line feed between lines
Line = dict[str, Any]


class Daemon:
    """One run of `smarthost serve --config`; `ports` are those of its listeners, in the order of the file."""

    def __init__(self, home: Path, config: str) -> None:
        self.file = home / "smarthost.toml"
        self.file.write_text(f'hostname = "{HOSTNAME}"\nstate_dir = "{home / "state"}"\n{config}')
        self.text = ""
        self.lines: list[Line] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [str(PROGRAM), "serve", "--config", str(self.file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None, "started with a pipe"
        with self._process.stderr:
            for octets in self._process.stderr:
                text = octets.decode("utf-8", "surrogateescape")
                with self._news:
                    self.text += text
                    if text.startswith("{"):
                        self.lines.append(json.loads(text))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def __enter__(self) -> Self:
        try:
            self.ports: list[int] = [port for _, port in self.line("ready")["listen"]]
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(WAIT_S)
        finally:
            self._process.kill()
            self._reader.join(WAIT_S)

    def wait(self, find: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
        """Give what `find` finds, asked again after each log line. Raises: AssertionError: it found nothing."""
        with self._news:
            self._news.wait_for(lambda: find() or not self._reader.is_alive(), timeout_s)
            found = find()
            assert found, f"no {what} within {timeout_s} s; the log says: {self.text[-3000:]}"
            return found

    def line(self, what: str, **facts: object) -> Line:
        """Wait for the first log line of this kind with these facts."""
        wanted = {"what": what, **facts}.items()
        found: Line = self.wait(
            lambda: next((line for line in self.lines if wanted <= line.items()), None), f"{what} {facts}"
        )
        return found

    def fate(self, recipient: str) -> Line:
        """Wait for what became of a recipient: relayed, bounced, deferred or postponed."""
        fates = {"relayed", "bounced", "deferred", "postponed", "expired"}
        found: Line = self.wait(
            lambda: next(
                (each for each in self.lines if each["what"] in fates and each.get("recipient") == recipient), None
            ),
            f"fate of {recipient}",
        )
        return found

    def ask(self, *words: str, codes: Container[int] = (0,)) -> str:
        """Give the standard output of a command of ours that talks to this daemon; it must end with one of `codes`."""
        done = subprocess.run(
            [str(PROGRAM), *words, "--config", str(self.file)], capture_output=True, timeout=WAIT_S, check=False
        )
        assert done.returncode in codes, (done.returncode, done.stderr)
        return done.stdout.decode("utf-8", "surrogateescape")

    def queued(self) -> list[Line]:
        """Give what `queue list --json` says, a dict for each message."""
        return [json.loads(line) for line in self.ask("queue", "list", "--json").splitlines()]
