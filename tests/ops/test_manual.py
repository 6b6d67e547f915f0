# SPDX-License-Identifier: MIT
"""Man pages: everything that --help and the reference know is in them, and man finds nothing wrong with them."""

import os
import re
import subprocess
from pathlib import Path

import click
import pytest
from tests.interop.programs import program

from smarthost.config.keys import NEXT_HOP_KEYS, REPEATED_KEYS, ROUTE_KEYS, SECTION_KEYS, TOP_KEYS
from smarthost.ops import manual, roff
from smarthost.ops.cli import cli

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return manual.write_pages(cli, DOCS, tmp_path_factory.mktemp("man"))


def shown(page: Path) -> str:
    """Give a page as a terminal of 100 columns shows it, without bold."""
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MAN_KEEP_FORMATTING": "", "MANROFFOPT": "-c"}
    command = [program("man"), "--warnings", "-E", "UTF-8", "-P", "cat", "-l", str(page)]
    told = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=True)
    assert told.stderr == ""
    return re.sub(r".\x08", "", told.stdout)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if command is not None and not command.hidden:
            found.append(((*path, name), command))
            if isinstance(command, click.Group):
                found += commands(command, (*path, name))
    return found


def test_every_command_has_a_page_with_all_its_options(written: list[Path]) -> None:
    """What --help says is in the manual: each command, each option, and what the option is for."""
    pages = {page.name: shown(page) for page in written if page.suffix == ".1"}
    words = {name: " ".join(text.replace("\u2010\n", "-").split()) for name, text in pages.items()}

    for path, command in commands(cli):
        page = words[f"smarthost-{path[0]}.1"]
        assert " ".join(("smarthost", *path)) in page
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[-1] in page, (path, option.opts)
        assert f"smarthost-{path[0]}(1)" in words["smarthost.1"]


def test_every_key_is_in_the_page_of_the_configuration(written: list[Path]) -> None:
    """smarthost.toml(5) is the whole reference, on a machine without a browser."""
    (page,) = [shown(each) for each in written if each.name == "smarthost.toml.5"]
    sections = [*[keys for _, keys in SECTION_KEYS.values()], *[keys for *_, keys in REPEATED_KEYS.values()]]

    for keys in (TOP_KEYS, NEXT_HOP_KEYS, ROUTE_KEYS, *sections):
        for key in keys:
            assert re.search(rf"^ +{key}\b", page, re.MULTILINE), key


def test_man_has_nothing_to_complain_of(written: list[Path]) -> None:
    """Each page passes the check that distributions make of pages they ship."""
    environ = {**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"}
    for page in written:
        command = [program("man"), "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
        told = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=True)
        assert told.stderr == "", page.name


def test_pages_can_be_found_by_what_they_are_about(written: list[Path]) -> None:
    """apropos(1) reads the NAME section: one line with the page's own name."""
    for page in written:
        lines = page.read_text().splitlines()
        name = lines[lines.index('.SH "NAME"') + 1]
        assert name.startswith(roff.escape(page.stem) + " \\- "), page.name
        assert len(name) > len(page.stem) + 10


def test_the_same_source_makes_the_same_pages(tmp_path: Path) -> None:
    """A package can be built twice and be the same: there is no date in a page."""
    one = [page.read_text() for page in manual.write_pages(cli, DOCS, tmp_path / "one")]
    two = [page.read_text() for page in manual.write_pages(cli, DOCS, tmp_path / "two")]
    assert one == two


def test_a_program_without_a_page_in_docs_has_none(tmp_path: Path) -> None:
    """What is not documented is left out, and is no error."""
    assert [name for name in manual.pages(cli, tmp_path) if not name.endswith(".1")] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".SH evil", "\\&.SH evil"),
        ("'br", "\\(aqbr"),
        ("a\\fBb", "a\\(rsfBb"),
        ("--json", "\\-\\-json"),
        ("é", "\\[u00E9]"),
        ("", "\\&"),
    ],
)
def test_text_stays_text(text: str, expected: str) -> None:
    """Nothing in a help text becomes a request to roff, and an option can be copied with its hyphens."""
    assert roff.escape(text) == expected


def test_a_table_becomes_tagged_paragraphs() -> None:
    """A row is its first cell, then the others by the names of their columns; a bar in code is no border."""
    text = "| key | default | meaning |\n|---|---|---|\n| `a` | `1` | Is `x|y`. |\n| b | | None. |\n"

    assert roff.from_markdown(text) == [
        ".TP", "\\fBa\\fR", "Default: \\fB1\\fR.", "Is \\fBx|y\\fR.",
        ".TP", "b", "None.",
    ]  # fmt: skip


def test_code_is_left_as_it_is() -> None:
    """An example can be copied: no filling, no quotes made curly, no line taken for a request."""
    assert roff.from_markdown("```toml\n.a = 'b'\n```\n") == [
        ".PP", ".RS 4", ".nf", "\\&.a = \\(aqb\\(aq", ".fi", ".RE",
    ]  # fmt: skip
