# SPDX-License-Identifier: MIT
"""What a verdict means for a message of a directory queue: when it is tried again, and what its sender is told."""

import email
import os
import pickle
from email.message import Message
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail, succeed
from twisted.internet.task import Clock
from twisted.mail.smtp import DNSNAME

from smarthost.compat.settling import Letter, Waits, file_report, read_letter, settle
from smarthost.compat.spool import Queue
from smarthost.compat.words import shown
from smarthost.mail.reply import Reply
from smarthost.mail.result import Outcome, Verdict
from smarthost.mail.settlement import SettledRecipient, State
from smarthost.queue.schedule import RetrySchedule

NOW = 1_800_000_000.0
DAY_S = 86_400.0
SCHEDULE = RetrySchedule(first_s=30.0, longest_s=3600.0, jitter=0.0)
CONTENT = b"From: alice@example.org\nSubject: supper\nMessage-ID: <1@example.org>\n\nsecret body\n"
SAID = Reply(550, "5.1.1", ("no such user here",))
REFUSED = Verdict(Outcome.BOUNCED, "5.1.1", "mx.example answered RCPT", SAID, "mx.example", "192.0.2.1")


class Middle:
    """Chance that is no chance."""

    def random(self) -> float:
        return 0.5


def put(directory: Path, name: str, sender: str, recipient: str, content: bytes = CONTENT) -> None:
    """Write a message as the original does."""
    (directory / f"{name}-H").write_bytes(pickle.dumps([sender, recipient]))
    (directory / f"{name}-D").write_bytes(content)
    os.utime(directory / f"{name}-D", (NOW, NOW))


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def waits_of(clock: Clock, wall: list[float]) -> Waits:
    return Waits(lambda: SCHEDULE, clock.seconds, lambda: wall[0], Middle())  # type: ignore[arg-type]


def no_retry(attempts: int, received_at: float) -> float | None:
    return None


def refuse(letter: Letter, verdict: Verdict = REFUSED) -> SettledRecipient:
    return settle(letter, verdict, 0, no_retry, NOW)


def reports(queue: Queue) -> list[tuple[list[str], bytes]]:
    """Give envelope and content of the messages with a null sender."""
    queue.readDirectory()
    found = [(name, queue.getEnvelope(name)) for name in queue.getWaiting()]
    return [(envelope, Path(queue.getPath(name) + "-D").read_bytes()) for name, envelope in found if envelope[0] == ""]


def only_report(queue: Queue) -> Message:
    ((_, content),) = reports(queue)
    return email.message_from_bytes(content)


def parts(report: Message) -> list[Any]:
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert not report.defects
    return list(report.get_payload())


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    """A queue with one message, from alice to bob."""
    put(tmp_path, "1", "alice@example.org", "bob@example.net")
    made = Queue(str(tmp_path))
    made.noisy = False
    return made


# -- waiting


def test_a_message_never_tried_is_due() -> None:
    """What is new is sent at once."""
    assert waits_of(Clock(), [NOW]).due(["b", "a"]) == ["b", "a"]


def test_a_deferred_message_is_due_when_its_time_has_come() -> None:
    """Not a second earlier, and other messages are not affected."""
    clock = Clock()
    waits = waits_of(clock, [NOW])

    waits.defer("a", 1, NOW + 30)

    assert waits.due(["a", "b"]) == ["b"]
    clock.advance(29.9)
    assert waits.due(["a"]) == []
    clock.advance(0.1)
    assert waits.due(["a"]) == ["a"]
    assert waits.attempts("a") == 1


def test_a_stepped_clock_changes_no_wait() -> None:
    """A machine whose date is corrected by a year neither tries all at once nor stops."""
    clock, wall = Clock(), [NOW]
    waits = waits_of(clock, wall)
    waits.defer("a", 1, NOW + 30)

    wall[0] += 365 * DAY_S
    assert waits.due(["a"]) == []
    wall[0] -= 2 * 365 * DAY_S
    clock.advance(30)

    assert waits.due(["a"]) == ["a"]


def test_a_time_already_past_is_now() -> None:
    """A due time in the past is not a negative wait that would put it before others for ever."""
    waits = waits_of(Clock(), [NOW])

    waits.defer("a", 1, NOW - 100)

    assert waits.due(["a"]) == ["a"]


