# SPDX-License-Identifier: MIT
"""The ESMTP and LMTP server as a sans-IO machine: octets in, wire events and reply octets out (RFC 5321, 2920, 2033).

It answers by itself what needs no policy: RSET, NOOP, VRFY, HELP, QUIT, and whatever is malformed, out of sequence or
unknown. All else it hands out as one event at a time and waits for the reply; pipelined input waits meanwhile, and all
replies of a group leave in one `take_output`. It never raises for what a client sends, keeps at most one piece of
content, and knows neither time nor connection: the driver (accept.reception) closes upon QuitReceived and HangUp.
smtp.states says what may come when, smtp.introduction is all that comes before mail, smtp.grammar reads arguments,
smtp.lines and smtp.chunks cut the octets.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import Reply, reply
from smarthost.smtp import states
from smarthost.smtp.chunks import Chunk, ChunkReader, parse_chunk
from smarthost.smtp.grammar import find_forbidden, parse_mail, parse_moved_rcpt, parse_rcpt, refuse_argument
from smarthost.smtp.introduction import Introduction
from smarthost.smtp.limits import REFUSED_CHUNK_OCTETS
from smarthost.smtp.lines import ContentReader
from smarthost.smtp.offer import NOTHING, Offer, ServerSettings
from smarthost.smtp.states import CHUNK, CHUNKED, CONTENT, ENDED, MAIL, READY, RECIPIENTS, SECURING, VOID, Row, State
from smarthost.smtp.wire import (
    BdatReceived,
    ChunkEnded,
    ContentEnded,
    ContentReceived,
    DataReceived,
    HangUp,
    QuitReceived,
    ResetReceived,
    ServerEvent,
)

__all__ = ("Offer", "ServerSettings", "SmtpServer")

_OK = reply(250, "2.0.0", "Ok").encode()
_GO_AHEAD = reply(354, "", "End data with <CR><LF>.<CR><LF>").encode()
_CANNOT_VRFY = reply(252, "2.5.2", "Cannot verify: send mail and see").encode()  # RFC 5321 7.3
_HELP = reply(214, "2.0.0", "EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT").encode()
_RESET = ResetReceived()
_DATA = DataReceived()
_BDAT = BdatReceived()
_NO_COMMANDS: Row = {}
_BINARY_MIME = Body.BINARY_MIME


class SmtpServer(Introduction):
    """One session with a client. Call `greet`, then `receive` and `next_event` until it gives None."""

    __slots__ = ("_is_binary", "_is_moved", "_is_smtputf8", "_recipients", "_skipped")

    def __init__(self, settings: ServerSettings, offer: Offer = NOTHING) -> None:
        Introduction.__init__(self, settings, offer)  # super() takes 0.3 us in 3.11, for each session
        self._is_smtputf8 = False  # as MAIL said
        self._is_binary = False  # likewise
        self._is_moved = False  # likewise: it comes from another node's queue
        self._recipients = 0
        self._skipped: tuple[ChunkReader, Reply] | None = None  # a chunk that nobody wants, and the answer to it

    def accept_data(self) -> None:
        """Answer DataReceived with 354. Raises: LocalProtocolError: none is pending."""
        if self._due is not CONTENT:
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
        if due is RECIPIENTS:
            self._recipients += 1
        elif due is MAIL:
            self._recipients = 0
            self._was_refused = False
        elif due is CONTENT:
            self._content = ContentReader(self._settings.max_octets, self._settings.normalises_newlines)
        elif self._state is ENDED:
            self._answer_others(due, octets)
            self._content = None
            self.errors = self._junk = 0
            self._was_refused = False
        elif due is not CHUNKED:
            self._agreed(due, octets)
        self._state = due
        self._row = self._moves[due]

    def next_event(self) -> ServerEvent | None:
        """Give the next event; None: more input is needed, or the reply to the last event is still due."""
        event = self._next
        if event is not None:
            self._next = None
            return event
        if self._due is not None:
            return None
        while True:
            while row := self._row:
                line = self._input.take_line(self._line_octets)
                if line is None:
                    return None
                event = self._obey(line, row) if isinstance(line, bytes) else self._stumble(line)
                if event is not None:
                    return event
            event = self._read_content() if self._state is CONTENT else self._read_otherwise()
            if event is not None or not self._row:
                return event

    def _obey(self, line: bytes, row: Row) -> ServerEvent | None:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        move = row.get(verb)
        if isinstance(move, State):
            return _COMMANDS[verb](self, argument, move)
        if move is None:
            return self._refuse_unknown(line, verb)
        if verb == b"BDAT":
            return self._refuse_bdat(argument, move)
        refusal = find_forbidden(line.rstrip(b" \t")) or self._find_unoffered(verb)
        return self._refuse(refusal) if refusal else self._refuse_out_of_sequence(move)

    def _refuse_unknown(self, line: bytes, verb: bytes) -> ServerEvent | None:
        trimmed = line.rstrip(b" \t")  # RFC 5321 4.1.1: SHOULD tolerate trailing white space
        if trimmed != line:
            return self._obey(trimmed, self._row)
        if verb.startswith(b"BDAT"):  # or something else than a space behind it
            return self._hang_up_on_bdat(line)
        if verb in states.FOREIGN_VERBS:
            return self._hang_up(states.NOT_SMTP, "HTTP spoken to SMTP")
        return self._refuse(find_forbidden(line) or states.UNKNOWN)

    def _refuse_out_of_sequence(self, refusal: Reply) -> HangUp | None:
        refusal, is_consequence = self._judge_sequence(refusal)
        if not is_consequence:
            return self._refuse(refusal)
        self._output.append(refusal.encode())
        return self._count_junk()

    def _judge_sequence(self, refusal: Reply) -> tuple[Reply, bool]:
        """Give what is said to a command out of sequence, and whether that follows from an earlier refusal.

        RFC 2920 3.1: a client that pipelines sends RCPT and DATA before it can know that MAIL or all RCPT failed.
        """
        if not self._was_refused or refusal not in (states.MAIL_FIRST, states.RCPT_FIRST, states.RSET_FIRST):
            return refusal, False
        # RFC 2033 4.2 has 503 in LMTP.
        is_554 = refusal is states.RCPT_FIRST and not self._settings.is_lmtp
        return (states.NO_VALID_RECIPIENT if is_554 else refusal), True

    def _obey_mail(self, argument: bytes, move: State) -> ServerEvent | None:
        event = parse_mail(argument, self._settings.max_octets, self.offer)
        if isinstance(event, Reply):
            self._was_refused = True
            return self._refuse(event)
        self._is_smtputf8 = event.smtputf8
        self._is_binary = event.body is _BINARY_MIME
        self._is_moved = event.origin is not None
        self._due = move
        return event

    def _obey_rcpt(self, argument: bytes, move: State) -> ServerEvent | None:
        if self._recipients >= self._settings.max_recipients:
            return self._refuse(states.TOO_MANY_RECIPIENTS)
        event = (parse_moved_rcpt if self._is_moved else parse_rcpt)(argument, self._is_smtputf8)
        if isinstance(event, Reply):
            self._was_refused = True
            return self._refuse(event)
        self._due = move
        return event

    def _obey_data(self, argument: bytes, move: State) -> ServerEvent | None:
        if refusal := refuse_argument(argument):
            return self._refuse(refusal)
        if self._is_binary:
            return self._refuse(states.BINARY_NEEDS_BDAT)
        self._due = move
        return _DATA

    def _obey_bdat(self, argument: bytes, move: State) -> ServerEvent | None:
        chunk = parse_chunk(argument)
        if chunk is None:
            return self._hang_up_on_bdat(argument)
        is_first = self._content is None
        if is_first:
            self._content = ChunkReader(self._settings.max_octets, is_binary=self._is_binary)
        assert isinstance(self._content, ChunkReader), "DATA leads elsewhere"
        self._content.begin(chunk)
        if self._content.defect is not None and self._is_unbearable(chunk):
            return self._hang_up(self._content.defect, "a chunk of more octets than are ever read")
        if not chunk.octets and not chunk.is_last and (hang_up := self._count_junk()):
            return hang_up
        self._enter(move)
        return _BDAT if is_first else None

    def _refuse_bdat(self, argument: bytes, refusal: Reply) -> HangUp | None:
        """Refuse BDAT, and read its octets all the same: they are no commands (RFC 3030 2)."""
        chunk = parse_chunk(argument)
        if chunk is None:
            return self._hang_up_on_bdat(argument)
        if self._is_unbearable(chunk):
            return self._hang_up(refusal, "a chunk of more octets than are ever read")
        skipped = ChunkReader(0, is_binary=True)
        skipped.begin(chunk)
        self._skipped = skipped, refusal
        self._row = _NO_COMMANDS
        return None

    def _hang_up_on_bdat(self, argument: bytes) -> HangUp:
        # Nobody knows where the next command begins: what follows may be a message with commands of a stranger in it.
        self._output.append((find_forbidden(argument) or states.BDAT_SYNTAX).encode())
        return self._hang_up(states.CANNOT_FOLLOW, "BDAT that is malformed")

    def _is_unbearable(self, chunk: Chunk) -> bool:
        return chunk.octets > max(self._settings.max_octets, REFUSED_CHUNK_OCTETS)

    def _obey_rset(self, argument: bytes, move: State) -> ServerEvent | None:
        if refusal := refuse_argument(argument):
            return self._refuse(refusal)
        was_open = self.in_transaction
        self._content = None
        self._enter(move)
        self._was_refused = False
        self._output.append(_OK)
        return self._count_junk() or (_RESET if was_open else None)

    def _obey_vrfy(self, argument: bytes, move: State) -> ServerEvent | None:
        return self._answer_junk(argument, _CANNOT_VRFY) if argument.strip(b" \t") else self._refuse(states.VRFY_SYNTAX)

    def _obey_quit(self, argument: bytes, move: State) -> ServerEvent | None:
        if refusal := refuse_argument(argument):
            return self._refuse(refusal)
        self._output.append(_encode_goodbye(self._settings.hostname))
        self._close()
        return QuitReceived()

    def _read_content(self) -> ServerEvent | None:
        content = self._content
        assert isinstance(content, ContentReader), "accept_data made a reader"
        octets, at = self._input.unread()
        end = content.read(octets, at)
        if end < 0:
            self._input.consume(len(octets))
            piece = content.take_piece()
            return ContentReceived(piece) if piece else None
        self._input.consume(end)
        return self._end_content(content.take_rest(), content.defect, READY)

    def _end_content(self, piece: bytes, defect: Reply | None, then: State) -> ServerEvent:
        self._enter(ENDED)
        self._due = then
        ended = ContentEnded(defect)
        if not piece:
            return ended
        self._next = ended
        return ContentReceived(piece)

    def _read_otherwise(self) -> ServerEvent | None:
        """Read what is neither a command nor the content of DATA."""
        if self._skipped is not None:
            return self._skip_chunk(*self._skipped)
        if self._sasl is not None:
            return self._read_response(self._sasl)
        if self._state is CHUNK:
            return self._read_chunk()
        if self._state is SECURING and len(self._input):
            return self._hang_up_on_injection(None)
        return None

    def _read_chunk(self) -> ServerEvent | None:
        content = self._content
        assert isinstance(content, ChunkReader), "BDAT made a reader"
        octets, at = self._input.unread()
        self._input.consume(content.read(octets, at))
        if not content.is_at_end:
            piece = content.take_piece()
            return ContentReceived(piece) if piece else None
        is_last = content.chunk.is_last
        if is_last:
            content.end_content()
        if is_last or content.defect is not None:  # who sends what is refused anyway hears so before it sends it all
            return self._end_content(content.take_rest(), content.defect, READY if is_last else VOID)
        piece = content.take_piece()
        self._enter(CHUNKED)
        self._due = CHUNKED
        ended = ChunkEnded(content.chunk.octets)
        if not piece:
            return ended
        self._next = ended
        return ContentReceived(piece)

    def _skip_chunk(self, chunk: ChunkReader, refusal: Reply) -> HangUp | None:
        octets, at = self._input.unread()
        self._input.consume(chunk.read(octets, at))
        if not chunk.is_at_end:
            return None
        self._skipped = None
        self._enter(self._state)
        return self._refuse_out_of_sequence(refusal)

    def _refused(self, due: State, octets: bytes) -> None:
        """Draw the consequences of the driver's no; `octets` begin with its code."""
        if self._state is ENDED:
            self._answer_others(due, octets)
            self._content = None
            self._enter(due)
            self._was_refused = due is VOID
        elif due is MAIL or due is RECIPIENTS:
            self._was_refused = True
        elif due is CHUNKED:
            self._content = None
            self._enter(VOID)
            self._was_refused = True
        self._hello = None
        if self._sasl is not None:
            self._sasl = None
            self._enter(self._state)  # commands are read again
        if octets.startswith(b"421"):
            self._close()
            self._next = HangUp("told to close")
        elif octets.startswith(b"5"):
            self._next = self._count_error()

    def _close(self) -> None:
        Introduction._close(self)
        self._skipped = None

    def _answer_others(self, due: State, octets: bytes) -> None:
        """In LMTP, say the answer to the content once for each recipient (RFC 2033 4.2); a chunk has one answer."""
        if self._settings.is_lmtp and due is READY:
            self._output.append(octets * (self._recipients - 1))


