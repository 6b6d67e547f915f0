# SPDX-License-Identifier: MIT
"""The attempt manager by direct calls: each report of a relayer does to the queue what it must, and nothing else."""

import email
import gc
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.mail.mail import FileMessage

from smarthost.compat import settling
from smarthost.compat.attempt import _AttemptManager
from smarthost.compat.settling import Waits
from smarthost.compat.spool import Queue
from smarthost.mail.reply import Reply
from smarthost.mail.result import Outcome, Verdict
from smarthost.queue.schedule import RetrySchedule

NOW = 1_800_000_000.0
DAY_S = 86_400.0
HOUR_S = 3600.0
CONTENT = b"From: alice@example.org\nSubject: supper\n\nsecret body\n"
REFUSED = Verdict(Outcome.BOUNCED, "5.1.1", "refused", Reply(550, "5.1.1", ("no such user",)), "mx.example")
LATER = Verdict(Outcome.DEFERRED, "4.2.0", "mailbox busy", Reply(451, "4.2.0", ("busy",)), "mx.example")


class Relay:
    """What stands for a relayer's factory; it need only be a key."""

    whyNotConnected = "connection refused"


class Site:
    """Whoever has `managed`, `queue` and `waits`: all an attempt manager asks of its manager."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.queue: Any = Queue(str(directory))
        self.queue.noisy = False
        self.managed: dict[Any, list[str]] = {}
        self.wall = NOW
        schedule = RetrySchedule(first_s=30.0, longest_s=3600.0, jitter=0.0)
        self.waits = Waits(lambda: schedule, clock.seconds, lambda: self.wall, Middle())  # type: ignore[arg-type]


class Middle:
    """Chance that is no chance."""

    def random(self) -> float:
        return 0.5


class Bare:
    """Twisted's own stub for its tests knows no more than this."""

    def __init__(self, queue: Any) -> None:
        self.managed: dict[Any, list[str]] = {}
        self.queue = queue


class BareQueue:
    """The five methods of the stub's queue; it does not keep track of what waits."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.set_waiting: list[str] = []

    def done(self, message: str) -> None:
        for suffix in ("-D", "-H"):
            Path(self.getPath(Path(message).name) + suffix).unlink()

    def getEnvelopeFile(self, message: str) -> Any:
        return Path(self.getPath(message) + "-H").open("rb")

    def getPath(self, message: str) -> str:
        return str(self.directory / message)

    def createNewMessage(self) -> Any:
        path = self.getPath("made")
        return Path(path + "-H").open("wb"), FileMessage(Path(path + "-C").open("wb"), path + "-C", path + "-D")

    def setWaiting(self, message: str) -> None:
        self.set_waiting.append(message)


def put(directory: Path, name: str, sender: str = "alice@example.org", content: bytes = CONTENT) -> None:
    (directory / f"{name}-H").write_bytes(pickle.dumps([sender, "bob@example.net"]))
    (directory / f"{name}-D").write_bytes(content)
    os.utime(directory / f"{name}-D", (NOW, NOW))


def begin(site: Site, clock: Clock, *names: str, noisy: bool = False) -> tuple[_AttemptManager, Relay]:
    """Begin an attempt at messages of the queue, as a relaying manager does."""
    relay = Relay()
    for name in names:
        site.queue.setRelaying(name)
    site.managed[relay] = list(names)
    return _AttemptManager(site, noisy, clock), relay


def whole(directory: Path) -> list[str]:
    """Give the messages whose two files are there."""
    names = files(directory)
    return [name[:-2] for name in names if name.endswith("-D") and name[:-2] + "-H" in names]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def report_in(site: Site) -> Any:
    site.queue.readDirectory()
    names = [name for name in site.queue.getWaiting() if site.queue.getEnvelope(name)[0] == ""]
    assert len(names) == 1
    return email.message_from_bytes(Path(site.queue.getPath(names[0]) + "-D").read_bytes())


def run_to_end(completion: Deferred[None]) -> list[None]:
    fired: list[None] = []
    completion.addCallback(fired.append)
    return fired


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def site(tmp_path: Path, clock: Clock) -> Site:
    """A queue of three messages; nothing is tried yet."""
    for name in "123":
        put(tmp_path, name)
    return Site(tmp_path, clock)


# -- its life


def test_the_global_reactor_is_the_default() -> None:
    """A program gives no reactor."""
    assert _AttemptManager(object()).reactor is global_reactor
    assert _AttemptManager(object()).noisy is True


def test_every_completion_fires_once_when_the_attempt_is_over(site: Site, clock: Clock) -> None:
    """Several may ask, and who asks after the end is answered at once."""
    attempt, relay = begin(site, clock, "1")
    fired = [run_to_end(attempt.getCompletionDeferred()) for _ in range(3)]
    assert fired == [[], [], []]

    attempt.notifyDone(relay)
    attempt.notifyDone(relay)

    assert fired == [[None]] * 3
    assert run_to_end(attempt.getCompletionDeferred()) == [None]


def test_a_completion_may_look_at_the_queue_and_begin_again(site: Site, clock: Clock) -> None:
    """When it fires, the attempt's place is free and its messages wait."""
    attempt, relay = begin(site, clock, "1")
    seen: list[Any] = []
    attempt.getCompletionDeferred().addCallback(lambda _: seen.append((dict(site.managed), site.queue.getRelayed())))

    attempt.notifyDone(relay)

    assert seen == [({}, [])]


