# SPDX-License-Identifier: MIT
"""The daemon's end of the control socket, over a real one, and the command's end talking to it."""

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.ops.rig import CollectingSink, FakeHosts, FakeQueue, host, message

from smarthost.mail.errors import ConfigError
from smarthost.mail.explanation import Explanation
from smarthost.ops import client, control, exits, queue_requests, verbs
from smarthost.ops.client import ask
from smarthost.ops.control import ControlServer
from smarthost.ops.door import Door
from smarthost.queue.audit import AuditFigures
from smarthost.queue.store import Filter, Page


@asynccontextmanager
async def served(state_dir: Path, door: Door, sink: CollectingSink | None = None) -> AsyncIterator[ControlServer]:
    server = ControlServer(state_dir, door, sink or CollectingSink())
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def asked(state_dir: Path, request: verbs.Request, content: bytes = b"") -> list[verbs.Answer]:
    """Ask as a command does: blocking, on a thread."""
    return await asyncio.to_thread(lambda: list(ask(state_dir, request, content)))


async def spoken(state_dir: Path, octets: bytes) -> list[dict[str, object]]:
    """Say raw octets and give all answers."""
    reader, writer = await asyncio.open_unix_connection(str(state_dir / "control"))
    writer.write(octets)
    answers = [json.loads(line) async for line in reader]
    writer.close()
    return answers


EXPLANATION = Explanation("a@b.example", "b.example", "b.example", "default: by MX", "It goes.")


