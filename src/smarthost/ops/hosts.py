# SPDX-License-Identifier: MIT
"""`smarthost hosts list|show|reset`: which hosts are known as broken, on what evidence, and how to say that they work.

JSON Lines have stable names: address, name, service, state, failures, since, last_failure_at, step, detail,
next_probe_at, steps, waiting, waiting_count, is_probed. Times are ISO 8601 in UTC, or null. However many hosts there
are, a page of them at a time passes through here.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.mail.explanation import HostReport
    from smarthost.ops.verbs import HostsFind, HostsReset

_WIDTHS = (15, 28, 9, 11, 8)  # of an IPv4 address, a name, a state, "40 min ago", a heading
_PAGE = 1000  # hosts whose columns are aligned with each other
_REPORTED = ("port ", "from ", "tls ", "user ", "hop:")  # how services, and destinations that are fixed hops, begin
_NAME_OCTETS = 255  # RFC 1035 2.3.4
_UNKNOWN = (
    "nothing is known against a host of this name or address "
    "(only broken hosts are remembered, so a misspelt one looks the same)"
)
_TOLD = 2  # destinations that wait, in a list
_LINE = 100  # characters of names in a row

Found = TypeVar("Found")

_names = click.argument("names", nargs=-1, metavar="NAME|ADDRESS...")


@click.group()
def hosts() -> None:
    """Look at hosts that are known as broken, and say that they work."""


@hosts.command("list")
@options.place
@options.json_lines
def list_(state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """List hosts that are known as broken.

    Longest broken first, each with the evidence against it and the destinations that wait for it.
    """
    found = _ask(state_dir, file, _find(""))
    if as_json:
        _print_json(found)
        return
    now = time.time()
    states: Counter[str] = Counter()
    while page := tuple(islice(found, _PAGE)):
        click.echo("\n".join(_table(page, now, has_heading=not states)))
        states.update(words.printable(host.state) for host in page)
    told = ", ".join(f"{number:,} {state}" for state, number in sorted(states.items(), reverse=True))
    click.echo(f"{words.count(states.total(), 'host')}: {told}" if states else "no host is known as broken")


@hosts.command()
@_names
@options.place
@options.json_lines
def show(names: tuple[str, ...], state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Show all that is known about hosts.

    That nothing is known against a host is an answer, not an error: only broken hosts are remembered. Of a destination
    it is told which broken hosts it waits for.
    """
    asked = _as_asked(names)
    if not asked:
        raise click.UsageError("say which host: a NAME or an ADDRESS (or use `smarthost hosts list`)")
    now = time.time()
    everything = cache(lambda: tuple(_ask(state_dir, file, _find(""))))
    is_first = True
    for text in asked:
        found = _ask(state_dir, file, _find(text))
        if as_json:
            _print_json(_or_closed(text, found))
            continue
        known = (_whole(host, now) for host in found)
        for lines in _or_else(known, partial(_unknown, text, everything)):
            click.echo("\n".join((*([] if is_first else [""]), *lines)))
            is_first = False


@hosts.command()
@_names
@click.option("--all", "everything", is_flag=True, help="All that are known as broken.")
@options.place
@options.json_lines
def reset(names: tuple[str, ...], everything: bool, state_dir: str | None, file: Path | None, *, as_json: bool) -> None:
    """Say that hosts work again.

    What is known against them is forgotten, and mail that waits for them is due now.
    """
    asked = _as_asked(names)
    if everything and asked:
        raise click.UsageError("--all is every host: leave it out, or the names")
    if not everything and not asked:
        raise click.UsageError("say which host: a NAME or an ADDRESS (or --all)")
    now = time.time()
    number = 0
    unknown: list[str] = []
    for text in asked or ("",):
        before = number
        for host in _ask(state_dir, file, _reset(text)):
            number += 1
            plain = f"reset: {_title(host)}\n    {evidence(host, now)}"
            click.echo(words.json_line(host_fields(host)) if as_json else plain)
        if number == before and text:
            unknown.append(words.printable(text))
    nothing = f"no host is known as broken{' by this name or address: ' if unknown else ''}{', '.join(unknown)}"
    if not number:
        raise exits.CommandFailed(nothing, exits.NO_INPUT)
    if unknown:
        click.echo(f"smarthost: {nothing}", err=True)
    if not as_json:
        click.echo(f"{words.count(number, 'host')} reset; mail that waited for {_them(number)} is due now")


def _them(number: int) -> str:
    return "it" if number == 1 else "them"


