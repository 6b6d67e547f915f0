# SPDX-License-Identifier: MIT
"""The world of a live test: DNS over UDP, hosts of aiosmtpd, a queue directory, and a manager over the real reactor.

All on loopback, and one port for all hosts, because a manager has one PORT: mail for example.net and example.com goes
to 127.0.0.1, for example.org, the senders', to 127.0.0.3; dead.example has a dead host before the living one.
"""

import pickle
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from tests.compat.live.host import Host, listening
from tests.compat.live.relaying import (
    CHECK_S,
    HOST_NAME,
    LOGIN,
    SECRET,
    HostAddresses,
    Terms,
    manager_of,
    resolver_of,
)
from tests.live.dns import serving_names
from tests.live.rig import WAIT_S
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from smarthost.compat.relaymanager import Queue, RelayStateHelper
from smarthost.testing.dns import Zone

reactor: Any = _reactor  # a module to a type checker

HOST, DEAD, SENDERS = "127.0.0.1", "127.0.0.2", "127.0.0.3"
RECORDS = {
    "example.net": "MX 10 mx.example.net",
    "mx.example.net": f"A {HOST}",
    "example.com": "MX 10 mx.example.com",
    "mx.example.com": f"A {HOST}",
    "example.org": "MX 10 mx.example.org",
    "mx.example.org": f"A {SENDERS}",
    "dead.example": ("MX 10 mx1.dead.example", "MX 20 mx2.dead.example"),
    "mx1.dead.example": f"A {DEAD}",
    "mx2.dead.example": f"A {HOST}",
}


@cache
def authority() -> trustme.CA:
    """Give the CA that signs the hosts' certificates."""
    return trustme.CA()


@cache
def host_context() -> ssl.SSLContext:
    """Give the hosts' side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(HOST_NAME).configure_cert(context)
    return context


def pem(ca: trustme.CA) -> str:
    """Give the certificate of a CA as text."""
    return ca.cert_pem.bytes().decode()


def host_of(listening: Any, is_secured: bool, **terms: Any) -> Host:
    """Make a host, which demands STARTTLS and a login where the mail is `is_secured`."""
    if is_secured:
        terms = {"tls": host_context(), "login": (LOGIN, SECRET), **terms}
    return Host(listening, **terms)


def terms_of(directory: Path, dns_at: str, port: int, is_secured: bool, **terms: Any) -> Terms:
    """Give the terms of a program that relays to these hosts."""
    if is_secured:
        terms = {"is_esmtp": True, "trusted": pem(authority()), "secret": SECRET, **terms}
    return Terms(directory=str(directory), dns_at=dns_at, port=port, **terms)


def put(queue: Any, sender: str, recipient: str, content: bytes) -> None:
    """Queue a message as programs do, line by line; `content` ends in CRLF."""
    envelope, message = queue.createNewMessage()
    with envelope:
        pickle.dump([sender, recipient], envelope)
    for line in content.split(b"\r\n")[:-1]:
        message.lineReceived(line)
    message.eomReceived()


def short(text: str = "hello") -> bytes:
    """Give a small message."""
    return f"Subject: {text}\r\n\r\n{text}\r\n".encode()


async def until(is_true: Callable[[], object], what: Callable[[], object] | str) -> None:
    """Let the reactor run until it is true. Raises: AssertionError: it did not become true."""
    give_up_at = reactor.seconds() + WAIT_S
    while not is_true():
        if reactor.seconds() > give_up_at:
            raise AssertionError(f"not within {WAIT_S} s: {what() if callable(what) else what}")
        await deferLater(reactor, 0.005)


class LiveCase(TestCase):
    """A test whose manager runs on the real reactor. `is_secured`: ESMTP with STARTTLS and AUTH, or plain SMTP."""

    is_secured: ClassVar[bool]
    timeout = 2 * WAIT_S
    directory: Path

    @pytest.fixture(autouse=True)
    def _make_directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path / "queue"
        self.directory.mkdir()

    def setUp(self) -> None:
        """Start DNS and two hosts; the manager is set up by `relay`."""
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.names = stack.enter_context(serving_names(Zone(RECORDS)))
        first, second = listening(HOST, SENDERS)
        self.stack = stack
        self.host = stack.enter_context(host_of(first, self.is_secured))
        self.senders_host = stack.enter_context(host_of(second, self.is_secured))
        self.queue = Queue(str(self.directory))
        self.queue.noisy = False
        self._resolve_here()

    def _resolve_here(self) -> None:
        addresses = HostAddresses(resolver_of(self.terms()))
        whole = reactor.nameResolver
        simple = reactor.installResolver(addresses)
        self.addCleanup(reactor.installNameResolver, whole)
        self.addCleanup(reactor.installResolver, simple)

    def terms(self, **terms: Any) -> Terms:
        """Give the terms for the hosts of this test."""
        return terms_of(self.directory, self.names.at, self.host.port, self.is_secured, **terms)

    def manager(self, **terms: Any) -> Any:
        """Set a manager up."""
        return manager_of(self.terms(**terms), self.queue)

    def put(self, recipient: str, content: bytes | None = None, sender: str = "alice@example.org") -> None:
        """Queue a message."""
        put(self.queue, sender, recipient, short(recipient) if content is None else content)

    async def attempt(self, manager: Any) -> None:
        """Have the manager look once, and wait until the connections it begins are gone."""
        going = manager.checkState()
        self.assertIsNotNone(going)
        await going.addTimeout(WAIT_S, reactor)

    async def relay(self, manager: Any) -> None:
        """Have the manager look again and again, each time when its connections are gone, until nothing is due."""
        while (going := manager.checkState()) is not None:
            await going.addTimeout(WAIT_S, reactor)

    async def relay_all(self, manager: Any) -> None:
        """Have the manager relay by its own timer until the queue is empty, and all connections are gone."""
        helper = RelayStateHelper(manager, CHECK_S)
        helper.startService()
        try:
            await until(lambda: not list(self.directory.iterdir()), self.told)
        finally:
            await helper.stopService()
            await until(lambda: not manager.managed and self.host.is_quiet(), self.told)

    def told(self) -> str:
        """Say where things stand."""
        files = sorted(each.name for each in self.directory.iterdir())
        return f"{len(files)} files {files[:6]}; host: {self.host}; senders' host: {self.senders_host}"

    def assert_arrived_once(self, *recipients: str) -> None:
        """Each of them has one message, and nobody else has any; nobody was told of trouble."""
        self.assertEqual(self.host.counted(), dict.fromkeys(recipients, 1))
        self.assertEqual(self.senders_host.arrived, [])
        self.assertEqual(list(self.directory.iterdir()), [])
