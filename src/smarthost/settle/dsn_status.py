# SPDX-License-Identifier: MIT
"""The part of a report that programs read: message/delivery-status (RFC 3464 2), or its global form (RFC 6533).

Pure. Says of each recipient what became of it, in words that agree with each other: the class of a status always fits
the action. ENVID and ORCPT come back as the sender meant them, decoded from xtext (RFC 3461 4.2, 4.4).
"""

import re
from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from smarthost.mail.result import DsnDuty
from smarthost.mail.settlement import OwedReport, SettledRecipient, State
from smarthost.settle.decide import EXPIRED_STATUSES
from smarthost.settle.writing import clean, clean_sentence, clean_word, escape, format_date, sound_host, write_field

_STATUS = re.compile(r"[245](\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2}))")
_HEXCHAR = re.compile(
    rb"\+([0-9A-F]{2})"
)  # hexchar = ASCII "+" immediately followed by two upper case hexadecimal digits
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")  # EmbeddedUnicodeChar = %x5C.78 "{" HEXPOINT "}" (RFC 6533 3)
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]{1,64}")  # addr-type = atom; all that are registered look like this
_LAST_CODE_POINT = 0x10FFFF


class Action(Enum):
    """What became of a recipient (RFC 3464 2.3.3); never "expanded", for we send to no lists."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"
    DELIVERED = "delivered"


class Times(Struct, frozen=True):
    """What is known of when, in wall seconds: each recipient's last attempt by its number, and when we give up."""

    attempted_at: Mapping[int, float]
    expires_at: float | None = None


def action_of(recipient: SettledRecipient) -> Action:
    """Give the action of a recipient about which there is something to report."""
    if recipient.state is State.RELAYED:
        return Action.DELIVERED if recipient.dsn is DsnDuty.DELIVERED else Action.RELAYED
    return Action.DELAYED if recipient.state in (State.DEFERRED, State.HELD) else Action.FAILED


def status_of(recipient: SettledRecipient) -> str:
    """Give a status whose class says what the action says (RFC 3464 2.3.4).

    Class 5 for failures, but for most expiries; class 4 for delays; class 2 for success.
    """
    action = action_of(recipient)
    if recipient.state is State.EXPIRED:  # decide chose it: 4.4.7, or what days have made a fact
        return recipient.status if recipient.status in EXPIRED_STATUSES else EXPIRED_STATUSES[0]
    number = "5" if action is Action.FAILED else "4" if action is Action.DELAYED else "2"
    status = _STATUS.fullmatch(recipient.status)
    return f"{number}{status[1]}" if status is not None else f"{number}.0.0"


def is_global(owed: OwedReport) -> bool:
    """Does the report need the forms of RFC 6533, as some address in it is or may be internationalised?"""
    return owed.smtputf8 or any(
        not each.address.isascii() or each.orcpt[:6].lower() == "utf-8;" for each in owed.recipients
    )


def write_status(owed: OwedReport, reporting_mta: str, times: Times) -> bytes:
    """Write a group of fields for the message and one for each recipient, with an empty line between them."""
    fields = [write_field("Reporting-MTA", "dns;", clean_word(reporting_mta))]
    if envid := clean(_decode_xtext(owed.envid)).strip():
        fields.insert(0, write_field("Original-Envelope-Id", escape(envid)))
    fields += [
        write_field("X-Smarthost-Id", clean_word(owed.id)),
        write_field("Arrival-Date", format_date(owed.received_at)),
    ]
    may_be_utf8 = is_global(owed)
    groups = [b"".join(fields), *[_write_recipient(each, times, may_be_utf8) for each in owed.recipients]]
    return b"\r\n".join(groups)


def _write_recipient(recipient: SettledRecipient, times: Times, may_be_utf8: bool) -> bytes:
    action = action_of(recipient)
    address = clean(recipient.address)
    fields = [
        # RFC 6533 3: the type says whether the address is internationalised, not whether the message is
        write_field("Final-Recipient", "rfc822;" if address.isascii() else "utf-8;", address),
        b"Action: " + action.value.encode() + b"\r\n",
        write_field("Status", status_of(recipient)),
    ]
    if original := _read_orcpt(recipient.orcpt):
        kind, address = original
        fields.insert(0, write_field("Original-Recipient", f"{kind};", address if may_be_utf8 else escape(address)))
    if host := sound_host(recipient.host):
        fields.append(write_field("Remote-MTA", "dns;", host))
    fields += _write_diagnostic(recipient, action, may_be_utf8)
    attempted_at = times.attempted_at.get(recipient.n)
    if attempted_at is not None:
        fields.append(write_field("Last-Attempt-Date", format_date(attempted_at)))
    if recipient.state is State.DEFERRED and times.expires_at is not None:
        fields.append(write_field("Will-Retry-Until", format_date(times.expires_at)))
    return b"".join(fields)


def _write_diagnostic(recipient: SettledRecipient, action: Action, may_be_utf8: bool) -> list[bytes]:
    said = clean_sentence(recipient.last_reply)
    is_success = action in (Action.RELAYED, Action.DELIVERED)
    diagnostic = said or ("" if is_success else clean_sentence(recipient.why))
    if not diagnostic:
        return []
    kind = "smtp;" if said else "x-smarthost;"  # RFC 3464 2.1.2, 2.3.6: a private type for what no host said
    return [write_field("Diagnostic-Code", kind, *(diagnostic if may_be_utf8 else escape(diagnostic)).split())]


def _read_orcpt(orcpt: str) -> tuple[str, str] | None:
    """Give address type and address of an ORCPT, or None if it is none that could be written."""
    kind, separator, encoded = orcpt.partition(";")
    if not separator or not _ADDRESS_TYPE.fullmatch(kind):
        return None
    address = _decode_xtext(encoded)
    if kind.lower() == "utf-8":
        address = _EMBEDDED.sub(_decode_embedded, address)
    address = clean(address).strip()
    return (kind, address) if address else None


def _decode_xtext(text: str) -> str:
    octets = _HEXCHAR.sub(lambda found: bytes((int(found[1], 16),)), text.encode("utf-8", "replace"))
    return octets.decode("utf-8", "backslashreplace")


def _decode_embedded(found: re.Match[str]) -> str:
    point = int(found[1], 16)
    return chr(point) if point <= _LAST_CODE_POINT else found[0]
