# SPDX-License-Identifier: MIT
"""swaks, the postmaster's client: what it reports is what happened, and what it sends arrives."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.interop.programs import program
from tests.live.content import KINDS, assert_same, without_our_field
from tests.live.raw import stuffed
from tests.live.rig import WAIT_S, Daemon, serving
from tests.live.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.interop]


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def daemon(sink: Sink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    home = tmp_path_factory.mktemp("swaks")
    with serving(home / "state", "--next-hop", f"127.0.0.1:{sink.port}") as daemon:
        yield daemon


def swaks(port: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [program("swaks"), "--server", "127.0.0.1", "--port", str(port), "--ehlo", "swaks.example.org"]
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=WAIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    "kind", ["multipart", "latin-1", "binary-looking", "lines of dots", "no body", "neither", "100,000-octet line"]
)
def test_what_swaks_sends_arrives(daemon: Daemon, sink: Sink, tmp_path: Path, kind: str) -> None:
    """Octets given to swaks arrive as they are."""
    file = tmp_path / "content"
    file.write_bytes(stuffed(KINDS[kind]) + b".\r\n")
    recipient = "".join(each if each.isalnum() else "-" for each in kind) + "@example.net"

    ran = swaks(daemon.port, "--from", "a@example.org", "--to", recipient, "--no-data-fixup", "--data", f"@{file}")

    assert ran.returncode == 0, ran.stdout
    assert_same(KINDS[kind], without_our_field(sink.wait_for_recipient(recipient).content), kind)


def test_swaks_own_message_with_an_attachment(daemon: Daemon, sink: Sink, tmp_path: Path) -> None:
    """The plain `swaks --to` that everybody types works, pipelined, attachment and all."""
    attachment = tmp_path / "attached.bin"
    attachment.write_bytes(bytes(range(256)) * 64)
    control = ["--from", "a@example.org", "--body", "from swaks\n.\n..dots", "--attach", f"@{attachment}", "--pipeline"]

    ran = swaks(daemon.port, "--to", "own1@example.net,own2@example.net", *control)

    assert ran.returncode == 0, ran.stdout
    assert " 250 2.0.0 Ok: queued as " in ran.stdout
    arrived = sink.wait_for_recipient("own1@example.net")
    assert arrived.addresses == ("own1@example.net", "own2@example.net")
    assert b"\r\nfrom swaks\r\n.\r\n..dots\r\n" in without_our_field(arrived.content)


# swaks' exit codes: 23 MAIL refused, 24 no recipient accepted, 26 content refused
@pytest.mark.parametrize(
    ("arguments", "code", "reply"),
    [
        (["--from", "a b@example.org", "--to", "b@example.net"], 23, "501 5.1.7"),
        (["--from", "a@example.org", "--to", "b@-bad-.example"], 24, "501 5.1.3"),
        (["--from", "a@example.org", "--to", "b%c@"], 24, "501 5.1.3"),
        (["--from", "jürgen@example.org", "--to", "b@example.net"], 23, "553 5.6.7"),
    ],
)
def test_swaks_is_told_what_is_wrong(daemon: Daemon, arguments: list[str], code: int, reply: str) -> None:
    """A mistake is refused with a code that says which part was wrong."""
    ran = swaks(daemon.port, *arguments)

    assert reply in ran.stdout
    assert ran.returncode == code


def test_swaks_reads_what_is_offered(daemon: Daemon) -> None:
    """The features that clients look for are announced, and no others."""
    ran = swaks(daemon.port, "--quit-after", "EHLO")

    offered = [line[8:] for line in ran.stdout.splitlines() if line.startswith("<-  250")]
    assert set(offered[1:]) == {
        "PIPELINING",
        "SIZE 52428800",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        "BINARYMIME",
        "DSN",
        "LIMITS RCPTMAX=1000",
    }


@pytest.mark.parametrize("octets", [b"bare\rcr", b"bare\nlf", b"\n.\r\n", b"\r.\r", b"nul\0"])
def test_content_that_would_be_smuggled_is_refused(daemon: Daemon, sink: Sink, tmp_path: Path, octets: bytes) -> None:
    """What one host may read otherwise than another is not forwarded."""
    file = tmp_path / "content"
    file.write_bytes(b"Subject: x\r\n\r\n" + octets + b"\r\n.\r\n")
    to = ["--from", "a@example.org", "--to", "smuggled@example.net"]

    ran = swaks(daemon.port, *to, "--no-data-fixup", "--data", f"@{file}")

    assert "550 5.6.11" in ran.stdout
    assert ran.returncode == 26
    assert sink.messages_to("smuggled@example.net") == []
