# SPDX-License-Identifier: MIT
"""Mail exchangers with moods: each behaves as scenario.HostTrouble says, and tells the history what it took.

Speaks through testing.peers, so none of the relay's own SMTP code; what it took is the ledger against which the relay
is judged. Whether a reply was read is asked of the network, which knows.
"""

import asyncio
import random
import re
from collections.abc import Callable

from simulate.history import Copy, History
from simulate.scenario import HostTrouble, Mood, host_name, is_bad
from smarthost.ports import Connection
from smarthost.testing.network import Faults, MemoryConnection, MemoryNetwork
from smarthost.testing.peers import ExchangerSession, ScriptedExchanger, TakenMessage

GREY_S = 240.0  # until a greylisted recipient is welcome
_ID = re.compile(rb"(?:\bid |^Message-ID: <)([0-9a-z]{16})\b", re.MULTILINE)
_AFTER_CONTENT = (Mood.TAKES_AND_CUTS, Mood.TAKES_AND_HALF_REPLIES)


class Host(ScriptedExchanger):
    """One exchanger at one address. `took` is told each message, with the id it carries."""

    def __init__(
        self,
        address: str,
        seed: int,
        network: MemoryNetwork,
        history: History,
        note: Callable[[str], None],
        took: Callable[[TakenMessage, list[Copy]], None],
    ) -> None:
        super().__init__(name=host_name(address))
        self.address = address
        self.trouble: HostTrouble | None = None
        self.random = random.Random(f"host {address} {seed}")
        self._troubles: list[HostTrouble] = []
        self._network = network
        self._history = history
        self._note = note
        self._took = took
        self._grey: dict[tuple[str, str], float] = {}
        self._alive: dict[_Session, None] = {}

    @property
    def mood(self) -> Mood:
        return Mood.WELL if self.trouble is None else self.trouble.mood

    def begin(self, trouble: HostTrouble) -> None:
        """Be in this mood; what began last counts."""
        self._troubles.append(trouble)
        self._turn()
        if trouble.mood in (Mood.REFUSES, Mood.BLACK_HOLE):
            for session in list(self._alive):
                session.die(is_silent=trouble.mood is Mood.BLACK_HOLE)

    def end(self, trouble: HostTrouble) -> None:
        """Leave it."""
        self._troubles.remove(trouble)
        self._turn()

    def recover(self) -> None:
        """Be well for good."""
        self._troubles.clear()
        self._turn()

    def _turn(self) -> None:
        self.trouble = trouble = self._troubles[-1] if self._troubles else None
        octets = 0 if trouble is None else int(trouble.n)
        self._network.faults[self.address, 25] = Faults(
            refuse=self.mood is Mood.REFUSES,
            black_hole=self.mood is Mood.BLACK_HOLE,
            reset_after=octets if self.mood is Mood.RESETS else None,
            stall_after=octets if self.mood is Mood.STALLS else None,
        )
        self._note(f"host {self.address} {self.mood.value} {'' if trouble is None else trouble.step}")

    def accept(self, connection: Connection) -> "ExchangerSession":
        assert isinstance(connection, MemoryConnection), "on a MemoryNetwork"
        session = _Session(self, connection)
        self._alive[session] = None
        session.answer("banner", "")
        session.flush()
        return session

    def gone(self, session: "_Session") -> None:
        """A session is over."""
        self._alive.pop(session, None)

    def choose(self, step: str, argument: str, reverse_path: str) -> str:
        """Give the text to answer at a step, by the mood."""
        trouble = self.trouble
        if step == "rcpt" and is_bad(argument):
            return "550 5.1.1 no such user"
        if trouble is None:
            return self.choose_reply(step, argument)
        if trouble.mood is Mood.GREYLISTS and step == "rcpt":
            now = asyncio.get_running_loop().time()
            if now - self._grey.setdefault((reverse_path, argument), now) < GREY_S:
                return "450 4.7.1 greylisted, come again"
        is_step = step == trouble.step or (trouble.step == "ehlo" and step == "helo")
        if trouble.mood is Mood.CLOSING and is_step:
            return "421 4.3.2 not now"
        if trouble.mood is Mood.TEMPORARY and is_step:
            return "451 4.3.0 come again"
        if trouble.mood is Mood.BANS and is_step:
            return "554 5.7.1 not from you"
        if trouble.mood is Mood.REJECTS and step == "dot" and self.random.random() * trouble.n < 1.0:
            return "554 5.6.0 not this"
        return self.choose_reply(step, argument)

    def take(self, session: ExchangerSession, message: TakenMessage) -> None:
        """Keep a message: from here on it is ours."""
        assert isinstance(session, _Session), "accept made it"
        if not message.recipients:  # a lone dot
            return
        id = _id_of(message)
        now = asyncio.get_running_loop().time()
        copies = [
            Copy(at=now, id=id, recipient=each, address=self.address, was_heard=session.promise())
            for each in message.recipients
        ]
        self._note(f"host {self.address} takes {id} for {len(copies)}: {copies[0].recipient}")
        self._took(message, copies)

    def reject(self, message: TakenMessage) -> None:
        """This was refused for good after the content."""
        id = _id_of(message)
        self._history.refused.update({(id, each): None for each in message.recipients})


