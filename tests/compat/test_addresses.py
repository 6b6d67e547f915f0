# SPDX-License-Identifier: MIT
"""The addresses of envelope files: read as they are meant, never guessed at, and none that cannot be said in SMTP."""

import io
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.compat.addresses import read_addresses, read_path, read_recipient, why_not_said
from smarthost.mail.address import Address


def read(envelope: Any) -> tuple[str, str]:
    return read_addresses(io.BytesIO(pickle.dumps(envelope)), "q/1-H")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("alice@example.org", "alice@example.org"),
        (b"alice@example.org", "alice@example.org"),
        ("<alice@example.org>", "alice@example.org"),
        ("Alice Liddell <alice@example.org>", "alice@example.org"),
        ('"Liddell, <Alice>" <alice@example.org>', "alice@example.org"),
        ("  alice@example.org\n", "alice@example.org"),
        ('"a b"@example.org', '"a b"@example.org'),
        ('Name <"x@y"@example.org>', '"x@y"@example.org'),
        ('<"a>b"@example.org>', '"a>b"@example.org'),
        ("a%b!c@example.org", "a%b!c@example.org"),
        ("", ""),
        ("<>", ""),
        (" <> ", ""),
    ],
)
def test_an_address_is_read_without_name_and_brackets(text: Any, path: str) -> None:
    """Whatever form a program gave an address, the path in it is found as it is."""
    assert read([text, "b@example.org"]) == (path, "b@example.org")


@pytest.mark.parametrize(
    "text",
    [
        "a@example.org>",
        "<a@example.org> <b@example.org>",
        "a <b@example.org",
        "<a@b>, <c@d>",
        '"a <b@c>',
        "oops>",
        "<a<b>>",
    ],
)
def test_what_has_no_such_form_stays_as_it_is_and_is_refused(text: str) -> None:
    """Two addresses, or half of one, do not become another address, nor the null reverse-path."""
    assert read_path(text) == text
    assert isinstance(read_recipient(text), str)
    assert why_not_said(text)


@pytest.mark.parametrize(
    "envelope", [["a@b"], ["a", "b", "c"], "ab", 3, ["header", 3], [3, "a@b"], [["a@b"], "c@d"], []]
)
def test_an_envelope_that_is_no_pair_of_texts_is_called_foreign(envelope: Any) -> None:
    """Other pickles raise the one error that sets a message aside, naming the file."""
    with pytest.raises(pickle.UnpicklingError, match="q/1-H"):
        read(envelope)


def test_octets_that_are_no_utf_8_are_no_address() -> None:
    """A Latin-1 address is read, and refused, instead of raising where nobody expects it."""
    _, recipient = read(["a@b", b"ren\xe9@example.org"])

    assert isinstance(read_recipient(recipient), str)


@given(st.text() | st.text(alphabet='<>"\\ab@. '))
def test_any_text_is_read_in_one_way(text: str) -> None:
    """No text makes the reader raise; what it gives is part of the text, and brackets once removed stay so."""
    path = read_path(text)

    assert path in text
    assert path != "" or text.strip() == "" or text.strip().endswith(">")
    read_recipient(path)
    why_not_said(path)


@pytest.mark.parametrize("text", ["alice@example.org", '"a b"@example.org', "a@[192.0.2.1]", "a..b@c", "x.@c"])
def test_an_address_that_can_be_said_is_a_recipient_and_a_sender(text: str) -> None:
    """What a host may take is handed on, also what no grammar has but somebody's mailbox is called."""
    assert isinstance(read_recipient(text), Address)
    assert why_not_said(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "alice",
        "postmaster",
        "",
        "a@b\r\nRCPT TO:<c@d>",
        "a@b> SIZE=1",
        "a@b> X",
        "a b@c",
        "a@b\x00",
        "é@example.org",
        "a@b\udce9",
        "@b",
        "a@" + "b" * 300,
        "a@b..c",
        "a" * 1000 + "@b",
    ],
)
def test_what_cannot_be_said_is_no_recipient(text: str) -> None:
    """Without a domain, or with anything that could end a command, it is refused with a reason."""
    assert isinstance(read_recipient(text), str)
    assert read_recipient(text)


@pytest.mark.parametrize("text", ["", "root", "alice.smith"])
def test_reports_and_local_programs_have_a_sender(text: str) -> None:
    """The null reverse-path, and what a program on this machine calls itself, can be said."""
    assert why_not_said(text) == ""
