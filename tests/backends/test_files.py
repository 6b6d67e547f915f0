# SPDX-License-Identifier: MIT
"""Large content: drafts in memory and in files, reading back, and room."""

import errno
import os
from pathlib import Path

import pytest

from smarthost.backends import files
from smarthost.backends.files import CHUNK_OCTETS, Drafts, FileContent, Space
from smarthost.mail.content import Content, InlineContent
from smarthost.mail.errors import StoreError, StoreFull
from smarthost.testing.clock import FakeClock

INLINE = 1000


def make_drafts(directory: Path, reserve_octets: int = 0) -> Drafts:
    return Drafts(directory, Space(directory, FakeClock().monotonic, reserve_octets), INLINE)


def names(directory: Path) -> list[str]:
    return sorted([entry.name for entry in directory.iterdir()])


def test_small_draft_never_touches_the_disk(tmp_path: Path) -> None:
    """Content that fits in memory costs no file."""
    drafts = make_drafts(tmp_path)
    draft = drafts.begin()
    draft.write(b"x" * 600)
    draft.write(b"y" * 400)
    assert drafts.in_memory == INLINE

    content = draft.finish()

    assert content == InlineContent(b"x" * 600 + b"y" * 400)
    assert names(tmp_path) == []
    assert drafts.in_memory == 0


def test_growing_draft_moves_to_a_file(tmp_path: Path) -> None:
    """Beyond the threshold everything is in the file, in order, and memory is free again."""
    drafts = make_drafts(tmp_path)
    draft = drafts.begin()
    pieces = [bytes([n]) * 300 for n in range(10)]
    for piece in pieces:
        draft.write(piece)

    content = draft.finish()

    assert isinstance(content, FileContent)
    assert drafts.in_memory == 0
    assert Path(content.path).read_bytes() == b"".join(pieces)
    assert (content.octets, b"".join(content.chunks())) == (3000, b"".join(pieces))
    assert isinstance(content, Content)
    draft.discard()
    assert names(tmp_path) == []


def test_all_drafts_together_hold_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand slow senders of small content do not fill memory: beyond a bound drafts go to files at once."""
    monkeypatch.setattr(files, "DRAFTS_OCTETS", 2_000)
    drafts = make_drafts(tmp_path)
    begun = [drafts.begin() for _ in range(5)]
    for draft in begun:
        draft.write(b"x" * 900)
        assert drafts.in_memory <= 2_000

    contents = [draft.finish() for draft in begun]

    assert [b"".join(content.chunks()) for content in contents] == [b"x" * 900] * 5
    assert len(names(tmp_path)) == 3
    for draft in begun:
        draft.discard()
    assert names(tmp_path) == []


def test_claimed_draft_is_the_file_itself(tmp_path: Path) -> None:
    """Filing a finished draft copies nothing."""
    drafts = make_drafts(tmp_path)
    draft = drafts.begin()
    draft.write(b"x" * 5000)
    content = draft.finish()

    claimed = drafts.claim(content)

    assert claimed is draft
    assert names(tmp_path) == [claimed.path.name]
    assert drafts.finished == {}


@pytest.mark.parametrize("size", [0, 10, 5000])
def test_content_of_others_is_copied(tmp_path: Path, size: int) -> None:
    """Content that is not a draft of this store becomes one."""
    (tmp_path / "theirs").write_bytes(b"z" * size)
    drafts = make_drafts(tmp_path)

    claimed = drafts.claim(FileContent(str(tmp_path / "theirs"), size))

    assert claimed.path.read_bytes() == b"z" * size
    assert drafts.finished == {}
    assert drafts.in_memory == 0


def test_failed_copy_leaves_no_file(tmp_path: Path) -> None:
    """When content cannot be read to its end, nothing of it stays."""
    (tmp_path / "theirs").write_bytes(b"z" * 4999)

    with pytest.raises(StoreError):
        make_drafts(tmp_path).claim(FileContent(str(tmp_path / "theirs"), 5000))

    assert names(tmp_path) == ["theirs"]


def test_chunks_are_bounded(tmp_path: Path) -> None:
    """Large content is never in memory as a whole."""
    octets = os.urandom(CHUNK_OCTETS * 2 + 5)
    (tmp_path / "x").write_bytes(octets)

    chunks = list(FileContent(str(tmp_path / "x"), len(octets)).chunks())

    assert [len(chunk) for chunk in chunks] == [CHUNK_OCTETS, CHUNK_OCTETS, 5]
    assert b"".join(chunks) == octets


def test_abandoned_reading_closes_the_file(tmp_path: Path) -> None:
    """Who stops reading in the middle leaves no descriptor open."""
    (tmp_path / "x").write_bytes(b"x" * (CHUNK_OCTETS + 1))
    before = len(list(Path("/proc/self/fd").iterdir()))
    chunks = FileContent(str(tmp_path / "x"), CHUNK_OCTETS + 1).chunks()
    next(chunks)

    chunks.close()  # type: ignore[attr-defined]

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_room_is_told_before_the_disk_says_so(tmp_path: Path) -> None:
    """While little room is left no draft begins, and none grows."""
    drafts = make_drafts(tmp_path)
    draft = drafts.begin()
    drafts.space.set_reserve(1 << 60)

    with pytest.raises(StoreFull, match="are kept for settlements"):
        drafts.begin()
    with pytest.raises(StoreFull):
        draft.write(b"x" * 2000)
    draft.discard()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreError)]
)
def test_what_the_disk_says_is_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StoreError]
) -> None:
    """A full disk or quota is StoreFull, everything else StoreError."""

    def refuse(fd: int, octets: bytes) -> int:
        raise OSError(code, os.strerror(code))

    draft = make_drafts(tmp_path).begin()
    monkeypatch.setattr(os, "write", refuse)

    with pytest.raises(StoreError) as caught:
        draft.write(b"x" * 2000)

    assert type(caught.value) is kind
    draft.discard()
    assert names(tmp_path) == []


def test_partial_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write less than asked: nothing is lost."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, octets: write(fd, octets[:700]))
    draft = make_drafts(tmp_path).begin()
    octets = os.urandom(5000)
    draft.write(octets)

    assert b"".join(draft.finish().chunks()) == octets
    draft.discard()


def test_room_within_the_database_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that was once large and is empty now takes mail again, though its file never shrinks."""
    found = os.statvfs(tmp_path)
    free = found.f_bavail * found.f_frsize
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    space = Space(tmp_path, FakeClock().monotonic, free + 4096)
    assert isinstance(space.shortage(), StoreFull)

    space.set_spare(4096)
    space.set_reserve(free + 4096)
    assert space.shortage() is None
    space.set_spare(1 << 60)
    space.set_reserve(free * 4 + 4096)
    assert isinstance(space.shortage(), StoreFull), "the write-ahead log needs room of its own"


def test_room_is_looked_at_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for room costs a system call four times a second at most, or when much was written meanwhile."""
    looks = []
    statvfs = os.statvfs

    def look(path: Path) -> os.statvfs_result:
        looks.append(path)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", look)
    clock = FakeClock()
    space = Space(tmp_path, clock.monotonic, 0)

    for _ in range(100):
        assert space.shortage() is None
    assert len(looks) == 1
    clock.advance(files.LOOK_S)
    space.shortage()
    assert len(looks) == 2
    space.shortage(files.LOOK_OCTETS + 1)
    assert len(looks) == 3
