# SPDX-License-Identifier: MIT
"""Is it alive, and can it take mail? What an orchestrator or a balancer asks all the time.

Live: the event loop turns. Ready: a message would be accepted and made durable now. What is neither (a pause, broken
hosts, a long queue) is no reason to be killed or passed by. Answers are kept for a second, so that a flood of probes
costs nothing; asks memory only, never the disk.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from smarthost.config import Config
from smarthost.mail.errors import StoreError

KEPT_S = 1.0
TURN_S = 1.0  # the heart beats so often
STUCK_S = 30.0  # a loop that has not turned for so long hangs


class Health(Struct, frozen=True):
    """`reasons` why not, if it is not `ok`; `notes`: what an operator would want to know all the same."""

    ok: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Watched(Protocol):
    """What is asked of a relay; assemble.Relay answers."""

    config: Config
    bound: tuple[tuple[str, int], ...]

    @property
    def refusal(self) -> Exception | None: ...
    @property
    def paused(self) -> bool: ...


class HealthWatch:
    """Answers for one relay; `begin` on its loop, `end` when it stops."""

    def __init__(self, relay: Watched, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._relay = relay
        self._monotonic = monotonic
        self._beat_at = monotonic()
        self._beat: asyncio.TimerHandle | None = None
        self._is_ending = False
        self._kept: dict[str, tuple[float, Health]] = {}

    def begin(self) -> None:
        """Let the heart beat."""
        self._beat_at = self._monotonic()
        self._beat = asyncio.get_running_loop().call_later(TURN_S, self.begin)

    def end(self) -> None:
        """It stops: it is not ready any more. Harmless when repeated."""
        self._is_ending = True
        self._kept.clear()
        if self._beat is not None:
            self._beat.cancel()

    def live(self) -> Health:
        """Say if the loop turns."""
        return self._keep("live", self._look_alive)

    def ready(self) -> Health:
        """Say if mail is taken."""
        return self._keep("ready", self._look_ready)

    def _keep(self, what: str, look: Callable[[], Health]) -> Health:
        now = self._monotonic()
        kept = self._kept.get(what)
        if kept is None or not kept[0] <= now < kept[0] + KEPT_S:
            kept = self._kept[what] = now, look()
        return kept[1]

    def _look_alive(self) -> Health:
        late_s = self._monotonic() - self._beat_at - TURN_S
        if late_s >= STUCK_S and not self._is_ending:
            return Health(False, (f"the event loop has not turned for {late_s:.0f} s",))
        return Health(True)

    def _look_ready(self) -> Health:
        if self._is_ending:
            return Health(False, ("it is stopping",))
        relay = self._relay
        try:
            refusal, is_paused = relay.refusal, relay.paused
        except StoreError as error:
            return Health(False, (str(error),))
        reasons = [] if refusal is None else [str(refusal) or type(refusal).__name__]
        if (relay.config.listen or relay.config.listeners) and not relay.bound:
            reasons.append("it does not listen yet")
        notes = ("paused: mail is taken and kept, nothing is delivered before `smarthost resume`",) if is_paused else ()
        return Health(not reasons, tuple(reasons), notes)
