# SPDX-License-Identifier: MIT
"""Each name server: does it answer, validate, and tell the truth?"""

from typing import Any

import pytest
from tests.ops.doctor.rig import Rig, levels, look, told

from smarthost.ops.doctor.world import Wishes
from smarthost.ports import Answer, AnswerStatus
from smarthost.testing.dns import Fault, ScriptedResolver, Zone

HOME = ("127.0.0.53", 53)


class Inventive(ScriptedResolver):
    """Says of every name that does not exist that it is here (a provider's search page)."""

    async def ask(self, name: str, rdtype: str) -> Answer:
        answer = await super().ask(name, rdtype)
        if answer.status is AnswerStatus.NXDOMAIN and name.startswith("smarthost-doctor-"):
            return Answer(name, rdtype, AnswerStatus.FOUND, addresses=("203.0.113.80",))
        return answer


def zone(*, secure: bool = True) -> Zone:
    validates = Zone({"isc.org": "A 192.0.2.1", "dnssec-failed.org": "A 192.0.2.2"}, secure=secure)
    if secure:
        validates.faults["dnssec-failed.org"] = Fault.SERVFAIL
    return validates


def rig(*servers: tuple[tuple[str, int], Zone], kind: type[ScriptedResolver] = ScriptedResolver, **more: Any) -> Rig:
    made = Rig(**more)
    resolvers = {server: kind(each) for server, each in servers}
    made.change(servers=tuple(resolvers), resolver_at=lambda server: resolvers[server])
    return made


def test_a_local_validating_resolver_is_all_ok() -> None:
    """As it should be: an answer, AD, SERVFAIL for the broken name, NXDOMAIN for none."""
    assert told(look(rig((HOME, zone())), "resolver")) == [
        "ok 127.0.0.53: answers in 0 ms",
        "ok 127.0.0.53: validates DNSSEC",
        "ok 127.0.0.53: names that do not exist are NXDOMAIN",
    ]


def test_a_resolver_that_does_not_validate_is_a_warning() -> None:
    """It believes what is known to be forged."""
    assert "warn 127.0.0.53: does not validate DNSSEC" in told(look(rig((HOME, zone(secure=False))), "resolver"))[1]


def test_a_resolver_that_only_sets_the_bit_is_a_warning() -> None:
    """It marks answers as validated, and believes the forged one all the same."""
    liar = zone()
    del liar.faults["dnssec-failed.org"]

    assert "does not validate DNSSEC" in told(look(rig((HOME, liar)), "resolver"))[1]


def test_a_validating_resolver_elsewhere_is_not_believed() -> None:
    """Anybody on the way could set the bit."""
    found = look(rig((("192.0.2.53", 53), zone())), "resolver")

    assert levels(found) == ["ok", "ok", "warn", "ok"]
    assert "not on this machine" in found[2].seen


def test_invented_addresses_fail() -> None:
    """Mail to a misspelt domain must bounce, not go to a provider's advertising."""
    found = look(rig((HOME, zone()), kind=Inventive), "resolver")

    assert told(found)[-1] == (
        "fail 127.0.0.53: invents addresses for names that do not exist (203.0.113.80)"
    )  # and the cure says why


def test_a_dead_second_server_is_named_while_the_first_still_answers() -> None:
    """It is found before the first one dies, too."""
    dead = Zone(faults={"isc.org": Fault.TIMEOUT})

    found = look(rig((HOME, zone()), (("192.0.2.54", 5353), dead)), "resolver")

    assert levels(found) == ["ok", "ok", "ok", "fail"]
    assert found[-1].seen == "192.0.2.54 port 5353: scripted timeout"


def test_no_server_at_all_is_said_in_one_line_more() -> None:
    """What follows from it stands there."""
    found = look(rig((HOME, Zone(faults={"isc.org": Fault.TIMEOUT}))), "resolver")

    assert told(found)[-1].startswith("fail no name server answers")


def test_a_server_of_a_closed_network_is_a_warning() -> None:
    """It answers, but knows no name of the Internet."""
    found = look(rig((HOME, Zone())), "resolver")

    assert told(found)[0].startswith("warn 127.0.0.53: says that isc.org does not exist")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "9.9.9.9"])
def test_a_public_resolver_is_a_warning(address: str) -> None:
    """Blocklists do not answer it."""
    found = look(rig(((address, 53), zone())), "resolver")

    assert f"warn {address}: is a public resolver" in told(found)[-1]


def test_a_blocklist_that_refuses_is_a_warning() -> None:
    """The list's own test point says so."""
    refused = zone()
    refused.set("2.0.0.127.bl.example", "A 127.255.255.254")

    found = look(rig((HOME, refused), wishes=Wishes(blocklist="bl.example")), "resolver")

    assert told(found)[-1].startswith("warn 127.0.0.53: bl.example refuses to answer it (127.255.255.254)")

    refused.set("2.0.0.127.bl.example", "A 127.0.0.2")

    assert "ok" == levels(look(rig((HOME, refused), wishes=Wishes(blocklist="bl.example")), "resolver"))[-1]


def test_a_slow_server_is_a_warning() -> None:
    """Each message by MX asks three questions or more."""
    made = rig((HOME, zone()))

    class Slow(ScriptedResolver):
        async def ask(self, name: str, rdtype: str) -> Answer:
            made.clock.advance(0.4)
            return await super().ask(name, rdtype)

    made.change(resolver_at=lambda server: Slow(zone()))

    assert told(look(made, "resolver"))[0] == "warn 127.0.0.53: answers, but took 400 ms for one question"
