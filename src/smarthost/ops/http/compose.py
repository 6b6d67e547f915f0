# SPDX-License-Identifier: MIT
"""Text, HTML and addresses to a message: for programs that have no mail library. Pure, but for the date.

The standard library builds it and refuses what would break a header; what a mail is made of is not checked further.
"""

import base64
import binascii
from datetime import UTC, datetime
from email.errors import HeaderDefect, HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid, parseaddr

import msgspec
from msgspec import Struct

from smarthost.ops.http.problems import Problem

HEADERS = 100
# No 8-bit content: a host without 8BITMIME would make us convert it, and that breaks a DKIM signature.
_POLICY = SMTP.clone(cte_type="7bit")
_UTF8_POLICY = SMTP.clone(cte_type="7bit", utf8=True)  # RFC 6532: for addresses that no encoded word may stand for
_OURS = frozenset(
    {"from", "to", "cc", "bcc", "subject", "reply-to", "date", "message-id", "mime-version"}
)  # what has a field of its own here, or is written by us


class Submission(Struct, forbid_unknown_fields=True, rename={"sender": "from"}):
    """A message to send. `raw`: all of it, in base64; else it is made of the other fields.

    `from` and the recipients are addresses, or "Name <address>". Who is in `bcc` is in no header.
    """

    sender: str
    to: list[str] = []
    cc: list[str] = []
    bcc: list[str] = []
    reply_to: list[str] = []
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: dict[str, str] = {}
    raw: str | None = None


class Composed(Struct, frozen=True):
    """What is handed to the relay; `message_id` is "" where the content is the client's own."""

    content: bytes
    reverse_path: str
    recipients: tuple[str, ...]
    message_id: str = ""


def compose(submission: Submission, hostname: str, now: float) -> Composed:
    """Give the message and its envelope. Raises: Problem: names the field."""
    everybody = (*submission.to, *submission.cc, *submission.bcc)
    recipients = tuple([_address("to, cc, bcc", text) for text in everybody])
    sender = _address("from", submission.sender) if submission.sender not in ("", "<>") else ""
    if submission.raw is not None:
        if submission.text is not None or submission.html is not None or submission.headers or submission.subject:
            raise Problem("unusable", "raw is the whole message: leave subject, text, html and headers out")
        return Composed(as_lines(_decode(submission.raw)), sender, recipients)
    try:
        message = _build(submission, hostname, now)
        is_plain = all(text.isascii() for text in (sender, *recipients, *map(_bare, submission.reply_to)))
        content = message.as_bytes(policy=_POLICY if is_plain else _UTF8_POLICY)
    except (ValueError, HeaderParseError, HeaderDefect, LookupError, IndexError) as error:
        raise Problem("unusable", f"not a message that can be written: {error}") from error
    return Composed(as_lines(content), sender, recipients, str(message["Message-ID"]))


def _build(submission: Submission, hostname: str, now: float) -> EmailMessage:
    message = EmailMessage(policy=_POLICY)
    if submission.sender not in ("", "<>"):
        message["From"] = _named("from", submission.sender)
    for field, texts in (("To", submission.to), ("Cc", submission.cc), ("Reply-To", submission.reply_to)):
        if texts:
            message[field] = [_named(field.lower(), text) for text in texts]
    message["Subject"] = submission.subject
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    message["Message-ID"] = make_msgid(domain=hostname)
    if len(submission.headers) > HEADERS:
        raise Problem("unusable", f"headers: at most {HEADERS}")
    for name, value in submission.headers.items():
        if name.lower() in _OURS or name.lower().startswith("content-"):
            raise Problem("unusable", f"headers: {name[:80]} has a field of its own, or is written by the relay")
        if not name or not all(33 <= ord(each) <= 126 and each != ":" for each in name):
            raise Problem("unusable", "headers: a name has visible ASCII and no colon")
        message[name] = value
    if submission.text is not None or submission.html is None:
        message.set_content(submission.text or "")
        if submission.html is not None:
            message.add_alternative(submission.html, subtype="html")
    else:
        message.set_content(submission.html, subtype="html")
    return message


def as_lines(content: bytes) -> bytes:
    """Give content whose lines all end in CRLF, the last one too (RFC 5321 2.3.8); a bare CR stays as it is."""
    lines = content
    if content.count(b"\n") != content.count(b"\r\n"):  # large content is as it should be, mostly: no copy then
        lines = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return lines if lines.endswith(b"\r\n") else lines + b"\r\n"


def _decode(raw: str) -> bytes:
    try:
        return base64.b64decode(raw, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem("unusable", f"raw: not base64: {error}") from error


def _named(field: str, text: str) -> Address:
    name, address = parseaddr(text) if "<" in text else ("", text)
    local, at, domain = address.rpartition("@")
    if not at:
        raise Problem("unusable", f"{field}: expected an address, or Name <address>: {text[:200]!a}")
    return Address(name, local, domain)


def _bare(text: str) -> str:
    return parseaddr(text)[1] if "<" in text else text


def _address(field: str, text: str) -> str:
    """Give the address alone; the relay's grammar judges it."""
    address = _bare(text)
    if not address:
        raise Problem("unusable", f"{field}: expected an address, or Name <address>: {text[:200]!a}")
    return address


def read_submission(value: object) -> Submission:
    """Raises: Problem: names the field."""
    try:
        return msgspec.convert(value, Submission)
    except msgspec.ValidationError as error:
        raise Problem("unusable", str(error)) from error
