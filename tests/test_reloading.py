# SPDX-License-Identifier: MIT
"""A running relay takes another configuration over: whole, or not at all."""

import asyncio
import os
import re
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
from msgspec.structs import asdict, replace
from tests.live.raw import RawClient
from tests.live.rig import eventually
from tests.live.sink import Sink, free_port

from smarthost.assemble import Relay
from smarthost.backends.users import hash_password
from smarthost.config import Config, parse_config
from smarthost.mail.errors import ConfigError
from smarthost.mail.record import Record
from smarthost.ops.config_file import LogFollower
from smarthost.ops.outbox.opening import Outboxes
from smarthost.reloading import FOLLOWED

T = TypeVar("T")
MAIL = b"From: ann@example.org\r\nTo: bob@example.net\r\nSubject: x\r\n\r\nHello.\r\n"
pytestmark = [pytest.mark.slow, pytest.mark.asyncio]


class Notes:
    """A Sink that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.records: list[Record] = []

    def record(self, record: Record) -> None:
        self.records.append(record)

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append((what, facts))

    def told(self, what: str) -> list[dict[str, Any]]:
        return [facts for each, facts in self.notes if each == what]


def config(state: Path, text: str = "", listen: str = 'listen = ["127.0.0.1:0"]') -> Config:
    top = f'hostname = "relay.example.org"\nstate_dir = "{state}"\n{listen}\n'
    return parse_config(top + text)


async def aside(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)


async def until(is_true: Callable[[], object], what: str) -> None:
    await aside(lambda: eventually(is_true, what))


@asynccontextmanager
async def talking(port: int) -> AsyncIterator[RawClient]:
    """Be a client that was greeted; it blocks, so it is used aside."""
    client = await aside(lambda: RawClient(port).__enter__())
    try:
        yield client
    finally:
        client.close()


async def submit(relay: Relay, *recipients: str) -> None:
    await relay.submit(MAIL, "ann@example.org", recipients)


async def test_queued_mail_goes_the_new_way_at_once(tmp_path: Path) -> None:
    """The old next hop is dead; a reload names another, and what waited is there within moments."""
    notes = Notes()
    with Sink() as sink:
        before = config(tmp_path, f'next_hop = "127.0.0.1:{free_port()}"\n[hosts]\nfirst_pause = "1h"\n')
        after = config(tmp_path, f'next_hop = "127.0.0.1:{sink.port}"\n[hosts]\nfirst_pause = "1h"\n')
        relay = Relay.from_config(before, notes)
        async with relay:
            await submit(relay, "bob@example.net")
            await until(lambda: any(each.kind.value == "host-open" for each in notes.records), "a broken host")
            await submit(relay, "eve@example.net")

            changes = await relay.reload(after)

            arrived = await aside(lambda: sink.wait_for(2))

    assert sorted(each.addresses for each in arrived) == [("bob@example.net",), ("eve@example.net",)]
    assert [change.key for change in changes] == ["next_hop"]
    assert relay.config == after


async def test_a_listener_that_stays_keeps_its_sessions_and_one_that_goes_is_closed(tmp_path: Path) -> None:
    """A session goes on through a reload, at the port that stays and at the one that goes; new ones see what is new."""
    with Sink() as sink:
        hop = f'next_hop = "127.0.0.1:{sink.port}"\n'
        stays, goes, comes = free_port(), free_port(), free_port()
        before = config(tmp_path, hop, f'listen = ["127.0.0.1:{stays}", "127.0.0.1:{goes}"]')
        after = config(
            tmp_path,
            hop + "[limits]\nmessage_size = '100KiB'\n",
            f'listen = ["127.0.0.1:{stays}", "127.0.0.1:{comes}"]',
        )
        relay = Relay.from_config(before, Notes())
        async with relay:
            async with talking(stays) as staying, talking(goes) as going:
                await aside(lambda: [each.command("EHLO me.example") for each in (staying, going)])
                await aside(lambda: staying.begin("bob@example.net"))

                await relay.reload(after)

                await aside(lambda: staying.say(MAIL + b".\r\n"))
                await aside(lambda: going.send(MAIL, "eve@example.net"))
                async with talking(stays) as new:
                    offered = await aside(lambda: new.command("EHLO me.example"))
                async with talking(comes) as other:
                    assert await aside(lambda: other.command("NOOP"))
                refused = await aside(lambda: _is_refused(goes))
            assert len(await aside(lambda: sink.wait_for(2))) == 2
            assert relay.bound == (("127.0.0.1", stays), ("127.0.0.1", comes))

    assert "SIZE 102400" in offered
    assert refused


def _is_refused(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(5)
        return sock.connect_ex(("127.0.0.1", port)) != 0


async def test_a_listener_may_be_moved_to_all_addresses(tmp_path: Path) -> None:
    """0.0.0.0 cannot be bound beside the address it covers: that one makes room, and is back if it was in vain."""
    port, taken = free_port(), socket.create_server(("127.0.0.1", 0))
    hop = 'next_hop = "127.0.0.1:9"\n'
    before = config(tmp_path, hop, f'listen = ["127.0.0.1:{port}"]')
    everywhere = f'listen = ["0.0.0.0:{port}"]'
    in_vain = f'listen = ["0.0.0.0:{port}", "127.0.0.1:{taken.getsockname()[1]}"]'
    relay = Relay.from_config(before, Notes())
    with taken:
        async with relay:
            with pytest.raises(ConfigError, match="another program listens there"):
                await relay.reload(config(tmp_path, hop, in_vain))
            async with talking(port) as client:
                assert await aside(lambda: client.command("NOOP"))
            assert relay.bound == (("127.0.0.1", port),)

            await relay.reload(config(tmp_path, hop, everywhere))
            async with talking(port) as client:
                assert await aside(lambda: client.command("NOOP"))
            assert relay.bound == (("0.0.0.0", port),)


async def test_an_address_that_was_lost_is_told_and_found_again(tmp_path: Path) -> None:
    """Between letting go and coming back somebody else had it: an error says so, and the next reload opens it."""
    port, taken = free_port(), socket.create_server(("127.0.0.1", 0))
    hop = 'next_hop = "127.0.0.1:9"\n'
    before = config(tmp_path, hop, f'listen = ["127.0.0.1:{port}"]')
    in_vain = f'listen = ["0.0.0.0:{port}", "127.0.0.1:{taken.getsockname()[1]}"]'
    notes = Notes()
    relay = Relay.from_config(before, notes)
    with taken:
        async with relay:
            listener = relay._parts._listener
            listen = listener.listen

            async def lose(host: str, *others: Any) -> tuple[str, int]:
                if host == "127.0.0.1" and others[0] == port:
                    raise ConfigError("somebody else listens there")
                return await listen(host, *others)

            listener.listen = lose  # type: ignore[method-assign,assignment]
            with pytest.raises(ConfigError, match="another program listens there"):
                await relay.reload(config(tmp_path, hop, in_vain))
            assert [facts["key"] for facts in notes.told("listener lost")] == ["listen"]
            assert relay.bound == ()

            listener.listen = listen  # type: ignore[method-assign]
            await relay.reload(before)
            async with talking(port) as client:
                assert await aside(lambda: client.command("NOOP"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Give a directory with a certificate and users."""
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    (tmp_path / "users.toml").write_text(f'[ann]\npassword = "{hash_password("secret")}"\nsenders = ["*"]\n')
    os.chmod(tmp_path / "users.toml", 0o600)  # noqa: PTH101
    return tmp_path


