# SPDX-License-Identifier: MIT
"""Every open-relay probe is refused to a stranger, and no odd address is understood, or changed, for one of our own.

T (third.example) is a third party, L (relay.example.org) our name. The probes are nmap's, reedmedia's and more.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.acceptance.certificates import Authority
from tests.acceptance.client import Client, plain, trusting
from tests.acceptance.daemon import Daemon
from tests.acceptance.passwords import HASH
from tests.acceptance.sink import Sink

STRANGER = "203.0.113.9"
FROM = (
    b"<>",
    b"<x@third.example>",
    b"<x@relay.example.org>",
    b"<x@localhost>",
    b"<x>",
    b"<x@[127.0.0.1]>",
    b'<"x@third.example"@relay.example.org>',
)
TO = (
    b"<u@third.example>",
    b"<u%third.example@relay.example.org>",
    b"<u%third.example@[127.0.0.1]>",
    b'<"u@third.example">',
    b'<"u%third.example">',
    b"<u@third.example@relay.example.org>",
    b"<u@third.example@[127.0.0.1]>",
    b'<"u@third.example"@[127.0.0.1]>',
    b'<"u@third.example"@relay.example.org>',
    b"<@relay.example.org:u@third.example>",
    b"<@[127.0.0.1]:u@third.example>",
    b"<@a.example,@b.example:u@third.example>",
    b"<third.example!u>",
    b"<third.example!u@relay.example.org>",
    b"<third.example!u@[127.0.0.1]>",
    b"<u@third.example.>",
    b"<u@[192.0.2.7]>",
    b"<U@THIRD.EXAMPLE>",
    b"<u%third.example%relay.example.org@relay.example.org>",
    b"<u@xn--bcher-kva.example>",
    b"<u@localhost>",
    b"<u@localhost.third.example>",
    b"<u@[IPv6:::1]>",
    b"<u@[127.0.0.1]>",
    b"<u>",
    b"<root>",
    b"<u@relay.example.org>",
    b"<@relay.example.org,@third.example:u@fourth.example>",
    b'<"third.example!u"@relay.example.org>',
    b"<u+third.example=v@relay.example.org>",
)
# What leaves us for a client of ours: the same octets, but for what RFC 5321 itself makes equal (the domain's case, a
# source route dropped by 4.1.1.3 and appendix C), or a refusal. None may become another mailbox.
MAY_LOSE_THE_ROUTE = {
    b"<@relay.example.org:u@third.example>": b"<u@third.example>",
    b"<@[127.0.0.1]:u@third.example>": b"<u@third.example>",
    b"<@a.example,@b.example:u@third.example>": b"<u@third.example>",
    b"<@relay.example.org,@third.example:u@fourth.example>": b"<u@fourth.example>",
}


class Place(NamedTuple):
    daemon: Daemon
    sink: Sink
    authority: Authority

    def stranger(self) -> Client:
        client = Client(self.daemon.ports[1], proxied_from=STRANGER)
        client.hello()
        return client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("open-relay")
    authority = Authority(home)
    own = authority.issue("own")
    users = home / "users.toml"
    users.write_text(f'[alice]\npassword = "{HASH}"\nsenders = ["*"]\n')
    with Sink() as sink:
        config = f"""
