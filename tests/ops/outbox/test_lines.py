# SPDX-License-Identifier: MIT
"""What a record looks like to others: stable names, all on the page, and harmless whatever strangers wrote."""

import json
import re
from pathlib import Path

import pytest

from smarthost.mail.record import Kind, Record
from smarthost.ops.outbox.lines import FIELDS, cursor_of, seq_of, to_event, to_line

MANUAL = (Path(__file__).parents[3] / "docs/events.md").read_text()


def full() -> Record:
    """Give a record in which every field says something."""
    texts = {name: f"a {name}" for name in Record.__struct_fields__}
    known = {"seq": 255, "kind": Kind.DEFERRED, "at": 1_800_000_000.25, "attempt": 2, "ambiguous": True, "octets": 9}
    floats = dict.fromkeys(("queued_s", "connect_s", "handshake_s", "transfer_s"), 1.23456789)
    lists = dict.fromkeys(("walk", "recipients", "transcript"), ("one", "two"))
    return Record(**{**texts, **known, **floats, **lists, "next_attempt_at": 1_800_000_300.0})  # type: ignore[arg-type]


def test_every_field_is_there_under_its_name() -> None:
    """A program finds each fact; times are ISO 8601 in UTC, durations seconds."""
    event = to_event(full())

    assert set(FIELDS) == set(event)
    assert ("ff", "deferred") == (event["cursor"], event["kind"])
    assert ("2027-01-15T08:00:00.250Z", "2027-01-15T08:05:00.000Z") == (event["at"], event["next_attempt_at"])
    assert 1.234568 == event["queued_s"]


def test_what_is_empty_is_left_out() -> None:
    """A line has what there is to say."""
    assert {"cursor", "at", "kind"} == set(to_event(Record(1, Kind.HOST_OPEN, 1.0)))


def test_the_page_has_every_field_and_kind_and_none_that_is_made_up() -> None:
    """docs/events.md can be relied upon."""
    fields = MANUAL.partition("## Fields")[2].partition("\n## ")[0]
    kinds = MANUAL.partition("## Kinds")[2].partition("\n## ")[0]

    assert set(FIELDS) == set(re.findall(r"^\| `([a-z_]+)` \|", fields, re.MULTILINE))
    assert {kind.value for kind in Kind} == set(
        re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\|(.*?)\|", kinds, re.M)))
    )


def test_hostile_text_is_harmless() -> None:
    """Escapes, text that runs the other way, line separators and lone surrogates come as JSON escapes."""
    hostile = "\x1b[31m\u202eevil\u2028\x85\x7f\n\x00"
    line = to_line(Record(1, Kind.BOUNCED, 1.0, reply=hostile, walk=(hostile,)))

    assert line.decode().isprintable()
    assert hostile == json.loads(line)["reply"]
    assert "\\ud800" in json.loads(to_line(Record(1, Kind.BOUNCED, 1.0, reply="\ud800", walk=("\ud800",))))["reply"]


def test_cursors_go_there_and_back() -> None:
    """What was printed is taken again; what never was is refused in one line, without obeying it."""
    assert 12345 == seq_of(cursor_of(12345))
    for bad in ("", "x", "1.2", "-1", "f" * 40, "\x1b[31m"):
        with pytest.raises(ValueError, match="not a cursor") as caught:
            seq_of(bad)
        assert "\x1b" not in str(caught.value)
