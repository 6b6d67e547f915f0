# SPDX-License-Identifier: MIT
"""The directory queue: Twisted's file names and methods, made durable and wary of what it finds in the directory.

A message is two files: `-H`, the envelope, and `-D`, the content; a `-C` is content not yet received. It counts from
the rename of `-C` to `-D` on: before it both files are fsynced, after it the directory, and only then is it
acknowledged. Never removes or changes what it did not write, or was not told is done. One thread. Several processes may
accept into one directory, but only one may relay from it: two would deliver some messages twice. Relaying managers and
the queuer call it. A crash leaves whole messages, and `-C` and lone `-H` files that count as nothing.
"""

import errno
import os
import secrets
import sys
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from twisted.python import log

from smarthost.compat.envelope import read_envelope
from smarthost.compat.incoming import (
    DurableMessage,
    EnvelopeFile,
    open_regular,
    remove_file,
    sync_directory,
    why_failed,
)
from smarthost.compat.words import shown

_VOLATILE = frozenset(
    {
        "n",
        "waiting",
        "relayed",
        "damaged",
        "_arrived",
        "_seen_envelopes",
        "_unremoved",
        "_ignored",
        "_unlisted",
        "_listed",
    }
)
_SHOWN = 300  # characters of a reason in a log line
_UNKNOWN_ARRIVAL = sys.maxsize  # of a message somebody added without files: the last in order
# A directory of 20,000 messages takes 60 ms to list. One whose own time has not changed has the same names, unless that
# time is too coarse or too young to tell; on a file system that keeps it badly a message is found so much later.
_SETTLED_S = 3.0  # must exceed the coarsest time stamps in use, 2 s
_LISTED_AT_LEAST_S = 30.0
# A poll, in turns: looking at 20,000 envelopes takes a third of a second of everybody's reactor.
_DAMAGED_SEEN = 100
_REMOVED = 20

_Listing = dict[str, os.DirEntry[str]]
_Signature = tuple[int, int, int, int] | None  # mtime_ns, ctime_ns, size, inode; None: no file, or none we may see


