# SPDX-License-Identifier: MIT
"""The command line of the benchmark with dead exchangers, its names, and how its relays are set up."""

import subprocess
from pathlib import Path

import dns.message
import pytest
from bench.dead_mx import main
from bench.dead_network import furnish, namespaces
from bench.dead_options import DeadOptions, read_dead_options
from bench.dead_scenarios import WAYS
from bench.dead_world import postfix_by_mx
from bench.dead_zone import ADDRESSES, SITE, QuickDns, compose_zone
from bench.failure import RunFailed
from bench.postfix import MAIN_CF
from bench.smarthost import serve_command

from bench import dead_mx, dead_network


def test_nothing_asked_is_the_issue_s_benchmark() -> None:
    """make bench-dead-mx: both systems, every way, three rounds, with the gate."""
    options = read_dead_options([])

    assert options == DeadOptions()
    assert (options.systems, options.ways, options.rounds) == (("smarthost", "postfix"), WAYS, 3)
    assert options.gate


def test_quick_fits_a_minute() -> None:
    """Three runs of ten seconds of learning and a short window; what is asked besides still holds."""
    options = read_dead_options(["--quick"])

    assert (options.systems, options.ways, options.rounds) == (("smarthost",), ("syn", "banner"), 1)
    assert (len(options.ways) + 1) * (10 + options.window_s + 2.5) < 60
    assert read_dead_options(["--quick", "--ways", "tls"]).ways == ("tls",)
    assert read_dead_options(["--quick", "--systems", "postfix"]).systems == ("postfix",)


def test_order_is_ours_whatever_the_order_asked() -> None:
    """Lists are taken apart at commas."""
    assert read_dead_options(["--ways", "tls,syn", "--systems", "postfix,smarthost"]).ways == ("syn", "tls")
    assert read_dead_options(["--systems", "postfix,smarthost"]).systems == ("smarthost", "postfix")


@pytest.mark.parametrize(
    "argv",
    [
        ["--ways", "syn,flood"],
        ["--systems", "exim"],
        ["--rounds", "0"],
        ["--window", "0"],
        ["--sessions", "15"],
        ["--x"],
    ],
)
def test_nonsense_is_refused_with_64(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped flag is told, with the exit code for it, and nothing is run."""
    with pytest.raises(SystemExit) as ended:
        read_dead_options(argv)

    assert ended.value.code == 64
    assert "bench: " in capsys.readouterr().err


def test_without_namespaces_it_says_so_and_exits_69(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is measured on the machine's own network."""
    monkeypatch.setattr(dead_mx, "why_no_namespaces", lambda: "namespaces are not permitted here")

    assert main(["--systems", "smarthost"]) == 69
    assert "CANNOT RUN: namespaces are not permitted here" in capsys.readouterr().err


def test_the_machine_s_own_network_is_never_furnished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever passes the inner flag by hand does not lose the machine's resolver."""
    touched: list[object] = []  # nothing is really touched here, not even when furnish is broken
    monkeypatch.setattr(dead_network, "_bring_up", touched.append)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: touched.append(command))

    for outside in (namespaces(), namespaces().split()[0] + " mnt:[1]", "", "net:[1]"):
        with pytest.raises(RunFailed, match="must not be changed"):
            furnish(outside, tmp_path)

    assert touched == []
    assert list(tmp_path.iterdir()) == []


def test_two_exchangers_are_equally_preferred() -> None:
    """Mail may go to either, so a relay must find out by itself which one lives."""
    zone = compose_zone()

    assert zone.records(SITE, "MX") == [(300, "10 mx1.site.example"), (300, "10 mx2.site.example")]
    assert [zone.records(f"mx{n}.site.example", "A")[0][1] for n in (1, 2)] == ["127.0.0.2", "127.0.0.3"]
    every = [address for addresses in ADDRESSES.values() for address in addresses]
    assert len(set(every)) == len(every) == 9


def test_remembered_dns_answer_carries_the_new_id() -> None:
    """The second asker gets the same records under its own id."""
    server = QuickDns(compose_zone(), "127.0.0.1", 0)
    first, second = dns.message.make_query(SITE, "MX", id=1), dns.message.make_query(SITE, "MX", id=2)

    octets = [server.answer(query.to_wire(), over_tcp=False) for query in (first, second)]

    answers = [dns.message.from_wire(each or b"") for each in octets]
    assert [answer.id for answer in answers] == [1, 2]
    assert answers[0].answer == answers[1].answer != []
    assert server.asked[SITE, "MX"] == 1


def test_both_relays_deliver_by_mx() -> None:
    """Neither has a fixed next hop; Postfix offers TLS, looks into DNS, and keeps its own timeouts."""
    main_cf, master_cf = postfix_by_mx()
    settings = {
        name.strip(): value.strip() for name, _, value in (line.partition("=") for line in main_cf.splitlines())
    }

    assert not settings.keys() & {"relayhost", "smtp_dns_support_level", "in_flow_delay"}
    assert not {name for name in settings if "timeout" in name}
    assert settings["smtp_tls_security_level"] == "may"
    assert len(settings) == len(MAIN_CF.splitlines()) - 2
    assert "\ntlsmgr " in master_cf
    assert "--next-hop" not in serve_command(Path("/x/smarthost"), Path("/y"), None)
