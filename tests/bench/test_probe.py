# SPDX-License-Identifier: MIT
"""The probe, against a scripted server on loopback."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from bench.probe import Refusal, Session


@contextmanager
def scripted_server(*answers: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Say the banner, then an answer upon each command (content ends with its dot); keep what was heard."""
    heard: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer, peer.makefile("rwb") as stream:
            for answer in answers:
                stream.write(answer)
                stream.flush()
                is_content = answer.startswith(b"354")
                line = stream.readline()
                heard.append(line)
                while is_content and line not in (b".\r\n", b""):
                    line = stream.readline()
                    heard.append(line)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1], heard
        thread.join(5)


def test_message_is_sent_whole_and_timed() -> None:
    """The probe speaks SMTP, sends the size it was told, and gives the time of the 250."""
    answers = (
        b"220 x\r\n",
        b"250-x\r\n250 SIZE\r\n",
        b"250 a\r\n",
        b"250 b\r\n",
        b"354 c\r\n",
        b"250 d\r\n",
        b"221 e\r\n",
    )
    with scripted_server(*answers) as (port, heard):
        session = Session(port, 5120)
        ended, microseconds = session.send()
        session.quit()

    assert ended > 0
    assert 0 < microseconds < 5e6
    assert heard[:4] == [
        b"EHLO probe.bench.test\r\n",
        b"MAIL FROM:<probe@bench.test>\r\n",
        b"RCPT TO:<to@sink.test>\r\n",
        b"DATA\r\n",
    ]
    assert 5000 < sum(map(len, heard[4:])) < 5400


def test_refusal_after_the_dot_is_no_latency() -> None:
    """A 451 is told, not timed."""
    answers = (b"220 x\r\n", b"250 x\r\n", b"250 a\r\n", b"250 b\r\n", b"354 c\r\n", b"451 4.3.0 disk\r\n")
    with scripted_server(*answers) as (port, _):
        session = Session(port, 100)
        with pytest.raises(Refusal, match=r"451 4\.3\.0 disk"):
            session.send()
        session.close()


def test_closed_connection_is_told() -> None:
    """A relay that hangs up is told as such."""
    with scripted_server(b"220 x\r\n") as (port, _), pytest.raises(Refusal, match="closed"):
        Session(port, 100)
