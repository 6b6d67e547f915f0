# SPDX-License-Identifier: MIT
"""Does mail get out: exchangers at port 25, and next hops as mail would use them?"""

from typing import Any

import pytest
from tests.ops.doctor.rig import GLOBAL, GLOBAL_IPV6, Rig, levels, look, machine, told

from smarthost.ops.doctor import talk
from smarthost.ops.doctor.findings import Finding
from smarthost.ops.doctor.world import FAR_IPV4, Machine, Wishes
from smarthost.testing.clock import START
from smarthost.testing.dns import Fault, Zone
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import ScriptedExchanger, ScriptedPeer

WISHES = Wishes(probe_domains=("big.example", "large.example"), blocklist="")
ZONE = {
    "big.example": "MX 10 mx.big.example",
    "mx.big.example": ("A 203.0.113.1", "AAAA 2001:db8::1"),
    "large.example": ("MX 20 other.example", "MX 10 mx.large.example"),
    "mx.large.example": "A 203.0.113.2",
    "smtp.example.net": "A 9.9.9.99",
}
BOTH = machine(route_to=lambda far: GLOBAL if far == FAR_IPV4 else GLOBAL_IPV6)
HOP = """
[[next_hop]]
host = "smtp.example.net"
port = 587
"""
LOGIN = HOP + 'username = "alice"\npassword = "s3cret-word"\ntls = "verified"\n'


def direct(**more: Any) -> Rig:
    return Rig(zone=Zone(ZONE), wishes=WISHES, **more)


def exchangers(rig: Rig, **peers: ScriptedExchanger | ScriptedPeer) -> Any:
    """Give what makes them listen: keys are the last octet of 203.0.113.0/24, as n1, n2."""

    async def listen() -> None:
        for key, peer in peers.items():
            await rig.listen(f"203.0.113.{key[1:]}", peer.accept)

    return listen


def test_exchangers_that_greet_us_are_ok_and_hear_nothing_but_quit() -> None:
    """The banner is all that is asked for."""
    rig, one, two = direct(), ScriptedExchanger(), ScriptedExchanger()

    found = look(rig, "egress", exchangers(rig, n1=one, n2=two))

    assert told(found) == [
        "ok IPv4 port 25: 2 of 2 exchangers greet us: mx.big.example [203.0.113.1]",
        "skip IPv6: this machine has no route; mail leaves by IPv4 alone",
    ]
    assert [[b"QUIT"], [b"QUIT"]] == [one.sessions[0].commands, two.sessions[0].commands]


def test_a_blocked_port_25_is_told_with_the_cure() -> None:
    """All connections vanish: that is the provider, not the exchangers."""
    rig = direct()
    rig.fault("203.0.113.1", Faults(refuse=True))

    found = look(rig, "egress")

    assert told(found)[0] == (
        "fail IPv4 port 25 is closed outwards: mx.big.example [203.0.113.1]: connection refused;"
        " mx.large.example [203.0.113.2]: connection refused"
    )
    assert "ask yours to open it" in found[0].cure


def test_one_silent_exchanger_among_others_is_only_a_warning() -> None:
    """It may be that host's own trouble."""
    rig = direct()

    found = look(rig, "egress", exchangers(rig, n2=ScriptedExchanger()))

    assert levels(found) == ["ok", "warn", "skip"]


def test_ipv6_that_does_not_get_out_fails_by_itself() -> None:
    """Mail would try it first; IPv4 is fine."""
    rig = direct(on=BOTH)

    found = look(rig, "egress", exchangers(rig, n1=ScriptedExchanger(), n2=ScriptedExchanger()))

    assert levels(found) == ["ok", "fail"]
    assert 'families = "ipv4"' in found[1].cure


def test_an_exchanger_that_refuses_us_is_quoted() -> None:
    """A listed address is refused in the banner as a rule; what the host says cannot move the terminal."""
    rig = direct()
    listed = ScriptedPeer([(b"", b"554 5.7.1 \x1b[31mlisted\r\n")])

    found = look(rig, "egress", exchangers(rig, n1=listed, n2=ScriptedExchanger()))

    assert levels(found) == ["warn", "ok", "skip"]
    assert "mx.big.example [203.0.113.1] greets us with 554" in found[0].seen
    assert "1 of 2 exchangers greet us" in found[1].seen
    assert "\x1b" not in found[0].seen


def test_what_is_no_smtp_is_told() -> None:
    """A web server, or a firewall's own idea of a banner."""
    rig = direct()
    web = ScriptedPeer([(b"", b"HTTP/1.1 400 Bad Request\r\n")])

    found = look(rig, "egress", exchangers(rig, n1=web, n2=web))

    assert levels(found) == ["fail", "skip"]
    assert "connected, then" in found[0].seen


def test_an_exchanger_that_connects_and_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall in between takes connections that nobody answers."""
    monkeypatch.setattr(talk, "ANSWER_S", 0.02)
    rig, mute = direct(), ScriptedPeer([])

    found = look(rig, "egress", exchangers(rig, n1=mute, n2=ScriptedExchanger(silent_at="banner")))

    assert levels(found) == ["fail", "skip"]
    assert "mx.big.example [203.0.113.1]: connected, then no answer within 0.02 s" in found[0].seen


def test_without_dns_it_says_so_and_dials_nobody() -> None:
    """The cause is elsewhere, and named."""
    rig = direct()
    rig.zone.faults.update({"big.example": Fault.TIMEOUT, "large.example": Fault.TIMEOUT})

    found = look(rig, "egress")

    assert told(found)[0] == (
        "fail IPv4 port 25: not tried, no exchanger was found: MX of big.example, MX of large.example: scripted timeout"
    )
    assert [] == rig.network.dialled


def test_a_clock_that_is_off_shows_in_a_banner() -> None:
    """Some hosts say what time it is; ours is a year ahead of this one's."""
    rig = direct()
    dated = ScriptedPeer([(b"", b"220 mx.big.example ESMTP Sendmail; Thu, 15 Jan 2026 08:00:00 GMT\r\n")])

    found = look(rig, "egress", exchangers(rig, n1=dated, n2=ScriptedExchanger()))

    assert START > 0
    assert levels(found) == ["warn", "ok", "skip"]
    assert "(ours is ahead)" in found[0].seen


