# SPDX-License-Identifier: MIT
"""accept.trace: our Received: field, and the count of others'."""

import re
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.accept.trace import HEADER_OCTETS, ReceivedStamp, survey
from smarthost.mail.address import Address, Domain
from smarthost.mail.hop import TlsFacts

ID = "0123456789abcdef"
AT = 1_700_000_000.75  # Tue, 14 Nov 2023 22:13:20 UTC
BOB = Address("bob@example.net", Domain("example.net"))
CAROL = Address("carol@example.org", Domain("example.org"))


def stamp(
    name: str = "client.example",
    client: str = "192.0.2.1",
    recipients: tuple[Address, ...] = (BOB,),
    *,
    extended: bool = True,
    smtputf8: bool = False,
    hostname: str = "relay.example",
) -> bytes:
    received = ReceivedStamp(client, hostname)
    received.greeted(name, extended=extended)
    return received.write(ID, AT, recipients, smtputf8=smtputf8)


def test_golden_field() -> None:
    """The usual case, octet for octet."""
    assert stamp() == (
        b"Received: from client.example ([192.0.2.1])\r\n"
        b" by relay.example with ESMTP id 0123456789abcdef\r\n"
        b" for <bob@example.net>;\r\n"
        b" Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


@pytest.mark.parametrize("smtputf8", [False, True])
def test_what_a_program_here_hands_in_names_no_host_and_no_protocol(smtputf8: bool) -> None:
    """`smarthost send`, sendmail and the library: nobody said a name, so none is called unknown."""
    assert stamp("", "uid 1000 ann", smtputf8=smtputf8) == (
        b"Received: by relay.example (uid 1000 ann) id 0123456789abcdef\r\n"
        b" for <bob@example.net>;\r\n"
        b" Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


@pytest.mark.parametrize("recipients", [(), (BOB, CAROL)])
def test_recipient_is_not_named_when_there_are_several(recipients: tuple[Address, ...]) -> None:
    """Nobody learns from our trace who else got the message."""
    field = stamp(recipients=recipients)

    assert b" for " not in field
    assert b"id 0123456789abcdef;\r\n Tue," in field


@pytest.mark.parametrize(
    ("client", "literal"),
    [
        ("192.0.2.1", b"([192.0.2.1])"),
        ("2001:db8::1", b"([IPv6:2001:db8::1])"),
        ("local", b"(local)"),
    ],
)
def test_client_address_is_written_as_a_literal(client: str, literal: bytes) -> None:
    """The address stands as RFC 5321 4.1.3 writes it."""
    assert literal in stamp(client=client)


@pytest.mark.parametrize(
    ("kind", "smtputf8", "keyword"),
    [
        ("", False, b"SMTP"),
        ("SA", False, b"SMTP"),
        ("E", False, b"ESMTP"),
        ("ES", False, b"ESMTPS"),
        ("EA", False, b"ESMTPA"),
        ("ESA", False, b"ESMTPSA"),
        ("E", True, b"UTF8SMTP"),
        ("ES", True, b"UTF8SMTPS"),
        ("EA", True, b"UTF8SMTPA"),
        ("ESA", True, b"UTF8SMTPSA"),
        ("LE", False, b"LMTP"),
        ("LES", False, b"LMTPS"),
        ("LEA", False, b"LMTPA"),
        ("LESA", False, b"LMTPSA"),
        ("LE", True, b"UTF8LMTP"),
        ("LES", True, b"UTF8LMTPS"),
        ("LEA", True, b"UTF8LMTPA"),
        ("LESA", True, b"UTF8LMTPSA"),
    ],
)
def test_with_keyword_tells_the_kind_of_session(kind: str, smtputf8: bool, keyword: bytes) -> None:
    """The keyword is that of RFC 3848 and RFC 6531: Lmtp, Extended, Secured, Authenticated."""
    received = ReceivedStamp("192.0.2.1", "relay.example", is_lmtp="L" in kind)
    if "S" in kind:
        received.secured(TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", False))
    received.greeted("c.example", extended="E" in kind)
    if "A" in kind:
        received.authenticated()

    assert b" with " + keyword + b" id " in received.write(ID, AT, (BOB,), smtputf8=smtputf8)


def test_tls_is_told_in_a_comment() -> None:
    """Version and cipher stand where Postfix has them; nothing in them can end the comment or the field."""
    received = ReceivedStamp("192.0.2.1", "relay.example")
    received.secured(TlsFacts("TLSv1.3", "A)B\r\nX: y", True))
    received.greeted("c.example", extended=True)

    field = received.write(ID, AT, (BOB,), smtputf8=False)

    assert field.startswith(
        b"Received: from c.example ([192.0.2.1])\r\n (using TLSv1.3 with cipher A?B??X:?y)\r\n by relay.example with "
    )
    assert all(line[:1] in (b"R", b" ", b"") for line in field.split(b"\r\n"))


def test_tls_makes_the_trace_forget_what_was_said_before() -> None:
    """RFC 3207 4.2: a name said in clear text and an AUTH in clear text are gone."""
    received = ReceivedStamp("192.0.2.1", "relay.example")
    received.greeted("before.example", extended=True)
    received.authenticated()
    received.secured(TlsFacts("TLSv1.3", "X", False))

    field = received.write(ID, AT, (BOB,), smtputf8=False)

    assert b"before.example" not in field
    assert b" with ESMTPS id " in field


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        (b"TLS-Required: No\r\nSubject: x", True),
        (b"Subject: x\r\ntls-required:no", True),
        (b"Subject: x\r\nTLS-REQUIRED:\r\n \tNO (never)\r\nTo: y", True),
        (b"Subject: x\r\nTLS-Required: Nope", False),
        (b"Subject: x\r\nTLS-Required: Yes", False),
        (b"Subject: x\r\nX-TLS-Required: No", False),
        (b"Subject: see\r\n TLS-Required: No", False),
        (b"Subject: x\r\n\r\nTLS-Required: No", False),
    ],
)
def test_tls_required_no_is_found_in_the_header_section_only(header: bytes, asked: bool) -> None:
    """RFC 8689 5: the field says No, in any case; anything else says nothing."""
    assert survey(header + b"\r\n\r\nbody\r\n")[1] is asked


def test_second_greeting_replaces_the_first() -> None:
    """After a new EHLO the trace shows the new name."""
    received = ReceivedStamp("192.0.2.1", "relay.example")
    received.greeted("first.example", extended=True)
    received.write(ID, AT, (BOB,), smtputf8=False)
    received.greeted("second.example", extended=False)

    field = received.write(ID, AT, (BOB,), smtputf8=False)

    assert b"second.example" in field
    assert b"first.example" not in field
    assert b" with SMTP id " in field


def test_messages_of_one_session_differ_in_id_time_and_recipient() -> None:
    """What is prepared for a session carries nothing over from one message to the next."""
    received = ReceivedStamp("192.0.2.1", "relay.example")
    received.greeted("c.example", extended=True)

    first = received.write(ID, AT, (BOB,), smtputf8=False)
    second = received.write("z" * 16, AT + 61, (CAROL,), smtputf8=True)
    third = received.write(ID, AT, (BOB,), smtputf8=False)

    assert first == third
    assert b"zzzzzzzzzzzzzzzz" in second
    assert b"carol@example.org" in second
    assert b"22:14:21" in second


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", b"from unknown ([192.0.2.1])\r\n"),
        ("[192.0.2.9]", b"from [192.0.2.9] ([192.0.2.1])\r\n"),
        ("[IPv6:2001:db8::9]", b"from [IPv6:2001:db8::9] ([192.0.2.1])\r\n"),
        ("under_score.example", b"from under_score.example ([192.0.2.1])\r\n"),
        ("a)\r\nX-Evil: yes", b"from unknown ([192.0.2.1] helo=a???X-Evil:?yes)\r\n"),
        ("a(b\\", b"from unknown ([192.0.2.1] helo=a?b?)\r\n"),
        ("b\u00fccher.example", b"from unknown ([192.0.2.1] helo=b?cher.example)\r\n"),
        ("\x00\x7f", b"from unknown ([192.0.2.1] helo=??)\r\n"),
        ("-bad-", b"from unknown ([192.0.2.1] helo=-bad-)\r\n"),
        ("a.example\n", b"from unknown ([192.0.2.1] helo=a.example?)\r\n"),
    ],
)
def test_hostile_name_stays_inside_its_comment(name: str, shown: bytes) -> None:
    """A client cannot write header fields through the name it gives."""
    field = stamp(name)

    assert shown in field
    assert field.count(b"\r\n") == 4


