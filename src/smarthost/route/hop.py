# SPDX-License-Identifier: MIT
"""The next-hop machine: from a configured host to its addresses. Nothing here is ever a bounce.

The operator chose the host, so no table of forbidden addresses applies and no MX is looked up; a name that does not
resolve is the operator's to mend, and defers. A generator like route.mx; plan drives it.
"""

from ipaddress import ip_address

from smarthost.mail.address import to_domain
from smarthost.mail.hop import Host
from smarthost.route.mx import ADDRESSES_USED, Exchangers, Ourselves, Unroutable, interleave, no_way
from smarthost.route.questions import FURTHER_LOOKUPS, Asking, Evidence, Question, ask, is_failure, why_no_name
from smarthost.route.table import Families, NextHop

_LOOPBACK = {Families.BOTH: ("127.0.0.1", "::1"), Families.IPV4: ("127.0.0.1",), Families.IPV6: ("::1",)}


def find_hop(
    hop: NextHop, ourselves: Ourselves, further_lookups: int = FURTHER_LOOKUPS, source: str = ""
) -> Asking[Exchangers | Unroutable]:
    """Work out the addresses of a next hop that can be reached from `source`, a local address or "" for any."""
    evidence, is_partial = Evidence(), False
    families = hop.families.reached_from(source)
    addresses = _known_addresses(hop, families)
    if not addresses:
        name = _to_name(hop.host)
        if not name:
            return no_way("4.4.4", f"the next hop {hop.host} is no host name", evidence)
        questions = [Question(name, rdtype) for rdtype in families.rdtypes]
        answers = yield from ask(questions, evidence, further_lookups)
        is_silent = any(is_failure(answer) for answer in answers)
        is_partial = is_silent or bool(evidence.cut)
        addresses = interleave([answer.addresses for answer in answers])[:ADDRESSES_USED]
        if not addresses:
            said = ", ".join(f"{answer.rdtype} {answer.detail or answer.status.name}" for answer in answers)
            status = "4.4.3" if is_partial else "4.4.4"
            return no_way(status, f"the next hop {hop.host} has no address: {said}", evidence)
    others = tuple(address for address in addresses if not ourselves.includes(address, hop.port))
    if not others:
        return no_way("4.4.6", f"the next hop {hop.host}:{hop.port} is this relay itself", evidence)
    host = Host(hop.verified_name or hop.host, others)
    return Exchangers((host,), evidence.ttl_s, tuple(evidence.lines), is_partial, caveat=evidence.caveat)


def _known_addresses(hop: NextHop, families: Families) -> tuple[str, ...]:
    """What needs no question: an address, or localhost (RFC 6761 6.3)."""
    if hop.host.lower().removesuffix(".") == "localhost":
        return _LOOPBACK[families]
    try:
        return (str(ip_address(hop.host)),)
    except ValueError:
        return ()


def _to_name(host: str) -> str:
    try:
        name = to_domain(host)
    except ValueError:
        return ""
    return "" if why_no_name(name) else name
