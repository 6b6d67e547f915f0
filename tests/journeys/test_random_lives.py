# SPDX-License-Identifier: MIT
"""A few lives of a relay drawn at random: crashes, dead hosts, a failing disk, and no promise broken.

`python -m simulate` lives many more, and longer ones.
"""

import pytest
from simulate.run import live


@pytest.mark.parametrize("seed", [21, 22, 23])
def test_a_few_hours_with_all_that_can_go_wrong_end_well(seed: int) -> None:
    """All that was acknowledged has ended, once, and nobody got what was not sent."""
    outcome = live(seed, 4.0)

    assert ("", "") == (outcome.invariant, outcome.text)
    assert outcome.recipients > 0
