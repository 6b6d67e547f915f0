# SPDX-License-Identifier: MIT
"""The scripted far sides, over memory and over TCP."""

import asyncio
import random

import aiosmtplib
import pytest

from smarthost.backends.clock import SystemClock
from smarthost.backends.tcp import TcpListener
from smarthost.ports import Connection
from smarthost.testing.checks import Ear
from smarthost.testing.clock import FakeClock
from smarthost.testing.network import Chunking, MemoryNetwork
from smarthost.testing.peers import Act, ScriptedExchanger, ScriptedPeer, TakenMessage

MX = ("192.0.2.25", 25)
Peer = ScriptedPeer | ScriptedExchanger


async def call(peer: Peer, chunking: Chunking = Chunking.WHOLE) -> tuple[Connection, Ear]:
    """Dial a peer on a network in memory."""
    network = MemoryNetwork(FakeClock(), random.Random(1), chunking=chunking)
    await network.listener().listen(*MX, peer.accept)
    near = await network.dial(*MX, source="", timeout_s=10)
    ear = Ear()
    near.attach(ear)
    return near, ear


async def say(near: Connection, ear: Ear, line: bytes, lines: int = 1) -> str:
    """Write a line and give what is answered, which must have so many lines."""
    before = ear.octets.count(b"\r\n")
    start = len(ear.octets)
    near.write([line])
    await ear.until(lambda: ear.octets.count(b"\r\n") == before + lines or bool(ear.ends))
    return ear.octets[start:].decode()


@pytest.mark.asyncio
async def test_script_is_played_to_its_end() -> None:
    """A script greets, answers what it expects, and hangs up when told."""
    peer = ScriptedPeer([(b"", b"220 hi\r\n"), (b"EHLO me\r\n", b"250 ok\r\n"), (b"QUIT\r\n", Act.CLOSE)])
    near, ear = await call(peer, Chunking.OCTETS)

    near.write([b"EHLO me\r\nQUIT\r\n"])
    await ear.until_lost()

    assert ear.octets == b"220 hi\r\n250 ok\r\n"
    assert peer.sessions[0].octets == b"EHLO me\r\nQUIT\r\n"
    assert not peer.sessions[0].left
    assert not peer.sessions[0].surprise


@pytest.mark.asyncio
async def test_script_notices_what_it_does_not_expect() -> None:
    """Other octets than the script's end the session, and are kept for the test to see."""
    peer = ScriptedPeer([(b"EHLO me\r\n", b"250 ok\r\n")])
    near, ear = await call(peer)

    near.write([b"EHLO you\r\n"])
    await ear.until_lost()

    assert peer.sessions[0].surprise == b"EHLO you\r\n"


@pytest.mark.parametrize("chunking", list(Chunking))
@pytest.mark.asyncio
async def test_exchanger_keeps_content_octet_by_octet(chunking: Chunking) -> None:
    """Content is kept as it was before dots were stuffed, whatever the pieces it came in."""
    exchanger = ScriptedExchanger()
    near, ear = await call(exchanger, chunking)

    near.write([b"EHLO me\r\nMAIL FROM:<a@x> BODY=8BITMIME\r\nRCPT TO:<b@y>\r\nRCPT TO:<c@y>\r\nDATA\r\n"])
    near.write(
        [b"..dot\r\n\r\n....\r\nbare\ndot\n.\n\xff\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<d@y>\r\nDATA\r\n.\r\nQUIT\r\n"]
    )
    await ear.until_lost()

    assert exchanger.messages == [
        TakenMessage("a@x", ("b@y", "c@y"), b".dot\r\n\r\n...\r\nbare\ndot\n.\n\xff\r\n"),
        TakenMessage("", ("d@y",), b""),
    ]
    assert exchanger.sessions[0].commands[0] == b"EHLO me"
    assert exchanger.sessions[0].commands[-1] == b"QUIT"
    assert ear.octets.endswith(b"221 2.0.0 bye\r\n")


@pytest.mark.asyncio
async def test_exchanger_answers_by_step_and_argument() -> None:
    """A text for all, a text for one address, or a rule."""
    exchanger = ScriptedExchanger(
        replies={
            "mail": lambda address: "552 5.3.4 too big" if address == "big@x" else "",
            "rcpt": {"bad@y": "550-5.1.1 no\n550 5.1.1 such user"},
            "dot": "451 4.3.0 later",
        }
    )
    near, ear = await call(exchanger)
    await ear.until(lambda: bool(ear.octets))

    assert (await say(near, ear, b"MAIL FROM:<big@x>\r\n")).startswith("552")
    assert (await say(near, ear, b"MAIL FROM:<a@x>\r\n")).startswith("250")
    assert await say(near, ear, b"RCPT TO:<bad@y>\r\n", 2) == "550-5.1.1 no\r\n550 5.1.1 such user\r\n"
    assert (await say(near, ear, b"RCPT TO:<good@y>\r\n")).startswith("250")
    assert (await say(near, ear, b"DATA\r\n")).startswith("354")
    assert (await say(near, ear, b"x\r\n.\r\n")).startswith("451")
    assert (await say(near, ear, b"WHAT\r\n")).startswith("502")
    assert not exchanger.messages, "only what was accepted was taken"


@pytest.mark.asyncio
async def test_greylisting_defers_each_recipient_once() -> None:
    """A greylisting exchanger takes on the second try what it deferred on the first."""
    exchanger = ScriptedExchanger(greylist_first=True)
    near, ear = await call(exchanger)
    await ear.until(lambda: bool(ear.octets))

    answers = [(await say(near, ear, b"RCPT TO:<%s>\r\n" % name))[:3] for name in (b"a@y", b"b@y", b"a@y", b"b@y")]

    assert answers == ["450", "450", "250", "250"]


@pytest.mark.parametrize("step", ["banner", "ehlo", "mail", "rcpt", "data", "dot", "quit"])
@pytest.mark.asyncio
async def test_exchanger_falls_silent_or_hangs_up_at_any_step(step: str) -> None:
    """Both kinds of broken host can be had at each step; what was answered before is heard."""
    dialogue = b"EHLO me\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
    heard: dict[str, bytes] = {}

    for knob in ("silent_at", "close_at"):
        near, ear = await call(ScriptedExchanger(extensions=(), **{knob: step}))  # type: ignore[arg-type]
        near.write([dialogue])
        if knob == "close_at":
            await ear.until_lost()
        for _ in range(20):
            await asyncio.sleep(0)
        assert bool(ear.ends) == (knob == "close_at")
        heard[knob] = bytes(ear.octets)

    assert heard["silent_at"] == heard["close_at"]
    steps = ["banner", "ehlo", "mail", "rcpt", "data", "dot", "quit"]
    assert heard["close_at"].count(b"\r\n") == steps.index(step)


@pytest.mark.asyncio
async def test_exchanger_takes_mail_from_a_foreign_client_over_tcp() -> None:
    """A client that is not ours agrees that this is SMTP."""
    exchanger = ScriptedExchanger()
    listener = TcpListener(SystemClock())
    host, port = await listener.listen("127.0.0.1", 0, exchanger.accept)

    await aiosmtplib.send(
        b"Subject: hi\r\n\r\n.dot\r\n", sender="a@x.example", recipients=["b@y.example"], hostname=host, port=port
    )
    await listener.close()

    assert exchanger.messages == [TakenMessage("a@x.example", ("b@y.example",), b"Subject: hi\r\n\r\n.dot\r\n")]
