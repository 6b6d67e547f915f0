# SPDX-License-Identifier: MIT
"""`make test-twisted`: Twisted's own tests pass for ours, and the program that says so cannot be fooled.

Real runs are in child processes, as the program makes them; broken modules are handed to it by name. How outcomes are
judged is tested with outcomes made up here.
"""

import json
import subprocess
import sys
import unittest
from collections import Counter
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from tests.compat.twisted_suite.__main__ import ROOT, main, run_side
from tests.compat.twisted_suite.child import NOT_PORTED, Outcomes, SwapFailed, one_line, swap_in, take_skips_off
from tests.compat.twisted_suite.outcomes import (
    ERROR,
    EXPECTED,
    FAILED,
    GROUPS,
    OK,
    SKIPPED,
    Outcome,
    Side,
    Standing,
    faults,
    vanished,
)
from tests.compat.twisted_suite.table import show, totals

LIMIT_S = 120.0
AT_LEAST = {
    "MXTests": 16,
    "ManagedRelayerTests": 3,
    "DirectoryQueueTests": 4,
    "_AttemptManagerTests": 13,
    "RelayTests": 1,
    "RelayerTests": 3,
    "LiveFireExerciseTests": 1,
}
OURS = ("smarthost.compat.relaymanager", "smarthost.compat.relay")

# Handed to the program in place of ours: everything as it is, but for one thing.
BROKEN_MANAGER = "import smarthost.compat.relaymanager as _ours\nglobals().update(vars(_ours))\n__name__ = 'broken'\n"
BROKEN_RELAY = "import smarthost.compat.relay as _ours\nglobals().update(vars(_ours))\n__name__ = 'broken'\n"

QUEUE_OF_VIEWS = "class Queue(_ours.Queue):\n    def getWaiting(self): return self.waiting.keys()\n"
CALCULATOR_WITHOUT_MEMORY = "class MXCalculator(_ours.MXCalculator):\n    def markBad(self, mx): pass\n"
CALCULATOR_OF_ONE_MIND = (
    "class MXCalculator(_ours.MXCalculator):\n"
    "    def getMX(self, *a): return super().getMX(*a).addCallback(lambda r: vars(self).setdefault('first', r))\n"
)
CALCULATOR_THAT_SKIPS = (
    "import unittest\n"
    "class MXCalculator(_ours.MXCalculator):\n"
    "    def getMX(self, *a): raise unittest.SkipTest('not today')\n"
)
SILENT_ATTEMPT = "class _AttemptManager(_ours._AttemptManager):\n    def notifyFailure(self, relay, message): pass\n"
MANAGER_THAT_LEAVES_MAIL = (
    "class SmartHostSMTPRelayingManager(_ours.SmartHostSMTPRelayingManager):\n"
    "    def checkState(self):\n"
    "        from twisted.internet.defer import succeed\n"
    "        return succeed(None)\n"
)
CALCULATOR_THAT_LEAVES_A_CALL = (
    "class MXCalculator(_ours.MXCalculator):\n"
    "    def __init__(self, *a):\n"
    "        super().__init__(*a)\n"
    "        from twisted.internet import reactor\n"
    "        reactor.callLater(60, print)\n"
)
RELAYER_OF_OTHER_CONTENT = (
    "from io import BytesIO\n"
    "class SMTPManagedRelayer(_ours.SMTPManagedRelayer):\n"
    "    def getMailData(self):\n"
    "        file = super().getMailData()\n"
    "        return file and BytesIO(file.read().replace(b'message', b'massage'))\n"
    "_ours.SMTPManagedRelayerFactory.protocol = SMTPManagedRelayer\n"
)
RELAYER_OF_TEXT = (
    "from io import TextIOWrapper\n"
    "class RelayerMixin(_ours.RelayerMixin):\n"
    "    def getMailData(self):\n"
    "        file = super().getMailData()\n"
    "        return file and TextIOWrapper(file)\n"
)
QUEUER_THAT_REFUSES = (
    "class DomainQueuer(_ours.DomainQueuer):\n    def willRelay(self, address, protocol): return False\n"
)


