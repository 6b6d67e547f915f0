# SPDX-License-Identifier: MIT
"""No control character of a peer's reaches a command, a header, a log line or a report, whoever said it and where."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from tests.acceptance.certificates import self_signed
from tests.acceptance.client import Client
from tests.acceptance.daemon import CONTROLS, Daemon
from tests.acceptance.sink import COMMON, Sink

EVIL = b"\x1b[31mred\x07\x00\x08\x7f \x9b31m \xc2\x9b \xe2\x80\xa8 caf\xe9 \r\r X-Injected: yes\r X\t|"
# The hosts: which verb is answered with what.
HOSTS: dict[str, dict[bytes, bytes]] = {
    "mail": {b"MAIL": b"550 5.1.8 " + EVIL + b"\r\n"},
    "rcpt": {b"RCPT": b"550 5.1.1 " + EVIL + b"\r\n"},
    "end": {b".": b"554 5.6.0 " + EVIL + b"\r\n"},
    "lines": {b"RCPT": b"550-5.1.1 one\r\n550-5.1.1 " + EVIL + b"\r\n550 5.1.1 X-Injected: three\r\n"},
    "bare-lf": {b"RCPT": b"550-5.1.1 one\nX-Injected: yes\n550 5.1.1 two\r\n"},
    "bare-cr": {b"RCPT": b"550 5.1.1 one\rX-Injected: yes\r\n"},
    "double-crlf": {b"RCPT": b"550 5.1.1 one\r\n\r\nX-Injected: yes\r\n"},
    "deferral": {b"RCPT": b"451 4.2.0 " + EVIL + b"\r\n"},
    "greeting": {b"CONNECT": b"554 5.7.1 " + EVIL + b"\r\n"},
    "banner": {b"CONNECT": b"220 " + EVIL + b"\r\n", b"RCPT": b"550 5.1.1 " + EVIL + b"\r\n"},
    "ehlo": {
        b"EHLO": b"250-" + EVIL + b"\r\n250-X" + EVIL + b"\r\n250 SIZE 1" + EVIL + b"\r\n",
        b"RCPT": b"550 no\r\n",
    },
    "status": {b"RCPT": b"550 5.1.1\x00\x1b 5.9.99\r\n"},
    "long": {b"RCPT": b"550 5.1.1 " + b"\x1b" * 60000 + b"\r\n"},
    "8-bit": {b"RCPT": b"550 5.1.1 " + bytes(range(128, 256)) + b"\r\n"},
    "taken": {b".": b"250 2.0.0 " + EVIL + b"\r\n"},
}


class Place(NamedTuple):
    daemon: Daemon
    hosts: dict[str, Sink]
    home: Sink

    def client(self, name: bytes = b"client.example.com") -> Client:
        client = Client(self.daemon.ports[0])
        client.hello(name)
        return client


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("controls")
    evil = self_signed(home, "evil", "evil\r\nX-Injected: name\x1b[31m\x00")
    own = self_signed(home, "own", "localhost")
    with ExitStack() as stack:
        hosts = {name: stack.enter_context(Sink(script=script)) for name, script in HOSTS.items()}
        for policy in ("required", "verified"):
            hosts[f"tls-{policy}"] = stack.enter_context(Sink((*COMMON, "STARTTLS"), tls=evil.as_server()))
        origin = stack.enter_context(Sink())
        routes = [
            f'[[route]]\ndomains = ["{name}.example"]\nnext_hop = {{ host = "127.0.0.1", port = {host.port}, '
            f'tls = "{name[4:] if name.startswith("tls-") else "opportunistic"}" }}'
            for name, host in hosts.items()
        ]
        config = f"""
