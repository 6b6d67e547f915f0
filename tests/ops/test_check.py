# SPDX-License-Identifier: MIT
"""`smarthost queue check`: asks a daemon, looks at a stopped one's directory itself, and ends as sysexits say."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner
from tests.ops.rig import FakeQueue, message, running

from smarthost.backends.clock import SystemClock
from smarthost.backends.sqlite.directory import take
from smarthost.backends.sqlite.store import SqliteStore
from smarthost.mail.errors import StoreError
from smarthost.ops import cli, exits
from smarthost.ops.door import Door
from smarthost.queue.audit import AuditFigures, Fault, Finding

ID = "068wv1c7jgm80000"
ORPHAN = Finding(ID, 0, Fault.NO_OWNER, "nobody will ever touch it", "bob@x.example", is_repaired=True)
LATE = Finding(ID, 1, Fault.OVERDUE, "it was due 5 hours ago\x1b[2J", "carol@y.example")


class Checked(FakeQueue):
    """Finds what it was given."""

    def __init__(self, *findings: Finding | Exception) -> None:
        super().__init__(message(ID, "bob@x.example", "carol@y.example"))
        self.findings = findings

    def door(self, **replaced: object) -> Door:
        figures = AuditFigures(looks=7, recipients=20, rounds=2, ended_at=1_800_000_000.0, findings={"no owner": 1})
        return super().door(check=self.check, figures=lambda: figures, **replaced)

    async def check(self) -> AsyncGenerator[Finding | None, None]:
        for finding in self.findings:
            yield None
            if isinstance(finding, Exception):
                raise finding
            yield finding


def run(state_dir: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, ["queue", "check", *arguments, "--state-dir", str(state_dir)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


# With a daemon


def test_a_sound_daemon_says_so_and_what_it_has_seen(tmp_path: Path) -> None:
    """Exit 0, how much there is, and what the auditor has done since the start."""
    with running(tmp_path, Checked()):
        code, out, _ = run(tmp_path)

    assert code == exits.OK
    assert out.splitlines() == [
        "1 message, 2 unfinished recipients: sound",
        "since the daemon's start: 2 rounds, 7 looks at leases, findings: 1 no owner, repaired: 0",
    ]


def test_findings_are_told_and_end_in_65(tmp_path: Path) -> None:
    """Whose, what, why, and if it was repaired; nothing a terminal would obey."""
    with running(tmp_path, Checked(ORPHAN, LATE)):
        code, out, _ = run(tmp_path)

    assert code == exits.BAD_INPUT
    assert out.splitlines()[:3] == [
        f"{ID} bob@x.example: no owner: nobody will ever touch it (repaired)",
        f"{ID} carol@y.example: overdue: it was due 5 hours ago\\x1b[2J",
        "1 message, 2 unfinished recipients: 2 findings",
    ]


def test_findings_as_json_have_stable_names(tmp_path: Path) -> None:
    """A monitor reads one line for each finding, and a last one with the counts."""
    with running(tmp_path, Checked(ORPHAN)):
        code, out, _ = run(tmp_path, "--json")

    found, last = lines(out)
    assert code == exits.BAD_INPUT
    assert found == {
        "fault": "no owner", "id": ID, "recipient": "bob@x.example", "why": "nobody will ever touch it",
        "repaired": True,
    }  # fmt: skip
    assert last == {
        "sound": False, "online": True, "messages": 1, "unfinished": 2, "findings": 1,
        "since_start": {
            "looks": 7, "recipients_checked": 20, "rounds": 2, "last_round_at": "2027-01-15T08:00:00.000Z",
            "findings": {"no owner": 1}, "repaired": 0,
        },
    }  # fmt: skip


def test_a_store_in_trouble_is_no_verdict(tmp_path: Path) -> None:
    """Who could not look does not say that all is well."""
    with running(tmp_path, Checked(StoreError("the disk is away"))):
        code, out, err = run(tmp_path)

    assert (code, out) == (exits.TEMPORARY, "")
    assert "the disk is away" in err


# Without one


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """Give a state directory that a daemon has left."""

    async def leave() -> None:
        store = SqliteStore(tmp_path / "state")
        await store.open()
        await store.close()

    asyncio.run(leave())
    return tmp_path / "state"


@pytest.fixture
def damaged(stopped: Path) -> Path:
    db = apsw.Connection(str(stopped / "queue.db"))
    db.execute("INSERT INTO recipient (message, n, address, domain, due) VALUES (7, 0, 'a@b.example', 'b.example', 1)")
    db.close()
    return stopped


def test_a_stopped_queue_is_looked_at_without_a_daemon(stopped: Path) -> None:
    """The one case in which a command opens the database itself."""
    code, out, _ = run(stopped)

    assert code == exits.OK
    assert out == (
        f"no daemon runs on {stopped}; 0 messages, 0 unfinished recipients (0 due now), 0 reports owed: sound\n"
    )


def test_damage_is_found_without_a_daemon(damaged: Path) -> None:
    """Told like a daemon's findings, exit 65."""
    code, out, _ = run(damaged)

    assert code == exits.BAD_INPUT
    assert out.splitlines()[0].startswith("a@b.example: recipient without message: message number 7")
    assert out.splitlines()[1].endswith("(1 due now), 0 reports owed: 1 finding")


def test_damage_as_json_has_the_same_names(damaged: Path) -> None:
    """A monitor need not know if a daemon runs."""
    code, out, _ = run(damaged, "--json")

    found, last = lines(out)
    assert code == exits.BAD_INPUT
    assert list(found) == ["fault", "id", "recipient", "why", "repaired"]
    assert last | {"schema": 0} == {
        "sound": False, "online": False, "schema": 0, "messages": 0, "unfinished": 1, "due": 1, "reports_owed": 0,
        "findings": 1, "notes": [],
    }  # fmt: skip


def test_no_daemon_and_no_queue_is_66(tmp_path: Path) -> None:
    """A wrong directory is not a sound one, and is not made."""
    code, out, err = run(tmp_path / "nowhere")

    assert (code, out) == (exits.NO_INPUT, "")
    assert "does not exist" in err
    assert not (tmp_path / "nowhere").exists()


def test_a_newer_queue_is_69(stopped: Path) -> None:
    """Another release has to judge it."""
    db = apsw.Connection(str(stopped / "queue.db"))
    db.execute("PRAGMA user_version = 99")
    db.close()

    code, _, err = run(stopped)

    assert code == exits.UNAVAILABLE
    assert "newer smarthost" in err


def test_a_directory_that_somebody_holds_is_75(stopped: Path) -> None:
    """A daemon that starts or stops: nobody looks over its shoulder, try again."""
    lock = asyncio.run(take(stopped, SystemClock()))
    try:
        code, _, err = run(stopped)
    finally:
        os.close(lock)

    assert code == exits.TEMPORARY
    assert "no daemon answers, but" in err
    assert "in use by process" in err
