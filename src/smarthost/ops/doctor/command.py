# SPDX-License-Identifier: MIT
"""`smarthost doctor`: the command. A line for each finding, its cure below it; as JSON Lines check, level, seen, cure.

Exit 0: nothing failed; 1: something did (--strict: or was warned about). What strangers said is escaped here.
"""

import time
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.config import Config
    from smarthost.ops.doctor.findings import Finding, Level
    from smarthost.ops.doctor.world import Wishes

SICK = 1
_LEVEL, _CHECK = 4, 8  # widths of "warn" and "relaying"
_LEVELS = ("ok", "warn", "fail", "skip")


@click.command()
@options.over_config
@click.option("--only", metavar="NAME", multiple=True, help="Run this check only (several: a comma, or repeat it).")
@click.option(
    "--timeout", "timeout_s", metavar="S", type=click.FloatRange(0.1, 600), default=15.0, help="Seconds [15]."
)
@click.option("--strict", is_flag=True, help="A warning counts as a failure for the exit code.")
@click.option(
    "--domain", "domains", metavar="DOMAIN", multiple=True, help="Look at the DNS of this one too; repeat it."
)
@click.option("--probe-domain", "probe_domains", metavar="DOMAIN", multiple=True, help="Dial its exchanger; repeat it.")
@click.option("--public-address", metavar="IP", multiple=True, help="What the outside sees, behind NAT; repeat it.")
@click.option("--blocklist", metavar="ZONE", default=None, help="Ask this one [zen.spamhaus.org]; '' for none.")
@click.option("--login", is_flag=True, help="Try the passwords of the next hops as well.")
@options.json_lines
def doctor(
    file: Path | None,
    *,
    only: tuple[str, ...],
    timeout_s: float,
    strict: bool,
    domains: tuple[str, ...],
    probe_domains: tuple[str, ...],
    public_address: tuple[str, ...],
    blocklist: str | None,
    login: bool,
    as_json: bool,
    **given: object,
) -> int:
    """Examine whether this machine is fit to relay mail: configuration, disk, clock, DNS, port 25, records, policy.

    Each line is ok, warn, fail or skip, with what was seen and the cure. Works with the daemon running or not; changes
    nothing, sends no mail, and sends no password but with --login. Checks, for --only: config, daemon, disk, clock,
    limits, resolver, name, egress, domains, relaying.

    Exit codes: 0 nothing failed, 1 something did (with --strict: or there is a warning), 64 a wrong option.
    """
    import asyncio

    from smarthost.ops.doctor.findings import Level

    names = _check_names(only)
    wishes = _wishes(domains, probe_domains, public_address, blocklist, login=login)
    config, errors = _load(file, given)
    started = time.monotonic()
    found = asyncio.run(_examine(config, errors, wishes, names, timeout_s, as_json))
    counted = Counter(finding.level for finding in found)
    _sum_up(counted, time.monotonic() - started, as_json)
    is_sick = counted[Level.FAIL] or (strict and counted[Level.WARN])
    return SICK if is_sick else exits.OK


def _check_names(only: tuple[str, ...]) -> tuple[str, ...]:
    from smarthost.ops.doctor.examination import CHECKS

    names = tuple(name.strip() for each in only for name in each.split(",") if name.strip())
    for name in names:
        if name not in CHECKS:
            raise exits.CommandFailed(
                f"--only {words.printable(name)}: no such check; there are {', '.join(CHECKS)}", exits.USAGE
            )
    return names


def _wishes(
    domains: tuple[str, ...],
    probe_domains: tuple[str, ...],
    addresses: tuple[str, ...],
    blocklist: str | None,
    *,
    login: bool,
) -> "Wishes":
    from smarthost.ops.doctor.world import BLOCKLIST, PROBE_DOMAINS, Wishes

    try:
        public = tuple(str(ip_address(each)) for each in addresses)
    except ValueError as error:
        raise exits.CommandFailed(f"--public-address: {error}", exits.USAGE) from None
    return Wishes(
        domains=_domains("--domain", domains),
        probe_domains=_domains("--probe-domain", probe_domains) or PROBE_DOMAINS,
        public_addresses=public,
        blocklist="".join(_domains("--blocklist", (blocklist,))) if blocklist else "" if blocklist == "" else BLOCKLIST,
        login=login,
    )


def _domains(option: str, given: tuple[str, ...]) -> tuple[str, ...]:
    from smarthost.mail.address import to_domain

    try:
        return tuple(str(to_domain(each)) for each in given)
    except ValueError as error:
        raise exits.CommandFailed(f"{option}: {error}", exits.USAGE) from None


def _load(file: Path | None, given: dict[str, object]) -> "tuple[Config, tuple[str, ...]]":
    """Read the configuration; where it does not load, give what holds without it, and a line for each error."""
    from smarthost.config import Config, Surroundings, find_state_dir, read_config_file
    from smarthost.mail.errors import ConfigError

    flags = options.flags_over_config(given)
    reading = read_config_file(file, flags, options.SPELLED)
    if reading.config is not None:
        return reading.config, ()
    errors = tuple(f"{reading.file}: {error}" if reading.file else str(error) for error in reading.errors)
    said = given.get("state_dir")
    around = Surroundings.look()
    try:
        state_dir = find_state_dir(said if isinstance(said, str) else None, file)
    except ConfigError:  # no TOML, or no path
        state_dir = around.state_dir
    return Config(hostname=around.host_name, state_dir=state_dir), errors


async def _examine(
    config: "Config", errors: tuple[str, ...], wishes: "Wishes", names: tuple[str, ...], timeout_s: float, as_json: bool
) -> "list[Finding]":
    from smarthost.ops.doctor.examination import examine, open_world

    async with open_world(config, errors, wishes) as world:
        return await examine(world, names, timeout_s, lambda finding: _tell(finding, as_json))


def _tell(finding: "Finding", as_json: bool) -> None:
    level = finding.level.value
    if as_json:
        fields = {"check": finding.check, "level": level, "seen": finding.seen, "cure": finding.cure}
        click.echo(words.json_line(fields))
        return
    lines = [(level, finding.check, words.printable(finding.seen))]
    if finding.cure:
        lines.append(("", "", f"cure: {words.printable(finding.cure)}"))
    click.echo("\n".join(words.aligned(lines, (_LEVEL, _CHECK))))


def _sum_up(counted: "Counter[Level]", took_s: float, as_json: bool) -> None:
    numbers = {level.value: number for level, number in counted.items()}
    if as_json:
        click.echo(words.json_line({level: numbers.get(level, 0) for level in _LEVELS} | {"took_s": round(took_s, 2)}))
    else:
        told = ", ".join(f"{numbers.get(level, 0)} {level}" for level in _LEVELS)
        click.echo(f"{told}, in {took_s:.1f} s")
