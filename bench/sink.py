# SPDX-License-Identifier: MIT
"""Postfix's smtp-sink, and the count of messages that reached it.

`smtp-sink -c` writes "sess=N quit=N mesg=N\\r" to its stdout at each final dot. That goes to a file, so that counting
costs the sink one small write and never blocks it; the last whole counter there is the count. What it does not count
did not arrive.
"""

import os
import re
import time
from pathlib import Path

from bench.children import Child, Scratch
from bench.failure import RunFailed
from bench.network import await_banner, free_port
from bench.programs import require_program

_COUNTER = re.compile(rb"([0-9]+)\r")  # smtp-source -c writes the number alone
_TAIL = 256  # several counters of at most 60 octets
_POLL_S = 0.005  # the error of the end-to-end time; 0.5 % of a run of one second


def read_counter(tail: bytes) -> int:
    """Give the last whole message counter in the end of smtp-sink's output, 0 if there is none yet."""
    counters = _COUNTER.findall(tail)
    return int(counters[-1]) if counters else 0


class CounterFile:
    """The growing output of something that counts as smtp-sink, or smtp-source, does."""

    def __init__(self, path: Path) -> None:
        self._reader = os.open(path, os.O_RDONLY)

    def read(self) -> int:
        """Give the last whole counter."""
        end = os.lseek(self._reader, 0, os.SEEK_END)
        return read_counter(os.pread(self._reader, _TAIL, max(0, end - _TAIL)))

    def close(self) -> None:
        """Be done with it; harmless when repeated."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


class MessageSink:
    """One smtp-sink, on a free loopback port unless told where. Counts are since `mark`."""

    def __init__(
        self, scratch: Scratch, *, dump: Path | None = None, at: tuple[str, int] | None = None, name: str = "sink"
    ) -> None:
        host, self.port = at or ("127.0.0.1", free_port())
        output = scratch.path / f"{name}.out"
        command: list[str | Path] = [require_program("smtp-sink"), "-c", "-4"]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]  # as root it does not run without -u
        if dump is not None:
            command += ["-D", dump]
        with output.open("wb") as out:
            self.child: Child = scratch.start(name, [*command, f"{host}:{self.port}", "1024"], stdout=out)
        self._counter = CounterFile(output)
        self._zero = 0
        await_banner(self.port, self.child, 10, host)

    def mark(self) -> None:
        """Count from here on."""
        self._zero = self.total()

    def total(self) -> int:
        """Give all messages since the sink started."""
        return self._counter.read()

    def count(self) -> int:
        """Give the messages since `mark`."""
        return self.total() - self._zero

    def await_count(self, expected: int, stall_s: float) -> float:
        """Wait until the sink has `expected` messages and give the monotonic time of that.

        Raises: RunFailed: the sink ended, nothing arrived for `stall_s`, or more than `expected` arrived.
        """
        seen, moved = -1, time.monotonic()
        while True:
            count, now = self.count(), time.monotonic()
            if count >= expected:
                self.check_exactly(expected)
                return now
            if self.child.exit_code() is not None:
                raise RunFailed(f"the sink ended with {self.child.exit_code()} at {count} of {expected} messages")
            if count != seen:
                seen, moved = count, now
            elif now - moved > stall_s:
                raise RunFailed(f"the sink has {count} of {expected} messages and nothing came for {stall_s:.0f} s")
            time.sleep(_POLL_S)

    def check_exactly(self, expected: int) -> None:
        """Raises: RunFailed: fewer or more than `expected` since `mark`, or the sink is gone."""
        count = self.count()
        if count != expected:
            what = "missing" if count < expected else "too many (delivered twice)"
            raise RunFailed(f"the sink has {count} messages, not {expected}: {abs(count - expected)} {what}")
        if self.child.exit_code() is not None:
            raise RunFailed(f"the sink ended with {self.child.exit_code()}")

    def stop(self) -> None:
        """End the sink; harmless when repeated."""
        self._counter.close()
        self.child.stop(5)
