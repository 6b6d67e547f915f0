# SPDX-License-Identifier: MIT
"""aiosmtpd as the far side, on a loop and thread of its own; TLS and a password where wanted; it answers as scripted.

Keeps what it said 250 to, and for each connection what a relay's limits are about. `on_step` hears of each thing a
client says, and of each reply to content, on the loop's thread and before the host goes on: the place to kill from.
Shares no code with smarthost.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from tests.live.rig import WAIT_S

logging.getLogger("mail.log").setLevel(logging.ERROR)  # aiosmtpd warns of its own ways at each login
_ROUNDS = 20  # ports tried until one is free on all addresses
Rule = Callable[[str], str | None]


class Arrived(NamedTuple):
    """A message that was said 250 to. `login`: the mechanism and the name, or both empty."""

    mail_from: str
    recipient: str
    content: bytes
    is_in_tls: bool
    login: tuple[str, str]


@dataclass
class Visit:
    """One connection. `in_flight`: the recipient whose content came and whose client has not gone on since, or ""."""

    steps: list[str] = field(default_factory=list)
    messages: int = 0
    in_flight: str = ""
    is_over: bool = False


class Host:
    """Serves on a listening socket; a context manager. `answers`: verb ("." is the final dot) -> rule from the address

    to a reply; None: the usual one; a 421 also hangs up, "" hangs up without a word.
    """

    def __init__(
        self,
        listening: socket.socket,
        *,
        tls: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
        mechanisms_refused: Sequence[str] = (),
        on_step: Callable[[str, str], None] = lambda verb, subject: None,
    ) -> None:
        self.arrived: list[Arrived] = []
        self.visits: list[Visit] = []
        self.most_at_once = 0
        self.answers: dict[str, Rule] = {}
        self.on_step = on_step
        self.port: int = listening.getsockname()[1]
        self._listening = listening
        self._tls = tls
        self._login = login
        self._mechanisms_refused = mechanisms_refused
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: None)  # of connections that are broken on purpose
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(WAIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(self._make, sock=self._listening)

    async def _end(self) -> None:
        self._server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0.02)  # transports close in the loop's next turns

    def _make(self) -> SMTP:
        return _HeardSMTP(
            self,
            hostname="host.example.net",
            data_size_limit=64 << 20,
            tls_context=self._tls,
            require_starttls=self._tls is not None,
            auth_required=self._login is not None and self._tls is not None,  # else it warns
            auth_require_tls=self._tls is not None,
            auth_exclude_mechanism=self._mechanisms_refused,
            authenticator=self._check,
            loop=self._loop,
        )

    def _check(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: object) -> AuthResult:
        is_right = isinstance(given, LoginPassword) and (given.login.decode(), given.password.decode()) == self._login
        return AuthResult(success=is_right, handled=False, auth_data=(mechanism, given))

    # -- what it is told

    def wait_for(self, is_true: Callable[[], object], what: str) -> None:
        """Wait, woken by each step of a client. Raises: AssertionError: it did not become true."""
        with self._news:
            if not self._news.wait_for(lambda: bool(is_true()), WAIT_S):
                raise AssertionError(f"not within {WAIT_S} s: {what}; {self}")

    def counted(self) -> Counter[str]:
        """Count what arrived by recipient."""
        return Counter(message.recipient for message in list(self.arrived))

    def take_in_flight(self) -> set[str]:
        """Give, once, the recipients of messages of which the client may not have known that they are here."""
        taken = {visit.in_flight for visit in self.visits} - {""}
        for visit in self.visits:
            visit.in_flight = ""
        return taken

    def is_quiet(self) -> bool:
        """Has everybody gone, or said QUIT?"""
        return all(visit.is_over for visit in self.visits)

    def __repr__(self) -> str:
        return f"{len(self.arrived)} messages, last visits {self.visits[-5:]}"

    # -- called on the loop's thread

    def came(self) -> Visit:
        """Somebody has connected."""
        with self._news:
            visit = Visit()
            self.visits.append(visit)
            self.most_at_once = max(self.most_at_once, sum(not each.is_over for each in self.visits))
        self.step(visit, "CONNECT")
        return visit

    def step(self, visit: Visit, verb: str, subject: str = "") -> None:
        """A client has said this; what it was told of its message before, it has heard."""
        with self._news:
            visit.steps.append(verb)
            if verb != "ANSWERED":
                visit.in_flight = subject if verb == "." else ""
            visit.is_over = visit.is_over or verb == "QUIT"
            self._news.notify_all()
        self.on_step(verb, subject)

    def went(self, visit: Visit) -> None:
        """Somebody is gone; what is in flight stays so."""
        with self._news:
            visit.is_over = True
            self._news.notify_all()

    def answer(self, server: SMTP, verb: str, subject: str) -> str | None:
        """Give what the script says, or None."""
        rule = self.answers.get(verb)
        answer = rule(subject) if rule is not None else None
        transport: Any = server.transport
        if answer == "":
            transport.abort()
        elif answer is not None and answer.startswith("421"):
            self._loop.call_soon(transport.close)
        return answer

    async def handle_MAIL(
        self, server: Any, session: Session, envelope: Envelope, address: str | None, options: list[str]
    ) -> str:
        """Called by aiosmtpd."""
        self.step(server.visit, "MAIL", address or "")
        answer = self.answer(server, "MAIL", address or "")
        if answer is None:
            envelope.mail_from = address
        return answer or "250 2.1.0 Ok"

    async def handle_RCPT(
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Called by aiosmtpd."""
        self.step(server.visit, "RCPT", address)
        answer = self.answer(server, "RCPT", address)
        if answer is None:
            envelope.rcpt_tos.append(address)
        return answer or "250 2.1.5 Ok"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Called by aiosmtpd."""
        (recipient,) = envelope.rcpt_tos  # a queue directory has one for each message
        visit: Visit = server.visit
        visit.messages += 1
        answer = self.answer(server, ".", recipient)
        if answer is None:
            mechanism, given = session.auth_data or ("", None)
            login = (mechanism, given.login.decode()) if given is not None else ("", "")
            sender = "" if envelope.mail_from == "<>" else envelope.mail_from or ""  # how aiosmtpd writes the null path
            content = envelope.original_content or b""
            self.arrived.append(Arrived(sender, recipient, content, session.ssl is not None, login))
        self.step(visit, ".", recipient if answer is None else "")
        self._loop.call_soon(self.step, visit, "ANSWERED", recipient)
        return answer or "250 2.0.0 Kept"

    async def handle_RSET(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Called by aiosmtpd."""
        self.step(server.visit, "RSET")
        return "250 2.0.0 Ok"

    async def handle_QUIT(self, server: Any, session: Session, envelope: Envelope) -> str:
        """Called by aiosmtpd."""
        self.step(server.visit, "QUIT")
        return "221 2.0.0 Bye"


