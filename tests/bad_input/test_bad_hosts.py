# SPDX-License-Identifier: MIT
"""Hosts that misbehave: what cannot be understood is temporary, what is refused for good comes back, nothing is lost.

Rows: what the host does -> what becomes of the message. Where it is kept, the same host then behaves, and gets it.
"""

import email
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.live.content import KINDS, assert_same, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import Daemon, Line, eventually, serving
from tests.live.sink import Arrived, Peculiar, Sink, free_port

from smarthost.queue.fairness import UNPROVEN_WINDOW

pytestmark = pytest.mark.slow

Rule = Callable[[bytes], bytes | None]


def always(line: bytes) -> Rule:
    return lambda argument: line


KEPT: list[tuple[str, dict[bytes, Rule], str]] = [
    ("421 at the banner", {b"BANNER": always(b"421 4.3.2 Busy")}, "421 4.3.2 Busy"),
    ("554 at the banner", {b"BANNER": always(b"554 5.7.1 You are listed")}, "554 5.7.1 You are listed"),
    ("a banner of another protocol", {b"BANNER": always(b"SSH-2.0-OpenSSH_9.2")}, "not a reply"),
    ("a banner without end", {b"BANNER": always(b"220-" + b"x" * 100_000)}, "reply line of more than"),
    ("no banner, a hang-up", {b"BANNER": always(b"")}, "banner"),
    ("550 to EHLO and HELO", {b"EHLO": always(b"550 No"), b"HELO": always(b"550 No")}, "550 No"),
    ("garbage to EHLO", {b"EHLO": always(b"\x00\xff\xfe")}, "not a reply"),
    ("a hang-up at EHLO", {b"EHLO": always(b"")}, "ehlo"),
    ("a reply without end to EHLO", {b"EHLO": always(b"250-x\r\n" * 5000 + b"250 x")}, "more than"),
    ("a 1yz to MAIL", {b"MAIL": always(b"150 Wait")}, "not a reply"),
    ("two codes in a reply", {b"MAIL": always(b"250-Ok\r\n550 No")}, "both 250 and 550"),
    ("garbage to MAIL", {b"MAIL": always(b"%s%n%x")}, "not a reply"),
    ("451 to MAIL", {b"MAIL": always(b"451 4.3.0 Later")}, "451 4.3.0 Later"),
    ("a hang-up at MAIL", {b"MAIL": always(b"")}, "mail"),
    ("530 to MAIL", {b"MAIL": always(b"530 5.7.0 Log in")}, "530 5.7.0 Log in"),
    ("450 to RCPT", {b"RCPT": always(b"450 4.2.1 Greylisted")}, "450 4.2.1 Greylisted"),
    ("552 to RCPT", {b"RCPT": always(b"552 Too many")}, "552 Too many"),
    ("421 to RCPT", {b"RCPT": always(b"421 4.3.2 Bye")}, "421 4.3.2 Bye"),
    ("garbage to RCPT", {b"RCPT": always(b"ok")}, "not a reply"),
    ("451 to DATA", {b"DATA": always(b"451 4.3.0 No")}, "451 4.3.0 No"),
    ("250 to DATA", {b"DATA": always(b"250 Ok")}, "DATA"),
    ("a hang-up at DATA", {b"DATA": always(b"")}, "data"),
    ("452 after the dot", {b".": always(b"452 4.3.1 Disk full")}, "452 4.3.1 Disk full"),
    ("a hang-up after the dot", {b".": always(b"")}, "may or may not have the message"),
    ("garbage after the dot", {b".": always(b"Queued!")}, "may or may not have the message"),
    ("354 after the dot", {b".": always(b"354 More")}, "may or may not have the message"),
]


BOUNCED: list[tuple[str, dict[bytes, Rule], str]] = [
    ("550 to MAIL", {b"MAIL": always(b"550 5.7.1 Not you")}, "550 5.7.1 Not you"),
    ("550 to RCPT", {b"RCPT": always(b"550 5.1.1 No such user")}, "550 5.1.1 No such user"),
    ("554 to DATA", {b"DATA": always(b"554 5.7.1 No")}, "554 5.7.1 No"),
    ("554 after the dot", {b".": always(b"554 5.6.0 Spam")}, "554 5.6.0 Spam"),
    ("a long reply", {b"RCPT": always(b"550-5.1.1 one\r\n" * 99 + b"550 5.1.1 last")}, "550 5.1.1 one"),
    ("a forged log line", {b"RCPT": always(b'550 5.1.1 no\x1b[2J\x07\xff{"what":"relayed"}')}, "550 5.1.1 no"),
]
# What they say at once, and whether they hang up then
PECULIAR: list[tuple[str, bytes, bool]] = [
    ("says nothing and hangs up", b"", True),
    ("speaks TLS", b"\x15\x03\x01\x00\x02\x02\x28", True),
    ("speaks HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n", True),
    ("floods", b"220-" + b"x" * 60 + b"\r\n" + b"220-more\r\n" * 50_000, False),
    ("an endless line", b"2" * 1_000_000, False),
    ("one octet", b"2", True),
]
CONTENT = KINDS["lines of dots"]


