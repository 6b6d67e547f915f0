# SPDX-License-Identifier: MIT
"""The API over real sockets: who may do what, what is answered, and that each answer is as documented."""

import base64
import email
import email.policy
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from openapi_spec_validator import validate
from tests.ops.http.contract import DOCUMENT, check
from tests.ops.http.rig import HOSTILE, Served, fill, served
from tests.ops.rig import host, message, recipient

from smarthost.mail.errors import StoreFull
from smarthost.mail.record import Kind, Record
from smarthost.ops.http.asking import Endpoint
from smarthost.ops.http.openapi import ENDPOINTS, PREFIX

MAIL = {"from": "Ann <ann@example.org>", "to": ["bob@example.net"], "subject": "hi", "text": "hello"}
RAW = b"From: ann@example.org\r\nSubject: raw\r\n\r\nhello\r\n"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("http")
    with served(directory, http="show_content = true\n", rest='[limits]\nmessage_size = "64KiB"\n') as door:
        yield door


@pytest.fixture
def door(opened: Served) -> Served:
    """Give the door with a relay that knows nothing yet."""
    opened.relay.__init__()
    return opened


def test_the_document_is_a_valid_openapi_31(door: Served) -> None:
    """Generators of clients can read it, and it is served to anybody."""
    with door.client() as client:
        served_document = check(client.get("/api/v1/openapi.json")).json()

    validate(served_document)
    assert served_document["openapi"].startswith("3.1")
    assert {**served_document["paths"]}.keys() == DOCUMENT["paths"].keys()


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: each.name)
def test_what_needs_a_scope_is_refused_without_it(endpoint: Endpoint, door: Served) -> None:
    """No token: 401 with how to send one; a token without the scope: 403 that names the scope."""
    if endpoint.scope is None:
        return
    path = PREFIX + endpoint.path.replace("{text}", "x").replace("{address}", "a@b.example").replace("{id}", "0" * 16)
    lacking = "inject" if endpoint.scope.value in ("read", "operate", "content") else "content"

    with door.client() as nobody, door.client(lacking) as somebody:
        refused = check(nobody.request(endpoint.method, path))
        forbidden = check(somebody.request(endpoint.method, path))

    assert 401 == refused.status_code
    assert "Bearer" in refused.headers["www-authenticate"]
    assert 403 == forbidden.status_code
    assert endpoint.scope.value in forbidden.json()["detail"]
    assert [] == door.relay.sent
    assert [] == door.relay.changes


def test_a_wrong_token_is_answered_late_and_never_logged(door: Served) -> None:
    """Who guesses waits; the log says that somebody does, not what he tried."""
    with door.client(authorization="Bearer smarthost_guessed-secret") as client:
        answer = check(client.get("/api/v1/status"))

    assert 401 == answer.status_code
    assert answer.elapsed.total_seconds() >= 0.9
    assert "guessed-secret" not in answer.text
    assert "guessed-secret" not in repr(door.sink.notes)


def test_a_message_of_fields_is_sent_as_a_mail_reader_shows_it(door: Served) -> None:
    """Names, umlauts, HTML beside the text, and blind copies that stand in no header."""
    submission = {
        "from": "Ann Müller <ann@example.org>",
        "to": ["Bob <bob@example.net>"],
        "cc": ["carl@example.net"],
        "bcc": ["dora@example.net"],
        "reply_to": ["desk@example.org"],
        "subject": "Grüße",
        "text": "hällo",
        "html": "<p>hällo</p>",
        "headers": {"X-Campaign": "7"},
    }
    with door.client("inject") as client:
        answer = check(client.post("/api/v1/messages", json=submission))

    assert 201 == answer.status_code
    content, reverse_path, recipients = door.relay.sent[0]
    mail = email.message_from_bytes(content, policy=email.policy.default)
    assert ("ann@example.org", ("bob@example.net", "carl@example.net", "dora@example.net")) == (
        reverse_path,
        recipients,
    )
    assert "Ann Müller <ann@example.org>" == mail["From"]
    assert "Grüße" == mail["Subject"]
    assert "7" == mail["X-Campaign"]
    assert b"dora" not in content
    assert answer.json()["message_id"] == mail["Message-ID"]
    assert "hällo" == mail.get_body(("plain",)).get_content().strip()  # type: ignore[union-attr]
    assert content.isascii(), "no host on the way has to convert it, which would break its signature"
    assert content.count(b"\n") == content.count(b"\r\n")
    assert f"/api/v1/messages/{answer.json()['id']}" == answer.headers["location"]


