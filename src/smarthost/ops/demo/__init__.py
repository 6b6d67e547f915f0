# SPDX-License-Identifier: MIT
"""`smarthost demo`: the whole story on loopback, told while it happens; its exit code says whether all went well.

`scenery` is the world around the relay, `ledger` what is seen, `judge` what should have been, `view` and `live` how it
is told, `story` plays it. This module is cheap to import; all else waits until the command runs.
"""


def run_demo(live: bool, as_json: bool = False) -> int:
    """Play the demo and give its exit code: 0 if everything ended as it should, else 1.

    `live`: standard output is a terminal. `as_json`: print a JSON line for each kind of destination, and nothing else.
    Raises: CommandFailed: this machine lacks what the demo needs.
    """
    from smarthost.ops.demo import story
    from smarthost.ops.demo.view import JsonView, PlainView, View

    view: View | None = None
    if as_json:
        view = JsonView()
    elif live:
        view = _live_view()
    return 0 if story.play(view or PlainView()).is_well else 1


def _live_view():  # type: ignore[no-untyped-def]
    raise NotImplementedError
