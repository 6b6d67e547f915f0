# SPDX-License-Identifier: MIT
"""The relaying managers: what is sent when, over how many connections, and what every kind of trouble costs.

Real files, a clock and a reactor in memory, a calculator that says what it is told; factories are driven by hand.
"""

import email
import inspect
import os
import pickle
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.application.internet import TimerService
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.mail import relaymanager as original
from twisted.names.dns import MX, Record_CNAME, Record_MX, RRHeader
from twisted.python.failure import Failure

from smarthost.compat import relaymanager, turns
from smarthost.compat.relaymanager import (
    CanonicalNameLoop,
    ESMTPManagedRelayerFactory,
    MXCalculator,
    Queue,
    RelayStateHelper,
    SmartHostESMTPRelayingManager,
    SmartHostSMTPRelayingManager,
    SMTPManagedRelayerFactory,
    _checkState,
)
from smarthost.mail.errors import NullMX
from smarthost.mail.reply import Reply
from smarthost.mail.result import Outcome, Verdict
from smarthost.queue.schedule import RetrySchedule

DAY_S = 86_400.0
REFUSED = Verdict(Outcome.BOUNCED, "5.1.1", "refused", Reply(550, "5.1.1", ("no such user",)), "mx.example")
LEFT_OUT = {"_finish", "_init", "_cbMX"}  # private, and nobody's to call; _cbMX is tested with the calculator
SILENCE = Verdict(Outcome.DEFERRED, "4.4.2", "no answer to MAIL", None, "mx.example", ambiguous=True)
LATER = Verdict(Outcome.DEFERRED, "4.2.0", "mailbox busy", Reply(451, "4.2.0", ("busy",)), "mx.example")


class Calculator:
    """Says for each domain what it was told: a host, an error, a Deferred; the last word is repeated."""

    def __init__(self, **said: list[Any]) -> None:
        self.said = {domain.replace("_", "."): words for domain, words in said.items()}
        self.asked: list[str] = []
        self.marks: list[tuple[str, str]] = []

    def getMX(self, domain: str) -> Deferred[Any]:
        self.asked.append(domain)
        words = self.said.get(domain, [f"mx.{domain}"])
        word = words.pop(0) if len(words) > 1 else words[0]
        if isinstance(word, Deferred):
            return word
        return fail(word) if isinstance(word, Exception) else succeed(Record_MX(0, word))

    def markBad(self, host: str) -> None:
        self.marks.append(("bad", host))

    def markGood(self, host: str) -> None:
        self.marks.append(("good", host))


class Bench:
    """A directory, a queue, a manager, and hands for what hosts and the network do."""

    def __init__(self, directory: Path, **keywords: Any) -> None:
        self.directory = directory
        self.began = time.time()
        self.reactor: Any = MemoryReactorClock()
        self.calculator = Calculator()
        self.queue = Queue(str(directory))
        self.queue.noisy = False
        self.manager = SmartHostSMTPRelayingManager(self.queue, **keywords)
        self.manager.reactor = self.reactor
        self.manager.mxcalc = self.calculator
        self.manager.fArgs = ("relay.example.org",)
        self.manager.waits.wall = self.wall
        self.fired: list[Any] = []

    def wall(self) -> float:
        return float(self.began + self.reactor.seconds())

    def put(self, name: str, recipient: str, sender: str = "alice@example.org", age_s: float = 0.0) -> None:
        (self.directory / f"{name}-H").write_bytes(pickle.dumps([sender, recipient]))
        (self.directory / f"{name}-D").write_bytes(b"Subject: supper\n\nbody\n")
        os.utime(self.directory / f"{name}-D", (self.wall() - age_s, self.wall() - age_s))

    def fill(self, *recipients: str) -> None:
        """Put messages 00, 01 ..., the oldest first."""
        for n, recipient in enumerate(recipients):
            self.put(f"{n:02}", recipient, age_s=1000 - n)

    def check(self) -> Deferred[Any] | None:
        """Call checkState, and note when what it gives fires."""
        completion = self.manager.checkState()
        if completion is not None:
            completion.addBoth(self.fired.append)
        return completion

    def dials(self) -> list[str]:
        """Give the hosts connected to, in order."""
        return [client[0] for client in self.reactor.tcpClients]

    def factories(self) -> list[Any]:
        return list(self.manager.managed)

    def names(self) -> list[list[str]]:
        return list(self.manager.managed.values())

    def refuse_connection(self, factory: Any) -> None:
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        self.reactor.advance(0)

    def deliver(self, factory: Any) -> None:
        """The host takes all messages, and the connection is closed."""
        attempt = factory.manager
        attempt.notifyGreeted(factory, "relay.example.org")
        for name in list(self.manager.managed[factory]):
            attempt.notifySuccess(factory, self.queue.getPath(name))
        attempt.notifyDone(factory)

    def answer(self, factory: Any, verdict: Verdict) -> None:
        """The host says this about all messages, and the connection is closed."""
        attempt = factory.manager
        attempt.notifyGreeted(factory, "relay.example.org")
        for name in list(self.manager.managed[factory]):
            attempt.notifyVerdict(factory, name, verdict)
            if verdict.outcome is Outcome.BOUNCED:
                attempt.notifyFailure(factory, name)
        attempt.notifyDone(factory)

    def wait(self, seconds: float) -> None:
        self.reactor.advance(seconds)

    def reports(self) -> list[Any]:
        """Give the reports in the directory, parsed."""
        names = {path.name[:-2] for path in self.directory.iterdir() if path.name.endswith("-D")}
        senders = {name: self.queue.getEnvelope(name)[0] for name in names}
        return [
            email.message_from_bytes((self.directory / f"{name}-D").read_bytes())
            for name in sorted(names)
            if senders[name] == ""
        ]

    def status(self) -> Any:
        """Give the recipient's fields of the only report."""
        (report,) = self.reports()
        return report.get_payload()[1].get_payload()[1]

    def is_idle(self) -> bool:
        manager = self.manager
        return not (manager.managed or manager._attempts)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


