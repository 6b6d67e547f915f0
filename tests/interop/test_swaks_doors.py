# SPDX-License-Identifier: MIT
"""swaks at every kind of door: TLS, logins, LMTP, PROXY and XCLIENT; what it is let do, and what it is told."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.interop.certificates import Certificate, certificate
from tests.interop.doors import PASSWORD, USER, Doors, all_doors
from tests.interop.hops import Trace, take_ours
from tests.interop.test_swaks import swaks
from tests.live.raw import RawClient
from tests.live.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

FROM = ("--from", "alice@example.org")
CLIENT = "192.0.2.7"  # of a network that may relay at the doors behind proxies, where loopback may not


class Rig(NamedTuple):
    """The daemon's doors, what they show, and the far side."""

    doors: Doors
    tls: Certificate
    sink: Sink

    def trace(self, recipient: str) -> Trace:
        """Wait for a message and read our field of it."""
        return take_ours(self.sink.wait_for_recipient(recipient).content)[0]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("swaks-doors")
    with certificate() as tls, Sink() as sink, all_doors(home, sink.port, tls) as doors:
        yield Rig(doors, tls, sink)


def _login(mechanism: str, password: str = PASSWORD) -> list[str]:
    return ["--auth", mechanism, "--auth-user", USER, "--auth-password", password]


def _verified(rig: Rig) -> list[str]:
    return ["--tls-verify", "--tls-ca-path", str(rig.tls.ca)]


def test_swaks_in_starttls(rig: Rig) -> None:
    """--tls, verified: the message arrives, and its trace says how."""
    ran = swaks(rig.doors.relay, *FROM, "--to", "starttls@example.net", "--tls", *_verified(rig))

    assert ran.returncode == 0, ran.stdout
    assert "TLS started with cipher TLSv1.3" in ran.stdout
    assert rig.trace("starttls@example.net")["protocol"] == "ESMTPS"


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("is_implicit", [False, True])
def test_swaks_logs_in(rig: Rig, mechanism: str, *, is_implicit: bool) -> None:
    """PLAIN and LOGIN, after STARTTLS and in implicit TLS."""
    recipient = f"{mechanism.lower()}{is_implicit:d}@example.net"
    port, option = (rig.doors.submissions, "--tls-on-connect") if is_implicit else (rig.doors.submission, "--tls")

    ran = swaks(port, *FROM, "--to", recipient, option, *_verified(rig), *_login(mechanism))

    assert ran.returncode == 0, ran.stdout
    assert "235 2.7.0" in ran.stdout
    assert rig.trace(recipient)["protocol"] == "ESMTPSA"


# swaks' exit codes: 23 MAIL refused, 24 no recipient accepted, 28 login failed
def test_swaks_with_a_wrong_password_is_refused(rig: Rig) -> None:
    """It is told that the login is wrong, not which half."""
    ran = swaks(rig.doors.submission, *FROM, "--to", "wrong@example.net", "--tls", *_login("PLAIN", "wrong"))

    assert ran.returncode == 28
    assert "535 5.7.8 Authentication failed: user name or password is wrong" in ran.stdout
    assert rig.sink.messages_to("wrong@example.net") == []


def test_submission_wants_tls_and_then_a_login(rig: Rig) -> None:
    """In clear 530 5.7.0 names STARTTLS, inside TLS it names the login; nothing is relayed."""
    clear = swaks(rig.doors.submission, *FROM, "--to", "bare@example.net")
    inside = swaks(rig.doors.submission, *FROM, "--to", "bare@example.net", "--tls")

    assert "530 5.7.0 Must issue a STARTTLS command first" in clear.stdout
    assert "530 5.7.0 Authentication required" in inside.stdout
    assert (clear.returncode, inside.returncode) == (23, 23)
    assert rig.sink.messages_to("bare@example.net") == []


def test_swaks_may_not_send_as_somebody_else(rig: Rig) -> None:
    """A user sends from his own addresses only."""
    ran = swaks(rig.doors.submission, "--from", "bob@example.org", "--to", "as@example.net", "--tls", *_login("PLAIN"))

    assert ran.returncode == 23
    assert "550 5.7.1 Sender denied" in ran.stdout


