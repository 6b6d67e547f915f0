# SPDX-License-Identifier: MIT
"""Webhooks and real receivers on loopback: what is posted, who may read it, and what a bad receiver can do to us."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from tests.ops.outbox.receivers import OK, HttpReceiver, answer
from tests.ops.outbox.rig import record

from smarthost.config import WebhookSection
from smarthost.mail.errors import ConfigError
from smarthost.mail.record import Kind
from smarthost.ops.outbox.carrier import Undelivered
from smarthost.ops.outbox.webhooks import BODY_OCTETS, Webhook, name_of, read_secrets, target_of, to_body

pytestmark = pytest.mark.asyncio
NOW = 1_800_000_000.0


@asynccontextmanager
async def webhook(tmp_path: Path, url: str, secret: str = "hunter2\n", **facts: object) -> AsyncIterator[Webhook]:
    file = tmp_path / "secret"
    file.write_text(secret)
    section = WebhookSection(url=url, secret_file=file, **{"timeout_s": 5.0, **facts})  # type: ignore[arg-type]
    made = Webhook(section, hostname="relay.example.org", version="9.9", now=lambda: NOW)
    try:
        yield made
    finally:
        await made.close()


def expected(secret: bytes, id: str, body: bytes) -> str:
    signed = hmac.new(secret, f"{id}.{int(NOW)}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed.digest()).decode()


async def test_a_batch_is_json_and_signed(tmp_path: Path) -> None:
    """A receiver can tell that it was we who wrote, when, and which records; the session is used again."""
    async with HttpReceiver() as receiver, webhook(tmp_path, receiver.url) as hook:
        assert 2 == await hook.deliver([record(1), record(2, Kind.BOUNCED, reply='550 "no"')])
        assert 1 == await hook.deliver([record(3)])

    first = receiver.posted[0]
    assert "/hook?key=hidden" == first.path
    assert "application/json" == first.headers["content-type"]
    assert "smarthost/9.9" == first.headers["user-agent"]
    assert str(int(NOW)) == first.headers["webhook-timestamp"]
    assert expected(b"hunter2", first.headers["webhook-id"], first.body) == first.headers["webhook-signature"]
    whole = json.loads(first.body)
    assert ("relay.example.org", "2") == (whole["hostname"], whole["cursor"])
    assert ["relayed", "bounced"] == [event["kind"] for event in whole["events"]]
    assert first.headers["webhook-id"] != receiver.posted[1].headers["webhook-id"]


async def test_a_repeated_batch_has_the_same_id(tmp_path: Path) -> None:
    """A receiver that has seen an id can let the repetition pass."""
    once = HttpReceiver(lambda n: [answer("500 Oh")] if n == 0 else [OK])
    async with once as receiver, webhook(tmp_path, receiver.url) as hook:
        with pytest.raises(Undelivered, match="HTTP 500"):
            await hook.deliver([record(1), record(2)])
        await hook.deliver([record(1), record(2)])

    assert 1 == len({post.headers["webhook-id"] for post in receiver.posted})


async def test_secrets_can_be_changed_over_without_a_restart(tmp_path: Path) -> None:
    """Two lines sign both; whsec_ is base64; a file that is gone for a moment changes nothing."""
    new = base64.b64encode(b"new secret").decode()
    async with HttpReceiver() as receiver, webhook(tmp_path, receiver.url) as hook:
        await hook.deliver([record(1)])
        (tmp_path / "secret").write_text(f"whsec_{new}\nhunter2\n")
        await hook.deliver([record(2)])
        (tmp_path / "secret").unlink()
        await hook.deliver([record(3)])

    for post in receiver.posted[1:]:
        id = post.headers["webhook-id"]
        both = [expected(b"new secret", id, post.body), expected(b"hunter2", id, post.body)]
        assert both == post.headers["webhook-signature"].split()


@pytest.mark.parametrize(
    ("said", "why", "is_gone"),
    [
        (answer("500 Internal", b"out of\norder \x1b[31m"), r"HTTP 500: out of order \\x1b\[31m", False),
        (answer("404 Not Found"), "HTTP 404", False),
        (answer("302 Found", b"", "location: http://127.0.0.1:9/"), "redirects are not followed", False),
        (answer("410 Gone"), "HTTP 410", True),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "RemoteProtocolError", False),
        (b"", "RemoteProtocolError", False),
    ],
)
async def test_what_is_not_2xx_is_no_delivery(tmp_path: Path, said: bytes, why: str, is_gone: bool) -> None:
    """Whatever a receiver says, only 2xx moves the cursor, and 410 alone ends it; a redirect is not followed."""
    async with HttpReceiver(lambda _: [said, b""]) as receiver, webhook(tmp_path, receiver.url) as hook:
        with pytest.raises(Undelivered, match=why) as caught:
            await hook.deliver([record(1)])

    assert is_gone == caught.value.is_gone
    assert 1 == len(receiver.posted)


async def test_nobody_listens(tmp_path: Path) -> None:
    """A receiver that is not there is said so in one line."""
    async with webhook(tmp_path, "http://127.0.0.1:1/") as hook:
        with pytest.raises(Undelivered, match="ConnectError"):
            await hook.deliver([record(1)])


@pytest.mark.parametrize("script", [[None], [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", None]])
async def test_a_receiver_that_hangs_is_given_up(tmp_path: Path, script: list[bytes | None]) -> None:
    """No answer, or half of one: after the timeout it is no delivery, and the next try has a new connection."""
    async with HttpReceiver(lambda n: script if n == 0 else [OK]) as receiver:
        async with webhook(tmp_path, receiver.url, timeout_s=0.2) as hook:
            with pytest.raises(Undelivered, match="no answer within"):
                await hook.deliver([record(1)])
        async with webhook(tmp_path, receiver.url) as hook:
            assert 1 == await hook.deliver([record(1)])


async def test_an_answer_without_end_is_not_read(tmp_path: Path) -> None:
    """A receiver cannot fill our memory: 2xx with a gigabyte behind it is taken for what it is after a few KiB."""
    endless: list[bytes | None] = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n", *[b"x" * 65536] * 2000]
    async with HttpReceiver(lambda _: endless) as receiver, webhook(tmp_path, receiver.url) as hook:
        assert 1 == await hook.deliver([record(1)])


async def test_a_receiver_may_say_when_it_is_back(tmp_path: Path) -> None:
    """Retry-After in seconds or as a date is heeded within five minutes; what it is else is not."""
    waits = {"120": 120.0, "999999": 300.0, "Fri, 15 Jan 2027 08:01:00 GMT": 60.0, "soon": 0.0, "-5": 0.0}
    found = {}
    for text in waits:
        busy = answer("503 Busy", b"", f"retry-after: {text}")
        says_so = HttpReceiver(lambda _, busy=busy: [busy])  # type: ignore[misc]
        async with says_so as receiver, webhook(tmp_path, receiver.url) as hook:
            with pytest.raises(Undelivered) as caught:
                await hook.deliver([record(1)])
            found[text] = caught.value.retry_after_s

    assert waits == found


async def test_batches_are_bounded_in_records_and_octets(tmp_path: Path) -> None:
    """No request is larger than common receivers take; one that says it is too large gets smaller ones."""
    long = [record(seq, why="x" * 9000) for seq in range(1, 301)]
    small = HttpReceiver(lambda n: [answer("413 Too Large")] if n == 2 else [OK])
    async with small as receiver, webhook(tmp_path, receiver.url, batch=200) as hook:
        assert 200 == await hook.deliver([record(seq) for seq in range(1, 301)])
        within = await hook.deliver(long)
        with pytest.raises(Undelivered, match="HTTP 413"):
            await hook.deliver(long)
        smaller = await hook.deliver(long)

    assert 100 < within < 120
    assert max(len(post.body) for post in receiver.posted) <= BODY_OCTETS + 200
    assert smaller == within // 2
    assert 1 == to_body([record(1, why="x" * 3_000_000)], "h")[0], "a giant goes alone"


async def test_the_certificate_of_a_receiver_must_be_valid(tmp_path: Path) -> None:
    """Over https records go to who is proved to be the receiver, by the system's CAs or ours."""
    import ssl

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    got: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        got.append(await reader.readexactly(length))
        writer.write(OK)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    async with server:
        async with webhook(tmp_path, url, ca_file=tmp_path / "ca.pem") as hook:
            assert 1 == await hook.deliver([record(1)])
        async with webhook(tmp_path, url) as hook:
            with pytest.raises(Undelivered, match="certificate"):
                await hook.deliver([record(2)])

    assert 1 == len(got)


async def test_a_proxy_of_the_environment_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records go to the URL, not to whom some variable names."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with HttpReceiver() as receiver, webhook(tmp_path, receiver.url) as hook:
        assert 1 == await hook.deliver([record(1)])


async def test_nothing_secret_is_shown(tmp_path: Path) -> None:
    """Names in logs and metrics, and what status shows, have no path or query, where receivers keep their keys."""
    url = "https://hooks.example.org/services/T0/B0/hidden?key=hidden"

    assert "hidden" not in name_of(url) + target_of(url)
    assert name_of(url).startswith("webhook:hooks.example.org:")
    assert name_of(url) != name_of(url + "2")


async def test_a_bad_secret_file_is_said_without_its_text(tmp_path: Path) -> None:
    """Empty, not base64, or not there: one line that names the file."""
    file = tmp_path / "secret"
    for text in ("", "\n\n", "whsec_hunter2!"):
        file.write_text(text)
        with pytest.raises(ConfigError, match="secret") as caught:
            read_secrets(file)
        assert "hunter2" not in str(caught.value)
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secrets(file)
