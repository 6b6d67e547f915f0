# SPDX-License-Identifier: MIT
"""The name in our EHLO, forwards and back."""

from ipaddress import ip_address

import pytest
from tests.ops.doctor.rig import GLOBAL, GLOBAL_IPV6, HOSTNAME, Rig, levels, look, machine, told

from smarthost.ops.doctor.world import FAR_IPV4, Wishes
from smarthost.testing.dns import Fault, Zone

PTR, PTR_IPV6 = ip_address(GLOBAL).reverse_pointer, ip_address(GLOBAL_IPV6).reverse_pointer
GOOD = {HOSTNAME: (f"A {GLOBAL}", f"AAAA {GLOBAL_IPV6}"), PTR: f"PTR {HOSTNAME}.", PTR_IPV6: f"PTR {HOSTNAME}."}
BOTH = machine(
    addresses=lambda: ("127.0.0.1", GLOBAL, GLOBAL_IPV6),
    route_to=lambda far: GLOBAL if far == FAR_IPV4 else GLOBAL_IPV6,
)
BEHIND_NAT = machine(
    addresses=lambda: ("127.0.0.1", "10.0.0.5"), route_to=lambda far: "10.0.0.5" if far == FAR_IPV4 else ""
)


def zone() -> Zone:
    return Zone(GOOD)


def test_a_name_that_agrees_both_ways_is_ok_for_each_family() -> None:
    """EHLO name, address and PTR are one."""
    found = look(Rig(zone=zone(), on=BOTH), "name")

    assert told(found) == [
        f"ok hostname {HOSTNAME}: is {GLOBAL}, {GLOBAL_IPV6}, an address of ours",
        f"ok IPv4 {GLOBAL}: its PTR is {HOSTNAME}, which has that address",
        f"ok IPv6 {GLOBAL_IPV6}: its PTR is {HOSTNAME}, which has that address",
    ]


def test_ipv6_without_a_ptr_is_a_warning_with_two_cures() -> None:
    """Gmail refuses such mail: set the PTR, or leave IPv6 alone."""
    rig = Rig(zone=zone(), on=BOTH)
    rig.zone.remove(PTR_IPV6)

    found = look(rig, "name")

    assert told(found)[-1] == f"warn IPv6 {GLOBAL_IPV6}: has no PTR; Gmail and others refuse mail from it"
    assert 'families = "ipv4"' in found[-1].cure
    assert f"PTR to {HOSTNAME}" in found[-1].cure


def test_ipv6_is_not_judged_where_mail_never_uses_it() -> None:
    """The cure is a cure: with families = "ipv4" the warning is gone."""
    rig = Rig('[mx]\nfamilies = "ipv4"', zone=zone(), on=BOTH)
    rig.zone.remove(PTR_IPV6)

    assert levels(look(rig, "name")) == ["ok", "ok"]


def test_ipv4_without_a_ptr_fails() -> None:
    """Most receivers refuse that."""
    rig = Rig(zone=zone())
    rig.zone.remove(PTR)

    assert told(look(rig, "name"))[1] == f"fail IPv4 {GLOBAL}: has no PTR; most receivers refuse mail from it"


def test_a_ptr_that_names_somebody_else_is_told_apart_from_one_that_lies() -> None:
    """One needs another name or PTR, the other is no proof of anything."""
    rig = Rig(zone=zone())
    rig.zone.set(PTR, "PTR vm77.provider.example.")
    rig.zone.set("vm77.provider.example", f"A {GLOBAL}")

    assert told(look(rig, "name"))[1].startswith(f"warn IPv4 {GLOBAL}: its PTR is vm77.provider.example, but we say")

    rig.zone.remove("vm77.provider.example")

    assert told(look(rig, "name"))[1].startswith(f"fail IPv4 {GLOBAL}: its PTR is vm77.provider.example, which does")


def test_one_of_several_ptrs_may_be_ours() -> None:
    """Receivers take any."""
    rig = Rig(zone=zone())
    rig.zone.set(PTR, "PTR vm77.provider.example.", f"PTR {HOSTNAME}.")

    assert levels(look(rig, "name")) == ["ok", "ok"]


@pytest.mark.parametrize("hostname", ["relay.local", "relay.lan", "relay.internal"])
def test_a_name_that_nobody_outside_knows_fails(hostname: str) -> None:
    """No DNS need be asked for that."""
    rig = Rig(f'hostname = "{hostname}"')

    assert told(look(rig, "name"))[0].startswith(f"fail hostname {hostname}: no such name exists outside")


