# SPDX-License-Identifier: MIT
"""Is it an open relay: by its policy, and by asking its listeners as a stranger?"""

import asyncio
import logging
from pathlib import Path

import pytest
from tests.ops.doctor.rig import GLOBAL, GLOBAL_IPV6, Rig, levels, look, machine, told
from tests.ops.rig import CollectingSink

from smarthost import Relay
from smarthost.backends.clock import SystemClock
from smarthost.backends.tcp import TcpDialer
from smarthost.config import parse_config
from smarthost.ops.doctor.examination import examine
from smarthost.ops.doctor.findings import Finding
from smarthost.ops.doctor.world import Daemon
from smarthost.ports import Connection
from smarthost.testing.peers import ScriptedExchanger

LISTENING = Daemon(pid=7, version="1", listen=(("0.0.0.0", 25),))
PUBLIC = 'listen = ["0.0.0.0:25"]\n'


def test_a_policy_for_named_networks_is_ok() -> None:
    """They are named, so that a person sees a slip."""
    found = look(Rig('relay_from = ["10.0.0.0/8"]'), "relaying")

    assert told(found)[0] == "ok only named networks may relay: 10.0.0.0/8"
    assert levels(found) == ["ok", "skip"]


@pytest.mark.parametrize(
    "config",
    [
        'relay_from = ["0.0.0.0/0"]',
        'relay_from = ["10.0.0.0/8", "::/0"]',
        '[[listener]]\nlisten = ["127.0.0.1:2526"]\nrelay_from = ["0.0.0.0/0"]',
    ],
)
def test_an_open_policy_fails_without_a_daemon(config: str) -> None:
    """At the top or in a listener, in either family."""
    found = look(Rig(config), "relaying")

    assert levels(found) == ["fail", "skip"]
    assert "an open relay" in found[0].seen


def test_half_the_internet_is_a_warning() -> None:
    """/1 twice is everybody, too; a large private network is not. Whoever may say who he is counts."""
    proxied = '[[listener]]\nlisten = ["127.0.0.1:2526"]\nproxy_from = ["128.0.0.0/1"]'
    assert levels(look(Rig(proxied), "relaying")) == ["warn", "skip"]
    assert levels(look(Rig('relay_from = ["0.0.0.0/1", "128.0.0.0/1"]'), "relaying")) == ["warn", "warn", "skip"]
    assert levels(look(Rig('relay_from = ["10.0.0.0/8", "fc00::/7"]'), "relaying")) == ["ok", "skip"]


def ask(rig: Rig, peer: ScriptedExchanger) -> list[Finding]:
    async def listen() -> None:
        await rig.listen(GLOBAL, peer.accept)

    return look(rig, "relaying", listen)


def refusing() -> ScriptedExchanger:
    return ScriptedExchanger(replies={"rcpt": "550 5.7.1 no relaying"})


def test_a_listener_that_refuses_a_stranger_is_ok_and_hears_no_data() -> None:
    """All the old ways are tried, and the last word is RCPT."""
    peer = refusing()

    found = ask(Rig(PUBLIC, daemon=LISTENING), peer)

    assert told(found)[1] == f"ok listener {GLOBAL} port 25: refuses to relay for the stranger {GLOBAL}"
    commands = peer.sessions[0].commands
    assert 6 == len([each for each in commands if each.startswith(b"RCPT")])
    assert not any(each.startswith((b"DATA", b"BDAT")) for each in commands)
    assert b"QUIT" == commands[-1]


@pytest.mark.parametrize("taken", ["doctor@example.net", "doctor%example.net@relay.example.org", "example.net!doctor"])
def test_a_listener_that_takes_a_strangers_recipient_fails(taken: str) -> None:
    """By the plain way or an old one."""
    peer = ScriptedExchanger(replies={"rcpt": lambda said: "" if said == taken else "550 5.7.1 no"})

    found = ask(Rig(PUBLIC, daemon=LISTENING), peer)

    assert levels(found) == ["ok", "fail"]
    assert taken in found[1].seen
    assert not any(b"DATA" in each for each in peer.sessions[0].commands)


