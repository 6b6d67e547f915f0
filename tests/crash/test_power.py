# SPDX-License-Identifier: MIT
"""Power cuts: an image loses what was not synced and nothing else, leaves nothing behind, and the suite sees a loss."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bench.children import Scratch
from crash.cuts import Cut, CutBooks, Moment, Result, repeats
from crash.image import KINDS, Image, missing_for_images, private_mounts
from crash.ledger import compare
from crash.options import Options
from crash.relay import Relay

from crash import power

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from bench.children import Scratch
from crash.image import Image, private_mounts
with Scratch(Path(sys.argv[1])) as scratch, private_mounts():
    image = Image(scratch, "held", "ext4")
    image.mount()
    scratch.start("holder", ["sh", "-c", "sleep 60 >" + str(image.path / "open")])
    while not (image.path / "open").exists():
        time.sleep(0.01)
    print("mounted", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def images() -> None:
    """Skips, and says why, where no image can be mounted."""
    if missing := missing_for_images(Path("/var/tmp")):
        pytest.skip("; ".join(missing))


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait for what the guard and the kernel do in their own time."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


def loops_of(directory: Path) -> list[str]:
    """Give the files in a directory that are loop devices, deleted or not."""
    devices = Path("/sys/block").glob("loop*/loop/backing_file")
    return [text for device in devices if (text := read_or_nothing(device)).startswith(str(directory))]


def read_or_nothing(path: Path) -> str:
    """Give the text of what may be gone at any moment."""
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("kind", KINDS)
def test_power_cut_loses_what_was_not_synced_and_nothing_else(tmp_path: Path, kind: str) -> None:
    """A file that was synced is there after the journal's replay; one that was only written is not, nor is its name."""
    with Scratch(tmp_path) as scratch, private_mounts():
        image = Image(scratch, "cut", kind)
        image.mount()
        with (image.path / "synced").open("wb") as file:
            file.write(b"kept")
            file.flush()
            os.fsync(file.fileno())
        (image.path / "written").write_bytes(b"gone")

        image.cut()
        image.unmount()
        image.mount()

        assert [path.name for path in image.path.iterdir() if path.is_file()] == ["synced"]
        assert (image.path / "synced").read_bytes() == b"kept"
        image.unmount()


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.usefixtures("images")
def test_image_is_seen_by_nobody_else_and_goes_with_its_owner_even_on_kill_9(tmp_path: Path) -> None:
    """The suite is killed while a program works on the image: no mount, loop device, process or file is left."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as suite:
        assert suite.stdout is not None
        assert suite.stdout.readline() == "mounted\n"
        seen_here = Path("/proc/mounts").read_text()
        seen_there = Path(f"/proc/{suite.pid}/mounts").read_text()
        suite.send_signal(signal.SIGKILL)

    assert str(tmp_path) in seen_there
    assert str(tmp_path) not in seen_here
    assert wait_until(lambda: not any(tmp_path.iterdir()))
    assert wait_until(lambda: not loops_of(tmp_path))


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.usefixtures("images")
def test_interrupted_suite_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a round unmounts the image, ends the relay, its load and sink, and removes the files."""
    words = ["-m", "crash", "--only", "power", "--no-postfix", "--rounds", "50", "--scratch", str(tmp_path)]
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True) as suite:
        assert wait_until(lambda: any(tmp_path.glob("*/*-books/ledger-0.jsonl")))
        suite.send_signal(signal.SIGINT)
        said = suite.communicate(timeout=60)[1]

    assert suite.returncode == 130
    assert "interrupted" in said
    assert wait_until(lambda: not any(tmp_path.iterdir()))
    assert wait_until(lambda: not loops_of(tmp_path))


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.usefixtures("images")
def test_acknowledged_mail_survives_a_cut_right_after_the_first_250(tmp_path: Path) -> None:
    """The state directory, made by the relay itself a moment before, is there again, and all that was promised."""
    with Scratch(tmp_path) as scratch:
        figure = power.cut_rounds(scratch, Options(seed=1), "ext4", 1, "smarthost", partial(Relay, scratch))

    assert (figure.n, figure.failures, figure.why) == (1, 0, "")
    assert int(figure.facts["acknowledged"]) > 0


