# SPDX-License-Identifier: MIT
"""Relayers that work on message files: one open at a time, octets, removed only when a host has taken them."""

import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.compat.sessions import ACCEPTED, GREETING, Session, open_files, watch_log, write_message
from twisted.internet.error import ConnectionLost

from smarthost.compat.relay import ESMTPRelayer, RelayerMixin, SMTPRelayer

CONTENT = b"Subject: hi\n\n\x00\xe9 \xff\n.\n"


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[list[str]]:
    """What Twisted's log says meanwhile; an error in it fails the test."""
    with watch_log() as lines:
        yield lines


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Three messages."""
    return [write_message(tmp_path / f"m{n}", f"s{n}@example.org", f"r{n}@example.net", CONTENT) for n in range(3)]


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Raise TimeoutError into what blocks."""

    def ring(*_: Any) -> None:
        raise TimeoutError("blocked")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def left(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_messages_are_given_in_order_as_octets_with_one_file_open(tmp_path: Path, paths: list[str]) -> None:
    """The mixin alone: sender, recipient and content of each message, and never two files."""
    relayer: Any = RelayerMixin()
    relayer.loadMessages(paths)
    assert open_files(tmp_path) == []

    for n, path in enumerate(paths):
        assert relayer.names[0] == path
        assert (relayer.getMailFrom(), relayer.getMailTo()) == (f"s{n}@example.org", [f"r{n}@example.net"])
        assert relayer.getMailData().read() == CONTENT
        assert relayer.getMailData().read() == CONTENT
        assert open_files(tmp_path) == [f"m{n}-D"]
        relayer.sentMail(450, b"", 0, [], None)
        assert open_files(tmp_path) == []

    assert relayer.getMailFrom() is relayer.getMailTo() is relayer.getMailData() is None


def test_paths_may_be_octets_or_path_objects(tmp_path: Path) -> None:
    """A program that keeps its queue's directory as bytes is served."""
    path = write_message(tmp_path / "m", "a@b", "c@d")
    relayer = RelayerMixin()

    relayer.loadMessages([os.fsencode(path), Path(path)])  # type: ignore[list-item]

    assert relayer.names == [path, path]


def test_a_message_that_cannot_be_read_is_left_where_it_is(
    tmp_path: Path, paths: list[str], log_lines: list[str]
) -> None:
    """A damaged envelope and a missing one are named in the log; the others are taken up."""
    Path(paths[0] + "-H").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    Path(paths[1] + "-H").unlink()

    relayer = SMTPRelayer(paths, "relay.example.org")

    assert relayer.names == [paths[2]]
    assert [name for name in paths[:2] if any(name in line for line in log_lines)] == paths[:2]
    assert len(left(tmp_path)) == 5


@pytest.mark.parametrize("kind", ["smtp", "esmtp"])
def test_what_a_host_took_is_removed_and_the_rest_is_left(kind: str, tmp_path: Path, paths: list[str]) -> None:
    """Accepted, refused for good, refused for now: only the first is gone."""
    relayer: Any = (
        SMTPRelayer(paths, "relay.example.org")
        if kind == "smtp"
        else ESMTPRelayer(paths, None, None, b"relay.example.org")
    )
    session = Session(relayer)
    session.hear(*GREETING)

    assert session.deliver() == b"Subject: hi\r\n\r\n\x00\xe9 \xff\r\n..\r\n.\r\n"
    session.hear(b"250 ok", b"550 no", b"250 reset")
    session.hear(*ACCEPTED)
    session.pump()
    assert session.hear(b"452 full") == b"RSET\r\n"
    assert session.hear(b"250 ok") == b"QUIT\r\n"
    session.lose()

    assert left(tmp_path) == ["m1-D", "m1-H", "m2-D", "m2-H"]
    assert open_files(tmp_path) == []


@pytest.mark.parametrize("heard", range(8))
def test_no_file_stays_open_when_the_connection_is_lost_at_any_time(
    heard: int, tmp_path: Path, paths: list[str]
) -> None:
    """At most one descriptor meanwhile, none afterwards, and nothing removed that was not accepted."""
    session = Session(SMTPRelayer(paths, "relay.example.org"))
    for line in [*GREETING, *ACCEPTED, b"250 queued", b"250 reset"][:heard]:
        session.hear(line)
        assert len(open_files(tmp_path)) <= 1

    session.lose(ConnectionLost())

    assert open_files(tmp_path) == []
    assert len(left(tmp_path)) == 6  # the content was never read to its end, so even the 250 was none


def test_no_file_stays_open_when_the_session_is_aborted_in_the_content(tmp_path: Path, paths: list[str]) -> None:
    """A reply that is none, in the middle of the content."""
    session = Session(SMTPRelayer(paths, "relay.example.org"))
    session.hear(*GREETING, *ACCEPTED)
    assert open_files(tmp_path) == ["m0-D"]

    session.hear(b"garbage")
    session.lose()

    assert open_files(tmp_path) == []
    assert len(left(tmp_path)) == 6


def test_content_that_is_gone_or_closed_to_us_costs_its_message_only(
    tmp_path: Path, paths: list[str], log_lines: list[str]
) -> None:
    """A content file that cannot be opened is noticed before DATA; the next message goes."""
    Path(paths[0] + "-D").unlink()
    Path(paths[0] + "-D").mkdir()
    session = Session(SMTPRelayer(paths, "relay.example.org"))
    session.hear(*GREETING, b"250 ok")

    assert session.hear(b"250 ok") == b"RSET\r\n"
    assert session.hear(b"250 ok") == b"MAIL FROM:<s1@example.org>\r\n"

    session.deliver()
    session.lose()
    assert left(tmp_path) == ["m0-D", "m0-H", "m2-D", "m2-H"]
    assert any("cannot be opened" in line for line in log_lines)


def test_a_message_that_cannot_be_removed_does_not_end_the_session(
    tmp_path: Path, paths: list[str], log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged by name, its envelope stays with it, and the others go."""
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "m0-D":
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    session = Session(SMTPRelayer(paths[:2], "relay.example.org"))
    session.hear(*GREETING)

    session.deliver()
    session.deliver()

    session.lose()
    assert left(tmp_path) == ["m0-D", "m0-H", "m2-D", "m2-H"]
    assert any(paths[0] in line and "may be sent again" in line for line in log_lines)


def test_a_crash_between_the_two_removals_leaves_no_message(
    tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content goes first: what is left is an envelope, which is not sent again."""
    removed: list[str] = []
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: removed.append(str(path)))
    session = Session(SMTPRelayer(paths[:1], "relay.example.org"))
    session.hear(*GREETING)

    session.deliver()

    session.lose()
    assert removed == [paths[0] + "-D", paths[0] + "-H"]


@pytest.mark.parametrize("suffix", ["-H", "-D"])
def test_a_message_file_that_is_a_fifo_is_not_waited_for(
    suffix: str, tmp_path: Path, paths: list[str], log_lines: list[str]
) -> None:
    """It would hold the whole program; its message is left where it is, and the next one goes."""
    Path(paths[0] + suffix).unlink()
    os.mkfifo(paths[0] + suffix)

    with deadline(2):
        session = Session(SMTPRelayer(paths[:2], "relay.example.org"))
        session.hear(*GREETING)
        if suffix == "-D":
            session.hear(*ACCEPTED[:2], b"250 reset")
        session.deliver()
    session.lose()

    assert left(tmp_path) == ["m0-D", "m0-H", "m2-D", "m2-H"]
    assert any("no regular file" in line for line in log_lines)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_path_that_would_forge_log_lines_is_logged_escaped(
    is_there: bool, tmp_path: Path, log_lines: list[str]
) -> None:
    """Control, invisible and foreign characters, in the path or in what is said of it, come out as escapes."""
    forged = f"{tmp_path}/m\n\u202e\xe9 forged"
    if is_there:
        Path(forged + "-H").write_bytes(b"cos\nsystem\n(S'true'\ntR.")

    RelayerMixin().loadMessages([forged])

    [line] = log_lines
    assert line.isascii()
    assert line.isprintable()
    assert ascii(forged)[1:-1] in line


def test_a_program_whose_sent_mail_raises_sends_no_message_twice(
    tmp_path: Path, paths: list[str], log_lines: list[str]
) -> None:
    """What a host took is removed by the one it overrides, and what it refused is left; the session goes on."""

    class Counting(SMTPRelayer):
        def sentMail(self, *told: Any) -> None:
            raise RuntimeError("no statistics today")

    session = Session(Counting(paths, "relay.example.org"))
    session.hear(*GREETING)

    session.deliver()
    session.hear(b"550 no", b"250 reset")
    session.deliver()
    session.lose()

    assert left(tmp_path) == ["m1-D", "m1-H"]
    assert sum("no statistics today" in line for line in log_lines) == 3


def test_a_program_whose_sent_mail_raises_late_sends_no_message_twice(tmp_path: Path, paths: list[str]) -> None:
    """What was settled before it raised is not settled again; the next message is untouched."""

    class Counting(SMTPRelayer):
        def sentMail(self, *told: Any) -> None:
            super().sentMail(*told)
            raise RuntimeError("no statistics today")

    session = Session(Counting(paths, "relay.example.org"))
    session.hear(*GREETING)

    session.deliver()
    session.lose()

    assert left(tmp_path) == ["m1-D", "m1-H", "m2-D", "m2-H"]
    assert session.client.names == paths[1:]


def test_a_session_without_messages_says_goodbye() -> None:
    """Nothing to relay is no error."""
    session = Session(SMTPRelayer([], "relay.example.org"))

    assert session.hear(*GREETING).endswith(b"\r\nQUIT\r\n")
    session.lose()


def test_a_program_that_gives_text_for_content_costs_its_connection_only(paths: list[str]) -> None:
    """Content is octets; a subclass that opens it as text is told so in the log, and nothing is sent."""

    class AsText(SMTPRelayer):
        def getMailData(self) -> Any:
            return io.StringIO("text")

    session = Session(AsText(paths, "relay.example.org"))
    session.hear(*GREETING, *ACCEPTED)

    assert session.pump() == b""
    assert session.is_aborted
    assert "TypeError" in session.client.whyEnded
    session.lose()


def test_a_program_may_read_the_third_item_of_a_message(tmp_path: Path, paths: list[str]) -> None:
    """As in the original there is a file beside the addresses; it is opened when it is read, and closed again."""
    relayer: Any = RelayerMixin()
    relayer.loadMessages(paths)
    sender, recipient, content = relayer.messages[0]
    assert open_files(tmp_path) == []

    assert (sender, recipient, content.read()) == ("s0@example.org", "r0@example.net", CONTENT)
    content.seek(0)
    assert content.readline() == b"Subject: hi\n"
    assert open_files(tmp_path) == ["m0-D"]

    relayer.sentMail(450, b"", 0, [], None)
    assert open_files(tmp_path) == []


def test_a_link_is_not_followed(tmp_path: Path, paths: list[str]) -> None:
    """Who may write the directory gets no file mailed that only we can read."""
    (tmp_path / "secret").write_text("secret")
    Path(paths[0] + "-D").unlink()
    Path(paths[0] + "-D").symlink_to(tmp_path / "secret")
    relayer: Any = RelayerMixin()
    relayer.loadMessages(paths)

    with pytest.raises(OSError, match="symbolic"):
        relayer.getMailData()
