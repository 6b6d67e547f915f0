# SPDX-License-Identifier: MIT
"""The directory queue: what counts as a message, in which order things become durable, and what trouble leaves."""

import errno
import itertools
import os
import pickle
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.mail import relaymanager as original
from twisted.mail.mail import FileMessage
from twisted.mail.smtp import IMessage

from smarthost.compat.envelope import write_envelope
from smarthost.compat.incoming import DurableMessage
from smarthost.compat.spool import Queue

PYTHON_2_ENVELOPE = b"(lp1\nS'ren\\xc3\\xa9@example.org'\np2\naS'fred@example.com'\np3\na."  # protocol 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A queue directory."""
    directory = tmp_path / "queue"
    directory.mkdir()
    return directory


def add(queue: Queue, content: bytes = b"Subject: x\n\nhello\n", sender: str = "a@b") -> str:
    envelope, message = queue.createNewMessage()
    with envelope:
        write_envelope(envelope, sender, "c@d")
    for line in content.splitlines():
        message.lineReceived(line)
    return Path(kept(message)).name.removesuffix("-D")


def kept(message: DurableMessage) -> str:
    fired: list[str] = []
    message.eomReceived().addCallback(fired.append)
    return fired[0]


def refused(message: DurableMessage) -> BaseException:
    fired: list[Any] = []
    message.eomReceived().addErrback(fired.append)
    return cast("BaseException", fired[0].value)


def put(root: Path, name: str, at: float = 1e9, envelope: bytes | None = None) -> None:
    (root / f"{name}-H").write_bytes(pickle.dumps(["a@b", "c@d"]) if envelope is None else envelope)
    (root / f"{name}-D").write_bytes(b"x\n")
    os.utime(root / f"{name}-D", (at, at))


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


# ---- what the original wrote


@pytest.mark.parametrize("protocol", range(6))
def test_a_directory_of_the_original_opens_unchanged(root: Path, protocol: int) -> None:
    """Every message that Twisted's own queue wrote is there, with its envelope and content, and no file is touched."""
    theirs = original.Queue(str(root))
    for number in range(5):
        envelope, message = theirs.createNewMessage()
        with envelope:
            pickle.dump([f"sender{number}@example.org", f"jöe{number}@example.net"], envelope, protocol)
        message.lineReceived(b"line %d" % number)
        message.eomReceived()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.iterdir()}

    queue = Queue(str(root))

    assert {tuple(queue.getEnvelope(message)) for message in queue.getWaiting()} == {
        (f"sender{number}@example.org", f"jöe{number}@example.net") for number in range(5)
    }
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.iterdir()} == before


def test_a_message_of_a_python_2_program_is_there(root: Path) -> None:
    """A spool that a Python 2 program left behind is read, its text as UTF-8."""
    put(root, "4711_1300000000.12_0_140213", envelope=PYTHON_2_ENVELOPE)

    queue = Queue(root)

    assert queue.getEnvelope(queue.getWaiting()[0]) == ["rené@example.org", "fred@example.com"]


def test_the_original_reads_what_we_write(root: Path) -> None:
    """The way back is open: Twisted's queue finds our messages and their envelopes."""
    name = add(Queue(root), sender="")

    theirs = original.Queue(str(root))

    assert list(theirs.waiting) == [name]
    assert theirs.getEnvelope(name) == ["", "c@d"]


# ---- the states of a message


def test_lists_are_lists_and_the_oldest_comes_first(root: Path) -> None:
    """Callers may index, reverse and change what they get; age is that of the content, then the name."""
    for name, at in [("young", 3e9), ("b", 2e9), ("a", 2e9), ("old", 1e9)]:
        put(root, name, at)
    queue = Queue(root)

    waiting = queue.getWaiting()
    assert waiting == ["old", "a", "b", "young"]
    waiting.clear()
    for name in ["b", "old"]:
        queue.setRelaying(name)

    assert queue.getWaiting() == ["a", "young"]
    assert queue.getRelayed() == ["old", "b"]
    assert (queue.waiting, queue.relayed) == ({"a": 1, "young": 1}, {"old": 1, "b": 1})
    assert queue.hasWaiting()
    assert queue.arrivedAt("a") == 2e9


def test_a_message_that_is_not_in_a_state_cannot_leave_it(root: Path) -> None:
    """setRelaying and setWaiting raise KeyError, as the original does."""
    put(root, "1")
    queue = Queue(root)

    with pytest.raises(KeyError):
        queue.setWaiting("1")
    queue.setRelaying("1")
    with pytest.raises(KeyError):
        queue.setRelaying("1")
    queue.setWaiting("1")

    assert queue.getWaiting() == ["1"]


def test_a_message_is_waiting_again_after_reading_only_if_it_is_not_relayed(root: Path) -> None:
    """A message in the hands of a relayer is not handed out twice."""
    put(root, "1")
    queue = Queue(root)
    queue.setRelaying("1")

    queue.readDirectory()
    queue.addMessage("1")

    assert not queue.hasWaiting()
    assert queue.getRelayed() == ["1"]


def test_a_message_added_by_hand_has_its_place_by_age(root: Path) -> None:
    """addMessage works for a message just received, without reading the directory; unknown ones come last."""
    queue = Queue(root)
    put(root, "new", 2e9)
    queue.addMessage("nowhere")
    queue.addMessage("new")

    assert queue.getWaiting() == ["new", "nowhere"]
    queue.readDirectory()
    assert queue.getWaiting() == ["new"]


