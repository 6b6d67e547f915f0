# SPDX-License-Identifier: MIT
"""A program that is missing is never passed over in silence."""

import pytest
from tests.interop.programs import program

pytestmark = pytest.mark.interop


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", "Failed"), ("1", "Failed"), ("", "Skipped"), ("false", "Skipped")]
)
def test_a_missing_program_fails_in_ci_and_skips_loudly_elsewhere(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    """Nobody believes that something was tried which was not there."""
    monkeypatch.setenv("CI", ci)

    with pytest.raises(BaseException, match="no-such-program is not installed") as ended:
        program("no-such-program")

    assert type(ended.value).__name__ == outcome
