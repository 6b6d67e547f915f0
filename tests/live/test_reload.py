# SPDX-License-Identifier: MIT
"""A reload of the real daemon: SIGHUP and `smarthost reload`, with mail on its way, good files and bad ones."""

import json
import signal
import threading
from pathlib import Path

import pytest
from tests.live.raw import RawClient
from tests.live.rig import Daemon, Line, eventually, serving, smarthost
from tests.live.sink import Sink, free_port

pytestmark = pytest.mark.slow

MAIL = b"From: ann@example.org\r\nTo: bob@example.net\r\nSubject: x\r\n\r\nHello.\r\n"


def file_of(daemon: Daemon) -> Path:
    return daemon.state_dir.with_name(f"{daemon.state_dir.name}.toml")


def write(daemon: Daemon, text: str) -> Path:
    file = file_of(daemon)
    file.write_text(text)
    return file


def differences(daemon: Daemon, file: Path, *more: str) -> tuple[int, list[Line], str]:
    """Give the exit code of `config diff`, its lines, and what it complained of."""
    ran = daemon.command("config", "diff", str(file), "--json", *more)
    return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr.decode()


def test_no_mail_is_lost_or_refused_while_the_way_changes(tmp_path: Path) -> None:
    """Clients hand in mail through ten reloads that move everything from one next hop to another and back."""
    with Sink() as one, Sink() as two:
        ways = [f'next_hop = "127.0.0.1:{sink.port}"\n' for sink in (one, two)]
        with serving(tmp_path / "state", config=ways[0], quick=False) as daemon:
            done = threading.Event()
            sent: list[str] = []

            def hand_in(who: int) -> None:
                with RawClient(daemon.port) as client:
                    number = 0
                    while not done.is_set():
                        number += 1
                        recipient = f"r{who}-{number}@d{number % 5}.example"
                        client.send(MAIL, recipient)
                        sent.append(recipient)

            clients = [threading.Thread(target=hand_in, args=(who,)) for who in range(3)]
            for each in clients:
                each.start()
            for turn in range(10):
                write(daemon, ways[(turn + 1) % 2])
                daemon.process.send_signal(signal.SIGHUP)
                daemon.some_lines(turn + 1, "config reloaded")
            done.set()
            for each in clients:
                each.join(30)
            eventually(lambda: len(one.arrived) + len(two.arrived) >= len(sent), f"all of {len(sent)} messages")

        arrived = [each.addresses[0] for each in (*one.arrived, *two.arrived)]
        assert sorted(arrived) == sorted(sent)
        assert one.arrived
        assert two.arrived


def test_a_broken_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    """The log and the command name file, line and key; the exit code is 78, and mail goes its old way."""
    with Sink() as sink, serving(tmp_path / "state", config=f'next_hop = "127.0.0.1:{sink.port}"\n') as daemon:
        file = write(daemon, 'next_hop = "127.0.0.1:1"\n\n[limits]\nrecipents = 500\n')
        ran = daemon.command("reload")
        daemon.process.send_signal(signal.SIGHUP)
        (first, second) = daemon.some_lines(2, "configuration not reloaded")[:2]
        with RawClient(daemon.port) as client:
            client.send(MAIL, "bob@example.net")
        sink.wait_for(1)

    why = f"{file}: line 4: limits.recipents: unknown key; did you mean limits.recipients?"
    assert (ran.returncode, ran.stdout) == (78, b"")
    assert ran.stderr.decode().splitlines() == [
        f"smarthost: {why}",
        "smarthost: nothing was changed: the configuration of before is in force",
    ]
    assert [each["errors"] for each in (first, second)] == [[why], [why]]
    assert [each["by"] for each in (first, second)] == ["smarthost reload", "SIGHUP"]


def test_a_port_that_is_taken_names_its_line(tmp_path: Path) -> None:
    """What only opening can tell has its line, too, and nothing of the file holds."""
    with Sink() as sink, serving(tmp_path / "state", config='next_hop = "127.0.0.1:9"\n') as daemon:
        door = f'[[listener]]\nlisten = ["127.0.0.1:{sink.port}"]\n'
        file = write(daemon, f'next_hop = "127.0.0.1:9"\nsoft_bounce = true\n{door}')
        ran = daemon.command("reload")
        again = daemon.command("config", "diff", str(file))

    said = f"{file}: line 4: listener[1].listen: cannot listen on 127.0.0.1:{sink.port}: another program listens there"
    assert ran.returncode == 78
    assert said in ran.stderr.decode()
    assert "soft_bounce: false -> true" in again.stdout.decode()  # it is not in force


