# SPDX-License-Identifier: MIT
"""One side: swaps the modules under test in, runs Twisted's tests and our equivalents with trial, writes what came out.

`python -m tests.compat.twisted_suite.child RELAYMANAGER RELAY FILE` in a fresh interpreter: the names of two modules,
and the file that takes the outcomes as JSON. For the original, name the original. Refuses to run (exit 2, a line on
stderr) if the tests would see anything but the modules named: a swap that did not take would test Twisted by itself.
"""

import importlib
import io
import json
import sys
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.compat.twisted_suite.outcomes import CLASSES, ERROR, FAILED, OK, SINGLE_TESTS, SKIPPED

TWISTED_TESTS = "twisted.mail.test.test_mail"
NOT_PORTED = "not ported to Python 3"
NAMES = ("relaymanager", "relay")
UNDER_TEST = {
    "relaymanager": (
        "MXCalculator",
        "Queue",
        "SmartHostSMTPRelayingManager",
        "SmartHostESMTPRelayingManager",
        "ManagedRelayerMixin",
        "SMTPManagedRelayer",
        "ESMTPManagedRelayer",
        "SMTPManagedRelayerFactory",
        "ESMTPManagedRelayerFactory",
        "CanonicalNameLoop",
        "CanonicalNameChainTooLong",
        "RelayStateHelper",
        "_AttemptManager",
        "_checkState",
    ),
    "relay": ("DomainQueuer", "RelayerMixin", "SMTPRelayer", "ESMTPRelayer"),
}
_TEST_TIMEOUT_S = 5  # of trial, for each test, 45 in all: must be less than LIMIT_S together; a test takes milliseconds
_SEVERITY = (OK, SKIPPED, FAILED, ERROR)
_UNHEARD = (ERROR, "no outcome was reported")
_WHY_CHARACTERS = 200


class SwapFailed(Exception):
    """The tests would not see the modules that were named."""


def take_skips_off() -> None:
    """Make unittest.skipIf ignore skips for the reason that a test was not ported; call before the tests are read."""
    skip_if = unittest.skipIf

    def ported(condition: object, reason: str) -> Callable[[Any], Any]:
        return skip_if(condition if reason != NOT_PORTED else False, reason)

    unittest.skipIf = ported


def swap_in(relaymanager: str, relay: str) -> None:
    """Have twisted.mail.relaymanager and twisted.mail.relay be the modules of these names, for whoever imports them.

    Raises: SwapFailed when the tests are there already, having seen something else.
    """
    named = [importlib.import_module(relaymanager), importlib.import_module(relay)]
    if TWISTED_TESTS in sys.modules:
        raise SwapFailed(f"{TWISTED_TESTS} was imported before the swap")
    for name, module in zip(NAMES, named, strict=True):
        original = importlib.import_module(f"twisted.mail.{name}")
        # Ours may have had Twisted's server imported, which then holds the original.
        for holder in [loaded for path, loaded in sys.modules.items() if path.startswith("twisted.mail")]:
            if getattr(holder, name, None) is original:
                setattr(holder, name, module)
        sys.modules[f"twisted.mail.{name}"] = module


def check_swap(named: dict[str, str]) -> dict[str, str]:
    """Return for each name under test the module that defines what the tests see.

    Raises: SwapFailed when that is Twisted's although another was named, by inheritance or import, or is missing.
    """
    tests = importlib.import_module(TWISTED_TESTS)
    seen = {
        "relaymanager": tests.mail.relaymanager,
        "relay": tests.mail.relay,
    }
    if importlib.import_module("twisted.mail.protocols").relay is not seen["relay"]:
        raise SwapFailed("twisted.mail.protocols has another relay than the tests")
    if tests._AttemptManager is not seen["relaymanager"]._AttemptManager:
        raise SwapFailed("the tests have another _AttemptManager than relaymanager")
    defined: dict[str, str] = {}
    for name, module in seen.items():
        if module.__name__ != named[name]:
            raise SwapFailed(f"the tests see {module.__name__} where {named[name]} should be")
        defined |= {each: _definer(module, each, named[name]) for each in UNDER_TEST[name]}
    return defined


def _definer(module: ModuleType, name: str, named: str) -> str:
    """Return the module that defines a name under test, having looked at all that a class inherits, too."""
    found: Any = getattr(module, name, None)
    if found is None:
        raise SwapFailed(f"{module.__name__} has no {name}")
    originals = {f"twisted.mail.{each}" for each in NAMES}
    for owner in {base.__module__ for base in getattr(found, "__mro__", (found,))}:
        if owner in originals and named not in originals:
            raise SwapFailed(f"{name} of {named} is Twisted's own, from {owner}")
    return str(found.__module__)


