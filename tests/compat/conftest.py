# SPDX-License-Identifier: MIT
"""What the tests of compat share."""

from collections.abc import Iterator

import pytest
from tests.compat.sessions import watch_log


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged meanwhile; an error, or a Deferred's failure nobody took, fails the test."""
    with watch_log() as lines:
        yield lines
