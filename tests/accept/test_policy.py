# SPDX-License-Identifier: MIT
"""accept.policy: who may relay what."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.accept import replies
from smarthost.accept.policy import RelayPolicy
from smarthost.mail.address import Address, Domain
from smarthost.mail.errors import ConfigError

BOB = Address("bob@example.net", Domain("example.net"))
POSTMASTER = Address("Postmaster", Domain(""))

# facts/reliability 2.4: what relay testers try; T is a third party, L our own name
PROBES = [
    "u@t.example",
    "u%t.example@l.example",
    "u%t.example@[192.0.2.1]",
    '"u@t.example"@l.example',
    '"u%t.example"@l.example',
    "u@t.example@l.example",
    "t.example!u@l.example",
    "t.example!u@[192.0.2.1]",
    "u@[198.51.100.7]",
    "u@xn--bcher-kva.example",
    "u@T.EXAMPLE",
    "postmaster@l.example",
    "postmaster@t.example",
    '"postmaster"@l.example',
]


@pytest.mark.parametrize(
    ("client", "may"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::2", False),
        ("::ffff:192.0.2.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("local", False),
        ("127.0.0.1.example", False),
        ("127.1", False),
        ("0127.0.0.1", False),
        ("127.0.0.1 ", False),
    ],
)
def test_by_default_only_loopback_may_relay(client: str, may: bool) -> None:
    """A fresh installation relays for its own host and for nobody else."""
    assert RelayPolicy().may_relay(client) is may


@pytest.mark.parametrize(
    ("network", "client", "may"),
    [
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "11.1.2.3", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("2001:db8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("10.0.0.0/8", "127.0.0.1", False),
    ],
)
def test_networks_replace_loopback_and_are_kept_to(network: str, client: str, may: bool) -> None:
    """Exactly the networks that were configured may relay, in either spelling of an IPv4 address."""
    assert RelayPolicy([network]).may_relay(client) is may


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_membership_is_what_the_prefix_says(base: int, prefix: int, client: int) -> None:
    """An address may relay exactly when its first bits are those of a network."""
    mask = (2**32 - 1) ^ (2 ** (32 - prefix) - 1)
    octets = (base & mask).to_bytes(4, "big")
    policy = RelayPolicy([".".join(map(str, octets)) + f"/{prefix}"])

    assert policy.may_relay(".".join(map(str, client.to_bytes(4, "big")))) == (client & mask == base & mask)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_makes_the_policy_raise(client: str) -> None:
    """Whatever a client is called, the policy answers."""
    assert RelayPolicy().may_relay(client) in (True, False)


@pytest.mark.parametrize("text", PROBES)
@pytest.mark.parametrize("postmaster", [None, "ops@example.org"])
def test_outsider_is_refused_whatever_the_recipient_looks_like(text: str, postmaster: str | None) -> None:
    """No trick in an address makes us relay for a stranger; the refusal says who asked and what would allow it."""
    recipient = Address(text, Domain(text.rpartition("@")[2].lower()))
    policy = RelayPolicy(postmaster=postmaster)

    refusal = policy.refuse_recipient(recipient, "192.0.2.9", may_relay=policy.may_relay("192.0.2.9"))

    assert refusal is not None
    assert (refusal.code, refusal.enhanced) == (550, "5.7.1")
    assert "192.0.2.9" in str(refusal)
    assert "relay_from" in str(refusal)


@pytest.mark.parametrize("text", PROBES)
def test_trusted_client_may_write_to_anyone_and_nothing_is_rewritten(text: str) -> None:
    """`%`, `!` and quotes are the business of whoever runs the recipient's domain."""
    recipient = Address(text, Domain(text.rpartition("@")[2].lower()))
    policy = RelayPolicy(postmaster="ops@example.org")

    assert policy.refuse_recipient(recipient, "127.0.0.1", may_relay=True) is None
    assert policy.route_recipient(recipient) is recipient


@pytest.mark.parametrize("text", ["postmaster", "Postmaster", "POSTMASTER"])
@pytest.mark.parametrize("may_relay", [False, True])
def test_bare_postmaster_goes_to_the_configured_address(text: str, may_relay: bool) -> None:
    """Everybody can reach whoever runs this host (RFC 5321 4.5.1)."""
    recipient = Address(text, Domain(""))
    policy = RelayPolicy(postmaster="Ops@Example.ORG")

    assert policy.refuse_recipient(recipient, "192.0.2.9", may_relay=may_relay) is None
    assert policy.route_recipient(recipient) == Address("Ops@Example.ORG", Domain("example.org"))


@pytest.mark.parametrize("may_relay", [False, True])
@pytest.mark.parametrize("postmaster", [None, ""])
def test_bare_postmaster_without_a_configured_one_is_refused(postmaster: str | None, may_relay: bool) -> None:
    """Mail that nobody would read is refused, not swallowed."""
    policy = RelayPolicy(postmaster=postmaster)

    assert policy.refuse_recipient(POSTMASTER, "192.0.2.9", may_relay=may_relay) is replies.NO_POSTMASTER


def test_other_recipient_without_domain_is_refused() -> None:
    """We guess no domain."""
    policy = RelayPolicy(postmaster="ops@example.org")
    recipient = Address("root", Domain(""))

    trusted = policy.refuse_recipient(recipient, "127.0.0.1", may_relay=True)
    outsider = policy.refuse_recipient(recipient, "192.0.2.9", may_relay=False)

    assert trusted is replies.NO_DOMAIN
    assert outsider is not None
    assert outsider.enhanced == "5.7.1"


def test_accepted_recipient_is_filed_unchanged() -> None:
    """An address stays as the client wrote it."""
    assert RelayPolicy().route_recipient(BOB) is BOB


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.org", "", "10.0.0.0/8;", "1.2.3", "::1/129"])
def test_network_that_is_none_is_refused_by_key(text: str) -> None:
    """A typing error in a network opens nothing: it is told with the setting's name."""
    with pytest.raises(ConfigError, match=r"relay_from: not a network") as caught:
        RelayPolicy([text])

    assert caught.value.key == "relay_from"


@pytest.mark.parametrize(
    "text", ["ops", "@example.org", "ops@", "a b@example.org", "ops@exa..mple", "a\r\nb@example.org"]
)
def test_postmaster_that_is_no_address_is_refused_by_key(text: str) -> None:
    """A postmaster we could not write to is told at the start, not when mail comes."""
    with pytest.raises(ConfigError) as caught:
        RelayPolicy(postmaster=text)

    assert caught.value.key == "postmaster"


@pytest.mark.parametrize(
    ("networks", "is_open"),
    [
        (["0.0.0.0/0"], True),
        (["10.0.0.0/8", "::/0"], True),
        (["::ffff:0:0/96"], True),
        (["0.0.0.0/1"], False),
        ([], False),
    ],
)
def test_network_of_everybody_is_noticed(networks: list[str], is_open: bool) -> None:
    """An open relay can be told from one that is not."""
    assert RelayPolicy(networks).is_open is is_open
