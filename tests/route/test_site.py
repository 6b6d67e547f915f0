# SPDX-License-Identifier: MIT
"""Sites: what is kept of a plan's hosts, and what is drawn from it."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from smarthost.mail.hop import Host
from smarthost.route.site import draw, each_once, pack

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
A6, B6 = "2001:db8::1", "2001:db8::2"


def test_hosts_are_read_back_as_they_were() -> None:
    """Nothing of a plan's hosts is lost in memory but an order that is drawn anyway."""
    hosts = (Host("a.example", (A, A6), 10), Host("b.example", (B6,), 20), Host("192.0.2.3", (C,)))

    found = draw(pack(hosts), random.Random(1))

    assert found == (hosts[2], hosts[0], hosts[1])


def test_address_with_a_zone_index_is_read_back() -> None:
    """A configured next hop on a link keeps its interface."""
    hosts = (Host("fe80::1%eth0", ("fe80::1%eth0",)),)

    assert draw(pack(hosts), random.Random(1)) == hosts


def test_equal_sites_are_equal_texts() -> None:
    """Domains at one provider are known as such, in whatever order DNS named its hosts and addresses."""
    first = (Host("a.example", (A, A6, B), 10), Host("b.example", (C,), 10))
    second = (Host("b.example", (C,), 10), Host("a.example", (B, A6, A), 10))

    assert pack(first) == pack(second)


def test_equals_are_drawn_uniformly_and_preference_holds() -> None:
    """Over 3,000 draws each order of three equals comes about as often; the worse one is always last."""
    site = pack([Host(name, (A, B), 10) for name in "abc"] + [Host("d", (A,), 20)])
    chance = random.Random(7)

    orders = Counter(tuple(host.name for host in draw(site, chance)) for _ in range(3000))

    assert len(orders) == 6
    assert all(order[3] == "d" for order in orders)
    assert sum((count - 500) ** 2 / 500 for count in orders.values()) < 20.5  # chi-square, 5 degrees, p = 0.001


def test_each_address_of_each_family_comes_first_as_often() -> None:
    """A cached answer does not send everything to the first address; two of one family take turns as well."""
    chance = random.Random(3)

    firsts = Counter(draw(pack([Host("a", (A, B, C, A6, B6))]), chance)[0].addresses[:2] for _ in range(3000))
    of_two = Counter(draw(pack([Host("a", (A, B))]), chance)[0].addresses[0] for _ in range(1000))

    assert all(":" not in v4 and ":" in v6 for v4, v6 in firsts), "families take turns"
    assert {A, B, C} == {v4 for v4, _ in firsts}
    assert all(900 < count < 1100 for count in Counter(v4 for v4, _ in firsts.elements()).values())
    assert all(430 < count < 570 for count in of_two.values())


def test_order_of_hosts_and_turn_of_addresses_are_independent() -> None:
    """Each address behind equal exchangers is dialled first as often as any other."""
    site = pack([Host("a", (A, B, A6)), Host("b", (C, "192.0.2.4", B6))])
    chance = random.Random(11)

    dialled_first = Counter(draw(site, chance)[0].addresses[0] for _ in range(4000))

    assert all(900 < count < 1100 for count in dialled_first.values())
    assert len(dialled_first) == 4


def test_address_behind_two_names_is_left_to_the_first() -> None:
    """One machine with two names is dialled once in an attempt."""
    hosts = (Host("a", (A, B), 10), Host("b", (B, C), 10), Host("c", (A, C), 20))

    assert each_once(hosts) == (Host("a", (A, B), 10), Host("b", (C,), 10))


_addresses = st.lists(st.sampled_from([A, B, C, A6, B6]), min_size=1, unique=True).map(tuple)
_hosts = st.lists(
    st.builds(Host, st.sampled_from("abcdefghij"), _addresses, st.integers(0, 3)),
    min_size=1,
    max_size=10,
    unique_by=lambda host: host.name,
)


@given(_hosts, st.integers(0, 1 << 64))
def test_any_draw_has_all_hosts_best_first_with_all_their_addresses(hosts: list[Host], seed: int) -> None:
    """Whatever chance says, nobody is left out, and nobody is preferred who is worse."""
    found = draw(pack(hosts), random.Random(seed))

    assert sorted(host.name for host in found) == sorted(host.name for host in hosts)
    assert [host.preference for host in found] == sorted(host.preference for host in hosts)
    by_name = {host.name: host for host in hosts}
    for host in found:
        assert sorted(host.addresses) == sorted(by_name[host.name].addresses)
    dialled = [address for host in each_once(found) for address in host.addresses]
    assert sorted(dialled) == sorted({address for host in hosts for address in host.addresses})
