# SPDX-License-Identifier: MIT
"""Postfix before us and behind us with more than plain mail: TLS, CHUNKING, DSN, SIZE, and without 8BITMIME.

Its client never sends BDAT, so there are no chunks from it; ours sends BDAT for binary content only, to hosts that know
BINARYMIME, which Postfix does not.
"""

import email
import email.policy
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.interop.certificates import Certificate, certificate
from tests.interop.hops import take_ours, take_theirs
from tests.interop.programs import Postfix, postfix
from tests.live.content import KINDS, assert_same
from tests.live.raw import RawClient
from tests.live.rig import Daemon, serving
from tests.live.sink import EXTENSIONS, Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

_ROUTES = """
[tls]
certificate_file = "{tls.chain}"
key_file = "{tls.key}"
[[route]]
domains = ["opportunistic.example"]
next_hop = {{ host = "localhost", port = {doors[tls]} }}
[[route]]
domains = ["required.example"]
next_hop = {{ host = "localhost", port = {doors[tls]}, tls = "required" }}
[[route]]
domains = ["verified.example"]
next_hop = {{ host = "localhost", port = {doors[tls]}, tls = "verified", ca_file = "{tls.ca}" }}
[[route]]
domains = ["never.example"]
next_hop = {{ host = "localhost", port = {doors[tls]}, tls = "none" }}
[[route]]
domains = ["seven.example"]
next_hop = {{ host = "localhost", port = {doors[seven]} }}
[[route]]
domains = ["small.example"]
next_hop = {{ host = "localhost", port = {doors[small]} }}
[[route]]
domains = ["deaf.example"]
next_hop = {{ host = "localhost", port = {doors[deaf]} }}
"""
_BEHIND = ("opportunistic", "required", "verified", "never", "seven", "small", "deaf")
_DOORS = {
    "tls": "-o smtpd_tls_security_level=may -o smtpd_tls_loglevel=1",
    "seven": "-o smtpd_discard_ehlo_keywords=8bitmime,chunking,smtputf8,dsn",
    "small": "-o message_size_limit=100000",
    "deaf": "-o smtpd_discard_ehlo_keywords=dsn",
}


class Chain(NamedTuple):
    """The daemon, before and behind which Postfix is, and the far side."""

    daemon: Daemon
    postfix: Postfix
    sink: Sink


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("postfix-tls")
    with certificate() as tls, Sink(extensions=(*EXTENSIONS, b"DSN")) as sink, _before(home, sink, tls) as first:
        # Postfix's client knows us by the port of a daemon that runs already; ours to it is another daemon
        routes: dict[str, int | str] = {f"{name}.example": sink.port for name in _BEHIND}
        routes |= {"example.org": sink.port, "before.example": f"verify:[localhost]:{first.port}"}
        with (
            postfix(
                routes,
                main=f"smtpd_tls_cert_file = {tls.chain}\nsmtpd_tls_key_file = {tls.key}\n",
                doors=_DOORS,
                transports={
                    "verify": f"-o smtp_tls_security_level=secure -o smtp_tls_secure_cert_match=nexthop"
                    f" -o smtp_tls_CAfile={tls.ca} -o smtp_tls_loglevel=1"
                },
            ) as scratch,
            serving(
                home / "behind",
                "--next-hop",
                f"127.0.0.1:{scratch.port}",
                config=_ROUTES.format(doors=scratch.doors, tls=tls),
            ) as daemon,
        ):
            yield Chain(daemon, scratch, sink)


def _before(home: Path, sink: Sink, tls: Certificate) -> AbstractContextManager[Daemon]:
    config = f'[tls]\ncertificate_file = "{tls.chain}"\nkey_file = "{tls.key}"\n'
    return serving(home / "before", "--next-hop", f"127.0.0.1:{sink.port}", config=config)


def _send(port: int, content: bytes, recipient: str, mail: str = " BODY=8BITMIME", rcpt: str = "") -> None:
    with RawClient(port) as client:
        client.command("EHLO client.example.org", "250")
        client.command(f"MAIL FROM:<alice@example.org>{mail}", "250")
        client.command(f"RCPT TO:<{recipient}>{rcpt}", "250")
        client.command("DATA", "354")
        assert client.say(content.replace(b"\r\n.", b"\r\n..") + b".\r\n").startswith("250")


# Postfix as our client


@pytest.mark.parametrize("kind", ["multipart", "latin-1", "lines of dots", "300 KiB"])
def test_postfix_sends_in_tls_that_it_has_verified(chain: Chain, kind: str) -> None:
    """At its level secure: our certificate is valid for our name, and content arrives octet for octet."""
    recipient = "".join(each if each.isalnum() else "-" for each in kind.lower()) + "@before.example"

    _send(chain.postfix.port, KINDS[kind], recipient)

    arrived = chain.sink.wait_for_recipient(recipient)
    trace, rest = take_ours(arrived.content)
    assert_same(KINDS[kind], take_theirs(rest, b"by postfix.example.org (Postfix)"), kind)
    assert trace["protocol"] == "ESMTPS"
    assert trace["tls"] == "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384"
    assert b"BODY=8BITMIME" in arrived.mail
    assert "Verified TLS connection established to localhost[127.0.0.1]" in chain.postfix.log()


