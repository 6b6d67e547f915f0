# SPDX-License-Identifier: MIT
"""Interrupts wait for what must be whole."""

import os
import signal
from collections.abc import Iterator

import pytest
from bench.interrupts import catch_interrupts, uninterrupted


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The benchmark's handlers, and the former ones afterwards."""
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    catch_interrupts()
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_interrupts_at_once(number: signal.Signals) -> None:
    """Ctrl-C, TERM and a lost terminal end the benchmark in the same orderly way."""
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_signal_waits_for_the_end_of_what_must_be_whole() -> None:
    """A process that was started is always noted as started."""
    done = []

    def work() -> None:
        with uninterrupted():
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        work()

    assert done == ["inner", "outer"]


def test_without_a_signal_nothing_happens() -> None:
    """An interrupt is told once, not again at the next block."""
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)

    with uninterrupted():
        pass
