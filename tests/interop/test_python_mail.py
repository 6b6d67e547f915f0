# SPDX-License-Identifier: MIT
"""Python's own mail software on both sides: smtplib and aiosmtplib as clients, aiosmtpd as the host."""

import asyncio
import smtplib
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest
from aiosmtpd.smtp import SMTP
from tests.interop.aiosmtpd_host import AiosmtpdHost
from tests.live.content import KINDS, assert_same, large, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import WAIT_S, Daemon, serving
from tests.live.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

THREADS = 10
MESSAGES = 1_000


@pytest.fixture(scope="module")
def host() -> Iterator[AiosmtpdHost]:
    with AiosmtpdHost(refused=["nobody@example.net"]) as host:
        yield host


@pytest.fixture(scope="module")
def daemon(host: AiosmtpdHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("python")
    with serving(home / "state", "--next-hop", f"127.0.0.1:{host.port}") as daemon:
        yield daemon


def _local(kind: str) -> str:
    return "".join(each if each.isalnum() else "-" for each in kind)


@pytest.mark.parametrize("kind", KINDS)
def test_smtplib_to_aiosmtpd(daemon: Daemon, host: AiosmtpdHost, kind: str) -> None:
    """What a program sends with smtplib is what a program gets from aiosmtpd."""
    content, recipient = KINDS[kind], f"{_local(kind)}@smtplib.example"

    with smtplib.SMTP("127.0.0.1", daemon.port, timeout=WAIT_S) as client:
        refused = client.sendmail("alice@example.org", [recipient], content, ["BODY=8BITMIME"])

    assert refused == {}
    arrived = host.wait_for_recipient(recipient)
    assert_same(content, without_our_field(arrived.content), kind)
    assert arrived.mail_from == "alice@example.org"


@pytest.mark.parametrize("kind", KINDS)
def test_aiosmtplib_to_aiosmtpd(daemon: Daemon, host: AiosmtpdHost, kind: str) -> None:
    """What a program sends with aiosmtplib is what a program gets from aiosmtpd."""
    content, recipient = KINDS[kind], f"{_local(kind)}@aiosmtplib.example"

    async def send() -> None:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=daemon.port, timeout=WAIT_S) as client:
            await client.sendmail("alice@example.org", [recipient], content, mail_options=["BODY=8BITMIME"])

    asyncio.run(send())

    assert_same(content, without_our_field(host.wait_for_recipient(recipient).content), kind)


@pytest.mark.parametrize("content", [b"", b"Subject: x\r\n\r\nno final line end", b"Subject: only a field"])
def test_a_missing_last_line_end_is_the_clients_to_add(daemon: Daemon, host: AiosmtpdHost, content: bytes) -> None:
    """SMTP has no message without a last line end: smtplib adds it, and nothing more is added here."""
    recipient = f"end{len(content)}@smtplib.example"

    with smtplib.SMTP("127.0.0.1", daemon.port, timeout=WAIT_S) as client:
        client.sendmail("alice@example.org", [recipient], content)

    assert without_our_field(host.wait_for_recipient(recipient).content) == content + b"\r\n"


def test_addresses_beyond_ascii(daemon: Daemon, host: AiosmtpdHost) -> None:
    """A whole message in other scripts, envelope and header, passes (RFC 6531)."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "δοκιμή@παράδειγμα.gr", "用户@例え.jp", "Ελληνικά 日本語"
    message.set_content("Ελληνικά 日本語\n")

    with smtplib.SMTP("127.0.0.1", daemon.port, timeout=WAIT_S) as client:
        client.send_message(message)

    arrived = host.wait_for_recipient("用户@例え.jp")
    assert arrived.mail_from == "δοκιμή@παράδειγμα.gr"
    assert "Subject: Ελληνικά 日本語".encode() in arrived.content


def test_20_mebibytes_to_aiosmtpd(daemon: Daemon, host: AiosmtpdHost) -> None:
    """Large mail arrives unchanged at a host that reads slowly."""
    content = large(20 * 1024 * 1024)

    with smtplib.SMTP("127.0.0.1", daemon.port, timeout=WAIT_S) as client:
        client.sendmail("alice@example.org", ["large@smtplib.example"], content)

    arrived = host.wait_for_recipient("large@smtplib.example")
    assert_same(content, without_our_field(arrived.content), "20 MiB")


def test_several_recipients_of_which_one_is_refused(daemon: Daemon, host: AiosmtpdHost) -> None:
    """A refused recipient bounces to the sender; the others get the message, together."""
    message = KINDS["short"]
    recipients = ["several1@example.net", "nobody@example.net", "several2@example.net"]

    with smtplib.SMTP("127.0.0.1", daemon.port, timeout=WAIT_S) as client:
        assert client.sendmail("teller@example.org", recipients, message) == {}

    arrived = host.wait_for_recipient("several1@example.net")
    report = host.wait_for_recipient("teller@example.org")
    assert arrived.rcpt_tos == ("several1@example.net", "several2@example.net")
    assert report.mail_from == "<>"
    assert b"No such mailbox" in report.content


def test_a_host_that_takes_no_long_lines_says_so_to_the_sender(tmp_path: Path) -> None:
    """aiosmtpd as it comes refuses long lines after the dot: the message bounces with its words, and is not wrapped."""
    with (
        AiosmtpdHost(protocol=SMTP) as strict,
        serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{strict.port}") as relay,
        RawClient(relay.port) as client,
    ):
        client.send(KINDS["100,000-octet line"], "bob@example.net", sender="")
        bounced = relay.line("bounced", recipient="bob@example.net")

    assert "Line too long" in bounced["reply"]
    assert strict.arrived == []


def test_what_needs_smtputf8_bounces_where_it_is_not_offered(tmp_path: Path) -> None:
    """An address in another script is not mangled for a host that cannot take it: the sender is told."""
    with (
        AiosmtpdHost(smtputf8=False) as old,
        serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{old.port}") as relay,
        RawClient(relay.port) as client,
    ):
        client.send(KINDS["short"], "用户@example.net", sender="alice@example.org", parameters=" SMTPUTF8")
        bounced = relay.line("bounced", recipient="用户@example.net")
        report = old.wait_for_recipient("alice@example.org")

    assert bounced["status"] == "5.6.7"
    assert report.mail_from == "<>"


def test_1000_messages_from_10_threads_at_once(tmp_path: Path) -> None:
    """Every message that was acknowledged to any of many clients arrives once, as it was sent."""
    failures: list[BaseException] = []

    def content(n: int) -> bytes:
        return b"Subject: %d\r\n\r\n" % n + (b"%d of many\r\n" % n) * (1 + n % 200)

    def send(first: int) -> None:
        try:
            with smtplib.SMTP("127.0.0.1", relay.port, timeout=WAIT_S) as client:
                for n in range(first, MESSAGES, THREADS):
                    client.sendmail(f"s{n}@example.org", [f"r{n}@example.net"], content(n))
        except BaseException as failure:
            failures.append(failure)

    with Sink() as sink, serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{sink.port}") as relay:
        threads = [threading.Thread(target=send, args=(first,)) for first in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        arrived = sink.wait_for(MESSAGES, 60)
        relay.some_lines(MESSAGES, "relayed")
        assert relay.queue() == []

    assert failures == []
    assert len(arrived) == MESSAGES
    by_recipient = {message.addresses[0]: message for message in arrived}
    for n in range(MESSAGES):
        message = by_recipient[f"r{n}@example.net"]
        assert message.mail.startswith(b"FROM:<s%d@example.org>" % n)
        assert_same(content(n), without_our_field(message.content), str(n))
