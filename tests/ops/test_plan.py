# SPDX-License-Identifier: MIT
"""`smarthost plan ADDRESS [--probe]`."""

import json
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tests.ops.rig import FakeHosts, running

from smarthost.mail.errors import SubmissionRefused
from smarthost.mail.explanation import ExplainedAddress, ExplainedHost, ExplainedPolicy, Explanation, NoHost, Probed
from smarthost.mail.reply import reply
from smarthost.ops import cli, exits, plan, verbs, words

NOW = 1_800_000_000.0
PLANNED = Explanation(
    address="bob@example.net",
    domain="example.net",
    destination="example.net",
    rule="default: by MX",
    conclusion="A message for bob@example.net goes to mx2.example.net [198.51.100.2] now.",
    lane="mx1.example.net,mx2.example.net:25",
    policy=ExplainedPolicy(port=25, tls="opportunistic", implicit_tls=False, helo="relay.example.org"),
    hosts=(
        ExplainedHost(
            "mx1.example.net",
            10,
            (
                ExplainedAddress("198.51.100.1", "open", NOW + 240, "connect failed 12 times in 2403 s: timed out"),
                ExplainedAddress("2001:db8::1", "half-open", NOW - 1, "banner failed once: 554 go away"),
            ),
        ),
        ExplainedHost("mx2.example.net", 20, (ExplainedAddress("198.51.100.2", "closed"),)),
    ),
    evidence=("MX example.net: 10 mx1.example.net, 20 mx2.example.net (TTL 300)", "A mx1.example.net: 198.51.100.1"),
)
BOUNCES = Explanation(
    address="bob@nowhere.example",
    domain="nowhere.example",
    destination="nowhere.example",
    rule="default: by MX",
    conclusion="A message for bob@nowhere.example bounces now.",
    no_host=NoHost(permanent=True, status="5.1.2", why="nowhere.example does not exist"),
    evidence=("MX nowhere.example: NXDOMAIN",),
)
WAITS = replace(
    BOUNCES, no_host=NoHost(permanent=False, status="4.4.3", why="DNS did not answer: timed out", until=NOW + 5)
)
READY = Probed(
    host="mx2.example.net",
    address="198.51.100.2",
    ok=True,
    step="ready",
    why="",
    took_s=0.1234,
    tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
    extensions=("PIPELINING", "SIZE 52428800"),
    transcript=("< 220 mx2.example.net ESMTP", "> EHLO relay.example.org", "* TLSv1.3 established", "> QUIT"),
)
FAILED = Probed(
    host="mx1.example.net", address="198.51.100.1", ok=False, step="connect", why="timed out after 10 s", took_s=10.0
)


