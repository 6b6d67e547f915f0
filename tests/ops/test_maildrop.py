# SPDX-License-Identifier: MIT
"""The pick-up: what becomes of the files that local programs leave, with a real directory and, where it matters, a real
relay."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.ops.rig import CollectingSink

from smarthost.assemble import Relay
from smarthost.backends.clock import SystemClock
from smarthost.backends.maildrop import OWNED, MailDrop
from smarthost.config import Config, Surroundings, parse_config
from smarthost.mail.errors import ConfigError, StoreError, SubmissionRefused
from smarthost.mail.reply import Reply, reply
from smarthost.ops import maildrop, sendmail_place
from smarthost.ops.maildrop import NOTES, PickUp, PickUpTerms, directory_of, name_user, pick_up
from smarthost.ops.sendmail_hand_in import Envelope, drop
from smarthost.queue.store import Filter

MAIL = b"Subject: x\r\nMessage-ID: <1@x.example>\r\n\r\nhi\r\n"
TERMS = PickUpTerms(hostname="relay.example.org", message_octets=100_000, recipients=100, owner_uid=os.geteuid())
SETTINGS = """
hostname = "relay.example.org"
[next_hop]
host = "127.0.0.1"
port = 9
"""


class Office:
    """Takes what is submitted, or says why not."""

    def __init__(self, *troubles: Exception) -> None:
        self.troubles = list(troubles)
        self.taken: list[tuple[bytes, str, tuple[str, ...], str]] = []
        self.known: set[str] = set()

    async def submit(
        self,
        content: bytes,
        reverse_path: str,
        recipients: Sequence[str],
        *,
        client: str = "local",
        drawn: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        if self.troubles:
            raise self.troubles.pop(0)
        if drawn is not None:
            await drawn(f"{len(self.taken):016d}")
        self.taken.append((content, reverse_path, tuple(recipients), client))

    def refuse(self, recipient: str) -> Reply | None:
        return reply(550, "5.7.1", f"No. Address: {recipient}") if recipient.startswith("bad") else None

    async def is_known(self, id: str) -> bool:
        return id in self.known


class Quick(SystemClock):
    """Lets the pick-up look without waiting; a look is still one turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    async def sleep(self, seconds: float) -> None:
        self.ahead_s += seconds
        await asyncio.sleep(0)


