# SPDX-License-Identifier: MIT
"""A mail store in LMTP behind us (aiosmtpd's): each recipient has his own answer, and gets what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.interop.aiosmtpd_host import AiosmtpdHost, MailStore
from tests.live.content import KINDS, assert_same, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import Daemon, serving

pytestmark = [pytest.mark.slow, pytest.mark.interop]


class Rig(NamedTuple):
    """The daemon and the store behind it."""

    daemon: Daemon
    store: AiosmtpdHost


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home: Path = tmp_path_factory.mktemp("lmtp")
    unkept = {"full@example.net": "552 5.2.2 Mailbox full", "later@example.net": "452 4.2.2 Mailbox busy"}
    with AiosmtpdHost(protocol=MailStore, refused=["nobody@example.net"], unkept=unkept) as store:
        hop = f'[next_hop]\nhost = "127.0.0.1"\nport = {store.port}\nprotocol = "lmtp"\n'
        with serving(home / "state", config=hop + '[retry]\nfirst = "1h"\n') as daemon:
            yield Rig(daemon, store)


@pytest.mark.parametrize("kind", ["short", "multipart", "utf-8 body", "lines of dots", "no body", "300 KiB"])
def test_what_a_mail_store_gets_in_lmtp(rig: Rig, kind: str) -> None:
    """LHLO instead of EHLO, and content octet for octet."""
    recipient = "".join(each if each.isalnum() else "-" for each in kind) + "@example.net"

    with RawClient(rig.daemon.port) as client:
        client.send(KINDS[kind], recipient, parameters=" BODY=8BITMIME")

    assert_same(KINDS[kind], without_our_field(rig.store.wait_for_recipient(recipient).content), kind)


def test_each_recipient_has_its_own_answer(rig: Rig) -> None:
    """Of five recipients of one message two are kept, two bounce, one waits; nobody gets it twice."""
    recipients = [f"{name}@example.net" for name in ("one", "full", "nobody", "later", "two")]

    with RawClient(rig.daemon.port) as client:
        client.send(KINDS["short"], *recipients, sender="")

    for name in ("one", "two"):
        assert rig.daemon.line("relayed", recipient=f"{name}@example.net")["reply"] == "250 2.0.0 Kept"
    assert "552 5.2.2 Mailbox full" in rig.daemon.line("bounced", recipient="full@example.net")["reply"]
    assert "550 5.1.1" in rig.daemon.line("bounced", recipient="nobody@example.net")["reply"]
    assert "452 4.2.2 Mailbox busy" in rig.daemon.line("deferred", recipient="later@example.net")["reply"]
    assert rig.store.wait_for_recipient("one@example.net").rcpt_tos == tuple(
        f"{name}@example.net" for name in ("one", "full", "later", "two")
    )


def test_a_success_is_reported_as_delivered(rig: Rig) -> None:
    """A mail store is the end of the way: the report that was asked for says delivered (RFC 3461 5.2.2)."""
    with RawClient(rig.daemon.port) as client:
        client.command("EHLO client.example.org", "250")
        client.command("MAIL FROM:<teller@example.org>", "250")
        client.command("RCPT TO:<told@example.net> NOTIFY=SUCCESS", "250")
        client.command("DATA", "354")
        client.say(KINDS["short"] + b".\r\n")

    assert b"\r\nAction: delivered\r\n" in rig.store.wait_for_recipient("teller@example.org").content
