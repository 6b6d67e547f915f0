# SPDX-License-Identifier: MIT
"""How much protection a route's sessions must have."""

import pytest

from smarthost.mail.hop import Credentials, SessionPolicy, TlsLevel
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, NextHop
from smarthost.route.tls_policy import policy_for

SPEAKER = Speaker("mail.example.org", "192.0.2.9")
BULK = Speaker("bulk.example.org", "192.0.2.77")


def test_mail_by_mx_is_opportunistic_on_the_mx_port() -> None:
    """By MX we take TLS where it is offered and go on in clear where it is not."""
    policy = policy_for(DirectMx(), SPEAKER, 2525)

    assert policy == SessionPolicy(helo="mail.example.org", port=2525, tls=TlsLevel.OPPORTUNISTIC, source="192.0.2.9")


@pytest.mark.parametrize("level", TlsLevel)
def test_next_hop_gets_what_its_configuration_says(level: TlsLevel) -> None:
    """A fixed next hop's port, TLS, user and password are the operator's, whatever the MX port is."""
    credentials = Credentials("user", "secret")
    hop = NextHop("relay.example.net", 465, level, implicit_tls=True, credentials=credentials)

    policy = policy_for(hop, SPEAKER, 25)

    assert policy == SessionPolicy("mail.example.org", 465, level, True, credentials, "192.0.2.9")


@pytest.mark.parametrize("level", TlsLevel)
def test_mail_by_mx_gets_the_tls_that_its_route_asks_for(level: TlsLevel) -> None:
    """An operator may demand TLS of a domain's exchangers, or forbid it."""
    assert policy_for(DirectMx(tls=level), SPEAKER, 25).tls is level


@pytest.mark.parametrize("route", [DirectMx(speaker=BULK), NextHop("relay.example.net", speaker=BULK)])
def test_a_route_may_have_a_speaker_of_its_own(route: DirectMx | NextHop) -> None:
    """Bulk mail leaves from another address under another name, by MX and through a relay alike."""
    policy = policy_for(route, SPEAKER, 25)

    assert (policy.helo, policy.source) == ("bulk.example.org", "192.0.2.77")


def test_a_next_hop_may_speak_lmtp() -> None:
    """The session is told which of the two protocols is spoken there."""
    assert policy_for(NextHop("mailbox.example.net", 24, is_lmtp=True), SPEAKER, 25).is_lmtp
    assert not policy_for(NextHop("relay.example.net"), SPEAKER, 25).is_lmtp
