# SPDX-License-Identifier: MIT
"""What would happen to mail for an address now: hosts in their order, what is known against them, the evidence."""

import asyncio

from starlette.responses import Response

from smarthost.mail.errors import SubmissionRefused
from smarthost.mail.explanation import Explanation
from smarthost.ops.http.page.visits import Visit

PATIENCE_S = 30.0  # a person waits; the API has DNS's own times
HOSTS = 30
EVIDENCE = 60


async def show(visit: Visit) -> Response:
    """Draw the plan of an address, or the question."""
    address, sender = visit.asked("address").strip(), visit.asked("sender").strip()
    plan: Explanation | None = None
    refusal = ""
    if address:
        try:
            async with asyncio.timeout(PATIENCE_S):
                plan = await visit.desk.relay.explain(address, sender=sender)
        except SubmissionRefused as error:
            refusal = f"The relay would refuse it: {error}"
        except ValueError as error:
            refusal = str(error)
        except TimeoutError:
            refusal = f"DNS has not said within {PATIENCE_S:.0f} s: mail would wait and ask again."
    return visit.draw(
        "plan.html",
        address=address,
        sender=sender,
        plan=plan,
        refusal=refusal,
        hosts=plan.hosts[:HOSTS] if plan else (),
        evidence=plan.evidence[:EVIDENCE] if plan else (),
    )
