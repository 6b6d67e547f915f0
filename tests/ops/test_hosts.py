# SPDX-License-Identifier: MIT
"""`smarthost hosts list|show|reset`."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.ops.rig import FakeHosts, host, running

from smarthost.ops import cli, exits, words

NOW = 1_800_000_000.0
HOSTS = (
    host(
        "192.0.2.10",
        "mx1.example.org",
        failures=12,
        since=NOW - 2403,
        last_failure_at=NOW - 3,
        detail="timed out after 10 s",
        next_probe_at=NOW + 240,
        steps=(("connect", 12),),
        waiting=("a.example", "b.example", "c.example", "d.example", "e.example"),
        waiting_count=5,
    ),
    host(
        "2001:db8::25",
        "mx2.example.org",
        service="port 587, TLS required",
        state="half-open",
        failures=3,
        since=NOW - 90,
        last_failure_at=NOW - 60,
        step="tls",
        detail="certificate has expired",
        next_probe_at=NOW - 1,
        steps=(("tls", 2), ("connect", 1)),
        waiting=("f.example",),
        waiting_count=1,
    ),
    host("192.0.2.30", "mx3.example.org", since=NOW - 2, last_failure_at=NOW - 2, next_probe_at=NOW + 3),
)
FIELDS = [
    "address", "name", "service", "state", "failures", "since", "last_failure_at", "step", "detail", "next_probe_at",
    "steps", "waiting", "waiting_count", "is_probed",
]  # fmt: skip


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHosts]:
    monkeypatch.setattr(time, "time", lambda: NOW)
    with running(tmp_path, FakeHosts(*HOSTS)) as served:
        yield served


def run(state_dir: Path, *arguments: str | bytes) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, ["hosts", *arguments, "--state-dir", str(state_dir)])  # type: ignore[list-item]
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_list_says_at_a_glance_who_is_broken_and_why(tmp_path: Path, daemon: FakeHosts) -> None:
    """A line for each host in the daemon's order, below it the evidence and who waits, at the end a total."""
    code, out, _ = run(tmp_path, "list")

    assert code == 0
    assert out.splitlines() == [
        "ADDRESS          NAME                          STATE      SINCE        FAILURES  NEXT PROBE",
        "192.0.2.10       mx1.example.org               open       40 min ago   12        in 4 min",
        "    connect failed 12 times in 40 min, last 3 s ago: timed out after 10 s",
        "    5 destinations wait: a.example, b.example and 3 more",
        "2001:db8::25     mx2.example.org               half-open  90 s ago     3         due, within seconds",
        "    port 587, TLS required: tls failed 2 times and connect once in 30 s, last 60 s ago at tls: "
        "certificate has expired",
        "    1 destination waits: f.example",
        "192.0.2.30       mx3.example.org               open       2 s ago      1         in 3 s",
        "    connect failed once, 2 s ago: connection refused",
        "3 hosts: 2 open, 1 half-open",
    ]
    assert daemon.asked == [""]


def test_list_as_json_has_the_stable_names(tmp_path: Path, daemon: FakeHosts) -> None:
    """A program reads the documented names, times in UTC, and the steps as an object."""
    code, out, _ = run(tmp_path, "list", "--json")

    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [list(line) for line in lines] == [FIELDS] * 3
    assert lines[1] == {
        "address": "2001:db8::25", "name": "mx2.example.org", "service": "port 587, TLS required",
        "state": "half-open", "failures": 3, "since": "2027-01-15T07:58:30.000Z",
        "last_failure_at": "2027-01-15T07:59:00.000Z", "step": "tls", "detail": "certificate has expired",
        "next_probe_at": "2027-01-15T07:59:59.000Z", "steps": {"tls": 2, "connect": 1}, "waiting": ["f.example"],
        "waiting_count": 1, "is_probed": False,
    }  # fmt: skip


def test_no_broken_host_is_good_news(tmp_path: Path) -> None:
    """Nothing broken is said in words and is a success; JSON has no line."""
    with running(tmp_path, FakeHosts()):
        assert run(tmp_path, "list") == (0, "no host is known as broken\n", "")
        assert run(tmp_path, "list", "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("waiting", "count", "said"),
    [
        (("a.example",), 1, "1 destination waits: a.example"),
        (("a.example", "b.example"), 2, "2 destinations wait: a.example, b.example"),
        (("a.example", "b.example", "c.example"), 3, "3 destinations wait: a.example, b.example and 1 more"),
        (("a.example", "b.example"), 12_345, "12,345 destinations wait: a.example, b.example and 12,343 more"),
        ((), 7, "7 destinations wait"),
    ],
)
def test_who_waits_is_told_in_a_line(tmp_path: Path, waiting: tuple[str, ...], count: int, said: str) -> None:
    """However many wait for a host, the list names a few and counts the rest."""
    with running(tmp_path, FakeHosts(host("192.0.2.1", "mx.example", waiting=waiting, waiting_count=count))):
        _, out, _ = run(tmp_path, "list")

    assert out.splitlines()[3] == f"    {said}"


