# SPDX-License-Identifier: MIT
"""Proves, before anything is timed, that counting means what it says: each message is told from every other.

A count alone cannot see one message lost and another delivered twice. So a small load with a number in every
recipient goes through each system into a sink that writes down all recipients; each number must be there once.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable

from bench.children import Scratch
from bench.failure import RunFailed
from bench.load import Load, RunningLoad
from bench.options import Options
from bench.sink import MessageSink
from bench.system import StartSystem

MESSAGES = 500
_RECIPIENT = re.compile(rb"^X-Rcpt-Args: <([0-9]+)to@sink\.test>", re.MULTILINE)


def read_recipients(dump: bytes) -> list[int]:
    """Give the recipients' numbers in smtp-sink's dump, as they came."""
    return [int(number) for number in _RECIPIENT.findall(dump)]


def check_numbers(numbers: Iterable[int], messages: int) -> None:
    """Raises: RunFailed: one of 1..messages is missing or there twice, or there is another."""
    times = Counter(numbers)
    missing = [n for n in range(1, messages + 1) if n not in times]
    doubled = [n for n, count in times.items() if count > 1]
    strange = [n for n in times if not 1 <= n <= messages]
    if missing or doubled or strange:
        raise RunFailed(
            f"{len(missing)} missing {missing[:5]}, {len(doubled)} twice {doubled[:5]}, {len(strange)} strange"
        )


def audit(scratch: Scratch, options: Options, name: str, start: StartSystem) -> str:
    """Send numbered messages through a system; give one line that says how it went ("…: FAILED: …" when not well)."""
    try:
        _audit(scratch, options, name, start)
    except RunFailed as failed:
        return f"{name}: FAILED: {failed}"
    return f"{name}: {MESSAGES} numbered messages, each at the sink once"


def _audit(scratch: Scratch, options: Options, name: str, start: StartSystem) -> None:
    directory = scratch.directory("dump")
    if os.geteuid() == 0:
        shutil.chown(directory, "nobody")  # the sink's user
    sink = MessageSink(scratch, dump=directory / "all")
    try:
        system = start(scratch, scratch.directory(name), sink.port)
        load = Load(messages=MESSAGES, sessions=options.sessions, octets=options.octets, kept=True, numbered=True)
        RunningLoad(scratch, load, system.port).await_end(120)
        sink.await_count(MESSAGES, options.stall_s)
        system.stop()
        sink.stop()
        check_numbers(read_recipients((directory / "all").read_bytes()), MESSAGES)
    finally:
        scratch.kill_children()
        sink.stop()
        shutil.rmtree(directory, ignore_errors=True)
