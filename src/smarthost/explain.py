# SPDX-License-Identifier: MIT
"""What would happen to a message for an address now: asked of the very code that decides it for mail.

Sends nothing. The plan is made anew (its DNS questions are answered by the resolver's cache) and remembered, so that
what is shown is what holds; health is HostGate's. With `probe` the hosts are dialled as far as EHLO and STARTTLS.
"""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.address import Domain, to_domain
from smarthost.mail.explanation import (
    ExplainedAddress,
    ExplainedHost,
    ExplainedPolicy,
    Explanation,
    NoHost,
    Probed,
)
from smarthost.mail.hop import Host, SessionPolicy
from smarthost.mail.plan import NoPlan, Plan
from smarthost.route.broken import HealthState, HostState
from smarthost.route.scopes import USER
from smarthost.send.gates import gate_keys

ADDRESSES_PROBED = 10  # at once, a descriptor each


def _nothing(domain: str, reverse_path: str, user: str) -> str:
    return ""


def _any_sender(reverse_path: str, user: str, domain: str) -> Domain:
    return Domain(domain)


class ExplainTerms(Struct, frozen=True):
    """Whom to ask. `read_recipient` refuses what the relay would refuse; `suspension` gives (until, why) or None.

    `scope` is RouteTable.scope, or for a table without routes by sender nothing. `kept_back` says why an operator keeps
    back what is filed under a domain, from a reverse-path and a user, or "".
    """

    read_recipient: Callable[[str], Domain]
    destination_of: Callable[[str], str]
    plan_anew: Callable[[str], Awaitable[Plan | NoPlan]]
    state_of: Callable[[str, str], HostState]
    suspension: Callable[[str], tuple[float, str] | None]
    probe: Callable[[Host, str, SessionPolicy], Awaitable[Probed]]
    now: Callable[[], float]
    soft_bounce: bool = False
    scope: Callable[[str, str, str], Domain] = _any_sender
    kept_back: Callable[[str, str, str], str] = _nothing


class Explainer:
    """Explains; changes nothing but what a good probe proves."""

    def __init__(self, terms: ExplainTerms) -> None:
        self._terms = terms

    async def explain(self, address: str, *, probe: bool = False, sender: str = "") -> Explanation:
        """Explain for a recipient address, or for a domain on its own.

        `sender`: the reverse-path, or "user:NAME" for one who logged in; "" for any that no route asks for.
        Raises: SubmissionRefused: the relay refuses such a recipient. ValueError: no domain, no sender.
        """
        terms = self._terms
        domain = terms.read_recipient(address) if "@" in address or address.lower() == "postmaster" else _read(address)
        from_whom = _read_sender(sender)
        filed_under = terms.scope(*from_whom, domain)
        kept_back = terms.kept_back(filed_under, *from_whom)
        destination = terms.destination_of(filed_under)
        plan = await terms.plan_anew(destination)
        if isinstance(plan, NoPlan):
            explained = self._explain_no_plan(address, domain, plan)
            return replace(explained, sender=sender, conclusion=_but(kept_back, explained.conclusion))
        probes = await self._probe_all(plan) if probe else ()
        until, why = terms.suspension(filed_under) or (0.0, "")
        hosts = tuple([self._explain_host(host, plan) for host in plan.hosts])
        return Explanation(
            address=address,
            domain=domain,
            destination=destination,
            rule=plan.rule,
            conclusion=_but(kept_back, _conclude(hosts, terms.now())),
            lane=plan.lane,
            policy=_explain_policy(plan.policy),
            hosts=hosts,
            caveat=plan.caveat,
            suspended_until=until,
            suspended_why=why,
            evidence=plan.evidence,
            probes=probes,
            sender=sender,
        )

    def _explain_no_plan(self, address: str, domain: str, plan: NoPlan) -> Explanation:
        is_permanent = plan.permanent and not self._terms.soft_bounce
        if is_permanent:
            verb = "bounces"
        else:
            verb = "waits, because soft_bounce is on" if plan.permanent else "waits and is tried again"
        return Explanation(
            address=address,
            domain=domain,
            destination=plan.destination,
            rule=plan.rule,
            conclusion=f"mail {verb}: {plan.status} {plan.why}",
            no_host=NoHost(is_permanent, plan.status, plan.why, plan.until or 0.0),
            evidence=plan.evidence,
        )

    def _explain_host(self, host: Host, plan: Plan) -> ExplainedHost:
        policy = plan.policy_of(host)
        addresses = [self._explain_address(address, policy) for address in host.addresses]
        own = None if policy == plan.policy else _explain_policy(policy)
        return ExplainedHost(host.name, host.preference, tuple(addresses), own)

    def _explain_address(self, address: str, policy: SessionPolicy) -> ExplainedAddress:
        """Several keys are one address for a reader: the worst of their states is what counts."""
        states = [self._terms.state_of(key, address) for key in gate_keys(policy)]
        worst = max(states, key=lambda state: (_RANK[state.state], state.until))
        why = "" if worst.state is HealthState.CLOSED else worst.evidence
        return ExplainedAddress(address, worst.state.value, worst.until, why)

    async def _probe_all(self, plan: Plan) -> tuple[Probed, ...]:
        stops = [(host, address) for host in plan.hosts for address in host.addresses][:ADDRESSES_PROBED]
        return tuple(
            await asyncio.gather(*[self._terms.probe(host, address, plan.policy_of(host)) for host, address in stops])
        )


_RANK = {HealthState.CLOSED: 0, HealthState.HALF_OPEN: 1, HealthState.OPEN: 2}


def _read(text: str) -> Domain:
    try:
        return to_domain(text)
    except ValueError as error:
        raise ValueError(f"{text[:80]!r} is neither an address nor a domain: {error}") from error


def _read_sender(text: str) -> tuple[str, str]:
    """Give the reverse-path and the user that are meant, as RouteTable.scope takes them."""
    if text.startswith(USER):
        return "", text.removeprefix(USER)
    bare = text.removeprefix("<").removesuffix(">")
    if bare and "@" not in bare:
        raise ValueError(f'{text[:80]!r} is no sender such as "ann@example.org" or "{USER}ann"')
    return bare, ""


def _explain_policy(policy: SessionPolicy) -> ExplainedPolicy:
    return ExplainedPolicy(
        policy.port,
        policy.tls.value,
        policy.implicit_tls,
        policy.helo,
        policy.source,
        "" if policy.credentials is None else policy.credentials.username,
        "lmtp" if policy.is_lmtp else "smtp",
    )


def _conclude(hosts: tuple[ExplainedHost, ...], now: float) -> str:
    stops = [(host, address) for host in hosts for address in host.addresses]
    states = [address.state for _, address in stops]
    if HealthState.CLOSED.value in states:
        first = states.index(HealthState.CLOSED.value)
        host, address = stops[first]
        passed_over = f"; {first} better {_plural(first)} known as broken" if first else ""
        return f"mail goes to {host.name} [{address.address}] now{passed_over}"
    if HealthState.HALF_OPEN.value in states:
        host, address = stops[states.index(HealthState.HALF_OPEN.value)]
        return f"all hosts are known as broken; the next message is the probe of {host.name} [{address.address}]"
    host, address = min(stops, key=lambda stop: stop[1].until)
    return (
        f"mail waits: all hosts are known as broken; {host.name} [{address.address}] is probed in"
        f" {max(0.0, address.until - now):.0f} s"
    )


def _but(kept_back: str, conclusion: str) -> str:
    return f"nothing is tried: {kept_back}; without that {conclusion}" if kept_back else conclusion


def _plural(number: int) -> str:
    return "address is" if number == 1 else "addresses are"
