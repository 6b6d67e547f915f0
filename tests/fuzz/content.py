# SPDX-License-Identifier: MIT
"""What messages hold: conversion to 7 bit, DKIM's canonical forms, hop counts, submission, and reports about them."""

import email
import re
from random import Random
from typing import cast

from tests.fuzz.inputs import Target, cut
from tests.send.test_convert import is_seven_bit

from smarthost.accept.sign import Header, hash_body, read_header, relax_body, relax_field
from smarthost.accept.submission import missing_fields
from smarthost.accept.trace import RECEIVED_LIMIT, ReceivedStamp, survey
from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Notify, SenderTls
from smarthost.mail.hop import TlsFacts
from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import OwedReport, SettledRecipient, State
from smarthost.send.convert import to_seven_bit
from smarthost.settle.dsn import report_message

_NOW = 1_700_000_000.0
# Where the standard library's reader is not RFC 5322's: a bare CR or LF ends its lines, and it knows no obs-optional
_find_obsolete = re.compile(rb"(?m)^[!-9;-~]+[ \t]+:").search
_REPORT_OCTETS = 64 * 1024  # of a report's own words about four recipients, beside what it gives back


def _is_in_lines(octets: bytes) -> bool:
    pairs = octets.count(b"\r\n")
    return pairs == octets.count(b"\r") == octets.count(b"\n") and b"\0" not in octets


def _check_conversion(octets: bytes, random: Random) -> None:
    result = to_seven_bit(octets)
    if result is None:
        return
    assert is_seven_bit(result)
    assert to_seven_bit(result) is result
    assert len(result) <= 4 * len(octets) + 2_000
    if _is_in_lines(octets) and _find_obsolete(octets) is None:
        before, after = _leaves(octets), _leaves(result)
        assert len(before) == len(after), "a part came or went"
        assert list(map(_plain, before)) == list(map(_plain, after)), "a part decodes to something else"


def _leaves(content: bytes) -> list[bytes]:
    """Give the decoded octets of all parts, as the standard library reads them."""
    parts = email.message_from_bytes(content).walk()
    return [cast("bytes", part.get_payload(decode=True)) for part in parts if not part.is_multipart()]


def _plain(part: bytes) -> bytes:
    """The last end of line of a part may come with its encoding."""
    return part.removesuffix(b"\n").removesuffix(b"\r")


def _check_signature(octets: bytes, random: Random) -> None:
    header = read_header(octets)
    if isinstance(header, Header):
        assert header.names[0] == b"from"
        assert b"\r\n " not in header.fields
        assert b"  " not in header.fields
        assert all(b"\r" not in line and b"\n" not in line for line in header.fields.split(b"\r\n"))
        assert len(header.fields) <= len(octets) + 2
    relaxed = b"".join(relax_body(iter([octets])))
    assert relaxed == b"".join(relax_body(iter(cut(octets, random)))), "the canonical form depends on the pieces"
    if _is_in_lines(octets):
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in octets.split(b"\r\n")]
        while lines and not lines[-1]:
            lines.pop()
        assert relaxed == b"".join(line + b"\r\n" for line in lines), "not RFC 6376 3.4.4"
        assert relaxed == b"".join(relax_body(iter([relaxed])))
    if _is_in_lines(octets[:2000]):
        field = relax_field(b"subject", octets[:2000])
        assert b"\r\n" not in field
        assert b"  " not in field
    assert len(hash_body(InlineContent(octets))) == 32


def _check_trace(octets: bytes, random: Random) -> None:
    hops, is_optional, message_id = survey(octets)
    assert message_id.isprintable()
    section = b"" if octets.startswith(b"\r\n") else octets.partition(b"\r\n\r\n")[0]
    lines = section.lower().split(b"\r\n")
    assert hops == sum(line.startswith(b"received:") for line in lines)
    if is_optional:
        assert any(line.startswith(b"tls-required:") for line in lines)
    assert RECEIVED_LIMIT == 50
    text = octets[:200].decode("utf-8", "surrogateescape")
    stamp = ReceivedStamp("192.0.2.1", "mx.example")
    stamp.secured(TlsFacts(text[:20], text[20:40], False))
    stamp.greeted(text, extended=random.random() < 0.5)
    recipients = [Address(text, Domain("x"))] if random.random() < 0.5 and text.isprintable() else []
    field = stamp.write("0123456789abcdef", _NOW, recipients, smtputf8=random.random() < 0.5)
    assert field.startswith(b"Received: ")
    assert field.endswith(b"\r\n")
    assert _is_in_lines(field)
    assert all(not line or line[0] in b" R" for line in field.split(b"\r\n")), "a field of its own came of it"
    assert max(map(len, field.split(b"\r\n"))) <= 998


def _check_submission(octets: bytes, random: Random) -> None:
    added = missing_fields(octets, _NOW, "0123456789abcdef", "mx.example", is_whole=random.random() < 0.7)
    assert added == b"" or added.endswith(b"\r\n")
    whole = added + octets
    assert missing_fields(whole, _NOW, "x", "mx.example", is_whole=True) == b"" or not added
    assert [line.partition(b":")[0] for line in added.split(b"\r\n")[:-1]] in (
        [],
        [b"Date"],
        [b"Message-ID"],
        [b"Date", b"Message-ID"],
    )