pytestmark = pytest.mark.usefixtures("lines")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """That files are durable is for others to show; here it only takes time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def said_of(lines: list[str], text: str) -> list[str]:
    return [line for line in lines if text in line]


# -- attributes and defaults


@pytest.mark.parametrize(
    ("kind", "factory"),
    [
        (SmartHostSMTPRelayingManager, SMTPManagedRelayerFactory),
        (SmartHostESMTPRelayingManager, ESMTPManagedRelayerFactory),
    ],
)
def test_the_attributes_are_the_original_s(tmp_path: Path, kind: Any, factory: Any) -> None:
    """A program finds what it reads and sets, under the same names."""
    queue = Queue(str(tmp_path))

    manager = kind(queue)

    assert kind.PORT == manager.PORT == 25
    assert kind.mxcalc is manager.mxcalc is None
    assert kind.factory is manager.factory is factory
    assert (manager.fArgs, manager.fKwArgs, manager.managed) == ((), {}, {})
    assert (manager.queue, manager.maxConnections, manager.maxMessagesPerConnection) == (queue, 2, 10)
    assert (kind(queue, 7, 8).maxConnections, kind(queue, 7, 8).maxMessagesPerConnection) == (7, 8)
    assert manager._reactor() is global_reactor


def test_the_module_has_every_public_name_of_the_original() -> None:
    """Changing the import is all there is to do."""
    from twisted.mail import relaymanager as original

    ours = set(dir(relaymanager))
    public = {name for name, value in vars(original).items() if getattr(value, "__module__", "") == original.__name__}

    assert {"SmartHostSMTPRelayingManager", "Queue", "_checkState"} <= public <= ours
    assert public - {"_AttemptManager", "_checkState"} <= set(relaymanager.__all__)


def test_the_factory_gets_paths_attempt_and_arguments(bench: Bench) -> None:
    """fArgs and fKwArgs are for each factory; the connection goes to PORT of the exchanger."""
    made: list[Any] = []

    class Factory(SMTPManagedRelayerFactory):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append((args, kwargs))
            super().__init__(*args, **kwargs)

    bench.manager.factory = Factory
    bench.manager.fArgs = ("identity", 3)
    bench.manager.fKwArgs = {"logsize": 7}
    bench.manager.PORT = 2525
    bench.fill("bob@example.net")

    bench.check()

    (((paths, attempt, *rest), kwargs),) = made
    assert paths == [bench.queue.getPath("00")]
    assert isinstance(attempt, relaymanager._AttemptManager)
    assert (rest, kwargs) == (["identity", 3], {"logsize": 7})
    assert bench.reactor.tcpClients[0][:3] == ("mx.example.net", 2525, bench.factories()[0])


def test_our_calculator_is_made_on_first_use(bench: Bench) -> None:
    """Whoever sets none gets one, once."""
    bench.manager.mxcalc = None
    bench.fill("a@[192.0.2.1]", "b@[192.0.2.2]")

    bench.check()

    made = bench.manager.mxcalc
    assert isinstance(made, MXCalculator)
    assert bench.dials() == ["192.0.2.1", "192.0.2.2"]
    assert made is bench.manager._ownCalculator


# -- pickling


def test_a_manager_survives_pickling_without_what_is_volatile(bench: Bench) -> None:
    """In the middle of an attempt: what was being sent waits again, settings stay, and it works."""
    bench.manager.schedule = RetrySchedule(first_s=7.0, longest_s=7.0, jitter=0.0)
    bench.manager.PORT = 2525
    bench.fill("bob@example.net", "bad address")
    bench.check()
    assert bench.manager.managed
    bench.manager.mxcalc = None

    revived = pickle.loads(pickle.dumps(bench.manager))

    assert revived.managed == {}
    assert revived.schedule.first_s == 7.0
    assert (revived.PORT, revived.fArgs, revived.reactor) == (2525, ("relay.example.org",), None)
    assert "00" in revived.queue.getWaiting()
    bench.manager = revived
    bench.queue = revived.queue
    revived.reactor, revived.mxcalc = bench.reactor, bench.calculator
    bench.check()
    bench.deliver(bench.factories()[0])
    assert "00-D" not in os.listdir(bench.directory)  # noqa: PTH208


def test_a_manager_is_pickled_without_its_open_sessions(bench: Bench) -> None:
    """In the middle of a session there are connections about, which nobody can keep."""
    bench.fill("bob@example.net")
    bench.check()
    (factory,) = bench.factories()
    factory.unpicklable = lambda: None
    factory.manager.notifyGreeted(factory, "relay.example.org")
    bench.manager.mxcalc = None

    assert pickle.loads(pickle.dumps(bench.manager)).managed == {}


def test_a_program_s_own_calculator_is_pickled_and_ours_is_made_anew(bench: Bench) -> None:
    """Mail that was to go through a program's own calculator never goes by DNS because of a restart."""
    bench.manager.mxcalc = Calculator(example_net=["own.example"])
    assert pickle.loads(pickle.dumps(bench.manager)).mxcalc.said == {"example.net": ["own.example"]}

    bench.manager.mxcalc = None
    bench.fill("a@[192.0.2.1]")
    bench.check()
    assert pickle.loads(pickle.dumps(bench.manager)).mxcalc is None

    bench.manager.mxcalc = object.__new__(type("Unpicklable", (), {"__reduce__": lambda self: 1 / 0}))
    with pytest.raises(ZeroDivisionError):
        pickle.dumps(bench.manager)


def test_a_subclass_pickles_too(tmp_path: Path) -> None:
    """The ESMTP manager, and class attributes a program sets."""
    revived = pickle.loads(pickle.dumps(SmartHostESMTPRelayingManager(Queue(str(tmp_path)), 5, 6)))

    assert (revived.maxConnections, revived.maxMessagesPerConnection, revived.managed) == (5, 6, {})
    assert revived.factory is ESMTPManagedRelayerFactory
    assert revived.checkState() is None


# -- checkState: what it gives


def test_nothing_is_begun_when_idle(bench: Bench) -> None:
    """An empty queue gives None."""
    assert bench.manager.checkState() is None


def test_nothing_is_begun_when_all_connections_are_used(bench: Bench) -> None:
    """The next call waits for one to end."""
    bench.fill("a@one.example", "b@two.example", "c@three.example")
    bench.check()
    assert bench.manager.checkState() is None
    assert bench.dials() == ["mx.one.example", "mx.two.example"]

    bench.deliver(bench.factories()[0])
    assert bench.check() is not None

    assert bench.dials()[2:] == ["mx.three.example"]


def test_nothing_is_begun_when_nothing_is_due(bench: Bench) -> None:
    """What waits for its retry is no reason to connect, and is shown as waiting."""
    bench.fill("a@one.example")
    bench.check()
    bench.answer(bench.factories()[0], LATER)

    assert bench.manager.checkState() is None
    assert bench.queue.getWaiting() == ["00"]


def test_the_deferred_fires_when_all_its_connections_are_gone(bench: Bench) -> None:
    """Not with the first, and not with a later call's; new mail meanwhile is taken up."""
    bench.fill("a@one.example", "b@two.example")
    bench.check()
    first, second = bench.factories()

    bench.deliver(first)
    bench.put("99", "c@three.example")
    other = bench.check()
    assert other is not None
    bench.deliver(bench.factories()[-1])
    assert bench.fired == [[(True, None)]]
    bench.deliver(second)

    assert bench.fired == [[(True, None)], [(True, None), (True, None)]]
    assert bench.is_idle()


def test_the_next_check_may_be_made_by_who_is_told(bench: Bench) -> None:
    """A program may call checkState when the Deferred fires: the place is free by then."""
    bench.manager.maxConnections = 1
    bench.fill("a@one.example", "b@two.example")
    completion = bench.manager.checkState()
    assert completion is not None
    completion.addCallback(lambda _: bench.check())

    bench.deliver(bench.factories()[0])

    assert bench.dials() == ["mx.one.example", "mx.two.example"]


# -- checkState: what is chosen


def test_messages_go_oldest_first_one_domain_a_connection(bench: Bench) -> None:
    """Both limits hold; a domain is the same in any case; the rest waits."""
    recipients = ["a@one.example", "a@TWO.example", "a@three.example", "b@two.Example", "b@one.example"]
    bench.fill(*recipients, *(["c@one.example"] * 15))

    bench.check()

    assert bench.dials() == ["mx.one.example", "mx.two.example"]
    assert bench.names() == [["00", "04", *(f"{n:02}" for n in range(5, 13))], ["01", "03"]]


def test_many_messages_for_one_domain_take_turns(bench: Bench) -> None:
    """Ten a connection, two connections, until all are gone; none twice."""
    bench.fill(*["a@one.example"] * 45)
    sent: list[str] = []

    while bench.check() or bench.factories():
        bench.check()
        assert len(bench.factories()) <= 2
        for factory in bench.factories():
            assert len(bench.manager.managed[factory]) <= 10
            sent += bench.manager.managed[factory]
            bench.deliver(factory)

    assert sent == [f"{n:02}" for n in range(45)]
    assert bench.is_idle()
    assert bench.reactor.getDelayedCalls() == []


def test_many_domains_share_the_connections(tmp_path: Path) -> None:
    """A hundred domains never take more than maxConnections."""
    bench = Bench(tmp_path, maxConnections=7, maxMessagesPerConnection=1)
    bench.fill(*(f"a@d{n}.example" for n in range(100)))

    while bench.check():
        assert 6 <= len(bench.factories()) <= 7 or len(bench.dials()) == 100
        for factory in bench.factories():
            bench.deliver(factory)

    assert bench.dials() == [f"mx.d{n}.example" for n in range(100)]


def test_lowering_a_limit_at_run_time_is_respected(bench: Bench) -> None:
    """A program may set the attributes at any time."""
    bench.fill("a@one.example", "a@two.example", "a@three.example")
    bench.check()
    bench.manager.maxConnections = 1
    assert bench.manager.checkState() is None
    bench.deliver(bench.factories()[0])
    assert bench.manager.checkState() is None


# -- temporary failures


def test_a_deferred_message_is_retried_by_schedule_and_expires_after_5_days(bench: Bench) -> None:
    """5 s, doubling to an hour; never a bounce before its time is over, then 4.4.7."""
    bench.fill("a@one.example")
    bench.put("00", "a@one.example")
    times: list[float] = []
    while not bench.reports():
        assert bench.reactor.seconds() < 5 * DAY_S + 600
        if bench.check():
            times.append(bench.reactor.seconds())
            bench.answer(bench.factories()[0], LATER)
            assert bench.reports() or bench.queue.getWaiting() == ["00"]
        bench.wait(5 if len(times) < 11 else 600)

    waits = [after - before for before, after in pairwise(times)]
    assert waits[:11] == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]
    assert max(waits) <= 3600
    assert times[-2] < 5 * DAY_S <= times[-1]
    assert bench.status()["Status"] == "4.4.7"
    assert bench.is_idle()


