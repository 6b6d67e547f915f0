# SPDX-License-Identifier: MIT
"""Writes the report (DSN) about a message's failed recipients: RFC 3464 in RFC 6522's multipart, RFC 6533 for UTF-8.

Pure; called by relay.py, off the hot path. Writes octets itself, since everything it quotes is hostile: host replies,
addresses and the original's header section can neither end a field nor a part. Of the original only the header section
goes back (64 KiB at most): we are no amplifier. A bug here cannot re-send mail: filing is a transaction of its own.
"""

import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from types import MappingProxyType

from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import NULL_REVERSE_PATH, Body, Envelope
from smarthost.mail.message import Message
from smarthost.mail.record import Kind, Record
from smarthost.mail.settlement import OwedReport, SettledRecipient, State
from smarthost.settle.decide import EXPIRED_STATUSES

LINE_OCTETS = 78  # RFC 5322 2.1.1 SHOULD
_HARD_OCTETS = 998  # RFC 5322 2.1.1 MUST
_WORD_OCTETS = 900  # a longer word is cut; must exceed an address (320, RFC 5321 4.5.3.1), stay below _HARD_OCTETS
_CUT = 200  # ... into pieces of so many characters, 800 octets at most
HEADER_OCTETS = 64 * 1024  # OwedReport.header is that long at most
REPLY_CHARACTERS = 1024  # two full lines of RFC 5321 4.5.3.1.5; 500 recipients x 64 KiB replies would be 32 MiB
MESSAGE_ID_OCTETS = 250

_UNKNOWN_TIMES: Mapping[int, float] = MappingProxyType({})

# Controls, line separators and direction overrides: what could end a line here or deceive a reader there
_HARMFUL = dict.fromkeys(
    (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), " "
)
# field-name ":" (RFC 5322 2.2, obs-optional 4.5), or the continuation of one
_FIELD_LINE = re.compile(rb"[!-9;-~]+[ \t]*:|[ \t]")
# msg-id = "<" id-left "@" id-right ">" (RFC 5322 3.6.4), any visible ASCII but the brackets
_MESSAGE_ID = re.compile(rb"\r\nmessage-id[ \t]*:\s*(<[!-;=?-~]+>)", re.IGNORECASE)
_STATUS = re.compile(r"[245](\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2}))")
_HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")
_CLEAN_7BIT = bytes((0x09, 0x0A, 0x0D, *range(0x20, 0x7F)))

_ADVICE = (  # the first whose subject, or subject and detail, fits (RFC 3463 3)
    (".1.1", "The address does not exist there. Check it for mistakes, or ask the recipient for the right one."),
    (".1.2", "The domain does not exist. Check what stands behind the @ for mistakes."),
    (".1.10", "The domain takes no mail at all. Check what stands behind the @ for mistakes."),
    (".1", "Check the address for mistakes."),
    (".2.2", "The mailbox is full. Try again later, or reach the recipient another way."),
    (".2.3", "The message is too large for this mailbox. Send less, or a link to it."),
    (".2", "The mailbox does not take mail now. Reach the recipient another way."),
    (".3.4", "The message is too large for that host. Send less, or a link to it."),
    (".4.7", "Nothing is known to be wrong with your message. Send it again if it still matters."),
    (".4.6", "The mail would go in circles. Your postmaster, or that of the recipient's domain, must repair that."),
    (".6.7", "That host does not take internationalised addresses. Ask the recipient for one in plain ASCII."),
    (".7", "That host's policy refuses it. What it said is meant for your postmaster, or for the recipient's."),
    ("", "If what the host said does not help, show this report to your postmaster."),
)


