# SPDX-License-Identifier: MIT
"""sendmail, mailq and newaliases as processes: with a daemon and without, as root and as somebody else."""

import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.ops.rig import FakeHosts, FakeQueue, message, running

from smarthost.backends.maildrop import Dropped, MailDrop
from smarthost.mail.explanation import Explanation
from smarthost.ops import exits

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "src"
NOBODY = 65534
START = """
import os, sys
sys.path.insert(0, os.environ["CODE"])
from smarthost.ops import sendmail
sys.argv[0] = os.environ["CALLED"]
getattr(sendmail, os.environ.get("ENTRY", "main"))()
"""
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="runs programs as another user")
# What nobody may run: a Python outside of root's home.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")


class Ended:
    """How a command ended."""

    def __init__(self, done: "subprocess.CompletedProcess[bytes]") -> None:
        self.code = done.returncode
        self.out = done.stdout.decode()
        self.error = done.stderr.decode()

    def __repr__(self) -> str:
        return f"{self.code}: {self.out!r} {self.error!r}"


class Host:
    """A machine: a configuration, a state directory, a drop directory; sendmail is called as its programs call it."""

    def __init__(self, home: Path, settings: str = "") -> None:
        self.home = home
        self.state = home / "state"
        self.spool = home / "maildrop"
        self.file = home / "smarthost.toml"
        self.code = SOURCE
        self.state.mkdir(mode=0o700)
        self.settings = f'hostname = "relay.example.org"\nstate_dir = "{self.state}"\n{settings}'
        self.configure(f'[maildrop]\ndirectory = "{self.spool}"\n')
        self.drop = MailDrop(self.spool, is_open=True)
        self.drop.open()

    def configure(self, more: str) -> None:
        self.file.write_text(self.settings + more)

    def call(
        self,
        *words: str,
        content: bytes = b"",
        called: str = "/usr/sbin/sendmail",
        uid: int | None = None,
        **environ: str,
    ) -> Ended:
        python = sys.executable if uid is None else SYSTEM_PYTHON
        assert python is not None, "looked for"
        flags = ["-I", "-B"] if uid is None else ["-I", "-S", "-B"]  # -S: nothing but the standard library
        return Ended(
            subprocess.run(
                [python, *flags, "-c", START, "-C", str(self.file), *words],
                input=content,
                capture_output=True,
                timeout=30,
                env={"CODE": str(self.code), "CALLED": called, "HOME": "/nonexistent", **environ},
                check=False,
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
            )
        )

    def left(self) -> list[tuple[dict[str, Any], bytes, os.stat_result]]:
        """Give what lies in the drop directory: head, content, facts."""
        files = [each for each in self.spool.iterdir() if each.name != "corrupt"]
        found = []
        for each in files:
            head, _, content = each.read_bytes().partition(b"\n")
            found.append((json.loads(head), content, each.stat()))
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def shared() -> Iterator[Host]:
    """Give a machine whose programs run as nobody: nothing of it lies in a directory that is root's alone."""
    if SYSTEM_PYTHON is None:
        pytest.skip("no Python that every user may run")
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        host = Host(Path(home))
        host.code = Path(home) / "code"
        (host.code / "smarthost/ops").mkdir(parents=True)
        for name in ("__init__.py", "ops/__init__.py"):
            shutil.copy(SOURCE / "smarthost" / name, host.code / "smarthost" / name)
        for each in (SOURCE / "smarthost/ops").glob("sendmail*.py"):
            shutil.copy(each, host.code / "smarthost/ops")
        for each in (host.file, *host.code.rglob("*")):
            each.chmod(0o755)
        yield host


def parse(content: bytes) -> Message:
    return message_from_bytes(content)


MAIL = b"Subject: hi\n\nhello\n"


def test_root_hands_in_through_the_daemon(host: Host) -> None:
    """The message is in the queue when sendmail ends, and -v tells its id."""
    with running(host.state, FakeQueue()) as queue:
        ended = host.call("-v", "-i", "-f", "me@example.org", "you@example.net", content=MAIL)

    assert (ended.code, ended.out, ended.error) == (0, "queued as 0000000000000001\n", "")
    [(content, reverse_path, recipients)] = queue.sent
    assert (reverse_path, recipients) == ("me@example.org", ("you@example.net",))
    assert content.endswith(b"Subject: hi\r\n\r\nhello\r\n")
    assert "me@example.org" in parse(content)["from"]


