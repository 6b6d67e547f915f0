# SPDX-License-Identifier: MIT
"""Exim behind us: in clear, in TLS, as a provider that wants a login; BDAT it offers, BINARYMIME it does not know."""

import email
import email.policy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.interop.certificates import Certificate, certificate
from tests.interop.exim import LOGIN, Exim, Way, exim
from tests.interop.hops import take_ours, take_theirs
from tests.live.content import KINDS, assert_same, large
from tests.live.raw import RawClient
from tests.live.rig import Daemon, serving
from tests.live.sink import EXTENSIONS, Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

SENT = [
    "short",
    "multipart",
    "latin-1",
    "utf-8 body",
    "binary-looking",
    "control characters",
    "lines of dots",
    "no body",
]
SENT += ["a lone dot", "dots everywhere", "many line ends", "spaces at ends", "998-octet lines", "64 KiB", "300 KiB"]

_ROUTES = """
[[route]]
domains = ["plain.example"]
next_hop = {{ host = "localhost", port = {exim.plain} }}
[[route]]
domains = ["opportunistic.example"]
next_hop = {{ host = "localhost", port = {exim.tls} }}
[[route]]
domains = ["required.example"]
next_hop = {{ host = "localhost", port = {exim.tls}, tls = "required" }}
[[route]]
domains = ["verified.example"]
next_hop = {{ host = "localhost", port = {exim.tls}, tls = "verified", ca_file = "{tls.ca}" }}
[[route]]
domains = ["stripped.example"]
next_hop = {{ host = "localhost", port = {exim.plain}, tls = "required" }}
[[route]]
domains = ["auth.example"]
next_hop = {{ host = "localhost", port = {exim.auth}, {login} }}
[[route]]
domains = ["old.example"]
next_hop = {{ host = "localhost", port = {exim.old}, {login} }}
[[route]]
domains = ["wrong.example"]
next_hop = {{ host = "localhost", port = {exim.auth}, {wrong} }}
[[route]]
domains = ["second.example"]
next_hop = [
  {{ host = "localhost", port = {exim.auth}, {wrong} }},
  {{ host = "localhost", port = {exim.old}, {login} }},
]
"""
_DOMAINS = ("plain", "opportunistic", "required", "verified", "auth", "old", "second")


class Chain(NamedTuple):
    """The daemon, Exim behind it, and the far side behind that."""

    daemon: Daemon
    exim: Exim
    sink: Sink


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("exim-host")
    with certificate() as tls, Sink(extensions=(*EXTENSIONS, b"DSN")) as sink:
        ways = {f"{name}.example": Way("clear", sink.port) for name in (*_DOMAINS, "wrong", "stripped")}
        ways["example.org"] = Way("clear", sink.port)
        with exim(ways, tls) as behind, _sending(home, behind, tls) as daemon:
            yield Chain(daemon, behind, sink)


def _sending(home: Path, behind: Exim, tls: Certificate) -> AbstractContextManager[Daemon]:
    user = f'ca_file = "{tls.ca}", username = "{LOGIN[0]}"'
    login, wrong = f'{user}, password = "{LOGIN[1]}"', f'{user}, password = "wrong"'
    config = _ROUTES.format(exim=behind, tls=tls, login=login, wrong=wrong)
    return serving(home / "state", "--next-hop", f"127.0.0.1:{behind.plain}", config=config)


def _through(chain: Chain, content: bytes, recipient: str, parameters: str = "") -> bytes:
    """Send a message through us and Exim; give what arrived without their fields."""
    with RawClient(chain.daemon.port) as client:
        client.send(content, recipient, parameters=f" BODY=8BITMIME{parameters}")
    arrived = chain.sink.wait_for_recipient(recipient)
    return take_ours(take_theirs(arrived.content, b"by exim.example.org"))[1]


@pytest.mark.parametrize("kind", SENT)
def test_what_exim_takes_from_us_is_what_we_took(chain: Chain, kind: str) -> None:
    """Octet for octet, in verified TLS."""
    local = "".join(each if each.isalnum() else "-" for each in kind)

    assert_same(KINDS[kind], _through(chain, KINDS[kind], f"{local}@verified.example"), kind)


def test_20_mebibytes_to_exim(chain: Chain) -> None:
    """Large mail passes unchanged."""
    content = large(20 * 1024 * 1024)

    assert_same(content, _through(chain, content, "large@plain.example"), "20 MiB")


@pytest.mark.parametrize(
    ("domain", "tls"),
    [("plain", ""), ("opportunistic", "unverified"), ("required", "unverified"), ("verified", " verified")],
)
def test_as_much_tls_as_the_route_says(chain: Chain, domain: str, tls: str) -> None:
    """Ours and Exim's log agree on whether there was TLS; what must be verified was."""
    recipient = f"level@{domain}.example"

    _through(chain, KINDS["short"], recipient)

    relayed = chain.daemon.line("relayed", recipient=recipient)
    assert relayed.get("tls", "").endswith(tls)
    assert ("TLSv1.3" in relayed.get("tls", "")) == bool(tls)
    assert (" P=esmtps " in chain.exim.log_line("<=", f"for {recipient}")) == bool(tls)


