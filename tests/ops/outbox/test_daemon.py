# SPDX-License-Identifier: MIT
"""The real daemon with real receivers: killed and started again, with receivers that are dead, slow or broken."""

import asyncio
import json
import os
import signal
import smtplib
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.ops.outbox.receivers import OK, HttpReceiver, answer

from smarthost.ops import verbs
from smarthost.ops.client import ask
from smarthost.queue.store import Filter

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]
ROOT = Path(__file__).parents[3]
SERVE = [sys.executable, "-m", "smarthost", "serve"]
ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}


def configured(tmp_path: Path, *urls: str) -> Path:
    """Write a configuration whose mail goes nowhere, with these webhooks and a file."""
    (tmp_path / "secret").write_text("hunter2\n")
    hooks = "".join(
        f'[[webhook]]\nurl = "{url}"\nsecret_file = "{tmp_path}/secret"\nbatch = 500\ntimeout = "1s"\n' for url in urls
    )
    file = tmp_path / "smarthost.toml"
    file.write_text(
        f'hostname = "relay.example.org"\nstate_dir = "{tmp_path}/state"\nlisten = ["127.0.0.1:0"]\n'
        f'[next_hop]\nhost = "127.0.0.1"\nport = 1\n[log]\naccepted = false\n'
        f'[events]\nfile = "{tmp_path}/records"\n{hooks}'
    )
    return file


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run the daemon; gives it, and the port it takes mail at."""
    log = config.with_name("log")
    with log.open("ab") as stderr:
        start = stderr.tell()
        process = await asyncio.create_subprocess_exec(*SERVE, "--config", str(config), stderr=stderr, env=ENVIRON)
    try:
        port = 0

        def is_ready() -> bool:
            nonlocal port
            lines = log.read_bytes()[start:].splitlines()
            ready = [line for each in lines if (line := json.loads(each))["what"] == "ready"]
            port = ready[0]["listen"][0][1] if ready else 0
            return bool(ready)

        await until(is_ready)
        yield process, port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(is_so: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it never was so"
        await asyncio.sleep(0.02)


def hand_in(port: int, messages: int, recipients: int) -> None:
    """Send messages by SMTP."""
    with smtplib.SMTP("127.0.0.1", port) as client:
        for n in range(messages):
            to = [f"r{n}-{m}@example.net" for m in range(recipients)]
            client.sendmail("ann@example.org", to, f"Subject: {n}\r\n\r\nx\r\n")


def retry_all(tmp_path: Path) -> None:
    """Have an operator retry everything."""
    list(ask(tmp_path / "state", verbs.QueueChange("retry", Filter())))


def all_cursors(tmp_path: Path) -> list[str]:
    found: list[str] = []
    for each in ask(tmp_path / "state", verbs.EventsFind()):
        if isinstance(each, verbs.EventsFound):
            found += [json.loads(bytes(event))["cursor"] for event in each.events]
    return found


def in_file(tmp_path: Path) -> list[str]:
    found = []
    for line in (tmp_path / "records").read_bytes().splitlines():
        with suppress(ValueError):  # cut by a kill; it comes again
            found.append(json.loads(line)["cursor"])
    return found


def in_order(cursors: list[str]) -> list[int]:
    return sorted({int(each, 16) for each in cursors})


async def test_ten_thousand_records_survive_kills_and_reach_everybody(tmp_path: Path) -> None:
    """With kill -9 in the midst of it, webhook and file get every record there is, in order, some perhaps twice."""
    async with HttpReceiver() as receiver:
        config = configured(tmp_path, receiver.url)
        for _ in range(4):
            async with serving(config) as (process, port):
                await asyncio.to_thread(hand_in, port, 13, 99)
                seen = len(receiver.posted)
                await asyncio.to_thread(retry_all, tmp_path)  # a record for each of all the recipients so far
                await until(lambda seen=seen: len(receiver.posted) > seen)  # type: ignore[misc]
                process.send_signal(signal.SIGKILL)
                await process.wait()
        async with serving(config):
            kept: list[str] = []
            deadline = time.monotonic() + 60
            # Mail is still tried meanwhile, and makes records: what is kept is asked anew until nothing new came.
            while len(kept) < 10_000 or not in_order(kept) == in_order(receiver.cursors) == in_order(in_file(tmp_path)):
                kept = await asyncio.to_thread(all_cursors, tmp_path)
                assert time.monotonic() < deadline, f"{len(kept)} are kept, {len(receiver.cursors)} came"
                await asyncio.sleep(0.2)

    assert len(kept) == len(set(kept))
    assert len(receiver.cursors) < 2 * len(kept), "what was delivered and noted does not come again"


async def test_bad_receivers_hold_up_neither_mail_nor_each_other(tmp_path: Path) -> None:
    """One is dead, one hangs, one says 500, one is gone for good: the good one and the file get everything at once."""
    hanging = HttpReceiver(lambda _: [None])
    broken = HttpReceiver(lambda _: [answer("500 Oh", b"no")])
    gone = HttpReceiver(lambda _: [answer("410 Gone")])
    async with HttpReceiver(lambda _: [OK]) as good, hanging, broken, gone:
        config = configured(tmp_path, "http://127.0.0.1:1/", hanging.url, broken.url, gone.url, good.url)
        async with serving(config) as (process, port):
            began = time.monotonic()
            await asyncio.to_thread(hand_in, port, 20, 5)
            took_s = time.monotonic() - began
            await until(lambda: sum(each["kind"] == "accepted" for post in good.posted for each in post.events) == 20)
            await until(lambda: bool(hanging.posted and broken.posted and gone.posted))
            reports = {each["name"]: each for each in await status(tmp_path, lambda found: stopped(found) == 1)}
            process.send_signal(signal.SIGTERM)
            assert 0 == await asyncio.wait_for(process.wait(), 20)

    assert took_s < 10
    assert 5 + 1 == len(reports)
    assert 1 == len(gone.posted), "410 is not asked again"
    assert 1 == sum("ConnectError" in each["last_error"] for each in reports.values())
    assert 1 == sum("HTTP 500: no" in each["last_error"] for each in reports.values())
    assert [] == [each for each in reports.values() if "hidden" in json.dumps(each)], "keys of receivers are not shown"
    log = (tmp_path / "log").read_text()
    assert "outbox stopped" in log
    assert "hidden" not in log


def stopped(found: list[dict[str, Any]]) -> int:
    return sum(each["is_stopped"] for each in found)


async def status(tmp_path: Path, is_enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Ask until it says enough."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        nonlocal found
        answers = ask(tmp_path / "state", verbs.OutboxesFind())
        found = [
            {name: getattr(each.outbox, name) for name in each.outbox.__struct_fields__}
            for each in answers
            if isinstance(each, verbs.OutboxFound)
        ]
        return is_enough(found) and all(each["delivered"] or each["last_error"] for each in found)

    deadline = time.monotonic() + 30
    while not await asyncio.to_thread(look):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    return found