def test_without_a_daemon_the_message_is_left_for_it(host: Host) -> None:
    """cron's mail is not lost because the relay is being restarted."""
    ended = host.call("-v", "you@example.net", content=MAIL)

    assert (ended.code, ended.out, ended.error) == (0, "left for the daemon\n", "")
    [(head, content, facts)] = host.left()
    assert head["recipients"] == ["you@example.net"]
    assert head["octets"] == len(content)
    assert facts.st_nlink == 1
    assert isinstance(host.drop.read(host.drop.look().entries[0], 1 << 20), Dropped)


@pytest.mark.parametrize(
    ("words", "written", "sender", "recipients"),
    [
        (
            "-FCronDaemon -i -odi -oem -oi -t -f root",
            b"From: root (Cron Daemon)\nTo: admin\nSubject: Cron <root@h> true\n\n.\nout\n",
            "root@relay.example.org",
            ["admin@relay.example.org"],
        ),
        (
            "-t -i",
            b"To: you@example.net\r\nSubject: PHP\r\nX-Mailer: PHP\r\nBcc: blind@example.net\r\n\r\nhi\n",
            None,
            ["you@example.net", "blind@example.net"],
        ),
        (
            "-oem -oi -f me@example.org -N failure -R hdrs -- you@example.net",
            b"From: Me <me@example.org>\nTo: you@example.net\nBcc: never@example.net\n\nmutt\n",
            "me@example.org",
            ["you@example.net"],
        ),
        (
            "-f me@example.org -i you@example.net list@example.net",
            b"From: Me <me@example.org>\nTo: you@example.net\nCc: list@example.net\n\n---\ngit\n",
            "me@example.org",
            ["you@example.net", "list@example.net"],
        ),
        ("-t", b"From: mdadm monitoring <root>\nTo: root\n\nmd0 degraded\n", None, ["root@relay.example.org"]),
        ("-f<> -i a@x.example", b"Subject: bounce\n\nx\n", "", ["a@x.example"]),
        ("postmaster", b"x\n", None, ["postmaster"]),
        ("a@x.example,b@x.example a@x.example", b"x\n", None, ["a@x.example", "b@x.example"]),
    ],
)
def test_programs_send_as_they_always_did(
    host: Host, words: str, written: bytes, sender: str | None, recipients: list[str]
) -> None:
    """cron, PHP's mail(), mutt, git send-email, mdadm, bounces, old scripts."""
    ended = host.call(*words.split(), content=written)

    assert (ended.code, ended.out, ended.error) == (0, "", "")
    [(head, content, _)] = host.left()
    user = pwd.getpwuid(os.getuid()).pw_name
    assert head["reverse_path"] == (f"{user}@relay.example.org" if sender is None else sender)
    assert head["recipients"] == recipients
    made = parse(content)
    assert made["date"]
    assert made["message-id"].endswith("@relay.example.org>")
    assert "@" in made["from"]
    assert made["bcc"] is None
    assert b"\n" not in content.replace(b"\r\n", b"")


@is_root
def test_another_user_leaves_mail_that_only_the_daemon_can_read(shared: Host) -> None:
    """No setuid program: the directory lets him in, and the file says who he is."""
    os.chown(shared.spool, 1234, 1234)  # the daemon's own user
    shared.spool.chmod(0o3733)

    ended = shared.call("-t", "-i", content=b"To: you@example.net\n\nhi\n", uid=NOBODY)

    assert (ended.code, ended.error) == (0, "")
    [(head, _, facts)] = shared.left()
    assert head["reverse_path"] == "nobody@relay.example.org"
    assert (facts.st_uid, facts.st_gid, stat.S_IMODE(facts.st_mode)) == (NOBODY, 1234, 0o640)


