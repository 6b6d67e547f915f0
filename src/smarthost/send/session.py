# SPDX-License-Identifier: MIT
"""One connection to one host: EHLO, STARTTLS, AUTH, then transactions, in this order; this is the home of TLS order.

Drives smtp.client over a ports.Connection. Awaits once to be set up and once per transaction, never per command.
Answers with values: what the host said, or which step failed. Judges nothing (verdict does) and never reconnects.
A crash in the middle leaves the recipients deferred in the store.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from smarthost.mail.content import Content, InlineContent
from smarthost.mail.errors import (
    ConnectionLost,
    DeadlinePassed,
    LocalProtocolError,
    RemoteProtocolError,
    SmarthostError,
    TlsFailed,
)
from smarthost.mail.hop import SessionPolicy, TlsFacts, TlsLevel
from smarthost.mail.reply import Reply
from smarthost.ports import Clock, Connection, TlsRequest
from smarthost.send.outgoing import Outgoing
from smarthost.send.transcript import Transcript
from smarthost.smtp import limits
from smarthost.smtp.auth import hide_secrets
from smarthost.smtp.client import SmtpClient, Transaction
from smarthost.smtp.extensions import Extensions
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import (
    AuthAnswered,
    BannerReceived,
    ClientEvent,
    ClosingReceived,
    ContentWanted,
    HelloAnswered,
    StarttlsAnswered,
    TransactionEnded,
)

# MAIL to 354 in all. Each reply may take its RFC time (a host that verifies addresses takes seconds for each of 100),
# but not all of them together: a host that drips would hold a slot for hours.
ENVELOPE_S = 1800.0
FINALS_S = 1800.0  # in LMTP, from the final dot to the last recipient's reply: as ENVELOPE_S; must exceed FINAL_DOT_S

# By way of the class a member costs 0.2 us (Python 3.11).
_BANNER, _EHLO, _IDLE, _TLS = Step.BANNER, Step.EHLO, Step.IDLE, Step.TLS
_MAIL, _CONTENT, _FINAL = Step.MAIL, Step.CONTENT, Step.FINAL
_NO_TLS = TlsLevel.NONE

SessionKey: TypeAlias = tuple[str, str, SessionPolicy]  # host name (certificates are judged by it), address, policy


class SetupFailed(Struct, frozen=True, gc=False):
    """The session could not be set up: at which step, and what the host said or what broke."""

    step: Step
    said: Reply | SmarthostError


class TransactionLost(Struct, frozen=True, gc=False):
    """The connection, a deadline or the protocol broke inside a transaction.

    `step`: where the machine stood (Step.FINAL: the host may have the mail). `heard`: what the host had said by then.
    `was_stale`: it said nothing at all since the transaction began, as when it had closed an idle session.
    """

    step: Step
    error: SmarthostError
    heard: TransactionEnded | None
    was_stale: bool


class Session:
    """An SMTP session as a client. One transaction at a time; owned by one slot, or idle in the pool."""

    def __init__(
        self, connection: Connection, clock: Clock, key: SessionKey, transcript: Transcript | None = None
    ) -> None:
        self.key = key
        self._transcript = transcript
        self.transactions = 0
        self.tls: TlsFacts | None = None
        self._connection = connection
        self._clock = clock
        self._host, _, self._policy = key
        self._machine = SmtpClient(is_lmtp=self._policy.is_lmtp)
        self._step = _BANNER
        self._wanted: asyncio.Future[SetupFailed | None] | None = None
        self._ended: asyncio.Future[TransactionEnded | TransactionLost] | None = None
        self._inline: tuple[bytes, bytes] | None = None  # content that is still to be sent: in one write,
        self._outgoing: Outgoing | None = None  # or in several
        self._heard = False
        self._set_up_ends: float | None = None  # monotonic
        self._patience_ends = 0.0  # monotonic; of the envelope, in LMTP then of the final replies
        self._entered_at = clock.monotonic()  # the step
        self._is_lost = False
        self._retire: Callable[[Session], None] | None = None
        self._deadline = clock.deadline(limits.BANNER_S, self._expired)
        connection.attach(self)

    def __repr__(self) -> str:
        return f"<Session {self._host} [{self.key[1]}] {self._step}, {self.transactions} transactions>"

    @property
    def transcript(self) -> tuple[str, ...]:
        """What was said: the set-up and the last transaction, without secrets and content; () if nobody noted it."""
        return () if self._transcript is None else self._transcript.lines()

    @property
    def extensions(self) -> Extensions | None:
        return self._machine.extensions

    @property
    def is_reusable(self) -> bool:
        """Is it alive, idle, and below the number of transactions that the host announced to take (RFC 9422 4)?"""
        if self._is_lost or not self._machine.is_idle:
            return False
        offered = self._machine.extensions
        most = None if offered is None else offered.most_transactions
        return most is None or self.transactions < most

    # Set-up

    async def set_up(self, patience_s: float | None = None) -> SetupFailed | None:
        """Go from connected to ready for a transaction; None when ready. Safe to cancel, as `transact`.

        `patience_s`: for all of it, below what each step may take by the RFC.
        """
        assert self._wanted is None, "a session is set up once"
        if self._is_lost:  # before anybody asked
            return SetupFailed(self._step, ConnectionLost(f"connection lost at {self._step}", step=self._step))
        wanted: asyncio.Future[SetupFailed | None] = asyncio.get_running_loop().create_future()
        self._wanted = wanted
        if patience_s is not None:
            self._set_up_ends = self._clock.monotonic() + patience_s
            self._enter(self._step, limits.BANNER_S)
        if self._policy.implicit_tls:
            self._guard(self._begin_in_tls)
        try:
            return await wanted
        except asyncio.CancelledError:
            self._connection.abort()
            raise

    def _begin_in_tls(self) -> None:
        if self._machine.has_buffered:  # or what was said in clear would be the beginning of the banner
            raise RemoteProtocolError("octets in clear text where TLS is to begin")
        self._start_tls()

    def _start_tls(self) -> None:
        self._enter(Step.TLS, limits.TLS_HANDSHAKE_S)
        self._connection.upgrade(TlsRequest(self._host, verified=self._policy.tls is TlsLevel.VERIFIED))

    def secured(self, facts: TlsFacts) -> None:
        """Say EHLO again inside TLS; everything learned in clear is forgotten (RFC 3207 4.2)."""
        self.tls = facts
        if self._transcript is not None:
            self._transcript.note(f"{facts.version} {facts.cipher}")
        if self._policy.implicit_tls:
            self._enter(Step.BANNER, limits.BANNER_S)
            return
        self._machine.secured()
        self._say_hello()
        self._flush()

    def _say_hello(self) -> None:
        self._enter(_EHLO, limits.HELLO_S)
        self._machine.hello(self._policy.helo)

    def _advance_setup(self, event: ClientEvent) -> None:
        match event:
            case BannerReceived(reply):
                if reply.code != 220:
                    self._set_up_failed(reply)
                else:
                    self._say_hello()
            case HelloAnswered(reply):
                if not reply.is_positive:
                    self._set_up_failed(reply)
                else:
                    self._after_hello()
            case StarttlsAnswered(reply):
                self._after_starttls(reply)
            case AuthAnswered(reply):
                if reply.code != 235:
                    self._auth_failed(reply)
                else:
                    self._ready()
            case ClosingReceived(reply):
                self._set_up_failed(reply)
            case _:
                self._fail(RemoteProtocolError(f"unexpected {type(event).__name__} at {self._step}"))

    def _after_hello(self) -> None:
        policy, offered = self._policy, self._machine.extensions
        assert offered is not None, "a positive EHLO leaves its extensions"
        if self.tls is None and policy.tls is not _NO_TLS:
            if offered.starttls:
                self._enter(Step.STARTTLS, limits.STARTTLS_S)
                self._machine.starttls()
                return
            if policy.tls is not TlsLevel.OPPORTUNISTIC:
                self._step = Step.STARTTLS
                self._fail(TlsFailed("the host does not offer STARTTLS, which the policy demands", step=Step.STARTTLS))
                return
        self._after_protection()

    def _after_starttls(self, reply: Reply) -> None:
        if reply.code == 220:
            if self._machine.has_buffered:  # RFC 3207 6: a command or reply injected before the handshake
                self._fail(RemoteProtocolError("octets after the reply to STARTTLS: injected, session closed"))
                return
            self._start_tls()
        elif self._policy.tls is TlsLevel.OPPORTUNISTIC:
            self._after_protection()
        else:
            self._set_up_failed(reply)

    def _after_protection(self) -> None:
        credentials = self._policy.credentials
        if credentials is None:
            self._ready()
            return
        # RFC 4954 4: the password only inside TLS that was verified, or where the operator chose the level himself.
        if self.tls is None and self._policy.tls is not TlsLevel.NONE:
            self._step = Step.AUTH
            self._fail(TlsFailed("no password is sent without TLS", step=Step.AUTH))
            return
        self._step = Step.AUTH
        offered = self._machine.extensions
        if offered is None or not offered.offers_usable_auth:
            self._fail(RemoteProtocolError("the host offers neither AUTH PLAIN nor AUTH LOGIN"))
            return
        self._enter(Step.AUTH, limits.AUTH_S)
        self._machine.auth_plain(credentials)

    def _auth_failed(self, reply: Reply) -> None:
        said = " ".join(reply.lines)
        hidden = self._without_secrets(said)
        self._set_up_failed(reply if hidden == said else Reply(reply.code, reply.enhanced, (hidden,)))

    def _without_secrets(self, text: str) -> str:
        credentials = self._policy.credentials
        return text if credentials is None else hide_secrets(text, credentials)

    def _ready(self) -> None:
        self._enter(_IDLE, limits.MAIL_S)
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not wanted.done():
            wanted.set_result(None)

    def _set_up_failed(self, reply: Reply) -> None:
        step = self._step
        self._answer(SetupFailed(step, reply))
        self.quit()

    # Transactions

    async def transact(
        self, transaction: Transaction, content: Content, prefix: bytes
    ) -> TransactionEnded | TransactionLost:
        """Run one transaction; safe to cancel: the connection is aborted then.

        An answer that was heard before the cancellation is given all the same, and the next await is cancelled instead.

        Raises: LocalProtocolError: it cannot be sent to this host (SmtpClient.begin); nothing was written, the session
        stays as it was.
        """
        assert self._ended is None, "one transaction at a time"
        self._retire = None
        if self._is_lost:
            return TransactionLost(
                Step.MAIL, ConnectionLost("the host closed the idle session", step=Step.MAIL), None, True
            )
        if transaction.requires_tls and self.tls is None:
            raise LocalProtocolError("REQUIRETLS in clear text")  # whatever the host offered there (RFC 8689 4.1)
        self._machine.begin(transaction)
        if self._transcript is not None:
            self._transcript.begin_transaction()
        self.transactions += 1
        self._heard = False
        self._patience_ends = self._clock.monotonic() + ENVELOPE_S
        ended: asyncio.Future[TransactionEnded | TransactionLost] = asyncio.get_running_loop().create_future()
        self._ended = ended
        is_chunked = transaction.is_chunked
        if isinstance(content, InlineContent) and not is_chunked:
            self._inline = (prefix, content.body)
        else:
            self._outgoing = Outgoing(prefix, content, is_chunked)
        self._enter(_MAIL, limits.MAIL_S)
        self._flush()
        try:
            return await ended
        except asyncio.CancelledError:
            if ended.done() and not ended.cancelled():  # dropped, it would be sent again to a host that has it
                task = asyncio.current_task()
                assert task is not None, "awaited in a task"
                task.cancel()
                return ended.result()
            self._connection.abort()
            raise
        finally:
            self._ended = None
            self._inline = self._outgoing = None

    def _advance_transaction(self, event: ClientEvent) -> None:
        match event:
            case ContentWanted():
                self._send_content()
            case TransactionEnded():
                self._enter(_IDLE, limits.MAIL_S)
                if self._ended is not None and not self._ended.done():
                    self._ended.set_result(event)
            case ClosingReceived(reply):
                self._fail(ConnectionLost(f"the host closed the session: {reply}", step=self._step))
            case _:
                self._fail(RemoteProtocolError(f"unexpected {type(event).__name__} at {self._step}"))

    def _send_content(self) -> None:
        inline, machine = self._inline, self._machine
        if inline is not None:  # the final dot leaves with it
            self._inline = None
            buffers = machine.content(inline)
            machine.content_end()
            if self._transcript is not None:
                self._transcript.note(f"content, {len(inline[0]) + len(inline[1])} octets")
            buffers.append(machine.take_output())
            self._connection.write(buffers)
            self._enter_final()
            return
        assert self._outgoing is not None, "content is sent inside a transaction"
        self._outgoing.send(machine, self._connection, self._transcript)
        if machine.step is _FINAL:
            self._enter_final()
        else:
            self._enter(_CONTENT, limits.CONTENT_BLOCK_S)

    def _enter_final(self) -> None:
        self._enter(_FINAL, limits.FINAL_DOT_S)
        if self._policy.is_lmtp:
            self._patience_ends = self._entered_at + FINALS_S

    def writable(self) -> None:
        """Go on with content that the connection could not take at once."""
        if self._outgoing is not None and self._step is _CONTENT and not self._is_lost:
            self._outgoing.writable()
            self._guard(self._send_content)
            self._flush()

    # What the connection says

    def received(self, chunk: bytes) -> None:
        """Take octets from the host."""
        self._heard = True
        if self._transcript is not None:
            self._transcript.heard(chunk)
        self._machine.receive(chunk)
        self._guard(self._advance)
        step = self._step
        if step is _MAIL or step is _CONTENT or (step is _FINAL and self._policy.is_lmtp):
            self._extend_patience(step)
        self._flush()

    def _extend_patience(self, step: Step) -> None:
        """Give the next reply its own time, where several follow each other without an event between them."""
        if self._ended is None or self._is_lost:
            return
        if step is _MAIL:
            self._restart(limits.RCPT_S)
        elif step is _FINAL:
            self._restart(limits.FINAL_DOT_S)
        elif self._machine.step is _FINAL:
            self._enter_final()

    def _restart(self, timeout_s: float) -> None:
        self._deadline.restart(min(timeout_s, max(0.0, self._patience_ends - self._clock.monotonic())))

    def _advance(self) -> None:
        machine = self._machine
        while (event := machine.next_event()) is not None:
            if self._ended is not None:
                self._advance_transaction(event)
            elif self._wanted is not None:
                self._advance_setup(event)
            else:  # 421 upon an idle session, or the answer to QUIT
                self._fail(ConnectionLost("the host ended the idle session", step=Step.IDLE))
            if self._is_lost or self._step is _TLS:
                return

    def _guard(self, step: Callable[[], None]) -> None:
        """The host's errors of protocol, and content that cannot be read, end the session, not the program."""
        try:
            step()
        except RemoteProtocolError as error:
            is_auth = self._step is Step.AUTH  # what was no reply may have been an echo
            self._fail(RemoteProtocolError(self._without_secrets(str(error))) if is_auth else error)
        except SmarthostError as error:
            self._fail(error)

    def _flush(self) -> None:
        output = self._machine.take_output()
        if output and not self._is_lost:
            if self._transcript is not None:
                self._transcript.sent(output)
            self._connection.write((output,))

    def _enter(self, step: Step, timeout_s: float) -> None:
        self._step = step
        self._entered_at = self._clock.monotonic()
        if self._set_up_ends is not None and self._wanted is not None:
            timeout_s = min(timeout_s, max(0.0, self._set_up_ends - self._clock.monotonic()))
        self._deadline.restart(timeout_s)

    def _expired(self) -> None:
        if self._retire is not None:
            self._leave_pool()
            return
        waited_s = self._clock.monotonic() - self._entered_at
        self._fail(DeadlinePassed(f"no answer at {self._step} within {waited_s:.0f} s", step=self._step))

    def ended(self) -> bool:
        """A host that has hung up hears nothing more."""
        return False

    def lost(self, why: Exception | None) -> None:
        """The connection is gone."""
        if isinstance(why, SmarthostError):
            self._fail(why)
        else:
            self._fail(ConnectionLost(f"connection lost at {self._step}", step=self._step))

    def _fail(self, error: SmarthostError) -> None:
        """End the session for good, and answer whoever waits for it."""
        if self._is_lost:
            return
        self._is_lost = True
        self._answer(SetupFailed(self._step, error))
        if self._ended is not None and not self._ended.done():
            machine = self._machine
            self._ended.set_result(TransactionLost(machine.step, error, machine.heard, not self._heard))
        self._leave_pool()
        self._deadline.cancel()
        self._connection.abort()

    def _answer(self, failure: SetupFailed) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not wanted.done():
            wanted.set_result(failure)

    # The end

    def rest(self, idle_s: float, retire: Callable[["Session"], None]) -> None:
        """Be idle for at most `idle_s`; `retire` is called when that is over, or when the host ends the session."""
        self._retire = retire
        self._deadline.restart(idle_s)

    def _leave_pool(self) -> None:
        retire, self._retire = self._retire, None
        if retire is not None:
            retire(self)

    def quit(self) -> None:
        """Say QUIT and close; RFC 5321 4.1.1.10 would have us wait for the answer, but nothing depends on it."""
        if self._is_lost:
            return
        if self._machine.is_idle:
            self._machine.quit()
            self._flush()
        self._is_lost = True
        self._deadline.cancel()
        self._connection.close()
