# SPDX-License-Identifier: MIT
"""The drop directory: where local programs leave messages, and what may be believed of what lies there.

Everybody may create files in it (03733: sticky, nobody lists it, files inherit our group) and nobody else's can be
touched, so each entry is a stranger's: taken are regular files with one link, opened without following or waiting, of
bounded size, whose first line is a head and whose rest is content of the length it says. Other things that mail cannot
be in are removed, odd files set aside in corrupt/. Blocking: who calls it does so in a thread. A crash leaves files.
"""

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterable
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from smarthost.mail.errors import ConfigError

UNFINISHED = "tmp."  # what such a name begins with is being written
SET_ASIDE = "corrupt"
HEAD_OCTETS = 1 << 20  # 1,000 recipients of 256 octets, four times over
OPEN_MODE = 0o3733
PRIVATE_MODE = 0o2700
OWNED = 100  # of one owner are looked at in a round: who leaves a million keeps nobody waiting
LISTED = 10_000  # entries looked at in a round
SWEEP_S = 86400.0  # an unfinished file this old is nobody's any more
_SETTLED_NS = 2_000_000_000  # a change within a tick of the clock (4 ms) after a look has the same time
_NAME_OCTETS = 100
_LONGEST = 200  # characters of a name; ours have 32, and 51 when marked
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# A file that is being filed is called "id.ID.NAME": after a crash its mail can be looked for under that id.
_find_id = re.compile(r"id\.([0-9a-hjkmnp-tv-z]{16})\.").match
_PATIENCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR, errno.EWOULDBLOCK})

Text = Annotated[str, msgspec.Meta(max_length=1024)]


class Head(Struct, frozen=True, forbid_unknown_fields=False):
    """The first line of a drop, in JSON; `octets` of content follow it, and nothing else."""

    version: Literal[1]
    reverse_path: Text
    recipients: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]
    octets: Annotated[int, msgspec.Meta(ge=0)]


class Entry(Struct, frozen=True):
    """A file that waits: its name, who owns it, its size, and what tells it from another file of that name."""

    name: str
    uid: int
    octets: int
    changed_ns: int
    inode: int

    @property
    def id(self) -> str:
        """Give the id under which its mail was about to be filed, or ""."""
        found = _find_id(self.name)
        return found[1] if found else ""

    @property
    def key(self) -> tuple[int, int]:
        """Tell it from every other file there ever was, until it changes."""
        return self.inode, self.changed_ns


class Dropped(Struct, frozen=True):
    """What a file holds."""

    head: Head
    content: bytes


class Flaw(Struct, frozen=True):
    """Why an entry is no drop (`is_lasting`), or cannot be read now."""

    why: str
    is_lasting: bool = True


class Look(Struct, frozen=True):
    """What lies there: files, fairly among their owners, and what was found that nobody can send, as (name, why).

    `is_whole`: nothing was left for the next look.
    """

    entries: tuple[Entry, ...] = ()
    strays: tuple[tuple[str, str], ...] = ()
    is_whole: bool = True


