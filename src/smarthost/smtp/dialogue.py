# SPDX-License-Identifier: MIT
"""What any dialogue with a host needs: commands out, one reply in for each, in order; smtp.client says which and why.

Keeps the replies that are due, trusts none that was there before its command, and closes for good after an error. It
knows no command and no meaning of a reply. Sans-IO; memory is bounded by ReplyParser and by what the client writes.
"""

from collections import deque
from collections.abc import Iterable

from smarthost.mail.errors import LocalProtocolError, RemoteProtocolError
from smarthost.mail.reply import Reply
from smarthost.smtp.replies import ReplyParser
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import ClientEvent

_IDLE, _TLS, _FINAL = Step.IDLE, Step.TLS, Step.FINAL  # by way of the class a member costs 0.2 us (Python 3.11)


class Dialogue:
    """The client's half of a session, as far as it is the same for every command."""

    __slots__ = ("_closed", "_due", "_output", "_premature", "_replies", "_rest")

    def __init__(self) -> None:
        self._replies = ReplyParser()
        self._output = b""
        self._due: deque[Step] = deque((Step.BANNER,))  # the replies we wait for, in order
        self._rest = _IDLE  # what it is when no reply is due: IDLE, TLS or CONTENT
        self._closed = False
        self._premature = False  # something was there before the command whose reply is next

    # -- what the driver may ask --

    @property
    def step(self) -> Step:
        """Where the session stands; after an error, where it stood then."""
        return self._due[0] if self._due else self._rest

    @property
    def has_buffered(self) -> bool:
        """Are there octets from the host that no event accounts for?"""
        return self._replies.has_buffered

    @property
    def is_idle(self) -> bool:
        """Is the host waiting for a command of ours?"""
        return not self._due and self._rest is _IDLE and not self._closed

    @property
    def is_closed(self) -> bool:
        """Is the session over (421, QUIT answered, or an error)?"""
        return self._closed

    def take_output(self) -> bytes:
        """Give the octets to write, and forget them."""
        output, self._output = self._output, b""
        return output

    # -- what the driver tells --

    def receive(self, chunk: bytes) -> None:
        """Take octets from the host; call next_event until it gives None. Ignored once closed."""
        if not self._closed:
            self._replies.feed(chunk)

    def next_event(self) -> ClientEvent | None:
        """Give the next event, or None when more octets are needed.

        Raises: RemoteProtocolError: the host said what SMTP does not allow here; the machine is closed then.
        """
        if self._closed:
            return None
        try:
            if self._rest is _TLS:
                self._refuse_clear_text()
            while (reply := self._replies.next_reply()) is not None:
                event = self._take(reply) if self._due else self._take_unasked(reply)
                if event is not None:
                    return event
        except RemoteProtocolError:
            self._closed = True
            self._output = b""  # nothing more is said to such a host
            raise
        return None

    # -- for the client --

    def _take(self, reply: Reply) -> ClientEvent | None:
        """Take the reply that is due next."""
        raise NotImplementedError

    def _take_unasked(self, reply: Reply) -> ClientEvent:
        """Take a reply when none is due."""
        raise NotImplementedError

    def _write(self, octets: bytes, steps: Iterable[Step]) -> None:
        """Queue octets, and the replies that they call for."""
        if not self._due:
            self._premature = self._replies.has_buffered
        self._output += octets
        self._due.extend(steps)

    def _check_premature(self, step: Step, reply: Reply) -> None:
        # A reply that was there before its command answers something else. To believe a 250 that came along with the
        # 354 would drop a message the host never judged. Only a "no" to the content is an answer that early.
        self._premature = False
        if reply.code != 421 and not (step is _FINAL and reply.code >= 400):
            raise RemoteProtocolError(f"the host answered before it was asked: {reply}")

    def _require_idle(self, verb: str) -> None:
        if self._due or self._rest is not _IDLE or self._closed:
            raise LocalProtocolError(f"{verb}() while the session is {'closed' if self._closed else self.step}")

    def _refuse_clear_text(self) -> None:
        # RFC 3207 6: what was injected before the handshake must not be taken for something said inside TLS.
        if self._replies.has_buffered:
            self._closed = True
            raise RemoteProtocolError("octets in clear text after the answer to STARTTLS")
