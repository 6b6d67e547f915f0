# SPDX-License-Identifier: MIT
"""The library door: what a program may do with smarthost, on real sockets and a real store. Its example is run here."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.live.content import KINDS, assert_same, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import WAIT_S, assert_unlocked, eventually
from tests.live.sink import Sink

import smarthost
from smarthost import (
    BlockingRelay,
    ConfigError,
    Filter,
    Relay,
    SmarthostError,
    StoreError,
    SubmissionRefused,
)
from smarthost.mail.errors import StoreLocked
from smarthost.mail.record import Kind

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
OURS = "app.example.org"
CONTENT = KINDS["lines of dots"]
ENVELOPE = ("me@example.org", ["you@example.net"])


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test ends with as many threads and processes as it began with."""
    threads, children = set(threading.enumerate()), set(psutil.Process().children())
    yield
    eventually(lambda: set(psutil.Process().children()) <= children, "no process is left")
    eventually(lambda: set(threading.enumerate()) <= threads, "no thread is left")


def arguments(tmp_path: Path, sink: Sink, **further: Any) -> dict[str, Any]:
    return {"state_dir": tmp_path / "state", "next_hop": f"127.0.0.1:{sink.port}", "hostname": OURS, **further}


def test_the_example_works(tmp_path: Path, sink: Sink) -> None:
    """Who copies examples/library.py gets what it says."""
    example = [sys.executable, str(ROOT / "examples/library.py"), str(tmp_path / "state"), f"127.0.0.1:{sink.port}"]

    ran = subprocess.run(example, capture_output=True, text=True, timeout=WAIT_S, check=False)
    arrived = sink.wait_for(2)

    assert ran.returncode == 0, ran.stderr
    said = [re.sub(r"[0-9a-z]{16}", "ID", re.sub(r": [01]$", ": N", line)) for line in ran.stdout.splitlines()]
    assert said == [
        "durable as ID",
        "refused with 501 5.1.3 The recipient address has no domain Address: no such address",
        "still waiting: N",
        "durable as ID",
    ]
    for message in arrived:
        content = without_our_field(message.content, by=OURS)
        assert b"\r\n.\r\nThe dot above is content.\r\n" in content
        assert b"=?utf-8?" in content


def test_the_door_is_as_documented() -> None:
    """What the README imports is there, and nothing is exported that does not exist."""
    for name in smarthost.__all__:
        assert getattr(smarthost, name) is not None
    assert {"Relay", "BlockingRelay", "SubmissionRefused"} <= set(smarthost.__all__)
    with pytest.raises(AttributeError):
        _ = smarthost.no_such_name
    assert len(smarthost.__all__) <= 20


@pytest.mark.asyncio
async def test_octets_arrive_as_they_were_submitted(tmp_path: Path, sink: Sink) -> None:
    """`submit` adds our Received: field and changes nothing else, whatever is in the message."""
    async with Relay(**arguments(tmp_path, sink)) as relay:
        for n, content in enumerate(KINDS.values()):
            await relay.submit(content, "me@example.org", [f"r{n}@example.net"])
        await asyncio.to_thread(sink.wait_for, len(KINDS))

    for n, (kind, content) in enumerate(KINDS.items()):
        assert_same(content, without_our_field(sink.wait_for_recipient(f"r{n}@example.net").content, by=OURS), kind)


@pytest.mark.asyncio
async def test_a_message_object_arrives_with_its_line_ends(tmp_path: Path, sink: Sink) -> None:
    """An EmailMessage becomes octets as SMTP wants them; addresses beyond ASCII ask for SMTPUTF8."""
    message = EmailMessage()
    message["Subject"] = "Ελληνικά"
    message.set_content("one\ntwo\n")

    async with Relay(**arguments(tmp_path, sink)) as relay:
        await relay.submit(message, "", ["用户@例え.jp"])
        await asyncio.to_thread(sink.wait_for, 1)

    (arrived,) = sink.arrived
    assert without_our_field(arrived.content, by=OURS) == message.as_bytes(policy=SMTP)
    assert arrived.mail.startswith(b"FROM:<>")
    assert b"SMTPUTF8" in arrived.mail


