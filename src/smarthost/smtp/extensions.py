# SPDX-License-Identifier: MIT
"""What a host's EHLO answer offers (RFC 5321 4.1.1.1), read tolerantly: a line that makes no sense is passed over.

Pure. The offer holds until STARTTLS succeeds, then it must be forgotten (RFC 3207 4.2): smtp.client does that.
"""

from msgspec import Struct

from smarthost.mail.reply import Reply
from smarthost.smtp.transfer import KEYWORD, VERSION

_MOST_LINES = 64  # registered keywords are below 50; smtp.replies cuts a reply off at 100 lines
_MOST_MECHANISMS = 32  # the IANA registry of SASL mechanisms has about 40, no host offers half of them
# RFC 5321 4.5.3.1.7: a host must take at least 64 KiB. A smaller announcement is not believed, or one typing error of
# theirs ("SIZE 10") would bounce every message here; the host is told our size in MAIL and says no by itself.
_LEAST_BELIEVED_SIZE = 65_536
_MOST_DIGITS = 20  # RFC 1870 3: size-value is 1*20DIGIT


class Extensions(Struct, frozen=True, gc=False):
    """The extensions a host offered; all absent after HELO.

    `size`: None when SIZE was not offered, 0 when no (believable) maximum was named, else octets (RFC 1870).
    `most_recipients`, `most_recipient_domains`: RCPTMAX and RCPTDOMAINMAX of a transaction (RFC 9422), or None.
    `most_transactions`: MAILMAX of a session, or None. `transfer`: we may hand it our queue (smtp.transfer).
    """

    pipelining: bool = False
    size: int | None = None
    eight_bit_mime: bool = False
    smtputf8: bool = False
    starttls: bool = False
    enhanced_status_codes: bool = False
    chunking: bool = False
    binarymime: bool = False
    dsn: bool = False
    requiretls: bool = False
    auth: frozenset[str] = frozenset()
    most_recipients: int | None = None
    most_transactions: int | None = None
    most_recipient_domains: int | None = None
    transfer: bool = False

    @property
    def takes_binary(self) -> bool:
        """May content that is not in lines be sent? RFC 3030 3: BINARYMIME means nothing without CHUNKING."""
        return self.binarymime and self.chunking

    def refuses_size(self, octets: int) -> bool:
        """Would the host refuse a message of that many octets by what it announced?"""
        return self.size is not None and 0 < self.size < octets

    @property
    def offers_usable_auth(self) -> bool:
        """Does it offer a mechanism that SmtpClient.auth_plain can speak?"""
        return "PLAIN" in self.auth or "LOGIN" in self.auth


_FLAGS = {
    "PIPELINING": "pipelining",
    "8BITMIME": "eight_bit_mime",
    "SMTPUTF8": "smtputf8",
    "STARTTLS": "starttls",
    "ENHANCEDSTATUSCODES": "enhanced_status_codes",
    "CHUNKING": "chunking",
    "BINARYMIME": "binarymime",
    "DSN": "dsn",
    "REQUIRETLS": "requiretls",
}
_LIMITS = {
    "RCPTMAX": "most_recipients",
    "MAILMAX": "most_transactions",
    "RCPTDOMAINMAX": "most_recipient_domains",
}


def parse_extensions(reply: Reply) -> Extensions:
    """Read a positive answer to EHLO; its first line is a greeting and offers nothing."""
    flags: dict[str, bool] = {}
    limits: dict[str, int] = {}
    mechanisms: set[str] = set()
    size: int | None = None
    for line in reply.lines[1 : _MOST_LINES + 1]:
        keyword, *parameters = line.upper().split()[: _MOST_MECHANISMS + 1] or [""]
        if (flag := _FLAGS.get(keyword)) is not None:
            flags[flag] = True
        elif keyword == "SIZE":
            size = _read_size(parameters)
        elif keyword == "AUTH" or keyword.startswith("AUTH="):
            # "AUTH=LOGIN PLAIN": what servers say for clients older than RFC 2554
            mechanisms.update(token for token in (keyword[5:], *parameters) if _is_mechanism(token))
        elif keyword == "LIMITS":
            limits.update(_read_limits(parameters))
        elif keyword == KEYWORD:
            flags["transfer"] = VERSION in parameters
    return Extensions(
        size=size,
        auth=frozenset(mechanisms),
        most_recipients=limits.get("most_recipients"),
        most_transactions=limits.get("most_transactions"),
        most_recipient_domains=limits.get("most_recipient_domains"),
        **flags,
    )


def _read_size(parameters: list[str]) -> int:
    size = _read_number(parameters[0]) if parameters else None
    return size if size is not None and size >= _LEAST_BELIEVED_SIZE else 0


def _read_limits(parameters: list[str]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        limit = _read_number(value)
        if name in _LIMITS and limit:  # RFC 9422 4: 0 is no legal limit
            limits[_LIMITS[name]] = limit
    return limits


def _read_number(text: str) -> int | None:
    # isascii: int() and isdigit() take digits of any script
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _is_mechanism(token: str) -> bool:
    # RFC 4422 3.1: sasl-mech = 1*20 (UPPER-ALPHA / DIGIT / HYPHEN / UNDERSCORE)
    return 0 < len(token) <= 20 and token.isascii() and token.replace("-", "").replace("_", "").isalnum()
