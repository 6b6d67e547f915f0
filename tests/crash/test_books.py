# SPDX-License-Identifier: MIT
"""The load and the sink as programs: what they write down is what was said on the wire."""

import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.children import Scratch
from bench.network import free_port
from crash.ledger import compare, read_lines
from crash.relay import Books

CONTENT = b"X-Crash-Token: t1\r\nSubject: x\r\n\r\n.dot\r\n..\r\n\xe4\r\n"
pytestmark = pytest.mark.slow


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    with Scratch(tmp_path) as scratch:
        yield scratch


@pytest.fixture
def books(scratch: Scratch) -> Books:
    return Books(scratch, "books")


class Client:
    """Speaks SMTP by hand."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.heard = self.socket.makefile("rb")
        self.heard.readline()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.heard.close()
        self.socket.close()

    def say(self, line: bytes) -> bytes:
        self.socket.sendall(line + b"\r\n")
        return self.heard.readline()

    def send(self, sender: bytes, recipient: bytes, content: bytes) -> bytes:
        self.say(b"MAIL FROM:<" + sender + b">")
        reply = self.say(b"RCPT TO:<" + recipient + b">")
        if not reply.startswith(b"250"):
            return reply
        self.say(b"DATA")
        return self.say(content.replace(b"\r\n.", b"\r\n..") + b".")


def test_the_sink_has_written_a_message_down_when_it_says_250(books: Books) -> None:
    """Whoever kills the relay in that moment finds the message in the book; what stands before the token is not it."""
    with Client(books.sink_port) as client:
        reply = client.send(b"sender.t1@crash.test", b"ok.t1.0@crash.test", b"Received: by relay\r\n" + CONTENT)
        (line,) = books.arrived()

    assert reply.startswith(b"250")
    assert (line["token"], line["to"], line["octets"]) == ("t1", ["ok.t1.0@crash.test"], len(CONTENT))
    assert line["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_the_sink_treats_recipients_by_their_kind(books: Books) -> None:
    """`later` is told 451 once, `never` always, `no` 550; none of that is written down."""
    with Client(books.sink_port) as client:
        first = [client.send(b"s@x", kind + b".t.0@crash.test", CONTENT)[:3] for kind in (b"later", b"never", b"no")]
        again = [client.send(b"s@x", kind + b".t.0@crash.test", CONTENT)[:3] for kind in (b"later", b"never", b"no")]

    assert [b"451", b"451", b"550"] == first
    assert [b"250", b"451", b"550"] == again
    assert [["later.t.0@crash.test"]] == [line["to"] for line in books.arrived()]


def test_a_cut_recipient_is_taken_and_hears_no_250(books: Books) -> None:
    """The connection dies between the final dot and its reply: the relay cannot know."""
    with Client(books.sink_port) as client:
        assert client.send(b"s@x", b"cut.t1.0@crash.test", CONTENT) == b""

    assert [["cut.t1.0@crash.test"]] == [line["to"] for line in books.arrived()]


def test_a_report_is_known_by_its_message_id_and_its_final_recipients(books: Books) -> None:
    """Two parts of a DSN matter: which it is, and of whom it tells."""
    report = (
        b"Message-ID: <r1@relay>\r\nContent-Type: multipart/report\r\n\r\n"
        b"Final-Recipient: rfc822; no.t1.0@crash.test\r\nAction: failed\r\n\r\n"
        b"Final-Recipient: rfc822;no.t1.1@crash.test\r\n"
    )
    with Client(books.sink_port) as client:
        client.send(b"", b"sender.t1@crash.test", report)

    (line,) = books.arrived()
    assert (line["id"], line["report"]) == ("<r1@relay>", ["no.t1.0@crash.test", "no.t1.1@crash.test"])


def run_load(books: Books, port: int, *words: str) -> None:
    assert books.load(port, 7, *words).wait(30) == 0


def test_what_the_load_promises_is_what_the_sink_gets(books: Books) -> None:
    """Straight from one into the other, large messages too: both books agree in every octet."""
    run_load(books, books.sink_port, "--messages", "60", "--sessions", "4", "--kinds", "ok=1", "--octets", "60000")
    found = books.compare()

    assert (found.acknowledged, found.arrived, found.duplicates, found.failures) == (60, 60, 0, 0)


def test_a_page_torn_out_of_either_book_is_found(books: Books) -> None:
    """An arrival that is missing is a loss; one that nobody sent is foreign; another octet is an alteration."""
    run_load(books, books.sink_port, "--messages", "20", "--kinds", "ok=1")
    ledger, log = books.ledger(), books.arrived()
    token = log[7]["token"]
    otherwise: list[dict[str, Any]] = [line | {"sha256": "0"} if line["token"] == token else line for line in log]

    assert compare(ledger, log[:7] + log[8:]).lost == (f"ok.{token}.0@crash.test",)
    unsent = [line for line in ledger if line["token"] != token]
    assert compare(unsent, log).foreign == (f"ok.{token}.0@crash.test",)
    assert compare(ledger, otherwise).altered == (token,)


def test_what_was_refused_is_no_promise(books: Books) -> None:
    """The sink refuses `no` at RCPT: the load writes down the reply and goes on with the next message."""
    run_load(books, books.sink_port, "--messages", "10", "--kinds", "no=1", "--sessions", "2")
    events = [line["event"] for line in books.ledger()]

    assert ["refused"] * 10 == events
    assert (books.compare().acknowledged, books.compare().failures) == (0, 0)


def test_a_connection_that_dies_before_the_reply_leaves_the_outcome_unknown(books: Books) -> None:
    """Neither a promise nor a refusal; and the load comes back on a new connection for the next message."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server:
        thread = threading.Thread(target=_hang_up_after_the_dot, args=(server, 3))
        thread.start()
        run_load(books, port, "--messages", "3", "--sessions", "1", "--kinds", "ok=1")
        thread.join(10)

    assert ["sent", "unknown"] * 3 == [line["event"] for line in books.ledger()]


