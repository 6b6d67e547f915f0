# SPDX-License-Identifier: MIT
"""Conversion to 7-bit: what arrives decodes to the octets that were sent, and what cannot be changed is left alone."""

import base64
import email
import quopri
from email.message import Message
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smarthost.send.convert import Conversion, to_seven_bit

UMLAUTS = "Grüße aus Köln\r\n".encode()
BINARY = bytes(range(256)) * 3


def message(*fields: str, body: bytes = UMLAUTS) -> bytes:
    return b"".join(f"{field}\r\n".encode() for field in fields) + b"\r\n" + body


def multipart(*parts: bytes, boundary: str = "b", subtype: str = "mixed", written: str = "") -> bytes:
    field = f"Content-Type: multipart/{subtype}; boundary={written or boundary}"
    return message("MIME-Version: 1.0", field, body=body_of(*parts, boundary=boundary))


def body_of(*parts: bytes, boundary: str = "b") -> bytes:
    return b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts) + (
        b"--" + boundary.encode() + b"--\r\n"
    )


def converted(content: bytes) -> bytes:
    result = to_seven_bit(content)
    assert result is not None
    assert is_seven_bit(result)
    return result


def is_seven_bit(octets: bytes) -> bool:
    """Is it what a host that knows RFC 5321 only can take?"""
    bare = octets.replace(b"\r\n", b"")
    lines = octets.split(b"\r\n")
    return octets.isascii() and not {0, 10, 13} & set(bare) and max(map(len, lines)) <= 998


def leaves(content: bytes) -> list[bytes]:
    """Give the decoded octets of all parts, as a reader of mail sees them."""
    found: list[bytes] = []
    for part in email.message_from_bytes(content).walk():
        if not part.is_multipart():
            found.append(decode(part))
    return found


def decode(part: Message) -> bytes:
    raw = part.get_payload(decode=False)
    octets = raw.encode("ascii", "surrogateescape") if isinstance(raw, str) else b""
    match (part["content-transfer-encoding"] or "7bit").strip().lower():
        case "quoted-printable":
            return quopri.decodestring(octets)
        case "base64":
            return base64.b64decode(octets)
        case _:
            return octets


def test_text_becomes_quoted_printable() -> None:
    """A text part stays readable, and its field says how it is written now; the other fields stay."""
    content = message("Subject: x", "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8",
                      "Content-Transfer-Encoding: 8bit", "X-After: y")  # fmt: skip

    result = converted(content)

    assert result == (
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\nX-After: y\r\n\r\nGr=C3=BC=C3=9Fe aus K=C3=B6ln\r\n"
    )


def test_other_types_become_base64() -> None:
    """An image survives with every CR, LF and NUL in it; lines have 76 characters at most."""
    content = message("MIME-Version: 1.0", "Content-Type: image/png", body=BINARY)

    result = converted(content)

    assert b"Content-Transfer-Encoding: base64\r\n\r\n" in result
    assert [BINARY] == leaves(result)
    assert max(map(len, result.split(b"\r\n"))) <= 76


def test_text_with_bare_newlines_or_nul_becomes_base64() -> None:
    """Quoted-printable would make CRLF of a bare LF: such text is kept octet by octet."""
    body = b"one\ntwo\r\x00three \xff\n"
    content = message("MIME-Version: 1.0", "Content-Type: text/plain", "Content-Transfer-Encoding: binary", body=body)

    result = converted(content)

    assert b"base64" in result
    assert [body] == leaves(result)


def test_text_without_an_end_of_line_is_broken_as_mail_is() -> None:
    """One line of 200 octets that ends with the content: soft breaks are CRLF, and no octet is added."""
    body = b"\xff" * 200 + b" "

    assert [body] == leaves(converted(multipart(message("Content-Type: text/plain", body=body))))


def test_8_bit_text_without_mime_gets_what_it_lacks() -> None:
    """RFC 1428: the gateway says that it does not know the charset."""
    result = converted(message("Subject: x"))

    assert result.startswith(
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )
    assert [UMLAUTS] == leaves(result)


def test_7_bit_content_is_the_same_object() -> None:
    """Nothing is touched that need not be, whatever its fields claim."""
    content = multipart(message("Content-Transfer-Encoding: 8bit", body=b"plain\r\n"))

    assert to_seven_bit(content) is content


def test_only_the_part_that_needs_it_is_changed() -> None:
    """Parts that are 7-bit keep their octets: a signature over one of them stays valid."""
    signed = b"Content-Type: text/plain;\r\n  charset=us-ascii\r\n\r\nkeep  this \t \r\n"
    content = multipart(signed, message("Content-Type: text/html"), signed)

    result = converted(content)

    assert 2 == result.count(signed)
    assert UMLAUTS in leaves(result)


@pytest.mark.parametrize(
    "written", ["b", '"b"', '"b" ', "b; charset=x", '"b";', 'b; type="text/html; boundary=c"', '\r\n "b"']
)
def test_a_boundary_is_found_however_it_is_written(written: str) -> None:
    """Quoted, folded, with a semicolon to spare or beside other parameters."""
    result = converted(multipart(message("Content-Type: text/plain"), written=written))

    assert [UMLAUTS] == leaves(result)