def test_a_deferred_message_does_not_hold_up_others_of_its_domain(bench: Bench) -> None:
    """Others are sent while it waits."""
    bench.fill("a@one.example", "b@one.example")
    bench.check()
    (factory,) = bench.factories()
    factory.manager.notifyVerdict(factory, "00", LATER)
    factory.manager.notifyDone(factory)

    bench.check()

    assert bench.names() == [["01"]]


def test_a_refused_message_bounces_and_its_report_is_relayed(bench: Bench) -> None:
    """The report is a message like any other, to the sender's domain."""
    bench.fill("bob@example.net")
    bench.check()
    bench.answer(bench.factories()[0], REFUSED)

    assert bench.status()["Diagnostic-Code"] == "smtp; 550 5.1.1 no such user"
    bench.check()
    assert bench.dials() == ["mx.example.net", "mx.example.org"]


# -- connecting


def test_who_reports_no_connection_finds_everything_done(bench: Bench) -> None:
    """Where there is no other host, the attempt is over when the report returns, and 30 s later its mail waits."""
    bench.calculator.said["one.example"] = ["mx.one.example"] * 3
    bench.fill("a@one.example")
    bench.check()
    (factory,) = bench.factories()

    factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    assert bench.is_idle()
    assert len(bench.fired) == 1
    assert bench.queue.getWaiting() == []
    bench.reactor.advance(30)
    assert bench.queue.getWaiting() == ["00"]
    bench.check()
    assert bench.dials() == ["mx.one.example"] * 2


def test_a_bare_notify_done_lets_messages_go_again_at_once(bench: Bench) -> None:
    """A program's own relayer that only says it is done says nothing against the host."""
    bench.fill("a@one.example")
    bench.check()
    (factory,) = bench.factories()

    factory.manager.notifyDone(factory)

    assert bench.queue.getWaiting() == ["00"]
    assert bench.check() is not None


def test_a_program_may_begin_an_attempt_by_itself(bench: Bench) -> None:
    """_cbExchange and _ebExchange need no more than `managed`, as ever."""
    bench.fill("a@one.example", "b@one.example")
    bench.queue.readDirectory()
    bench.queue.setRelaying("00")
    bench.queue.setRelaying("01")
    connecting, failing = ClientFactory(), ClientFactory()
    bench.manager.managed = {connecting: ["00"], failing: ["01"]}

    bench.manager._cbExchange("mx.one.example", 25, connecting)
    bench.manager._ebExchange(Failure(DNSLookupError("no")), failing, "one.example")

    assert bench.dials() == ["mx.one.example"]
    assert bench.manager.managed == {connecting: ["00"]}
    bench.wait(30)
    assert bench.queue.getWaiting() == ["01"]


@pytest.mark.parametrize(
    "name",
    [
        "CanonicalNameLoop",
        "ESMTPManagedRelayer",
        "ESMTPManagedRelayerFactory",
        "MXCalculator",
        "ManagedRelayerMixin",
        "Queue",
        "RelayStateHelper",
        "SMTPManagedRelayer",
        "SMTPManagedRelayerFactory",
        "SmartHostESMTPRelayingManager",
        "SmartHostSMTPRelayingManager",
        "_AttemptManager",
        "_checkState",
    ],
)
def test_what_could_be_called_can_be_called_as_before(name: str) -> None:
    """Every method of the original is here, and takes what it took, under the same names."""
    theirs, ours = getattr(original, name), getattr(relaymanager, name)
    callables = {name: (theirs, ours)}
    if inspect.isclass(theirs):
        mine = {key: value for key, value in vars(theirs).items() if inspect.isfunction(value)}
        callables = {key: (value, getattr(ours, key)) for key, value in mine.items() if key not in LEFT_OUT}
    for key, (before, now) in callables.items():
        old = [each for each in inspect.signature(before).parameters.values() if each.name != "self"]
        new = [each for each in inspect.signature(now).parameters.values() if each.name != "self"]
        named = [each for each in new if each.kind is each.POSITIONAL_OR_KEYWORD]
        if any(each.kind is each.VAR_POSITIONAL for each in new) and len(named) < len(old):
            continue  # takes anything
        assert [each.name for each in named][: len(old)] == [each.name for each in old if each.kind == named[0].kind], (
            key
        )
        assert all(each.default is not each.empty for each in named[len(old) :]), key


def test_a_dead_exchanger_is_passed_over_in_the_same_attempt(bench: Bench) -> None:
    """The calculator hears of it and is asked again; the Deferred waits for the whole attempt."""
    bench.calculator.said["one.example"] = ["mx1.example", "mx2.example"]
    bench.fill("a@one.example")
    bench.check()

    bench.refuse_connection(bench.factories()[0])
    assert bench.dials() == ["mx1.example", "mx2.example"]
    assert bench.fired == []
    bench.deliver(bench.factories()[0])

    assert bench.calculator.marks == [("bad", "mx1.example"), ("good", "mx2.example")]
    assert len(bench.fired) == 1
    assert bench.is_idle()
    assert bench.queue.getWaiting() == bench.queue.getRelayed() == []


def test_five_hosts_are_tried_then_the_messages_wait(bench: Bench) -> None:
    """A site of dead addresses holds a place for a while, not for ever."""
    bench.calculator.said["one.example"] = [f"mx{n}.example" for n in range(9)]
    bench.fill("a@one.example")
    bench.check()
    for _ in range(5):
        bench.refuse_connection(bench.factories()[0])

    assert bench.dials() == [f"mx{n}.example" for n in range(5)]
    assert bench.is_idle()
    assert len(bench.fired) == 1
    bench.wait(29)
    assert bench.manager.checkState() is None
    bench.wait(1)
    assert bench.check() is not None


@pytest.mark.parametrize("again", ["mx.example", "MX.Example", "mx.example."])
def test_a_calculator_that_names_the_same_host_again_has_no_other(bench: Bench, again: str) -> None:
    """Whatever its case, and with or without the final dot: it is not dialled twice."""
    bench.calculator.said["one.example"] = ["mx.example", again]
    bench.fill("a@one.example")
    bench.check()

    bench.refuse_connection(bench.factories()[0])

    assert bench.dials() == ["mx.example"]
    assert bench.is_idle()
    assert len(bench.fired) == 1
    bench.wait(30)
    assert bench.check() is not None


def test_a_calculator_may_have_only_getMX(bench: Bench) -> None:
    """A program's own need not know what a mark is."""

    class Plain:
        def getMX(self, domain: str) -> Any:
            return succeed(Record_MX(0, "only.example"))

    bench.manager.mxcalc = Plain()
    bench.fill("a@one.example", "a@two.example")
    bench.check()
    first, second = bench.factories()

    bench.refuse_connection(first)
    bench.deliver(second)

    assert bench.is_idle()
    assert bench.queue.getRelayed() == ["00"]


def test_a_calculator_whose_marks_raise_keeps_no_place(bench: Bench, lines: list[str]) -> None:
    """Its bug is a line in the log."""

    def broken(host: str) -> None:
        raise ZeroDivisionError

    bench.calculator.markBad = broken  # type: ignore[method-assign]
    bench.fill("a@one.example")
    bench.check()

    bench.refuse_connection(bench.factories()[0])

    assert bench.is_idle()
    assert said_of(lines, "markBad of mx.one.example failed")


def test_a_host_that_ends_before_its_greeting_is_passed_over(bench: Bench) -> None:
    """Connected is not greeted: the relayer says that there was no connection."""
    bench.calculator.said["one.example"] = ["mx1.example", "mx2.example"]
    bench.fill("a@one.example")
    bench.check()
    (factory,) = bench.factories()

    factory.manager.notifyNoConnection(factory)
    factory.manager.notifyDone(factory)
    bench.reactor.advance(0)

    assert bench.dials() == ["mx1.example", "mx2.example"]


class SuddenReactor(MemoryReactorClock):
    """A reactor that fails to connect to certain hosts while it is being asked to, in one way or the other."""

    raising: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()

    def connectTCP(self, host: str, port: int, factory: Any, *args: Any, **kwargs: Any) -> Any:
        connector = super().connectTCP(host, port, factory, *args, **kwargs)
        if host in self.raising:
            raise UnicodeError("label empty or too long")
        if host in self.failing:
            factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))
        return connector


