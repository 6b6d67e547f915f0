# SPDX-License-Identifier: MIT
"""How often a token may ask, and how guesses are slowed: memory only, bounded.

Nobody is locked out by another's guesses: behind a proxy all clients have one address. A wrong token is answered a
second late, which costs the guesser more than us; when many wait so, the rest are answered at once.
"""

from collections.abc import Callable

from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Token
from smarthost.ports import Clock

BURST_S = 6.0  # so much of a minute's requests may come at once
WRONG_S = 1.0
SLOWED = 64  # wrong ones that are kept waiting at a time
TOLD_S = 60.0  # a note about wrong tokens at most so often


class Rates:
    """A bucket for each token, refilled as time goes by."""

    def __init__(self, clock: Clock, note: Callable[..., None]) -> None:
        self._clock = clock
        self._note = note
        self._buckets: dict[str, tuple[float, float]] = {}  # digest: requests left, at (monotonic)
        self._slowed = 0
        self._wrong = 0
        self._tell_at = 0.0

    def count(self, token: Token) -> None:
        """Count one request. Raises: Problem: there were too many."""
        now = self._clock.monotonic()
        rate = token.requests_per_minute / 60
        most = max(1.0, rate * BURST_S)
        left, at = self._buckets.get(token.digest, (most, now))
        left = min(most, left + (now - at) * rate)
        if left < 1:
            self._buckets[token.digest] = left, now
            after = max(1, round((1 - left) / rate + 0.5))
            detail = f"{token.name} may ask {token.requests_per_minute} times a minute"
            raise Problem("too-many", detail, headers={"retry-after": str(after)})
        self._buckets[token.digest] = left - 1, now  # one for each token there ever was since the start: few

    async def slow_down(self, client: str) -> None:
        """Keep whoever sent a wrong token waiting, and tell of it now and then."""
        self._wrong += 1
        now = self._clock.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + TOLD_S
            self._note("warning", "wrong API token", client=client, times=self._wrong)
            self._wrong = 0
        if self._slowed >= SLOWED:
            return
        self._slowed += 1
        try:
            await self._clock.sleep(WRONG_S)
        finally:
            self._slowed -= 1
