# SPDX-License-Identifier: MIT
"""The scenarios: which exchangers live, what is sent, whose arrivals count, and what is asked of smarthost. Pure."""

from collections.abc import Sequence

from msgspec import Struct

from bench.dead_zone import ADDRESSES, DEAD, OTHERS, SITE
from bench.load import Load

ENDLESS = 100_000_000  # messages; the clock ends a load, not its count
LEAST_OF_ONE = 0.95  # one of two exchangers is dead
LEAST_OF_OTHERS = 0.90  # all of another site's are


class Scenario(Struct, frozen=True, kw_only=True):
    """One state of the world. `hosts`: (address, way); "refused" starts nobody. `reference`: the scenario held against.

    `counted`: the addresses whose arrivals are the figure. `loads`: (recipient domain, tenths of the sessions).
    """

    way: str
    reference: str
    hosts: tuple[tuple[str, str], ...]
    loads: tuple[tuple[str, int], ...]
    counted: tuple[str, ...]
    least: float

    @property
    def is_reference(self) -> bool:
        """Are all alive?"""
        return self.way == self.reference


def _one_of_two(way: str) -> Scenario:
    first, second = ADDRESSES[SITE]
    return Scenario(
        way=way,
        reference="alive",
        hosts=((first, way), (second, "alive")),
        loads=((SITE, 10),),
        counted=(first, second),
        least=LEAST_OF_ONE,
    )


def _whole_site(way: str) -> Scenario:
    others = tuple(address for other in OTHERS for address in ADDRESSES[other])
    kind = way.removeprefix("site-")
    return Scenario(
        way=way,
        reference="site-alive",
        hosts=(*((address, kind) for address in ADDRESSES[DEAD]), *((address, "alive") for address in others)),
        loads=((DEAD, 5), *((other, 1) for other in OTHERS)),
        counted=others,
        least=LEAST_OF_OTHERS,
    )


SCENARIOS: dict[str, Scenario] = {
    scenario.way: scenario
    for scenario in (
        *map(_one_of_two, ("alive", "syn", "refused", "banner", "tls")),
        *map(_whole_site, ("site-alive", "site-syn", "site-tarpit")),
    )
}
WAYS = tuple(way for way, scenario in SCENARIOS.items() if not scenario.is_reference)


def with_references(ways: Sequence[str]) -> tuple[Scenario, ...]:
    """Give the scenarios of these ways and the living ones that they are held against, in the order of SCENARIOS."""
    wanted = {*ways, *(SCENARIOS[way].reference for way in ways)}
    return tuple(scenario for way, scenario in SCENARIOS.items() if way in wanted)


def compose_loads(scenario: Scenario, sessions: int, octets: int) -> tuple[Load, ...]:
    """Give smtp-source's orders; a tenth of `sessions` is a whole number."""
    return tuple(
        Load(
            messages=ENDLESS,
            sessions=sessions * tenths // 10,
            octets=octets,
            kept=True,
            counted=True,
            recipient=f"to@{recipient_domain}",
        )
        for recipient_domain, tenths in scenario.loads
    )