@pytest.mark.parametrize("way", ["raising", "failing"])
def test_a_connection_that_fails_at_once_is_passed_over_like_any(bench: Bench, way: str) -> None:
    """Three dead hosts, and the fourth is tried; nothing ends too early, nothing is left behind."""
    bench.reactor = bench.manager.reactor = SuddenReactor()
    setattr(bench.reactor, way, ("mx0.example", "mx1.example", "mx2.example"))
    bench.calculator.said["one.example"] = [f"mx{n}.example" for n in range(4)]
    bench.fill("a@one.example")

    bench.check()
    bench.reactor.pump([0] * 5)

    assert bench.dials() == [f"mx{n}.example" for n in range(4)]
    assert bench.names() == [["00"]]
    assert bench.fired == []
    bench.deliver(bench.factories()[0])
    assert len(bench.fired) == 1
    assert bench.is_idle()


@pytest.mark.parametrize("way", ["raising", "failing"])
def test_when_all_connections_fail_at_once_messages_wait(bench: Bench, way: str) -> None:
    """No place is kept, no recursion, and 30 s later it is tried again."""
    bench.reactor = bench.manager.reactor = SuddenReactor()
    setattr(bench.reactor, way, ("mx.one.example",))
    bench.fill("a@one.example")

    bench.check()
    bench.reactor.pump([0] * 5)

    assert bench.is_idle()
    assert len(bench.fired) == 1
    assert bench.manager.checkState() is None
    bench.wait(30)
    assert bench.check() is not None


def test_a_domain_nobody_can_connect_to_is_left_alone_then_gets_one_connection(bench: Bench) -> None:
    """Its backlog does not take the places of what can be delivered; once answered, it has them again at once."""
    bench.fill(*["a@dead.example"] * 45)
    bench.check()
    bench.check()
    bench.put("99", "z@one.example")
    assert bench.names() == [[f"{n:02}" for n in range(10)], [f"{n:02}" for n in range(10, 20)]]
    for factory in bench.factories():
        bench.refuse_connection(factory)
    assert bench.is_idle()

    bench.check()
    assert bench.dials()[2:] == ["mx.one.example"]
    bench.deliver(bench.factories()[0])
    assert bench.check() is None  # 25 messages of it were never tried, and it is not knocked at for each of them
    bench.wait(60)
    bench.check()
    bench.check()
    assert bench.dials()[3:] == ["mx.dead.example"]
    bench.deliver(bench.factories()[0])
    bench.check()
    bench.check()

    assert [len(names) for names in bench.names()] == [10, 10]


def test_a_refused_login_is_not_tried_for_each_domain(bench: Bench, lines: list[str]) -> None:
    """All domains go through one provider: its host is left alone, or it would lock the account."""
    bench.manager.maxConnections = 4
    bench.calculator.said = {f"d{n}.example": ["provider.example"] * 40 for n in range(40)}
    bench.fill(*(f"a@d{n}.example" for n in range(40)))
    bench.check()
    for factory in bench.factories():
        bench.refuse_connection(factory)
    assert len(bench.dials()) == 4

    for _ in range(29):
        bench.wait(1)
        while bench.check():
            bench.wait(0)
        if bench.reactor.seconds() == 4:
            assert len(bench.manager._turns._pauses) == 4  # the others were not asked, nor blamed
    assert len(bench.dials()) == 4

    bench.wait(1000)
    bench.check()
    assert len(bench.dials()) > 4
    for factory in bench.factories():
        bench.deliver(factory)
    for _ in range(30):  # and when it takes us again, what awaited it goes at once
        bench.wait(1)
        while bench.check():
            for factory in bench.factories():
                bench.deliver(factory)
    assert bench.queue.getWaiting() == []


def test_a_host_that_takes_few_connections_is_not_taken_for_dead(bench: Bench) -> None:
    """One session with it is open: what it refuses beside that one is no reason to leave it alone."""
    bench.manager.maxConnections = 4
    bench.calculator.said = {f"d{n}.example": ["provider.example"] * 400 for n in range(20)}
    bench.fill(*(f"a@d{n}.example" for n in range(20)))
    for _ in range(300):
        bench.wait(1)
        bench.check()
        first, *others = bench.factories() or [None]
        if first is not None:
            first.manager.notifyGreeted(first, "relay.example.org")
            for factory in others:
                bench.refuse_connection(factory)
            bench.deliver(first)

    assert bench.queue.getWaiting() == []
    assert len(bench.manager._hosts) == 0
    assert ("bad", "provider.example") not in bench.calculator.marks


@pytest.mark.slow
def test_a_backlog_for_a_dead_domain_expires_in_its_time(bench: Bench, lines: list[str]) -> None:
    """Ten messages have their turn in ten minutes, and hundreds wait: none waits much longer than five days."""
    bench.fill(*["a@dead.example"] * 200)
    while bench.reactor.seconds() < 5 * DAY_S + 3600:
        bench.wait(900)
        bench.check()
        for factory in bench.factories():
            bench.refuse_connection(factory)
    for _ in range(40):
        bench.wait(31)
        bench.check()
        for factory in bench.factories():
            bench.refuse_connection(factory)

    assert [name for name in bench.queue.getWaiting() if bench.queue.getEnvelope(name)[0]] == []
    said = said_of(lines, "expired, its sender is told: 4.4.7")
    assert len({line.split()[1] for line in said}) == len(said) == 200


def test_an_old_message_with_a_damaged_envelope_stops_no_poll(bench: Bench) -> None:
    """It is set aside in the same look in which others expire."""
    bench.fill("z@live.example")
    bench.check()
    bench.answer(bench.factories()[0], LATER)
    bench.wait(5 * 3600)
    bench.put("old", "a@one.example", age_s=9 * DAY_S)
    (bench.directory / "old-H").write_bytes(b"damaged")

    bench.check()

    assert list(bench.queue.damaged) == ["old"]
    assert bench.names() == [["00"]]


def test_a_provider_that_comes_back_gets_all_that_awaited_it(bench: Bench) -> None:
    """Thirty domains through one host, which was away for hours: its first session frees them all, and no domain was
    blamed for what only the host refused.
    """
    bench.manager.maxConnections = 4
    bench.calculator.said = {f"d{n}.example": ["provider.example"] * 2000 for n in range(30)}
    bench.fill(*(f"a@d{n}.example" for n in range(30)))
    for _ in range(600):
        bench.wait(20)
        bench.check()
        for factory in bench.factories():
            bench.refuse_connection(factory)
    assert len(bench.dials()) < 150
    assert sum(bench.manager.waits.attempts(f"{n:02}") for n in range(30)) == len(bench.dials())

    bench.wait(601)
    for _ in range(3):
        while bench.check():
            for factory in bench.factories():
                bench.deliver(factory)
        bench.wait(31)

    assert bench.queue.getWaiting() == []
    assert len(bench.manager._hosts) == len(bench.manager._turns._pauses) == 0


def test_what_awaits_a_shared_host_goes_with_anybody_s_session(bench: Bench) -> None:
    """One domain's message was put off by minutes when another's finds the host well: both go at once."""
    bench.calculator.said = {f"{name}.example": ["provider.example"] * 99 for name in ("one", "two")}
    bench.manager.longestPause = 5.0
    bench.fill("a@one.example")
    while bench.manager.waits.attempts("00") < 8:
        bench.wait(5)
        bench.check()
        for factory in bench.factories():
            bench.refuse_connection(factory)
    bench.wait(31)
    assert bench.check() is None

    bench.put("new", "b@two.example")
    bench.check()
    bench.deliver(bench.factories()[0])
    bench.check()
    bench.deliver(bench.factories()[0])

    assert bench.queue.getWaiting() == []


def test_a_host_that_falls_over_after_a_session_is_dead(bench: Bench) -> None:
    """An earlier session says nothing about now."""
    bench.fill("a@one.example")
    bench.check()
    bench.deliver(bench.factories()[0])
    bench.put("new", "a@one.example")
    bench.check()

    bench.refuse_connection(bench.factories()[0])

    assert bench.manager._hosts.left_s("mx.one.example") == 5.0


def test_after_a_restart_new_mail_does_not_wait_behind_a_crowd_of_the_dead(bench: Bench) -> None:
    """Nobody is known then; each dead domain holds its place for a minute."""
    bench.fill(*(f"a@dead{n}.example" for n in range(60)))
    bench.check()
    bench.put("live", "z@live.example")
    for _ in range(2):
        bench.wait(60)
        for factory in bench.factories():
            bench.refuse_connection(factory)
        bench.wait(1)
        bench.check()

    assert "mx.live.example" in bench.dials()


