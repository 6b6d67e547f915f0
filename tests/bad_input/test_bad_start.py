# SPDX-License-Identifier: MIT
"""What keeps the daemon from starting: each a clear line or two, the right exit code, and nothing harmed.

Rows: what is wrong -> exit code, and the words an operator reads.
"""

import os
import socket
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.content import KINDS, assert_same, without_our_field
from tests.live.raw import RawClient
from tests.live.rig import serving, smarthost
from tests.live.sink import Sink, free_port

pytestmark = pytest.mark.slow

HOP = ("--next-hop", "127.0.0.1:1", "--hostname", "relay.example.org")


def _refused(code: int, said: str, *words: str) -> None:
    """`smarthost serve` ends with this code, and these are among its words; never a traceback."""
    ran = smarthost("serve", *HOP, *words)
    told = ran.stderr.decode()
    assert "Traceback" not in told, told
    assert said in told
    assert all(line.startswith("smarthost: ") for line in told.splitlines()), told
    assert ran.returncode == code, told
    assert ran.stdout == b""


# -- configuration --

CONFIG = [
    ("unknown key", 'listn = ["127.0.0.1:0"]', "line 1: listn: unknown key; did you mean listen?"),
    ("unknown section", "[limit]\nerrors = 3", "limit"),
    ("unknown key in a section", "[limits]\nerorrs = 3", "limits.erorrs"),
    ("not TOML", "listen = [", "bad.toml"),
    ("not UTF-8", b"hostname = '\xff'", "bad.toml"),
    ("a NUL octet", b"hostname = 'a\0b'", "bad.toml"),
    ("no address", 'listen = ["mail.example.org:25"]', "listen"),
    ("port too high", 'listen = ["127.0.0.1:65536"]', "listen"),
    ("no network", 'relay_from = ["10.0.0.1/8"]', "relay_from"),
    ("no duration", "[retry]\nfirst = 'soon'", "retry.first"),
    ("no size", "[limits]\nmessage_size = '12 elephants'", "limits.message_size"),
    ("below the RFC's floor", "[limits]\nrecipients = 5", "limits.recipients"),
    ("wrong type", "soft_bounce = 'yes'", "soft_bounce"),
    ("password without user", "[next_hop]\nhost = 'h.example'\npassword = 'secret'", "either needs username"),
    ("password in clear", "[next_hop]\nhost='h.example'\nusername='u'\npassword='secret'\ntls='none'", "next_hop.tls"),
    ("no password file", "[next_hop]\nhost='h.example'\nusername='u'\npassword_file='/nonexistent'", "password_file"),
    ("no CA file", "[next_hop]\nhost='h.example'\ntls='verified'\nca_file='/nonexistent'", "ca_file"),
    ("an empty route", "[[route]]\ndomains = []", "route"),
]


@pytest.mark.parametrize(("what", "text", "said"), CONFIG, ids=[row[0] for row in CONFIG])
def test_a_wrong_configuration_is_refused(tmp_path: Path, what: str, text: str | bytes, said: str) -> None:
    """A mistake in the file is named with its key before anything is opened, and no secret is printed."""
    file = tmp_path / "bad.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())

    ran = smarthost("serve", "--config", str(file), "--state-dir", str(tmp_path / "state"))
    told = ran.stderr.decode()

    assert ran.returncode == 78, told
    assert said in told, told
    assert "secret" not in told
    assert "Traceback" not in told
    assert not (tmp_path / "state").exists()


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Nobody has to start five times to find five mistakes."""
    file = tmp_path / "bad.toml"
    file.write_text("lisen = 1\nhostname = 'a b'\n[limits]\nrecipients = 1\n[retry]\nfirst = -1\n[dns]\nserver = 3\n")

    ran = smarthost("serve", "--config", str(file), "--state-dir", str(tmp_path / "state"))

    told = ran.stderr.decode()
    assert ran.returncode == 78
    for key in ("lisen", "hostname", "limits.recipients", "retry.first", "dns.server"):
        assert key in told, told


USAGE = [
    (["--no-such-option"], 64),
    (["--mx-port", "0"], 78),
    (["--mx-port", "many"], 64),
    (["--dns", "not-an-address"], 78),
    (["--relay-from", "everybody"], 78),
    (["--hostname", "not a name"], 78),
    (["--listen", "127.0.0.1"], 78),
    (["--next-hop", ":::"], 78),
]


@pytest.mark.parametrize(("words", "code"), USAGE, ids=[" ".join(row[0]) for row in USAGE])
def test_a_wrong_command_line_is_refused(tmp_path: Path, words: list[str], code: int) -> None:
    """An option that makes no sense is named, with the exit code of its kind."""
    ran = smarthost("serve", "--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0", *words)

    told = ran.stderr.decode()
    assert ran.returncode in (code, 64 if code == 78 else code), told
    assert words[0] in told
    assert "Traceback" not in told
    assert not (tmp_path / "state").exists()


def test_direct_mx_wants_a_full_name(tmp_path: Path) -> None:
    """Without a next hop the host's name must be one that exchangers accept; it is not guessed."""
    ran = smarthost("serve", "--state-dir", str(tmp_path / "state"), "--hostname", "relay")

    assert ran.returncode == 78
    assert "hostname" in ran.stderr.decode()