@is_root
def test_another_user_cannot_list_or_touch_what_others_left(shared: Host) -> None:
    """Neither who sends nor what."""
    assert shared.call("you@example.net", content=MAIL).code == 0
    [name] = [each.name for each in shared.spool.iterdir() if each.name != "corrupt"]
    probe = f"""
import os
for act in (lambda: os.listdir({str(shared.spool)!r}), lambda: open({str(shared.spool / name)!r}),
            lambda: os.unlink({str(shared.spool / name)!r}), lambda: os.rename({str(shared.spool / name)!r}, "/tmp/x")):
    try:
        act()
    except PermissionError:
        continue
    raise SystemExit("it worked")
"""

    done = subprocess.run(
        [str(SYSTEM_PYTHON), "-I", "-S", "-c", probe], user=NOBODY, group=NOBODY, extra_groups=[], check=False
    )

    assert done.returncode == 0


@is_root
def test_another_user_does_not_need_the_daemon_nor_its_permission(shared: Host) -> None:
    """The control socket is for root; whoever may not connect leaves the mail, and the daemon fetches it."""
    with running(shared.state, FakeQueue()) as queue:
        ended = shared.call("you@example.net", content=MAIL, uid=NOBODY)

    assert (ended.code, len(shared.left()), queue.sent) == (0, 1, [])


@is_root
def test_a_user_who_may_not_send_is_told_at_once(shared: Host) -> None:
    """maildrop.users names who may."""
    shared.configure(f'[maildrop]\ndirectory = "{shared.spool}"\nusers = ["www-data"]\n')

    ended = shared.call("you@example.net", content=MAIL, uid=NOBODY)

    assert ended.code == exits.NO_PERMISSION
    assert ended.error == "sendmail: nobody may not send mail: maildrop.users does not name this user\n"
    assert shared.left() == []


@is_root
def test_mailq_is_for_root(shared: Host) -> None:
    """Who writes to whom is nobody's business."""
    with running(shared.state, FakeQueue()):
        ended = shared.call("-bp", uid=NOBODY)

    assert (ended.code, ended.out) == (exits.NO_PERMISSION, "")
    assert "only root and the user whose daemon it is may ask" in ended.error


@pytest.mark.parametrize(
    ("recipient", "code", "said"),
    [
        ("x@refused.example", exits.UNAVAILABLE, "sendmail: refused: 550 5.7.1 Not for you\n"),
        (
            "a b",
            exits.BAD_INPUT,
            "sendmail: a b: not an address: a b (a comma is missing, or < > around the address)\n",
        ),
    ],
)
def test_a_refusal_is_final_and_says_why(host: Host, recipient: str, code: int, said: str) -> None:
    """What will never be taken is not left for later."""
    with running(host.state, FakeQueue()):
        ended = host.call(recipient, content=MAIL)

    assert (ended.code, ended.error) == (code, said)
    assert host.left() == []


@pytest.mark.parametrize("recipient", ["x@broken.example", "x@bug.example"])
def test_a_daemon_that_cannot_take_it_now_gets_it_later(host: Host, recipient: str) -> None:
    """A full disk of the queue, or a bug, loses no mail that another disk can hold."""
    with running(host.state, FakeQueue()):
        ended = host.call(recipient, content=MAIL)

    assert (ended.code, len(host.left())) == (0, 1)


def test_a_daemon_that_dies_in_the_middle_gets_it_later(host: Host) -> None:
    """A connection that ends is no answer."""
    path = host.state / "control"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def die() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100_000)
                connection.sendall(b'{"what":"go"}\n')

        dying = threading.Thread(target=die)
        dying.start()
        ended = host.call("x@example.net", content=MAIL)
        dying.join(20)

    assert (ended.code, len(host.left())) == (0, 1)


def test_where_nothing_can_be_left_the_caller_tries_again(host: Host) -> None:
    """75, and both reasons; nothing half-written stays."""
    shutil.rmtree(host.spool)

    ended = host.call("you@example.net", content=MAIL)

    assert ended.code == exits.TEMPORARY
    assert f"no daemon answers at {host.state}/control; no drop directory {host.spool}" in ended.error


@is_root
def test_a_full_disk_is_a_75(host: Host) -> None:
    """Whoever called keeps the message and tries again; no half of a file is left for the daemon to find."""
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,mode=3733", "none", str(host.spool)], check=False
    ).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        ended = host.call("-i", "you@example.net", content=MAIL + b"x\n" * 40_000)
        left = list(host.spool.iterdir())
    finally:
        subprocess.run(["umount", str(host.spool)], check=True)

    assert (ended.code, left) == (exits.TEMPORARY, [])
    assert "No space left on device" in ended.error