class MailDrop:
    """One drop directory, owned by one daemon. Every method blocks."""

    def __init__(self, directory: Path, *, is_open: bool) -> None:
        """`is_open`: others than we and root may leave mail, if the directory has to be made."""
        self.directory = directory
        self._is_open = is_open
        self._fd = -1
        self._aside = -1
        self._seen_ns = -1  # when the directory had last changed before the last look
        self._immovable: set[tuple[int, int]] = set()  # (inode, change) of what can be neither taken nor moved
        self._stuck: set[tuple[int, int]] = set()  # those found in this look

    def open(self) -> None:
        """Make the directory if it is not there, and hold on to it. Raises: ConfigError: it cannot be used safely."""
        try:
            self._make()
            self._fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._judge(os.fstat(self._fd))
            self._aside = self._open_aside()
        except OSError as error:
            self.close()
            raise ConfigError(
                f"{self.directory} cannot be used: {error.strerror}; make it as root: "
                f"install -d -m 3733 -o {os.geteuid()} -g {os.getegid()} {self.directory}",
                key="maildrop.directory",
            ) from error
        except ConfigError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of it; harmless when repeated."""
        for fd in (self._fd, self._aside):
            if fd >= 0:
                os.close(fd)
        self._fd = self._aside = -1

    def _make(self) -> None:
        if self.directory.is_dir():
            return
        missing = [each for each in self.directory.parents if not each.exists()]
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        for parent in missing:
            parent.chmod(0o755 if self._is_open else 0o700)  # the daemon's umask shuts out everybody
        self.directory.mkdir(mode=0o700)
        os.chown(self.directory, -1, os.getegid())
        mode = OPEN_MODE if self._is_open else PRIVATE_MODE
        try:
            self.directory.chmod(mode)
        except PermissionError:  # systemd's RestrictSUIDSGID; without the group's bit sendmail lets all read a file
            self.directory.chmod(mode & ~stat.S_ISGID)

    def _judge(self, facts: os.stat_result) -> None:
        mode = stat.S_IMODE(facts.st_mode)
        if os.geteuid() not in (0, facts.st_uid):
            raise ConfigError(
                f"{self.directory} belongs to uid {facts.st_uid}: nobody else can take files out of it; chown it to "
                f"uid {os.geteuid()}",
                key="maildrop.directory",
            )
        if mode & 0o022 and not mode & stat.S_ISVTX:
            raise ConfigError(
                f"in {self.directory} users could remove each other's mail: chmod {OPEN_MODE:04o} {self.directory}",
                key="maildrop.directory",
            )

    def _open_aside(self) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkdir(SET_ASIDE, 0o700, dir_fd=self._fd)
        fd = os.open(SET_ASIDE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        facts = os.fstat(fd)
        if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022:
            os.close(fd)
            raise ConfigError(f"{self.directory}/{SET_ASIDE} is not ours alone: remove it", key="maildrop.directory")
        return fd

    def has_changed(self) -> bool:
        """Tell whether something came or went since the last look; one call of the system. Raises: OSError."""
        return os.fstat(self._fd).st_mtime_ns != self._seen_ns

    def look(self) -> Look:
        """Look through the directory; removes what is no file and what was never finished. Raises: OSError."""
        changed_ns = os.fstat(self._fd).st_mtime_ns
        by_owner: dict[int, list[Entry]] = {}
        strays: list[tuple[str, str]] = []
        listed = 0
        is_whole = True
        immovable: set[tuple[int, int]] = set()
        with os.scandir(self._fd) as found:
            for each in found:
                if each.name == SET_ASIDE:
                    continue
                if (listed := listed + 1) > LISTED:
                    is_whole = False
                    break
                try:
                    facts = os.stat(each.name, dir_fd=self._fd, follow_symlinks=False)
                    if (facts.st_ino, facts.st_ctime_ns) in self._immovable:
                        immovable.add((facts.st_ino, facts.st_ctime_ns))
                    else:
                        self._sort(each.name, facts, by_owner, strays)
                except FileNotFoundError:  # its owner took it back
                    continue
        if is_whole:
            self._immovable = immovable  # what has gone need not be remembered
        self._immovable |= self._stuck
        self._stuck.clear()
        for owned in by_owner.values():
            owned.sort(key=lambda entry: entry.changed_ns)
            is_whole = is_whole and len(owned) <= OWNED
        turns = zip_longest(*[islice(owned, OWNED) for owned in by_owner.values()])
        entries = tuple([entry for entry in chain.from_iterable(turns) if entry is not None])
        is_settled = abs(time.time_ns() - changed_ns) > _SETTLED_NS
        self._seen_ns = changed_ns if is_settled and is_whole else -1
        return Look(entries, tuple(strays), is_whole)

    def _sort(
        self, name: str, facts: os.stat_result, by_owner: dict[int, list[Entry]], strays: list[tuple[str, str]]
    ) -> None:
        """Put an entry where it belongs, or out of the way."""
        if not stat.S_ISREG(facts.st_mode):
            why = self._remove_stray(name, facts)
            strays.append((name, f"{why} of uid {facts.st_uid}"))
        elif name.startswith(UNFINISHED):
            if time.time() - facts.st_ctime > SWEEP_S:  # ctime: nobody can set it
                os.unlink(name, dir_fd=self._fd)
        else:
            entry = _entry(name, facts)
            by_owner.setdefault(facts.st_uid, []).append(entry)

    def _remove_stray(self, name: str, facts: os.stat_result) -> str:
        try:
            if stat.S_ISDIR(facts.st_mode):
                os.rmdir(name, dir_fd=self._fd)
            else:
                os.unlink(name, dir_fd=self._fd)
        except OSError as error:
            self._stuck.add((facts.st_ino, facts.st_ctime_ns))
            return f"not a file, and it stays ({error.strerror})"
        return "not a file; removed"

    def read(self, entry: Entry, message_octets: int) -> Dropped | Flaw:
        """Read a file; what it holds is believed only as far as it fits together."""
        try:
            fd = os.open(entry.name, _OPEN, dir_fd=self._fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOENT, errno.ENXIO):  # it was swapped since the look
                return Flaw(f"gone: {error.strerror}", is_lasting=False)
            return Flaw(f"cannot be read: {error.strerror}", is_lasting=error.errno not in {*_PATIENCE, errno.EACCES})
        try:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_ino != entry.inode:
                return Flaw("another file now", is_lasting=False)
            if facts.st_nlink != 1:
                return Flaw(f"has {facts.st_nlink} links: it is a file of somewhere else, too")
            if facts.st_size > message_octets + HEAD_OCTETS:
                return Flaw(f"has {facts.st_size} octets: more than limits.message_size")
            octets = _read_all(fd, facts.st_size)
        except OSError as error:
            return Flaw(f"cannot be read: {error.strerror}", is_lasting=error.errno not in _PATIENCE)
        finally:
            os.close(fd)
        return _take_apart(octets, message_octets)

    def mark(self, entry: Entry, id: str) -> Entry:
        """Note durably, in its name, under which id a file's mail is about to be filed. Raises: OSError."""
        mark = _find_id(entry.name)
        name = f"id.{id}.{entry.name[mark.end() :] if mark else entry.name}"[:_LONGEST]
        os.rename(entry.name, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        os.fsync(self._fd)
        return _entry(name, os.stat(name, dir_fd=self._fd, follow_symlinks=False))

    def remove(self, entries: Iterable[Entry]) -> list[tuple[Entry, str]]:
        """Delete files whose mail is durable elsewhere, durably; gives those that stay, and why."""
        staying: list[tuple[Entry, str]] = []
        removed = 0
        for entry in entries:
            try:
                os.unlink(entry.name, dir_fd=self._fd)
                removed += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                staying.append((entry, error.strerror or str(error)))
        if removed:
            os.fsync(self._fd)
        return staying

    def set_aside(self, entry: Entry) -> str:
        """Move a file to corrupt/ under a name of its own; gives its path from here, or "" where it stays."""
        name = f"{time.time_ns()}.{entry.uid}.{entry.name[:_NAME_OCTETS]}"
        try:
            os.rename(entry.name, name, src_dir_fd=self._fd, dst_dir_fd=self._aside)
        except OSError:
            self._immovable.add(entry.key)
            return ""
        return f"{SET_ASIDE}/{name}"


def _entry(name: str, facts: os.stat_result) -> Entry:
    return Entry(name, facts.st_uid, facts.st_size, facts.st_ctime_ns, facts.st_ino)


def _read_all(fd: int, octets: int) -> bytes:
    """Read what there was at the look; one more octet would be a file that grows, and it does not fit then."""
    pieces: list[bytes] = []
    left = octets + 1
    while left and (piece := os.read(fd, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


_decode_head = msgspec.json.Decoder(Head).decode


def _take_apart(octets: bytes, message_octets: int) -> Dropped | Flaw:
    end = octets.find(b"\n", 0, HEAD_OCTETS)
    if end < 0:
        return Flaw("has no head")
    try:
        head = _decode_head(octets[:end])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Flaw(f"its head makes no sense: {error}")
    content = octets[end + 1 :]
    if len(content) != head.octets:
        return Flaw(f"has {len(content)} octets of content where its head says {head.octets}")
    if len(content) > message_octets:
        return Flaw(f"has {len(content)} octets of content: more than limits.message_size")
    return Dropped(head, content)
