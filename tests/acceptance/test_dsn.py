# SPDX-License-Identifier: MIT
"""Delivery status notifications asked for by RFC 3461: syntax, what is reported to whom, what is passed on."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from tests.acceptance.client import Client, Reply
from tests.acceptance.daemon import Daemon
from tests.acceptance.sink import CHUNKING, COMMON, Sink

LMTP = ', protocol = "lmtp"'
BODY = b"From: a@origin.example\r\nSubject: the subject\r\n\r\nthe body\r\n"


class Place(NamedTuple):
    daemon: Daemon
    plain: Sink
    dsn: Sink
    refusing: Sink
    origin: Sink
    old: Sink
    chunking: Sink
    store: Sink


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        sinks = [
            stack.enter_context(sink)
            for sink in (
                Sink(),
                Sink((*COMMON, "DSN")),
                Sink(script={b"RCPT": b"550 5.1.1 no such user\r\n"}),
                Sink((*COMMON, "DSN")),
                Sink(("PIPELINING",)),
                Sink(CHUNKING),
                Sink(script={b".": b"250 2.0.0 taken\r\n552 5.2.2 mailbox full\r\n"}),
            )
        ]
        routes = [
            f'[[route]]\ndomains = ["{name}.example"]\nnext_hop = {{ host = "127.0.0.1", port = {sink.port}'
            f"{LMTP if name == 'store' else ''} }}\n"
            for name, sink in zip(Place._fields[1:], sinks, strict=True)
        ]
        config = 'listen = ["127.0.0.1:0"]\n[limits]\nerrors = 1000\n' + "".join(routes)
        with Daemon(tmp_path_factory.mktemp("dsn"), config) as daemon:
            yield Place(daemon, *sinks)


def hand_in(place: Place, sender: bytes, mail: bytes, *recipients: tuple[bytes, bytes]) -> Reply:
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        assert (reply := client.say(b"MAIL FROM:<%b>%b" % (sender, mail))).code == 250, reply
        for recipient, parameters in recipients:
            reply = client.say(b"RCPT TO:<%b>%b" % (recipient, parameters))
            assert reply.code == 250, reply
        assert client.code(b"DATA") == 354
        client.send(BODY + b".\r\n")
        return client.reply()


def report_to(place: Place, sender: bytes) -> str:
    message = place.origin.message(b"<%b>" % sender)
    assert message.mail.startswith(b"MAIL FROM:<>"), message.mail
    content = message.content.decode("ascii")
    assert re.search(r"(?i)content-type: multipart/report;[^:]*report-type=\"?delivery-status", content)
    return content


def test_dsn_is_offered(place: Place) -> None:
    with Client(place.daemon.ports[0]) as client:
        assert b"DSN" in client.hello()


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        (b" RET=FULL", 250),
        (b" RET=hdrs", 250),
        (b" ret=HDRS ENVID=QQ314159", 250),
        (b" ENVID=a+20b+3Dc", 250),
        (b" ENVID=" + b"x" * 100, 250),
        (b" ENVID=" + b"x" * 101, 501),
        (b" ENVID=", 501),
        (b" ENVID", 501),
        (b" ENVID=a=b", 501),
        (b" ENVID=a+2", 501),
        (b" ENVID=a+2d", 501),  # hexadecimal digits are upper case
        (b" ENVID=a+ZZ", 501),
        (b" RET=", 501),
        (b" RET", 501),
        (b" RET=ALL", 501),
        (b" RET=FULL,HDRS", 501),
        (b" RET=FULL RET=FULL", 501),
        (b" ENVID=a ENVID=b", 501),
        (b" NOTIFY=NEVER", 555),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_parameters_of_mail(place: Place, parameters: bytes, code: int) -> None:
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        reply = client.say(b"MAIL FROM:<a@origin.example>" + parameters)
        assert reply.code == code or (code == 555 and reply.code == 501), reply
        assert client.code(b"NOOP") == 250


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        (b" NOTIFY=NEVER", 250),
        (b" NOTIFY=SUCCESS", 250),
        (b" notify=success,FAILURE,Delay", 250),
        (b" NOTIFY=NEVER,SUCCESS", 501),
        (b" NOTIFY=SUCCESS,NEVER", 501),
        (b" NOTIFY=", 501),
        (b" NOTIFY", 501),
        (b" NOTIFY=SOMETIMES", 501),
        (b" NOTIFY=SUCCESS,", 501),
        (b" NOTIFY=,SUCCESS", 501),
        (b" NOTIFY=SUCCESS FAILURE", 555),
        (b" NOTIFY=NEVER NOTIFY=NEVER", 501),
        (b" ORCPT=rfc822;b@there.example", 250),
        (b" ORCPT=rfc822;a+2Bb@there.example", 250),
        (b" ORCPT=x400;anything", 250),
        (b" ORCPT=b@there.example", 501),
        (b" ORCPT=;b", 501),
        (b" ORCPT=rfc822;a+b", 501),
        (b" ORCPT=", 501),
        (b" ORCPT=rfc822;" + b"x" * 493, 250),
        (b" ORCPT=rfc822;" + b"x" * 494, 501),
        (b" ORCPT=rfc822;a ORCPT=rfc822;a", 501),
        (b" RET=FULL", 555),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_parameters_of_rcpt(place: Place, parameters: bytes, code: int) -> None:
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        assert client.code(b"MAIL FROM:<a@origin.example>") == 250
        reply = client.say(b"RCPT TO:<b@plain.example>" + parameters)
        assert reply.code == code or (code == 555 and reply.code == 501), reply
        assert client.code(b"NOOP") == 250


def test_success_towards_a_host_without_dsn_is_reported_as_relayed(place: Place) -> None:
    hand_in(
        place,
        b"s1@origin.example",
        b" RET=HDRS ENVID=QQ+2B1",
        (b"b@plain.example", b" NOTIFY=SUCCESS ORCPT=rfc822;orig+2Bb@there.example"),
    )

    text = report_to(place, b"s1@origin.example")

    assert re.search(r"(?m)^Action: relayed\r$", text)
    assert re.search(r"(?m)^Status: 2\.\d+\.\d+\r$", text)
    assert re.search(r"(?m)^Original-Envelope-Id: QQ\+1\r$", text)
    assert re.search(r"(?mi)^Original-Recipient: rfc822; ?orig\+b@there\.example\r$", text)
    assert re.search(r"(?mi)^Final-Recipient: rfc822; ?b@plain\.example\r$", text)
    assert re.search(r"(?m)^Reporting-MTA: dns; ?relay\.example\.org\r$", text)
    assert "Subject: the subject" in text
    assert "the body" not in text
    passed = place.plain.message(b"<b@plain.example>")
    assert b"ENVID" not in passed.mail
    assert b"NOTIFY" not in passed.recipients[0]


def test_a_request_is_passed_on_unchanged_to_a_host_with_dsn_and_not_reported_by_us(place: Place) -> None:
    hand_in(
        place,
        b"s2@origin.example",
        b" RET=FULL ENVID=QQ+2B2",
        (b"c@dsn.example", b" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+3Dy@there.example"),
        (b"d@dsn.example", b" NOTIFY=NEVER"),
        (b"e@dsn.example", b""),
    )

    message = place.dsn.message(b"<c@dsn.example>")

    assert b" RET=FULL" in message.mail
    assert b" ENVID=QQ+2B2" in message.mail
    first, second, third = (
        next(path for path in message.recipients if b"<%b@" % name in path) for name in (b"c", b"d", b"e")
    )
    assert b" ORCPT=rfc822;x+3Dy@there.example" in first
    assert re.search(rb" NOTIFY=(SUCCESS,DELAY|DELAY,SUCCESS)\b", first)
    assert b" NOTIFY=NEVER" in second
    assert b"NOTIFY" not in third
    place.daemon.fate("e@dsn.example")
    assert not [each for each in place.origin.messages if b"s2@" in b"".join(each.recipients)]


@pytest.mark.parametrize(("ret", "has_body"), [(b" RET=FULL", True), (b" RET=HDRS", False), (b"", None)], ids=repr)
def test_a_failure_returns_what_ret_asks_for(place: Place, ret: bytes, has_body: bool | None) -> None:
    sender = b"f-%b@origin.example" % (ret[-4:].lower() or b"none")
    hand_in(place, sender, ret + b" ENVID=e1", (b"u@refusing.example", b" NOTIFY=FAILURE ORCPT=rfc822;o@x.example"))

    text = report_to(place, sender)

    assert re.search(r"(?m)^Action: failed\r$", text)
    assert re.search(r"(?m)^Status: 5\.1\.1\r$", text)
    assert re.search(r"(?m)^Original-Envelope-Id: e1\r$", text)
    assert re.search(r"(?mi)^Original-Recipient: rfc822; ?o@x\.example\r$", text)
    assert re.search(r"(?mi)^Diagnostic-Code: smtp; ?550 5\.1\.1 no such user\r$", text)
    assert "Subject: the subject" in text
    if has_body is not None:
        assert ("the body" in text) is has_body
        assert ("message/rfc822" in text.replace("text/rfc822-headers", "")) is has_body


@pytest.mark.parametrize("notify", [b"NEVER", b"SUCCESS", b"DELAY"])
def test_a_failure_that_nobody_asked_for_is_not_reported(place: Place, notify: bytes) -> None:
    """One with FAILURE after it comes back: by then this one would have too."""
    silent = b"q-%b@origin.example" % notify.lower()
    asked = b"l-%b@origin.example" % notify.lower()
    hand_in(place, silent, b"", (b"q-%b@refusing.example" % notify.lower(), b" NOTIFY=" + notify))
    place.daemon.line("bounced", recipient=f"q-{notify.decode().lower()}@refusing.example")
    hand_in(place, asked, b"", (b"l-%b@refusing.example" % notify.lower(), b""))

    report_to(place, asked)

    assert not [each for each in place.origin.messages if silent in b"".join(each.recipients)]
    assert not [m for m in place.daemon.queued() if silent.decode() in str(m)]


def test_one_report_tells_of_all_recipients_who_asked(place: Place) -> None:
    hand_in(
        place,
        b"m1@origin.example",
        b"",
        (b"m1a@refusing.example", b" NOTIFY=FAILURE"),
        (b"m1b@refusing.example", b" NOTIFY=NEVER"),
        (b"m1c@refusing.example", b""),
    )

    text = report_to(place, b"m1@origin.example")

    assert set(re.findall(r"(?mi)^Final-Recipient: rfc822; ?(\S+)\r$", text)) == {
        "m1a@refusing.example",
        "m1c@refusing.example",
    }
    assert "m1b" not in text
    assert len([m for m in place.origin.messages if b"m1@" in b"".join(m.recipients)]) == 1


def test_success_of_one_that_also_fails_in_another_is_told_apart(place: Place) -> None:
    hand_in(
        place,
        b"m2@origin.example",
        b"",
        (b"m2a@plain.example", b" NOTIFY=SUCCESS,FAILURE"),
        (b"m2b@refusing.example", b" NOTIFY=SUCCESS,FAILURE"),
    )

    def told() -> bytes:
        mine = [each for each in place.origin.messages if b"<m2@" in b"".join(each.recipients)]
        return b"".join(each.content for each in mine)

    place.origin.wait(lambda: b"m2b@" in told() and b"relayed" in told(), "both reports")

    assert re.search(rb"(?mi)^Final-Recipient: rfc822; ?m2a@plain.example\r\n(?:\S.*\r\n)*?Action: relayed\r$", told())
    assert re.search(
        rb"(?mi)^Final-Recipient: rfc822; ?m2b@refusing.example\r\n(?:\S.*\r\n)*?Action: failed\r$", told()
    )


def test_a_null_sender_is_never_reported_to(place: Place) -> None:
    hand_in(place, b"", b" RET=FULL", (b"n1@refusing.example", b" NOTIFY=SUCCESS,FAILURE"))

    place.daemon.line("bounced", recipient="n1@refusing.example")

    assert not [each for each in place.origin.messages if b"<>" in b"".join(each.recipients)]
    assert not [command for command in place.origin.commands if command.startswith(b"RCPT TO:<>")]


def test_our_own_reports_ask_for_no_report(place: Place) -> None:
    """RFC 3461 6.3: a report has the null reverse-path, asks for none itself, and has no ENVID of the original."""
    hand_in(place, b"z1@origin.example", b" ENVID=zz RET=FULL", (b"z1@refusing.example", b" NOTIFY=FAILURE"))

    message = place.origin.message(b"<z1@origin.example>")

    assert b"ENVID=zz" not in message.mail
    assert b"SUCCESS" not in message.recipients[0]


@pytest.mark.parametrize("extensions", ["old", "chunking"])
def test_a_report_that_returns_binary_or_8_bit_content_is_clean_on_every_wire(place: Place, extensions: str) -> None:
    """RET=FULL of BODY=BINARYMIME with ends of data in it: the report must not carry what nobody may send with DATA."""
    ends = b"x\n.\ny\r.\rz\r\n.\r\nMAIL FROM:<evil@attacker.example>\r\n\0\x80\xff\r\n"
    content = (
        b"From: a@b.example\r\nSubject: caf\xc3\xa9\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        + ends
    )
    sender = b"bin@%b.example" % extensions.encode()
    sink = place.old if extensions == "old" else place.chunking
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        assert client.code(b"MAIL FROM:<%b> BODY=BINARYMIME RET=FULL" % sender) == 250
        assert client.code(b"RCPT TO:<bin@refusing.example>") == 250
        assert client.bdat(content).code == 250

    report = sink.message(b"<%b>" % sender)

    if not report.is_chunked:
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", report.wire)
        assert not re.search(rb"(\A|\r\n)\.\r\n", report.wire)
    if extensions == "old":
        assert report.content.isascii(), [line for line in report.content.split(b"\r\n") if not line.isascii()]
        assert not report.is_chunked
    assert not [command for command in sink.commands if b"attacker" in command]


@pytest.mark.parametrize("ret", [b"HDRS", b"FULL"])
def test_a_report_of_8_bit_content_is_7_bit_where_the_host_is(place: Place, ret: bytes) -> None:
    sender = b"eight-%b@old.example" % ret.lower()
    with Client(place.daemon.ports[0]) as client:
        client.hello()
        assert client.code(b"MAIL FROM:<%b> BODY=8BITMIME RET=%b" % (sender, ret)) == 250
        assert client.code(b"RCPT TO:<eight@refusing.example>") == 250
        client.say(b"DATA")
        client.send("Subject: Grüße\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n".encode())
        client.send("Content-Transfer-Encoding: 8bit\r\n\r\nKöln\r\n.\r\n".encode())
        assert client.reply().code == 250

    assert place.daemon.fate(sender.decode())["what"] == "relayed"
    report = place.old.message(b"<%b>" % sender)
    assert report.content.isascii(), [line for line in report.content.split(b"\r\n") if not line.isascii()]
    assert b"multipart/report" in report.content


def test_a_host_that_speaks_lmtp_answers_for_each_recipient_and_each_has_his_fate(place: Place) -> None:
    hand_in(
        place,
        b"lm@origin.example",
        b"",
        (b"one@store.example", b" NOTIFY=SUCCESS,FAILURE"),
        (b"two@store.example", b""),
    )

    assert place.daemon.fate("one@store.example")["what"] == "relayed"
    fate = place.daemon.fate("two@store.example")

    assert (fate["what"], fate["status"]) == ("bounced", "5.2.2"), fate
    assert any(command.startswith(b"LHLO relay.example.org") for command in place.store.commands)
