# SPDX-License-Identifier: MIT
"""The drop directory: what is believed of what strangers leave there."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest

from smarthost.backends.maildrop import (
    LISTED,
    OWNED,
    SET_ASIDE,
    Dropped,
    Entry,
    Flaw,
    MailDrop,
)
from smarthost.mail.errors import ConfigError

LIMIT = 1000
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")


@pytest.fixture
def drop(tmp_path: Path) -> MailDrop:
    drop = MailDrop(tmp_path / "maildrop", is_open=True)
    drop.open()
    return drop


def written(content: bytes = b"Subject: x\r\n\r\nhi\r\n", **head: object) -> bytes:
    fields = {"version": 1, "reverse_path": "a@x.example", "recipients": ["b@y.example"], "octets": len(content)}
    return json.dumps({**fields, **head}).encode() + b"\n" + content


def leave(drop: MailDrop, name: str, octets: bytes = b"", uid: int = -1) -> Path:
    path = drop.directory / name
    path.write_bytes(octets or written())
    if uid >= 0:
        os.chown(path, uid, -1)
    return path


def only(drop: MailDrop) -> Entry:
    [entry] = drop.look().entries
    return entry


def flaw(drop: MailDrop, limit: int = LIMIT) -> Flaw:
    found = drop.read(only(drop), limit)
    assert isinstance(found, Flaw), found
    return found


def test_the_directory_is_made_for_everybody_to_write_and_nobody_to_list(tmp_path: Path) -> None:
    """Whatever the daemon's umask: others may come in by way of all the directories that had to be made."""
    before = os.umask(0o077)
    try:
        MailDrop(tmp_path / "a/b/maildrop", is_open=True).open()
    finally:
        os.umask(before)

    assert [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in ("a", "a/b", "a/b/maildrop")] == [
        0o755, 0o755, 0o3733,
    ]  # fmt: skip
    assert stat.S_IMODE((tmp_path / "a/b/maildrop" / SET_ASIDE).stat().st_mode) & 0o777 == 0o700


def test_a_private_directory_is_for_nobody_else(tmp_path: Path) -> None:
    """A daemon of one's own shares it with nobody."""
    MailDrop(tmp_path / "maildrop", is_open=False).open()

    assert stat.S_IMODE((tmp_path / "maildrop").stat().st_mode) == 0o2700


def test_a_directory_where_users_could_remove_each_others_mail_is_refused(tmp_path: Path) -> None:
    """0777 without the sticky bit is an accident, and the cure is said."""
    (tmp_path / "maildrop").mkdir()
    (tmp_path / "maildrop").chmod(0o777)

    with pytest.raises(ConfigError, match="users could remove each other's mail: chmod 3733"):
        MailDrop(tmp_path / "maildrop", is_open=True).open()


@pytest.mark.parametrize("kind", ["symlink", "file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, kind: str) -> None:
    """A link is not followed to where somebody else would have us delete files."""
    path = tmp_path / "maildrop"
    (tmp_path / "other").mkdir()
    if kind == "file":
        path.write_bytes(b"")
    else:
        path.symlink_to(tmp_path / "other")

    with pytest.raises(ConfigError, match=r"cannot be used: .*install -d -m 3733"):
        MailDrop(path, is_open=True).open()


def test_a_corrupt_directory_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """Nobody makes us move files to where he likes."""
    (tmp_path / "maildrop").mkdir()
    (tmp_path / "maildrop").chmod(0o3733)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "maildrop" / SET_ASIDE).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigError):
        MailDrop(tmp_path / "maildrop", is_open=True).open()


