# SPDX-License-Identifier: MIT
"""Which open session may be reused, and for how long.

Keeps idle sessions by host, address and session policy; opens none (attempt does), judges nothing. A session that dies
while idle leaves by itself. A crash leaves nothing.
"""

from collections import deque

from smarthost.ports import Clock
from smarthost.send.session import Session, SessionKey

IDLE_SESSIONS = 1_000  # of all hosts together: a descriptor each; beyond it reuse is not worth one


class Pool:
    """Idle sessions, newest first, so that spare ones grow old and close."""

    def __init__(self, clock: Clock, *, idle_s: float, transactions: int) -> None:
        self._clock = clock
        self._idle_s = idle_s
        self._transactions = transactions
        self._idle: dict[SessionKey, deque[Session]] = {}
        self._count = 0

    def adopt(self, *, idle_s: float, transactions: int) -> None:
        """Keep sessions by other terms; those at rest are ended, since they were opened by the former."""
        self._idle_s = idle_s
        self._transactions = transactions
        self.close()

    def take(self, key: SessionKey) -> Session | None:
        """Give an idle session that still lives, or None."""
        idle = self._idle.get(key)
        while idle:
            session = idle.pop()
            self._count -= 1
            if not idle:
                del self._idle[key]  # or a key stays for each host there ever was
            if session.is_reusable:
                return session
        return None

    def keep(self, session: Session) -> None:
        """Keep a session for reuse, or say goodbye to one that has done its share or cannot go on."""
        if not session.is_reusable or session.transactions >= self._transactions or self._count >= IDLE_SESSIONS:
            session.quit()
            return
        self._idle.setdefault(session.key, deque()).append(session)  # hashing a key costs more than a deque
        self._count += 1
        session.rest(self._idle_s, self._retire)

    def _retire(self, session: Session) -> None:
        """The session has been idle for too long, or died."""
        key = session.key
        idle = self._idle.get(key)
        if idle is not None and session in idle:
            idle.remove(session)
            self._count -= 1
            if not idle:
                del self._idle[key]
        session.quit()

    def close(self) -> None:
        """Say goodbye to all idle sessions."""
        for idle in self._idle.values():
            for session in idle:
                session.quit()
        self._idle.clear()
        self._count = 0
