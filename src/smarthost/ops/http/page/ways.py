# SPDX-License-Identifier: MIT
"""What would let mail go sooner, as buttons: the commands that a story names, where a form of the page does the same.

Pure. A command that is not known here stays what it is: text for a shell.
"""

import shlex
from collections.abc import Mapping

from msgspec import Struct

from smarthost.ops.http.page.wording import shown, verb

_PLACES = ("--config", "--state-dir")  # where the daemon is: the page asks its own
_NAME = 60  # characters of a name on a button
_ABOUT_MAIL = ("retry", "release", "cancel", "bounce")


class Way(Struct, frozen=True):
    """A command as `text`; with `action` a form's: where it goes, what it brings, and what its button says."""

    text: str
    action: str = ""
    fields: Mapping[str, str] = {}
    title: str = ""


def read_way(text: str, id: str) -> Way:
    """Give the way that a command of the story of message `id` is."""
    match _words_of(text):
        case ["smarthost", "hosts", "reset", name]:
            return Way(text, "/hosts/reset", {"name": name, "id": id}, f"{shown(name, _NAME)} works again")
        case ["smarthost", "queue", name, about] if about == id and name in _ABOUT_MAIL:
            return Way(text, "/queue/preview", {"verb": name, "id": id, "from_message": "yes"}, f"{verb(name)}…")
        case ["smarthost", "resume"]:
            return Way(text, "/resume", {"id": id}, "Resume delivery")
        case ["smarthost", "resume", what]:
            return Way(text, "/suspensions/end", {"what": what, "id": id}, f"End: {shown(what, _NAME)} goes on")
        case _:
            return Way(text)


def _words_of(text: str) -> list[str]:
    """Give the words of a command, without where its daemon is; [] for what is none."""
    try:
        found = shlex.split(text)
    except ValueError:
        return []
    for place in _PLACES:
        if place in found[:-1]:
            at = found.index(place)
            del found[at : at + 2]
    return found
