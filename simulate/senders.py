# SPDX-License-Identifier: MIT
"""Clients that want to be rid of their mail: each tries again until it hears 250, as the RFC asks of it.

Says what scenario.Posting says, remembers each try in the history, and tells the watch what it heard. A client waits
as long as RFC 5321 4.5.3.2 has it wait, so that a relay that does not answer is noticed.
"""

from collections.abc import Callable

from simulate.history import Acknowledged, History, Mail, Try
from simulate.scenario import Posting
from smarthost.mail.errors import ConnectFailed
from smarthost.ports import Clock
from smarthost.testing.clients import ScriptedClient
from smarthost.testing.network import Faults, MemoryNetwork
from smarthost.testing.world import DOOR

PATIENCE_S = 620.0  # RFC 5321 4.5.3.2.6: ten minutes for the reply to the final dot


class NoAnswer(Exception):
    """The relay neither answered nor hung up."""


class Senders:
    """Sends what is posted. `said` is told each reply to well-formed mail, `acknowledged` each (id, recipient)."""

    def __init__(
        self,
        network: MemoryNetwork,
        clock: Clock,
        history: History,
        note: Callable[[str], None],
        said: Callable[[str], None],
        acknowledged: Callable[[str, str], None],
    ) -> None:
        self._network = network
        self._clock = clock
        self._history = history
        self._note = note
        self._said = said
        self._acknowledged = acknowledged
        self.is_over = False  # who has not been heard by then gives up

    async def send(self, posting: Posting) -> None:
        """Try until it is taken for each recipient that the relay would take."""
        mail = Mail(
            token=posting.token,
            reverse_path=posting.reverse_path,
            recipients=posting.recipients,
            silent=posting.silent,
            content=_write(posting),
        )
        self._history.mails[mail.token] = mail
        cut_at = posting.cut_at
        while not self.is_over:
            if await self._try(mail, cut_at):
                return
            cut_at = None
            await self._clock.sleep(posting.again_s)

    async def _try(self, mail: Mail, cut_at: int | None) -> bool:
        now = self._clock.monotonic()
        tried = Try(at=now)
        mail.tries = [*mail.tries, tried]
        try:
            client = await self._connect(cut_at)
        except ConnectFailed:
            return False
        try:
            return await self._converse(client, mail, tried)
        finally:
            client.close()

    async def _connect(self, cut_at: int | None) -> ScriptedClient:
        self._network.faults[DOOR] = Faults(reset_after=cut_at)
        connection = await self._network.dial(*DOOR, source="", timeout_s=10.0)
        return ScriptedClient(connection)

    async def _converse(self, client: ScriptedClient, mail: Mail, tried: Try) -> bool:
        banner = await self._hear(client)
        self._said(banner)
        if not banner.startswith("220"):
            return False
        client.write(b"EHLO client.example\r\n")
        if not (await self._hear(client)).startswith("250"):
            return False
        commands = [f"MAIL FROM:<{mail.reverse_path}>", *(_rcpt(mail, each) for each in mail.recipients), "DATA"]
        client.write("".join(f"{each}\r\n" for each in commands).encode())
        heard = [await self._hear(client) for _ in commands]
        self._judge_envelope(heard)
        if not heard[-1].startswith("354"):
            return False
        tried.ended_content = True
        client.write((b"\r\n" + mail.content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
        tried.reply = await self._hear(client)
        self._said(tried.reply)
        self._note(f"client heard for {mail.token}: {tried.reply}")
        if not tried.reply.startswith("250"):
            return False
        tried.id = tried.reply.rpartition(" ")[2]
        taken = [each for each, said in zip(mail.recipients, heard[1:-1], strict=True) if said.startswith("250")]
        for each in taken:
            self._history.acknowledged[tried.id, each] = Acknowledged(
                at=self._clock.monotonic(),
                token=mail.token,
                is_owed=bool(mail.reverse_path) and each not in mail.silent,
            )
            self._acknowledged(tried.id, each)
        client.write(b"QUIT\r\n")
        await self._hear(client)
        return len(taken) == len(mail.recipients)

    def _judge_envelope(self, heard: list[str]) -> None:
        """Tell what was said; after a refusal the rest of the pipeline is out of order, and told so."""
        mail, *recipients, data = heard
        self._said(mail)
        if mail.startswith("250"):
            for each in recipients:
                self._said(each)
            if any(each.startswith("250") for each in recipients):
                self._said(data)

    async def _hear(self, client: ScriptedClient) -> str:
        """Wait for a reply; "" once the connection is lost. Raises: NoAnswer."""
        alarm = self._clock.deadline(PATIENCE_S, client.close)
        began = self._clock.monotonic()
        reply = await client.hear()
        alarm.cancel()
        if not reply and self._clock.monotonic() - began >= PATIENCE_S:
            raise NoAnswer(f"a client has waited {PATIENCE_S:.0f} s for a reply")
        return reply


def _rcpt(mail: Mail, recipient: str) -> str:
    return f"RCPT TO:<{recipient}>{' NOTIFY=NEVER' if recipient in mail.silent else ''}"


def _write(posting: Posting) -> bytes:
    head = f"Subject: {posting.token} \r\nMessage-ID: <{posting.token}@client.example>\r\n\r\n.\r\n".encode()
    return head + (b"x" * 78 + b"\r\n") * (posting.body_octets // 80) + b"..end\r\n"
