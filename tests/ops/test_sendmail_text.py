# SPDX-License-Identifier: MIT
"""What sendmail makes of what a program writes to it."""

import io
import time
from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import default

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smarthost.ops.sendmail_options import Complaint
from smarthost.ops.sendmail_text import (
    Text,
    author_of,
    complete,
    date_of,
    read_input,
    recipients_of,
    take_apart,
)
from smarthost.smtp.lines import find_defect

HOST = "h.example"


def made(written: bytes, author: bytes = b"me@h.example") -> bytes:
    return complete(take_apart(written), author=author, now=0.0, token="t0", host=HOST)


def to(written: bytes) -> list[str]:
    return [each.within(HOST) for each in recipients_of(take_apart(written))]


def test_a_plain_message_keeps_what_it_has() -> None:
    """Date, Message-ID and From that are there stay, and so does every other octet."""
    written = b"Date: x\nMESSAGE-ID : <y>\nfrom: a@b.example\nX-Odd:\n\tfolded\n\n\xff body\n.\n\n"

    assert written.replace(b"\n", b"\r\n") == made(written)


def test_what_is_missing_is_added() -> None:
    """RFC 5322 demands a date and an author; a Message-ID is expected."""
    message = message_from_bytes(made(b"Subject: hi\n\nbody\n", b"Me <me@h.example>"), policy=default)

    assert ["Date", "Message-ID", "From", "Subject"] == message.keys()
    assert message["message-id"] == "<19700101000000.t0@h.example>"
    assert message["from"].addresses[0].addr_spec == "me@h.example"
    assert message["date"].datetime.timestamp() == 0


@pytest.mark.parametrize(
    "written",
    [
        b"a\nb\n", b"a\r\nb\r\n", b"a\r\r\nb\r\r\n", b"a\rb", b"a\n\rb"[:2] + b"b", b"\0a\nb\0", b"a\r\n\0b",
    ],
)  # fmt: skip
def test_any_line_end_becomes_crlf(written: bytes) -> None:
    """LF of Unix, CRLF, CR CR LF of old PHP, CR; the relay finds nothing to refuse."""
    octets = made(b"\n" + written)

    assert octets.endswith(b"\r\n\r\na\r\nb\r\n")
    assert find_defect(octets) is None


@given(st.binary(max_size=60))
def test_whatever_is_written_the_relay_takes_the_octets(written: bytes) -> None:
    """No input makes content that the relay refuses for its lines, and the header section always ends."""
    octets = made(written)

    assert find_defect(octets) is None
    assert b"\r\n\r\n" in octets
    assert octets.startswith((b"Date: ", b"Message-ID: ", b"From: "))


def test_text_without_a_header_section_is_a_body() -> None:
    """`echo disk full | sendmail root` sends that line, not a broken header."""
    _, _, body = made(b"disk full\nvery full\n").partition(b"\r\n\r\n")

    assert body == b"disk full\r\nvery full\r\n"


def test_a_header_section_that_just_stops_is_ended() -> None:
    """A line that is no field begins the body, as in other sendmails."""
    text = take_apart(b"Subject: x\nnot a field\nTo: you\n")

    assert [b"subject"] == [each.name for each in text.fields]
    assert text.body == b"not a field\r\nTo: you\r\n"


def test_a_mailbox_line_is_dropped() -> None:
    """Mail piped out of a mailbox file does not begin with its separator."""
    assert take_apart(b"From root Sun Nov 22 07:00:00 2026\n>From x y\nSubject: x\n\nFrom here\n") == take_apart(
        b"Subject: x\n\nFrom here\n"
    )


def test_blind_copies_stay_blind() -> None:
    """Bcc is whom it goes to, and is in nobody's copy, folded or not."""
    written = b"To: a@x.example\nBcc: secret@x.example,\n other@x.example\nbcc : third@x.example\nSubject: s\n\nhi\n"

    assert to(written) == ["a@x.example", "secret@x.example", "other@x.example", "third@x.example"]
    octets = made(written)
    assert not any(each in octets for each in (b"secret", b"other", b"third"))
    assert b"To: a@x.example\r\nSubject: s\r\n\r\nhi\r\n" in octets


