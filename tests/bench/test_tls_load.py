# SPDX-License-Identifier: MIT
"""The load and the sink that speak TLS, against each other: what is sent is counted, and only what came inside TLS."""

import re
import smtplib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.certificate import Certificate, make_certificate
from bench.children import Scratch
from bench.failure import RunFailed
from bench.load import Load, RunningLoad, tls_command
from bench.network import await_banner, free_port
from bench.sink import TlsSink

pytestmark = [pytest.mark.slow]
LOAD = Load(messages=30, sessions=3, octets=500, kept=False, tls=True)


@pytest.fixture
def scratch(open_directory: Path) -> Iterator[Scratch]:
    """A run's directory, gone afterwards."""
    with Scratch(open_directory) as made:
        yield made


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    """A certificate of our own."""
    return make_certificate(tmp_path)


@pytest.fixture
def sink(scratch: Scratch, certificate: Certificate) -> Iterator[TlsSink]:
    """A running sink."""
    made = TlsSink(scratch, certificate)
    yield made
    made.stop()


@pytest.mark.parametrize(("kept", "auth"), [(False, ""), (True, ""), (False, "bench:secret")])
def test_every_message_is_counted_once(scratch: Scratch, sink: TlsSink, kept: bool, auth: str) -> None:
    """A connection for each message, kept ones, and ones with AUTH: thirty sent are thirty counted, and no more."""
    load = Load(messages=30, sessions=3, octets=500, kept=kept, tls=True, auth=auth)

    RunningLoad(scratch, load, sink.port).await_end(30)

    sink.await_count(30, 5)
    sink.check_exactly(30)


def test_mail_in_clear_is_not_counted(sink: TlsSink) -> None:
    """A relay that does not use STARTTLS delivers nothing here, and its run fails."""
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as client:
        codes = [client.docmd(line)[0] for line in ("EHLO x", "MAIL FROM:<>", "DATA", ".")]

    assert codes == [250, 530, 530, 530]
    assert sink.total() == 0


def test_pipelined_transactions_are_counted_each(sink: TlsSink) -> None:
    """What a relay sends in one write, dots inside the content included, is as many messages as it has final dots."""
    with smtplib.SMTP("127.0.0.1", sink.port, timeout=10) as client:
        client.starttls()
        client.ehlo()
        for content in (b"a\r\n..\r\n.\r\n", b".\r\n"):
            client.send(b"MAIL FROM:<>\r\nRCPT TO:<a@sink.test>\r\nDATA\r\n")
            assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]
            client.send(content)
            assert client.getreply()[0] == 250

    assert sink.total() == 2


def test_load_gives_up_at_a_refusal(scratch: Scratch) -> None:
    """A server that offers no TLS ends the load with what it said, and no figure is given."""
    port = free_port()
    server = scratch.start("refusing", [sys.executable, Path(__file__).parent / "refusing_server.py", str(port)])
    await_banner(port, server, 10)

    with pytest.raises(RunFailed, match=re.escape("tls_load.py ended with 1: ")) as failed:
        RunningLoad(scratch, LOAD, port).await_end(30)

    assert "454 4.7.0 no TLS today" in str(failed.value)


def test_load_is_what_was_asked_for() -> None:
    """Sessions, messages, size, user and kept sessions reach the program."""
    command = tls_command(Load(messages=7, sessions=3, octets=99, kept=True, tls=True, auth="a:b"), 2526)

    sizes = [command[command.index(flag) + 1] for flag in ("--messages", "--sessions", "--octets", "--port", "--auth")]
    assert sizes == ["7", "3", "99", "2526", "a:b"]
    assert "--kept" in command
