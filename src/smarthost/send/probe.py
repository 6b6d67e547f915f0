# SPDX-License-Identifier: MIT
"""Probes a host for an operator: connect, banner, EHLO, STARTTLS, and goodbye; never MAIL, never a password.

Drives the same Session as mail does, with a transcript. Asks no leave of HostGate, because a person wants to know now;
a host that answers is reported as working. Judges no mail and changes none. A crash leaves nothing.
"""

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.errors import ConnectFailed
from smarthost.mail.explanation import Probed
from smarthost.mail.hop import Host, SessionPolicy, TlsFacts
from smarthost.ports import Clock, Dialer
from smarthost.send.gates import gate_keys
from smarthost.send.session import Session, SetupFailed
from smarthost.send.transcript import Transcript
from smarthost.smtp import limits

PROBE_S = 60.0  # for all of one address: a person waits
READY = "ready"


class ProbeTerms(Struct, frozen=True):
    """`works` is told (source, address) as HostGate names them, of each host that greeted us."""

    dialer: Dialer
    clock: Clock
    works: Callable[[str, str], None]
    connect_timeout_s: float = limits.CONNECT_S


class Prober:
    """Probes one address at a time; the caller runs several at once."""

    def __init__(self, terms: ProbeTerms) -> None:
        self._terms = terms

    async def probe(self, host: Host, address: str, policy: SessionPolicy) -> Probed:
        """Go as far as EHLO, within STARTTLS where the policy wants it. Safe to cancel."""
        terms, started = self._terms, self._terms.clock.monotonic()
        transcript = Transcript()
        policy = replace(policy, credentials=None)
        try:
            connection = await terms.dialer.dial(
                address, policy.port, source=policy.source, timeout_s=terms.connect_timeout_s
            )
        except ConnectFailed as failure:
            took_s = terms.clock.monotonic() - started
            return Probed(host.name, address, False, "connect", str(failure), took_s)
        transcript.note(f"connected to {address} port {policy.port}")
        session = Session(connection, terms.clock, (host.name, address, policy), transcript)
        failed = await session.set_up(PROBE_S)
        session.quit()
        took_s = terms.clock.monotonic() - started
        return self._tell(host, address, policy, failed, took_s, session.tls, transcript)

    def _tell(
        self,
        host: Host,
        address: str,
        policy: SessionPolicy,
        failed: SetupFailed | None,
        took_s: float,
        tls: TlsFacts | None,
        transcript: Transcript,
    ) -> Probed:
        if failed is None:
            for key in gate_keys(policy):
                self._terms.works(key, address)
        lines = transcript.lines()
        return Probed(
            host.name,
            address,
            failed is None,
            READY if failed is None else str(failed.step),
            "" if failed is None else str(failed.said),
            took_s,
            _describe_tls(tls),
            _offered(lines),
            lines,
        )


def _describe_tls(tls: TlsFacts | None) -> str:
    return "" if tls is None else f"{tls.version} {tls.cipher}{' verified' if tls.verified else ''}"


def _offered(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Give the keywords of the last answer to EHLO (LHLO in LMTP), of which the first line is a greeting."""
    said = [number for number, line in enumerate(lines) if line.startswith(("> EHLO ", "> LHLO "))]
    if not said:
        return ()
    answer = [line[6:] for line in lines[said[-1] + 1 :] if line.startswith(("< 250-", "< 250 "))]
    return tuple([keyword for keyword in answer[1:] if keyword.strip()])
