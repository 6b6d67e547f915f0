# SPDX-License-Identifier: MIT
"""A relay that says what a test wants, behind the real HTTP door on loopback; served from a thread, as a daemon would.

`python -m tests.ops.http.rig` serves the scene that the screenshots show.
"""

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from msgspec import Struct
from msgspec.structs import replace
from tests.ops.rig import CollectingSink, host, message, recipient

from smarthost.accept.inject import Receipt
from smarthost.config import Config, Surroundings, parse_config
from smarthost.mail.content import Content, InlineContent
from smarthost.mail.errors import StoreError, SubmissionRefused
from smarthost.mail.explanation import ExplainedAddress, ExplainedHost, Explanation, HostReport
from smarthost.mail.record import Kind, Record
from smarthost.mail.reply import reply
from smarthost.mail.story import Cause, Count, RecipientStory, Story, Summary, Suspension, Waiting
from smarthost.ops.health import Health
from smarthost.ops.http.desk import Probes
from smarthost.ops.http.lately import Lately
from smarthost.ops.http.service import open_http
from smarthost.ops.http.tokens import Scope, add_token
from smarthost.queue.audit import AuditFigures
from smarthost.queue.store import Changed, Filter, Page, StoredMessage, StoredRecipient

HERE = Surroundings("relay.example.org", Path("/nowhere"))
HOSTILE = '<script>alert("x")</script>\u202egnp.exe\x1b[31m\r\nSet-Cookie: a=b' + "&" * 10_240


class FakeStore:
    """Notes, contents and a count, in memory."""

    def __init__(self) -> None:
        self.notes: dict[str, bytes] = {}
        self.contents: dict[str, bytes] = {}
        self.counts = (0, 0)

    async def content(self, id: str) -> Content:
        if id not in self.contents:
            raise StoreError("it is not there")
        return InlineContent(self.contents[id])

    async def count(self) -> tuple[int, int]:
        return self.counts

    async def load_notes(self, prefix: str) -> dict[str, bytes]:
        return {name: value for name, value in self.notes.items() if name.startswith(prefix)}

    def save_notes(self, notes: Mapping[str, bytes], records: Sequence[Record] = ()) -> Awaitable[None]:
        for name, value in notes.items():
            if value:
                self.notes[name] = value
            else:
                self.notes.pop(name, None)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


