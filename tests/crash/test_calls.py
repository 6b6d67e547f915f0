# SPDX-License-Identifier: MIT
"""The suite of k-th calls: what strace's words mean, which points there are, and a few whole lives."""

import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from bench.children import Scratch
from crash.killing import Verdict
from crash.options import Options
from crash.postfix import missing_for_postfix
from crash.relay import Books
from crash.strace import Point, Seen

from crash import beside, calls, faults, strace

STATE = Path("/var/s")
START = """\
11 mkdir("/var/s", 0700) = 0
11 openat(AT_FDCWD</home>, "/usr/lib/python3.11/os.py", O_RDONLY|O_CLOEXEC) = 3</usr/lib/python3.11/os.py>
11 openat(AT_FDCWD</home>, "/var/s-1.toml", O_RDONLY|O_CLOEXEC) = 3</var/s-1.toml>
12 pwrite64(4</var/s/queue.db-wal>, "..."..., 4096, 32) = 4096
12 pwrite64(4</var/s/queue.db-wal>, "..."..., 4096, 4128) = 4096
12 fdatasync(4</var/s/queue.db-wal> <unfinished ...>
13 sendto(5<socket:[1]>, "x", 1, 0, NULL, 0) = 1
12 <... fdatasync resumed>) = 0
12 sendto(5<socket:[1]>, "x", 1, 0, NULL, 0) = 1
13 unlink("/var/s/content/38g0jtv2600009y4") = 0
11 +++ exited with 0 +++
"""


def seen_in(tmp_path: Path, text: str) -> list[Seen]:
    log = tmp_path / "log"
    log.write_text(text)
    return strace.read_trace(log, STATE)


def test_a_start_has_a_point_for_each_call_on_a_file_of_the_state_directory(tmp_path: Path) -> None:
    """Python's own files are none; one of two threads is enough for a call on sockets, as each is counted apart."""
    points = strace.points_of_start(seen_in(tmp_path, START), "start")

    assert [str(point) for point in points] == [
        "start::mkdir:.:1", "start::pwrite64:queue.db-wal:1", "start::pwrite64:queue.db-wal:2",
        "start::fdatasync:queue.db-wal:1", "start::sendto::1",
    ]  # fmt: skip


def test_the_calls_of_a_thread_are_counted_as_strace_counts_them(tmp_path: Path) -> None:
    """What concerns neither sockets nor files counts, but is no point: the second write here is the first of ours."""
    text = 'write(7<anon_inode:[eventfd]>, "x", 8) = 8\nwrite(9<socket:[1]>, "250", 3) = 3\n'
    points = strace.points_of_thread(seen_in(tmp_path, text), "work", "daemon")

    assert [str(point) for point in points] == ["work:daemon:write::2"]


def test_files_named_from_within_the_state_directory_are_its_files(tmp_path: Path) -> None:
    """Postfix works in its queue: a rename there has no whole path, and would be no point."""
    log = tmp_path / "log"
    log.write_text('rename("incoming/A1", "active/A1") = 0\nrename("/etc/incoming/x", "/etc/y") = 0\n')

    assert [each.file for each in strace.read_trace(log, STATE, beside.NAMES)] == ["incoming/A1", ""]


def test_points_survive_being_printed_and_read() -> None:
    """What a failure prints is what repeats it."""
    point = Point(phase="work", thread="store", call="pwrite64", file="queue.db-wal", k=17)

    assert strace.to_point(str(point)) == point


@pytest.mark.parametrize(
    ("text", "believed"),
    [
        ("fsync(4</var/s/a>) = -1 EIO (I)\nfsync(4</var/s/a>) = 0\n", ["a"]),
        ("fsync(4</var/s/a>) = -1 EIO (I)\nfsync(5</var/s/b>) = 0\n", []),
        ("fsync(4</var/s/a>) = -1 EIO (I)\nclose(4</var/s/a>) = 0\nfsync(4</var/s/b>) = 0\n", []),
        ("fsync(4</var/s/a>) = 0\nfsync(4</var/s/a>) = 0\n", []),
    ],
)  # fmt: skip
def test_a_sync_that_failed_must_not_be_believed_on_the_same_descriptor(
    tmp_path: Path, text: str, believed: list[str]
) -> None:
    """The kernel says an error once; another file, or the descriptor's number used anew, is something else."""
    assert strace.believed_again(seen_in(tmp_path, text)) == believed


def test_the_short_form_takes_points_evenly_and_in_order() -> None:
    """Each part of a life has its share, and the same seed takes the same."""
    points = [str(n) for n in range(100)]

    chosen = calls.spread(points, 10, 3)

    gaps = {(int(b) - int(a)) % 100 for a, b in pairwise(chosen)}
    assert (len(set(chosen)), gaps) == (10, {10})
    assert chosen == calls.spread(points, 10, 3)
    assert points == calls.spread(points, 200, 3)


