# SPDX-License-Identifier: MIT
"""Desk: a reception with everything around it in the hands of the test; and what stands for wires, drafts and users."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smarthost.accept.clients import ClientTerms
from smarthost.accept.listeners import ListenerTerms, Mode, ReceptionTerms
from smarthost.accept.policy import RelayPolicy
from smarthost.accept.reception import Reception
from smarthost.accept.receptions import Receptions
from smarthost.mail.errors import StoreError
from smarthost.mail.hop import TlsFacts
from smarthost.mail.identity import IdSource
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.mail.user import User
from smarthost.ports import TlsService
from smarthost.smtp.limits import Limits
from smarthost.smtp.offer import ServerSettings
from smarthost.testing.clock import FakeClock

ENVELOPE = b"EHLO client.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
TLS = TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", False)
STRANGER = "203.0.113.7"
ALICE = User("alice", ("alice@example.org", "@lists.example.org"))


class Wire:
    """A Connection as the client's side sees it."""

    def __init__(self, client: str = "127.0.0.1", local: str = "127.0.0.1") -> None:
        self.peer = (client, 40000)
        self.local = (local, 25)
        self.written: list[bytes] = []
        self.is_closed = self.is_paused = False
        self.takes = True
        self.upgraded_with: object = None

    def attach(self, receiver: object) -> None: ...

    def write(self, buffers: Sequence[bytes]) -> bool:
        self.written.append(b"".join(buffers))
        return self.takes

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def upgrade(self, tls: object) -> None:
        assert not self.is_paused, "a handshake must be heard"
        self.upgraded_with = tls

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Certificate:
    """A TlsService."""

    can_serve = True


class Users:
    """An Authenticator that knows alice, and answers at once unless told to wait."""

    def __init__(self, *users: User) -> None:
        self.users = {user.name: user for user in users or (ALICE,)}
        self.asked: list[str] = []
        self.waiting: list[Callable[[], None]] = []
        self.waits = False
        self.failure: StoreError | None = None
        self.certificates: dict[str, User] = {}

    def check(self, username: str, password: str, answered: Callable[[User | None], None]) -> None:
        self.asked.append(username)
        if self.failure is not None:
            raise self.failure
        user = self.users.get(username) if password == "secret" else None
        if self.waits:
            self.waiting.append(lambda: answered(user))
        else:
            answered(user)

    def find_user(self, name: str) -> User | None:
        return self.users.get(name)

    def find_certificate(self, fingerprint: str) -> User | None:
        return self.certificates.get(fingerprint)


class Shelf:
    """A Draft that remembers."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.is_discarded = False
        self.failure: StoreError | None = None

    def write(self, octets: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.body += octets

    def finish(self) -> "Shelf":
        return self

    def discard(self) -> None:
        self.is_discarded = True

    @property
    def octets(self) -> int:
        return len(self.body)

    def chunks(self) -> Iterator[bytes]:
        yield bytes(self.body)


class Desk:
    """It commits when the test says so. `terms` are those of the listener."""

    def __init__(
        self,
        *,
        client: str = "127.0.0.1",
        local: str = "127.0.0.1",
        limits: Limits | None = None,
        postmaster: str | None = None,
        relay_from: tuple[str, ...] = ("127.0.0.0/8",),
        normalises_newlines: bool = False,
        clients: ClientTerms | None = None,
        sign: Callable[[Message, Callable[[Message], None]], None] | None = None,
        mode: Mode = Mode.RELAY,
        tls: TlsService | None = None,
        **terms: Any,
    ) -> None:
        self.clock = FakeClock()
        self.adding: list[tuple[Message, Callable[[Exception | None], None]]] = []
        self.refusal: Exception | None = None
        self.shelves: list[Shelf] = []
        self.notes: list[str] = []
        self.facts: list[dict[str, object]] = []
        self.records: list[Record] = []
        limits = limits or Limits()
        settings = ServerSettings(
            hostname="relay.example.org",
            max_octets=limits.message_octets,
            max_recipients=limits.recipients,
            max_errors=limits.errors,
            is_lmtp=mode is Mode.LMTP,
            normalises_newlines=normalises_newlines,
        )
        shared = ReceptionTerms(
            limits=limits,
            clock=self.clock,
            sink=self,
            next_id=IdSource(self.clock.wall, 1).next,
            add=lambda message, filed: self.adding.append((message, filed)),
            draft=self._draft,
            refusal=lambda: self.refusal,
            sign=sign,
            clients=clients or ClientTerms(),
        )
        policy = RelayPolicy(relay_from, postmaster)
        self.receptions = Receptions(shared)
        self._open_door = self.receptions.door(
            ListenerTerms(settings=settings, policy=policy, mode=mode, tls=tls, **terms)
        )
        self.client, self.local = client, local
        self.connect(client)

    def accept(self, wire: Wire) -> Reception | None:
        """Let a client connect beside the first one."""
        return self._open_door(wire)

    def connect(self, client: str = "") -> bytes:
        """Let a client connect and speak to it from now on; give what it hears first."""
        self.wire = Wire(client or self.client, self.local)
        reception = self.accept(self.wire)
        if reception is not None:
            self.reception = reception
        return b"".join(self.wire.written)

    def shake(self, facts: TlsFacts = TLS) -> bytes:
        """Let the handshake succeed and give what the client hears inside TLS."""
        before = len(self.wire.written)
        self.reception.secured(facts)
        return b"".join(self.wire.written[before:])

    def wait(self, seconds: float) -> bytes:
        """Let time pass and give what the client hears."""
        before = len(self.wire.written)
        self.clock.advance(seconds)
        return b"".join(self.wire.written[before:])

    def record(self, record: Record) -> None:
        self.records.append(record)

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append(what)
        self.facts.append(facts)

    def _draft(self) -> Shelf:
        self.shelves.append(Shelf())
        return self.shelves[-1]

    def say(self, octets: bytes) -> bytes:
        """Send octets as the client and give what comes back."""
        before = len(self.wire.written)
        self.reception.received(octets)
        return b"".join(self.wire.written[before:])

    def commit(self, failure: Exception | None = None) -> bytes:
        """Let the oldest add end and give what the client hears."""
        before = len(self.wire.written)
        _, filed = self.adding.pop(0)
        filed(failure)
        return b"".join(self.wire.written[before:])