def _hang_up_after_the_dot(server: socket.socket, times: int) -> None:
    for _ in range(times):
        peer, _ = server.accept()
        with peer, peer.makefile("rb") as heard:
            peer.sendall(b"220 x\r\n")
            while (line := heard.readline()) and line != b"DATA\r\n":
                peer.sendall(b"250 x\r\n")
            peer.sendall(b"354 x\r\n")
            while (line := heard.readline()) and line != b".\r\n":
                pass


def test_the_load_waits_for_a_relay_that_is_not_there_and_ends_when_told(books: Books) -> None:
    """Between two lives of a relay nobody listens; SIGTERM ends the load in good order all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        load = books.load(server.getsockname()[1], 7, "--sessions", "3")
        server.accept()[0].close()

    assert load.stop(10) == 0
    assert books.ledger() == []


def test_the_same_seed_sends_the_same_mail(scratch: Scratch, books: Books) -> None:
    """So a run can be repeated; another seed is other mail."""
    other = Books(scratch, "other")
    for book, seed in ((books, 1), (other, 1)):
        book.load(book.sink_port, seed, "--messages", "5", "--sessions", "1", "--kinds", "ok=1").wait(30)
    first, second = ([line["sha256"] for line in book.arrived()] for book in (books, other))
    books.load(books.sink_port, 2, "--messages", "5", "--sessions", "1", "--kinds", "ok=1").wait(30)

    assert first == second
    assert not set(first) & {line["sha256"] for line in books.arrived()[5:]}


def test_half_a_line_is_not_there_yet(tmp_path: Path) -> None:
    """Books are read while they are written."""
    book = tmp_path / "book"
    book.write_bytes(b'{"token": "a"}\n{"tok')

    assert read_lines(book) == [{"token": "a"}]
    assert read_lines(tmp_path / "none") == []


@pytest.mark.parametrize("program", ["load.py", "sink.py"])
def test_both_share_no_code_with_what_they_judge(program: str) -> None:
    """They run where nothing but the standard library is installed."""
    path = Path(__file__).parents[2] / "crash" / program
    answer = subprocess.run([sys.executable, "-I", "-S", path, "--help"], capture_output=True, check=False)

    assert answer.returncode == 0
