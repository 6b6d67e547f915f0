# SPDX-License-Identifier: MIT
"""`smarthost queue list|show|retry|cancel`."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tests.ops.rig import FakeQueue, message, recipient, running

from smarthost.ops import cli, exits, words
from smarthost.queue.store import Filter

NOW = 1_800_000_000.0
FIRST, SECOND, REPORT = "0" * 15 + "a", "0" * 15 + "b", "0" * 15 + "c"
MESSAGES = (
    replace(
        message(FIRST, received_at=NOW - 300),
        recipients=(
            recipient("bob@x.example", 0, due=NOW + 240, attempts=2, last_reply="451 4.7.1 Later", why="greylisted"),
            recipient("carol@y.example", 1, state="leased", attempts=1),
        ),
    ),
    message(SECOND, *(f"r{n}@x.example" for n in range(5)), reverse_path="dave@example.org", received_at=NOW - 60),
    replace(
        message(REPORT, reverse_path="", received_at=NOW - 7200),
        recipients=(recipient("x\x1b[2J@y.example", state="held", due=NOW + 1e6, why="held\nby hand"),),
    ),
)


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeQueue]:
    monkeypatch.setattr(time, "time", lambda: NOW)
    with running(tmp_path, FakeQueue(*MESSAGES, leased=["carol@y.example"])) as served:
        yield served


def run(state_dir: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, ["queue", *arguments, "--state-dir", str(state_dir)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_list_says_at_a_glance_what_waits_for_what(tmp_path: Path, daemon: FakeQueue) -> None:
    """A line for each message, aligned, and its reasons below it; nothing a terminal would obey."""
    code, out, _ = run(tmp_path, "list")

    assert code == 0
    assert out.splitlines() == [
        "ID                RECEIVED                   SIZE       NEXT        FROM, TO",
        f"{FIRST}  {words.local_time(NOW - 300)}  5.0 KiB    now         "
        "<alice@example.org> -> bob@x.example, carol@y.example",
        "    greylisted",
        f"{SECOND}  {words.local_time(NOW - 60)}  5.0 KiB    now         "
        "<dave@example.org> -> r0@x.example, r1@x.example, r2@x.example (+2 more)",
        f"{REPORT}  {words.local_time(NOW - 7200)}  5.0 KiB    -           <> -> x\\x1b[2J@y.example",
        "    held\\nby hand",
        "3 messages, 8 recipients",
    ]


def test_list_says_when_the_next_attempt_is(tmp_path: Path, daemon: FakeQueue) -> None:
    """The time to the next attempt is told from now."""
    _, out, _ = run(tmp_path, "list", "--to", "bob@x.example")

    assert "  in 4 min    <alice@example.org> -> bob@x.example" in out


def test_list_as_json_has_the_stable_names(tmp_path: Path, daemon: FakeQueue) -> None:
    """A program reads the documented names, and times in UTC."""
    _, out, _ = run(tmp_path, "list", "--json")

    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["id"] for line in lines] == [FIRST, SECOND, REPORT]
    assert list(lines[0]) == ["id", "reverse_path", "received_at", "octets", "recipients"]
    assert lines[0]["received_at"] == "2027-01-15T07:55:00.000Z"
    assert lines[0]["recipients"] == [
        {
            "address": "bob@x.example", "state": "deferred", "attempts": 2,
            "next_attempt_at": "2027-01-15T08:04:00.000Z", "last_reply": "451 4.7.1 Later", "why": "greylisted",
            "awaits_host": False,
        },
        {
            "address": "carol@y.example", "state": "leased", "attempts": 1, "next_attempt_at": None,
            "last_reply": "", "why": "", "awaits_host": False,
        },
    ]  # fmt: skip
    assert lines[2]["recipients"][0]["next_attempt_at"] is None


def test_an_empty_queue_says_so(tmp_path: Path) -> None:
    """No output at all would leave doubt; JSON has no line."""
    with running(tmp_path, FakeQueue()):
        assert run(tmp_path, "list") == (0, "the queue is empty\n", "")
        assert run(tmp_path, "list", "--to", "x@y.example") == (0, "nothing matches\n", "")
        assert run(tmp_path, "list", "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--id", FIRST.upper()], [Filter(id=FIRST)]),
        ([FIRST, SECOND, FIRST], [Filter(id=FIRST), Filter(id=SECOND)]),
        ([FIRST, "--to", "<bob@x.example>"], [Filter(id=FIRST, recipient="bob@x.example")]),
        (["--from", "alice@example.org"], [Filter(reverse_path="alice@example.org")]),
        (["--from", "<alice@example.org>"], [Filter(reverse_path="alice@example.org")]),
        (["--sender", "ann"], [Filter(sender="ann")]),
        (["--sender", "user:ann"], [Filter(sender="ann")]),  # as `suspend` takes it
        (["--sender", "@Shop.example.org"], [Filter(sender_domain="shop.example.org")]),
        (["--destination", "X.Example."], [Filter(domain="x.example")]),
        ([], [Filter()]),
    ],
)
def test_filters_reach_the_store(tmp_path: Path, daemon: FakeQueue, arguments: list[str], asked: list[Filter]) -> None:
    """What the operator restricts is what the store is asked for."""
    run(tmp_path, "list", *arguments)

    assert [which for which, _, _ in daemon.asked] == asked


def test_reports_are_found_by_their_null_path(tmp_path: Path, daemon: FakeQueue) -> None:
    """`--from '<>'` lists reports and nothing else."""
    _, out, _ = run(tmp_path, "list", "--from", "<>", "--json")

    assert [json.loads(line)["id"] for line in out.splitlines()] == [REPORT]


def test_show_tells_everything(tmp_path: Path, daemon: FakeQueue) -> None:
    """For each recipient: state, next attempt, last reply, and why."""
    code, out, _ = run(tmp_path, "show", FIRST)

    assert code == 0
    assert out.splitlines() == [
        f"{FIRST}  5.0 KiB from <alice@example.org>",
        f"received {words.local_time(NOW - 300)} (5 min ago), handed in by 192.0.2.7",
        "",
        "  bob@x.example",
        "     state         deferred after 2 attempts",
        f"     next attempt  {words.local_time(NOW + 240)} (in 4 min)",
        "     last reply    451 4.7.1 Later",
        "     why           greylisted",
        "",
        "  carol@y.example",
        "     state         being tried now, after 1 attempt",
    ]


def test_mail_that_waits_for_a_host_says_that_it_may_go_sooner(tmp_path: Path, daemon: FakeQueue) -> None:
    """The time is only the latest one: the list, the whole story and JSON tell what else is waited for."""
    waiting = recipient("bob@x.example", due=NOW + 540, why="mx.x: connection refused", awaits_host=True)
    daemon.messages[:] = [replace(MESSAGES[0], recipients=(waiting,))]

    _, listed, _ = run(tmp_path, "list")
    _, shown, _ = run(tmp_path, "show", FIRST)
    _, as_json, _ = run(tmp_path, "show", FIRST, "--json")

    assert "  in 9 min    <alice@example.org> -> bob@x.example\n" in listed
    assert "    mx.x: connection refused (tried again at its time, or when a host works again)\n" in listed
    expected = f"next attempt  {words.local_time(NOW + 540)} (in 9 min), or as soon as a host works again\n"
    assert expected in shown
    assert json.loads(as_json)["recipients"][0]["awaits_host"] is True


def test_mail_that_waits_for_a_host_says_so_without_a_reason(tmp_path: Path, daemon: FakeQueue) -> None:
    """Even when nothing else is known, the list tells what may make the mail go sooner."""
    waiting = recipient("bob@x.example", due=NOW + 540, awaits_host=True)
    daemon.messages[:] = [replace(MESSAGES[0], recipients=(waiting,))]

    _, out, _ = run(tmp_path, "list")

    assert "    no host could be asked (tried again at its time, or when a host works again)\n" in out


@pytest.mark.parametrize("why", ["", "mx.x: connection refused"])
def test_mail_that_is_due_already_waits_for_no_host(tmp_path: Path, daemon: FakeQueue, why: str) -> None:
    """What goes now goes whether its host works or not."""
    due = recipient("bob@x.example", due=NOW - 1, why=why, awaits_host=True)
    daemon.messages[:] = [replace(MESSAGES[0], recipients=(due,))]

    for command in ("list", "show"):
        _, out, _ = run(tmp_path, command, FIRST)
        assert "works again" not in out


def test_the_reason_of_mail_that_is_being_tried_is_of_its_last_attempt(tmp_path: Path, daemon: FakeQueue) -> None:
    """An old reason is not taken for the present; nobody has to know what a lease is, but programs keep the word."""
    tried = recipient("bob@x.example", state="leased", attempts=2, last_reply="451 4.7.1 Later", why="greylisted")
    daemon.messages[:] = [replace(MESSAGES[0], recipients=(tried,))]

    _, listed, _ = run(tmp_path, "list")
    _, shown, _ = run(tmp_path, "show", FIRST)
    _, as_json, _ = run(tmp_path, "show", FIRST, "--json")

    assert "  now         <alice@example.org> -> bob@x.example\n    last attempt: greylisted\n" in listed
    assert shown.splitlines()[-3:] == [
        "     state         being tried now, after 2 attempts",
        "     last reply    451 4.7.1 Later",
        "     last attempt  greylisted",
    ]
    assert "leased" not in listed + shown
    assert json.loads(as_json)["recipients"][0]["state"] == "leased"


def test_show_escapes_what_strangers_wrote(tmp_path: Path, daemon: FakeQueue) -> None:
    """No host and no sender drives the operator's terminal."""
    _, out, _ = run(tmp_path, "show", REPORT)

    assert "\x1b" not in out
    assert "x\\x1b[2J@y.example" in out


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
def test_what_matches_nothing_is_66(tmp_path: Path, daemon: FakeQueue, command: str) -> None:
    """A mistyped id is noticed by scripts as well."""
    code, out, said = run(tmp_path, command, "f" * 16)

    assert (code, out) == (exits.NO_INPUT, "")
    assert "in the queue matches" in said


