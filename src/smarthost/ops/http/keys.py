# SPDX-License-Identifier: MIT
"""Idempotency-Key: the same request with the same key files one message, across time-outs, restarts and kill -9.

Before a message is filed its id is committed under the key, and afterwards that it was filed. A crash between the two
leaves an id, and whether that message exists is then asked: it was committed wholly or not at all. So a repeated
request is answered as the first one was, and the first one that never got so far is done now. Keys are kept `KEPT_S`
as notes in the store, looked up one by one; only what is under way is in memory.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.errors import StoreError
from smarthost.ops.http.problems import Problem
from smarthost.ports import Clock

KEPT_S = 24 * 3600.0
KEY_CHARACTERS = 255
PREFIX = "http-key/"
_PARTS = 256  # by the first two digits of the name: each is looked through in turn, so that few are in memory
_SWEEP_S = 300.0  # all parts in 21 hours
_REMOVED_AT_ONCE = 1000

Drawn = Callable[[str], Awaitable[None]]


class Notes(Protocol):
    """Where keys are kept: a queue.store.Store."""

    async def load_notes(self, prefix: str) -> dict[str, bytes]: ...
    def save_notes(self, notes: Mapping[str, bytes], /) -> Awaitable[None]: ...


class Kept(Struct, frozen=True):
    """What a key stands for. `request`: a digest of all that was asked; `is_filed`: it is known to be durable."""

    at: float
    request: str
    id: str
    message_id: str
    recipients: int
    is_filed: bool = False


class KeptKeys:
    """Keys by token and text. `is_known`: does a message with this id exist, or did it?"""

    def __init__(self, notes: Callable[[], Notes], is_known: Callable[[str], Awaitable[bool]], clock: Clock) -> None:
        self._notes = notes
        self._is_known = is_known
        self._clock = clock
        self._under_way: set[str] = set()

    async def file_once(
        self, owner: str, key: str, asked: Kept, file: Callable[[Drawn | None], Awaitable[str]]
    ) -> tuple[Kept, bool]:
        """File a message unless this key did already; True: it did. `asked` is without its id. No key: always file.

        Raises: Problem: the key is another request's, or still at work; and what `file` raises.
        """
        if not key:
            return replace(asked, id=await file(None), is_filed=True), False
        check_key(key)
        name = PREFIX + hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()[:40]
        if name in self._under_way:
            raise Problem("in-progress", headers={"retry-after": "1"})
        self._under_way.add(name)
        try:
            return await self._file_named(name, asked, file)
        finally:
            self._under_way.discard(name)

    async def _file_named(
        self, name: str, asked: Kept, file: Callable[[Drawn | None], Awaitable[str]]
    ) -> tuple[Kept, bool]:
        earlier = _read((await self._notes().load_notes(name)).get(name, b""))
        if earlier is not None and earlier.at > asked.at - KEPT_S:
            if earlier.request != asked.request:
                raise Problem("key-reused")
            if earlier.is_filed or await self._is_known(earlier.id):
                return earlier, True

        async def keep(id: str) -> None:
            await self._notes().save_notes({name: msgspec.json.encode(replace(asked, id=id))})

        kept = replace(asked, id=await file(keep), is_filed=True)
        with suppress(StoreError):  # it is filed: that must be said, and the id that was kept before is enough
            await self._notes().save_notes({name: msgspec.json.encode(kept)})
        return kept, False

    async def sweep_for_ever(self) -> None:
        """Forget keys that are too old, a part of them at a time; never ends."""
        part = 0
        while True:
            await self._clock.sleep(_SWEEP_S)
            with suppress(StoreError):  # its turn comes again
                await self.sweep(part)
            part = (part + 1) % _PARTS

    async def sweep(self, part: int) -> int:
        """Forget what is too old in one part; gives how many. Raises: StoreError."""
        notes = self._notes()
        now = self._clock.wall()
        found = await notes.load_notes(f"{PREFIX}{part:02x}")
        old = [name for name, value in found.items() if _is_old(value, now)]
        for start in range(0, len(old), _REMOVED_AT_ONCE):
            await notes.save_notes(dict.fromkeys(old[start : start + _REMOVED_AT_ONCE], b""))
        return len(old)


def check_key(key: str) -> None:
    """Raises: Problem: no key that could be used."""
    if len(key) > KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise Problem("unusable", f"Idempotency-Key: expected 1 to {KEY_CHARACTERS} printable ASCII characters")


def digest_request(*parts: bytes) -> str:
    """Give what stands for all that was asked; parts do not run into each other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _read(value: bytes) -> Kept | None:
    try:
        return msgspec.json.decode(value, type=Kept) if value else None
    except msgspec.MsgspecError:  # a later release's: it is as if there were none
        return None


def _is_old(value: bytes, now: float) -> bool:
    kept = _read(value)
    return kept is None or kept.at <= now - KEPT_S