@pytest.fixture(autouse=True)
def at_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def run(state_dir: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.cli, ["plan", *arguments, "--state-dir", str(state_dir)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def told(state_dir: Path, explanation: Explanation, *arguments: str) -> tuple[int, list[str]]:
    """Run against a daemon that explains it so; gives the exit code and the lines."""
    with running(state_dir, FakeHosts(explanation=explanation)):
        code, out, _ = run(state_dir, explanation.address, *arguments)
    return code, out.splitlines()


def test_the_plan_says_where_mail_goes_and_what_that_rests_on(tmp_path: Path) -> None:
    """The conclusion comes first; then route, policy, hosts in order with the evidence against them, and DNS."""
    code, lines = told(tmp_path, PLANNED)

    assert code == 0
    assert lines == [
        "A message for bob@example.net goes to mx2.example.net [198.51.100.2] now.",
        "",
        "address      bob@example.net",
        "route        default: by MX",
        "destination  example.net",
        "lane         mx1.example.net,mx2.example.net:25",
        "TLS          STARTTLS when offered, unverified; in clear when not",
        "port         25",
        "source       whichever local address the system chooses",
        "EHLO         relay.example.org",
        "AUTH         none",
        "",
        "hosts, in the order in which they are tried",
        "     10  mx1.example.net",
        f"         198.51.100.1     broken, not dialled before {words.local_time(NOW + 240)} (in 4 min): "
        "connect failed 12 times in 2403 s: timed out",
        "         2001:db8::1      broken, its next message is the probe: banner failed once: 554 go away",
        "     20  mx2.example.net",
        "         198.51.100.2     works, as far as we know",
        "",
        "what DNS said",
        "  MX example.net: 10 mx1.example.net, 20 mx2.example.net (TTL 300)",
        "  A mx1.example.net: 198.51.100.1",
    ]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"tls": "none"}, "never TLS: mail goes in clear"),
        ({"tls": "opportunistic"}, "STARTTLS when offered, unverified; in clear when not"),
        ({"tls": "required"}, "STARTTLS required, certificate not verified"),
        ({"tls": "verified"}, "STARTTLS required, certificate verified"),
        ({"tls": "required", "implicit_tls": True}, "TLS from the first octet, certificate not verified"),
        ({"tls": "verified", "implicit_tls": True}, "TLS from the first octet, certificate verified"),
        ({"tls": "quantum"}, "quantum"),
    ],
)
def test_the_tls_policy_is_told_in_words(tmp_path: Path, policy: dict[str, object], said: str) -> None:
    """Nobody has to know what our levels are called."""
    assert PLANNED.policy is not None

    _, lines = told(tmp_path, replace(PLANNED, policy=replace(PLANNED.policy, **policy)))

    assert f"TLS          {said}" in lines


def test_what_is_special_about_a_plan_is_told(tmp_path: Path) -> None:
    """Source address, login, a sleeping destination, a caveat and equal preferences each have their line."""
    policy = ExplainedPolicy(587, "verified", False, "relay.example.org", source="192.0.2.9", username="me")
    works = (ExplainedAddress("198.51.100.2", "closed"),)
    equals = tuple(ExplainedHost(f"mx{n}.example.net", 10, works) for n in range(2))

    code, lines = told(
        tmp_path,
        replace(
            PLANNED,
            policy=policy,
            hosts=equals,
            caveat="DNS does not answer: this is its answer of an hour ago",
            suspended_until=NOW + 240,
            suspended_why="all hosts are broken",
        ),
    )

    assert code == 0
    assert "source       192.0.2.9" in lines
    assert "AUTH         as me" in lines
    assert f"suspended    until {words.local_time(NOW + 240)} (in 4 min): all hosts are broken" in lines
    assert "caveat       DNS does not answer: this is its answer of an hour ago" in lines
    assert "hosts, in the order in which they are tried (equal preferences are shuffled for each message)" in lines


@pytest.mark.parametrize("probe", [(), ("--probe",)])
def test_a_plan_that_bounces_is_68(tmp_path: Path, probe: tuple[str, ...]) -> None:
    """Where mail would bounce, the verdict with its status stands in place of the hosts, probed or not."""
    code, lines = told(tmp_path, BOUNCES, *probe)

    assert code == 68
    assert lines == [
        "A message for bob@nowhere.example bounces now.",
        "",
        "address      bob@nowhere.example",
        "route        default: by MX",
        "destination  nowhere.example",
        "verdict      bounces, 5.1.2: nowhere.example does not exist",
        "",
        "what DNS said",
        "  MX nowhere.example: NXDOMAIN",
    ]


def test_a_plan_that_waits_is_75(tmp_path: Path) -> None:
    """A temporary verdict says when it is asked again."""
    code, lines = told(tmp_path, WAITS)

    assert code == exits.TEMPORARY
    assert (
        "verdict      waits, 4.4.3: DNS did not answer: timed out; "
        f"asked again {words.local_time(NOW + 5)} (in 5 s)" in lines
    )


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (("open", "open"), exits.TEMPORARY),
        ((), exits.TEMPORARY),
        (("open", "half-open"), 0),
        (("open", "closed"), 0),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_plan_whose_hosts_nobody_dials_is_75(
    tmp_path: Path, states: tuple[str, ...], code: int, as_json: bool
) -> None:
    """Where every host is broken and in its pause mail waits, and a script learns that."""
    hosts = tuple(
        ExplainedHost("mx.example.net", 10, (ExplainedAddress("192.0.2.1", state, NOW + 9),)) for state in states
    ) or (ExplainedHost("mx.example.net", 10, ()),)

    ended, _ = told(tmp_path, replace(PLANNED, hosts=hosts), *(["--json"] if as_json else []))

    assert ended == code


