# SPDX-License-Identifier: MIT
"""The part of the server machine where a client says who it is: EHLO, STARTTLS, AUTH, XCLIENT (RFC 5321, 3207, 4954).

Knows no mail. What was said in clear text counts for nothing inside TLS, and nothing said behind STARTTLS is obeyed
there; what was said by a proxy for itself counts for nothing once it spoke for another. smtp.server builds on it.
"""

from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import Reply, reply
from smarthost.smtp import sasl, states
from smarthost.smtp.conversation import Conversation
from smarthost.smtp.grammar import find_forbidden, parse_hello, refuse_argument
from smarthost.smtp.limits import COMMAND_LINE_OCTETS, SASL_LINE_OCTETS, TRANSFER_LINE_OCTETS
from smarthost.smtp.lines import Fault
from smarthost.smtp.offer import NOTHING, Offer, ServerSettings, encode_hello
from smarthost.smtp.states import CLOSED, CONNECTED, GREETED, READY, SECURING, Row, State
from smarthost.smtp.wire import AuthReceived, HangUp, HelloReceived, ResetReceived, ServerEvent, StarttlsReceived
from smarthost.smtp.xclient import parse_xclient

_GO_SECURE = reply(220, "2.0.0", "Start TLS").encode()
_RESET = ResetReceived()
_STARTTLS = StarttlsReceived()
_NO_COMMANDS: Row = {}


