# SPDX-License-Identifier: MIT
"""The server's side of AUTH: PLAIN (RFC 4616) and LOGIN, from Base64 lines to a claim and its proof (RFC 4954).

Decides neither who may authenticate nor whether a password is right. No refusal repeats what was said, and nothing here
is logged: it is a password. smtp.auth is the client's side. Used by smtp.server only; no I/O.
"""

import re
from base64 import b64decode
from binascii import Error

from msgspec import Struct

from smarthost.mail.reply import Reply, reply
from smarthost.smtp.limits import USERNAME_OCTETS
from smarthost.smtp.wire import AuthReceived

AUTH_SYNTAX = reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
MECHANISM_UNKNOWN = reply(504, "5.5.4", "A mechanism that is not offered here")
CANCELLED = reply(501, "5.7.0", "Authentication cancelled")
NOT_BASE64 = reply(501, "5.5.2", "A response is not Base64")
MALFORMED = reply(501, "5.5.2", "A response is not what the mechanism has")
OVERLONG = reply(500, "5.5.6", "A response is too long")
# What no account can have. Nobody may act for another (authorisation identity), whatever the account.
INVALID = reply(535, "5.7.8", "Authentication credentials invalid")

# C0, DEL, C1 and the line separators: a user name goes to logs and Received fields.
_find_control = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]").search


class Challenge(Struct, frozen=True, gc=False):
    """A line to say, encoded; the client's next line is the response."""

    octets: bytes


_EMPTY = Challenge(b"334 \r\n")
_USERNAME = Challenge(b"334 VXNlcm5hbWU6\r\n")  # "Username:", which some clients compare
_PASSWORD = Challenge(b"334 UGFzc3dvcmQ6\r\n")  # "Password:"

Outcome = Challenge | AuthReceived | Reply


class SaslExchange:
    """One AUTH command: `begin`, then `go_on` with each line until it gives something other than a Challenge."""

    __slots__ = ("_mechanism", "_username")

    def __init__(self, mechanism: str) -> None:
        self._mechanism = mechanism
        self._username: str | None = None

    def __repr__(self) -> str:
        return f"<SaslExchange {self._mechanism}>"

    def begin(self, initial: bytes) -> Outcome:
        """Take the initial response, b"" if there was none; "=" is an empty one (RFC 4954 4)."""
        if initial:
            return self._take(b"" if initial == b"=" else initial)
        return _EMPTY if self._mechanism == "PLAIN" else _USERNAME

    def go_on(self, line: bytes) -> Outcome:
        """Take the response to a challenge."""
        return CANCELLED if line == b"*" else self._take(line)

    def _take(self, line: bytes) -> Outcome:
        try:
            octets = b64decode(line, validate=True)
        except Error:
            return NOT_BASE64
        return self._take_plain(octets) if self._mechanism == "PLAIN" else self._take_login(octets)

    def _take_plain(self, octets: bytes) -> AuthReceived | Reply:
        #   message = [authzid] UTF8NUL authcid UTF8NUL passwd
        parts = octets.split(b"\0")
        if len(parts) != 3:
            return MALFORMED
        authzid, username, password = parts
        if authzid not in (b"", username):
            return INVALID
        return self._claim(_to_text(username, USERNAME_OCTETS), _to_text(password))

    def _take_login(self, octets: bytes) -> Outcome:
        if self._username is not None:
            return self._claim(self._username, _to_text(octets))
        self._username = _to_text(octets, USERNAME_OCTETS)  # a bad one is refused after the password, as a wrong one is
        return _PASSWORD

    def _claim(self, username: str, password: str) -> AuthReceived | Reply:
        return AuthReceived(self._mechanism, username, password) if username and password else INVALID


def _to_text(octets: bytes, most: int = -1) -> str:
    """Give a user name or password as text; "": no account could have this one."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return "" if _find_control(text) or 0 <= most < len(octets) else text
