# SPDX-License-Identifier: MIT
"""AUTH by RFC 4954: inside TLS only, the reply of each case, nothing to learn for who guesses, one's own senders.

Also what stands for a password (a client certificate), and who may say PROXY and XCLIENT.
"""

import base64
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.acceptance.certificates import Authority, Pair
from tests.acceptance.client import Client, Reply, plain, trusting
from tests.acceptance.daemon import CONTROLS, Daemon
from tests.acceptance.passwords import HASH, PASSWORD
from tests.acceptance.sink import Sink

STRANGER = "203.0.113.9"
RELAY, SUBMISSION, SUBMISSIONS, PROXIED, XCLIENT = range(5)
RIGHT = plain(b"alice", PASSWORD)


class Place(NamedTuple):
    daemon: Daemon
    sink: Sink
    ca: Path
    pairs: dict[str, Pair]

    def client(self, door: int = SUBMISSION, *, certificate: str = "", proxied_from: str = "") -> Client:
        """A client inside TLS that has said EHLO."""
        pair = self.pairs[certificate] if certificate else None
        tls = trusting(self.ca, *(pair or ()))
        if door == SUBMISSIONS:
            client = Client(self.daemon.ports[door], tls=tls)
        else:
            client = Client(self.daemon.ports[door], proxied_from=proxied_from)
            client.hello()
            client.start_tls(tls)
        client.hello()
        return client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("auth")
    authority = Authority(home)
    own = authority.issue("own")
    pairs = {
        "carol": authority.issue("carol", "carol@example.org"),
        "mallory": authority.issue("mallory", "m@x.example"),
    }
    users = home / "users.toml"
    users.write_text(
        f'[alice]\npassword = "{HASH}"\nsenders = ["alice@example.org", "@lists.example.org"]\n'
        f'[carol]\npassword = "{HASH}"\nsenders = ["*"]\ncertificates = ["{pairs["carol"].fingerprint}"]\n'
    )
    with Sink() as sink:
        config = f"""
[next_hop]
host = "127.0.0.1"
port = {sink.port}
[tls]
certificate_file = "{own.chain}"
key_file = "{own.key}"
client_certificates = true
client_ca_file = "{authority.file}"
[auth]
users_file = "{users}"
[[listener]]
listen = ["127.0.0.1:0"]
[[listener]]
listen = ["127.0.0.1:0"]
mode = "submission"
[[listener]]
listen = ["127.0.0.1:0"]
mode = "submissions"
[[listener]]
listen = ["127.0.0.1:0"]
mode = "submission"
proxy_from = ["127.0.0.0/8"]
[[listener]]
listen = ["127.0.0.1:0"]
xclient_from = ["127.0.0.0/8"]
[limits]
errors = 1000
"""
        with Daemon(home, config) as daemon:
            yield Place(daemon, sink, authority.file, pairs)


def test_auth_is_offered_inside_tls_only_and_refused_in_clear(place: Place) -> None:
    with Client(place.daemon.ports[PROXIED], proxied_from=STRANGER) as client:
        assert b"AUTH" not in client.hello()
        reply = client.say(b"AUTH PLAIN " + RIGHT)
        assert reply.code in (530, 538), reply
        client.start_tls(trusting(place.ca))
        offered = client.hello()[b"AUTH"].split()
        assert b"PLAIN" in offered
        assert b"CRAM-MD5" not in offered
        assert client.code(b"AUTH PLAIN " + RIGHT) == 235
        assert client.code(b"AUTH PLAIN " + RIGHT) == 503  # a second AUTH


def test_at_a_submission_door_everything_else_before_tls_and_auth_is_530(place: Place) -> None:
    with Client(place.daemon.ports[PROXIED], proxied_from=STRANGER) as client:
        client.hello()
        assert client.code(b"MAIL FROM:<alice@example.org>") == 530
        client.start_tls(trusting(place.ca))
        client.hello()
        reply = client.say(b"MAIL FROM:<alice@example.org>")
        assert (reply.code, reply.lines[0][:5]) == (530, b"5.7.0")