def report_message(
    owed: OwedReport, *, reporting_mta: str, now: float, id: str, attempted_at: Mapping[int, float] = _UNKNOWN_TIMES
) -> Message | None:
    """Give the report as a message with the null reverse-path, or None if nobody can be told.

    None for the null reverse-path (RFC 5321 4.5.5), one without a domain to route by, and when nobody failed.
    """
    recipient = _to_address(owed.reverse_path)
    if recipient is None or not owed.recipients:
        return None
    is_utf8 = not owed.reverse_path.isascii()
    envelope = Envelope(
        NULL_REVERSE_PATH, (recipient,), Body.EIGHT_BIT_MIME if is_utf8 else Body.SEVEN_BIT, smtputf8=is_utf8
    )
    content = write_report(owed, reporting_mta=reporting_mta, now=now, id=id, attempted_at=attempted_at)
    return Message(id, now, envelope, b"", InlineContent(content), "local", "local")


def report_records(
    owed: OwedReport, report: Message | None, *, now: float, next_seq: Callable[[], int]
) -> tuple[Record, ...]:
    """Say for each failed recipient which report told of it, or that nobody could be told."""
    if report is None:
        why = "nobody is told: the reverse-path is null or cannot be routed"
    else:
        why = f"report {report.id} queued for <{owed.reverse_path}>"
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
            why=why,
        )
        for recipient in owed.recipients
    )


def write_report(
    owed: OwedReport, *, reporting_mta: str, now: float, id: str, attempted_at: Mapping[int, float] = _UNKNOWN_TIMES
) -> bytes:
    """Write the report `id` as octets, CRLF lines of at most 998.

    7-bit, unless the reverse-path itself needs SMTPUTF8: then 8-bit. `attempted_at`: wall seconds of the last attempt
    by recipient number, where known (RFC 3464 2.3.7: left out where not).
    """
    is_utf8 = not owed.reverse_path.isascii()
    is_global = owed.smtputf8 or any(not recipient.address.isascii() for recipient in owed.recipients)
    header = _cut_header_section(owed)
    kind = b"global-" if is_global else b""
    status = _write_status(owed, reporting_mta, attempted_at, is_global)
    parts = (
        _write_part(
            b"Content-Description: Notification\r\nContent-Language: en\r\nContent-Type: text/plain; charset=utf-8\r\n",
            _write_text(owed, reporting_mta),
            is_utf8,
        ),
        _write_part(
            b"Content-Description: Delivery report\r\nContent-Type: message/" + kind + b"delivery-status\r\n",
            status,
            is_utf8,
        ),
        _write_part(
            b"Content-Description: Header section of the undelivered message\r\nContent-Type: "
            + (b"message/global-headers\r\n" if is_global else b"text/rfc822-headers\r\n"),
            header,
            is_utf8,
        ),
    )
    boundary = _choose_boundary(id, parts)
    delimiter = b"--" + boundary
    return b"\r\n".join(
        (
            _write_header(owed, reporting_mta, now, id, header, boundary),
            *(delimiter + b"\r\n" + part for part in parts),
            delimiter + b"--\r\n",
        )
    )


# -- the three parts ---------------------------------------------------------------------------------------------------


def _write_header(owed: OwedReport, reporting_mta: str, now: float, id: str, header: bytes, boundary: bytes) -> bytes:
    host = _clean_word(reporting_mta)
    is_utf8 = not owed.reverse_path.isascii()
    fields = [
        _field("From", "Mail", "Delivery", "System", f"<MAILER-DAEMON@{host}>"),
        _field("To", f"<{_clean(owed.reverse_path)}>"),
        b"Subject: Your message could not be delivered\r\n",
        _field("Date", _format_date(now)),
        _field("Message-ID", f"<{_clean_word(id)}@{host}>"),
        b"Auto-Submitted: auto-replied\r\n",  # RFC 3834 2, 3.1.7: so that nobody's vacation program answers
        b"MIME-Version: 1.0\r\n",
        b'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="' + boundary + b'"\r\n',
        b"Content-Transfer-Encoding: " + (b"8bit\r\n" if is_utf8 else b"7bit\r\n"),
    ]
    original = _MESSAGE_ID.search(b"\r\n" + header)
    if original is not None and len(original[1]) <= MESSAGE_ID_OCTETS:
        message_id = original[1].decode("ascii")
        fields[5:5] = (_field("In-Reply-To", message_id), _field("References", message_id))
    return b"".join(fields) + b"\r\nThis is a delivery report in the format of RFC 3464.\r\n"


