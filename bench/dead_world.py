# SPDX-License-Identifier: MIT
"""Starts what a run with dead exchangers needs: the name server, the exchangers, and the relays, delivering by MX."""

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import dead_hosts, dead_zone
from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.postfix import MAIN_CF, MASTER_CF, Postfix
from bench.sink import CounterFile, MessageSink
from bench.smarthost import Smarthost
from bench.system import System

SMTP = 25
DNS = 53
_READY_S = 10.0
_HANGS_S = 0.5  # loopback answers at once, or never
# What `make bench` sets and this does not. in_flow_delay: its default holds clients back while the queue grows, and
# under a load without pause Postfix accepts faster than it delivers. Tried beside 0: it delivers more.
_NOT_HERE = ("relayhost = [127.0.0.1]:{sink_port}\n", "smtp_dns_support_level = disabled\n", "in_flow_delay = 0\n")
_TLS_MANAGER = "tlsmgr unix - - n 1000? 1 tlsmgr\n"

StartByMx = Callable[[Scratch, Path], System]
"""Start a relay that delivers by MX, with its state in a directory. Raises: RunFailed."""


def postfix_by_mx() -> tuple[str, str]:
    """Give main.cf and master.cf of `make bench`, but by MX and with opportunistic TLS; all timeouts are defaults."""
    main_cf = MAIN_CF
    for setting in _NOT_HERE:
        assert setting in main_cf, f"bench/postfix.py has it: {setting}"
        main_cf = main_cf.replace(setting, "")
    return main_cf + "smtp_tls_security_level = may\n", MASTER_CF + _TLS_MANAGER


def start_postfix_by_mx(scratch: Scratch, home: Path) -> System:
    """Start a scratch instance."""
    return Postfix(scratch, home, 0, *postfix_by_mx())


def smarthost_by_mx(program: Path, further: tuple[str, ...]) -> StartByMx:
    """Give what starts this program; its exchangers may be at loopback, and that is all that is not default."""

    def start(scratch: Scratch, home: Path) -> System:
        return Smarthost(scratch, home, None, program, ("--dns", f"127.0.0.1:{DNS}", "--allow-private", *further))

    return start


def start_dns(scratch: Scratch) -> None:
    """Start the name server and wait until it answers."""
    _start_program(scratch, "dns", Path(dead_zone.__file__), "127.0.0.1", str(DNS))


def _start_program(scratch: Scratch, name: str, program: Path, *arguments: str) -> tuple[Child, Path]:
    """Start a Python program and wait for its `ready`; -P: its directory is none to import from."""
    output = scratch.path / f"{name}.out"
    with output.open("wb") as out:
        child = scratch.start(name, [sys.executable, "-P", program, *arguments], stdout=out)
    deadline = time.monotonic() + _READY_S
    while not output.read_bytes().startswith(b"ready\n"):
        if child.exit_code() is not None or time.monotonic() > deadline:
            raise RunFailed(f"{name} did not come up: {child.complaint()}")
        time.sleep(0.01)
    return child, output


class DeadHost:
    """An exchanger that is dead in some way; it counts what it takes all the same."""

    def __init__(self, scratch: Scratch, address: str, way: str, port: int = SMTP) -> None:
        self.address = address
        self._way = way
        self._port = port
        self._counter: CounterFile | None = None
        self._child: Child | None = None
        if way != "refused":
            name = f"host-{address}"
            program = Path(dead_hosts.__file__)
            self._child, output = _start_program(scratch, name, program, way, address, str(port))
            self._counter = CounterFile(output)
        self.check()

    def total(self) -> int:
        """Give how many messages it took."""
        return 0 if self._counter is None else self._counter.read()

    def check(self) -> None:
        """Raises: RunFailed: it is not dead in its way, or its program is."""
        if self._child is not None and self._child.exit_code() is not None:
            raise RunFailed(f"the host {self.address} ended: {self._child.complaint()}")
        seen = look_at(self.address, self._port)
        wanted = {"syn": "hangs", "refused": "refuses"}.get(self._way, "accepts")
        if seen != wanted:
            raise RunFailed(f"{self.address}, which should be dead by {self._way}, {seen} connections")

    def close(self) -> None:
        """Be done with its output."""
        if self._counter is not None:
            self._counter.close()


def look_at(address: str, port: int, patience_s: float = _HANGS_S) -> str:
    """Say what a connection to this place does: "accepts", "refuses" or "hangs"."""
    try:
        socket.create_connection((address, port), patience_s).close()
    except TimeoutError:
        return "hangs"
    except ConnectionRefusedError:
        return "refuses"
    return "accepts"


class LivingHost:
    """A smtp-sink at an exchanger's place."""

    def __init__(self, scratch: Scratch, address: str) -> None:
        self.address = address
        self._sink = MessageSink(scratch, at=(address, SMTP), name=f"host-{address}")

    def total(self) -> int:
        """Give how many messages it took."""
        return self._sink.total()

    def check(self) -> None:
        """Raises: RunFailed: it is dead, and should not be."""
        if self._sink.child.exit_code() is not None:
            raise RunFailed(f"the sink at {self.address} ended with {self._sink.child.exit_code()}")

    def close(self) -> None:
        """End it."""
        self._sink.stop()


def start_host(scratch: Scratch, address: str, way: str) -> DeadHost | LivingHost:
    """Start an exchanger."""
    return LivingHost(scratch, address) if way == "alive" else DeadHost(scratch, address, way)
