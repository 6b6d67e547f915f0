# SPDX-License-Identifier: MIT
"""The benchmark's command line."""

import pytest
from bench.options import Options, read_options


def test_nothing_asked_is_the_issue_s_benchmark() -> None:
    """make bench: all systems, all modes, three rounds of ten thousand messages of 5 KiB on twenty sessions."""
    options = read_options([])

    assert options == Options()
    assert (options.messages, options.rounds, options.sessions, options.octets) == (10_000, 3, 20, 5120)
    assert options.modes == ("fresh", "kept", "tls", "tls-kept", "auth")
    assert options.storm
    assert options.gate


def test_quick_is_one_small_round() -> None:
    """For CI; what is asked besides still holds."""
    assert (read_options(["--quick"]).rounds, read_options(["--quick"]).messages) == (1, 2000)
    assert read_options(["--quick", "--messages", "50"]).messages == 50
    assert read_options(["--quick"]).gate


def test_only_keeps_the_order_of_a_round() -> None:
    """Whatever the order of the flags, the ceiling comes first."""
    assert read_options(["--only", "smarthost", "--only", "ceiling"]).systems == ("ceiling", "smarthost")
    assert read_options(["--mode", "kept"]).modes == ("kept",)


def test_storm_is_a_mode_like_others() -> None:
    """It can be asked for alone, and left out."""
    assert (read_options(["--mode", "storm"]).modes, read_options(["--mode", "storm"]).storm) == ((), True)
    assert not read_options(["--mode", "tls"]).storm
    assert read_options(["--quick"]).storm


@pytest.mark.parametrize("argv", [["--only", "exim"], ["--messages", "0"], ["--rounds", "x"], ["--what"]])
def test_nonsense_is_refused_with_64(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped flag is told, with the exit code for it, and nothing is run."""
    with pytest.raises(SystemExit) as ended:
        read_options(argv)

    assert ended.value.code == 64
    assert "bench: " in capsys.readouterr().err
