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
    """`starttls` and `login`, or `SMTP_SSL`: the certificate is checked, the message arrives octet for octet."""
    content, recipient = DATED + KINDS["multipart"], f"smtplib{is_implicit:d}@example.net"
    client: smtplib.SMTP
    if is_implicit:
        client = smtplib.SMTP_SSL("localhost", rig.doors.submissions, timeout=WAIT_S, context=rig.context)
    else:
        client = smtplib.SMTP("localhost", rig.doors.submission, timeout=WAIT_S)

    with client:
        if not is_implicit:
            client.starttls(context=rig.context)
        client.user, client.password = USER, PASSWORD
        client.ehlo()
        client.docmd("AUTH", "PLAIN " + _plain())
        assert client.sendmail("alice@example.org", [recipient], content, ["BODY=8BITMIME"]) == {}

    trace, rest = rig.arrived(recipient)
    assert_same(content, rest, "smtplib")
    assert trace["protocol"] == "ESMTPSA"


def _plain() -> str:
    from base64 import b64encode

    return b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
