# SPDX-License-Identifier: MIT
"""Idempotency-Key at each point where a crash can fall, and as time goes by."""

import asyncio

import pytest
from tests.ops.http.rig import FakeStore

from smarthost.mail.errors import StoreError
from smarthost.ops.http.keys import KEPT_S, Drawn, Kept, KeptKeys, digest_request
from smarthost.ops.http.problems import Problem
from smarthost.testing.clock import FakeClock

ASKED = Kept(1000.0, "r1", "", "<m@x>", 1)


class Desk:
    """Files messages until it is told to die."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.filed: list[str] = []
        self.dies_at = ""
        self.clock = FakeClock()

    def restarted(self) -> KeptKeys:
        """Give what a process has that knows nothing but the store."""

        async def is_known(id: str) -> bool:
            return id in self.filed

        return KeptKeys(lambda: self.store, is_known, self.clock)

    async def file(self, drawn: Drawn | None) -> str:
        id = f"m{len(self.filed)}"
        if self.dies_at == "before the id":
            raise asyncio.CancelledError
        if drawn is not None:
            await drawn(id)
        if self.dies_at == "before the commit":
            raise asyncio.CancelledError
        self.filed.append(id)
        if self.dies_at == "after the commit":
            raise asyncio.CancelledError
        return id


async def _die(desk: Desk, at: str) -> None:
    desk.dies_at = at
    with pytest.raises(asyncio.CancelledError):
        await desk.restarted().file_once("t", "k", ASKED, desk.file)
    desk.dies_at = ""


@pytest.mark.asyncio
@pytest.mark.parametrize("at", ["before the id", "before the commit", "after the commit"])
async def test_a_crash_at_any_point_leaves_one_message_after_the_repetition(at: str) -> None:
    """The client repeats what it heard no answer to: one message exists, and its id is answered from then on."""
    desk = Desk()
    await _die(desk, at)

    kept, is_repeated = await desk.restarted().file_once("t", "k", ASKED, desk.file)
    again, _ = await desk.restarted().file_once("t", "k", ASKED, desk.file)

    assert 1 == len(desk.filed)
    assert kept.id == again.id == desk.filed[0]
    assert is_repeated == (at == "after the commit")


@pytest.mark.asyncio
async def test_another_request_with_the_key_is_refused() -> None:
    """A key that was reused by mistake sends no mail, and says so."""
    desk = Desk()
    await desk.restarted().file_once("t", "k", ASKED, desk.file)

    with pytest.raises(Problem) as raised:
        await desk.restarted().file_once("t", "k", Kept(1000.0, "r2", "", "", 1), desk.file)

    assert 409 == raised.value.body.status
    assert 1 == len(desk.filed)


@pytest.mark.asyncio
async def test_a_key_is_of_one_token() -> None:
    """Two programs that choose the same key do not meet."""
    desk = Desk()

    await desk.restarted().file_once("one", "k", ASKED, desk.file)
    await desk.restarted().file_once("other", "k", ASKED, desk.file)

    assert 2 == len(desk.filed)


@pytest.mark.asyncio
async def test_the_same_key_at_the_same_time_files_once() -> None:
    """The second of two at once is told to come back; it does not send a second message."""
    desk = Desk()
    keys = desk.restarted()
    go = asyncio.Event()

    async def slowly(drawn: Drawn | None) -> str:
        await go.wait()
        return await desk.file(drawn)

    first = asyncio.ensure_future(keys.file_once("t", "k", ASKED, slowly))
    await asyncio.sleep(0)
    with pytest.raises(Problem) as raised:
        await keys.file_once("t", "k", ASKED, desk.file)
    go.set()
    await first

    assert "1" == raised.value.headers["retry-after"]
    assert 1 == len(desk.filed)


@pytest.mark.asyncio
async def test_a_failed_submission_may_be_repeated_with_its_key() -> None:
    """A disk that was full for a moment is no answer for the whole day."""
    desk = Desk()

    async def fail(_: Drawn | None) -> str:
        raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        await desk.restarted().file_once("t", "k", ASKED, fail)
    _, is_repeated = await desk.restarted().file_once("t", "k", ASKED, desk.file)

    assert not is_repeated
    assert 1 == len(desk.filed)


@pytest.mark.asyncio
async def test_keys_are_forgotten_after_a_day_and_swept() -> None:
    """A day later the key is free again, and its note is gone from the store."""
    desk = Desk()
    keys = desk.restarted()
    await keys.file_once("t", "k", Kept(desk.clock.wall(), "r1", "", "", 1), desk.file)
    young = [await keys.sweep(part) for part in range(256)]

    desk.clock.advance(KEPT_S + 1)
    old = [await keys.sweep(part) for part in range(256)]
    _, is_repeated = await keys.file_once("t", "k", Kept(desk.clock.wall(), "r2", "", "", 1), desk.file)

    assert (0, 1) == (sum(young), sum(old))
    assert not is_repeated


@pytest.mark.parametrize("key", ["x" * 256, "é", "a\nb"])
@pytest.mark.asyncio
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    """It is told before anything is sent."""
    desk = Desk()

    with pytest.raises(Problem, match="Idempotency-Key"):
        await desk.restarted().file_once("t", key, ASKED, desk.file)
    assert [] == desk.filed


def test_parts_of_a_request_do_not_run_into_each_other() -> None:
    """ab+c is another request than a+bc."""
    assert digest_request(b"ab", b"c") != digest_request(b"a", b"bc")
