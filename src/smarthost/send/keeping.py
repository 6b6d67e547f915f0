# SPDX-License-Identifier: MIT
"""Of which transactions that a host refused the transcript is kept, so that a flood of refusals does not fill the disk.

Pure but for the clock. Of sessions that fail otherwise (set-up, lost connections) it is always kept: HostGate bounds
how many there are. What is kept goes with the record of the attempt (settle.decide), and is forgotten with it.
"""

from collections.abc import Iterator

from smarthost.mail.reply import Reply
from smarthost.ports import Clock
from smarthost.smtp.wire import TransactionEnded

TRANSCRIPT_LINES = 60  # of one record, from its end; with lines cut at 512 characters
DEFERRED_S = 60.0  # between two of one address: a host may greylist a million messages
REFUSED_S = 1.0
ADDRESSES = 10_000  # remembered; then all are forgotten at once


class Keeping:
    """Remembers of which address one was kept lately. Memory only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[tuple[str, bool], float] = {}  # monotonic

    def wants(self, ended: TransactionEnded, address: str) -> bool:
        """Did the host at this address refuse anything, and is the transcript of that to be kept?"""
        worst = max([reply.code for reply in _replies(ended)], default=0)
        if worst < 400:
            return False
        key, now = (address, worst >= 500), self._clock.monotonic()
        if now - self._last.get(key, float("-inf")) < (REFUSED_S if worst >= 500 else DEFERRED_S):
            return False
        if len(self._last) >= ADDRESSES:
            self._last.clear()
        self._last[key] = now
        return True


def _replies(ended: TransactionEnded) -> Iterator[Reply]:
    for reply in (ended.mail, ended.data, ended.final, *ended.recipients, *ended.finals):
        if reply is not None:
            yield reply
