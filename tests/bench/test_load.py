# SPDX-License-Identifier: MIT
"""smtp-source's command line."""

from bench.load import Load, source_command


def test_fresh_connections_and_kept_ones_differ_by_one_flag() -> None:
    """The two modes are the same load but for -d."""
    fresh = source_command(Load(messages=10, sessions=20, octets=5120, kept=False), 2525, "smtp-source")
    kept = source_command(Load(messages=10, sessions=20, octets=5120, kept=True), 2525, "smtp-source")

    assert [flag for flag in kept if flag != "-d"] == fresh
    assert kept.count("-d") == 1


def test_load_is_what_was_asked_for() -> None:
    """Sessions, messages and size reach smtp-source, and it pushes to loopback."""
    command = source_command(Load(messages=7, sessions=3, octets=99, kept=False, numbered=True), 2526, "/x/smtp-source")

    assert command[0] == "/x/smtp-source"
    assert command[-1] == "127.0.0.1:2526"
    assert "-N" in command
    assert [command[command.index(flag) + 1] for flag in ("-m", "-s", "-l")] == ["7", "3", "99"]
