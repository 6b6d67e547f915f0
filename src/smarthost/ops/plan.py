# SPDX-License-Identifier: MIT
"""`smarthost plan ADDRESS [--probe]`: what would happen to a message for an address now, as the daemon itself decides.

For people the conclusion comes first, then what it rests on. As JSON it is one line with the names of
mail.explanation.Explanation; times are ISO 8601 in UTC, or null. Exit code: is there a host that mail may
go to now (probed: that answers)?
"""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.mail.explanation import (
        ExplainedAddress,
        ExplainedHost,
        ExplainedPolicy,
        Explanation,
        NoHost,
        Probed,
    )

_DIALLED = ("closed", "half-open")  # states of an address that the next message is tried at
_ADDRESS_OCTETS = 320  # 64 before the @ and 255 after it (RFC 5321 4.5.3.1)
NO_HOST = 68  # EX_NOHOST of sysexits: mail for the address would bounce
_NAMES = 11  # width of what facts are called
_PREFERENCE, _ADDRESS = 5, 15  # of 65535, of an IPv4 address
_TLS = {
    "none": "never TLS: mail goes in clear",
    "opportunistic": "STARTTLS when offered, unverified; in clear when not",
    "required": "STARTTLS required, certificate not verified",
    "verified": "STARTTLS required, certificate verified",
}


@click.command()
@click.argument("address", metavar="ADDRESS")
@click.option("--probe", is_flag=True, help="Connect to the hosts as well, as far as EHLO and STARTTLS; never MAIL.")
@click.option("--sender", metavar="ADDRESS", default="", help="Who writes it (or user:NAME), where routes ask for it.")
@options.place
@options.json_lines
def plan(address: str, state_dir: str | None, file: Path | None, *, probe: bool, sender: str, as_json: bool) -> int:
    """Explain where mail for ADDRESS would go now.

    ADDRESS is user@domain, a domain alone, or user@[192.0.2.1]. Told are the route, the hosts in order and what is
    known against them, and what DNS said. Nothing is sent.

    With --probe the daemon also connects to each address as it would for mail, as far as EHLO and, where mail would
    use it, TLS. It never says AUTH or MAIL: no host learns a password, a sender or a recipient. A host that answers is
    no longer taken for broken. That may take a minute or more.

    Exit codes: 0 there is a host that mail may go to now (probed: one that is ready), 68 mail would bounce, 75 it would
    wait: DNS gives no host now, or all addresses are known as broken and in their pauses (probed: none is ready).
    """
    explanation = _ask(state_dir, file, _bare(address), probe=probe, sender=_bare(sender))
    if as_json:
        click.echo(words.json_line(explanation_fields(explanation)))
    else:
        click.echo("\n".join(_told(explanation, time.time(), probe=probe)))
    return _exit_code(explanation, probe=probe)


def _bare(written: str) -> str:
    from smarthost.ops.verbs import TEXT_CHARACTERS

    if len(written) > TEXT_CHARACTERS:
        raise exits.CommandFailed(f"an address has at most {_ADDRESS_OCTETS} octets", exits.USAGE)
    if not words.is_utf8(written):
        raise exits.CommandFailed(f"not an address: {written!a} is not UTF-8", exits.BAD_INPUT)
    return written[1:-1] if written.startswith("<") and written.endswith(">") else written


def _ask(state_dir: str | None, file: Path | None, address: str, *, probe: bool, sender: str) -> "Explanation":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Explained, PlanAddress, Working

    explanation: Explanation | None = None
    for answer in ask(find_state_dir(state_dir, file), PlanAddress(address, probe, sender)):
        if isinstance(answer, Explained):
            explanation = answer.explanation
        elif isinstance(answer, Working) and sys.stderr.isatty():
            click.echo("smarthost: still probing" if probe else "smarthost: still asking DNS", err=True)
    if explanation is None:
        raise exits.CommandFailed("the daemon's answer holds no explanation", exits.SOFTWARE)
    return explanation


def _exit_code(explanation: "Explanation", *, probe: bool) -> int:
    if not explanation.hosts:
        is_permanent = explanation.no_host is not None and explanation.no_host.permanent
        return NO_HOST if is_permanent else exits.TEMPORARY
    if probe:
        is_ready = any(probed.ok for probed in explanation.probes)
    else:
        is_ready = any(address.state in _DIALLED for host in explanation.hosts for address in host.addresses)
    return exits.OK if is_ready else exits.TEMPORARY


def explanation_fields(explanation: "Explanation") -> dict[str, object]:
    """Give an explanation under the names that are stable."""
    import msgspec

    fields: dict[str, object] = msgspec.to_builtins(explanation)
    fields["hosts"] = [
        {
            "name": host.name,
            "preference": host.preference,
            "addresses": [
                {
                    "address": address.address,
                    "state": address.state,
                    "until": words.iso_or_null(address.until),
                    "why": address.why,
                }
                for address in host.addresses
            ],
            "policy": None if host.policy is None else msgspec.to_builtins(host.policy),
        }
        for host in explanation.hosts
    ]
    if (no_host := explanation.no_host) is not None:
        fields["no_host"] = msgspec.to_builtins(no_host) | {"until": words.iso_or_null(no_host.until)}
    fields["suspended_until"] = words.iso_or_null(explanation.suspended_until)
    return fields