class Slow:
    """Explains when it may."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.was_cancelled = False

    async def explain(self, address: str, probe: bool, sender: str) -> Explanation:
        self.is_asked.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return EXPLANATION


@pytest.mark.asyncio
async def test_a_ping_tells_who_listens_where(tmp_path: Path) -> None:
    """A command can find out which daemon it talks to."""
    door = FakeQueue(message("0" * 16, "a@x.example", "b@y.example")).door(version="9", listen=(("127.0.0.1", 25),))

    async with served(tmp_path, door):
        answers = await asked(tmp_path, verbs.Ping())

    assert answers == [verbs.Pong(os.getpid(), "9", (("127.0.0.1", 25),), 1, 2, audit=AuditFigures())]


@pytest.mark.asyncio
async def test_a_message_arrives_octet_by_octet(tmp_path: Path) -> None:
    """Content with newlines, NUL and every octet comes through the socket as it is."""
    queue = FakeQueue()
    content = bytes(range(256)) * 2000

    async with served(tmp_path, queue.door()):
        answers = await asked(
            tmp_path, verbs.Send("a@b.example", ("c@d.example", "é@f.example"), len(content)), content
        )

    assert answers == [verbs.Filed("0000000000000001")]
    assert queue.sent == [(content, "a@b.example", ("c@d.example", "é@f.example"))]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("recipient", "said", "code"),
    [
        ("x@refused.example", "refused: 550 5.7.1 Not for you", exits.UNAVAILABLE),
        ("x@broken.example", "the store cannot do that now: the disk is full", exits.TEMPORARY),
        ("x@bug.example", "the daemon failed at this request: KeyError('a bug')", exits.SOFTWARE),
    ],
)
async def test_what_goes_wrong_with_a_submission_is_told(tmp_path: Path, recipient: str, said: str, code: int) -> None:
    """A refusal, a full disk and a bug of ours each have their text and exit code, and the daemon goes on."""
    sink = CollectingSink()

    async with served(tmp_path, FakeQueue().door(), sink):
        with pytest.raises(exits.CommandFailed) as failed:
            await asked(tmp_path, verbs.Send("", (recipient,), 1), b"x")
        still = await asked(tmp_path, verbs.Ping())

    assert (str(failed.value), failed.value.code) == (said, code)
    assert len(still) == 1
    assert [what for _, what, _ in sink.notes] == (["control request failed"] if code == exits.SOFTWARE else [])


@pytest.mark.asyncio
async def test_content_that_is_too_large_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """A gigabyte is not read in order to be refused."""
    queue = FakeQueue()

    async with served(tmp_path, queue.door(message_octets=10)):
        answers = await spoken(tmp_path, verbs.to_line(verbs.Send("", ("a@b.example",), 11)))
        taken = await asked(tmp_path, verbs.Send("", ("a@b.example",), 10), b"x" * 10)

    assert answers == [
        {"what": "refused", "code": 552, "enhanced": "5.3.4", "text": "the message has more than 10 octets"}
    ]
    assert len(taken) == 1


@pytest.mark.asyncio
async def test_a_long_queue_comes_page_by_page(tmp_path: Path) -> None:
    """All messages come, in order, and the daemon never holds more than a page of them."""
    queue = FakeQueue(*(message(f"{number:016d}", "a@x.example") for number in range(3 * queue_requests.PAGE + 1)))

    async with served(tmp_path, queue.door()):
        answers = await asked(tmp_path, verbs.QueueFind())

    found = [answer.message.id for answer in answers if isinstance(answer, verbs.Found)]
    assert found == [f"{number:016d}" for number in range(3 * queue_requests.PAGE + 1)]
    assert answers[-1] == verbs.Done()
    assert [n for _, _, n in queue.asked] == [queue_requests.PAGE] * 4


@pytest.mark.asyncio
async def test_reports_are_found_and_cancelled_by_their_null_path(tmp_path: Path) -> None:
    """`--from '<>'` means reports, not everything."""
    queue = FakeQueue(
        message("0" * 16, "a@x.example"),
        message("1" * 16, "b@x.example", reverse_path=""),
        message("2" * 16, "c@y.example", reverse_path=""),
    )
    which = Filter(reverse_path="<>", domain="x.example")

    async with served(tmp_path, queue.door()):
        found = await asked(tmp_path, verbs.QueueFind(which))
        changed = await asked(tmp_path, verbs.QueueChange("cancel", which))

    assert [answer.message.id for answer in found if isinstance(answer, verbs.Found)] == ["1" * 16]
    assert queue.changes == [(which, "cancel")]
    assert changed == [verbs.ChangedSome((("1" * 16, 0),), ()), verbs.Done()]


@pytest.mark.asyncio
async def test_a_bad_id_is_a_usage_error(tmp_path: Path) -> None:
    """What the store calls no id is told as it says it."""
    async with served(tmp_path, FakeQueue().door()):
        with pytest.raises(exits.CommandFailed, match="a message id has 16 characters") as failed:
            await asked(tmp_path, verbs.QueueFind(Filter(id="7")))

    assert failed.value.code == exits.USAGE


@pytest.mark.asyncio
async def test_hosts_are_found_and_reset_as_the_daemon_knows_them(tmp_path: Path) -> None:
    """What is asked for reaches the daemon, and each host is an answer of its own, as it was before a reset."""
    first, second = host("192.0.2.1", "mx1.example"), host("192.0.2.2", "mx2.example")
    hosts = FakeHosts(first, second)

    async with served(tmp_path, hosts.door()):
        found = await asked(tmp_path, verbs.HostsFind())
        reset = await asked(tmp_path, verbs.HostsReset("MX1.example"))
        everything = await asked(tmp_path, verbs.HostsReset("", everything=True))

    assert found == [verbs.HostFound(first), verbs.HostFound(second), verbs.Done()]
    assert reset == [verbs.HostFound(first), verbs.Done()]
    assert everything == [verbs.HostFound(second), verbs.Done()]
    assert (hosts.asked, hosts.resets) == ([""], ["MX1.example", ""])


@pytest.mark.asyncio
@pytest.mark.parametrize("request_", [verbs.HostsReset(), verbs.HostsReset("mx1.example", everything=True)])
async def test_all_hosts_are_reset_only_where_all_were_meant(tmp_path: Path, request_: verbs.HostsReset) -> None:
    """A request that forgot its text resets nothing."""
    hosts = FakeHosts(host("192.0.2.1", "mx1.example"))

    async with served(tmp_path, hosts.door()):
        with pytest.raises(exits.CommandFailed, match="say which host, or all of them") as failed:
            await asked(tmp_path, request_)

    assert failed.value.code == exits.USAGE
    assert hosts.resets == []


@pytest.mark.asyncio
async def test_a_listing_of_many_hosts_lets_others_work_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many hosts are told to a command that keeps up, the loop turns after each lot of them."""
    monkeypatch.setattr(control, "HOSTS", 3)
    turns: list[int] = []
    told = 0

    async def say(writer: object, *answers: verbs.Answer) -> None:
        nonlocal told
        told += len(answers)
        asyncio.get_running_loop().call_soon(lambda: turns.append(told))

    monkeypatch.setattr(control, "_say", say)
    many = [host(f"192.0.2.{number}", "mx.example") for number in range(10)]

    await control._tell_hosts(None, many)  # type: ignore[arg-type]

    assert turns == [3, 6, 9, 10]