def test_addresses_of_any_script_stand_in_the_header_as_they_are(door: Served) -> None:
    """No encoded word may stand for an address: such mail is SMTPUTF8."""
    submission = {**MAIL, "from": "Jürgen <jürgen@bücher.example>", "to": ["用户@例え.example"], "subject": "Grüße"}
    with door.client("inject") as client:
        check(client.post("/api/v1/messages", json=submission))

    content, reverse_path, recipients = door.relay.sent[0]
    assert ("jürgen@bücher.example", ("用户@例え.example",)) == (reverse_path, recipients)
    assert "From: Jürgen <jürgen@bücher.example>\r\n".encode() in content
    assert "To: 用户@例え.example\r\n".encode() in content


def test_a_whole_message_is_sent_octet_for_octet(door: Served) -> None:
    """As message/rfc822 with its envelope in the query, and as base64 in JSON; bare line ends become CRLF."""
    with door.client("inject") as client:
        whole = client.post(
            "/api/v1/messages",
            params={"from": "", "to": ["<bob@example.net>", "carl@example.net"]},
            content=RAW,
            headers={"content-type": "message/rfc822"},
        )
        raw = base64.b64encode(RAW.replace(b"\r\n", b"\n")).decode()
        coded = client.post("/api/v1/messages", json={"from": "a@example.org", "to": ["b@example.net"], "raw": raw})

    assert [201, 201] == [check(whole).status_code, check(coded).status_code]
    assert (RAW, "", ("<bob@example.net>", "carl@example.net")) == door.relay.sent[0]
    assert RAW == door.relay.sent[1][0]


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"to": []}, 422, "no recipient"),
        ({"to": ["x@refused.example"]}, 422, "550 5.7.1 Not for you"),
        ({"to": ["x@later.example"]}, 503, "452 4.3.1"),
        ({"to": ["x@broken.example"]}, 503, "the disk hangs"),
        ({"to": ["x@bug.example"]}, 500, ""),
        ({"subject": "a\r\nBcc: eve@example.net"}, 422, "not a message that can be written"),
        ({"headers": {"X-A": "b\r\nBcc: eve@example.net"}}, 422, "not a message that can be written"),
        ({"headers": {"Bcc": "eve@example.net"}}, 422, "a field of its own"),
        ({"headers": {"X A:": "b"}}, 422, "visible ASCII"),
        ({"raw": "!"}, 422, "raw"),
        ({"from": "nobody"}, 422, "from"),
        ({"sender": "a@b.example"}, 422, "unknown field `sender`"),
        ({"to": "bob@example.net"}, 422, "$.to"),
    ],
)
def test_what_cannot_be_sent_is_a_problem_that_says_why(
    changed: dict[str, object], status: int, said: str, door: Served
) -> None:
    """RFC 9457: type, title, status and detail; a bug tells nothing of the inside."""
    with door.client("inject") as client:
        answer = check(client.post("/api/v1/messages", json={**MAIL, **changed}))

    problem = answer.json()
    assert (status, status) == (answer.status_code, problem["status"])
    assert "application/problem+json" == answer.headers["content-type"]
    assert said in problem.get("detail", "")
    assert "secret" not in answer.text
    assert [] == door.relay.sent
    if status == 503:
        assert "retry-after" in answer.headers
    with door.client() as anybody:
        assert "cure" in check(anybody.get(problem["type"])).json()


def test_the_same_key_sends_once_and_another_request_with_it_is_refused(door: Served) -> None:
    """A program that heard no answer repeats its request, and no second mail goes out."""
    with door.client("inject", **{"idempotency-key": "order-17"}) as client:
        first = check(client.post("/api/v1/messages", json=MAIL))
        again = check(client.post("/api/v1/messages", json=MAIL))
        other = check(client.post("/api/v1/messages", json={**MAIL, "text": "other"}))

    assert first.json() == again.json()
    assert ("true", None) == (again.headers["idempotency-replayed"], first.headers.get("idempotency-replayed"))
    assert 409 == other.status_code
    assert 1 == len(door.relay.sent)


