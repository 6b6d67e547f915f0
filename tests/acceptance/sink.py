# SPDX-License-Identifier: MIT
"""A raw host behind the daemon: records every octet, offers what it is told to, and answers by script.

It ends content at CRLF.CRLF only, or by BDAT's count; what a laxer host would have made of it
is for the tests to look for in what it recorded.
"""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Self

DEADLINE_S = 30.0
COMMON = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 104857600")
CHUNKING = (*COMMON, "CHUNKING", "BINARYMIME")
ANSWERS = {b"MAIL": b"250 2.1.0 ok\r\n", b"RCPT": b"250 2.1.5 ok\r\n", b"DATA": b"354 go on\r\n"}


class Message:
    """What one transaction brought: its commands, its content without stuffed dots, the octets as they came."""

    def __init__(self) -> None:
        self.mail = b""
        self.recipients: list[bytes] = []
        self.content = b""
        self.wire = b""
        self.is_chunked = False
        self.is_secured = False


class Session:
    """One connection: every octet in clear and inside TLS, and every command."""

    def __init__(self) -> None:
        self.in_clear = b""
        self.secured = b""
        self.commands: list[bytes] = []
        self.is_over = False


class Sink:
    """A host on a port of 127.0.0.1. `script`: raw octets instead of the usual reply to a verb, `CONNECT` or `.`."""

    def __init__(
        self,
        extensions: Sequence[str] = COMMON,
        *,
        script: Mapping[bytes, bytes] | None = None,
        tls: ssl.SSLContext | None = None,
        tls_script: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.extensions = list(extensions)
        self.script = dict(script or {})
        self.tls = tls
        self.tls_script = dict(tls_script or {})
        self.sessions: list[Session] = []
        self.messages: list[Message] = []
        self._news = threading.Condition()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            sock.settimeout(DEADLINE_S)
            session = Session()
            self.sessions.append(session)
            threading.Thread(target=self._guard, args=(sock, session), daemon=True).start()

    def _guard(self, sock: socket.socket, session: Session) -> None:
        talk = _Talk(self, sock, session)
        try:
            talk.hold()
        except (OSError, EOFError):
            pass
        finally:
            talk.sock.close()
            with self._news:
                session.is_over = True
                self._news.notify_all()

    def take(self, message: Message) -> None:
        with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def wait(self, find: Callable[[], object], what: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: bool(find()), DEADLINE_S), f"the sink waits for {what} in vain"

    def message(self, recipient: bytes) -> Message:
        """Wait for the message whose recipient's path has these octets."""

        def found() -> list[Message]:
            return [each for each in self.messages if any(recipient in path for path in each.recipients)]

        self.wait(found, f"mail for {recipient!r}")
        return found()[0]

    @property
    def commands(self) -> list[bytes]:
        """All commands of all sessions."""
        return [command for session in self.sessions for command in session.commands]


class _Talk:
    def __init__(self, sink: Sink, sock: socket.socket, session: Session) -> None:
        self.sink, self.sock, self.session = sink, sock, session
        self.unread = b""
        self.is_secured = False
        self.message = Message()

    def receive(self) -> None:
        octets = self.sock.recv(65536)
        if not octets:
            raise EOFError
        if self.is_secured:
            self.session.secured += octets
        else:
            self.session.in_clear += octets
        self.unread += octets

    def until(self, end: bytes) -> bytes:
        while end not in self.unread:
            self.receive()
        taken, _, self.unread = self.unread.partition(end)
        return taken + end

    def scripted(self, verb: bytes) -> bytes | None:
        if self.is_secured and verb in self.sink.tls_script:
            return self.sink.tls_script[verb]
        return self.sink.script.get(verb)

    def hold(self) -> None:
        self.sock.sendall(self.scripted(b"CONNECT") or b"220 sink.example.net ESMTP\r\n")
        while True:
            command = self.until(b"\n")
            self.session.commands.append(command)
            verb = command[:4].upper().strip()
            if verb == b"STAR":
                self.start_tls()
            elif verb == b"BDAT":
                self.take_chunk(command)
            else:
                self.answer(verb, command)
                if verb == b"QUIT":
                    return

    def answer(self, verb: bytes, command: bytes) -> None:
        if verb in (b"MAIL", b"RSET", b"EHLO"):
            self.message = Message()
        reply = self.scripted(verb)
        if reply is None and verb in (b"EHLO", b"LHLO"):
            words = [word for word in self.sink.extensions if not (self.is_secured and word == "STARTTLS")]
            texts = ["sink.example.net", *words]
            reply = b"".join(
                b"250%b%b\r\n" % (b"- "[i == len(texts) - 1 :][:1], t.encode()) for i, t in enumerate(texts)
            )
        elif reply is None:
            reply = ANSWERS.get(verb, b"221 2.0.0 bye\r\n" if verb == b"QUIT" else b"250 2.0.0 ok\r\n")
        if verb == b"MAIL":
            self.message.mail = command
        elif verb == b"RCPT" and reply[:1] == b"2":
            self.message.recipients.append(command)
        self.sock.sendall(reply)
        if verb == b"DATA" and reply[:1] == b"3":
            self.take_content()

    def take_content(self) -> None:
        self.unread = b"\r\n" + self.unread
        wire = self.until(b"\r\n.\r\n")[2:-3]
        self.message.wire = wire
        self.message.content = re.sub(rb"(?m)(\A|\r\n)\.", rb"\1", wire)
        self.end()

    def take_chunk(self, command: bytes) -> None:
        words = command.split()
        size = int(words[1])
        while len(self.unread) < size:
            self.receive()
        self.message.content += self.unread[:size]
        self.message.wire += self.unread[:size]
        self.unread = self.unread[size:]
        self.message.is_chunked = True
        if words[-1].upper() == b"LAST":
            self.end()
        else:
            self.sock.sendall(b"250 2.0.0 chunk\r\n")

    def end(self) -> None:
        reply = self.scripted(b".") or b"250 2.0.0 taken\r\n"
        self.message.is_secured = self.is_secured
        if reply[:1] == b"2" and self.message.recipients:
            self.sink.take(self.message)
        self.message = Message()
        self.sock.sendall(reply)

    def start_tls(self) -> None:
        self.sock.sendall(self.scripted(b"STARTTLS") or b"220 2.0.0 go on\r\n")
        if self.sink.tls is not None:
            self.sock = self.sink.tls.wrap_socket(self.sock, server_side=True)
            self.is_secured = True
            self.unread = b""
