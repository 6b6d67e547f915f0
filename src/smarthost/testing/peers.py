# SPDX-License-Identifier: MIT
"""The far side of a test: ScriptedPeer follows a script, ScriptedExchanger speaks enough SMTP to take mail.

Both give an `accept` for any Listener, of a MemoryNetwork or of TCP, and remember each octet. Neither uses smarthost's
own SMTP code, so that a bug there is not agreed with here. Simple and obvious before complete: no TLS, no CHUNKING.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from msgspec import Struct

from smarthost.mail.hop import TlsFacts
from smarthost.ports import Connection

Answer = str | Mapping[str, str] | Callable[[str], str]  # a text, one for each argument, or a rule from the argument


class Act(Enum):
    """What a ScriptedPeer can do instead of answering."""

    CLOSE = "close"
    ABORT = "abort"


class ScriptedPeer:
    """Plays a script on each connection: for each step waits for exactly `expect`, then writes `answer` or acts.

    `expect` b"" waits for nothing: a greeting is `(b"", b"220 ...")`. When other octets come, the session says so in
    `surprise` and hangs up. After the last step it only listens.
    """

    def __init__(self, steps: Sequence[tuple[bytes, bytes | Act]]) -> None:
        self.steps = tuple(steps)
        self.sessions: list[ScriptedSession] = []

    def accept(self, connection: Connection) -> "ScriptedSession":
        session = ScriptedSession(self.steps, connection)
        self.sessions.append(session)
        session.play()
        return session


class PeerSession:
    """What both kinds of session remember: every octet in order, and how it ended."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.octets = bytearray()
        self.lost_why: list[Exception | None] = []  # empty while the connection lives

    def writable(self) -> None: ...
    def secured(self, facts: TlsFacts) -> None: ...

    def ended(self) -> bool:
        return False

    def lost(self, why: Exception | None) -> None:
        self.lost_why.append(why)


class ScriptedSession(PeerSession):
    """One run of a script."""

    def __init__(self, steps: Sequence[tuple[bytes, bytes | Act]], connection: Connection) -> None:
        super().__init__(connection)
        self.left = list(steps)
        self.surprise = b""
        self._unread = bytearray()

    def received(self, chunk: bytes) -> None:
        self.octets += chunk
        self._unread += chunk
        self.play()

    def play(self) -> None:
        """Go as far in the script as what came in allows."""
        while self.left and self._unread.startswith(self.left[0][0]):
            expect, answer = self.left.pop(0)
            del self._unread[: len(expect)]
            match answer:
                case Act.CLOSE:
                    self.connection.close()
                case Act.ABORT:
                    self.connection.abort()
                case octets if octets:
                    self.connection.write([octets])
        if self.left and not self.left[0][0].startswith(self._unread):
            self.surprise = bytes(self._unread)
            self.left.clear()
            self.connection.abort()


class TakenMessage(Struct, frozen=True):
    """A message as an exchanger took it: content with dots unstuffed, without the final dot's line."""

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes


class ScriptedExchanger:
    """A mail exchanger that takes all mail, unless a knob says otherwise.

    Steps, for `replies`, `silent_at` and `close_at`: banner, ehlo, helo, mail, rcpt, data, dot (after the content),
    rset, noop, quit. `replies` gives for a step the text ("550 5.1.1 unknown"; several lines end in "\\n"), a mapping
    or a function from its argument (the address for mail and rcpt, the name for ehlo); "" is the usual answer.
    `greylist_first`: 450 the first time a recipient is named. At `silent_at` it answers nothing more, at `close_at` it
    hangs up instead.
    """

    def __init__(
        self,
        *,
        name: str = "mx.example",
        extensions: Sequence[str] = ("PIPELINING", "SIZE 52428800", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8"),
        replies: Mapping[str, Answer] | None = None,
        greylist_first: bool = False,
        silent_at: str = "",
        close_at: str = "",
    ) -> None:
        self.name = name
        self.extensions = tuple(extensions)
        self.replies = dict(replies or {})
        self.greylist_first = greylist_first
        self.silent_at = silent_at
        self.close_at = close_at
        self.greylisted: set[str] = set()
        self.messages: list[TakenMessage] = []
        self.sessions: list[ExchangerSession] = []

    def accept(self, connection: Connection) -> "ExchangerSession":
        session = ExchangerSession(self, connection)
        self.sessions.append(session)
        session.answer("banner", "")
        session.flush()
        return session

    def choose_reply(self, step: str, argument: str) -> str:
        """Give the text to answer at a step."""
        if step == "rcpt" and self.greylist_first and argument not in self.greylisted:
            self.greylisted.add(argument)
            return "450 4.7.1 greylisted, come again"
        answer = self.replies.get(step, "")
        if callable(answer):
            answer = answer(argument)
        elif isinstance(answer, Mapping):
            answer = answer.get(argument, "")
        return answer or self._agree(step)

    def take(self, session: "ExchangerSession", message: TakenMessage) -> None:
        """Keep a message whose responsibility was taken in this session: its reply waits to be written."""
        self.messages.append(message)

    def _agree(self, step: str) -> str:
        match step:
            case "banner":
                return f"220 {self.name} ESMTP"
            case "ehlo":
                return _fold(250, (self.name, *self.extensions))
            case "helo":
                return f"250 {self.name}"
            case "data":
                return "354 go ahead"
            case "quit":
                return "221 2.0.0 bye"
            case "mail" | "rcpt" | "dot" | "rset" | "noop":
                return "250 2.0.0 ok"
            case _:
                return "502 5.5.1 not here"


class ExchangerSession(PeerSession):
    """One connection to a ScriptedExchanger; `commands` are its command lines without CRLF.

    `message`: the last one that came in whole, taken or not; it is there when the step "dot" is answered.
    """

    def __init__(self, exchanger: ScriptedExchanger, connection: Connection) -> None:
        super().__init__(connection)
        self.commands: list[bytes] = []
        self.message: TakenMessage | None = None
        self._exchanger = exchanger
        self._unread = bytearray()
        self._replies: list[bytes] = []
        self._in_content = False
        self._deaf = False
        self._reverse_path = ""
        self._recipients: list[str] = []

    def received(self, chunk: bytes) -> None:
        self.octets += chunk
        self._unread += chunk
        while not self._deaf and (self._take_content() if self._in_content else self._take_command()):
            pass
        self.flush()

    def answer(self, step: str, argument: str) -> bool:
        """Reply at a step, or fall silent, or hang up; True if the reply is positive."""
        exchanger = self._exchanger
        if step in (exchanger.silent_at, exchanger.close_at):
            self._deaf = True
            if step == exchanger.close_at:
                self.flush()
                self.connection.close()
            return False
        text = exchanger.choose_reply(step, argument)
        self._replies.append(text.replace("\n", "\r\n").encode() + b"\r\n")
        return text[0] in "23"

    def flush(self) -> None:
        """Write the replies that wait, in one write: a pipelined group gets its replies together."""
        if self._replies:
            self.connection.write(self._replies)
            self._replies = []

    def _take_command(self) -> bool:
        line, end, _ = self._unread.partition(b"\r\n")
        if not end:
            return False
        del self._unread[: len(line) + 2]
        self.commands.append(bytes(line))
        verb, _, rest = line.decode("utf-8", "replace").partition(" ")
        self._obey(verb.lower(), rest)
        return True

    def _obey(self, step: str, rest: str) -> None:
        argument = rest.partition("<")[2].partition(">")[0] if step in ("mail", "rcpt") else rest
        agreed = self.answer(step, argument)
        match step:
            case "ehlo" | "helo" | "rset":
                self._forget()
            case "mail" if agreed:
                self._forget()
                self._reverse_path = argument
            case "rcpt" if agreed:
                self._recipients.append(argument)
            case "data" if agreed:
                self._in_content = True
            case "quit" if not self._deaf:
                self._deaf = True
                self.flush()
                self.connection.close()

    def _take_content(self) -> bool:
        if self._unread.startswith(b".\r\n"):
            stuffed, after = b"", 3
        else:
            dot = self._unread.find(b"\r\n.\r\n")
            if dot < 0:
                return False
            stuffed, after = bytes(self._unread[: dot + 2]), dot + 5
        del self._unread[:after]
        self._in_content = False
        content = (b"\r\n" + stuffed).replace(b"\r\n..", b"\r\n.")[2:]
        self.message = message = TakenMessage(self._reverse_path, tuple(self._recipients), content)
        if self.answer("dot", self._reverse_path):
            self._exchanger.take(self, message)
        self._forget()
        return True

    def _forget(self) -> None:
        self._reverse_path = ""
        self._recipients = []


def _fold(code: int, lines: Sequence[str]) -> str:
    return "\n".join([f"{code}-{line}" for line in lines[:-1]] + [f"{code} {lines[-1]}"])