def test_options_of_the_start_hold_through_a_reload(tmp_path: Path) -> None:
    """`--listen` replaces what the file says, then and now; what changed is told in words."""
    with serving(tmp_path / "state", config='next_hop = "127.0.0.1:9"\n') as daemon:
        port = daemon.port
        write(daemon, f'next_hop = "127.0.0.1:9"\nlisten = ["127.0.0.1:{free_port()}"]\n[log]\naccepted = false\n')
        ran = daemon.command("reload")
        with RawClient(port) as client:
            client.send(MAIL, "bob@example.net")
        daemon.command("queue", "list")

    assert ran.returncode == 0
    assert "log.accepted: true -> false\n" in ran.stdout.decode()
    assert "listen" not in ran.stdout.decode()
    assert not [line for line in daemon.lines if line["what"] == "accepted"]


def test_a_difference_is_counted_on_the_queue(tmp_path: Path) -> None:
    """Who would go another way, by other limits, with other TLS; nothing is changed by asking."""
    dead = free_port()
    config = f'next_hop = "127.0.0.1:{dead}"\n'
    with serving(tmp_path / "state", "--paused", config=config, quick=False) as daemon:
        with RawClient(daemon.port) as client:
            for domain, number in (("a.example", 3), ("b.example", 2)):
                for each in range(number):
                    client.send(MAIL, f"r{each}@{domain}")
        file = tmp_path / "other.toml"

        file.write_text(config)
        assert differences(daemon, file) == (
            0,
            [dict.fromkeys(("recipients", "other_route", "other_limit", "other_tls", "ways"))],
            "",
        )

        file.write_text(f'{config}[[route]]\ndomains = ["b.example"]\nnext_hop = "127.0.0.1:{dead + 1}"\n')
        code, (route, counts), _ = differences(daemon, file)
        assert (code, route["key"], route["of"], route["before"]) == (1, "route[1]", "b.example", "unset")
        assert [counts[key] for key in ("recipients", "other_route", "other_limit", "other_tls")] == [5, 2, 2, 0]
        assert [way["recipients"] for way in counts["ways"]] == [2]

        file.write_text(f"{config}[limits]\nsessions_per_lane = 2\n")
        _, (_, counts), _ = differences(daemon, file)
        assert [counts[key] for key in ("recipients", "other_route", "other_limit", "other_tls")] == [5, 0, 5, 0]

        file.write_text(f'[next_hop]\nhost = "127.0.0.1"\nport = {dead}\ntls = "required"\n')
        _, (_, counts), _ = differences(daemon, file)
        assert [counts[key] for key in ("recipients", "other_route", "other_limit", "other_tls")] == [5, 0, 0, 5]

        file.write_text("next_hop = 5\n")
        code, lines, said = differences(daemon, file)
        assert (code, lines) == (78, [])
        assert f"{file}: line 1: next_hop: expected a table" in said

        against = tmp_path / "against.toml"
        against.write_text(f'{config}[retry]\nfirst = "1m"\n')
        file.write_text(f'{config}[retry]\nfirst = "2m"\n')
        code, (retry, _), _ = differences(daemon, file, "--against", str(against))
        assert (code, retry["key"], retry["before"], retry["after"]) == (1, "retry.first", '"1m"', '"2m"')
        assert len(daemon.queue()) == 5


def test_two_files_are_compared_without_a_daemon(tmp_path: Path) -> None:
    """In words, without counts, and passwords are never shown; exit 1 as diff does."""
    hop = '[next_hop]\nhost = "h.example"\nport = 587\nusername = "me"\npassword = "{}"\n'
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(hop.format("first-secret"))
    new.write_text(hop.format("second-secret") + '[retry]\nfirst = "1m"\n')

    ran = smarthost("config", "diff", str(new), "--against", str(old), "--state-dir", str(tmp_path))

    assert ran.returncode == 1, ran.stderr
    assert ran.stdout.decode().splitlines() == [
        "next_hop.password (h.example:587): changed (not shown)",
        'retry.first: "5m" -> "1m"',
        "no daemon runs there: how much of a queue this concerns is not known",
    ]
    assert smarthost("config", "diff", str(old), "--against", str(old), "--state-dir", str(tmp_path)).returncode == 0
