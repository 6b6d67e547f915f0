# SPDX-License-Identifier: MIT
"""`smarthost why`, `queue summary`, the verbs, `suspend`, `top` as an operator types them, on a real control socket."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tests.ops.rig import FakeQueue, message, running

from smarthost.mail.explanation import HostReport
from smarthost.mail.record import Kind, Record
from smarthost.mail.story import Cause, Count, RecipientStory, Story, Summary, Suspension, Waiting
from smarthost.ops import cli, exits, words
from smarthost.ops.door import Door
from smarthost.queue.store import Filter

NOW = 1_800_000_000.0
ID = "0" * 15 + "a"
WAITS = Waiting(
    Cause.HOST_HEALTH,
    "no host of its destination can be asked",
    "one of its hosts is probed",
    NOW + 60,
    "mx.x [192.0.2.1]: connection refused\x1b[2J",
    "the health of its hosts",
    NOW - 60,
    ("smarthost hosts reset 192.0.2.1",),
)
RELAYED = Record(3, Kind.RELAYED, NOW - 5, ID, "cid@x.example", reply="250 ok", host="mx.x", address="192.0.2.2")
STORY = Story(
    id=ID,
    received_at=NOW - 120,
    reverse_path="ann@example.org",
    octets=5120,
    client="192.0.2.7",
    is_queued=True,
    recipients=(
        RecipientStory("bob@x.example", "deferred", 2, "x.example", "x.example", WAITS),
        RecipientStory("cid@x.example", "relayed", 1, ended=RELAYED),
    ),
    timeline=(
        Record(1, Kind.ACCEPTED, NOW - 120, ID, recipients=("bob@x.example", "cid@x.example"), client="192.0.2.7"),
        Record(
            2,
            Kind.DEFERRED,
            NOW - 90,
            ID,
            "bob@x.example",
            reply="451 4.7.1 later",
            why="mx.x [192.0.2.1] answered RCPT with 451 4.7.1 later",
            host="mx.x",
            address="192.0.2.1",
            tls="TLSv1.3 x verified",
            connect_s=0.25,
            transcript=("S: 220 mx.x", "C: EHLO relay", "S: 451 4.7.1 later"),
        ),
        RELAYED,
    ),
    user="ann",
    message_id="<m@example.org>",
)
SUMMARY = Summary(
    3, 5, NOW - 7200, (Count("x.example", 4, NOW - 7200, ID, 2, 1),), (Count("ann@example.org", 5, NOW - 7200, ID),),
    (Count("451 4.7.1 later", 3, NOW - 600, ID), Count("", 2, NOW - 60, ID)), False,
)  # fmt: skip


class FakeStories(FakeQueue):
    """A daemon that tells one story, and remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(message(ID, "bob@x.example"))
        self.asked_why: list[tuple[str, int]] = []
        self.suspended: list[tuple[str, str, str]] = []
        self.lanes: list[str] = []
        self.looks = 0
        self.story = STORY
        self.broken: tuple[HostReport, ...] = ()

    def door(self, **replaced: object) -> Door:
        return super().door(
            why=self.why,
            summary=self.summary,
            suspend=self.suspend,
            end_suspension=self.end_suspension,
            suspensions=lambda: (Suspension("x.example", "root", "they asked", NOW - 60),),
            domains_of_lane=self.domains_of_lane,
            watch=self.watch,
            hosts=self.hosts,
            **replaced,
        )

    async def why(self, text: str, n: int) -> tuple[Story, ...]:
        self.asked_why.append((text, n))
        return () if text == "nobody@x.example" else (self.story,)

    async def summary(self, n: int) -> Summary:
        return SUMMARY

    async def suspend(self, what: str, reason: str, by: str) -> Suspension:
        self.suspended.append((what, reason, by))
        return Suspension(what, by, reason, NOW)

    async def end_suspension(self, what: str, by: str) -> Suspension:
        if what != "x.example":
            raise ValueError(f"{what} is not suspended (x.example)")
        return Suspension(what, "root", "they asked", NOW - 60)

    async def domains_of_lane(self, lane: str) -> tuple[str, ...]:
        self.lanes.append(lane)
        return ("x.example", "y.example") if lane == "busy" else ()

    def watch(self) -> tuple[float, dict[str, float], dict[str, float]]:
        self.looks += 1
        return NOW + self.looks, {"sessions_in": 3, "attempts": 7}, {"relayed": 100.0 * self.looks}

    async def hosts(self, text: str) -> tuple[HostReport, ...]:
        return self.broken


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStories]:
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.delenv("SUDO_USER", raising=False)
    with running(tmp_path, FakeStories()) as served:
        yield served


