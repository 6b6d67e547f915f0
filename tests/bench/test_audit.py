# SPDX-License-Identifier: MIT
"""The audit: every numbered message at the sink, once."""

import pytest
from bench.audit import check_numbers, read_recipients
from bench.failure import RunFailed

DUMP = b"""X-Client-Addr: 127.0.0.1
X-Mail-Args: <from@bench.test>
X-Rcpt-Args: <1to@sink.test>
From: <from@bench.test>

1XXXX X-Rcpt-Args: <9to@sink.test>

X-Client-Addr: 127.0.0.1
X-Rcpt-Args: <12to@sink.test> NOTIFY=NEVER
"""


def test_recipients_are_read_from_the_dump() -> None:
    """Only smtp-sink's own header lines name recipients, not what a message says."""
    assert read_recipients(DUMP) == [1, 12]


def test_all_numbers_once_pass() -> None:
    """In any order."""
    check_numbers([3, 1, 2], 3)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ([1, 3], r"1 missing \[2\], 0 twice"),
        ([1, 2, 2, 3], r"0 missing \[\], 1 twice \[2\]"),
        ([1, 2, 2], r"1 missing \[3\], 1 twice \[2\]"),
        ([1, 2, 3, 4], r"1 strange"),
    ],
)
def test_missing_or_doubled_number_fails(numbers: list[int], says: str) -> None:
    """One lost and one doubled message make the right count, and are found all the same."""
    with pytest.raises(RunFailed, match=says):
        check_numbers(numbers, 3)