def test_nested_multiparts_and_forwarded_messages() -> None:
    """Parts within parts, and a whole message within a part, each in its own encoding."""
    inner = multipart(
        message("Content-Type: text/plain"), message("Content-Type: image/gif", body=BINARY), boundary="in"
    )
    forwarded = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + message("Subject: old")
    content = multipart(inner, forwarded, boundary="out")

    result = converted(content)

    assert [UMLAUTS, BINARY, UMLAUTS] == leaves(result)
    assert b"Content-Transfer-Encoding: 7bit\r\n\r\nSubject: old\r\nMIME-Version: 1.0\r\n" in result


def test_a_digest_holds_messages() -> None:
    """RFC 2046 5.1.5: a part without a type is a message there, and must not become base64."""
    content = multipart(b"\r\n" + message("Subject: old"), subtype="digest")

    result = converted(content)

    assert b"--b\r\n\r\nSubject: old\r\nMIME-Version" in result
    assert [UMLAUTS] == leaves(result)


def test_a_soft_break_never_makes_a_delimiter() -> None:
    """Text that would have "--b" at the beginning of a line once it is broken becomes base64 instead."""
    for pad in range(60, 80):
        body = b"x" * pad + b"--b\r\n\xff\r\n"

        result = converted(multipart(message("Content-Type: text/plain", body=body)))

        assert [body] == leaves(result)


def test_what_looks_like_a_delimiter_and_is_none_stays_text() -> None:
    """ "--bb" is not "--b"."""
    body = UMLAUTS + b"--bb\r\n--b x\r\n"

    assert [body] == leaves(converted(multipart(message("Content-Type: text/plain", body=body))))


CANNOT = {
    "8-bit header": message("Subject: Grüße"),
    "a line that is no field": message("Subject: x", "no field", "MIME-Version: 1.0"),
    "8-bit header of a part": multipart(message("Content-Type: text/plain", "Content-Description: Grüße")),
    "signed": multipart(message("Content-Type: text/plain"), message("A: b", body=b"sig\r\n"), subtype="signed"),
    "partial": message("MIME-Version: 1.0", "Content-Type: message/partial; id=x; number=1", body=message("A: b")),
    "delivery status": message("MIME-Version: 1.0", "Content-Type: message/delivery-status", body=message("A: b")),
    "junk after the boundary": multipart(message("A: b"), written='"b" junk'),
    "base64 that is none": message("MIME-Version: 1.0", "Content-Transfer-Encoding: base64"),
    "quoted-printable that is none": message("MIME-Version: 1.0", "Content-Transfer-Encoding: quoted-printable"),
    "unknown encoding": message("MIME-Version: 1.0", "Content-Transfer-Encoding: x-uuencode"),
    "two encodings": message("Content-Transfer-Encoding: 8bit", "content-transfer-encoding: base64"),
    "two types": message("Content-Type: text/plain", "Content-Type: image/png"),
    "no boundary": message("MIME-Version: 1.0", "Content-Type: multipart/mixed"),
    "two boundaries": multipart(message("A: b"), written='b; boundary="c"'),
    "a boundary in pieces": multipart(message("A: b"), written="b; boundary*0=c"),
    "no media type": message("MIME-Version: 1.0", "Content-Type: nonsense"),
    "preamble": message("Content-Type: multipart/mixed; boundary=b", body=UMLAUTS + body_of(b"A: b\r\n\r\nx")),
    "epilogue": multipart(b"A: b\r\n\r\nx") + UMLAUTS,
    "no part at all": message("Content-Type: multipart/mixed; boundary=b"),
    "no body": "Subject: Grüße\r\n".encode(),
    "header line without end": message("Subject: x", "X: " + "y" * 1000),
    "header with a bare newline": b"Subject: x\nMIME-Version: 1.0\r\n\r\n" + UMLAUTS,
    "forwarded in base64": message("Content-Type: message/rfc822", "Content-Transfer-Encoding: base64"),
    "nothing": b"\xff",
}


@pytest.mark.parametrize("content", CANNOT.values(), ids=CANNOT)
def test_what_cannot_be_changed_without_guessing_is_not(content: bytes) -> None:
    """No conversion rather than a wrong one."""
    assert to_seven_bit(content) is None


def test_depth_and_number_of_parts_are_bounded() -> None:
    """Twenty levels and a thousand parts are converted, more are not."""

    def nested(levels: int) -> bytes:
        part = message("Content-Type: text/plain")
        for level in range(levels):
            part = multipart(part, boundary=f"b{level}x")
        return part

    few, many = ([b"A: b\r\n\r\nx"] * n + [message("A: b")] for n in (900, 1_100))

    assert [UMLAUTS] == leaves(converted(nested(20)))
    assert to_seven_bit(nested(21)) is None
    assert UMLAUTS in leaves(converted(multipart(*few)))
    assert to_seven_bit(multipart(*many)) is None


