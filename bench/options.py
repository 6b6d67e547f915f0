# SPDX-License-Identifier: MIT
"""What the benchmark was asked to do, read from the command line.

Decides defaults and refuses nonsense; touches nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bench.modes import MODES

SYSTEMS = ("ceiling", "postfix", "smarthost")  # also the order within a round
STORM = "storm"  # a measurement of its own: bench/storm.py
ASPECTS = (*MODES, STORM)
QUICK = ("fresh", "kept", "tls", "auth", STORM)
QUICK_MESSAGES = 2000


class Options(Struct, frozen=True, kw_only=True):
    """One run of the benchmark."""

    systems: tuple[str, ...] = SYSTEMS
    modes: tuple[str, ...] = tuple(MODES)
    storm: bool = True
    messages: int = 10_000
    octets: int = 5120
    rounds: int = 3
    sessions: int = 20
    probe_sessions: int = 4
    gate: bool = True
    profile: bool = False
    budget: bool = True
    scratch: Path = Path("/var/tmp")  # only the parent of a mkdtemp
    out: Path = Path("bench/out")
    smarthost: Path = Path(".venv/bin/smarthost")
    smarthost_args: tuple[str, ...] = ()
    stall_s: float = 30.0


def read_options(argv: Sequence[str]) -> Options:
    """Read the command line. Raises: SystemExit: 0 after --help, 64 for what makes no sense."""
    asked = _parser().parse_args(argv)
    rounds = asked.rounds if asked.rounds is not None else (1 if asked.quick else 3)
    messages = asked.messages if asked.messages is not None else (QUICK_MESSAGES if asked.quick else 10_000)
    wanted = asked.mode or (QUICK if asked.quick else ASPECTS)
    return Options(
        systems=tuple(s for s in SYSTEMS if not asked.only or s in asked.only),
        modes=tuple(m for m in MODES if m in wanted),
        storm=STORM in wanted,
        messages=messages,
        octets=asked.octets,
        rounds=rounds,
        sessions=asked.sessions,
        gate=not asked.no_gate,
        profile=asked.profile,
        budget=not asked.no_budget,
        scratch=asked.scratch,
        out=asked.out,
        smarthost=asked.smarthost,
        smarthost_args=tuple(asked.smarthost_arg),
        stall_s=asked.stall,
    )


class Parser(argparse.ArgumentParser):
    """Ends with 64, as sysexits has it, not with argparse's 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.print_usage()
        self.exit(64, f"bench: {message}\n")


def at_least_one(text: str) -> int:
    """Read a positive number."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m bench", description="smarthost beside Postfix, same load, same sink, same minutes.")
    say = parser.add_argument
    say("--quick", action="store_true", help=f"1 round of {QUICK_MESSAGES} messages, for CI")
    say("--only", action="append", choices=SYSTEMS, help="measure this alone (repeatable)")
    say("--mode", action="append", choices=ASPECTS, help="measure this way alone (repeatable)")
    say("--messages", type=at_least_one, help="per timed run (10000)")
    say("--rounds", type=at_least_one, help="interleaved rounds (3)")
    say("--sessions", type=at_least_one, default=20, help="parallel sessions of smtp-source (20)")
    say("--octets", type=at_least_one, default=5120, help="size of a message without its header (5120)")
    say("--profile", action="store_true", help="an extra, uncounted run of smarthost per mode under py-spy")
    say("--no-gate", action="store_true", help="do not judge the figures (missing messages still fail)")
    say("--no-budget", action="store_true", help="skip the in-process budget per stage")
    say(
        "--scratch", type=Path, default=Path("/var/tmp"), help="where queues live while it runs; a real disk (/var/tmp)"
    )
    say("--out", type=Path, default=Path("bench/out"), help="where the JSON goes (bench/out)")
    say("--stall", type=float, default=30.0, help="seconds without progress at the sink that mean failure (30)")
    say("--smarthost", type=Path, default=Path(".venv/bin/smarthost"), help="the program to measure")
    say("--smarthost-arg", action="append", default=[], help="further argument for `smarthost serve` (repeatable)")
    return parser