def test_a_probe_that_is_answered_is_0_though_health_was_bad(tmp_path: Path) -> None:
    """After a probe what the hosts did counts, not what was known before."""
    broken = (ExplainedHost("mx.example.net", 10, (ExplainedAddress("192.0.2.1", "open", NOW + 9),)),)

    assert told(tmp_path, replace(PLANNED, hosts=broken, probes=(READY,)), "--probe")[0] == 0


def test_a_probe_shows_how_far_it_came_and_what_was_said(tmp_path: Path) -> None:
    """For each address: the step, the time, TLS, extensions and the transcript with both sides marked."""
    code, lines = told(tmp_path, replace(PLANNED, probes=(FAILED, READY)), "--probe")

    assert code == 0
    assert lines[lines.index("probes: connected now, no MAIL was said") :] == [
        "probes: connected now, no MAIL was said",
        "  mx1.example.net [198.51.100.1]: failed at connect after 10.00 s: timed out after 10 s",
        "",
        "  mx2.example.net [198.51.100.2]: ready in 0.12 s",
        "    TLS: TLSv1.3 TLS_AES_256_GCM_SHA384",
        "    extensions: PIPELINING, SIZE 52428800",
        "      < 220 mx2.example.net ESMTP",
        "      > EHLO relay.example.org",
        "      * TLSv1.3 established",
        "      > QUIT",
    ]


def test_a_session_in_clear_is_called_so(tmp_path: Path) -> None:
    """No TLS in a session that is ready is said, not left out."""
    _, lines = told(tmp_path, replace(PLANNED, probes=(replace(READY, tls=""),)), "--probe")

    assert "    TLS: none, in clear" in lines


@pytest.mark.parametrize(
    ("probes", "code"),
    [((), exits.TEMPORARY), ((FAILED,), exits.TEMPORARY), ((READY,), 0), ((FAILED, READY), 0)],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_probe_that_nobody_answers_is_75(
    tmp_path: Path, probes: tuple[Probed, ...], code: int, as_json: bool
) -> None:
    """A script learns from the exit code whether any address would take mail now."""
    ended, lines = told(tmp_path, replace(PLANNED, probes=probes), "--probe", *(["--json"] if as_json else []))

    assert ended == code
    assert ("  no address was probed" in lines) == (not probes and not as_json)


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        (["bob@example.net"], ("bob@example.net", False)),
        (["<bob@example.net>", "--probe"], ("bob@example.net", True)),
        (["example.net"], ("example.net", False)),
        (["bob@[192.0.2.1]"], ("bob@[192.0.2.1]", False)),
        (["bücher@bücher.example"], ("bücher@bücher.example", False)),
    ],
)
def test_the_address_reaches_the_daemon_as_it_is(tmp_path: Path, written: list[str], asked: tuple[str, bool]) -> None:
    """What is asked about is what was written; a probe is made only where one was asked for."""
    with running(tmp_path, FakeHosts(explanation=PLANNED)) as daemon:
        run(tmp_path, *written)

    assert daemon.explained == [asked]