class _HeardSMTP(SMTP):
    line_length_limit = 1 << 20  # aiosmtpd as it is refuses lines of more than 1,001 octets (RFC 5321 4.5.3.1.6)
    visit: Visit | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.visit is None:  # else it is the same connection, in TLS from now on
            self.visit = self.event_handler.came()

    def connection_lost(self, error: Exception | None) -> None:
        self.event_handler.went(self.visit)
        super().connection_lost(error)

    async def smtp_HELO(self, hostname: str) -> None:
        self.event_handler.step(self.visit, "HELO")
        await super().smtp_HELO(hostname)

    async def smtp_EHLO(self, hostname: str) -> None:
        self.event_handler.step(self.visit, "EHLO")
        await super().smtp_EHLO(hostname)

    async def smtp_AUTH(self, arg: str) -> None:
        self.event_handler.step(self.visit, "AUTH")
        await super().smtp_AUTH(arg)

    async def smtp_DATA(self, arg: str) -> None:
        self.event_handler.step(self.visit, "DATA")
        await super().smtp_DATA(arg)


def listening(*addresses: str) -> list[socket.socket]:
    """Listen on the same free port of each of these addresses."""
    for _ in range(_ROUNDS):
        made: list[socket.socket] = []
        try:
            for address in addresses:
                made.append(socket.create_server((address, made[0].getsockname()[1] if made else 0)))
        except OSError:
            for each in made:
                each.close()
            continue
        return made
    raise AssertionError(f"no port is free on all of {addresses}")