def test_an_envelope_mended_while_its_domain_is_left_alone_goes_to_the_new_one(bench: Bench) -> None:
    """Whoever redirects a message by hand does not find it at the old domain's host."""
    bench.fill("a@dead.example", "b@dead.example", "c@dead.example")
    bench.manager.maxMessagesPerConnection = 1
    bench.check()
    bench.check()
    bench.put("00", "a@alive.example")
    bench.put("01", "b@alive.example")
    bench.put("02", "c@alive.example")  # was read, but not begun
    for factory in bench.factories():
        bench.refuse_connection(factory)
    bench.wait(40)

    for _ in range(3):
        bench.check()

    assert set(bench.dials()[2:]) == {"mx.alive.example"}


def test_a_calculator_that_ignores_its_cancelling_keeps_no_place(bench: Bench, lines: list[str]) -> None:
    """After two minutes its domain waits, whatever becomes of the lookup."""

    def raising(_: Any) -> None:
        raise RuntimeError("no")

    stubborn: Deferred[Any] = Deferred(canceller=raising)
    second: Deferred[Any] = Deferred()
    swallowing: Deferred[Any] = Deferred()
    swallowing.addErrback(lambda _: second)
    bench.calculator.said = {"one.example": [stubborn], "two.example": [swallowing]}
    bench.fill("a@one.example", "b@two.example")
    bench.check()

    bench.wait(120)

    assert bench.is_idle()
    assert len(bench.fired) == 1
    second.callback(Record_MX(0, "late.example"))
    assert bench.dials() == []


def test_dead_domains_together_leave_half_of_the_places(tmp_path: Path) -> None:
    """Each attempt at them may last minutes; new mail for a domain that works goes at once."""
    bench = Bench(tmp_path, maxConnections=4)
    bench.fill(*(f"a@dead{n}.example" for n in range(4)))
    bench.check()
    for factory in bench.factories():
        bench.refuse_connection(factory)
    bench.wait(30)

    bench.check()
    assert len(bench.factories()) == 2
    bench.put("new1", "a@one.example")
    bench.put("new2", "a@two.example")
    bench.check()

    assert bench.dials()[-2:] == ["mx.one.example", "mx.two.example"]
    assert bench.check() is None


def test_a_host_that_greets_and_falls_silent_does_not_stop_other_mail(bench: Bench) -> None:
    """Whoever answered last time has a place, however many older messages wait for those that did not."""
    bench.fill(*["a@slow.example"] * 60, *["z@live.example"] * 30)
    delivered = 0
    for second in range(1, 2400):
        bench.wait(1)
        bench.check()
        for factory in bench.factories():
            attempt = factory.manager
            if attempt.domain == "live.example":
                delivered += len(bench.manager.managed[factory])
                bench.deliver(factory)
            elif second % 600 == 0:
                attempt.notifyGreeted(factory, "relay.example.org")
                attempt.notifyVerdict(factory, bench.manager.managed[factory][0], SILENCE)
                attempt.notifyDone(factory)
        if second == 60:
            assert delivered == 30
        if second % 100 == 0:
            bench.put(f"new{second}", "z@live.example")

    assert delivered >= 30 + 20


def test_a_crowd_that_was_never_heard_of_leaves_a_place_to_who_answers(tmp_path: Path) -> None:
    """Fifty silent domains, whose mail is older, and one that works: its mail goes in seconds."""
    bench = Bench(tmp_path, maxConnections=4)
    bench.fill("z@live.example", *(f"a@silent{n}.example" for n in range(50)))
    bench.check()
    bench.deliver(bench.factories()[0])

    for n in range(40):
        bench.put(f"z{n:02}", "z@live.example")
    for _ in range(10):
        bench.wait(1)
        bench.check()
        for factory in [each for each in bench.factories() if each.manager.domain == "live.example"]:
            bench.deliver(factory)

    assert [name for name in bench.queue.getWaiting() if name.startswith("z")] == []
    assert len(bench.factories()) == 3


def test_one_connection_is_shared_in_turns(tmp_path: Path) -> None:
    """With a single place, a domain that refuses us and has a thousand messages does not keep it."""
    bench = Bench(tmp_path, maxConnections=1, maxMessagesPerConnection=1)
    bench.fill(*["a@dead.example"] * 50, *["z@live.example"] * 20)
    for _ in range(30):
        bench.wait(1)
        if bench.check():
            (factory,) = bench.factories()
            if factory.manager.domain == "live.example":
                bench.deliver(factory)
            else:
                bench.refuse_connection(factory)

    assert bench.dials().count("mx.live.example") == 20
    assert bench.dials().count("mx.dead.example") <= 3  # after 5 s, and 10 more


def test_what_is_remembered_of_domains_and_hosts_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd of dead domains does not stay in memory."""
    monkeypatch.setattr(turns, "REMEMBERED", 3)
    for n in range(10):
        bench.put(f"{n}", f"a@d{n}.example")
        bench.put(f"live{n}", f"a@live{n}.example")
    for _ in range(10):
        bench.wait(700)
        bench.check()
        for factory in bench.factories():
            (bench.deliver if "live" in factory.manager.domain else bench.refuse_connection)(factory)

    standing = bench.manager._turns
    assert len(standing._last_turns) <= 3
    assert len(standing._proven) <= 3
    assert len(standing._pauses._failing) <= 3
    assert len(bench.manager._hosts._failing) <= 3
    assert standing._active == {}


BUSY = Verdict(Outcome.DEFERRED, "4.3.2", "shutting down", Reply(421, "4.3.2", ("shutting down",)), "mx.example")


def test_a_host_that_says_421_to_everything_is_left_alone(bench: Bench) -> None:
    """It has answered nothing about mail; the rest of the backlog does not knock each second."""
    bench.fill(*["a@one.example"] * 100)
    for _ in range(30):
        bench.wait(1)
        if bench.check():
            bench.answer(bench.factories()[0], BUSY)

    assert len(bench.dials()) == 3  # at once, after 5 s, and 10 more


def test_what_awaited_a_host_goes_when_one_answers(bench: Bench) -> None:
    """A backlog that was put off by hours is due with the first session that works, not each message in its hour."""
    bench.fill(*["a@one.example"] * 30)
    for _ in range(60):
        bench.wait(600)
        while bench.check():
            bench.refuse_connection(bench.factories()[0])
    bench.wait(30)
    assert len(bench.manager.waits.due(bench.queue.getWaiting())) < 20

    bench.put("new", "a@one.example")
    while not bench.check():
        bench.wait(30)
    bench.deliver(bench.factories()[0])
    for _ in range(4):
        bench.wait(1)
        while bench.check():
            bench.deliver(bench.factories()[0])

    assert bench.queue.getWaiting() == []
    assert bench.manager._hosts.left_s("mx.one.example") == 0.0
    assert "mx.one.example" not in bench.manager._hosts


def test_messages_that_found_no_host_are_not_due_before_they_are_shown(bench: Bench) -> None:
    """What the log says of the next attempt is so: not before 30 s."""
    bench.fill("a@one.example")
    bench.check()
    bench.refuse_connection(bench.factories()[0])

    bench.wait(29)
    assert bench.manager.waits.due(["00"]) == []
    bench.wait(1)
    assert bench.manager.waits.due(["00"]) == ["00"]


def test_when_all_exchangers_are_bad_the_others_are_tried_too(bench: Bench) -> None:
    """The best is dead for long, the second had a moment's weakness: mail does not wait until its mark lapses."""
    records = [RRHeader("one.example", MX, payload=Record_MX(n, f"mx{n}.one.example")) for n in (10, 20, 30)]  # type: ignore[arg-type]
    resolver = type("Resolver", (), {"lookupMailExchange": lambda self, name: succeed((records, [], []))})()
    bench.manager.mxcalc = MXCalculator(resolver, bench.reactor)
    for host in ("mx20.one.example", "mx30.one.example", "mx10.one.example"):
        bench.manager.mxcalc.markBad(host)
        bench.wait(1)
    bench.fill("a@one.example")
    bench.check()

    bench.refuse_connection(bench.factories()[0])
    bench.refuse_connection(bench.factories()[0])

    assert bench.dials() == ["mx10.one.example", "mx20.one.example", "mx30.one.example"]