NASTY = {
    "delimiters that are none": message(
        "Content-Type: multipart/mixed; boundary=b", body=b"\r\n--b \t \t x" * 200_000 + b"\xff"
    ),
    "parts without end": message("Content-Type: multipart/mixed; boundary=b", body=b"\r\n--b" * 400_000 + b"\xff"),
    "one header of folds": b"Content-Type: text/plain" + b"\r\n ;" * 500_000 + b"\r\n\r\n\xff",
    "parameters without end": b"Content-Type: text/plain" + b";a=b" * 200 + b"\r\n\r\n\xff" + b";a=b" * 300_000,
    "a type of blanks": b"Content-Type:" + b"\r\n \t" * 500_000 + b"\r\n\r\n\xff",
    "a quoted string without end": b'Content-Type: multipart/mixed; boundary="' + b'\\"' * 450 + b"\r\n\r\n\xff",
    "bare CR": b"A: b\r\n\r\n" + b"\r" * 2_000_000 + b"\xff",
    "short lines": b"A: b\r\n\r\n" + b"\r\n" * 1_000_000 + b"\xff",
    "one line": b"A: b\r\n\r\n" + b"x" * 2_000_000 + b"\xff",
}


@pytest.mark.parametrize("content", NASTY.values(), ids=NASTY)
def test_nasty_content_takes_linear_time(content: bytes) -> None:
    """Two megabytes of whatever a sender thinks of take a fraction of a second, not a minute."""
    started = perf_counter()

    result = to_seven_bit(content)

    assert perf_counter() - started < 2
    assert result is None or is_seven_bit(result)


def test_a_large_conversion_goes_in_small_steps() -> None:
    """Four megabytes are converted in so many steps that none takes long."""
    conversion = Conversion(message("MIME-Version: 1.0", "Content-Type: image/png", body=BINARY * 5_500))

    steps = sum(1 for _ in conversion.steps())

    assert steps > 60
    assert conversion.result is not None
    assert [BINARY * 5_500] == leaves(conversion.result)


def test_each_level_of_a_nested_message_is_a_step_of_its_own() -> None:
    """All of what is inside is looked at once a level: others have their turn in between."""
    nested = message("Content-Type: text/plain; charset=utf-8")
    for level in range(15):
        nested = multipart(nested, boundary=f"b{level}")

    assert sum(1 for _ in Conversion(nested).steps()) > 15


LINES = st.lists(st.binary(max_size=120).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")))
TEXTS = LINES.map(lambda lines: b"".join(line + b"\r\n" for line in lines))
TEXT_LEAVES = st.tuples(st.sampled_from(["text/plain", "TEXT/html; charset=x"]), TEXTS)
OTHER_LEAVES = st.tuples(st.sampled_from(["image/png", "application/octet-stream"]), st.binary(max_size=300))
LEAVES = st.one_of(TEXT_LEAVES, OTHER_LEAVES)
TREES = st.recursive(LEAVES, lambda below: st.lists(below, min_size=1, max_size=4), max_leaves=8)


def write(tree: object, path: str = "b") -> bytes:
    """Write a tree as a MIME entity; its boundaries are unlike each other and all of its leaves."""
    if isinstance(tree, list):
        parts = [write(below, f"{path}.{n}") for n, below in enumerate(tree)]
        return message(
            f'Content-Type: multipart/mixed; boundary="=_{path}_="', body=body_of(*parts, boundary=f"=_{path}_=")
        )
    assert isinstance(tree, tuple)
    kind, body = tree
    return message(f"Content-Type: {kind}", "Content-Transfer-Encoding: binary", body=body)


@settings(deadline=None, max_examples=150)
@given(TREES)
def test_every_part_of_a_tree_decodes_to_what_it_was(tree: object) -> None:
    """Whatever the structure, a reader of mail finds the same octets in every part, in 7-bit lines."""
    content = b"MIME-Version: 1.0\r\n" + write(tree)

    result = to_seven_bit(content)

    assert result is not None
    assert is_seven_bit(result)
    assert leaves_of(tree) == leaves(result)


def leaves_of(tree: object) -> list[bytes]:
    if isinstance(tree, list):
        return [leaf for below in tree for leaf in leaves_of(below)]
    assert isinstance(tree, tuple)
    return [tree[1]]


MIME_SHARDS = [b"multipart/mixed; boundary=b", b"message/rfc822", b"text/plain", b"Content-Type: ", b"--b", b"--"]
SHARDS = st.sampled_from([*MIME_SHARDS, b"\r\n", b"\n", b"\xff", b"\0", b": ", b"\r\n\r\n", b"x" * 90])


@settings(deadline=None, max_examples=300)
@given(st.lists(SHARDS).map(b"".join))
def test_any_octets_give_7_bit_lines_or_nothing(octets: bytes) -> None:
    """Nothing that a sender writes makes the conversion raise, or give what a host cannot take."""
    result = to_seven_bit(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + octets)

    assert result is None or is_seven_bit(result)