class Queue:
    """The messages of a directory, and which of them are being relayed.

    `waiting` and `relayed`: message -> 1; a message is the base name of its files, always str. `damaged`: message ->
    why its envelope cannot be used; tried again when its file changes. `noisy`: log routine lines; trouble always is.
    """

    noisy = True

    def __init__(self, directory: str | bytes | os.PathLike[Any]) -> None:
        """Open a directory. Raises: FileNotFoundError, NotADirectoryError; one that cannot be read is only logged."""
        self.directory = directory
        self._init()

    def _init(self) -> None:
        self.n = 0
        self.waiting: dict[str, int] = {}
        self.relayed: dict[str, int] = {}
        self.damaged: dict[str, str] = {}
        self._arrived: dict[str, int] = {}  # wall nanoseconds
        self._seen_envelopes: dict[str, _Signature] = {}  # of the damaged
        self._unremoved: dict[str, None] = {}  # done, but the files are there; the next to be tried first
        self._ignored: dict[str, str] = {}  # base name of a -D that is no message -> why, as logged
        self._unlisted = False
        self._listed: tuple[int, float] | None = None  # the directory's mtime_ns, and when it was listed
        try:
            os.scandir(self._root).close()
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError:
            pass  # readDirectory says so, and goes on trying
        self.readDirectory()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _VOLATILE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._init()

    @property
    def _root(self) -> str:
        return os.fsdecode(self.directory)

    def readDirectory(self) -> None:
        """Take up new messages and forget those whose files somebody removed.

        Looks at names alone, and into the files of new messages never. If the directory cannot be listed, what is known
        stays known. Tries again, some at a time, what is damaged or could not be removed.
        """
        self._retry_removing()
        self._retry_damaged()  # which may want it listed again
        try:
            changed_at, now = Path(self._root).stat().st_mtime_ns, time.time()
            if self._is_listed(changed_at, now):
                return
            with os.scandir(self._root) as entries:
                listing = {entry.name: entry for entry in entries}
        except OSError as error:
            if not self._unlisted:
                log.msg(f"cannot list the directory {shown(self._root)}: {why_failed(error)}; what is known stays")
            self._unlisted = True
            return
        if self._unlisted:
            log.msg(f"the queue directory {shown(self._root)} can be listed again")
            self._unlisted = False
        self._compare(listing)
        self._listed = (changed_at, now)

    def getWaiting(self) -> list[str]:
        """List the messages that wait, the oldest first."""
        return self._by_age(self.waiting)

    def hasWaiting(self) -> bool:
        """Tell whether any message waits."""
        return bool(self.waiting)

    def getRelayed(self) -> list[str]:
        """List the messages being relayed, the oldest first."""
        return self._by_age(self.relayed)

    def setRelaying(self, message: str) -> None:
        """Note that a waiting message is being relayed. Raises: KeyError if it does not wait."""
        del self.waiting[message]
        self.relayed[message] = 1

    def setWaiting(self, message: str) -> None:
        """Note that a message being relayed waits again. Raises: KeyError if it is not being relayed."""
        del self.relayed[message]
        self._forget(self._unremoved, message)
        self.waiting[message] = 1

    def addMessage(self, message: str) -> None:
        """Have a message wait, unless it is being relayed or waits already."""
        if message in self.relayed or message in self.waiting:
            return
        if message not in self._arrived:
            self._note_arrival(message)
        self._forget(self.damaged, message)
        self._forget(self._unremoved, message)
        self.waiting[message] = 1
        if self.noisy:
            log.msg(f"Set {shown(message)} waiting")

    def done(self, message: str | bytes | os.PathLike[Any]) -> None:
        """Remove a message, given by its path or base name, for good; no error where its files are gone already.

        Raises: OSError if the content cannot be removed. The message stays as it was then: while it is in `relayed`,
        this process does not send it again. readDirectory tries again to remove it, unless it is set waiting.
        """
        name = os.path.basename(os.fsdecode(message))  # noqa: PTH119 - paths are text in this interface
        path = self.getPath(name)
        # Content first: an envelope alone counts as nothing, content alone is trouble.
        if not remove_file(path + "-D"):
            self._note_arrival(name)
            self._unremoved[name] = None
            raise OSError(errno.EIO, "delivered, but it cannot be removed and may be sent again", path + "-D")
        self._finish(name)

    def getPath(self, message: str) -> str:
        """Give the path of a message's files, without `-H` or `-D`."""
        return os.path.join(self._root, message)  # noqa: PTH118 - the directory exactly as it was given

    def getEnvelope(self, message: str) -> Any:
        """Read a message's envelope: [sender, recipient], unless somebody wrote something else there.

        Raises: UnpicklingError, see read_envelope; OSError. To keep the message from being tried again, setAside.
        """
        with self.getEnvelopeFile(message) as file:
            return read_envelope(file, shown(self.getPath(message) + "-H"))

    def getEnvelopeFile(self, message: str) -> BinaryIO:
        """Open a message's envelope file for reading. Raises: OSError, also where it is no regular file."""
        return open_regular(self.getPath(message) + "-H")

    def setAside(self, message: str, why: str) -> None:
        """Do not relay a message whose envelope cannot be used, until readDirectory finds its file changed."""
        path, shown_why = shown(self.getPath(message)), shown(why[:_SHOWN])
        log.msg(f"{path} is set aside, its files untouched: {shown_why}")
        self._forget(self.waiting, message)
        self._forget(self.relayed, message)
        self.damaged[message] = why
        self._seen_envelopes[message] = self._signature(message)

    def arrivedAt(self, message: str) -> float:
        """Say when the last line of a message came, in wall seconds. Raises: OSError."""
        return Path(self.getPath(message) + "-D").stat().st_mtime

    def createNewMessage(self) -> tuple[EnvelopeFile, DurableMessage]:
        """Begin a message: the envelope file to fill and close, and the receiver of its lines. Raises: OSError."""
        while True:
            path = self.getPath(self._new_name())
            with suppress(FileExistsError):
                envelope = EnvelopeFile(path + "-H")
                break
        try:
            content = Path(path + "-C").open("xb")  # noqa: SIM115 - the receiver closes it
        except OSError:
            envelope.abandon()
            remove_file(path + "-H")
            raise
        return envelope, DurableMessage(envelope, content, path + "-C", path + "-D")

    def _new_name(self) -> str:
        # Process, time and count as ever; the last number was the queue's address, and is now what keeps names apart
        # where clocks step, processes share a number (containers), or threads the count.
        self.n += 1
        return f"{os.getpid()}_{time.time()}_{self.n - 1}_{secrets.randbits(63)}"

    def _compare(self, listing: _Listing) -> None:
        contents = {name[:-2] for name in listing if name.endswith("-D")}
        whole = contents.intersection(name[:-2] for name in listing if name.endswith("-H"))
        for message in self._known() - whole:
            self._lose(message)
        self._take_up(contents - self._known(), listing)

    def _known(self) -> set[str]:
        return self.waiting.keys() | self.relayed.keys() | self.damaged.keys() | self._unremoved.keys()

    def _is_listed(self, changed_at: int, now: float) -> bool:
        """Would a listing show what the last one showed?"""
        if self._listed is None or self._unlisted or self._listed[0] != changed_at:
            return False
        at = self._listed[1]
        return at - changed_at / 1e9 > _SETTLED_S and 0 <= now - at < _LISTED_AT_LEAST_S

    def _retry_damaged(self) -> None:
        for message in list(islice(self.damaged, _DAMAGED_SEEN)):
            signature = self._signature(message)
            if signature in (None, self._seen_envelopes.get(message)):
                self.damaged[message] = self.damaged.pop(message)  # behind the others
            else:
                log.msg(f"the envelope of {shown(self.getPath(message))} has changed: tried again")
                self._forget(self.damaged, message)
                self._listed = None

    def _retry_removing(self) -> None:
        for message in list(islice(self._unremoved, _REMOVED)):
            path = self.getPath(message)
            del self._unremoved[message]
            try:
                # Names may be used again by whoever made them, and what is removed here nobody has delivered then.
                if Path(path + "-D").stat().st_mtime_ns != self._arrived.get(message):
                    continue
                Path(path + "-D").unlink()
            except OSError:  # it was told when it was done; one that is gone the listing will miss
                self._unremoved[message] = None  # behind the others
                continue
            self._finish(message)
            log.msg(f"{shown(path)} was done with before, and is removed now")

    def _finish(self, message: str) -> None:
        """Forget a message whose content is gone."""
        path = self.getPath(message)
        remove_file(path + "-H")
        try:
            sync_directory(self._root)
        except OSError as error:
            log.msg(f"{shown(path)} is removed, but may come back after a power cut: {why_failed(error)}")
        self._forget_all(message)

    def _note_arrival(self, message: str) -> None:
        with suppress(OSError):
            self._arrived[message] = Path(self.getPath(message) + "-D").stat().st_mtime_ns

    def _take_up(self, messages: set[str], listing: _Listing) -> None:
        ignored: dict[str, str] = {}
        taken: list[tuple[int, str]] = []
        for message in messages:
            try:
                why = self._why_no_message(message, listing)
                if not why:
                    taken.append((listing[message + "-D"].stat().st_mtime_ns, message))
            except FileNotFoundError:
                continue  # it was there a moment ago: another process works in this directory
            except OSError as error:
                why = why_failed(error)
            if why:
                ignored[message] = why
        for message, why in ignored.items():
            if self._ignored.get(message) != why:
                log.msg(f"{shown(self.getPath(message))}-D is not a message, and left where it is: {why}")
        self._ignored = ignored
        for arrived, message in sorted(taken):
            self._arrived[message] = arrived
            self.addMessage(message)

    def _why_no_message(self, message: str, listing: _Listing) -> str:
        content, envelope = listing[message + "-D"], listing.get(message + "-H")
        if not message:
            return "it has no name"
        if not content.is_file(follow_symlinks=False):
            return "it is no regular file"
        if envelope is None:
            # A listing is no snapshot: the envelope may have come after its place in it was passed.
            if os.path.lexists(self.getPath(message) + "-H"):
                raise FileNotFoundError
            return "it has no envelope (-H)"
        return "" if envelope.is_file(follow_symlinks=False) else "its envelope (-H) is no regular file"

    def _lose(self, message: str) -> None:
        # Asked again, file by file: a listing may miss a name that a rename replaces meanwhile.
        path = self.getPath(message)
        if os.path.lexists(path + "-D") and os.path.lexists(path + "-H"):
            return
        if message not in self.damaged:
            log.msg(f"{shown(path)} is forgotten: somebody removed its files")
        self._forget_all(message)

    def _forget_all(self, message: str) -> None:
        for state in (self.waiting, self.relayed, self.damaged, self._arrived, self._unremoved):
            self._forget(state, message)

    def _forget(self, state: dict[str, Any], message: str) -> None:
        state.pop(message, None)
        if state is self.damaged:
            self._seen_envelopes.pop(message, None)

    def _by_age(self, messages: dict[str, int]) -> list[str]:
        arrived = [(self._arrived.get(message, _UNKNOWN_ARRIVAL), message) for message in messages]
        return [message for _, message in sorted(arrived)]

    def _signature(self, message: str) -> _Signature:
        try:
            status = Path(self.getPath(message) + "-H").stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