def test_a_calculator_with_a_program_s_own_getMX_is_asked_nothing_else(bench: Bench) -> None:
    """Who sends everything to one host does not find mail at an exchanger of DNS because that host was down."""

    class OneHost(MXCalculator):
        def getMX(self, domain: Any, maximumCanonicalChainLength: int = 3) -> Any:
            return succeed(Record_MX(0, "smart.example"))

    bench.manager.mxcalc = OneHost(object(), bench.reactor)
    bench.fill("a@one.example")
    bench.check()

    bench.refuse_connection(bench.factories()[0])

    assert bench.dials() == ["smart.example"]
    assert bench.is_idle()


def test_a_limit_of_no_message_sends_one(bench: Bench) -> None:
    """The original never looked at it; an empty connection each second would send nothing for ever."""
    bench.manager.maxMessagesPerConnection = 0
    bench.fill("a@one.example", "b@one.example")

    bench.check()

    assert bench.names() == [["00"]]


def test_a_queue_may_send_messages_elsewhere(bench: Bench) -> None:
    """A program's own getEnvelope decides about the domain, as it did."""
    queue: Any = bench.queue
    queue.getEnvelope = lambda name: ["alice@example.org", "bob@elsewhere.example"]
    bench.fill("a@one.example")

    bench.check()

    assert bench.dials() == ["mx.elsewhere.example"]


def test_a_crowd_for_a_domain_that_does_not_exist_is_returned_in_turns(bench: Bench) -> None:
    """Each report is written to disk: a thousand in one call would stop the reactor."""
    bench.manager.maxMessagesPerConnection = 100
    bench.calculator.said["none.example"] = [NullMX("no", domain="none.example", status="5.1.10") for _ in range(9)]
    bench.fill(*["a@none.example"] * 50)

    bench.check()
    assert len(bench.reports()) == relaymanager.RETURNED
    for _ in range(3):
        bench.wait(1)
        bench.check()

    assert len(bench.reports()) == 50


# -- looking up


class Unspeakable(Exception):
    """An error whose own text is a bug."""

    def __str__(self) -> str:
        raise UnicodeError


@pytest.mark.parametrize(
    "error",
    [
        DNSLookupError("no"),
        OSError("no MX found"),
        RuntimeError("\n\x1b["),
        CanonicalNameLoop(Record_CNAME()),
        Unspeakable(),
    ],
)
def test_a_lookup_that_fails_for_now_lets_messages_wait(bench: Bench, lines: list[str], error: Exception) -> None:
    """Errors of a program's own calculator and doubtful answers are temporary: 30 s, then longer."""
    bench.calculator.said["one.example"] = [error]
    bench.fill("a@one.example", "b@two.example")

    for asked, wait_s in enumerate((30, 30, 30, 40, 80, 160), start=1):
        bench.check()
        assert [each for each in bench.names() if "00" in each] == []
        bench.wait(wait_s - 1)
        bench.check()
        assert len(said_of(lines, "no exchanger of one.example")) == asked
        bench.wait(1)

    assert bench.names() == [["01"]]
    assert bench.reports() == []
    (line,) = set(said_of(lines, "no exchanger of one.example"))
    assert "\n" not in line


def test_a_lookup_that_raises_or_gives_nonsense_lets_messages_wait(bench: Bench) -> None:
    """Whatever a calculator does, its domain waits and no place is kept."""

    class Broken:
        def __init__(self) -> None:
            self.left = [ValueError("bug"), None, object()]

        def getMX(self, domain: str) -> Any:
            said = self.left.pop(0)
            if isinstance(said, Exception):
                raise said
            return said

    bench.fill("a@one.example")
    for calculator in (broken := Broken(), broken, broken, object()):
        bench.manager.mxcalc = calculator
        assert bench.check() is not None
        assert bench.is_idle()
        bench.wait(3600)

    assert len(bench.fired) == 4
    assert bench.queue.getWaiting() == ["00"]


def test_a_lookup_that_never_answers_is_given_up_after_120_s(bench: Bench) -> None:
    """It does not keep a connection's place, and its late answer changes nothing."""
    silent: Deferred[Any] = Deferred()
    bench.calculator.said["one.example"] = [silent, DNSLookupError()]
    bench.fill("a@one.example")
    bench.check()
    bench.wait(119)
    assert bench.names() == [["00"]]

    bench.wait(1)

    assert bench.is_idle()
    assert len(bench.fired) == 1
    silent.callback(Record_MX(0, "late.example"))
    assert bench.dials() == []
    bench.wait(30)
    assert bench.check() is not None


def test_a_domain_whose_resolver_hangs_leaves_the_others_a_place(bench: Bench) -> None:
    """Its backlog is tried one connection at a time."""
    bench.calculator.said["slow.example"] = [Deferred() for _ in range(8)]
    bench.manager.maxConnections = 6
    bench.fill(*["a@slow.example"] * 80)
    for _ in range(6):
        bench.check()
    assert len(bench.names()) == 6
    bench.wait(120)
    assert bench.is_idle()
    bench.put("99", "z@one.example")

    for _ in range(3):
        bench.check()
    assert bench.dials() == ["mx.one.example"]
    bench.wait(600)
    for _ in range(3):
        bench.check()

    assert len(bench.names()) == 2


@pytest.mark.parametrize("word", [NullMX("takes no mail", domain="one.example", status="5.1.10"), "", b"."])
def test_a_domain_that_takes_no_mail_bounces_at_once(bench: Bench, word: Any) -> None:
    """A null MX, as an error of ours or as a record a program's own calculator passes on, is never connected to."""
    bench.calculator.said["one.example"] = [word]
    bench.fill("a@one.example", "b@one.example", "c@two.example")

    bench.check()

    assert bench.dials() == ["mx.two.example"]
    assert len(bench.reports()) == 2
    assert {report.get_payload()[1].get_payload()[1]["Status"] for report in bench.reports()} == {"5.1.10"}
    assert bench.names() == [["02"]]


class NoSuchDomain:
    """A resolver that knows no name at all."""

    def __getattr__(self, name: str) -> Any:
        from twisted.names.error import DNSNameError

        return lambda *args: fail(DNSNameError("no such domain"))


def test_a_domain_that_does_not_exist_bounces_at_once(bench: Bench) -> None:
    """With our calculator: its sender learns of a typing mistake now, not in five days."""
    bench.manager.mxcalc = MXCalculator(NoSuchDomain(), bench.reactor)
    bench.fill("a@no-such.example")

    assert bench.check() is not None

    assert bench.status()["Status"] == "5.1.2"
    assert len(bench.fired) == 1
    assert bench.is_idle()


# -- bad input


def test_a_damaged_envelope_is_set_aside_and_the_rest_goes_on(bench: Bench, lines: list[str]) -> None:
    """One line, once; nothing is removed; mended, it is sent."""
    bench.fill("a@one.example", "b@two.example")
    (bench.directory / "00-H").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    bench.check()
    bench.deliver(bench.factories()[0])
    for _ in range(3):
        bench.check()

    assert list(bench.queue.damaged) == ["00"]
    assert len(said_of(lines, "00")) == 1
    assert {"00-H", "00-D"} <= {path.name for path in bench.directory.iterdir()}

    bench.put("00", "a@one.example")
    bench.check()
    assert bench.names() == [["00"]]


@pytest.mark.parametrize("envelope", [["a@b.example"], [1, 2], ["a@b.example", 3], "no list", [["x"], ["y"]]])
def test_a_foreign_envelope_is_set_aside(bench: Bench, envelope: Any) -> None:
    """What is no pair of texts is somebody else's file."""
    bench.fill("a@one.example")
    (bench.directory / "00-H").write_bytes(pickle.dumps(envelope))

    assert bench.check() is None

    assert list(bench.queue.damaged) == ["00"]


def test_a_sender_that_cannot_be_said_is_set_aside(bench: Bench) -> None:
    """An envelope that would break SMTP's line is no host's business, and nobody could be told."""
    bench.put("1", "a@one.example", sender="x\r\nRCPT TO:<y@z>")
    bench.put("2", "a@one.example", sender="")
    bench.put("3", "no address", sender="no address either")

    bench.check()

    assert sorted(bench.queue.damaged) == ["1", "3"]
    assert {"1-D", "1-H", "3-D", "3-H"} <= {path.name for path in bench.directory.iterdir()}
    assert bench.names() == [["2"]]


