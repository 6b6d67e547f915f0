# SPDX-License-Identifier: MIT
"""The outboxes of a configuration, and of the next one: begun, ended, changed while mail goes on."""

import asyncio
import json
from collections.abc import Awaitable, Mapping
from pathlib import Path

import pytest
from tests.ops.outbox.receivers import HttpReceiver
from tests.ops.outbox.rig import Carrying, FakeReceiver, FakeRecords, record
from tests.ops.rig import CollectingSink

from smarthost.config import Config, parse_config
from smarthost.mail.errors import ConfigError
from smarthost.ops.outbox.opening import Outboxes

pytestmark = pytest.mark.asyncio


def config(tmp_path: Path, text: str) -> Config:
    (tmp_path / "secret").write_text("hunter2\n")
    return parse_config(f'hostname = "relay.example.org"\n{text.replace("DIR", str(tmp_path))}')


class Running(Carrying):
    """Outboxes on a clock that the test moves."""

    def __init__(self, chosen: Config, source: FakeRecords) -> None:
        super().__init__(source, FakeReceiver())
        self.sink = CollectingSink()
        self.outboxes = Outboxes(chosen, source, lambda: source, self.sink, self.clock)

    async def reload(self, chosen: Config) -> None:
        (await self.outboxes.prepare(chosen)).apply()
        await self.turn(1.0)

    async def until_file(self, path: Path, cursors: list[str]) -> None:
        """Let time pass until a file has just these records; a thread writes it, so real time passes too."""
        lines: list[str] = []
        for _ in range(3000):
            if path.exists():
                lines = (await asyncio.to_thread(path.read_text)).splitlines()
            if cursors == [json.loads(line)["cursor"] for line in lines]:
                return
            await self.turn(0.25)
        raise AssertionError(f"it has {lines}")


async def test_a_reload_begins_changes_and_ends_outboxes_without_losing_a_record(tmp_path: Path) -> None:
    """The file moves to another path and goes on where it was; a new one begins at now; what is gone is closed."""
    source = FakeRecords()
    running = Running(config(tmp_path, '[events]\nfile = "DIR/one"'), source)
    async with running.outboxes.delivering():
        await running.turn(1.0)
        source.happen(record(1))
        await running.until_file(tmp_path / "one", ["1"])
        await running.reload(config(tmp_path, '[events]\nfile = "DIR/two"\nsyslog = "udp:127.0.0.1:9"'))
        source.happen(record(2))
        await running.until_file(tmp_path / "two", ["2"])
        assert {"file", "syslog"} == {each.name for each in running.outboxes.report()}
        same = running.outboxes.carriers
        await running.reload(config(tmp_path, '[events]\nfile = "DIR/two"\nsyslog = "udp:127.0.0.1:9"'))
        assert same == running.outboxes.carriers, "what is the same goes on undisturbed"
        await running.reload(config(tmp_path, ""))
        source.happen(record(3))
        await running.turn(2.0)
        assert () == running.outboxes.report()
        await running.reload(config(tmp_path, '[events]\nfile = "DIR/three"'))
        await running.until_file(tmp_path / "three", ["3"])

    assert 1 == len((tmp_path / "one").read_text().splitlines())
    assert 1 == len((tmp_path / "two").read_text().splitlines())


async def test_a_reload_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    """What the old one is just delivering is noted before the new one reads where to begin: it comes once."""
    source = FakeRecords()
    running = Running(config(tmp_path, '[events]\nfile = "DIR/one"'), source)
    at_once = source.save_notes
    disk = asyncio.Event()

    def save_late(notes: Mapping[str, bytes]) -> Awaitable[None]:
        async def saved() -> None:
            await disk.wait()
            await at_once(notes)

        return asyncio.ensure_future(saved())

    async with running.outboxes.delivering():
        await running.turn(1.0)
        source.save_notes = save_late  # type: ignore[method-assign]
        step = await running.outboxes.prepare(config(tmp_path, '[events]\nfile = "DIR/two"'))
        source.happen(record(1), record(2))
        place = running.outboxes.carriers[0]
        while not place.delivered:
            await asyncio.to_thread(lambda: None)
            running.clock.advance(0.25)
        step.apply()
        await running.turn(0.5)
        disk.set()
        await running.turn(0.5)
        source.happen(record(3))
        await running.until_file(tmp_path / "two", ["3"])

    assert 2 == len((tmp_path / "one").read_text().splitlines())


async def test_a_reload_that_cannot_be_done_changes_nothing(tmp_path: Path) -> None:
    """A secret that makes no sense is said, and the outboxes of before go on."""
    running = Running(config(tmp_path, '[events]\nfile = "DIR/one"'), FakeRecords())
    wrong = config(tmp_path, '[[webhook]]\nurl = "http://127.0.0.1:1/"\nsecret_file = "DIR/secret"')
    (tmp_path / "secret").write_text("")

    with pytest.raises(ConfigError, match="is empty"):
        await running.outboxes.prepare(wrong)

    assert ["file"] == [each.name for each in running.outboxes.report()]


async def test_two_webhooks_of_one_url_are_refused(tmp_path: Path) -> None:
    """They would share a cursor."""
    hook = '[[webhook]]\nurl = "http://127.0.0.1:1/"\nsecret_file = "DIR/secret"\n'

    with pytest.raises(ConfigError, match=r"webhook\[2\].url: is that of webhook\[1\] already"):
        config(tmp_path, hook + hook)


async def test_a_bug_in_one_outbox_is_told_and_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is unexpected is logged and tried again in a minute; the file gets its records meanwhile."""
    source = FakeRecords()
    async with HttpReceiver() as receiver:
        text = f'[events]\nfile = "DIR/one"\n[[webhook]]\nurl = "{receiver.url}"\nsecret_file = "DIR/secret"'
        running = Running(config(tmp_path, text), source)

        def broken(*_: object) -> None:
            raise KeyError("a bug")

        monkeypatch.setattr("smarthost.ops.outbox.webhooks.to_body", broken)
        async with running.outboxes.delivering():
            await running.turn(1.0)
            source.happen(record(1))
            await running.until_file(tmp_path / "one", ["1"])
            await running.turn(1.0)
            assert ("error", "outbox failed") in [(level, what) for level, what, _ in running.sink.notes]
            monkeypatch.undo()
            await running.until(lambda: receiver.cursors == ["1"], 3600.0)