REFUSED: list[tuple[bytes, str, list[str], int]] = [
    (CONTENT, "me@example.org", [], 554),
    (CONTENT, "me@example.org", ["you"], 501),
    (CONTENT, "me", ["you@example.net"], 501),
    (CONTENT, "me@example.org", ["ok@example.net", "a b@example.net"], 501),
    (CONTENT, "me@example.org", ["you@example.net> SIZE=1"], 555),
    (CONTENT, "me@example.org\r\nRCPT TO:<x@example.net", ["you@example.net"], 500),
    (CONTENT, "me@example.org", [f"r{n}@example.net" for n in range(101)], 452),
    (b"bare\nline", "me@example.org", ["you@example.net"], 550),
    (b"nul\0\r\n", "me@example.org", ["you@example.net"], 550),
    (b"x" * 70_000 + b"\r\n", "me@example.org", ["you@example.net"], 552),
    (b"Received: by x;\r\n" * 50 + b"\r\nx\r\n", "me@example.org", ["you@example.net"], 554),
]


@pytest.mark.parametrize(("content", "reverse_path", "recipients", "code"), REFUSED)
@pytest.mark.asyncio
async def test_what_smtp_would_refuse_is_refused(
    tmp_path: Path, sink: Sink, content: bytes, reverse_path: str, recipients: list[str], code: int
) -> None:
    """A mistake raises SubmissionRefused with the reply that a client would have read, and files nothing."""
    limits = "[limits]\nmessage_size = '64KiB'\nrecipients = 100\n"
    async with Relay(**arguments(tmp_path, sink, settings=limits)) as relay:
        with pytest.raises(SubmissionRefused) as refused:
            await relay.submit(content, reverse_path, recipients)
        assert (await relay.find()).messages == ()

    assert refused.value.reply.code == code
    assert isinstance(refused.value, SmarthostError)