@pytest.mark.parametrize(
    ("words", "content", "code", "said"),
    [
        ("", b"x\n", exits.USAGE, "name the recipients on the command line, or write -t"),
        ("-t", b"Subject: x\n\nhi\n", exits.BAD_INPUT, "no recipients"),
        ("-t", b"To: <a\n\nhi\n", exits.BAD_INPUT, "to: a < without its >"),
        ("-bd", b"", exits.USAGE, "start `smarthost serve`"),
        ("-y", b"", exits.USAGE, "no such option: -y"),
        ("-f a,b root", b"x\n", exits.BAD_INPUT, "-f a,b: not one address"),
        ("-C /nonexistent.toml root", b"x\n", exits.CONFIG, "/nonexistent.toml: cannot be read: No such file"),
        ("-t", b"To: \xff@x.example\n\nhi\n", exits.BAD_INPUT, "is not UTF-8"),
        ("-q", b"", exits.UNAVAILABLE, "smarthost is not running"),
        ("-bp", b"", exits.UNAVAILABLE, "smarthost is not running"),
        ("-qX", b"", exits.USAGE, "write -q, -qIID, -qRDOMAIN or -qSSENDER"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_one_line(host: Host, words: str, content: bytes, code: int, said: str) -> None:
    """And leaves nothing anywhere."""
    ended = host.call(*words.split(), content=content)

    assert (ended.code, ended.out) == (code, "")
    assert said in ended.error
    assert ended.error.count("\n") == 1
    assert host.left() == []


def test_a_message_that_is_too_large_is_refused(host: Host) -> None:
    """By limits.message_size, before the daemon has to."""
    host.configure(f'[maildrop]\ndirectory = "{host.spool}"\n[limits]\nmessage_size = "64KiB"\n')

    ended = host.call("-i", "you@example.net", content=b"x\n" * 40_000)

    assert ended.code == exits.UNAVAILABLE
    assert "more than 65536 octets (limits.message_size)" in ended.error


def test_a_closed_standard_input_is_no_message(host: Host) -> None:
    """`sendmail root <&-`."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" "$@" <&-', sys.executable, "-I", "-c", START, "-C", str(host.file), "root"],
        env={"CODE": str(SOURCE), "CALLED": "sendmail"},
        capture_output=True,
        timeout=30,
        check=False,
    )

    assert done.returncode in (exits.BAD_INPUT, exits.IO_ERROR)
    assert host.left() == []


def queue_of_three() -> FakeQueue:
    first = message("38g25sd580000q3f", "a@x.example", "b@x.example", reverse_path="me@example.org", received_at=1e9)
    tried = message("38g25seqr0000q3f", "c@y.example", reverse_path="", received_at=1e9)
    first = replace(first, recipients=tuple(replace(each, why="host said \x1b[2J no") for each in first.recipients))
    tried = replace(tried, recipients=(replace(tried.recipients[0], state="leased"),))
    return FakeQueue(first, tried)


@pytest.mark.parametrize(("called", "words"), [("/usr/bin/mailq", ()), ("smarthost-mailq", ()), ("sendmail", ("-bp",))])
def test_mailq_prints_what_postfix_prints(host: Host, called: str, words: tuple[str, ...]) -> None:
    """Scripts that read Postfix's mailq read this one; a host's reply cannot touch the terminal."""
    with running(host.state, queue_of_three()):
        ended = host.call(*words, called=called, TZ="UTC")

    assert ended.code == 0
    assert ended.out.splitlines() == [
        "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------",
        "38g25sd580000q3f      5120 Sun Sep  9 01:46:40 me@example.org",
        "                                                        (host said \\x1b[2J no)",
        "                                               a@x.example",
        "                                               b@x.example",
        "",
        "38g25seqr0000q3f*     5120 Sun Sep  9 01:46:40 MAILER-DAEMON",
        "                                               c@y.example",
        "",
        "-- 10 Kbytes in 2 Requests.",
    ]


def test_mailq_says_that_there_is_nothing(host: Host) -> None:
    """In Postfix's words, and how much the daemon has not looked at yet."""
    with running(host.state, FakeQueue()):
        empty = host.call("-bp")
        host.call("-C", str(host.file), "you@example.net", content=MAIL)

    assert (empty.code, empty.out) == (0, "Mail queue is empty\n")
    host.call("x@example.net", content=MAIL)
    assert f"1 messages wait for it in {host.spool}" in host.call("-bp").error


def test_the_queue_is_flushed(host: Host) -> None:
    """-q asks for everything, -qI, -qR and -qS for part of it; an interval is a daemon's matter."""
    with running(host.state, queue_of_three()) as queue:
        told = [
            host.call(each).out for each in ("-q", "-qI38g25seqr0000q3f", "-qRx.example", "-qSme@example.org", "-q30m")
        ]

    assert told == [
        "3 recipients due now\n", "1 recipient due now\n", "2 recipients due now\n", "2 recipients due now\n", "",
    ]  # fmt: skip
    assert [verb for _, verb in queue.changes] == ["retry"] * 4


def test_bv_says_what_would_happen(host: Host) -> None:
    """Without sending anything."""
    explanation = Explanation("a@x.example", "x.example", "x.example", "direct MX", "goes to mx.x.example")
    with running(host.state, FakeHosts(explanation=explanation)):
        ended = host.call("-bv", "a@x.example")

    assert (ended.code, ended.out) == (0, "a@x.example... goes to mx.x.example\n")


@pytest.mark.parametrize(
    ("called", "words", "entry"),
    [
        ("newaliases", (), "main"),
        ("x", ("-bi",), "main"),
        ("x", (), "newaliases"),
        ("smarthost-newaliases", (), "main"),
    ],
)
def test_newaliases_has_nothing_to_do(host: Host, called: str, words: tuple[str, ...], entry: str) -> None:
    """Package scripts call it, and go on."""
    ended = host.call(*words, called=called, ENTRY=entry)

    assert (ended.code, ended.error) == (0, "")
    assert "no aliases" in ended.out


@contextmanager
def smtp_door() -> Iterator[tuple[int, list[bytes]]]:
    """Speak a little SMTP on loopback."""
    heard: list[bytes] = []
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(b"220 relay.example.org\r\n")
                for line in lines:
                    heard.append(line)
                    connection.sendall(b"221 bye\r\n" if line == b"QUIT\r\n" else b"250 ok\r\n")
                    if line == b"QUIT\r\n":
                        return

        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        yield listening.getsockname()[1], heard
        answering.join(20)


def test_bs_is_a_session_with_the_daemon(tmp_path: Path) -> None:
    """Programs that speak SMTP to a pipe speak it with the relay."""
    with smtp_door() as (port, heard):
        host = Host(tmp_path, f'listen = ["127.0.0.1:{port}"]\n')
        ended = host.call("-bs", content=b"EHLO me\r\nQUIT\r\n")

    assert (ended.code, ended.out) == (0, "220 relay.example.org\r\n250 ok\r\n221 bye\r\n")
    assert heard == [b"EHLO me\r\n", b"QUIT\r\n"]


def test_bs_without_a_daemon_is_a_421(tmp_path: Path) -> None:
    """Said in SMTP, and by the exit code."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        host = Host(tmp_path, f'listen = ["127.0.0.1:{closed.getsockname()[1]}"]\n')
        ended = host.call("-bs", content=b"EHLO me\r\n")

    assert ended.code == exits.TEMPORARY
    assert ended.out.startswith("421 4.3.2 ")


def test_it_starts_fast_with_the_standard_library_alone() -> None:
    """What cron starts each minute loads no asyncio, click, msgspec, email, pathlib or subprocess."""
    parts = "sendmail sendmail_place sendmail_text sendmail_hand_in sendmail_queue sendmail_session"
    imports = "\n".join(f"import smarthost.ops.{each}" for each in parts.split())
    listing = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{imports}\nprint(*sys.modules)"

    done = subprocess.run([sys.executable, "-I", "-S", "-c", listing], capture_output=True, check=True, timeout=30)

    loaded = set(done.stdout.decode().split())
    heavy = {
        "asyncio",
        "click",
        "msgspec",
        "email",
        "pathlib",
        "subprocess",
        "logging",
        "dataclasses",
        "inspect",
        "ssl",
    }
    assert loaded & heavy == set()
    assert {each for each in loaded if each.startswith("smarthost.") and "sendmail" not in each} == {"smarthost.ops"}
