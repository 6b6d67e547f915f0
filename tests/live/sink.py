# SPDX-License-Identifier: MIT
"""The far side of a test: a small SMTP server on threads that keeps each octet it is sent.

Shares no code with smarthost. `answers` make it answer a verb otherwise; a Peculiar is no SMTP server at all.
"""

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import BufferedReader
from types import TracebackType
from typing import NamedTuple, Self

from tests.live.rig import WAIT_S

EXTENSIONS = (b"PIPELINING", b"SIZE 104857600", b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES")
_ROUNDS = 20  # ports tried until one is free on all addresses


class Arrived(NamedTuple):
    """A message the sink said 250 to: the arguments of MAIL and RCPT, the content without stuffed dots, and where."""

    mail: bytes
    recipients: tuple[bytes, ...]
    content: bytes
    at: str

    @property
    def addresses(self) -> tuple[str, ...]:
        """Give the addresses of the recipients."""
        return tuple(each.split(b">")[0].partition(b"<")[2].decode() for each in self.recipients)


class Sink:
    """Listens on one port of each of `hosts`; `arrived` grows. Use as a context manager."""

    def __init__(
        self,
        hosts: Sequence[str] = ("127.0.0.1",),
        *,
        port: int = 0,
        answers: Mapping[bytes, Callable[[bytes], bytes | None]] | None = None,
        extensions: Sequence[bytes] = EXTENSIONS,
    ) -> None:
        self.arrived: list[Arrived] = []
        self.answers = dict(answers or {})  # verb -> rule from its argument to a reply line; None: the usual one
        self.extensions = tuple(extensions)
        self.sessions = 0
        self._news = threading.Condition()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listening = _listen(hosts, port)
        self.port: int = self._listening[0].getsockname()[1]

    def __enter__(self) -> Self:
        for listening in self._listening:
            self._start(self._accept, listening)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._listening:
            each.shutdown(socket.SHUT_RDWR)  # wakes accept
            each.close()
        with self._news:
            for connection in self._open:
                with suppress(OSError):  # it has just gone by itself
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)

    def _start(self, work: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=work, args=(argument,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # one write for each reply
            except OSError:
                return
            with self._news:
                self._open.add(connection)
                self.sessions += 1
                self._news.notify_all()
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as heard:
                try:
                    self.converse(connection, heard)
                finally:
                    with self._news:
                        self._open.discard(connection)
        except OSError:
            pass  # the other side is gone, and with it what was not answered

    def converse(self, connection: socket.socket, heard: BufferedReader) -> None:
        """Speak SMTP to one client until it goes."""
        at = connection.getsockname()[0]
        mail: bytes | None = None
        recipients: list[bytes] = []
        _say(connection, self._answer(b"BANNER", b"", b"220 sink.example.net ESMTP"))
        for line in heard:
            verb, _, argument = line.rstrip(b"\r\n").partition(b" ")
            verb = verb.upper()
            if verb == b"EHLO":
                lines = [b"sink.example.net", *self.extensions]
                usual = b"\r\n".join([b"250-" + each for each in lines[:-1]] + [b"250 " + lines[-1]])
                _say(connection, self._answer(verb, argument, usual))
            elif verb == b"MAIL":
                answer = self._answer(verb, argument, b"250 2.1.0 Ok")
                mail, recipients = argument if answer.startswith(b"250") else None, []
                _say(connection, answer)
            elif verb == b"RCPT":
                usual = b"503 5.5.1 MAIL first" if mail is None else b"250 2.1.5 Ok"
                answer = usual if mail is None else self._answer(verb, argument, usual)
                if answer.startswith(b"250"):
                    recipients.append(argument)
                _say(connection, answer)
            elif verb == b"DATA":
                answer = self._answer(verb, b"", b"354 Go on" if recipients else b"554 5.5.1 No valid recipients")
                _say(connection, answer)
                if answer.startswith(b"354"):
                    self._take(connection, Arrived(mail or b"", tuple(recipients), _read_content(heard), at))
            elif verb == b"QUIT":
                _say(connection, b"221 2.0.0 Bye")
                return
            else:
                _say(connection, self._answer(verb, argument, b"250 2.0.0 Ok"))

    def _take(self, connection: socket.socket, message: Arrived) -> None:
        answer = self._answer(b".", message.content, b"250 2.0.0 Taken")
        if answer.startswith(b"250"):
            with self._news:
                self.arrived.append(message)
                self._news.notify_all()
        _say(connection, answer)

    def _answer(self, verb: bytes, argument: bytes, usual: bytes) -> bytes:
        rule = self.answers.get(verb)
        answer = rule(argument) if rule is not None else None
        return usual if answer is None else answer

    def wait_for(self, n: int, timeout_s: float = WAIT_S) -> list[Arrived]:
        """Wait until `n` messages have arrived; give all. Raises: AssertionError: they have not."""
        self._wait(lambda: len(self.arrived) >= n, lambda: f"{len(self.arrived)} of {n} messages arrived", timeout_s)
        return list(self.arrived)

    def wait_for_recipient(self, address: str, timeout_s: float = WAIT_S) -> Arrived:
        """Wait for a message to this recipient. Raises: AssertionError: there is none, or there are two."""
        self._wait(lambda: self.messages_to(address), lambda: f"nothing for {address} arrived", timeout_s)
        (message,) = self.messages_to(address)
        return message

    def wait_for_sessions(self, n: int, timeout_s: float = WAIT_S) -> None:
        """Wait until somebody has connected `n` times."""
        self._wait(lambda: self.sessions >= n, lambda: f"{self.sessions} of {n} sessions", timeout_s)

    def _wait(self, is_true: Callable[[], object], missing: Callable[[], str], timeout_s: float) -> None:
        with self._news:
            if not self._news.wait_for(lambda: bool(is_true()), timeout_s):
                raise AssertionError(f"within {timeout_s} s: {missing()}")

    def messages_to(self, address: str) -> list[Arrived]:
        """Give what has arrived for this recipient."""
        return [message for message in list(self.arrived) if address in message.addresses]


class Peculiar(Sink):
    """A host that says `octets` to whoever connects, at once, and then hangs up or only listens."""

    def __init__(self, octets: bytes, *, hangs_up: bool) -> None:
        super().__init__()
        self._octets = octets
        self._hangs_up = hangs_up

    def converse(self, connection: socket.socket, heard: BufferedReader) -> None:
        connection.sendall(self._octets)
        while not self._hangs_up and connection.recv(65536):
            pass


def _say(connection: socket.socket, line: bytes) -> None:
    """Write a reply; an empty one hangs up instead."""
    if not line:
        raise ConnectionResetError
    connection.sendall(line + b"\r\n")


def _read_content(heard: BufferedReader) -> bytes:
    """Read up to the final dot. Only CRLF ends a line, so only a dot after one is stuffed or final."""
    lines: list[bytes] = []
    begins = True
    for line in heard:
        if begins and line == b".\r\n":
            return b"".join(lines)
        lines.append(line[1:] if begins and line.startswith(b".") else line)
        begins = line.endswith(b"\r\n")
    raise ConnectionResetError


def _listen(hosts: Sequence[str], port: int) -> list[socket.socket]:
    for last in (False,) * (_ROUNDS - 1) + (True,):
        listening: list[socket.socket] = []
        try:
            for host in hosts:
                bound = listening[0].getsockname()[1] if listening else port
                listening.append(socket.create_server((host, bound), backlog=512))
        except OSError:
            for each in listening:
                each.close()
            if last or port:
                raise
            continue
        return listening
    raise AssertionError("the last round returns or raises")


def free_port() -> int:
    """Give a loopback port on which nothing listens (nobody promises that it stays so)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