def _as_asked(names: Iterable[str]) -> tuple[str, ...]:
    """Give what to look for, once each, as reports spell it.

    Raises: UsageError: a text that restricts nothing or that no host can have. CommandFailed: one that is too long.
    """
    asked = tuple(dict.fromkeys(_as_reported(name.strip()) for name in names))
    for text in asked:
        if len(text) > _NAME_OCTETS:
            raise exits.CommandFailed(f"a name has at most {_NAME_OCTETS} octets", exits.USAGE)
        if not words.is_utf8(text) or not (text.lower().startswith(_REPORTED) or _is_possible(text)):
            raise click.UsageError(f"neither a name nor an address: {text!a}")
    return asked


def _is_possible(text: str) -> bool:
    """Can a host have this name or address? A last label of digits is an address (RFC 1123 2.1), or a broken one."""
    from ipaddress import ip_address

    from smarthost.mail.address import to_domain

    try:
        ip_address(text)
    except ValueError:
        pass
    else:
        return True
    try:
        name = to_domain(text)
    except ValueError:
        return False
    is_text = text.isprintable() and not any(each.isspace() or each in ":[]/@," for each in text)
    return is_text and not name.rpartition(".")[2].isdecimal()


def _as_reported(written: str) -> str:
    """Give "[IPv6:2001:DB8::0:1]" as "2001:db8::1", and "mx.example." without its dot."""
    from ipaddress import ip_address

    if written.startswith("[") and written.endswith("]"):
        written = written[6:-1] if written[1:6].lower() == "ipv6:" else written[1:-1]
    try:
        return str(ip_address(written))
    except ValueError:
        return written.removesuffix(".")


def _find(text: str) -> "HostsFind":
    from smarthost.ops.verbs import HostsFind

    return HostsFind(text)


def _reset(text: str) -> "HostsReset":
    from smarthost.ops.verbs import HostsReset

    return HostsReset(text, everything=not text)


def _ask(state_dir: str | None, file: Path | None, request: "HostsFind | HostsReset") -> "Iterator[HostReport]":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import HostFound

    for answer in ask(find_state_dir(state_dir, file), request):
        if isinstance(answer, HostFound):
            yield answer.host


def _or_else(found: Iterable[Found], otherwise: Callable[[], Found]) -> Iterator[Found]:
    """Give what was found; where there is nothing, what stands for it."""
    is_empty = True
    for each in found:
        is_empty = False
        yield each
    if is_empty:
        yield otherwise()


def _or_closed(text: str, found: "Iterable[HostReport]") -> "Iterator[HostReport]":
    """Give what was found; where there is nothing, a report that says so."""
    return _or_else(found, lambda: _closed(text))


def _closed(text: str) -> "HostReport":
    from ipaddress import ip_address

    from smarthost.mail.explanation import HostReport

    try:
        address, name = str(ip_address(text)), ""
    except ValueError:
        address, name = "", text
    return HostReport(address, name, "", "closed", 0, 0.0, 0.0, "", "", 0.0)


def _unknown(text: str, everything: "Callable[[], Iterable[HostReport]]") -> Iterator[str]:
    """Say that no host is known by this text, or which hosts of `everything` it waits for if it is a destination."""
    from smarthost.mail.address import to_domain

    shown = words.printable(text)
    yield shown
    name = text.lower() if text.lower().startswith(_REPORTED) else to_domain(text)
    awaited = dict.fromkeys(
        f"{words.printable(host.name) or '-'} [{words.printable(host.address)}]"
        for host in everything()
        if name in host.waiting or f"[{name}]" in host.waiting
    )
    yield f"  {shown} is a destination that waits for: {', '.join(awaited)}" if awaited else f"  {_UNKNOWN}"


def _print_json(found: "Iterable[HostReport]") -> None:
    for host in found:
        click.echo(words.json_line(host_fields(host)))


def host_fields(host: "HostReport") -> dict[str, object]:
    """Give a host under the names that are stable."""
    return {
        "address": host.address,
        "name": host.name,
        "service": host.service,
        "state": host.state,
        "failures": host.failures,
        "since": words.iso_or_null(host.since),
        "last_failure_at": words.iso_or_null(host.last_failure_at),
        "step": host.step,
        "detail": host.detail,
        "next_probe_at": words.iso_or_null(host.next_probe_at),
        "steps": dict(host.steps),
        "waiting": host.waiting,
        "waiting_count": host.waiting_count,
        "is_probed": host.is_probed,
    }