def _check_report(octets: bytes, random: Random) -> None:
    text = octets.decode("utf-8", random.choice(("replace", "surrogateescape")))
    parts = text.split("\n") * 8

    def said(most: int) -> str:
        return random.choice(parts)[:most]

    recipients = tuple(
        SettledRecipient(
            n, said(320) or "a@b", said(255), random.choice(tuple(State)), 0.0, random.randrange(99), said(20),
            said(70_000), said(2000), True, said(300), False, random.choice(tuple(DsnDuty)),
            Notify(2 * random.randrange(8)), said(500),
        )
        for n in range(random.choice((1, 2, 4)))
    )  # fmt: skip
    is_utf8 = random.random() < 0.3
    reverse_path = random.choice(
        ("ann@example.org", "jürgen@müller.example" if is_utf8 else "a@b", f"{said(60)}@b.example")
    )
    owed = OwedReport(
        "0123456789abcdef", _NOW - 500, reverse_path, is_utf8, b"Received: from x\r\n", octets, recipients,
        random.choice((0, len(octets), 10**9)), random.choice(("", "FULL", "HDRS")), said(100),
        random.choice(tuple(SenderTls)),
    )  # fmt: skip
    message = report_message(owed, reporting_mta="mx.example", now=_NOW, id="a" * 16, attempted_at={0: _NOW - 9})
    if message is None:
        return
    assert isinstance(message.content, InlineContent)
    written = message.content.body
    assert _is_in_lines(written), "a bare newline or NUL in a report"
    assert max(map(len, written.split(b"\r\n"))) <= 998
    assert len(written) <= _REPORT_OCTETS + 4 * len(octets)
    assert written.isascii() or is_utf8 or message.envelope.body.value == "8BITMIME"
    parsed = email.message_from_bytes(written)
    assert parsed.get_content_type() == "multipart/report"
    assert len(parsed.get_payload()) == 3, "a part came or went"
    fields = written.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert sum(not line.startswith((b" ", b"\t")) for line in fields) <= 11, "a field of its own came of it"


_MAIL = (
    b"Received: from a by b\r\nReceived: from c\r\n by d\r\nFrom: Ann <ann@example.org>\r\nTo: bob@example.net\r\n"
    b"Date: Fri, 1 Jan 2027 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\nSubject: hello\r\n folded  twice\r\n"
)
_PLAIN = _MAIL + b"\r\nbody  with blanks \t\r\n\r\n.\r\nend\r\n\r\n\r\n"
_EIGHT = _MAIL + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + "Grüße\r\n".encode() * 3
_MULTIPART = (
    _MAIL + b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b\"\r\n\r\npreamble\r\n--b\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n--b\r\n"
    b"Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\x01\r\n\xff\r\n--b\r\n"
    b"Content-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n\r\n\xe4\r\n--c--\r\n\r\n--b\r\n"
    b"Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\n\xfc\r\n--b--\r\n"
)  # fmt: skip
_SIGNED = _MULTIPART.replace(b"multipart/mixed", b"multipart/signed")
_TLS = _MAIL + b"TLS-Required: No\r\n\r\nbody\r\n"
_MESSAGES = (_PLAIN, _EIGHT, _MULTIPART, _SIGNED, _TLS, b"\r\nno header\r\n", b"x" * 1200 + b"\r\n")
_FIELDS = (
    b"\r\n", b"\r\n\r\n", b"\r\n ", b"Received: x\r\n", b"Content-Type: multipart/mixed; boundary=b\r\n", b"--b\r\n",
    b"--b--\r\n", b"boundary=", b'"', b"Content-Transfer-Encoding: base64\r\n", b"Content-Transfer-Encoding: 8bit\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n", b"Content-Type: message/rfc822\r\n", b"charset=", b"=?utf-8?q?",
    b"TLS-Required: No\r\n", b"tls-required:\r\n no", b"From: <x@y>\r\n", b"Date: now\r\n", b"Message-ID: <\xff>\r\n",
    b"multipart/digest", b"MIME-Version: 1.0\r\n", b" \t \t", b"(" * 50, b'\\"' * 50, b"\xe4\xf6",
)  # fmt: skip
_TOLD = (
    b"550 5.1.1 <bob@example.net>: no such user\nbob@example.net\n5.1.1\nmx.example.net\nrfc822;Bob+2B@x\nQQ314159",
    b"451 4.7.1 greylisted\njuergen@example\n4.4.7\n[192.0.2.1]\nutf-8;j\\x{FC}@x\n\nSubject: x\r\n\r\nbody\r\n",
    *_MESSAGES,
)
_HOSTILE = (
    b"\n", b"\r\nBcc: x@y\r\n", b"\r\n\r\n--=_aaaa_0\r\n", b"--=_aaaaaaaaaaaaaaaa_0--", b"\x1b[2J", b"\xe2\x80\xae",
    b"x" * 2000, b"\xc3\xbc" * 600, b"+0D+0A", b"\\x{D800}", b"rfc822;", b";", b"Message-ID: <a@b>\r\n",
)  # fmt: skip

TARGETS = (
    Target("seven-bit", _check_conversion, _MESSAGES, _FIELDS, 6_000),
    Target("dkim", _check_signature, _MESSAGES, _FIELDS, 8_000),
    Target("trace", _check_trace, _MESSAGES, _FIELDS, 12_000),
    Target("submission", _check_submission, _MESSAGES, _FIELDS, 15_000),
    Target("report", _check_report, _TOLD, _HOSTILE, 3_000),
)