def _id_of(message: TakenMessage) -> str:
    found = _ID.search(message.content)
    return "" if found is None else found[1].decode()


class _Session(ExchangerSession):
    """One connection to a Host."""

    def __init__(self, host: Host, connection: MemoryConnection) -> None:
        super().__init__(host, connection)
        self._host = host
        self._line = connection
        self._free_at = 0.0
        self._has_mail = False
        self._promises: list[_Promise] = []

    def die(self, *, is_silent: bool) -> None:
        """The machine is gone."""
        self._deaf = True
        if not is_silent:
            self._line.abort()

    def promise(self) -> Callable[[], bool]:
        """Give what will say whether the reply that is about to be written was read."""
        promise = _Promise(self._line)
        self._promises.append(promise)
        return promise.was_heard

    def answer(self, step: str, argument: str) -> bool:
        """Reply at a step as the host's mood has it; True if the reply is positive and was, or will be, written."""
        trouble, mood = self._host.trouble, self._host.mood
        is_step = trouble is not None and (step == trouble.step or (trouble.step == "ehlo" and step == "helo"))
        if self._deaf:
            return False
        if mood is Mood.BLACK_HOLE or (mood is Mood.SILENT and is_step):
            self._deaf = True
            return step == "dot" and self._host.random.random() < 0.5  # it may have taken it all the same
        if mood is Mood.HANGS_UP and is_step:
            self._hang_up(b"")
            return False
        if step == "dot" and mood in _AFTER_CONTENT:
            self._hang_up(b"250 2." if mood is Mood.TAKES_AND_HALF_REPLIES else b"")
            return True
        text = self._object(step) or self._host.choose(step, argument, self._reverse_path)
        if step in ("ehlo", "helo", "mail", "rset", "dot"):
            self._has_mail = step == "mail" and text.startswith("250")
        if mood is Mood.CUTS_REPLY and is_step:
            self._hang_up(text.encode()[: len(text) // 2])
            return text[0] in "23"
        if step == "dot" and text[0] == "5" and self.message is not None:
            self._host.reject(self.message)
        self._replies.append(text.replace("\n", "\r\n").encode() + b"\r\n")
        if text.startswith("421") or mood is Mood.BANS:
            self._deaf = True
            self.flush()
            asyncio.get_running_loop().call_at(self._free_at + 0.001, self._line.close)
        return text[0] in "23"

    def _object(self, step: str) -> str:
        """Give the reply to what is out of order, as after a refusal in a pipeline; half of us take a lone dot."""
        if step == "rcpt" and not self._has_mail:
            return "503 5.5.1 MAIL first"
        if step == "data" and not self._recipients and self._host.random.random() < 0.5:
            return "554 5.5.1 no valid recipients"
        return "554 5.5.1 no valid recipients" if step == "dot" and not self._recipients else ""

    def _hang_up(self, last: bytes) -> None:
        self._deaf = True
        self.flush()
        if last:
            self._line.write([last])
        self._line.close()

    def flush(self) -> None:
        """Write the replies that wait, after as long as a tarpit takes."""
        if not self._replies:
            return
        loop, trouble = asyncio.get_running_loop(), self._host.trouble
        late_s = trouble.n if trouble is not None and trouble.mood is Mood.TARPIT else 0.0
        octets, self._replies = self._replies, []
        promises, self._promises = self._promises, []
        self._free_at = max(self._free_at, loop.time()) + late_s
        if self._free_at <= loop.time():
            self._write(octets, promises)
        else:
            loop.call_at(self._free_at, self._write, octets, promises)

    def _write(self, octets: list[bytes], promises: "list[_Promise]") -> None:
        if not self._line.is_closed:
            self._line.write(octets)
            for promise in promises:
                promise.is_written(self._line.written)

    def lost(self, why: Exception | None) -> None:
        super().lost(why)
        self._deaf = True
        self._host.gone(self)


class _Promise:
    """A reply on its way."""

    def __init__(self, line: MemoryConnection) -> None:
        self._line = line
        self._ends_at: int | None = None

    def is_written(self, ends_at: int) -> None:
        self._ends_at = ends_at

    def was_heard(self) -> bool:
        """Has the relay read it to its end?"""
        return self._ends_at is not None and self._line.far.told >= self._ends_at
