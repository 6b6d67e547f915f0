# SPDX-License-Identifier: MIT
"""accept.submission: what a submitted message lacks is added, and nothing else."""

import pytest

from smarthost.accept.submission import missing_fields
from smarthost.testing.clock import START

DATE = b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n"
MESSAGE_ID = b"Message-ID: <0123456789abcdef@relay.example.org>\r\n"


def added(content: bytes, *, is_whole: bool = True) -> bytes:
    return missing_fields(content, START, "0123456789abcdef", "relay.example.org", is_whole=is_whole)


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (b"Subject: x\r\n\r\nbody\r\n", DATE + MESSAGE_ID),
        (b"Date: x\r\nSubject: x\r\n\r\nbody\r\n", MESSAGE_ID),
        (b"Subject: x\r\nMESSAGE-ID: <1@x>\r\n\r\nbody\r\n", DATE),
        (b"date: x\r\nmessage-id: <1@x>\r\n\r\nbody\r\n", b""),
        (b"Date : x\r\nMessage-Id\t: <1@x>\r\n\r\nbody\r\n", b""),
        (b"Subject: Date: x\r\nX-Date: y\r\nResent-Message-ID: z\r\n\r\nbody\r\n", DATE + MESSAGE_ID),
        (b"Subject: x\r\n Date: folded\r\n\r\nbody\r\n", DATE + MESSAGE_ID),
        (b"Subject: x\r\n\r\nDate: in the body\r\nMessage-ID: <1@x>\r\n", DATE + MESSAGE_ID),
        (b"\r\nDate: in the body\r\n", DATE + MESSAGE_ID),
        (b"Subject: no body\r\n", DATE + MESSAGE_ID),
        (b"Date: x\r\nMessage-ID: <1@x>\r\n", b""),
        (b"", DATE + MESSAGE_ID),
    ],
)
def test_date_and_message_id_are_added_where_they_are_missing(content: bytes, fields: bytes) -> None:
    """Only the header section counts, in any case, with white space before the colon as RFC 5322 4.5 has it."""
    assert fields == added(content)


def test_a_header_section_without_an_end_is_left_alone() -> None:
    """What is longer than the first piece may have a Date further down: nothing is added, nothing is doubled."""
    assert b"" == added(b"X: y\r\n" * 20_000, is_whole=False)
