# SPDX-License-Identifier: MIT
"""Records to a syslog: RFC 5424 to the octet, over sockets of all kinds, and what is not taken comes again."""

import json
import os
import re
import socket
from pathlib import Path

import pytest
from tests.ops.outbox.rig import record

from smarthost.mail.record import Kind
from smarthost.ops.outbox import syslog as module
from smarthost.ops.outbox.carrier import Undelivered
from smarthost.ops.outbox.syslog import MESSAGE_OCTETS, UDP_OCTETS, Syslog, to_message

HEADER = re.compile(rb"<(\d+)>1 (\S+) (\S+) smarthost (\d+) (\S+) - @cee: (\{.*\})")


def test_a_message_is_what_rfc_5424_says() -> None:
    """Facility mail; info, or warning for trouble; time, host, program, process and kind; then JSON."""
    info = HEADER.fullmatch(to_message(record(1), "relay.example.org", 7500))
    trouble = HEADER.fullmatch(to_message(record(2, Kind.BOUNCED), "relay.example.org", 7500))

    assert info is not None
    assert trouble is not None
    assert (b"22", b"20") == (info[1], trouble[1])
    assert (b"2027-01-15T08:00:01.000Z", b"relay.example.org") == (info[2], info[3])
    assert str(os.getpid()).encode() == info[4]
    assert b"bounced" == trouble[5]
    assert "1" == json.loads(info[6])["cursor"]


def test_hostile_text_stays_within_its_message() -> None:
    """A reply with newlines, escapes or a forged header is JSON text like any other, and the host is never forged."""
    message = to_message(record(1, reply="550 no\n<0>1 - root forged\x1b[2J\x85\u2028\x7f"), "evil\nhost", 7500)

    assert b"\n" not in message
    assert message.isascii()
    assert all(octet >= 32 for octet in message)
    assert HEADER.fullmatch(message)[3] == b"-"  # type: ignore[index]


def test_what_is_too_long_is_cut_where_it_is_long() -> None:
    """A walk of a hundred hosts and a reply of 10 KiB still give a whole JSON object."""
    long = record(1, reply="x" * 10_000, walk=("h" * 200,) * 100, recipients=("r" * 200 + "@example.net",) * 1000)
    for limit in (MESSAGE_OCTETS, UDP_OCTETS):
        message = to_message(long, "h.example", limit)
        assert len(message) <= limit
        assert json.loads(message.partition(b"@cee: ")[2])["id"] == long.id


@pytest.mark.asyncio
async def test_datagrams_to_a_unix_socket(tmp_path: Path) -> None:
    """As to /dev/log."""
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(path)
        syslog = Syslog(f"unix:{path}", "h.example")
        assert 2 == await syslog.deliver([record(1), record(2)])
        got = [there.recv(9000), there.recv(9000)]
        await syslog.close()

    assert [b"1", b"2"] == [re.search(rb'"cursor":"(\d)"', each)[1] for each in got]  # type: ignore[index]


@pytest.mark.asyncio
async def test_a_unix_stream_is_found_out(tmp_path: Path) -> None:
    """Where a stream listens, messages are lines."""
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        there.bind(path)
        there.listen()
        syslog = Syslog(f"unix:{path}", "h.example")
        assert 2 == await syslog.deliver([record(1), record(2)])
        connection, _ = there.accept()
        await syslog.close()
        with connection, connection.makefile("rb") as lines:
            got = lines.readlines()

    assert 2 == len(got)
    assert all(HEADER.fullmatch(line.rstrip(b"\n")) for line in got)


@pytest.mark.asyncio
async def test_tcp_counts_octets_and_a_syslog_that_restarts_is_found_again() -> None:
    """RFC 6587: each message with its length; a connection whose end is closed is not written into."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        syslog = Syslog(f"127.0.0.1:{there.getsockname()[1]}", "h.example")
        await syslog.deliver([record(1)])
        connection, _ = there.accept()
        first = connection.recv(9000)
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
        assert 1 == await syslog.deliver([record(2)])
        connection, _ = there.accept()
        second = connection.recv(9000)
        connection.close()
        await syslog.close()

    for got, cursor in ((first, b"1"), (second, b"2")):
        length, _, message = got.partition(b" ")
        assert int(length) == len(message)
        assert b'"cursor":"' + cursor in message


@pytest.mark.asyncio
async def test_udp_stays_within_a_packet() -> None:
    """RFC 5426: one message a datagram, small enough not to be fragmented."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        syslog = Syslog(f"udp:127.0.0.1:{there.getsockname()[1]}", "h.example")
        await syslog.deliver([record(1, reply="x" * 5000)])
        got = there.recv(9000)
        await syslog.close()

    assert len(got) <= UDP_OCTETS
    assert HEADER.fullmatch(got)


@pytest.mark.asyncio
async def test_a_syslog_that_is_not_there_is_said_and_found_later(tmp_path: Path) -> None:
    """Nothing is delivered, nothing is lost."""
    path = str(tmp_path / "log")
    syslog = Syslog(f"unix:{path}", "h.example")
    with pytest.raises(Undelivered, match="No such file or directory"):
        await syslog.deliver([record(1)])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(path)
        assert 1 == await syslog.deliver([record(1)])
    await syslog.close()


@pytest.mark.asyncio
async def test_a_syslog_that_takes_nothing_is_no_delivery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its queue is full, what was taken counts as delivered, and the rest comes again."""
    monkeypatch.setattr(module, "SEND_S", 0.05)
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(path)
        syslog = Syslog(f"unix:{path}", "h.example")
        taken = 0
        why = ""
        while not why:
            try:
                taken += await syslog.deliver([record(seq) for seq in range(taken + 1, taken + 101)])
            except Undelivered as refused:
                why = str(refused)
        there.setblocking(False)
        got = []
        while True:
            try:
                got.append(there.recv(9000))
            except BlockingIOError:
                break
        await syslog.close()

    assert taken == len(got)
