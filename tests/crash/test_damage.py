# SPDX-License-Identifier: MIT
"""The damage suite: its mutations do what they say and can be repeated, and its verdict fails on what must not be."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from crash.damage import Queue
from crash.ledger import Promise

from crash import mutations


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with files of the right names."""
    chance = Random(3)
    (tmp_path / "content").mkdir()
    (tmp_path / "queue.db").write_bytes(chance.randbytes(20 * mutations.PAGE))
    (tmp_path / "queue.db-wal").write_bytes(chance.randbytes(10 * mutations.PAGE))
    (tmp_path / "content" / "38g0rymtm0055007").write_bytes(chance.randbytes(5_000))
    return tmp_path


def octets_of(state: Path) -> dict[str, bytes]:
    """All files with what is in them."""
    return {str(path.relative_to(state)): path.read_bytes() for path in state.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mutation", dict.fromkeys(mutations.MUTATIONS), ids=lambda each: each.__name__)
def test_each_mutation_changes_one_file_and_says_which(state: Path, mutation: mutations.Mutation) -> None:
    """What a round did can be read; nothing else was touched."""
    before = octets_of(state)

    done = mutation(state, Random(7))

    after = octets_of(state)
    changed = [name for name in before if before[name] != after.get(name)]
    assert len(changed) == 1
    assert Path(changed[0]).name in done


def test_same_seed_does_the_same_damage(state: Path, tmp_path: Path) -> None:
    """A failing round can be repeated."""
    whole = octets_of(state)
    first = mutations.damage(state, 11), octets_of(state)
    for name, octets in whole.items():
        (tmp_path / name).write_bytes(octets)

    assert (mutations.damage(state, 11), octets_of(state)) == first


class Books:
    """A sink's log."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def arrived(self) -> list[dict[str, Any]]:
        return self.lines


class Relay:
    """A daemon that is over."""

    def __init__(self, state: Path, *whys: str) -> None:
        self.state = state
        self.whys = whys

    def log(self) -> list[dict[str, Any]]:
        return [{"what": "store in trouble", "why": why} for why in self.whys]

    def lines(self, what: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line["what"] == what]


ID = "38g0rymtm0055007"
ADDRESS = "later.t1.0@crash.test"
SENT = {"from": "sender.t1@crash.test", "to": [ADDRESS], "token": "t1", "octets": 5, "sha256": "a"}


def judge(state: Path, arrived: list[dict[str, Any]], queued: list[dict[str, Any]], *whys: str) -> tuple[str, int]:
    """Give what one recipient is counted as, and the failures."""
    queue = Queue.__new__(Queue)
    queue.books = Books(arrived)  # type: ignore[assignment]
    queue.promises = {"t1": Promise("t1", "sender.t1@crash.test", (ADDRESS,), 5, "a")}
    queue.tokens = {ID: "t1"}
    found = queue._compare(Relay(state, *whys), {"t1"}, 0, queued)  # type: ignore[arg-type]
    names = ("delivered", "held", "named", "unnamed", "altered", "vanished", "left")
    return " ".join([name for name in names if getattr(found, name)]), found.failures


CASES: dict[str, tuple[list[dict[str, Any]], list[str], tuple[str, ...], tuple[str, int]]] = {
    "as sent": ([SENT], [], (), ("delivered", 0)),
    "other octets": ([{**SENT, "sha256": "b"}], [], (), ("delivered altered", 1)),
    "another sender": ([{**SENT, "from": "x@y"}], [], (), ("delivered altered", 1)),
    "another address": ([{**SENT, "to": ["later.t2.0@crash.test"]}], [], (), ("altered vanished", 2)),
    "held": ([], ["held"], (), ("held", 0)),
    "left waiting": ([], ["deferred"], (), ("left", 1)),
    "named": ([], [], (f"lost: 1 recipients of {ID}",), ("named", 0)),
    "named by its first characters": ([], [], (f"lost: {ID[:13]}???",), ("named", 0)),
    "another one named": ([], [], ("lost: 38g0rymtm0099007",), ("vanished", 1)),
    "gone with the log": ([], [], ("the end of the log is gone: it has no name",), ("unnamed", 0)),
    "gone": ([], [], (), ("vanished", 1)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_verdict(tmp_path: Path, case: str) -> None:
    """Nothing altered and nothing in silence: else the round fails."""
    (tmp_path / "queue.db").write_bytes(b"")
    arrived, states, whys, expected = CASES[case]
    queued = [{"id": ID, "recipients": [{"state": state} for state in states]}] if states else []

    assert judge(tmp_path, arrived, queued, *whys) == expected
