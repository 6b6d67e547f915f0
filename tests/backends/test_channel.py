# SPDX-License-Identifier: MIT
"""Frames between the store and its child: whole, in order, whatever the socket does."""

import asyncio
import socket
import threading

import pytest

from smarthost.backends.channel import Channel
from smarthost.backends.sqlite import wire

pytestmark = pytest.mark.asyncio


class End:
    """A channel on one end of a socketpair; the test holds the other."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.received: list[bytes] = []
        self.lost = 0
        self.changed = asyncio.Event()
        self.channel = Channel(asyncio.get_running_loop(), ours, self._receive, self._lose)

    def _receive(self, payload: bytes) -> None:
        self.received.append(payload)
        self.changed.set()

    def _lose(self) -> None:
        self.lost += 1
        self.changed.set()

    async def until(self, count: int) -> None:
        while len(self.received) + self.lost < count:
            self.changed.clear()
            await self.changed.wait()

    def close(self) -> None:
        self.channel.close()
        self.theirs.close()


async def test_frames_arrive_whole_however_they_are_cut() -> None:
    """Octets that come one by one, or many frames at once, are the same frames."""
    end = End()
    payloads = [b"one", b"", b"three" * 10]
    for octet in b"".join(wire.frame(payload) for payload in payloads):
        end.theirs.send(bytes([octet]))
        await asyncio.sleep(0)
    end.theirs.sendall(b"".join(wire.frame(payload) for payload in payloads))

    await end.until(6)

    assert end.received == payloads * 2
    end.close()


async def test_large_frames_of_many_buffers_are_sent_without_blocking() -> None:
    """A batch larger than the socket's buffer, in more pieces than one write takes, arrives whole."""
    end = End()
    buffers = [bytes([n % 251]) * 9_000 for n in range(1_500)]
    got: list[bytes] = []

    def read() -> None:
        for _ in range(2):
            frame = wire.read_frame(end.theirs)
            assert frame is not None
            got.append(bytes(frame))
        end.theirs.sendall(wire.frame(b"done"))

    end.channel.send(buffers)
    end.channel.send([b"next"])
    thread = threading.Thread(target=read)
    thread.start()
    await end.until(1)
    thread.join()

    assert got == [b"".join(buffers), b"next"]
    end.close()


async def test_end_of_the_other_side_is_told_once() -> None:
    """When the child is gone that is told once, and sending to it is harmless."""
    end = End()
    end.theirs.close()
    end.channel.send([b"x" * 10_000_000])

    await end.until(1)
    end.channel.send([b"more"])
    end.channel.close()
    await asyncio.sleep(0)

    assert end.lost == 1


async def test_shut_channel_still_hears() -> None:
    """After our last word the other side's last word is still heard."""
    end = End()
    end.channel.send([b"last"])
    end.channel.shut()
    frame = wire.read_frame(end.theirs)
    assert frame is not None
    assert bytes(frame) == b"last"
    assert wire.read_frame(end.theirs) is None
    end.theirs.sendall(wire.frame(b"answer"))

    await end.until(1)

    assert end.received == [b"answer"]
    end.close()
