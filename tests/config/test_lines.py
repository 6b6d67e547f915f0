# SPDX-License-Identifier: MIT
"""Where a key stands in a TOML text."""

import tomllib

import pytest

from smarthost.config.lines import key_lines, syntax_error

TEXT = """\
# a comment = 1
hostname = "a = b"

listen = [
  "x=y",
]
dns.servers = []
[ retry ]  # and a comment
"first" = 1
[[route]]
domains = 1
[route.next_hop]
host = 1
[[route]]
domains = 2
"""


def test_keys_and_tables_are_found_by_their_line() -> None:
    """An error in a file names the line an editor shows."""
    assert key_lines(TEXT) == {
        "hostname": 2,
        "listen": 4,
        "dns.servers": 7,
        "retry": 8,
        "retry.first": 9,
        "route": 10,
        "route[1]": 10,
        "route[1].domains": 11,
        "route.next_hop": 12,
        "route[1].next_hop": 12,
        "route[1].next_hop.host": 13,
        "route[2]": 14,
        "route[2].domains": 15,
    }


def test_windows_line_ends_do_not_move_lines() -> None:
    """A file written on Windows has the same line numbers."""
    assert key_lines(TEXT.replace("\n", "\r\n")) == key_lines(TEXT)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = ", 1), ("\n\nb 1", 3), ("a = 1\nx = [1,\n2", 3), ("a = 1\na = 2\n", 2), ('a = "x\nb = 1', 1)],
)
def test_syntax_errors_name_their_line(text: str, line: int) -> None:
    """What is not TOML is found by its line, at the end of the file too."""
    with pytest.raises(tomllib.TOMLDecodeError) as refused:
        tomllib.loads(text)

    detail, found = syntax_error(refused.value, text)

    assert found == line
    assert "line" not in detail
