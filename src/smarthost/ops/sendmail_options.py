# SPDX-License-Identifier: MIT
"""The flags of sendmail(1), as cron, PHP, mutt, git and thirty years of scripts write them. Pure.

Clustered ("-ti"), attached ("-froot") or apart ("-f root"), before or behind the addresses, until "--". What
configures another program (-O, -o, -X, -d ...) is read and ignored; what is asked of us and cannot be done is a
Complaint. Standard library only, like all of sendmail*.py, and no pathlib: this starts for every message.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

USAGE = 64  # sysexits.h; os.EX_*, written out as ops.exits has them
BAD_INPUT = 65
UNAVAILABLE = 69
SOFTWARE = 70
IO_ERROR = 74
TEMPORARY = 75
NO_PERMISSION = 77
CONFIG = 78

_WITH_VALUE = frozenset("ABbCFfhLMNOopRrVX")
_MAY_HAVE_VALUE = frozenset("DdEeQqZ")  # attached or none
_ALONE = frozenset("cGIimnstUv")
_MODES = {
    "m": "deliver",
    "s": "session",
    "p": "list",
    "v": "verify",
    "i": "aliases",
}


class Complaint(Exception):
    """It cannot be done: one line for standard error, and the exit code (sysexits)."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Asked(NamedTuple):
    """What a command line asks for. `sender`: of -f, None if it was not given; `flush`: of -q, None likewise.

    `mode`: "deliver", "session", "list", "verify" or "aliases".
    """

    mode: str = "deliver"
    addresses: tuple[str, ...] = ()
    reads_recipients: bool = False
    ignores_dots: bool = False
    sender: str | None = None
    full_name: str | None = None
    config: str = ""
    flush: str | None = None
    is_verbose: bool = False


def read_options(arguments: Sequence[str], mode: str = "deliver") -> Asked:
    """Read a command line without its first word. Raises: Complaint."""
    asked = Asked(mode=mode)
    addresses: list[str] = []
    for flag, value in _flags(arguments):
        asked = _applied(asked, flag, value, addresses)
    return asked._replace(addresses=tuple(addresses))


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Give (flag, value) one by one; an address has the flag ""."""
    rest = list(reversed(arguments))
    while rest:
        word = rest.pop()
        if word == "--":
            yield from (("", address) for address in reversed(rest))
            return
        if not word.startswith("-") or word == "-":
            yield "", word
            continue
        letters = word[1:]
        while letters:
            flag, letters = letters[0], letters[1:]
            if flag in _ALONE:
                yield flag, ""
                continue
            if flag in _WITH_VALUE:
                if not letters and not rest:
                    raise Complaint(f"option -{flag} needs a value", USAGE)
                yield flag, letters or rest.pop()
            elif flag in _MAY_HAVE_VALUE:
                yield flag, letters
            else:
                raise Complaint(f"no such option: -{flag} (an address that begins with a dash goes behind --)", USAGE)
            letters = ""


def _applied(asked: Asked, flag: str, value: str, addresses: list[str]) -> Asked:
    match flag:
        case "":
            addresses.append(value)
        case "t":
            return asked._replace(reads_recipients=True)
        case "i":
            return asked._replace(ignores_dots=True)
        case "o" if value == "i":
            return asked._replace(ignores_dots=True)
        case "f" | "r":
            return asked._replace(sender=value)
        case "F":
            return asked._replace(full_name=value)
        case "C":
            return asked._replace(config=value)
        case "v":
            return asked._replace(is_verbose=True)
        case "I":
            return asked._replace(mode="aliases")
        case "q":
            return asked._replace(flush=value)
        case "b":
            return asked._replace(mode=_mode(value))
    return asked


def _mode(value: str) -> str:
    if value in _MODES:
        return _MODES[value]
    if value[:1] in ("d", "D", "l"):
        raise Complaint(f"-b{value}: this sendmail is no daemon: start `smarthost serve`", USAGE)
    raise Complaint(f"no such mode: -b{value} (there are -bm, -bs, -bp, -bv and -bi)", USAGE)