@pytest.mark.parametrize(("sender", "recipient"), [("root", "a@one.example"), ("a@b.example", "x..y@one.example")])
def test_what_a_host_may_take_is_relayed(bench: Bench, sender: str, recipient: str) -> None:
    """A local program's sender without domain, and mailboxes that no grammar has, went out before and still do."""
    bench.put("1", recipient, sender=sender)

    bench.check()

    assert bench.names() == [["1"]]
    assert bench.queue.damaged == {}


def test_what_can_go_neither_forth_nor_back_is_set_aside(bench: Bench) -> None:
    """An illegal destination of a sender who cannot be told is kept: it may be somebody else's file."""
    bench.put("1", "nobody", sender="root")

    bench.check()

    assert list(bench.queue.damaged) == ["1"]
    assert {"1-D", "1-H"} <= {path.name for path in bench.directory.iterdir()}


@pytest.mark.parametrize("recipient", ["nobody", "", "a@", "a b@c", "x@y\r\nDATA", "@", "a@" + "b" * 70 + ".example"])
def test_an_illegal_destination_bounces_at_once(bench: Bench, lines: list[str], recipient: str) -> None:
    """It does not wait for ever, and takes no connection."""
    bench.put("1", recipient)
    bench.put("2", "b@two.example")

    bench.check()

    assert bench.status()["Status"] == "5.1.3"
    assert bench.names() == [["2"]]
    said = said_of(lines, "illegal message destination")
    assert "bounced, its sender is told" in said[-1]
    assert not any("\n" in line for line in said)


def test_a_crowd_of_illegal_destinations_is_returned_in_turns(bench: Bench) -> None:
    """Reports are written to disk one by one: a thousand in one call would stop the reactor. Others go meanwhile."""
    bench.manager.maxConnections = 5
    bench.fill(*["nobody"] * 50, "z@one.example")

    bench.check()
    assert len(bench.reports()) == 20
    assert bench.names() == [["50"]]
    bench.check()
    bench.check()

    assert len(bench.reports()) == 50


def test_an_illegal_destination_on_a_full_disk_waits(bench: Bench, lines: list[str]) -> None:
    """It stays, is tried again 30 s later and not each second, and does not stop others."""
    create = bench.queue.createNewMessage

    def full() -> Any:
        raise OSError(28, "No space left on device")

    bench.queue.createNewMessage = full  # type: ignore[method-assign]
    bench.put("1", "nobody")
    bench.put("2", "b@two.example")
    for _ in range(5):
        bench.check()
    assert len(said_of(lines, "undeliverable, but stays")) == 1
    assert bench.names() == [["2"]]
    assert bench.queue.getWaiting() == ["1"]

    bench.queue.createNewMessage = create  # type: ignore[method-assign]
    bench.wait(30)
    bench.check()

    assert bench.status()["Status"] == "5.1.3"


def test_a_file_that_vanishes_this_moment_is_passed_by(bench: Bench, lines: list[str]) -> None:
    """Another process works in the directory, too; it is nobody's damage."""
    bench.fill("a@one.example", "b@two.example")
    read = bench.queue.readDirectory

    def read_and_lose() -> None:
        read()
        (bench.directory / "00-H").unlink(missing_ok=True)

    bench.queue.readDirectory = read_and_lose  # type: ignore[method-assign]
    bench.check()

    assert bench.names() == [["01"]]
    assert bench.queue.damaged == {}
    assert said_of(lines, "00") == []


