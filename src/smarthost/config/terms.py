# SPDX-License-Identifier: MIT
"""What an operator chose, in the terms of the stages: Config to route table, limits, schedules. Pure; assemble asks."""

import math
from collections.abc import Iterable
from typing import TypeVar

from smarthost.accept.clients import ClientTerms, NetworkTerms
from smarthost.config.values import DAY_S, Config, MxSection, NetworkSection, NextHopSection, Protocol, RouteSection
from smarthost.mail.errors import ConfigError
from smarthost.queue.schedule import RetrySchedule
from smarthost.route.health import HealthTerms
from smarthost.route.plan import PlanTerms
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, NextHop, NextHops, Refuse, Route, RouteTable
from smarthost.smtp.limits import Limits

Key = TypeVar("Key", str, tuple[str, str])


def route_table(config: Config) -> RouteTable:
    """Give the routes; a route by MX has what it does not say itself from `[mx]` and the top."""
    routes: dict[str, Route] = {}
    sender_routes: dict[tuple[str, str], Route] = {}
    for number, section in enumerate(config.routes, 1):
        rule = f"route[{number}]"
        route = _route(section, rule, config.mx)
        domains = [domain.removeprefix("*") for domain in section.domains]
        if not section.senders:
            _add_all(routes, domains, route, rule)
        else:
            scopes = [(sender, domain) for sender in section.senders for domain in domains or ("",)]
            _add_all(sender_routes, scopes, route, rule)
    by_mx = DirectMx(rule="direct MX", families=config.mx.families, tls=config.mx.tls)
    default = NextHops(tuple(map(_next_hop, config.next_hops)), "next_hop") if config.next_hops else by_mx
    return RouteTable(default, routes, sender_routes)


def _add_all(routes: dict[Key, Route], keys: Iterable[Key], route: Route, rule: str) -> None:
    """Raises: ConfigError: another route has one of these already."""
    for key in keys:
        if key in routes:
            named = " from ".join(filter(None, reversed(key))) if isinstance(key, tuple) else key
            raise ConfigError(f"{named} has a route already", key=f"{rule}.domains")
        routes[key] = route


def _route(section: RouteSection, rule: str, mx: MxSection) -> Route:
    if section.refuse:
        return Refuse(section.refuse, rule)
    if section.next_hops:
        return NextHops(tuple(map(_next_hop, section.next_hops)), rule)
    speaker = Speaker(section.hostname, section.source)
    return DirectMx(rule, section.families or mx.families, section.tls or mx.tls, speaker)


def _next_hop(section: NextHopSection) -> NextHop:
    return NextHop(
        section.host,
        section.port,
        tls=section.tls,
        implicit_tls=section.implicit_tls,
        credentials=section.credentials,
        families=section.families,
        is_lmtp=section.protocol is Protocol.LMTP,
        speaker=Speaker(section.hostname, section.source),
    )


def ca_file(config: Config) -> str:
    """Give the one CA file that is configured, or "". Raises: ConfigError: several different ones."""
    sections = [*config.next_hops, *(hop for route in config.routes for hop in route.next_hops)]
    files = {str(section.ca_file) for section in sections if section.ca_file is not None}
    if len(files) > 1:
        raise ConfigError("one ca_file for all next hops: put the certificates into one file", key="next_hop.ca_file")
    return files.pop() if files else ""


def plan_terms(config: Config) -> PlanTerms:
    return PlanTerms(
        Speaker(config.hostname),
        mx_port=config.mx.port,
        allow_private=config.mx.allow_private,
        further_lookups=config.dns.alias_lookups,
    )


def health_terms(config: Config) -> HealthTerms:
    """Give the terms of host health; what is paused is not forgotten before its pause is over."""
    hosts = config.hosts
    return HealthTerms(
        first_pause_s=hosts.first_pause_s,
        longest_pause_s=hosts.longest_pause_s,
        forget_after_s=max(hosts.forget_after_s, hosts.longest_pause_s),
    )


def schedule(config: Config) -> RetrySchedule:
    retry = config.retry
    return RetrySchedule(
        first_s=retry.first_s,
        longest_s=retry.longest_s,
        jitter=retry.jitter,
        expire_after_s=retry.expire_after_s,
        delay_warning_s=retry.delay_warning_s,
    )


def limits(config: Config) -> Limits:
    chosen = config.limits
    return Limits(
        message_octets=chosen.message_octets,
        recipients=chosen.recipients,
        errors=chosen.errors,
        connections=chosen.connections,
        connections_per_client=chosen.connections_per_client,
    )


def client_terms(config: Config) -> ClientTerms:
    """Give what client networks may do: those that are described, and all others."""
    chosen = config.limits
    return ClientTerms(
        networks=tuple(_network(section, config) for section in config.networks),
        others=_network(None, config),
        ipv4_prefix=chosen.client_prefix_ipv4,
        ipv6_prefix=chosen.client_prefix_ipv6,
    )


def _network(section: NetworkSection | None, config: Config) -> NetworkTerms:
    """Give the terms of a section; None: of those who are in none."""
    own = section or NetworkSection(networks=())
    usual = config.limits

    def limit(chosen: int | None, general: int) -> int | None:
        return (general if chosen is None else chosen) or None

    return NetworkTerms(
        networks=tuple(map(str, own.networks)),
        senders=own.senders,
        connections=limit(own.connections, usual.connections_per_client),
        connections_per_minute=limit(own.connections_per_minute, usual.connections_per_minute),
        messages_per_minute=limit(own.messages_per_minute, usual.messages_per_minute),
        recipients_per_minute=limit(own.recipients_per_minute, usual.recipients_per_minute),
        errors_per_minute=limit(own.errors_per_minute, usual.errors_per_minute),
    )


def record_days(config: Config) -> int:
    """Give how many days of records are kept: those asked for, and the one that is not over."""
    return math.ceil(config.records.keep_s / DAY_S) + 1