def run(state_dir: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, [*arguments, "--state-dir", str(state_dir)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_why_tells_what_holds_it_what_comes_next_and_what_happened(tmp_path: Path, daemon: FakeStories) -> None:
    """One screen answers: where is my mail, and why?"""
    code, out, _ = run(tmp_path, "why", "bob@x.example", "-n", "3")

    assert (code, daemon.asked_why) == (0, [("bob@x.example", 3)])
    assert out.splitlines() == [
        f"{ID}  5.0 KiB from <ann@example.org>",
        f"accepted {words.local_time(NOW - 120)} (2 min ago) from 192.0.2.7 as ann",
        "Message-ID <m@example.org>",
        "",
        "  bob@x.example: deferred after 2 attempts",
        "     because    host health: no host of its destination can be asked, "
        f"since {words.local_time(NOW - 60)} (60 s ago)",
        "     evidence   mx.x [192.0.2.1]: connection refused\\x1b[2J",
        f"     next       one of its hosts is probed, {words.local_time(NOW + 60)} (in 60 s) at the latest",
        f"     sooner     smarthost hosts reset 192.0.2.1 --state-dir {tmp_path}",
        "",
        "  cid@x.example: relayed after 1 attempt",
        f"     ended      {words.local_time(NOW - 5)} (5 s ago) at mx.x [192.0.2.2]",
        "     reply      250 ok",
        "",
        "  what happened",
        f"    {words.local_time(NOW - 120)}  accepted  2 recipients",
        "      from 192.0.2.7",
        f"    {words.local_time(NOW - 90)}  deferred  bob@x.example",
        "      mx.x [192.0.2.1], TLSv1.3 x verified, said: 451 4.7.1 later",
        "      connect 0.250 s",
        "      what was said is kept: --transcript shows it",
        f"    {words.local_time(NOW - 5)}  relayed  cid@x.example",
        "      mx.x [192.0.2.2], in clear, said: 250 ok",
    ]


def test_why_shows_what_was_said_when_asked(tmp_path: Path, daemon: FakeStories) -> None:
    """The transcript of a failed session is a flag away."""
    _, out, _ = run(tmp_path, "why", ID, "--transcript")

    assert "      | S: 220 mx.x\n      | C: EHLO relay\n      | S: 451 4.7.1 later\n" in out


def test_why_says_that_there_is_no_transcript(tmp_path: Path, daemon: FakeStories) -> None:
    """Mail that waits for a host that others broke had no session of its own: where to look is named."""
    daemon.story = replace(STORY, timeline=STORY.timeline[:1])
    _, out, _ = run(tmp_path, "why", ID, "--transcript")

    assert out.splitlines()[-1] == (
        "  no transcript is kept: it had no session of its own that failed; "
        f"see smarthost hosts show 192.0.2.1 --state-dir {tmp_path}"
    )

    daemon.story = replace(STORY, timeline=STORY.timeline[2:], recipients=STORY.recipients[1:])
    _, out, _ = run(tmp_path, "why", ID, "--transcript")
    assert out.splitlines()[-1] == "  no transcript is kept: it had no session of its own that failed"
    _, out, _ = run(tmp_path, "why", ID)
    assert "no transcript" not in out


def test_the_commands_that_why_shows_reach_the_daemon_that_it_asked(tmp_path: Path, daemon: FakeStories) -> None:
    """Whoever runs it with a file, or a directory, copies them as they are; a blank in it does no harm."""
    file = tmp_path / "my relay.toml"
    file.write_text(f"state_dir = {json.dumps(str(tmp_path))}\n")
    result = CliRunner().invoke(cli.cli, ["why", ID, "--config", str(file)])

    assert f"sooner     smarthost hosts reset 192.0.2.1 --config '{file}'\n" in result.stdout


def test_a_refused_login_has_its_cure(tmp_path: Path, daemon: FakeStories) -> None:
    """Another try makes another bad login: what helps is the right password, and that is said first."""
    refused = "mx.x [192.0.2.1]: auth failed 3 times in 40 s: 535 5.7.8 no"
    waits = replace(
        WAITS, why=f"no host of its destination can be asked: {refused[:16]} is not dialled", evidence=refused
    )
    daemon.story = replace(STORY, recipients=(replace(STORY.recipients[0], waiting=waits),))
    _, out, _ = run(tmp_path, "why", ID)

    lines = [line.strip() for line in out.splitlines()]
    at = lines.index(
        f"cure       correct username and password_file of next hop mx.x, then: smarthost reload --state-dir {tmp_path}"
    )
    assert lines[at + 1].startswith("sooner     smarthost hosts reset")


@pytest.mark.parametrize(
    "evidence",
    [
        "mx.x [192.0.2.1]: auth failed once: 454 4.7.0 Temporary authentication failure",
        "mx.x [192.0.2.1]: connect failed once: y [192.0.2.2]: auth failed once: 535 no",
        "auth failed once: 535 no",
    ],
)
def test_no_other_failure_has_that_cure(tmp_path: Path, daemon: FakeStories, evidence: str) -> None:
    """Nobody changes a password that is right."""
    waits = replace(WAITS, evidence=evidence)
    daemon.story = replace(STORY, recipients=(replace(STORY.recipients[0], waiting=waits),))
    _, out, _ = run(tmp_path, "why", ID)

    assert "cure" not in out


def test_why_says_once_what_a_host_has_said(tmp_path: Path, daemon: FakeStories) -> None:
    """Where the evidence has the words of each host, the reason does not; nor has an attempt its own host twice."""
    said = "535 5.7.8 no"
    waits = replace(
        WAITS,
        why=f"no host of its destination can be asked: mx.x [192.0.2.1] answered auth with {said}",
        evidence=f"mx.x [192.0.2.1]: auth failed once: {said}",
    )
    record = Record(
        2, Kind.DEFERRED, NOW - 90, ID, "bob@x.example", reply=said, host="mx.x", address="192.0.2.1",
        why=f"mx.x [192.0.2.1] answered auth with {said}",
        walk=("mx0.x [192.0.2.9]: at connect: refused", f"mx.x [192.0.2.1]: at auth: {said}"),
    )  # fmt: skip
    daemon.story = replace(
        STORY, recipients=(replace(STORY.recipients[0], waiting=waits),), timeline=(STORY.timeline[0], record)
    )
    _, out, _ = run(tmp_path, "why", ID)

    assert out.count(said) == 2
    assert "because    host health: no host of its destination can be asked, since" in out
    assert [line.strip() for line in out.splitlines() if "tried before" in line] == [
        "tried before: mx0.x [192.0.2.9]: at connect: refused"
    ]


@pytest.mark.parametrize(
    ("why", "stop"),
    [
        ("mx.x [192.0.2.1], at connect: refused", "mx.x [192.0.2.1]: at connect: refused"),
        ("mx.x [192.0.2.1] is not dialled: connect failed once: refused",
         "mx.x [192.0.2.1]: not dialled, connect failed once: refused"),
    ],
)  # fmt: skip
def test_what_ended_an_attempt_was_not_tried_before_it(
    tmp_path: Path, daemon: FakeStories, why: str, stop: str
) -> None:
    """An attempt that came to one host alone tells of it once."""
    is_dialled = "not dialled" not in why
    record = Record(
        2, Kind.POSTPONED, NOW - 90, ID, "bob@x.example", why=why, walk=(stop,),
        host="mx.x" if is_dialled else "", address="192.0.2.1" if is_dialled else "",
    )  # fmt: skip
    daemon.story = replace(STORY, timeline=(record,))

    assert "tried before" not in run(tmp_path, "why", ID)[1]


def test_hosts_that_failed_before_one_took_it_are_told(tmp_path: Path, daemon: FakeStories) -> None:
    """Also the same host, where TLS failed and the mail went without."""
    stops = ("mx0.x [192.0.2.9]: at connect: refused", "mx.x [192.0.2.2]: at tls: bad certificate")
    daemon.story = replace(STORY, timeline=(replace(RELAYED, walk=stops),))
    _, out, _ = run(tmp_path, "why", ID)

    assert [line.strip() for line in out.splitlines() if "tried before" in line] == [
        f"tried before: {stop}" for stop in stops
    ]


def test_why_as_json_has_stable_names(tmp_path: Path, daemon: FakeStories) -> None:
    """A program reads the same, times in UTC."""
    _, out, _ = run(tmp_path, "why", ID, "--json")

    (line,) = [json.loads(line) for line in out.splitlines()]
    assert (line["id"], line["is_queued"], line["message_id"]) == (ID, True, "<m@example.org>")
    assert line["recipients"][0]["waiting"]["cause"] == "host health"
    assert line["recipients"][0]["waiting"]["next_at"] == words.iso_utc(NOW + 60)
    assert line["recipients"][0]["waiting"]["unblocked_by"] == ["smarthost hosts reset 192.0.2.1"]
    assert line["recipients"][1]["waiting"] is None
    assert [each["kind"] for each in line["timeline"]] == ["accepted", "deferred", "relayed"]
    assert line["timeline"][1]["at"] == words.iso_utc(NOW - 90)
    assert out.isprintable() or out.rstrip("\n").isprintable()


def test_what_nobody_knows_of_is_66(tmp_path: Path, daemon: FakeStories) -> None:
    """A mistyped address is told from one whose mail is fine."""
    code, out, said = run(tmp_path, "why", "nobody@x.example")

    assert (code, out) == (exits.NO_INPUT, "")
    assert said == "smarthost: nothing is known of nobody@x.example: neither the queue nor the records have it\n"


def test_summary_counts_by_destination_sender_and_reason(tmp_path: Path, daemon: FakeStories) -> None:
    """What is in the way, at a glance."""
    _, out, _ = run(tmp_path, "queue", "summary")

    lines = out.splitlines()
    assert lines[0] == "3 messages, 5 recipients, the oldest from 2 h ago"
    assert lines[2:4] == [
        "RECIPIENTS  DUE       HELD      OLDEST      DESTINATION",
        "4           2         1         2 h         x.example",
    ]
    assert "2           0         0         60 s        (not tried yet)" in lines
    assert lines[-1] == "there are more names: -n shows more of them"

    _, out, _ = run(tmp_path, "queue", "summary", "--json")
    assert json.loads(out)["by_reason"][0] == {
        "name": "451 4.7.1 later", "recipients": 3, "due": 0, "held": 0,
        "oldest_at": words.iso_utc(NOW - 600), "oldest_id": ID,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["retry"], "1 recipient due now"),
        (["hold"], "1 recipient held"),
        (["release"], "1 recipient released"),
        (["cancel"], "1 recipient cancelled"),
        (["bounce"], "1 recipient returned"),
        (["expire"], "1 recipient given up"),
        (["reroute", "--via", "mx"], "1 recipient sent another way"),
    ],
)
def test_every_verb_says_what_it_did_and_who_asked_for_it(
    tmp_path: Path, daemon: FakeStories, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """The daemon learns who asks from the kernel, for whom that is from sudo, and why from --reason."""
    import os
    import pwd

    monkeypatch.setenv("SUDO_USER", "ann")
    code, out, _ = run(tmp_path, "queue", *arguments, ID, "--reason", "a bad mailing")

    me = pwd.getpwuid(os.geteuid()).pw_name
    lets_go = arguments[0] in ("retry", "release", "reroute")  # and a suspension has its way all the same
    stays = "1 suspension stays, and nothing goes that it is about: smarthost suspensions\n" if lets_go else ""
    assert (code, out) == (0, f"{said}\n{stays}")
    via = "mx" if arguments[0] == "reroute" else ""
    assert daemon.orders == [(arguments[0], f"{me} (ann)", "a bad mailing", via, False)]


def test_a_dry_run_counts_first(tmp_path: Path, daemon: FakeStories) -> None:
    """What would be done is counted, and the daemon told to change nothing."""
    _, out, _ = run(tmp_path, "queue", "bounce", "--reply", "451", "--older", "2h", "--state", "deferred", "--dry-run")

    assert out == "1 recipient would be returned\n"
    assert daemon.changes == [(Filter(reply="451", state="deferred", received_before=NOW - 7200), "bounce")]
    assert daemon.orders[0][4] is True


def test_a_lane_is_told_as_the_domains_it_carries(tmp_path: Path, daemon: FakeStories) -> None:
    """All mail for one provider is changed at once; a lane that carries nothing matches nothing."""
    run(tmp_path, "queue", "hold", "--lane", "busy")
    code, _, said = run(tmp_path, "queue", "hold", "--lane", "idle")

    assert daemon.lanes == ["busy", "idle"]
    assert daemon.changes == [(Filter(domains=("x.example", "y.example")), "hold")]
    assert (code, said) == (exits.NO_INPUT, "smarthost: no recipient in the queue matches\n")


@pytest.mark.parametrize("age", ["2", "h", "2 weeks", "-1h"])
def test_an_age_that_is_none_is_refused(tmp_path: Path, daemon: FakeStories, age: str) -> None:
    """A mistyped age does not select everything."""
    code, _, said = run(tmp_path, "queue", "cancel", f"--older={age}")

    assert code == exits.USAGE
    assert "--older" in said
    assert daemon.changes == []


def test_suspensions_are_begun_listed_and_ended(tmp_path: Path, daemon: FakeStories) -> None:
    """A destination is held back with a reason that the next on call can read."""
    assert run(tmp_path, "suspend", "x.example", "--reason", "they asked")[1] == (
        "x.example is suspended: nothing is tried (waiting: 1 recipient)\n"
    )
    assert run(tmp_path, "suspend", "@corp.example")[1] == (
        "@corp.example is suspended: all its mail is held (waiting: 1 recipient)\n"
    )
    assert [(what, reason) for what, reason, _ in daemon.suspended] == [
        ("x.example", "they asked"), ("@corp.example", "")
    ]  # fmt: skip
    assert run(tmp_path, "suspensions")[1] == "x.example  by root: they asked  (60 s ago)\n"
    assert run(tmp_path, "resume", "x.example")[1] == "x.example goes on (waiting: 1 recipient)\n"
    code, _, said = run(tmp_path, "resume", "y.example")
    assert (code, said) == (exits.USAGE, "smarthost: y.example is not suspended (x.example)\n")


@pytest.mark.parametrize(
    ("what", "which", "waiting"),
    [
        ("x.example", Filter(domain="x.example"), 1),
        ("München.example.", Filter(domain="xn--mnchen-3ya.example"), 0),
        ("user:ann", Filter(sender="ann"), 1),  # the fake queue is all from her, and from this domain
        ("@Corp.example", Filter(sender_domain="corp.example"), 1),
        ("<ann@example.org>", Filter(reverse_path="ann@example.org"), 0),
    ],
)
def test_how_much_a_suspension_is_about_is_counted_and_not_changed(
    tmp_path: Path, daemon: FakeStories, what: str, which: Filter, waiting: int
) -> None:
    """A slip shows in the figure: nothing waits for a name that nobody has."""
    code, out, _ = run(tmp_path, "suspend", what, "--json")

    assert (code, json.loads(out)["waiting"]) == (0, waiting)
    assert daemon.changes == [(which, "hold")]
    assert [order[4] for order in daemon.orders] == [True]


def test_a_bare_word_is_taken_for_a_user_and_not_suspended(tmp_path: Path, daemon: FakeStories) -> None:
    """`queue summary` shows who logs in as "ann": to suspend a domain "ann" instead would stop nothing."""
    code, out, said = run(tmp_path, "suspend", "ann")

    assert (code, out, daemon.suspended) == (exits.USAGE, "", [])
    assert "no mail waits for a destination ann: did you mean user:ann?" in said


def test_a_destination_without_a_dot_is_suspended_where_it_is_one(tmp_path: Path, daemon: FakeStories) -> None:
    """In a network of one's own mail may be for `intern`; its last dot says that this is meant."""
    daemon.messages.append(message("0" * 15 + "b", "cid@intern"))
    assert run(tmp_path, "suspend", "intern")[0] == 0
    assert run(tmp_path, "suspend", "other.")[0] == 0
    assert [what for what, _, _ in daemon.suspended] == ["intern", "other."]


def test_top_says_when_a_broken_host_is_probed_as_the_list_of_hosts_does(tmp_path: Path, daemon: FakeStories) -> None:
    """A host that nobody waits for has no time of its next probe: it comes with the next message."""
    host = HostReport("192.0.2.1", "mx.x", "", "half-open", 2, NOW - 60, NOW - 50, "connect", "connection refused", 0.0)
    daemon.broken = (host, replace(host, state="open", next_probe_at=NOW + 41, waiting_count=1))
    _, out, _ = run(tmp_path, "top", "-1")

    assert out.splitlines()[-2:] == [
        "mx.x [192.0.2.1]  next probe with the next message, 0 destinations wait: connection refused",
        "mx.x [192.0.2.1]  next probe in 39 s, 1 destination waits: connection refused",
    ]


def test_top_shows_rates_between_two_looks(tmp_path: Path, daemon: FakeStories) -> None:
    """What the relay does now, once, for a script or a terminal that is none."""
    code, out, _ = run(tmp_path, "top", "-1")

    assert code == 0
    assert "relayed 100.0/s" in out
    assert "queue 3 messages, 5 recipients, oldest 2 h ago" in out
    assert "sessions in 3  attempts 7" in out
    assert "4           2         1         2 h         x.example" in out