class Outcomes:
    """What trial reported of each test; the worst counts, and a test of which nothing was heard is an error."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, str]] = {}

    def start(self, test: Any) -> None:
        """Expect an outcome of the test."""
        self.seen.setdefault(short_name(test), _UNHEARD)

    def add(self, test: Any, outcome: str, why: str) -> None:
        """Note an outcome, unless a worse one is known."""
        known = self.seen.get(short_name(test), _UNHEARD)
        if known is _UNHEARD or _SEVERITY.index(outcome) > _SEVERITY.index(known[0]):
            self.seen[short_name(test)] = (outcome, why)


def short_name(test: Any) -> str:
    """Return Class.method of a test, or all that its runner calls it (an error outside any test)."""
    identity = str(test.id())
    return ".".join(identity.rsplit(".", 2)[-2:]) if "." in identity else identity


def one_line(failure: Any) -> str:
    """Return why a test failed, bounded."""
    if isinstance(failure, tuple):
        failure = failure[1]
        kind, text = type(failure).__name__, str(failure)
    else:
        kind, text = failure.type.__name__, failure.getErrorMessage()
    return f"{kind}: {' '.join(text.split())}"[:_WHY_CHARACTERS]


def recording_reporter(outcomes: Outcomes) -> Callable[..., Any]:
    """Return trial's reporter, noting each outcome as well."""
    from twisted.trial.reporter import TestResult

    class Recorder(TestResult):
        def __init__(self, *_: object) -> None:  # stream, format, real time, publisher
            super().__init__()

        def startTest(self, test: Any) -> None:
            outcomes.start(test)
            super().startTest(test)

        def addSuccess(self, test: Any) -> None:
            outcomes.add(test, OK, "")
            super().addSuccess(test)

        def addError(self, test: Any, error: Any) -> None:
            outcomes.add(test, ERROR, one_line(error))
            super().addError(test, error)

        def addFailure(self, test: Any, fail: Any) -> None:
            outcomes.add(test, FAILED, one_line(fail))
            super().addFailure(test, fail)

        def addSkip(self, test: Any, reason: Any) -> None:
            outcomes.add(test, SKIPPED, str(reason)[:_WHY_CHARACTERS])
            super().addSkip(test, reason)

        def addExpectedFailure(self, test: Any, error: Any, todo: Any = None) -> None:
            outcomes.add(test, FAILED, f"expected by Twisted: {one_line(error)}")
            super().addExpectedFailure(test, error, todo)

        def addUnexpectedSuccess(self, test: Any, todo: Any = None) -> None:
            outcomes.add(test, OK, "unexpected by Twisted")
            super().addUnexpectedSuccess(test, todo)

    return Recorder


def tests_to_run(twisted_tests: ModuleType, equivalents: ModuleType) -> Iterator[Any]:
    """Yield what there is of the named classes and single tests, and every equivalent."""
    from twisted.trial.runner import TestLoader

    load = TestLoader().loadClass
    for name in CLASSES:
        if hasattr(twisted_tests, name):
            yield load(getattr(twisted_tests, name))
    for class_name, method in (name.split(".") for name in SINGLE_TESTS):
        if hasattr(getattr(twisted_tests, class_name, None), method):
            yield getattr(twisted_tests, class_name)(method)
    for name in sorted({stands_in.split(".")[0] for _, stands_in in equivalents.NOT_PYTHON_3.values()}):
        yield load(getattr(equivalents, name))


def run_tests(twisted_tests: ModuleType, equivalents: ModuleType) -> dict[str, tuple[str, str]]:
    """Run them with trial's runner, in a directory that it makes here, and return their outcomes by name."""
    from twisted.trial.runner import TestSuite, TrialRunner

    twisted_tests.timeout = equivalents.timeout = _TEST_TIMEOUT_S  # type: ignore[attr-defined]  # read by trial
    outcomes = Outcomes()
    runner = TrialRunner(recording_reporter(outcomes), stream=io.StringIO())
    runner.run(TestSuite(tests_to_run(twisted_tests, equivalents)))
    return outcomes.seen


def main(relaymanager: str, relay: str, file: str) -> int:
    """Swap, check, run, write; return the exit code."""
    take_skips_off()
    try:
        swap_in(relaymanager, relay)
        defined = check_swap({"relaymanager": relaymanager, "relay": relay})
    except (SwapFailed, ImportError) as trouble:
        print(f"not run: {trouble}", file=sys.stderr)
        return 2
    equivalents = importlib.import_module("tests.compat.equivalents")
    outcomes = run_tests(importlib.import_module(TWISTED_TESTS), equivalents)
    written = {
        "twisted": importlib.import_module("twisted").__version__,
        "defined": defined,
        "outcomes": outcomes,
        "not_python_3": equivalents.NOT_PYTHON_3,
    }
    Path(file).write_text(json.dumps(written), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
