# SPDX-License-Identifier: MIT
"""What remembering routes costs: `python -m bench.routes`; two minutes, then ends. Exit code 1: a promise is broken.

100,000 destinations, each with a domain, an exchanger and an address of its own, planned over a resolver that answers
from arithmetic (its cache is bounded apart, and is not counted), then 100,000 broken hosts in the health table. Octets
are told twice: as tracemalloc counts them, in a process of its own, and as the resident set grows without it. Costs are
of one call, over many different destinations in random order, with the operating system's random as in production.
"""

import argparse
import asyncio
import gc
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median

from smarthost.backends.clock import SystemClock
from smarthost.mail.plan import Plan
from smarthost.ports import Answer, AnswerStatus, MxRecord, Permit, Refused
from smarthost.route.health import HealthTerms, HostHealth
from smarthost.route.plan import Planner, PlanTerms
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, Families, RouteTable

CACHED_PLAN_US = 20.0  # the promise
BOTH_TABLES_MIB = 100.0  # the promise, for 100,000 destinations and their hosts
MIB = 1 << 20


class Arithmetic:
    """A ports.Resolver that knows SHAPE-N.example for every N: "1x1" has one exchanger with one address."""

    async def ask(self, name: str, rdtype: str) -> Answer:
        """See ports.Resolver. Every answer is made anew, as one that has been decoded is."""
        status, mx, addresses = AnswerStatus.FOUND, tuple[MxRecord, ...](), tuple[str, ...]()
        shape, number = name.split(".")[-2].split("-")
        exchangers, each = map(int, shape.split("x"))
        if rdtype == "MX":
            mx = tuple(MxRecord(10, f"mx{n}.{name}") for n in range(exchangers))
        elif rdtype == "A":
            first = 0x0B000000 + int(number) * 16 + int(name[2]) * each
            addresses = tuple(address_text(first + n) for n in range(each))
        else:
            status = AnswerStatus.NODATA
        return Answer(name, rdtype, status, mx, addresses, canonical=name, ttl_s=3600)