def test_what_is_too_large_or_no_json_is_refused_unread(door: Served) -> None:
    """The limit of messages holds, whatever the length says; the connection is closed over the rest."""
    with door.client("inject") as client:
        large = client.post(
            "/api/v1/messages?from=a@example.org&to=b@example.net",
            content=b"x" * (64 * 1024 + 1),
            headers={"content-type": "message/rfc822"},
        )
        text = client.post("/api/v1/messages", content=b"{", headers={"content-type": "application/json"})
        form = client.post("/api/v1/messages", content=b"a=b", headers={"content-type": "text/plain"})

        pieces = client.post(
            "/api/v1/messages?from=a@example.org&to=b@example.net",
            content=(b"x" * 1024 for _ in range(65)),
            headers={"content-type": "message/rfc822"},
        )

    assert [413, 400, 415, 413] == [check(each).status_code for each in (large, text, form, pieces)]
    assert "close" == large.headers["connection"]


def test_the_queue_is_listed_filtered_and_paged(door: Served) -> None:
    """Filters join by and; the cursor leads through all of it; times are ISO 8601."""
    door.relay.messages = [
        message(f"{n:016d}", f"u{n}@{'a' if n % 2 else 'b'}.example", received_at=1000.0 + n) for n in range(5)
    ]
    with door.client("read") as client:
        one = check(client.get("/api/v1/queue", params={"destination": "A.example", "limit": 1})).json()
        more = check(client.get("/api/v1/queue", params={"destination": "a.example", "cursor": one["cursor"]})).json()
        wrong = check(client.get("/api/v1/queue", params={"destinaton": "a.example"}))

    assert ["0000000000000001"] == [each["id"] for each in one["messages"]]
    assert ["0000000000000003"] == [each["id"] for each in more["messages"]]
    assert more["cursor"] is None
    assert "1970-01-01T00:16:41.000Z" == one["messages"][0]["received_at"]
    assert one["messages"][0]["recipients"][0]["next_attempt_at"] is None
    assert 400 == wrong.status_code
    assert "destination" in wrong.json()["detail"], "the right names are told"


def test_a_message_with_thousands_of_recipients_is_cut(door: Served) -> None:
    """A page has a bounded size; how many there are is said."""
    door.relay.messages = [message("0" * 16, *(f"u{n}@a.example" for n in range(3000)))]
    with door.client("read") as client:
        found = check(client.get("/api/v1/queue")).json()["messages"][0]

    assert (3000, 100) == (found["recipient_count"], len(found["recipients"]))


def test_a_verb_is_tried_first_and_then_done_in_the_name_of_the_token(door: Served) -> None:
    """A dry run changes nothing; the deed has who and why."""
    door.relay.messages = [message("0" * 16, "a@a.example"), message("1" * 16, "b@b.example")]
    action = {"verb": "hold", "filter": {"destination": "a.example"}, "reason": "their wish"}
    with door.client("operate") as client:
        tried = check(client.post("/api/v1/queue/actions", json={**action, "dry_run": True})).json()
        done = check(client.post("/api/v1/queue/actions", json=action)).json()

    assert (1, 1, True) == (tried["changed"], tried["messages"], tried["dry_run"])
    assert ["0" * 16] == done["named"]
    assert [True, False] == [dry for _, _, dry, _, _, _ in door.relay.changes]
    assert ("operate (API)", "their wish") == door.relay.changes[1][3:5]


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ({"verb": "cancel"}, "everything: true"),
        ({"verb": "burn", "everything": True}, "verb"),
        ({"verb": "hold", "filter": {"destinaton": "x"}}, "destinaton"),
        ({"verb": "hold", "everything": True, "reason": "a\x1b[2J"}, "no control characters"),
        ({"verb": "hold", "filter": {"state": "x"}}, "deferred or held"),
    ],
)
def test_a_verb_that_is_not_understood_changes_nothing(action: dict[str, object], said: str, door: Served) -> None:
    """A misspelt filter never becomes the whole queue."""
    with door.client("operate") as client:
        answer = check(client.post("/api/v1/queue/actions", json=action))

    assert 422 == answer.status_code
    assert said in answer.json()["detail"]
    assert [] == door.relay.changes


def test_why_a_message_waits_is_told_by_id_address_and_message_id(door: Served) -> None:
    """Whatever the caller has at hand finds the story, slashes and angle brackets included."""
    fill(door.relay, door.lately, 1_800_000_000.0)
    story = next(iter(door.relay.stories.values()))
    known = replace(story, message_id="<a/b@x.example>")
    door.relay.stories = {story.id: known}
    with door.client("read") as client:
        for text in (story.id, story.recipients[0].address, "%3Ca%2Fb%40x.example%3E"):
            assert [story.id] == [
                each["id"] for each in check(client.get(f"/api/v1/messages/{text}/why")).json()["stories"]
            ]
        whole = check(client.get(f"/api/v1/messages/{story.id}")).json()
        none = check(client.get(f"/api/v1/messages/{'9' * 16}"))

    assert whole["recipients"][0]["waiting"]["unblocked_by"]
    assert 404 == none.status_code