def test_what_is_put_off_waits_longer_each_time_whatever_its_age() -> None:
    """Trouble that stays does not spin: 30 s, doubling, at most an hour."""
    clock, wall = Clock(), [NOW]
    waits = waits_of(clock, wall)
    delays = []
    for _ in range(10):
        waits.put_off("a")
        delay = 0
        while not waits.due(["a"]):
            clock.advance(1)
            delay += 1
        delays.append(delay)

    assert delays == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_nothing_is_remembered_of_what_is_gone() -> None:
    """Messages that are done with, or were taken away, leave nothing behind."""
    waits = waits_of(Clock(), [NOW])
    for name in "abc":
        waits.defer(name, 3, NOW + 30)

    waits.forget("a")
    waits.forget("a")
    waits.keep_only({"b"})

    assert len(waits) == 1
    assert waits.attempts("a") == waits.attempts("c") == 0
    assert waits.due(["a", "b", "c"]) == ["a", "c"]


def test_retry_is_asked_of_the_schedule_that_holds_now() -> None:
    """A program may set another schedule at any time."""
    schedules = [SCHEDULE]
    waits = Waits(lambda: schedules[-1], Clock().seconds, lambda: NOW, Middle())  # type: ignore[arg-type]

    assert waits.retry_at(1, NOW) == NOW + 30
    assert waits.retry_at(3, NOW) == NOW + 120
    assert waits.retry_at(1, NOW - 5 * DAY_S) is None
    schedules.append(RetrySchedule(first_s=5.0, longest_s=5.0, jitter=0.0, expire_after_s=10.0))
    assert waits.retry_at(3, NOW) == NOW + 5
    assert waits.retry_at(1, NOW - 10) is None


# -- letters


def test_a_letter_is_what_the_files_say(queue: Queue) -> None:
    """Addresses from the envelope, age from when the content was written."""
    letter = read_letter(queue, "1")

    assert (letter.sender, letter.recipient) == ("alice@example.org", "bob@example.net")
    assert letter.received_at == NOW


@pytest.mark.parametrize(("written", "received_at"), [(1e12, 253402300799.0), (-1e6, 0.0)])
def test_a_file_from_an_impossible_time_can_still_be_reported(
    queue: Queue, monkeypatch: pytest.MonkeyPatch, written: float, received_at: float
) -> None:
    """A modification time no date can be written for does not keep its message for ever."""

    class Status:
        st_mtime = written

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", lambda self: Status())
        letter = read_letter(queue, "1")

    assert letter.received_at == received_at
    assert file_report(queue, letter, refuse(letter), NOW)


def test_a_letter_without_its_files_is_an_error(queue: Queue, tmp_path: Path) -> None:
    """A vanished file and a damaged envelope are told apart."""
    (tmp_path / "1-D").unlink()
    with pytest.raises(FileNotFoundError):
        read_letter(queue, "1")
    (tmp_path / "1-H").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(pickle.UnpicklingError):
        read_letter(queue, "1")


# -- verdicts


def test_a_temporary_failure_waits_by_the_schedule(queue: Queue) -> None:
    """The attempt is counted, the time asked of whoever knows the schedule."""
    letter = read_letter(queue, "1")
    asked: list[tuple[int, float]] = []

    def retry_at(attempts: int, received_at: float) -> float:
        asked.append((attempts, received_at))
        return NOW + 77

    settled = settle(letter, Verdict(Outcome.DEFERRED, "4.2.0", "later"), 2, retry_at, NOW)

    assert (settled.state, settled.due, settled.attempts) == (State.DEFERRED, NOW + 77, 3)
    assert asked == [(3, NOW)]


def test_a_message_whose_time_is_over_expires_with_4_4_7(queue: Queue) -> None:
    """Its sender is owed a report, and reads what went wrong last."""
    letter = read_letter(queue, "1")

    settled = settle(letter, Verdict(Outcome.DEFERRED, "4.2.0", "later"), 2, no_retry, NOW + 5 * DAY_S)

    assert (settled.state, settled.status, settled.report_owed) == (State.EXPIRED, "4.4.7", True)
    assert "later" in settled.why


def test_an_alias_loop_that_lasted_expires_as_a_fact(queue: Queue) -> None:
    """The status says what was wrong for days, not only that time is over."""
    settled = settle(read_letter(queue, "1"), Verdict(Outcome.DEFERRED, "4.4.6", "loop"), 2, no_retry, NOW)

    assert (settled.state, settled.status) == (State.EXPIRED, "5.4.6")