@pytest.mark.parametrize("door", [SUBMISSION, SUBMISSIONS], ids=["587", "465"])
def test_a_user_who_logged_in_sends_and_the_trace_says_so(place: Place, door: int) -> None:
    to = b"to%d@there.example" % door
    with place.client(door) as client:
        assert client.code(b"AUTH PLAIN " + RIGHT) == 235
        assert client.transact(b"alice@example.org", to, b"Subject: x\r\n\r\nx").code == 250
    content = place.sink.message(to).content
    assert b"with ESMTPSA" in content
    assert b"\r\nMessage-ID:" in content or b"\r\nMessage-Id:" in content
    assert b"\r\nDate:" in content
    assert b"secret" not in content


def test_plain_and_login_work_with_and_without_an_initial_response(place: Place) -> None:
    user, password = base64.b64encode(b"alice"), base64.b64encode(PASSWORD)
    for dialogue in (
        [b"AUTH PLAIN", RIGHT],
        [b"auth plain " + RIGHT],
        [b"AUTH LOGIN", user, password],
        [b"AUTH LOGIN " + user, password],
    ):
        with place.client() as client:
            if dialogue[0].startswith(b"AUTH LOGIN") and b"LOGIN" not in client.hello()[b"AUTH"]:
                assert client.code(dialogue[0]) == 504
                continue
            codes = [client.code(line) for line in dialogue]
            assert codes == [334] * (len(dialogue) - 1) + [235]