def test_content_is_given_where_it_is_allowed_and_as_a_file(door: Served, tmp_path: Path) -> None:
    """The setting and the scope must both allow it; a browser would save it, never show it."""
    relay = door.relay
    relay.messages, relay.store.contents = [message("0" * 16, "a@a.example")], {"0" * 16: RAW}
    with door.client("content") as client:
        answer = check(client.get(f"/api/v1/messages/{'0' * 16}/content"))
        gone = check(client.get(f"/api/v1/messages/{'1' * 16}/content"))
    with served(tmp_path, relay) as hidden, hidden.client("content") as client:
        refused = check(client.get(f"/api/v1/messages/{'0' * 16}/content"))

    assert RAW == answer.content
    assert answer.headers["content-disposition"].startswith("attachment")
    assert 404 == gone.status_code
    assert 403 == refused.status_code
    assert "show_content" not in refused.json().get("detail", "") or refused.json()["type"].endswith("content-hidden")


def test_hosts_are_told_and_reset_by_name_or_all(door: Served) -> None:
    """Neither a name nor everything is no request; an unknown name says so."""
    door.relay.hosts = [host("192.0.2.1", "mx1.example"), host("192.0.2.2", "mx2.example")]
    with door.client("operate") as client:
        listed = check(client.get("/api/v1/hosts")).json()
        neither = check(client.delete("/api/v1/hosts"))
        unknown = check(client.delete("/api/v1/hosts", params={"name": "mx9.example"}))
        one = check(client.delete("/api/v1/hosts", params={"name": "mx1.example"})).json()
        rest = check(client.delete("/api/v1/hosts", params={"everything": "true"})).json()

    assert 2 == listed["count"]
    assert [422, 404] == [neither.status_code, unknown.status_code]
    assert ["mx1.example"] == [each["name"] for each in one["hosts"]]
    assert [1, []] == [rest["count"], door.relay.hosts]


def test_suspensions_begin_and_end_with_who_and_why(door: Served) -> None:
    """What is neither a destination nor a sender is refused; what is not suspended cannot end."""
    with door.client("operate") as client:
        made = check(client.post("/api/v1/suspensions", json={"what": "a.example", "reason": "they asked"}))
        wrong = check(client.post("/api/v1/suspensions", json={"what": "a b", "reason": "x"}))
        listed = check(client.get("/api/v1/suspensions")).json()["suspensions"]
        ended = check(client.delete("/api/v1/suspensions", params={"what": "a.example"})).json()
        again = check(client.delete("/api/v1/suspensions", params={"what": "a.example"}))

    assert [201, 422, 404] == [made.status_code, wrong.status_code, again.status_code]
    assert [("a.example", "operate (API)", "they asked")] == [(s["what"], s["by"], s["reason"]) for s in listed]
    assert [] == ended["suspensions"]


def test_delivery_is_paused_and_resumed_and_the_log_says_by_whom(door: Served) -> None:
    """Doing it twice is harmless and said once."""
    door.sink.notes.clear()
    with door.client("operate") as client:
        paused = [check(client.post("/api/v1/pause")).json() for _ in range(2)]
        status = check(client.get("/api/v1/status")).json()
        resumed = check(client.post("/api/v1/resume")).json()

    assert [False, True] == [each["was_paused"] for each in paused]
    assert status["paused"]
    assert not resumed["paused"]
    told = [(what, facts["by"]) for _, what, facts in door.sink.notes]
    assert [("delivery paused", "operate (API)"), ("delivery resumed", "operate (API)")] == told


def test_status_says_why_mail_is_not_taken(door: Served) -> None:
    """A full disk is seen without reading the log."""
    door.relay.refusal = StoreFull("12 MiB are left")
    with door.client("read") as client:
        assert "12 MiB are left" == check(client.get("/api/v1/status")).json()["refusal"]


