# SPDX-License-Identifier: MIT
"""The door of a real daemon: mail handed in is delivered, operators act upon it, and kill -9 sends nothing twice."""

import email
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.live.rig import Daemon, eventually, serving
from tests.live.sink import Sink
from tests.ops.http.contract import check
from tests.ops.http.rig import make_tokens, secret_in

pytestmark = pytest.mark.slow
MAIL = {"from": "ann@example.org", "to": ["bob@example.net"], "subject": "hi", "text": "hello"}


@contextmanager
def daemon(directory: Path, port: int, more: str = "") -> Iterator[Daemon]:
    text = (
        f'next_hop = "127.0.0.1:{port}"\n[retry]\nfirst = "1h"\nlongest = "1h"\n'
        f'[http]\nlisten = ["127.0.0.1:0"]\ntokens_file = "{directory}/tokens.toml"\n{more}'
    )
    with serving(directory / "state", config=text) as started:
        yield started


def client_of(started: Daemon, token: str = "") -> httpx.Client:
    place, port = started.line("http ready")["listen"][0]
    return httpx.Client(
        base_url=f"http://{place}:{port}",
        headers={"authorization": f"Bearer {token}"} if token else {"sec-fetch-site": "same-origin"},
        timeout=20.0,
    )


def test_a_message_is_handed_in_held_looked_at_released_and_delivered(tmp_path: Path) -> None:
    """The whole journey by HTTP: every answer is as documented, and each step is told with who did it and why."""
    token = make_tokens(tmp_path)["all"]
    with (
        Sink(answers={b"RCPT": lambda _: b"451 4.7.1 Come back <script>later</script>"}) as sink,
        daemon(tmp_path, sink.port, "show_content = true\n") as started,
        client_of(started, token) as client,
    ):
        id = check(client.post("/api/v1/messages", json=MAIL)).json()["id"]
        started.line("deferred", id=id)
        story = check(client.get("/api/v1/messages/bob@example.net/why")).json()["stories"][0]
        content = check(client.get(f"/api/v1/messages/{id}/content"))
        page = check(client.get("/api/v1/queue", params={"reply": "come back", "state": "deferred"})).json()
        action = {"filter": {"id": id}, "reason": "let me look", "verb": "hold"}
        tried = check(client.post("/api/v1/queue/actions", json={**action, "dry_run": True})).json()
        held = check(client.post("/api/v1/queue/actions", json=action)).json()
        why = check(client.get(f"/api/v1/messages/{id}")).json()["recipients"][0]["waiting"]
        summary = check(client.get("/api/v1/queue/summary")).json()
        plan = check(client.get("/api/v1/plan/bob@example.net")).json()
        check(client.post("/api/v1/suspensions", json={"what": "example.net", "reason": "wait"}))
        check(client.delete("/api/v1/suspensions", params={"what": "example.net"}))
        check(client.post("/api/v1/pause"))
        check(client.post("/api/v1/resume"))
        check(client.get("/api/v1/hosts"))
        sink.answers.clear()
        released = check(
            client.post("/api/v1/queue/actions", json={**action, "verb": "release", "reason": "fine"})
        ).json()
        sink.wait_for(1)
        started.line("relayed", id=id)
        eventually(
            lambda: check(client.get(f"/api/v1/messages/{id}")).json()["recipients"][0]["state"] == "relayed",
            "its story has its end",
        )
        kinds = [each["kind"] for each in check(client.get("/api/v1/records")).json()["records"]]
        status = check(client.get("/api/v1/status")).json()
        metrics, ready = client.get("/metrics"), client.get("/readyz")

    assert id == story["id"]
    assert ("token:all", "127.0.0.1") == (story["user"], story["client"])
    assert "451 4.7.1 Come back <script>later</script>" in story["recipients"][0]["waiting"]["evidence"]
    assert b"hello" in content.content
    assert [id] == [each["id"] for each in page["messages"]]
    assert (1, 1, 1) == (tried["changed"], held["changed"], released["changed"])
    assert "hold" == why["cause"]
    assert "all (API)" in str(why)
    assert "let me look" in str(why)
    assert 1 == summary["recipients"]
    assert plan["conclusion"]
    assert {"accepted", "deferred", "changed", "suspended", "resumed", "relayed"} <= set(kinds)
    assert (0, 0) == (status["messages"], status["recipients"])
    assert "smarthost_" in metrics.text
    assert 200 == ready.status_code
    mail = email.message_from_bytes(sink.arrived[0].content)
    assert "hi" == mail["Subject"]