def test_where_every_address_of_ours_is_trusted_nobody_can_play_the_stranger() -> None:
    """Then that is said, and what to do instead."""
    peer = refusing()

    found = ask(Rig(PUBLIC + f'relay_from = ["{GLOBAL}/32"]', daemon=LISTENING), peer)

    assert levels(found) == ["ok", "skip"]
    assert "try from elsewhere" in found[1].cure
    assert [] == peer.sessions


def test_listeners_on_loopback_and_for_users_are_not_asked() -> None:
    """Nobody outside reaches the one, and a password is needed at the other."""
    daemon = Daemon(pid=7, version="1", listen=(("127.0.0.1", 2525),))

    assert levels(look(Rig(daemon=daemon), "relaying")) == ["ok", "skip"]


def test_a_listener_that_the_file_does_not_name_is_asked_too() -> None:
    """The daemon was started with an option, or before a change."""
    peer = refusing()

    found = ask(Rig('listen = ["127.0.0.1:2525"]', daemon=LISTENING), peer)

    assert levels(found) == ["ok", "ok"]
    assert 1 == len(peer.sessions)


def test_a_listener_for_everybody_is_asked_by_both_families() -> None:
    """One of them may have another policy by accident."""
    on = machine(addresses=lambda: (GLOBAL, GLOBAL_IPV6, "fe80::1", "::1"))
    rig = Rig('listen = ["0.0.0.0:25", "[::]:25"]', daemon=Daemon(pid=7, listen=(("::", 25),)), on=on)
    peer = refusing()

    async def listen() -> None:
        await rig.listen(GLOBAL, peer.accept)
        await rig.listen(GLOBAL_IPV6, peer.accept)

    assert levels(look(rig, "relaying", listen)) == ["ok", "ok", "ok"]


@pytest.mark.parametrize("step", ["banner", "ehlo", "mail"])
def test_a_test_that_does_not_end_is_told_as_such(step: str) -> None:
    """A listener that hangs up has not refused to relay."""
    peer = ScriptedExchanger(replies={"rcpt": "550 no"}, close_at=step)

    assert levels(ask(Rig(PUBLIC, daemon=LISTENING), peer)) == ["ok", "warn"]


class Elsewhere:
    """Dials loopback instead of this machine's outside address: from another address there."""

    def __init__(self, port: int) -> None:
        self._dialer = TcpDialer(SystemClock())
        self._port = port

    async def dial(self, address: str, port: int, *, source: str, timeout_s: float) -> Connection:
        return await self._dialer.dial("127.0.0.1", self._port, source="127.0.0.9", timeout_s=timeout_s)


@pytest.mark.parametrize(("runs_with", "level"), [("127.0.0.1/32", "ok"), ("127.0.0.0/8", "fail")])
def test_the_relay_itself_is_asked_and_not_only_its_file(tmp_path: Path, runs_with: str, level: str) -> None:
    """A daemon that still runs with an older, wider policy is found out, though the file is right."""
    config = 'listen = ["127.0.0.1:0"]\nhostname = "relay.example.org"\nrelay_from = ["127.0.0.1/32"]\n'
    running = parse_config(config.replace("127.0.0.1/32", runs_with), {"state_dir": str(tmp_path / "state")})

    async def run() -> list[Finding]:
        async with Relay.from_config(running, CollectingSink()) as relay:
            port = relay.bound[0][1]
            rig = Rig(config.replace("127.0.0.1:0", "0.0.0.0:25"), daemon=LISTENING)
            rig.change(dialer=Elsewhere(port))
            found = await examine(rig.world, ["relaying"], 10, lambda finding: None)
            assert (0, 0) == await relay.store.count()
            return found

    logging.disable(logging.CRITICAL)
    try:
        assert levels(asyncio.run(run())) == ["ok", level]
    finally:
        logging.disable(logging.NOTSET)