class FakeRelay:
    """Has the interface of assemble.Relay that the HTTP door asks; keeps what it was told."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.paused = False
        self.refusal: Exception | None = None
        self.audit_figures = AuditFigures(looks=120, recipients=24_000, rounds=3, ended_at=1000.0)
        self.messages: list[StoredMessage] = []
        self.stories: dict[str, Story] = {}
        self.hosts: list[HostReport] = []
        self.stands_still = False
        self.kept: list[Record] = []
        self.suspended: list[Suspension] = []
        self.sent: list[tuple[bytes, str, tuple[str, ...]]] = []
        self.changes: list[tuple[str, Filter, bool, str, str, str]] = []
        self.counted = Summary(0, 0, 0.0, (), (), ())
        self.summaries = 0
        self.probed: list[bool] = []
        self.users: list[str] = []

    async def submit(
        self,
        content: bytes,
        reverse_path: str,
        recipients: Sequence[str],
        *,
        client: str = "local",
        user: str = "",
        drawn: Callable[[str], Awaitable[None]] | None = None,
    ) -> Receipt:
        self.users.append(user)
        for address in recipients:
            if address.endswith("@refused.example"):
                raise SubmissionRefused(reply(550, "5.7.1", "Not for you"))
            if address.endswith("@later.example"):
                raise SubmissionRefused(reply(452, "4.3.1", "The disk is full"))
            if address.endswith("@broken.example"):
                raise StoreError("the disk hangs")
            if address.endswith("@bug.example"):
                raise KeyError("a bug with a secret in it")
        id = f"{len(self.sent):016d}"
        if drawn is not None:
            await drawn(id)
        self.sent.append((content, reverse_path, tuple(recipients)))
        self.stories[id] = Story(id, 1000.0, reverse_path, len(content), client, True, (), ())
        return Receipt(id)

    async def find(self, which: Filter = Filter(), cursor: str | None = None, n: int = 100) -> Page:  # noqa: B008
        start = int(cursor or 0)
        matching = [found for each in self.messages if (found := _restricted(each, which)) is not None]
        end = start + n
        return Page(tuple(matching[start:end]), str(end) if end < len(matching) else None)

    async def change(
        self,
        which: Filter,
        verb: str,
        cursor: str | None = None,
        n: int = 1000,
        *,
        by: str = "",
        reason: str = "",
        via: str = "",
        dry_run: bool = False,
    ) -> Changed:
        self.changes.append((verb, which, dry_run, by, reason, via))
        page = await self.find(which, None, 10_000)
        pairs = [(each.id, one.n) for each in page.messages for one in each.recipients if one.state != "leased"]
        wished = [(each.id, one.n) for each in page.messages for one in each.recipients if one.state == "leased"]
        if verb in ("hold", "release") and not dry_run:
            state = "held" if verb == "hold" else "deferred"
            ids = {id for id, _ in pairs}
            self.messages = [
                replace(each, recipients=tuple(replace(one, state=state, why=reason) for one in each.recipients))
                if each.id in ids
                else each
                for each in self.messages
            ]
        return Changed(tuple(pairs), tuple(wished), None)

    async def why(self, text: str, n: int = 10) -> tuple[Story, ...]:
        found = [
            story
            for story in self.stories.values()
            if text in (story.id, story.message_id, story.reverse_path, *(each.address for each in story.recipients))
        ]
        return tuple(found[:n])

    async def summary(self, n: int = 20) -> Summary:
        self.summaries += 1
        return self.counted

    async def suspend(self, what: str, reason: str, by: str) -> Suspension:
        if " " in what:
            raise ValueError(f"{what!r} is neither a destination nor a sender")
        made = Suspension(what, by, reason, 1000.0)
        self.suspended.append(made)
        return made

    async def end_suspension(self, what: str, by: str) -> Suspension:
        for each in self.suspended:
            if each.what == what:
                self.suspended.remove(each)
                return each
        raise ValueError(f"{what} is not suspended (nothing is)")

    def suspensions(self) -> tuple[Suspension, ...]:
        return tuple(self.suspended)

    async def records(self, after: int, n: int) -> tuple[Record, ...]:
        return tuple([each for each in self.kept if each.seq > after][:n])

    async def pause(self) -> None:
        self.paused = True

    async def resume(self) -> tuple[int, int]:
        self.paused = False
        return self.store.counts

    async def report_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        return tuple(each for each in self.hosts if text.lower() in ("", each.name, each.address))

    async def reset_hosts(self, text: str = "") -> tuple[HostReport, ...]:
        found = await self.report_hosts(text)
        self.hosts = [each for each in self.hosts if each not in found]
        return found

    async def find_standstill(self) -> tuple[HostReport, ...]:
        return tuple(self.hosts) if self.stands_still else ()

    async def explain(self, address: str, *, probe: bool = False, sender: str = "") -> Explanation:
        if "@" not in address:
            raise ValueError("neither an address nor a domain")
        self.probed.append(probe)
        known = ExplainedHost("mx.example.net", 10, (ExplainedAddress("192.0.2.1", "closed"),))
        return Explanation(address, "example.net", "example.net", "direct MX", "goes at once", hosts=(known,))


def _restricted(message: StoredMessage, which: Filter) -> StoredMessage | None:
    if which.id not in ("", message.id) or which.reverse_path not in ("", message.reverse_path):
        return None
    recipients = tuple(
        each
        for each in message.recipients
        if which.recipient in ("", each.address)
        and which.domain in ("", each.domain)
        and which.state in ("", each.state)
        and which.reply.lower() in (each.last_reply + each.why).lower()
    )
    return replace(message, recipients=recipients) if recipients else None


class Served(Struct, frozen=True):
    """A door that is open: where, with which tokens by name, and what is behind it."""

    url: str
    tokens: Mapping[str, str]
    relay: Any
    lately: Lately
    sink: CollectingSink
    config: Config

    def client(self, token: str = "", **headers: str) -> httpx.Client:
        """Give an HTTP client that has a token by its name."""
        bearer = {"authorization": f"Bearer {self.tokens[token]}"} if token else {}
        return httpx.Client(base_url=self.url, headers={**bearer, **headers}, timeout=20.0)


def make_config(directory: Path, http: str = "", listen: str = '"127.0.0.1:0"', rest: str = "") -> Config:
    """Give a Config that serves HTTP with the tokens of `make_tokens`."""
    section = f'[http]\nlisten = [{listen}]\ntokens_file = "{directory}/tokens.toml"\n{http}'
    text = f'state_dir = "{directory}/state"\n{rest}\n{section}'
    return parse_config(text, {}, HERE)


def make_tokens(directory: Path) -> dict[str, str]:
    """Make a token for each scope, by the scope's name, and "all" with all of them."""
    file = directory / "tokens.toml"
    made = {scope.value: add_token(file, scope.value, frozenset({scope}), "2026-11-22T00:00:00Z") for scope in Scope}
    made["all"] = add_token(file, "all", frozenset(Scope), "2026-11-22T00:00:00Z")
    return made