def test_only_what_writes_to_the_state_directory_is_made_to_fail() -> None:
    """A socket that fails is a lost connection, and the lock is taken once: neither is a disk that fails."""
    at = {"phase": "work", "thread": "store", "k": 1}

    assert faults.can_fail(Point(call="fdatasync", file="queue.db-wal", **at))  # type: ignore[arg-type]
    assert not faults.can_fail(Point(call="sendto", file="", **at))  # type: ignore[arg-type]
    assert not faults.can_fail(Point(call="pwrite64", file="lock", **at))  # type: ignore[arg-type]


class Played:
    """Lanes in which nothing is lived: each life comes to what is written."""

    def __init__(self, died: list[str]) -> None:
        self._died = died

    def live(self, words: Sequence[str], stop_at: float) -> Iterator[tuple[str, Verdict]]:
        yield from ((word, Verdict(wrong=(), died=who)) for word, who in zip(words, self._died, strict=True))


@pytest.mark.parametrize(("reached", "missed", "failures"), [(9, 3, 0), (4, 8, 1), (0, 4, 0)])
def test_lives_whose_calls_mostly_did_not_come_prove_nothing(reached: int, missed: int, failures: int) -> None:
    """As when strace injects no signal: all would be well. Of a few lives nothing is concluded."""
    lanes, plan = Played(["store"] * reached + [""] * missed), [f"kill:{n}" for n in range(reached + missed)]

    figure = calls._figure("kill", lanes, plan, Options(seed=1), {})  # type: ignore[arg-type]

    assert failures == figure.failures
    assert missed == figure.facts["not_reached"]


# Whole lives, with a relay of its own, as `python -m crash.calls POINT` lives them


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """Give a scratch directory; loudly skipped without strace, and a failure in CI."""
    if shutil.which("strace") is None:
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail("in CI nothing may be left out: no strace")
        pytest.skip("NOT TRIED: no strace")
    with Scratch(Path("/var/tmp")) as place:
        yield place


def lived(scratch: Scratch, text: str) -> Verdict:
    """Live it; again if the call did not come, since no life is quite like another."""
    for _ in range(3):
        books = Books(scratch, "lane")
        found = calls.live(scratch, books, "lifet", text, 1)
        books.close()
        if found.died or found.wrong:
            break
    return found


@pytest.mark.slow
def test_a_relay_killed_before_the_sync_of_its_third_commit_loses_nothing(scratch: Scratch) -> None:
    """The whole of it, as in a power cut."""
    found = lived(scratch, "kill:whole:work:store:fdatasync::3")

    assert ((), "store") == (found.wrong, found.died)


@pytest.mark.slow
def test_content_whose_sync_fails_is_refused_and_the_relay_comes_back(scratch: Scratch) -> None:
    """No further sync of that directory is believed on that descriptor."""
    found = lived(scratch, "EIO:once-over:work:files:fsync:content:1")

    assert ((), "fsync") == (found.wrong, found.died)
    assert {"250 2.0.0", "451 4.3.0"} <= set(found.codes)


@pytest.mark.slow
def test_a_start_is_killed_at_the_very_call_and_the_next_one_begins_anew(scratch: Scratch) -> None:
    """Before the first database is whole; the call has not been done, and nobody else's end is taken for the kill."""
    found = lived(scratch, "kill:whole:start::unlink:queue.db-journal:1")

    trace = (scratch.path / "lifet.strace").read_text()
    assert ((), "store") == (found.wrong, found.died)
    assert 'queue.db-journal") = ?' in trace


@pytest.mark.slow
def test_a_start_whose_checkpoint_fails_is_refused_and_the_next_one_has_all(scratch: Scratch) -> None:
    """The log is copied into the database again by another process; closing does not do it, and is not believed."""
    found = lived(scratch, "EIO:once-crash:recover::fdatasync:queue.db:1")

    assert ((), "fdatasync") == (found.wrong, found.died)


@pytest.mark.slow
def test_postfix_killed_before_the_sync_of_its_second_message_is_started_again(scratch: Scratch) -> None:
    """The rival goes through the same: all of it dies with the process that writes the queue file."""
    if missing := missing_for_postfix():
        pytest.skip(f"NOT TRIED: {'; '.join(missing)}")
    found = lived(scratch, "postfix:whole:work:cleanup:fsync::2")

    assert [] == [each for each in found.wrong if each.startswith(("lost", "altered"))]
    assert "cleanup" == found.died


@pytest.mark.slow
def test_a_relay_that_says_250_too_early_is_found_out(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite can fail: with a relay that answers before the commit, the mail of a killed commit is lost."""
    early = scratch.directory("early")
    (early / "sitecustomize.py").write_text(EARLY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(early), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("crash.life.DRAINED_S", 2.0)

    found = lived(scratch, "kill:alone:work:files:fsync::1")

    assert any(each.startswith("lost: ") for each in found.wrong)


EARLY = """
import smarthost.relay

add = smarthost.relay.Journey.add

def add_early(self, message, filed):
    filed(None)
    add(self, message, lambda failure: None)

smarthost.relay.Journey.add = add_early
"""
