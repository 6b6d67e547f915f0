# SPDX-License-Identifier: MIT
"""A queue moves from one real daemon to another: with its schedule, whole, and without loss when either is killed."""

import json
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.live.content import KINDS, assert_same, large, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import SMARTHOST, WAIT_S, Daemon, Line, eventually, serving
from tests.live.sink import EXTENSIONS, Sink

pytestmark = pytest.mark.slow

NODE = 'transfer_from = ["127.0.0.1/32"]\n'
SLOW = '[retry]\nfirst = "1h"\nlongest = "2h"\njitter = 0\n'
HOUR_S = 3600.0
XTRANSFER = (*EXTENSIONS, b"XTRANSFER 1")


def _later(argument: bytes) -> bytes:
    return b"451 4.3.0 Later"


@contextmanager
def deferring(state_dir: Path) -> Iterator[Daemon]:
    """Run a daemon of which nothing gets away: its next hop answers each RCPT with 451, and again in an hour."""
    with (
        Sink(answers={b"RCPT": _later}) as hop,
        serving(state_dir, "--next-hop", f"127.0.0.1:{hop.port}", config=SLOW) as daemon,
    ):
        yield daemon


def drain(daemon: Daemon, port: int) -> tuple[int, list[Line]]:
    """Drain a daemon to the one at a port; gives the exit code and what the command told."""
    ended = daemon.command("drain", "--json", "--to", f"127.0.0.1:{port}")
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def schedule(daemon: Daemon) -> dict[str, Any]:
    """Give what `queue list` says of each recipient, and of its message but for the id and the octets."""
    found = {}
    for message in daemon.queue():
        for recipient in message["recipients"]:
            address = recipient["address"]
            assert address not in found, f"{address} is there twice"
            found[address] = {**recipient, "reverse_path": message["reverse_path"], "at": message["received_at"]}
    return found


def alter(state_dir: Path, sql: str, *bindings: object) -> None:
    """Change the database of a daemon that is stopped."""
    with sqlite3.connect(state_dir / "queue.db") as db:
        assert db.execute(sql, bindings).rowcount > 0
    db.close()


def make_older(state_dir: Path, seconds: float) -> None:
    """Let all mail be older; its checksums, which would say that somebody did so, are taken off."""
    alter(state_dir, "UPDATE message SET received_at = received_at - ?, checksum = NULL", seconds)
    alter(state_dir, "UPDATE recipient SET checksum = NULL")


def fill(daemon: Daemon, contents: dict[str, bytes], parameters: str = "") -> None:
    """Hand in a message for each address, and wait until all were tried once."""
    for address, content in contents.items():
        with RawClient(daemon.port) as client:
            client.send(content, address, parameters=parameters)
    daemon.some_lines(len(contents), "deferred")