def test_completions_fire_whatever_the_queue_does(site: Site, clock: Clock) -> None:
    """A bug in a program's own queue keeps no connection's place."""
    attempt, relay = begin(site, clock, "1")
    fired = run_to_end(attempt.getCompletionDeferred())
    attempt.notifyVerdict(relay, "1", LATER)

    def broken(name: str) -> None:
        raise RuntimeError

    site.queue.setWaiting = broken
    with pytest.raises(RuntimeError):
        attempt.notifyDone(relay)

    assert fired == [None]
    assert site.managed == {}


# -- success


@pytest.mark.parametrize("form", [str, lambda path: Path(path).name, os.fsencode])
def test_success_removes_the_message(site: Site, clock: Clock, tmp_path: Path, form: Callable[[str], Any]) -> None:
    """By its path, as relayers say it, or its name."""
    attempt, relay = begin(site, clock, "1", "2")

    attempt.notifySuccess(relay, form(str(tmp_path / "1")))

    assert whole(tmp_path) == ["2", "3"]
    assert site.managed[relay] == ["2"]
    assert site.queue.getRelayed() == ["2"]


def test_success_said_twice_or_for_another_relay_is_harmless(site: Site, clock: Clock, tmp_path: Path) -> None:
    """The message is gone, others are not touched."""
    attempt, relay = begin(site, clock, "1", "2")

    attempt.notifySuccess(relay, "1")
    attempt.notifySuccess(relay, "1")
    attempt.notifySuccess(object(), "1")

    assert whole(tmp_path) == ["2", "3"]
    assert site.managed[relay] == ["2"]


