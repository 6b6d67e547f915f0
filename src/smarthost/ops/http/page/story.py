# SPDX-License-Identifier: MIT
"""One message: what each recipient waits for and what would unblock it, and all that happened, in time."""

from starlette.responses import Response

from smarthost.mail.story import RecipientStory
from smarthost.ops.http import messages
from smarthost.ops.http.asking import Ask
from smarthost.ops.http.edge import respond
from smarthost.ops.http.page.visits import Visit
from smarthost.ops.http.page.ways import read_way
from smarthost.ops.http.tokens import Scope

RECIPIENTS = 100
STEPS = 200
FOUND = 50


async def show(visit: Visit) -> Response:
    """Draw the story."""
    story = await messages.find_story(visit.desk, str(visit.request.path_params["id"]))
    waiting = [each for each in story.recipients if each.waiting is not None]
    ended = [each for each in story.recipients if each.waiting is None]
    return visit.draw(
        "story.html",
        story=story,
        waiting=waiting[:RECIPIENTS],
        waiting_count=len(waiting),
        ended=ended[:RECIPIENTS],
        ended_count=len(ended),
        ways={each.address: [read_way(way, story.id) for way in _ways_of(each)] for each in waiting[:RECIPIENTS]},
        timeline=story.timeline[-STEPS:],
        is_cut=story.is_cut or len(story.timeline) > STEPS,
        may_read=visit.desk.config.http.show_content and visit.token.may(Scope.CONTENT) and story.is_queued,
    )


def _ways_of(recipient: RecipientStory) -> tuple[str, ...]:
    return () if recipient.waiting is None else recipient.waiting.unblocked_by


async def find(visit: Visit) -> Response:
    """Find messages by id, address or Message-ID; of one the story is shown at once."""
    text = visit.asked("q").strip()
    stories = await visit.desk.relay.why(text, FOUND) if text else ()
    if len(stories) == 1:
        return visit.go_to(f"/message/{stories[0].id}")
    return visit.draw("found.html", text=text, stories=stories)


async def give_content(visit: Visit) -> Response:
    """Give the content as a file, where that is allowed."""
    visit.demand(Scope.CONTENT)
    id = str(visit.request.path_params["id"])
    answer = await messages.give_content(visit.desk, Ask(visit.token, "", {"id": id}))
    return respond(answer)
