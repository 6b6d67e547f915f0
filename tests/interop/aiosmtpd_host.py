# SPDX-License-Identifier: MIT
"""aiosmtpd as the far side: on a loop of its own, on port 0, with TLS and a password where wanted."""

import asyncio
import ssl
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from tests.live.rig import WAIT_S


class Arrived(NamedTuple):
    """What aiosmtpd made of a message; `content` is its `original_content`: as received, dots unstuffed."""

    mail_from: str
    rcpt_tos: tuple[str, ...]
    content: bytes
    was_in_tls: bool
    login: str


class LongLineSMTP(SMTP):
    """aiosmtpd as it is refuses lines of more than 1,001 octets (RFC 5321 4.5.3.1.6)."""

    line_length_limit = 1 << 20


class MailStore(LMTP):
    """aiosmtpd in LMTP."""

    line_length_limit = 1 << 20


class AiosmtpdHost:
    """Listens on loopback; a context manager. `login`: (name, password) that must be given; `refused`: to RCPT.

    `unkept`: recipients for whom content is refused; in LMTP only, where each has his own answer (RFC 2033 4.2).
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        login: tuple[str, str] | None = None,
        smtputf8: bool = True,
        protocol: type[SMTP] = LongLineSMTP,
        refused: Sequence[str] = (),
        auth_exclude: Sequence[str] = (),
        unkept: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.arrived: list[Arrived] = []
        self.refused = refused
        self._auth_exclude = auth_exclude
        self._unkept = unkept
        self.port = 0
        self._tls = tls
        self._implicit_tls = implicit_tls
        self._login = login
        self._smtputf8 = smtputf8
        self._protocol = protocol
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: None)  # of connections that we break on purpose
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(WAIT_S)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _listen(self) -> asyncio.Server:
        return await self._loop.create_server(self._make, "127.0.0.1", 0, ssl=self._tls if self._implicit_tls else None)

    def _make(self) -> SMTP:
        return self._protocol(
            self,
            hostname="aiosmtpd.example.net",
            data_size_limit=64 << 20,
            enable_SMTPUTF8=self._smtputf8,
            tls_context=None if self._implicit_tls else self._tls,
            require_starttls=self._tls is not None and not self._implicit_tls,
            auth_require_tls=not self._implicit_tls and self._tls is not None,  # it does not know of implicit TLS
            authenticator=self._check,
            auth_exclude_mechanism=self._auth_exclude,
            loop=self._loop,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(WAIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0.05)  # transports close in the loop's next turns

    def _check(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: object) -> AuthResult:
        is_right = isinstance(given, LoginPassword) and (given.login.decode(), given.password.decode()) == self._login
        return AuthResult(success=is_right, handled=False, auth_data=given)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Called by aiosmtpd."""
        if self._login is not None and not session.authenticated:
            return "530 5.7.0 Log in first"
        if address in self.refused:
            return "550 5.1.1 No such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Called by aiosmtpd."""
        login: Any = session.auth_data
        with self._news:
            self.arrived.append(
                Arrived(
                    envelope.mail_from or "",
                    tuple(envelope.rcpt_tos),
                    envelope.original_content or b"",
                    session.ssl is not None or self._implicit_tls,
                    login.login.decode() if isinstance(login, LoginPassword) else "",
                )
            )
            self._news.notify_all()
        if isinstance(server, LMTP):  # it pushes what it is given: all replies at once
            return "\r\n".join([self._unkept.get(address, "250 2.0.0 Kept") for address in envelope.rcpt_tos])
        return "250 2.0.0 Kept"

    def wait_for_recipient(self, address: str) -> Arrived:
        """Wait for a message to this recipient. Raises: AssertionError: it did not come, or came twice."""
        with self._news:
            if not self._news.wait_for(lambda: self._messages_to(address), WAIT_S):
                raise AssertionError(f"within {WAIT_S} s nothing for {address} arrived")
            (message,) = self._messages_to(address)
        return message

    def _messages_to(self, address: str) -> list[Arrived]:
        return [message for message in self.arrived if address in message.rcpt_tos]
