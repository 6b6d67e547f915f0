# SPDX-License-Identifier: MIT
"""Signatures that others verify: dkimpy here, opendkim in tests/interop; and messages that are not signed."""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter, process_time

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as some
from msgspec.structs import replace

from smarthost.accept import sign
from smarthost.backends.clock import SystemClock
from smarthost.backends.keyring_child import sign as make_signature
from smarthost.mail.address import Address, Domain
from smarthost.mail.content import InlineContent
from smarthost.mail.envelope import Body, Envelope
from smarthost.mail.message import Message
from smarthost.mail.record import Record
from smarthost.ops.dkim import record
from smarthost.ports import SigningKey

RSA = generate_private_key(65537, 2048)
ED25519 = Ed25519PrivateKey.generate()
KEYS: tuple[RSAPrivateKey | Ed25519PrivateKey, ...] = (RSA, ED25519)
BOTH = (
    SigningKey("example.org", "s1", "rsa-sha256", 0),
    SigningKey("example.org", "s2", "ed25519-sha256", 1),
)
MAIL = (
    b"From: Alice <alice@example.org>\r\n"
    b"To: bob@example.net,\r\n\tcarol@example.net\r\n"
    b"Subject:   a   folded\r\n  subject \r\n"
    b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n"
    b"\r\n"
    b"Hello  Bob,\t how \r\nare you?  \r\n \r\n\r\n"
)


class OurKeys:
    """A Keyring with the two keys, which signs at once."""

    def __init__(self, keys: Sequence[SigningKey] = BOTH) -> None:
        self.keys = keys
        self.asked: list[str] = []

    def keys_for(self, domain: str) -> Sequence[SigningKey]:
        self.asked.append(domain)
        return self.keys if domain == "example.org" else ()

    def sign(
        self, texts: Sequence[tuple[SigningKey, bytes]], signed: Callable[[Sequence[bytes] | Exception], None]
    ) -> None:
        signed([make_signature(KEYS[key.handle], text) for key, text in texts])

    def aside(self, work: Callable[[], bytes], done: Callable[[bytes | Exception], None]) -> None:
        done(work())


class Notes:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, object]]] = []

    def record(self, record: Record) -> None: ...
    def note(self, level: str, what: str, **facts: object) -> None:
        self.told.append((level, what, facts))


class Pieces:
    """Content that lives in a file: it comes in pieces."""

    def __init__(self, octets: bytes, size: int) -> None:
        self._octets = octets
        self._size = size

    @property
    def octets(self) -> int:
        return len(self._octets)

    def chunks(self) -> Iterator[bytes]:
        for start in range(0, len(self._octets), self._size):
            yield self._octets[start : start + self._size]


def message(octets: bytes, prefix: bytes = b"", body: Body = Body.SEVEN_BIT, piece: int = 0) -> Message:
    recipient = Address("bob@example.net", Domain("example.net"))
    envelope = Envelope("alice@example.org", (recipient,), body)
    content = Pieces(octets, piece) if piece else InlineContent(octets)
    return Message("0123456789abcdef", 0.0, envelope, prefix, content, "192.0.2.1", "alice", signs=("*",))


def signed(mail: Message, keyring: OurKeys | None = None, notes: Notes | None = None) -> bytes:
    """Give the whole message as it leaves."""
    done: list[Message] = []
    loop = asyncio.new_event_loop()
    try:
        clock = loop.run_until_complete(_clock())
        sign.Signing(keyring or OurKeys(), clock, notes or Notes()).sign(mail, done.append)
    finally:
        loop.close()
    assert len(done) == 1
    return done[0].prefix + b"".join(mail.content.chunks())


async def _clock() -> SystemClock:
    return SystemClock()


def txt(name: bytes, timeout: float = 0) -> bytes:
    """Answer as DNS would."""
    selector = name.decode().partition(".")[0]
    return record(RSA if selector == "s1" else ED25519).encode()


def verifies(octets: bytes, index: int = 0) -> bool:
    """Ask dkimpy about one of the signatures, the topmost first."""
    try:
        return bool(dkim.DKIM(octets).verify(idx=index, dnsfunc=txt))
    except dkim.DKIMException:
        return False


def test_both_kinds_of_signature_verify_elsewhere() -> None:
    """RSA and Ed25519 stand side by side, each good by itself."""
    octets = signed(message(MAIL))

    assert octets.count(b"DKIM-Signature:") == 2
    assert verifies(octets, 0)
    assert verifies(octets, 1)


