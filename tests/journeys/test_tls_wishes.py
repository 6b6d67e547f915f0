# SPDX-License-Identifier: MIT
"""Mail whose sender waives TLS, beside mail for the same domain that must have it."""

from tests.journeys.rig import in_world, taken

from smarthost.mail.hop import TlsLevel
from smarthost.route.table import DirectMx
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import ScriptedExchanger
from smarthost.testing.world import SimulatedWorld

WAIVED = b"TLS-Required: No\r\nSubject: x\r\n\r\nx\r\n"
HOST = "203.0.113.9"


@in_world(default_route=DirectMx(tls=TlsLevel.REQUIRED))
async def test_mail_that_waives_tls_does_not_wait_behind_mail_that_must_have_it(world: SimulatedWorld) -> None:
    """The host's TLS is broken: what demands it waits, what does not goes within minutes, whoever came first."""
    world.zone.set("site.example", "MX 10 mx.site.example")
    world.zone.set("mx.site.example", f"A {HOST}")
    exchanger = world.place(ScriptedExchanger(extensions=("STARTTLS",)), HOST)
    world.network.faults[HOST, 25] = Faults(tls=TlsConduct.BROKEN)

    for n in range(30):
        await world.submit("ann@example.org", f"strict{n}@site.example")
    await world.clock.sleep(30)
    for n in range(5):
        await world.submit("ann@example.org", f"waived{n}@site.example", content=WAIVED)
    await world.clock.sleep(600)

    assert sorted(taken(exchanger)) == [f"waived{n}@site.example" for n in range(5)]
    assert world.kinds().get("bounced", 0) == 0