[next_hop]
host = "127.0.0.1"
port = {origin.port}
[tls]
certificate_file = "{own.chain}"
key_file = "{own.key}"
client_certificates = true
client_ca_file = "{evil.chain}"
[[listener]]
listen = ["127.0.0.1:0"]
[limits]
errors = 10000
[retry]
first = "1h"
[hosts]
first_pause = "10m"
"""
        with Daemon(home, config + "\n".join(routes)) as daemon:
            yield Place(daemon, hosts, origin)


def check_header_section(content: bytes) -> None:
    """Every line is a field or its folding, printable, and none is injected."""
    for line in content.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        assert re.fullmatch(rb"(?:[!-9;-~]+:|[ \t])[\t\x20-\x7e]*", line), line
        assert not line.lower().startswith(b"x-injected")


def check_everything_told(place: Place) -> None:
    assert not CONTROLS.search(place.daemon.text), CONTROLS.findall(place.daemon.text)
    assert "unexpected" not in place.daemon.text
    for said in (place.daemon.ask("queue", "list"), place.daemon.ask("queue", "list", "--json")):
        assert not CONTROLS.search(said), CONTROLS.findall(said)
        assert "\nX-Injected" not in said


@pytest.mark.parametrize("name", [each for each in HOSTS if each not in ("deferral", "greeting", "taken")])
def test_a_hostile_reply_reaches_the_log_and_the_report_as_harmless_text(place: Place, name: str) -> None:
    sender = f"from-{name}@origin.example".encode()
    with place.client() as client:
        reply = client.transact(sender, b"u@%b.example" % name.encode(), b"Subject: x\r\n\r\nx")
        assert reply.code == 250

    fate = place.daemon.fate(f"u@{name}.example")
    assert not CONTROLS.search("".join(map(str, fate.values())))
    if fate["what"] == "bounced":
        report = place.home.message(b"<%b>" % sender)
        assert report.mail.startswith(b"MAIL FROM:<>")
        check_header_section(report.content)
        text = report.content.decode("latin-1")
        assert not re.search(r"[^\r\n\t\x20-\x7e]", text), re.findall(r"[^\r\n\t\x20-\x7e]+", text)
        assert not re.search(r"(?mi)^x-injected", text)
        assert re.search(r"(?m)^Status: 5\.\d{1,3}\.\d{1,3}\r$", text)
        assert max(map(len, text.split("\r\n"))) <= 998
    else:
        assert fate["what"] in ("deferred", "relayed"), fate
    check_everything_told(place)


@pytest.mark.parametrize("name", ["deferral", "greeting", "taken"])
def test_a_hostile_reply_that_lets_mail_wait_or_pass_is_harmless_in_log_and_queue(place: Place, name: str) -> None:
    with place.client() as client:
        assert client.transact(b"a@origin.example", b"u@%b.example" % name.encode(), b"Subject: x\r\n\r\nx").code == 250

    place.daemon.fate(f"u@{name}.example")

    check_everything_told(place)


@pytest.mark.parametrize("name", ["banner", "greeting", "ehlo", "tls-verified"])
def test_what_a_hostile_host_says_to_a_probe_is_shown_harmless(place: Place, name: str) -> None:
    """`plan --probe` shows the whole conversation, `hosts` what is known: an operator's terminal reads both."""
    for words in (["plan", f"u@{name}.example", "--probe"], ["plan", f"u@{name}.example", "--probe", "--json"]):
        said = place.daemon.ask(*words, codes=(0, 75))
        assert "probe" in said
        assert not CONTROLS.search(said), CONTROLS.findall(said)
        assert not re.search(r"(?m)^ *X-Injected", said)
    for words in (["hosts", "list"], ["hosts", "list", "--json"], ["hosts", "show", "127.0.0.1"]):
        assert not CONTROLS.search(place.daemon.ask(*words)), words


def test_what_is_shown_of_one_message_is_harmless(place: Place) -> None:
    with place.client() as client:
        assert (
            client.transact(b"a@origin.example", b"shown@deferral.example", b"Subject: \x1b[31m\r\n\r\nx").code == 250
        )
    place.daemon.fate("shown@deferral.example")
    for words in (["queue", "show", "--to", "shown@deferral.example"],):
        for more in ([], ["--json"]):
            said = place.daemon.ask(*words, *more)
            assert "451" in said
            assert not CONTROLS.search(said), CONTROLS.findall(said)


@pytest.mark.parametrize("policy", ["required", "verified"])
def test_a_certificate_with_control_characters_in_its_names_is_harmless(place: Place, policy: str) -> None:
    with place.client() as client:
        reply = client.transact(b"a@origin.example", b"u@tls-%b.example" % policy.encode(), b"Subject: x\r\n\r\nx")
        assert reply.code == 250

    fate = place.daemon.fate(f"u@tls-{policy}.example")

    assert fate["what"] == ("relayed" if policy == "required" else "deferred"), fate
    check_everything_told(place)