def test_what_postfix_is_asked_to_report_is_asked_on(chain: Chain) -> None:
    """RET, ENVID, NOTIFY and ORCPT pass through both hops (RFC 3461)."""
    mail, rcpt = " RET=HDRS ENVID=pf+2Bone", " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first+2Bplus@example.net"

    _send(chain.postfix.port, KINDS["short"], "dsn@before.example", mail, rcpt)

    arrived = chain.sink.wait_for_recipient("dsn@before.example")
    assert b" RET=HDRS ENVID=pf+2Bone" in arrived.mail
    assert b" NOTIFY=SUCCESS,FAILURE" in arrived.recipients[0]
    assert b" ORCPT=rfc822;first+2Bplus@example.net" in arrived.recipients[0]


def test_whom_postfix_names_in_another_script_is_named_on(chain: Chain) -> None:
    """Postfix writes ORCPT of type rfc822 whatever the address; we take it, and write it as RFC 6533 3 has it."""
    _send(chain.postfix.port, KINDS["utf-8 header"], "jürgen+tag@before.example", " SMTPUTF8")

    arrived = chain.sink.wait_for_recipient("jürgen+tag@before.example")
    assert arrived.recipients[0].endswith(rb" ORCPT=utf-8;j\x{FC}rgen+2Btag@before.example")


# Postfix as our next hop


def _through(chain: Chain, content: bytes, recipient: str) -> bytes:
    _send(chain.daemon.port, content, recipient)
    arrived = chain.sink.wait_for_recipient(recipient).content
    return take_ours(take_theirs(arrived, b"by postfix.example.org (Postfix)"))[1]


@pytest.mark.parametrize(
    ("domain", "tls"),
    [("never", ""), ("opportunistic", " unverified"), ("required", " unverified"), ("verified", " verified")],
)
def test_as_much_tls_as_the_route_says(chain: Chain, domain: str, tls: str) -> None:
    """What leaves in TLS is what Postfix received in TLS; what must be verified was."""
    recipient = f"level@{domain}.example"

    assert_same(KINDS["multipart"], _through(chain, KINDS["multipart"], recipient), domain)

    relayed = chain.daemon.line("relayed", recipient=recipient).get("tls", "")
    assert relayed.endswith(tls)
    assert relayed.startswith("TLSv1.3") == bool(tls)
    field = chain.sink.wait_for_recipient(recipient).content.partition(b"\r\nReceived:")[0]
    assert (b"with ESMTPS id" in field) == bool(tls)


def test_a_host_that_offers_chunking_gets_its_mail(chain: Chain) -> None:
    """CHUNKING without BINARYMIME changes nothing: content goes in DATA, which Postfix counts."""
    with RawClient(chain.postfix.port) as client:
        assert "CHUNKING" in client.command("EHLO client.example.org", "250")

    assert_same(KINDS["64 KiB"], _through(chain, KINDS["64 KiB"], "chunks@never.example"), "CHUNKING")
    assert chain.daemon.line("relayed", recipient="chunks@never.example")["reply"].startswith("250 2.0.0 Ok: queued")


@pytest.mark.parametrize("kind", ["latin-1", "utf-8 body", "multipart"])
def test_a_host_without_8bitmime_gets_seven_bits_that_decode_to_the_same(chain: Chain, kind: str) -> None:
    """Bodies become quoted-printable or base64 (RFC 6152 3); reading them gives what was sent."""
    headed = KINDS[kind]
    if b"MIME-Version" not in headed:  # what has no MIME header cannot be converted: it is made a message that can
        charset = b"iso-8859-1" if kind == "latin-1" else b"utf-8"
        head = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=" + charset
        headed = head + b"\r\nContent-Transfer-Encoding: 8bit\r\n" + headed
    recipient = "".join(each if each.isalnum() else "-" for each in kind) + "@seven.example"

    arrived = _through(chain, headed, recipient)

    assert (arrived == headed) == headed.isascii()
    assert arrived.isascii()
    sent = email.message_from_bytes(headed, policy=email.policy.SMTP)
    got = email.message_from_bytes(arrived, policy=email.policy.SMTP)
    assert [part.get_payload(decode=True) for part in got.walk() if not part.is_multipart()] == [
        part.get_payload(decode=True) for part in sent.walk() if not part.is_multipart()
    ]


def test_what_postfix_says_is_too_large_bounces_without_being_sent(chain: Chain) -> None:
    """SIZE (RFC 1870): the limit that Postfix announces is enough to know."""
    _send(chain.daemon.port, KINDS["300 KiB"], "big@small.example")
    _send(chain.daemon.port, KINDS["64 KiB"], "fits@small.example")

    bounced = chain.daemon.line("bounced", recipient="big@small.example")
    assert bounced["status"] == "5.3.4"
    assert "reply" not in bounced  # Postfix was not even asked
    assert chain.sink.wait_for_recipient("fits@small.example")


def test_a_success_is_told_by_who_is_last_to_know_dsn(chain: Chain) -> None:
    """Postfix that knows DSN is asked to tell, and hands the request on; one that does not: we tell ourselves."""
    _send(chain.daemon.port, KINDS["short"], "told@never.example", "", " NOTIFY=SUCCESS")
    _send(chain.daemon.port, KINDS["short"], "told@deaf.example", "", " NOTIFY=SUCCESS")

    asked = chain.sink.wait_for_recipient("told@never.example")
    silent = chain.sink.wait_for_recipient("told@deaf.example")
    chain.daemon.line("reported", recipient="told@deaf.example")
    assert b" NOTIFY=SUCCESS" in asked.recipients[0]
    assert b"NOTIFY" not in silent.recipients[0]
    assert not [line for line in chain.daemon.lines if line["what"] == "reported" and "told@never" in str(line)]
