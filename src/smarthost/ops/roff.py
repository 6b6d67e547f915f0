# SPDX-License-Identifier: MIT
"""Markdown as our pages have it -> roff with the macros of man(7). Pure; for `make man` alone.

Knows headings, paragraphs, lists, fenced code and tables; within a line code, bold and links. A table's rows become
tagged paragraphs, which a terminal of 80 columns can show. What it does not know it prints as text: nothing is lost.
"""

import re
from collections.abc import Iterator, Sequence

_INLINE = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|\[([^\]]+)\]\(([^)]+)\)")
_ITEM = re.compile(r"\s*(?:[-*]|\d+\.) +(.*)")
_RULE = re.compile(r"\|[\s:|-]+\|")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def escape(text: str) -> str:
    """Make text that roff prints as it is, wherever in a line it stands."""
    return "\\&" + _plain(text) if text[:1] in (".", "") else _plain(text)


def _plain(text: str) -> str:
    """Make text that roff prints as it is within a line."""
    text = text.replace("\\", "\\(rs").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti")
    text = text.replace("`", "\\(ga").replace("'", "\\(aq")
    return "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in text)


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def inline(text: str) -> str:
    """Render a line: code and bold are bold, a link is its words (and its address, if that is of the web)."""
    parts = []
    at = 0
    for found in _INLINE.finditer(text):
        parts += [_plain(text[at : found.start()]), _marked(found)]
        at = found.end()
    line = "".join([*parts, _plain(text[at:])])
    return "\\&" + line if line[:1] in (".", "'") else line


def _marked(found: re.Match[str]) -> str:
    code, strong, words, address = found.groups()
    if words is None:
        return bold(code if code is not None else strong)
    return f"{inline(words)} ({escape(address)})" if "://" in address else f"\\fI{escape(words)}\\fR"


def heading(text: str, level: int) -> str:
    """Give a section (level 1) or a subsection."""
    words = text.replace("`", "")
    return f".SH {_argument(words.upper())}" if level == 1 else f".SS {_argument(words)}"


def _argument(text: str) -> str:
    return '"' + escape(text).replace('"', "\\(dq") + '"'


def title(name: str, section: int, source: str) -> str:
    """Give the page's first line; without a date, so that the same source makes the same page."""
    return f'.TH {_argument(name)} {section} "" {_argument(source)} "smarthost manual"'


def tagged(tag: str, lines: Sequence[str]) -> list[str]:
    """Give a tagged paragraph; tag and lines are roff already."""
    return [".TP", tag, *[line for line in lines if line]]


def code(lines: Sequence[str]) -> list[str]:
    return [".PP", ".RS 4", ".nf", *[escape(line) for line in lines], ".fi", ".RE"]


def from_markdown(text: str) -> list[str]:
    """Render a page without its first heading, each `##` as a section."""
    return list(_blocks(_COMMENT.sub("", text).splitlines()))


def _blocks(lines: list[str]) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        end = at + 1
        if line.startswith("```"):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith("```")), len(lines))
            yield from code(lines[at + 1 : end])
            end += 1
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            if level > 1:
                yield heading(line[level:].strip(), level - 1)
        elif line.startswith("|"):
            end = next((i for i in range(at, len(lines)) if not lines[i].startswith("|")), len(lines))
            yield from _table(lines[at:end])
        elif found := _ITEM.fullmatch(line):
            end = _end_of_paragraph(lines, at + 1)
            yield from (".IP \\(bu 2", inline(" ".join([found[1], *map(str.strip, lines[at + 1 : end])])))
        elif line.strip():
            end = _end_of_paragraph(lines, at + 1)
            yield from (".PP", inline(" ".join(map(str.strip, lines[at:end]))))
        at = end


def _end_of_paragraph(lines: list[str], start: int) -> int:
    for at in range(start, len(lines)):
        if not lines[at].strip() or lines[at].startswith(("```", "#", "|")) or _ITEM.fullmatch(lines[at]):
            return at
    return len(lines)


def _table(lines: list[str]) -> Iterator[str]:
    names, *rows = [_cells(line) for line in lines if not _RULE.fullmatch(line.strip())]
    for row in rows:
        first, *rest = row
        named = [
            f"{escape(name.capitalize())}: {inline(cell)}." if at < len(rest) - 1 and name else inline(cell)
            for at, (name, cell) in enumerate(zip(names[1:], rest, strict=False))
            if cell
        ]
        yield from tagged(inline(first), named)


def _cells(line: str) -> list[str]:
    """Split a row at the bars that are not escaped and not within code."""
    cells, is_code, cell = [], False, ""
    for character in line.strip().removeprefix("|").removesuffix("|"):
        if character == "|" and not is_code and not cell.endswith("\\"):
            cells.append(cell)
            cell = ""
            continue
        is_code ^= character == "`"
        cell = cell[:-1] + "|" if character == "|" and cell.endswith("\\") else cell + character
    return [each.strip() for each in [*cells, cell]]
