# SPDX-License-Identifier: MIT
"""accept.recent: bounded tables of what strangers make us remember."""

from smarthost.accept.recent import KEY_CHARACTERS, Recent


def test_what_was_unused_for_longest_is_forgotten() -> None:
    """Looking something up is using it."""
    table: Recent[list[str]] = Recent(2)
    ann = table.find_or_make("ann", list)
    table.find_or_make("bob", list)
    assert table.find("ann") is ann
    table.find_or_make("cid", list)

    assert table.find("ann") is ann
    assert table.find("bob") is None
    assert 2 == len(table)


def test_long_keys_are_cut_alike_wherever_they_are_used() -> None:
    """A key costs bounded memory, and is found again under its full length."""
    table: Recent[list[str]] = Recent(2)
    made = table.find_or_make("x" * (KEY_CHARACTERS + 100), list)

    assert table.find("x" * (KEY_CHARACTERS + 50)) is made
    assert table.find_or_make("x" * (KEY_CHARACTERS + 100), list) is made