@pytest.mark.asyncio
async def test_an_explanation_is_given_as_the_daemon_made_it(tmp_path: Path) -> None:
    """The address and the wish for a probe reach the daemon, and its explanation comes back whole."""
    hosts = FakeHosts(explanation=EXPLANATION)

    async with served(tmp_path, hosts.door()):
        answers = await asked(tmp_path, verbs.PlanAddress("a@b.example", probe=True))

    assert answers == [verbs.Explained(EXPLANATION), verbs.Done()]
    assert hosts.explained == [("a@b.example", True)]


@pytest.mark.asyncio
async def test_a_long_probe_keeps_its_command_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command hears that work goes on before its patience ends, and other commands are served meanwhile."""
    assert 2 * control.WORKING_S < client.ANSWER_S < control.EXPLAIN_S
    monkeypatch.setattr(control, "WORKING_S", 0.01)
    slow, said = Slow(), control._say
    others: list[verbs.Answer] = []

    async def say(writer: asyncio.StreamWriter, *answers: verbs.Answer) -> None:
        await said(writer, *answers)
        if answers == (verbs.Working(),) and not others:
            others.extend(await asked(tmp_path, verbs.Ping()))
            slow.may_answer.set()

    monkeypatch.setattr(control, "_say", say)
    async with served(tmp_path, FakeHosts().door(explain=slow.explain)):
        answers = await asked(tmp_path, verbs.PlanAddress("a@b.example", probe=True))

    assert answers == [verbs.Working(), verbs.Explained(EXPLANATION), verbs.Done()]
    assert [type(other) for other in others] == [verbs.Pong]


@pytest.mark.asyncio
async def test_a_probe_that_does_not_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work without end becomes an answer, and is stopped."""
    monkeypatch.setattr(control, "WORKING_S", 0.01)
    monkeypatch.setattr(control, "EXPLAIN_S", 0.03)
    slow = Slow()

    async with served(tmp_path, FakeHosts().door(explain=slow.explain)):
        with pytest.raises(exits.CommandFailed, match="no explanation within") as failed:
            await asked(tmp_path, verbs.PlanAddress("a@b.example", probe=True))

    assert failed.value.code == exits.TEMPORARY
    assert slow.was_cancelled


@pytest.mark.asyncio
async def test_a_probe_nobody_waits_for_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at the command ends the daemon's work as well."""
    monkeypatch.setattr(control, "WORKING_S", 0.01)
    slow = Slow()

    async with served(tmp_path, FakeHosts().door(explain=slow.explain)) as server:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(verbs.to_line(verbs.PlanAddress("a@b.example", probe=True)))
        await slow.is_asked.wait()
        writer.close()
        async with asyncio.timeout(5):
            while server._open:
                await asyncio.sleep(0.01)

    assert slow.was_cancelled