@pytest.mark.parametrize(
    ("dialogue", "codes"),
    [
        ([b"AUTH"], [501]),
        ([b"AUTH NONSENSE"], [504]),
        ([b"AUTH PLAIN *"], [501]),
        ([b"AUTH PLAIN", b"*"], [334, 501]),
        ([b"AUTH PLAIN !!!!"], [501]),
        ([b"AUTH PLAIN", b"!!!!"], [334, 501]),
        ([b"AUTH PLAIN YQ"], [501]),  # bad padding
        ([b"AUTH PLAIN ="], [501, 535]),  # an empty response is no PLAIN message
        ([b"AUTH PLAIN " + base64.b64encode(b"alice\0secret")], [501, 535]),
        ([b"AUTH PLAIN " + base64.b64encode(b"\0alice\0secret\0x")], [501, 535]),
        ([b"AUTH PLAIN " + base64.b64encode(b"\0\0secret")], [501, 535]),
        ([b"AUTH PLAIN " + base64.b64encode(b"\0alice\0")], [501, 535]),
        ([b"AUTH PLAIN " + plain(b"alice", b"secret", b"carol")], [501, 535]),  # in the name of another
        ([b"AUTH PLAIN " + RIGHT + b" more"], [501]),
        ([b"AUTH PLAIN " + plain(b"ALICE", b"secret")], [535]),
        ([b"AUTH PLAIN " + plain(b"alice", b"secret ")], [535]),
        ([b"AUTH PLAIN " + plain(b"alice\r\n", b"secret")], [501, 535]),
        ([b"AUTH PLAIN " + plain(b"caf\xff", b"secret")], [501, 535]),
        ([b"AUTH PLAIN " + b"A" * 12000], [500, 501, 535]),
        ([b"AUTH PLAIN", b"A" * 20000], [334, 500]),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_auth_that_is_wrong_has_the_reply_of_rfc_4954_and_the_session_stays_usable(
    place: Place, dialogue: list[bytes], codes: list[int]
) -> None:
    with place.client() as client:
        replies = [client.say(line) for line in dialogue]
        if len(dialogue) == 1:
            assert replies[0].code in codes, replies
        else:
            assert replies[0].code == codes[0]
            assert replies[1].code in {*codes[1:], 501, 535} - ({235, 334}), replies
        for reply in replies:
            assert reply.lines[0][:1] == b"5" or reply.code == 334
        assert client.code(b"NOOP") == 250
        assert client.code(b"AUTH PLAIN " + RIGHT) == 235
        assert client.code(b"MAIL FROM:<alice@example.org>") == 250


def test_auth_within_a_transaction_is_503(place: Place) -> None:
    with Client(place.daemon.ports[RELAY]) as client:
        client.hello()
        client.start_tls(trusting(place.ca))
        client.hello()
        assert client.code(b"MAIL FROM:<a@example.org>") == 250
        assert client.code(b"AUTH PLAIN " + RIGHT) == 503
        assert client.code(b"RSET") == 250
        assert client.code(b"AUTH PLAIN " + RIGHT) == 235


def test_auth_before_ehlo_is_503(place: Place) -> None:
    with Client(place.daemon.ports[SUBMISSIONS], tls=trusting(place.ca)) as client:
        assert client.code(b"AUTH PLAIN " + RIGHT) == 503


def test_a_wrong_password_and_an_unknown_user_cannot_be_told_apart(place: Place) -> None:
    """The same reply, and the same work done for both: a guess at nobody is not answered at once."""
    replies: list[Reply] = []
    took: dict[bytes, list[float]] = {b"alice": [], b"nobody": []}
    for number in range(3):
        for user, times in took.items():
            with place.client(PROXIED, proxied_from=f"198.51.100.{10 * number + len(user)}") as client:
                began = time.monotonic()
                replies.append(client.say(b"AUTH PLAIN " + plain(user, b"guess")))
                times.append(time.monotonic() - began)
    assert len({(each.code, each.text) for each in replies}) == 1, replies
    assert replies[0].code == 535
    assert replies[0].lines[0].startswith(b"5.7.8")
    known, unknown = min(took[b"alice"]), min(took[b"nobody"])
    assert max(known, unknown) < 0.5 + 5 * min(known, unknown), took


def test_who_guesses_is_answered_later_and_later_or_cut_off(place: Place) -> None:
    """Another client is served at once meanwhile."""
    took = []
    with place.client(PROXIED, proxied_from="198.51.100.66") as client:
        for number in range(5):
            began = time.monotonic()
            try:
                reply = client.say(b"AUTH PLAIN " + plain(b"alice", b"guess%d" % number))
            except (EOFError, ConnectionError):
                break
            took.append(time.monotonic() - began)
            if reply.code == 421:
                break
            assert reply.code in (535, 454), reply
            if took[-1] > 0.9:
                break
    assert len(took) < 5 or took[-1] > 4 * took[0], took
    assert max(took) > 0.5 or len(took) < 5, took
    with place.client(PROXIED, proxied_from="198.51.100.67") as other:
        assert other.code(b"AUTH PLAIN " + RIGHT) == 235


@pytest.mark.parametrize(
    ("sender", "code"),
    [
        (b"alice@example.org", 250),
        (b"alice@EXAMPLE.org", 250),
        (b"anything@lists.example.org", 250),
        (b"", 250),
        (b"bob@example.org", 550),
        (b"alice@example.org.evil.example", 550),
        (b"alice@sub.example.org", 550),
        (b"x@sub.lists.example.org", 550),
        (b'"alice@example.org"@evil.example', 550),
        (b"xalice@example.org", 550),
    ],
    ids=repr,
)
def test_a_user_has_his_own_senders_only(place: Place, sender: bytes, code: int) -> None:
    with place.client() as client:
        assert client.code(b"AUTH PLAIN " + RIGHT) == 235
        reply = client.say(b"MAIL FROM:<%b>" % sender)
        if code == 550 and reply.code == 250:
            reply = client.say(b"RCPT TO:<u@there.example>")
        if sender:
            assert reply.code in (code, 553 if code == 550 else code), reply
        else:
            assert reply.code in (250, 550)
        if reply.code == 550:
            assert reply.lines[0].startswith(b"5.7.1")


def test_a_certificate_of_a_user_stands_for_his_password(place: Place) -> None:
    with place.client(PROXIED, certificate="carol", proxied_from=STRANGER) as client:
        reply = client.say(b"MAIL FROM:<x@anywhere.example>")
        if reply.code == 530:  # then by EXTERNAL
            assert client.code(b"AUTH EXTERNAL =") == 235
            reply = client.say(b"MAIL FROM:<x@anywhere.example>")
        assert reply.code == 250, reply
        assert client.code(b"RCPT TO:<u@there.example>") == 250


@pytest.mark.parametrize("certificate", ["mallory", ""])
def test_a_certificate_of_nobody_stands_for_nothing(place: Place, certificate: str) -> None:
    with place.client(PROXIED, certificate=certificate, proxied_from=STRANGER) as client:
        assert client.code(b"MAIL FROM:<x@anywhere.example>") == 530
        assert client.code(b"AUTH EXTERNAL =") in (504, 535)
        assert client.code(b"AUTH EXTERNAL " + base64.b64encode(b"carol")) in (504, 535)
        assert client.code(b"MAIL FROM:<x@anywhere.example>") == 530


def test_xclient_is_offered_to_and_taken_from_those_listed_only(place: Place) -> None:
    for door in (RELAY, SUBMISSION, SUBMISSIONS):
        with place.client(door) as client:
            assert b"XCLIENT" not in client.hello()
            assert client.code(b"XCLIENT ADDR=10.0.0.1") in (500, 502, 503, 550)
    with Client(place.daemon.ports[XCLIENT]) as client:
        assert b"XCLIENT" in client.hello()
        assert client.code(b"XCLIENT ADDR=203.0.113.9 NAME=far.example") == 220
        client.hello()
        client.say(b"MAIL FROM:<x@third.example>")
        assert client.code(b"RCPT TO:<u@third.example>") == 550


@pytest.mark.parametrize(
    "attributes",
    [b"ADDR=nonsense", b"ADDR=1.2.3.4.5", b"NOPE=1", b"", b"ADDR", b"ADDR=127.0.0.1+0D+0A", b"HELO=a+0Ab"],
    ids=repr,
)
def test_bad_attributes_of_xclient_are_501_or_change_nothing(place: Place, attributes: bytes) -> None:
    with Client(place.daemon.ports[XCLIENT]) as client:
        client.hello()
        assert client.code(b"XCLIENT " + attributes) == 501
        assert client.code(b"NOOP") == 250
    assert not CONTROLS.search(place.daemon.text)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1\r\n",
        b"PROXY TCP4 127.0.0.1\n",
        b"PROXY TCP9 127.0.0.1 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4.5 127.0.0.1 1 2\r\n",
        b"PROXY TCP6 127.0.0.1 127.0.0.1 1 2\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2" + b" " * 200 + b"\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x2f\x11\0\x0c" + b"\0" * 12,
        b"EHLO there\r\n",
    ],
    ids=repr,
)
def test_a_bad_proxy_header_closes_and_nothing_is_said_as_smtp(place: Place, header: bytes) -> None:
    with Client(place.daemon.ports[PROXIED], greeted=False) as client:
        client.send(header + b"EHLO x.example\r\n")
        came = client.what_came_until_the_end()
    assert b"250" not in came


