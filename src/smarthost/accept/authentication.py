# SPDX-License-Identifier: MIT
"""Asks who a client is, and makes guessing passwords slow and noisy.

Failures are counted for client networks and for user names, over all sessions, and fade with time. A failure is
answered late, the later the more there were; beyond a limit nobody of a network is asked for a while, and a name only
where it has logged in before. Guessing locks nobody out of where he works: who has logged in from a network is asked
there whatever others fail at, as long as he himself seldom fails. The reply to a wrong password and to a user who does
not exist is one; the password is handed to the Authenticator and kept nowhere. Nothing survives a restart; memory is
bounded. Knows no session: accept.reception waits, and speaks.
"""

from collections.abc import Callable

from msgspec import Struct

from smarthost.accept import replies
from smarthost.accept.recent import Recent, Seldom
from smarthost.mail.errors import StoreBusy, StoreError
from smarthost.mail.reply import Reply
from smarthost.mail.user import User
from smarthost.ports import Authenticator, Clock
from smarthost.smtp.wire import AuthReceived

CHECK_S = 60.0  # a check that takes longer is given up: RFC 5321 knows no time for AUTH, clients wait minutes
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0  # far below a client's patience with a reply
SESSION_FAILURES = 3  # then the session ends
NETWORK_FAILURES = 30  # an office behind one address may mistype that often
NAME_FAILURES = 100
WELCOME_FAILURES = 10  # of somebody where he has logged in: a program with his old password, and he with his new one
PENDING = 20  # claims of one client network that are checked at a time: a fifth of all that may wait
FADE_S = 120.0  # for one failure: a phone with an old password, asking every few minutes, locks nobody out
BAN_S = 900.0
_TABLE = 10_000


class Decision(Struct, frozen=True, gc=False):
    """What a claim is worth: the user who proved himself, or the reply to give, `delay_s` from now."""

    user: User | None
    reply: Reply
    delay_s: float = 0.0


class _Failures:
    """How many there were, faded; and until when nobody is asked any more."""

    __slots__ = ("_at", "_count", "banned_until", "pending")

    def __init__(self) -> None:
        self._count = 0.0
        self._at = 0.0
        self.banned_until = 0.0
        self.pending = 0  # claims that are being checked

    def count(self, now: float) -> float:
        return max(0.0, self._count - (now - self._at) / FADE_S)

    def add(self, now: float) -> float:
        self._count = self.count(now) + 1.0
        self._at = now
        return self._count


class LoginGuard:
    """All logins of all listeners."""

    def __init__(self, clock: Clock, seldom: Seldom) -> None:
        self._clock = clock
        self._seldom = seldom
        self._networks: Recent[_Failures] = Recent(_TABLE)
        self._names: Recent[_Failures] = Recent(_TABLE)
        self._welcome: Recent[_Failures] = Recent(_TABLE)  # of each "network name" that logged in before
        self._bans_names_from = clock.monotonic() + BAN_S  # before that we may not know where he works

    def check(
        self, users: Authenticator, claim: AuthReceived, network: str, decided: Callable[[Decision], None]
    ) -> None:
        """Ask `users` about a claim from a client network; `decided` is called once, at once or later."""
        name = claim.username
        of_network = self._networks.find_or_make(network, _Failures)
        of_pair = self._welcome.find(f"{network} {name}")
        refusal = self._refuse(name, network, of_network, of_pair)
        if refusal is not None:
            decided(Decision(None, refusal))
            return
        counted = (of_network,) if of_pair is None else (of_network, of_pair)

        def answered(user: User | None) -> None:
            self._count_pending(counted, -1)
            decided(self._judge(user, name, network))

        self._count_pending(counted, 1)
        is_asked = False
        try:
            users.check(name, claim.password, answered)
            is_asked = True
        except StoreBusy as failure:
            self._seldom.note("warning", "too many logins at once", "", why=str(failure))
            decided(Decision(None, replies.AUTH_BUSY))
        except StoreError as failure:
            self._seldom.note("error", "users cannot be read", "", why=str(failure))
            decided(Decision(None, replies.AUTH_UNAVAILABLE))
        finally:
            if not is_asked:  # whatever it was that it raised
                self._count_pending(counted, -1)

    @staticmethod
    def _count_pending(counted: tuple[_Failures, ...], change: int) -> None:
        for each in counted:
            each.pending += change

    def _refuse(self, name: str, network: str, of_network: _Failures, of_pair: _Failures | None) -> Reply | None:
        """Say why a claim is not looked at; None: it is."""
        now = self._clock.monotonic()
        if of_pair is not None:
            # He works there: what others fail at is not his fault, nor is who guesses at him elsewhere.
            if not self._is_used_up(of_pair, now, WELCOME_FAILURES):
                return None
        elif self._is_under_attack(name, now):
            return replies.AUTH_BANNED
        if now < of_network.banned_until or self._is_used_up(of_network, now, NETWORK_FAILURES):
            return replies.AUTH_BANNED
        if of_pair is None and of_network.pending >= PENDING:
            self._seldom.note("warning", "too many logins at once", network, network=network)
            return replies.AUTH_BUSY
        return None

    @staticmethod
    def _is_used_up(failures: _Failures, now: float, limit: int) -> bool:
        """Were there too many? Who has failed must not ask for more at once than he may still fail, either."""
        count = failures.count(now)
        return count >= 1.0 and count + failures.pending >= limit

    def _is_under_attack(self, name: str, now: float) -> bool:
        """Is this user guessed at from many networks?"""
        of_name = self._names.find(name)
        return of_name is not None and now < of_name.banned_until

    def _judge(self, user: User | None, name: str, network: str) -> Decision:
        pair = f"{network} {name}"
        if user is not None:
            self._welcome.find_or_make(pair, _Failures)
            return Decision(user, replies.AUTH_OK)
        now = self._clock.monotonic()
        of_pair = self._welcome.find(pair)
        if of_pair is not None:
            of_pair.add(now)
        of_name = self._names.find_or_make(name, _Failures)
        if of_name.add(now) >= NAME_FAILURES:
            if now >= self._bans_names_from:
                of_name.banned_until = now + BAN_S
            self._seldom.note("warning", "too many failed logins of a user", name, user=replies.clean(name))
        of_network = self._networks.find_or_make(network, _Failures)
        count = of_network.add(now)
        if count >= NETWORK_FAILURES and now >= of_network.banned_until:
            of_network.banned_until = now + BAN_S
            self._seldom.note("warning", "too many failed logins from a network", network, network=network, for_s=BAN_S)
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (round(min(count, 16.0)) - 1))
        return Decision(None, replies.AUTH_FAILED, delay_s)

    def __len__(self) -> int:
        """Tell how many networks, names and pairs of them are remembered."""
        return len(self._networks) + len(self._names) + len(self._welcome)
