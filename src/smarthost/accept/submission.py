# SPDX-License-Identifier: MIT
"""What a message submitted by a user may lack and we add: Date and Message-ID (RFC 6409 8.2, 8.3).

Pure. Only where users submit, never for mail that is relayed. Nothing that is there is changed, however odd it is; what
is added goes before the content, which stays as received. A header section that does not end within what is looked at
is left alone: nobody knows what it lacks.
"""

import re

from smarthost.accept import trace

# field-name followed by ":", with the white space before it that RFC 5322 4.5.8 (obs-optional) allows to be read
_find_fields = re.compile(rb"(?:\A|\r\n)(date|message-id)[ \t]*+:", re.IGNORECASE).findall


def missing_fields(content: bytes, now: float, id: str, hostname: str, *, is_whole: bool) -> bytes:
    """Give the fields to add, CRLF-terminated, or b"". `content`: all of it, or its first piece unless `is_whole`.

    `now` is wall seconds, `id` unique, `hostname` ours.
    """
    header = trace.header_section(content, is_whole=is_whole)
    if header is None:
        return b""
    found = {name.lower() for name in _find_fields(header)}
    added = b"" if b"date" in found else f"Date: {trace.format_date(int(now))}\r\n".encode()
    return added if b"message-id" in found else added + f"Message-ID: <{id}@{hostname}>\r\n".encode()
