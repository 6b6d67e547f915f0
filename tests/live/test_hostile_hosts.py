# SPDX-License-Identifier: MIT
"""Forty-five ways for a host to misbehave, on real sockets and all at once, beside one that is good.

What is decided after minutes of silence is virtual time's: here it is enough that who waits for a silent host holds
nobody up. The good message, memory and the stop are looked at while all of them are at it.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench.hostile_ways import GOOD, HELD_UP, RESET_EARLY, WAYS, Way
from tests.live.hostile import Hosts, ends_of, hostile_world, memory_octets, send_to
from tests.live.raw import RawClient
from tests.live.rig import Daemon, eventually
from tests.live.sink import Sink

pytestmark = pytest.mark.slow

ALL_ENDED_S = 15.0  # 3 s on an idle box
GROWTH_OCTETS = 64 << 20
GREYLISTED = next(way for way in WAYS if way.name == "greylists")
BLACK_HOLE = next(way for way in WAYS if way.name == "black hole")
VERIFIED = "".join(f'[[route]]\ndomains = ["{way.domain}"]\ntls = "{way.tls}"\n' for way in WAYS if way.tls)
WANTED = {f"{local}@{way.domain}": end for way in WAYS for local, end in zip(way.recipients, way.ends, strict=True)}


def test_every_behaviour_of_the_list_is_played() -> None:
    """All forty-five, each with an address and a domain of its own."""
    assert {way.number for way in WAYS} == set(range(1, 46))
    assert len({way.domain for way in WAYS}) == len({way.address for way in WAYS}) == len(WAYS)


def test_hostile_hosts_hold_nobody_up(tmp_path: Path) -> None:
    """Each recipient gets its verdict; good mail is through in a second; memory stays; the daemon stops when told."""
    with hostile_world(tmp_path, VERIFIED) as (daemon, hosts, sink):
        _send_a_good_message(daemon, sink, 0)
        before = memory_octets(daemon)

        with RawClient(daemon.port) as client:
            client.command("EHLO client.example.org", "250")
            for way in WAYS:
                send_to(client, way)
        for n in range(1, 4):
            assert _send_a_good_message(daemon, sink, n) < 1.0
        settled = {recipient for recipient, end in WANTED.items() if end != HELD_UP}
        daemon.wait_until(
            lambda: settled <= ends_of(daemon.lines).keys(),
            f"settled {sorted(settled - ends_of(daemon.lines).keys())}",
            ALL_ENDED_S,
        )
        assert _send_a_good_message(daemon, sink, 4) < 1.0

        ended = {recipient: ends[0] for recipient, ends in ends_of(daemon.lines).items() if recipient in WANTED}
        assert {each: end for each, end in ended.items() if each in settled} == {
            each: _either(end, ended[each]) for each, end in WANTED.items() if each in settled
        }
        # A silent host is no verdict; a black hole is one after 10 s, which may be over.
        early = {each: end for each, end in ended.items() if each not in settled}
        assert not early or early == {f"bob@{BLACK_HOLE.domain}": "deferred 4.4.1"}
        assert {each["address"] for line in daemon.queue() for each in line["recipients"]} == {
            each for each, end in WANTED.items() if not end.startswith(("relayed", "bounced"))
        }
        assert memory_octets(daemon) - before < GROWTH_OCTETS
        seen = _stop_among(daemon, hosts)

    assert all(line.isprintable() for line in daemon.everything_said().splitlines())
    taken = {domain: each["taken"] for domain, each in seen.items()}
    assert taken == {way.domain: int("relayed 2.0.0" in way.ends) for way in WAYS}


def test_who_says_no_to_one_message_gets_the_next(tmp_path: Path) -> None:
    """Hung up on after a 250, greylisted, refused: the second message is through, and the first is where it belongs."""
    ways = [way for way in WAYS if way.name in ("closes after its 250", "no close notify", "no to one message")]
    ways.append(GREYLISTED)
    with hostile_world(tmp_path, '[retry]\nfirst = "1s"\nlongest = "1s"\njitter = 0\n') as (daemon, hosts, _):
        for _ in range(2):
            with RawClient(daemon.port) as client:
                client.command("EHLO client.example.org", "250")
                for way in ways:
                    send_to(client, way)
            for way in ways:
                daemon.wait_until(lambda way=way: ends_of(daemon.lines).get(f"bob@{way.domain}"), way.name)  # type: ignore[misc]
        daemon.wait_until(
            lambda: all(_relayed(daemon, way) == 1 + (way.number != 44) for way in ways),
            "all but the refused is relayed",
        )
        assert daemon.queue() == []
        seen = hosts.end()

    assert {way.number: seen[way.domain]["taken"] for way in ways} == {32: 2, 40: 2, 42: 2, 44: 1}
    assert ends_of(daemon.lines)[f"bob@{ways[2].domain}"] == ["bounced 5.7.1", "relayed 2.0.0"]
    assert ends_of(daemon.lines)[f"bob@{GREYLISTED.domain}"][0] == "deferred 4.7.1"


def _relayed(daemon: Daemon, way: Way) -> int:
    return ends_of(daemon.lines).get(f"bob@{way.domain}", []).count("relayed 2.0.0")


def _either(wanted: str, ended: str) -> str:
    """Give the end that is wanted, in the form it took if there are two."""
    return ended if wanted == RESET_EARLY and ended in ("deferred 4.4.1", "deferred 4.4.2") else wanted


def _stop_among(daemon: Daemon, hosts: Hosts) -> dict[str, dict[str, int]]:
    """Stop the daemon while silent hosts hold it up; they go when it has said that it stops. Give what they saw."""
    with ThreadPoolExecutor() as pool:
        seen = pool.submit(lambda: (daemon.line("stopping"), hosts.end())[1])
        daemon.stop()
        return seen.result()


def _send_a_good_message(daemon: Daemon, sink: Sink, n: int) -> float:
    """Send one to the good host; give the seconds from the connection to its arrival."""
    recipient = f"good{n}@{GOOD}"
    began = time.monotonic()
    with RawClient(daemon.port) as client:
        client.send(b"Subject: good\r\n\r\nHello\r\n", recipient)
    eventually(lambda: sink.messages_to(recipient), "the good message arrives")
    return time.monotonic() - began