@pytest.mark.asyncio
async def test_the_end_stops_a_probe_under_way(tmp_path: Path) -> None:
    """The daemon's end waits for no strange host."""
    slow = Slow()

    async with served(tmp_path, FakeHosts().door(explain=slow.explain)):
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(verbs.to_line(verbs.PlanAddress("a@b.example", probe=True)))
        await slow.is_asked.wait()
    writer.close()

    assert slow.was_cancelled


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "request_", [verbs.HostsFind(), verbs.HostsReset("x"), verbs.PlanAddress("a@b.example")], ids=str
)
async def test_what_a_daemon_does_not_offer_is_an_error_of_that_request(
    tmp_path: Path, request_: verbs.Request
) -> None:
    """A door that leads nowhere is told and noted; the daemon goes on."""
    sink = CollectingSink()

    async with served(tmp_path, FakeQueue().door(), sink):
        with pytest.raises(exits.CommandFailed, match="this daemon does not offer it"):
            await asked(tmp_path, request_)
        still = await asked(tmp_path, verbs.Ping())

    assert len(still) == 1
    assert [what for _, what, _ in sink.notes] == ["control request failed"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "octets",
    [b"\n", b"hello\n", b'{"verb":"drop"}\n', b"[" * 10000 + b"\n", b"\xff\n", b'{"verb":"send","octets":-1}\n'],
)
async def test_garbage_is_answered_and_ends_only_itself(tmp_path: Path, octets: bytes) -> None:
    """Whatever is said on the socket, the daemon stays up."""
    async with served(tmp_path, FakeQueue().door()):
        answers = await spoken(tmp_path, octets)
        still = await asked(tmp_path, verbs.Ping())

    assert [answer["what"] for answer in answers] == ["failed"]
    assert len(still) == 1


@pytest.mark.asyncio
async def test_a_negative_size_is_refused(tmp_path: Path) -> None:
    """A request that makes no sense is not carried out."""
    async with served(tmp_path, FakeQueue().door()):
        answers = await spoken(tmp_path, verbs.to_line(verbs.Send("", ("a@b.example",), -1)))

    assert [answer["what"] for answer in answers] == ["failed"]


@pytest.mark.asyncio
async def test_an_endless_line_is_cut_off(tmp_path: Path) -> None:
    """A request has at most a mebibyte; the rest is not kept."""
    async with served(tmp_path, FakeQueue().door()):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(b"x" * (verbs.LINE_OCTETS + 100_000))
        answer = await reader.readline()
        writer.close()

    assert json.loads(answer)["what"] == "failed"


@pytest.mark.asyncio
async def test_a_client_that_stops_in_the_middle_files_nothing(tmp_path: Path) -> None:
    """Half a message is no message."""
    queue = FakeQueue()

    async with served(tmp_path, queue.door()):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(verbs.to_line(verbs.Send("", ("a@b.example",), 10)))
        await reader.readline()
        writer.write(b"half")
        writer.close()
        await asked(tmp_path, verbs.Ping())

    assert queue.sent == []


@pytest.mark.asyncio
@pytest.mark.parametrize("said", [b"", verbs.to_line(verbs.Send("", ("a@b.example",), 10))])
async def test_a_silent_client_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Neither a connection without request nor one without content stays open."""
    monkeypatch.setattr(control, "REQUEST_S", 0.02)
    monkeypatch.setattr(control, "CONTENT_S", 0.02)

    async with served(tmp_path, FakeQueue().door()):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(said)
        rest = await asyncio.wait_for(reader.read(), 2)
        writer.close()

    assert rest == (verbs.to_line(verbs.Go()) if said else b"")


@pytest.mark.asyncio
async def test_a_client_that_does_not_read_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing nobody reads does not fill the daemon's memory."""
    monkeypatch.setattr(control, "ANSWER_S", 0.02)
    endless = message("0" * 16, *("x" * 200 + "@y.example" for _ in range(100)))
    pages = 0

    async def find(which: Filter, cursor: str | None, n: int) -> Page:
        nonlocal pages
        pages += 1
        return Page((endless,) * n, "more")

    async with served(tmp_path, FakeQueue().door(find=find)) as server:
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        writer.write(verbs.to_line(verbs.QueueFind()))
        while pages == 0 or server._open:
            await asyncio.sleep(0.01)
        writer.close()

    assert pages < 5


