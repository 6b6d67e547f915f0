# SPDX-License-Identifier: MIT
"""The daemon's end of the control socket: requests of operators, carried out by callables that are handed in.

AF_UNIX in the state directory, 0600, and the peer's credentials are checked: our own user or root. A stranger's request
costs bounded memory and time all the same. This is the request edge of ops: what a request raises ends that request.
A crash leaves a dead socket, which the next start replaces (it owns the directory by then).
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Never, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.backup import Backup
from smarthost.mail.errors import ConfigError, NoNewMail, StoreError, SubmissionRefused
from smarthost.mail.explanation import Explanation, HostReport
from smarthost.mail.progress import DrainEnd, Moving, Staying
from smarthost.ops import exits, verbs
from smarthost.ops.place import socket_address
from smarthost.ports import Sink
from smarthost.queue.audit import AuditFigures, Finding
from smarthost.queue.store import Changed, Filter, Page

REQUEST_S = 10.0  # a command sends its request at once
CONTENT_S = 120.0
ANSWER_S = 30.0  # a client that does not read that long is gone
CONNECTIONS = 64
SUBMISSIONS = 4  # at a time: each holds its content in memory
PAGE = 50  # messages; one may have 1,000 recipients
HOSTS = 200  # told at a time; one names up to 100 destinations
EXPLAIN_S = 180.0  # above DNS's 90 s, and above a probe's 60 s for each of several addresses at a time
WORKING_S = 15.0  # below client.ANSWER_S by enough for one to come late; bounds how long the gone are worked for, too
BACKUP_WORKING_S = 1.0  # a command that was interrupted is noticed so soon
CHECK_S = 600.0  # a million recipients take 15 s beside an idle loop
DRAIN_NEWS_S = 0.5  # how often a drain is told of, and below client.ANSWER_S by far
CHUNK = 1000  # recipients; queue.store allows no more


class Filing(Protocol):
    """What a submission gives."""

    @property
    def id(self) -> str: ...


async def _checks_nothing() -> AsyncGenerator[Finding | None, None]:
    raise NotImplementedError("this daemon does not offer it")
    yield None


def _drains_nothing() -> bool:
    raise NotImplementedError("this daemon does not offer it")


async def _not_offered(*_: object) -> Never:
    raise NotImplementedError("this daemon does not offer it")


class Door(Struct, frozen=True):
    """What the daemon can be asked for, as `assemble.Relay` offers it.

    `hosts` gives those that are not closed whose name, address or service is the text ("": all), whatever its case,
    longest broken first; `reset_hosts` closes them, makes due what waited, and gives what they were. `explain` raises
    SubmissionRefused for a recipient the relay would refuse, ValueError for what is no address; True means to probe.
    `resume` gives how many messages and recipients go on. `drain` and `cancel_drain` are drain.Drain's.
    """

    submit: Callable[[bytes, str, Sequence[str]], Awaitable[Filing]]
    find: Callable[[Filter, str | None, int], Awaitable[Page]]
    change: Callable[[Filter, str, str | None, int], Awaitable[Changed]]
    count: Callable[[], Awaitable[tuple[int, int]]]
    message_octets: int
    hosts: Callable[[str], Awaitable[tuple[HostReport, ...]]] = _not_offered
    reset_hosts: Callable[[str], Awaitable[tuple[HostReport, ...]]] = _not_offered
    explain: Callable[[str, bool, str], Awaitable[Explanation]] = _not_offered
    pause: Callable[[], Awaitable[None]] = _not_offered
    resume: Callable[[], Awaitable[tuple[int, int]]] = _not_offered
    back_up: Callable[[str], Awaitable[Backup]] = _not_offered
    is_paused: Callable[[], bool] = lambda: False
    drain: Callable[[str, int, Callable[[Moving | Staying], None]], Awaitable[DrainEnd]] = _not_offered
    cancel_drain: Callable[[], bool] = _drains_nothing
    check: Callable[[], AsyncGenerator[Finding | None, None]] = _checks_nothing
    figures: Callable[[], AuditFigures] = AuditFigures
    version: str = ""
    listen: tuple[tuple[str, int], ...] = ()


class ControlServer:
    """Listens for operators; owned by the daemon."""

    def __init__(self, state_dir: Path, door: Door, sink: Sink) -> None:
        self._state_dir = state_dir
        self._door = door
        self._sink = sink
        self._server: asyncio.AbstractServer | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._submissions = asyncio.Semaphore(SUBMISSIONS)
        self._owners = frozenset({0, os.geteuid()})

    async def start(self) -> None:
        """Listen; the caller owns the state directory. Raises: ConfigError: the socket cannot be made."""
        try:
            listening = self._bind()
        except OSError as error:
            raise ConfigError(
                f"no control socket can be made in {self._state_dir}: {error.strerror}", key="state_dir"
            ) from error
        self._server = await asyncio.start_unix_server(self._accept, sock=listening, limit=verbs.LINE_OCTETS)

    async def close(self) -> None:
        """Stop listening, end what is open; harmless when repeated."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        (self._state_dir / verbs.SOCKET_NAME).unlink(missing_ok=True)
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _bind(self) -> socket.socket:
        path = self._state_dir / verbs.SOCKET_NAME
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with socket_address(self._state_dir) as address:
                listening.bind(address)
            path.chmod(0o600)
        except BaseException:
            listening.close()
            raise
        return listening

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio runs this in a task"
        self._open.add(task)
        try:
            if self._server is not None:  # asyncio may still hand us what it accepted before `close`
                await self._answer(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            pass  # whoever asked is gone, or does not keep up
        finally:
            self._open.discard(task)
            writer.close()

    def _objection(self, writer: asyncio.StreamWriter) -> verbs.Failed | None:
        credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("3i", credentials)  # pid, uid, gid (unix(7))
        if uid not in self._owners:
            return verbs.Failed("only the daemon's own user and root may ask", exits.NO_PERMISSION)
        if len(self._open) > CONNECTIONS:
            return verbs.Failed("too many commands at a time: try again", exits.TEMPORARY)
        return None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry out one request; the request edge, so whatever it raises becomes an answer."""
        try:
            async with asyncio.timeout(REQUEST_S):
                line = await reader.readline()
            if (objection := self._objection(writer)) is not None:  # only now: who is still writing would not read it
                await _say(writer, objection)
            elif line:
                await self._carry_out(verbs.decode_request(line), reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            raise
        except SubmissionRefused as error:
            reply = error.reply
            await _say(writer, verbs.Refused(reply.code, reply.enhanced, "; ".join(reply.lines)))
        except StoreError as error:
            await _say(writer, verbs.Failed(f"the store cannot do that now: {error}", exits.TEMPORARY))
        except msgspec.MsgspecError as error:
            await _say(writer, verbs.Failed(f"not a request this version knows: {error}", exits.USAGE))
        except ValueError as error:  # an id that is none, a line that is too long
            await _say(writer, verbs.Failed(str(error), exits.USAGE))
        except Exception as error:  # noqa: BLE001 - the request edge of ops
            self._sink.note("error", "control request failed", why=repr(error))
            await _say(writer, verbs.Failed(f"the daemon failed at this request: {error!r}", exits.SOFTWARE))

    async def _carry_out(
        self, request: verbs.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match request:
            case verbs.Ping():
                messages, recipients = await self._door.count()
                door = self._door
                state = door.is_paused(), door.figures()
                await _say(writer, verbs.Pong(os.getpid(), door.version, door.listen, messages, recipients, *state))
            case verbs.Send():
                await self._take(request, reader, writer)
            case verbs.QueueFind():
                async for page in self._pages(request.which):
                    await _say(writer, *map(verbs.Found, page.messages))
                await _say(writer, verbs.Done())
            case verbs.QueueChange():
                async for changed in self._changes(request.which, request.change):
                    await _say(writer, verbs.ChangedSome(changed.recipients, changed.wished))
                await _say(writer, verbs.Done())
            case verbs.QueueCheck():
                await self._check(writer)
            case verbs.HostsFind():
                await _tell_hosts(writer, await self._door.hosts(request.text))
            case verbs.HostsReset():
                if request.everything == bool(request.text):
                    raise ValueError("say which host, or all of them")
                await _tell_hosts(writer, await self._door.reset_hosts(request.text))
            case verbs.Pause() | verbs.Resume():
                await self._change_pause(request, writer)
            case verbs.Drain():
                await self._drain(request, reader, writer)
            case verbs.DrainCancel():
                await _say(writer, verbs.DrainCancelled(self._door.cancel_drain()), verbs.Done())
            case verbs.BackUp():
                await self._back_up(request, writer)
            case verbs.PlanAddress():
                await self._explain(request, writer)

    async def _take(self, request: verbs.Send, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        limit = self._door.message_octets
        if request.octets > limit:
            await _say(writer, verbs.Refused(552, "5.3.4", f"the message has more than {limit} octets"))
            return
        async with self._submissions:
            await _say(writer, verbs.Go())
            async with asyncio.timeout(CONTENT_S):
                content = await reader.readexactly(request.octets)
            receipt = await self._door.submit(content, request.reverse_path, request.recipients)
        await _say(writer, verbs.Filed(receipt.id))

    async def _change_pause(self, request: verbs.Pause | verbs.Resume, writer: asyncio.StreamWriter) -> None:
        was_paused = self._door.is_paused()
        if isinstance(request, verbs.Pause):
            await self._door.pause()
            counts = await self._door.count()
        else:
            counts = await self._door.resume()
        await _say(writer, verbs.PauseChanged(was_paused, *counts), verbs.Done())

    async def _drain(self, request: verbs.Drain, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Move the queue, and tell of it; that ends when the command is gone."""
        news: list[Moving | Staying] = []
        moved = asyncio.ensure_future(self._door.drain(request.host, request.port, news.append))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while not moved.done() and not gone.done():
                await asyncio.wait({moved, gone}, timeout=DRAIN_NEWS_S, return_when=asyncio.FIRST_COMPLETED)
                await _say(writer, *_told(news))
            if moved.done():
                await _say(writer, verbs.DrainEnded(moved.result()), verbs.Done())
        except NoNewMail as error:
            await _say(writer, verbs.Failed(str(error), exits.TEMPORARY))
        finally:
            for task in (moved, gone):
                task.cancel()
            await asyncio.gather(moved, gone, return_exceptions=True)

    async def _back_up(self, request: verbs.BackUp, writer: asyncio.StreamWriter) -> None:
        """Back up, while telling the command that we are at it; that fails, and ends the work, when it is gone."""
        made = asyncio.ensure_future(self._door.back_up(request.directory))
        try:
            while not (await asyncio.wait({made}, timeout=BACKUP_WORKING_S))[0]:
                await _say(writer, verbs.Working())
            await _say(writer, verbs.BackedUp(made.result()), verbs.Done())
        except StoreError as error:
            await _say(writer, verbs.Failed(str(error), exits.CANNOT_CREATE))
        finally:
            made.cancel()
            await asyncio.gather(made, return_exceptions=True)

    async def _check(self, writer: asyncio.StreamWriter) -> None:
        """Check all recipients, while telling the command that we are at it; that fails, and ends it, if it is gone."""
        loop = asyncio.get_running_loop()
        began = said = loop.time()
        async with contextlib.aclosing(self._door.check()) as found:
            async for finding in found:
                if finding is not None:
                    await _say(writer, verbs.Violation(finding))
                elif loop.time() - said >= WORKING_S:
                    said = loop.time()
                    await _say(writer, verbs.Working())
                if loop.time() - began >= CHECK_S:
                    await _say(writer, verbs.Failed(f"not checked within {CHECK_S:.0f} s", exits.TEMPORARY))
                    return
        await _say(writer, verbs.Checked(self._door.figures(), *await self._door.count()), verbs.Done())

    async def _explain(self, request: verbs.PlanAddress, writer: asyncio.StreamWriter) -> None:
        """Explain, while telling the command that we are at it; that fails, and ends the work, when it is gone."""
        asked = asyncio.ensure_future(self._door.explain(request.address, request.probe, request.sender))
        try:
            for _ in range(int(EXPLAIN_S / WORKING_S)):
                done, _pending = await asyncio.wait({asked}, timeout=WORKING_S)
                if done:
                    await _say(writer, verbs.Explained(asked.result()), verbs.Done())
                    return
                await _say(writer, verbs.Working())
            await _say(writer, verbs.Failed(f"no explanation within {EXPLAIN_S:.0f} s", exits.TEMPORARY))
        except ValueError as error:
            await _say(writer, verbs.Failed(str(error), exits.BAD_INPUT))
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)  # what it opened is closed

    async def _pages(self, which: Filter) -> AsyncIterator[Page]:
        is_null = which.reverse_path == verbs.NULL_PATH
        asked = replace(which, reverse_path="") if is_null else which
        cursor: str | None = None
        while True:
            page = await self._door.find(asked, cursor, PAGE)
            if is_null:
                page = Page(tuple(each for each in page.messages if not each.reverse_path), page.cursor)
            yield page
            if (cursor := page.cursor) is None:
                return

    async def _changes(self, which: Filter, change: str) -> AsyncIterator[Changed]:
        if which.reverse_path != verbs.NULL_PATH:
            wholes = [which]
        else:  # the store's Filter cannot say "null path": name the messages one by one
            null_ids = [message.id async for page in self._pages(which) for message in page.messages]
            wholes = [replace(which, reverse_path="", id=id) for id in null_ids]
        for whole in wholes:
            cursor: str | None = None
            while True:
                changed = await self._door.change(whole, change, cursor, CHUNK)
                yield changed
                if (cursor := changed.cursor) is None:
                    break


def _told(news: list[Moving | Staying]) -> list[verbs.Answer]:
    """Give what there is to tell, and forget it: everything that stays, and of how far it is the last word."""
    answers: list[verbs.Answer] = [verbs.DrainStaying(each) for each in news if isinstance(each, Staying)]
    last = next((each for each in reversed(news) if isinstance(each, Moving)), None)
    news.clear()
    answers.append(verbs.Working() if last is None else verbs.DrainMoving(last))
    return answers


async def _tell_hosts(writer: asyncio.StreamWriter, hosts: Sequence[HostReport]) -> None:
    for start in range(0, len(hosts), HOSTS):
        await _say(writer, *map(verbs.HostFound, hosts[start : start + HOSTS]))
        await asyncio.sleep(0)  # to whoever keeps up `drain` never yields: mail must not wait for 100,000 hosts
    await _say(writer, verbs.Done())


async def _say(writer: asyncio.StreamWriter, *answers: verbs.Answer) -> None:
    writer.write(b"".join(map(verbs.to_line, answers)))
    async with asyncio.timeout(ANSWER_S):
        await writer.drain()
