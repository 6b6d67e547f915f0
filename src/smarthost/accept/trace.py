# SPDX-License-Identifier: MIT
"""Our Received: field, and the count of those that are there already (RFC 5321 4.4, 6.3).

Pure and hot. A stamp is prepared once for what the client said of itself; each message then costs one concatenation.
What it said is hostile: only visible ASCII of it gets in, and a name that is no name stands in a comment. A hop count
is evidence of a loop only; what to do about it is for reception to say.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from smarthost.mail.address import Address
from smarthost.mail.hop import TlsFacts

LINE_OCTETS = 78  # RFC 5322 2.1.1: lines should be no longer
_ID_OCTETS = 16  # mail.identity.ID_LENGTH
_NAME_OCTETS = 255  # RFC 5321 4.5.3.1.2; of what is no name, a quarter is evidence enough
_FOR_OCTETS = 320  # 64 + "@" + 255: RFC 5321 4.5.3.1; must stay far below the 998 of RFC 5322 2.1.1
# Deviation: RFC 5321 6.3 calls 100 large; Postfix's hopcount_limit is 50, and no honest path is half as long.
RECEIVED_LIMIT = 50
MESSAGE_ID_OCTETS = 1_000  # RFC 5322 2.1.1: a line has 998 at most
HEADER_OCTETS = 256 * 1024  # every hop puts its field on top: a loop shows long before

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Extended-Domain = Domain / address-literal (RFC 5321 4.4), the underscore being common and harmless
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?|\[[A-Za-z0-9:.]+\]")
# RFC 8689 5: "TLS-Required:" [CFWS] "No" [CFWS], comments not looked into; the section is in lower case by then
_find_tls_required_no = re.compile(
    rb"(?:\A|\r\n)tls-required:(?:[ \t]|\r\n[ \t])*+no(?:[ \t]|\r\n[ \t])*+(?:\r\n|\()"
).search
_NOT_IN_COMMENT = re.compile(r"[^!-'*-\[\]-~]")  # visible ASCII but "(", ")" and "\" (RFC 5322 3.2.2: ctext)


class ReceivedStamp:
    """Writes the Received: fields of one session. `client` and `hostname` are trusted, the greeted name is not."""

    __slots__ = (
        "_client",
        "_head",
        "_head_utf8",
        "_hostname",
        "_is_authenticated",
        "_is_extended",
        "_is_lmtp",
        "_name",
        "_tls",
    )

    def __init__(self, client: str, hostname: str, *, is_lmtp: bool = False) -> None:
        self._client = _to_literal(client)
        self._hostname = hostname
        self._is_lmtp = is_lmtp
        self._name = ""
        self._is_extended = True
        self._is_authenticated = False
        self._tls = ""
        self._head = self._head_utf8 = ""  # prepared by the first message that needs it: 2 us, often the only one

    def greeted(self, name: str, *, extended: bool) -> None:
        """Take what the client said in EHLO (`extended`) or HELO; what was learned of its session before stays."""
        self._name = name
        self._is_extended = extended
        self._head = self._head_utf8 = ""

    def authenticated(self) -> None:
        """The client proved by AUTH who it is, which never shows: that is between him and us."""
        self._is_authenticated = True
        self._head = self._head_utf8 = ""

    def secured(self, facts: TlsFacts) -> None:
        """The session is inside TLS; what the client said before is forgotten (RFC 3207 4.2)."""
        words = ("using", facts.version, "with", "cipher", facts.cipher)
        self._tls = " ".join([_NOT_IN_COMMENT.sub("?", word) for word in words])
        self._is_authenticated = False
        self.greeted("", extended=True)

    def came_from(self, client: str) -> None:
        """A trusted proxy named another client (XCLIENT)."""
        self._client = _to_literal(client)
        self._is_authenticated = False
        self.greeted("", extended=True)

    def _prepare(self, smtputf8: bool) -> str:
        suffix = ("S" if self._tls else "") + ("A" if self._is_authenticated else "")  # RFC 3848 2
        if smtputf8:  # RFC 6531 4.3; a client that said HELO cannot have asked for it: UTF8SMTP implies EHLO
            protocol = ("UTF8LMTP" if self._is_lmtp else "UTF8SMTP") + suffix
        else:
            protocol = "LMTP" if self._is_lmtp else "ESMTP" if self._is_extended else "SMTP"
            protocol += suffix if self._is_extended else ""
        head = _describe_hop(self._name, self._client, self._hostname, protocol, self._tls)
        if smtputf8:
            self._head_utf8 = head
        else:
            self._head = head
        return head

    def write(self, id: str, now: float, recipients: Sequence[Address], *, smtputf8: bool) -> bytes:
        """Give the field, CRLF-terminated, for a message received at `now` (wall seconds).

        The recipient is named only if it is the only one: another's blind copy is nobody's business (RFC 5321 7.2).
        """
        head = (self._head_utf8 if smtputf8 else self._head) or self._prepare(smtputf8)
        if len(recipients) == 1:
            text = recipients[0].text
            if _may_be_named(text, smtputf8):
                return f"{head}{id}\r\n for <{text}>;\r\n {format_date(int(now))}\r\n".encode()
        return f"{head}{id};\r\n {format_date(int(now))}\r\n".encode()


def survey(octets: bytes) -> tuple[int, bool, str]:
    """Look through the header section of `octets`, which are content or its first piece.

    Gives how many Received: fields there are, if it says "TLS-Required: No" (RFC 8689 5), and its Message-ID or "".
    Looks at 256 KiB at most. 1 us for a usual message: the case is folded on the header section alone.
    """
    if octets.startswith(b"\r\n"):
        return 0, False, ""
    end = octets.find(b"\r\n\r\n", 0, HEADER_OCTETS)
    header = octets[: HEADER_OCTETS if end < 0 else end].lower()
    tls_optional = b"tls-required:" in header and _find_tls_required_no(header + b"\r\n") is not None
    hops = header.count(b"\r\nreceived:") + header.startswith(b"received:")
    return hops, tls_optional, find_message_id(octets, header)


def find_message_id(octets: bytes, folded: bytes) -> str:
    """Give the Message-ID of a header section, with its angle brackets; `folded`: the section in lower case.

    "" where there is none, or none that anybody could ask for (RFC 5322 3.6.4).
    """
    at = 0 if folded.startswith(b"message-id:") else folded.find(b"\r\nmessage-id:") + 2
    if at == 1:
        return ""
    value = octets[at + len(b"message-id:") : at + MESSAGE_ID_OCTETS]
    line, _, rest = value.partition(b"\r\n")
    if not line.strip() and rest[:1] in (b" ", b"\t"):  # folded before the id, as long ones often are
        line = rest.partition(b"\r\n")[0]
    found = line.strip().decode("utf-8", "replace")
    return found if found[:1] == "<" and found[-1:] == ">" and found.isprintable() and " " not in found else ""


def header_section(octets: bytes, *, is_whole: bool) -> bytes | None:
    """Give the header section without the empty line behind it; None: it does not end within what is looked at.

    `octets` are content or, unless `is_whole`, its first piece. Looks at 256 KiB at most.
    """
    if octets.startswith(b"\r\n"):
        return b""
    end = octets.find(b"\r\n\r\n", 0, HEADER_OCTETS)
    if end >= 0:
        return octets[:end]
    return octets if is_whole and len(octets) <= HEADER_OCTETS else None


@lru_cache(maxsize=1024)  # clients come again and say the same name: 0.2 us instead of 3
def _describe_hop(name: str, client: str, hostname: str, protocol: str, tls: str) -> str:
    if not name and not client.startswith("["):
        # Handed in by a program here: no host sent it, by no protocol ("from" and "with" are RFC 5321 4.4's, for SMTP).
        line = _fold(("Received:", "by", hostname, f"({client})", "id", "#" * _ID_OCTETS + ";"))
        return line[: -_ID_OCTETS - 1]
    source = _fold(("Received:", "from", *_describe_client(name, client)))
    line = _fold(("", "by", hostname, "with", protocol, "id", "#" * _ID_OCTETS + ";"))
    comment = f"\r\n ({tls})" if tls else ""
    return f"{source}{comment}\r\n{line[: -_ID_OCTETS - 1]}"


def _may_be_named(text: str, smtputf8: bool) -> bool:
    return text.isprintable() and len(text) <= _FOR_OCTETS and (smtputf8 or text.isascii())


def _to_literal(client: str) -> str:
    """Write an IP address as RFC 5321 4.1.3 does; whatever else ("local") stays a word."""
    if ":" in client:
        return f"[IPv6:{client}]"
    return f"[{client}]" if client[:1].isdigit() else client


def _describe_client(name: str, literal: str) -> tuple[str, ...]:
    """Give the words after "from": a name and the address it came from, or "unknown" and the bad name in a comment."""
    if len(name) <= _NAME_OCTETS and _NAME.fullmatch(name):
        return name, f"({literal})"
    if not name:
        return "unknown", f"({literal})"
    return "unknown", f"({literal}", f"helo={_NOT_IN_COMMENT.sub('?', name[: _NAME_OCTETS // 4])})"


def _fold(words: tuple[str, ...]) -> str:
    """Join words with spaces; begin a new line before a word that would pass LINE_OCTETS."""
    parts = [words[0]]
    column = len(words[0])
    for word in words[1:]:
        if column + 1 + len(word) > LINE_OCTETS:
            parts.append("\r\n")
            column = 0
        parts += (" ", word)
        column += 1 + len(word)
    return "".join(parts)


@lru_cache(maxsize=4)  # all messages of a second share it: 0.1 us instead of 2
def format_date(second: int) -> str:
    """RFC 5322 3.3 date-time in UTC; strftime would speak the locale's language."""
    at = datetime.fromtimestamp(second, UTC)
    return f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at:%Y %H:%M:%S} +0000"