@pytest.mark.asyncio
async def test_too_many_commands_at_a_time_are_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runaway script gets 75 and does not exhaust the daemon."""
    monkeypatch.setattr(control, "CONNECTIONS", 1)

    async with served(tmp_path, FakeQueue().door()):
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "control"))
        answers = await spoken(tmp_path, verbs.to_line(verbs.Ping()))
        writer.close()

    assert answers == [
        {"what": "failed", "text": "too many commands at a time: try again", "exit_code": exits.TEMPORARY}
    ]


@pytest.mark.asyncio
async def test_the_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Others can neither open the socket nor, if they get at it somehow, ask anything."""
    async with served(tmp_path, FakeQueue().door()) as server:
        mode = stat.S_IMODE((tmp_path / "control").stat().st_mode)
        server._owners = frozenset({os.geteuid() + 1})
        with pytest.raises(exits.CommandFailed, match="only the daemon's own user and root") as failed:
            await asked(tmp_path, verbs.Ping())

    assert mode == 0o600
    assert failed.value.code == exits.NO_PERMISSION


@pytest.mark.asyncio
async def test_the_socket_is_gone_after_the_end(tmp_path: Path) -> None:
    """A stopped daemon leaves no socket that a command would wait at."""
    async with served(tmp_path, FakeQueue().door()):
        assert (tmp_path / "control").exists()

    assert not (tmp_path / "control").exists()


@pytest.mark.asyncio
async def test_a_dead_socket_of_a_crash_is_replaced(tmp_path: Path) -> None:
    """After a crash the daemon starts without help."""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "control"))
    dead.close()

    async with served(tmp_path, FakeQueue().door()):
        assert len(await asked(tmp_path, verbs.Ping())) == 1


@pytest.mark.asyncio
async def test_long_state_directories_work(tmp_path: Path) -> None:
    """A path longer than a socket address can hold is no obstacle, to neither end."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    queue = FakeQueue()

    async with served(deep, queue.door()):
        assert await asked(deep, verbs.Send("", ("a@b.example",), 1), b"x") == [verbs.Filed("0000000000000001")]

    assert not (deep / "control").exists()


@pytest.mark.asyncio
async def test_a_state_directory_that_takes_no_socket_is_a_config_error(tmp_path: Path) -> None:
    """The error names the setting and the reason."""
    with pytest.raises(ConfigError, match=r"state_dir: no control socket can be made in .*: No such file or directory"):
        await ControlServer(tmp_path / "missing", FakeQueue().door(), CollectingSink()).start()


@pytest.mark.asyncio
async def test_the_end_does_not_wait_for_open_commands(tmp_path: Path) -> None:
    """A command that is still connected does not hold up the daemon's end."""
    server = ControlServer(tmp_path, FakeQueue().door(), CollectingSink())
    await server.start()
    early = await asyncio.open_unix_connection(str(tmp_path / "control"))
    while not server._open:
        await asyncio.sleep(0)
    late = await asyncio.open_unix_connection(str(tmp_path / "control"))

    await asyncio.wait_for(server.close(), 2)
    await server.close()

    for reader, writer in (early, late):
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()


def test_uvloop_serves_the_same(tmp_path: Path) -> None:
    """The socket works on the loop that is used by default, for long paths too."""
    uvloop = pytest.importorskip("uvloop")
    deep = tmp_path / ("d" * 120)
    deep.mkdir()

    async def round_trips() -> list[verbs.Answer]:
        answers = []
        for place in (tmp_path, deep):
            async with served(place, FakeQueue().door()):
                answers += await asked(place, verbs.Send("", ("a@b.example",), 1), b"x")
        return answers

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(round_trips()) == [verbs.Filed("0000000000000001")] * 2