# -- ports --


def test_a_port_in_use_is_named_and_the_store_is_let_go(tmp_path: Path) -> None:
    """Two programs cannot listen on one port: the second says which, and starts once it is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        _refused(78, endpoint, "--state-dir", str(tmp_path / "state"), "--listen", endpoint)

    with serving(tmp_path / "state", *HOP, listen=[endpoint]) as daemon:
        assert daemon.bound == [["127.0.0.1", int(endpoint.split(":")[1])]]


@pytest.mark.parametrize("endpoint", ["192.0.2.1:0", "[2001:db8::1]:0"])
def test_an_address_that_is_not_ours_cannot_be_listened_on(tmp_path: Path, endpoint: str) -> None:
    """An address of another machine is named in the refusal."""
    _refused(
        78, endpoint.split("]")[0].strip("[").removesuffix(":0"), "--state-dir", str(tmp_path), "--listen", endpoint
    )


# -- the state directory --


def _make_file(state: Path) -> None:
    state.write_text("a file")


def _make_under_a_file(state: Path) -> None:
    state.parent.joinpath("plain").write_text("a file")
    state.symlink_to(state.parent / "plain" / "below")


def _make_dangling(state: Path) -> None:
    state.symlink_to("/nonexistent/by/far")


def _make_foreign(state: Path) -> None:
    state.mkdir()
    (state / "thesis.doc").write_text("mine")


def _make_foreign_owner(state: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TRIED: only root can give a directory to another user")
    state.mkdir()
    os.chown(state, 65534, 65534)


def _make_read_only(state: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("NOT TRIED: root may write everywhere; the file system that is read-only is tried instead")
    state.mkdir(mode=0o500)


def _make_on_proc(state: Path) -> None:
    state.symlink_to("/proc/self")  # where nobody may make a file, not even root


def _make_no_database(state: Path) -> None:
    state.mkdir(mode=0o700)
    (state / "queue.db").write_bytes(b"Dear diary, " * 1000)


def _make_database_of_another(state: Path) -> None:
    state.mkdir(mode=0o700)
    with sqlite3.connect(state / "queue.db") as database:
        database.execute("CREATE TABLE recipe (name TEXT)")
    database.close()


def _make_newer(state: Path) -> None:
    with serving(state, *HOP):
        pass
    with sqlite3.connect(state / "queue.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def _make_directory_for_database(state: Path) -> None:
    state.mkdir(mode=0o700)
    (state / "queue.db").mkdir()


STATES: list[tuple[Callable[[Path], None], int, str]] = [
    (_make_file, 74, "state"),
    (_make_under_a_file, 74, "state"),
    (_make_dangling, 74, "state"),
    (_make_foreign, 73, "holds files that are not ours (thesis.doc)"),
    (_make_foreign_owner, 73, "belongs to user 65534"),
    (_make_read_only, 74, "not writable"),
    (_make_on_proc, 74, "not writable"),
    (_make_no_database, 74, "is not a database"),
    (_make_database_of_another, 74, "is a database of another program"),
    (_make_newer, 74, "written by a newer smarthost (it needs one that knows schema 99"),
    (_make_directory_for_database, 74, "queue.db"),
]


def _everything_in(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize(
    ("make", "code", "said"), STATES, ids=[row[0].__name__.removeprefix("_make_") for row in STATES]
)
def test_a_state_directory_that_cannot_be_used(
    tmp_path: Path, make: Callable[[Path], None], code: int, said: str
) -> None:
    """Whatever is wrong with the directory is said in words, and what lies in it is left as it was."""
    state = tmp_path / "state"
    make(state)
    before = {} if make is _make_on_proc else _everything_in(tmp_path)

    _refused(code, said, "--state-dir", str(state), "--listen", "127.0.0.1:0")

    if make is not _make_on_proc:
        assert _everything_in(tmp_path) == before


def test_a_state_directory_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    """Mail is nobody else's business: a new directory is 0700, and so is all that is put into it."""
    with serving(tmp_path / "state", *HOP) as daemon:
        with RawClient(daemon.port) as client:
            client.send(KINDS["300 KiB"], "bob@example.net")
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").rglob("*")}

    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert [path for path, mode in modes.items() if mode & 0o077] == []


