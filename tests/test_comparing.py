# SPDX-License-Identifier: MIT
"""What another configuration would do to the queue, counted page by page."""

from pathlib import Path

import pytest
from tests.ops.rig import message, recipient

from smarthost import comparing
from smarthost.comparing import count_effects
from smarthost.config import Config, Surroundings, parse_config
from smarthost.mail.change import Effects
from smarthost.queue.store import Filter, Page, StoredMessage

HERE = Surroundings("relay.example.org", Path("/var/lib/smarthost"))


def read(text: str) -> Config:
    return parse_config(text, {}, HERE)


class Queue:
    """Many messages, made as they are asked for; remembers how many at most were asked for at once."""

    def __init__(self, messages: int) -> None:
        self.messages = messages
        self.most = 0

    async def find(self, which: Filter, cursor: str | None, n: int) -> Page:
        start = int(cursor or 0)
        self.most = max(self.most, n)
        end = min(start + n, self.messages)
        made = tuple([self._make(number) for number in range(start, end)])
        return Page(made, str(end) if end < self.messages else None)

    def _make(self, number: int) -> StoredMessage:
        made = message(f"{number:016d}", f"r@d{number % 1000}.example", f"s@e{number}.example")
        if number % 10:
            return made
        return made.__class__(
            **{**{name: getattr(made, name) for name in made.__struct_fields__}, "recipients": (_done(),)}
        )


def _done() -> object:
    return recipient("gone@d1.example", state="relayed")


async def effects(old: str, new: str, queue: Queue) -> tuple[Effects, int]:
    """Give the effects, and after how many pages they came."""
    pages = 0
    async for found in count_effects(read(old), read(new), queue.find):
        if found is not None:
            return found, pages
        pages += 1
    raise AssertionError("no end")


@pytest.mark.asyncio
async def test_each_unfinished_recipient_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is forgotten on the way; memory has a bound, and other work runs between pages."""
    monkeypatch.setattr(comparing, "DOMAINS_KNOWN", 50)
    queue = Queue(2000)
    new = '[[route]]\ndomains = ["d7.example"]\nnext_hop = "h.example:26"\n'
    new += '[[route]]\ndomains = ["d8.example"]\nrefuse = "x"\n'

    found, pages = await effects("", new, queue)

    assert (found.recipients, found.other_route, found.other_limit, found.other_tls) == (3600, 4, 2, 0)
    assert [(way.before, way.after, way.recipients) for way in found.ways] == [
        ("direct MX", "route[1] h.example:26", 2),
        ("direct MX", "route[2]: refused", 2),
    ]
    assert pages == 9
    assert queue.most == comparing.PAGE


@pytest.mark.parametrize(
    ("old", "new", "route", "limit", "tls"),
    [
        ("", '[mx]\ntls = "required"\n', 0, 0, 18),
        ("", "[mx]\nport = 26\n", 18, 18, 0),
        ("", "[limits]\nidle_session = 1\n", 0, 18, 0),
        ("", 'hostname = "other.example.org"\n', 18, 0, 0),
        ("", "[retry]\nfirst = 60\n", 0, 0, 0),
        ("next_hop = 'h.example'\n", "next_hop = 'i.example'\n", 18, 18, 0),
        (
            "[next_hop]\nhost = 'h.example'\nusername = 'me'\npassword = 'a'\n",
            "[next_hop]\nhost = 'h.example'\nusername = 'me'\npassword = 'b'\n",
            0,
            0,
            0,
        ),
    ],
)
@pytest.mark.asyncio
async def test_route_limit_and_tls_are_told_apart(old: str, new: str, route: int, limit: int, tls: int) -> None:
    """A setting counts where it matters to a recipient, and nowhere else."""
    found, _ = await effects(old, new, Queue(10))

    assert (found.recipients, found.other_route, found.other_limit, found.other_tls) == (18, route, limit, tls)