def test_a_corrupt_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Nor does anybody take away what was set aside."""
    (tmp_path / "maildrop" / SET_ASIDE).mkdir(parents=True)
    (tmp_path / "maildrop" / SET_ASIDE).chmod(0o777)

    with pytest.raises(ConfigError, match="corrupt is not ours alone: remove it"):
        MailDrop(tmp_path / "maildrop", is_open=True).open()


def test_a_drop_is_read_as_it_was_written(drop: MailDrop) -> None:
    """Envelope and content, and who left it."""
    leave(drop, "x", written(b"\xff\x00 any octets\n", recipients=["b@y.example", "é@z.example"]))

    entry = only(drop)
    found = drop.read(entry, LIMIT)

    assert isinstance(found, Dropped)
    assert (found.content, found.head.reverse_path) == (b"\xff\x00 any octets\n", "a@x.example")
    assert (found.head.recipients, entry.uid) == (("b@y.example", "é@z.example"), os.geteuid())


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"Subject: x\n\nhi\n", "its head makes no sense"),
        (b"{}\n", "its head makes no sense"),
        (b"\xff\n", "its head makes no sense"),
        (b"[" * 100_000 + b"\n", "its head makes no sense"),
        (b'{"x":' + b"[" * 100_000 + b"\n", "its head makes no sense"),
        (b"no end of line", "has no head"),
        (written(octets=5)[:-4], "octets of content where its head says 5"),
        (written() + b"x", "has 19 octets of content where its head says 18"),
        (written()[:-1], "has 17 octets of content where its head says 18"),
        (written(octets=-1), "its head makes no sense"),
        (written(recipients=[]), "its head makes no sense"),
        (written(recipients="x"), "its head makes no sense"),
        (written(version=2), "its head makes no sense"),
        (written(reverse_path="x" * 2000), "its head makes no sense"),
        (written(b"x" * (LIMIT + 1)), "more than limits.message_size"),
    ],
)
def test_a_file_that_does_not_fit_together_is_no_mail(drop: MailDrop, octets: bytes, why: str) -> None:
    """Half of a file, or somebody's notes, are never sent."""
    leave(drop, "x", octets)

    found = flaw(drop)

    assert found.is_lasting
    assert why in found.why


def test_a_huge_file_costs_nothing(drop: MailDrop) -> None:
    """A terabyte of nothing is not read."""
    path = leave(drop, "x")
    os.truncate(path, 1 << 40)

    assert "more than limits.message_size" in flaw(drop).why


def test_a_file_with_another_name_elsewhere_is_no_mail(drop: MailDrop, tmp_path: Path) -> None:
    """A hard link to a file that its maker may not read is not mailed to him."""
    secret = tmp_path / "secret"
    secret.write_bytes(written())
    os.link(secret, drop.directory / "x")

    assert "has 2 links" in flaw(drop).why
    assert drop.set_aside(only(drop))
    assert secret.read_bytes() == written()


