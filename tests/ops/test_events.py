# SPDX-License-Identifier: MIT
"""`smarthost events` and `smarthost events status`."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.ops.rig import FakeQueue, running

from smarthost.mail.record import Kind, Record
from smarthost.ops import cli, client, verbs
from smarthost.ops.door import Door
from smarthost.ops.outbox.report import OutboxReport

NOW = 1_800_000_000.0
FINE = OutboxReport("file", "file", "/var/log/records", "a1", NOW - 5, 12, 0, 0.0, "", 0.0, 0.0, False, 0, "")
FAILING = OutboxReport(
    "webhook:hooks.example.org:0123abcd", "webhook", "https://hooks.example.org/...", "9f", NOW - 900, 3, 7, 840.0,
    "HTTP 500: \x1b[31mout of order", NOW - 600, NOW + 60, False, 1, "records after X and before Y were forgotten",
)  # fmt: skip


class FakeFeed:
    """A daemon with records; the last ones happen when `happen` says so."""

    def __init__(self, count: int) -> None:
        self.records = [
            Record(seq, Kind.BOUNCED if seq % 10 == 0 else Kind.RELAYED, NOW + seq, f"{seq:016d}", "bob@example.net")
            for seq in range(1, count + 1)
        ]
        self.outboxes: tuple[OutboxReport, ...] = (FINE, FAILING)
        self.hidden = 0  # the last so many may yet be overtaken

    @property
    def horizon(self) -> int:
        return len(self.records) - self.hidden

    async def read(self, after: int, n: int) -> tuple[Record, ...]:
        return tuple([each for each in self.records if after < each.seq <= self.horizon][:n])

    def door(self) -> Door:
        return FakeQueue().door(records=self.read, record_horizon=lambda: self.horizon, outboxes=lambda: self.outboxes)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFeed]:
    monkeypatch.setattr(time, "time", lambda: NOW)
    with running(tmp_path, FakeFeed(1200)) as served:
        yield served


def run(state_dir: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, ["events", *arguments, "--state-dir", str(state_dir)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def cursors(out: str) -> list[int]:
    return [int(json.loads(line)["cursor"], 16) for line in out.splitlines()]


def test_all_records_are_printed_oldest_first(tmp_path: Path, daemon: FakeFeed) -> None:
    """However many pages they are, each is one line of JSON."""
    code, out, _ = run(tmp_path)

    assert (0, list(range(1, 1201))) == (code, cursors(out))
    assert {"cursor": "1", "at": "2027-01-15T08:00:01.000Z", "kind": "relayed", "id": f"{1:016d}",
            "recipient": "bob@example.net"} == json.loads(out.splitlines()[0])  # fmt: skip


def test_a_program_goes_on_from_the_last_cursor(tmp_path: Path, daemon: FakeFeed) -> None:
    """What it has seen does not come again, and nothing is left out."""
    _, out, _ = run(tmp_path, "--after", format(1150, "x"))

    assert list(range(1151, 1201)) == cursors(out)


def test_only_some_kinds(tmp_path: Path, daemon: FakeFeed) -> None:
    """A look at the bounces; a kind that is none is refused with those there are."""
    _, out, _ = run(tmp_path, "--kind", "bounced", "--kind", "expired")
    code, nothing, told = run(tmp_path, "--kind", "bounce")

    assert list(range(10, 1201, 10)) == cursors(out)
    assert (64, "") == (code, nothing)
    assert "unknown kind 'bounce': one of accepted" in told


def test_a_cursor_that_is_none_is_refused(tmp_path: Path, daemon: FakeFeed) -> None:
    """In one line that says so."""
    code, _, told = run(tmp_path, "--after", "yesterday")

    assert (64, "smarthost: not a cursor: 'yesterday'\n") == (code, told)


def test_following_tells_what_happens_and_waits_for_what_may_be_overtaken(tmp_path: Path, daemon: FakeFeed) -> None:
    """From a cursor on nothing is missed between what there was and what is to come; it goes on until it is ended."""
    daemon.hidden = 5
    got: list[int] = []
    has_all = threading.Event()

    def follow() -> None:
        request = verbs.EventsFind(after=format(1190, "x"), follow=True)
        for answer in client.ask(tmp_path, request):
            if isinstance(answer, verbs.EventsFound):
                got.extend(int(json.loads(bytes(each))["cursor"], 16) for each in answer.events)
            if 1195 in got and daemon.hidden:
                daemon.hidden = 0
            if 1200 in got:
                has_all.set()
                return

    thread = threading.Thread(target=follow)
    thread.start()

    assert has_all.wait(10)
    thread.join(10)
    assert list(range(1191, 1201)) == got


def test_status_says_how_far_each_is_and_what_is_wrong(tmp_path: Path, daemon: FakeFeed) -> None:
    """Up to date, or failing since when and why, how far behind, and what was lost; hostile text is escaped."""
    code, out, _ = run(tmp_path, "status")

    assert code == 0
    assert "\x1b" not in out
    assert "file  /var/log/records\n  up to date\n  12 records since the start" in out
    assert "HTTP 500: \\x1b[31mout of order" in out
    assert "next try in 60 s" in out
    assert "behind: the oldest record it has not is 14 min old" in out
    assert "LOST: records after X and before Y were forgotten" in out


def test_status_for_programs_has_every_fact(tmp_path: Path, daemon: FakeFeed) -> None:
    """One JSON object for each, times in ISO 8601 or null."""
    _, out, _ = run(tmp_path, "status", "--json")

    first, second = map(json.loads, out.splitlines())
    assert set(OutboxReport.__struct_fields__) == set(first)
    assert (None, "2027-01-15T07:59:55.000Z") == (first["failing_since"], first["last_at"])
    assert ("2027-01-15T07:50:00.000Z", 840.0) == (second["failing_since"], second["behind_s"])


def test_status_fails_when_one_has_stopped(tmp_path: Path, daemon: FakeFeed) -> None:
    """A script that looks each hour notices."""
    stopped = {name: getattr(FAILING, name) for name in FAILING.__struct_fields__} | {"is_stopped": True}
    daemon.outboxes = (OutboxReport(**stopped),)

    code, out, told = run(tmp_path, "status")

    assert code == 69
    assert "STOPPED: HTTP 500" in out
    assert "an outbox has stopped" in told


def test_without_outboxes_status_says_how_to_have_one(tmp_path: Path, daemon: FakeFeed) -> None:
    """Nothing configured is no error."""
    daemon.outboxes = ()

    code, out, _ = run(tmp_path, "status")

    assert (0, "records go nowhere but into the store: set [[webhook]], events.file or events.syslog\n") == (code, out)
