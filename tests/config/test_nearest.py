# SPDX-License-Identifier: MIT
"""Which word was meant."""

from pathlib import Path

import pytest

from smarthost.config import Surroundings, read_config
from smarthost.config.nearest import find_nearest

HERE = Surroundings("relay.example.org", Path("/var/lib/smarthost"))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("recipents", "recipients"),
        ("Recipients", "recipients"),
        ("message-size", "message_size"),
        ("zzz", ""),
        ("", ""),
        ("x" * 100_000, ""),
    ],
)
def test_the_nearest_word_is_found_or_none(word: str, meant: str) -> None:
    """A slip of the finger finds its word; what resembles nothing finds none, however long it is."""
    assert find_nearest(word, ("recipients", "message_size", "errors")) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limits]\nrecipents = 5", "limits.recipents: unknown key; did you mean limits.recipients?"),
        ("hostnam = 'x'", "hostnam: unknown key; did you mean hostname?"),
        ("[limitz]\nrecipients = 5", "limitz: unknown key; did you mean [limits]?"),
        ("[[listner]]\nlisten = []", "listner: unknown key; did you mean [[listener]]?"),
        ("[[rout]]\ndomains = []", "rout: unknown key; did you mean [[route]]?"),
        ("mesage_size = 5", "mesage_size: unknown key; did you mean limits.message_size?"),
        ("[mx]\ntls = 'requird'", 'got "requird"; did you mean "required"?'),
        ("[log]\nlevel = 'warn'", 'got "warn"; did you mean "warning"?'),
        ("[[listener]]\nlisten = ['127.0.0.1:1']\nmode = 'submision'", 'got "submision"; did you mean "submission"?'),
        ("[[route]]\ndomain = ['a.b']", "route[1].domain: unknown key; did you mean route[1].domains?"),
        ("next_hop = { hots = 'x' }", "next_hop.hots: unknown key; did you mean next_hop.host?"),
    ],
)
def test_errors_name_what_was_meant(text: str, said: str) -> None:
    """Keys, tables and choices: the error is the cure."""
    assert said in "\n".join(map(str, read_config(text, surroundings=HERE).errors))


def test_all_errors_of_a_file_come_at_once() -> None:
    """An operator mends a file once: whatever is wrong in it is told in one go, in the order of its lines."""
    text = "hostnam = 'x'\nlisten = 5\n[limits]\nrecipents = 5\n[mx]\ntls = 'no'\n[[route]]\nrefuse = ''\n"

    assert [error.line for error in read_config(text, surroundings=HERE).errors] == [1, 2, 4, 6, 7, 8]
