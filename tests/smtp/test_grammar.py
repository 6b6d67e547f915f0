# SPDX-License-Identifier: MIT
"""Paths, parameters and names in commands: what is taken, what is refused, and with which reply."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smarthost.mail.address import Address, Domain
from smarthost.mail.envelope import Body
from smarthost.mail.reply import Reply
from smarthost.smtp.grammar import find_forbidden, parse_hello, parse_mail, parse_rcpt, refuse_argument
from smarthost.smtp.wire import MailReceived, RcptReceived

MAX = 10_000


def mail(path: str, parameters: str = "") -> MailReceived | Reply:
    return parse_mail(f"FROM:{path}{parameters}".encode(), MAX)


def rcpt(path: str, *, smtputf8: bool = False) -> RcptReceived | Reply:
    return parse_rcpt(f"TO:{path}".encode(), smtputf8)


def said(outcome: object) -> str:
    """Give code and enhanced code of a refusal, "" for anything else."""
    return f"{outcome.code} {outcome.enhanced}" if isinstance(outcome, Reply) else ""


SOUND_PATHS = [
    ("a@b", "b"),
    ("alice@example.org", "example.org"),
    ("alice@EXAMPLE.Org", "example.org"),
    ("o'neil+tag=x/y@example.org", "example.org"),
    ("!#$%&'*+-/=?^_`{|}~@example.org", "example.org"),
    ("u%third.example@example.org", "example.org"),
    ("third.example!u@example.org", "example.org"),
    ("-@example.org", "example.org"),
    ("1@2.3", "2.3"),
    ('"a b"@example.org', "example.org"),
    ('"a@b"@example.org', "example.org"),
    ('"a>b<c"@example.org', "example.org"),
    (r'"a\"b\\c"@example.org', "example.org"),
    (r'"\ \@"@example.org', "example.org"),
    ('" "@example.org', "example.org"),
    ('"u@third.example"@[192.0.2.1]', "[192.0.2.1]"),
    ("u@[192.0.2.1]", "[192.0.2.1]"),
    ("u@[255.255.255.255]", "[255.255.255.255]"),
    ("u@[IPv6:2001:DB8::1]", "[ipv6:2001:db8::1]"),
    ("u@[ipv6:::ffff:192.0.2.1]", "[ipv6:::ffff:192.0.2.1]"),
    ("u@[x-tag:anything!goes]", "[x-tag:anything!goes]"),
    ("root@web_1.lan", "web_1.lan"),
    ("u@a--b.example", "a--b.example"),
    ("u@xn--bcher-kva.example", "xn--bcher-kva.example"),
    (f"{'x' * 64}@example.org", "example.org"),
    (f"u@{'y' * 63}.example", f"{'y' * 63}.example"),
    (f"{'x' * 64}@{'.'.join(['y' * 62] * 3)}", ".".join(["y" * 62] * 3)),  # 64 + 1 + 188 + 2 = 255
    (f"{'x' * 64}@{'.'.join(['y' * 62] * 3)}z", ".".join(["y" * 62] * 3) + "z"),  # 256 with the brackets
]


@pytest.mark.parametrize(("path", "domain"), SOUND_PATHS)
def test_sound_path_is_kept_as_written_and_its_domain_derived(path: str, domain: str) -> None:
    """An address is never rewritten; only its domain is read, in lower case."""
    expected = Address(path, Domain(domain))

    assert mail(f"<{path}>") == MailReceived(expected, None, Body.SEVEN_BIT, False)
    assert rcpt(f"<{path}>") == RcptReceived(expected)


UNSOUND_PATHS = [
    # what, and the class of refusal: "syntax" is about the command, "address" about the address, "route" a source route
    ("", "syntax"),
    ("a@b", "syntax"),
    ("<a@b", "syntax"),
    ("a@b>", "syntax"),
    ("\u00ab" + "a@b>", "syntax"),
    ("  <a@b>", "syntax"),
    ("<<a@b>>", "address"),
    ("<a@b>>", "parameter"),
    ("<a@b>x", "parameter"),
    ("<a@b> <c@d>", "parameter"),
    ("<alice>", "address"),
    ("<@b>", "route"),
    ("<@a:u@b>", "route"),
    ("<@a,@b:u@d>", "route"),
    ("<@[192.0.2.1]:u@d>", "route"),
    ("<a@>", "address"),
    ("< a@b>", "address"),
    ("<a@b >", "address"),
    ("<a b@c>", "address"),
    ("<a@b@c>", "address"),
    ("<.a@b>", "address"),
    ("<a.@b>", "address"),
    ("<a..b@c>", "address"),
    ('<""@b>', "address"),
    ('<"a@b>', "address"),
    ('<a"@b>', "address"),
    ('<"a"b@c>', "address"),
    ('<"a".b@c>', "address"),
    ('<"a"b"@c>', "address"),
    ('<"a\\"@b>', "address"),
    ("<a\\@b@c>", "address"),
    ("<a(comment)@b>", "address"),
    ("<a,b@c>", "address"),
    ("<a@b,c@d>", "address"),
    ("<a;b@c>", "address"),
    ("<a@b.>", "address"),
    ("<a@.b>", "address"),
    ("<a@b..c>", "address"),
    ("<a@-b>", "address"),
    ("<a@b->", "address"),
    ("<a@b-.c>", "address"),
    ("<a@b.-c>", "address"),
    ("<a@b/c>", "address"),
    ("<a@b:25>", "address"),
    ("<a@192.0.2.1]>", "address"),
    ("<a@[192.0.2.1>", "address"),
    ("<a@[]>", "address"),
    ("<a@[192.0.2.256]>", "address"),
    ("<a@[192.0.2]>", "address"),
    ("<a@[192.0.2.01]>", "address"),
    ("<a@[192.0.2.1/8]>", "address"),
    ("<a@[2001:db8::1]x>", "address"),
    ("<a@[IPv6:192.0.2.1]>", "address"),
    ("<a@[IPv6:]>", "address"),
    ("<a@[IPv6:fe80::1%eth0]>", "address"),
    ("<a@[IPv6:1::2::3]>", "address"),
    ("<a@[:x]>", "address"),
    ("<a@[tag-:x]>", "address"),
    ("<a@[tag:]>", "address"),
    ("<a@[tag:a b]>", "address"),
    ("<a@[host.example]>", "address"),
    (f"<{'x' * 65}@b>", "address"),
    (f'<"{"x" * 63}"@b>', "address"),
    (f"<a@{'y' * 64}.example>", "address"),
    (f"<a@{'.'.join(['y' * 63] * 4)}>", "address"),
    (f"<{'x' * 64}@{'y' * 62}.{'y' * 62}.{'y' * 61}.yy>", "address"),  # 257 with the brackets
]


@pytest.mark.parametrize(("path", "kind"), UNSOUND_PATHS)
def test_unsound_path_is_refused_with_a_code_that_says_whose_fault(path: str, kind: str) -> None:
    """A client learns whether its command, its sender or its recipient is wrong (RFC 3463 X.5.4, X.1.7, X.1.3)."""
    expected = {
        "syntax": ("501 5.5.4", "501 5.5.4"),
        "parameter": ("501 5.5.4", "501 5.5.4"),
        "address": ("501 5.1.7", "501 5.1.3"),
        "route": ("553 5.1.7", "553 5.1.3"),
    }[kind]

    assert (said(mail(path)), said(rcpt(path))) == expected


def test_null_path_is_a_sender_and_never_a_recipient() -> None:
    """Reports come from <>; nothing goes to it."""
    assert mail("<>") == MailReceived(None, None, Body.SEVEN_BIT, False)
    assert mail("<>", " SIZE=5") == MailReceived(None, 5, Body.SEVEN_BIT, False)
    assert said(rcpt("<>")) == "501 5.1.3"


@pytest.mark.parametrize("name", ["postmaster", "Postmaster", "POSTMASTER"])
def test_postmaster_without_domain_is_a_recipient_and_never_a_sender(name: str) -> None:
    """RFC 5321 4.5.1: the one address without a domain, in any case of letters."""
    assert rcpt(f"<{name}>") == RcptReceived(Address(name, Domain("")))
    assert said(mail(f"<{name}>")) == "501 5.1.7"
    assert said(rcpt(f"<{name}s>")) == "501 5.1.3"


@pytest.mark.parametrize(
    ("reverse", "forward"), [(b"FROM:", b"TO:"), (b"from:", b"to:"), (b"From:", b"To:"), (b"FROM: ", b"TO: ")]
)
def test_keyword_is_read_in_any_case_with_or_without_one_space(reverse: bytes, forward: bytes) -> None:
    """Many devices write MAIL FROM: <a@b>."""
    assert isinstance(parse_mail(reverse + b"<a@b>", MAX), MailReceived)
    assert isinstance(parse_rcpt(forward + b"<a@b>", False), RcptReceived)


@pytest.mark.parametrize(
    "argument", [b"", b"FROM", b"FROM :<a@b>", b"FROM<a@b>", b"TO:<a@b>", b"<a@b>", b" FROM:<a@b>"]
)
def test_missing_keyword_is_a_syntax_error(argument: bytes) -> None:
    """MAIL is followed by FROM: and nothing else."""
    assert said(parse_mail(argument, MAX)) == "501 5.5.4"


@pytest.mark.parametrize("end", [b" ", b"\t", b"  \t "])
def test_trailing_white_space_is_tolerated(end: bytes) -> None:
    """RFC 5321 4.1.1: servers should tolerate it."""
    assert parse_mail(b"FROM:<a@b>" + end, MAX) == parse_mail(b"FROM:<a@b>", MAX)
    assert parse_mail(b"FROM:<a@b> SIZE=1" + end, MAX) == parse_mail(b"FROM:<a@b> SIZE=1", MAX)
    assert parse_rcpt(b"TO:<a@b>" + end, False) == parse_rcpt(b"TO:<a@b>", False)


SOUND_PARAMETERS = [
    (" SIZE=0", 0, Body.SEVEN_BIT, False),
    (" size=10000", 10_000, Body.SEVEN_BIT, False),
    (" SIZE=00000000000000000001", 1, Body.SEVEN_BIT, False),
    (" BODY=7BIT", None, Body.SEVEN_BIT, False),
    (" body=8bitmime", None, Body.EIGHT_BIT_MIME, False),
    (" SMTPUTF8", None, Body.SEVEN_BIT, True),
    (" BODY=BINARYMIME", None, Body.BINARY_MIME, False),
    (" smtputf8 SIZE=7 BODY=8BITMIME", 7, Body.EIGHT_BIT_MIME, True),
]


@pytest.mark.parametrize(("text", "size", "body", "smtputf8"), SOUND_PARAMETERS)
def test_offered_parameters_are_read(text: str, size: int | None, body: Body, smtputf8: bool) -> None:
    """SIZE, BODY and SMTPUTF8 in any order and case."""
    assert mail("<a@b>", text) == MailReceived(Address("a@b", Domain("b")), size, body, smtputf8)


UNSOUND_PARAMETERS = [
    (" SIZE", "501 5.5.4"),
    (" SIZE=", "501 5.5.4"),
    (" SIZE=x", "501 5.5.4"),
    (" SIZE=-1", "501 5.5.4"),
    (" SIZE=+1", "501 5.5.4"),
    (" SIZE=1_0", "501 5.5.4"),
    (" SIZE=\u0663", "501 5.5.4"),  # ARABIC-INDIC DIGIT THREE, which int() takes
    (" SIZE=000000000000000000001", "501 5.5.4"),  # 21 digits
    (" SIZE=1 SIZE=1", "501 5.5.4"),
    (" BODY", "501 5.5.4"),
    (" BODY=9BIT", "501 5.5.4"),
    (" BODY=7BIT body=7BIT", "501 5.5.4"),
    (" SMTPUTF8=1", "501 5.5.4"),
    (" SMTPUTF8 SMTPUTF8", "501 5.5.4"),
    ("  SIZE=1", "501 5.5.4"),
    (" SIZE=1  BODY=7BIT", "501 5.5.4"),
    (" =1", "501 5.5.4"),
    (" -X=1", "501 5.5.4"),
    (" X=a=b", "501 5.5.4"),
    (" X_Y=1", "501 5.5.4"),
    ("SIZE=1", "501 5.5.4"),
    (" REQUIRETLS", "555 5.5.4"),
    (" AUTH=<>", "555 5.5.4"),
    (" X", "555 5.5.4"),
    (" SIZE=10001", "552 5.3.4"),
    (" SIZE=99999999999999999999", "552 5.3.4"),
    (" SIZE=10001 BODY=8BITMIME", "552 5.3.4"),
]


@pytest.mark.parametrize(("text", "expected"), UNSOUND_PARAMETERS)
def test_parameters_not_offered_malformed_or_too_large_are_refused(text: str, expected: str) -> None:
    """555 is for what we do not know, 501 for what nobody could, 552 for more than we take."""
    assert said(mail("<a@b>", text)) == expected
    assert said(mail("<>", text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [(" SIZE=1", "555 5.5.4"), (" RET=FULL", "555 5.5.4"), (" =", "501 5.5.4")]
)
def test_rcpt_takes_no_parameter_of_mail(text: str, expected: str) -> None:
    """A parameter in the wrong place is refused and not ignored."""
    assert said(rcpt(f"<a@b>{text}")) == expected
    assert said(rcpt(f"<postmaster>{text}")) == expected


def test_utf8_address_needs_smtputf8() -> None:
    """RFC 6531: 5.6.7 without the parameter, the address as written with it."""
    address = Address("jürgen@bücher.example", Domain("xn--bcher-kva.example"))

    assert said(mail("<jürgen@bücher.example>")) == "553 5.6.7"
    assert said(rcpt("<jürgen@bücher.example>")) == "553 5.6.7"
    assert said(rcpt("<u@bücher.example>")) == "553 5.6.7"
    assert mail("<jürgen@bücher.example>", " SMTPUTF8") == MailReceived(address, None, Body.SEVEN_BIT, True)
    assert rcpt("<jürgen@bücher.example>", smtputf8=True) == RcptReceived(address)
    assert isinstance(rcpt('<"jürgen müller"@example.org>', smtputf8=True), RcptReceived)


@pytest.mark.parametrize(
    "path",
    [
        b"<\xff@b>",
        b"<\xc3@b>",
        b"<a@\xff.example>",
        b"<\xed\xa0\x80@b>",
        b"<\xc0\xaf@b>",
        "<a@\u00ad.example>".encode(),
    ],
)
def test_path_that_is_not_utf8_is_refused(path: bytes) -> None:
    """Neither half characters, nor surrogates, nor overlong forms, nor domains that vanish when mapped."""
    assert said(parse_rcpt(b"TO:" + path, True)) == "501 5.1.3"
    assert said(parse_mail(b"FROM:" + path + b" SMTPUTF8", MAX)) == "501 5.1.7"


@pytest.mark.parametrize("octet", [*range(0x20), 0x7F])
def test_control_character_never_gets_into_an_address(octet: int) -> None:
    """What is in an address ends up in commands to other hosts, in logs and in reports."""
    control = bytes((octet,))
    expected = "500 5.5.2" if control in b"\r\n" else "501 5.5.4"

    for path in (b"<a%bb@c>", b'<"a%bb"@c>', b'<"a\\%bb"@c>', b"<a@b%bc>", b"<a@[x:%b]>", b"<a@b> X=%bY"):
        assert said(parse_mail(b"FROM:" + path % control, MAX)) == expected
        assert said(parse_rcpt(b"TO:" + path % control, False)) == expected


@pytest.mark.parametrize("name", ["a", "mx.example.org", "[192.0.2.1]", "[IPv6:2001:db8::1]", "DESKTOP_1", "x" * 255])
def test_any_single_word_is_a_hello_name(name: str) -> None:
    """RFC 5321 4.1.4: mail is not refused for its client's name."""
    assert parse_hello(name.encode() + b" ") == name