def broken_certificate(files: Path) -> str:
    (files / "bad.pem").write_text("no certificate")
    return f'[tls]\ncertificate_file = "{files}/bad.pem"\n'


def broken_users(files: Path) -> str:
    (files / "bad.toml").write_text('[ann]\npassword = "plain"\n')
    return f'[auth]\nusers_file = "{files}/bad.toml"\n'


def broken_key(files: Path) -> str:
    (files / "bad.key").write_text("no key")
    return f'[[dkim]]\ndomains = ["example.org"]\nselector = "s1"\nkey_file = "{files}/bad.key"\n'


def unroutable(files: Path) -> str:
    return '[[route]]\ndomains = ["a.example"]\nrefuse = "no"\n[[route]]\ndomains = ["a.example"]\nrefuse = "no"\n'


def another_place(files: Path) -> str:
    return ""


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (broken_certificate, "tls.certificate_file: .*bad.pem"),
        (broken_users, "auth.users_file: .*bad.toml.*user 'ann'"),
        (broken_key, r"dkim\[1\].key_file: .*bad.key"),
        (unroutable, r"route\[2\].domains"),
        (another_place, "state_dir: changes at a start only"),
    ],
)
async def test_what_cannot_hold_changes_nothing(files: Path, spoil: Callable[[Path], str], said: str) -> None:
    """Some of it could be done, a new port, next hop or size: none of it is, and the error names the key."""
    port, other = free_port(), free_port()
    state = files / "state"
    before = config(state, 'next_hop = "127.0.0.1:9"\n', f'listen = ["127.0.0.1:{port}"]')
    text = 'next_hop = "127.0.0.1:10"\nsoft_bounce = true\n[limits]\nmessage_size = "100KiB"\n' + spoil(files)
    place = files / "elsewhere" if spoil is another_place else state
    after = config(place, text, f'listen = ["127.0.0.1:{port}", "127.0.0.1:{other}"]')
    notes = Notes()
    relay = Relay.from_config(before, notes)
    async with relay:
        with pytest.raises(ConfigError, match=said):
            await relay.reload(after)

        async with talking(port) as client:
            assert "SIZE 52428800" in await aside(lambda: client.command("EHLO me.example"))
        assert await aside(lambda: _is_refused(other))
        explained = await relay.explain("bob@example.net")
        assert "127.0.0.1:9" in explained.destination
        assert relay.config == before
        assert relay.bound == (("127.0.0.1", port),)
    assert not notes.told("config reloaded")


