# SPDX-License-Identifier: MIT
"""Who speaks to a destination."""

import pytest

from smarthost.route.source import Speaker

EVERYWHERE = Speaker("mail.example.org", "192.0.2.1")


@pytest.mark.parametrize(
    ("chosen", "speaks"),
    [
        (Speaker(), EVERYWHERE),
        (Speaker(source="192.0.2.9"), Speaker("mail.example.org", "192.0.2.9")),
        (Speaker("bulk.example.org"), Speaker("bulk.example.org", "192.0.2.1")),
        (Speaker("bulk.example.org", "192.0.2.9"), Speaker("bulk.example.org", "192.0.2.9")),
    ],
)
def test_a_route_may_choose_name_and_address_each_by_itself(chosen: Speaker, speaks: Speaker) -> None:
    """What a route does not say is as everywhere else."""
    assert chosen.with_default(EVERYWHERE) == speaks
