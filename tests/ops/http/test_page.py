# SPDX-License-Identifier: MIT
"""The page as a browser gets it: logging in, forms and their secrets, headers, and what strangers wrote."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.ops.http.rig import HOSTILE, Served, fill, log_in, secret_in, served
from tests.ops.rig import message, recipient

from smarthost.mail.errors import StoreError, StoreFull
from smarthost.mail.record import Kind, Record
from smarthost.mail.story import Summary
from smarthost.ops.http.page import sessions, site
from smarthost.ops.http.page.folding import fold
from smarthost.ops.http.page.plots import draw, round_up
from smarthost.ops.http.page.ways import read_way
from smarthost.ops.http.page.wording import shown
from smarthost.ops.http.tokens import remove_token
from smarthost.queue.audit import AuditFigures
from smarthost.testing.clock import FakeClock

LOOKS = [path for path, _ in site.LOOKS if "{" not in path]
FORMS = [path for path, _ in site.FORMS]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("page")) as door:
        yield door


@pytest.fixture
def door(opened: Served) -> Served:
    """Give a door behind which there is a bad day."""
    opened.relay.__init__()
    opened.lately.__init__(opened.sink, time.time)  # type: ignore[misc]
    fill(opened.relay, opened.lately, time.time())
    return opened


@pytest.mark.parametrize("path", [*LOOKS, "/message/" + "0" * 16])
def test_who_is_not_logged_in_sees_the_login(path: str, door: Served) -> None:
    """Nothing of the queue is on a page for strangers."""
    with door.client() as client:
        answer = client.get(path)

    assert (303, "/login") == (answer.status_code, answer.headers["location"])
    assert "example" not in answer.text


def test_a_wrong_token_is_refused_and_a_right_one_opens(door: Served) -> None:
    """The cookie is out of reach for scripts and other sites, and says nothing of the token."""
    with door.client(**{"sec-fetch-site": "same-origin"}) as client:
        secret = secret_in(client.get("/login").text)
        wrong = client.post("/login", data={"csrf": secret, "token": "smarthost_wrong"})
        right = client.post("/login", data={"csrf": secret, "token": door.tokens["read"]})

    assert (401, 303) == (wrong.status_code, right.status_code)
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert door.tokens["read"] not in cookie


def test_a_token_that_may_not_look_may_not_log_in(door: Served) -> None:
    """A program's token for sending mail opens no page."""
    with door.client(**{"sec-fetch-site": "same-origin"}) as client:
        secret = secret_in(client.get("/login").text)
        answer = client.post("/login", data={"csrf": secret, "token": door.tokens["inject"]})

    assert 403 == answer.status_code
    assert "lacks the scope read" in answer.text


def test_a_login_form_from_elsewhere_logs_nobody_in(door: Served) -> None:
    """Nobody can be logged in as somebody else without knowing it."""
    with door.client() as client:
        answer = client.post("/login", data={"csrf": "x", "token": door.tokens["read"]})

    assert 403 == answer.status_code
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", FORMS)
def test_forms_want_their_secret_the_scope_and_our_own_site(path: str, door: Served) -> None:
    """A link in a mail, another site, and a token that may only look change nothing."""
    form = {"verb": "hold", "everything": "yes", "reason": "x", "what": "a.example", "name": "203.0.113.25"}
    with log_in(door) as operator, log_in(door, "read") as reader:
        secret = secret_in(operator.get("/").text)
        answers = [
            operator.post(path, data=form),
            operator.post(path, data={**form, "csrf": secret[:-1] + "?"}),
            operator.post(path, data={**form, "csrf": secret}, headers={"sec-fetch-site": "cross-site"}),
            operator.post(path, data={**form, "csrf": secret}, headers={"origin": "https://evil.example"}),
            reader.post(path, data={**form, "csrf": secret_in(reader.get("/").text)}),
            reader.post(path, data={**form, "csrf": secret}),
        ]
        got = operator.get(path)

    assert [403] * 6 == [each.status_code for each in answers]
    assert 404 == got.status_code, "a form is never sent by following a link"
    assert [] == [change for change in door.relay.changes if not change[2]]
    assert not door.relay.paused
    assert (2, 1) == (len(door.relay.hosts), len(door.relay.suspended))