# -- next hops ---------------------------------------------------------------------------------------------------------


def upstream(config: str, peer: ScriptedExchanger | None, *, login: bool = False, faults: Faults | None = None) -> Any:
    rig = Rig(config, zone=Zone(ZONE), wishes=Wishes(blocklist="", login=login))
    if faults is not None:
        rig.fault("9.9.9.99", faults, 587)

    async def listen() -> None:
        if peer is not None:
            await rig.listen("9.9.9.99", peer.accept, 587)

    return look(rig, "egress", listen)


def offering(*extensions: str, **replies: str) -> ScriptedExchanger:
    return ScriptedExchanger(extensions=extensions, replies={"starttls": "220 go on", **replies})


def seen(found: list[Finding]) -> list[str]:
    return [line.replace("next hop smtp.example.net:587 [9.9.9.99]: ", "") for line in told(found)]


def test_a_next_hop_in_clear_is_a_warning() -> None:
    """It works, and everybody on the way reads along."""
    found = upstream(HOP, offering("PIPELINING"))

    assert seen(found) == ["ok ready in 0 ms, in clear", "warn offers no TLS: mail goes there in clear"]


def test_a_next_hop_whose_certificate_is_good_could_be_verified() -> None:
    """The better setting is named."""
    found = upstream(HOP, offering("STARTTLS"))

    assert levels(found) == ["ok", "ok"]
    assert 'tls = "verified" would hold' in found[1].seen


def test_a_dead_next_hop_fails_and_no_exchanger_is_dialled() -> None:
    """All mail goes there, so that alone is tried."""
    found = upstream(HOP, None)

    assert seen(found) == ["fail failed at connect: connection refused"]


def test_a_next_hop_is_tried_by_the_families_that_mail_would_use() -> None:
    """Without a route by IPv6 its other address is skipped, and a source address decides for its own family."""
    zone = Zone({"smtp.example.net": ("A 9.9.9.99", "AAAA 2001:db8::99")})

    def lines(config: str, on: Machine) -> list[str]:
        return levels(look(Rig(config, zone=zone, on=on), "egress"))

    only_ipv4 = machine(route_to=lambda far: "" if ":" in far else GLOBAL)
    assert ["skip", "fail"] == lines(HOP, only_ipv4)
    assert ["fail", "fail"] == lines(HOP, BOTH)
    assert ["fail"] == lines(HOP + 'source = "9.9.9.77"', BOTH)
    assert ["fail"] == lines(HOP + 'families = "ipv6"', BOTH)


def test_an_unknown_next_hop_fails() -> None:
    """The name is wrong, or DNS is."""
    found = upstream(HOP.replace("smtp.example.net", "smpt.example.net"), None)

    assert told(found) == ["fail next hop smpt.example.net:587: no address: nxdomain"]


def test_a_certificate_that_must_hold_and_does_not_fails() -> None:
    """As mail would fail."""
    found = upstream(LOGIN, offering("STARTTLS", "AUTH PLAIN"), faults=Faults(tls=TlsConduct.UNTRUSTED))

    assert levels(found) == ["fail"]
    assert "ca_file" in found[0].cure


def test_the_password_is_not_tried_unless_asked_for() -> None:
    """AUTH offered is as far as it goes; the host has not heard the word."""
    peer = offering("STARTTLS", "AUTH PLAIN LOGIN", auth="235 2.7.0 ok")

    found = upstream(LOGIN, peer)

    assert seen(found)[1:] == ["ok offers AUTH; the password was not tried (--login tries it)"]
    assert not any(b"AUTH" in command for session in peer.sessions for command in session.commands)


def test_the_password_is_tried_with_login() -> None:
    """Right and wrong are told; a wrong one is not repeated in the line."""
    right = upstream(LOGIN, offering("STARTTLS", "AUTH PLAIN", auth="235 2.7.0 ok"), login=True)
    wrong = upstream(LOGIN, offering("STARTTLS", "AUTH PLAIN", auth="535 5.7.8 no: s3cret-word"), login=True)

    assert seen(right)[1:] == ["ok takes the password of alice"]
    assert levels(wrong) == ["ok", "fail"]
    assert "refuses the password of alice: 535" in wrong[1].seen
    assert "s3cret-word" not in wrong[1].seen


def test_a_host_without_auth_fails_where_a_password_is_configured() -> None:
    """Port 25 instead of 587, as a rule."""
    found = upstream(LOGIN, offering("STARTTLS"))

    assert levels(found) == ["ok", "fail"]
    assert "neither AUTH PLAIN nor AUTH LOGIN" in found[1].seen


def test_a_next_hop_of_a_route_is_tried_too() -> None:
    """And what goes by MX as well: both are used."""
    config = '[[route]]\ndomains = ["partner.example"]\nnext_hop = "9.9.9.99:587"'
    rig = direct()
    rig.change(config=Rig(config).world.config)

    found = look(rig, "egress", exchangers(rig, n1=ScriptedExchanger(), n2=ScriptedExchanger()))

    assert levels(found) == ["fail", "ok", "skip"]