@pytest.mark.parametrize("command", ["show", "retry", "cancel"])
def test_nothing_is_changed_without_saying_what(tmp_path: Path, daemon: FakeQueue, command: str) -> None:
    """`queue cancel` alone does not cancel the queue."""
    code, _, said = run(tmp_path, command)

    assert code == exits.USAGE
    assert "say which" in said
    assert daemon.changes == []


def test_retry_makes_recipients_due_and_says_how_many(tmp_path: Path, daemon: FakeQueue) -> None:
    """The operator reads what changed, and what is being tried anyway."""
    code, out, _ = run(tmp_path, "retry", FIRST)

    assert (code, out) == (0, "1 recipient due now, 1 other being tried at this moment\n")
    assert daemon.changes == [(Filter(id=FIRST), "retry")]


def test_retry_says_what_becomes_of_broken_hosts(tmp_path: Path) -> None:
    """The help tells that a retry ends the pauses of hosts in the way."""
    _, out, _ = run(tmp_path, "retry", "--help")

    assert "Hosts in their way that are remembered as broken are probed at once" in " ".join(out.split())


def test_json_is_harmless_on_a_terminal(tmp_path: Path, daemon: FakeQueue) -> None:
    """Text that a terminal would obey is escaped in JSON, too."""
    daemon.messages[2] = replace(MESSAGES[2], recipients=(recipient("x\u009b2J@y.example"),))

    _, out, _ = run(tmp_path, "show", REPORT, "--json")

    assert out.rstrip("\n").isprintable()
    assert json.loads(out)["recipients"][0]["address"] == "x\u009b2J@y.example"