def evidence(host: "HostReport", now: float) -> str:
    """Give what is known against a host: "connect failed 12 times in 40 min, last 3 s ago: timed out after 10 s"."""
    steps = host.steps or ((host.step, host.failures),)
    often = " and ".join(
        f"{step} failed {_times(number)}" if at == 0 else f"{step} {_times(number)}"
        for at, (step, number) in enumerate(steps)
    )
    long = f" in {words.span(host.last_failure_at - host.since)}, last" if host.failures > 1 else ","
    ago = "just now" if host.last_failure_at > now - 1 else words.relative(host.last_failure_at, now)
    where = f" at {host.step}" if len(steps) > 1 else ""
    return words.printable(f"{often}{long} {ago}{where}: {host.detail}")


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _name(host: "HostReport") -> str:
    name = f"{host.name} ({host.service})" if host.service else host.name
    return words.printable(name) or "-"


def _title(host: "HostReport") -> str:
    """Give name and address of a host, whichever there are."""
    texts = (words.printable(host.address), "" if host.name == host.address and not host.service else _name(host))
    return "  ".join(text for text in texts if text and text != "-")


def probe_words(host: "HostReport", now: float) -> str:
    """Say when a host is probed: "in 40 s"; "with the next message" where nobody waits for it."""
    if host.is_probed:
        return "under way"
    if host.state == "half-open" or host.next_probe_at <= now:  # nobody probes a host that no mail awaits
        return "due, within seconds" if host.waiting_count else "with the next message"
    return words.relative(host.next_probe_at, now)


def _table(hosts: "Sequence[HostReport]", now: float, *, has_heading: bool) -> Iterator[str]:
    """Give a row for each host, and below it the evidence and who waits."""
    heading = [("ADDRESS", "NAME", "STATE", "SINCE", "FAILURES", "NEXT PROBE")] if has_heading else []
    rows = [_row(host, now) for host in hosts]
    lines = words.aligned([*heading, *rows], words.fitting(rows, _WIDTHS))
    yield from lines[: len(heading)]
    for line, host in zip(lines[len(heading) :], hosts, strict=True):
        yield line
        service = f"{words.printable(host.service)}: " if host.service else ""
        yield f"    {service}{evidence(host, now)}"
        if host.waiting_count:
            yield f"    {waiting_words(host)}"


def _row(host: "HostReport", now: float) -> tuple[str, ...]:
    since, name = words.relative(host.since, now), words.printable(host.name) or "-"
    state, address = words.printable(host.state), words.printable(host.address)
    return address, name, state, since, f"{host.failures:,}", probe_words(host, now)


def waiting_words(host: "HostReport", *, names: bool = True) -> str:
    """Give "5 destinations wait: a.example, b.example and 3 more", or without the names."""
    told = [words.printable(each) for each in host.waiting[:_TOLD]]
    more = host.waiting_count - len(told)
    listed = " and ".join(filter(None, [", ".join(told), f"{more:,} more" if more > 0 and told else ""]))
    wait = f"{words.count(host.waiting_count, 'destination')} {'waits' if host.waiting_count == 1 else 'wait'}"
    return f"{wait}: {listed}" if listed and names else wait


def _whole(host: "HostReport", now: float) -> Iterator[str]:
    yield _title(host)
    probe, is_later = probe_words(host, now), host.state != "half-open" and host.next_probe_at > now
    facts = [
        ("state", _state_words(host)),
        ("since", words.when(host.since, now)),
        ("failures", f"{host.failures:,}, the last one {words.when(host.last_failure_at, now)}"),
        ("evidence", evidence(host, now)),
        ("next probe", words.when(host.next_probe_at, now) if is_later and not host.is_probed else probe),
        ("waiting", words.count(host.waiting_count, "destination") if host.waiting_count else "nothing"),
    ]
    yield from words.aligned([("", name, fact) for name, fact in facts], (0, 10))
    yield from _filled(host.waiting)
    if (more := host.waiting_count - len(host.waiting)) > 0 and host.waiting:
        yield f"    and {more:,} more"


def _state_words(host: "HostReport") -> str:
    meaning = {"open": ": nobody dials it before the next probe", "half-open": ": its pause is over, a probe decides"}
    return words.printable(host.state) + meaning.get(host.state, "")


def _filled(names: Iterable[str]) -> Iterator[str]:
    """Give indented lines of names, as many to a line as fit."""
    line = ""
    for name in map(words.printable, names):
        if line and len(line) + len(name) + 2 > _LINE:
            yield f"    {line}"
            line = ""
        line = f"{line}  {name}" if line else name
    if line:
        yield f"    {line}"
