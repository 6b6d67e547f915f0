# SPDX-License-Identifier: MIT
"""Writes the report (DSN) about recipients of a message: RFC 3464 in RFC 6522's multipart, RFC 6533 for UTF-8.

One report tells of all of them that are due, failed, delayed and relayed alike, each with an Action of its own: several
would be allowed, but a reader wants one. Pure; called by reports.py, off the hot path. Writes octets itself, since all
that it quotes is hostile (settle.writing). A bug here cannot re-send mail: filing is a transaction of its own.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import NULL_REVERSE_PATH, Body, Envelope, SenderTls
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import OwedReport, SettledRecipient
from smarthost.settle.dsn_original import cut_header_section, is_whole_due, write_headers, write_whole
from smarthost.settle.dsn_status import Action, Times, action_of, is_global, write_status
from smarthost.settle.dsn_text import subject_of, write_text
from smarthost.settle.notify import is_report_owed
from smarthost.settle.writing import clean, clean_word, format_date, write_field, write_part

MESSAGE_ID_OCTETS = 250

_UNKNOWN_TIMES: Mapping[int, float] = MappingProxyType({})

# msg-id = "<" id-left "@" id-right ">" (RFC 5322 3.6.4), any visible ASCII but the brackets
_MESSAGE_ID = re.compile(rb"\r\nmessage-id[ \t]*:\s*(<[!-;=?-~]+>)", re.IGNORECASE)


def select_due(owed: OwedReport) -> OwedReport:
    """Give the debt without those recipients of whom nobody wants to hear now: a delayed one may be relayed since."""
    due = tuple([each for each in owed.recipients if _is_due(owed, each)])
    return owed if len(due) == len(owed.recipients) else replace(owed, recipients=due)


def is_about_failure(owed: OwedReport) -> bool:
    """Does this debt tell of a recipient that was given up?"""
    return any(action_of(each) is Action.FAILED for each in owed.recipients)


def report_message(
    owed: OwedReport,
    *,
    reporting_mta: str,
    now: float,
    id: str,
    attempted_at: Mapping[int, float] = _UNKNOWN_TIMES,
    expires_at: float | None = None,
) -> Message | None:
    """Give the report as a message with the null reverse-path, or None if nobody can be told.

    None for the null reverse-path (RFC 5321 4.5.5), one without a domain to route by, and when nothing is to be told. A
    report about a message with REQUIRETLS asks for it, too (RFC 8689 5).
    """
    recipient = _to_address(owed.reverse_path)
    owed = select_due(owed)
    if recipient is None or not owed.recipients:
        return None
    content = write_report(
        owed, reporting_mta=reporting_mta, now=now, id=id, attempted_at=attempted_at, expires_at=expires_at
    )
    is_utf8 = not owed.reverse_path.isascii()
    body = Body.EIGHT_BIT_MIME if is_utf8 or not content.isascii() else Body.SEVEN_BIT
    tls = SenderTls.REQUIRED if owed.tls is SenderTls.REQUIRED else SenderTls.DEFAULT
    envelope = Envelope(NULL_REVERSE_PATH, (recipient,), body, smtputf8=is_utf8, tls=tls)
    return Message(id, now, envelope, b"", InlineContent(content), "local", "local")


def report_records(
    owed: OwedReport, report: Message | None, *, now: float, next_seq: Callable[[], int], why_not: str = ""
) -> tuple[Record, ...]:
    """Say for each recipient of a debt which report told of it, or why nobody was told (`why_not`, if nothing else)."""
    if _to_address(owed.reverse_path) is None:
        why_not = "the reverse-path is null or cannot be routed"
    return tuple(
        Record(
            next_seq(),
            Kind.REPORTED,
            now,
            owed.id,
            recipient.address,
            owed.reverse_path,
            recipient.attempts,
            recipient.status,
            why=_say_what_was_filed(owed, recipient, report, why_not),
        )
        for recipient in owed.recipients
    )


def _say_what_was_filed(owed: OwedReport, recipient: SettledRecipient, report: Message | None, why_not: str) -> str:
    if report is not None and _is_due(owed, recipient):
        return f"report {report.id} queued for <{owed.reverse_path}>: {action_of(recipient).value}"
    return f"nobody is told: {why_not or f'it is {recipient.state.value} by now, and no report of that is wanted'}"


def _is_due(owed: OwedReport, recipient: SettledRecipient) -> bool:
    return is_report_owed(owed.reverse_path, recipient.state, recipient.notify, recipient.dsn)


def write_report(
    owed: OwedReport,
    *,
    reporting_mta: str,
    now: float,
    id: str,
    attempted_at: Mapping[int, float] = _UNKNOWN_TIMES,
    expires_at: float | None = None,
) -> bytes:
    """Write the report `id` about all recipients of `owed` as octets, CRLF lines of at most 998.

    7-bit, unless the reverse-path itself needs SMTPUTF8, or an 8-bit message goes back whole: then 8-bit.
    `attempted_at`: wall seconds of the last attempt by recipient number, where known (RFC 3464 2.3.7: left out where
    not). `expires_at`: until when what is delayed is tried; left out once it is past.
    """
    times = Times(attempted_at, expires_at if expires_at is not None and expires_at > now else None)
    is_utf8, is_failure, may_be_global = not owed.reverse_path.isascii(), is_about_failure(owed), is_global(owed)
    header, is_whole = cut_header_section(owed), is_whole_due(owed, is_failure)
    kind = b"global-" if may_be_global else b""
    parts = (
        write_part(
            b"Content-Description: Notification\r\nContent-Language: en\r\nContent-Type: text/plain; charset=utf-8\r\n",
            write_text(owed, reporting_mta, times, is_whole=is_whole),
            is_utf8,
        ),
        write_part(
            b"Content-Description: Delivery report\r\nContent-Type: message/" + kind + b"delivery-status\r\n",
            write_status(owed, reporting_mta, times),
            is_utf8,
        ),
        write_whole(owed, is_utf8)
        if is_whole
        else write_headers(header, is_failure=is_failure, is_global=may_be_global, is_utf8=is_utf8),
    )
    boundary = _choose_boundary(id, parts)
    delimiter = b"--" + boundary
    is_8bit = is_utf8 or not all(map(bytes.isascii, parts))
    return b"\r\n".join(
        (
            _write_header(owed, reporting_mta, now, id, header, boundary, is_8bit),
            *(delimiter + b"\r\n" + part for part in parts),
            delimiter + b"--\r\n",
        )
    )


def _write_header(
    owed: OwedReport, reporting_mta: str, now: float, id: str, header: bytes, boundary: bytes, is_8bit: bool
) -> bytes:
    host = clean_word(reporting_mta)
    subject = subject_of(frozenset(map(action_of, owed.recipients)))
    fields = [
        write_field("From", "Mail", "Delivery", "System", f"<MAILER-DAEMON@{host}>"),
        write_field("To", f"<{clean(owed.reverse_path)}>"),
        b"Subject: " + subject.encode() + b"\r\n",
        write_field("Date", format_date(now)),
        write_field("Message-ID", f"<{clean_word(id)}@{host}>"),
        b"Auto-Submitted: auto-replied\r\n",  # RFC 3834 2, 3.1.7: so that nobody's vacation program answers
        b"MIME-Version: 1.0\r\n",
        b'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="' + boundary + b'"\r\n',
        b"Content-Transfer-Encoding: " + (b"8bit\r\n" if is_8bit else b"7bit\r\n"),
    ]
    original = _MESSAGE_ID.search(b"\r\n" + header)
    if original is not None and len(original[1]) <= MESSAGE_ID_OCTETS:
        message_id = original[1].decode("ascii")
        fields[5:5] = (write_field("In-Reply-To", message_id), write_field("References", message_id))
    return b"".join(fields) + b"\r\nThis is a delivery report in the format of RFC 3464.\r\n"


def _to_address(reverse_path: str) -> Address | None:
    local_part, _, domain = reverse_path.rpartition("@")
    if not local_part:
        return None
    try:
        return Address(reverse_path, to_domain(domain))
    except ValueError:
        return None


def _choose_boundary(id: str, parts: tuple[bytes, ...]) -> bytes:
    """Give a boundary that occurs in no part, whatever the original's author guessed (RFC 2046 5.1.1)."""
    stem = "".join(c for c in id if c.isascii() and c.isalnum())[:32]
    n = 0
    while any((boundary := f"=_{stem}_{n}".encode()) in part for part in parts):
        n += 1
    return boundary
