# SPDX-License-Identifier: MIT
"""/api/v1/plan: what would happen to a message for an address now."""

from smarthost.mail.explanation import Explanation
from smarthost.ops.http.asking import Answer, Ask, Endpoint, Parameter
from smarthost.ops.http.desk import Desk
from smarthost.ops.http.problems import Problem
from smarthost.ops.http.tokens import Scope

EXPLAIN_S = 180.0  # as ops.control has it: above DNS's 90 s, and a probe's 60 s for each of several addresses at a time


async def explain(desk: Desk, ask: Ask) -> Answer:
    """Tell what would happen; a probe dials the hosts, so it takes the scope operate."""
    probe = ask.flag("probe")
    if probe and not ask.token.may(Scope.OPERATE):
        raise Problem("forbidden", f"a probe dials hosts: token {ask.token.name} lacks the scope operate")
    return Answer(await desk.relay.explain(ask.text("address"), probe=probe, sender=ask.text("sender")))


ENDPOINTS = (
    Endpoint(
        name="explainAddress",
        method="GET",
        path="/plan/{address}",
        scope=Scope.READ,
        about="Which hosts a message for this address would go to now, and why.",
        serve=explain,
        answer=Explanation,
        parameters=(
            Parameter("address", "An address or a domain", place="path"),
            Parameter("sender", 'Who writes it: a reverse-path, or "user:NAME"'),
            Parameter("probe", "Dial the hosts as far as EHLO; needs the scope operate", "boolean"),
        ),
        problems=("refused", "unusable"),
        deadline_s=EXPLAIN_S,
    ),
)
