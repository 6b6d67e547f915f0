# SPDX-License-Identifier: MIT
"""What routing says about one destination: hosts in order, or a reason why there are none."""

from msgspec import Struct

from smarthost.mail.hop import Host, SessionPolicy


class Plan(Struct, frozen=True, gc=False):
    """Ordered hosts for a destination, the policy of a session there, and the lane it shares.

    `destination` is the route key: "hop:HOST:PORT" for a next hop ("...+N" with N more behind it), else the recipient
    domain, scoped ("example.org from @corp.example") where the sender's route takes it. `lane` names the
    set of hosts, so that all domains at one provider share sessions and limits. `rule` says which route chose it.
    `caveat`: what a record of an attempt must say about the plan itself (it rests on stale answers), or "". `evidence`:
    what DNS said, only where somebody asked for it (a plan that is remembered for its domain has none). `is_chosen`:
    the operator named the hosts (next hops), DNS did not.
    """

    destination: str
    lane: str
    hosts: tuple[Host, ...]
    policy: SessionPolicy
    rule: str
    evidence: tuple[str, ...] = ()
    caveat: str = ""
    is_chosen: bool = False

    def policy_of(self, host: Host) -> SessionPolicy:
        """Give what a session with this host must be like."""
        return host.policy or self.policy


class NoPlan(Struct, frozen=True, gc=False):
    """No host to hand mail for `destination` to: permanent (bounce now) or temporary (defer).

    `status` is an enhanced code such as "5.1.10"; `why` is one sentence that names the domain and what DNS said.
    `rule` says which route chose it. `until`: for a temporary verdict, when to ask again at the earliest (wall
    seconds), or None for the schedule.
    """

    destination: str
    permanent: bool
    status: str
    why: str
    until: float | None = None
    evidence: tuple[str, ...] = ()
    rule: str = ""