def test_kill_9_while_messages_are_handed_in_sends_none_twice_and_loses_none(tmp_path: Path) -> None:
    """Programs repeat with their key what they heard no answer to: of each key there is one message, for ever."""
    token = make_tokens(tmp_path)["inject"]
    answers: dict[str, set[str]] = defaultdict(set)
    keys = [f"order-{n}" for n in range(120)]
    turn = threading.Event()
    place: list[httpx.Client] = []

    def send(mine: list[str]) -> None:
        for key in mine:
            while True:
                turn.wait(20)
                try:
                    answer = place[-1].post(
                        "/api/v1/messages", json={**MAIL, "subject": key}, headers={"idempotency-key": key}
                    )
                except (httpx.HTTPError, RuntimeError):
                    time.sleep(0.02)
                    continue
                if answer.status_code == 201:
                    answers[key].add(answer.json()["id"])
                    break
                assert answer.status_code in (409, 503), answer.text
                time.sleep(0.02)

    with Sink() as sink:
        threads = [threading.Thread(target=send, args=(keys[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for kill_at in (20, 60, 120):
            with daemon(tmp_path, sink.port) as started, client_of(started, token) as client:
                place.append(client)
                turn.set()
                eventually(lambda: len(answers) >= kill_at, "so many were answered")  # noqa: B023
                if kill_at < len(keys):
                    started.kill()
                    turn.clear()
                else:
                    for thread in threads:
                        thread.join(20)
                    again = client.post(
                        "/api/v1/messages", json={**MAIL, "subject": keys[0]}, headers={"idempotency-key": keys[0]}
                    )
                    eventually(lambda: len(_ids(sink)) == len(keys), "all arrived")

    assert {again.json()["id"]} == answers[keys[0]]
    assert "true" == again.headers["idempotency-replayed"]
    assert all(len(ids) == 1 for ids in answers.values())
    assert {1} == {len(found) for found in _ids(sink).values()}, "a second message of a key was filed"


def _ids(sink: Sink) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for each in list(sink.arrived):
        mail = email.message_from_bytes(each.content)
        found[mail["Subject"]].add(mail["Message-ID"])
    return found


def test_every_page_of_a_real_relay_is_drawn(tmp_path: Path) -> None:
    """With real stories, hosts and records instead of a test's; and a held message is released on its page."""
    tokens = make_tokens(tmp_path)
    with Sink() as gone:
        port = gone.port
    with (
        daemon(tmp_path, port) as started,
        client_of(started, tokens["inject"]) as sender,
        client_of(started) as browser,
    ):
        id = sender.post("/api/v1/messages", json=MAIL).json()["id"]
        started.line("deferred", id=id)
        browser.post("/login", data={"csrf": secret_in(browser.get("/login").text), "token": tokens["operate"]})
        for path in (
            "/",
            "/queue",
            "/hosts",
            "/records",
            "/records?show=hosts",
            "/suspensions",
            "/plan?address=bob@example.net",
            f"/message/{id}",
        ):
            page = browser.get(path)
            assert 200 == page.status_code, (path, page.text)
            assert "127.0.0.1" in page.text or path == "/suspensions", path
        form = {"csrf": secret_in(page.text), "id": id, "from_message": "yes"}
        for verb in ("hold", "release", "cancel"):
            preview = browser.post("/queue/preview", data={**form, "verb": verb})
            assert "1 recipient" in preview.text
            assert 303 == browser.post("/queue/act", data={**form, "verb": verb, "reason": "because"}).status_code
        page = browser.get(f"/message/{id}")
        records = browser.get("/records?show=ends")

    assert "cancelled by operate (page): because" in page.text
    assert "cancelled" in records.text