def test_routine_lines_are_logged_once_and_only_if_wanted(root: Path, lines: list[str]) -> None:
    """A new message is told once, not at each poll, and not at all by a quiet queue."""
    put(root, "1")
    queue = Queue(root)
    queue.readDirectory()
    queue.addMessage("1")
    assert lines == ["Set 1 waiting"]

    queue.noisy = False
    put(root, "2")
    queue.readDirectory()
    assert lines == ["Set 1 waiting"]
    assert queue.getWaiting() == ["1", "2"]


@pytest.mark.parametrize("given", [str, os.fsencode, Path, lambda path: f"{path}/"])
def test_the_directory_may_be_text_octets_or_a_path(root: Path, given: Callable[[Path], Any]) -> None:
    """The attribute stays as it was passed; messages and their paths are text."""
    put(root, "1")
    queue = Queue(given(root))

    assert queue.directory == given(root)
    assert queue.getPath("1") == str(root / "1")
    assert queue.getEnvelope("1") == ["a@b", "c@d"]
    assert add(queue)
    queue.readDirectory()
    assert len(queue.getWaiting()) == 2


def test_a_pickled_queue_reads_its_directory_again(root: Path) -> None:
    """The pickle has the directory and what the user set, nothing of what was known then."""
    put(root, "1")
    queue = Queue(str(root))
    assert queue.__getstate__() == {"directory": str(root)}
    queue.noisy = False
    queue.setRelaying("1")
    queue.setAside("1", "a test")
    octets = pickle.dumps(queue)
    put(root, "2")

    again = pickle.loads(octets)

    assert queue.__getstate__() == {"directory": str(root), "noisy": False}
    assert (again.directory, again.noisy, again.n) == (str(root), False, 0)
    assert again.getWaiting() == ["1", "2"]
    assert (again.relayed, again.damaged) == ({}, {})


# ---- done


@pytest.mark.parametrize("as_path", [True, False])
def test_a_message_that_is_done_leaves_nothing(root: Path, as_path: bool) -> None:
    """done takes a path or a base name, removes both files and forgets the message."""
    put(root, "1")
    queue = Queue(root)
    queue.setRelaying("1")

    queue.done(queue.getPath("1") if as_path else "1")
    queue.readDirectory()

    assert names(root) == set()
    assert (queue.waiting, queue.relayed) == ({}, {})


def test_a_message_whose_files_are_gone_is_done_without_error(root: Path) -> None:
    """Somebody else removed it: there is nothing to complain about."""
    put(root, "1")
    queue = Queue(root)
    queue.setRelaying("1")
    for path in root.iterdir():
        path.unlink()

    queue.done("1")
    queue.done("1")

    assert queue.relayed == {}


def test_done_removes_content_then_envelope_then_makes_it_durable(root: Path, trace: "Trace") -> None:
    """A crash in between leaves at worst an envelope without content, which counts as nothing."""
    put(root, "1")
    queue = Queue(root)
    trace.steps.clear()

    queue.done("1")

    assert trace.steps == ["unlink 1-D", "unlink 1-H", "fsync queue"]


def test_a_message_that_cannot_be_removed_is_not_sent_again_by_this_process(
    root: Path, trace: "Trace", lines: list[str]
) -> None:
    """A read-only disk after a delivery: it is said clearly, and the message stays among those being relayed."""
    put(root, "1")
    queue = Queue(root)
    queue.setRelaying("1")
    trace.fail("unlink 1-D", errno.EROFS)

    with pytest.raises(OSError, match="may be sent again"):
        queue.done("1")
    queue.readDirectory()

    assert names(root) == {"1-D", "1-H"}
    assert (queue.waiting, queue.relayed) == ({}, {"1": 1})
    assert any("cannot remove" in line and "1-D: Read-only" in line for line in lines)


def test_what_could_not_be_removed_is_removed_when_it_can_be(root: Path, trace: "Trace", lines: list[str]) -> None:
    """The disk is writable again: the files go at the next poll, durably, one line says so, and nothing is known."""
    put(root, "1")
    queue = stuck(root, trace, ["1"])
    lines.clear()
    queue.readDirectory()
    queue.readDirectory()
    assert lines == []
    trace.heal()
    trace.steps.clear()

    queue.readDirectory()
    queue.readDirectory()

    assert names(root) == set()
    assert (queue.waiting, queue.relayed) == ({}, {})
    assert trace.steps[:3] == ["unlink 1-D", "unlink 1-H", "fsync queue"]
    assert trace.steps.count("unlink 1-D") == 1
    assert lines == [f"{root}/1 was done with before, and is removed now"]


def test_what_could_not_be_removed_is_removed_although_the_directory_cannot_be_listed(
    root: Path, trace: "Trace", lines: list[str]
) -> None:
    """The one does not need the other."""
    put(root, "1")
    queue = stuck(root, trace, ["1"])
    trace.heal()
    trace.fail("scandir queue", errno.EACCES)

    queue.readDirectory()

    assert names(root) == set()
    assert queue.relayed == {}


