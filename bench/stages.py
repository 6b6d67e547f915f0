# SPDX-License-Identifier: MIT
"""What one message costs in each stage: prepared here, timed by budget.py.

Each function imports what it needs by itself, so that a missing module costs its own stage only. Every call checks
that it did what it should: a stage that quietly does nothing would look fast.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import Stage

_STORE_MESSAGES = 3000
_ADDERS = 20  # as many as smtp-source has sessions
_HEADER = b"From: <from@bench.test>\r\nTo: <to@sink.test>\r\nMessage-Id: <0c39.0003@source.bench.test>\r\n\r\n"
_CONTENT = _HEADER + (b"X" * 78 + b"\r\n") * 64  # 5 KiB, as smtp-source's


def serve_transaction(directory: Path) -> Callable[[], object]:
    """MAIL, RCPT, DATA and content as smtp-source sends them: one command in each chunk."""
    from smarthost.accept import replies
    from smarthost.mail.reply import reply
    from smarthost.smtp.server import ServerSettings, SmtpServer
    from smarthost.smtp.wire import ContentEnded, ContentReceived, DataReceived, HelloReceived

    machine = SmtpServer(ServerSettings("relay.bench.test", 50 << 20, 1000, 20))
    machine.greet(reply(220, "", "relay.bench.test ESMTP"))
    machine.receive(b"EHLO source.bench.test\r\n")
    assert isinstance(machine.next_event(), HelloReceived)
    machine.accept_hello()
    queued = replies.queued("0123456789abcdef")
    chunks = (
        (b"MAIL FROM:<from@bench.test>\r\n", replies.MAIL_OK_OCTETS),
        (b"RCPT TO:<to@sink.test>\r\n", replies.RCPT_OK_OCTETS),
    )

    def once() -> None:
        for chunk, answer in chunks:
            machine.receive(chunk)
            machine.next_event()
            machine.reply_encoded(answer, True)
            machine.next_event()
            machine.take_output()
        machine.receive(b"DATA\r\n")
        assert isinstance(machine.next_event(), DataReceived)
        machine.accept_data()
        machine.next_event()
        machine.take_output()
        machine.receive(_CONTENT + b".\r\n")
        assert isinstance(machine.next_event(), ContentReceived)
        assert isinstance(machine.next_event(), ContentEnded)
        machine.reply_encoded(queued, True)
        machine.next_event()
        machine.take_output()

    return once


def serve_session(directory: Path) -> Callable[[], object]:
    """What a fresh connection adds in the machine: banner, EHLO, QUIT."""
    from smarthost.mail.reply import reply
    from smarthost.smtp.server import ServerSettings, SmtpServer
    from smarthost.smtp.wire import HelloReceived, QuitReceived

    settings = ServerSettings("relay.bench.test", 50 << 20, 1000, 20)
    banner = reply(220, "", "relay.bench.test ESMTP")

    def once() -> None:
        machine = SmtpServer(settings)
        machine.greet(banner)
        machine.take_output()
        machine.receive(b"HELO source.bench.test\r\n")
        assert isinstance(machine.next_event(), HelloReceived)
        machine.accept_hello()
        machine.take_output()
        machine.receive(b"QUIT\r\n")
        assert isinstance(machine.next_event(), QuitReceived)
        machine.take_output()

    return once


def accept_message(directory: Path) -> Callable[[], object]:
    """What reception does with an accepted transaction before the store sees it."""
    from smarthost.accept import trace
    from smarthost.accept.policy import RelayPolicy
    from smarthost.mail.address import Address, Domain
    from smarthost.mail.content import InlineContent
    from smarthost.mail.envelope import Envelope
    from smarthost.mail.identity import IdSource
    from smarthost.mail.message import Message

    policy = RelayPolicy()
    stamp = trace.ReceivedStamp("127.0.0.1", "relay.bench.test")
    stamp.greeted("source.bench.test", extended=True)
    next_id = IdSource(time.time, 1).next
    recipient = Address("to@sink.test", Domain("sink.test"))

    def once() -> object:
        assert policy.refuse_recipient(recipient, "127.0.0.1", may_relay=policy.may_relay("127.0.0.1")) is None
        recipients = (policy.route_recipient(recipient),)
        assert trace.survey(_CONTENT)[:2] == (0, False)
        now, id = time.time(), next_id()
        prefix = stamp.write(id, now, recipients, smtputf8=False)
        envelope = Envelope("from@bench.test", recipients)
        return Message(id, now, envelope, prefix, InlineContent(_CONTENT), "127.0.0.1", "from@bench.test")

    return once


def store_message(directory: Path) -> list[Stage]:
    """Add and settle on the real store, by as many adders as there are sessions; its own process apart."""
    import asyncio

    import uvloop

    from bench.store import DOMAIN, make_messages
    from bench.tree import cpu_seconds
    from smarthost.backends.clock import SystemClock
    from smarthost.backends.sqlite.store import SqliteStore

    async def fill() -> tuple[float, float]:
        store = SqliteStore(directory, SystemClock())
        await store.open()
        try:
            made = iter(make_messages(_STORE_MESSAGES, len(_CONTENT), store.last_number))

            async def add_and_settle() -> None:
                for message, settlement in made:
                    assert await store.add(message, (DOMAIN,))
                    settling.append(asyncio.ensure_future(store.settle((settlement,))))

            settling: list[asyncio.Future[None]] = []
            own, tree = time.process_time(), cpu_seconds(os.getpid())
            await asyncio.gather(*(add_and_settle() for _ in range(_ADDERS)))
            await asyncio.gather(*settling)
            own = time.process_time() - own
            tree = cpu_seconds(os.getpid()) - tree
            assert await store.count() == (0, 0), "all was settled"
        finally:
            await store.close()
        return own * 1e6 / _STORE_MESSAGES, max(0.0, tree - own) * 1e6 / _STORE_MESSAGES

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        own_us, child_us = runner.run(fill())
    return [
        Stage(name="queue: add and settle, the relay's process", us=own_us, note=f"{_ADDERS} adders"),
        Stage(name="queue: add and settle, the database's process", us=child_us, note="runs beside the loop"),
    ]


def send_transaction(directory: Path) -> Callable[[], object]:
    """One transaction to a host like smtp-sink, which offers PIPELINING."""
    from smarthost.mail.envelope import Body
    from smarthost.smtp.client import SmtpClient, Transaction
    from smarthost.smtp.wire import BannerReceived, ContentWanted, HelloAnswered, TransactionEnded

    machine = SmtpClient()
    machine.receive(b"220 smtp-sink ESMTP\r\n")
    assert isinstance(machine.next_event(), BannerReceived)
    machine.hello("relay.bench.test")
    machine.take_output()
    machine.receive(b"250-smtp-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 \r\n")
    assert isinstance(machine.next_event(), HelloAnswered)
    prefix = b"Received: from source.bench.test ([127.0.0.1])\r\n" * 3

    def once() -> None:
        octets = len(prefix) + len(_CONTENT)
        machine.begin(Transaction("from@bench.test", ("to@sink.test",), octets, Body.SEVEN_BIT, False))
        machine.take_output()
        machine.receive(b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n")
        assert isinstance(machine.next_event(), ContentWanted)
        machine.content((prefix, _CONTENT))
        machine.content_end()
        machine.take_output()
        machine.receive(b"250 2.0.0 Ok\r\n")
        assert isinstance(machine.next_event(), TransactionEnded)

    return once


def settle_result(directory: Path) -> Callable[[], object]:
    """From a host's word to a settlement with its record."""
    from smarthost.mail.content import InlineContent
    from smarthost.mail.envelope import Body
    from smarthost.mail.lease import Lease, LeasedRecipient
    from smarthost.mail.reply import reply
    from smarthost.mail.result import AttemptResult, Outcome, Timings
    from smarthost.send.verdict import after_transaction
    from smarthost.settle.decide import decide
    from smarthost.smtp.wire import TransactionEnded

    recipients = (LeasedRecipient(0, "to@sink.test", "sink.test"),)
    content = InlineContent(_CONTENT)
    lease = Lease(
        "0123456789abcdef", 0.0, "from@bench.test", Body.SEVEN_BIT, False, "127.0.0.1", "from@bench.test", b"",
        content.octets, content, recipients,
    )  # fmt: skip
    ok = reply(250, "2.0.0", "Ok")
    ended = TransactionEnded(ok, (ok,), reply(354, "", "End data"), ok)

    def once() -> None:
        judged = after_transaction(ended, 1, "127.0.0.1", "127.0.0.1", False)
        assert judged[0].verdict.outcome is Outcome.RELAYED
        result = AttemptResult(lease, 1.0, (judged[0].verdict,), Timings(0.001, 0.0, 0.0, 0.001), None, "lane")
        decide(result, now=1.0, retry_at=lambda attempts, received_at: None, next_seq=lambda: 1)

    return once


def log_lines(directory: Path) -> Callable[[], object]:
    """The two lines on one message, written to a file."""
    from smarthost.mail.record import Kind, Record
    from smarthost.ops.log import JsonLog

    fd = os.open(directory / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    log = JsonLog(fd, lambda seconds, callback: None)
    now = time.time()
    names = ("0123456789abcdef", "to@sink.test", "from@bench.test")
    accepted = Record(1, Kind.ACCEPTED, now, *names, octets=5120, client="127.0.0.1")
    relayed = Record(
        2, Kind.RELAYED, now, *names, 1, "2.0.0", "250 2.0.0 Ok", "", "127.0.0.1", "127.0.0.1", "hop:127.0.0.1:25",
        octets=5120, client="127.0.0.1", queued_s=0.001, transfer_s=0.001,
    )  # fmt: skip

    def once() -> None:
        log.record(accepted)
        log.record(relayed)

    return once
