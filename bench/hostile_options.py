# SPDX-License-Identifier: MIT
"""What the benchmark among hostile ones was asked to do, read from the command line; touches nothing."""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bench.hostile_clients import ATTACKS
from bench.hostile_figures import CALM, WORLDS
from bench.options import Options, Parser, at_least_one

LEARNING_S = 4.0  # a silent host is known as such after that long, or it is not
WINDOW_S = 10.0
QUICK_WINDOW_S = 4.0


class HostileOptions(Struct, frozen=True, kw_only=True):
    """One run of this benchmark. The calm is always measured. `trickle`: messages/s to each hostile domain."""

    worlds: tuple[str, ...] = WORLDS
    rounds: int = 5
    window_s: float = WINDOW_S
    sessions: int = 20
    octets: int = 5120
    trickle: float = 0.2
    attacks: tuple[str, ...] = ()  # none: all
    gate: bool = True
    stop: bool = True  # see once how long the relay takes to stop among silent hosts
    scratch: Path = Path("/var/tmp")  # only the parent of a mkdtemp
    out: Path = Path("bench/out")
    smarthost: Path = Path(".venv/bin/smarthost")
    smarthost_args: tuple[str, ...] = ()

    def plain(self) -> Options:
        """Give what the checks of `make bench` want to know."""
        return Options(systems=("smarthost",), scratch=self.scratch, smarthost=self.smarthost)


def read_hostile_options(argv: Sequence[str]) -> HostileOptions:
    """Read the command line. Raises: SystemExit: 0 after --help, 64 for what makes no sense."""
    asked = _parser().parse_args(argv)
    wanted = {CALM, *(asked.world or WORLDS)}
    return HostileOptions(
        worlds=tuple(world for world in WORLDS if world in wanted),
        rounds=asked.rounds or (1 if asked.quick else 5),
        window_s=asked.window or (QUICK_WINDOW_S if asked.quick else WINDOW_S),
        sessions=asked.sessions,
        octets=asked.octets,
        trickle=asked.trickle,
        attacks=tuple(asked.attack),
        gate=not (asked.no_gate or asked.quick),
        stop=not asked.quick,
        scratch=asked.scratch,
        out=asked.out,
        smarthost=asked.smarthost,
        smarthost_args=tuple(asked.smarthost_arg),
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m bench.hostile", description="What hostile hosts and clients cost good mail.")
    say = parser.add_argument
    say("--quick", action="store_true", help="1 round, short windows, no gate: under a minute, for CI")
    say("--world", action="append", choices=WORLDS[1:], help="beside the calm, this alone (repeatable)")
    say("--attack", action="append", default=[], choices=tuple(ATTACKS), help="this attack alone (repeatable)")
    say("--rounds", type=at_least_one, help="interleaved rounds (5)")
    say("--window", type=at_least_one, help=f"seconds measured after the first {LEARNING_S:.0f} ({WINDOW_S:.0f})")
    say("--sessions", type=at_least_one, default=20, help="parallel sessions of smtp-source (20)")
    say("--octets", type=at_least_one, default=5120, help="size of a message without its header (5120)")
    say("--trickle", type=_rate, default=0.2, help="messages a second to each hostile domain (0.2)")
    say("--no-gate", action="store_true", help="do not judge the figures (a run that failed still fails)")
    say("--scratch", type=Path, default=Path("/var/tmp"), help="where queues live meanwhile; a real disk (/var/tmp)")
    say("--out", type=Path, default=Path("bench/out"), help="where the JSON goes (bench/out)")
    say("--smarthost", type=Path, default=Path(".venv/bin/smarthost"), help="the program to measure")
    say("--smarthost-arg", action="append", default=[], help="further argument for `smarthost serve` (repeatable)")
    return parser


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate <= 100:
        raise ValueError("must be above 0 and at most 100")
    return rate
