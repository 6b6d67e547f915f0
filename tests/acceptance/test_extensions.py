# SPDX-License-Identifier: MIT
"""Which extensions each kind of door offers, and that each does what its RFC says.

SIZE, CHUNKING, LMTP, LIMITS, REQUIRETLS, 8BITMIME, SMTPUTF8, BINARYMIME: towards hosts that have them and that do not.
"""

import base64
import quopri
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.acceptance.certificates import Authority
from tests.acceptance.client import Client, plain, trusting
from tests.acceptance.daemon import Daemon
from tests.acceptance.passwords import HASH, PASSWORD
from tests.acceptance.sink import CHUNKING, COMMON, Sink

RELAY, SUBMISSION, SUBMISSIONS, LMTP, BARE, PROXIED = range(6)
LIMIT = 100_000
LINES = (b"y" * 78 + b"\r\n") * 1000
ALWAYS = {
    b"PIPELINING",
    b"SIZE",
    b"8BITMIME",
    b"SMTPUTF8",
    b"ENHANCEDSTATUSCODES",
    b"DSN",
    b"CHUNKING",
    b"BINARYMIME",
    b"LIMITS",
}
SEVEN_BIT = ("PIPELINING", "ENHANCEDSTATUSCODES")
HOSTS = {
    "full": CHUNKING,
    "utf8": COMMON,
    "no-utf8": ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"),
    "seven": SEVEN_BIT,
    "chunk-only": (*COMMON, "CHUNKING"),
    "small": ("PIPELINING", "SIZE 70000"),
    "origin": COMMON,
    "one-by-one": (*COMMON, "LIMITS RCPTMAX=1 MAILMAX=2"),
}


class Place(NamedTuple):
    daemon: Daemon
    hosts: dict[str, Sink]
    ca: Path

    def client(self, door: int = RELAY) -> Client:
        client = Client(self.daemon.ports[door])
        client.hello(verb=b"LHLO" if door == LMTP else b"EHLO")
        return client

    def secured(self) -> Client:
        client = self.client()
        client.start_tls(trusting(self.ca))
        client.hello()
        return client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("extensions")
    authority = Authority(home)
    own = authority.issue("own")
    users = home / "users.toml"
    users.write_text(f'[alice]\npassword = "{HASH}"\nsenders = ["*"]\n')
    with ExitStack() as stack:
        hosts = {name: stack.enter_context(Sink(extensions)) for name, extensions in HOSTS.items()}
        for name in ("requiretls", "plaintls"):
            offered = (*COMMON, "STARTTLS", *(["REQUIRETLS"] if name == "requiretls" else []))
            hosts[name] = stack.enter_context(Sink(offered, tls=own.as_server()))
        routes = "".join(
            f'[[route]]\ndomains = ["{name}.example"]\n[route.next_hop]\nhost = "127.0.0.1"\nport = {host.port}\n'
            f'ca_file = "{authority.file}"\ntls = "{"verified" if name.endswith("tls") else "opportunistic"}"\n'
            for name, host in hosts.items()
        )
        modes = ["relay", "submission", "submissions", "lmtp"]
        doors = "".join(f'[[listener]]\nlisten = ["127.0.0.1:0"]\nmode = "{mode}"\n' for mode in modes)
        config = f"""
[tls]
certificate_file = "{own.chain}"
key_file = "{own.key}"
[auth]
users_file = "{users}"
{doors}
[[listener]]
listen = ["127.0.0.1:0"]
tls = "none"
[[listener]]
listen = ["127.0.0.1:0"]
mode = "submission"
proxy_from = ["127.0.0.0/8"]
[limits]
errors = 1000
message_size = {LIMIT}
recipients = 100
{routes}"""
        with Daemon(home, config) as daemon:
            yield Place(daemon, hosts, authority.file)