def test_show_tells_everything(tmp_path: Path, daemon: FakeHosts) -> None:
    """State, since when, evidence, next probe, and all destinations by name."""
    code, out, _ = run(tmp_path, "show", "mx1.example.org")

    assert code == 0
    assert out.splitlines() == [
        "192.0.2.10  mx1.example.org",
        "  state       open: nobody dials it before the next probe",
        f"  since       {words.local_time(NOW - 2403)} (40 min ago)",
        f"  failures    12, the last one {words.local_time(NOW - 3)} (3 s ago)",
        "  evidence    connect failed 12 times in 40 min, last 3 s ago: timed out after 10 s",
        f"  next probe  {words.local_time(NOW + 240)} (in 4 min)",
        "  waiting     5 destinations",
        "    a.example  b.example  c.example  d.example  e.example",
    ]


def test_show_tells_how_many_waiting_it_does_not_name(tmp_path: Path) -> None:
    """The daemon names a hundred; the lines stay readable and the rest is counted."""
    names = tuple(f"domain{number:02d}.example" for number in range(100))

    with running(tmp_path, FakeHosts(host("192.0.2.1", "mx.example", waiting=names, waiting_count=1_234))):
        _, out, _ = run(tmp_path, "show", "192.0.2.1")

    lines = out.splitlines()
    assert lines[6] == "  waiting     1,234 destinations"
    assert " ".join(lines[7:-1]).split() == list(names)
    assert max(map(len, lines[7:-1])) <= 110
    assert lines[-1] == "    and 1,134 more"