class Introduction(Conversation):
    """A session in which a client can introduce itself."""

    __slots__ = ("_hello", "_sasl")

    def __init__(self, settings: ServerSettings, offer: Offer = NOTHING) -> None:
        Conversation.__init__(self, settings, offer)  # super() takes 0.3 us in 3.11, for each session
        self._hello: HelloReceived | None = None  # unanswered
        self._sasl: sasl.SaslExchange | None = None  # from AUTH to the answer to AuthReceived

    def accept_hello(self) -> None:
        """Answer HelloReceived positively. Raises: LocalProtocolError: none is pending."""
        hello = self._hello
        if hello is None or self._due is None or self._next is not None:
            raise LocalProtocolError("no EHLO or HELO waits for an answer")
        self._hello = None
        self._line_octets = TRANSFER_LINE_OCTETS if self.offer.transfer and hello.extended else COMMAND_LINE_OCTETS
        self._agree(encode_hello(self._settings, self.offer, extended=hello.extended, is_secured=self._is_secured))

    def accept_starttls(self) -> None:
        """Answer StarttlsReceived with 220: write it, do the handshake, call `secured`.

        If octets came behind STARTTLS by now, the session ends instead, and no 220 is said.
        Raises: LocalProtocolError: none is pending.
        """
        if self._due is not SECURING:
            raise LocalProtocolError("no STARTTLS waits for an answer")
        if len(self._input):
            self._next = self._hang_up_on_injection(states.NOT_LAST)
        else:
            self._agree(_GO_SECURE)

    def secured(self) -> None:
        """TLS is in use: forget all that was said before it (RFC 3207 4.2), but not the errors. Or call it before
        `greet`, where TLS comes first (RFC 8314).

        Raises: LocalProtocolError: no handshake was due.
        """
        if self._state is CLOSED:
            return
        self._moves = states.moves_of(is_lmtp=self._settings.is_lmtp, is_clear=False)
        if self._state is SECURING:
            if len(self._input):
                self._next = self._hang_up_on_injection(None)
                return
            self._begin_anew()
            self._enter(GREETED)
        elif self._state is not CONNECTED:
            raise LocalProtocolError("no handshake was due")
        self._is_secured = True

    def _find_unoffered(self, verb: bytes) -> Reply | None:
        """Say why a command is not there at all, if it is one that an Offer makes."""
        offer = self.offer
        match verb:
            case b"STARTTLS" if self._is_secured:
                return states.TLS_IN_USE
            case b"STARTTLS" if not offer.starttls:
                return states.NOT_OFFERED
            case b"AUTH" if not offer.auth:
                return states.TLS_FIRST if offer.starttls and not self._is_secured else states.NOT_OFFERED
            case b"XCLIENT" if not offer.xclient:
                return states.UNKNOWN
            case _:
                return None

    def _obey_hello(self, argument: bytes, move: State, extended: bool) -> ServerEvent | None:
        name = parse_hello(argument)
        if isinstance(name, Reply):
            return self._refuse(find_forbidden(argument) or name)
        if self._state is not GREETED and (hang_up := self._count_junk()) is not None:
            return hang_up
        self._hello = HelloReceived(extended, name)
        self._due = move
        self._was_refused = False
        if not self.in_transaction:
            return self._hello
        self._next = self._hello
        self._content = None
        self._enter(READY)  # RFC 5321 4.1.4: EHLO within a transaction is a RSET as well
        return _RESET

    def _obey_starttls(self, argument: bytes, move: State) -> ServerEvent | None:
        if refusal := self._find_unoffered(b"STARTTLS") or refuse_argument(argument):
            return self._refuse(refusal)
        if len(self._input):
            return self._hang_up_on_injection(states.NOT_LAST)
        self._due = move
        return self._count_junk() or _STARTTLS

    def _hang_up_on_injection(self, last: Reply | None) -> HangUp:
        """End a session in which octets of the clear text would be taken for the first ones within TLS."""
        if last is not None:
            self._output.append(last.encode())
        self._close()
        return HangUp("octets in clear text behind STARTTLS")

    def _obey_auth(self, argument: bytes, move: State) -> ServerEvent | None:
        argument = argument.rstrip(b" \t")
        mechanism, _, initial = argument.partition(b" ")
        if refusal := find_forbidden(argument) or self._find_unoffered(b"AUTH"):
            return self._refuse(refusal)
        if self._is_authenticated:
            return self._refuse(states.AUTHENTICATED)
        if not mechanism:
            return self._refuse(sasl.AUTH_SYNTAX)
        name = mechanism.upper().decode("ascii", "replace")
        if name not in self.offer.auth:
            return self._refuse(sasl.MECHANISM_UNKNOWN)
        self._sasl = sasl.SaslExchange(name)
        return self._count_junk() or self._go_on_with_auth(self._sasl.begin(initial))

    def _go_on_with_auth(self, outcome: sasl.Outcome) -> ServerEvent | None:
        match outcome:
            case sasl.Challenge(octets):
                self._output.append(octets)
                self._row = _NO_COMMANDS
                return None
            case AuthReceived():
                self._due = READY
                return outcome
            case _:
                self._give_up_auth()
                return self._refuse(outcome)

    def _read_response(self, exchange: sasl.SaslExchange) -> ServerEvent | None:
        while (line := self._input.take_line(SASL_LINE_OCTETS)) is not None:
            if isinstance(line, Fault):
                self._give_up_auth()
                return self._refuse(sasl.OVERLONG) if line is Fault.OVERLONG else self._stumble(line)
            event = self._go_on_with_auth(exchange.go_on(line))
            if event is not None or self._sasl is None:
                return event
        return None

    def _give_up_auth(self) -> None:
        self._sasl = None
        self._enter(READY)

    def _obey_xclient(self, argument: bytes, move: State) -> ServerEvent | None:
        if not self.offer.xclient:
            return self._refuse(find_forbidden(argument) or states.UNKNOWN)
        event = parse_xclient(argument)
        if isinstance(event, Reply):
            return self._refuse(event)
        self._due = move
        return self._count_junk() or event

    def _agree(self, octets: bytes) -> None:
        assert self._due is not None, "who agrees has looked"
        self._output.append(octets)
        self._enter(self._due)
        self._due = None

    def _agreed(self, due: State, octets: bytes) -> None:
        """Draw the consequences of the driver's yes to what is not part of a transaction."""
        self._hello = None
        if self._sasl is not None:
            self._sasl = None
            self._is_authenticated = octets.startswith(b"235")
        if due is GREETED:  # XCLIENT: another client
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._hello = None
        self._line_octets = COMMAND_LINE_OCTETS
        self._is_authenticated = False
        self._was_refused = False

    def _close(self) -> None:
        Conversation._close(self)
        self._sasl = None