def test_every_page_has_the_strict_headers(door: Served) -> None:
    """No script, style or frame but our own; nothing cached; no referrer."""
    with log_in(door) as client:
        for path in [*LOOKS, "/login", "/nothing", "/api/v1/status", "/healthz"]:
            headers = client.get(path).headers
            policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
            assert "'none'" == policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"]
            assert "'self'" == policy["script-src"] == policy["style-src"]
            assert ("nosniff", "no-referrer") == (headers["x-content-type-options"], headers["referrer-policy"])
            assert "no-store" == headers["cache-control"]


def test_no_page_has_inline_script_or_style_or_another_origin(door: Served) -> None:
    """What the policy forbids is not there, so nothing is silently missing."""
    id = door.relay.messages[0].id
    with log_in(door) as client:
        for path in [*LOOKS, f"/message/{id}", "/login"]:
            page = client.get(path).text
            assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", page), path
            assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
            assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page), path
            assert len(page) < 60_000, path


def test_what_strangers_wrote_is_shown_and_obeyed_nowhere(door: Served) -> None:
    """Tags, direction overrides, escapes and ten kilobytes of a reply are text, spelled out and cut."""
    evil = next(each for each in door.relay.messages if each.recipients[0].domain == "evil.example")
    with log_in(door) as client:
        for path in ["/", "/queue?destination=evil.example", f"/message/{evil.id}", "/hosts", "/records?show=troubles"]:
            page = client.get(path).text
            assert "&lt;script&gt;" in page, path
            for live in ("<script>alert", "\u202e", "\x1b", "<b>bob", "<i>x"):
                assert live not in page, (path, live)


def test_hostile_text_in_filters_and_searches_comes_back_as_text(door: Served) -> None:
    """A link that somebody sends an operator cannot put a script into his page."""
    with log_in(door) as client:
        for path in ("/queue", "/find", "/hosts", "/suspensions"):
            page = client.get(
                path,
                params={"q": HOSTILE[:200], "to": HOSTILE[:200], "name": HOSTILE[:200], "what": '"><script>x</script>'},
            ).text
            assert "<script>alert" not in page
            assert "<script>x" not in page


def test_the_overview_says_what_is_wrong_first(door: Served) -> None:
    """A refusal before a pause, a pause before broken hosts, and an empty queue is good news."""
    relay = door.relay

    def headline() -> str:
        with log_in(door) as client:
            found = re.search(r'<h1 id="headline">(.*?)</h1>\s*<p>(.*?)</p>', client.get("/").text)
            assert found is not None
            return f"{found[1]}: {found[2]}"

    assert headline() == "Delivering: 2 hosts do not work; mail for them waits."
    relay.paused = True
    assert headline().startswith("Paused")
    relay.refusal = StoreFull("12 MiB are left")
    assert "Not taking mail: New mail is refused for now: 12 MiB are left" == headline()


def test_a_verb_is_shown_before_it_is_done_and_done_with_a_reason(door: Served) -> None:
    """First the count; without a reason nothing; then who and why are kept, and the page says what was done."""
    with log_in(door) as client:
        secret = secret_in(client.get("/queue").text)
        form = {"csrf": secret, "verb": "hold", "destination": "example.com"}
        preview = client.post("/queue/preview", data=form)
        unsaid = client.post("/queue/act", data={**form, "reason": " "})
        done = client.post("/queue/act", data={**form, "reason": "their wish"})
        after = client.get(done.headers["location"]).text
        assert "hold: 13" not in client.get("/queue").text, "it is said once"

    assert "<strong>14 recipients</strong>" in preview.text
    assert "Nothing has been changed yet" in preview.text
    assert 422 == unsaid.status_code
    assert [("hold", True, "all (page)", ""), ("hold", False, "all (page)", "their wish")] == [
        (verb, dry, by, reason) for verb, _, dry, by, reason, _ in door.relay.changes
    ]
    assert "hold: 13 recipients of 14 messages changed; 1 are being tried now" in after


