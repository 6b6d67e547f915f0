# SPDX-License-Identifier: MIT
"""What the benchmark with dead exchangers was asked to do, read from the command line; touches nothing."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from bench.dead_scenarios import SCENARIOS, WAYS
from bench.options import Options, Parser, at_least_one

SYSTEMS = ("smarthost", "postfix")  # also the order within a round
QUICK_WAYS = ("syn", "banner")
LEARNING_S = 10.0  # the issue's: what comes after it counts
WINDOW_S = 15.0
QUICK_WINDOW_S = 4.0


class DeadOptions(Struct, frozen=True, kw_only=True):
    """One run of this benchmark. `ways` names scenarios; the living ones they are held against come by themselves."""

    systems: tuple[str, ...] = SYSTEMS
    ways: tuple[str, ...] = WAYS
    rounds: int = 3
    window_s: float = WINDOW_S
    sessions: int = 20
    octets: int = 5120
    gate: bool = True
    scratch: Path = Path("/var/tmp")  # only the parent of a mkdtemp
    out: Path = Path("bench/out")
    smarthost: Path = Path(".venv/bin/smarthost")
    smarthost_args: tuple[str, ...] = ()
    outside: str = ""  # the namespaces of who asked; set by ourselves when started anew inside private ones

    def plain(self) -> Options:
        """Give what the checks of `make bench` want to know."""
        return Options(systems=self.systems, scratch=self.scratch, smarthost=self.smarthost)


def read_dead_options(argv: Sequence[str]) -> DeadOptions:
    """Read the command line. Raises: SystemExit: 0 after --help, 64 for what makes no sense."""
    asked = _parser().parse_args(argv)
    systems = asked.systems or (SYSTEMS[:1] if asked.quick else SYSTEMS)
    ways = asked.ways or (QUICK_WAYS if asked.quick else WAYS)
    return DeadOptions(
        systems=tuple(name for name in SYSTEMS if name in systems),
        ways=tuple(way for way in SCENARIOS if way in ways),
        rounds=asked.rounds or (1 if asked.quick else 3),
        window_s=asked.window or (QUICK_WINDOW_S if asked.quick else WINDOW_S),
        sessions=asked.sessions,
        octets=asked.octets,
        gate=not asked.no_gate,
        scratch=asked.scratch,
        out=asked.out,
        smarthost=asked.smarthost,
        smarthost_args=tuple(asked.smarthost_arg),
        outside=asked.outside,
    )


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        strange = [name for name in names if name not in known]
        if strange:
            raise argparse.ArgumentTypeError(f"{', '.join(strange)!r} is none of {', '.join(known)}")
        return names

    return read


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m bench.dead_mx", description="What dead mail exchangers cost, with Postfix beside.")
    say = parser.add_argument
    say("--quick", action="store_true", help="1 round, smarthost alone, two ways, short windows: under 60 s, for CI")
    say("--systems", type=_names(SYSTEMS), help=f"with commas between: {','.join(SYSTEMS)}")
    say("--ways", type=_names(tuple(SCENARIOS)), help=f"with commas between: {','.join(SCENARIOS)} (all)")
    say("--rounds", type=at_least_one, help="interleaved rounds (3)")
    say("--window", type=at_least_one, help=f"seconds measured after the first {LEARNING_S:.0f} ({WINDOW_S:.0f})")
    say("--sessions", type=_sessions, default=20, help="parallel sessions of smtp-source in all (20)")
    say("--octets", type=at_least_one, default=5120, help="size of a message without its header (5120)")
    say("--no-gate", action="store_true", help="do not judge the figures (a run that failed still fails)")
    say("--scratch", type=Path, default=Path("/var/tmp"), help="where queues live meanwhile; a real disk (/var/tmp)")
    say("--out", type=Path, default=Path("bench/out"), help="where the JSON goes (bench/out)")
    say("--smarthost", type=Path, default=Path(".venv/bin/smarthost"), help="the program to measure")
    say("--smarthost-arg", action="append", default=[], help="further argument for `smarthost serve` (repeatable)")
    say("--outside", default="", help=argparse.SUPPRESS)
    return parser


def _sessions(text: str) -> int:
    number = at_least_one(text)
    if number % 10:
        raise argparse.ArgumentTypeError("must be a multiple of 10: half for the dead site, a tenth for each other")
    return number
