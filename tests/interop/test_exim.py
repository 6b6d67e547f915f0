# SPDX-License-Identifier: MIT
"""Exim before us: in clear and in TLS, in chunks, with a login; what it changes by itself is not held against us."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.interop.certificates import certificate
from tests.interop.doors import PASSWORD, USER, Doors, all_doors
from tests.interop.exim import Exim, Way, exim
from tests.interop.hops import take_ours, take_theirs
from tests.live.content import KINDS, assert_same, large
from tests.live.raw import RawClient
from tests.live.sink import EXTENSIONS, Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

# Not here: what is no header, which Exim mends, and what comes with a hop too many
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


class Chain(NamedTuple):
    """Exim, the daemon with its doors behind it, and the far side."""

    exim: Exim
    doors: Doors
    sink: Sink


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("exim")
    with (
        certificate() as tls,
        Sink(extensions=(*EXTENSIONS, b"DSN")) as sink,
        all_doors(home, sink.port, tls) as doors,
    ):
        ways = {
            "clear.example": Way("clear", doors.relay),
            "chunked.example": Way("chunked", doors.relay),
            "verified.example": Way("verified", doors.relay),
            "login.example": Way("login", doors.submission),
        }
        with exim(ways, tls, client=(USER, PASSWORD)) as before:
            yield Chain(before, doors, sink)


def _send(chain: Chain, content: bytes, recipient: str, parameters: str = "", notify: str = "") -> None:
    with RawClient(chain.exim.plain) as client:
        client.command("EHLO client.example.org", "250")
        client.command(f"MAIL FROM:<alice@example.org> BODY=8BITMIME{parameters}", "250")
        client.command(f"RCPT TO:<{recipient}>{notify}", "250")
        client.command("DATA", "354")
        assert client.say(content.replace(b"\r\n.", b"\r\n..") + b".\r\n").startswith("250")
        client.command("QUIT", "221")


@pytest.mark.parametrize("kind", SENT)
def test_what_exim_sends_in_tls_and_chunks_arrives(chain: Chain, kind: str) -> None:
    """Verified TLS, BDAT, everything pipelined: octet for octet what was given to Exim."""
    recipient = "".join(each if each.isalnum() else "-" for each in kind.lower()) + "@verified.example"

    _send(chain, KINDS[kind], recipient)

    trace, rest = take_ours(chain.sink.wait_for_recipient(recipient).content)
    assert_same(KINDS[kind], take_theirs(rest, b"by exim.example.org"), kind)
    assert trace["protocol"] == "ESMTPS"
    assert trace["tls"].startswith("TLSv1.3")
    sent = chain.exim.log_line(f"=> {recipient}")
    assert " CV=yes " in sent  # it has verified our certificate
    assert " K " in sent  # and used CHUNKING


@pytest.mark.parametrize("way", ["clear", "chunked"])
def test_exim_hears_that_its_mail_was_taken_although_it_has_ended_its_side(chain: Chain, way: str) -> None:
    """In clear Exim ends its direction behind the last octet of its last message, and then reads our reply."""
    recipient = f"ended@{way}.example"

    _send(chain, KINDS["latin-1"], recipient)

    trace, rest = take_ours(chain.sink.wait_for_recipient(recipient).content)
    assert_same(KINDS["latin-1"], take_theirs(rest, b"by exim.example.org"), way)
    assert trace["protocol"] == "ESMTP"
    sent = chain.exim.log_line(recipient, f"T={way} ")
    assert f"=> {recipient}" in sent
    assert "250 2.0.0 Ok: queued as" in sent
    assert (" K " in sent) == (way == "chunked")


def test_20_mebibytes_from_exim(chain: Chain) -> None:
    """A large message in many chunks."""
    content = large(20 * 1024 * 1024)

    _send(chain, content, "large@verified.example")

    _, rest = take_ours(chain.sink.wait_for_recipient("large@verified.example").content)
    assert_same(content, take_theirs(rest, b"by exim.example.org"), "20 MiB")


def test_exim_logs_in(chain: Chain) -> None:
    """STARTTLS and AUTH PLAIN at the submission door; the trace says that somebody has logged in, and not who."""
    _send(chain, KINDS["multipart"], "login@login.example")

    arrived = chain.sink.wait_for_recipient("login@login.example")
    trace, _ = take_ours(arrived.content)
    assert trace["protocol"] == "ESMTPSA"
    assert " A=plain " in chain.exim.log_line("=> login@login.example")


def test_what_exim_is_asked_to_report_is_asked_on(chain: Chain) -> None:
    """RET, ENVID, NOTIFY and ORCPT pass through both hops to one that knows DSN (RFC 3461)."""
    dsn = " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;first+2Bplus@example.net"

    _send(chain, KINDS["short"], "dsn@verified.example", " RET=HDRS ENVID=exim+2Bone", dsn)

    arrived = chain.sink.wait_for_recipient("dsn@verified.example")
    assert b" RET=HDRS" in arrived.mail
    assert b" ENVID=exim+2Bone" in arrived.mail
    (recipient,) = arrived.recipients
    assert b" NOTIFY=SUCCESS,DELAY" in recipient
    assert b"ORCPT=rfc822;first+2Bplus@example.net" in recipient
    assert [line for line in chain.doors.daemon.lines if line["what"] == "reported"] == []


def test_addresses_beyond_ascii_from_exim(chain: Chain) -> None:
    """SMTPUTF8 is kept from hop to hop."""
    _send(chain, KINDS["utf-8 header"], "用户@verified.example", " SMTPUTF8")

    arrived = chain.sink.wait_for_recipient("用户@verified.example")
    assert b"SMTPUTF8" in arrived.mail
    trace, rest = take_ours(arrived.content)
    assert trace["protocol"] == "UTF8SMTPS"
    assert_same(KINDS["utf-8 header"], take_theirs(rest, b"by exim.example.org"), "SMTPUTF8")


def test_exim_with_a_wrong_password_keeps_its_mail(tmp_path_factory: pytest.TempPathFactory) -> None:
    """535 to a client that must log in: Exim does not send without."""
    home = tmp_path_factory.mktemp("wrong")
    with certificate() as tls, Sink() as sink, all_doors(home, sink.port, tls) as doors:
        ways = {"login.example": Way("login", doors.submission)}
        with exim(ways, tls, client=(USER, "another")) as before:
            _send(Chain(before, doors, sink), KINDS["short"], "wrong@login.example")
            before.log_line("== wrong@login.example", "authentication attempt(s) failed")
            refused = before.log_line("plain authenticator failed")

    assert "535 5.7.8 Authentication failed" in refused
    assert sink.arrived == []