# The command's end, where the daemon's end misbehaves


@pytest.mark.parametrize(
    ("spoken", "said", "code"),
    [
        (b"", "the daemon stopped before it had told everything", exits.TEMPORARY),
        (
            msgspec.json.encode(verbs.Found(message("0" * 16, "a@b.example"))) + b"\n",
            "before it had told everything",
            exits.TEMPORARY,
        ),
        (b"hello\n", "the daemon's answer makes no sense", exits.SOFTWARE),
        (b'{"what":"news"}\n', "the daemon's answer makes no sense", exits.SOFTWARE),
        (None, "the daemon has not answered for", exits.TEMPORARY),
    ],
)
def test_a_daemon_that_misbehaves_is_told_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoken: bytes | None, said: str, code: int
) -> None:
    """A listing that was cut off never looks complete, and a command never hangs."""
    monkeypatch.setattr("smarthost.ops.client.ANSWER_S", 0.05)
    failed = _against(tmp_path, spoken, lambda: list(ask(tmp_path, verbs.QueueFind())))

    assert said in str(failed)
    assert failed.code == code


def _against(state_dir: Path, spoken: bytes | None, command: Callable[[], object]) -> exits.CommandFailed:
    """Run a command against a daemon that says something and hangs up, or (None) nothing at all."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(state_dir / "control"))
        listening.listen()

        def daemon() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                if spoken is None:
                    silence.wait()
                else:
                    connection.sendall(spoken)

        silence = threading.Event()
        thread = threading.Thread(target=daemon)
        thread.start()
        try:
            with pytest.raises(exits.CommandFailed) as failed:
                command()
        finally:
            silence.set()
            thread.join()
        return failed.value


@pytest.mark.parametrize("kind", ["missing directory", "no socket", "dead socket", "a file", "under a file"])
def test_without_a_daemon_the_command_says_what_to_do(tmp_path: Path, kind: str) -> None:
    """Whatever is in the daemon's place, the operator reads where it was looked for and how to start one."""
    state_dir = tmp_path
    if kind == "missing directory":
        state_dir = tmp_path / "missing"
    elif kind == "dead socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "control"))
    elif kind == "a file":
        (tmp_path / "control").touch()
    elif kind == "under a file":
        (tmp_path / "file").touch()
        state_dir = tmp_path / "file"

    with pytest.raises(exits.CommandFailed) as failed:
        list(ask(state_dir, verbs.Ping()))

    assert failed.value.code == exits.UNAVAILABLE
    assert f"no daemon answers at {state_dir}/control" in str(failed.value)
    assert f"smarthost serve --state-dir {state_dir}" in str(failed.value)


def test_a_missing_long_directory_is_no_other_error(tmp_path: Path) -> None:
    """The way round for long paths does not change what the operator reads."""
    with pytest.raises(exits.CommandFailed, match="no daemon answers at"):
        list(ask(tmp_path / ("d" * 120), verbs.Ping()))


def test_another_users_daemon_is_no_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission is told as such, with the cure."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    with pytest.raises(exits.CommandFailed, match="run this as the user whose daemon it is, or as root") as failed:
        list(ask(tmp_path, verbs.Ping()))

    assert failed.value.code == exits.NO_PERMISSION


def test_a_daemon_that_dies_meanwhile_is_told_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is reset is no traceback."""

    def reset(*_: object) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(socket.socket, "sendall", reset)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "control"))
        listening.listen()

        with pytest.raises(exits.CommandFailed, match="the daemon closed the connection: try again") as failed:
            list(ask(tmp_path, verbs.Ping()))

    assert failed.value.code == exits.TEMPORARY