def test_of_many_that_cannot_be_removed_some_are_tried_at_each_poll(root: Path, trace: "Trace") -> None:
    """Twenty a poll, and each gets its turn, though those before it fail."""
    there = [f"1-{number}" for number in range(50)]
    for name in there:
        put(root, name)
    queue = stuck(root, trace, there)
    tried: list[set[str]] = []
    for _ in range(3):
        trace.steps.clear()
        queue.readDirectory()
        tried.append({step for step in trace.steps if step.startswith("unlink")})

    assert [len(turn) for turn in tried] == [20, 20, 20]
    assert set.union(*tried) == {f"unlink {name}-D" for name in there}
    trace.heal()
    queue.readDirectory()
    assert len(names(root)) == 60
    queue.readDirectory()
    queue.readDirectory()
    assert (names(root), queue.relayed) == (set(), {})


def test_a_message_put_back_by_hand_is_not_removed(root: Path, trace: "Trace") -> None:
    """Whoever has it wait again takes the order back; another message under its name is none that was done."""
    for name in ("1-a", "1-b"):
        put(root, name)
    queue = stuck(root, trace, ["1-a", "1-b"])
    trace.heal()

    queue.setWaiting("1-a")
    put(root, "1-b", at=2e9)
    queue.readDirectory()
    queue.readDirectory()

    assert names(root) == {"1-a-D", "1-a-H", "1-b-D", "1-b-H"}
    assert queue.getWaiting() == ["1-a"]


def test_a_message_that_an_operator_removed_meanwhile_is_forgotten(
    root: Path, trace: "Trace", lines: list[str]
) -> None:
    """Nothing is left to do, and a later message of the same name and time is not taken for it."""
    put(root, "1")
    queue = stuck(root, trace, ["1"])
    for path in root.iterdir():
        path.rename(root.parent / path.name)
    lines.clear()
    queue.readDirectory()
    queue.readDirectory()
    assert queue.relayed == {}
    assert lines == [f"{root}/1 is forgotten: somebody removed its files"]
    trace.heal()

    put(root, "1")
    queue.readDirectory()
    queue.readDirectory()

    assert queue.getWaiting() == ["1"]


def test_a_message_of_unknown_state_that_is_done_but_stays_does_not_wait(root: Path, trace: "Trace") -> None:
    """done names a message that this queue had not found yet: its files are no reason to send it again."""
    queue = Queue(root)
    put(root, "1")
    trace.fail("unlink 1-D", errno.EROFS)

    with pytest.raises(OSError, match="may be sent again"):
        queue.done("1")
    queue.readDirectory()

    assert not queue.hasWaiting()
    trace.heal()
    queue.readDirectory()
    assert names(root) == set()


def test_a_message_added_by_hand_after_it_was_done_waits(root: Path, trace: "Trace") -> None:
    """addMessage takes the order to remove it back, as setWaiting does."""
    queue = Queue(root)
    put(root, "1")
    trace.fail("unlink 1-D", errno.EROFS)
    with pytest.raises(OSError, match="may be sent again"):
        queue.done("1")
    trace.heal()

    queue.addMessage("1")
    queue.readDirectory()

    assert queue.getWaiting() == ["1"]
    assert names(root) == {"1-D", "1-H"}


def stuck(root: Path, trace: "Trace", messages: list[str]) -> Queue:
    """A queue whose messages were delivered and could not be removed."""
    queue = Queue(root)
    for message in messages:
        queue.setRelaying(message)
        trace.fail(f"unlink {message}-D", errno.EROFS)
        with pytest.raises(OSError, match="may be sent again"):
            queue.done(message)
    return queue


@pytest.mark.parametrize("step", ["unlink 1-H", "fsync queue"])
def test_trouble_after_the_content_is_gone_is_only_logged(
    root: Path, trace: "Trace", lines: list[str], step: str
) -> None:
    """Without content the message is over, whatever becomes of its envelope."""
    put(root, "1")
    queue = Queue(root)
    queue.setRelaying("1")
    trace.fail(step, errno.EIO)

    queue.done("1")
    queue.readDirectory()

    assert (queue.waiting, queue.relayed) == ({}, {})
    assert [line for line in lines if "Input/output error" in line and "queue/1" in line]


# ---- what is found in a directory


def test_unfinished_files_are_ignored_and_never_removed(root: Path, lines: list[str]) -> None:
    """A -C and a lone -H may be another process's message on its way in."""
    (root / "1-H").write_bytes(b"x")
    (root / "1-C").write_bytes(b"x")
    (root / "2-H").write_bytes(b"")
    (root / "README").write_bytes(b"")

    queue = Queue(root)
    queue.readDirectory()

    assert not queue.hasWaiting()
    assert names(root) == {"1-H", "1-C", "2-H", "README"}
    assert lines == []


def test_what_is_no_message_is_told_once_and_left_where_it_is(root: Path, lines: list[str]) -> None:
    """Content without envelope, or what is no file: one clear line each, not at each poll."""
    put(root, "sound")
    (root / "alone-D").write_bytes(b"x")
    (root / "folder-D").mkdir()
    (root / "folder-H").write_bytes(b"x")
    os.mkfifo(root / "pipe-D")
    (root / "pipe-H").write_bytes(b"x")
    (root / "hpipe-D").write_bytes(b"x")
    os.mkfifo(root / "hpipe-H")
    (root / "broken-D").symlink_to(root / "nowhere")
    (root / "broken-H").write_bytes(b"x")
    before = names(root)

    queue = Queue(root)
    queue.readDirectory()
    queue.readDirectory()

    assert queue.getWaiting() == ["sound"]
    assert names(root) == before
    lines.remove("Set sound waiting")
    assert sorted(lines) == [
        f"{root}/alone-D is not a message, and left where it is: it has no envelope (-H)",
        f"{root}/broken-D is not a message, and left where it is: it is no regular file",
        f"{root}/folder-D is not a message, and left where it is: it is no regular file",
        f"{root}/hpipe-D is not a message, and left where it is: its envelope (-H) is no regular file",
        f"{root}/pipe-D is not a message, and left where it is: it is no regular file",
    ]