@pytest.mark.parametrize("recipient", ["nobody", "", "x@", "a@b@" + "c" * 300, "\udcff@\udcff", "é@bücher.example"])
def test_a_verdict_about_any_recipient_can_be_settled(tmp_path: Path, recipient: str) -> None:
    """What is no address bounces like one."""
    put(tmp_path, "1", "alice@example.org", recipient)
    queue = Queue(str(tmp_path))
    letter = read_letter(queue, "1")

    settled = refuse(letter, Verdict(Outcome.BOUNCED, "5.1.3", "no address"))

    assert settled.state is State.BOUNCED
    assert file_report(queue, letter, settled, NOW)
    assert len(parts(only_report(queue))) == 3


# -- reports


def test_a_report_says_what_the_host_said(queue: Queue) -> None:
    """Null sender; status, the host's words and name, our name; the original's header section and not its body."""
    letter = read_letter(queue, "1")

    assert file_report(queue, letter, refuse(letter), NOW, "Relay.Example.org")

    ((envelope, octets),) = reports(queue)
    assert envelope == ["", "alice@example.org"]
    report = email.message_from_bytes(octets)
    assert report["To"] == "<alice@example.org>"
    assert "MAILER-DAEMON@relay.example.org" in report["From"]
    assert report["Auto-Submitted"] == "auto-replied"
    _, status, original = parts(report)
    message_fields, recipient_fields = status.get_payload()
    assert message_fields["Reporting-MTA"] == "dns; relay.example.org"
    assert recipient_fields["Final-Recipient"] == "rfc822; bob@example.net"
    assert recipient_fields["Action"] == "failed"
    assert recipient_fields["Status"] == "5.1.1"
    assert recipient_fields["Remote-MTA"] == "dns; mx.example"
    assert recipient_fields["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user here"
    assert original.get_payload().splitlines()[1:] == ["Subject: supper", "Message-ID: <1@example.org>"]
    assert b"secret body" not in octets


@pytest.mark.parametrize("hostname", ["", "no name", "a..b", "x" * 300])
def test_without_a_name_of_ours_the_machine_s_is_reported(queue: Queue, hostname: str) -> None:
    """A report is always from somebody, and ASCII."""
    letter = read_letter(queue, "1")

    file_report(queue, letter, refuse(letter), NOW, hostname)

    said = parts(only_report(queue))[1].get_payload()[0]["Reporting-MTA"]
    assert said == f"dns; {DNSNAME.decode() if hostname != 'no name' else 'noname'}"


@pytest.mark.parametrize(
    "sender", ["", "root", "@example.org", "a b@example.org", "x@exa mple", "josé@example.org", "\udcff@example.org"]
)
def test_a_sender_mail_cannot_be_sent_to_gets_no_report(tmp_path: Path, sender: str) -> None:
    """A report that could only bounce itself is not made."""
    put(tmp_path, "1", sender, "bob@example.net")
    queue = Queue(str(tmp_path))
    letter = read_letter(queue, "1")

    assert not file_report(queue, letter, refuse(letter), NOW)
    assert files(tmp_path) == ["1-D", "1-H"]


def test_a_sender_too_long_for_an_envelope_gets_no_report(tmp_path: Path) -> None:
    """Octets that grow as text do not stop anything."""
    put(tmp_path, "1", "", "bob")
    (tmp_path / "1-H").write_bytes(b"(lp1\nS'" + b"\xff" * 60_000 + b"@b.example'\np2\naS'bob'\np3\na.")
    queue = Queue(str(tmp_path))
    letter = read_letter(queue, "1")

    assert not file_report(queue, letter, refuse(letter), NOW)


@given(said=st.text(max_size=300), why=st.text(max_size=300), header=st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_no_reply_and_no_header_breaks_out_of_a_report(said: str, why: str, header: bytes) -> None:
    """Whatever host and author wrote, a report has its three parts, and its fields are ours."""
    check_contained(said, why, header)


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: a\n--=_1_0\nContent-Type: text/html\n\n<b>\n--=_1_0--\n",
        b"Subject: a\r\n\r\n\r\n--=_1_0--\r\n",
        b"X: \x00\x80\xff\n" + b"Y: " + b"y" * 5000 + b"\n",
        b"",
        b"\r\r\r\n",
    ],
)
def test_an_author_who_guesses_the_boundary_stays_inside(header: bytes) -> None:
    """The well-known tricks, one by one."""
    check_contained("550 no\r\n--=_1_0--\r\nStatus: 2.0.0", "x\r\n\r\nFinal-Recipient: rfc822; eve@x", header)