def test_long_names_are_folded() -> None:
    """Names of full length get lines of their own, and no line passes 998 octets."""
    name = ".".join(["a" * 62] * 4)

    field = stamp(name, client="2001:db8:1111:2222:3333:4444:5555:6666", hostname=name)

    lines = field.split(b"\r\n")
    assert lines[0] == b"Received: from"
    assert lines[1] == b" " + name.encode()
    assert max(map(len, lines)) < 300
    assert b"\r\n\r\n" not in field


def test_internationalised_recipient_is_named_in_utf8_only_under_smtputf8() -> None:
    """Octets beyond ASCII enter our field only when the message is allowed to carry them."""
    recipient = Address("j\u00f6rg@example.net", Domain("example.net"))

    assert "for <j\u00f6rg@example.net>".encode() in stamp(recipients=(recipient,), smtputf8=True)
    assert stamp(recipients=(recipient,)).isascii()
    assert b" for " not in stamp(recipients=(recipient,))


@pytest.mark.parametrize("text", ['"a\r\nX-Evil: yes"@example.net', '"a\x00"@example.net', '"\u2028"@e.net', "a" * 400])
def test_recipient_that_could_break_the_field_is_left_out(text: str) -> None:
    """A strange recipient is not named rather than trusted."""
    field = stamp(recipients=(Address(text, Domain("example.net")),), smtputf8=True)

    assert b" for " not in field
    assert b"Evil" not in field


