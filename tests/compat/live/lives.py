# SPDX-License-Identifier: MIT
"""What tests need that kill: hosts and DNS for a program in a child process, its lives, and clients that keep count."""

import contextlib
import smtplib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.compat.live.children import Child
from tests.compat.live.host import Host, listening
from tests.compat.live.relaying import Terms
from tests.compat.live.rig import HOST, RECORDS, SENDERS, host_of
from tests.live.dns import serving_names
from tests.live.rig import WAIT_S

from smarthost.testing.dns import Zone


class World(NamedTuple):
    """The hosts of recipients and senders, and where DNS is."""

    host: Host
    senders_host: Host
    dns_at: str


@contextmanager
def world(is_secured: bool) -> Iterator[World]:
    """Run hosts and DNS for a block."""
    first, second = listening(HOST, SENDERS)
    with (
        serving_names(Zone(RECORDS)) as names,
        host_of(first, is_secured) as host,
        host_of(second, is_secured) as senders_host,
    ):
        yield World(host, senders_host, names.at)


class Lives:
    """One life of the program after the other, in the same directory; `kill` ends one, from any thread."""

    def __init__(self, terms: Terms, log: Path, *hosts: Host) -> None:
        self.kills = 0
        self.in_flight: Counter[str] = Counter()  # at how many kills each message was
        self._terms = terms
        self._log = log
        self._hosts = hosts
        self._child: Child | None = None
        self._is_dead = threading.Event()

    def begin(self, *, accepts: bool = False, relays: bool = True) -> Child:
        """Start a life."""
        self._is_dead.clear()
        self._child = Child(self._terms, self._log, accepts=accepts, relays=relays)
        return self._child

    def kill(self) -> None:
        """End it."""
        assert self._child is not None, "a life has begun"
        self._child.kill()
        self.kills += 1
        self._is_dead.set()

    def wait_for_death(self) -> None:
        """Wait until somebody has killed it and the host has noticed; note what was in flight."""
        assert self._child is not None, "a life has begun"
        assert self._is_dead.wait(WAIT_S), f"{self._hosts}; {self._child.told()}"
        for host in self._hosts:
            host.wait_for(host.is_quiet, "the host notices")
            self.in_flight.update(host.take_in_flight())


class Ledger:
    """Clients that submit one message after the other and note which of them were acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[str] = []
        self._news = threading.Lock()
        self._sent = 0

    def submit(self, port: int, kill_after: int, kill: Callable[[], None]) -> None:
        """Have three clients send until the server is gone; whoever hears the nth 250 kills it."""
        enough = len(self.acknowledged) + kill_after

        def send() -> None:
            with (
                contextlib.suppress(OSError, smtplib.SMTPException),  # the server is gone
                smtplib.SMTP("127.0.0.1", port, "client.example.org", timeout=WAIT_S) as client,
            ):
                while True:
                    with self._news:
                        self._sent += 1
                        name = f"m{self._sent}"
                    client.sendmail("alice@example.org", [f"{name}@example.net"], self.content(name))
                    with self._news:
                        self.acknowledged.append(f"{name}@example.net")
                        if len(self.acknowledged) == enough:
                            kill()

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert len(self.acknowledged) >= enough

    @staticmethod
    def content(name: str) -> bytes:
        """Give the message of this name, of a few sizes."""
        return b"Subject: ledger\r\n\r\n" + f"{name} . and again\r\n".encode() * (1 + sum(name.encode()) % 300)