class Companion:
    """A side service: a Follower that may refuse."""

    sections = frozenset({"log"})

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.done: list[str] = []

    async def prepare(self, config: Config) -> "Companion":
        if self.refuses:
            raise ConfigError("no", key="log.level")
        self.done.append(f"prepare {config.log.level}")
        return self

    def apply(self) -> None:
        self.done.append("apply")

    async def give_up(self) -> None:
        self.done.append("give up")


async def test_side_services_follow_or_everything_stays(tmp_path: Path) -> None:
    """A side service has its part of all or nothing; a section that nobody follows is refused with the cure."""
    before = config(tmp_path, 'next_hop = "127.0.0.1:9"\n')
    after = config(tmp_path, 'next_hop = "127.0.0.1:9"\n[log]\nlevel = "error"\n')
    relay = Relay.from_config(before, Notes())
    async with relay:
        with pytest.raises(ConfigError, match=r"log\.level: changes at a start only"):
            await relay.reload(after)
        willing, unwilling = Companion(), Companion(refuses=True)
        with pytest.raises(ConfigError, match=r"log\.level: no"):
            await relay.reload(after, [willing, unwilling])
        assert (relay.config, willing.done) == (before, ["prepare error", "give up"])

        await relay.reload(after, [willing])
        assert (relay.config, willing.done[2:]) == (after, ["prepare error", "apply"])


async def test_a_changed_password_is_used_in_the_next_session(tmp_path: Path) -> None:
    """The provider refused the old password and is left alone for an hour: the new one is tried at once."""
    said: list[bytes] = []

    def check(argument: bytes) -> bytes:
        said.append(argument)
        return b"235 2.7.0 Ok" if len(said) > 1 else b"535 5.7.8 No"

    def with_password(password: str, port: int) -> Config:
        hop = f'host = "127.0.0.1"\nport = {port}\ntls = "none"\nusername = "me"\npassword = "{password}"\n'
        return config(tmp_path, f'[next_hop]\n{hop}[hosts]\nfirst_pause = "1h"\n')

    notes = Notes()
    with Sink(extensions=(b"AUTH PLAIN", b"PIPELINING"), answers={b"AUTH": check}) as sink:
        relay = Relay.from_config(with_password("old", sink.port), notes)
        async with relay:
            await submit(relay, "bob@example.net")
            await until(lambda: len(said) == 1, "the old password")
            await until(lambda: any(each.kind.value == "host-open" for each in notes.records), "a broken host")
            await submit(relay, "eve@example.net")

            changes = await relay.reload(with_password("new", sink.port))
            arrived = await aside(lambda: sink.wait_for(1))

    assert arrived
    assert len(set(said)) == 2
    assert [str(change) for change in changes] == [
        f"next_hop.password (127.0.0.1:{sink.port}): changed (not shown)",
    ]
    told = str(notes.notes)
    assert "old" not in told.replace("older", "")
    assert '"new"' not in told


