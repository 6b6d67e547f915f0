# SPDX-License-Identifier: MIT
"""STARTTLS as a client: a scripted host injects, refuses, hides and shows certificates that must not be trusted.

For each policy: what left us in clear, what left us at all, and what the queue says then.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from tests.acceptance.certificates import Authority, expired, self_signed
from tests.acceptance.client import Client
from tests.acceptance.daemon import CONTROLS, Daemon
from tests.acceptance.sink import COMMON, Sink

TLS_OFFERED = (*COMMON, "STARTTLS")
POLICIES = ("none", "opportunistic", "required", "verified")
# What the host says to STARTTLS (the list of the NO STARTTLS paper's tools), in clear.
ANSWERS = {
    "221": b"221 bye\r\n",
    "250": b"250 fine\r\n",
    "354": b"354 go on\r\n",
    "421": b"421 4.3.2 closing\r\n",
    "454": b"454 4.7.0 TLS not available\r\n",
    "500": b"500 what\r\n",
    "501": b"501 syntax\r\n",
    "502": b"502 not implemented\r\n",
    "530": b"530 5.7.0 no\r\n",
    "554": b"554 5.7.0 no\r\n",
    "garbage": b"hello there\r\n",
    "silent handshake": b"220 go\r\n",  # and then goes on in clear
}
INJECTIONS = {
    "reply": b"220 go\r\n250 injected\r\n",
    "ehlo": b"220 go\r\n250-sink\r\n250-AUTH PLAIN\r\n250 SIZE 1\r\n",
    "many": b"220 go\r\n" + b"250 x\r\n" * 500,
    "piece": b"220 go\r\n2",
    "line": b"220 go\r\n\r\n",
    "zero": b"220 go\r\n\0",
}
CERTIFICATES = ("good", "self-signed", "wrong-name", "expired", "wrong-ca")


class Place(NamedTuple):
    daemon: Daemon
    hosts: dict[str, Sink]

    def hand_in(self, name: str, policy: str) -> str:
        """Give the recipient; its domain names the host and the policy."""
        recipient = f"r@{policy}.{name.replace(' ', '-')}.example"
        with Client(self.daemon.ports[0]) as client:
            client.hello()
            assert client.transact(b"a@example.org", recipient.encode(), b"Subject: secret\r\n\r\nsecret").code == 250
        return recipient

    def host(self, name: str, policy: str) -> Sink:
        return self.hosts[f"{policy}.{name.replace(' ', '-')}.example"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("upstream")
    authority = Authority(home)
    pairs = {
        "good": authority.issue("good"),
        "self-signed": self_signed(home, "self", "localhost"),
        "wrong-name": authority.issue("wrong", "other.example.net"),
        "expired": expired(authority),
        "wrong-ca": Authority(home, "stranger").issue("good"),
    }
    with ExitStack() as stack:
        hosts: dict[str, Sink] = {}
        for policy in POLICIES:
            for name, answer in ANSWERS.items():
                hosts[f"{policy}.a-{name.replace(' ', '-')}.example"] = Sink(TLS_OFFERED, script={b"STARTTLS": answer})
            for name, answer in INJECTIONS.items():
                made = Sink(TLS_OFFERED, script={b"STARTTLS": answer}, tls=pairs["good"].as_server())
                hosts[f"{policy}.i-{name}.example"] = made
            for name in CERTIFICATES:
                hosts[f"{policy}.c-{name}.example"] = Sink(TLS_OFFERED, tls=pairs[name].as_server())
            hosts[f"{policy}.n-hidden.example"] = Sink(COMMON)
            hosts[f"{policy}.n-ehlo-refused.example"] = Sink(TLS_OFFERED, script={b"EHLO": b"502 5.5.1 no\r\n"})
        for host in hosts.values():
            stack.enter_context(host)
        routes = [
            f'[[route]]\ndomains = ["{domain}"]\nnext_hop = {{ host = "127.0.0.1", port = {host.port}, '
            f'tls = "{domain.partition(".")[0]}", ca_file = "{authority.file}" }}'
            for domain, host in hosts.items()
        ]
        listening = 'listen = ["127.0.0.1:0"]\n[retry]\nfirst = "1h"\n[hosts]\nfirst_pause = "10m"\n'
        with Daemon(home, listening + "\n".join(routes)) as daemon:
            yield Place(daemon, hosts)


def content_in_clear(host: Sink) -> bool:
    return any(b"secret" in session.in_clear for session in host.sessions)


def check_policy(place: Place, name: str, policy: str) -> None:
    """What holds whatever the host does: nothing injected is believed, mail is in clear only where it may be."""
    host = place.host(name, policy)
    fate = place.daemon.fate(place.hand_in(name, policy))

    if policy == "none":
        assert fate["what"] == "relayed", fate
        assert not [each for each in host.commands if each.upper().startswith(b"STARTTLS")]
    elif policy == "opportunistic":
        assert fate["what"] in ("relayed", "deferred", "postponed"), fate
        refusal = host.script.get(b"STARTTLS", b"220")[:3]
        for (
            session
        ) in host.sessions:  # a plain "no" leaves the session as it is; after anything else it needs a new one
            asked = any(each.upper().startswith(b"STARTTLS") for each in session.commands)
            if asked and refusal in (b"220", b"354", b"421", b"hel"):
                assert b"secret" not in session.in_clear, session.commands
    else:
        assert fate["what"] in ("deferred", "postponed"), fate
        assert not content_in_clear(host)
        assert not host.messages
        assert not [each for each in host.commands if each.upper().startswith((b"MAIL", b"AUTH"))]
        recipient = fate["recipient"]
        (waiting,) = [m for m in place.daemon.queued() if m["recipients"][0]["address"] == recipient]
        entry = waiting["recipients"][0]
        assert entry["state"] == "deferred"
        assert "tls" in (entry["why"] + (entry["last_reply"] or "")).lower(), entry
        assert not CONTROLS.search(entry["why"] + (entry["last_reply"] or ""))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_host_that_does_not_start_tls_gets_mail_in_clear_only_by_policy(
    place: Place, answer: str, policy: str
) -> None:
    check_policy(place, f"a-{answer}", policy)


@pytest.mark.parametrize("policy", ["opportunistic", "required", "verified"])
@pytest.mark.parametrize("injection", INJECTIONS)
def test_octets_behind_the_reply_to_starttls_end_the_session_at_once(place: Place, injection: str, policy: str) -> None:
    check_policy(place, f"i-{injection}", policy)

    host = place.host(f"i-{injection}", policy)
    for session in host.sessions:
        assert not session.secured, "it went on inside TLS with octets injected before it"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_a_certificate_is_judged_only_where_the_policy_says_verified(
    place: Place, certificate: str, policy: str
) -> None:
    host = place.host(f"c-{certificate}", policy)
    fate = place.daemon.fate(place.hand_in(f"c-{certificate}", policy))

    if policy == "verified" and certificate != "good":
        assert fate["what"] == "deferred", fate
        assert "certificate" in fate["why"].lower(), fate
        assert not host.messages
        assert not any(session.secured for session in host.sessions)
        assert not content_in_clear(host)
        (waiting,) = [m for m in place.daemon.queued() if m["recipients"][0]["address"] == fate["recipient"]]
        assert "certificate" in waiting["recipients"][0]["why"].lower(), waiting
    else:
        assert fate["what"] == "relayed", fate
        assert host.messages[0].is_secured is (policy != "none")
        assert content_in_clear(host) is (policy == "none")
        assert bool(fate.get("tls")) is (policy != "none"), fate


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("how", ["hidden", "ehlo-refused"])
def test_a_host_that_offers_no_tls_gets_mail_only_where_tls_is_not_demanded(
    place: Place, how: str, policy: str
) -> None:
    host = place.host(f"n-{how}", policy)
    fate = place.daemon.fate(place.hand_in(f"n-{how}", policy))

    if policy in ("none", "opportunistic"):
        assert fate["what"] == "relayed", fate
    else:
        assert fate["what"] == "deferred", fate
        assert not host.messages
        assert not content_in_clear(host)


def test_inside_tls_the_host_is_asked_again_what_it_can(place: Place) -> None:
    host = place.host("c-good", "verified")
    assert place.daemon.fate(place.hand_in("c-good", "verified"))["what"] == "relayed"
    assert host.messages
    for session in host.sessions:
        assert session.in_clear.startswith(b"EHLO relay.example.org\r\n")
        assert session.in_clear.endswith(b"STARTTLS\r\n") or b"\x16\x03" in session.in_clear
        assert session.secured.startswith(b"EHLO relay.example.org\r\n")


def test_nothing_of_all_this_bounced_and_nothing_unexpected_is_in_the_log(place: Place) -> None:
    assert not [line for line in place.daemon.lines if line["what"] == "bounced"]
    assert "unexpected" not in place.daemon.text
    assert not CONTROLS.search(place.daemon.text)
