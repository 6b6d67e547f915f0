# SPDX-License-Identifier: MIT
"""What any server's conversation is made of, before there are commands: state, input, output, and patience.

It keeps the replies in order, counts errors and junk, and ends the session when there are too many. It knows no command
and reads no line: smtp.server builds on it, and nothing else does.
"""

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import Reply
from smarthost.smtp import states
from smarthost.smtp.chunks import ChunkReader
from smarthost.smtp.grammar import BARE_NEWLINE, NOT_ASCII, find_forbidden
from smarthost.smtp.limits import COMMAND_LINE_OCTETS, JUNK_COMMANDS
from smarthost.smtp.lines import ContentReader, Fault, InputBuffer
from smarthost.smtp.offer import NOTHING, Offer, ServerSettings
from smarthost.smtp.states import CHUNK, CLOSED, CONNECTED, CONTENT, GREETED, MOVES, READY, Row, State
from smarthost.smtp.wire import HangUp, ServerEvent


class Conversation:
    """One session's state, input and output."""

    # fmt: off
    __slots__ = (
        "_content", "_due", "_input", "_is_authenticated", "_is_secured", "_junk", "_line_octets", "_moves", "_next",
        "_output", "_row", "_settings", "_state", "_was_refused", "errors", "offer",
    )
    # fmt: on

    def __init__(self, settings: ServerSettings, offer: Offer = NOTHING) -> None:
        self.offer = offer  # the driver may set it at any time; the next command is judged by it
        self._settings = settings
        self._moves = states.moves_of(is_lmtp=settings.is_lmtp, is_clear=settings.requires_tls)
        self._state = CONNECTED
        self._row: Row = MOVES[CONNECTED]  # empty while what comes in is no command
        self._input = InputBuffer()
        self._line_octets = COMMAND_LINE_OCTETS  # more is read of a command only where more was offered
        self._output: list[bytes] = []
        self._due: State | None = None  # where a positive answer to the pending event leads; None: nothing is pending
        self._next: ServerEvent | None = None  # follows the event just given, before anything else is read
        self._content: ContentReader | ChunkReader | None = None
        self._was_refused = False  # MAIL, a RCPT or a chunk: what was pipelined behind it is no error of its own
        self._is_secured = False
        self._is_authenticated = False
        self.errors = 0  # 5xx since the last message was accepted; consequences of a refusal are not counted
        self._junk = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._state.name}{' waiting' if self.is_waiting else ''}>"

    @property
    def is_waiting(self) -> bool:
        """Is a reply due to the event last given?"""
        return self._due is not None and self._next is None

    @property
    def is_closed(self) -> bool:
        """Is the session over, but for the output and a last event?"""
        return self._state is CLOSED

    @property
    def in_transaction(self) -> bool:
        """Is there an accepted MAIL whose message is neither answered nor reset?"""
        return READY < self._state < CLOSED

    @property
    def is_receiving_content(self) -> bool:
        return self._state is CONTENT or self._state is CHUNK

    @property
    def is_authenticated(self) -> bool:
        """Was AUTH answered with 235, since the session began or began anew?"""
        return self._is_authenticated

    @property
    def buffered(self) -> int:
        """How many octets of input wait here, content included."""
        return len(self._input) + (0 if self._content is None else self._content.held)

    def greet(self, reply: Reply) -> None:
        """Queue the banner; if it is not positive, the session is over."""
        if self._state is not CONNECTED:
            raise LocalProtocolError("a session has one banner")
        self._output.append(reply.encode())
        if reply.is_positive:
            self._enter(GREETED)
        else:
            self._close()

    def receive(self, chunk: bytes) -> None:
        """Take octets from the client; they are looked at in `next_event`."""
        if self._state is not CLOSED:
            self._input.append(chunk)

    def take_output(self) -> bytes:
        """Give everything to be written since the last call, b"" if there is nothing."""
        output = self._output
        if not output:
            return b""
        octets = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return octets

    def reply_unasked(self, reply: Reply) -> None:
        """Queue a reply that answers nothing (421 at a timeout or shutdown); the session is over, without a HangUp."""
        self._output.append(reply.encode())
        self._close()

    def _enter(self, state: State) -> None:
        self._state = state
        self._row = self._moves[state]

    def _close(self) -> None:
        self._enter(CLOSED)
        self._due = None
        self._next = None
        self._content = None
        self._input.clear()

    def _hang_up(self, last: Reply, why: str) -> HangUp:
        self._output.append(last.encode())
        self._close()
        return HangUp(why)

    def _stumble(self, fault: Fault) -> HangUp | None:
        match fault:
            case Fault.BARE_LF:
                return self._refuse(BARE_NEWLINE)
            case Fault.OVERLONG:
                return self._refuse(states.OVERLONG)
            case Fault.ENDLESS:
                return self._hang_up(states.NOT_SMTP, "a line without end")
            case Fault.TLS:
                return self._hang_up(states.NOT_SMTP, "TLS handshake on a port that starts in clear text")

    def _answer_junk(self, argument: bytes, answer: bytes) -> HangUp | None:
        refusal = find_forbidden(argument.rstrip(b" \t")) or (None if argument.isascii() else NOT_ASCII)
        if refusal is not None:
            return self._refuse(refusal)
        self._output.append(answer)
        return self._count_junk()

    def _refuse(self, refusal: Reply) -> HangUp | None:
        """Say no by ourselves; a 5xx is an error of the client's."""
        self._output.append(refusal.encode())
        return self._count_error() if refusal.is_permanent else None

    def _count_error(self) -> HangUp | None:
        self.errors += 1
        if self.errors < self._settings.max_errors:
            return None
        return self._hang_up(states.TOO_MANY_ERRORS, f"{self.errors} errors")

    def _count_junk(self) -> HangUp | None:
        self._junk += 1
        if self._junk <= JUNK_COMMANDS:
            return None
        return self._hang_up(states.TOO_MUCH_JUNK, f"{self._junk} commands without a message")