def test_content_without_envelope_is_a_message_once_its_envelope_is_there(root: Path, lines: list[str]) -> None:
    """An operator who puts the envelope back need not restart anything; trouble that returns is told again."""
    (root / "1-D").write_bytes(b"x")
    queue = Queue(root)
    (root / "1-H").write_bytes(pickle.dumps(["a@b", "c@d"]))
    queue.readDirectory()
    assert queue.getWaiting() == ["1"]

    (root / "1-H").unlink()
    queue.readDirectory()

    assert not queue.hasWaiting()
    assert [line for line in lines if "has no envelope" in line and "1-D" in line] == [lines[0], lines[-1]]


def test_odd_names_break_nothing(root: Path, lines: list[str]) -> None:
    """Names without base, with line ends, odd Unicode or undecodable octets are messages or told, and can be done."""
    odd = ["", "-D", "a\nSet b waiting", "ünï☃", os.fsdecode(b"\xff\xfe"), "x" * 200, "x-D", "-H"]
    for name in odd:
        put(root, name)

    queue = Queue(root)
    assert set(queue.getWaiting()) == set(odd) - {""}
    assert all(line.isascii() and "\n" not in line and len(line) < 500 for line in lines)
    assert len(lines) == len(odd)
    for name in queue.getWaiting():
        assert queue.getEnvelope(name) == ["a@b", "c@d"]
        queue.setRelaying(name)
        queue.done(queue.getPath(name))

    assert names(root) == {"-D", "-H"}


@pytest.mark.parametrize("gone", ["1-D", "1-H"])
@pytest.mark.parametrize("relaying", [False, True])
def test_a_message_somebody_took_is_forgotten(root: Path, lines: list[str], gone: str, relaying: bool) -> None:
    """An operator removed it: it neither waits nor is relayed, and the log says so."""
    put(root, "1")
    put(root, "2")
    queue = Queue(root)
    if relaying:
        queue.setRelaying("1")
    lines.clear()
    (root / gone).unlink()

    queue.readDirectory()
    queue.readDirectory()

    assert (queue.waiting, queue.relayed) == ({"2": 1}, {})
    assert lines[0] == f"{root}/1 is forgotten: somebody removed its files"
    assert len(lines) == (1 if gone == "1-D" else 2)


def test_a_name_that_the_listing_missed_is_not_forgotten(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing is no snapshot: what is replaced by a rename meanwhile may be missing in it."""
    put(root, "1")
    queue = Queue(root)
    hide(monkeypatch, "1-H")

    queue.readDirectory()

    assert queue.getWaiting() == ["1"]


def test_an_envelope_that_the_listing_missed_is_no_trouble(
    root: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Another process's new message, of which the listing caught one half: taken up at the next look, and no alarm."""
    queue = Queue(root)
    put(root, "1")
    hide(monkeypatch, "1-H")
    queue.readDirectory()
    assert (queue.waiting, lines) == ({}, [])

    monkeypatch.undo()
    queue.readDirectory()

    assert queue.getWaiting() == ["1"]


def hide(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scandir = os.scandir

    class Partial:
        def __init__(self, path: str) -> None:
            self.entries = scandir(path)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return (entry for entry in self.entries if entry.name != name)

        def __exit__(self, *why: object) -> None:
            self.entries.close()

    monkeypatch.setattr(os, "scandir", Partial)


# ---- a directory in trouble


@pytest.mark.parametrize(
    ("make", "error"),
    [(lambda path: None, FileNotFoundError), (lambda path: path.write_bytes(b""), NotADirectoryError)],
)
def test_a_directory_that_is_none_is_refused_by_name(
    tmp_path: Path, make: Callable[[Path], None], error: type[OSError]
) -> None:
    """A typing error in the configuration is told at once; unpickling is no different."""
    path = tmp_path / "queue"
    path.mkdir()
    octets = pickle.dumps(Queue(path))
    path.rmdir()
    make(path)

    with pytest.raises(error, match=str(path)):
        Queue(path)
    with pytest.raises(error, match=str(path)):
        pickle.loads(octets)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOENT])
def test_a_directory_that_cannot_be_listed_for_a_while_loses_nothing(
    root: Path, trace: "Trace", lines: list[str], number: int
) -> None:
    """One line when it begins, one when it ends; what is known stays known, what came meanwhile is found."""
    put(root, "1")
    queue = Queue(root)
    lines.clear()
    trace.fail("scandir queue", number)

    queue.readDirectory()
    queue.readDirectory()
    assert queue.getWaiting() == ["1"]
    assert lines == [
        f"cannot list the directory {root}: {os.strerror(number)}; what is known stays",
    ]
    put(root, "2")
    trace.heal()
    queue.readDirectory()

    assert queue.getWaiting() == ["1", "2"]
    assert lines[1:] == [f"the queue directory {root} can be listed again", "Set 2 waiting"]
    queue.readDirectory()
    assert len(lines) == 3
    trace.fail("scandir queue", number)
    queue.readDirectory()
    assert lines[3:] == lines[:1]


