# SPDX-License-Identifier: MIT
"""What the planner remembers: plans in little memory, from which each message draws its own, and that there is none.

Plans by MX are kept by the hundred thousand, one text for the hosts of each (route.site); plans of next hops are as few
as the routes of the configuration, and every host has a policy of its own. Bounded by number and by octets.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct

from smarthost.mail.hop import Host, SessionPolicy
from smarthost.mail.plan import NoPlan, Plan
from smarthost.ports import Random
from smarthost.route.site import draw, each_once

PLANS_REMEMBERED = 100_000  # python -m bench.routes prints what each takes
OCTETS_REMEMBERED = 64 << 20  # of these plans, as they count themselves: with 370 octets of text each it is as many
PLAN_OCTETS = 300  # what one takes besides its texts (python -m bench.routes: 340 with 56 octets of text)


def lane_of(hosts: Sequence[Host], port: int, source: str = "") -> str:
    """Name the lane of a set of MX hosts, whatever their order; another source is another sender to them."""
    lane = f"{','.join(sorted(host.name for host in hosts))}:{port}"
    return f"{lane} from {source}" if source else lane


class MxPlan(Struct, frozen=True, gc=False):
    """A plan by MX, and until when it stands (monotonic seconds): all but `site` is shared or short."""

    destination: str
    until: float
    site: str
    policy: SessionPolicy
    rule: str
    caveat: str

    @property
    def octets(self) -> int:
        """About what it takes; a site counts in full although domains at one provider share its text."""
        return PLAN_OCTETS + len(self.destination) + len(self.site) + len(self.caveat)

    def draw(self, random: Random) -> Plan:
        """Give the plan with its equals drawn anew."""
        hosts, policy = draw(self.site, random), self.policy
        lane = lane_of(hosts, policy.port, policy.source)
        return Plan(self.destination, lane, each_once(hosts), policy, self.rule, caveat=self.caveat)


class HopsPlan(Struct, frozen=True, gc=False):
    """A plan of next hops, in the operator's order; `stops` are the site of each, of one host, and its policy."""

    destination: str
    until: float
    stops: tuple[tuple[str, SessionPolicy], ...]
    rule: str
    caveat: str

    @property
    def octets(self) -> int:
        """About what it takes."""
        texts = sum([len(site) + PLAN_OCTETS for site, _ in self.stops])
        return PLAN_OCTETS + len(self.destination) + texts + len(self.caveat)

    def draw(self, random: Random) -> Plan:
        """Give the plan with each host's addresses in a new turn; what serves two hops alike is left to the first."""
        policy = self.stops[0][1]
        met: set[tuple[str, SessionPolicy]] = set()
        hosts = []
        for place, (site, its_policy) in enumerate(self.stops):
            (host,) = draw(site, random)
            addresses = tuple([each for each in host.addresses if (each, its_policy) not in met])
            met.update([(each, its_policy) for each in addresses])
            if addresses:
                own = None if its_policy == policy else its_policy
                hosts.append(Host(host.name, addresses, place, own))
        return Plan(
            self.destination, self.destination, tuple(hosts), policy, self.rule, caveat=self.caveat, is_chosen=True
        )


class NoPlanRemembered(Struct, frozen=True, gc=False):
    """That there is no plan, and until when."""

    no_plan: NoPlan
    until: float

    @property
    def octets(self) -> int:
        """About what it takes."""
        return PLAN_OCTETS + len(self.no_plan.destination) + len(self.no_plan.why)

    def draw(self, random: Random) -> NoPlan:
        return self.no_plan


Remembered: TypeAlias = MxPlan | HopsPlan | NoPlanRemembered


class Memory(OrderedDict[str, Remembered]):
    """What is remembered, longest unused first, bounded by number and octets; only `keep` and `move_to_end` change it.

    Both bounds, because a stranger's DNS says how long names are: ten exchangers of 200 octets each take 3 KB a plan.
    """

    def __init__(self) -> None:
        super().__init__()
        self.octets = 0

    def keep(self, destination: str, remembered: Remembered) -> None:
        """Remember this, in place of what was, and forget what was not used longest as far as there is no room."""
        old = self.pop(destination, None)
        self.octets += remembered.octets - (old.octets if old is not None else 0)
        self[destination] = remembered
        while len(self) > PLANS_REMEMBERED or (self.octets > OCTETS_REMEMBERED and len(self) > 1):
            _, forgotten = self.popitem(last=False)
            self.octets -= forgotten.octets