@contextmanager
def served(
    directory: Path, relay: Any = None, *, http: str = "", listen: str = '"127.0.0.1:0"', rest: str = ""
) -> Iterator[Served]:
    """Open the door in a thread, as a daemon in another process would."""
    tokens = make_tokens(directory)
    config = make_config(directory, http, listen, rest)
    relay = FakeRelay() if relay is None else relay
    sink = CollectingSink()
    lately = Lately(sink, time.time)
    probes = Probes(
        lambda: b"# TYPE up gauge\nup 1\n", lambda: Health(True), lambda: Health(False, ("it is stopping",))
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    opened = AsyncExitStack()

    async def open_door() -> tuple[tuple[str, int], ...]:
        return await opened.enter_async_context(open_http(config, relay, lately, probes))

    try:
        bound = asyncio.run_coroutine_threadsafe(open_door(), loop).result(10)
        scheme = "https" if config.http.certificate_file else "http"
        place, port = bound[0]
        yield Served(f"{scheme}://{place}:{port}", tokens, relay, lately, sink, config)
    finally:
        asyncio.run_coroutine_threadsafe(opened.aclose(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def log_in(door: Served, token: str = "all") -> Iterator[httpx.Client]:
    """Give a browser's client that is logged in."""
    with httpx.Client(base_url=door.url, headers={"sec-fetch-site": "same-origin"}, timeout=20.0) as client:
        answer = client.post("/login", data={"csrf": secret_in(client.get("/login").text), "token": door.tokens[token]})
        assert 303 == answer.status_code, answer.text
        yield client


def secret_in(page: str) -> str:
    """Give the secret that the forms of a page bring back."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None, "there is no form"
    return found[1]


def fill(relay: FakeRelay, lately: Lately, now: float) -> None:
    """Fill a relay with an ordinary bad day, and some hostile hosts."""
    said = (
        (
            "example.net",
            "450 4.2.1 The mailbox is receiving mail at a rate that prevents delivery; try again later",
            212,
        ),
        ("gmx.example", "421 4.7.0 [TSS04] Messages temporarily deferred due to unexpected volume (198.51.100.7)", 131),
        ("example.com", "no host of its destination can be asked: connect failed 6 times in 41 min: timed out", 88),
        ("bücher.example", "451 4.7.1 Greylisted; come back in 5 minutes", 17),
        ("evil.example", HOSTILE, 4),
    )
    ids = (f"38f{number:04x}v8s0jq4mn"[:16] for number in range(9999))
    for domain, text, number in said:
        for each in range(min(number, 14)):
            id, age = next(ids), 340.0 * (each + 1)
            address = f"user{each}@{domain}" if domain != "evil.example" else f"\u202e<b>bob</b>{each}@evil.example"
            why = text if text.startswith("no host") else ""
            one = recipient(
                address,
                state="held" if each == 13 else "leased" if each == 5 else "deferred",
                due=now + 120 + 40 * each,
                attempts=1 + each % 7,
                last_reply="" if why else text,
                why=why or text,
                status="4.2.1",
            )
            relay.messages.append(
                replace(message(id, received_at=now - age), recipients=(one,), octets=4321 + 977 * each)
            )
            relay.stories[id] = _story(id, one, now, age)
    crowd = tuple(recipient(f"member{n}@list.example", n, due=now + 60, attempts=2, why=said[0][1]) for n in range(12))
    relay.messages.insert(3, replace(message("38f00ffv8s0jq4mn", received_at=now - 9000), recipients=crowd))
    relay.messages.sort(key=lambda each: each.received_at)
    by_domain = tuple(Count(d, n, now - 340 * min(n, 14), "38f0000v8s0jq4mn", n // 9, n // 40) for d, _, n in said)
    by_reason = tuple(Count(text, n, now - 340 * min(n, 14), "38f0000v8s0jq4mn") for _, text, n in said)
    relay.counted = Summary(441, 452, now - 340 * 14, by_domain, (), by_reason)
    relay.store.counts = (441, 452)
    relay.hosts = [
        replace(
            host("203.0.113.25", "mx1.example.com", step="connect", detail="timed out after 10 s", failures=6),
            since=now - 2460,
            last_failure_at=now - 95,
            next_probe_at=now + 65,
            waiting=("example.com",),
            waiting_count=1,
            waiting_recipients=88,
        ),
        replace(
            host("2001:db8::25", "mx2.example.com", step="banner", detail="554 5.7.1 " + HOSTILE[:120], failures=2),
            since=now - 300,
            last_failure_at=now - 12,
            next_probe_at=now + 8,
            state="half-open",
            waiting=("example.com", "<i>x</i>.example"),
            waiting_count=2,
            waiting_recipients=91,
        ),
    ]
    relay.suspended = [
        Suspension("list.example", "anna (page)", "their new server bounces everything: wait", now - 4000)
    ]
    _happen(relay, lately, now)


def _story(id: str, one: StoredRecipient, now: float, age: float) -> Story:
    first = Record(1, Kind.ACCEPTED, now - age, id, one.address, "alice@example.org", octets=5120, client="192.0.2.7")
    tries = [
        Record(
            2 + n,
            Kind.DEFERRED,
            now - age + 15 + 60 * n,
            id,
            one.address,
            "alice@example.org",
            n + 1,
            "4.2.1",
            one.last_reply,
            one.why,
            "mx1." + one.domain,
            "203.0.113.25",
            next_attempt_at=now + 120,
            walk=("mx2 [2001:db8::25]: connection refused",),
            transcript=("> EHLO relay.example.org", "< 250-mx1." + one.domain, "< " + HOSTILE[:200]),
        )
        for n in range(min(3, one.attempts))
    ]
    waiting = Waiting(
        Cause.HOLD if one.state == "held" else Cause.HOST_HEALTH if one.why.startswith("no host") else Cause.RETRY_TIME,
        f"the host put it off {one.attempts} times" if one.last_reply else one.why,
        "it is tried again by its schedule",
        one.due,
        one.last_reply or "203.0.113.25 [mx1]: connect failed 6 times in 41 min: timed out",
        "mx1." + one.domain + " [203.0.113.25]",
        now - 95,
        (
            f"smarthost queue retry {id} --config /etc/relay.toml",
            "smarthost hosts reset 203.0.113.25",
            "smarthost reload",
            "another host of the destination begins to work",
        ),
    )
    told = RecipientStory(one.address, one.state, one.attempts, one.domain, one.domain, waiting)
    gone = Record(9, Kind.RELAYED, now - age + 2, id, "carol@example.net", reply="250 2.0.0 queued as 4XyZ", host="mx")
    other = RecipientStory("carol@example.net", "relayed", 1, "example.net", "example.net", None, gone)
    timeline = (first, gone, *tries)
    return Story(id, now - age, "alice@example.org", 5120, "192.0.2.7", True, (told, other), timeline, "", f"<{id}@x>")


def _happen(relay: FakeRelay, lately: Lately, now: float) -> None:
    """Let half an hour pass, with a wave in it."""
    seq = int((now - 1800) * 1000) << 21
    for slot in range(180):
        at = now - 1800 + slot * 10 + 1
        wave = 26 + 18 * ((slot // 15) % 3) + (slot * 7919) % 13
        troubled = 60 < slot < 95
        for kind, number in (
            (Kind.ACCEPTED, wave),
            (Kind.RELAYED, wave - 6 if troubled else wave + (slot * 31) % 5),
            (Kind.DEFERRED, 21 + slot % 4 if troubled else 2 + slot % 3),
            (Kind.BOUNCED, 1 if slot % 6 == 0 else 0),
        ):
            for each in range(number):
                seq += 1
                record = Record(
                    seq, kind, at, f"38f{each:04x}v8s0jq4mn"[:16], f"user{each}@example.net", reply="250 2.0.0 ok"
                )
                if kind is Kind.BOUNCED:
                    record = replace(record, reply="550 5.1.1 <user0@example.net>: no such mailbox " + HOSTILE[:60])
                lately.record(record)
                if slot > 172:
                    relay.kept.append(replace(record, seq=int(at * 1000) << 21 | (seq & 0xFFFFF)))
    for n in range(15):
        id, address, why = f"38f{n:04x}v8s0jq4mn"[:16], f"user{n}@spam.example", "cancelled by root: spam, ticket 4712"
        record = Record(int((now - 1) * 1000) << 21 | n, Kind.CANCELLED, now - 1, id, address, user="root", why=why)
        relay.kept.append(record)
    relay.kept.sort(key=lambda each: each.seq)


if __name__ == "__main__":
    import sys

    with served(Path(sys.argv[1])) as door:
        fill(door.relay, door.lately, time.time())
        print(door.url, door.tokens["all"], flush=True)
        sys.stdin.read()