@pytest.mark.parametrize("name", [b"", b" ", b"a b", b"a\tb", b"\x00", b"a\x07", "bücher.example".encode(), b"x" * 256])
def test_hello_name_that_is_no_word_is_refused(name: bytes) -> None:
    """The name is stamped into Received, so it is one word of printable ASCII."""
    assert said(parse_hello(name)) == "501 5.5.4"


def test_argument_where_none_belongs_is_refused() -> None:
    """DATA, RSET and QUIT stand alone, but for white space."""
    assert refuse_argument(b"") is None
    assert refuse_argument(b" \t") is None
    assert said(refuse_argument(b"now")) == "501 5.5.4"
    assert said(refuse_argument(b"\r")) == "500 5.5.2"


def test_bare_newlines_and_controls_are_told_apart() -> None:
    """A bare CR or LF is the line's fault, another control character the argument's."""
    assert said(find_forbidden(b"a\rb")) == said(find_forbidden(b"a\nb")) == "500 5.5.2"
    assert said(find_forbidden(b"a\x00b")) == said(find_forbidden(b"\x7f")) == "501 5.5.4"
    assert find_forbidden("plain ü".encode()) is None


@given(st.binary(max_size=400), st.booleans())
@example(b"<" + b"a." * 120 + b"@b>", False)
@example(b"<" + b'"\\' * 150 + b">", True)
@example("<a@\u3002>".encode(), True)
@example("<a@xn--\u00fc.example>".encode(), True)
@example("<a@\u0130.\u212a>".encode(), True)
def test_any_octets_give_a_value_or_a_refusal(octets: bytes, smtputf8: bool) -> None:
    """No argument makes the parser fail, and no refusal is anything but permanent."""
    for outcome in (
        parse_mail(b"FROM:" + octets, MAX),
        parse_mail(octets, MAX),
        parse_rcpt(b"TO:" + octets, smtputf8),
        parse_rcpt(b"TO:<a@" + octets + b">", smtputf8),
        parse_hello(octets),
    ):
        assert not isinstance(outcome, Reply) or outcome.is_permanent


@given(st.text(max_size=60), st.text(max_size=60))
def test_what_is_taken_has_no_octet_that_could_break_a_command(local: str, domain: str) -> None:
    """Whatever passes can be written between < and > to another host, and its domain can be asked of DNS."""
    outcome = parse_rcpt(b"TO:<" + f"{local}@{domain}".encode("utf-8", "surrogatepass") + b">", True)

    if isinstance(outcome, RcptReceived):
        assert outcome.recipient.text == f"{local}@{domain}"
        assert not any(character < " " or character == "\x7f" for character in outcome.recipient.text)
        assert outcome.recipient.domain.isascii()
        assert outcome.recipient.domain == outcome.recipient.domain.lower()


def test_time_to_refuse_a_long_argument_is_linear() -> None:
    """No pattern backtracks: 2,000 octets of the worst kinds are refused at once (this would hang otherwise)."""
    for hostile in (b'"' + b"\\a" * 1000, b"a." * 1000, b"a-" * 1000, b"a@" * 1000, b'"' + b"a" * 2000, b"<" * 2000):
        assert isinstance(parse_rcpt(b"TO:<" + hostile + b">", False), Reply)
        assert isinstance(parse_mail(b"FROM:<a@b> " + hostile + b" ", MAX), Reply)