class Outcome(NamedTuple):
    """What became of one row's message: the first line about it, what the queue said, what its host and sender got."""

    line: Line
    waited: list[Line]
    arrived: list[Arrived]
    report: list[Arrived]


def _all_rows(hosts: ExitStack) -> dict[str, Sink]:
    """Start a host for each row; rows are known by their words."""
    rows = {what: hosts.enter_context(Sink(answers=answers)) for what, answers, _ in (*KEPT, *BOUNCED)}
    for what, octets, hangs_up in PECULIAR:
        rows[what] = hosts.enter_context(Peculiar(octets, hangs_up=hangs_up))
    return rows


def _is_judged(line: Line) -> bool:
    return line["what"] in ("deferred", "bounced", "relayed")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """Send a message to each row's host through one daemon; let the hosts behave; restart, and see what arrives."""
    state = tmp_path_factory.mktemp("hosts") / "state"
    with ExitStack() as hosts, Sink() as reports:
        rows = _all_rows(hosts)
        names = {what: f"row{n}" for n, what in enumerate(rows)}
        routes = {f"{names[what]}.example": host.port for what, host in rows.items()} | {"sender.example": reports.port}
        config = "".join(
            f'[[route]]\ndomains = ["{domain}"]\nnext_hop = "127.0.0.1:{port}"\n' for domain, port in routes.items()
        )
        with serving(state, config=config, quick=False) as daemon:
            for name in names.values():
                with RawClient(daemon.port) as client:
                    client.send(CONTENT, f"bob@{name}.example", sender=f"{name}@sender.example")
            lines: dict[str, Line] = {}

            def are_judged() -> bool:
                for line in filter(_is_judged, daemon.lines):
                    lines.setdefault(line["recipient"], line)
                return {f"bob@{name}.example" for name in names.values()} <= lines.keys()

            with suppress(AssertionError):  # the rows that miss theirs say so
                daemon.wait_until(are_judged, "all rows are judged")
            queue = daemon.queue()
        for host in rows.values():
            host.answers.clear()
        with serving(state, config=config) as daemon:
            daemon.command("queue", "retry", "--all")
            with suppress(AssertionError):
                eventually(lambda: all(rows[what].arrived for what, _, _ in KEPT), "all kept mail arrives")
        yield {
            what: Outcome(
                lines.get(f"bob@{name}.example", {}),
                [each for each in queue if each["reverse_path"] == f"{name}@sender.example"],
                rows[what].arrived,
                reports.messages_to(f"{name}@sender.example"),
            )
            for what, name in names.items()
        }


@pytest.mark.parametrize(("what", "why"), [(row[0], row[2]) for row in KEPT], ids=[row[0] for row in KEPT])
def test_what_is_not_a_clear_no_keeps_the_mail(outcomes: dict[str, Outcome], what: str, why: str) -> None:
    """Deferred with the host's words, never bounced; when the host behaves, it gets the message, once, unchanged."""
    line, waited, arrived, report = outcomes[what]

    assert line["what"] == "deferred", line
    assert why in line["why"], line
    assert line["status"].startswith("4.")
    assert line["next_attempt_at"]
    assert line.get("ambiguous", False) == ("may or may not" in why)
    assert waited[0]["recipients"][0]["why"] == line["why"]
    assert report == []
    (message,) = arrived
    assert_same(CONTENT, without_our_field(message.content), what)


@pytest.mark.parametrize(("what", "reply"), [(row[0], row[2]) for row in BOUNCED], ids=[row[0] for row in BOUNCED])
def test_a_clear_no_comes_back_to_the_sender(outcomes: dict[str, Outcome], what: str, reply: str) -> None:
    """A 5xx about this mail bounces it once, with the host's words cleaned of what would harm a terminal."""
    line, waited, arrived, reports = outcomes[what]

    assert line["what"] == "bounced", line
    assert line["level"] == "warning"
    assert line["reply"].startswith(reply)
    assert line["reply"].isprintable()
    assert (waited, arrived) == ([], [])
    (report,) = reports
    assert report.mail.startswith(b"FROM:<>")
    assert b"Action: failed" in report.content
    assert reply.split(" ", 2)[2].encode() in report.content
    assert not any(octet in report.content for octet in (b"\x1b", b"\x07"))


@pytest.mark.parametrize("what", [row[0] for row in PECULIAR])
def test_what_is_no_smtp_server_at_all_keeps_the_mail(outcomes: dict[str, Outcome], what: str) -> None:
    """Octets without sense defer, and do not fill the log."""
    line, waited, _, report = outcomes[what]

    assert line["what"] == "deferred", line
    assert line["status"].startswith("4.")
    assert len(line["why"]) < 1000
    assert len(waited) == 1
    assert report == []