def test_a_proxy_header_of_version_2_says_who_the_client_is(place: Place) -> None:
    header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([203, 0, 113, 77, 127, 0, 0, 1, 0, 1, 0, 25])
    with Client(place.daemon.ports[PROXIED], greeted=False) as client:
        client.send(header)
        assert client.reply().code == 220
        client.hello()
        client.start_tls(trusting(place.ca))
        client.hello()
        assert client.code(b"AUTH PLAIN " + plain(b"carol", PASSWORD)) == 235
        assert client.transact(b"x@y.example", b"proxied2@there.example", b"Subject: x\r\n\r\nx").code == 250
    line = place.daemon.line("accepted", recipient="proxied2@there.example")
    assert "203.0.113.77" in str(line["client"])


def test_no_password_is_ever_told(place: Place) -> None:
    for told in (place.daemon.text, place.daemon.ask("config", "show"), place.daemon.ask("config", "show", "--json")):
        assert "secret" not in told
        assert HASH not in told
    assert "unexpected" not in place.daemon.text


def test_without_a_certificate_a_password_travels_on_loopback_only(tmp_path: Path) -> None:
    """No TLS is configured: AUTH is offered to 127.0.0.1, and not to a client from elsewhere."""
    users = tmp_path / "users.toml"
    users.write_text(f'[alice]\npassword = "{HASH}"\nsenders = ["*"]\n')
    config = f"""
[next_hop]
host = "127.0.0.1"
port = 9
[auth]
users_file = "{users}"
[[listener]]
listen = ["127.0.0.1:0"]
mode = "submission"
[[listener]]
listen = ["127.0.0.1:0"]
proxy_from = ["127.0.0.0/8"]
"""
    with Daemon(tmp_path, config) as daemon:
        with Client(daemon.ports[0]) as client:
            assert b"AUTH" in client.hello()
            assert client.code(b"MAIL FROM:<a@example.org>") == 530
            assert client.code(b"AUTH PLAIN " + RIGHT) == 235
            assert client.code(b"MAIL FROM:<a@example.org>") == 250
        with Client(daemon.ports[1], proxied_from=STRANGER) as client:
            assert b"AUTH" not in client.hello()
            assert client.code(b"AUTH PLAIN " + RIGHT) in (502, 503, 530, 538)


def test_the_tls_of_the_daemon_is_1_2_or_newer(place: Place) -> None:
    with place.client() as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() in ("TLSv1.2", "TLSv1.3")