def test_a_directory_without_permission_opens_when_it_has_it(root: Path, trace: "Trace", lines: list[str]) -> None:
    """A queue may be made before its directory can be read: nothing is raised, and nothing need be restarted."""
    put(root, "1")
    trace.fail("scandir queue", errno.EACCES)

    queue = Queue(root)
    trace.heal()
    queue.readDirectory()

    assert queue.getWaiting() == ["1"]
    assert len([line for line in lines if "Permission denied" in line]) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_a_directory_whose_files_may_not_be_seen_is_told(root: Path, lines: list[str]) -> None:
    """Names without the right to look at the files: told, and taken up when the right is there."""
    put(root, "1")
    root.chmod(0o400)
    queue = Queue(root)
    root.chmod(0o700)

    assert not queue.hasWaiting()
    queue.readDirectory()
    assert queue.getWaiting() == ["1"]
    assert "Permission denied" in lines[0]


# ---- damaged envelopes


def test_a_damaged_message_is_set_aside_until_its_envelope_is_repaired(root: Path, lines: list[str]) -> None:
    """It is not tried again at each poll, its files are untouched, and repairing the file is enough."""
    put(root, "1", envelope=b"cos\nsystem\n.")
    put(root, "2")
    queue = Queue(root)
    with pytest.raises(pickle.UnpicklingError, match="queue/1-H is no envelope") as caught:
        queue.getEnvelope("1")
    queue.setRelaying("1")
    lines.clear()

    queue.setAside("1", str(caught.value))
    queue.readDirectory()
    queue.readDirectory()

    assert (queue.waiting, queue.relayed) == ({"2": 1}, {})
    assert queue.damaged == {"1": str(caught.value)}
    assert (root / "1-H").read_bytes() == b"cos\nsystem\n."
    assert len(lines) == 1
    assert lines[0].startswith(f"{root}/1 is set aside, its files untouched: {root}/1-H is no envelope: opcode b'c'")
    (root / "1-H").write_bytes(pickle.dumps(["a@b", "c@d"]))
    queue.readDirectory()
    assert queue.getWaiting() == ["1", "2"]
    assert queue.damaged == {}


def test_repairing_permissions_is_enough(root: Path) -> None:
    """An envelope that could not be opened is tried again when its mode or owner changes."""
    put(root, "1")
    (root / "1-H").chmod(0o000)
    queue = Queue(root)
    queue.setAside("1", "Permission denied")
    queue.readDirectory()
    assert not queue.hasWaiting()
    before = (root / "1-H").stat().st_ctime_ns

    while (root / "1-H").stat().st_ctime_ns == before:  # the clock of the file system ticks every few milliseconds
        (root / "1-H").chmod(0o600)
    queue.readDirectory()

    assert queue.getWaiting() == ["1"]


def test_the_log_shows_no_control_characters_of_a_reason(root: Path, lines: list[str]) -> None:
    """A file's name is part of the reason, and whoever chose it must not write into a terminal or forge a line."""
    name = "x\x1b[2J\nall is well"
    put(root, name, envelope=b"rubbish")
    queue = Queue(root)
    lines.clear()

    queue.setAside(name, f"{name}-H is no envelope" + "!" * 1000)

    assert len(lines) == 1
    assert lines[0].isprintable()
    assert "-H is no envelope" in lines[0]
    assert len(lines[0]) < 700