async def test_users_who_are_gone_may_not_log_in_any_more(files: Path) -> None:
    """The doors have the new users file and certificate for sessions from now on; those under way end as they began."""
    (files / "none.toml").write_text(f'[bob]\npassword = "{hash_password("other")}"\nsenders = ["*"]\n')
    os.chmod(files / "none.toml", 0o600)  # noqa: PTH101
    port = free_port()
    door = f'[[listener]]\nlisten = ["127.0.0.1:{port}"]\nmode = "submission"\n'

    def with_users(name: str) -> Config:
        tls = f'[tls]\ncertificate_file = "{files}/cert.pem"\n[auth]\nusers_file = "{files}/{name}"\n'
        return config(files / "state", f'next_hop = "127.0.0.1:9"\n{tls}{door}', "")

    def log_in(client: smtplib.SMTP) -> int:
        context = ssl._create_unverified_context()
        client.starttls(context=context)
        try:
            return client.login("ann", "secret")[0]
        except smtplib.SMTPAuthenticationError as refused:
            return refused.smtp_code

    async with Relay.from_config(with_users("users.toml"), Notes()) as relay:
        old = await aside(lambda: smtplib.SMTP("127.0.0.1", port, timeout=20))
        await relay.reload(with_users("none.toml"))
        new = await aside(lambda: smtplib.SMTP("127.0.0.1", port, timeout=20))
        codes = [await aside(partial(log_in, client)) for client in (old, new)]
        old.close()
        new.close()

    assert codes == [235, 535]


async def test_connections_are_counted_through_a_reload(tmp_path: Path) -> None:
    """Who was connected before counts by the new limits, and is not counted any more once gone."""
    hop = 'next_hop = "127.0.0.1:9"\n'
    port = free_port()
    listen = f'listen = ["127.0.0.1:{port}"]'
    async with Relay.from_config(config(tmp_path, hop, listen), Notes()) as relay:
        first = await aside(lambda: RawClient(port).__enter__())
        await relay.reload(config(tmp_path, hop + "[limits]\nconnections_per_client = 1\n", listen))

        def greeting() -> str:
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                return sock.recv(100).decode()[:3]

        assert await aside(greeting) == "421"
        await aside(lambda: first.command("QUIT"))
        first.close()
        await until(lambda: greeting() == "220", "room again")


TEXTS = (
    'next_hop = "127.0.0.1:2601"\n',
    'next_hop = "127.0.0.1:2601"\nsoft_bounce = true\npostmaster = "pm@example.org"\n[retry]\nfirst = "7s"\n'
    'longest = "8s"\ndelay_warning = 0\n[hosts]\nfirst_pause = "9s"\npatience = "3s"\n',
    'relay_from = ["10.0.0.0/8"]\n[mx]\nfamilies = "ipv4"\ntls = "required"\nallow_private = true\n'
    '[dns]\nservers = ["127.0.0.1:1"]\ntimeout = "100ms"\n'
    '[[route]]\ndomains = ["a.example"]\nnext_hop = "127.0.0.1:2602"\n'
    '[[route]]\ndomains = ["b.example"]\nrefuse = "no"\n',
    '[[next_hop]]\nhost = "127.0.0.1"\nport = 2603\ntls = "verified"\nca_file = "CA"\n'
    '[[next_hop]]\nhost = "127.0.0.2"\nsource = "127.0.0.1"\n'
    '[[route]]\nsenders = ["@s.example"]\nnext_hop = "127.0.0.1:2604"\n'
    '[limits]\nsessions_per_lane = 3\nmessages_per_session = 2\nidle_session = "1s"\nmessages_per_minute = 5\n'
    '[[network]]\nnetworks = ["127.0.0.0/8"]\nsenders = ["ann@example.org"]\n',
)


