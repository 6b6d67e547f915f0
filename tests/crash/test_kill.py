# SPDX-License-Identifier: MIT
"""Random kill -9: short runs of each experiment, what counts as in flight, and relays that must be caught."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.children import Scratch
from crash.kill import measure, measure_postfix
from crash.postfix import missing_for_postfix
from crash.window import Crash, find_windows, read_unfinished

from crash import kill

OK = "ok.a.0@crash.test"
OTHER = "ok.b.0@crash.test"
WITHIN_S = 0.6


def took(at: float, *addresses: str) -> dict[str, Any]:
    return {"at": at, "to": list(addresses)}


def crash(until: float, *unfinished: str) -> Crash:
    return Crash(until, frozenset(unfinished))


def test_what_was_in_flight_at_a_crash_may_come_twice() -> None:
    """The sink had it, the store did not know yet: that is the known window."""
    found = find_windows([took(1, OK, OTHER), took(3, OK)], [crash(2, OK)])

    assert (found.in_flight, found.again, found.strays) == ((1,), (1,), ())


def test_what_the_store_knew_to_be_delivered_may_not_come_twice() -> None:
    """A crash is no excuse for what was settled before it."""
    assert find_windows([took(1, OK), took(3, OK)], [crash(2, OTHER)]).strays == (OK,)


def test_what_comes_twice_without_a_crash_between_is_a_fault() -> None:
    """In one life everything goes out once, whatever crashed before and after."""
    assert find_windows([took(3, OK), took(4, OK)], [crash(2, OK), crash(5, OK)]).strays == (OK,)


def test_what_comes_twice_counts_for_the_crash_after_which_it_was_open() -> None:
    """Not for those that followed before it could be sent again; and twice in flight may come three times."""
    thrice = [took(1, OK), took(5, OK), took(7, OK)]
    found = find_windows(thrice, [crash(2, OK), crash(4, OK), crash(6, OK)])

    assert found.again == (1, 0, 1)
    assert (found.in_flight, found.strays) == ((1, 0, 1), ())
    assert (found.most, found.median) == (1, 1)


def test_where_nobody_could_look_only_the_number_is_known() -> None:
    """Postfix's queue is not opened."""
    found = find_windows([took(1, OK), took(3, OK)], [Crash(2, None)])

    assert (found.in_flight, found.again, found.strays) == ((0,), (1,), ())


def test_a_store_is_read_without_touching_it(tmp_path: Path) -> None:
    """What is committed in the log alone counts; the start after the crash finds every file as the crash left it."""
    state = tmp_path / "state"
    state.mkdir()
    writer = sqlite3.connect(state / "queue.db")
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE recipient (address TEXT, state TEXT)")
    writer.executemany("INSERT INTO recipient VALUES (?, ?)", [(OK, "deferred"), (OTHER, "bounced")])
    writer.commit()
    before = {path.name: path.read_bytes() for path in state.iterdir()}

    found = read_unfinished(state, tmp_path / "copy")

    assert found == {OK}
    assert before == {path.name: path.read_bytes() for path in state.iterdir()}
    assert not (tmp_path / "copy").exists()
    writer.close()


def test_a_store_killed_before_it_had_tables_holds_nothing(tmp_path: Path) -> None:
    """The first start was killed: there may be an empty file, or none."""
    assert read_unfinished(tmp_path, tmp_path / "copy") == frozenset()


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scratch]:
    """A run's directory, which Postfix's own user can reach; patience is shorter than a minute, as faults use it up."""
    monkeypatch.setattr(kill, "DRAIN_S", 20.0)
    with Scratch(Path(tempfile.gettempdir())) as scratch:
        yield scratch


@pytest.mark.slow
@pytest.mark.parametrize("what", list(kill.KILLS))
def test_kill_9_loses_nothing_and_doubles_only_what_was_in_flight(scratch: Scratch, what: str) -> None:
    """Two rounds of each experiment of `make crash`."""
    figure = measure(scratch, what, 2, seed=7, within_s=WITHIN_S)

    assert (figure.failures, figure.why) == (0, "")
    assert figure.facts["acknowledged"]
    in_flight, duplicates = int(figure.facts["in_flight"]), int(figure.facts["duplicates"])
    assert in_flight == duplicates or (what == "parent" and in_flight > duplicates), "the store may settle after us"


@pytest.mark.slow
def test_a_relay_that_says_250_too_early_is_caught(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: it acknowledges a second before it makes the message durable."""
    monkeypatch.setattr(kill, "DRAIN_S", 4.0)
    environment = patched(
        scratch,
        """
        add = Journey.add
        def hasty(self, message, filed):
            filed(None)
            self._clock.deadline(1.0, lambda: add(self, message, lambda failure: None))
        Journey.add = hasty
        """,
    )
    figure = measure(scratch, "all", 1, seed=7, within_s=1.0, environment=environment)

    assert figure.failures
    assert figure.why.startswith("acknowledged and lost: ")
    assert figure.facts["lost"]


@pytest.mark.slow
def test_a_relay_that_sends_twice_is_caught(scratch: Scratch) -> None:
    """The other negative control: crashes excuse only what they left in flight."""
    environment = patched(
        scratch,
        """
        deliver = Journey._deliver
        async def twice(self, lease, *others):
            await self._terms.attempt(lease, others[-1].plan)
            await deliver(self, lease, *others)
        Journey._deliver = twice
        """,
    )
    figure = measure(scratch, "all", 1, seed=7, within_s=0.3, environment=environment)

    assert figure.failures
    assert figure.why.startswith("came twice though it was not in flight at a crash: ")


def patched(scratch: Scratch, change: str) -> dict[str, str]:
    """Give the environment of a daemon whose Journey is changed so: never in the source, only in this directory."""
    indented = "\n".join("    " + line.removeprefix(" " * 8) for line in change.splitlines())
    home = scratch.directory("patch")
    (home / "sitecustomize.py").write_text(
        f"import sys\nif 'serve' in sys.orig_argv:\n    from smarthost.relay import Journey\n{indented}\n"
    )
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))}


@pytest.mark.slow
@pytest.mark.interop
@pytest.mark.skipif(bool(missing_for_postfix()), reason="; ".join(missing_for_postfix()) or "Postfix is there")
def test_postfix_goes_through_the_same(scratch: Scratch) -> None:
    """Killed and started again on its queue, it delivers what it has acknowledged."""
    figure = measure_postfix(scratch, 1, seed=7, within_s=WITHIN_S)

    assert (figure.facts.get("lost"), figure.n) == (0, 1), figure.why  # it may report twice; that is only told
