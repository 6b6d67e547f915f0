# SPDX-License-Identifier: MIT
"""Under which keys HostGate is asked about a host: as a service at a port, and for what a policy demands of it.

Pure. A password or a TLS demand that fails must not count against the host for mail that has none of these, and
another service at the same address, at another port, is not broken with it. Who dials and who asks beforehand whether
dialling makes sense must use the same keys.
"""

from msgspec.structs import replace

from smarthost.mail.hop import Host, SessionPolicy, TlsLevel
from smarthost.mail.plan import Plan
from smarthost.ports import HostGate, Refused
from smarthost.send.egress import SMTP_PORT

_DEMANDS_NOTHING = (TlsLevel.NONE, TlsLevel.OPPORTUNISTIC)


def service_key(policy: SessionPolicy) -> str:
    """Give the `source` for the host's service as such: is it there, does it greet?"""
    return policy.source if policy.port == SMTP_PORT else f"{policy.source}/{policy.port}"


def demand_key(policy: SessionPolicy) -> str | None:
    """Give the `source` for what this policy demands of the service, None if it demands nothing."""
    if policy.credentials is None and policy.tls in _DEMANDS_NOTHING:
        return None
    user = policy.credentials.username if policy.credentials is not None else ""
    return f"{service_key(policy)}|{policy.tls.value}|{user}"


def is_demand(key: str) -> bool:
    """Is this what `demand_key` gives?"""
    return "|" in key


def describe_key(key: str) -> str:
    """Say for people which service a key is about; "" for mail at port 25 from any address."""
    service, *demands = key.split("|", 2)
    source, _, port = service.partition("/")
    parts = [f"port {port}" if port else "", f"from {source}" if source else ""]
    if demands:
        level, user = demands
        parts += [f"TLS {level}", f"user {user}" if user else ""]
    return ", ".join(filter(None, parts))


def gate_keys(policy: SessionPolicy) -> tuple[str, ...]:
    """Give all keys under which a host must be admitted to be dialled with this policy."""
    demand = demand_key(policy)
    return (service_key(policy),) if demand is None else (service_key(policy), demand)


def least_demand(plan: Plan, host: Host) -> SessionPolicy:
    """Give what mail asks of a host at the least: "TLS-Required: No" waives the TLS that a policy demands by itself.

    RFC 8689 5: delivery goes before TLS, and such mail must not wait behind mail that cannot go. What the operator
    demands of a host that he chose, or that gets a password, is not the sender's to waive.
    """
    policy = plan.policy_of(host)
    if plan.is_chosen or policy.credentials is not None or policy.tls in _DEMANDS_NOTHING:
        return policy
    return replace(policy, tls=TlsLevel.OPPORTUNISTIC)


def find_refusal(gate: HostGate, policy: SessionPolicy, address: str) -> Refused | None:
    """Give why this address may not be dialled now with this policy, the refusal that lasts longest, or None."""
    longest: Refused | None = None
    for key in gate_keys(policy):
        refused = gate.usable(key, address)
        if refused is not None and (longest is None or refused.until > longest.until):
            longest = refused
    return longest