def test_what_we_add_in_submission_is_signed_and_received_is_not() -> None:
    """Our Date counts as the author's own; the next hop may add its Received."""
    bare = MAIL.replace(b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\n", b"")
    ours = b"Received: from a\r\n by b; Sat, 21 Nov 2026 10:00:00 +0000\r\nDate: Sat, 21 Nov 2026 10:00:01 +0000\r\n"
    octets = signed(message(bare, ours))

    assert verifies(octets)
    assert verifies(b"Received: from b by c; now\r\n" + octets.replace(b"Received: from a", b"Received: from x"))
    assert not verifies(octets.replace(b"10:00:01", b"10:00:02"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"Hello  Bob", b"Hello  Rob"),
        (b"folded", b"golded"),
        (b"From: Alice", b"From: Malice"),
        (b"carol@", b"karol@"),
        (b"\r\n\r\nHello", b"\r\nFrom: eve@example.org\r\n\r\nHello"),
        (b"DKIM-Signature: v=1; a=rsa", b"From: eve@example.org\r\nDKIM-Signature: v=1; a=rsa"),
    ],
)
def test_a_change_of_what_is_signed_breaks_both_signatures(before: bytes, after: bytes) -> None:
    """A second From: breaks them as well, wherever it stands."""
    octets = signed(message(MAIL))
    assert octets.count(before) >= 1

    changed = octets.replace(before, after, 1)

    assert not verifies(changed, 0)
    assert not verifies(changed, 1)


def test_blanks_and_folding_may_change_on_the_way() -> None:
    """Relaxed: what mail systems do to white space does no harm."""
    octets = signed(message(MAIL))
    changed = octets.replace(b"Hello  Bob,\t how \r\n", b"Hello Bob, how\r\n").replace(
        b"Subject:   a   folded\r\n  subject \r\n", b"subject: a folded subject\r\n"
    )

    assert changed != octets
    assert verifies(changed)


def test_lines_of_the_signature_are_short_and_ascii() -> None:
    """RFC 5322 2.1.1, whatever the header section holds."""
    many = b"".join(b"List-%b: x\r\n" % name for name in (b"Id", b"Help", b"Post", b"Owner", b"Archive", b"Subscribe"))
    octets = signed(message(many + MAIL))
    fields = octets[: octets.index(b"List-Id")]

    assert all(len(line) <= 78 for line in fields.split(b"\r\n"))
    assert fields.isascii()
    assert verifies(octets)


@pytest.mark.parametrize("piece", [1, 7, 64, 100_000])
def test_content_in_a_file_is_signed_as_in_memory(piece: int) -> None:
    """Wherever the pieces are cut."""
    assert verifies(signed(message(MAIL, piece=piece)) if piece >= len(MAIL) else signed(message(MAIL)))
    whole = sign.hash_body(InlineContent(MAIL))

    assert sign.hash_body(Pieces(MAIL, piece)) == whole


BODY = some.text(alphabet=" \t\r\nab.", max_size=60).map(lambda text: re.sub("\r?\n|\r", "\r\n", text).encode())


@settings(max_examples=300)
@given(BODY, some.lists(some.integers(1, 20), max_size=8))
def test_any_body_is_hashed_as_dkimpy_hashes_it(body: bytes, cuts: list[int]) -> None:
    """The oracle is another's reading of RFC 6376 3.4.4; the pieces are cut anywhere."""
    pieces, rest = [], body
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    ours = b"".join(sign.relax_body(iter([*pieces, rest])))

    as_it_leaves = body if body.endswith(b"\r\n") or not body else body + b"\r\n"
    assert ours == dkim.canonicalization.Relaxed.canonicalize_body(as_it_leaves)


