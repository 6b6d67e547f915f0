# SPDX-License-Identifier: MIT
"""`smarthost ping`: does the daemon answer, and its store? For a container's health check, a script, a person.

Cheap enough to be asked every few seconds. With --json a line with pid, version, listen, paused (bool), refusal (why no
new mail is taken now, or null), standstill (why nothing can be delivered, or null), messages and recipients
(unfinished).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from smarthost.ops import exits, options, words

if TYPE_CHECKING:
    from smarthost.ops.verbs import Pong

_TIMEOUT_S = 10.0


@click.command()
@options.place
@click.option("--ready", is_flag=True, help="Exit 75, too, while no new mail is taken (a full disk, a drain).")
@click.option(
    "--timeout", "answer_s", type=click.FloatRange(0.1, 60), default=_TIMEOUT_S, metavar="SECONDS", help="Wait [10]."
)
@options.json_lines
def ping(state_dir: str | None, file: Path | None, *, ready: bool, answer_s: float, as_json: bool) -> int:
    """Ask the daemon if it is alive; exit 0: it and its store answer, 69: nobody is there, 75: not in time."""
    pong = _ask(state_dir, file, answer_s)
    if as_json:
        click.echo(words.json_line(_fields(pong)))
    else:
        how = "takes mail, paused: nothing is delivered" if pong.paused else "takes and delivers mail"
        queued = f"{words.count(pong.messages, 'message')}, {words.count(pong.recipients, 'recipient')} in the queue"
        if pong.standstill and not pong.paused:
            how = f"takes mail, delivers none: {words.printable(pong.standstill)}"
        if pong.refusal:
            how = f"takes no new mail now: {words.printable(pong.refusal)}"
        click.echo(f"smarthost {pong.version}, process {pong.pid}: {how} ({queued})")
    return exits.TEMPORARY if ready and pong.refusal else exits.OK


def _fields(pong: "Pong") -> dict[str, object]:
    return {
        "pid": pong.pid,
        "version": pong.version,
        "listen": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in pong.listen],
        "paused": pong.paused,
        "refusal": pong.refusal or None,
        "standstill": pong.standstill or None,
        "messages": pong.messages,
        "recipients": pong.recipients,
    }


def _ask(state_dir: str | None, file: Path | None, answer_s: float) -> "Pong":
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import Ping, Pong

    for answer in ask(find_state_dir(state_dir, file), Ping(), answer_s=answer_s):
        if isinstance(answer, Pong):
            return answer
    raise exits.CommandFailed("the daemon did not say that it is there", exits.SOFTWARE)