# -- for people --------------------------------------------------------------------------------------------------------


def _told(explanation: "Explanation", now: float, *, probe: bool) -> Iterator[str]:
    yield words.printable(explanation.conclusion)
    yield ""
    yield from words.aligned([(name, fact) for name, fact in _facts(explanation, now) if fact], (_NAMES,))
    if explanation.hosts:
        yield from _section(_hosts_title(explanation.hosts), _host_lines(explanation.hosts, now))
    yield from _section("what DNS said", map(words.printable, explanation.evidence))
    if probe and explanation.hosts:
        yield from _section("probes: connected now, no MAIL was said", _probe_lines(explanation.probes))


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    """Give a title and what is below it, or nothing where there is nothing."""
    is_first = True
    for line in lines:
        if is_first:
            yield ""
            yield title
            is_first = False
        yield f"  {line}".rstrip()


def _facts(explanation: "Explanation", now: float) -> Iterator[tuple[str, str]]:
    yield "address", words.printable(explanation.address)
    yield "sender", words.printable(explanation.sender)
    yield "route", words.printable(explanation.rule)
    yield "destination", words.printable(explanation.destination)
    if explanation.no_host is not None:
        yield "verdict", _verdict(explanation.no_host, now)
    yield "lane", words.printable(explanation.lane)
    if explanation.policy is not None:
        yield from _policy_facts(explanation.policy)
    if explanation.suspended_until:
        until = words.when(explanation.suspended_until, now)
        yield "suspended", _because(f"until {until}", explanation.suspended_why)
    yield "caveat", words.printable(explanation.caveat)


def _verdict(no_host: "NoHost", now: float) -> str:
    what = "bounces" if no_host.permanent else "waits"
    until = f"; asked again {words.when(no_host.until, now)}" if no_host.until and not no_host.permanent else ""
    return f"{what}, {words.printable(no_host.status)}: {words.printable(no_host.why)}{until}"


def _policy_facts(policy: "ExplainedPolicy") -> Iterator[tuple[str, str]]:
    yield "TLS", _tls_words(policy)
    yield "protocol", "" if policy.protocol == "smtp" else policy.protocol.upper()
    yield "port", str(policy.port)
    yield "source", words.printable(policy.source) or "whichever local address the system chooses"
    yield "EHLO", words.printable(policy.helo)
    yield "AUTH", f"as {words.printable(policy.username)}" if policy.username else "none"


def _tls_words(policy: "ExplainedPolicy") -> str:
    if policy.implicit_tls:
        return f"TLS from the first octet, certificate {'' if policy.tls == 'verified' else 'not '}verified"
    return _TLS.get(policy.tls, words.printable(policy.tls))


def _because(fact: str, why: str) -> str:
    return f"{fact}: {words.printable(why)}" if why else fact


def _hosts_title(hosts: "tuple[ExplainedHost, ...]") -> str:
    has_equals = len({host.preference for host in hosts}) < len(hosts)
    turns = " (equal preferences are shuffled for each message)" if has_equals else ""
    return f"hosts, in the order in which they are tried{turns}"


def _host_lines(hosts: "Iterable[ExplainedHost]", now: float) -> Iterator[str]:
    for host in hosts:
        yield f"{host.preference:>{_PREFERENCE}}  {words.printable(host.name)}"
        if host.policy is not None:
            own = [f"{name} {fact}" for name, fact in _policy_facts(host.policy) if fact]
            yield from words.aligned([("", "of its own", "; ".join(own))], (_PREFERENCE, _ADDRESS))
        for address in host.addresses:
            facts = ("", words.printable(address.address), _address_words(address, now))
            yield from words.aligned([facts], (_PREFERENCE, _ADDRESS))


def _address_words(address: "ExplainedAddress", now: float) -> str:
    half_open = "broken, its next message is the probe"
    known = {"closed": "works, as far as we know", "open": "broken", "half-open": half_open}
    state = known.get(address.state, words.printable(address.state))
    until = f", not dialled before {words.when(address.until, now)}" if address.until > now else ""
    return _because(f"{state}{until}", address.why)


def _probe_lines(probes: "Iterable[Probed]") -> Iterator[str]:
    is_first = True
    for probed in probes:
        if not is_first:
            yield ""
        is_first = False
        where = f"{words.printable(probed.host)} [{words.printable(probed.address)}]"
        step, took = words.printable(probed.step), f"{probed.took_s:.2f} s"
        yield (
            f"{where}: ready in {took}"
            if probed.ok
            else _because(f"{where}: failed at {step} after {took}", probed.why)
        )
        if probed.tls or probed.ok:
            yield f"  TLS: {words.printable(probed.tls) or 'none, in clear'}"
        if probed.extensions:
            yield f"  extensions: {', '.join(map(words.printable, probed.extensions))}"
        for line in probed.transcript:
            yield f"    {words.printable(line)}"
    if is_first:
        yield "no address was probed"