def test_a_name_without_address_fails_and_silence_of_dns_only_warns() -> None:
    """What DNS does not say now may be right all the same."""
    rig = Rig()

    assert told(look(rig, "name"))[0] == f"fail hostname {HOSTNAME}: has no address in DNS"

    rig.zone.faults[HOSTNAME] = rig.zone.faults[PTR] = Fault.TIMEOUT

    assert levels(look(rig, "name")) == ["warn", "warn"]


def test_a_name_that_points_elsewhere_is_a_warning() -> None:
    """This machine has a public address, and it is not that."""
    rig = Rig(zone=zone())
    rig.zone.set(HOSTNAME, "A 1.0.0.99")

    assert told(look(rig, "name"))[0] == f"warn hostname {HOSTNAME}: is 1.0.0.99, which this machine does not have"


def test_behind_nat_the_outside_address_is_taken_from_the_name_or_from_the_operator() -> None:
    """It is said where the address is from, and it is judged like one's own."""
    rig = Rig(zone=zone(), on=BEHIND_NAT)

    lines = told(look(rig, "name"))

    assert "behind NAT" in lines[0]
    assert lines[1].startswith(f"ok IPv4 {GLOBAL} (behind NAT; taken from {HOSTNAME}): its PTR is")

    given = Rig(zone=zone(), on=BEHIND_NAT, wishes=Wishes(public_addresses=(GLOBAL,), blocklist=""))

    assert told(look(given, "name"))[1].startswith(f"ok IPv4 {GLOBAL} (as you said)")


def test_behind_nat_without_a_hint_nothing_is_claimed() -> None:
    """What nobody here can know is skipped, and the option is named."""
    rig = Rig(zone=Zone({HOSTNAME: "A 10.0.0.5"}), on=BEHIND_NAT)

    found = look(rig, "name")

    assert levels(found) == ["ok", "skip"]
    assert "--public-address" in found[1].cure


def test_behind_a_smart_host_names_do_not_matter() -> None:
    """Nobody outside sees ours."""
    assert levels(look(Rig('next_hop = "smtp.example.net"'), "name")) == ["skip"]
    assert levels(look(Rig('next_hop = "smtp.example.net"\nhostname = "relay"'), "name")) == ["warn", "skip"]


def test_a_route_with_its_own_name_and_source_is_judged_by_them() -> None:
    """Mail for those domains comes from another address of this machine."""
    config = '[[route]]\ndomains = ["big.example"]\nhostname = "bulk.example.org"\nsource = "9.9.9.78"'
    rig = Rig(config, zone=zone(), on=machine(addresses=lambda: (GLOBAL, "9.9.9.78")))
    rig.zone.set("bulk.example.org", "A 9.9.9.78")
    rig.zone.set(ip_address("9.9.9.78").reverse_pointer, "PTR bulk.example.org.")

    lines = told(look(rig, "name"))

    assert "ok hostname bulk.example.org: is 9.9.9.78, an address of ours" in lines
    assert "ok IPv4 9.9.9.78: its PTR is bulk.example.org, which has that address" in lines
    assert 4 == len(lines)


def test_a_machine_without_a_route_fails() -> None:
    """No mail leaves it."""
    rig = Rig(zone=zone(), on=machine(route_to=lambda far: ""))

    assert told(look(rig, "name"))[-1] == "fail this machine has no route to the Internet, by IPv4 or by IPv6"


def test_a_listed_address_fails_and_a_lists_complaint_is_no_listing() -> None:
    """127.0.0.x says listed; 127.255.255.x says that we must not ask like this."""
    rig = Rig(zone=zone(), wishes=Wishes(blocklist="bl.example"))
    listed = f"{PTR.removesuffix('.in-addr.arpa')}.bl.example"
    rig.zone.set(listed, "A 127.0.0.4")

    assert told(look(rig, "name"))[-1] == f"fail {GLOBAL}: is listed in bl.example (127.0.0.4)"

    rig.zone.set(listed, "A 127.255.255.254")

    assert levels(look(rig, "name")) == ["ok", "ok"]

    rig.zone.remove(listed)

    assert told(look(rig, "name"))[-1] == f"ok {GLOBAL}: is not listed in bl.example"
