# SPDX-License-Identifier: MIT
"""The ESMTP server as a sans-IO machine: octets in, wire events and reply octets out (RFC 5321, 2920, 2034).

It answers by itself what needs no policy: RSET, NOOP, VRFY, HELP, QUIT, and whatever is malformed, out of sequence or
unknown. All else it hands out as one event at a time and waits for the reply; pipelined input waits meanwhile, and all
replies of a group leave in one `take_output`. It never raises for what a client sends, keeps at most one piece of
content, and knows neither time nor connection: the driver (accept.reception) closes upon QuitReceived and HangUp.
smtp.states says what may come when, smtp.grammar reads arguments, smtp.lines cuts the octets.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

from msgspec import Struct

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import Reply, reply
from smarthost.smtp import states
from smarthost.smtp.grammar import (
    BARE_NEWLINE,
    NOT_ASCII,
    find_forbidden,
    parse_hello,
    parse_mail,
    parse_rcpt,
    refuse_argument,
)
from smarthost.smtp.limits import JUNK_COMMANDS
from smarthost.smtp.lines import ContentReader, Fault, InputBuffer
from smarthost.smtp.states import MOVES, Row, State
from smarthost.smtp.wire import (
    ContentEnded,
    ContentReceived,
    DataReceived,
    HangUp,
    HelloReceived,
    QuitReceived,
    ResetReceived,
    ServerEvent,
)


class ServerSettings(Struct, frozen=True):
    """What the machines of one listener share. `extensions` are further lines of the EHLO answer."""

    hostname: str
    max_octets: int
    max_recipients: int
    max_errors: int
    extensions: tuple[str, ...] = ()


_OK = reply(250, "2.0.0", "Ok").encode()
_GO_AHEAD = reply(354, "", "End data with <CR><LF>.<CR><LF>").encode()
_CANNOT_VRFY = reply(252, "2.5.2", "Cannot verify: send mail and see").encode()  # RFC 5321 7.3
_HELP = reply(214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT").encode()
_RESET = ResetReceived()
_DATA = DataReceived()


class SmtpServer:
    """One session with a client. Call `greet`, then `receive` and `next_event` until it gives None."""

    # fmt: off
    __slots__ = (
        "_content", "_due", "_errors", "_hello", "_input", "_is_smtputf8", "_junk",
        "_next", "_output", "_recipients", "_row", "_settings", "_state", "_was_refused",
    )
    # fmt: on

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._state = State.CONNECTED
        self._row: Row = MOVES[State.CONNECTED]
        self._input = InputBuffer()
        self._output: list[bytes] = []
        self._due: State | None = None  # where a positive answer to the pending event leads; None: nothing is pending
        self._next: ServerEvent | None = None  # follows the event just given, before anything else is read
        self._hello: HelloReceived | None = None
        self._content: ContentReader | None = None
        self._is_smtputf8 = False
        self._recipients = 0
        self._was_refused = False  # MAIL or a RCPT: what a pipelining client sent after it is no error of its own
        self._errors = 0
        self._junk = 0

    def __repr__(self) -> str:
        return f"<SmtpServer {self._state.name}{' waiting' if self.is_waiting else ''}>"

    @property
    def is_waiting(self) -> bool:
        """Is a reply due to the event last given?"""
        return self._due is not None and self._next is None

    @property
    def is_closed(self) -> bool:
        """Is the session over, but for the output and a last event?"""
        return self._state is State.CLOSED

    @property
    def in_transaction(self) -> bool:
        """Is there an accepted MAIL whose message is neither answered nor reset?"""
        return State.READY < self._state < State.CLOSED

    @property
    def is_receiving_content(self) -> bool:
        return self._state is State.CONTENT

    @property
    def errors(self) -> int:
        """How many 5xx were said since the last message was accepted; consequences of a refusal are not counted."""
        return self._errors

    @property
    def buffered(self) -> int:
        """How many octets of input wait here, content included."""
        return len(self._input) + (0 if self._content is None else self._content.held)

    def greet(self, reply: Reply) -> None:
        """Queue the banner; if it is not positive, the session is over."""
        if self._state is not State.CONNECTED:
            raise LocalProtocolError("a session has one banner")
        self._output.append(reply.encode())
        if reply.is_positive:
            self._enter(State.GREETED)
        else:
            self._close()

    def receive(self, chunk: bytes) -> None:
        """Take octets from the client; they are looked at in `next_event`."""
        if self._state is not State.CLOSED:
            self._input.append(chunk)

    def take_output(self) -> bytes:
        """Give everything to be written since the last call, b"" if there is nothing."""
        output = self._output
        if not output:
            return b""
        octets = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return octets

    def accept_hello(self) -> None:
        """Answer HelloReceived positively. Raises: LocalProtocolError: none is pending."""
        hello = self._hello
        if hello is None:
            raise LocalProtocolError("no EHLO or HELO waits for an answer")
        self.reply_encoded(_encode_hello(self._settings, hello.extended), True)

    def accept_data(self) -> None:
        """Answer DataReceived with 354. Raises: LocalProtocolError: none is pending."""
        if self._due is not State.CONTENT:
            raise LocalProtocolError("no DATA waits for an answer")
        self.reply_encoded(_GO_AHEAD, True)

    def reply(self, reply: Reply) -> None:
        """Answer the event last given; a 421 ends the session (HangUp follows).

        Raises: LocalProtocolError: no reply is due.
        """
        self.reply_encoded(reply.encode(), reply.is_positive)

    def reply_encoded(self, octets: bytes, positive: bool) -> None:
        """Answer as `reply` does, with octets encoded before. Raises: LocalProtocolError: no reply is due."""
        due = self._due
        if due is None or self._next is not None:
            raise LocalProtocolError("no reply is due")
        self._due = None
        self._output.append(octets)
        if not positive:
            self._refused(due, octets)
            return
        if due is State.RECIPIENTS:
            self._recipients += 1
        elif due is State.MAIL:
            self._recipients = 0
            self._was_refused = False
        elif due is State.CONTENT:
            self._content = ContentReader(self._settings.max_octets)
        elif self._state is State.ENDED:
            self._content = None
            self._errors = self._junk = 0
            self._was_refused = False
        else:
            self._hello = None
        self._state = due
        self._row = MOVES[due]

    def reply_unasked(self, reply: Reply) -> None:
        """Queue a reply that answers nothing (421 at a timeout or shutdown); the session is over, without a HangUp."""
        self._output.append(reply.encode())
        self._close()

    def next_event(self) -> ServerEvent | None:
        """Give the next event; None: more input is needed, or the reply to the last event is still due."""
        event = self._next
        if event is not None:
            self._next = None
            return event
        if self._due is not None:
            return None
        while row := self._row:
            line = self._input.take_line()
            if line is None:
                return None
            event = self._obey(line, row) if isinstance(line, bytes) else self._stumble(line)
            if event is not None:
                return event
        return self._read_content() if self._state is State.CONTENT else None

    def _obey(self, line: bytes, row: Row) -> ServerEvent | None:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        move = row.get(verb)
        if isinstance(move, State):
            return _COMMANDS[verb](self, argument, move)
        if move is None:
            return self._refuse_unknown(line, verb)
        return self._refuse_out_of_sequence(find_forbidden(line.rstrip(b" \t")) or move)

    def _refuse_unknown(self, line: bytes, verb: bytes) -> ServerEvent | None:
        trimmed = line.rstrip(b" \t")  # RFC 5321 4.1.1: SHOULD tolerate trailing white space
        if trimmed != line:
            return self._obey(trimmed, self._row)
        if line.startswith(b"\x16\x03"):
            return self._stumble(Fault.TLS)
        if verb in states.FOREIGN_VERBS:
            return self._hang_up(states.NOT_SMTP, "HTTP spoken to SMTP")
        return self._refuse(find_forbidden(line) or states.UNKNOWN)

    def _refuse_out_of_sequence(self, refusal: Reply) -> HangUp | None:
        if not self._was_refused or not (refusal is states.MAIL_FIRST or refusal is states.RCPT_FIRST):
            return self._refuse(refusal)
        # RFC 2920 3.1: a client that pipelines sends RCPT and DATA before it can know that MAIL or all RCPT failed.
        self._output.append((states.NO_VALID_RECIPIENT if refusal is states.RCPT_FIRST else refusal).encode())
        return self._count_junk()

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

    def _obey_hello(self, argument: bytes, move: State, extended: bool) -> ServerEvent | None:
        name = parse_hello(argument)
        if isinstance(name, Reply):
            return self._refuse(find_forbidden(argument) or name)
        if self._state is not State.GREETED and (hang_up := self._count_junk()) is not None:
            return hang_up
        self._hello = HelloReceived(extended, name)
        self._due = move
        self._was_refused = False
        if not self.in_transaction:
            return self._hello
        self._next = self._hello
        self._enter(State.READY)  # RFC 5321 4.1.4: EHLO within a transaction is a RSET as well
        return _RESET

    def _obey_mail(self, argument: bytes, move: State) -> ServerEvent | None:
        event = parse_mail(argument, self._settings.max_octets)
        if isinstance(event, Reply):
            self._was_refused = True
            return self._refuse(event)
        self._is_smtputf8 = event.smtputf8
        self._due = move
        return event

    def _obey_rcpt(self, argument: bytes, move: State) -> ServerEvent | None:
        if self._recipients >= self._settings.max_recipients:
            return self._refuse(states.TOO_MANY_RECIPIENTS)
        event = parse_rcpt(argument, self._is_smtputf8)
        if isinstance(event, Reply):
            self._was_refused = True
            return self._refuse(event)
        self._due = move
        return event

    def _obey_data(self, argument: bytes, move: State) -> ServerEvent | None:
        if refusal := refuse_argument(argument):
            return self._refuse(refusal)
        self._due = move
        return _DATA

    def _obey_rset(self, argument: bytes, move: State) -> ServerEvent | None:
        if refusal := refuse_argument(argument):
            return self._refuse(refusal)
        was_open = self.in_transaction
        self._enter(move)
        self._was_refused = False
        self._output.append(_OK)
        return self._count_junk() or (_RESET if was_open else None)

    def _obey_vrfy(self, argument: bytes, move: State) -> ServerEvent | None:
        return self._answer_junk(argument, _CANNOT_VRFY) if argument.strip(b" \t") else self._refuse(states.VRFY_SYNTAX)

    def _obey_quit(self, argument: bytes, move: State) -> ServerEvent | None:
        if refusal := refuse_argument(argument):
            return self._refuse(refusal)
        self._output.append(reply(221, "2.0.0", f"{self._settings.hostname} closes").encode())
        self._close()
        return QuitReceived()

    def _read_content(self) -> ServerEvent | None:
        content = self._content
        assert content is not None, "accept_data made a reader"
        octets, at = self._input.unread()
        end = content.read(octets, at)
        if end < 0:
            self._input.consume(len(octets))
            piece = content.take_piece()
            return ContentReceived(piece) if piece else None
        self._input.consume(end)
        piece = content.take_rest()
        self._enter(State.ENDED)
        self._due = State.READY
        ended = ContentEnded(content.defect)
        if not piece:
            return ended
        self._next = ended
        return ContentReceived(piece)

    def _enter(self, state: State) -> None:
        self._state = state
        self._row = MOVES[state]

    def _close(self) -> None:
        self._enter(State.CLOSED)
        self._due = None
        self._next = None
        self._content = None
        self._input.clear()

    def _hang_up(self, last: Reply, why: str) -> HangUp:
        self._output.append(last.encode())
        self._close()
        return HangUp(why)

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

    def _refused(self, due: State, octets: bytes) -> None:
        """Draw the consequences of the driver's no; `octets` begin with its code."""
        if self._state is State.ENDED:
            self._content = None
            self._enter(State.READY)
        elif due is State.MAIL or due is State.RECIPIENTS:
            self._was_refused = True
        self._hello = None
        if octets.startswith(b"421"):
            self._close()
            self._next = HangUp("told to close")
        elif octets.startswith(b"5"):
            self._next = self._count_error()

    def _count_error(self) -> HangUp | None:
        self._errors += 1
        if self._errors < self._settings.max_errors:
            return None
        return self._hang_up(states.TOO_MANY_ERRORS, f"{self._errors} errors")

    def _count_junk(self) -> HangUp | None:
        self._junk += 1
        if self._junk <= JUNK_COMMANDS:
            return None
        return self._hang_up(states.TOO_MUCH_JUNK, f"{self._junk} commands without a message")


@lru_cache(maxsize=64)  # two for each listener
def _encode_hello(settings: ServerSettings, extended: bool) -> bytes:
    """Encode the positive answer to EHLO or HELO; it carries no enhanced code (RFC 2034 4)."""
    if not extended:
        return reply(250, "", settings.hostname).encode()
    offered = ("PIPELINING", f"SIZE {settings.max_octets}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
    return reply(250, "", settings.hostname, *offered, *settings.extensions).encode()


_COMMANDS: Mapping[bytes, Callable[[SmtpServer, bytes, State], ServerEvent | None]] = {
    b"EHLO": lambda machine, argument, move: machine._obey_hello(argument, move, True),
    b"HELO": lambda machine, argument, move: machine._obey_hello(argument, move, False),
    b"MAIL": SmtpServer._obey_mail,
    b"RCPT": SmtpServer._obey_rcpt,
    b"DATA": SmtpServer._obey_data,
    b"RSET": SmtpServer._obey_rset,
    b"NOOP": lambda machine, argument, _: machine._answer_junk(argument, _OK),
    b"VRFY": SmtpServer._obey_vrfy,
    b"HELP": lambda machine, argument, _: machine._answer_junk(argument, _HELP),
    b"QUIT": SmtpServer._obey_quit,
}