@pytest.mark.asyncio
async def test_a_program_that_dies_after_submit_has_lost_nothing(tmp_path: Path) -> None:
    """When `submit` has returned, kill -9 does not lose the message: the next program delivers it."""
    script = (
        "import asyncio, os, signal, sys\n"
        "from smarthost import Relay\n"
        "async def main():\n"
        "    async with Relay(state_dir=sys.argv[1], next_hop='127.0.0.1:1', hostname='app.example.org') as relay:\n"
        "        await relay.submit(b'Subject: x\\r\\n\\r\\nkept\\r\\n', 'me@example.org', ['you@example.net'])\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path / "state")], timeout=WAIT_S, check=False)

    with Sink() as sink:
        async with Relay(**arguments(tmp_path, sink)) as relay:
            await relay.change(Filter(), "retry")
            arrived = await asyncio.to_thread(sink.wait_for_recipient, "you@example.net")

    assert died.returncode == -signal.SIGKILL
    assert without_our_field(arrived.content, by=OURS) == b"Subject: x\r\n\r\nkept\r\n"


@pytest.mark.asyncio
async def test_the_queue_can_be_read_and_changed(tmp_path: Path) -> None:
    """A program sees what waits and why, and may give it up."""
    with Sink(answers={b"RCPT": lambda argument: b"450 4.2.1 Not yet"}) as sink:
        async with Relay(**arguments(tmp_path, sink)) as relay:
            receipt = await relay.submit(CONTENT, *ENVELOPE)
            while not (found := await relay.find(Filter(id=receipt.id))).messages[0].recipients[0].why:
                await asyncio.sleep(0.02)
            changed = await relay.change(Filter(id=receipt.id), "cancel")
            after = await relay.find()

    assert "450 4.2.1 Not yet" in found.messages[0].recipients[0].why
    assert changed.recipients == ((receipt.id, 0),)
    assert after.messages == ()


@pytest.mark.asyncio
async def test_it_listens_only_where_it_is_told_to(tmp_path: Path, sink: Sink) -> None:
    """Without `listen` no port is opened; with it, SMTP clients are served too."""
    async with Relay(**arguments(tmp_path, sink)) as silent:
        assert silent.bound == ()
    async with Relay(**arguments(tmp_path, sink, listen=["127.0.0.1:0", "[::1]:0"])) as relay:
        assert [host for host, _ in relay.bound] == ["127.0.0.1", "::1"]

        def send() -> None:
            with RawClient(relay.bound[0][1]) as client:
                client.send(CONTENT, "smtp@example.net")

        await asyncio.to_thread(send)
        await asyncio.to_thread(sink.wait_for_recipient, "smtp@example.net")


@pytest.mark.asyncio
async def test_mistakes_in_using_it_are_told(tmp_path: Path, sink: Sink) -> None:
    """Before the start and after the end there is a StoreError; a directory in use is StoreLocked; nothing hangs."""
    with pytest.raises(ConfigError, match="limit"):
        Relay(**arguments(tmp_path, sink, settings="[limit]\nerrors = 1\n"))
    with pytest.raises(ConfigError, match="hostname"):
        Relay(state_dir=tmp_path / "state", hostname="nodot")
    relay = Relay(**arguments(tmp_path, sink))
    with pytest.raises(StoreError):
        await relay.submit(CONTENT, *ENVELOPE)

    async with relay:
        with pytest.raises(TypeError):
            await relay.submit("text", *ENVELOPE)  # type: ignore[arg-type]
        with pytest.raises(StoreLocked):
            await Relay(**arguments(tmp_path, sink)).start()
        await relay.submit(CONTENT, *ENVELOPE)

    with pytest.raises(StoreError):
        await relay.submit(CONTENT, *ENVELOPE)
    await relay.stop()
    assert_unlocked(tmp_path / "state")


def test_a_program_without_a_loop_submits_from_many_threads(tmp_path: Path, sink: Sink) -> None:
    """BlockingRelay is one relay for all threads of a program."""
    ids: list[str] = []

    def submit(first: int) -> None:
        for n in range(first, first + 20):
            ids.append(relay.submit(CONTENT, "me@example.org", [f"r{n}@example.net"]).id)

    with BlockingRelay(**arguments(tmp_path, sink)) as relay:
        threads = [threading.Thread(target=submit, args=(20 * n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        arrived = sink.wait_for(100)

    assert len(set(ids)) == 100
    assert {message.addresses[0] for message in arrived} == {f"r{n}@example.net" for n in range(100)}
    assert_unlocked(tmp_path / "state")


def test_the_blocking_door_shows_and_changes_the_queue(tmp_path: Path) -> None:
    """What the one door can, the other can."""
    with (
        Sink(answers={b"RCPT": lambda argument: b"450 4.2.1 Not yet"}) as sink,
        BlockingRelay(**arguments(tmp_path, sink)) as relay,
    ):
        receipt = relay.submit(CONTENT, *ENVELOPE)
        eventually(lambda: relay.find().messages[0].recipients[0].why, "it was tried")
        changed = relay.change(Filter(id=receipt.id), "cancel")
        after = relay.find()

    assert changed.recipients == ((receipt.id, 0),)
    assert after.messages == ()


def test_the_blocking_door_explains_and_suspends(tmp_path: Path, sink: Sink) -> None:
    """Why mail waits, what waits in all, what happened and what would: as with the other door."""
    with BlockingRelay(**arguments(tmp_path, sink)) as relay:
        relay.suspend("example.net", reason="they asked", by="ann")
        receipt = relay.submit(CONTENT, *ENVELOPE)
        (story,) = relay.why(receipt.id)
        waits = relay.summary().by_destination[0].name
        counted = relay.change(Filter(id=receipt.id), "cancel", by="ann", reason="a mistake", dry_run=True)
        suspended = relay.suspensions()
        planned = relay.explain("you@example.net").domain
        relay.end_suspension("example.net", by="ann")
        sink.wait_for(1)
        eventually(lambda: Kind.RELAYED in [record.kind for record in relay.records(0, 100)], "its record")

    waiting = story.recipients[0].waiting
    assert waiting is not None
    assert "they asked" in waiting.why
    assert waits == planned == "example.net"
    assert counted.recipients == ((receipt.id, 0),)
    assert ["example.net"] == [each.what for each in suspended]
    of_a_daemon = {"from_config", "adopt", "reload", "check", "drain", "cancel_drain", "figures", "refuse_recipient"}
    assert relay_only() == {"start", "stop"} | of_a_daemon


def relay_only() -> set[str]:
    """What is to be called at the one door and not at the other: what belongs to a daemon."""
    called = {name for name, value in vars(Relay).items() if name[0] != "_" and not isinstance(value, property)}
    return called - set(vars(BlockingRelay))


def test_the_blocking_door_raises_where_it_is_called(tmp_path: Path, sink: Sink) -> None:
    """A start that fails leaves no thread and no loop; outside the block there is a StoreError, not a hang."""
    with pytest.raises(ConfigError), BlockingRelay(**arguments(tmp_path, sink, settings="nonsense = 1")):
        pass
    relay = BlockingRelay(**arguments(tmp_path, sink))
    with pytest.raises(StoreError):
        relay.submit(CONTENT, *ENVELOPE)
    with relay:
        with pytest.raises(StoreLocked), BlockingRelay(**arguments(tmp_path, sink)):
            pass
        with pytest.raises(SubmissionRefused):
            relay.submit(CONTENT, "me@example.org", ["nobody"])
        relay.submit(CONTENT, *ENVELOPE)
    with pytest.raises(StoreError):
        relay.submit(CONTENT, *ENVELOPE)


def test_the_blocking_door_may_be_opened_again(tmp_path: Path, sink: Sink) -> None:
    """One object serves for several blocks, one after the other."""
    relay = BlockingRelay(**arguments(tmp_path, sink))
    for n in range(2):
        with relay:
            relay.submit(CONTENT, "me@example.org", [f"again{n}@example.net"])
            sink.wait_for_recipient(f"again{n}@example.net")


def test_a_thread_that_submits_while_the_door_closes_is_not_left_hanging(tmp_path: Path, sink: Sink) -> None:
    """Each call either files its message or raises; none waits for ever."""
    submitted: list[str] = []
    raised: list[BaseException] = []

    def submit() -> None:
        while True:
            try:
                submitted.append(relay.submit(CONTENT, *ENVELOPE).id)
            except SmarthostError as error:
                raised.append(error)
                return

    with BlockingRelay(**arguments(tmp_path, sink)) as relay:
        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        sink.wait_for(20)
    for thread in threads:
        thread.join(5)

    assert not any(thread.is_alive() for thread in threads)
    assert len(raised) == 8


def test_a_program_without_a_loop_pauses_copies_and_goes_on(tmp_path: Path, sink: Sink) -> None:
    """Nothing goes out before `resume`, and the copy that was made meanwhile is a queue that begins with a pause."""
    with BlockingRelay(**arguments(tmp_path, sink), paused=True) as relay:
        relay.submit(CONTENT, *ENVELOPE)
        was_paused = relay.paused
        made = relay.back_up(tmp_path / "copy")
        relay.pause()
        arrived = len(sink.arrived)
        resumed = relay.resume()
        sink.wait_for(1)
        assert not relay.paused

    with BlockingRelay(**{**arguments(tmp_path, sink), "state_dir": tmp_path / "copy"}) as copy:
        waits = [message.reverse_path for message in copy.find().messages]
        assert copy.paused

    assert (True, 0, (1, 1), ["me@example.org"]) == (was_paused, arrived, resumed, waits)
    assert (1, 1, 0) == (made.messages, made.recipients, made.missing)