def test_json_is_one_line_with_the_stable_names(tmp_path: Path) -> None:
    """A program reads the names of an Explanation; times are in UTC, and null where there is none."""
    explanation = replace(PLANNED, suspended_until=NOW + 240, probes=(READY,))

    _, lines = told(tmp_path, explanation, "--probe", "--json")

    (fields,) = map(json.loads, lines)
    assert list(fields) == [
        "address", "domain", "destination", "rule", "conclusion", "lane", "policy", "hosts", "no_host", "caveat",
        "suspended_until", "suspended_why", "evidence", "probes", "sender",
    ]  # fmt: skip
    assert fields["policy"] == {
        "port": 25, "tls": "opportunistic", "implicit_tls": False, "helo": "relay.example.org", "source": "",
        "username": "", "protocol": "smtp",
    }  # fmt: skip
    assert [(each["name"], each["preference"]) for each in fields["hosts"]] == [
        ("mx1.example.net", 10),
        ("mx2.example.net", 20),
    ]
    assert fields["hosts"][0]["addresses"][0] == {
        "address": "198.51.100.1", "state": "open", "until": "2027-01-15T08:04:00.000Z",
        "why": "connect failed 12 times in 2403 s: timed out",
    }  # fmt: skip
    assert fields["hosts"][1]["addresses"] == [{"address": "198.51.100.2", "state": "closed", "until": None, "why": ""}]
    assert (fields["no_host"], fields["suspended_until"]) == (None, "2027-01-15T08:04:00.000Z")
    assert list(fields["probes"][0]) == [
        "host", "address", "ok", "step", "why", "took_s", "tls", "extensions", "transcript",
    ]  # fmt: skip
    assert fields["probes"][0]["took_s"] == 0.1234


def test_a_verdict_as_json_has_its_status(tmp_path: Path) -> None:
    """Without a host `no_host` tells why, and the exit code is the same as for people."""
    bounced, (bounces,) = told(tmp_path, BOUNCES, "--json")
    waited, (waits,) = told(tmp_path, WAITS, "--json")

    assert (bounced, waited) == (68, exits.TEMPORARY)
    assert json.loads(bounces)["no_host"] == {
        "permanent": True, "status": "5.1.2", "why": "nowhere.example does not exist", "until": None,
    }  # fmt: skip
    assert json.loads(waits)["no_host"]["until"] == "2027-01-15T08:00:05.000Z"


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_a_stranger_wrote_drives_the_terminal(tmp_path: Path, as_json: bool) -> None:
    """Escapes in DNS answers, banners, transcripts and every other text are shown, not obeyed."""
    evil = "\x1b]0;owned\x07\r\n\u202e\u009b2J\U000e0001"
    hostile = Explanation(
        address=f"bob{evil}",
        domain=f"domain{evil}",
        destination=f"destination{evil}",
        rule=f"rule{evil}",
        conclusion=f"conclusion{evil}",
        lane=f"lane{evil}",
        policy=ExplainedPolicy(25, f"tls{evil}", False, f"helo{evil}", f"source{evil}", f"user{evil}"),
        hosts=(ExplainedHost(f"mx{evil}", 10, (ExplainedAddress(f"1{evil}", f"x{evil}", NOW + 9, f"why{evil}"),)),),
        no_host=NoHost(False, f"4{evil}", f"why{evil}", NOW + 9),
        caveat=f"caveat{evil}",
        suspended_until=NOW + 9,
        suspended_why=f"why{evil}",
        evidence=(f"MX{evil}",),
        probes=(
            Probed(f"mx{evil}", f"1{evil}", True, f"ready{evil}", f"why{evil}", 1.0, f"tls{evil}"),
            replace(FAILED, step=f"step{evil}", why=f"why{evil}", extensions=(evil,), transcript=(f"< {evil}",)),
        ),
    )

    with running(tmp_path, FakeHosts(explanation=hostile)):
        _, out, _ = run(tmp_path, "x", "--probe", *(["--json"] if as_json else []))

    assert all(line.isprintable() for line in out.split("\n"))
    if as_json:
        assert json.loads(out)["evidence"] == [f"MX{evil}"]
    else:
        assert "      < \\x1b]0;owned\\x07\\r\\n\\u202e\\x9b2J\\U000e0001" in out.split("\n")


