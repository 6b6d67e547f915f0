# SPDX-License-Identifier: MIT
"""Where a key stands in a TOML text, for error messages: tomllib keeps no positions. Pure."""

import re
import tomllib
from collections.abc import Mapping

_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?")
_ASSIGNED = re.compile(rf"\s*({_DOTTED})\s*=")
_SYNTAX_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


def key_lines(source: str) -> dict[str, int]:
    """Give the line (from 1) of each dotted key and table header; elements of [[x]] are x[1], x[2]. First one wins.

    Looks at the form of lines only: a key inside an inline table is not found, one that stands at the beginning of a
    line within a multi-line text is.
    """
    lines: dict[str, int] = {}
    elements: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(source.split("\n"), 1):
        if header := _HEADER.fullmatch(line.rstrip("\r")):
            name = _plain(header[2])
            lines.setdefault(name, number)
            if header[1] == "[[":
                elements[name] = elements.get(name, 0) + 1
            first, dot, rest = name.partition(".")
            prefix = (f"{first}[{elements[first]}]" if first in elements else first) + dot + rest
            lines.setdefault(prefix, number)
            prefix += "."
        elif assigned := _ASSIGNED.match(line):
            lines.setdefault(prefix + _plain(assigned[1]), number)
    return lines


def line_of(lines: Mapping[str, int], key: str) -> int | None:
    """Give the line of a key; one without a line of its own (an inline table's) has that of its nearest parent."""
    known = key
    while known and known not in lines:
        known = known.rpartition("." if "." in known else "[")[0]
    return lines.get(known)


def syntax_error(error: tomllib.TOMLDecodeError, source: str) -> tuple[str, int | None]:
    """Give tomllib's text without its position, and the line."""
    found = _SYNTAX_LINE.search(str(error))
    if found is not None:
        return str(error)[: found.start()], int(found[1])
    return str(error).removesuffix(" (at end of document)"), max(1, source.rstrip("\n").count("\n") + 1)


def _plain(dotted: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in dotted.split("."))