@pytest.mark.parametrize("blank", [b"\r\n", b" "])
def test_a_body_of_blanks_takes_linear_time(blank: bytes) -> None:
    """Sixteen megabytes that are all dropped in the end take no longer than other content."""
    piece = blank * (65_536 // len(blank))
    started = perf_counter()

    assert b"" == b"".join(sign.relax_body(iter([piece] * 256)))
    assert b"".join(sign.relax_body(iter([*[piece] * 256, b"a"]))).endswith(blank + b"a\r\n")

    assert perf_counter() - started < 2


def test_blank_lines_are_relaxed_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that hashes holds the interpreter for one call: it may not be over all of a body of blank lines."""
    collapse, longest = sign._collapse, 0

    def watched(by: bytes, octets: bytes) -> bytes:
        nonlocal longest
        longest = max(longest, len(octets))
        return collapse(by, octets)

    monkeypatch.setattr(sign, "_collapse", watched)
    piece = b"\t\r\n" * 1_000

    assert b"\r\n" * 64_000 + b"x\r\n" == b"".join(sign.relax_body(iter([piece] * 64 + [b"x"])))
    assert len(piece) == longest


@pytest.mark.parametrize(
    ("author", "domain"),
    [
        (b" Alice <alice@Example.ORG>", "example.org"),
        (b" alice@example.org", "example.org"),
        (b' "x@evil.example" <alice@example.org>', "example.org"),
        (b" (x@evil.example) alice@example.org (y@z)", "example.org"),
        (b" A <a@example.org>, B <b@example.net>", "example.org"),
        ("x <a@b\u00fccher.example>".encode(), "xn--bcher-kva.example"),
        (b" alice", None),
        (b" <alice@>", None),
        (b"", None),
    ],
)
def test_the_domain_of_the_author_chooses_the_keys(author: bytes, domain: str | None) -> None:
    """Names and comments that look like addresses do not."""
    assert sign.find_domain(author) == domain


@pytest.mark.parametrize("author", [b'"' + b'\\"' * 20_000, b"(" + b"\\(" * 20_000])
def test_a_from_field_that_never_ends_its_quotes_holds_nobody_up(author: bytes) -> None:
    """It is read on the loop: quadratic time would be ten seconds here, and ten minutes for 256 KiB."""
    before = process_time()

    assert sign.find_domain(author + b" <alice@example.org>") == "example.org"
    assert process_time() - before < 2.0


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (MAIL.replace(b"From: Alice <alice@example.org>\r\n", b""), "it has no From: field"),
        (b"From: b@example.org\r\n" + MAIL, "it has 2 From: fields"),
        (MAIL.replace(b"alice@example.org", b"alice"), "its From: field has no address"),
        (b"no field\r\n" + MAIL, "a line that is no field"),
    ],
)
def test_what_cannot_be_signed_goes_unsigned_with_a_note(octets: bytes, why: str) -> None:
    """Mail is not lost for want of a signature, and the operator hears why."""
    notes = Notes()

    assert signed(message(octets), notes=notes) == octets
    assert [what for _, what, _ in notes.told] == ["message not signed"]
    assert why in str(notes.told[0][2]["why"])


def test_other_domains_are_not_signed_for() -> None:
    """No key, no note, no change."""
    notes = Notes()
    octets = MAIL.replace(b"@example.org", b"@example.com")

    assert signed(message(octets), notes=notes) == octets
    assert notes.told == []


def test_binary_content_is_not_signed() -> None:
    """It may have to be converted for the next hop, which would break the signature."""
    notes = Notes()

    assert signed(message(MAIL, body=Body.BINARY_MIME), notes=notes) == MAIL
    assert "BINARYMIME" in str(notes.told[0][2]["why"])


def test_a_key_that_fails_leaves_the_mail_unsigned() -> None:
    """And says so as an error."""

    class Broken(OurKeys):
        def sign(
            self, texts: Sequence[tuple[SigningKey, bytes]], signed: Callable[[Sequence[bytes] | Exception], None]
        ) -> None:
            signed(ValueError("no"))

    notes = Notes()

    assert signed(message(MAIL), Broken(), notes) == MAIL
    assert notes.told[0][0] == "error"


def test_a_signature_from_before_still_verifies() -> None:
    """A relay that signs too breaks nobody's signature."""
    once = signed(message(MAIL))
    twice = signed(message(once))

    assert twice.count(b"DKIM-Signature:") == 4
    assert all(verifies(twice, index) for index in range(4))


@pytest.mark.parametrize(
    ("author", "is_signed"),
    [
        (b"Alice <alice@example.org>", True),
        (b'"ceo@example.com" <alice@example.org>', True),
        (b"ceo@example.org", False),
        (b"Alice <alice@example.org>, ceo@example.org", False),
        (b'(") <ceo@example.org> (") <alice@example.org>', False),
        (b'(a (b) ") <ceo@example.org> (" ) <alice@example.org>', False),
        (b"alice@example.org," * (sign.AUTHORS + 1), False),
    ],
)
def test_only_the_senders_own_names_are_signed(author: bytes, is_signed: bool) -> None:
    """Who may relay may not borrow the domain of another: it goes unsigned, with a note."""
    notes = Notes()
    mail = replace(message(MAIL.replace(b"Alice <alice@example.org>", author)), signs=("alice@example.org",))

    assert (b"DKIM-Signature" in signed(mail, notes=notes)) is is_signed
    assert [what for _, what, _ in notes.told] == ([] if is_signed else ["message not signed"])


def test_a_header_section_that_goes_on_behind_what_is_looked_at_is_not_signed() -> None:
    """Where it is cut between two fields it looks whole."""
    head = MAIL.partition(b"\r\n\r\n")[0]
    notes = Notes()

    signed(message(MAIL, piece=len(head) + 2), notes=notes)

    assert ["message not signed"] == [what for _, what, _ in notes.told]


def test_content_without_a_body_takes_linear_time() -> None:
    """Fifty megabytes without an empty line are given up, in whichever pieces they come."""
    before = process_time()

    assert sign.hash_body(Pieces(b"x" * 998 + b"\r\n", 1)) == sign.hash_body(InlineContent(b""))
    assert sign.hash_body(Pieces(b"a: b\r\n" * 8_000_000, 4096)) == sign.hash_body(InlineContent(b""))

    assert process_time() - before < 1.0