def test_a_queue_moves_with_its_schedule(tmp_path: Path) -> None:
    """Due times, attempts, replies, holds, warnings and parameters are on the other side as they were; content too."""
    contents = {f"kind{n}@example.net": content for n, content in enumerate(KINDS.values())}
    contents["large@example.net"] = large(3 << 20)
    old = tmp_path / "old"
    due = datetime.now(UTC).timestamp() + HOUR_S

    with deferring(old) as daemon:
        fill(daemon, contents)
        with RawClient(daemon.port) as client:
            several = [f"m{n}@example.com" for n in range(130)]
            client.send(KINDS["short"], *several, parameters=" RET=HDRS ENVID=id-1")
        with RawClient(daemon.port) as client:
            client.command("EHLO c.example.org", "250")
            client.command("MAIL FROM:<ällice@example.org> SMTPUTF8 BODY=8BITMIME", "250")
            client.command("RCPT TO:<bøb@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2Bone@example.org", "250")
            client.command("DATA", "354")
            client.say("Subject: Grüße\r\n\r\n¡Hola!\r\n.\r\n".encode())
        daemon.some_lines(len(contents) + 131, "deferred")
    alter(old, "UPDATE recipient SET attempts = 3, due = ? WHERE address = 'kind0@example.net'", due)
    alter(old, "UPDATE recipient SET delay_told = 1, host = 'mx.example.net' WHERE address = 'kind1@example.net'")
    alter(
        old,
        "UPDATE recipient SET state = 'held', due = ?, why = 'held by hand' WHERE address = 'kind2@example.net'",
        due + 9 * HOUR_S,
    )
    make_older(old, 7200.5)

    with (
        Sink(extensions=(*EXTENSIONS, b"DSN")) as sink,
        serving(tmp_path / "new", "--next-hop", f"127.0.0.1:{sink.port}", config=NODE + SLOW) as new,
        deferring(old) as daemon,
    ):
        before = schedule(daemon)
        assert len(before) == len(contents) + 131
        assert before["kind0@example.net"]["attempts"] == 3
        assert before["kind2@example.net"]["state"] == "held"

        code, told = drain(daemon, new.port)

        assert code == 0, told
        assert told[-1] == {"event": "ended", "outcome": "drained", "moved": len(contents) + 2, "left": 0, "why": None}
        assert daemon.queue() == []
        assert list((old / "content").iterdir()) == []
        assert schedule(new) == before
        assert sink.arrived == []
        moved = daemon.some_lines(len(before), "moved")
        assert Counter(line["recipient"] for line in moved) == Counter(before.keys())
        assert all(line["why"].startswith(f"moved to 127.0.0.1:{new.port} as ") for line in moved)

        new.command("queue", "retry", "--from", "alice@example.org")
        new.command("queue", "retry", "--from", "ällice@example.org")
        sink.wait_for(len(contents) + 2)  # one is held, the one for 130 goes in two, and there is another
        several_parts = [each for each in sink.arrived if each.addresses[0] in several]
        parameters = {each.mail + b" " + each.recipients[0] for each in sink.arrived}

    new_rows = _rows(tmp_path / "new")
    assert [each[:2] for each in new_rows] == [("kind2@example.net", "held")]
    for message in sink.arrived:
        address = message.addresses[0]
        content = contents.get(address, KINDS["short"] if address in several else None)
        if content is not None:
            assert_same(content, without_our_field(without_our_field(message.content)), address)
    assert Counter(address for each in several_parts for address in each.addresses) == Counter(several)
    assert any(b"RET=HDRS" in each and b"ENVID=id-1" in each for each in parameters)
    (utf8,) = [each for each in parameters if b"SMTPUTF8" in each]
    assert b"NOTIFY=SUCCESS,DELAY" in utf8
    assert b"ORCPT=rfc822;old+2Bone@example.org" in utf8