@lru_cache(maxsize=64)  # one for each listener
def _encode_goodbye(hostname: str) -> bytes:
    return reply(221, "2.0.0", f"{hostname} closes").encode()


_COMMANDS: Mapping[bytes, Callable[[SmtpServer, bytes, State], ServerEvent | None]] = {
    b"EHLO": lambda machine, argument, move: machine._obey_hello(argument, move, True),
    b"LHLO": lambda machine, argument, move: machine._obey_hello(argument, move, True),
    b"HELO": lambda machine, argument, move: machine._obey_hello(argument, move, False),
    b"MAIL": SmtpServer._obey_mail,
    b"RCPT": SmtpServer._obey_rcpt,
    b"DATA": SmtpServer._obey_data,
    b"BDAT": SmtpServer._obey_bdat,
    b"STARTTLS": SmtpServer._obey_starttls,
    b"AUTH": SmtpServer._obey_auth,
    b"XCLIENT": SmtpServer._obey_xclient,
    b"RSET": SmtpServer._obey_rset,
    b"NOOP": lambda machine, argument, _: machine._answer_junk(argument, _OK),
    b"VRFY": SmtpServer._obey_vrfy,
    b"HELP": lambda machine, argument, _: machine._answer_junk(argument, _HELP),
    b"QUIT": SmtpServer._obey_quit,
}
