# SPDX-License-Identifier: MIT
"""What a host offers in EHLO, including what no host should."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.mail.reply import Reply
from smarthost.smtp.extensions import Extensions, parse_extensions


def offered(*lines: str) -> Extensions:
    return parse_extensions(Reply(250, "", ("mx.example greets you", *lines)))


def test_usual_offer_is_understood() -> None:
    """The answer of an ordinary host."""
    extensions = offered(
        "PIPELINING", "SIZE 52428800", "STARTTLS", "AUTH PLAIN LOGIN", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN",
        "SMTPUTF8", "CHUNKING", "REQUIRETLS", "BINARYMIME", "XCLIENT NAME ADDR",
        "LIMITS RCPTMAX=100 MAILMAX=5 RCPTDOMAINMAX=2",
    )  # fmt: skip

    assert extensions == Extensions(
        pipelining=True,
        size=52_428_800,
        eight_bit_mime=True,
        smtputf8=True,
        starttls=True,
        enhanced_status_codes=True,
        chunking=True,
        binarymime=True,
        dsn=True,
        requiretls=True,
        auth=frozenset({"PLAIN", "LOGIN"}),
        most_recipients=100,
        most_transactions=5,
        most_recipient_domains=2,
    )


def test_greeting_line_offers_nothing() -> None:
    """A host named PIPELINING does not offer it."""
    assert parse_extensions(Reply(250, "", ("PIPELINING",))) == Extensions()


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("SIZE 10485760", 10_485_760),
        ("size 10485760", 10_485_760),
        ("SIZE", 0),
        ("SIZE 0", 0),
        ("SIZE -1", 0),
        ("SIZE abc", 0),
        ("SIZE 10", 0),
        ("SIZE 65535", 0),
        ("SIZE 65536", 65_536),
        ("SIZE 99999999999999999999", 99_999_999_999_999_999_999),
        ("SIZE " + "9" * 4000, 0),
        ("SIZE ٣٣٣٣٣٣٣", 0),
        ("SIZE=10485760", None),
        ("PIPELINING", None),
    ],
)
def test_size_is_read_tolerantly(line: str, size: int | None) -> None:
    """An absurd SIZE means that no limit is known; a limit below the least the RFC allows is not believed."""
    assert offered(line).size == size


@pytest.mark.parametrize(
    ("size", "octets", "refuses"),
    [(None, 10**9, False), (0, 10**9, False), (100_000, 100_000, False), (100_000, 100_001, True)],
)
def test_refuses_size(size: int | None, octets: int, refuses: bool) -> None:
    """Only a positive maximum refuses, and only what exceeds it."""
    assert Extensions(size=size).refuses_size(octets) is refuses


@pytest.mark.parametrize(
    ("line", "mechanisms"),
    [
        ("AUTH PLAIN LOGIN", {"PLAIN", "LOGIN"}),
        ("AUTH=PLAIN LOGIN", {"PLAIN", "LOGIN"}),
        ("auth plain", {"PLAIN"}),
        ("AUTH", set()),
        ("AUTH=", set()),
        ("AUTH SCRAM-SHA-256-PLUS X_OWN", {"SCRAM-SHA-256-PLUS", "X_OWN"}),
        ("AUTH P(LAIN " + "X" * 21 + " ÄÖ -", set()),
        ("AUTHORITY PLAIN", set()),
    ],
)
def test_auth_mechanisms(line: str, mechanisms: set[str]) -> None:
    """Both spellings of AUTH are understood, and what is no mechanism's name is passed over."""
    extensions = offered(line)

    assert extensions.auth == mechanisms
    assert extensions.offers_usable_auth is bool(mechanisms & {"PLAIN", "LOGIN"})


def test_both_auth_lines_add_up() -> None:
    """Hosts for old clients say it twice."""
    assert offered("AUTH PLAIN", "AUTH=LOGIN").auth == {"PLAIN", "LOGIN"}


@pytest.mark.parametrize(
    "line", ["LIMITS RCPTMAX=0", "LIMITS RCPTMAX=-5", "LIMITS RCPTMAX", "LIMITS RCPTMAX=x", "LIMITS", "RCPTMAX=5"]
)
def test_absurd_limits_are_passed_over(line: str) -> None:
    """A limit of nothing would mean that no mail could ever be sent."""
    assert offered(line).most_recipients is None


def test_only_so_many_lines_and_mechanisms_are_read() -> None:
    """A host that offers a thousand things costs no more than one that offers a few."""
    many = offered(*[f"X{n}" for n in range(64)], "PIPELINING")
    mechanisms = offered("AUTH " + " ".join(f"M{n}" for n in range(1000)))

    assert not many.pipelining
    assert len(mechanisms.auth) <= 32


@given(st.lists(st.text(max_size=60), max_size=80))
def test_any_lines_are_read(lines: list[str]) -> None:
    """Nothing a host offers makes the reading of it fail."""
    extensions = offered(*lines)

    assert extensions.size is None or extensions.size >= 0


def test_reading_a_huge_offer_is_quick() -> None:
    """A hundred lines of four kilobytes are read in a blink."""
    lines = ["AUTH " + "A " * 2000] * 100
    began = time.perf_counter()

    offered(*lines)

    assert time.perf_counter() - began < 0.5