def _rows(state_dir: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(state_dir / "queue.db") as db:
        found = db.execute("SELECT address, state, due, delay_told FROM recipient ORDER BY address").fetchall()
    db.close()
    return found


def test_what_was_told_is_not_told_again(tmp_path: Path) -> None:
    """A warning of delay that the first node sent is not sent by the second; one that it had not sent is."""
    warning = '[retry]\nfirst = "1h"\nlongest = "2h"\njitter = 0\ndelay_warning = "1h"\n'
    with deferring(tmp_path / "old") as daemon:
        fill(daemon, {"told@example.net": KINDS["short"], "untold@example.net": KINDS["short"]})
    make_older(tmp_path / "old", 9000)
    alter(tmp_path / "old", "UPDATE recipient SET delay_told = 1 WHERE address = 'told@example.net'")

    with (
        Sink(answers={b"RCPT": lambda argument: _later(b"") if b"told" in argument else None}) as sink,
        serving(tmp_path / "new", "--next-hop", f"127.0.0.1:{sink.port}", config=NODE + warning) as new,
        deferring(tmp_path / "old") as daemon,
    ):
        assert drain(daemon, new.port)[0] == 0
        new.command("queue", "retry", "--to", "told@example.net")
        new.command("queue", "retry", "--to", "untold@example.net")
        report = sink.wait_for_recipient("alice@example.org").content
        new.some_lines(2, "deferred")

    assert b"untold@example.net" in report
    assert b" told@example.net" not in report
    assert len(sink.arrived) == 1


def test_a_report_that_is_owed_is_not_lost(tmp_path: Path) -> None:
    """What bounced just before is reported: the report is filed first, and moves like all other mail."""
    answers: dict[bytes, Callable[[bytes], bytes | None]] = {
        b"RCPT": lambda argument: b"550 5.1.1 No" if b"bounce" in argument else b"451 4.3.0 Later"
    }
    with (
        Sink() as sink,
        Sink(answers=answers) as hop,
        serving(tmp_path / "new", "--next-hop", f"127.0.0.1:{sink.port}", config=NODE) as new,
        serving(tmp_path / "old", "--next-hop", f"127.0.0.1:{hop.port}", config=SLOW) as old,
    ):
        for n in range(20):
            with RawClient(old.port) as client:
                client.send(KINDS["short"], f"bounce{n}@example.net", f"wait{n}@example.net")
        code, told = drain(old, new.port)

        assert (code, told[-1]["left"]) == (0, 0), told
        new.command("queue", "retry", "--to", "alice@example.org")  # a report may have been deferred over there
        eventually(lambda: _reported(sink) == {f"bounce{n}@example.net" for n in range(20)}, "all bounces are reported")
        assert old.queue() == []


def _reported(sink: Sink) -> set[str]:
    found: set[str] = set()
    for message in list(sink.arrived):
        if message.addresses == ("alice@example.org",):
            lines = message.content.decode().split("\r\n")
            found |= {line.split("; ")[1] for line in lines if line.startswith("Final-Recipient:")}
    return found


def test_new_mail_is_refused_while_and_after_draining(tmp_path: Path) -> None:
    """Clients hear 421 with the reason, `smarthost send` too; --cancel, or a restart, lets mail in again."""
    with serving(tmp_path / "new", config=NODE) as new, deferring(tmp_path / "old") as old:
        with RawClient(old.port) as there_already:
            fill(old, {"a@example.net": KINDS["short"]})
            there_already.command("EHLO c.example.org", "250")
            assert drain(old, new.port)[0] == 0
            there_already.command("MAIL FROM:<a@example.org>", "451 4.3.2 This node has been drained")
        with RawClient(old.port) as client:
            assert client.greeting.startswith("421 4.3.2 This node has been drained")
        sent = old.command("send", "--from", "a@example.org", "--to", "b@example.net", content=KINDS["short"])
        assert sent.returncode == 75
        assert b"drained" in sent.stderr
        assert drain(old, new.port)[0] == 0, "an empty queue is drained again"

        cancelled = old.command("drain", "--cancel")
        assert (cancelled.returncode, cancelled.stdout) == (0, b"mail is taken again\n")
        fill(old, {"b@example.net": KINDS["short"]})
        assert old.command("drain", "--cancel").stdout == b"it was not drained: mail is taken\n"
        assert len(old.queue()) == 1


def test_a_node_that_does_not_take_queues_gets_none(tmp_path: Path) -> None:
    """Nothing is moved, the command says what to set where, and the node goes on as before: exit code 69."""
    with deferring(tmp_path / "new") as new, deferring(tmp_path / "old") as old:
        fill(old, {"a@example.net": KINDS["short"]})
        ended = old.command("drain", "--to", f"127.0.0.1:{new.port}")

        assert ended.returncode == 69
        assert b"transfer_from" in ended.stdout
        assert new.queue() == []
        fill(old, {"b@example.net": KINDS["short"]})
        assert len(old.queue()) == 2


@pytest.mark.parametrize(("node", "code"), [("127.0.0.1:1", 75), ("nowhere.invalid:25", 75), ("x", 64), ("x:0", 64)])
def test_a_node_that_is_not_there(tmp_path: Path, node: str, code: int) -> None:
    """What is not reachable or makes no sense is said with the reason, and nothing changes."""
    with deferring(tmp_path / "old") as old:
        fill(old, {"a@example.net": KINDS["short"]})
        ended = old.command("drain", "--to", node)

        assert ended.returncode == code
        assert node.encode() in ended.stdout + ended.stderr
        assert len(old.queue()) == 1
        with RawClient(old.port) as client:
            assert client.greeting.startswith("220")


def test_a_node_is_not_drained_to_itself(tmp_path: Path) -> None:
    """It would go round for ever."""
    with serving(tmp_path / "old", config=NODE) as old:
        ended = old.command("drain", "--to", f"127.0.0.1:{old.port}")

    assert ended.returncode == 75
    assert b"is this relay itself" in ended.stdout


def test_what_the_other_node_refuses_stays_and_is_named(tmp_path: Path) -> None:
    """Too large, or refused for whatever reason: it is named with the reply, and delivered from here as before."""
    answers: dict[bytes, Callable[[bytes], bytes | None]] = {
        b"RCPT": lambda argument: b"550 5.7.1 Not this one" if b"never" in argument else None,
        b".": lambda content: b"452 4.3.1 No room" if b"short of room" in content else None,
    }
    contents = {
        "good@example.net": KINDS["short"],
        "never@example.net": KINDS["short"],
        "room@example.net": b"Subject: short of room\r\n\r\nx\r\n",
        "large@example.net": large(200_000),
    }
    extensions = (*[each for each in XTRANSFER if not each.startswith(b"SIZE")], b"SIZE 100000")

    with Sink(answers=answers, extensions=extensions) as other, deferring(tmp_path / "old") as old:
        fill(old, contents)
        with RawClient(old.port) as client:
            client.send(KINDS["short"], "half@example.net", "never2@example.net")
        old.some_lines(6, "deferred")
        code, told = drain(old, other.port)

        assert code == 75
        stays = {tuple(line["recipients"]): line["why"] for line in told if line["event"] == "staying"}
        assert stays.keys() == {
            ("never@example.net",), ("room@example.net",), ("large@example.net",), ("never2@example.net",),
        }  # fmt: skip
        assert stays[("never@example.net",)] == "the other node said 550 5.7.1 Not this one"
        assert stays[("room@example.net",)] == "the other node said 452 4.3.1 No room"
        assert "the other node takes 100000" in stays[("large@example.net",)]
        assert told[-1]["outcome"] == "partly"
        assert (told[-1]["moved"], told[-1]["left"]) == (1, 4)
        left = {address: each["state"] for address, each in schedule(old).items()}
        assert left == {address: "deferred" for addresses in stays for address in addresses}
        assert {each for message in other.arrived for each in message.addresses} == {
            "good@example.net", "half@example.net",
        }  # fmt: skip
        fill(old, {"new@example.net": KINDS["short"]})


def test_a_node_that_refuses_everything_is_given_up(tmp_path: Path) -> None:
    """A full disk over there does not have a whole queue named message by message."""
    contents = {f"r{n}@example.net": KINDS["short"] for n in range(60)}

    answers = {b"MAIL": lambda argument: b"452 4.3.1 No room"}
    with Sink(answers=answers, extensions=XTRANSFER) as other, deferring(tmp_path / "old") as old:
        fill(old, contents)
        code, told = drain(old, other.port)

        assert (code, told[-1]["outcome"], told[-1]["moved"]) == (75, "broken off", 0)
        assert "452 4.3.1 No room" in told[-1]["why"]
        assert len([line for line in told if line["event"] == "staying"]) < 40
        assert len(old.queue()) == 60


def test_an_interrupted_drain_ends_and_the_node_goes_on(tmp_path: Path) -> None:
    """Ctrl-C: what was moved is moved, the rest stays, mail is taken and delivered again."""
    contents = {f"r{n}@example.net": KINDS["short"] for n in range(60)}

    def slowly(content: bytes) -> None:
        time.sleep(0.1)

    with Sink(answers={b".": slowly}, extensions=XTRANSFER) as other, deferring(tmp_path / "old") as old:
        fill(old, contents)
        command = [*SMARTHOST, "drain", "--to", f"127.0.0.1:{other.port}", "--state-dir", str(old.state_dir)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as draining:
            other.wait_for(10)
            draining.send_signal(signal.SIGINT)
            _, said = draining.communicate(timeout=WAIT_S)
            assert draining.returncode == 130, said
        old.line("drain ends", is_drained=False)

        arrived = {message.addresses[0] for message in other.arrived}
        assert 10 <= len(arrived) < 60
        assert schedule(old).keys() == contents.keys() - arrived
        assert len(other.arrived) == len(arrived), "a transaction under way ends before the drain does"
        fill(old, {"new@example.net": KINDS["short"]})


def test_a_session_that_breaks_loses_nothing(tmp_path: Path) -> None:
    """When the connection dies behind the final dot nobody knows who has the message: both have it, or one."""
    contents = {f"r{n}@example.net": KINDS["short"] for n in range(30)}
    broken: list[bytes] = []

    def break_sometimes(content: bytes) -> bytes | None:
        if len(broken) < 2:
            broken.append(content)
            raise OSError("gone")
        return None

    with Sink(answers={b".": break_sometimes}, extensions=XTRANSFER) as other, deferring(tmp_path / "old") as old:
        fill(old, contents)
        code, told = drain(old, other.port)

        assert (code, told[-1]["moved"]) == (0, 30), told
        assert Counter(message.addresses[0] for message in other.arrived) == Counter(contents.keys())
        assert old.queue() == []


def test_attempts_under_way_end_before_a_queue_is_drained(tmp_path: Path) -> None:
    """A message that a host is just being given is not given to the other node, too."""
    hold, held = [True], [False]

    def wait(content: bytes) -> None:
        held[0] = True
        eventually(lambda: not hold[0], "the test lets it go")

    with (
        Sink(answers={b".": wait}) as hop,
        Sink(extensions=XTRANSFER) as other,
        serving(tmp_path / "old", "--next-hop", f"127.0.0.1:{hop.port}") as old,
    ):
        with RawClient(old.port) as client:
            client.send(KINDS["short"], "slow@example.net")
        eventually(lambda: held[0], "the attempt is under way")
        command = [*SMARTHOST, "drain", "--json", "--to", f"127.0.0.1:{other.port}", "--state-dir", str(old.state_dir)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as draining:
            assert draining.stdout is not None
            for line in draining.stdout:
                if json.loads(line).get("waits_for") == "attempts under way":
                    break
            hold[0] = False
            said, _ = draining.communicate(timeout=WAIT_S)
            assert draining.returncode == 0, said

    assert json.loads(said.splitlines()[-1])["moved"] == 0
    assert [message.addresses for message in hop.arrived] == [("slow@example.net",)]
    assert other.arrived == []


def test_no_attempt_begins_while_a_queue_is_drained(tmp_path: Path) -> None:
    """What becomes due meanwhile is not delivered from here beside being moved, which would make two of it."""
    contents = {f"r{n}@example.net": KINDS["short"] for n in range(180)}  # more than are leased at a time

    def slowly(content: bytes) -> None:
        time.sleep(0.2)

    with (
        Sink(answers={b"RCPT": _later}) as hop,
        Sink(answers={b".": slowly}, extensions=XTRANSFER) as other,
        serving(tmp_path / "old", "--next-hop", f"127.0.0.1:{hop.port}", config=SLOW) as old,
    ):
        fill(old, contents)
        hop.answers.clear()
        command = [*SMARTHOST, "drain", "--to", f"127.0.0.1:{other.port}", "--state-dir", str(old.state_dir)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as draining:
            other.wait_for(1)
            assert old.command("queue", "retry", "--destination", "example.net").returncode == 0
            said = draining.communicate(timeout=WAIT_S)
            assert draining.returncode == 0, said

    assert hop.arrived == []
    assert Counter(message.addresses[0] for message in other.arrived) == Counter(contents.keys())


@pytest.mark.parametrize("victim", ["old", "new"])
def test_a_kill_in_the_middle_loses_nothing(tmp_path: Path, victim: str) -> None:
    """Whichever of the two is killed while a queue moves, each message is delivered; few of them twice."""
    contents = {f"r{n}@example.net": KINDS["short"] for n in range(400)}

    with (
        Sink(answers={b"RCPT": _later}) as hop,
        serving(tmp_path / "new", "--next-hop", f"127.0.0.1:{hop.port}", config=NODE + SLOW) as new,
        deferring(tmp_path / "old") as old,
    ):
        fill(old, contents)
        command = [*SMARTHOST, "drain", "--to", f"127.0.0.1:{new.port}", "--state-dir", str(old.state_dir)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as draining:
            (old if victim == "old" else new).some_lines(60, "moved" if victim == "old" else "accepted")
            (old if victim == "old" else new).kill()
            assert draining.wait(WAIT_S) == 75
        (new if victim == "old" else old).stop()

    with Sink() as sink:
        hop_there = ("--next-hop", f"127.0.0.1:{sink.port}")
        with (
            serving(tmp_path / "new", *hop_there, config=NODE + SLOW) as new,
            serving(tmp_path / "old", *hop_there, config=SLOW) as old,
        ):
            assert 0 < len(old.queue()) < 400
            assert drain(old, new.port)[0] == 0
            new.command("queue", "retry", "--destination", "example.net")
            eventually(lambda: new.queue() == [], "all is delivered")
            assert old.queue() == []

    arrived = Counter(message.addresses[0] for message in sink.arrived)
    duplicates = sum(arrived.values()) - len(arrived)
    print(f"{duplicates} of {len(contents)} arrived twice")
    assert arrived.keys() == contents.keys()
    assert duplicates <= 50  # eight sessions, and what was moved and not yet settled
