# SPDX-License-Identifier: MIT
"""`smarthost demo`: the whole story on loopback, told while it happens; its exit code says whether all went well.

`scenery` is the world around the relay, `client` a sender, `ledger` what is seen, `judge` what should have been, `view`
and `live` how it is told, `story` plays it. This module is cheap to import; all else waits until the command runs.
"""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smarthost.ops.demo.view import View


def run_demo(live: bool, as_json: bool = False) -> int:
    """Play the demo and give its exit code: 0 if everything ended as it should, else 1.

    `live`: standard output is a terminal. `as_json`: print a JSON line for each kind of destination, and nothing else.
    Raises: CommandFailed: this machine lacks what the demo needs, or a signal ended it.
    """
    from smarthost.ops.demo import story

    return 0 if story.play(choose_view(live, as_json)).is_well else 1


def choose_view(live: bool, as_json: bool) -> "View":
    """Give the best view there is: rich is an extra, a dumb terminal cannot move its cursor, bars are not ASCII."""
    from smarthost.ops.demo.view import JsonView, PlainView

    if as_json:
        return JsonView()
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    if live and is_utf8 and os.environ.get("TERM", "dumb") != "dumb":
        try:
            from smarthost.ops.demo.live import LiveView
        except ImportError:
            return PlainView()
        return LiveView()
    return PlainView()