def test_what_demands_tls_waits_for_it(chain: Chain) -> None:
    """A next hop that stopped offering STARTTLS gets nothing in clear."""
    with RawClient(chain.daemon.port) as client:
        client.send(KINDS["short"], "kept@stripped.example")

    assert "does not offer STARTTLS" in chain.daemon.line("deferred", recipient="kept@stripped.example")["why"]
    assert chain.sink.messages_to("kept@stripped.example") == []


@pytest.mark.parametrize(("domain", "mechanism"), [("auth", "plain"), ("old", "login")])
def test_logging_in_at_exim(chain: Chain, domain: str, mechanism: str) -> None:
    """AUTH PLAIN where it is offered, else LOGIN; inside verified TLS."""
    recipient = f"me@{domain}.example"

    assert_same(KINDS["multipart"], _through(chain, KINDS["multipart"], recipient), mechanism)

    taken = chain.exim.log_line("<=", f"for {recipient}")
    assert " P=esmtpsa " in taken
    assert f" A={mechanism}:{LOGIN[0]} " in taken
    assert chain.daemon.line("relayed", recipient=recipient)["tls"].endswith(" verified")


def test_a_wrong_password_keeps_the_mail_and_alarms(chain: Chain) -> None:
    """What Exim says to it is in the log, and nothing bounces."""
    with RawClient(chain.daemon.port) as client:
        client.send(KINDS["short"], "bob@wrong.example")

    assert "535" in chain.daemon.line("deferred", recipient="bob@wrong.example")["why"]
    alarms = chain.daemon.some_lines(1, "host refuses our sessions", level="error")
    assert any("535" in alarm["why"] for alarm in alarms)
    assert chain.sink.messages_to("bob@wrong.example") == []


def test_where_a_password_is_wrong_the_second_upstream_takes_the_mail(chain: Chain) -> None:
    """Upstreams are tried in order; one that does not let us in is passed over."""
    recipient = "bob@second.example"

    assert _through(chain, KINDS["short"], recipient) == KINDS["short"]

    relayed = chain.daemon.line("relayed", recipient=recipient)
    assert any("535" in step for step in relayed["walk"])
    assert f" A=login:{LOGIN[0]} " in chain.exim.log_line("<=", f"for {recipient}")


def test_binary_content_arrives_encoded_at_a_host_without_binarymime(chain: Chain) -> None:
    """RFC 3030 3: Exim offers CHUNKING alone, so binary parts become base64, and decode to what they were."""
    binary = bytes(range(256)) * 300
    content = (
        b"From: alice@example.org\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Transfer-Encoding: binary\r\n\r\n" + binary
    )

    with RawClient(chain.daemon.port) as client:
        client.command("EHLO client.example.org", "250")
        client.command("MAIL FROM:<alice@example.org> BODY=BINARYMIME", "250")
        client.command("RCPT TO:<binary@verified.example>", "250")
        assert client.say(b"BDAT 1000\r\n" + content[:1000]).startswith("250")
        assert client.say(b"BDAT %d LAST\r\n" % (len(content) - 1000) + content[1000:]).startswith("250")
    arrived = chain.sink.wait_for_recipient("binary@verified.example").content

    assert b"\r\nContent-Transfer-Encoding: base64\r\n" in arrived
    message = email.message_from_bytes(arrived, policy=email.policy.SMTP)
    assert message.get_payload(decode=True) == binary


def test_what_exim_refuses_bounces_in_its_words(chain: Chain) -> None:
    """One of two recipients: he comes back to the sender, the other gets the message."""
    with RawClient(chain.daemon.port) as client:
        client.send(KINDS["short"], "somebody@plain.example", "nobody@plain.example", sender="teller@example.org")

    report = chain.sink.wait_for_recipient("teller@example.org")
    assert b"No such mailbox" in report.content
    assert report.mail.startswith(b"FROM:<>")
    assert chain.sink.wait_for_recipient("somebody@plain.example").addresses == ("somebody@plain.example",)


def test_what_is_asked_to_be_reported_is_asked_of_exim(chain: Chain) -> None:
    """DSN passes through us and Exim; we report nothing ourselves to a host that knows DSN."""
    with RawClient(chain.daemon.port) as client:
        client.command("EHLO client.example.org", "250")
        client.command("MAIL FROM:<alice@example.org> RET=FULL ENVID=Q1", "250")
        client.command("RCPT TO:<dsn@plain.example> NOTIFY=SUCCESS ORCPT=rfc822;o@example.net", "250")
        client.command("DATA", "354")
        client.say(KINDS["short"] + b".\r\n")

    arrived = chain.sink.wait_for_recipient("dsn@plain.example")
    assert b" RET=FULL ENVID=Q1" in arrived.mail
    assert arrived.recipients == (b"TO:<dsn@plain.example> NOTIFY=SUCCESS ORCPT=rfc822;o@example.net",)


def test_addresses_beyond_ascii_to_exim(chain: Chain) -> None:
    """SMTPUTF8 is kept from hop to hop."""
    assert _through(chain, KINDS["utf-8 header"], "用户@plain.example", " SMTPUTF8") == KINDS["utf-8 header"]
    assert b"SMTPUTF8" in chain.sink.wait_for_recipient("用户@plain.example").mail