[next_hop]
host = "127.0.0.1"
port = {sink.port}
[tls]
certificate_file = "{own.chain}"
key_file = "{own.key}"
[auth]
users_file = "{users}"
[[listener]]
listen = ["127.0.0.1:0"]
[[listener]]
listen = ["127.0.0.1:0"]
proxy_from = ["127.0.0.0/8"]
[limits]
errors = 1000
"""
        with Daemon(home, config) as daemon:
            yield Place(daemon, sink, authority)


@pytest.mark.parametrize("sender", FROM, ids=bytes.decode)
def test_no_probe_of_a_stranger_is_accepted(place: Place, sender: bytes) -> None:
    with place.stranger() as client:
        reply = client.say(b"MAIL FROM:" + sender)
        assert reply.code in (250, 501, 550, 553), reply

        for to in TO:
            answer = client.say(b"RCPT TO:" + to)
            assert 500 <= answer.code < 560, (to, answer)
        assert client.code(b"DATA") in (503, 554)
        assert client.code(b"BDAT 0 LAST") in (503, 554)


def test_a_well_formed_probe_is_told_550_5_7_1(place: Place) -> None:
    with place.stranger() as client:
        assert client.code(b"MAIL FROM:<x@third.example>") == 250
        reply = client.say(b"RCPT TO:<u@third.example>")
        assert (reply.code, reply.lines[0][:5]) == (550, b"5.7.1")


def test_a_stranger_does_not_get_in_by_what_came_before(place: Place) -> None:
    """After AUTH that failed, RSET, EHLO, STARTTLS; with AUTH=; with XCLIENT and PROXY said by himself."""
    tls = trusting(place.authority.file)
    with place.stranger() as client:

        def is_refused(parameters: bytes = b"") -> bool:
            client.say(b"RSET")
            client.say(b"MAIL FROM:<alice@example.org>" + parameters)
            return client.code(b"RCPT TO:<u@third.example>") >= 500

        assert is_refused()
        assert client.code(b"XCLIENT ADDR=127.0.0.1 LOGIN=alice") >= 500
        assert is_refused()
        assert client.code(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2") >= 500
        assert is_refused()
        assert client.code(b"RSET") == 250
        client.start_tls(tls)
        client.hello()
        assert is_refused()
        assert client.code(b"RSET") == 250
        assert client.code(b"AUTH PLAIN " + plain(b"alice", b"wrong")) == 535
        assert is_refused()
        assert is_refused(b" AUTH=alice")
        assert is_refused(b" AUTH=<>")
        assert client.code(b"EHLO localhost") == 250
        assert is_refused()
        assert client.code(b"EHLO [127.0.0.1]") == 250
        assert is_refused()


def test_what_a_user_may_is_his_until_starttls_or_the_end_and_nobody_elses(place: Place) -> None:
    tls = trusting(place.authority.file)
    with place.stranger() as client:
        client.start_tls(tls)
        client.hello()
        assert client.code(b"AUTH PLAIN " + plain(b"alice", b"secret")) == 235
        assert client.code(b"MAIL FROM:<alice@example.org>") == 250
        assert client.code(b"RCPT TO:<u@third.example>") == 250
        assert client.code(b"RSET") == 250
        assert client.code(b"RCPT TO:<u@third.example>") == 503
        assert client.code(b"QUIT") == 221
    with place.stranger() as client:
        client.say(b"MAIL FROM:<alice@example.org>")
        assert client.code(b"RCPT TO:<u@third.example>") == 550


def test_a_forged_proxy_header_from_an_untrusted_peer_is_junk(place: Place) -> None:
    """At a door without proxy_from the header is an unknown command; at one with it a second header is."""
    with Client(place.daemon.ports[0]) as client:
        assert client.code(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2") == 500
    with Client(place.daemon.ports[1], greeted=False) as client:
        client.send(b"EHLO x.example\r\n")
        assert b"250" not in client.what_came_until_the_end()


@pytest.mark.parametrize("to", TO, ids=bytes.decode)
def test_an_odd_address_of_our_own_client_is_opaque(place: Place, to: bytes) -> None:
    """It is refused, or leaves us as it came: `%` and `!` mean nothing, quotes stay."""
    before = len(place.sink.messages)
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        assert client.code(b"MAIL FROM:<a@example.org>") == 250
        answer = client.say(b"RCPT TO:" + to)
        if answer.code != 250:
            assert 500 <= answer.code < 560, answer
            return
        assert client.code(b"DATA") == 354
        client.send(b"Subject: opaque\r\n\r\nx\r\n.\r\n")
        assert client.reply().code == 250

    place.sink.wait(lambda: len(place.sink.messages) > before, f"mail to {to!r}")
    path = place.sink.messages[-1].recipients[0].strip().removeprefix(b"RCPT TO:").split(b"> ")[0].rstrip(b">") + b">"
    wanted = MAY_LOSE_THE_ROUTE.get(to, to)
    local, at, domain = path.rpartition(b"@")
    wanted_local, _, wanted_domain = wanted.rpartition(b"@")
    assert (local, at) == (wanted_local, b"@")
    assert domain.lower() == wanted_domain.lower()


@pytest.mark.parametrize("to", [b"<w%third.example@relay.example.org>", b"<third.example!w@relay.example.org>"])
def test_percent_and_bang_addresses_are_taken_and_not_rewritten(place: Place, to: bytes) -> None:
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        client.say(b"MAIL FROM:<a%b!c@example.org>")
        assert client.code(b"RCPT TO:" + to) == 250
        client.say(b"DATA")
        client.send(b"Subject: opaque\r\n\r\nsecond\r\n.\r\n")
        assert client.reply().code == 250
    message = place.sink.message(to)
    assert b"FROM:<a%b!c@example.org>" in message.mail