def test_each_door_offers_what_belongs_there(place: Place) -> None:
    tls = trusting(place.ca)
    with Client(place.daemon.ports[RELAY]) as client:
        offered = client.hello()
        assert set(offered) >= {*ALWAYS, b"STARTTLS"}
        assert not {b"XCLIENT", b"REQUIRETLS"} & set(offered)
        assert int(offered[b"SIZE"]) == LIMIT
        assert int(dict(word.split(b"=") for word in offered[b"LIMITS"].split())[b"RCPTMAX"]) >= 100
        client.start_tls(tls)
        offered = client.hello()
        assert set(offered) >= {*ALWAYS, b"REQUIRETLS"}
        assert b"STARTTLS" not in offered
    with Client(place.daemon.ports[PROXIED], proxied_from="203.0.113.1") as client:
        offered = client.hello()
        assert b"STARTTLS" in offered
        assert not {b"AUTH", b"REQUIRETLS", b"XCLIENT"} & set(offered)
        client.start_tls(tls)
        offered = client.hello()
        assert set(offered) >= {*ALWAYS, b"AUTH", b"REQUIRETLS"}
        assert b"STARTTLS" not in offered
    with Client(place.daemon.ports[SUBMISSIONS], tls=tls) as client:
        offered = client.hello()
        assert set(offered) >= {*ALWAYS, b"AUTH"}
        assert b"STARTTLS" not in offered
    with Client(place.daemon.ports[LMTP]) as client:
        assert client.code(b"EHLO client.example.com") == 500
        assert client.code(b"HELO client.example.com") == 500
        assert set(client.hello(verb=b"LHLO")) >= {b"PIPELINING", b"ENHANCEDSTATUSCODES"}
    with Client(place.daemon.ports[BARE]) as client:
        assert not {b"STARTTLS", b"REQUIRETLS"} & set(client.hello())
        assert client.code(b"LHLO client.example.com") in (500, 502)


@pytest.mark.parametrize(
    ("size", "codes"),
    [
        (b"0", {250}),
        (b"1", {250}),
        (b"%d" % LIMIT, {250}),
        (b"%d" % (LIMIT + 1), {552}),
        (b"9" * 20, {552}),
        (b"9" * 21, {501}),
        (b"00000000000000000001", {250}),
        (b"", {501}),
        (b"-1", {501}),
        (b"+1", {501}),
        (b"1x", {501}),
        (b"0x10", {501}),
        (b"1.5", {501}),
        (b"1e3", {501}),
        ("٣".encode(), {500, 501}),
        (b"1,000", {501}),
    ],
    ids=repr,
)
def test_the_size_that_mail_declares(place: Place, size: bytes, codes: set[int]) -> None:
    """RFC 1870: up to 20 digits, 552 at once where it is too large."""
    with place.client() as client:
        reply = client.say(b"MAIL FROM:<a@origin.example> SIZE=" + size)
        assert reply.code in codes, reply
        if reply.code == 552:
            assert reply.lines[0].startswith(b"5.3.4")
        assert client.code(b"NOOP") == 250


