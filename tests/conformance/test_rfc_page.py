# SPDX-License-Identifier: MIT
"""docs/rfc.md says what is followed, and here it is held to that: each point claimed has a test, and the test exists.

A point is a row of a table: what, how far (full, partial with what is missing, not), and links to test functions. What
a test shows is for people to judge; that it is there, is not.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import smarthost

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "rfc.md"
RFCS = frozenset(
    {
        "5321", "6409", "8314", "1870", "2920", "3030", "6152", "2034", "3463", "5248", "3207", "4954", "4616", "3461",
        "3464", "6522", "6531", "6532", "6533", "5891", "7505", "7504", "7672", "8461", "8460", "8689", "9422", "4865",
        "2852", "6710", "7293", "8098", "3848", "6376", "8463", "8301", "8601", "5782", "2033", "3834", "8996", "9325",
    }
)  # fmt: skip
OTHERS = ("PROXY", "XCLIENT")

_match_title = re.compile(r"## (.+): (full|partial|not)").fullmatch
_match_row = re.compile(r"\| (.+) \| (full|not|partial \(.+\)) \| (.*)\|").fullmatch
_find_links = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`").findall


def find_tests(path: str) -> frozenset[str]:
    """Give the names of the test functions of a file; none if there is no such file."""
    file = ROOT / path
    return _read_tests(file) if file.is_file() else frozenset()


@cache
def _read_tests(file: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    names = [node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return frozenset(name for name in names if name.startswith("test_"))


def find_faults(page: str) -> list[str]:
    """Say what is wrong with a page, one sentence each."""
    faults: list[str] = []
    told = ""
    section, level, worst, rows = "", "", "full", 0
    for line in [*page.partition("## Deviations")[0].splitlines(), "## end: full"]:
        if line.startswith("## "):
            if section:
                faults += _judge_section(section, level, worst, rows)
            title = _match_title(line)
            if title is None:
                faults.append(f"not a title: {line}")
                continue
            (section, level), worst, rows = title.groups(), "full", 0
            told += f" {section}"
        elif line.startswith("| ") and not line.startswith("| point |"):
            row = _match_row(line)
            if row is None:
                faults.append(f"{section}: not a row: {line}")
                continue
            point, how_far, links = row.groups()
            rows += 1
            if how_far != "full":
                worst = "partial"
            faults += [f"{section}: {fault}" for fault in _judge_point(point, how_far, links)]
    numbers = set(re.findall(r"RFC (\d{4})", told))
    faults += [f"RFC {number} is missing" for number in sorted(RFCS - numbers)]
    faults += [f"{name} is missing" for name in OTHERS if name not in told]
    return faults


def _judge_section(section: str, level: str, worst: str, rows: int) -> list[str]:
    if not rows:
        return [f"{section}: no point"]
    return [f"{section}: full, but not all its points are"] if level == "full" and worst != "full" else []


def _judge_point(point: str, how_far: str, links: str) -> list[str]:
    found = _find_links(links)
    if how_far == "not":
        return [f"{point!r} is not there, but has a test"] if found else []
    if not found:
        return [f"{point!r} has no test"]
    return [f"there is no {path}::{name}" for path, name in found if name not in find_tests(path)]


def find_deviations() -> set[str]:
    """Give the files of the source that mark a deviation; compat has a page of its own."""
    source = Path(smarthost.__file__).parent
    files = [path for path in source.rglob("*.py") if "Deviation" in path.read_text()]
    return {str(path.relative_to(source)) for path in files if "compat" not in path.parts}


def test_every_point_that_is_claimed_has_a_test_that_exists() -> None:
    """The page as it is: all RFCs, all points shown, nothing called full that is not."""
    assert [] == find_faults(PAGE.read_text())


def test_every_deviation_of_the_source_is_on_the_page() -> None:
    """And none that the source does not have."""
    told = set(re.findall(r"^\| `([\w/]+\.py)` \|", PAGE.read_text().partition("## Deviations")[2], re.MULTILINE))

    assert find_deviations() == told


HERE = "`tests/conformance/test_rfc_page.py::test_every_point_that_is_claimed_has_a_test_that_exists`"
HEAD = "| point | how far | shown by |\n|---|---|---|\n"


def page(*rows: str, title: str = "RFC 5321 SMTP: full") -> str:
    others = " and ".join([*(f"RFC {number}" for number in sorted(RFCS)), *OTHERS])
    return (
        f"# Page\n\n## {title}\n\n{HEAD}" + "\n".join(rows) + f"\n\n## {others}: full\n\n{HEAD}| a | full | {HERE} |\n"
    )


def test_a_sound_page_has_no_faults() -> None:
    """What the faults below differ from."""
    assert [] == find_faults(page(f"| it works | full | {HERE} |"))
    assert [] == find_faults(page("| it does not | not | |", title="RFC 5321 SMTP: partial"))


@pytest.mark.parametrize(
    ("rows", "title", "said"),
    [
        (("| it works | full | |",), "RFC 5321: full", "'it works' has no test"),
        (("| it works | partial (half) | |",), "RFC 5321: partial", "'it works' has no test"),
        (("| it works | full | `tests/x.py::test_y` |",), "RFC 5321: full", "there is no tests/x.py::test_y"),
        (
            ("| it works | full | `tests/conformance/test_rfc_page.py::test_never_written` |",),
            "RFC 5321: full",
            "there is no tests/conformance/test_rfc_page.py::test_never_written",
        ),
        ((f"| it works | partial (half) | {HERE} |",), "RFC 5321: full", "full, but not all its points are"),
        (("| it works | not | |",), "RFC 5321: full", "full, but not all its points are"),
        ((f"| it works | partial | {HERE} |",), "RFC 5321: partial", "not a row"),
        ((f"| it works | mostly | {HERE} |",), "RFC 5321: full", "not a row"),
        ((f"| it does not | not | {HERE} |",), "RFC 5321: partial", "is not there, but has a test"),
        ((), "RFC 5321: full", "no point"),
        ((f"| it works | full | {HERE} |",), "RFC 5321 works", "not a title"),
    ],
)
def test_a_fault_of_the_page_is_found(rows: tuple[str, ...], title: str, said: str) -> None:
    """The check can fail, and says where."""
    faults = find_faults(page(*rows, title=title))

    assert any(said in fault for fault in faults), faults


def test_a_missing_rfc_is_found() -> None:
    """What is not on the page is not known to be followed or not."""
    faults = find_faults(page(f"| it works | full | {HERE} |").replace("RFC 3207", "").replace("XCLIENT", ""))

    assert faults == ["RFC 3207 is missing", "XCLIENT is missing"]
