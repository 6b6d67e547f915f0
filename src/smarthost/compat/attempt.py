# SPDX-License-Identifier: MIT
"""The attempt manager: takes what relayers report, and does to the queue what follows.

Never lets a message go before it was accepted by a host, or its report is durable. What was reported and cannot be done
now (a full disk, an envelope that is damaged meanwhile) leaves the message in the queue. A crash leaves all messages of
the attempt waiting.
"""

import os
from collections.abc import Callable, Iterable
from pickle import UnpicklingError
from time import time
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python import log

from smarthost.compat.answers import host_key
from smarthost.compat.settling import Letter, Waits, file_report, read_letter, settle
from smarthost.compat.words import shown
from smarthost.mail.result import Outcome, Verdict
from smarthost.mail.settlement import SettledRecipient

BACK_OFF_S = 30  # after a host could not be connected to
_UNTOLD = Verdict(Outcome.BOUNCED, "5.0.0", "it was refused for good; what was said is not known")
_LOCAL = Verdict(Outcome.DEFERRED, "4.3.0", "its report could not be filed")
# Replies about the session, not the mail (send.verdict): whoever only says so has answered nothing.
_SESSION_CODES = frozenset({421, 503, 530, 534, 535, 538})
_SILENT = Verdict(Outcome.DEFERRED, "4.4.2", "the connection ended without a word about any message")


