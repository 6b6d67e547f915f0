# SPDX-License-Identifier: MIT
"""smtplib and aiosmtplib as people use them to submit: STARTTLS, TLS from the first octet, a login, other scripts."""

import asyncio
import smtplib
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from typing import NamedTuple

import aiosmtplib
import pytest
from tests.interop.certificates import certificate
from tests.interop.doors import PASSWORD, USER, Doors, all_doors
from tests.interop.hops import Trace, take_ours
from tests.live.content import KINDS, assert_same
from tests.live.rig import WAIT_S
from tests.live.sink import EXTENSIONS, Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]

DATED = b"Date: Sat, 01 Aug 2026 10:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n"  # so that nothing is added


class Rig(NamedTuple):
    """The daemon's doors, a context that trusts them, and the far side."""

    doors: Doors
    context: ssl.SSLContext
    sink: Sink

    def arrived(self, recipient: str) -> tuple[Trace, bytes]:
        """Wait for a message; give our field and the rest."""
        return take_ours(self.sink.wait_for_recipient(recipient).content)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("python-doors")
    with (
        certificate() as tls,
        Sink(extensions=(*EXTENSIONS, b"DSN")) as sink,
        all_doors(home, sink.port, tls) as doors,
    ):
        yield Rig(doors, ssl.create_default_context(cafile=tls.ca), sink)


@pytest.mark.parametrize("is_implicit", [False, True])
def test_smtplib_submits(rig: Rig, *, is_implicit: bool) -> None:
    """`starttls` or `SMTP_SSL`, then `login`: the certificate is checked, the message arrives octet for octet."""
    content, recipient = DATED + KINDS["multipart"], f"smtplib{is_implicit:d}@example.net"
    client: smtplib.SMTP
    if is_implicit:
        client = smtplib.SMTP_SSL("localhost", rig.doors.submissions, timeout=WAIT_S, context=rig.context)
    else:
        client = smtplib.SMTP("localhost", rig.doors.submission, timeout=WAIT_S)

    with client:
        if not is_implicit:
            client.starttls(context=rig.context)
        client.login(USER, PASSWORD)
        assert client.sendmail("alice@example.org", [recipient], content, ["BODY=8BITMIME"]) == {}

    trace, rest = rig.arrived(recipient)
    assert_same(content, rest, "smtplib")
    assert trace["protocol"] == "ESMTPSA"
    assert trace["tls"].startswith("TLSv1.3")


def test_smtplib_with_a_wrong_password_is_told_so(rig: Rig) -> None:
    """SMTPAuthenticationError with 535, and MAIL is refused after it."""
    with smtplib.SMTP_SSL("localhost", rig.doors.submissions, timeout=WAIT_S, context=rig.context) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError, match="535"):
            client.login(USER, "wrong")
        assert client.mail("alice@example.org")[0] == 530


def test_smtplib_asks_for_reports(rig: Rig) -> None:
    """`mail_options` and `rcpt_options` of DSN arrive at a host that knows them."""
    with smtplib.SMTP("localhost", rig.doors.relay, timeout=WAIT_S) as client:
        client.sendmail(
            "alice@example.org", ["dsn@example.net"], KINDS["short"], ["RET=HDRS", "ENVID=py1"], ["NOTIFY=SUCCESS"]
        )

    arrived = rig.sink.wait_for_recipient("dsn@example.net")
    assert b" RET=HDRS ENVID=py1" in arrived.mail
    assert arrived.recipients == (b"TO:<dsn@example.net> NOTIFY=SUCCESS",)


@pytest.mark.parametrize("is_implicit", [False, True])
def test_aiosmtplib_submits(rig: Rig, *, is_implicit: bool) -> None:
    """`send` with everything in one call, at port 587's door and at 465's."""
    content, recipient = DATED + KINDS["utf-8 body"], f"aiosmtplib{is_implicit:d}@example.net"

    async def send() -> None:
        port = rig.doors.submissions if is_implicit else rig.doors.submission
        async with aiosmtplib.SMTP(
            hostname="localhost",
            port=port,
            use_tls=is_implicit,
            start_tls=not is_implicit,
            tls_context=rig.context,
            username=USER,
            password=PASSWORD,
            timeout=WAIT_S,
        ) as client:
            await client.sendmail("alice@example.org", [recipient], content, mail_options=["BODY=8BITMIME"])

    asyncio.run(send())

    trace, rest = rig.arrived(recipient)
    assert_same(content, rest, "aiosmtplib")
    assert trace["protocol"] == "ESMTPSA"


@pytest.mark.parametrize("program", ["smtplib", "aiosmtplib"])
def test_a_user_writes_from_and_to_other_scripts(rig: Rig, program: str) -> None:
    """SMTPUTF8 inside TLS with a login: envelope, header and trace have it (RFC 6531)."""
    message = EmailMessage()
    recipient = f"用户-{program}@例え.jp"
    message["From"], message["To"], message["Subject"] = "δοκιμή@παράδειγμα.gr", recipient, "Ελληνικά 日本語"
    message.set_content("Ελληνικά 日本語\n")

    if program == "smtplib":
        with smtplib.SMTP_SSL("localhost", rig.doors.submissions, timeout=WAIT_S, context=rig.context) as client:
            client.login(USER, PASSWORD)
            client.send_message(message)
    else:
        asyncio.run(
            aiosmtplib.send(
                message,
                hostname="localhost",
                port=rig.doors.submissions,
                use_tls=True,
                tls_context=rig.context,
                username=USER,
                password=PASSWORD,
                timeout=WAIT_S,
            )
        )

    arrived = rig.sink.wait_for_recipient(recipient)
    assert arrived.mail.startswith("FROM:<δοκιμή@παράδειγμα.gr>".encode())
    assert b"SMTPUTF8" in arrived.mail
    trace, rest = take_ours(arrived.content)
    assert trace["protocol"] == "UTF8SMTPSA"
    assert "Subject: Ελληνικά 日本語".encode() in rest


def test_what_a_program_leaves_out_is_added_in_submission_alone(rig: Rig) -> None:
    """Date and Message-ID (RFC 6409 8), on top of what was sent; the rest stays octet for octet."""
    with smtplib.SMTP_SSL("localhost", rig.doors.submissions, timeout=WAIT_S, context=rig.context) as client:
        client.login(USER, PASSWORD)
        client.sendmail("alice@example.org", ["undated@example.net"], KINDS["short"])
    with smtplib.SMTP("localhost", rig.doors.relay, timeout=WAIT_S) as client:
        client.sendmail("alice@example.org", ["relayed@example.net"], KINDS["short"])

    _, submitted = rig.arrived("undated@example.net")
    _, relayed = rig.arrived("relayed@example.net")
    added = submitted.removesuffix(KINDS["short"])
    assert sorted(line.split(b":")[0] for line in added.splitlines()) == [b"Date", b"Message-ID"]
    assert relayed == KINDS["short"]