def test_a_reader_sees_no_verbs(door: Served) -> None:
    """Who may not act is not offered it."""
    id = door.relay.messages[0].id
    with log_in(door, "read") as client:
        for path in ("/", "/queue", f"/message/{id}", "/hosts", "/suspensions"):
            page = client.get(path).text
            assert ["/logout"] == re.findall(r'<form[^>]*action="([^"]+)" method="post"', page), path


def test_the_queue_leads_from_page_to_page_with_its_filter(door: Served) -> None:
    """Next keeps the filter; what matches nothing says where else to look."""
    door.relay.messages = [message(f"{n:016d}", f"u{n}@a.example", received_at=time.time()) for n in range(100)]
    seen: set[str] = set()
    path = "/queue?destination=a.example"
    with log_in(door) as client:
        while path:
            page = client.get(path).text
            seen |= set(re.findall(r"/message/(\d{16})", page))
            found = re.search(r'href="([^"]+)" rel="next"', page)
            path = found[1].replace("&amp;", "&") if found else ""
            assert not path or "destination=a.example" in path
        nothing = client.get("/queue?destination=b.example").text

    assert 100 == len(seen)
    assert "Nothing in the queue matches" in nothing


def test_a_message_is_found_by_what_is_at_hand(door: Served) -> None:
    """One match opens its story, several are listed, none says so."""
    story = door.relay.stories[door.relay.messages[1].id]
    with log_in(door) as client:
        one = client.get("/find", params={"q": f" {story.message_id} "})
        several = client.get("/find", params={"q": "carol@example.net"})
        none = client.get("/find", params={"q": "nobody@example.net"})
        gone = client.get("/message/" + "9" * 16)

    assert f"/message/{story.id}" == one.headers["location"]
    assert "newest first" in several.text
    assert "Nothing is known" in none.text
    assert 404 == gone.status_code


def test_the_plan_of_an_address_is_told_or_why_there_is_none(door: Served) -> None:
    """The conclusion and the hosts; what is no address, and what the relay would refuse, say so; nothing is dialled."""
    with log_in(door, "read") as client:
        asked = client.get("/plan").text
        told = client.get("/plan", params={"address": "bob@example.net"}).text
        wrong = client.get("/plan", params={"address": '<script>alert("x")</script>'})

    assert "without sending anything" in asked
    assert "goes at once" in told
    assert "mx.example.net" in told
    assert 200 == wrong.status_code
    assert "neither an address nor a domain" in wrong.text
    assert "<script>alert" not in wrong.text
    assert [False] == door.relay.probed


def test_content_stays_hidden_unless_it_is_allowed(door: Served) -> None:
    """With every scope, but without the setting, there is no link and no content."""
    id = door.relay.messages[0].id
    door.relay.store.contents[id] = b"secret"
    with log_in(door) as client:
        page, content = client.get(f"/message/{id}"), client.get(f"/message/{id}/content")

    assert "/content" not in page.text
    assert 403 == content.status_code
    assert "secret" not in content.text


