# SPDX-License-Identifier: MIT
"""A session as a connection with a machine on it: octets to and fro, TLS, back-pressure, and how long we wait for what.

Whoever reads too slowly is not heard, whoever says nothing is hung up on, and a handshake that fails ends the session:
nothing falls back to clear text. Replies to a pipelined group leave in one write. Knows no meaning of an event:
accept.reception builds on it, and nothing else does.
"""

from smarthost.accept import replies
from smarthost.accept.listeners import ReceptionTerms
from smarthost.accept.recent import Seldom
from smarthost.accept.standing import Door, Standing
from smarthost.mail.hop import TlsFacts
from smarthost.mail.reply import Reply
from smarthost.ports import Connection
from smarthost.smtp.limits import TLS_HANDSHAKE_S
from smarthost.smtp.server import SmtpServer
from smarthost.smtp.wire import ServerEvent

BUFFERED_OCTETS = 256 * 1024  # what a client may pipeline while it waits for a reply


class Session:
    """One connection with one client."""

    def __init__(
        self, connection: Connection, door: Door, standing: Standing, terms: ReceptionTerms, seldom: Seldom
    ) -> None:
        self._connection = connection
        self._door = door
        self._standing = standing
        self._terms = terms
        self._seldom = seldom
        self._machine = SmtpServer(door.settings_for(standing))
        self._errors = 0  # that were counted
        self._is_shaking = False
        self._is_over = False
        self._is_paused = False
        self._is_leaving = False
        self._has_ended = False  # the client says nothing more, and waits for our last replies
        self._content_ends = 0.0  # monotonic: all content of this message must have come by then
        self._command_timeout_s = terms.limits.command_timeout_s
        self._deadline = terms.clock.deadline(self._command_timeout_s, self._timed_out)

    @property
    def client(self) -> str:
        """The client's address, as far as it is known by now."""
        return self._standing.client

    @property
    def mode(self) -> str:
        """What the listener is for, as the configuration calls it."""
        return self._door.terms.mode.value

    def begin(self, refusal: Reply | None) -> None:
        """Attach to the connection and greet, or say why not."""
        self._connection.attach(self)
        if self._door.begins_with_tls:
            self._shake_hands()
        else:
            self._greet(refusal or self._door.greeting)

    def _greet(self, banner: Reply) -> None:
        self._machine.offer = self._standing.offer
        self._machine.greet(banner)
        if banner.is_positive:
            self._flush()
        else:
            self._hang_up()

    # What the connection says

    def received(self, chunk: bytes) -> None:
        """Take octets from the client."""
        if self._is_over:
            return
        machine = self._machine
        machine.receive(chunk)
        has_moved = self._advance()
        if self._is_over or self._is_shaking:
            return
        if machine.is_receiving_content:
            left = self._content_ends - self._terms.clock.monotonic()
            self._deadline.restart(max(0.0, min(self._terms.limits.content_timeout_s, left)))
        elif machine.is_waiting:
            if machine.buffered > BUFFERED_OCTETS and not self._is_paused:
                self._is_paused = True
                self._connection.pause()
        elif has_moved:  # an octet now and then is no command: it does not keep a session alive
            self._deadline.restart(self._command_timeout_s)

    def writable(self) -> None:
        """The client reads its replies again."""
        self._resume()
        self._advance()

    def secured(self, facts: TlsFacts) -> None:
        """The handshake is done: what was learned before it is forgotten (RFC 3207 4.2)."""
        self._is_shaking = False
        if self._is_over:
            return
        self._deadline.restart(self._command_timeout_s)
        self._machine.secured()
        self._begin_anew(facts)
        if self._door.begins_with_tls:
            self._greet(replies.SHUTTING_DOWN if self._is_leaving else self._door.greeting)
        else:
            self._advance()

    def ended(self) -> bool:
        """The client has ended its side; Exim does so behind its last message, and then reads what became of it."""
        self._has_ended = self._machine.is_waiting and not (self._is_over or self._is_shaking)
        return self._has_ended

    def lost(self, why: Exception | None) -> None:
        """The client is gone; a message not yet complete is forgotten, one being filed is filed all the same."""
        if self._is_shaking:
            self._note_handshake(str(why or "the client closed the connection"))
        self._is_over = True
        self._deadline.cancel()
        self._leave_nothing()

    def _timed_out(self) -> None:
        if self._is_shaking:
            self._is_shaking = False
            self._note_handshake(f"not done after {TLS_HANDSHAKE_S:.0f} s")
            self.drop()
        elif not self._end_waiting():
            self._machine.reply_unasked(replies.TIMED_OUT)
            self._hang_up()

    def leave(self) -> None:
        """Say 421 and close, at once or after the transaction or handshake under way."""
        self._is_leaving = True
        machine = self._machine
        if not (machine.in_transaction or machine.is_waiting or self._is_shaking or self._is_over):
            machine.reply_unasked(replies.SHUTTING_DOWN)
            self._hang_up()

    def drop(self) -> None:
        """End the session at once; a message being filed is filed all the same, its client never hears so."""
        self._is_over = True
        self._deadline.cancel()
        self._connection.abort()

    def _hang_up(self) -> None:
        self._is_over = True
        self._deadline.cancel()
        self._flush()
        self._connection.close()

    # The conversation

    def _advance(self) -> bool:
        """Answer what has come in; True if there was anything to answer."""
        machine = self._machine
        has_moved = False
        while not self._is_over and (event := machine.next_event()) is not None:
            has_moved = True
            try:
                self._answer(event)
            except Exception as failure:  # noqa: BLE001 - reception's edge: what broke here is ours, and temporary
                self._broke(failure)
        if machine.errors != self._errors:
            self._count_errors(machine.errors)
        if self._is_leaving:
            self.leave()
        if self._has_ended and not (machine.is_waiting or self._is_over):
            self._hang_up()
        return self._flush() or has_moved

    def _count_errors(self, errors: int) -> None:
        fresh = errors - self._errors if errors > self._errors else errors  # fewer: a message was taken meanwhile
        self._errors = errors
        is_within = not fresh or self._standing.take_errors(fresh)
        if not (is_within or self._is_over or self._machine.is_waiting or self._is_shaking):
            self._machine.reply_unasked(replies.TOO_MANY_ERRORS)
            self._note("client hung up upon", why="too many errors in a minute")
            self._hang_up()

    def _flush(self) -> bool:
        output = self._machine.take_output()
        if not output:
            return False
        if not self._connection.write((output,)) and not self._is_paused:
            self._is_paused = True  # the client does not read its replies: hear nothing more from it until it does
            self._connection.pause()
        return True

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._connection.resume()

    def _shake_hands(self) -> None:
        tls = self._door.terms.tls
        assert tls is not None, "there is a certificate"
        self._is_shaking = True
        self._deadline.restart(TLS_HANDSHAKE_S)
        self._resume()  # a client that has not read all replies must be heard now
        self._connection.upgrade(tls)

    def _note_handshake(self, why: str) -> None:
        client = self._standing.client
        self._seldom.note(
            "warning", "TLS handshake failed", self._standing.network, client=client, why=replies.clean(why)
        )

    def _note(self, what: str, **facts: object) -> None:
        self._terms.sink.note("warning", what, client=self._standing.client, **facts)

    # For the reception

    def _answer(self, event: ServerEvent) -> None:
        """Answer an event."""
        raise NotImplementedError

    def _broke(self, failure: Exception) -> None:
        """An answer raised; what is due must be said."""
        raise NotImplementedError

    def _begin_anew(self, facts: TlsFacts) -> None:
        """Forget what was said before TLS."""
        raise NotImplementedError

    def _end_waiting(self) -> bool:
        """The deadline passed: end what we let the client wait for; False: it is we who wait."""
        raise NotImplementedError

    def _leave_nothing(self) -> None:
        """The session is over."""
        raise NotImplementedError
