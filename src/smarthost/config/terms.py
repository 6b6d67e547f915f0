# SPDX-License-Identifier: MIT
"""What an operator chose, in the terms of the stages: Config to route table, limits, schedules. Pure; assemble asks."""

from smarthost.config.values import Config, NextHopSection, RouteSection
from smarthost.mail.errors import ConfigError
from smarthost.queue.schedule import RetrySchedule
from smarthost.route.health import HealthTerms
from smarthost.route.plan import PlanTerms
from smarthost.route.source import Speaker
from smarthost.route.table import DirectMx, Families, NextHop, Refuse, Route, RouteTable
from smarthost.smtp.limits import Limits


def route_table(config: Config) -> RouteTable:
    """Give the routes; a route by MX without families of its own has those of `[mx]`."""
    routes: dict[str, Route] = {}
    for number, section in enumerate(config.routes, 1):
        for domain in section.domains:
            routes[domain.removeprefix("*")] = _route(section, f"route[{number}]", config.mx.families)
    by_mx = DirectMx(rule="direct MX", families=config.mx.families)
    return RouteTable(by_mx if config.next_hop is None else _next_hop(config.next_hop, "next_hop"), routes)


def _route(section: RouteSection, rule: str, families: Families) -> Route:
    if section.refuse:
        return Refuse(section.refuse, rule)
    if section.next_hop is not None:
        return _next_hop(section.next_hop, rule)
    return DirectMx(rule=rule, families=section.families or families)


def _next_hop(section: NextHopSection, rule: str) -> NextHop:
    return NextHop(
        section.host,
        section.port,
        tls=section.tls,
        implicit_tls=section.implicit_tls,
        credentials=section.credentials,
        rule=rule,
        families=section.families,
    )


def ca_file(config: Config) -> str:
    """Give the one CA file that is configured, or "". Raises: ConfigError: several different ones."""
    sections = [config.next_hop, *(route.next_hop for route in config.routes)]
    files = {str(section.ca_file) for section in sections if section is not None and section.ca_file is not None}
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
        first_s=retry.first_s, longest_s=retry.longest_s, jitter=retry.jitter, expire_after_s=retry.expire_after_s
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