def test_control_that_loses_nothing_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only a suite that sees losses when syncs do nothing proves that there are none when they do."""
    lines = {True: [], False: [arrival("ok.t.0@crash.test", 5.0)]}

    figures = {}
    for is_lost, log in lines.items():
        found = compare([promise("ok.t.0@crash.test")], log)
        result = Result(cuts=(cut(4.0),), found=found, acknowledged_after=0, most_duplicates=0)
        monkeypatch.setattr(power, "_cut_without_sync", lambda *_, result=result: result)
        monkeypatch.setattr(power, "private_mounts", nullcontext)
        figures[is_lost] = power.control(Scratch(tmp_path), Options(is_quick=True), "xfs")

    assert (figures[True].failures, figures[True].n) == (0, 1)
    assert (figures[False].failures, figures[False].n) == (1, power.CONTROLS_QUICK)
    assert "proves nothing" in figures[False].why


def test_repeated_arrival_is_explained_by_a_cut_in_between() -> None:
    """Twice around a cut is that cut's duplicate; twice without one is nobody's."""
    log = [arrival("ok.a.0@crash.test", 1.0), arrival("ok.b.0@crash.test", 1.0), report("<1>", 3.0)]
    again = [arrival("ok.a.0@crash.test", 5.0), arrival("ok.b.0@crash.test", 1.5), report("<1>", 9.0)]

    per_cut, unexplained = repeats([*log, *again], [cut(2.0), cut(8.0)])

    assert per_cut == [1, 1]
    assert unexplained == ["ok.b.0@crash.test"]


def test_series_that_could_not_go_on_is_one_failure_not_a_thousand_losses() -> None:
    """What had not arrived when a start failed is not called lost."""
    found = compare([promise("ok.t.0@crash.test")], [])
    result = Result(
        cuts=(cut(1.0),), found=found, acknowledged_after=0, most_duplicates=0, trouble="no start", is_cut_short=True
    )

    assert result.failures == 1


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "counted"), [(Moment.LOAD, 3), (Moment.GAP, 2)])
def test_word_of_a_relay_that_outlived_its_power_does_not_count(tmp_path: Path, moment: Moment, counted: int) -> None:
    """The kernel may tell it that a sync succeeded; but what frozen processes had said before is a promise."""
    with Scratch(tmp_path) as scratch:
        books = CutBooks(scratch, "b")
        file = tmp_path / scratch.path / "b-books" / "ledger-0.jsonl"
        books.load(1, 1, "--messages", "0").wait(20)
        file.write_text("".join(json.dumps(promise("ok.t.0@crash.test") | {"at": at}) + "\n" for at in (1.0, 4.2, 9.0)))
        books.cuts.append(cut(4.0, moment))

        assert books.acknowledged() == counted
        assert books.heard_after_cuts() == 1


def test_what_is_missing_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without mkfs.xfs, or without root, it says so instead of passing."""
    monkeypatch.setattr("crash.image.find_program", lambda name: None if name == "mkfs.xfs" else name)
    assert missing_for_images(tmp_path) == ["mkfs.xfs is not installed (package xfsprogs): run tools/system-packages"]

    monkeypatch.setattr("crash.image.find_program", str)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert missing_for_images(tmp_path) == ["only root may mount images: run as root"]


def cut(at: float, moment: Moment = Moment.LOAD) -> Cut:
    return Cut(moment, at, at, at + 0.5, 2)


def arrival(address: str, at: float) -> dict[str, Any]:
    return {"at": at, "token": "t", "from": "s@crash.test", "to": [address], "octets": 9, "sha256": "s"}


def report(id: str, at: float) -> dict[str, Any]:
    return {"at": at, "from": "", "to": ["sender"], "id": id, "report": ["no.t.0@crash.test"]}


def promise(address: str) -> dict[str, Any]:
    return {
        "token": "t", "event": "acknowledged", "at": 1.0, "sender": "s@crash.test", "recipients": [address],
        "octets": 9, "sha256": "s",
    }  # fmt: skip
