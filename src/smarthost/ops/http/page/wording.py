# SPDX-License-Identifier: MIT
"""How the page words times, sizes and counts, and what it makes of strangers' text. Pure; the templates' filters."""

import re
from datetime import UTC, datetime

from smarthost.ops import words

CUT = 240  # characters of a stranger's text in a table
LONGEST = 4000  # where all of it is wanted
_VERBS = {
    "retry": "Try again now",
    "hold": "Hold",
    "release": "Release",
    "cancel": "Cancel (tells nobody)",
    "bounce": "Return to sender",
    "expire": "Give up (expire)",
    "reroute": "Send another way",
}
_CAUSES = {
    "attempt": "being tried",
    "turn": "waiting its turn",
    "lane": "no free session",
    "retry time": "next attempt scheduled",
    "host health": "hosts broken",
    "routing": "no route now",
    "suspension": "suspended",
    "hold": "held",
    "damage": "damaged",
    "pause": "delivery paused",
    "drain": "being moved",
    "store": "waiting for the disk",
}
_REFUSED_LOGIN = re.compile(r"\S+ \[\S+\]: auth failed [^:]*: 5")
_STATES = {"leased": "being tried", "open": "broken", "half-open": "broken, probe due"}
_KINDS = {"host-open": "host broken", "host-half-open": "host probed", "host-closed": "host works again"}


def shown(text: object, most: int = CUT) -> str:
    """Give a stranger's text as it may be shown: controls and direction overrides spelled out, and cut."""
    whole = str(text)
    cut = words.printable(whole[:most])
    return f"{cut} … ({len(whole):,} characters)" if len(whole) > most else cut


def path(reverse_path: str) -> str:
    """Give a reverse-path; the null one as people write it."""
    return shown(reverse_path) if reverse_path else "<>"


def stamp(at: float) -> str:
    """Give a time for the attribute of a <time>: ISO 8601 in UTC."""
    return words.iso_utc(at) if at else ""


def clock(at: float) -> str:
    """Give a time to the second, in UTC: "22 Nov 07:13:45"."""
    return datetime.fromtimestamp(at, UTC).strftime("%d %b %H:%M:%S") if at else "–"


def ago(at: float, now: float) -> str:
    """Give how far away a time is: "3 h ago", "in 4 min"."""
    return words.relative(at, now) if at else "–"


def age(at: float, now: float) -> str:
    """Give how old something is: "3 h"."""
    return words.span(max(0.0, now - at)) if at else "–"


def number(value: float) -> str:
    """Give a count with separators; a part of one has a decimal."""
    return f"{value:,.1f}" if 0 < value < 10 and value != int(value) else f"{value:,.0f}"


def size(octets: int) -> str:
    return words.size_words(octets)


def counted(value: int, noun: str) -> str:
    return words.count(value, noun)


def verb(name: str) -> str:
    return _VERBS.get(name, name)


def cause(name: str) -> str:
    return _CAUSES.get(name, name)


def state(name: str) -> str:
    """Give the state of a recipient or a host: "open" is the word of circuit breakers, and means that it is shut."""
    return _STATES.get(name, name)


def kind(name: str) -> str:
    return _KINDS.get(name, name)


def is_login(evidence: str) -> bool:
    """Does a host refuse our login for good? So the evidence of a story begins then (route.broken.evidence_line)."""
    return _REFUSED_LOGIN.match(evidence) is not None


VERBS = tuple(_VERBS.items())
FILTERS = {
    "shown": shown,
    "path": path,
    "stamp": stamp,
    "clock": clock,
    "number": number,
    "size": size,
    "counted": counted,
    "verb": verb,
    "cause": cause,
    "state": state,
    "kind": kind,
    "is_login": is_login,
}