def test_what_is_no_file_is_removed_and_never_opened(drop: MailDrop, tmp_path: Path) -> None:
    """Links, pipes, sockets and directories hold no mail, and nothing waits for them."""
    target = tmp_path / "target"
    target.write_bytes(written())
    (drop.directory / "link").symlink_to(target)
    (drop.directory / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(drop.directory / "pipe")
    (drop.directory / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(drop.directory / "socket"))

    look = drop.look()

    assert look.entries == ()
    assert {name for name, _ in look.strays} == {"link", "dangling", "pipe", "directory", "socket"}
    assert {each.name for each in drop.directory.iterdir()} == {SET_ASIDE}
    assert target.read_bytes() == written()


def test_a_directory_with_something_in_it_stays_and_is_told_once(drop: MailDrop) -> None:
    """Nobody else's directory can be taken away; mail goes on beside it."""
    (drop.directory / "full/of").mkdir(parents=True)
    leave(drop, "x")

    first, second = drop.look(), drop.look()

    assert [name for name, _ in first.strays] == ["full"]
    assert second.strays == ()
    assert [each.name for each in second.entries] == ["x"]


def test_a_file_that_was_swapped_after_the_look_is_left_alone(drop: MailDrop, tmp_path: Path) -> None:
    """What was looked at is what is read, or nothing: no link and no pipe takes its place."""
    path = leave(drop, "x")
    entry = only(drop)
    for put in (lambda: path.symlink_to(tmp_path / "y"), lambda: os.mkfifo(path), lambda: path.write_bytes(written())):
        path.rename(tmp_path / f"kept{id(put)}")
        put()

        found = drop.read(entry, LIMIT)

        assert isinstance(found, Flaw)
        assert not found.is_lasting


def test_a_link_to_the_very_file_is_not_followed(drop: MailDrop, tmp_path: Path) -> None:
    """Where a name leads is never asked."""
    path = leave(drop, "x")
    entry = only(drop)
    path.symlink_to(path.rename(tmp_path / "kept"))

    assert isinstance(drop.read(entry, LIMIT), Flaw)


def test_what_is_being_written_is_not_looked_at(drop: MailDrop) -> None:
    """A temporary name is no mail yet."""
    leave(drop, "tmp.x", b"half of")

    assert drop.look().entries == ()
    assert (drop.directory / "tmp.x").exists()


def test_what_was_never_finished_goes_after_a_day(drop: MailDrop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sendmail that was killed leaves nothing for ever."""
    leave(drop, "tmp.x", b"half of")
    now = drop.directory.stat().st_mtime
    monkeypatch.setattr("smarthost.backends.maildrop.time.time", lambda: now + 2 * 86400)

    drop.look()

    assert not (drop.directory / "tmp.x").exists()


def test_nothing_new_needs_no_look(drop: MailDrop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle daemon asks once a second for one time, and nothing else."""
    now = drop.directory.stat().st_mtime_ns
    monkeypatch.setattr("smarthost.backends.maildrop.time.time_ns", lambda: now + 10_000_000_000)
    drop.look()

    assert not drop.has_changed()
    leave(drop, "x")
    assert drop.has_changed()


def test_a_file_that_comes_within_the_tick_of_a_look_is_not_overlooked(drop: MailDrop) -> None:
    """Directory times have a resolution: a young change is looked at again."""
    times = drop.directory.stat()
    drop.look()
    leave(drop, "x")
    os.utime(drop.directory, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if both fell into one tick

    assert drop.has_changed()


@is_root
def test_one_owners_files_keep_nobody_waiting(drop: MailDrop) -> None:
    """Whose mail comes alone comes first, however many another left before."""
    for n in range(OWNED + 50):
        leave(drop, f"many{n}", uid=1001)
    leave(drop, "alone", uid=1002)

    look = drop.look()

    assert "alone" in [each.name for each in look.entries[:2]]
    assert len(look.entries) == OWNED + 1
    assert not look.is_whole
    assert drop.has_changed(), "there is more"


def test_a_look_is_bounded(drop: MailDrop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million files are looked through in portions."""
    assert LISTED == 10_000
    monkeypatch.setattr("smarthost.backends.maildrop.LISTED", 5)
    for n in range(20):
        leave(drop, f"x{n}")

    look = drop.look()

    assert len(look.entries) == 5
    assert not look.is_whole


def test_what_is_set_aside_is_kept_under_a_name_of_its_own(drop: MailDrop) -> None:
    """Two files of one name do not replace each other."""
    for content in (b"one", b"two"):
        leave(drop, "x", content)
        assert drop.set_aside(only(drop)).startswith("corrupt/")

    assert {each.read_bytes() for each in (drop.directory / SET_ASIDE).iterdir()} == {b"one", b"two"}
    assert drop.look().entries == ()


def test_a_mark_tells_the_id_and_replaces_an_earlier_one(drop: MailDrop) -> None:
    """After a crash the file says under which id its mail was about to be filed."""
    leave(drop, "x")
    assert only(drop).id == ""

    drop.mark(only(drop), "0123456789abcdef"[:16].replace("i", "0"))
    marked = drop.mark(only(drop), "38g25seqy0000q3f")

    assert (marked.name, marked.id) == ("id.38g25seqy0000q3f.x", "38g25seqy0000q3f")
    assert only(drop) == marked


def test_what_cannot_be_deleted_is_told(drop: MailDrop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mail is taken: whoever looks again must know."""
    leave(drop, "x")
    entry = only(drop)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("smarthost.backends.maildrop.os.unlink", deny)

    assert drop.remove([entry]) == [(entry, "Operation not permitted")]


def test_a_service_that_may_not_set_the_group_bit_makes_the_directory_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd's RestrictSUIDSGID forbids the bit, and mail of local users is taken all the same."""
    chmod = Path.chmod

    def restricted(path: Path, mode: int, **others: bool) -> None:
        if mode & stat.S_ISGID:
            raise PermissionError(1, "Operation not permitted")
        chmod(path, mode, **others)

    monkeypatch.setattr(Path, "chmod", restricted)

    MailDrop(tmp_path / "maildrop", is_open=True).open()

    assert stat.S_IMODE((tmp_path / "maildrop").stat().st_mode) == 0o1733
