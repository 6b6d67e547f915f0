# SPDX-License-Identifier: MIT
"""When a deferred recipient is tried again, and when we give up (RFC 5321 4.5.4.1).

Pure: times come in as wall seconds, chance as ports.Random. Called by relay.py for each deferral. Decides nothing about
hosts: one that is known to be broken is waited for elsewhere, and such waiting counts as no attempt.
"""

import math

from msgspec import Struct

from smarthost.mail.errors import ConfigError
from smarthost.ports import Random

_HOUR_S = 3600.0
_DAY_S = 24 * _HOUR_S


class RetrySchedule(Struct, frozen=True, gc=False, kw_only=True):
    """Delays that double from `first_s` to `longest_s`, each `jitter` shorter or longer; expiry; the delay warning.

    The defaults are Postfix's (minimal_backoff_time, maximal_backoff_time, maximal_queue_lifetime). RFC 5321 4.5.4.1:
    give up after 4 to 5 days at least. Deviation: its 30 minutes between tries, a SHOULD "in general", are not kept for
    the first ones, as no large relay does. Raises: ConfigError: names the key.
    """

    first_s: float = 300.0
    longest_s: float = 4000.0
    jitter: float = 0.10
    expire_after_s: float = 5 * _DAY_S
    hold_s: float = 30 * _DAY_S
    delay_warning_s: float = 4 * _HOUR_S  # 0.0: no warnings

    def __post_init__(self) -> None:
        for name in ("first_s", "longest_s", "expire_after_s", "hold_s"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ConfigError(f"must be a number of seconds above 0, not {seconds}", key=f"retry.{name}")
        if not (math.isfinite(self.delay_warning_s) and self.delay_warning_s >= 0):
            raise ConfigError(
                f"must be a number of seconds, or 0 for no warnings, not {self.delay_warning_s}",
                key="retry.delay_warning_s",
            )
        if self.longest_s < self.first_s:
            raise ConfigError(f"must not be below first_s ({self.first_s:g})", key="retry.longest_s")
        if self.expire_after_s < self.first_s:
            raise ConfigError(f"must not be below first_s ({self.first_s:g})", key="retry.expire_after_s")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"must be at least 0 and below 1, not {self.jitter}", key="retry.jitter")

    def next_attempt(self, attempts: int, now: float, received_at: float, random: Random) -> float:
        """Give the time of the next attempt after `attempts` of them; always later than `now`.

        An attempt that would come after expiry is placed at expiry: mail is not given up without a last try at the end
        of its time. Ask `is_expired` first: past expiry this goes on with the plain delays.
        """
        # At 2**32 every first_s has passed every longest_s that makes sense; the bound keeps 2.0**n from overflowing.
        delay = min(self.first_s * 2.0 ** min(max(attempts - 1, 0), 32), self.longest_s)
        at = now + delay * (1.0 + self.jitter * (2.0 * random.random() - 1.0))
        expiry = received_at + self.expire_after_s
        return expiry if now < expiry < at else at

    def expires_at(self, received_at: float) -> float:
        """Give the time from which on a message is not tried again after a failure."""
        return received_at + self.expire_after_s

    def is_expired(self, received_at: float, now: float) -> bool:
        """Has the message run out of time? True at `expires_at` already: the attempt placed there is the last."""
        return now >= received_at + self.expire_after_s

    def sweep_before(self, now: float) -> float:
        """Give the `received_before` for Store.sweep: what is so old that its last attempt, too, must be over.

        A sweep at expiry itself would race with the attempt placed there. The grace is one longest delay, and at least
        the hour for which settle.decide may postpone; it exceeds an attempt's deadlines (RFC 5321 4.5.3.2).
        """
        return now - self.expire_after_s - max(self.longest_s, _HOUR_S)

    def warn_before(self, now: float) -> float:
        """Give the `received_before` for Store.sweep_delayed, while delays are reported at all."""
        return now - self.delay_warning_s
