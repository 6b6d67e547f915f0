# SPDX-License-Identifier: MIT
"""What everybody outside the relay saw, and what its disk held: the only ground on which invariants judge.

Plain values and a few questions about them; no clock, no world, so that a test can make one up. Times named `at` are
virtual seconds since the start, `wall` is the relay's own clock.
"""

from collections.abc import Callable

from msgspec import Struct

from smarthost.mail.record import TERMINAL_KINDS, Kind, Record

Pair = tuple[str, str]  # (message id, recipient)


class Try(Struct, kw_only=True):
    """A client's one attempt to hand a message over. `ended_content`: the final dot left; `id`: of the 250."""

    at: float
    ended_content: bool = False
    reply: str = ""
    id: str = ""


class Mail(Struct, kw_only=True):
    """A message that a client wants to be rid of; `taken`: the recipients whose RCPT was answered with 250, by try."""

    token: str
    reverse_path: str
    recipients: tuple[str, ...]
    silent: tuple[str, ...]
    content: bytes
    tries: list[Try] = []


class Copy(Struct, kw_only=True):
    """One recipient's copy that a host took. `was_heard`: did the relay read all of the reply that said so?"""

    at: float
    id: str
    recipient: str
    address: str
    was_heard: Callable[[], bool]


class Acknowledged(Struct, frozen=True, kw_only=True):
    """A client heard 250 for this recipient; `is_owed`: of a failure its sender is to hear."""

    at: float
    token: str
    is_owed: bool


class Life(Struct, kw_only=True):
    """One run of the relay; `ended`: None while it lasts."""

    began: float
    ended: float | None = None
    forgot: bool = False  # killed, or stopped while nothing could be written


class History:
    """Filled by the Watch, hosts and senders; read by invariants."""

    def __init__(self) -> None:
        self.now = 0.0
        self.excused_s = 0.0  # in all: down, or unable to write, or set back by its clock
        self._since: dict[Pair, tuple[float, float]] = {}
        self.open: dict[Pair, None] = {}  # what the relay took responsibility for, and has not ended
        self.lives: list[Life] = []
        self.mails: dict[str, Mail] = {}
        self.acknowledged: dict[Pair, Acknowledged] = {}
        self.reports: dict[Pair, Pair] = {}  # (report's id, sender) -> one recipient that it tells of, once filed
        self.copies: dict[Pair, list[Copy]] = {}
        self.ids: dict[str, dict[str, None]] = {}  # of each token, as hosts saw them
        self.ends: dict[Pair, list[Record]] = {}
        self.failures_told: dict[Pair, list[str]] = {}  # ids of the reports that were filed about a failure
        self.delays_told: dict[Pair, list[str]] = {}
        self.refused: dict[Pair, None] = {}  # what a host refused with 5xx after the content
        self.cancels: list[tuple[float, str]] = []  # when, which recipient
        self.records = 0  # committed ones that were taken up

    def take_up(self, record: Record) -> None:
        """Remember a record that was committed."""
        self.records += 1
        pair = (record.id, record.recipient)
        if record.kind in TERMINAL_KINDS:
            self.ends.setdefault(pair, []).append(record)
            self.open.pop(pair, None)
        elif record.kind is Kind.REPORTED and record.why.startswith("report "):
            report, action = record.why.split()[1], record.why.rpartition(" ")[2]
            told = self.failures_told if action == "failed" else self.delays_told
            told.setdefault(pair, []).append(report)
            self.reports[report, record.reverse_path] = pair
            self.start((report, record.reverse_path))

    def start(self, pair: Pair) -> None:
        """The relay takes responsibility for a recipient now."""
        self._since.setdefault(pair, (self.now, self.excused_s))
        if pair not in self.ends:
            self.open[pair] = None

    def began(self, pair: Pair) -> float:
        """Say since when the relay is responsible for it."""
        return self._since[pair][0]

    def fair_age(self, pair: Pair) -> float:
        """Give its age in seconds, without the time in which the relay could do nothing."""
        began, excused_s = self._since[pair]
        return self.now - began - (self.excused_s - excused_s)

    def forgot_between(self, after: float, until: float) -> bool:
        """Did a life end between these times whose last settlements were perhaps not written?"""
        return any(life.forgot and life.ended is not None and after <= life.ended <= until for life in self.lives)