def test_the_real_octets_count_not_the_declared_ones(place: Place) -> None:
    with place.client() as client:
        assert client.code(b"MAIL FROM:<a@origin.example> SIZE=10") == 250
        assert client.code(b"RCPT TO:<b@utf8.example>") == 250
        assert client.code(b"DATA") == 354
        client.send((b"x" * 78 + b"\r\n") * (LIMIT // 80 + 2) + b".\r\n")
        reply = client.reply()
        assert (reply.code, reply.lines[0][:5]) == (552, b"5.3.4")
        assert client.transact(b"a@origin.example", b"small@utf8.example", b"Subject: x\r\n\r\nx").code == 250


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_message_of_the_limit_is_taken_and_one_octet_more_is_not(place: Place, over: int) -> None:
    head = b"Subject: x\r\n\r\n"
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<b@utf8.example>")
        content = head + b"y" * (LIMIT - len(head) - 2 + over) + b"\r\n"
        assert client.bdat(content).code == (552 if over > 0 else 250)
        assert client.code(b"NOOP") == 250


def test_chunks_are_put_together_and_arrive_as_one_message(place: Place) -> None:
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<chunks@utf8.example>")
        for chunk in (b"Subject: x\r", b"\n\r\n.", b"\r\nb", b"", b"ody"):
            assert client.bdat(chunk, last=False).code == 250
        assert client.bdat(b"", last=True).code == 250
    assert place.hosts["utf8"].message(b"<chunks@").content.endswith(b"\r\nSubject: x\r\n\r\n.\r\nbody\r\n")


def test_the_octets_of_a_chunk_are_never_commands_whatever_is_wrong(place: Place) -> None:
    """RFC 3030 2: they are taken and dropped with the 503 or 554, or the connection ends; never read as commands."""
    chunk = b"RSET\r\nMAIL FROM:<evil@attacker.example>\r\n"
    with place.client() as client:
        assert client.bdat(chunk).code == 503  # no transaction
        assert client.code(b"NOOP") == 250
        client.say(b"MAIL FROM:<a@origin.example>")
        assert client.bdat(chunk).code in (503, 554)  # no recipient
        assert client.code(b"NOOP") == 250
        client.say(b"RSET")
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<nobody>")
        assert client.bdat(chunk).code in (503, 554)
        assert client.code(b"NOOP") == 250


def test_data_among_chunks_is_503_and_rset_drops_them(place: Place) -> None:
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<dropped@utf8.example>")
        assert client.bdat(b"Subject: first\r\n\r\n", last=False).code == 250
        assert client.code(b"DATA") == 503
        assert client.code(b"RSET") == 250
        assert client.bdat(b"more", last=True).code == 503
        assert client.transact(b"a@origin.example", b"after@utf8.example", b"Subject: second\r\n\r\nx").code == 250
    assert b"first" not in place.hosts["utf8"].message(b"<after@").content


def test_chunks_in_one_segment_with_the_commands_are_answered_in_order(place: Place) -> None:
    with place.client() as client:
        client.send(
            b"MAIL FROM:<a@origin.example>\r\nRCPT TO:<piped@utf8.example>\r\nBDAT 5\r\nSubje"
            b"BDAT 9\r\nct: x\r\n\r\nBDAT 4 LAST\r\nbodyNOOP\r\nQUIT\r\n"
        )
        assert [client.reply().code for _ in range(7)] == [250, 250, 250, 250, 250, 250, 221]


@pytest.mark.parametrize(
    "line",
    [
        b"BDAT",
        b"BDAT x",
        b"BDAT -1",
        b"BDAT 5 FIRST",
        b"BDAT 5 LAST LAST",
        b"BDAT 99999999999999999999999",
        b"BDAT LAST",
    ],
    ids=repr,
)
def test_a_malformed_bdat_is_501_or_ends_the_session(place: Place, line: bytes) -> None:
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<b@utf8.example>")
        reply = client.say(line)
        assert reply.code in (421, 500, 501, 552, 554), reply


@pytest.mark.parametrize("size", [b"10000000", b"99999999999"])
def test_a_chunk_that_is_too_large_is_told_without_waiting_for_all_of_it(place: Place, size: bytes) -> None:
    """552 at once, or the chunk is drained: what must not be is that its first octets are read as commands."""
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<b@utf8.example>")
        client.send(b"BDAT " + size + b" LAST\r\nNOOP\r\nNOOP\r\n")
        client.sock.shutdown(1)
        came = client.what_came_until_the_end()
        assert b"250" not in came, came


def test_lmtp_answers_for_each_recipient(place: Place) -> None:
    with place.client(LMTP) as client:
        assert client.code(b"MAIL FROM:<a@origin.example>") == 250
        assert client.code(b"RCPT TO:<l1@utf8.example>") == 250
        assert client.code(b"RCPT TO:<>") in (501, 553)
        assert client.code(b"RCPT TO:<l2@utf8.example>") == 250
        assert client.code(b"DATA") == 354
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert [client.reply().code for _ in range(2)] == [250, 250]
        assert client.code(b"NOOP") == 250
        client.say(b"MAIL FROM:<a@origin.example>")
        assert client.code(b"DATA") == 503  # RFC 2033 4.2: no recipient is 503
        assert client.code(b"RCPT TO:<l3@utf8.example>") == 250
        assert client.code(b"RCPT TO:<l4@utf8.example>") == 250
        client.send(b"BDAT 3\r\nSubBDAT 11 LAST\r\nject: x\r\n\r\n")
        assert [client.reply().code for _ in range(3)] == [250, 250, 250]
        assert client.code(b"QUIT") == 221
    content = place.hosts["utf8"].message(b"<l1@").content
    assert b"with LMTP" in content


def test_lmtp_refuses_content_for_each_recipient(place: Place) -> None:
    with place.client(LMTP) as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        client.say(b"RCPT TO:<r1@utf8.example>")
        client.say(b"RCPT TO:<r2@utf8.example>")
        client.say(b"DATA")
        client.send(b"Subject: x\r\n\r\nbare\nnewline\r\n.\r\n")
        assert [client.reply().code for _ in range(2)] == [550, 550]
        assert client.code(b"NOOP") == 250


def test_the_recipient_after_the_last_one_allowed_is_452_and_the_others_are_served(place: Place) -> None:
    with place.client() as client:
        client.send(
            b"MAIL FROM:<a@origin.example>\r\n" + b"".join(b"RCPT TO:<x%d@full.example>\r\n" % n for n in range(101))
        )
        codes = [client.reply().code for _ in range(102)]
        assert codes == [250] * 101 + [452]
        assert client.code(b"DATA") == 354
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert client.reply().code == 250


def test_the_limits_a_host_states_are_kept(place: Place) -> None:
    """RFC 9422: no more than RCPTMAX recipients in a transaction, no more than MAILMAX transactions in a session."""
    host = place.hosts["one-by-one"]
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example>")
        for number in range(5):
            assert client.code(b"RCPT TO:<o%d@one-by-one.example>" % number) == 250
        client.say(b"DATA")
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert client.reply().code == 250
    for number in range(5):
        assert place.daemon.fate(f"o{number}@one-by-one.example")["what"] == "relayed"
    assert {len(each.recipients) for each in host.messages} == {1}
    for session in host.sessions:
        assert sum(command.startswith(b"MAIL") for command in session.commands) <= 2


@pytest.mark.parametrize("parameter", [b" REQUIRETLS", b" requiretls"])
def test_requiretls_needs_tls_on_the_way_in(place: Place, parameter: bytes) -> None:
    with place.client() as client:
        assert client.code(b"MAIL FROM:<a@origin.example>" + parameter) in (530, 501, 555)
    with place.secured() as client:
        assert client.code(b"MAIL FROM:<a@origin.example> REQUIRETLS=1") == 501
        assert client.code(b"MAIL FROM:<a@origin.example>" + parameter) == 250


@pytest.mark.parametrize("host", ["requiretls", "plaintls", "utf8"])
def test_requiretls_is_kept_on_the_way_out_or_the_mail_comes_back(place: Place, host: str) -> None:
    """RFC 8689 4.2.1: verified TLS and a host that offers REQUIRETLS, or 5.7.30."""
    with place.secured() as client:
        reply = client.transact(
            b"a@origin.example", b"rt@%b.example" % host.encode(), b"Subject: x\r\n\r\nx", b" REQUIRETLS"
        )
        assert reply.code == 250
    fate = place.daemon.fate(f"rt@{host}.example")
    if host == "requiretls":
        assert fate["what"] == "relayed", fate
        message = place.hosts[host].message(b"<rt@")
        assert message.is_secured
        assert b" REQUIRETLS" in message.mail
    else:
        assert fate["what"] in ("bounced", "deferred"), fate
        if fate["what"] == "bounced":
            assert fate["status"] == "5.7.30", fate
        assert not [each for each in place.hosts[host].messages if b"<rt@" in b"".join(each.recipients)]


EIGHT = (
    b"From: a@origin.example\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
)


def test_8_bit_content_reaches_a_7_bit_host_encoded_and_says_the_same(place: Place) -> None:
    body = "Grüße aus Köln\r\n.dot\r\nFrom here\r\nend =20 \r\n".encode()
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example> BODY=8BITMIME")
        client.say(b"RCPT TO:<eight@seven.example>")
        client.say(b"DATA")
        client.send(EIGHT + body.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        assert client.reply().code == 250
    message = place.hosts["seven"].message(b"<eight@")
    assert message.content.isascii()
    assert b"BODY" not in message.mail
    head, _, encoded = message.content.partition(b"\r\n\r\n")
    coding = re.search(rb"(?i)content-transfer-encoding: *([\w-]+)", head)
    assert coding
    decoded = quopri.decodestring(encoded) if coding[1].lower() == b"quoted-printable" else base64.b64decode(encoded)
    assert decoded.replace(b"\r\n", b"\n") == body.replace(b"\r\n", b"\n")
    assert b"8bit" not in message.content.lower()


def test_8_bit_content_goes_to_an_8_bit_host_unchanged(place: Place) -> None:
    content = EIGHT + "Grüße\r\n".encode()
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example> BODY=8BITMIME")
        client.say(b"RCPT TO:<eight@utf8.example>")
        client.say(b"DATA")
        client.send(content + b".\r\n")
        assert client.reply().code == 250
    message = place.hosts["utf8"].message(b"<eight@")
    assert message.content.endswith(b"\r\n" + content)
    assert b"BODY=8BITMIME" in message.mail


@pytest.mark.parametrize("host", ["no-utf8", "seven"])
@pytest.mark.parametrize("where", ["recipient", "sender", "header"])
def test_internationalised_mail_to_a_host_without_smtputf8_bounces_with_5_6_7(
    place: Place, host: str, where: str
) -> None:
    local = "jürgen" if where == "recipient" else f"ascii-{where}"
    to = f"{local}@{host}.example"
    sender = "käthe@origin.example" if where == "sender" else "a@origin.example"
    subject = "Grüße" if where == "header" else "x"
    with place.client() as client:
        assert client.code(f"MAIL FROM:<{sender}> SMTPUTF8 BODY=8BITMIME".encode()) == 250
        assert client.code(f"RCPT TO:<{to}>".encode()) == 250
        client.say(b"DATA")
        client.send(f"Subject: {subject}\r\n\r\nx\r\n.\r\n".encode())
        assert client.reply().code == 250
    fate = place.daemon.fate(to)
    assert (fate["what"], fate.get("status")) == ("bounced", "5.6.7"), fate


def test_mail_that_is_all_ascii_goes_anywhere_though_smtputf8_was_said(place: Place) -> None:
    with place.client() as client:
        reply = client.transact(b"a@origin.example", b"plain@seven.example", b"Subject: x\r\n\r\nx", b" SMTPUTF8")
        assert reply.code == 250
    assert b"SMTPUTF8" not in place.hosts["seven"].message(b"<plain@").mail


def test_internationalised_mail_goes_through_unchanged_where_it_may(place: Place) -> None:
    with place.client() as client:
        client.say("MAIL FROM:<käthe@origin.example> SMTPUTF8".encode())
        client.say("RCPT TO:<jürgen@utf8.example>".encode())
        client.say(b"DATA")
        client.send("Subject: Grüße\r\n\r\nx\r\n.\r\n".encode())
        assert client.reply().code == 250
    message = place.hosts["utf8"].message("<jürgen@".encode())
    assert b" SMTPUTF8" in message.mail
    assert "käthe@origin.example".encode() in message.mail
    assert re.search(rb"with UTF8SMTPS?\b", message.content)


def test_a_utf_8_path_without_smtputf8_is_553_5_6_7(place: Place) -> None:
    with place.client() as client:
        reply = client.say("MAIL FROM:<käthe@origin.example>".encode())
        assert (reply.code, reply.lines[0][:5]) in ((553, b"5.6.7"), (550, b"5.6.7"), (501, b"5.6.7")), reply
        client.say(b"MAIL FROM:<a@origin.example>")
        reply = client.say("RCPT TO:<jürgen@utf8.example>".encode())
        assert (reply.code, reply.lines[0][:5]) in ((553, b"5.6.7"), (550, b"5.6.7")), reply


@pytest.mark.parametrize("host", ["seven", "utf8", "chunk-only", "full"])
def test_binary_content_reaches_every_host_readable_or_comes_back(place: Place, host: str) -> None:
    binary = bytes(range(256)) * 3 + b"\n.\n\r.\r\0"
    content = (
        b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        + binary
    )
    to = f"bin@{host}.example"
    with place.client() as client:
        assert client.code(b"MAIL FROM:<a@origin.example> BODY=BINARYMIME") == 250
        assert client.code(b"RCPT TO:<%b>" % to.encode()) == 250
        assert client.bdat(content).code == 250
    fate = place.daemon.fate(to)
    if host == "full":
        assert place.hosts[host].message(b"<bin@").content.endswith(content)
    elif fate["what"] == "relayed":
        head, _, encoded = place.hosts[host].message(b"<bin@").content.partition(b"\r\n\r\n")
        assert b"base64" in head
        assert base64.b64decode(encoded) == binary
        assert b"BINARYMIME" not in place.hosts[host].message(b"<bin@").mail
    else:
        assert (fate["what"], fate["status"]) == ("bounced", "5.6.3"), fate


def test_binarymime_cannot_be_sent_with_data(place: Place) -> None:
    """RFC 3030 3: DATA after BODY=BINARYMIME is 503."""
    with place.client() as client:
        client.say(b"MAIL FROM:<a@origin.example> BODY=BINARYMIME")
        client.say(b"RCPT TO:<b@full.example>")
        assert client.code(b"DATA") == 503


def test_a_message_too_large_for_the_host_comes_back_unsent(place: Place) -> None:
    with place.client() as client:
        assert client.transact(b"a@origin.example", b"big@small.example", b"Subject: x\r\n\r\n" + LINES).code == 250
    fate = place.daemon.fate("big@small.example")
    assert (fate["what"], fate["status"]) == ("bounced", "5.3.4"), fate
    assert not place.hosts["small"].messages


@pytest.mark.parametrize("body", [b"7BIT", b"8BITMIME", b"8bitmime", b"BINARYMIME"])
def test_each_body_type_is_known(place: Place, body: bytes) -> None:
    with place.client() as client:
        assert client.code(b"MAIL FROM:<a@origin.example> BODY=" + body) == 250


@pytest.mark.parametrize(
    "parameters",
    [
        b" BODY=",
        b" BODY",
        b" BODY=9BIT",
        b" BODY=7BIT BODY=7BIT",
        b" SMTPUTF8=1",
        b" SIZE=1 SIZE=1",
        b" AUTH",
        b" UNKNOWN=1",
        b" UNKNOWN",
        b" =1",
        b" SIZE =1",
        b" -X=1",
        b"SIZE=1",
        b" SIZE=1=2",
    ],
    ids=repr,
)
def test_a_wrong_parameter_of_mail_is_501_or_555(place: Place, parameters: bytes) -> None:
    with place.client() as client:
        reply = client.say(b"MAIL FROM:<a@origin.example>" + parameters)
        assert reply.code in (501, 555), reply
        assert reply.lines[0][:2] == b"5."
        assert client.code(b"MAIL FROM:<a@origin.example>") == 250
        reply = client.say(b"RCPT TO:<b@utf8.example>" + parameters)
        assert reply.code in (501, 555), reply


def test_helo_clients_have_no_extensions(place: Place) -> None:
    with Client(place.daemon.ports[RELAY]) as client:
        reply = client.say(b"HELO client.example.com")
        assert len(reply.lines) == 1
        assert client.code(b"MAIL FROM:<a@origin.example> SIZE=10") in (250, 501, 555)
        client.say(b"RSET")
        assert client.transact(b"a@origin.example", b"helo@utf8.example", b"Subject: x\r\n\r\nx").code == 250
    assert b"with SMTP " in place.hosts["utf8"].message(b"<helo@").content


def test_logged_in_over_587_received_says_esmtpsa(place: Place) -> None:
    with place.client(SUBMISSION) as client:
        client.start_tls(trusting(place.ca))
        client.hello()
        assert client.code(b"AUTH PLAIN " + plain(b"alice", PASSWORD)) == 235
        assert client.transact(b"a@origin.example", b"sub@utf8.example", b"Subject: x\r\n\r\nx").code == 250
    assert b"with ESMTPSA" in place.hosts["utf8"].message(b"<sub@").content


def test_after_all_this_nothing_unexpected_is_in_the_log(place: Place) -> None:
    assert "unexpected" not in place.daemon.text
    assert "Traceback" not in place.daemon.text