def _write_text(owed: OwedReport, reporting_mta: str) -> bytes:
    """Tell a person what happened to which address, what the other host said, and what to do."""
    lines = [
        f"This is the mail relay {_clean(reporting_mta)}.",
        "",
        "Your message could not be delivered to the recipients below. This is final:",
        "it will not be tried again.",
        "",
    ]
    for recipient in owed.recipients:
        lines += _explain(recipient)
    lines += [
        f"We had accepted the message on {_format_date(owed.received_at)}.",
        f"If you ask your postmaster about it, name its id here: {_clean_word(owed.id)}",
        "Its header section is attached, its body is not.",
    ]
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n"


def _explain(recipient: SettledRecipient) -> list[str]:
    status = _final_status(recipient)
    lines = [f"<{_clean(recipient.address)}>"]
    if recipient.why:
        lines += _wrap(_clean_sentence(recipient.why).split(), "  ")
    if recipient.last_reply and recipient.last_reply not in recipient.why:
        lines.append(f"  The last thing that {_host_of(recipient) or 'the host there'} said:")
        lines += _wrap(_clean_sentence(recipient.last_reply).split(), "    ")
    advice = next(text for start, text in _ADVICE if _has_subject(status, start))
    return [*lines, *_wrap(advice.split(), "  "), ""]


def _write_status(owed: OwedReport, reporting_mta: str, attempted_at: Mapping[int, float], is_global: bool) -> bytes:
    """RFC 3464 2: one group of fields for the message, one for each recipient, each group ended by an empty line."""
    groups = [
        _field("Reporting-MTA", "dns;", _clean_word(reporting_mta))
        + _field("X-Smarthost-Id", _clean_word(owed.id))
        + _field("Arrival-Date", _format_date(owed.received_at))
    ]
    groups += [_write_recipient(each, attempted_at.get(each.n), is_global) for each in owed.recipients]
    return b"\r\n".join(groups)


def _write_recipient(recipient: SettledRecipient, attempted_at: float | None, is_global: bool) -> bytes:
    said = _clean_sentence(recipient.last_reply)
    kind = "smtp;" if said else "x-smarthost;"  # RFC 3464 2.1.2, 2.3.6: a private type for what no host said
    diagnostic = said or _clean_sentence(recipient.why)
    address = _clean(recipient.address)
    if not is_global:
        diagnostic = _escape(diagnostic)
    fields = [
        # RFC 6533 3: the type says whether the address is internationalised, not whether the message is
        _field("Final-Recipient", "rfc822;" if address.isascii() else "utf-8;", address),
        b"Action: failed\r\n",
        _field("Status", _final_status(recipient)),
    ]
    if host := _host_of(recipient):
        fields.append(_field("Remote-MTA", "dns;", host))
    if diagnostic:
        fields.append(_field("Diagnostic-Code", kind, *diagnostic.split()))
    if attempted_at is not None:
        fields.append(_field("Last-Attempt-Date", _format_date(attempted_at)))
    return b"".join(fields)


def _cut_header_section(owed: OwedReport) -> bytes:
    """Take the original's fields, whole lines only, and stop where something is no field: no body goes back."""
    octets = (owed.prefix + owed.header)[:HEADER_OCTETS]
    position = 0
    while _FIELD_LINE.match(octets, position):
        end = octets.find(b"\r\n", position)
        if end < 0:
            break
        position = end + 2
    return octets[:position]


# -- the rules of each field -------------------------------------------------------------------------------------------


def _final_status(recipient: SettledRecipient) -> str:
    """Give a status whose class says what `Action: failed` says (RFC 3464 2.3.4): class 5, but for most expiries."""
    if recipient.state is State.EXPIRED:  # decide chose it: 4.4.7, or what days have made a fact
        return recipient.status if recipient.status in EXPIRED_STATUSES else EXPIRED_STATUSES[0]
    status = _STATUS.fullmatch(recipient.status)
    return f"5{status[1]}" if status is not None else "5.0.0"


def _host_of(recipient: SettledRecipient) -> str:
    return recipient.host if _HOST.fullmatch(recipient.host) else ""