@settings(deadline=None)
@given(
    name=st.text(max_size=400),
    recipient=st.text(max_size=500),
    extended=st.booleans(),
    smtputf8=st.booleans(),
    client=st.ip_addresses().map(str),
    at=st.floats(0, 4e9),
)
def test_any_name_and_recipient_give_one_sound_field(
    name: str, recipient: str, extended: bool, smtputf8: bool, client: str, at: float
) -> None:
    """Whatever the client says, we write exactly one field, folded, dated, and within the line limit."""
    received = ReceivedStamp(client, "relay.example")
    received.greeted(name, extended=extended)

    field = received.write(ID, at, (Address(recipient, Domain("x")),), smtputf8=smtputf8)

    lines = field.removesuffix(b"\r\n").split(b"\r\n")
    assert field.endswith(b"\r\n")
    assert all(line.startswith(b" ") and line.strip() for line in lines[1:])
    assert lines[0].startswith(b"Received: from")
    assert all(len(line) <= 998 for line in lines)
    assert not re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n)", field)
    assert smtputf8 or field.isascii()
    assert parsedate_to_datetime(lines[-1].decode()).timestamp() == int(at)
    assert field.count(ID.encode()) >= 1


# -- survey --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "n"),
    [
        (b"", 0),
        (b"\r\n", 0),
        (b"\r\nReceived: from body\r\n", 0),
        (b"Received: a\r\n\r\nbody", 1),
        (b"Received: a\r\n", 1),
        (b"Received: a", 1),
        (b"Received: a\r\n b\r\n\tReceived: no\r\nReceived: c\r\n\r\n", 2),
        (b"received: a\r\nRECEIVED: b\r\nReCeIvEd:c\r\n\r\n", 3),
        (b"X-Received: a\r\nReceived-SPF: b\r\nSubject: Received: c\r\n\r\n", 0),
        (b"Received: a\r\n\r\nReceived: b\r\nReceived: c\r\n", 1),
        (b"Subject: x\nReceived: smuggled\r\n\r\n", 0),
        (b"Subject: x\r\n" * 30_000 + b"Received: late\r\n\r\n", 0),
    ],
)
def test_only_fields_of_the_header_section_count(content: bytes, n: int) -> None:
    """A body full of quoted traces is no loop."""
    assert survey(content)[0] == n


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"Received: x", b"RECEIVED:", b" Received: y", b"Subject: z", b"", b"\xff\x00"])))
def test_count_equals_that_of_a_line_by_line_reading(lines: list[bytes]) -> None:
    """The fast count and the plain one agree on any arrangement of lines."""
    plain = 0
    for line in lines:
        if not line:
            break
        plain += line.lower().startswith(b"received:")

    assert survey(b"".join(line + b"\r\n" for line in lines))[0] == plain


@pytest.mark.parametrize("shape", [b"Received: x\r\n", b"\r", b"R", b"a: b\r\n"])
def test_endless_header_costs_bounded_time(shape: bytes) -> None:
    """A header section of megabytes is looked at in its first 256 KiB only."""
    content = shape * (4 * HEADER_OCTETS // len(shape))

    assert survey(content)[0] <= HEADER_OCTETS // len(b"Received: x\r\n") + 1


def test_our_own_stamps_are_counted() -> None:
    """What we write is what we count: fifty turns round a loop are fifty."""
    assert survey(stamp() * 50 + b"Subject: x\r\n\r\n")[0] == 50


@pytest.mark.parametrize(
    ("header", "message_id"),
    [
        (b"Message-ID: <a@b.example>", "<a@b.example>"),
        (b"Subject: x\r\nmessage-id:<a@b.example>", "<a@b.example>"),
        (b"Subject: x\r\nMessage-Id:\r\n <a@b.example>\r\nTo: x", "<a@b.example>"),
        (b"Message-ID:\r\nTo: <bob@example.net>", ""),
        (b"Message-ID: none", ""),
        (b"Message-ID: <a b@example>", ""),
        (b"Message-ID: <a@b\x1b[2J>", ""),
        (b"X-Message-ID: <a@b.example>", ""),
        (b"Subject: x", ""),
    ],
)
def test_the_message_id_is_found_as_people_ask_for_it(header: bytes, message_id: str) -> None:
    """With its brackets, whatever the case, folded or not; what nobody could type is none."""
    assert survey(header + b"\r\n\r\nMessage-ID: <body@b.example>\r\n")[2] == message_id