def _send(daemon: Daemon, sender: str = "alice@example.org") -> None:
    with RawClient(daemon.port) as client:
        client.send(CONTENT, "bob@example.net", sender=sender)


def test_a_bounce_is_not_bounced(tmp_path: Path) -> None:
    """Mail with the null reverse-path that is refused ends in the log; nobody gets a report about a report."""
    with (
        Sink(answers={b"RCPT": always(b"550 5.1.1 No such user")}) as host,
        serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{host.port}") as daemon,
    ):
        _send(daemon, sender="")
        daemon.line("bounced", recipient="bob@example.net")
        _send(daemon)  # the report about it is refused too
        daemon.line("bounced", recipient="alice@example.org")
        daemon.wait_until(lambda: daemon.queue() == [], "the queue is empty")

    assert host.arrived == []


def test_a_host_that_says_nothing_holds_up_nobody_else(tmp_path: Path) -> None:
    """While one destination hangs, mail for others goes through, and the daemon stops when told to."""
    with Peculiar(b"", hangs_up=False) as silent, Sink() as sink:
        config = f"""
            [next_hop]
            host = "127.0.0.1"
            port = {sink.port}
            [[route]]
            domains = ["silent.example"]
            next_hop = "127.0.0.1:{silent.port}"
        """
        with serving(tmp_path / "state", config=config) as daemon, RawClient(daemon.port) as client:
            for n in range(60):
                client.send(KINDS["short"], f"r{n}@silent.example")
            silent.wait_for_sessions(UNPROVEN_WINDOW)
            client.send(KINDS["short"], "bob@example.net")
            sink.wait_for_recipient("bob@example.net", 10)
            waiting = daemon.queue()
            daemon.process.kill()  # its drain would wait 30 s for the silent host
            daemon.process.wait()
        with serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{sink.port}"):
            for n in range(60):
                sink.wait_for_recipient(f"r{n}@silent.example")

    assert len(waiting) == 60


def test_a_dead_service_does_not_hold_up_another_at_the_same_address(tmp_path: Path) -> None:
    """A content filter that is down at one port is no reason to leave the mail server at another alone."""
    with Sink() as sink:
        config = f"""
            [next_hop]
            host = "127.0.0.1"
            port = {sink.port}
            [[route]]
            domains = ["dead.example"]
            next_hop = "127.0.0.1:{free_port()}"
        """
        with serving(tmp_path / "state", config=config) as daemon, RawClient(daemon.port) as client:
            client.send(KINDS["short"], "bob@dead.example")
            daemon.line("deferred", recipient="bob@dead.example")
            client.send(KINDS["short"], "bob@example.net")
            sink.wait_for_recipient("bob@example.net", 3)  # a broken host is left alone for 4 s at least

    assert [message.addresses for message in sink.arrived] == [("bob@example.net",)]


def test_a_host_without_8bitmime_gets_the_same_text_in_seven_bits(tmp_path: Path) -> None:
    """8-bit content is converted for a host that does not announce 8BITMIME, and decodes to what was sent."""
    with (
        Sink(extensions=[b"SIZE"]) as host,
        serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{host.port}") as daemon,
        RawClient(daemon.port) as client,
    ):
        client.send(KINDS["latin-1"], "bob@example.net", parameters=" BODY=8BITMIME")
        arrived = host.wait_for_recipient("bob@example.net")

    assert arrived.content.isascii()
    assert b"BODY" not in arrived.mail
    decoded = email.message_from_bytes(arrived.content).get_payload(decode=True)
    assert decoded == KINDS["latin-1"].partition(b"\r\n\r\n")[2]


def test_a_message_larger_than_the_host_takes_comes_back(tmp_path: Path) -> None:
    """What the host announced not to take is not sent to it (RFC 1870); the sender is told."""
    with (
        Sink(extensions=[b"SIZE 100000"]) as host,
        serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{host.port}") as daemon,
        RawClient(daemon.port) as client,
    ):
        client.send(KINDS["300 KiB"], "bob@example.net")
        bounced = daemon.line("bounced", recipient="bob@example.net")
        report = host.wait_for_recipient("alice@example.org")

    assert bounced["status"] == "5.3.4"
    assert len(report.content) < 100_000


def test_a_host_that_is_not_there_gets_the_mail_when_it_is(tmp_path: Path) -> None:
    """Mail for a host that is down waits, with its reason, and leaves soon after the host comes up."""
    with Sink() as gone:
        port = gone.port
    with serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{port}") as daemon:
        _send(daemon)
        deferred = daemon.line("deferred", recipient="bob@example.net")
        with Sink(port=port) as host:
            arrived = host.wait_for_recipient("bob@example.net")

    assert "connection refused" in deferred["why"]
    assert_same(CONTENT, without_our_field(arrived.content), "later")
