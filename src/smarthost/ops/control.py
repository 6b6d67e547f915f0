# SPDX-License-Identifier: MIT
"""The daemon's end of the control socket: requests of operators, carried out by callables that are handed in.

AF_UNIX in the state directory, 0600, and the peer's credentials are checked: our own user or root. A stranger's request
costs bounded memory and time all the same. This is the request edge of ops: what a request raises ends that request.
A crash leaves a dead socket, which the next start replaces (it owns the directory by then).
"""

import asyncio
import contextlib
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from smarthost.mail.errors import ConfigError, NoNewMail, StoreError, SubmissionRefused
from smarthost.mail.explanation import HostReport
from smarthost.mail.progress import Moving, Staying
from smarthost.ops import exits, verbs
from smarthost.ops.door import Door
from smarthost.ops.exits import NotReloaded
from smarthost.ops.outbox.following import tell_events
from smarthost.ops.place import socket_address
from smarthost.ops.queue_requests import answer_about_queue
from smarthost.ops.standstill import say_standstill
from smarthost.ops.words import local_time
from smarthost.ports import Sink

REQUEST_S = 10.0  # a command sends its request at once
CONTENT_S = 120.0
ANSWER_S = 30.0  # a client that does not read that long is gone
CONNECTIONS = 64
SUBMISSIONS = 4  # at a time: each holds its content in memory
HOSTS = 200  # told at a time; one names up to 100 destinations
EXPLAIN_S = 180.0  # above DNS's 90 s, and above a probe's 60 s for each of several addresses at a time
WORKING_S = 15.0  # below client.ANSWER_S by enough for one to come late; bounds how long the gone are worked for, too
BACKUP_WORKING_S = 1.0  # a command that was interrupted is noticed so soon
CHECK_S = 600.0  # a million recipients take 15 s beside an idle loop
STANDSTILL_S = 1.0  # a ping tells whether we live: it waits for no name server and no count of a million
DRAIN_NEWS_S = 0.5  # how often a drain is told of, and below client.ANSWER_S by far


class ControlServer:
    """Listens for operators; owned by the daemon."""

    def __init__(self, state_dir: Path, door: Door, sink: Sink) -> None:
        self._state_dir = state_dir
        self._door = door
        self._sink = sink
        self._server: asyncio.AbstractServer | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._submissions = asyncio.Semaphore(SUBMISSIONS)
        self._looking: asyncio.Task[tuple[HostReport, ...]] | None = None  # for what keeps all mail back
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

    def adopt(self, *, listen: tuple[tuple[str, int], ...], message_octets: int) -> None:
        """Tell other addresses, and take other sizes, from now on."""
        self._door = replace(self._door, listen=listen, message_octets=message_octets)

    async def close(self) -> None:
        """Stop listening, end what is open; harmless when repeated."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        (self._state_dir / verbs.SOCKET_NAME).unlink(missing_ok=True)
        tasks = [*self._open, *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        except asyncio.CancelledError:
            if self._server is not None:
                raise  # else it is `close` that ends what is open, and asyncio would call it a failure
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
                refusal = door.refusal()
                standing = say_standstill(await self._find_standstill(), local_time)
                state = door.is_paused(), door.figures(), "" if refusal is None else str(refusal), standing
                await _say(writer, verbs.Pong(os.getpid(), door.version, door.listen, messages, recipients, *state))
            case verbs.Send():
                await self._take(request, reader, writer)
            case (
                verbs.QueueFind() | verbs.QueueChange() | verbs.QueueSummary() | verbs.Why() | verbs.Watch()
                | verbs.Suspend() | verbs.EndSuspension() | verbs.SuspensionsFind()
            ):  # fmt: skip
                async for answer in answer_about_queue(self._door, request, _name_peer(writer)):
                    await _say(writer, answer)
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
            case verbs.EventsFind():
                await tell_events(self._door.records, self._door.record_horizon, request, partial(_say, writer))
            case verbs.OutboxesFind():
                await _say(writer, *map(verbs.OutboxFound, self._door.outboxes()), verbs.Done())
            case verbs.Reload():
                await self._reload(writer)
            case verbs.ConfigDiff():
                await self._compare(request, reader, writer)
            case verbs.BackUp():
                await self._back_up(request, writer)
            case verbs.PlanAddress():
                await self._explain(request, writer)

    async def _find_standstill(self) -> tuple[HostReport, ...]:
        """Give what keeps all mail back, if that is found soon; who asks later has what was found meanwhile."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._door.find_standstill())
        looking = self._looking
        await asyncio.wait({looking}, timeout=STANDSTILL_S)
        if not looking.done():
            return ()
        if self._looking is looking:
            self._looking = None
        return () if looking.cancelled() or looking.exception() is not None else looking.result()

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

    async def _reload(self, writer: asyncio.StreamWriter) -> None:
        """Reload, which goes on when the command is gone, while telling it that we are at it."""
        reloaded = asyncio.ensure_future(self._door.reload("smarthost reload"))
        try:
            while not (await asyncio.wait({reloaded}, timeout=WORKING_S))[0]:
                await _say(writer, verbs.Working())
            await _say(writer, verbs.Reloaded(*reloaded.result()), verbs.Done())
        except NotReloaded as error:
            await _say(writer, verbs.Failed(str(error), exits.CONFIG))
        except asyncio.CancelledError:  # the daemon stops
            reloaded.cancel()
            raise
        finally:
            await asyncio.gather(reloaded, return_exceptions=True)

    async def _compare(
        self, request: verbs.ConfigDiff, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Count what a configuration would change, while telling the command that we are at it."""
        loop = asyncio.get_running_loop()
        async with self._submissions:
            await _say(writer, verbs.Go())
            async with asyncio.timeout(CONTENT_S):
                content = await reader.readexactly(request.octets)
        said = loop.time()
        texts = msgspec.json.decode(content, type=verbs.ConfigTexts)
        compared = self._door.compare(texts.text, texts.name, texts.old_text, texts.old_name)
        try:
            async with contextlib.aclosing(compared) as answers:
                async for answer in answers:
                    if answer is not None:
                        await _say(writer, verbs.ConfigDiffers(*answer), verbs.Done())
                    elif loop.time() - said >= BACKUP_WORKING_S:
                        said = loop.time()
                        await _say(writer, verbs.Working())
        except NotReloaded as error:
            await _say(writer, verbs.Failed(str(error), exits.CONFIG))

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


def _name_peer(writer: asyncio.StreamWriter) -> str:
    """Give the name of the user who asks."""
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", credentials)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


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
