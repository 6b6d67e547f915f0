# SPDX-License-Identifier: MIT
"""Dot-stuffing: content arrives as it was, and nothing in it ends it early."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.smtp.dots import Stuffer


def stuffed(*chunks: bytes) -> bytes:
    stuffer = Stuffer()
    return b"".join([*[stuffer.stuff(chunk) for chunk in chunks], stuffer.end()])


def unstuffed(octets: bytes) -> bytes:
    """What a strict host makes of it: lines end in CRLF only, a lone dot ends it, a first dot goes."""
    lines: list[bytes] = []
    rest = octets
    while True:
        line, separator, rest = rest.partition(b"\r\n")
        assert separator, "the final dot never came"
        if line == b".":
            assert rest == b"", "the content ended early"
            return b"".join(lines)
        lines.append(line.removeprefix(b".") + b"\r\n")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param((), b".\r\n", id="nothing"),
        pytest.param((b"",), b".\r\n", id="empty-chunk"),
        pytest.param((b"a\r\n",), b"a\r\n.\r\n", id="no-dot"),
        pytest.param((b"a",), b"a\r\n.\r\n", id="no-crlf-at-the-end"),
        pytest.param((b".",), b"..\r\n.\r\n", id="only-a-dot"),
        pytest.param((b".\r\n",), b"..\r\n.\r\n", id="the-final-dot-as-content"),
        pytest.param((b"a\r\n.\r\nb\r\n",), b"a\r\n..\r\nb\r\n.\r\n", id="dot-line-within"),
        pytest.param((b"a\r\n..b\r\n",), b"a\r\n...b\r\n.\r\n", id="two-dots"),
        pytest.param((b"a.b\r\n",), b"a.b\r\n.\r\n", id="dot-in-a-line"),
        pytest.param((b"a\r\n", b".\r\n"), b"a\r\n..\r\n.\r\n", id="chunk-begins-with-dot-after-crlf"),
        pytest.param((b"a\r", b"\n.b"), b"a\r\n..b\r\n.\r\n", id="crlf-split"),
        pytest.param((b"a\r", b"\n", b".b"), b"a\r\n..b\r\n.\r\n", id="crlf-split-then-dot"),
        pytest.param((b"a\r\n", b"", b"."), b"a\r\n..\r\n.\r\n", id="empty-chunk-before-dot"),
        pytest.param((b"a", b".b"), b"a.b\r\n.\r\n", id="chunk-begins-with-dot-within-a-line"),
        pytest.param((b"a\r", b"\n"), b"a\r\n.\r\n", id="end-split"),
        pytest.param((b"a\n",), b"a\n\r\n.\r\n", id="ends-in-bare-lf"),
        pytest.param((b"a\r",), b"a\r\r\n.\r\n", id="ends-in-bare-cr"),
        pytest.param((b"a\n.\r\nb\r\n",), b"a\n..\r\nb\r\n.\r\n", id="dot-after-bare-lf-cannot-smuggle"),
        pytest.param((b"a\n", b".\n"), b"a\n..\n\r\n.\r\n", id="dot-after-bare-lf-in-another-chunk"),
    ],
)
def test_dots_are_stuffed(chunks: tuple[bytes, ...], expected: bytes) -> None:
    """Each dot that begins a line is doubled wherever the chunks are cut, and the final dot has its own line."""
    assert stuffed(*chunks) == expected


def test_content_without_dots_is_not_copied() -> None:
    """The common message costs one search and no copy."""
    chunk = b"a line without dots at its start.\r\n" * 1000

    assert Stuffer().stuff(chunk) is chunk


CONTENT = st.lists(st.sampled_from([b"\r\n", b".", b"a", b" ", b"..", b"\r\n.\r\n", b"\xff"]), max_size=20).map(
    b"".join
)


@given(CONTENT, st.lists(st.integers(0, 40), max_size=6))
def test_a_strict_host_reads_what_was_sent(content: bytes, cuts: list[int]) -> None:
    """Whatever the content and however it is cut, the host gets it octet for octet, with a CRLF at its end."""
    places = [0, *sorted(cuts), len(content)]
    pieces = [content[a:b] for a, b in pairwise(places)]

    expected = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    assert unstuffed(stuffed(*pieces)) == expected


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"a"]), max_size=12).map(b"".join), st.integers(0, 12))
def test_only_dots_and_one_crlf_are_added(content: bytes, cut: int) -> None:
    """Even for content that should never get here, no bare CR or LF comes from us, and cuts do not matter."""
    whole = stuffed(content)

    assert stuffed(content[:cut], content[cut:]) == whole
    assert whole.replace(b".", b"").startswith(content.replace(b".", b""))
    assert whole.replace(b".", b"")[len(content.replace(b".", b"")) :] in (b"\r\n", b"\r\n\r\n")
    assert b"\n.\n" not in whole
    assert b"\n.\r\n" not in whole[:-5]