def test_a_client_certificate_with_control_characters_in_its_names_is_harmless(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import ssl

    files = place.daemon.file.parent
    context = ssl.create_default_context(cafile=str(files / "own.pem"))
    context.load_cert_chain(files / "evil.pem", files / "evil.key")
    with place.client() as client:
        client.start_tls(context)
        client.hello()
        assert client.transact(b"a@origin.example", b"certified@home.example", b"Subject: x\r\n\r\nx").code == 250

    message = place.home.message(b"certified@")
    check_header_section(message.content)
    assert b"with ESMTPS" in message.content
    check_everything_told(place)


@pytest.mark.parametrize(
    "name",
    [
        b"a\0b",
        b"a\x07b",
        b"a\x1b[31m",
        b"a\tb",
        b"a\rX-Injected:b",
        b"a\x7fb",
        b"caf\xe9.example",
        b"a b",
        b"a)b",
        b"(a",
        b"<a>",
        b"a\\",
        b'"a"',
        b"[127.0.0.1",
        b"x" * 300 + b".example",
        b"a\xe2\x80\xa8b",
        b"\xff\xfe",
        b"-",
        b"_",
        b"[]",
    ],
    ids=repr,
)
def test_an_odd_ehlo_name_is_refused_or_harmless_in_received(place: Place, name: bytes) -> None:
    to = b"ehlo-%b@home.example" % name.hex()[:40].encode()
    with Client(place.daemon.ports[0]) as client:
        reply = client.say(b"EHLO " + name)
        if reply.code != 250:
            assert reply.code in (500, 501), reply
            assert client.code(b"NOOP") == 250
        else:
            assert client.transact(b"a@origin.example", to, b"Subject: x\r\n\r\nx").code == 250
    if reply.code == 250:
        check_header_section(place.home.message(to).content)
    assert not CONTROLS.search(place.daemon.text)


CONTROL_ENVELOPES = (
    b"\0",
    b"\x07",
    b"\x1b[31m",
    b"\t",
    b"\r",
    b"\x7f",
    b"\xe9",
    b"\x9b",
    b"\xc2\x9b",
    b"\xe2\x80\xa8",
    b"\r X",
    b"> <",
    b"\x01",
)


@pytest.mark.parametrize("octets", CONTROL_ENVELOPES, ids=repr)
@pytest.mark.parametrize("quoted", [False, True], ids=["atom", "quoted"])
def test_a_control_character_in_a_path_is_refused_and_the_session_goes_on(
    place: Place, octets: bytes, quoted: bool
) -> None:
    local = b'"a%bb"' % octets if quoted else b"a%bb" % octets
    with place.client() as client:
        answer = client.say(b"MAIL FROM:<%b@origin.example>" % local)
        if quoted and octets == b"> <":
            assert answer.code == 250  # legal inside quotes
        else:
            assert answer.code in (500, 501, 550, 553), answer
        client.say(b"RSET")
        assert client.code(b"MAIL FROM:<a@origin.example>") == 250
        answer = client.say(b"RCPT TO:<%b@home.example>" % local)
        if not (quoted and octets == b"> <"):
            assert answer.code in (500, 501, 550, 553), answer
        assert not re.search(rb"[^\x20-\x7e]", b"".join(answer.lines))
        assert client.code(b"NOOP") == 250


@pytest.mark.parametrize(
    "octets", [b"\xc2\x9b", b"\xe2\x80\xa8", b"\xc2\x85", b"\xff", b"\xc0\x80", b"\xed\xa0\x80"], ids=repr
)
def test_under_smtputf8_a_path_is_utf_8_and_never_a_control_character(place: Place, octets: bytes) -> None:
    """RFC 6531 3.3 allows any UTF-8; C1 controls and line separators are not told raw in a log line."""
    to = b"u%b%b@home.example" % (octets, octets.hex().encode())
    with place.client() as client:
        assert client.code(b"MAIL FROM:<a@origin.example> SMTPUTF8") == 250
        answer = client.say(b"RCPT TO:<%b>" % to)
        if answer.code == 250:
            client.say(b"DATA")
            client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
            assert client.reply().code == 250
            place.home.message(octets.hex().encode())
        else:
            assert answer.code in (500, 501, 550, 553), answer
    if octets not in (b"\xc2\x9b", b"\xe2\x80\xa8", b"\xc2\x85"):
        assert answer.code != 250, "that is no UTF-8"
    check_everything_told(place)


@pytest.mark.parametrize(
    "parameters",
    [
        b" SIZE=1\rRCPT",
        b" SIZE=1\0",
        b" ENVID=a\rb",
        b" ENVID=a+0D+0Ab",
        b" ENVID=a+00b",
        b" AUTH=a+0D+0ARCPT",
        b" AUTH=\x07",
        b" BODY=8BITMIME\x1b",
        b" RET=HDRS\t",
        b" X\x00=1",
    ],
    ids=repr,
)
def test_a_control_character_in_a_parameter_never_leaves_us_decoded(place: Place, parameters: bytes) -> None:
    to = b"p%b@home.example" % parameters.hex().encode()[:50]
    with place.client() as client:
        answer = client.say(b"MAIL FROM:<a@origin.example>" + parameters)
        if answer.code != 250:
            assert answer.code in (500, 501, 555), answer
            assert client.code(b"NOOP") == 250
            return
        assert client.code(b"RCPT TO:<%b>" % to) == 250
        client.say(b"DATA")
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert client.reply().code == 250
    message = place.home.message(to)
    assert not re.search(rb"[^\x20-\x7e]", message.mail.removesuffix(b"\r\n"))


@pytest.mark.parametrize(
    "value", [b"rfc822;a+0D+0AX-Injected:+20yes@h.example", b"rfc822;a+1B[31m@h.example", b"rfc822;a+00"]
)
def test_an_original_recipient_with_controls_is_refused_or_harmless_in_the_report(place: Place, value: bytes) -> None:
    number = b"%d" % len(value)
    with place.client() as client:
        assert client.code(b"MAIL FROM:<orcpt%b@origin.example> ENVID=e+0D+0AX-Injected:+20y" % number) in (250, 501)
        client.say(b"RSET")
        client.say(b"MAIL FROM:<orcpt%b@origin.example>" % number)
        answer = client.say(b"RCPT TO:<u%b@rcpt.example> ORCPT=%b" % (number, value))
        if answer.code != 250:
            assert answer.code == 501, answer
            return
        client.say(b"DATA")
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert client.reply().code == 250
    text = place.home.message(b"<orcpt%b@" % number).content.decode("latin-1")
    assert not re.search(r"[^\r\n\t\x20-\x7e]", text)
    assert not re.search(r"(?mi)^x-injected", text)


@pytest.mark.parametrize(
    "line",
    [
        b"NO\0OP",
        b"\0NOOP",
        b"NOOP\0",
        b"\x07",
        b"\x1b[31m",
        b"NOOP \x1b[31m",
        b"\xff\xff",
        b"caf\xe9",
        b"\tNOOP",
        b" NOOP",
        b"NOOP\rQUIT",
        b"VRFY \x00",
        b"HELP \x1b",
        b"RSET \x07",
        b"QUIT\0",
        b"DATA\x00",
        b"STARTTLS\0",
    ],
    ids=repr,
)
def test_a_command_line_with_junk_gets_one_harmless_reply_and_the_session_goes_on(place: Place, line: bytes) -> None:
    with place.client() as client:
        answer = client.say(line)
        assert answer.code in (250, 252, 214, 500, 501, 502), answer
        assert not re.search(rb"[^\x20-\x7e\n]", answer.text), answer
        assert client.code(b"NOOP") == 250
        assert client.code(b"RSET") == 250


def test_two_commands_with_a_bare_newline_between_are_never_more_than_what_they_say(place: Place) -> None:
    """`a LF b`: either one bad command, or two commands; not one command that has a newline in it."""
    with place.client() as client:
        client.send(b"NOOP x\nNOOP y\r\nQUIT\r\n")
        codes = [line[:3] for line in client.what_came_until_the_end().split(b"\r\n") if line]
        assert codes in ([b"500", b"221"], [b"501", b"221"], [b"250", b"250", b"221"], [b"500", b"500", b"221"])
        assert not CONTROLS.search(place.daemon.text)


def test_after_all_this_nothing_told_has_a_control_character(place: Place) -> None:
    check_everything_told(place)
    for sink in (place.home, *place.hosts.values()):
        for command in sink.commands:
            assert re.fullmatch(rb"[\x20-\x7e\x80-\xff]+\r\n", command), command
            assert not re.search(rb"(?i)injected", command) or command.startswith(b"BDAT"), command
