# SPDX-License-Identifier: MIT
"""What the pages have in fences: TOML, and shell blocks with their commands and the output they promise.

A comment in front of a fence says how it is tried: `<!-- run -->` (commands and output), `<!-- run: serve -->` (a
daemon in the background), `<!-- run: until -->` (again until it is as promised), `<!-- run: perhaps -->` (or nothing is
left to do: 66). Without one its options are looked at.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    ROOT / name
    for name in (
        "docs/start.md",
        "docs/from-postfix.md",
        "docs/provider.md",
        "docs/library.md",
        "docs/handbook.md",
        "docs/why.md",
        "README.md",
    )
)
_FENCE = re.compile(r"(?:<!-- (run[a-z: ]*) -->\n)?^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:\.venv/bin/)?smarthost [^`\[]+)`")  # with a bracket it is a synopsis
_ID = r"\b[0-9a-z]{16}\b"
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_TIME = r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)"
_UNITS = r"N (?:s|min|h|d|ms)\b"


class Step(NamedTuple):
    """A command of a block, and the lines that it promises."""

    command: str
    promised: tuple[str, ...]


class Block(NamedTuple):
    """A fence: `how` is what the comment in front of it says."""

    page: Path
    line: int
    how: str
    language: str
    text: str

    def steps(self) -> Iterator[Step]:
        """Give the commands: in a console block the lines behind `$ `, else all lines."""
        if self.language != "console":
            for line in self.text.splitlines():
                yield Step(line, ())
            return
        command, promised = "", []
        for line in self.text.splitlines():
            if not line.startswith("$ "):
                promised.append(line)
                continue
            if command:
                yield Step(command, tuple(promised))
            command, promised = line[2:], []
        yield Step(command, tuple(promised))


def blocks(page: Path, *languages: str) -> list[Block]:
    """Give a page's fences in these languages, in order."""
    text = page.read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, match.start(2)) + 1, match[1] or "", match[2], match[3])
        for match in _FENCE.finditer(text)
        if match[2] in languages
    ]


def invocations(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Give the arguments of each `smarthost ...` on a page, in fences and in running text, and where it stands."""
    for block in blocks(page, "sh", "console"):
        for step in block.steps():
            for arguments in _invoked(step.command):
                yield f"{page.name}, from line {block.line}: {step.command}", arguments
    for match in _INLINE.finditer(_FENCE.sub("", page.read_text("utf-8"))):
        for arguments in _invoked(match[1]):
            yield f"{page.name}: {match[1]}", arguments


def _invoked(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;<>&")
    lexer.whitespace_split = True
    words: list[str] = []
    is_file = False
    for word in [*lexer, ";"]:
        is_file, was_file = word in ("<", ">"), is_file
        if is_file or was_file:
            continue
        if word in ("|", ";", "&", "&&"):
            if words and words[0].rpartition("/")[2] == "smarthost":
                yield words[1:]
            words = []
        else:
            words.append(word)


def is_kept(promised: tuple[str, ...], printed: str) -> bool:
    """Is each promised line printed, in this order? Ids, times and numbers may differ; `...` stands for anything."""
    wanted = [_pattern(line) for line in promised if line.strip() and line.strip() != "..."]
    said = iter([_plain(line) for line in printed.splitlines()])
    return all(any(pattern.fullmatch(line) for line in said) for pattern in wanted)


def _plain(line: str) -> str:
    for pattern, word in ((_TIME, "TIME"), (_ID, "ID"), (_NUMBER, "N"), (_UNITS, "SPAN")):
        line = re.sub(pattern, word, line)
    line = re.sub(r"\b(in SPAN|SPAN ago|now)\b", "WHEN", line)
    return " ".join(line.split())


def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, _plain(line).split("..."))))