def test_columns_line_up_however_long_names_are(tmp_path: Path) -> None:
    """A long name or address moves the columns of all rows, so that each stays below its heading."""
    long = host("2001:db8:1111:2222:3333:4444:5555:6666", f"{'m' * 40}.example")

    with running(tmp_path, FakeHosts(host("192.0.2.1", "mx.example"), long)):
        _, out, _ = run(tmp_path, "list")

    heading, first, _, second, *_ = out.splitlines()
    assert heading.index("STATE") == first.index("open") == second.index("open")
    assert heading.index("NAME") == first.index("mx.") == second.index("mmm")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"state": "half-open", "is_probed": True, "waiting_count": 1}, "under way"),
        ({"state": "open", "is_probed": True, "next_probe_at": NOW + 240}, "under way"),
        ({"state": "half-open", "waiting_count": 1}, "due, within seconds"),
        ({"state": "open", "waiting_count": 1}, "due, within seconds"),
        ({"state": "half-open"}, "with the next message"),
    ],
)
def test_when_a_host_is_probed_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object], said: str
) -> None:
    """Nobody probes a host that no mail awaits, so "now" is said of none."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    times = {"since": NOW - 9, "last_failure_at": NOW - 9, "next_probe_at": NOW - 1}

    with running(tmp_path, FakeHosts(host("192.0.2.1", "mx.example", **times | facts))):
        _, listed, _ = run(tmp_path, "list")
        _, shown, _ = run(tmp_path, "show", "mx.example")

    assert listed.splitlines()[1].endswith(f"  1         {said}")
    assert f"  next probe  {said}" in shown.splitlines()


def test_a_fixed_hop_is_a_destination_too(tmp_path: Path) -> None:
    """What `waiting` names can be asked about as it is written there."""
    hop = "hop:smart.example:587"

    with running(tmp_path, FakeHosts(host("192.0.2.1", "smart.example", waiting=(hop,), waiting_count=1))):
        code, out, _ = run(tmp_path, "show", hop)

    assert (code, out) == (0, f"{hop}\n  {hop} is a destination that waits for: smart.example [192.0.2.1]\n")


def test_a_destination_is_told_which_hosts_it_waits_for(tmp_path: Path, daemon: FakeHosts) -> None:
    """Who mistakes a destination for a host learns which hosts are meant; everything is fetched once for all names."""
    _, out, _ = run(tmp_path, "show", "A.example.", "f.example")

    assert out.splitlines() == [
        "A.example",
        "  A.example is a destination that waits for: mx1.example.org [192.0.2.10]",
        "",
        "f.example",
        "  f.example is a destination that waits for: mx2.example.org [2001:db8::25]",
    ]
    assert daemon.asked == ["A.example", "", "f.example"]


@pytest.mark.parametrize(
    "text", ["two words", "127.0.0.011", "1.2.3", "mx..example", "mx.example:587", "a@b.example", f"{'x' * 64}.example"]
)
@pytest.mark.parametrize("command", ["show", "reset"])
def test_what_no_host_can_be_called_is_64(tmp_path: Path, daemon: FakeHosts, command: str, text: str) -> None:
    """A slip of the keyboard is not told that nothing is known against it."""
    code, out, said = run(tmp_path, command, "mx1.example.org", text)

    assert (code, out) == (exits.USAGE, "")
    assert f"neither a name nor an address: '{text}'" in said
    assert (daemon.asked, daemon.resets) == ([], [])


def test_a_host_nothing_is_known_against_is_an_answer(tmp_path: Path, daemon: FakeHosts) -> None:
    """Who asks about such a host reads what that means, and it is no error."""
    code, out, said = run(tmp_path, "show", "mx9.example.org", "192.0.2.30")

    assert (code, said) == (0, "")
    assert out.splitlines()[:4] == [
        "mx9.example.org",
        "  nothing is known against a host of this name or address "
        "(only broken hosts are remembered, so a misspelt one looks the same)",
        "",
        "192.0.2.30  mx3.example.org",
    ]


@pytest.mark.parametrize(("asked", "address", "name"), [("mx9.example", "", "mx9.example"), ("::1", "::1", "")])
def test_a_healthy_host_as_json_is_closed(
    tmp_path: Path, daemon: FakeHosts, asked: str, address: str, name: str
) -> None:
    """A program reads the same fields, with the state closed and null for times that there are none of."""
    _, out, _ = run(tmp_path, "show", asked, "--json")

    line = json.loads(out)
    assert list(line) == FIELDS
    assert (line["address"], line["name"], line["state"], line["failures"]) == (address, name, "closed", 0)
    assert (line["since"], line["last_failure_at"], line["next_probe_at"]) == (None, None, None)


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        (["mx1.example.org."], ["mx1.example.org"]),
        (["MX1.example.org", "MX1.example.org"], ["MX1.example.org"]),
        (["[192.0.2.10]"], ["192.0.2.10"]),
        (["[IPv6:2001:DB8:0::25]"], ["2001:db8::25"]),
        (["2001:DB8::0:25", "192.0.2.10"], ["2001:db8::25", "192.0.2.10"]),
        (["port 587, TLS required"], ["port 587, TLS required"]),
    ],
)
def test_a_host_is_found_however_it_is_written(
    tmp_path: Path, daemon: FakeHosts, written: list[str], asked: list[str]
) -> None:
    """Names with a dot and addresses in any spelling reach the daemon as its reports spell them."""
    run(tmp_path, "show", *written)

    assert daemon.asked == asked


def test_reset_says_what_it_forgot(tmp_path: Path, daemon: FakeHosts) -> None:
    """The operator reads what was known, that it is forgotten, and that mail goes now."""
    code, out, said = run(tmp_path, "reset", "mx1.example.org", "192.0.2.77", "192.0.2.30")

    assert (code, said) == (0, "smarthost: no host is known as broken by this name or address: 192.0.2.77\n")
    assert out.splitlines() == [
        "reset: 192.0.2.10  mx1.example.org",
        "    connect failed 12 times in 40 min, last 3 s ago: timed out after 10 s",
        "reset: 192.0.2.30  mx3.example.org",
        "    connect failed once, 2 s ago: connection refused",
        "2 hosts reset; mail that waited for them is due now",
    ]
    assert daemon.resets == ["mx1.example.org", "192.0.2.77", "192.0.2.30"]
    assert [each.name for each in daemon.known] == ["mx2.example.org"]


def test_reset_of_all_is_one_word(tmp_path: Path, daemon: FakeHosts) -> None:
    """`--all` closes every host; as JSON each is a line with what it was."""
    _, out, _ = run(tmp_path, "reset", "--all", "--json")

    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["name"], line["state"]) for line in lines] == [
        ("mx1.example.org", "open"),
        ("mx2.example.org", "half-open"),
        ("mx3.example.org", "open"),
    ]
    assert (daemon.resets, daemon.known) == ([""], [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mx9.example", "::1"], "no host is known as broken by this name or address: mx9.example, ::1"),
        (["mx9.example", "--json"], "no host is known as broken by this name or address: mx9.example"),
        (["--all"], "no host is known as broken"),
    ],
)
def test_a_reset_that_matches_nothing_is_66(tmp_path: Path, arguments: list[str], said: str) -> None:
    """A mistyped name is noticed by scripts as well, and told once."""
    with running(tmp_path, FakeHosts()):
        ended = run(tmp_path, "reset", *arguments)

    assert ended == (exits.NO_INPUT, "", f"smarthost: {said}\n")


@pytest.mark.parametrize(
    "arguments",
    ["show", "reset", "reset --all mx1.example.org", "show ''", "reset ''", "reset ' '", "reset .", "show []"],
)
def test_nothing_is_reset_without_saying_what(tmp_path: Path, daemon: FakeHosts, arguments: str) -> None:
    """An empty shell variable after `hosts reset` does not mean everything."""
    code, _, said = run(tmp_path, *arguments.replace("'", "").split(" ", 1))

    assert code == exits.USAGE
    assert "Error:" in said
    assert (daemon.asked, daemon.resets) == ([], [])


def test_an_argument_that_is_no_text_is_64(tmp_path: Path, daemon: FakeHosts) -> None:
    """Octets that are no UTF-8 are a mistake of the command line, not a bug."""
    code, _, said = run(tmp_path, "show", "mx\udcff.example")

    assert code == exits.USAGE
    assert r"neither a name nor an address: 'mx\udcff.example'" in said


def test_a_name_without_end_is_refused(tmp_path: Path, daemon: FakeHosts) -> None:
    """What is longer than any name is not looked for."""
    code, _, said = run(tmp_path, "reset", "x" * 100_000)

    assert (code, said) == (exits.USAGE, "smarthost: a name has at most 255 octets\n")
    assert daemon.resets == []


@pytest.mark.parametrize("command", [["list"], ["show", "192.0.2.1"], ["reset", "--all"]])
@pytest.mark.parametrize("as_json", [False, True])
def test_no_host_drives_the_operators_terminal(tmp_path: Path, command: list[str], as_json: bool) -> None:
    """Escapes in names, services, steps, details and destinations are shown, not obeyed; JSON keeps their value."""
    evil = "\x1b[2J\u202e\u009b\n\U000e0001"
    hostile = host(
        "192.0.2.1",
        f"mx{evil}",
        service=f"port{evil}",
        state=f"open{evil}",
        step=f"connect{evil}",
        detail=f"550{evil}",
        steps=((f"connect{evil}", 1), (f"tls{evil}", 1)),
        waiting=(f"a{evil}.example",),
        waiting_count=1,
    )

    with running(tmp_path, FakeHosts(hostile)):
        code, out, _ = run(tmp_path, *command, *(["--json"] if as_json else []))

    assert code == 0
    assert all(line.isprintable() for line in out.splitlines())
    if as_json:
        assert len(out.splitlines()) == 1
        assert json.loads(out)["name"] == f"mx{evil}"
    else:
        assert "mx\\x1b[2J\\u202e\\x9b\\n\\U000e0001" in out


def test_many_hosts_all_come(tmp_path: Path) -> None:
    """Many more hosts than are told at a time come, in order, to list and to reset."""
    many = [host(f"2001:db8::{number:x}", "mx.example") for number in range(1, 1003)]

    with running(tmp_path, FakeHosts(*many)):
        _, listed, _ = run(tmp_path, "list", "--json")
        _, told, _ = run(tmp_path, "list")
        _, reset, _ = run(tmp_path, "reset", "MX.example")

    assert [json.loads(line)["address"] for line in listed.splitlines()] == [each.address for each in many]
    assert told.splitlines()[-1] == "1,002 hosts: 1,002 open"
    assert reset.splitlines()[-1] == "1,002 hosts reset; mail that waited for them is due now"


@pytest.mark.parametrize("command", ["list", "show x", "reset x", "reset --all"])
def test_without_a_daemon_every_command_is_69(tmp_path: Path, command: str) -> None:
    """The text says where the daemon was looked for and how to start one."""
    code, out, said = run(tmp_path, *command.split())

    assert (code, out) == (exits.UNAVAILABLE, "")
    assert f"no daemon answers at {tmp_path}/control: start one with `smarthost serve" in said
