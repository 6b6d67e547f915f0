# SPDX-License-Identifier: MIT
"""Starts the child that owns the database, talks to it, and notices its end. Decides nothing about what is lost.

Why a child: a writing thread starves beside a saturated event loop even when a whole batch is one SQLite step: 10
messages/s (asyncio and uvloop alike, switch intervals 5 ms, 1 ms, 0.2 ms) where 37,000/s went through beside an idle
one. `python -m bench.store` measures this child.
"""

# Measured on 2 quiet cores (fsync 0.02 ms), 5 KiB messages, add awaited and settle enqueued, uvloop:
#   64 adders beside an idle loop        16,800 messages/s, p50 3.6 ms, p99 5.7 ms; our CPU 12.6 us, the child's 28
#   20 adders beside an idle loop        21,500 messages/s, p50 0.8 ms, p99 2.2 ms
#   20 adders beside a saturated loop    17,500 messages/s, p50 1.1 ms, p99 2.5 ms; our CPU 13.1 us, the child's 26
# The child holds 19 MiB at rest and 29 MiB under this load.

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from smarthost.backends.boot import child_command
from smarthost.backends.channel import Channel
from smarthost.backends.sqlite import wire
from smarthost.mail.errors import StoreError

Answer = TypeVar("Answer")
_encoder = msgspec.msgpack.Encoder()


class Keeper:
    """One child at a time, on one event loop. Whoever uses it is told by the callables given."""

    def __init__(
        self,
        directory: Path,
        lock: int,
        greeted: Callable[[wire.Hello], None],
        committed: Callable[[wire.Outcome], None],
        lost: Callable[[], None],
        damaged: Callable[[str], None],
        found_damaged: Callable[[list[wire.DamagedRow]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._lock = lock
        self._greeted = greeted
        self._committed = committed
        self._lost = lost
        self._damaged = damaged
        self._found_damaged = found_damaged
        self.times: dict[str, object] = {}  # of child.Start, for whoever follows the wall clock
        self._child: subprocess.Popen[bytes] | None = None
        self._channels: list[Channel] = []
        self._is_greeted = False
        self._asked: tuple[deque[asyncio.Future[bytes]], deque[asyncio.Future[bytes]]] = (deque(), deque())
        self._hello = msgspec.msgpack.Decoder(wire.Hello)
        self._outcome = msgspec.msgpack.Decoder(wire.Outcome)

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self, is_reopening: bool, damage: str = "") -> bool:
        """Start a child; False: the last one has not ended yet, try again. `greeted` follows, or `lost`.

        `damage`: what is known to be wrong with the database, which is salvaged then.
        """
        if not self._is_reaped():
            return False
        self._is_greeted = False
        pairs: list[tuple[socket.socket, socket.socket]] = []
        try:
            for _ in range(3):
                pairs.append(socket.socketpair())
            theirs = [there.fileno() for _, there in pairs]
            start = {"batches": theirs[0], "reads": theirs[1], "files": theirs[2]}
            terms = {"directory": str(self._directory), "is_reopening": is_reopening, "damage": damage}
            start_text = json.dumps({**terms, **start, **self.times})
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and text
                child_command("smarthost.backends.sqlite.child", start_text),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(*theirs, self._lock),  # so that the lock outlives us until the child has finished
                start_new_session=True,  # a Ctrl-C in the terminal is ours alone
            )  # fmt: skip
        except OSError as error:
            for ours, there in pairs:
                ours.close()
                there.close()
            raise StoreError(f"cannot start the store's process: {error}") from error
        for _, there in pairs:
            there.close()
        receivers = (self._heard, lambda reply: self._answered(0, reply), lambda reply: self._answered(1, reply))
        self._channels = [
            Channel(self._loop, ours, received, self._end) for (ours, _), received in zip(pairs, receivers, strict=True)
        ]
        return True

    def _heard(self, payload: bytes) -> None:
        if self._is_greeted:
            self._committed(self._outcome.decode(payload))
        else:
            hello = self._hello.decode(payload)
            self._is_greeted = not hello.news
            self._greeted(hello)

    def commit(self, buffers: Sequence[bytes]) -> None:
        """Send a batch; `committed` follows, or `lost`."""
        self._channels[0].send(buffers)

    async def ask(self, question: wire.Question, answer: msgspec.msgpack.Decoder[Answer]) -> Answer:
        """Ask the reading thread. Raises: StoreError."""
        return answer.decode(await self._send(0, question))

    def tell(self, question: wire.Question) -> None:
        """Say something to the reading thread, whatever it answers."""
        self._send(0, question).add_done_callback(lambda future: future.cancelled() or future.exception())

    def keep(self, draft: str, name: str, kept: Callable[[wire.FileOutcome | None], None]) -> None:
        """Have a draft's file made durable under its final name; `kept` is told the outcome, None: the child died."""

        def done(future: "asyncio.Future[bytes]") -> None:
            if future.exception() is not None:
                kept(None)
            else:
                kept(msgspec.msgpack.decode(future.result(), type=wire.FileOutcome))

        self._send(1, wire.Keep(draft, name)).add_done_callback(done)

    def drop(self, names: Sequence[str]) -> None:
        """Delete content files; what fails is tried again with the next, and swept at the next start."""
        self._send(1, wire.Drop(list(names))).add_done_callback(lambda future: future.cancelled() or future.exception())

    def _send(self, which: int, question: wire.Question | wire.FileOrder) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = self._loop.create_future()
        if not self._channels:
            future.set_exception(StoreError("the store's process is not running"))
        else:
            self._asked[which].append(future)
            self._channels[1 + which].send([_encoder.encode(question)])
        return future

    def _answered(self, which: int, reply: bytes) -> None:
        if reply[0] == 3:
            self._found_damaged(msgspec.msgpack.decode(reply[1:], type=list[wire.DamagedRow]))
            return
        future = self._asked[which].popleft()
        if reply[0] == 2:
            self._loop.call_soon(self._damaged, reply[1:].decode())
        if future.done():
            return  # who asked was cancelled
        if reply[0]:
            future.set_exception(StoreError(reply[1:].decode()))
        else:
            future.set_result(reply[1:])

    def _end(self) -> None:
        """The child closed a channel, hence is dead or dying: make sure of it and tell."""
        self.stop()
        self._lost()

    def stop(self) -> None:
        """Kill the child, if there is one, and fail what was asked of it."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
        for channel in self._channels:
            channel.close()
        self._channels = []
        for asked in self._asked:
            while asked:
                future = asked.popleft()
                if not future.done():
                    future.set_exception(StoreError("the store's process ended before it answered"))

    def finish(self) -> None:
        """Ask the child to end after what it was sent; `lost` follows."""
        if self._channels:
            self._channels[0].shut()
        else:
            self._lost()

    def _is_reaped(self) -> bool:
        if self._child is not None and self._child.poll() is not None:
            self._child = None
        return self._child is None

    def reap(self, wait_s: float) -> None:
        """Collect the ended child; one that hangs in the disk for longer is left to init."""
        if self._child is not None:
            try:
                self._child.wait(wait_s)
            except subprocess.TimeoutExpired:
                os.kill(self._child.pid, signal.SIGKILL)
                self._child.returncode = -signal.SIGKILL  # else its destructor warns
            self._child = None