@pytest.mark.parametrize(
    ("refused", "code", "said"),
    [
        (SubmissionRefused(reply(550, "5.7.1", "Not for you")), exits.UNAVAILABLE, "refused: 550 5.7.1 Not for you"),
        (SubmissionRefused(reply(553, "5.1.3", "Not an address")), exits.BAD_INPUT, "refused: 553 5.1.3 Not an addr"),
        (ValueError("not an address: 'bob@'"), exits.BAD_INPUT, "not an address: 'bob@'"),
        (KeyError("bug"), exits.SOFTWARE, "the daemon failed at this request: KeyError('bug')"),
    ],
)
def test_what_the_relay_would_refuse_is_refused(tmp_path: Path, refused: Exception, code: int, said: str) -> None:
    """A recipient the relay would not take, and what is no address, each have their text and exit code."""
    with running(tmp_path, FakeHosts(refused=refused)):
        ended, out, told = run(tmp_path, "bob@")

    assert (ended, out) == (code, "")
    assert told.startswith(f"smarthost: {said}")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], exits.USAGE, "Missing argument 'ADDRESS'"),
        (["a@x.example", "b@x.example"], exits.USAGE, "unexpected extra argument"),
        (["bob@\udcff.example"], exits.BAD_INPUT, r"not an address: 'bob@\udcff.example' is not UTF-8"),
        (["x" * 100_000], exits.USAGE, "smarthost: an address has at most 320 octets\n"),
    ],
)
def test_what_is_no_single_address_is_not_asked_about(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """None, two, one that is no text and one without end are told as what they are."""
    with running(tmp_path, FakeHosts(explanation=PLANNED)) as daemon:
        ended, out, told = run(tmp_path, *arguments)

    assert (ended, out) == (code, "")
    assert said in told
    assert daemon.explained == []


@pytest.mark.parametrize(
    ("is_terminal", "probe", "said"),
    [(True, True, "smarthost: still probing\n"), (True, False, "smarthost: still asking DNS\n"), (False, True, "")],
)
def test_who_waits_at_a_terminal_hears_that_work_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool, probe: bool, said: str
) -> None:
    """A minute of silence would look like a hang; a script's standard error stays empty."""
    answers = (verbs.Working(), verbs.Explained(PLANNED), verbs.Done())
    monkeypatch.setattr("smarthost.ops.client.ask", lambda *_: iter(answers))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)

    explanation = plan._ask("/anywhere", None, "bob@example.net", probe=probe, sender="")

    assert explanation == PLANNED
    assert capsys.readouterr() == ("", said)


def test_an_answer_without_explanation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that says "done" without having explained anything has a bug, and that is what is read."""
    monkeypatch.setattr("smarthost.ops.client.ask", lambda *_: iter((verbs.Done(),)))

    assert run(tmp_path, "x") == (exits.SOFTWARE, "", "smarthost: the daemon's answer holds no explanation\n")


def test_help_says_that_no_mail_is_sent(tmp_path: Path) -> None:
    """Who reads the help dares to probe a stranger's host."""
    _, out, _ = run(tmp_path, "--help")

    assert "It never says AUTH or MAIL" in " ".join(out.split())


def test_without_a_daemon_the_plan_is_69(tmp_path: Path) -> None:
    """Only the daemon knows what it would do: without one there is no plan, and the text says how to start one."""
    code, out, said = run(tmp_path, "bob@example.net")

    assert (code, out) == (exits.UNAVAILABLE, "")
    assert f"no daemon answers at {tmp_path}/control: start one with `smarthost serve" in said


def test_a_plan_for_a_sender_is_asked_for_and_told(tmp_path: Path) -> None:
    """Routes by sender are explained too; each next hop shows what it has of its own."""
    own = ExplainedPolicy(587, "verified", False, "me.example.org", "192.0.2.9", "ann", "lmtp")
    hosts = (*PLANNED.hosts[:1], replace(PLANNED.hosts[1], policy=own))
    explanation = replace(PLANNED, hosts=hosts, sender="ann@corp.example")

    _, lines = told(tmp_path, explanation, "--sender", "ann@corp.example")

    text = "\n".join(lines)
    assert "sender       ann@corp.example" in text
    assert "port 587" in text
    assert "protocol LMTP" in text
    assert "AUTH as ann" in text
