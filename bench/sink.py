# SPDX-License-Identifier: MIT
"""Postfix's smtp-sink, or, for mail inside TLS, tls_sink.py, and the count of messages that reached it.

`smtp-sink -c` writes "sess=N quit=N mesg=N\\r" to its stdout at each final dot. That goes to a file, so that counting
costs the sink one small write and never blocks it; the last whole counter there is the count. What it does not count
did not arrive. tls_sink.py writes one octet instead, and the size of the file counts.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import tls_sink
from bench.certificate import Certificate
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


class Sink:
    """A sink of whichever program. Counts are since `mark`; `read` gives all there were, `close` ends reading."""

    def __init__(self, child: Child, port: int, read: Callable[[], int], close: Callable[[], None]) -> None:
        self.child = child
        self.port = port
        self._read = read
        self._close = close
        self._zero = 0

    def mark(self) -> None:
        """Count from here on."""
        self._zero = self.total()

    def total(self) -> int:
        """Give all messages since the sink started."""
        return self._read()

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
        self._close()
        self.child.stop(5)


class MessageSink(Sink):
    """One smtp-sink, on a free loopback port unless told where."""

    def __init__(
        self, scratch: Scratch, *, dump: Path | None = None, at: tuple[str, int] | None = None, name: str = "sink"
    ) -> None:
        host, port = at or ("127.0.0.1", free_port())
        command: list[str | Path] = [require_program("smtp-sink"), "-c", "-4"]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]  # as root it does not run without -u
        if dump is not None:
            command += ["-D", dump]
        child, output = _start(scratch, name, [*command, f"{host}:{port}", "1024"])
        counter = CounterFile(output)
        super().__init__(child, port, counter.read, counter.close)
        await_banner(port, child, 10, host)


class TlsSink(Sink):
    """One tls_sink.py, on a free loopback port."""

    def __init__(self, scratch: Scratch, certificate: Certificate) -> None:
        port = free_port()
        command: list[str | Path] = [sys.executable, tls_sink.__file__, "--port", str(port)]
        command += ["--certificate", certificate.certificate, "--key", certificate.key]
        child, output = _start(scratch, "sink", command)
        super().__init__(child, port, lambda: output.stat().st_size, lambda: None)
        await_banner(port, child, 10)


def _start(scratch: Scratch, name: str, command: Sequence[str | Path]) -> tuple[Child, Path]:
    output = scratch.path / f"{name}.out"
    with output.open("wb") as out:
        return scratch.start(name, command, stdout=out), output
