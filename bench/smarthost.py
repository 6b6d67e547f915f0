# SPDX-License-Identifier: MIT
"""smarthost as a system under test: `smarthost serve` in the foreground, found by its `ready` line."""

import json
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.certificate import Certificate
from bench.children import Scratch
from bench.failure import RunFailed
from bench.modes import PASSWORD, USER, Mode
from bench.network import await_banner
from bench.system import StartSystem, System

_READY_S = 30.0


# A certificate for clients; towards the sink TLS is opportunistic, which is the default.
_TLS = """
[tls]
certificate_file = "{certificate}"
key_file = "{key}"

[[listener]]
listen = ["127.0.0.1:0"]
mode = "{mode}"
"""
_USERS = """
[auth]
users_file = "{users}"
"""


def serve_command(
    program: Path,
    state: Path,
    sink_port: int | None,
    further: Sequence[str] = (),
    config: Path | None = None,
) -> list[str]:
    """Compose the command line; port 0: the `ready` line says which it became. Without a sink it delivers by MX.

    A `config` says itself where to listen.
    """
    listen = ["--listen", "127.0.0.1:0"] if config is None else ["--config", str(config)]
    place = [*listen, "--state-dir", str(state), "--hostname", "relay.bench.test"]
    hop = [] if sink_port is None else ["--next-hop", f"127.0.0.1:{sink_port}"]
    return [str(program), "serve", *place, *hop, *further]


def find_ready_port(lines: Iterable[bytes]) -> int | None:
    """Give the first port of the `ready` line among JSON log lines; None if it is not there yet."""
    for line in lines:
        if b'"ready"' not in line:
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("what") == "ready" and entry.get("listen"):
            return int(entry["listen"][0][1])
    return None


def write_config(home: Path, mode: Mode, certificate: Certificate, hash_: str) -> Path:
    """Write a configuration for clients with TLS, and a user with this password hash if the mode has AUTH."""
    place = {"certificate": certificate.certificate, "key": certificate.key}
    text = _TLS.format(**place, mode="submission" if mode.auth else "relay")
    if mode.auth:
        users = home / "users.toml"
        users.touch(mode=0o600)
        users.write_text(f'[{USER}]\npassword = "{hash_}"\nsenders = ["*"]\n')
        text += _USERS.format(users=users)
    config = home / "smarthost.toml"
    config.write_text(text)
    return config


def hash_password(program: Path) -> str:
    """Have the program hash the benchmark's password, with its own parameters. Raises: RunFailed."""
    answer = subprocess.run(
        [program, "users", "hash"], input=PASSWORD + "\n", capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise RunFailed(f"smarthost users hash ended with {answer.returncode}: {answer.stderr.strip()}")
    return answer.stdout.strip()


class Smarthost:
    """A running `smarthost serve`."""

    name = "smarthost"

    def __init__(
        self,
        scratch: Scratch,
        home: Path,
        sink_port: int | None,
        program: Path,
        further: Sequence[str],
        config: Path | None = None,
    ) -> None:
        self._scratch = scratch
        state = home / "state"
        state.mkdir(mode=0o700)
        command = serve_command(program.absolute(), state, sink_port, further, config)
        self._child = scratch.start("smarthost", command)
        self.root_pid: int | None = self._child.pid
        self.port = self._await_ready()
        await_banner(self.port, self._child, _READY_S)

    def _await_ready(self) -> int:
        log = self._scratch.path / "smarthost.err"
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            port = find_ready_port(log.read_bytes().splitlines())
            if port is not None:
                return port
            code = self._child.exit_code()
            if code is not None:
                raise RunFailed(f"smarthost ended with {code}: {self._scratch.complaint('smarthost')}")
            time.sleep(0.05)
        raise RunFailed(f"smarthost said no `ready` line within {_READY_S:.0f} s")

    def left_over(self) -> int | None:
        """Its queue is its own; that the sink has all, and that it drained and ended with 0, must do."""
        return None

    def stop(self) -> None:
        """SIGTERM: it drains and ends with 0."""
        code = self._child.stop(30, signal.SIGTERM)
        if code != 0:
            what = "did not end within 30 s" if code is None else f"ended with {code}"
            raise RunFailed(f"smarthost {what} after SIGTERM: {self._scratch.complaint('smarthost')}")


def smarthost_starter(
    program: Path, further: Sequence[str], mode: Mode | None = None, certificate: Certificate | None = None
) -> StartSystem:
    """Give what starts this program as the system under test; with a mode that has TLS it gets the certificate."""

    def start(scratch: Scratch, home: Path, sink_port: int) -> System:
        if mode is None or certificate is None or not mode.tls:
            return Smarthost(scratch, home, sink_port, program, further)
        config = write_config(home, mode, certificate, hash_password(program.absolute()) if mode.auth else "")
        return Smarthost(scratch, home, sink_port, program, further, config)

    return start
