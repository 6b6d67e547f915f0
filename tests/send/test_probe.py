# SPDX-License-Identifier: MIT
"""An operator's probe: as far as EHLO and STARTTLS, never further, with everything that was said."""

from typing import Any

import pytest
from tests.send.rig import BEST, SendRig, in_simulation

from smarthost.mail.explanation import Probed
from smarthost.mail.hop import Credentials, Host, SessionPolicy, TlsLevel
from smarthost.send.probe import Prober, ProbeTerms
from smarthost.testing.network import Faults, TlsConduct
from smarthost.testing.peers import ScriptedExchanger, ScriptedPeer
from smarthost.testing.simulation import Simulation, run_simulation

TLS_HOST: dict[str, Any] = {"extensions": ("STARTTLS", "AUTH PLAIN"), "replies": {"starttls": "220 go"}}


async def probe(rig: SendRig, works: list[tuple[str, str]], policy: SessionPolicy | None = None) -> Probed:
    prober = Prober(ProbeTerms(rig.network, rig.clock, lambda source, address: works.append((source, address))))
    probed = await prober.probe(Host("mx1.example.net", (BEST,)), BEST, policy or SessionPolicy("relay.example.org"))
    await rig.clock.sleep(1)
    return probed


@in_simulation
async def test_a_probe_never_logs_in_and_never_sends_mail(simulation: Simulation) -> None:
    """Even where mail would need a password and TLS, the probe says EHLO, STARTTLS, EHLO and QUIT."""
    rig = SendRig(simulation)
    exchanger = await rig.listen(ScriptedExchanger(**TLS_HOST))
    works: list[tuple[str, str]] = []
    policy = SessionPolicy("relay.example.org", tls=TlsLevel.REQUIRED, credentials=Credentials("me", "secret"))

    probed = await probe(rig, works, policy)

    hello = b"EHLO relay.example.org\r\n"
    assert hello + b"STARTTLS\r\n" + hello + b"QUIT\r\n" == bytes(exchanger.sessions[0].octets)
    assert (probed.ok, probed.step, probed.tls) == (True, "ready", "TLSv1.3 SIMULATED")
    assert "secret" not in repr(probed)
    assert "|required|me" not in [source for source, _ in works], "the password was not tried"
    assert ("", BEST) in works


@pytest.mark.parametrize(
    ("faults", "exchanger", "step", "why"),
    [
        (Faults(refuse=True), {}, "connect", "refused"),
        (Faults(black_hole=True), {}, "connect", "timed out"),
        (Faults(), {"silent_at": "banner"}, "banner", "no answer at"),
        (Faults(), {"replies": {"banner": "554 no SMTP here"}}, "banner", "554 no SMTP here"),
        (Faults(), {"replies": {"ehlo": "421 4.3.2 busy"}}, "ehlo", "421 4.3.2 busy"),
        (Faults(tls=TlsConduct.BROKEN), TLS_HOST, "tls", "handshake failure"),
        (Faults(tls=TlsConduct.STALLED), TLS_HOST, "tls", "no answer at"),
    ],
)
def test_a_failed_probe_names_the_step_within_a_minute(
    faults: Faults, exchanger: dict[str, Any], step: str, why: str
) -> None:
    """However a host fails, the operator reads where and how soon, and nothing is reported as working."""

    async def scenario(simulation: Simulation) -> None:
        rig = SendRig(simulation)
        rig.network.faults[BEST, 25] = faults
        await rig.listen(ScriptedExchanger(**exchanger))
        works: list[tuple[str, str]] = []
        started = rig.clock.monotonic()

        probed = await probe(rig, works)

        assert (probed.ok, probed.step) == (False, step)
        assert why in probed.why.lower() or why in probed.why
        assert rig.clock.monotonic() - started < 63
        assert works == []
        assert probed.took_s < 62

    run_simulation(scenario, seed=1)


@in_simulation
async def test_a_probe_of_lmtp_shows_what_is_offered(simulation: Simulation) -> None:
    """LMTP says LHLO; its answer is shown as EHLO's is."""
    rig = SendRig(simulation)
    peer = ScriptedPeer(((b"", b"220 store LMTP\r\n"), (b"LHLO relay.example.org\r\n", b"250-store\r\n250 DSN\r\n")))
    await rig.network.listener().listen(BEST, 24, peer.accept)

    probed = await probe(rig, [], SessionPolicy("relay.example.org", 24, is_lmtp=True))

    assert probed.ok
    assert ("DSN",) == probed.extensions