def test_swaks_speaks_lmtp(rig: Rig) -> None:
    """LHLO, and a reply for each recipient."""
    ran = swaks(rig.doors.lmtp, *FROM, "--to", "l1@example.net,l2@example.net", "--protocol", "LMTP")

    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.count("250 2.0.0 Ok: queued as ") == 2
    assert "LHLO swaks.example.org" in ran.stdout
    assert rig.trace("l1@example.net")["protocol"] == "LMTP"


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_balancer_says_who_the_client_is(rig: Rig, version: str) -> None:
    """PROXY, version 1 and 2: what counts, and what the trace shows, is the client behind the balancer."""
    proxy = ["--proxy-version", version, "--proxy-family", "TCP4" if version == "1" else "AF_INET"]
    proxy += ["--proxy-source", CLIENT, "--proxy-source-port", "4711"]
    proxy += ["--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"]
    if version == "2":
        proxy += ["--proxy-protocol", "STREAM", "--proxy-command", "PROXY"]

    ran = swaks(rig.doors.proxied, *FROM, "--to", f"proxied{version}@example.net", *proxy)

    assert ran.returncode == 0, ran.stdout
    assert rig.trace(f"proxied{version}@example.net")["client"] == f"[{CLIENT}]"


def test_a_client_that_a_balancer_names_has_no_more_rights_than_it_has(rig: Rig) -> None:
    """Its address is judged, not the balancer's; where none is named nothing is said at all."""
    proxy = ["--proxy-version", "1", "--proxy-family", "TCP4", "--proxy-source", "198.51.100.1"]
    proxy += ["--proxy-source-port", "4711", "--proxy-dest", "192.0.2.1", "--proxy-dest-port", "25"]

    stranger = swaks(rig.doors.proxied, *FROM, "--to", "stranger@example.net", *proxy)
    nobody = swaks(rig.doors.proxied, *FROM, "--to", "nobody@example.net")

    assert "550 5.7.1 Relaying denied: 198.51.100.1" in stranger.stdout
    assert "220 " not in nobody.stdout
    assert rig.sink.messages_to("stranger@example.net") + rig.sink.messages_to("nobody@example.net") == []


def test_xclient_from_who_may_say_it(rig: Rig) -> None:
    """A listed proxy names the client, which is then judged and traced."""
    xclient = ["--xclient-addr", CLIENT, "--xclient-helo", "behind.example.org"]

    ran = swaks(rig.doors.xclient, *FROM, "--to", "xclient@example.net", *xclient)

    assert ran.returncode == 0, ran.stdout
    trace = rig.trace("xclient@example.net")
    assert trace["client"] == f"[{CLIENT}]"
    assert trace["name"] == "behind.example.org"


def test_xclient_from_who_may_not_say_it(rig: Rig) -> None:
    """It is not offered, so swaks gives up; saying it all the same changes nothing."""
    ran = swaks(rig.doors.relay, *FROM, "--to", "forged@example.net", "--xclient-addr", CLIENT)
    with RawClient(rig.doors.relay) as client:
        client.command("EHLO client.example.org", "250")
        client.command(f"XCLIENT ADDR={CLIENT}", "5")
        client.command("MAIL FROM:<alice@example.org>", "250")
        client.command("RCPT TO:<himself@example.net>", "250")
        client.command("DATA", "354")
        client.say(b"Subject: x\r\n\r\nx\r\n.\r\n")

    assert "Host did not advertise XCLIENT" in ran.stderr
    assert rig.sink.messages_to("forged@example.net") == []
    assert rig.trace("himself@example.net")["client"] == "[127.0.0.1]"


def test_what_a_door_offers_changes_with_tls(rig: Rig) -> None:
    """STARTTLS before, a login only inside."""
    before = swaks(rig.doors.submission, "--quit-after", "EHLO").stdout
    inside = swaks(rig.doors.submission, "--tls", "--quit-after", "EHLO").stdout.partition("TLS started")[2]

    assert "250-STARTTLS" in before or "250 STARTTLS" in before
    assert "AUTH" not in before
    assert "AUTH PLAIN LOGIN" in inside
    assert "STARTTLS" not in inside