@pytest.mark.parametrize("settled", [True, False])
def test_of_many_damaged_some_are_looked_at_each_poll(
    root: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    """A hundred a poll, none twice in it, and each in its turn, whether the directory must be listed or not."""
    for number in range(250):
        put(root, f"m{number}", envelope=b"")
    queue = Queue(root)
    queue.noisy = False
    for message in queue.getWaiting():
        queue.setAside(message, "a test")
    if settled:
        quiet(root)
        queue.readDirectory()
    looked: list[str] = []
    real = os.stat

    def watch(path: Any, *arguments: Any, **others: Any) -> os.stat_result:
        if str(path).endswith("-H"):
            looked.append(str(path))
        return real(path, *arguments, **others)

    monkeypatch.setattr(os, "stat", watch)
    for _ in range(5):
        looked.clear()
        queue.readDirectory()
        assert len(looked) == len(set(looked)) == 100

    turns: set[str] = set()
    for _ in range(3):
        looked.clear()
        queue.readDirectory()
        turns.update(looked)
    assert len(turns) == 250


def test_every_one_of_many_damaged_is_taken_up_once_repaired(root: Path, lines: list[str]) -> None:
    """However many there are: after as many polls as their turns take."""
    for number in range(250):
        put(root, f"m{number}", envelope=b"")
    queue = Queue(root)
    queue.noisy = False
    for message in queue.getWaiting():
        queue.setAside(message, "a test")
    for number in range(250):
        put(root, f"m{number}")

    counts = []
    for _ in range(3):
        queue.readDirectory()
        counts.append(len(queue.waiting))

    assert counts == [100, 200, 250]
    assert queue.damaged == {}


def test_an_envelope_that_became_a_pipe_is_an_error_and_no_wait(root: Path) -> None:
    """Opening a FIFO waits for a writer, and with it the whole program."""
    put(root, "1")
    queue = Queue(root)
    (root / "1-H").unlink()
    os.mkfifo(root / "1-H")
    writer = os.open(root / "1-H", os.O_RDWR)  # a blocking open would succeed, and the test still end
    try:
        with pytest.raises(OSError, match="regular"):
            queue.getEnvelopeFile("1")
        with pytest.raises(OSError, match="regular"):
            queue.getEnvelope("1")
    finally:
        os.close(writer)


@pytest.mark.parametrize("gone", ["1-D", "1-H"])
def test_a_damaged_message_that_is_removed_is_forgotten(root: Path, lines: list[str], gone: str) -> None:
    """What an operator removes does not stay in memory, and is not said to be tried again."""
    put(root, "1")
    queue = Queue(root)
    queue.setAside("1", "a test")
    (root / gone).unlink()

    queue.readDirectory()

    assert queue.damaged == {}
    assert not queue.hasWaiting()
    assert not [line for line in lines if "tried again" in line]


# ---- receiving


class Trace:
    """What is asked of the file system, in order, by file name; fails or crashes where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.steps: list[str] = []
        self.failing: dict[str, int] = {}
        self.crash_at = -1
        self.root = root
        for name in ("fsync", "rename", "replace", "unlink", "scandir"):
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def fail(self, step: str, number: int) -> None:
        """Fail at a step as long as heal is not called."""
        self.failing[step] = number

    def heal(self) -> None:
        """Let everything work again."""
        self.failing.clear()
        self.crash_at = -1

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any, **others: Any) -> Any:
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target)
            tail = path.name
            early = "empty " if name == "fsync" and path.is_file() and not path.stat().st_size else ""
            step = f"{name} {early}" + (tail if "-" not in tail or tail.startswith("1-") else "*" + tail[-2:])
            self.steps.append(step)
            if self.crash_at == len(self.steps):
                raise Crash
            if step in self.failing:
                raise OSError(self.failing[step], os.strerror(self.failing[step]), str(path))
            return real(target, *arguments, **others)

        return call


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch, root: Path) -> Trace:
    """The file system, watched."""
    return Trace(monkeypatch, root)


IN_ORDER = ["fsync *-H", "fsync *-C", "rename *-C", "fsync queue"]


@pytest.mark.parametrize("closed", [True, False])
def test_a_message_is_durable_step_by_step_before_it_counts(root: Path, trace: Trace, closed: bool) -> None:
    """Envelope, content, rename, directory, in this order, and only then the Deferred; the envelope closed or not."""
    queue = Queue(root)
    envelope, message = queue.createNewMessage()
    write_envelope(envelope, "a@b", "c@d")
    message.lineReceived(b"hello")
    trace.steps.clear()
    if closed:
        envelope.close()
        assert trace.steps == IN_ORDER[:1]
    steps_when_fired: list[list[str]] = []

    message.eomReceived().addCallback(lambda _: steps_when_fired.append(list(trace.steps)))
    envelope.close()

    assert steps_when_fired == [IN_ORDER]
    assert trace.steps == IN_ORDER


def test_a_message_received_is_what_was_sent(root: Path) -> None:
    """The Deferred gives the final name, as a FileMessage does; lines keep their octets."""
    queue = Queue(str(root))
    envelope, message = queue.createNewMessage()
    with envelope:
        pickle.dump(["header", 7], envelope)
        assert not queue.hasWaiting()
    assert isinstance(message, FileMessage)
    assert IMessage.providedBy(message)
    assert (message.fp.name, message.name[-2:], message.finalName[-2:]) == (message.name, "-C", "-D")
    message.lineReceived(b"\xff\x00 .")
    message.lineReceived(b"")

    assert kept(message) == message.finalName
    assert kept(message) == message.finalName
    message.connectionLost()

    queue.readDirectory()
    assert Path(queue.getPath(queue.getWaiting()[0]) + "-D").read_bytes() == b"\xff\x00 .\n\n"
    assert queue.getEnvelope(queue.getWaiting()[0]) == ["header", 7]
    assert len(names(root)) == 2


def receive(root: Path) -> bool:
    """Receive one message into a new queue; tell whether it was acknowledged."""
    envelope, message = Queue(root).createNewMessage()
    fired: list[Any] = []
    try:
        with envelope:
            write_envelope(envelope, "a@b", "c@d")
        message.lineReceived(b"whole")
        message.eomReceived().addCallbacks(fired.append, lambda failure: None)
    except Crash:
        message.fp.raw.close()  # as the end of a process does: without what is buffered
        raise
    return bool(fired)


@pytest.mark.parametrize("step", range(1, 7))
def test_a_crash_at_any_step_leaves_the_whole_message_or_none(root: Path, trace: Trace, step: int) -> None:
    """Whenever the process dies: afterwards a message is there with envelope and content, or it is not there."""
    trace.crash_at = step  # the first two steps list the directory
    with pytest.raises(Crash):
        receive(root)
    assert len(trace.steps) == step
    trace.heal()

    again = Queue(root)

    assert len(again.getWaiting()) == (1 if step == 6 else 0)
    for message in again.getWaiting():
        assert again.getEnvelope(message) == ["a@b", "c@d"]
        assert Path(again.getPath(message) + "-D").read_bytes() == b"whole\n"


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_crash_while_a_message_is_removed_leaves_it_whole_or_gone(
    root: Path, trace: Trace, lines: list[str], step: int
) -> None:
    """Delivered, and the process dies: the message is there again as a whole, or over, and nothing looks damaged."""
    put(root, "1")
    queue = Queue(root)
    trace.steps.clear()
    trace.crash_at = step
    with pytest.raises(Crash):
        queue.done("1")
    trace.heal()
    lines.clear()

    again = Queue(root)

    assert again.getWaiting() == (["1"] if step == 1 else [])
    assert lines == (["Set 1 waiting"] if step == 1 else [])


def test_six_steps_are_all_there_are(root: Path, trace: Trace) -> None:
    """The crash test above visits every step."""
    assert receive(root)

    assert trace.steps == ["scandir queue", "scandir queue", *IN_ORDER]


@pytest.mark.parametrize("step", IN_ORDER[1:])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_message_that_cannot_be_made_durable_does_not_count(root: Path, trace: Trace, step: str, number: int) -> None:
    """The Deferred fails with the error, and no file of the message is left; no fsync is tried twice on a file."""
    queue = Queue(root)
    envelope, message = queue.createNewMessage()
    with envelope:
        write_envelope(envelope, "a@b", "c@d")
    message.lineReceived(b"hello")
    trace.fail(step, number)

    error = refused(message)
    again = refused(message)

    assert isinstance(error, OSError)
    assert error.errno == number
    assert isinstance(again, (OSError, ValueError))
    assert trace.steps.count(step) == 1
    trace.heal()
    assert names(root) == set()


def test_an_envelope_whose_fsync_failed_is_not_believed_a_second_time(root: Path, trace: Trace) -> None:
    """A caller that overlooks the error of close does not get its message acknowledged; fsync is not asked again."""
    queue = Queue(root)
    envelope, message = queue.createNewMessage()
    write_envelope(envelope, "a@b", "c@d")
    trace.fail("fsync *-H", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        envelope.close()
    trace.heal()

    envelope.close()
    error = refused(message)

    assert isinstance(error, OSError)
    assert trace.steps.count("fsync *-H") == 1
    assert names(root) == set()


def test_a_rename_that_cannot_be_taken_back_is_told(root: Path, trace: Trace, lines: list[str]) -> None:
    """The directory does not sync, the file cannot be removed: not acknowledged, at worst a duplicate, logged."""
    queue = Queue(root)
    envelope, message = queue.createNewMessage()
    with envelope:
        write_envelope(envelope, "a@b", "c@d")
    trace.fail("fsync queue", errno.EIO)
    trace.fail("unlink *-D", errno.EIO)

    assert isinstance(refused(message), OSError)

    assert any("may be sent although it was not acknowledged" in line for line in lines)


@pytest.mark.parametrize("closed", [True, False])
def test_a_message_without_envelope_is_not_acknowledged(root: Path, closed: bool) -> None:
    """An envelope that nobody wrote fails the Deferred: the message could go nowhere."""
    envelope, message = Queue(root).createNewMessage()
    if closed:
        envelope.close()
    message.lineReceived(b"hello")

    assert "no envelope" in str(refused(message))
    assert names(root) == set()


def test_a_message_whose_envelope_was_removed_is_not_acknowledged(root: Path) -> None:
    """An operator tidied up too early: content alone does not count."""
    envelope, message = Queue(root).createNewMessage()
    with envelope:
        write_envelope(envelope, "a@b", "c@d")
    Path(envelope.path).unlink()

    assert isinstance(refused(message), FileNotFoundError)
    assert names(root) == set()


@pytest.mark.parametrize("closed", [True, False])
def test_a_message_broken_off_leaves_nothing(root: Path, closed: bool) -> None:
    """The connection is lost: -C and -H are gone, whether the envelope was closed or not, and once more is harmless."""
    envelope, message = Queue(root).createNewMessage()
    write_envelope(envelope, "a@b", "c@d")
    if closed:
        envelope.close()
    message.lineReceived(b"hello")

    message.connectionLost()
    message.connectionLost()

    assert envelope.closed
    assert message.fp.closed
    envelope.close()
    assert names(root) == set()
    assert isinstance(refused(message), (OSError, ValueError))
    assert names(root) == set()


def test_a_line_the_disk_did_not_take_is_never_acknowledged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle and has space at the end: a message with a hole is not kept."""
    envelope, message = Queue(root).createNewMessage()
    with envelope:
        write_envelope(envelope, "a@b", "c@d")

    class Full:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def write(self, octets: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    real = message.fp
    message.fp = Full(real)
    with pytest.raises(OSError, match="No space"):
        message.lineReceived(b"lost")
    message.fp = real

    assert isinstance(refused(message), OSError)
    assert names(root) == set()


def test_an_envelope_the_disk_did_not_take_is_never_acknowledged(root: Path) -> None:
    """/dev/full in the middle of an envelope: the error is raised, and remembered."""
    envelope, message = Queue(root).createNewMessage()
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, envelope.fileno())
    os.close(full)
    with pytest.raises(OSError, match="No space"), envelope:
        envelope.write(b"x" * 100_000)

    assert isinstance(refused(message), OSError)
    assert names(root) == set()


def test_a_content_file_that_cannot_be_made_leaves_no_envelope(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptors left after the envelope: the error is raised, and the envelope file is gone."""
    queue = Queue(root)
    real = Path.open

    def fail_for_content(self: Path, *arguments: Any, **others: Any) -> Any:
        if self.name.endswith("-C"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(self, *arguments, **others)

    monkeypatch.setattr(Path, "open", fail_for_content)

    with pytest.raises(OSError, match="Too many open files"):
        queue.createNewMessage()
    assert names(root) == set()


def test_names_have_the_classic_shape_and_never_meet(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two queues of one process number, at one moment, drawing the same number: still no file is used twice."""
    monkeypatch.setattr(time, "time", lambda: 1234.5)
    draws = itertools.repeat(77)
    monkeypatch.setattr(secrets, "randbits", lambda bits: next(draws))

    made = [add(Queue(root)) for _ in range(3)]

    assert made == [f"{os.getpid()}_1234.5_{number}_77" for number in range(3)]


def test_names_differ_after_a_clock_step_and_a_restart(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same process number, count and second again: a message sent long ago lends its name to nobody."""
    monkeypatch.setattr(time, "time", lambda: 1234.5)

    made = {Queue(root)._new_name() for _ in range(100)}

    assert len(made) == 100


def test_threads_make_messages_of_their_own(root: Path) -> None:
    """Threads that share a queue never share a file."""
    queue = Queue(root)
    queue.noisy = False
    made: list[str] = []

    def work() -> None:
        for _ in range(10):
            made.append(add(queue))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(set(made)) == 30
    queue.readDirectory()
    assert set(queue.getWaiting()) == set(made)


def test_files_have_the_mode_the_umask_says(root: Path) -> None:
    """Permissions are the operator's business, as ever."""
    before = os.umask(0o027)
    try:
        name = add(Queue(root))
    finally:
        os.umask(before)

    assert {stat.S_IMODE((root / f"{name}{suffix}").stat().st_mode) for suffix in ("-D", "-H")} == {0o640}


# ---- speed


def test_known_messages_are_neither_looked_at_nor_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll of a long queue costs one listing at most: no stat and no open per message."""
    for number in range(30):
        put(root, f"m{number}", 1e9 + number)
    queue = Queue(root)
    queue.noisy = False
    put(root, "new")
    asked: list[Any] = []

    def watch(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **others: Any) -> Any:
            asked.append(given)
            return real(*given, **others)

        return call

    for name in ("stat", "lstat", "open"):
        monkeypatch.setattr(os, name, watch(getattr(os, name)))

    queue.readDirectory()
    queue.getWaiting()

    assert len(queue.waiting) == 31
    assert asked == [(root,)]  # the directory's own time


def quiet(root: Path) -> float:
    """Let a directory look as if nothing had happened in it for an hour; gives when it last did."""
    at = time.time() - 3600
    os.utime(root, (at, at))
    return at


def test_a_directory_in_which_nothing_happens_is_not_listed_again(root: Path, trace: Trace) -> None:
    """With 20,000 messages waiting, a poll a second must not cost a listing each."""
    put(root, "one")
    quiet(root)
    queue = Queue(root)
    seen = len(trace.steps)

    queue.readDirectory()
    assert trace.steps[seen:] == []

    put(root, "two")
    queue.readDirectory()
    assert queue.getWaiting() == ["one", "two"]


def test_a_directory_that_changed_just_now_is_listed_until_its_time_can_tell(root: Path) -> None:
    """Time stamps may be as coarse as two seconds: a message that came within the same one is found at once."""
    queue = Queue(root)
    put(root, "one")
    queue.readDirectory()
    at = root.stat()

    put(root, "two")
    os.utime(root, ns=(at.st_atime_ns, at.st_mtime_ns))
    queue.readDirectory()

    assert queue.getWaiting() == ["one", "two"]


def test_a_directory_whose_time_stands_still_is_listed_twice_a_minute(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that keeps no time for directories a message is late, not lost; nor if the clock goes back."""
    at = quiet(root)
    queue = Queue(root)
    now = time.time()
    for name, later in (("one", 31.0), ("two", -3600.0)):
        put(root, name)
        os.utime(root, (at, at))
        queue.readDirectory()
        assert name not in queue.getWaiting()

        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        queue.readDirectory()
        assert name in queue.getWaiting()


def test_a_message_repaired_in_a_quiet_directory_is_taken_up_at_once(root: Path) -> None:
    """Writing to an envelope in place changes no directory's time."""
    put(root, "one", envelope=b"nonsense")
    quiet(root)
    queue = Queue(root)
    queue.setAside("one", "damaged")

    (root / "one-H").write_bytes(pickle.dumps(["a@b", "c@d"]))
    queue.readDirectory()

    assert queue.getWaiting() == ["one"]


@pytest.mark.parametrize("suffix", ["-D", "-H"])
def test_a_link_is_no_message(root: Path, lines: list[str], suffix: str) -> None:
    """Who may write the directory gets no file mailed that only we can read."""
    put(root, "one")
    (root / f"one{suffix}").rename(root.parent / "secret")
    (root / f"one{suffix}").symlink_to(root.parent / "secret")

    queue = Queue(root)

    assert queue.getWaiting() == []
    assert any("no regular file" in line for line in lines)
    if suffix == "-H":
        with pytest.raises(OSError, match="symbolic"):
            queue.getEnvelopeFile("one")
