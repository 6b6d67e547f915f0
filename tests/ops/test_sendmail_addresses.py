# SPDX-License-Identifier: MIT
"""Address lists, as header fields and command lines have them."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smarthost.ops.sendmail_addresses import complete_addresses, read_addresses


@pytest.mark.parametrize(
    ("written", "read", "completed"),
    [
        ("a@b.example", ["a@b.example"], "a@b.example"),
        ("root", ["root@h.example"], "root@h.example"),
        ("root (Cron Daemon)", ["root@h.example"], "root@h.example (Cron Daemon)"),
        ("mdadm monitoring <root>", ["root@h.example"], "mdadm monitoring <root@h.example>"),
        (
            "a, b@c.example , <d>",
            ["a@h.example", "b@c.example", "d@h.example"],
            "a@h.example, b@c.example , <d@h.example>",
        ),
        ("team: a@x.example, B <b@x.example>;, c@x.example", ["a@x.example", "b@x.example", "c@x.example"], None),
        ("undisclosed-recipients:;", [], None),
        ('"Doe, Joe" <joe@x.example>', ["joe@x.example"], None),
        ('"q \\" (r" @ x.example', ['"q \\" (r"@x.example'], None),
        ('"a@b"', ['"a@b"@h.example'], '"a@b"@h.example'),
        ('a (one (two) \\) "three)@x.example', ["a@x.example"], None),
        ("a . b @ x . example", ["a.b@x.example"], None),
        (
            "Joe\r\n <joe>,\r\n\tbob@x.example",
            ["joe@h.example", "bob@x.example"],
            "Joe\r\n <joe@h.example>,\r\n\tbob@x.example",
        ),
        ("<@one.example,@two.example:a@x.example>", ["a@x.example"], None),
        ("a@[192.0.2.1], b@[IPv6:2001:db8::1]", ["a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"], None),
        ("=?utf-8?q?x=2C_y?= <a@x.example>", ["a@x.example"], None),
        ("é@ü.example", ["é@ü.example"], None),
        ("\\root", ["root@h.example"], "\\root@h.example"),
        ("Postmaster", ["Postmaster"], "Postmaster@h.example"),
        ("a@x.example.", ["a@x.example"], None),
        ("<>", [], None),
        (" , ,", [], None),
        ("", [], None),
    ],
)
def test_a_list_is_read_and_completed(written: str, read: list[str], completed: str | None) -> None:
    """Whom a message is for is found however it is written, and only what has no domain is given one."""
    assert read == [each.within("h.example") for each in read_addresses(written)]
    assert (completed or written) == complete_addresses(written, "h.example")


@pytest.mark.parametrize(
    "written",
    [
        "a b",
        "a@b@c",
        "a@",
        "@b",
        "<a",
        "a>",
        "a (b",
        "a) b",
        '"a',
        "<a<b>>",
        "a@x.example b@x.example",
        "[a",
        "<a b@c>",
        "a@.",
    ],
)
def test_what_is_no_list_is_refused_and_left_as_it_is(written: str) -> None:
    """Mail goes to nobody who was not meant."""
    with pytest.raises(ValueError, match=r"."):
        read_addresses(written)

    assert written == complete_addresses(written, "h.example")


@example("\\@.")
@given(st.text(alphabet=st.sampled_from('ab@.<>,:;()"\\[] \r\n\té'), max_size=40))
def test_any_text_is_read_or_refused(written: str) -> None:
    """Nothing that stands in a field ends in a traceback, and completing adds domains only."""
    completed = complete_addresses(written, "h.example")

    assert written == completed.replace("@h.example", "")
    try:
        read = read_addresses(written)
    except ValueError:
        return
    assert [each.local for each in read] == [each.local for each in read_addresses(completed)]
    assert all(each.domain for each in read_addresses(completed))


@pytest.mark.parametrize("piece", ["(", '"', "\\", "a ", "<", "[", "a,", ")", '"\\', "(a)", " ", "\r\n "])
def test_a_long_list_of_anything_takes_no_time(piece: str) -> None:
    """No header keeps the program busy: 32,768 of anything take a fraction of a second; in steps of n x n, minutes."""
    began = time.process_time()
    complete_addresses(piece * (1 << 15), "h.example")

    assert time.process_time() - began < 2.0
