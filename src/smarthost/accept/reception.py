# SPDX-License-Identifier: MIT
"""Drives smtp.server over a connection: mail comes in, policy answers, and 250 goes out only after the store committed.

The one function that says 250 after data is `Reception._filed`. Any local failure is 4xx here, whatever it was; that is
why this edge may catch Exception. Knows neither queue nor routes: `add` and `draft` are handed in.
A crash before the commit leaves nothing but an orphan file, which the store sweeps; after it, the message is ours.
"""

from collections.abc import Callable

from msgspec import Struct

from smarthost.accept import replies, trace
from smarthost.accept.intake import FILING_S, Intake
from smarthost.accept.policy import RelayPolicy
from smarthost.mail.address import Address
from smarthost.mail.content import Draft
from smarthost.mail.envelope import NULL_REVERSE_PATH, Envelope
from smarthost.mail.errors import StoreError
from smarthost.mail.message import Message
from smarthost.mail.reply import Reply
from smarthost.ports import Clock, Connection, Sink
from smarthost.smtp.limits import Limits
from smarthost.smtp.server import ServerSettings, SmtpServer
from smarthost.smtp.wire import (
    ContentEnded,
    ContentReceived,
    DataReceived,
    HangUp,
    HelloReceived,
    MailReceived,
    QuitReceived,
    RcptReceived,
    ResetReceived,
    ServerEvent,
)

BUFFERED_OCTETS = 256 * 1024  # what a client may pipeline while it waits for a reply
DRAIN_STEP_S = 0.02


class ReceptionTerms(Struct, frozen=True):
    """What all receptions of one listener share.

    `add` files a message and calls back with None once it is durable, or with what prevented it. `refusal` says why new
    mail cannot be taken now, or None.
    """

    settings: ServerSettings
    limits: Limits
    policy: RelayPolicy
    clock: Clock
    sink: Sink
    next_id: Callable[[], str]
    add: Callable[[Message, Callable[[Exception | None], None]], None]
    draft: Callable[[], Draft]
    refusal: Callable[[], Exception | None]


class Receptions:
    """All open sessions with clients, and how many there may be; in all and for one client address."""

    def __init__(self, terms: ReceptionTerms) -> None:
        self.terms = terms
        self.greeting = replies.greeting(terms.settings.hostname)
        self._open: dict[Reception, None] = {}  # not a set: its order is reproducible
        self._by_client: dict[str, int] = {}
        self._is_closing = False

    def __len__(self) -> int:
        return len(self._open)

    def accept(self, connection: Connection) -> "Reception":
        """Begin a session; it greets, or explains why not and closes."""
        client = connection.peer[0]
        refusal = self._refusal(client)
        reception = Reception(connection, self, refusal)
        self._open[reception] = None
        self._by_client[client] = self._by_client.get(client, 0) + 1
        reception.begin()
        return reception

    def _refusal(self, client: str) -> Reply | None:
        limits = self.terms.limits
        if self._is_closing:
            return replies.SHUTTING_DOWN
        if len(self._open) >= limits.connections:
            return replies.TOO_BUSY
        if self._by_client.get(client, 0) >= limits.connections_per_client:
            return replies.TOO_MANY_CONNECTIONS
        failure = self.terms.refusal()
        return None if failure is None else replies.for_store_failure(failure, at_banner=True)

    def forget(self, reception: "Reception", client: str) -> None:
        """A session is over."""
        self._open.pop(reception, None)
        left = self._by_client.get(client, 0) - 1
        if left > 0:
            self._by_client[client] = left
        else:
            self._by_client.pop(client, None)

    async def drain(self, grace_s: float) -> None:
        """Greet nobody any more, send 421 to who is between transactions, wait for the others at most `grace_s`."""
        self._is_closing = True
        clock = self.terms.clock
        until = clock.monotonic() + grace_s
        for reception in list(self._open):
            reception.leave()
        while self._open and clock.monotonic() < until:
            await clock.sleep(DRAIN_STEP_S)
        for reception in list(self._open):
            reception.drop()