class Post:
    """A directory, an office, and the pick-up between them."""

    def __init__(self, directory: Path, office: Office, terms: PickUpTerms = TERMS) -> None:
        self.directory = directory
        self.office = office
        self.sink = CollectingSink()
        self.drop = MailDrop(directory, is_open=True)
        self.pick_up = PickUp(
            self.drop, office.submit, office.refuse, office.is_known, Quick(), self.sink, lambda: terms
        )

    def names(self) -> list[str]:
        return sorted(each.name for each in self.directory.iterdir() if each.name != "corrupt")

    def aside(self) -> list[Path]:
        return sorted((self.directory / "corrupt").iterdir())

    def told(self) -> list[tuple[str, str]]:
        return [(what, str(facts.get("why", ""))) for _, what, facts in self.sink.notes]


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def until(is_true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not is_true():
            await asyncio.sleep(0)


def leave(
    directory: Path, *recipients: str, sender: str = "me@x.example", content: bytes = MAIL, uid: int | None = None
) -> Path:
    path = Path(drop(Envelope(sender, recipients or ("you@y.example",)), content, [str(directory)]))
    if uid is not None:
        os.chown(path, uid, -1)
    return path


def prepared(tmp_path: Path) -> Path:
    made = MailDrop(tmp_path / "maildrop", is_open=True)
    made.open()
    made.close()
    return tmp_path / "maildrop"


def picked_up(directory: Path, office: Office, terms: PickUpTerms = TERMS) -> Post:
    """Run a pick-up until nothing is left to take."""
    post = Post(directory, office, terms)

    async def work() -> None:
        async with post.pick_up:
            await until(lambda: not post.names())

    run(work())
    return post


def test_what_was_left_while_the_daemon_was_down_is_taken_when_it_starts(tmp_path: Path) -> None:
    """The envelope and every octet arrive, and the file is gone."""
    directory = prepared(tmp_path)
    leave(directory, "you@y.example", "é@z.example", content=MAIL + b"\xff\r\n")

    post = picked_up(directory, Office())

    client = f"uid {os.geteuid()} {name_user(os.geteuid())}"
    assert post.office.taken == [(MAIL + b"\xff\r\n", "me@x.example", ("you@y.example", "é@z.example"), client)]
    assert post.sink.notes == []


def test_what_is_left_while_it_runs_is_taken_too(tmp_path: Path) -> None:
    """One after another, each once."""
    post = Post(tmp_path / "maildrop", Office())

    async def work() -> None:
        async with post.pick_up:
            for n in range(3):
                await asyncio.to_thread(leave, post.directory, f"u{n}@y.example")
                await until(lambda: not post.names())

    run(work())

    assert [recipients for _, _, recipients, _ in post.office.taken] == [(f"u{n}@y.example",) for n in range(3)]


def test_a_burst_is_taken_without_pauses(tmp_path: Path) -> None:
    """A user's files are taken 100 at a time, not 100 a second."""
    directory = prepared(tmp_path)
    for n in range(OWNED * 2 + 1):
        leave(directory, f"u{n}@y.example")
    post = Post(directory, Office())
    clock = post.pick_up._clock
    assert isinstance(clock, Quick)

    async def work() -> None:
        async with post.pick_up:
            await until(lambda: not post.names() or clock.ahead_s)

    run(work())

    assert len(post.office.taken) == OWNED * 2 + 1


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
def test_the_log_and_received_say_which_user_left_it(tmp_path: Path) -> None:
    """Not the name he gives himself: the one the system knows; a uid without a name is told by its number."""
    directory = prepared(tmp_path)
    leave(directory, uid=65534)
    leave(directory, uid=54321)

    post = picked_up(directory, Office())

    assert {client for *_, client in post.office.taken} == {"uid 65534 nobody", "uid 54321"}


@pytest.mark.parametrize(
    "trouble",
    [StoreError("the disk is full"), SubmissionRefused(reply(452, "4.3.1", "No room"))],
)
def test_what_cannot_be_filed_now_waits_and_is_filed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """Local trouble is temporary: the file stays until its mail is durable, also when nothing new comes."""
    directory = prepared(tmp_path)
    later = time.time_ns() + 10_000_000_000  # what is there is long there
    monkeypatch.setattr("smarthost.backends.maildrop.time.time_ns", lambda: later)
    path = leave(directory)

    post = picked_up(directory, Office(trouble, trouble))

    assert len(post.office.taken) == 1
    assert {what for what, _ in post.told()} == {"mail in the drop directory has to wait"}
    assert post.sink.notes[0][2]["file"] == path.name


def test_a_bug_in_one_round_does_not_end_the_pick_up(tmp_path: Path) -> None:
    """It is told, and mail goes on."""
    directory = prepared(tmp_path)
    leave(directory)

    post = picked_up(directory, Office(KeyError("a bug")))

    assert post.told() == [("pick-up failed", "KeyError('a bug')")]
    assert len(post.office.taken) == 1


def test_refused_recipients_are_reported_to_the_sender_and_the_others_get_the_mail(tmp_path: Path) -> None:
    """Nobody who exited with 0 waits in vain for an answer."""
    directory = prepared(tmp_path)
    leave(directory, "bad1@y.example", "good@y.example", "bad2@y.example")

    post = picked_up(directory, Office())

    (report, null, to, _), (content, _, good, _) = post.office.taken
    assert (content, good) == (MAIL, ("good@y.example",))
    assert (null, to) == ("", ("me@x.example",))
    for said in (
        b"Content-Type: multipart/report",
        b"bad1@y.example",
        b"bad2@y.example",
        b"550 5.7.1",
        b"<1@x.example>",
    ):
        assert said in report
    assert b"good@y.example" not in report


def test_content_that_is_refused_is_reported_as_a_whole(tmp_path: Path) -> None:
    """A mail loop, say: each recipient is in the report, and nothing is tried again."""
    directory = prepared(tmp_path)
    leave(directory, "a@y.example", "b@y.example")

    post = picked_up(directory, Office(SubmissionRefused(reply(554, "5.4.6", "Too many hops"))))

    [(report, _, to, _)] = post.office.taken
    assert to == ("me@x.example",)
    assert b"a@y.example" in report
    assert b"b@y.example" in report


def test_refused_mail_of_nobody_is_kept_for_the_operator(tmp_path: Path) -> None:
    """There is no one to report to, so it is set aside, whole, and told."""
    directory = prepared(tmp_path)
    leave(directory, "bad@y.example", sender="")

    post = picked_up(directory, Office())

    assert post.office.taken == []
    assert post.aside()[0].read_bytes().endswith(MAIL)
    assert "refused, and its sender cannot be told: 550 5.7.1" in post.told()[0][1]


def test_what_is_no_mail_is_set_aside_and_never_deleted(tmp_path: Path) -> None:
    """Half a file is told once, and mail goes on beside it."""
    directory = prepared(tmp_path)
    (directory / "half\udcff\x1b[2J").write_bytes(b"half")
    leave(directory)

    post = picked_up(directory, Office())

    assert [each.read_bytes() for each in post.aside()] == [b"half"]
    assert len(post.office.taken) == 1
    [(_, what, facts)] = post.sink.notes
    assert (what, facts["why"]) == ("file in the drop directory set aside", "has no head")
    assert str(facts["file"]).endswith("half\\udcff\\x1b[2J")


def test_a_user_cannot_fill_the_log(tmp_path: Path) -> None:
    """A thousand odd files are a few lines, and the number of those left out."""
    directory = prepared(tmp_path)
    for n in range(NOTES + 30):
        (directory / f"odd{n}").write_bytes(b"odd")
    post = Post(directory, Office())

    async def work() -> None:
        async with post.pick_up:
            await until(lambda: not post.names() and not post.pick_up._is_busy)
            post.pick_up._clock.ahead_s += 60  # type: ignore[attr-defined]
            (directory / "odd").write_bytes(b"odd")
            await until(lambda: not post.names() and not post.pick_up._is_busy)

    run(work())

    assert len(post.sink.notes) == NOTES + 2, post.sink.notes[NOTES:]
    assert post.sink.notes[NOTES] == ("warning", "drop directory: lines left out", {"lines": 30})


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
def test_only_the_users_that_are_named_may_send(tmp_path: Path) -> None:
    """By the name the system has; root and the daemon's user always may."""
    directory = prepared(tmp_path)
    leave(directory, uid=65534, content=MAIL + b"nobody\r\n")
    leave(directory, uid=54321, content=MAIL + b"stranger\r\n")
    leave(directory, content=MAIL + b"root\r\n")
    named = PickUpTerms(
        hostname="h.example", message_octets=1000, recipients=9, owner_uid=os.geteuid(), users=("nobody",)
    )

    post = picked_up(directory, Office(), named)

    assert sorted(content for content, *_ in post.office.taken) == [MAIL + b"nobody\r\n", MAIL + b"root\r\n"]
    assert post.aside()[0].read_bytes().endswith(b"stranger\r\n")
    assert post.told() == [("file in the drop directory set aside", "maildrop.users does not name this user")]


def test_many_recipients_are_filed_in_several_messages(tmp_path: Path) -> None:
    """limits.recipients bounds a message, not what a program may ask for; what was filed is not filed twice."""
    directory = prepared(tmp_path)
    many = [f"u{n}@y.example" for n in range(250)]
    leave(directory, *many)
    office = Office()
    submit = office.submit
    full = iter([None, StoreError("full"), None, None])

    async def sometimes(*arguments: Any, **others: Any) -> None:
        if (trouble := next(full)) is not None:
            raise trouble
        await submit(*arguments, **others)

    office.submit = sometimes  # type: ignore[method-assign]

    post = picked_up(directory, office)

    assert [len(recipients) for _, _, recipients, _ in post.office.taken] == [100, 100, 50]
    assert many == [each for _, _, recipients, _ in post.office.taken for each in recipients]


def test_mail_that_was_filed_before_a_kill_is_not_filed_again(tmp_path: Path) -> None:
    """The file bears the id; where the relay knows it, only the file goes."""
    directory = prepared(tmp_path)
    path = leave(directory)
    path.rename(directory / f"id.38g25seqy0000q3f.{path.name}")
    office = Office()
    office.known = {"38g25seqy0000q3f"}

    post = picked_up(directory, office)

    assert post.office.taken == []


def test_mail_that_was_not_filed_before_a_kill_is_filed(tmp_path: Path) -> None:
    """An id that was drawn and never committed is nobody's."""
    directory = prepared(tmp_path)
    path = leave(directory)
    path.rename(directory / f"id.38g25seqy0000q3f.{path.name}")

    post = picked_up(directory, Office())

    assert len(post.office.taken) == 1


def test_a_file_that_cannot_be_deleted_is_not_filed_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that turns read-only makes an error in the log, not a flood of mail."""
    directory = prepared(tmp_path)
    leave(directory)
    post = Post(directory, Office())

    def deny(entries: Sequence[Any]) -> list[tuple[Any, str]]:
        return [(each, "Read-only file system") for each in entries]

    monkeypatch.setattr(post.drop, "remove", deny)
    looks = 0
    look = post.drop.look

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return look()

    monkeypatch.setattr(post.drop, "look", counted)

    async def work() -> None:
        async with post.pick_up:
            await until(lambda: looks > 20)

    run(work())

    assert len(post.office.taken) == 1
    assert post.told() == [("file of mail that was taken cannot be deleted", "Read-only file system")]


def test_what_is_being_filed_at_the_end_is_filed_and_deleted(tmp_path: Path) -> None:
    """A restart in the middle makes no duplicate."""
    directory = prepared(tmp_path)
    leave(directory)
    office = Office()
    submit = office.submit

    async def work() -> None:
        is_filing, may_file = asyncio.Event(), asyncio.Event()

        async def slowly(*arguments: Any, **others: Any) -> None:
            is_filing.set()
            await may_file.wait()
            await submit(*arguments, **others)

        office.submit = slowly  # type: ignore[method-assign]
        post = Post(directory, office)
        async with asyncio.timeout(20):
            async with post.pick_up:
                await is_filing.wait()
                asyncio.get_running_loop().call_soon(may_file.set)
        assert post.names() == []

    run(work())

    assert len(office.taken) == 1


def test_a_directory_that_was_configured_must_work(tmp_path: Path) -> None:
    """An error at the start names the key; the default one is a warning, since not everybody needs it."""
    (tmp_path / "maildrop").write_bytes(b"")
    required = PickUpTerms(hostname="h", message_octets=1, recipients=1, owner_uid=0, is_required=True)

    async def work(post: Post) -> None:
        async with post.pick_up:
            pass

    with pytest.raises(ConfigError, match=r"maildrop\.directory: "):
        run(work(Post(tmp_path / "maildrop", Office(), required)))
    post = Post(tmp_path / "maildrop", Office())
    run(work(post))
    assert post.told()[0][0].startswith("no drop directory")


def config(tmp_path: Path, settings: str = "") -> Config:
    return parse_config(settings, {"state_dir": str(tmp_path)}, Surroundings("relay.example.org", tmp_path))


def test_both_ends_agree_on_the_place(tmp_path: Path) -> None:
    """sendmail, which reads the file by itself, looks where the daemon does."""
    file = tmp_path / "smarthost.toml"
    for text in (
        'state_dir = "/var/lib/smarthost"\n',
        f'state_dir = "{tmp_path}"\n',
        f'state_dir = "{tmp_path}"\n[maildrop]\ndirectory = "/srv/mail"\nusers = ["www-data"]\n'
        '[limits]\nmessage_size = "64KiB"\n',
    ):
        file.write_text(text)
        read = parse_config(text, {}, Surroundings("relay.example.org", tmp_path))

        place = sendmail_place.find_place(str(file), {})

        assert (place.drops, place.state_dirs) == ((str(directory_of(read)),), (str(read.state_dir),))
        assert (place.users, place.message_octets) == (read.maildrop.users, read.limits.message_octets)
    assert str(maildrop.SYSTEM_DROP) == sendmail_place.SYSTEM_DROP


def test_no_user_is_a_setting_of_its_own(tmp_path: Path) -> None:
    """`users = []` shuts out everybody but root and the daemon's user, and is shown so that it can be read back."""
    assert config(tmp_path, "[maildrop]\nusers = []\n").maildrop.users == ()


@pytest.mark.slow
def test_a_real_relay_queues_it_once_even_when_it_dies_before_the_file_is_deleted(tmp_path: Path) -> None:
    """Committed, marked, not deleted, killed: the next start finds the id in the queue, and deletes the file only."""

    async def first() -> None:
        async with Relay(state_dir=tmp_path / "state", settings=SETTINGS, paused=True) as relay:
            post = pick_up(relay.config, relay, SystemClock(), CollectingSink())
            directory = directory_of(relay.config)
            post._drop.remove = lambda entries: []  # type: ignore[method-assign] # killed before it could
            async with post:
                await asyncio.to_thread(leave, directory)
                await until(lambda: list(directory.glob("id.*")))
                async with asyncio.timeout(20):
                    while not (await relay.find()).messages:
                        await asyncio.sleep(0)

    async def second() -> None:
        async with Relay(state_dir=tmp_path / "state", settings=SETTINGS, paused=True) as relay:
            directory = directory_of(relay.config)
            async with pick_up(relay.config, relay, SystemClock(), CollectingSink()):
                await until(lambda: not [each for each in directory.iterdir() if each.name != "corrupt"])
            [message] = (await relay.find(Filter())).messages
            assert message.client == f"uid {os.geteuid()} {name_user(os.geteuid())}"

    run(first())
    run(second())


def test_the_head_is_json_that_any_program_can_write(tmp_path: Path) -> None:
    """What sendmail writes is documented by being one line of JSON."""
    path = leave(prepared(tmp_path), "you@y.example")

    line, _, content = path.read_bytes().partition(b"\n")

    assert content == MAIL
    assert json.loads(line) == {
        "version": 1, "reverse_path": "me@x.example", "recipients": ["you@y.example"], "octets": len(MAIL),
    }  # fmt: skip