def test_a_second_daemon_on_the_same_directory_harms_nothing(tmp_path: Path) -> None:
    """The second one is told who is there and ends; the first goes on, and keeps its mail."""
    with Sink() as sink:
        port = free_port()
        with serving(tmp_path / "state", "--next-hop", f"127.0.0.1:{sink.port}") as daemon:
            for _ in range(2):
                _refused(
                    73,
                    f"in use by process {daemon.process.pid}",
                    "--state-dir",
                    str(tmp_path / "state"),
                    "--listen",
                    f"127.0.0.1:{port}",
                )
            with RawClient(daemon.port) as client:
                client.send(KINDS["short"], "bob@example.net")
            arrived = sink.wait_for_recipient("bob@example.net")
            assert daemon.queue() == []

    assert_same(KINDS["short"], without_our_field(arrived.content), "the first goes on")


def test_a_damaged_header_is_told_and_the_mail_is_saved(tmp_path: Path) -> None:
    """A database whose header was overwritten is salvaged: all mail is there, and so is the damaged file."""
    state = tmp_path / "state"
    with serving(state, *HOP) as daemon, RawClient(daemon.port) as client:
        client.send(KINDS["short"], "bob@example.net")
    good = (state / "queue.db").read_bytes()
    (state / "queue.db").write_bytes(b"\xff" * 100 + good[100:])

    with Sink() as sink, serving(state, "--next-hop", f"127.0.0.1:{sink.port}") as daemon:
        told = daemon.line("store in trouble")
        daemon.command("queue", "retry", "--all")
        arrived = sink.wait_for_recipient("bob@example.net")
    assert "queue.db" in told["why"]
    assert list(state.glob("queue.db.damaged-*"))
    assert_same(KINDS["short"], without_our_field(arrived.content), "after the damage")


def test_a_garbled_queue_is_told_and_kept(tmp_path: Path) -> None:
    """Where nothing can be read any more it is said so, the files stay for whoever can, and new mail is taken."""
    state = tmp_path / "state"
    with serving(state, *HOP) as daemon, RawClient(daemon.port) as client:
        client.send(KINDS["short"], "bob@example.net")
    good = (state / "queue.db").read_bytes()
    garbled = good[:4096] + b"\x5a" * (len(good) - 4096)
    (state / "queue.db").write_bytes(garbled)

    with serving(state, *HOP) as daemon, RawClient(daemon.port) as client:
        told = daemon.line("store in trouble")
        client.send(KINDS["short"], "carol@example.net")
    assert "queue.db" in told["why"]
    assert garbled in [file.read_bytes() for file in state.glob("queue.db.damaged-*")]
