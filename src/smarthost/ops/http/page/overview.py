# SPDX-License-Identifier: MIT
"""The first page: is mail taken, is it delivered, what waits for what, and what went wrong lately."""

from msgspec import Struct
from starlette.responses import Response

from smarthost.mail.explanation import HostReport
from smarthost.mail.record import Kind
from smarthost.mail.story import Count, Summary
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.lately import SLOT_S
from smarthost.ops.http.page.folding import fold_troubles
from smarthost.ops.http.page.plots import Plot, draw
from smarthost.ops.http.page.visits import Visit
from smarthost.ops.http.page.wording import clock
from smarthost.ops.http.pausing import change_pause
from smarthost.ops.http.queue import read_summary
from smarthost.ops.standstill import count_names, say_standstill

HOSTS_S = 4.0
NAMES = 8
TROUBLES = 6


class Headline(Struct, frozen=True):
    """The state of the relay in a word and a sentence. `tone`: "good", "warn" or "bad"."""

    tone: str
    word: str
    sentence: str


async def show(visit: Visit) -> Response:
    """Draw it."""
    desk = visit.desk
    now = desk.clock.wall()
    summary = await read_summary(desk)
    hosts: tuple[HostReport, ...] = await desk.remembered.ask("hosts", HOSTS_S, desk.relay.report_hosts)
    standing: tuple[HostReport, ...] = await desk.remembered.ask("standstill", HOSTS_S, desk.relay.find_standstill)
    suspensions = desk.relay.suspensions()
    return visit.draw(
        "overview.html",
        headline=tell_headline(desk, summary, hosts, standing),
        summary=summary,
        held=sum(count.held for count in summary.by_destination),
        due=sum(count.due for count in summary.by_destination),
        reasons=_shares(summary.by_reason),
        destinations=_shares(summary.by_destination),
        hosts=hosts[:NAMES],
        host_count=len(hosts),
        host_names=count_names(hosts),
        suspensions=suspensions,
        plots=_plots(desk, now),
        troubles=fold_troubles(list(desk.lately.troubles)[::-1], TROUBLES),
        audit=desk.relay.audit_figures,
        started_at=desk.started_at,
        counted_s=desk.remembered.age_s("summary"),
        is_live=visit.asked("live") != "off",
    )


def tell_headline(
    desk: Desk, summary: Summary, broken: tuple[HostReport, ...], standing: tuple[HostReport, ...]
) -> Headline:
    """Say how it is, the worst first. `standing`: the broken hosts for which all mail waits."""
    relay = desk.relay
    if (refusal := relay.refusal) is not None:
        return Headline("bad", "Not taking mail", f"New mail is refused for now: {refusal}")
    if relay.paused:
        return Headline("warn", "Paused", "Mail is taken and kept; nothing is delivered until somebody resumes.")
    violations = sum(relay.audit_figures.findings.values())
    if violations > relay.audit_figures.repaired:
        return Headline(
            "bad", "Delivering, with findings", "The auditor found mail that nobody looks after: see the log."
        )
    if standing:
        return Headline("bad", "Not delivering", say_standstill(standing, lambda at: f"{clock(at)} UTC"))
    if broken:
        names = count_names(broken)
        some = "1 host does not work; mail for it" if names == 1 else f"{names:,} hosts do not work; mail for them"
        return Headline("warn", "Delivering", f"{some} waits.")
    if summary.recipients:
        return Headline("good", "Delivering", "Mail is taken and delivered.")
    return Headline("good", "All delivered", "The queue is empty; mail is taken and delivered.")


def _shares(counts: tuple[Count, ...]) -> list[tuple[Count, int]]:
    """Give the first names with how long their bars are, in percent of the longest."""
    longest = max([count.recipients for count in counts], default=1)
    return [(count, max(1, round(100 * count.recipients / longest))) for count in counts[:NAMES]]


def _plots(desk: Desk, now: float) -> tuple[Plot, Plot]:
    counted = {
        kind: desk.lately.series(kind, now) for kind in (Kind.ACCEPTED, Kind.RELAYED, Kind.DEFERRED, Kind.BOUNCED)
    }
    return (
        draw(
            "Throughput",
            "a minute",
            (("delivered", "good", counted[Kind.RELAYED]), ("accepted", "plain", counted[Kind.ACCEPTED])),
            SLOT_S,
        ),
        draw(
            "Deferred and bounced",
            "a minute",
            (("deferred", "warn", counted[Kind.DEFERRED]), ("bounced", "bad", counted[Kind.BOUNCED])),
            SLOT_S,
        ),
    )


async def pause(visit: Visit) -> Response:
    """Pause all delivery."""
    await change_pause(visit.desk, True, f"{visit.token.name} (page)")
    return visit.go_to("/", "Delivery is paused. Mail is still taken.")


async def resume(visit: Visit) -> Response:
    """Deliver again."""
    state = await change_pause(visit.desk, False, f"{visit.token.name} (page)")
    return visit.go_back("/", f"Delivery goes on with {state.recipients:,} recipients.")