def write_broken(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """Write a module that a child can import, and return its name."""
    (directory / "broken.py").write_text(text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(directory), prepend=":")
    return "broken"


def side_of(**changed: Outcome | None) -> Side:
    """Return a side on which all passed, but for the changed (`Class__test=None`: not there)."""
    outcomes: dict[str, Outcome] = {name: Outcome(ended=OK) for name in EXPECTED}
    for name, outcome in changed.items():
        outcomes.pop(name.replace("__", "."), None)
        if outcome is not None:
            outcomes[name.replace("__", ".")] = outcome
    return Side(twisted="26", outcomes=outcomes, not_python_3={"RelayTests.testExists": ("str", "Equivalents.exists")})


@pytest.mark.slow
def test_twisteds_own_tests_pass_for_ours(tmp_path: Path) -> None:
    """Every test of Twisted's passes for ours, itself or by its equivalent; the original fails some, and so what."""
    command = (sys.executable, "-m", "tests.compat.twisted_suite", "--json", str(tmp_path / "record.json"))

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert last["good"]
    assert last["vanished"] == []
    assert last["ours"]["passed"] + last["ours"]["by equivalent"] == last["ours"]["ran"] >= 41
    assert last["ours"]["by equivalent"] <= 4
    assert last["original"]["failed"] > 0
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    ran = Counter(name.split(".")[0] for name in record["ours_tests"])
    assert all(ran[group] >= number for group, number in AT_LEAST.items()), ran
    assert {module.partition(".")[0] for module in record["ours_defined"].values()} == {"smarthost"}
    assert set(record["original_defined"].values()) == {"twisted.mail.relaymanager", "twisted.mail.relay"}


@pytest.mark.slow
def test_broken_module_makes_the_program_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a queue as broken as the original's, the program exits 1 and says which test saw it."""
    module = write_broken(tmp_path, monkeypatch, BROKEN_MANAGER + QUEUE_OF_VIEWS)

    exit_code = main(["--relaymanager", module])

    said = capsys.readouterr().out
    assert exit_code == 1
    assert "DirectoryQueueTests.testWaiting: error (TypeError" in said.partition(f"{module}: ")[2]
    assert json.loads(said.splitlines()[-1])["good"] is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "named"),
    [
        (CALCULATOR_WITHOUT_MEMORY, ["MXTests.test_badExchangeExcluded: failed"]),
        (CALCULATOR_OF_ONE_MIND, ["MXTests.testManyRecords: error", "MXEquivalents.test_many_records: failed"]),
        (CALCULATOR_THAT_SKIPS, ["MXTests.test_cnameChain: skipped (not today)"]),
        (CALCULATOR_THAT_LEAVES_A_CALL, ["MXTests.test_cnameChain: error (Dirty"]),
        (SILENT_ATTEMPT, ["_AttemptManagerTests.test_notifyFailureNoisy: failed"]),
        (MANAGER_THAT_LEAVES_MAIL, ["LiveFireExerciseTests.testRelayDelivery", "test_relay_delivery: failed"]),
        (RELAYER_OF_OTHER_CONTENT, ["LiveFireExerciseTests.testRelayDelivery", "test_relay_delivery: failed"]),
    ],
)
def test_broken_manager_is_found(
    source: str, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relaymanager with one thing wrong has faults that name the tests which saw it."""
    module = write_broken(tmp_path, monkeypatch, BROKEN_MANAGER + source)

    found = "\n".join(faults(run_side(module, OURS[1])))

    assert all(each in found for each in named), found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "named"),
    [
        (QUEUER_THAT_REFUSES, ["RelayTests.testExists: error", "LiveFireExerciseTests.testRelayDelivery"]),
        (RELAYER_OF_TEXT, ["RelayerEquivalents.test_mail_data: failed"]),
    ],
)
def test_broken_relay_is_found(source: str, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay with one thing wrong has faults that name the tests which saw it."""
    module = write_broken(tmp_path, monkeypatch, BROKEN_RELAY + source)

    found = "\n".join(faults(run_side(OURS[0], module)))

    assert all(each in found for each in named), found


@pytest.mark.slow
def test_server_that_was_imported_before_is_swapped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the module under test imports Twisted's mail server, that gets ours all the same."""
    module = write_broken(tmp_path, monkeypatch, "import twisted.mail.mail\n" + BROKEN_RELAY)

    side = run_side(OURS[0], module)

    assert faults(side) == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "says"),
    [
        (BROKEN_MANAGER.replace("smarthost.compat", "twisted.mail"), "Twisted's own, from twisted.mail.relaymanager"),
        (
            BROKEN_MANAGER + "import twisted.mail.relaymanager as _o\nclass Queue(_o.Queue): pass\n",
            "Queue of broken is",
        ),
        (BROKEN_MANAGER + "from twisted.mail.relaymanager import CanonicalNameLoop\n", "CanonicalNameLoop of broken"),
        (BROKEN_MANAGER + "del RelayStateHelper\n", "broken has no RelayStateHelper"),
        (BROKEN_MANAGER + "__name__ = 'another'\n", "the tests see another where broken should be"),
        ("import twisted.mail.test.test_mail", "was imported before the swap"),
        ("import nowhere", "No module named 'nowhere'"),
        ("raise RuntimeError('no mood')", "no mood"),
        ("import os\nos._exit(0)", "exit 0: no word"),
    ],
)
def test_module_that_is_not_under_test_is_no_success(
    source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would have Twisted tested by itself, or nothing at all, is told as a fault instead of scored."""
    module = write_broken(tmp_path, monkeypatch, source)

    side = run_side(module, OURS[1])

    assert says in "".join(faults(side))
    assert side.outcomes == {}


@pytest.mark.slow
def test_side_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that never returns costs its time limit, and is a fault."""
    module = write_broken(tmp_path, monkeypatch, "while True: pass")

    started = monotonic()
    side = run_side(module, OURS[1], limit_s=1.0)

    assert monotonic() - started < 20
    assert faults(side) == ("broken: not ready after 1 s",)


def test_all_passed_is_good() -> None:
    """If every test passes as written, and the equivalent with it, there is no fault."""
    side = side_of(Equivalents__exists=Outcome(ended=OK))

    assert faults(side) == ()
    assert [side.count(group, Standing.PASSED) for group in GROUPS] == list(AT_LEAST.values())


@pytest.mark.parametrize("ended", [FAILED, ERROR])
def test_failed_test_passes_by_its_equivalent(ended: str) -> None:
    """A test that fails as written counts by its equivalent, and is not counted as passed."""
    side = side_of(RelayTests__testExists=Outcome(ended=ended), Equivalents__exists=Outcome(ended=OK))

    assert faults(side) == ()
    assert side.standing("RelayTests.testExists") is Standing.BY_EQUIVALENT
    assert side.count("RelayTests", Standing.PASSED) == 0


@pytest.mark.parametrize(
    ("side", "says"),
    [
        (side_of(RelayerTests__testMailTo=Outcome(ended=FAILED, why="no")), "RelayerTests.testMailTo: failed (no)"),
        (side_of(RelayTests__testExists=Outcome(ended=ERROR)), "its equivalent Equivalents.exists: not run"),
        (side_of(Equivalents__exists=Outcome(ended=FAILED, why="no")), "Equivalents.exists: failed (no)"),
        (side_of(RelayTests__testExists=None), "RelayTests: no test ran"),
        (side_of(nowhere=Outcome(ended=ERROR, why="logged")), "nowhere: error (logged)"),
        (
            side_of(RelayTests__testExists=Outcome(ended=SKIPPED), Equivalents__exists=Outcome(ended=OK)),
            "RelayTests.testExists: skipped",
        ),
        (Side(), "MXTests: no test ran"),
        (Side(trouble="broken"), "broken"),
    ],
)
def test_what_is_not_good_enough(side: Side, says: str) -> None:
    """Failed, skipped, outside any test, without a working equivalent, or nothing at all: each is a fault."""
    assert says in "\n".join(faults(side))


def test_vanished_test_is_told_loudly() -> None:
    """A test that this Twisted no longer has is named, and is no fault as long as its class has others."""
    side = side_of(MXTests__test_cnameChain=None, Equivalents__exists=Outcome(ended=OK))

    assert vanished(side) == ("MXTests.test_cnameChain",)
    assert "VANISHED from this Twisted: MXTests.test_cnameChain" in list(show(side, side, "ours"))
    assert totals(side, side)["vanished"] == ["MXTests.test_cnameChain"]
    assert faults(side) == ()


def test_equivalent_that_is_not_needed_any_more_is_told() -> None:
    """A test that passes as written although it has an equivalent is reported."""
    lines = "\n".join(show(side_of(), side_of(), "ours"))

    assert "PASSES AS WRITTEN" in lines


def test_original_never_counts() -> None:
    """Whatever the original scores, ours is good if ours is."""
    ours = side_of(Equivalents__exists=Outcome(ended=OK))

    assert totals(ours, Side(trouble="gone"))["good"] is True
    assert totals(Side(trouble="gone"), ours)["good"] is False


def test_skips_are_taken_off_for_one_reason_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only "not ported to Python 3" no longer skips."""
    monkeypatch.setattr(unittest, "skipIf", unittest.skipIf)
    take_skips_off()

    def mark(reason: str) -> Any:
        return unittest.skipIf(True, reason)(lambda: None)

    assert not hasattr(mark(NOT_PORTED), "__unittest_skip__")
    assert mark("posix only").__unittest_skip__


def test_worst_outcome_of_a_test_counts() -> None:
    """A test that passed and then left the reactor dirty has failed; one that nothing was heard of, too."""
    test = SimpleNamespace(id=lambda: "twisted.mail.Class.method")
    silent = SimpleNamespace(id=lambda: "twisted.mail.Class.silent")
    outcomes = Outcomes()

    for each in (test, silent):
        outcomes.start(each)
    outcomes.add(test, OK, "")
    outcomes.add(test, ERROR, "dirty")
    outcomes.add(test, FAILED, "later")

    assert outcomes.seen == {"Class.method": (ERROR, "dirty"), "Class.silent": (ERROR, "no outcome was reported")}


def test_reason_is_one_bounded_line() -> None:
    """A failure of many lines becomes one."""
    raised = ValueError("first\n  second " + "x" * 500)

    line = one_line((ValueError, raised, None))

    assert line.startswith("ValueError: first second xxx")
    assert len(line) == 200


def test_swap_after_the_tests_were_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that have seen the original already would test that."""
    monkeypatch.setitem(sys.modules, "twisted.mail.test.test_mail", SimpleNamespace())

    with pytest.raises(SwapFailed, match="before the swap"):
        swap_in(*OURS)
