# SPDX-License-Identifier: MIT
"""Messages of every kind, and what must hold of what arrived: our field on top, then octet for octet what was sent."""

import re
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parsedate_to_datetime
from random import Random

_HEADER = b"From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: "
MEBIBYTE = 1024 * 1024


def _headed(subject: bytes, body: bytes) -> bytes:
    return _HEADER + subject + b"\r\n\r\n" + body


def _multipart() -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = "Alice <alice@example.org>"
    message["To"] = "bob@example.net"
    message["Subject"] = "Grüße mit Anhang"
    message.set_content("plain: Grüße\n")
    message.add_alternative("<p>Grüße</p>\n", subtype="html")
    message.add_attachment(
        bytes(range(256)) * 40, maintype="application", subtype="octet-stream", filename="Übersicht.bin"
    )
    return message.as_bytes()


def _binary() -> bytes:
    octets = bytes(each for each in Random(7).randbytes(60_000) if each not in b"\r\n\0")
    return b"\r\n".join(octets[at : at + 777] for at in range(0, len(octets), 777)) + b"\r\n"


def _dots_at_every_offset() -> bytes:
    """Stuffed dots wherever a buffer may be cut: lines of 1 to 40 octets that all begin with dots, 300 KiB."""
    chance = Random(11)
    lines = [b"." * chance.randint(0, 4) + b"x" * chance.randint(0, 36) for _ in range(15_000)]
    return b"\r\n".join(lines) + b"\r\n"


KINDS: dict[str, bytes] = {
    "short": _headed(b"short", b"hello\r\n"),
    "multipart": _multipart(),
    "latin-1": _headed(b"8bit", "Gr\xfc\xdfe\r\n".encode("latin-1") * 50),
    "utf-8 body": _headed(b"8bit", "Grüße, 世界, \U0001f4ee\r\n".encode() * 50),
    "utf-8 header": _headed("Grüße 世界".encode(), b"x\r\n"),
    "binary-looking": _headed(b"binary", _binary()),
    "control characters": _headed(b"controls", bytes(each for each in range(1, 32) if each not in b"\r\n") + b"\r\n"),
    "lines of dots": _headed(b"dots", b".\r\n..\r\n...\r\n.x\r\n..x\r\n . \r\nx.\r\n.\r\n.\r\n"),
    "a lone dot": _headed(b"dot", b".\r\n"),
    "nothing but a dot": b".\r\n",
    "dots everywhere": _headed(b"dots", _dots_at_every_offset()),
    "no body": _HEADER + b"no body\r\n\r\n",
    "no empty line": _HEADER + b"no empty line\r\n",
    "no header": b"\r\nonly a body\r\n",
    "neither": b"just a line of text\r\n",
    "one line end": b"\r\n",
    "many line ends": _headed(b"line ends", b"\r\n" * 500),
    "spaces at ends": _headed(b"spaces  ", b"trailing \t \r\n \r\n\t\r\n  leading\r\n"),
    "998-octet lines": _headed(b"998", (b"x" * 998 + b"\r\n") * 20),
    "1,000-octet lines": _headed(b"1000", (b"." + b"x" * 999 + b"\r\n") * 20),
    "100,000-octet line": _headed(b"100000", b"y" * 100_000 + b"\r\nend\r\n"),
    "100,000-octet field": _HEADER + b"z" * 100_000 + b"\r\n\r\nend\r\n",
    "folded fields": _HEADER
    + b"a\r\n  folded\r\n\tsubject\r\nX-Empty:\r\nX-Long: "
    + b"w \r\n " * 60
    + b"\r\n\r\nx\r\n",
    "odd header": b"received:nothing\r\nNo Colon Here\r\n: empty name\r\nFrom alice Sat\r\n\r\nx\r\n",
    "49 hops": b"Received: from a by b; Sat, 1 Jan 2022 00:00:00 +0000\r\n" * 49 + _headed(b"hops", b"x\r\n"),
    "64 KiB": _headed(b"64", (b"k" * 62 + b"\r\n") * 1024),
    "300 KiB": _headed(b"300", (b"m" * 62 + b"\r\n") * 4800),
}
EMPTY = b""  # not in the table: most clients cannot send it

_RECEIVED = re.compile(
    r"Received:(?: from \S+ \([^()]+\))? by (?P<by>\S+) (?:with (?:UTF8|E)?SMTPS?A?|\([^()]+\))"  # a program: (local)
    r" id (?P<id>[0-9a-z]{16})(?: for <(?P<recipient>[^<>]+)>)?; (?P<date>[^;]+)"
)


def large(octets: int) -> bytes:
    """Give a message of about so many octets, of which no part looks like another."""
    line = b"%070d.\r\n"
    return _headed(b"large", b"".join([line % number for number in range(octets // 73)]))


def without_our_field(content: bytes, *, by: str = "relay.example.org") -> bytes:
    """Give what follows our Received: field, which must be on top and well-formed (RFC 5321 4.4, RFC 5322 3.6.7)."""
    field, rest = split_field(content)
    assert all(len(line) <= 998 for line in field.split(b"\r\n")), "RFC 5322 2.1.1"
    match = _RECEIVED.fullmatch(field.decode("utf-8").replace("\r\n", "").rstrip())
    assert match is not None, f"not a well-formed Received: {field!r}"
    assert match["by"] == by
    age = datetime.now(UTC) - parsedate_to_datetime(match["date"])
    assert timedelta(minutes=-5) < age < timedelta(hours=1), f"{match['date']} is not now"
    return rest


def split_field(content: bytes) -> tuple[bytes, bytes]:
    """Cut the first header field, with its continuation lines, off a message."""
    end = content.index(b"\r\n") + 2
    while content[end : end + 1] in (b" ", b"\t"):
        end = content.index(b"\r\n", end) + 2
    return content[:end], content[end:]


def assert_same(sent: bytes, arrived: bytes, what: str) -> None:
    """Octet for octet; says where they part rather than printing megabytes."""
    if sent == arrived:
        return
    at = next((n for n, (a, b) in enumerate(zip(sent, arrived, strict=False)) if a != b), min(len(sent), len(arrived)))
    raise AssertionError(
        f"{what}: {len(sent)} octets sent, {len(arrived)} arrived, they part at {at}:"
        f" {sent[max(0, at - 20) : at + 40]!r} became {arrived[max(0, at - 20) : at + 40]!r}"
    )