def test_what_was_delivered_and_cannot_be_removed_is_not_sent_again(
    site: Site, clock: Clock, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory made read-only costs log lines, not a duplicate each second."""
    attempt, relay = begin(site, clock, "1")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    attempt.notifySuccess(relay, "1")
    attempt.notifyDone(relay)
    clock.advance(10 * DAY_S)
    site.queue.readDirectory()

    assert "1" not in site.queue.getWaiting()
    assert any("message 1 is done with, but cannot be removed" in line for line in lines)


# -- failure


def test_a_refused_message_is_reported_and_removed(site: Site, clock: Clock, tmp_path: Path) -> None:
    """Its sender reads the host's words and whose report it is."""
    attempt, relay = begin(site, clock, "1", "2")
    attempt.notifyGreeted(relay, "relay.example.org")
    attempt.notifyVerdict(relay, str(tmp_path / "1"), REFUSED)

    attempt.notifyFailure(relay, str(tmp_path / "1"))

    report = report_in(site)
    assert report["To"] == "<alice@example.org>"
    fields, recipient = report.get_payload()[1].get_payload()
    assert fields["Reporting-MTA"] == "dns; relay.example.org"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    assert not {"1-H", "1-D"} & set(files(tmp_path))
    assert site.managed[relay] == ["2"]


def test_a_failure_without_a_word_is_reported_too(site: Site, clock: Clock) -> None:
    """A program's own relayer says that it failed, not why."""
    attempt, relay = begin(site, clock, "1")

    attempt.notifyFailure(relay, "1")

    assert report_in(site).get_payload()[1].get_payload()[1]["Status"] == "5.0.0"


def test_a_bounce_to_the_null_sender_is_dropped_and_logged(tmp_path: Path, clock: Clock, lines: list[str]) -> None:
    """A report about a report could go round for ever; the log says what was dropped, also when quiet."""
    put(tmp_path, "1", "")
    site = Site(tmp_path, clock)
    attempt, relay = begin(site, clock, "1")
    attempt.notifyVerdict(relay, "1", REFUSED)
    del lines[:]

    attempt.notifyFailure(relay, "1")

    assert files(tmp_path) == []
    assert len(lines) == 1
    assert "message 1 for 'bob@example.net' dropped" in lines[0]
    assert "the null sender" in lines[0]


@pytest.mark.parametrize("sender", ["root", "x@bad domain"])
def test_a_message_whose_sender_cannot_be_told_is_kept(
    tmp_path: Path, clock: Clock, lines: list[str], sender: str
) -> None:
    """Dropped, nobody would know that it was ever there: it is set aside, and one line says why."""
    put(tmp_path, "1", sender)
    site = Site(tmp_path, clock)
    attempt, relay = begin(site, clock, "1")
    attempt.notifyVerdict(relay, "1", REFUSED)
    del lines[:]

    attempt.notifyFailure(relay, "1")
    attempt.notifyDone(relay)

    assert files(tmp_path) == ["1-D", "1-H"]
    assert list(site.queue.damaged) == ["1"]
    assert len(lines) == 1
    assert repr(sender) in lines[0]
    assert "cannot be told: refused" in lines[0]


def test_on_a_full_disk_a_refused_message_stays_and_is_tried_again_later(
    site: Site, clock: Clock, tmp_path: Path, lines: list[str]
) -> None:
    """Not each second: after 30 s, then after longer; and when there is room, it bounces."""
    create = site.queue.createNewMessage

    def full() -> Any:
        raise OSError(28, "No space left on device")

    site.queue.createNewMessage = full
    for wait_s in (30, 60, 120):
        attempt, relay = begin(site, clock, "1")
        attempt.notifyVerdict(relay, "1", REFUSED)
        attempt.notifyFailure(relay, "1")
        attempt.notifyDone(relay)
        assert "1" in site.queue.getWaiting()
        assert "1" not in site.waits.due(["1"])
        clock.advance(wait_s - 1)
        assert site.waits.due(["1"]) == []
        clock.advance(1)
        assert site.waits.due(["1"]) == ["1"]
    assert whole(tmp_path) == ["1", "2", "3"]
    assert any("message 1 for 'bob@example.net' is undeliverable, but stays" in line for line in lines)

    site.queue.createNewMessage = create
    attempt, relay = begin(site, clock, "1")
    attempt.notifyFailure(relay, "1")

    assert "1" not in whole(tmp_path)
    assert report_in(site)


def test_an_expired_message_on_a_full_disk_waits_longer_each_time(site: Site, clock: Clock, tmp_path: Path) -> None:
    """It is not tried each second for ever because nobody can be told that it was given up."""
    site.wall = NOW + 6 * DAY_S

    def full() -> Any:
        raise OSError(28, "No space left on device")

    site.queue.createNewMessage = full
    for wait_s in (30, 60, 120, 240):
        attempt, relay = begin(site, clock, "1")
        attempt.notifyVerdict(relay, "1", LATER)
        attempt.notifyDone(relay)
        clock.advance(wait_s - 1)
        assert site.waits.due(["1"]) == []
        clock.advance(1)
        assert site.waits.due(["1"]) == ["1"]

    assert whole(tmp_path) == ["1", "2", "3"]


def test_a_bug_in_a_report_costs_its_message_a_turn_only(
    site: Site, clock: Clock, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message stays, the attempt ends, other messages are settled."""

    def bug(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("smarthost.compat.settling.report_message", bug)
    attempt, relay = begin(site, clock, "1", "2")
    attempt.notifyFailure(relay, "1")
    attempt.notifySuccess(relay, "2")
    attempt.notifyDone(relay)

    assert site.queue.getWaiting() == ["1", "3"]
    assert any("undeliverable, but stays: a bug" in line for line in lines)


def test_a_refused_message_that_cannot_be_read_stays(
    site: Site, clock: Clock, tmp_path: Path, lines: list[str]
) -> None:
    """An envelope damaged meanwhile is nobody's reason to lose mail, nor to spin."""
    attempt, relay = begin(site, clock, "1")
    (tmp_path / "1-H").write_bytes(b"garbage")

    attempt.notifyFailure(relay, "1")
    attempt.notifyDone(relay)

    assert whole(tmp_path) == ["1", "2", "3"]
    assert "1" in site.queue.getWaiting()
    assert site.waits.due(["1"]) == []
    assert len([line for line in lines if "message 1" in line]) == 2


# -- deferral and expiry


def test_a_deferred_message_waits_by_the_schedule(site: Site, clock: Clock, tmp_path: Path) -> None:
    """30 s, doubling; meanwhile it is shown as waiting."""
    for wait_s in (30, 60, 120):
        attempt, relay = begin(site, clock, "1")
        attempt.notifyVerdict(relay, "1", LATER)
        attempt.notifyDone(relay)
        assert site.queue.getWaiting() == ["1", "2", "3"]
        clock.advance(wait_s - 1)
        assert site.waits.due(["1", "2"]) == ["2"]
        clock.advance(1)
        assert site.waits.due(["1"]) == ["1"]


def test_a_message_in_its_last_second_waits_and_then_expires(site: Site, clock: Clock, tmp_path: Path) -> None:
    """5 days from when it was written it goes back with 4.4.7, and not before."""
    site.wall = NOW + 5 * DAY_S - 4 * HOUR_S
    attempt, relay = begin(site, clock, "1")
    attempt.notifyVerdict(relay, "1", LATER)
    attempt.notifyDone(relay)

    clock.advance(4 * HOUR_S - 1)
    site.wall = NOW + 5 * DAY_S - 1
    attempt, relay = begin(site, clock, "1")
    attempt.notifyVerdict(relay, "1", LATER)
    attempt.notifyDone(relay)
    assert whole(tmp_path) == ["1", "2", "3"]

    clock.advance(1)
    site.wall = NOW + 5 * DAY_S
    attempt, relay = begin(site, clock, "1")
    attempt.notifyVerdict(relay, "1", LATER)
    attempt.notifyDone(relay)

    assert not {"1-H", "1-D"} & set(files(tmp_path))
    recipient = report_in(site).get_payload()[1].get_payload()[1]
    assert recipient["Status"] == "4.4.7"
    assert recipient["Diagnostic-Code"] == "smtp; 451 4.2.0 busy"
    assert len(site.waits) == 0


def test_what_was_not_reached_is_due_at_once_if_the_session_got_anywhere(site: Site, clock: Clock) -> None:
    """A host that closes after each message gets the next one over a new connection."""
    attempt, relay = begin(site, clock, "1", "2", "3")
    attempt.notifySuccess(relay, "1")
    attempt.notifyVerdict(relay, "2", LATER)

    attempt.notifyDone(relay)

    assert site.queue.getWaiting() == ["2", "3"]
    assert site.waits.due(["2", "3"]) == ["3"]


def test_a_connection_that_ends_without_a_word_is_not_made_again_at_once(site: Site, clock: Clock) -> None:
    """A host greeted us and hung up: trying it each second for ever would change nothing."""
    attempt, relay = begin(site, clock, "1", "2")
    attempt.notifyGreeted(relay, "relay.example.org")

    attempt.notifyDone(relay)

    assert site.queue.getWaiting() == ["1", "2", "3"]
    assert site.waits.due(["1", "2"]) == []
    clock.advance(30)
    assert site.waits.due(["1", "2"]) == ["1", "2"]


# -- no connection


def test_without_a_connection_messages_wait_again_after_30_s(site: Site, clock: Clock) -> None:
    """On the given reactor, and really."""
    attempt, relay = begin(site, clock, "1", "2")
    fired = run_to_end(attempt.getCompletionDeferred())

    attempt.notifyNoConnection(relay)
    attempt.notifyDone(relay)

    assert fired == [None]
    assert site.managed == {}
    assert site.queue.getRelayed() == ["1", "2"]
    clock.advance(29)
    assert site.queue.getRelayed() == ["1", "2"]
    clock.advance(1)
    assert site.queue.getWaiting() == site.waits.due(["1", "2", "3"]) == ["1", "2", "3"]
    assert clock.getDelayedCalls() == []


def test_a_message_however_old_is_tried_for_four_hours(site: Site, clock: Clock, tmp_path: Path) -> None:
    """A directory moved here, or files restored from a backup, do not bounce at the first busy host."""
    began = NOW + 300 * DAY_S
    for hours in (0.0, 1.0, 3.999):
        clock.rightNow = hours * HOUR_S
        site.wall = began + hours * HOUR_S
        attempt, relay = begin(site, clock, "1")
        attempt.notifyVerdict(relay, "1", LATER)
        attempt.notifyDone(relay)
        assert whole(tmp_path) == ["1", "2", "3"]

    clock.rightNow = 4 * HOUR_S
    site.wall = began + 4 * HOUR_S
    attempt, relay = begin(site, clock, "1")
    attempt.notifyVerdict(relay, "1", LATER)
    attempt.notifyDone(relay)

    assert report_in(site).get_payload()[1].get_payload()[1]["Status"] == "4.4.7"


def test_what_awaits_a_host_is_due_when_one_answers(site: Site, clock: Clock) -> None:
    """A message that was busy itself waits on."""
    attempt, relay = begin(site, clock, "1")
    attempt.domain = "example.net"
    attempt.notifyNoConnection(relay)
    attempt, relay = begin(site, clock, "2")
    attempt.domain = "example.net"
    attempt.notifyVerdict(relay, "2", LATER)
    attempt.notifyDone(relay)
    assert site.waits.due(["1", "2"]) == []

    site.waits.release("other.example")
    assert site.waits.due(["1", "2"]) == []
    site.waits.release("example.net")
    assert site.waits.due(["1", "2"]) == ["1"]


def test_who_cannot_make_a_relayer_blames_no_host(site: Site, clock: Clock, lines: list[str]) -> None:
    """Wrong arguments are the program's: its messages wait 30 s, no attempt is counted, and it is said."""
    asked: list[str] = []
    attempt, relay = begin(site, clock, "1", "2")
    attempt.passOver = lambda relay, why: bool(asked.append(why))  # type: ignore[func-returns-value]
    fired: list[None] = []
    attempt.getCompletionDeferred().addCallback(fired.append)

    attempt.notifyBroken(relay, "TypeError while the relayer was made")

    assert (site.managed, fired, asked) == ({}, [None], [])
    assert site.waits.attempts("1") == 0
    assert any("TypeError" in line for line in lines)
    clock.advance(30)
    assert site.queue.getWaiting() == ["1", "2", "3"]


def test_no_connection_at_the_end_of_its_time_returns_a_message(
    site: Site, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is gone for days is a reason to give up."""
    monkeypatch.setattr(settling, "GRACE_S", 0.0)
    site.wall = NOW + 5 * DAY_S
    attempt, relay = begin(site, clock, "1")
    attempt.tryHost("mx.example")

    attempt.notifyNoConnection(relay)
    attempt.notifyDone(relay)

    diagnostic = report_in(site).get_payload()[1].get_payload()[1]["Diagnostic-Code"]
    assert "mx.example: connection refused" in diagnostic.replace("\n", "")
    assert clock.getDelayedCalls() == []


def test_an_unknown_relay_is_only_logged(site: Site, clock: Clock, lines: list[str]) -> None:
    """Nothing changes, nothing is scheduled."""
    attempt, relay = begin(site, clock, "1")

    attempt.notifyNoConnection("stranger\n")

    assert site.managed == {relay: ["1"]}
    assert clock.getDelayedCalls() == []
    assert len(lines) == 1
    assert "\n" not in lines[0]


def test_messages_taken_away_during_the_back_off_are_only_logged(
    site: Site, clock: Clock, tmp_path: Path, lines: list[str]
) -> None:
    """Whoever cleans the directory by hand does not stop the timer for other messages."""
    attempt, relay = begin(site, clock, "1", "2")
    attempt.notifyNoConnection(relay)
    for suffix in ("-H", "-D"):
        (tmp_path / f"1{suffix}").unlink()
    site.queue.readDirectory()

    clock.advance(30)

    assert site.queue.getWaiting() == ["2", "3"]
    assert any("message 1 is no longer with its attempt" in line for line in lines)


def test_while_another_host_is_chosen_nothing_ends_the_attempt(site: Site, clock: Clock) -> None:
    """However often the failed host's factory says that it is done."""
    attempt, relay = begin(site, clock, "1")
    asked: list[str] = []

    def pass_over(relay: Any, why: str) -> bool:
        asked.append(why)
        return True

    attempt.passOver = pass_over
    fired = run_to_end(attempt.getCompletionDeferred())

    attempt.notifyNoConnection(relay)
    attempt.notifyDone(relay)
    attempt.notifyNoConnection(relay)
    attempt.notifyDone(relay)
    assert asked == ["connection refused"]
    assert (fired, site.managed) == ([], {relay: ["1"]})

    attempt.tryHost("mx2.example")
    attempt.notifyDone(relay)
    assert (fired, site.managed) == ([None], {})


# -- logs


def test_quiet_means_no_routine_line(site: Site, clock: Clock, tmp_path: Path, lines: list[str]) -> None:
    """Success, back-off and end say nothing; what a message waits or bounces for is said all the same."""
    attempt, relay = begin(site, clock, "1", "2", "3")
    attempt.notifySuccess(relay, "1")
    assert lines == []

    attempt.notifyFailure(relay, "2")
    attempt.notifyVerdict(relay, "3", LATER)
    attempt.notifyDone(relay)
    assert [line.split(" for ")[0] for line in lines] == ["message 2", "message 3"]
    assert "bounced" in lines[0]
    assert "waits 30 s (attempt 1): mailbox busy" in lines[1]

    del lines[:]
    attempt, relay = begin(site, clock, "3")
    attempt.notifyNoConnection(relay)
    clock.advance(30)
    assert lines == []


def test_noisy_says_what_becomes_of_each_message(site: Site, clock: Clock, lines: list[str]) -> None:
    """One line or more for each step, with the message's name."""
    attempt, relay = begin(site, clock, "1", "2", "3", noisy=True)
    steps: list[Callable[[], None]] = [
        lambda: attempt.notifySuccess(relay, "1"),
        lambda: attempt.notifyFailure(relay, "2"),
        lambda: attempt.notifyVerdict(relay, "3", LATER),
        lambda: attempt.notifyDone(relay),
    ]
    attempt.notifyAccepted(relay, "1", "250 2.0.0 queued as\x1b 7")
    said = []
    for step in steps:
        del lines[:]
        step()
        said.append(" | ".join(lines))

    assert said[0] == r"success sending 1 to a host ('250 2.0.0 queued as\x1b 7'), removing from queue"
    assert "could not relay 2" in said[1]
    assert "bounced, its sender is told: 5.0.0" in said[1]
    assert "message 3 for 'bob@example.net' waits 30 s (attempt 1): mailbox busy" in said[3]


# -- a manager and a queue that know no more than the original's


def test_a_bare_manager_and_queue_suffice(tmp_path: Path, clock: Clock) -> None:
    """Twisted's own stubs: success, failure, done and no connection work, without schedule or expiry."""
    for name in "1234":
        put(tmp_path, name)
    queue = BareQueue(tmp_path)
    manager = Bare(queue)
    manager.managed["relay"] = ["1", "2", "3"]
    attempt = _AttemptManager(manager, False, clock)

    attempt.notifySuccess("relay", str(tmp_path / "1"))
    attempt.notifyFailure("relay", str(tmp_path / "2"))
    attempt.notifyDone("relay")
    attempt.notifyDone("relay")

    assert whole(tmp_path) == ["3", "4", "made"]
    assert queue.set_waiting == ["3"]
    manager.managed["relay"] = ["4"]
    attempt.notifyNoConnection("relay")
    assert queue.set_waiting == ["3"]
    clock.advance(30)
    assert queue.set_waiting == ["3", "4"]


# -- crashes


class Crash(BaseException):
    """The process is gone."""


class CrashAt:
    """Ends the process before or after the n-th call of the functions it stands for."""

    def __init__(self, n: int, is_after: bool) -> None:
        self.n = n
        self.is_after = is_after

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.n -= 1
            if self.n < 0 and not self.is_after:
                raise Crash
            result = call(*args, **kwargs)
            if self.n < 0:
                raise Crash
            return result

        return counted


def crash_in_bounce(directory: Path, n: int, is_after: bool, is_expiry: bool) -> bool:
    """Let an attempt end with a bounce or an expiry; give whether the crash came before its end."""
    clock = Clock()
    site = Site(directory, clock)
    site.wall = NOW + 6 * DAY_S
    attempt, relay = begin(site, clock, "1")
    attempt.notifyVerdict(relay, "1", LATER if is_expiry else REFUSED)
    crash = CrashAt(n, is_after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", crash.around(os.fsync))
        for method in ("rename", "unlink", "open"):
            patch.setattr(Path, method, crash.around(getattr(Path, method)))
        try:
            if not is_expiry:
                attempt.notifyFailure(relay, "1")
            attempt.notifyDone(relay)
        except Crash:
            return True
    return False


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # who is gone closes nothing
@pytest.mark.parametrize("is_expiry", [False, True])
@pytest.mark.parametrize("is_after", [False, True])
def test_a_crash_at_any_step_of_a_bounce_leaves_the_message_or_its_report(
    tmp_path: Path, is_after: bool, is_expiry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart the queue has one of them, at worst both; never neither, and never half of one."""
    monkeypatch.setattr(settling, "GRACE_S", 0.0)
    n = 0
    is_crashed = True
    while is_crashed:
        directory = tmp_path / str(n)
        directory.mkdir()
        put(directory, "1")

        is_crashed = crash_in_bounce(directory, n, is_after, is_expiry)

        queue = Queue(str(directory))
        queue.noisy = False
        reports = [name for name in queue.getWaiting() if name != "1"]
        assert queue.getWaiting()
        for name in reports:
            assert queue.getEnvelope(name) == ["", "alice@example.org"]
            report = email.message_from_bytes(Path(queue.getPath(name) + "-D").read_bytes())
            assert len(report.get_payload()) == 3
        n += 1
    assert queue.getWaiting() == reports
    assert n > 8
    gc.collect()
