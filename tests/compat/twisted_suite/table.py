# SPDX-License-Identifier: MIT
"""What `make test-twisted` prints: ours and the original side by side, what stands in for what, and the totals."""

import json
from collections.abc import Iterator
from typing import Any

from tests.compat.twisted_suite.outcomes import GROUPS, Side, Standing, faults, vanished

_NAME_WIDTH = 22


def show(ours: Side, original: Side, name_of_ours: str) -> Iterator[str]:
    """Yield the lines for people."""
    yield f"Twisted {ours.twisted}: its own tests of twisted.mail.relaymanager and twisted.mail.relay, skips taken off"
    yield f"Under test: {_modules(ours)}; beside it: {_modules(original)}"
    yield ""
    yield from _scores(ours, original, name_of_ours)
    yield ""
    yield "Equivalents, where a test's own text is not Python 3:"
    for name, (why, equivalent) in ours.not_python_3.items():
        yield f"  {name} by {equivalent}: {why}"
        yield f"    as written: ours {ours.ended(name)}; original {original.ended(name)}"
        yield f"    equivalent: ours {ours.ended(equivalent)}; original {original.ended(equivalent)}"
        if ours.passed(name):
            yield "    PASSES AS WRITTEN for ours: it needs no equivalent any more"
    yield from (f"VANISHED from this Twisted: {name}" for name in vanished(ours))
    yield ""
    yield from _list("The original", faults(original))
    yield from _list(name_of_ours, faults(ours))


def totals(ours: Side, original: Side) -> dict[str, Any]:
    """Return what the last line says, as JSON."""
    return {
        "twisted": ours.twisted,
        "good": not faults(ours),
        "ours": _total(ours),
        "original": _total(original),
        "vanished": list(vanished(ours)),
    }


def record(ours: Side, original: Side) -> str:
    """Return all that is known, as JSON."""
    sides = {"ours": ours, "original": original}
    return json.dumps(
        totals(ours, original)
        | {
            f"{which}_tests": {name: [each.ended, each.why] for name, each in side.outcomes.items()}
            for which, side in sides.items()
        }
        | {f"{which}_defined": dict(side.defined) for which, side in sides.items()}
        | {"not_python_3": {name: list(pair) for name, pair in ours.not_python_3.items()}},
        indent=1,
    )


def _scores(ours: Side, original: Side, name_of_ours: str) -> Iterator[str]:
    columns = "".join(f"{title:>9}" for title in ("ran", "passed", "by equiv", "skipped", "failed"))
    width = len(columns)
    yield f"{'':{_NAME_WIDTH}}{name_of_ours:>{width}}  {'the original':>{width}}"
    yield f"{'class':{_NAME_WIDTH}}{columns}  {columns}"
    for group in GROUPS:
        yield f"{group:{_NAME_WIDTH}}{_row(_counts(ours, group))}  {_row(_counts(original, group))}"
    yield f"{'all':{_NAME_WIDTH}}{_row(_total(ours))}  {_row(_total(original))}"


def _counts(side: Side, group: str) -> dict[str, int]:
    return {"ran": len(side.of_group(group))} | {each.value: side.count(group, each) for each in Standing}


def _total(side: Side) -> dict[str, int]:
    counted = [_counts(side, group) for group in GROUPS]
    return {key: sum(each[key] for each in counted) for key in counted[0]}


def _modules(side: Side) -> str:
    return ", ".join(sorted(set(side.defined.values()))) or "nothing"


def _row(counts: dict[str, int]) -> str:
    return "".join(f"{number:>9}" for number in counts.values())


def _list(title: str, lines: tuple[str, ...]) -> Iterator[str]:
    yield f"{title}: " + (f"{len(lines)} faults:" if lines else "every test passed")
    yield from (f"  {line}" for line in lines)