def test_a_resent_message_goes_to_whom_it_is_resent() -> None:
    """mutt's bounce: the first recipients do not get it again."""
    written = (
        b"Resent-To: new@x.example\nResent-Bcc: blind@x.example\nTo: old@x.example\nBcc: oldblind@x.example\n\nhi\n"
    )

    assert to(written) == ["new@x.example", "blind@x.example"]
    assert b"blind" not in made(written)


def test_addresses_without_domain_get_one_in_the_header_too() -> None:
    """cron writes `From: root (Cron Daemon)`; hosts on the internet refuse an author without a domain."""
    octets = made(b"From: root (Cron Daemon)\nTo: root, a@x.example\nSubject: root\nX-To: root\n\nroot\n")

    assert octets.endswith(
        b"From: root@h.example (Cron Daemon)\r\nTo: root@h.example, a@x.example\r\nSubject: root\r\n"
        b"X-To: root\r\n\r\nroot\r\n"
    )


def test_a_field_that_cannot_be_read_is_named() -> None:
    """Whoever wrote it learns which one."""
    with pytest.raises(Complaint, match=r"^cc: a < without its >$"):
        recipients_of(take_apart(b"To: a@x.example\nCc: <b\n\n"))


def test_a_name_cannot_break_out_of_its_field() -> None:
    """-F and account names are strangers' text."""
    assert author_of("Me\r\nBcc: x@y.example", "me@h.example") == b'"Me  Bcc: x@y.example" <me@h.example>'
    assert author_of('A "B" C\\', "me@h.example") == b'"A \\"B\\" C\\\\" <me@h.example>'
    assert author_of("  ", "me@h.example") == b"me@h.example"
    assert author_of("O'Neill & Co", "me@h.example") == b"O'Neill & Co <me@h.example>"


def test_a_name_in_any_script_is_encoded() -> None:
    """An encoded word has at most 75 octets, and no character is cut."""
    name = "Ærøskøbing – 日本語の名前はとても長い"

    written = author_of(name, "me@h.example")

    phrase = written.removesuffix(b" <me@h.example>").decode()
    assert str(make_header(decode_header(phrase))) == name
    assert all(len(word) <= 75 for word in written.split())


def test_a_lone_dot_ends_the_message_unless_it_is_ignored() -> None:
    """As a person ends a message at a terminal; programs say -i."""
    written = b"a\n..\n.x\n.\nrest\n"

    assert read_input(io.BytesIO(written), 100, ignores_dots=False) == b"a\n..\n.x\n"
    assert read_input(io.BytesIO(written.replace(b"\n", b"\r\n")), 100, ignores_dots=False) == b"a\r\n..\r\n.x\r\n"
    assert read_input(io.BytesIO(written), 100, ignores_dots=True) == written


def test_a_dot_in_a_long_line_does_not_end_it() -> None:
    """A line that is read in pieces is one line."""
    written = b"x" * (1 << 16) + b".\nrest\n"

    assert read_input(io.BytesIO(written), 1 << 20, ignores_dots=False) == written


def test_endless_input_ends() -> None:
    """`yes | sendmail root` takes bounded memory, and is told why."""
    with pytest.raises(Complaint, match="more than 1000 octets"):
        read_input(io.BytesIO(b"y\n" * 100_000), 1000, ignores_dots=True)


@pytest.mark.parametrize("piece", [b"\r", b"\n", b"\0", b"a:\n", b"a:\n ", b">From x\n", b": ", b"a", b">"])
def test_a_long_message_of_anything_takes_no_time(piece: bytes) -> None:
    """No message keeps the program busy."""
    began = time.process_time()
    made(piece * (1 << 16))

    assert time.process_time() - began < 3.0


def test_a_date_is_written_as_rfc_5322_has_it() -> None:
    """Whatever the locale."""
    assert date_of(time.gmtime(1_700_000_000)) == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert isinstance(take_apart(b""), Text)