def address_text(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def make_planner() -> Planner:
    """Make a planner as assemble does, but for IPv4 alone: it finds nothing else, and is filled faster."""
    table, chance = RouteTable(DirectMx(families=Families.IPV4)), random.SystemRandom()
    return Planner(table, Arithmetic(), SystemClock(), chance, PlanTerms(Speaker("relay.example.org")))


async def fill_planner(planner: Planner, count: int) -> None:
    """Plan for `count` destinations whose texts nobody else keeps."""
    for n in range(count):
        plan = await planner.plan(f"1x1-{n:06}.example")
        assert isinstance(plan, Plan), plan


def fill_health(health: HostHealth, count: int) -> None:
    """Let `count` hosts have failed once, each in words of its own."""
    for n in range(count):
        address = address_text(0x0B000000 + n * 16)
        permit = health.admit("", address)
        assert not isinstance(permit, Refused), permit
        permit.failed("connect", f"{address}:25 did not answer within 10 s", f"mx0.1x1-{n:06}.example")


def make_health(count: int) -> HostHealth:
    return HostHealth(SystemClock(), random.SystemRandom(), HealthTerms(hosts=count, first_pause_s=600.0))


# -- memory ------------------------------------------------------------------------------------------------------------


def resident_octets() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def traced_octets() -> int:
    return tracemalloc.get_traced_memory()[0]


def grown(held: Callable[[], int], fill: Callable[[], object]) -> int:
    """Give how many octets more are held after `fill`."""
    gc.collect()
    before = held()
    fill()
    gc.collect()
    return held() - before


def measure_memory(count: int, held: Callable[[], int]) -> tuple[int, int]:
    """Give the octets of `count` plans and of `count` broken hosts."""
    planner, health = make_planner(), make_health(count)
    with asyncio.Runner() as runner:
        runner.run(fill_planner(make_planner(), 10))  # whatever is made once is made now
        plans = grown(held, lambda: runner.run(fill_planner(planner, count)))
    hosts = grown(held, lambda: fill_health(health, count))
    return plans, hosts


def measure_alone(count: int, how: str) -> tuple[int, int]:
    """Measure in a process of its own: what another measurement left free would be filled first."""
    command = [sys.executable, "-m", "bench.routes", "--count", str(count), "--only", how]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout
    plans, hosts = map(int, said.split())
    return plans, hosts


def report_memory(count: int) -> bool:
    """Print a line for each way of counting; tell whether the promise is kept."""
    is_kept = True
    print(f"{'memory':10} {'plan, octets':>13} {'host, octets':>13} {'both, MiB':>10}")
    for how in ("traced", "resident"):
        plans, hosts = measure_alone(count, how)
        mib = (plans + hosts) / MIB
        is_kept = is_kept and mib < BOTH_TABLES_MIB
        print(f"{how:10} {plans / count:13.0f} {hosts / count:13.0f} {mib:10.1f}")
    print(f"{verdict(is_kept)}: {count:,} destinations and {count:,} broken hosts in less than {BOTH_TABLES_MIB:g} MiB")
    return is_kept


# -- time --------------------------------------------------------------------------------------------------------------


def us_each(calls: list[Callable[[], object]]) -> list[float]:
    """Give the microseconds of each call, sorted; the clock's own cost is taken off."""
    took = []
    for call in calls:
        start = time.perf_counter_ns()
        call()
        took.append(time.perf_counter_ns() - start)
    empty = median([-time.perf_counter_ns() + time.perf_counter_ns() for _ in range(1000)])
    return sorted(max(0.0, each - empty) / 1000 for each in took)


def planning(planner: Planner, destination: str) -> Callable[[], object]:
    """Give a call that takes a remembered plan, without a loop: it suspends nowhere."""

    def call() -> None:
        try:
            planner.plan(destination).send(None)
        except StopIteration:
            return
        raise AssertionError("a remembered plan waits for nothing")

    return call


async def us_cold(planner: Planner, destinations: list[str]) -> list[float]:
    """Give the microseconds of each plan that asks, on a loop: its questions are asked side by side in tasks."""
    took = []
    for destination in destinations:
        start = time.perf_counter_ns()
        await planner.plan(destination)
        took.append((time.perf_counter_ns() - start) / 1000)
    return sorted(took)


def report_time(count: int, calls: int) -> bool:
    """Print a line for each kind of call; tell whether the promise is kept."""
    planner, health, chance = make_planner(), make_health(count), random.Random(1)
    three = [f"3x3-{n:06}.example" for n in range(calls)]
    with asyncio.Runner() as runner:
        runner.run(fill_planner(planner, count - calls))
        cold = runner.run(us_cold(planner, three))
    fill_health(health, count)
    ones = [f"1x1-{chance.randrange(count - calls):06}.example" for _ in range(calls)]
    chance.shuffle(three)
    hosts = [address_text(0x0B000000 + chance.randrange(count) * 16) for _ in range(calls)]
    print(f"\n{'microseconds':38} {'p50':>7} {'p99':>7}")
    one = tell("cached plan, 1 host", us_each([planning(planner, each) for each in ones]))
    nine = tell("cached plan, 3 hosts x 3 addresses", us_each([planning(planner, each) for each in three]))
    tell("cold plan, 3 x 3, all answers at hand", cold)
    tell("usable(), broken host", us_each([lambda each=each: health.usable("", each) for each in hosts]))  # type: ignore[misc]
    tell("admit(), refused", us_each([lambda each=each: refused(health, each) for each in hosts]))  # type: ignore[misc]
    is_kept = max(one, nine) < CACHED_PLAN_US
    print(f"{verdict(is_kept)}: a cached plan costs less than {CACHED_PLAN_US:g} us")
    return is_kept


def refused(health: HostHealth, address: str) -> Permit | Refused:
    return health.admit("", address)


def tell(what: str, took: list[float]) -> float:
    """Print and give the median."""
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    print(f"{what:38} {p50:7.2f} {p99:7.2f}")
    return p50


def verdict(is_kept: bool) -> str:
    return "PASS" if is_kept else "FAIL"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.routes", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="destinations, and hosts")
    parser.add_argument("--calls", type=int, default=10_000, help="of each kind that are timed")
    parser.add_argument(
        "--only", choices=("traced", "resident"), help="print the octets of plans and of hosts, no more"
    )
    options = parser.parse_args()
    if options.only == "traced":
        tracemalloc.start()
        print(*measure_memory(options.count, traced_octets))
    elif options.only == "resident":
        print(*measure_memory(options.count, resident_octets))
    else:
        kept = [report_memory(options.count), report_time(options.count, min(options.calls, options.count // 2))]
        raise SystemExit(0 if all(kept) else 1)


if __name__ == "__main__":
    main()