def test_cancel_says_what_it_could_not_cancel_at_once(tmp_path: Path, daemon: FakeQueue) -> None:
    """A recipient that is being tried is cancelled only if that fails."""
    _, out, _ = run(tmp_path, "cancel", "--all")

    assert out == "7 recipients cancelled, 1 other being tried at this moment: cancelled if that fails\n"
    assert daemon.changes == [(Filter(), "cancel")]


def test_changes_as_json_count_by_message(tmp_path: Path, daemon: FakeQueue) -> None:
    """A program reads which messages changed."""
    _, out, _ = run(tmp_path, "cancel", FIRST, SECOND, "--json")

    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": FIRST, "change": "cancel", "changed": 1, "wished": 1, "dry_run": False},
        {"id": SECOND, "change": "cancel", "changed": 5, "wished": 0, "dry_run": False},
    ]


def test_a_bad_id_is_a_usage_error(tmp_path: Path, daemon: FakeQueue) -> None:
    """What is no id is told as the store tells it."""
    assert run(tmp_path, "list", "7") == (exits.USAGE, "", "smarthost: a message id has 16 characters: '7'\n")


@pytest.mark.parametrize("command", ["list", "show x", "retry x", "cancel x"])
def test_without_a_daemon_every_command_is_69(tmp_path: Path, command: str) -> None:
    """The text says where the daemon was looked for and how to start one."""
    code, out, said = run(tmp_path, *command.split())

    assert (code, out) == (exits.UNAVAILABLE, "")
    assert f"no daemon answers at {tmp_path}/control: start one with `smarthost serve" in said