def test_records_are_followed_by_cursor_without_a_gap_and_without_repetition(door: Served) -> None:
    """Whoever goes on from the cursor sees each record once, and kinds not asked for move it on, too."""
    kinds = [Kind.ACCEPTED, Kind.DEFERRED, Kind.RELAYED]
    door.relay.kept = [Record(n + 1, kinds[n % 3], 1000.0, f"{n:016d}") for n in range(30)]
    seen, cursor = [], ""
    with door.client("read") as client:
        while True:
            page = check(client.get("/api/v1/records", params={"after": cursor, "limit": 7})).json()
            if not page["records"]:
                break
            seen += [each["seq"] for each in page["records"]]
            cursor = page["cursor"]
        ends = check(client.get("/api/v1/records", params={"kind": ["accepted"], "limit": 1000})).json()
        wrong = check(client.get("/api/v1/records", params={"after": "-1"}))

    assert list(range(1, 31)) == seen
    assert ({"accepted"}, "30") == ({each["kind"] for each in ends["records"]}, ends["cursor"])
    assert 422 == wrong.status_code


def test_a_long_poll_is_answered_when_something_happens(door: Served) -> None:
    """Whoever waits hears of it within a moment, not when the time is up."""
    later = threading.Timer(0.3, lambda: door.relay.kept.append(Record(7, Kind.RELAYED, 1000.0)))
    later.start()
    with door.client("read") as client:
        answer = check(client.get("/api/v1/records", params={"wait": 15}))
    later.join()

    assert "7" == answer.json()["cursor"]
    assert answer.elapsed.total_seconds() < 5


def test_a_plan_is_told_and_only_an_operator_may_probe(door: Served) -> None:
    """A probe dials strangers' hosts: a token that may only look may not."""
    with door.client("read") as reader, door.client("operate") as operator:
        plan = check(reader.get("/api/v1/plan/bob@example.net")).json()
        refused = check(reader.get("/api/v1/plan/bob@example.net?probe=true"))
        check(operator.get("/api/v1/plan/bob@example.net?probe=true"))
        wrong = check(reader.get("/api/v1/plan/bob"))

    assert "goes at once" == plan["conclusion"]
    assert [403, 422] == [refused.status_code, wrong.status_code]
    assert [False, True] == door.relay.probed


def test_the_queue_is_counted_once_however_many_ask(door: Served) -> None:
    """A wall of screens that all watch costs the relay one look."""
    with door.client("read") as client:
        for _ in range(10):
            check(client.get("/api/v1/queue/summary"))

    assert door.relay.summaries <= 1


def test_hostile_replies_go_through_json_whole_and_harmless(door: Served) -> None:
    """Programs get what the host said, character by character, and a browser would not take it for a page."""
    one = recipient("a@a.example", last_reply=HOSTILE, why="x")
    door.relay.messages = [replace(message("0" * 16, "a@a.example"), recipients=(one,))]
    with door.client("read") as client:
        answer = check(client.get("/api/v1/queue"))

    assert HOSTILE == answer.json()["messages"][0]["recipients"][0]["last_reply"]
    assert "nosniff" == answer.headers["x-content-type-options"]
    assert "application/json" == answer.headers["content-type"]
    assert "set-cookie" not in answer.headers


def test_what_is_not_there_and_methods_not_offered_are_problems(door: Served) -> None:
    """404 and 405 come as problems, too, with what is offered."""
    with door.client("all") as client:
        nothing = client.get("/api/v1/nothing")
        method = client.put("/api/v1/queue")

    assert [404, 405] == [nothing.status_code, method.status_code]
    assert "GET" == method.headers["allow"]
    assert "application/problem+json" == nothing.headers["content-type"]


def test_metrics_need_a_token_except_from_this_machine_itself(door: Served) -> None:
    """A proxy on this machine does not make the whole world local; nor does a name that a browser was lied to about."""
    with door.client() as client, door.client("read") as reader:
        here = client.get("/metrics")
        proxied = client.get("/metrics", headers={"x-forwarded-for": "198.51.100.7"})
        named = client.get("/metrics", headers={"host": "rebound.example"})
        read = reader.get("/metrics", headers={"x-forwarded-for": "198.51.100.7"})

    assert [200, 401, 401, 200] == [each.status_code for each in (here, proxied, named, read)]
    assert "up 1" in here.text


def test_health_needs_no_token_and_says_why_not(door: Served) -> None:
    """A balancer reads the status, a person the reason."""
    with door.client() as client:
        live, ready = client.get("/healthz"), client.get("/readyz")

    assert [200, 503] == [live.status_code, ready.status_code]
    assert ["it is stopping"] == ready.json()["reasons"]
