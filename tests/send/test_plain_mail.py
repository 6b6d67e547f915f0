# SPDX-License-Identifier: MIT
"""Most mail needs nothing special of a host, and is decided in one look: no need, be it the only one, is overlooked."""

import pytest
from msgspec.structs import replace
from tests.send.rig import SendRig, in_simulation, outcomes

from smarthost.mail.envelope import Body, Notify
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.simulation import Simulation, run_simulation

ALL = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN")


def said(exchanger: ScriptedExchanger, *verbs: bytes) -> list[bytes]:
    return [line for line in exchanger.sessions[0].commands if line.startswith(verbs)]


@pytest.mark.parametrize(
    ("of_recipient", "parameter"),
    [
        ({}, b""),
        ({"notify": Notify.NEVER}, b" NOTIFY=NEVER"),
        ({"orcpt": "rfc822;carol@example.net"}, b" ORCPT=rfc822;carol@example.net"),
    ],
    ids=["nothing", "NOTIFY alone", "ORCPT alone"],
)
def test_what_one_recipient_asks_for_is_passed_on(of_recipient: dict[str, object], parameter: bytes) -> None:
    """Only the last recipient has a wish; a host that offers DSN hears of it."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        exchanger = await rig.listen(ScriptedExchanger(extensions=ALL))
        lease = rig.lease("bob@example.net", "carol@example.net")
        lease = replace(lease, recipients=(lease.recipients[0], replace(lease.recipients[1], **of_recipient)))

        result = await rig.attempt(lease)

        assert ["relayed"] * 2 == outcomes(result)
        assert [b"RCPT TO:<bob@example.net>", b"RCPT TO:<carol@example.net>" + parameter] == said(exchanger, b"RCPT")

    run_simulation(scenario, seed=1)


@pytest.mark.parametrize(
    ("needs", "recipient", "parameter"),
    [
        ({}, "bob@example.net", ""),
        ({"reverse_path": "jürgen@example.org"}, "bob@example.net", " SMTPUTF8"),
        ({}, "jürgen@example.net", " SMTPUTF8"),
        ({"prefix": "X-Origin: Zürich\r\n".encode()}, "bob@example.net", " BODY=8BITMIME"),
        ({"body": Body.EIGHT_BIT_MIME}, "bob@example.net", " BODY=8BITMIME"),
    ],
    ids=["nothing", "sender beyond ASCII", "recipient beyond ASCII", "prefix beyond ASCII", "declared 8-bit"],
)
def test_mail_says_what_it_needs(needs: dict[str, object], recipient: str, parameter: str) -> None:
    """Whatever it came with: an address beyond ASCII demands SMTPUTF8 even where nobody said so before."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        exchanger = await rig.listen(ScriptedExchanger(extensions=ALL))
        lease = replace(rig.lease("carol@example.net", recipient), **needs)

        result = await rig.attempt(lease)

        octets = lease.octets + len(lease.prefix)
        assert ["relayed"] * 2 == outcomes(result)
        assert [f"MAIL FROM:<{lease.reverse_path}> SIZE={octets}{parameter}".encode()] == said(exchanger, b"MAIL")

    run_simulation(scenario, seed=1)


@in_simulation
async def test_plain_mail_keeps_to_a_limit_on_domains(simulation: Simulation) -> None:
    """Two domains at a host that takes one in a transaction: two transactions, though nothing else is special."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger(extensions=(*ALL, "LIMITS RCPTDOMAINMAX=1")))

    lease = rig.lease("bob@example.net", "carol@example.com")
    lease = replace(lease, recipients=(lease.recipients[0], replace(lease.recipients[1], domain="example.com")))

    result = await rig.attempt(lease)

    assert ["relayed"] * 2 == outcomes(result)
    assert [("bob@example.net",), ("carol@example.com",)] == [message.recipients for message in exchanger.messages]
