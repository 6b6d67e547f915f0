# SPDX-License-Identifier: MIT
"""The part of a report that gives the message back: its header section, or all of it (RFC 3461 4.3).

Pure. We are no amplifier: the whole message goes back only for RET=FULL, in a report of failure, if it has at most
64 KiB; and never if it was sent with REQUIRETLS (RFC 8689 5). Nothing in it can end the part.
"""

import re

from smarthost.mail.envelope import SenderTls
from smarthost.mail.settlement import OwedReport
from smarthost.settle.writing import fits_lines, has_controls, write_part

HEADER_OCTETS = 64 * 1024  # OwedReport.header is that long at most
# field-name ":" (RFC 5322 2.2, obs-optional 4.5), or the continuation of one
_FIELD_LINE = re.compile(rb"[!-9;-~]+[ \t]*:|[ \t]")


def is_whole_due(owed: OwedReport, is_failure: bool) -> bool:
    """May the whole message go back, and is it at hand in a form that mail can carry?

    RFC 2046 5.2.1: a message/rfc822 cannot be encoded. So lines that are too long, control characters, or a header
    section beyond ASCII (which nobody could convert for a 7-bit host) keep the body from going back, but for
    internationalised messages: message/global can (RFC 6532 3.7).
    """
    if not (is_failure and owed.ret == "FULL" and owed.tls is not SenderTls.REQUIRED):
        return False
    if not 0 < owed.octets <= len(owed.header):
        return False
    if owed.smtputf8:
        return True
    is_plain = owed.header.partition(b"\r\n\r\n")[0].isascii()
    return is_plain and fits_lines(owed.header) and not has_controls(owed.header)


def write_whole(owed: OwedReport, is_utf8: bool) -> bytes:
    """Write the part with the whole message; see `is_whole_due`."""
    description = b"Content-Description: Undelivered message\r\nContent-Type: message/"
    body = owed.prefix + owed.header
    if owed.smtputf8:
        return write_part(description + b"global\r\n", body, is_utf8)
    encoding = b"7bit" if body.isascii() else b"8bit"
    return description + b"rfc822\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n" + body


def write_headers(header: bytes, *, is_failure: bool, is_global: bool, is_utf8: bool) -> bytes:
    """Write the part with the header section that `cut_header_section` gave."""
    whose = b"the undelivered message" if is_failure else b"the message"
    kind = b"message/global-headers" if is_global else b"text/rfc822-headers"
    fields = b"Content-Description: Header section of " + whose + b"\r\nContent-Type: " + kind + b"\r\n"
    return write_part(fields, header, is_utf8)


def cut_header_section(owed: OwedReport) -> bytes:
    """Take the original's fields, whole lines only, and stop where something is no field: no body goes back."""
    octets = (owed.prefix + owed.header)[:HEADER_OCTETS]
    position = 0
    while _FIELD_LINE.match(octets, position):
        end = octets.find(b"\r\n", position)
        if end < 0:
            break
        position = end + 2
    return octets[:position]