class _AttemptManager:
    """One attempt at the messages `manager.managed[relay]` names. `exchange`: the host tried at present, or "".

    `manager` has a `queue` and `managed`; with `waits` (Waits) its messages also wait for their next attempt, and
    expire. `passOver(relay, why) -> bool` is asked, when a host cannot be connected to, whether another one will be
    tried: `tryHost` says when. `greeted(relay)` is told when one can.
    """

    def __init__(self, manager: Any, noisy: bool = True, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.manager = manager
        self.noisy = noisy
        self.reactor = reactor
        self.domain = ""
        self.exchange = ""
        self.tried: list[str] = []  # hosts, the present one last
        self.isGreeted = False  # by the present one
        self.wasAnswered: bool | None = None  # about mail, by any host; None: nothing speaks against them either
        self.hostname = ""  # ours, as the last relayer said it; for reports
        self.passOver: Callable[[Any, str], bool] | None = None
        self.greeted: Callable[[Any], None] | None = None
        self._failures: list[str] = []  # of hosts, in this attempt
        self._wasAsked = False  # any of them; not so those that are left alone
        self._isPassing = False  # between two hosts: what is still said is about the one passed over
        self._isHeard = False  # something was said about a message
        self._verdicts: dict[str, Verdict] = {}
        self._accepted: dict[str, str] = {}
        self._completions: list[Deferred[None]] | None = []

    def getCompletionDeferred(self) -> Deferred[None]:
        """Give a Deferred that fires when the attempt is over, at once if it is."""
        if self._completions is None:
            return succeed(None)
        self._completions.append(Deferred())
        return self._completions[-1]

    # -- what relayers report

    def notifyGreeted(self, relay: Any, hostname: str = "") -> None:
        """The host took us, under this name, up to where mail can be spoken of."""
        self.hostname = hostname
        self.isGreeted = True
        if self.greeted is not None:
            self.greeted(relay)

    def notifyVerdict(self, relay: Any, message: str, verdict: Verdict) -> None:
        """The host's word about a message, in full: before `notifyFailure`, or for one that will wait."""
        self._isHeard = True
        self._verdicts[_name(message)] = verdict
        if verdict.reply is not None and verdict.reply.code not in _SESSION_CODES:
            self.wasAnswered = True
        elif verdict.host:  # else it is our own word
            self.wasAnswered = self.wasAnswered or False

    def notifyAccepted(self, relay: Any, message: str, reply: str) -> None:
        """The host's word with which it took responsibility: before `notifySuccess`, for the log."""
        self._accepted[_name(message)] = f" to {shown(self.exchange or 'a host')} ({shown(reply)})"

    def notifySuccess(self, relay: Any, message: str) -> None:
        """A host took responsibility for the message: remove it."""
        name = _name(message)
        self._isHeard = self.wasAnswered = True
        self._verdicts.pop(name, None)
        if self.noisy:
            log.msg(f"success sending {shown(name)}{self._accepted.pop(name, '')}, removing from queue")
        self._take(relay, name)
        self._remove(name)

    def notifyFailure(self, relay: Any, message: str) -> None:
        """The message was refused for good: tell its sender, then remove it. If neither can be done now, it waits."""
        name = _name(message)
        self._isHeard = True
        if name not in self._verdicts:
            self.wasAnswered = True
        if self.noisy:
            log.msg(f"could not relay {shown(name)}")
        if self._give_up(name, self._verdicts.pop(name, _UNTOLD)):
            self._take(relay, name)
        else:
            self._verdicts[name] = _LOCAL

    def notifyDone(self, relay: Any) -> None:
        """No more mail goes this way: what is left waits. Harmless when said twice."""
        if not self._isPassing:
            self.finish(relay)

    def notifyBroken(self, relay: Any, why: str) -> None:
        """No relayer could be made, by a fault of the program's: no host is to blame, and no attempt is counted."""
        log.msg(f"no relayer for {self.domain or 'the messages of this attempt'}: {shown(why)}; they wait 30 s")
        self.wasAnswered = False
        names = self.manager.managed.pop(relay, ())
        self._requeue_later(names)
        self.finish(relay)

    def notifyNoConnection(self, relay: Any) -> None:
        """The host could not be connected to. If no other one is tried, the messages wait for at least 30 s."""
        self.skipHost(relay, getattr(relay, "whyNotConnected", ""))

    # -- what follows

    def tryHost(self, exchange: str) -> None:
        """From now on, what is reported is about this host."""
        self._isPassing = False
        self.exchange = exchange
        self.tried.append(host_key(exchange))

    def skipHost(self, relay: Any, why: str, wasAsked: bool = True) -> None:
        """Go on to another host, or leave the messages alone for a while. `wasAsked`: not one that is left alone."""
        if self._isPassing:
            return
        if relay not in self.manager.managed:
            log.msg(f"no connection for a relayer that manages nothing: {shown(repr(relay))}")
            return
        self._failures.append(f"{self.exchange}: {why or 'no connection'}" if self.exchange else why or "no connection")
        self._wasAsked = self._wasAsked or wasAsked
        self._isPassing = self.passOver is not None and self.passOver(relay, why)
        if not self._isPassing:
            self.backOff(relay)

    def finish(self, relay: Any) -> None:
        """End the attempt: what is left of its messages waits, each as its verdict says."""
        is_silent = self.isGreeted and not self._isHeard
        if is_silent:
            self.wasAnswered = False
        try:
            for name in self.manager.managed.pop(relay, ()):
                if self.noisy:
                    log.msg(f"Setting {shown(name)} waiting")
                # Where a host said nothing at all, whoever connects again at once would do so for ever.
                verdict = self._verdicts.pop(name, _SILENT if is_silent else None)
                if verdict is None or self._defer(name, verdict):
                    self._requeue([name])
        finally:
            completions, self._completions = self._completions, None
            for completion in completions or ():
                completion.callback(None)

    def backOff(self, relay: Any, why: str = "", status: str = "4.4.1") -> None:
        """Let the messages of this attempt wait as after any failure, and do not show them as waiting for 30 s.

        When a host of their domain answers again, they wait no longer. `why`: if not what the hosts failed at.
        """
        if self._wasAsked or why:
            self.wasAnswered = self.wasAnswered or False
        names = self.manager.managed.pop(relay, ())
        why = why or "; ".join(self._failures)
        if self.noisy:
            whose = f" for {self.domain}" if self.domain else ""
            log.msg(f"Backing off on delivery of {len(names)} messages{whose}: {shown(why)}")
        verdict = Verdict(Outcome.DEFERRED, status, why, None, self.exchange, awaits_host=True)
        self._requeue_later([name for name in names if self._defer(name, verdict)])

    def giveUp(self, relay: Any, verdict: Verdict, most: int = 1) -> None:
        """The messages of this attempt are undeliverable, without a host being asked; `most` of them are returned now.

        Each report is written to disk. The others wait for their turn.
        """
        self.wasAnswered = None
        names = list(self.manager.managed.get(relay, ()))
        for name in names[:most]:
            self._isHeard = True
            self._verdicts[name] = verdict
            self.notifyFailure(relay, name)

    def _requeue_later(self, names: Iterable[str]) -> None:
        left = list(names)
        if left:
            self.reactor.callLater(BACK_OFF_S, self._requeue, left)

    def _defer(self, name: str, verdict: Verdict) -> bool:
        """Note when a message may be tried again; False: its time was over, and it is gone or set aside."""
        waits: Waits | None = getattr(self.manager, "waits", None)
        if waits is None:
            return True
        try:
            return self._defer_with(waits, name, verdict)
        except Exception as error:  # noqa: BLE001 - an envelope damaged meanwhile, or a bug, must keep no other message
            log.msg(f"message {shown(name)} waits, but cannot be read: {shown(str(error) or repr(error))}")
            waits.put_off(name)
            return True

    def _defer_with(self, waits: Waits, name: str, verdict: Verdict) -> bool:
        letter = read_letter(self.manager.queue, name)
        now = waits.wall()
        settled = settle(waits.with_grace(letter), verdict, waits.attempts(name), waits.retry_at, now)
        if settled.state.is_terminal:
            if self._end(letter, settled, now):
                return False
            waits.put_off(name)
            return True
        if verdict.awaits_host:  # one line for all of them was written
            attempts = settled.attempts if self._wasAsked or not self.tried else waits.attempts(name)
            due = settled.due if attempts == settled.attempts else now
            waits.defer(name, attempts, max(due, now + BACK_OFF_S), (self.domain, *self.tried))
            return True
        waits.defer(name, settled.attempts, settled.due)
        log.msg(
            f"{_describe(letter)} waits {settled.due - now:.0f} s (attempt {settled.attempts}): {shown(settled.why)}"
        )
        return True

    def _give_up(self, name: str, verdict: Verdict) -> bool:
        waits: Waits | None = getattr(self.manager, "waits", None)
        now = waits.wall() if waits is not None else time()
        try:
            letter = read_letter(self.manager.queue, name)
        except (OSError, UnpicklingError) as error:
            log.msg(f"message {shown(name)} was refused for good, but cannot be read, and stays: {shown(str(error))}")
            return False
        return self._end(letter, settle(letter, verdict, 0, lambda *_: None, now), now)

    def _end(self, letter: Letter, settled: SettledRecipient, now: float) -> bool:
        """Report and remove a message that bounced or expired; False: it could not be reported, and stays.

        One whose sender cannot be told is set aside: nobody else would know that it was ever there.
        """
        try:
            is_told = settled.report_owed and file_report(self.manager.queue, letter, settled, now, self.hostname)
        except Exception as error:  # noqa: BLE001 - a full disk, or a bug in a report, costs this message its turn only
            log.msg(f"{_describe(letter)} is undeliverable, but stays: {shown(str(error))}")
            return False
        set_aside = getattr(self.manager.queue, "setAside", None)
        if not is_told and letter.sender and set_aside is not None:
            whom = shown(repr(letter.sender))
            set_aside(letter.name, f"undeliverable, and {whom} cannot be told: {shown(settled.why)}")
            return True
        if not is_told:
            whom = shown(repr(letter.sender)) if letter.sender else "the null sender"
            log.msg(f"{_describe(letter)} dropped, a report to {whom} is not sent: {shown(settled.why)}")
        elif self.noisy or getattr(self.manager, "waits", None) is not None:
            log.msg(
                f"{_describe(letter)} {settled.state.value}, its sender is told: {settled.status} {shown(settled.why)}"
            )
        self._remove(letter.name)
        return True

    def _remove(self, name: str) -> None:
        waits: Waits | None = getattr(self.manager, "waits", None)
        if waits is not None:
            waits.forget(name)
        try:
            self.manager.queue.done(self.manager.queue.getPath(name))
        except OSError as error:
            why = shown(str(error))
            log.msg(
                f"message {shown(name)} is done with, but cannot be removed; not sent again before a restart: {why}"
            )

    def _take(self, relay: Any, name: str) -> None:
        names = self.manager.managed.get(relay, [])
        if name in names:
            names.remove(name)

    def _requeue(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self.manager.queue.setWaiting(name)
            except KeyError:
                log.msg(f"message {shown(name)} is no longer with its attempt")


def _name(message: str) -> str:
    return os.path.basename(os.fsdecode(message))  # noqa: PTH119 - paths are text in this interface


def _describe(letter: Letter) -> str:
    return f"message {shown(letter.name)} for {shown(repr(letter.recipient))}"