class Reception:
    """One session with one client."""

    def __init__(self, connection: Connection, receptions: Receptions, refusal: Reply | None) -> None:
        terms = receptions.terms
        self._connection = connection
        self._receptions = receptions
        self._terms = terms
        self._refused_with = refusal
        self._client = connection.peer[0]
        self._may_relay = terms.policy.may_relay(self._client)
        self._machine = SmtpServer(terms.settings)
        self._stamp = trace.ReceivedStamp(self._client, terms.settings.hostname)
        self._mail: MailReceived | None = None
        self._recipients: list[Address] = []
        self._intake = Intake(terms.draft)
        self._filing: Message | None = None  # whose final dot is not answered yet
        self._transaction_ends = 0.0
        self._is_over = False
        self._is_paused = False
        self._is_leaving = False
        self._command_timeout_s = terms.limits.command_timeout_s
        self._deadline = terms.clock.deadline(self._command_timeout_s, self._timed_out)

    def __repr__(self) -> str:
        return f"<Reception from {self._client}>"

    def begin(self) -> None:
        """Attach to the connection and greet."""
        self._connection.attach(self)
        if self._refused_with is not None:
            self._machine.greet(self._refused_with)
            self._hang_up()
            return
        self._machine.greet(self._receptions.greeting)
        self._flush()

    # What the connection says

    def received(self, chunk: bytes) -> None:
        """Take octets from the client."""
        if self._is_over:
            return
        machine = self._machine
        machine.receive(chunk)
        has_moved = self._advance()
        if self._is_over:
            return
        if machine.is_receiving_content:
            left = self._transaction_ends - self._terms.clock.monotonic()
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

    def secured(self, facts: object) -> None:
        """Never called: TLS towards clients comes with the listeners' modes."""
        raise AssertionError("no listener offers TLS yet")

    def lost(self, why: Exception | None) -> None:
        """The client is gone; a message not yet complete is forgotten, one being filed is filed all the same."""
        self._is_over = True
        self._deadline.cancel()
        self._intake.drop()
        self._receptions.forget(self, self._client)

    def _timed_out(self) -> None:
        if self._filing is not None:
            self._filed(self._filing, StoreError(f"not committed after {FILING_S:.0f} s; it may be yet"))
            return
        self._machine.reply_unasked(replies.TIMED_OUT)
        self._hang_up()

    def leave(self) -> None:
        """Say 421 and close, at once or after the transaction under way."""
        self._is_leaving = True
        if not self._machine.in_transaction and not self._machine.is_waiting and not self._is_over:
            self._machine.reply_unasked(replies.SHUTTING_DOWN)
            self._hang_up()

    def drop(self) -> None:
        """End the session at once; a message being filed is filed all the same, its client never hears so."""
        self._is_over = True
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
        if self._is_leaving:
            self.leave()
        return self._flush() or has_moved

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

    def _answer(self, event: ServerEvent) -> None:
        match event:
            case RcptReceived(recipient):
                self._answer_rcpt(recipient)
            case ContentReceived(octets):
                self._intake.take(octets)
            case ContentEnded(defect):
                self._answer_content(defect)
            case MailReceived():
                self._answer_mail(event)
            case DataReceived():
                self._answer_data()
            case HelloReceived(extended, name):
                self._stamp.greeted(name, extended=extended)
                self._machine.accept_hello()
            case ResetReceived():
                self._forget_transaction()
            case QuitReceived():
                self._hang_up()
            case HangUp(why):
                self._terms.sink.note("warning", "client hung up upon", client=self._client, why=why)
                self._hang_up()

    def _answer_mail(self, mail: MailReceived) -> None:
        self._forget_transaction()
        if self._is_leaving:
            self._machine.reply(replies.SHUTTING_DOWN)
            return
        failure = self._terms.refusal()
        if failure is not None:
            self._machine.reply(replies.for_store_failure(failure))
            return
        self._mail = mail
        self._machine.reply_encoded(replies.MAIL_OK_OCTETS, True)

    def _answer_rcpt(self, recipient: Address) -> None:
        policy = self._terms.policy
        refusal = policy.refuse_recipient(recipient, self._client, may_relay=self._may_relay)
        if refusal is not None:
            self._terms.sink.note(
                "warning", "recipient refused", client=self._client, recipient=recipient.text, reply=str(refusal)
            )
            self._machine.reply(refusal)
            return
        self._recipients.append(policy.route_recipient(recipient))
        self._machine.reply_encoded(replies.RCPT_OK_OCTETS, True)

    def _answer_data(self) -> None:
        failure = self._terms.refusal()
        if failure is not None:
            self._machine.reply(replies.for_store_failure(failure))
            return
        self._transaction_ends = self._terms.clock.monotonic() + self._terms.limits.content_total_s
        self._machine.accept_data()

    def _answer_content(self, defect: Reply | None) -> None:
        if self._intake.failure is not None:
            self._refuse_content(replies.for_store_failure(self._intake.failure))
        elif defect is not None:
            self._refuse_content(defect)
        elif self._intake.hops >= trace.RECEIVED_LIMIT:
            self._refuse_content(replies.MAIL_LOOP)
        else:
            self._file()

    def _refuse_content(self, reply: Reply) -> None:
        mail = self._mail
        reverse_path = mail.reverse_path.text if mail is not None and mail.reverse_path is not None else ""
        self._terms.sink.note(
            "warning", "content refused", client=self._client, reverse_path=reverse_path, reply=str(reply)
        )
        self._forget_transaction()
        self._machine.reply(reply)

    def _file(self) -> None:
        terms, mail = self._terms, self._mail
        assert mail is not None, "content follows MAIL"
        recipients = tuple(self._recipients)
        now = terms.clock.wall()
        id = terms.next_id()
        reverse_path = mail.reverse_path.text if mail.reverse_path is not None else NULL_REVERSE_PATH
        content = self._intake.hand_over()
        envelope = Envelope(reverse_path, recipients, mail.body, mail.smtputf8)
        prefix = self._stamp.write(id, now, recipients, smtputf8=mail.smtputf8)
        message = Message(id, now, envelope, prefix, content, self._client, reverse_path or self._client)
        self._forget_transaction()
        self._filing = message
        self._deadline.restart(FILING_S)  # what we wait for now is ours to be late with
        terms.add(message, lambda failure: self._filed(message, failure))

    def _filed(self, message: Message, failure: Exception | None) -> None:
        """Answer the final dot: the one place that says 250 after data, and only after the store committed."""
        if self._is_over or self._filing is not message:
            return
        self._filing = None
        self._deadline.restart(self._terms.limits.command_timeout_s)
        if failure is None:
            self._machine.reply_encoded(replies.queued(message.id), True)
        else:
            self._terms.sink.note("error", "message not filed", id=message.id, client=self._client, why=str(failure))
            self._machine.reply(replies.for_store_failure(failure))
        self._resume()
        self._advance()

    def _broke(self, failure: Exception) -> None:
        self._filing = None
        self._terms.sink.note("error", "reception failed", client=self._client, why=repr(failure))
        self._intake.drop()
        if self._machine.is_waiting:
            self._machine.reply(replies.STORE_FAILED)
        else:
            self._machine.reply_unasked(replies.LOCAL_ERROR)
            self._hang_up()

    # What a transaction leaves behind

    def _forget_transaction(self) -> None:
        self._mail = None
        self._recipients = []
        self._intake.drop()