def _has_subject(status: str, start: str) -> bool:
    return f"{status[1:]}.".startswith(f"{start}.") or not start


def _to_address(reverse_path: str) -> Address | None:
    local_part, _, domain = reverse_path.rpartition("@")
    if not local_part:
        return None
    try:
        return Address(reverse_path, to_domain(domain))
    except ValueError:
        return None


def _format_date(wall: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(wall), UTC))


# -- writing what is hostile -------------------------------------------------------------------------------------------


def _clean(text: str) -> str:
    return text.translate(_HARMFUL)


def _clean_word(text: str) -> str:
    return "".join(_clean(text).split())


def _clean_sentence(text: str) -> str:
    text = _clean(text[: REPLY_CHARACTERS + 1])
    return text if len(text) <= REPLY_CHARACTERS else f"{text[:REPLY_CHARACTERS]} [...]"


def _escape(text: str) -> str:
    """Write what is not ASCII as RFC 6533 3 writes it in 7-bit addresses: \\x{E9}; lossless and readable."""
    return text if text.isascii() else "".join([c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in text])


def _field(name: str, *words: str) -> bytes:
    """Write one field, folded between words. A word may hold spaces, but no control character: who calls it cleans."""
    lines = _wrap(words, " ", first=f"{name}:")
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n"


def _wrap(words: Iterable[str], indent: str, *, first: str = "") -> list[str]:
    """Lay words out in lines of at most 78 octets where words allow it, of at most 998 always."""
    lines = []
    line = first
    column = len(first)
    for word, octets in _cut_words(words):
        if line and column + 1 + octets > LINE_OCTETS:
            lines.append(line)
            line = ""
        if line:
            line += f" {word}"
            column += 1 + octets
        else:
            line = indent + word
            column = len(indent) + octets
    return [*lines, line]


def _cut_words(words: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Give each word with its octets in UTF-8; one that no line could hold in pieces."""
    for word in words:
        octets = _count_octets(word)
        if octets <= _WORD_OCTETS:
            yield word, octets
            continue
        for start in range(0, len(word), _CUT):
            piece = word[start : start + _CUT]
            yield piece, _count_octets(piece)


def _count_octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _write_part(fields: bytes, body: bytes, is_utf8: bool) -> bytes:
    """Write a part in the plainest encoding that carries it unharmed: 7bit, 8bit where allowed, quoted-printable.

    RFC 6522 4, RFC 6533 4 and 6 name quoted-printable for header sections and global reports on 7-bit paths. RFC 3464
    2.1 wants 7bit for message/delivery-status, which is ASCII by the way it is written.
    """
    if _fits_lines(body):
        if body.isascii() and not body.translate(None, _CLEAN_7BIT):
            return fields + b"Content-Transfer-Encoding: 7bit\r\n\r\n" + body
        if is_utf8 and _is_text(body):
            return fields + b"Content-Transfer-Encoding: 8bit\r\n\r\n" + body
    # Line by line and as binary, so that a stray CR or LF is quoted: every LF that comes out is a soft line break
    lines = [binascii.b2a_qp(line, istext=False).replace(b"\n", b"\r\n") for line in body.split(b"\r\n")]
    return fields + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + b"\r\n".join(lines)


def _fits_lines(body: bytes) -> bool:
    ends = body.count(b"\r\n")
    if body.count(b"\r") != ends or body.count(b"\n") != ends:
        return False
    return max(map(len, body.split(b"\r\n"))) <= _HARD_OCTETS


def _is_text(body: bytes) -> bool:
    controls = bytes((*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F))
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return len(body.translate(None, controls)) == len(body)


def _choose_boundary(id: str, parts: tuple[bytes, ...]) -> bytes:
    """Give a boundary that occurs in no part, whatever the original's author guessed (RFC 2046 5.1.1)."""
    stem = "".join(c for c in id if c.isascii() and c.isalnum())[:32]
    n = 0
    while any((boundary := f"=_{stem}_{n}".encode()) in part for part in parts):
        n += 1
    return boundary
