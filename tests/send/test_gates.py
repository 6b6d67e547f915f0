# SPDX-License-Identifier: MIT
"""What counts against a host, and for whom."""

import pytest

from smarthost.mail.hop import Credentials, SessionPolicy, TlsLevel
from smarthost.send.gates import gate_keys

ME = Credentials("me", "secret")


def policy(
    port: int = 25, tls: TlsLevel = TlsLevel.OPPORTUNISTIC, credentials: Credentials | None = None, source: str = ""
) -> SessionPolicy:
    return SessionPolicy("relay.example.org", port, tls, credentials=credentials, source=source)


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        (policy(), ("",)),
        (policy(tls=TlsLevel.NONE), ("",)),
        (policy(source="192.0.2.7"), ("192.0.2.7",)),
        (policy(2525), ("/2525",)),
        (policy(tls=TlsLevel.REQUIRED), ("", "|required|")),
        (policy(587, TlsLevel.VERIFIED, ME), ("/587", "/587|verified|me")),
        (policy(credentials=ME, source="192.0.2.7"), ("192.0.2.7", "192.0.2.7|opportunistic|me")),
    ],
)
def test_a_service_and_what_is_demanded_of_it_are_judged_apart(asked: SessionPolicy, keys: tuple[str, ...]) -> None:
    """A port that is down, a login that fails and a host that is dead are three things; no key shows a password."""
    assert gate_keys(asked) == keys
    assert "secret" not in "".join(gate_keys(asked))
