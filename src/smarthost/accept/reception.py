# SPDX-License-Identifier: MIT
"""Drives smtp.server over a connection: mail comes in, policy answers, and 250 goes out only after the store committed.

The one function that says 250 after data is `Reception._filed`. Any local failure is 4xx here, whatever it was; that is
why this edge may catch Exception. Knows neither queue nor routes: `add` and `draft` are handed in. Who may do what is
decided by accept.standing, what a message is by accept.transaction, how guessing is slowed by accept.authentication.
A crash before the commit leaves nothing but an orphan file, which the store sweeps; after it, the message is ours.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from smarthost.accept import replies, trace, transfers
from smarthost.accept.authentication import CHECK_S, SESSION_FAILURES, Decision, LoginGuard
from smarthost.accept.clients import Clients
from smarthost.accept.intake import FILING_S
from smarthost.accept.listeners import ReceptionTerms
from smarthost.accept.recent import Seldom
from smarthost.accept.session import Session
from smarthost.accept.standing import Door, Standing
from smarthost.accept.transaction import Transaction
from smarthost.mail.errors import StoreError
from smarthost.mail.hop import TlsFacts
from smarthost.mail.message import Message
from smarthost.mail.progress import Progress
from smarthost.mail.reply import Reply
from smarthost.mail.user import User
from smarthost.ports import Connection
from smarthost.smtp.wire import (
    AuthReceived,
    BdatReceived,
    ChunkEnded,
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
    StarttlsReceived,
    XclientReceived,
)
from smarthost.smtp.xclient import TEMPORARILY_UNAVAILABLE, UNAVAILABLE


class Lobby(Struct, frozen=True):
    """What all receptions have in common.

    `readmit` says whether a session is still welcome that turned out to be another client's (former, new address).
    """

    terms: ReceptionTerms
    clients: Clients
    guard: LoginGuard
    seldom: Seldom
    readmit: Callable[[str, str], Reply | None]
    forget: Callable[["Reception", str], None]


class _Login(Struct):
    """An AUTH that is not answered yet; `reply` is what will be said, once its delay is over."""

    reply: Reply | None = None


class Reception(Session):
    """One session with one client."""

    def __init__(self, connection: Connection, door: Door, lobby: Lobby) -> None:
        peer, port = connection.peer
        standing = Standing(door, lobby.clients, peer, connection.local[0], is_named=port != 0)
        Session.__init__(self, connection, door, standing, lobby.terms, lobby.seldom)  # super() takes 0.3 us in 3.11
        settings = door.terms.settings
        self._lobby = lobby
        self._stamp = trace.ReceivedStamp(standing.client, settings.hostname, is_lmtp=settings.is_lmtp)
        self._claimed_name = ""  # as a trusted proxy heard it in EHLO
        self._transaction = Transaction(lobby.terms.draft)
        self._filing: Message | None = None  # whose final dot is not answered yet
        self._login: _Login | None = None
        self._failed_logins = 0

    def __repr__(self) -> str:
        return f"<Reception from {self._standing.client}>"

    # What becomes of the session

    def _begin_anew(self, facts: TlsFacts) -> None:
        self._transaction.forget()
        self._claimed_name = ""
        self._stamp.secured(facts)
        try:
            self._standing.secured(facts)
        except StoreError as failure:
            self._seldom.note("error", "users cannot be read", "", why=str(failure))

    def _end_waiting(self) -> bool:
        if self._filing is not None:
            self._filed(self._filing, StoreError(f"not committed after {FILING_S:.0f} s; it may be yet"))
        elif self._login is not None:
            self._answer_login(self._login.reply or replies.AUTH_UNAVAILABLE)
        else:
            return False
        return True

    def _leave_nothing(self) -> None:
        self._login = None
        self._transaction.intake.drop()
        self._lobby.forget(self, self._standing.client)

    # The conversation

    def _answer(self, event: ServerEvent) -> None:
        _ANSWERS[type(event)](self, event)

    def _answer_hello(self, hello: HelloReceived) -> None:
        self._stamp.greeted(self._claimed_name or hello.name, extended=hello.extended)
        self._machine.offer = self._standing.offer  # what is offered counts from here on, and only there
        self._machine.accept_hello()

    def _answer_mail(self, mail: MailReceived) -> None:
        terms, standing = self._terms, self._standing
        failure = terms.refusal()
        if self._is_leaving:
            refusal: Reply | None = replies.SHUTTING_DOWN
        elif failure is not None:
            refusal = replies.for_store_failure(failure)
        elif mail.origin is not None:
            refusal = transfers.refuse_origin(mail.origin, terms.clock.wall())
        else:
            refusal = None if standing.sends_freely else standing.refuse_mail(mail.reverse_path)
            if refusal is not None and refusal.enhanced != "5.7.0":  # "log in first" is said to every honest client
                sender = "" if mail.reverse_path is None else mail.reverse_path.text
                who = {} if standing.user is None else {"user": replies.clean(standing.user.name)}
                self._note_refusal("sender refused", refusal, reverse_path=sender, **who)
        if refusal is not None:
            self._machine.reply(refusal)
            return
        self._transaction.begin(mail)
        self._machine.reply_encoded(replies.MAIL_OK_OCTETS, True)

    def _answer_rcpt(self, rcpt: RcptReceived) -> None:
        recipient = rcpt.recipient
        if rcpt.progress is not None:
            self._answer_moved_rcpt(rcpt, rcpt.progress)
            return
        refusal = self._standing.refuse_recipient(recipient)
        if refusal is not None:
            self._note_refusal("recipient refused", refusal, recipient=recipient.text)
            self._machine.reply(refusal)
            return
        self._transaction.add(self._door.policy.route_recipient(recipient), rcpt.request)
        self._machine.reply_encoded(replies.RCPT_OK_OCTETS, True)

    def _answer_moved_rcpt(self, rcpt: RcptReceived, progress: Progress) -> None:
        refusal = transfers.refuse_progress(rcpt.recipient, progress, self._terms.clock.wall())
        if refusal is not None:
            self._note_refusal("recipient refused", refusal, recipient=rcpt.recipient.text)
            self._machine.reply(refusal)
            return
        self._transaction.add_moved(rcpt.recipient, rcpt.request, progress)
        self._machine.reply_encoded(replies.RCPT_OK_OCTETS, True)

    def _note_refusal(self, what: str, refusal: Reply, **facts: object) -> None:
        if refusal.is_permanent:  # and soon ends the session; what is too much for a rate goes on and on
            self._note(what, **facts, reply=str(refusal))
        else:
            client, network = self._standing.client, self._standing.network
            self._seldom.note("warning", what, network, client=client, **facts, reply=str(refusal))

    def _answer_data(self, _: DataReceived) -> None:
        failure = self._terms.refusal()
        if failure is not None:
            self._machine.reply(replies.for_store_failure(failure))
            return
        self._begin_content()
        self._machine.accept_data()

    def _begin_content(self) -> None:
        self._content_ends = self._terms.clock.monotonic() + self._terms.limits.content_total_s

    def _take_content(self, content: ContentReceived) -> None:
        self._transaction.intake.take(content.octets)

    def _answer_chunk(self, chunk: ChunkEnded) -> None:
        """Answer a chunk that is not the last: go on, or stop sending what will not be taken."""
        failure = self._transaction.intake.failure or self._terms.refusal()
        if self._terms.clock.monotonic() > self._content_ends:
            self._refuse_content(replies.TOO_SLOW)
        elif failure is not None:
            self._refuse_content(replies.for_store_failure(failure))
        else:
            self._machine.reply(replies.chunk_taken(chunk.octets))

    def _answer_content(self, ended: ContentEnded) -> None:
        intake, defect = self._transaction.intake, ended.defect
        if intake.failure is not None:
            self._refuse_content(replies.for_store_failure(intake.failure))
        elif defect is not None:
            self._refuse_content(defect)
        elif intake.hops >= trace.RECEIVED_LIMIT and not self._transaction.is_moved:
            self._refuse_content(replies.MAIL_LOOP)
        else:
            self._file()

    def _refuse_content(self, reply: Reply) -> None:
        self._note("content refused", reverse_path=self._transaction.reverse_path, reply=str(reply))
        self._transaction.forget()
        self._machine.reply(reply)

    def _file(self) -> None:
        terms, standing = self._terms, self._standing
        user = standing.user
        message = self._transaction.hand_over(
            terms.next_id(),
            terms.clock.wall(),
            self._stamp,
            client=standing.client,
            user="" if user is None else user.name,
            signs=standing.signs,
            submits=self._door.submits_to,
        )
        self._filing = message
        self._deadline.restart(FILING_S)  # what we wait for now is ours to be late with

        def filed(failure: Exception | None) -> None:
            self._filed(message, failure)

        if terms.sign is None or not message.signs:
            terms.add(message, filed)
        else:
            terms.sign(message, lambda signed: terms.add(signed, filed))

    def _filed(self, message: Message, failure: Exception | None) -> None:
        """Answer the final dot: the one place that says 250 after data, and only after the store committed."""
        if self._is_over or self._filing is not message:
            return
        self._filing = None
        self._deadline.restart(self._terms.limits.command_timeout_s)
        if failure is None:
            self._machine.reply_encoded(replies.queued(message.id), True)
        else:
            client = self._standing.client
            self._terms.sink.note("error", "message not filed", id=message.id, client=client, why=str(failure))
            self._machine.reply(replies.for_store_failure(failure))
        self._resume()
        self._advance()

    def _broke(self, failure: Exception) -> None:
        self._filing = self._login = None
        self._terms.sink.note("error", "reception failed", client=self._standing.client, why=repr(failure))
        self._transaction.intake.drop()
        if self._machine.is_waiting:
            self._machine.reply(replies.STORE_FAILED)
        else:
            self._machine.reply_unasked(replies.LOCAL_ERROR)
            self._hang_up()

    def _end(self, hang_up: HangUp) -> None:
        self._note("client hung up upon", why=hang_up.why)
        self._hang_up()

    # Who the client is

    def _answer_starttls(self, _: StarttlsReceived) -> None:
        if not self._door.can_secure:
            self._machine.reply(replies.TLS_UNAVAILABLE)
            return
        self._machine.accept_starttls()
        self._flush()
        if not self._machine.is_closed:
            self._shake_hands()

    def _answer_auth(self, claim: AuthReceived) -> None:
        users = self._door.terms.users
        assert users is not None, "AUTH is offered only where there are users"
        login = self._login = _Login()
        name = claim.username
        self._deadline.restart(CHECK_S)
        self._lobby.guard.check(
            users, claim, self._standing.network, lambda decision: self._judged(login, decision, name)
        )

    def _judged(self, login: _Login, decision: Decision, name: str) -> None:
        """Take a decision, unless the client is gone or was answered; a failure has to wait."""
        if self._login is not login:
            return
        if decision.user is not None:
            self._standing.became(decision.user)
            self._stamp.authenticated()
        if not decision.delay_s:
            self._answer_login(decision.reply)
            return
        self._note("login failed", user=replies.clean(name))
        login.reply = decision.reply
        self._deadline.restart(decision.delay_s)

    def _answer_login(self, reply: Reply) -> None:
        self._login = None
        self._deadline.restart(self._command_timeout_s)
        machine = self._machine
        machine.reply(reply)
        if not reply.is_positive:
            self._failed_logins += 1
            if self._failed_logins >= SESSION_FAILURES and not machine.is_closed:
                machine.reply_unasked(replies.TOO_MANY_LOGINS)
                self._hang_up()
        self._resume()
        self._advance()

    def _vouched(self, name: str) -> User:
        """Give the user for whom a proxy vouches; of one who is unknown here, what he may send is its business too."""
        users = self._door.terms.users
        return (None if users is None else users.find_user(name)) or User(name, ("*",))

    def _answer_xclient(self, said: XclientReceived) -> None:
        """Take a trusted proxy's word for who the client is; the session begins anew."""
        attributes = dict(said.attributes)
        known = {name: text for name, text in attributes.items() if text not in (UNAVAILABLE, TEMPORARILY_UNAVAILABLE)}
        standing = self._standing
        former = standing.client
        # A client whose address the proxy does not know has no rights by address, not those of the proxy.
        client = known.get("ADDR", "unknown" if "ADDR" in attributes else former)
        login = known.get("LOGIN")
        standing.came_from(client, None if login is None else self._vouched(login))
        if "ADDR" in attributes or "LOGIN" in attributes:
            standing.spoken_for()
        self._transaction.forget()
        self._stamp.came_from(client)
        if login is not None:
            self._stamp.authenticated()
        self._claimed_name = known.get("HELO", "")
        self._machine.reply(self._lobby.readmit(former, client) or self._door.greeting)


# By class: six of them a message, which as `match` take 0.3 us each in 3.11.
_ANSWERS: Mapping[type[ServerEvent], Callable[[Reception, Any], None]] = {
    HelloReceived: Reception._answer_hello,
    MailReceived: Reception._answer_mail,
    RcptReceived: Reception._answer_rcpt,
    DataReceived: Reception._answer_data,
    BdatReceived: lambda reception, _: reception._begin_content(),
    ContentReceived: Reception._take_content,
    ChunkEnded: Reception._answer_chunk,
    ContentEnded: Reception._answer_content,
    ResetReceived: lambda reception, _: reception._transaction.forget(),
    StarttlsReceived: Reception._answer_starttls,
    AuthReceived: Reception._answer_auth,
    XclientReceived: Reception._answer_xclient,
    QuitReceived: lambda reception, _: reception._hang_up(),
    HangUp: Reception._end,
}
