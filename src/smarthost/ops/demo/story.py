# SPDX-License-Identifier: MIT
"""Plays the demo: builds the scenery, starts a real relay, sends the letters, waits until all is over, has it judged.

Ends by itself: what is unfinished after `DEADLINE_S` is a failure of the demo. Leaves no files and no processes, also
when it is interrupted.
"""

import asyncio
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from smarthost.assemble import Relay
from smarthost.config import Config, parse_config
from smarthost.mail.errors import StoreError
from smarthost.ops import exits, words
from smarthost.ops.daemon import loop_factory
from smarthost.ops.demo import scenery
from smarthost.ops.demo.client import send_letters
from smarthost.ops.demo.judge import Evidence, Outcome, judge
from smarthost.ops.demo.ledger import Ledger
from smarthost.ops.demo.scenery import SENDERS, Letter, Place
from smarthost.ops.demo.view import View
from smarthost.testing.peers import ScriptedExchanger

DEADLINE_S = 26.0  # with STOP_S below the 30 s that the demo promises; it takes 4 s on an idle machine
STOP_S = 2.0
TICK_S = 0.1  # how often the progress is shown, and looked whether all is over
RETRY_S = 1.0  # before the second attempt; it doubles for the third
HOSTNAME = "relay.example"

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def play(
    view: View,
    *,
    hosts: Mapping[str, ScriptedExchanger] | None = None,
    deadline_s: float = DEADLINE_S,
    loops: LoopFactory | None = None,
) -> Outcome:
    """Play the demo with these hosts (else those of scenery) and have `view` tell it.

    Raises: CommandFailed: this machine lacks what the demo needs, or a signal ended it.
    """
    story = _Story(view, scenery.exchangers() if hosts is None else hosts, deadline_s)
    try:
        with asyncio.Runner(loop_factory=loops or loop_factory()) as runner:
            outcome = runner.run(story.play())
    except asyncio.CancelledError:
        raise exits.CommandFailed("ended by a signal", 128 + signal.SIGTERM) from None
    finally:
        view.close()
    view.end(outcome)
    return outcome