def test_an_envelope_that_cannot_be_read_for_now_waits(
    bench: Bench, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor left: the message is no damaged one, and is tried again without any change to its file."""
    bench.fill("a@one.example")
    with monkeypatch.context() as patch:

        def busy(name: str) -> Any:
            raise OSError(24, "Too many open files")

        patch.setattr(bench.queue, "getEnvelopeFile", busy)
        for _ in range(5):
            assert bench.check() is None
    assert len(said_of(lines, "Too many open files")) == 1
    assert bench.queue.damaged == {}

    bench.wait(30)
    bench.check()

    assert bench.names() == [["00"]]


def test_an_envelope_we_may_not_read_is_set_aside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its permissions change."""
    bench.fill("a@one.example")

    def forbidden(name: str) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(bench.queue, "getEnvelopeFile", forbidden)
    bench.check()

    assert list(bench.queue.damaged) == ["00"]


def test_a_queue_that_knows_no_setting_aside_will_do(bench: Bench, lines: list[str]) -> None:
    """A program's own queue with the original's methods: views for lists, damaged messages wait ever longer."""
    bench.fill("a@one.example", "b@two.example")
    (bench.directory / "00-H").write_bytes(b"garbage")
    bench.queue.setAside = None  # type: ignore[assignment,method-assign]
    bench.queue.getWaiting = lambda: bench.queue.waiting.keys()  # type: ignore[assignment,method-assign,return-value]
    bench.queue.getRelayed = lambda: bench.queue.relayed.keys()  # type: ignore[assignment,method-assign,return-value]
    for _ in range(3):
        bench.check()

    assert bench.names() == [["01"]]
    assert len(said_of(lines, "message 00 cannot be used")) == 1


def test_a_directory_that_cannot_be_listed_stops_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known goes on, and ends."""
    bench.fill("a@one.example")
    bench.queue.readDirectory()

    def forbidden(path: object) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)
    bench.check()
    bench.deliver(bench.factories()[0])
    assert bench.check() is None

    assert len(bench.fired) == 1
    assert bench.is_idle()


def test_wrong_arguments_are_told_and_lose_nothing(bench: Bench, lines: list[str]) -> None:
    """checkState raises to who calls it; the periodic one logs and goes on; no message is stuck."""
    bench.manager.factory = ESMTPManagedRelayerFactory
    bench.manager.fArgs = ()
    bench.fill("a@one.example", "b@two.example")

    with pytest.raises(TypeError):
        bench.manager.checkState()
    _checkState(bench.manager)

    assert bench.is_idle()
    assert bench.queue.getWaiting() == ["00", "01"]
    assert len(said_of(lines, "nothing is relayed, and the next poll tries again")) == 1
    assert "Traceback" in lines[-1]
    for _ in range(5):
        _checkState(bench.manager)
    assert len(said_of(lines, "nothing is relayed")) == 1
    bench.manager.fArgs = ("secret", None, "relay.example.org")
    bench.check()
    assert bench.names() == [["00"], ["01"]]


def test_envelopes_are_read_a_few_hundred_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backlog of thousands does not stop the reactor while all are read; each call gets further."""
    monkeypatch.setattr(relaymanager, "ENVELOPES_READ", 3)
    bench.calculator.said["one.example"] = [Deferred()]
    bench.manager.maxMessagesPerConnection = 1
    bench.fill(*["a@one.example"] * 8, "z@two.example", *["b@one.example"] * 4)
    bench.manager.maxConnections = 1
    read = []
    for _ in range(6):
        bench.check()
        read.append(len(bench.manager._domains))
        bench.manager.managed.clear()  # look again, at nothing that is being sent

    assert read == [2, 5, 8, 11, 12, 12]  # one of them is being sent by then


def test_the_newest_mail_does_not_wait_until_a_backlog_was_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart with thousands of messages for a dead domain, what comes in is sent at once."""
    monkeypatch.setattr(relaymanager, "ENVELOPES_READ", 8)
    bench.fill(*["a@dead.example"] * 90)
    bench.put("99", "z@live.example")

    bench.check()

    assert bench.dials() == ["mx.dead.example", "mx.live.example"]


def test_nothing_is_remembered_of_messages_that_were_taken_away(bench: Bench) -> None:
    """Whoever cleans the directory by hand leaves no memory behind."""
    bench.fill(*["a@one.example"] * 9, "nobody", *["nobody"] * 40)
    bench.manager.maxMessagesPerConnection = 5
    bench.manager.maxConnections = 9
    bench.check()
    bench.answer(bench.factories()[0], LATER)
    bench.check()
    assert len(bench.manager.waits) == 5

    for path in list(bench.directory.iterdir()):
        path.unlink()
    bench.put("new", "b@two.example")
    bench.check()

    assert len(bench.manager.waits) == 0
    assert bench.manager._domains == bench.manager._illegal == {}


# -- the periodic call


def test_the_helper_is_a_timer_service_that_calls_at_once_and_then_each_delay() -> None:
    """It is started with the application, and asks the manager again and again."""

    class Manager:
        calls = 0

        def checkState(self) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("trouble")
            return Deferred()

    manager: Any = Manager()
    service: Any = RelayStateHelper(manager, 5)
    service.clock = clock = Clock()
    assert isinstance(service, TimerService)
    assert manager.calls == 0

    service.startService()
    assert manager.calls == 1
    clock.advance(4.9)
    assert manager.calls == 1
    clock.pump([0.1, 5, 5])
    assert manager.calls == 4
    service.stopService()
    clock.advance(50)

    assert manager.calls == 4


# -- any sequence of events


class World:
    """A random walk over everything that may happen, and what must hold after each step."""

    DOMAINS = ("one.example", "two.example", "three.example", "four.example")

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.directory = directory
        self.n = 0
        self.now = 0.0
        self.taken: Counter[str] = Counter()  # by hosts
        self.excused: set[str] = set()  # may be taken twice: a crash, or a connection lost after the final dot
        self.known: set[str] = set()
        self.nobodys: set[str] = set()  # with a null sender
        self.told: set[str] = set()  # in a report
        self.seen: set[str] = set()
        self.is_full = False
        self.start()

    def start(self) -> None:
        self.bench = Bench(self.directory, maxConnections=self.random.choice([1, 2, 3]))
        self.bench.manager.maxMessagesPerConnection = 3
        self.bench.began = self.bench.began - self.bench.reactor.seconds() + self.now
        self.bench.manager.mxcalc = self
        self.checks: list[tuple[list[bool], set[Any]]] = []
        self.greeted: set[Any] = set()
        create = self.bench.queue.createNewMessage

        def create_or_not() -> Any:
            if self.is_full:
                raise OSError(28, "No space left on device")
            return create()

        self.bench.queue.createNewMessage = create_or_not  # type: ignore[method-assign]
        self.pending: list[tuple[str, Deferred[Any]]] = []

    def getMX(self, domain: str) -> Any:
        """Answer as a resolver in trouble: now, later, or not; and sometimes the same host again."""
        kind = self.random.random()
        if kind < 0.1:
            raise RuntimeError("a resolver that raises")
        if kind < 0.2:
            return fail(DNSLookupError())
        if kind < 0.23:
            return fail(NullMX("null", domain=domain, status="5.1.10"))
        if kind < 0.4:
            waiting: Deferred[Any] = Deferred()
            self.pending.append((domain, waiting))
            return waiting
        return succeed(self.exchanger(domain))

    def exchanger(self, domain: str) -> Record_MX:
        return Record_MX(0, f"mx{self.random.randrange(3)}.{domain}")

    # -- what may happen

    def arrive(self) -> None:
        name = f"m{self.n:05}"
        self.n += 1
        self.known.add(name)
        recipient = "nobody" if self.random.random() < 0.03 else f"x@{self.random.choice(self.DOMAINS)}"
        sender = "" if self.random.random() < 0.2 else "alice@example.org"
        if not sender:
            self.nobodys.add(name)
        age_s = self.random.choice([0, 0, 0, 4.9 * DAY_S])
        self.bench.put(name, recipient, sender, age_s)

    def check(self) -> None:
        before = set(self.bench.manager._attempts)
        completion = self.bench.manager.checkState()
        if completion is not None:
            fired: list[bool] = []
            self.checks.append((fired, set(self.bench.manager._attempts) - before))
            completion.addCallback(lambda _: fired.append(True))

    def answer_lookup(self) -> None:
        if self.pending:
            domain, waiting = self.pending.pop(self.random.randrange(len(self.pending)))
            if not waiting.called:
                waiting.callback(self.exchanger(domain))

    def connected(self) -> list[Any]:
        """Give the factories whose last connection is being made or is up."""
        dialled = [client[2] for client in self.bench.reactor.tcpClients]
        managed = self.bench.manager.managed
        return [each for each in managed if each in dialled and not each.manager._isPassing and self.is_dialled(each)]

    def is_dialled(self, factory: Any) -> bool:
        attempt = self.bench.manager._attempts.get(factory)
        counts = () if attempt is None else attempt.tried
        failed = getattr(factory, "failures", 0)
        return len(counts) > failed

    def connection(self) -> None:
        """Something happens to a connection: it fails, greets, is lost, or a host says something."""
        factories = self.connected()
        if not factories:
            return
        factory = self.random.choice(factories)
        attempt = factory.manager
        if factory not in self.greeted:
            if self.random.random() < 0.5:
                factory.failures = getattr(factory, "failures", 0) + 1
                factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
            else:
                self.greeted.add(factory)
                attempt.notifyGreeted(factory, "relay.example.org")
            return
        names = self.bench.manager.managed[factory]
        said = self.random.random()
        if not names or said < 0.1:
            if names and said < 0.03:  # the host has it, and we never heard so
                self.taken[names[0]] += 1
                self.excused.add(names[0])
            attempt.notifyDone(factory)
            return
        name = self.random.choice(names)
        path = self.bench.queue.getPath(name)
        if said < 0.6:
            self.taken[name] += 1
            attempt.notifySuccess(factory, path)
        elif said < 0.8:
            attempt.notifyVerdict(factory, path, LATER)
        else:
            attempt.notifyVerdict(factory, path, REFUSED)
            attempt.notifyFailure(factory, path)

    def wait(self) -> None:
        self.advance(self.random.choice([0, 0, 1, 30, 120, 4000]))

    def advance(self, seconds: float) -> None:
        self.bench.wait(seconds)

    def crash(self) -> None:
        self.now += self.bench.reactor.seconds()
        self.start()

    def disk(self) -> None:
        self.is_full = self.random.random() < 0.3

    def step(self) -> None:
        steps = [self.arrive, self.check, self.connection, self.wait, self.answer_lookup, self.disk, self.crash]
        self.random.choices(steps, [8, 10, 40, 8, 5, 1, 0.2])[0]()

    # -- what must hold

    def hold(self) -> None:
        manager, queue = self.bench.manager, self.bench.queue
        assert len(manager.managed) <= manager.maxConnections
        managed = [name for names in manager.managed.values() for name in names]
        timers = [call for call in self.bench.reactor.getDelayedCalls() if call.func.__name__ == "_requeue"]
        backing_off = [name for call in timers for name in call.args[0]]
        assert sorted(queue.relayed) == sorted(managed + backing_off)
        assert not queue.waiting.keys() & queue.relayed.keys()
        assert set(manager.managed) == set(manager._attempts)
        for fired, attempts in self.checks:
            assert bool(fired) == attempts.isdisjoint(manager._attempts)
        self.read_reports()
        for name, times in self.taken.items():
            assert times <= 1 or name in self.excused

    def read_reports(self) -> None:
        for name in os.listdir(self.directory):  # noqa: PTH208 - at each step: paths cost more than all the rest
            if name.endswith("-D") and name[0] != "m" and name not in self.seen:
                self.seen.add(name)
                report: Any = email.message_from_bytes((self.directory / name).read_bytes())
                self.told.add(report.get_payload()[1].get_payload()[0]["X-Smarthost-Id"])

    def account(self) -> None:
        """Every message is in the queue, or was taken by a host, or reported, or had nobody to report to."""
        files = {path.name[:-2] for path in self.directory.iterdir() if path.name.endswith("-D")}
        queue = self.bench.queue
        queue.readDirectory()
        assert files == queue.waiting.keys() | queue.relayed.keys() | queue.damaged.keys()
        assert self.known <= files | self.taken.keys() | self.told | self.nobodys

    def settle(self) -> None:
        """Let all go well from now on, until nothing is left."""
        self.is_full = False
        self.getMX = lambda domain: succeed(self.exchanger(domain))  # type: ignore[method-assign]
        for _ in range(2000):
            self.check()
            self.answer_lookup()
            for factory in self.connected():
                self.taken.update(self.bench.manager.managed[factory])
                self.bench.deliver(factory)
            self.advance(120)
            self.hold()
            if not (self.bench.queue.waiting or self.bench.queue.relayed):
                return


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_no_message_is_lost_and_no_place_leaks(tmp_path: Path, seed: int) -> None:
    """Connections fail, greet and are lost, hosts say anything, disks fill, time passes, the process dies."""
    world = World(tmp_path, seed)
    for n in range(1000):
        world.step()
        world.hold()
        if n % 100 == 0:
            world.account()
    world.settle()

    world.account()
    assert list(tmp_path.iterdir()) == []
    assert world.bench.is_idle()
    assert len(world.bench.manager.waits) == 0
    assert world.bench.manager._domains == world.bench.manager._illegal == {}
    assert world.told
    assert world.taken
