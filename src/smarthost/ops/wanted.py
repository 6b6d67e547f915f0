# SPDX-License-Identifier: MIT
"""Which recipients a command line means: IDs and filters, as Filters of the store."""

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from smarthost.queue.store import Filter

_TIME = re.compile(r"(\d+)\s*(s|m|min|h|d)", re.ASCII | re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_SAY_WHICH = "say which: an ID, --from, --to, --destination or another filter (or --all, where it is offered)"


class Wanted(NamedTuple):
    """One Filter for each id, or one in all; and the lane that all of them must be on, or ""."""

    filters: "tuple[Filter, ...]"
    lane: str

    @property
    def is_everything(self) -> bool:
        """Does nothing restrict it?"""
        from smarthost.queue.store import Filter

        return not self.lane and self.filters == (Filter(),)

    @staticmethod
    def read(ids: tuple[str, ...], given: Mapping[str, str | None], *, everything: bool | None = None) -> "Wanted":
        """Read what `options.which` gave. `everything` is what --all says; None: no need to say it.

        Raises: UsageError: nothing restricts and all was not meant, or something restricts and all was.
        """
        from smarthost.queue.store import NULL_PATH, Filter

        texts = {name: value for name, value in given.items() if value}
        named = list(dict.fromkeys((*ids, *filter(None, [texts.pop("id", "")]))))
        if everything and (named or texts):
            raise click.UsageError("--all is the whole queue: leave it out, or the IDs and filters")
        if everything is False and not named and not texts:
            raise click.UsageError(_SAY_WHICH)
        reverse_path = texts.get("reverse_path") or ""
        sender, sender_domain = read_sender(texts.get("sender") or "")
        which = Filter(
            reverse_path=reverse_path if reverse_path == NULL_PATH else _bare(reverse_path),
            recipient=_bare(texts.get("recipient") or ""),
            domain=(texts.get("destination") or "").lower().rstrip("."),
            sender=sender,
            sender_domain=sender_domain,
            reply=texts.get("reply") or "",
            state=texts.get("state") or "",
            received_before=_read_age(texts.get("older")),
        )
        from msgspec.structs import replace

        whole = tuple([replace(which, id=id.lower()) for id in named]) or (which,)
        return Wanted(whole, texts.get("lane") or "")


def read_sender(text: str) -> tuple[str, str]:
    """Give the `sender` and `sender_domain` of a Filter for a name as `summary` prints, or `suspend` takes, it."""
    return ("", text[1:].lower()) if text.startswith("@") else (text.removeprefix("user:"), "")


def _bare(written: str) -> str:
    return written[1:-1] if written.startswith("<") and written.endswith(">") else written


def _read_age(text: str | None) -> float:
    """Give the wall time that lies so far back; 0.0 if nothing was said."""
    if not text:
        return 0.0
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise click.UsageError(f"--older: {text!r} is no time such as 90s, 30m, 12h or 2d")
    return time.time() - int(found[1]) * _SECONDS[found[2].lower()]