class _Story:
    """One run of the demo."""

    def __init__(self, view: View, hosts: Mapping[str, ScriptedExchanger], deadline_s: float) -> None:
        self._view = view
        self._hosts = hosts
        self._began = time.monotonic()
        self._until = self._began + deadline_s
        self._letters = scenery.write_letters()
        self._answers: dict[int, str] = {}
        self._troubles: list[str] = []
        self._ledger = Ledger(self._elapsed)
        self._is_sent = False
        self._left = (0, 0)  # messages and recipients in the queue, when all that is known had ended

    async def play(self) -> Outcome:
        """Play it to the end, or to the deadline."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._troubles.append(f"a bug: {context}"))
        _end_at_signals(loop)
        with tempfile.TemporaryDirectory(prefix="smarthost-demo-", ignore_cleanup_errors=True) as directory:
            async with scenery.build(self._hosts) as place:
                await self._live(Relay.from_config(_config(Path(directory), place), self._ledger), place)
        # RFC 2920 3.1: who pipelined DATA behind refused recipients ends it with a lone dot; that is no message.
        taken = {
            domain: [message for message in host.messages if message.recipients] for domain, host in self._hosts.items()
        }
        evidence = Evidence(self._letters, self._answers, self._ledger, taken)
        return judge(evidence, [*self._troubles, *self._ledger.troubles], self._elapsed())

    async def _live(self, relay: Relay, place: Place) -> None:
        """Start the relay, run everything until the deadline at most, and stop it in peace: with a time of its own."""
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                await relay.start()
                self._view.begin(_scene(relay, place))
                await self._run(relay)
        except TimeoutError:
            self._troubles.append(f"not over after {self._elapsed():.0f} s: {', '.join(self._unfinished())}")
        except StoreError as error:
            self._troubles.append(f"the store failed: {error}")
        finally:
            await relay.stop(STOP_S)

    async def _run(self, relay: Relay) -> None:
        """Send everything, and show the progress until nothing is left to happen."""
        sending = asyncio.create_task(self._send(relay.bound[0]))
        try:
            while True:
                self._show(time.time())
                self._is_sent = sending.done()
                if self._is_sent and self._ledger.is_over(self._accepted()):
                    self._left = await relay.store.count()
                    if self._left == (0, 0):
                        break
                await asyncio.sleep(TICK_S)
            self._ledger.tell("the queue is empty")
            self._show(time.time())
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, address: tuple[str, int]) -> None:
        """Let all senders send at once, each over one session."""
        began = self._elapsed()
        self._ledger.tell(f"{len(SENDERS)} senders hand in {len(self._letters)} messages over SMTP, all at once")
        mine = {sender: [letter for letter in self._letters if letter.reverse_path == sender] for sender in SENDERS}
        sessions = [send_letters(address, letters, self._answered) for letters in mine.values()]
        ended = await asyncio.gather(*sessions, return_exceptions=True)
        for sender, failure in zip(mine, ended, strict=True):
            if failure is not None:
                self._troubles.append(f"{sender} could not send: {failure!r}")
        took_ms = (self._elapsed() - began) * 1000
        accepted = sum(map(self._is_accepted, self._letters))
        self._ledger.tell(
            f"the relay has said 250 to {accepted} messages in {took_ms:.0f} ms; each was on disk before its 250"
        )

    def _unfinished(self) -> Iterator[str]:
        """Say what has kept it from being over."""
        if not self._is_sent:
            yield f"{len(self._letters) - len(self._answers)} of {len(self._letters)} messages are not answered"
        for domain, tally in self._ledger.tallies().items():
            if tally.accepted > tally.ended:
                yield f"{words.count(tally.accepted - tally.ended, 'recipient')} at {domain} not ended"
        if (unseen := self._accepted() - len(self._ledger.fates)) > 0:
            yield f"nothing is known of {words.count(unseen, 'recipient')}"
        if self._left != (0, 0) and self._ledger.is_over(self._accepted()):
            yield f"{words.count(self._left[0], 'message')} still in the queue, though each recipient has ended"

    def _answered(self, letter: Letter, answer: str) -> None:
        self._answers[letter.number] = answer

    def _accepted(self) -> int:
        """Count the recipients of the letters that the relay took."""
        return sum(len(letter.recipients) for letter in self._letters if self._is_accepted(letter))

    def _is_accepted(self, letter: Letter) -> bool:
        return self._answers.get(letter.number, "").startswith("250")

    def _show(self, now: float) -> None:
        while self._ledger.news:
            self._view.tell(self._ledger.news.popleft())
        self._view.progress(self._elapsed(), self._ledger.tallies(), now)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


def _config(directory: Path, place: Place) -> Config:
    """Configure a relay whose internet is the scenery."""
    dns_host, dns_port = place.dns.address
    return parse_config(
        f"""
        hostname = "{HOSTNAME}"
        state_dir = "{directory / "state"}"
        listen = ["127.0.0.1:0"]

        [dns]
        servers = ["{dns_host}:{dns_port}"]

        [mx]
        port = {place.port}
        allow_private = true

        [retry]
        first = {RETRY_S}
        """
    )


def _scene(relay: Relay, place: Place) -> list[str]:
    """Say what stands."""
    (host, port), (dns_host, dns_port) = relay.bound[0], place.dns.address
    return [
        "smarthost demo: a relay and its internet, all on this machine's loopback",
        f"  relay at {host}:{port}, durable queue in {relay.config.state_dir}",
        f"  DNS at {dns_host}:{dns_port}; mail exchangers at 127.0.0.2 to 127.0.0.7, port {place.port}",
    ]


def _end_at_signals(loop: asyncio.AbstractEventLoop) -> None:
    """Let SIGTERM and SIGHUP end us as SIGINT does: cleanly."""
    task = asyncio.current_task()
    assert task is not None, "called in the task that runs the demo"
    for which in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(which, task.cancel)
