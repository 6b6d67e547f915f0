# SPDX-License-Identifier: MIT
"""`smarthost queue retry|hold|release|cancel|bounce|expire|reroute`: what operators do to mail that waits.

With --dry-run they count only. With --json a line for each message: id, change, changed, wished (recipients), dry_run.
"""

import os
from collections.abc import Callable
from pathlib import Path

import click

from smarthost.ops import exits, options, words
from smarthost.ops.suspend import tell
from smarthost.ops.wanted import Wanted

_EVERYTHING = click.option("--all", "everything", is_flag=True, help="All that is in the queue.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only count what would change.")
_LETS_GO = frozenset({"retry", "release", "reroute"})
# verb -> what it did, what it would do, what becomes of what is being tried
_WORDS = {
    "retry": ("due now", "would be due now", "being tried at this moment"),
    "hold": ("held", "would be held", "being tried at this moment: held if that fails"),
    "release": ("released", "would be released", "being tried at this moment"),
    "cancel": ("cancelled", "would be cancelled", "being tried at this moment: cancelled if that fails"),
    "bounce": ("returned", "would be returned", "being tried at this moment: returned if that fails"),
    "expire": ("given up", "would be given up", "being tried at this moment: given up if that fails"),
    "reroute": (
        "sent another way",
        "would be sent another way",
        "being tried at this moment: afterwards if that fails",
    ),
}


def _verb(name: str, meaning: str, *further: Callable[[click.Command], click.Command]) -> click.Command:
    def command(
        ids: tuple[str, ...],
        everything: bool,
        state_dir: str | None,
        file: Path | None,
        *,
        as_json: bool,
        dry_run: bool,
        reason: str,
        via: str = "",
        **filters: str | None,
    ) -> None:
        wanted = Wanted.read(ids, filters, everything=everything)
        _change(name, wanted, state_dir, file, as_json=as_json, dry_run=dry_run, reason=reason, via=via)

    command.__doc__ = meaning
    decorated = options.json_lines(options.place(options.reason(_DRY_RUN(_EVERYTHING(options.which(command))))))
    for option in further:
        decorated = option(decorated)  # type: ignore[arg-type]
    return click.command(name)(decorated)


def _change(
    verb: str,
    wanted: Wanted,
    state_dir: str | None,
    file: Path | None,
    *,
    as_json: bool,
    dry_run: bool,
    reason: str,
    via: str,
) -> None:
    from smarthost.config import find_state_dir
    from smarthost.ops.client import ask
    from smarthost.ops.verbs import ChangedSome, QueueChange, SuspensionsFind

    where = find_state_dir(state_dir, file)
    by = os.environ.get("SUDO_USER", "")
    changed = wished = 0
    for which in wanted.filters:
        request = QueueChange(verb, which, wanted.lane, by, reason, via, dry_run)  # type: ignore[arg-type]
        for answer in ask(where, request):
            if isinstance(answer, ChangedSome):
                changed += len(answer.recipients)
                wished += len(answer.wished)
                if as_json:
                    _print_changes(answer, verb, dry_run)
    if not changed and not wished:
        raise exits.CommandFailed("no recipient in the queue matches", exits.NO_INPUT)
    if not as_json:
        did, would, tried = _WORDS[verb]
        others = f", {words.count(wished, 'other')} {tried}" if wished else ""
        click.echo(f"{words.count(changed, 'recipient')} {would if dry_run else did}{others}")
        if verb in _LETS_GO and (kept := len(tell(state_dir, file, SuspensionsFind()))):
            stay = f"{words.count(kept, 'suspension')} {'stays' if kept == 1 else 'stay'}"
            click.echo(f"{stay}, and nothing goes that it is about: smarthost suspensions")


def _print_changes(some: object, change: str, dry_run: bool) -> None:
    """Print a line for each message; `changed` and `wished` count its recipients."""
    from smarthost.ops.verbs import ChangedSome

    assert isinstance(some, ChangedSome), "as asked"
    counts: dict[str, list[int]] = {}
    for column, pairs in enumerate((some.recipients, some.wished)):
        for id, _ in pairs:
            counts.setdefault(id, [0, 0])[column] += 1
    for id, (changed, wished) in counts.items():
        line = {"id": id, "change": change, "changed": changed, "wished": wished, "dry_run": dry_run}
        click.echo(words.json_line(line))


VERBS = (
    _verb(
        "retry",
        """Try recipients now instead of when their time comes.

    Hosts in their way that are remembered as broken are probed at once, one probe each; the others wait for its result.
    """,
    ),
    _verb("hold", "Keep recipients from being tried until they are released; after 30 days they expire."),
    _verb("release", "Let held recipients go, at once."),
    _verb("cancel", "Give recipients up; nobody is told, nothing is sent."),
    _verb("bounce", "Return recipients to their senders at once; the reason is in the report."),
    _verb("expire", "Give recipients up as if their time were over: their senders are told."),
    _verb(
        "reroute",
        """Send recipients another way, at once.

    The way is "mx" (their domain's own exchangers), or a host, which need not be configured; a configured one is used
    with its TLS and credentials. Without --via they go by the routes again.
    """,
        click.option("--via", metavar="mx|HOST[:PORT]", default="", help="The way; without it, by the routes again."),
    ),
)
