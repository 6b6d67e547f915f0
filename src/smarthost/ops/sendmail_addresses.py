# SPDX-License-Identifier: MIT
"""Reads lists of addresses as people and programs write them: To: and its like (RFC 5322 3.4), and command lines.

Groups, comments, quoted local parts, display names, folded lines, source routes (obs-route). Gives mailboxes alone, in
order. Judges no address beyond that: the relay's one grammar does. Pure; standard library only (see sendmail_options).
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

# word = atom / quoted-string; a domain-literal is taken as one piece (RFC 5322 3.2.3, 3.2.4, 3.4.1)
_find_piece = re.compile(
    r'"(?:[^"\\]|\\.)*+"|\[(?:[^\[\]\\]|\\.)*+\]|[<>,:;@()]|[^\s"\[<>,:;@()]++|\s++|.', re.DOTALL
).match
_FOLD = re.compile(r"\r?\n(?=[ \t])")
_in_comment = re.compile(r"[^()\\]++").match
_Piece = tuple[str, int]  # and where it ends


class Mailbox(NamedTuple):
    """An address; `domain` is "" where none was written. `end`: where its local part ends in what was read."""

    local: str
    domain: str
    end: int

    def within(self, host: str) -> str:
        """Give it with a domain. A bare postmaster needs none (RFC 5321 4.1.1.3): the relay knows who that is."""
        if self.domain:
            return f"{self.local}@{self.domain}"
        return self.local if self.local.lower() == "postmaster" else f"{self.local}@{host}"


def read_addresses(text: str) -> list[Mailbox]:
    """Give the mailboxes of a list; an empty `<>` and an empty group give none.

    Raises: ValueError: says what is odd.
    """
    return list(_mailboxes(text))


def complete_addresses(text: str, host: str) -> str:
    """Give a list with a domain for each address that has none, and else as it was; what cannot be read stays."""
    try:
        bare = [each.end for each in _mailboxes(text) if not each.domain]
    except ValueError:
        return text
    pieces = [text[start:end] for start, end in pairwise((0, *bare, len(text)))]
    return f"@{host}".join(pieces)


def _mailboxes(text: str) -> Iterator[Mailbox]:
    words: list[_Piece] = []  # of the mailbox under way, spaces included
    angle: list[_Piece] | None = None  # what is between < and >
    is_read = False  # its angle brackets are closed already
    for piece, end in _without_comments(text):
        if angle is not None:
            if piece == ">":
                if address := _address(angle):
                    yield address
                angle, is_read = None, True
            elif piece == "<":
                raise ValueError("a < within < >")
            else:
                angle.append((piece, end))
        elif piece == "<":
            angle, words = [], []
        elif piece in ",;":
            if not is_read and (address := _address(words)):
                yield address
            words, is_read = [], False
        elif piece == ":":
            words, is_read = [], False  # it was the name of a group
        elif piece == ">":
            raise ValueError("a > without its <")
        else:
            words.append((piece, end))
    if angle is not None:
        raise ValueError("a < without its >")
    if not is_read and (address := _address(words)):
        yield address


def _without_comments(text: str) -> Iterator[_Piece]:
    depth = at = 0
    while at < len(text):
        found = _find_piece(text, at)
        assert found is not None, "the last alternative takes anything"
        piece = found[0]
        if piece == "(":
            depth += 1
        elif depth and text[at] == "\\":
            piece = text[at : at + 2]
        elif depth and piece == ")":
            depth -= 1
        elif depth:
            words = _in_comment(text, at)  # quotes mean nothing in a comment
            piece = words[0] if words else text[at]
        elif piece in ('"', "[", ")"):
            raise ValueError(f"a {piece} without its other half")
        else:
            yield piece, at + len(piece)
        at += len(piece)
    if depth:
        raise ValueError("a ( without its )")


def _address(pieces: list[_Piece]) -> Mailbox | None:
    """Put the pieces of one address together; None: there are none."""
    found = [(piece, end) for piece, end in pieces if not piece.isspace()]
    parts = [piece for piece, _ in found]
    if not parts:
        return None
    written = " ".join("".join([piece for piece, _ in pieces]).split())
    if parts[0] == "@" and ":" in parts:  # a source route, which nobody follows any more (RFC 5321 C)
        route = parts.index(":") + 1
        found, parts = found[route:], parts[route:]
    if any(part in (",", ":", ";") for part in parts):
        raise ValueError(f"not an address: {written}")
    local = parts[: parts.index("@")] if "@" in parts else parts
    domain = parts[len(local) + 1 :]
    if not local or "@" in domain or (len(local) < len(parts) and not "".join(domain).strip(".")):
        raise ValueError(f"not an address: {written}")
    if not (_is_joined(local) and _is_joined(domain)):
        raise ValueError(f"not an address: {written} (a comma is missing, or < > around the address)")
    name = _FOLD.sub("", "".join(local)).removeprefix("\\")
    return Mailbox(name, "".join(domain).removesuffix("."), found[len(local) - 1][1])


def _is_joined(parts: list[str]) -> bool:
    """Are these words joined by dots, as those of a local part or domain are (RFC 5322 4.4: spaces around them)?"""
    return all(first.endswith(".") or second.startswith(".") for first, second in pairwise(parts))
