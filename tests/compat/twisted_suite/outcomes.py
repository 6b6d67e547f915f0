# SPDX-License-Identifier: MIT
"""What came out of one side, and whether it is enough: pure values, judged without Twisted.

`Side` is what a child wrote. A test of Twisted passes itself, or by its equivalent if it failed as written; a skipped
or unheard test has not passed, and neither has a class of which nothing ran.
"""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

OK, SKIPPED, FAILED, ERROR = "ok", "skipped", "failed", "error"

# What Twisted 24.7.0 to 26.10.0 have. A test that is no longer there is reported; a new one runs as well.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "MXTests": (
        "testManyRecords",
        "testSimpleFailure",
        "testSimpleFailureWithFallback",
        "testSimpleSuccess",
        "test_badExchangeExcluded",
        "test_badExchangeExpires",
        "test_cnameChain",
        "test_cnameLoopWithGlueRecords",
        "test_cnameWithGlueRecords",
        "test_cnameWithoutGlueRecords",
        "test_defaultClock",
        "test_failureWithSuccessfulFallback",
        "test_fallbackForAllBadExchanges",
        "test_goodExchangeUsed",
        "test_mailExchangePreference",
        "test_successWithoutResults",
    ),
    "ManagedRelayerTests": ("testConnectionLost", "testFailedSentMail", "testSuccessfulSentMail"),
    "DirectoryQueueTests": ("testDone", "testEnvelope", "testRelaying", "testWaiting"),
    "_AttemptManagerTests": (
        "test_initNoisy",
        "test_initNoisyDefault",
        "test_initQuiet",
        "test_initReactor",
        "test_initReactorDefault",
        "test_notifyDoneNoisy",
        "test_notifyDoneQuiet",
        "test_notifyFailureNoisy",
        "test_notifyFailureQuiet",
        "test_notifyNoConnectionNoisy",
        "test_notifyNoConnectionQuiet",
        "test_notifySuccessNoisy",
        "test_notifySuccessQuiet",
    ),
    "RelayTests": ("testExists",),
    "RelayerTests": ("testMailData", "testMailFrom", "testMailTo"),
}
SINGLE_TESTS = ("LiveFireExerciseTests.testRelayDelivery",)
EXPECTED = (*(f"{name}.{test}" for name, tests in CLASSES.items() for test in tests), *SINGLE_TESTS)
GROUPS = (*CLASSES, *(name.split(".")[0] for name in SINGLE_TESTS))


class Standing(enum.Enum):
    """How a test of Twisted ended, its equivalent considered."""

    PASSED = "passed"
    BY_EQUIVALENT = "by equivalent"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What trial reported of one test, and why, in one line."""

    ended: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.ended} ({self.why})" if self.why else self.ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One run: every outcome by Class.method, or the trouble for which there is none."""

    twisted: str = "unknown"
    defined: Mapping[str, str] = field(default_factory=dict)  # name under test: the module that defines it
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    not_python_3: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # test: why, its equivalent
    trouble: str = ""

    def twisted_tests(self) -> tuple[str, ...]:
        """Return the names of what ran, without the equivalents."""
        ours = {equivalent.split(".")[0] for _, equivalent in self.not_python_3.values()}
        return tuple(name for name in self.outcomes if name.split(".")[0] not in ours)

    def standing(self, name: str) -> Standing:
        """Return how a test that ran stands; only one that failed as written is saved by its equivalent."""
        if self.passed(name):
            return Standing.PASSED
        if self.outcomes[name].ended == SKIPPED:
            return Standing.SKIPPED
        saved = name in self.not_python_3 and self.passed(self.not_python_3[name][1])
        return Standing.BY_EQUIVALENT if saved else Standing.FAILED

    def passed(self, name: str) -> bool:
        """Tell whether a test or an equivalent ran and passed."""
        return name in self.outcomes and self.outcomes[name].ended == OK

    def ended(self, name: str) -> str:
        """Return how a test or an equivalent ended, in words."""
        return str(self.outcomes.get(name, "not run"))

    def count(self, group: str, standing: Standing) -> int:
        """Return how many tests of a class of Twisted's stand so."""
        return sum(self.standing(name) is standing for name in self.of_group(group))

    def of_group(self, group: str) -> tuple[str, ...]:
        """Return the tests of a class of Twisted's that ran."""
        return tuple(name for name in self.twisted_tests() if name.split(".")[0] == group)


def read_side(text: str) -> Side:
    """Return what a child wrote."""
    written = json.loads(text)
    return Side(
        twisted=written["twisted"],
        defined=written["defined"],
        outcomes={name: Outcome(ended=ended, why=why) for name, (ended, why) in written["outcomes"].items()},
        not_python_3={name: (why, equivalent) for name, (why, equivalent) in written["not_python_3"].items()},
    )


def vanished(side: Side) -> tuple[str, ...]:
    """Return the tests that this Twisted no longer has; none if nothing ran at all."""
    return () if side.trouble else tuple(name for name in EXPECTED if name not in side.outcomes)


def faults(side: Side) -> tuple[str, ...]:
    """Return, a line each, why this side is not good enough; empty when it is."""
    if side.trouble:
        return (side.trouble,)
    return (
        *(f"{group}: no test ran" for group in GROUPS if not side.of_group(group)),
        *(
            f"{name}: {side.ended(name)}{_equivalent_too(side, name)}"
            for name in side.twisted_tests()
            if side.standing(name) in (Standing.SKIPPED, Standing.FAILED)
        ),
        *(f"{equivalent}: {side.ended(equivalent)}" for equivalent in _failed_beside(side)),
    )


def _failed_beside(side: Side) -> tuple[str, ...]:
    """Return the equivalents that failed although the test as written passed: what they ask is true on Python 3."""
    return tuple(
        equivalent
        for name, (_, equivalent) in side.not_python_3.items()
        if side.passed(name) and not side.passed(equivalent)
    )


def _equivalent_too(side: Side, name: str) -> str:
    """Say what came of the equivalent, if there is one that did not help."""
    if name not in side.not_python_3:
        return ""
    equivalent = side.not_python_3[name][1]
    return f"; its equivalent {equivalent}: {side.ended(equivalent)}"
