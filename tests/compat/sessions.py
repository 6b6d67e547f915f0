# SPDX-License-Identifier: MIT
"""What the tests of the SMTP clients share: a wire without a network, clients, attempt managers, and message files.

`Wire` behaves as Twisted's TCP transport does where it matters here: content is asked for once at once, then whenever
the peer has read it, and nothing goes out after an abort. `Session` holds one client, its wire and its clock.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.mail import smtp
from twisted.python import log
from twisted.python.failure import Failure

from smarthost.compat.client import StrictClient, StrictEsmtpClient

GREETING = (b"220 mx ESMTP", b"250 mx")
ACCEPTED = (b"250 sender ok", b"250 recipient ok", b"354 go on")


class Wire(StringTransport):
    """The wire to a peer that reads when `pump` says so."""

    tls: Any = None
    is_closing = False

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        producer.resumeProducing()

    def write(self, data: bytes) -> None:
        if not self.disconnected:
            super().write(data)

    def startTLS(self, context: Any) -> None:
        if isinstance(context, Exception):
            raise context
        self.tls = context

    # Neither sets `disconnecting`, which a LineReceiver asks: TCP does when it closes, but not when it aborts; under
    # STARTTLS not before TLS has said farewell.

    def loseConnection(self) -> None:
        self.is_closing = True

    def abortConnection(self) -> None:
        self.disconnected = True

    def pump(self) -> None:
        """Let the peer read all that is sent."""
        while self.producer is not None and not self.disconnected:
            self.producer.resumeProducing()


class Session:
    """One client on its wire; `hear` tells it lines, and gives what it says to them."""

    def __init__(self, client: Any, *, is_tls: bool = False) -> None:
        self.clock = Clock()
        self.wire = Wire()
        self.client = client
        client.callLater = self.clock.callLater
        client.makeConnection(self.wire)
        if is_tls:
            client._tlsMode = True

    def hear(self, *lines: bytes) -> bytes:
        """Tell the client these lines, one packet each."""
        for line in lines:
            self.receive(line + b"\r\n")
        return self.said()

    def receive(self, octets: bytes) -> None:
        """Give the client octets as a reactor does: none after the connection was closed."""
        if not self.is_closed:
            self.client.dataReceived(octets)

    def said(self) -> bytes:
        """Give what the client has said since the last time."""
        octets: bytes = self.wire.value()
        self.wire.clear()
        return octets

    def pump(self) -> bytes:
        """Let the peer read the content; gives it."""
        self.wire.pump()
        return self.said()

    def deliver(self, final: bytes = b"250 queued", reset: bytes = b"250 reset") -> bytes:
        """Have the present message accepted, whose MAIL was said already; gives its content on the wire."""
        self.hear(*ACCEPTED[:-1])
        self.receive(ACCEPTED[-1] + b"\r\n")
        content = self.pump()
        self.hear(final)
        self.receive(reset + b"\r\n")
        return content

    def lose(self, reason: Exception | None = None) -> None:
        """Lose the connection; no deadline may be left behind."""
        if self.wire.producer is not None:
            self.wire.producer.stopProducing()
        self.wire.disconnected = True
        self.client.connectionLost(Failure(reason or ConnectionDone()))
        assert self.clock.getDelayedCalls() == []

    @property
    def is_aborted(self) -> bool:
        return bool(self.wire.disconnected)

    @property
    def is_closed(self) -> bool:
        return bool(self.wire.disconnected or self.wire.is_closing)


class Letters:
    """Gives a client the letters of a list, and keeps what it was told."""

    letters: list[tuple[Any, list[Any], bytes]]
    sent: list[tuple[int, bytes, int, list[Any]]]
    errors: list[Exception]

    def take(self, *letters: tuple[Any, list[Any], bytes]) -> Any:
        self.letters = list(letters)
        self.sent = []
        self.errors = []
        return self

    def getMailFrom(self) -> Any:
        return self.letters[0][0] if self.letters else None

    def getMailTo(self) -> list[Any]:
        return self.letters[0][1]

    def getMailData(self) -> Any:
        return BytesIO(self.letters[0][2])

    def sentMail(self, code: int, resp: bytes, numOk: int, addresses: list[Any], log: Any) -> None:
        del self.letters[0]
        self.sent.append((code, resp, numOk, list(addresses)))

    def sendError(self, exc: Exception) -> None:
        self.errors.append(exc)
        super().sendError(exc)  # type: ignore[misc]


class Poster(Letters, StrictClient):
    """An SMTP client with letters."""


class EsmtpPoster(Letters, StrictEsmtpClient):
    """An ESMTP client with letters."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.registered = [smtp.CramMD5ClientAuthenticator, smtp.LOGINAuthenticator, smtp.PLAINAuthenticator]
        for authenticator in self.registered:
            self.registerAuthenticator(authenticator(b"alice"))


class Ears:
    """An attempt manager as a program of old has it: it knows these three words and no other."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def notifySuccess(self, relay: Any, message: Any) -> None:
        self.told.append(("success", message))

    def notifyFailure(self, relay: Any, message: Any) -> None:
        self.told.append(("failure", message))

    def notifyDone(self, relay: Any) -> None:
        self.told.append(("done",))


class AllEars(Ears):
    """An attempt manager that hears everything. `verdicts`: message -> the verdicts about it."""

    exchange = "mx.example.org"

    def __init__(self) -> None:
        super().__init__()
        self.verdicts: dict[Any, list[Any]] = {}

    def notifyNoConnection(self, relay: Any) -> None:
        self.told.append(("no connection",))

    def notifyGreeted(self, relay: Any, hostname: str) -> None:
        self.told.append(("greeted", hostname))

    def notifyVerdict(self, relay: Any, message: Any, verdict: Any) -> None:
        self.told.append(("verdict", message))
        self.verdicts.setdefault(message, []).append(verdict)


def write_message(path: Path, sender: Any, recipient: Any, content: bytes = b"Subject: hi\n\nhello\n") -> str:
    """Write the two files of a message and give their path without suffix."""
    Path(f"{path}-H").write_bytes(pickle.dumps([sender, recipient]))
    Path(f"{path}-D").write_bytes(content)
    return str(path)


def open_files(directory: Path) -> list[str]:
    """List the files below a directory that this process holds open."""
    held = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = descriptor.readlink()
        except OSError:
            continue
        if target.is_relative_to(directory):
            held.append(target.name)
    return sorted(held)


@contextmanager
def watch_log() -> Iterator[list[str]]:
    """Collect the lines of Twisted's log; an error in it, as trial would find it, fails the test."""
    lines: list[str] = []
    errors: list[Any] = []

    def observe(event: Any) -> None:
        (errors if event["isError"] else lines).append(log.textFromEventDict(event) or "")

    log.addObserver(observe)
    try:
        yield lines
    finally:
        log.removeObserver(observe)
    assert errors == []
