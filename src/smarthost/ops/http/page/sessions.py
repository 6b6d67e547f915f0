# SPDX-License-Identifier: MIT
"""Who is logged in: a random cookie for a token that was shown once. Memory only, bounded, forgotten at a restart.

A session ends after `SESSION_S`, by logging out, and as soon as its token is taken out of the tokens file. Each has a
secret that every form must bring back; the login form, where nobody is known yet, has one from a cookie of its own.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict

from smarthost.ops.http.tokens import Token, Tokens
from smarthost.ports import Clock

SESSION_S = 12 * 3600.0
SESSIONS = 200  # the oldest goes
COOKIE_CHARACTERS = 100


class Session:
    """One login. `told`: what the next page says once, of what the last form did."""

    def __init__(self, digest: str, ends_at: float) -> None:
        self.token_digest = digest
        self.ends_at = ends_at  # monotonic
        self.csrf = secrets.token_urlsafe(32)
        self.told = ""

    def take_told(self) -> str:
        """Give what is to be said, once."""
        told, self.told = self.told, ""
        return told


class Sessions:
    """All of them; only the digests of cookies are kept."""

    def __init__(self, tokens: Tokens | None, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._open: OrderedDict[str, Session] = OrderedDict()

    def open(self, token: Token) -> str:
        """Begin a session; gives its cookie."""
        cookie = secrets.token_urlsafe(32)
        self._open[_digest(cookie)] = Session(token.digest, self._clock.monotonic() + SESSION_S)
        while len(self._open) > SESSIONS:
            self._open.popitem(last=False)
        return cookie

    def find(self, cookie: str) -> tuple[Session, Token] | None:
        """Give the session of a cookie, and its token as it is now."""
        name = _digest(cookie)
        session = self._open.get(name)
        if session is None or self._tokens is None:
            return None
        token = self._tokens.find_again(session.token_digest)
        if token is None or session.ends_at <= self._clock.monotonic():
            del self._open[name]
            return None
        return session, token

    def close(self, cookie: str) -> None:
        """End a session."""
        self._open.pop(_digest(cookie), None)

    def make_login_secret(self, cookie: str) -> str:
        """Give what the login form of a browser with this cookie must bring back."""
        return hmac.digest(self._secret, cookie[:COOKIE_CHARACTERS].encode("utf-8", "replace"), hashlib.sha256).hex()


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie[:COOKIE_CHARACTERS].encode("utf-8", "replace")).hexdigest()


def is_same(one: str, other: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))