def test_trouble_in_the_store_is_a_page_that_says_so(door: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with why, and the bug's own page tells nothing of the inside."""

    async def fail(*_: object) -> None:
        raise StoreError("the disk hangs")

    async def bug(*_: object) -> None:
        raise KeyError("inside")

    with log_in(door) as client:
        monkeypatch.setattr(door.relay, "find", fail)
        troubled = client.get("/queue")
        monkeypatch.setattr(door.relay, "find", bug)
        broken = client.get("/queue")

    assert (503, 500) == (troubled.status_code, broken.status_code)
    assert "the disk hangs" in troubled.text
    assert "inside" not in broken.text
    assert any(what == "page failed" for _, what, _ in door.sink.notes)


def test_logging_out_and_removing_the_token_end_the_session(tmp_path: Path) -> None:
    """What was open in a browser is closed at once."""
    with served(tmp_path) as door, log_in(door) as out, log_in(door, "operate") as removed:
        out.post("/logout", data={"csrf": secret_in(out.get("/").text)})
        assert 303 == out.get("/queue").status_code

        assert 200 == removed.get("/queue").status_code
        remove_token(tmp_path / "tokens.toml", "operate")
        ends_at = time.monotonic() + 10
        while removed.get("/queue").status_code == 200:
            assert time.monotonic() < ends_at


def test_sessions_are_bounded_and_end_by_themselves() -> None:
    """Memory has a bound: the oldest session goes; none lasts longer than half a day."""

    class Known:
        def find_again(self, digest: str) -> object:
            return object()

    class Token:
        digest = "d"

    clock = FakeClock()
    kept = sessions.Sessions(Known(), clock)  # type: ignore[arg-type]
    first = kept.open(Token())  # type: ignore[arg-type]
    for _ in range(sessions.SESSIONS):
        last = kept.open(Token())  # type: ignore[arg-type]

    assert kept.find(first) is None
    assert kept.find(last) is not None
    clock.advance(sessions.SESSION_S)
    assert kept.find(last) is None


def test_static_files_have_names_that_change_with_them_and_there_are_no_others(door: Served) -> None:
    """Browsers keep them for ever; nothing else can be had by a path."""
    with door.client() as client:
        page = client.get("/login").text
        name = re.search(r'href="(/static/page\.[0-9a-f]{16}\.css)"', page)
        assert name is not None
        style = client.get(name[1])
        for path in ("/static/../desk.py", "/static/%2e%2e%2fdesk.py", "/static/page.css", "/static//etc/passwd"):
            assert client.get(path).status_code in (303, 404)

    assert "immutable" in style.headers["cache-control"]
    assert "text/css; charset=utf-8" == style.headers["content-type"]


def test_a_plot_is_drawn_from_counts_alone() -> None:
    """It fits its frame, and says in words what it shows."""
    plot = draw("Through", "a minute", (("delivered", "good", [0, 5, 10, 10, 10, 0, 6, 99]),), 10)

    numbers = [float(each) for each in re.findall(r"[\d.]+", plot.lines[0].path)]
    assert max(numbers[::2]) <= plot.width
    assert max(numbers[1::2]) <= plot.height
    assert (41.0, 41) == (plot.lines[0].per_minute, plot.lines[0].total), "the slot under way is not counted yet"
    assert "delivered 41 a minute now" in plot.spoken
    spike = draw("Through", "a minute", (("delivered", "good", [*[0] * 20, 16, *[0] * 20]),), 10)
    assert 20 == spike.top, "sixteen in ten seconds are sixteen in that minute"
    assert [10, 20, 100, 500] == [round_up(each) for each in (0, 11, 100, 201)]


def test_strangers_text_is_spelled_out_and_cut() -> None:
    """Ordinary letters of any script stay; what would be obeyed is seen; how much was cut is said."""
    assert "Grüße שלום" == shown("Grüße שלום")
    assert "a\\u202eb\\x1b[0m" == shown("a\u202eb\x1b[0m")
    assert shown("x" * 10_240, 5) == "xxxxx … (10,240 characters)"
    one = replace(recipient("a@b.example"), last_reply=HOSTILE)
    assert "\u202e" not in shown(one.last_reply, 20_000)


def headline_of(door: Served) -> str:
    with log_in(door) as client:
        client.post("/hosts/reset", data={"csrf": secret_in(client.get("/").text), "name": "nobody"})  # counts anew
        found = re.search(r'<h1 id="headline">(.*?)</h1>\s*<p>(.*?)</p>', client.get("/").text)
    assert found is not None
    return f"{found[1]}: {found[2]}"


def test_the_overview_says_that_nothing_is_delivered_and_why(door: Served) -> None:
    """With the only next hop refusing our login nobody reads that mail is delivered."""
    at_auth = {"step": "auth", "detail": "535 5.7.8 wrong password", "since": 1000.0, "name": "mail.example"}
    door.relay.hosts = [replace(each, **at_auth) for each in door.relay.hosts]
    door.relay.stands_still = True

    assert headline_of(door) == (
        "Not delivering: mail.example refuses our login since 01 Jan 00:16:40 UTC: 535 5.7.8 wrong password"
    )
    with log_in(door) as client:
        assert (
            "<code>password_file</code> of this next hop, then <code>smarthost reload</code>"
            in client.get("/hosts").text
        )


def test_hosts_are_counted_by_name_and_shown_with_address_and_recipients(door: Served) -> None:
    """One host with two addresses is one host; what waits is told in recipients, as the tiles do."""
    door.relay.hosts = [replace(each, name="mx.example.com", waiting_recipients=3) for each in door.relay.hosts]

    assert headline_of(door) == "Delivering: 1 host does not work; mail for it waits."
    with log_in(door) as client:
        page, hosts = client.get("/").text, client.get("/hosts").text
    assert "203.0.113.25" in page
    assert re.search(r'<td class="n">3</td>', page)
    assert "<dt>Broken hosts</dt><dd>1<small>" in page
    assert "1 host known as broken (at 2 addresses), longest broken first" in " ".join(hosts.split())
    assert "3 recipients for" in hosts


def test_nobody_reads_that_a_broken_host_is_open(door: Served) -> None:
    """The words of circuit breakers stay in the API and the metrics."""
    for n in range(6):
        record = Record(n, Kind.HOST_OPEN, time.time(), host="localhost", address="::1", why="connection refused")
        door.lately.record(record)
        door.relay.kept.append(replace(record, seq=(int(time.time() * 1000) << 21) + n))
    with log_in(door) as client:
        overview, hosts = client.get("/").text, client.get("/hosts").text
        records = client.get("/records?show=hosts").text

    assert re.search(r"<strong>host broken</strong> <bdi>localhost</bdi> <span[^>]*>6 times</span>", overview)
    assert "host broken" in records
    for page in (overview, hosts, records):
        assert not re.search(r">(host.)?(half-)?open<", page)


def test_what_lets_mail_go_sooner_is_a_button_for_who_may_press_it(door: Served) -> None:
    """A retry is previewed, a host is said to work, and one is back at the message; a reader sees the commands."""
    id = next(each.id for each in door.relay.messages if each.recipients[0].domain == "example.com")
    with log_in(door, "read") as reader:
        read = reader.get(f"/message/{id}").text
    with log_in(door) as client:
        page = client.get(f"/message/{id}").text
        secret = secret_in(page)
        preview = client.post(
            "/queue/preview", data={"csrf": secret, "verb": "retry", "id": id, "from_message": "yes"}
        ).text
        reset = client.post("/hosts/reset", data={"csrf": secret, "name": "203.0.113.25", "id": id})

    assert f"<code>smarthost queue retry {id} --config /etc/relay.toml</code>" in read
    assert "<button>" not in read.partition("Goes sooner by")[2].partition("</dl>")[0]
    sooner = page.partition("Goes sooner by")[2].partition("</dl>")[0]
    assert ["Try again now…", "203.0.113.25 works again"] == re.findall(r"<button>(.*?)</button>", sooner)
    assert sooner.count('name="csrf"') == 2
    assert "<code>smarthost reload</code>" in sooner
    assert "another host of the destination begins to work" in sooner
    assert "Try again now?" in preview
    assert f"/message/{id}" == reset.headers["location"]


def test_a_login_that_is_refused_has_its_cure_at_the_message(door: Served) -> None:
    """Another try would be another bad login: what to mend stands before the buttons; a login in time has none."""
    id = next(each.id for each in door.relay.messages if each.recipients[0].domain == "example.com")
    story = door.relay.stories[id]

    def cures(evidence: str) -> int:
        waiting = replace(story.recipients[0].waiting, evidence=evidence)
        door.relay.stories[id] = replace(story, recipients=(replace(story.recipients[0], waiting=waiting),))
        with log_in(door) as client:
            return client.get(f"/message/{id}").text.count("<dt>Cure</dt>")

    assert [1, 0, 0] == [
        cures("mx.example [192.0.2.1]: auth failed once: 535 5.7.8 no"),
        cures("mx.example [192.0.2.1]: auth failed once: 454 4.7.0 later"),
        cures("mx.example [192.0.2.1]: banner failed once: 554 no"),
    ]


def test_a_quiet_relay_reads_well(door: Served) -> None:
    """Nothing is held by nobody, and the whole queue is in no danger before somebody confirms."""
    door.relay.counted = Summary(0, 0, 0.0, (), (), ())
    headline_of(door)
    with log_in(door) as client:
        overview, queue = client.get("/").text, client.get("/queue").text

    assert "nothing is held" in overview
    assert "by nobody" not in overview
    assert "Nothing happens before you confirm." in queue


def test_a_preview_shows_whose_mail_it_is(door: Served) -> None:
    """Ids alone say nothing to who is about to cancel them."""
    with log_in(door) as client:
        secret = secret_in(client.get("/queue").text)
        page = client.post("/queue/preview", data={"csrf": secret, "verb": "hold", "destination": "example.com"}).text

    assert 8 == page.count('<tr><td><a class="id"') == page.count("@example.com</bdi></td></tr>")


def test_what_one_command_did_is_one_line_of_the_records(door: Served) -> None:
    """Fifteen cancellations of one moment, author and reason are one, with their recipients behind it."""
    with log_in(door) as client:
        page = client.get("/records").text

    assert 1 == page.count("cancelled by root: spam, ticket 4712")
    assert re.search(r"<summary>15 recipients <span[^>]*>by root</span></summary>", page)
    assert page.count("@spam.example") == 15


def test_records_of_other_moments_reasons_and_hosts_are_not_folded() -> None:
    """What is not the same is told apart; what is of no message stays by itself."""
    same = Record(1, Kind.CANCELLED, 100.0, "a", "a@x.example", user="root", why="spam")
    others = [
        replace(same, user="anna"),
        replace(same, why="ham"),
        replace(same, kind=Kind.BOUNCED),
        replace(same, at=200.0),
        replace(same, id="", recipient="", kind=Kind.HOST_OPEN),
        replace(same, id="", recipient="", kind=Kind.HOST_OPEN),
    ]

    assert [2] == [len(each.records) for each in fold([same, replace(same, id="b", at=101.0)])]
    for other in others:
        assert 2 == len(fold([same, other])), other
    assert 2 == len(fold(others[-2:]))
    assert 2 == len(fold([Record(n, Kind.RELAYED, 100.0, "a", "a@x.example", reply="250 ok") for n in range(2)]))


def test_a_suspension_says_how_much_it_keeps_back(door: Served) -> None:
    """In the list, and at once when it begins: a slip shows itself by a nought."""
    with log_in(door) as client:
        secret = secret_in(client.get("/suspensions").text)
        begun = client.post("/suspensions/begin", data={"csrf": secret, "what": "example.com", "reason": "x"})
        page = client.get(begun.headers["location"]).text

    assert "example.com is suspended: 14 recipients of the queue" in page
    assert '<a href="/queue?destination=example.com">14 recipients</a>' in page
    assert '<a href="/queue?destination=list.example">12 recipients</a>' in page


def test_what_an_operator_keeps_back_shows_the_last_attempt_as_such(door: Served) -> None:
    """A quote below "held" is what a host said before, and no reason for the hold."""
    held = next(each.id for each in door.relay.messages if each.recipients[0].state == "held")
    put_off = next(each.id for each in door.relay.messages if each.recipients[0].state == "deferred")
    with log_in(door) as client:
        pages = client.get(f"/message/{held}").text, client.get(f"/message/{put_off}").text

    assert ["The last attempt:" in page for page in pages] == [True, False]
    assert ["<dt>Set by</dt>" in page for page in pages] == [True, False]
    assert "from <bdi>192.0.2.7</bdi>" in pages[0].partition("What happened")[2]


def test_a_new_relay_says_nothing_of_violations(door: Served) -> None:
    """The auditor has found nothing because there was nothing to look at."""
    door.relay.audit_figures = AuditFigures(rounds=1)
    with log_in(door) as client:
        page = client.get("/").text

    assert "it has had none to look at yet" in page
    assert "0 violations" not in page


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("smarthost resume", "/resume"),
        ("smarthost resume user:ann", "/suspensions/end"),
        ("smarthost resume example.net --state-dir '/a b'", "/suspensions/end"),
        ("smarthost queue release 0123", "/queue/preview"),
        ("smarthost queue retry 9999", ""),
        ("smarthost queue retry --all", ""),
        ("smarthost drain --cancel", ""),
        ("smarthost resume 'a", ""),
        ("the host works again", ""),
    ],
)
def test_only_commands_that_a_form_knows_become_buttons(text: str, action: str) -> None:
    """What is of another message, of a shell, or no command at all is text."""
    assert action == read_way(text, "0123").action