async def observe(relay: Relay) -> list[object]:
    """Give what can be seen of a relay's terms: plans, schedule, limits, answers of its door."""
    parts = relay._parts
    delivery = parts.delivery.terms
    seen: list[object] = []
    for address in ("x@a.example", "x@b.example", "x@s.example", "x@other.example"):
        for sender in ("ann@s.example", "ann@example.org"):
            explained = await relay.explain(address, sender=sender)
            seen.append((explained.destination, explained.hosts, explained.no_host, explained.policy))
    seen += [delivery.schedule, delivery.health, delivery.hostname, delivery.soft_bounce, delivery.patience_s]
    seen += [delivery.sessions_per_lane, delivery.idle_session_s, delivery.messages_per_session]
    journey = parts.delivery.journey
    seen += [asdict(replace(journey._terms, **dict.fromkeys(PARTS)))[name] for name in ("schedule", "soft_bounce")]
    seen += [journey._slots._window, parts.delivery._pool._idle_s, parts.delivery._sender.terms.patience_s]
    shared = parts._entrance.receptions.terms
    seen += [shared.limits, shared.clients]
    reloaded = parts.reloading._parts
    seen += [replace(reloaded.planner._terms, listening=frozenset()), reloaded.dialer._contexts._ca_file]
    seen += [reloaded.planner.resolvers[0]._servers._given, reloaded.planner.resolvers[0]._patience]  # type: ignore[attr-defined]

    def talk() -> list[str]:
        with RawClient(relay.bound[0][1]) as client:
            lines = ["EHLO me.example", "MAIL FROM:<eve@example.org>", "RCPT TO:<x@b.example>", "RCPT TO:<postmaster>"]
            return [client.command(line) for line in lines]

    return [*seen, await aside(talk)]


PARTS = (
    "store",
    "clock",
    "random",
    "sink",
    "gate",
    "destination_of",
    "plan",
    "attempt",
    "next_id",
    "next_seq",
    "admit",
)


@pytest.mark.parametrize("first", range(len(TEXTS)))
async def test_a_reload_ends_where_a_start_would(tmp_path: Path, first: int) -> None:
    """From any configuration to any other: what can be observed is as if the relay had been started with it."""
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    texts = [text.replace("CA", str(ca_file)) for text in TEXTS]
    async with Relay.from_config(config(tmp_path / "a", texts[first]), Notes()) as relay:
        for number, text in enumerate(texts):
            await relay.reload(config(tmp_path / "a", text))
            async with Relay.from_config(config(tmp_path / f"b{number}", text), Notes()) as fresh:
                assert await observe(relay) == await observe(fresh), number


async def test_mail_of_every_moment_survives_a_storm_of_reloads(tmp_path: Path) -> None:
    """Between two next hops, back and forth, under load: every message arrives, and once."""
    with Sink() as one, Sink() as two:
        configs = [config(tmp_path, f'next_hop = "127.0.0.1:{sink.port}"\n') for sink in (one, two)]
        notes = Notes()
        async with Relay.from_config(configs[0], notes) as relay:
            sent = [f"r{number}@d{number % 7}.example" for number in range(300)]

            async def load() -> None:
                for recipient in sent:
                    await submit(relay, recipient)

            loading = asyncio.ensure_future(load())
            turn = 0
            while not loading.done():
                turn += 1
                await relay.reload(configs[turn % 2])
            await loading
            await until(lambda: len(one.arrived) + len(two.arrived) >= len(sent), "all mail")
            arrived = [each.addresses[0] for each in (*one.arrived, *two.arrived)]

    assert sorted(arrived) == sorted(sent)
    assert turn > 2
    assert not notes.told("attempt failed")


async def test_the_manual_names_what_needs_a_restart() -> None:
    """Each setting is followed by a reload, or named as one that is not."""
    manual = (Path(__file__).parents[1] / "docs/reloading.md").read_text()
    named = manual.partition("## What needs a restart")[2].partition("A file\n")[0]
    stays = set(Config.__struct_fields__) - FOLLOWED - LogFollower.sections - Outboxes.sections - {"file"}

    assert {each.strip("[]") for each in re.findall(r"`([^`]*)`", named)} == stays