def check_contained(said: str, why: str, header: bytes) -> None:
    kept: list[bytes] = []
    letter = Letter("1", "/nowhere/1", "alice@example.org", "bob@example.net", NOW)
    settled = refuse(letter, Verdict(Outcome.BOUNCED, "5.1.1", why, Reply(550, "", (said,)), "mx.example"))

    assert file_report(Kept(kept), with_header(letter, header), settled, NOW)

    octets = b"".join(line + b"\r\n" for line in kept)
    assert not any(b"\n" in line or b"\r" in line for line in kept)
    _, status, _ = parts(email.message_from_bytes(octets))
    fields, recipient = status.get_payload()
    assert set(fields.keys()) == {"Reporting-MTA", "X-Smarthost-Id", "Arrival-Date"}
    assert set(recipient.keys()) == {"Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code"}
    assert recipient["Status"] == "5.1.1"
    assert octets.isascii()


class Kept:
    """A queue that keeps one message in memory."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines

    def createNewMessage(self) -> Any:
        class Receiver:
            lineReceived = self.lines.append

            def eomReceived(self) -> Any:
                return succeed("kept")

        return BytesIO(), Receiver()


_SCRATCH: list[Path] = []


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One directory for what Hypothesis writes again and again."""
    _SCRATCH[:] = [tmp_path_factory.mktemp("scratch")]


def with_header(letter: Letter, header: bytes) -> Letter:
    path = _SCRATCH[0] / "1"
    path.with_name("1-D").write_bytes(header)
    return Letter(letter.name, str(path), letter.sender, letter.recipient, letter.received_at)


def test_a_message_whose_name_is_strange_is_reported_in_ascii(tmp_path: Path) -> None:
    """A file's name is a stranger's text, too."""
    put(tmp_path, "é\n<x>", "alice@example.org", "bob@example.net")
    queue = Queue(str(tmp_path))
    letter = read_letter(queue, "é\n<x>")

    assert file_report(queue, letter, refuse(letter), NOW)

    ((_, octets),) = reports(queue)
    assert octets.isascii()
    assert email.message_from_bytes(octets)["Message-ID"].startswith("<_x_.report@")


def test_content_that_cannot_be_read_is_reported_without_its_header(queue: Queue, tmp_path: Path) -> None:
    """Its sender hears of it; otherwise the message would stay for ever, tried again and again."""
    letter = read_letter(queue, "1")
    (tmp_path / "1-D").unlink()
    (tmp_path / "1-D").mkdir()

    assert file_report(queue, letter, refuse(letter), NOW)

    assert "550 5.1.1 no such user here" in reports(queue)[0][1].decode()


class FullDisk:
    """A receiver, or an envelope, of a disk that is full when a certain step comes."""

    def __init__(self, queue: Queue, step: str) -> None:
        self.queue = queue
        self.step = step

    def createNewMessage(self) -> Any:
        self._stop("create")
        self.envelope, self.receiver = self.queue.createNewMessage()
        return self, self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.envelope.close()
        self._stop("close")

    def write(self, octets: bytes) -> int:
        self._stop("write")
        return self.envelope.write(octets)

    def lineReceived(self, line: bytes) -> None:
        self._stop("line")
        self.receiver.lineReceived(line)

    def eomReceived(self) -> Any:
        if self.step == "eom fails":
            self.receiver.connectionLost()
            return fail(OSError(28, "no space"))
        self._stop("eom raises")
        return self.receiver.eomReceived()

    def connectionLost(self) -> None:
        self.receiver.connectionLost()

    def _stop(self, step: str) -> None:
        if self.step == step:
            raise OSError(28, "no space")


@pytest.mark.parametrize("step", ["create", "write", "close", "line", "eom fails", "eom raises"])
def test_a_report_that_is_not_durable_is_an_error_and_leaves_nothing(queue: Queue, tmp_path: Path, step: str) -> None:
    """At whatever step the disk is full, no half report stays, and whoever asked knows."""
    letter = read_letter(queue, "1")

    with pytest.raises(OSError, match="no space"):
        file_report(FullDisk(queue, step), letter, refuse(letter), NOW)

    assert files(tmp_path) == ["1-D", "1-H"]


def test_what_is_shown_of_a_stranger_s_text_is_one_line_and_bounded() -> None:
    """Nothing a peer or a file's name says ends a line of the log, or fills it."""
    assert shown("plain text") == "plain text"
    assert shown("a\nb\x1b[2Jé\udcff") == r"'a\nb\x1b[2J\xe9\udcff'"
    assert len(shown("x" * 10_000)) == len(shown("\n" * 10_000)) == 300
