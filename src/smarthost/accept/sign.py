# SPDX-License-Identifier: MIT
"""Signs messages with DKIM (RFC 6376, 8301, 8463): relaxed/relaxed, one signature for each key of the sender's domain.

Decides which keys sign what (by the domain of From:, if whoever handed the message in may use the names there), writes
the fields, and knows no key itself: a Keyring makes the signatures, RSA ones off the loop. Signed is what leaves: our
own Date and Message-ID too, Received not. From is listed once more than it occurs, so that a second one breaks the
signature. Nothing of the message is changed; one that cannot be signed goes without, and a note says why. A crash here
leaves nothing: the message is not filed yet.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from msgspec import Struct
from msgspec.structs import replace

from smarthost.accept.senders import senders_of
from smarthost.mail.address import Address, to_domain
from smarthost.mail.content import Content, InlineContent
from smarthost.mail.envelope import Body
from smarthost.mail.message import Message
from smarthost.ports import Clock, Keyring, SigningKey, Sink

HEADER_OCTETS = 256 * 1024  # a header section that is longer is not signed
LOOP_OCTETS = 256 * 1024  # hashed on the loop: about 1 ms; more is hashed aside
LINE_OCTETS = 78
AUTHORS = 10  # addresses in From: that are looked at; nobody but a forger has more

# RFC 6376 5.4.1, with what RFC 8058 and 2369 say to lists. Only what is there is signed, but From.
_SIGNED = (
    b"from", b"reply-to", b"subject", b"date", b"to", b"cc", b"message-id", b"in-reply-to", b"references", b"sender",
    b"resent-date", b"resent-from", b"resent-to", b"resent-cc", b"resent-message-id", b"mime-version", b"content-type",
    b"content-transfer-encoding", b"content-id", b"content-description", b"list-id", b"list-help", b"list-unsubscribe",
    b"list-unsubscribe-post", b"list-subscribe", b"list-post", b"list-owner", b"list-archive",
)  # fmt: skip
_ORDER = {name: place for place, name in enumerate(_SIGNED)}
_match_field = re.compile(rb"([!-9;-~]++)[ \t]*+:((?:[^\r\n]|\r\n[ \t])*+)\r\n").match
_collapse = re.compile(rb"[ \t]++").sub
# What does not end matches, too, or it would be looked at again from each of its characters: in quadratic time.
_find_aside = re.compile(rb'"(?:[^"\\]|\\.)*+("?+)|\((?:[^()\\]|\\.)*+(\)?+)')  # a quoted string or a comment
_find_angle = re.compile(rb"<[^<>@]*+@([^<>@\s,;]++)>").search
_find_bare = re.compile(rb"@([^<>@\s,;]++)").search
_find_words = re.compile(rb"[^<>\s,;:]++").findall


class Header(Struct, frozen=True, gc=False):
    """What of a header section is signed: the names in the order of h=, and their fields in canonical form."""

    names: tuple[bytes, ...]
    fields: bytes
    domain: str
    author: bytes


class Signing:
    """Signs for one relay."""

    def __init__(self, keyring: Keyring, clock: Clock, sink: Sink) -> None:
        self._keyring = keyring
        self._clock = clock
        self._sink = sink

    def sign(self, message: Message, signed: Callable[[Message], None]) -> None:
        """Call `signed` once with the message, its prefix now beginning with its signatures; unsigned if no key fits.

        At once where there is nothing to do, else later.
        """
        header = _read_header_of(message)
        if isinstance(header, str):
            self._pass(message, signed, header)
            return
        keys = self._keyring.keys_for(header.domain)
        if not keys:
            signed(message)
        elif not _may_sign(message.signs, header.author):
            self._pass(message, signed, "From: is not one of the sender's")
        elif message.envelope.body is Body.BINARY_MIME:
            self._pass(message, signed, "BINARYMIME: it may have to be converted on its way")
        else:
            _Job(self._keyring, self._sink, message, header, keys, int(self._clock.wall()), signed).begin()

    def _pass(self, message: Message, signed: Callable[[Message], None], why: str) -> None:
        self._sink.note("warning", "message not signed", id=message.id, why=why)
        signed(message)


class _Job:
    """The signatures of one message under way."""

    __slots__ = ("_header", "_heads", "_keyring", "_keys", "_message", "_now", "_signed", "_sink")

    def __init__(
        self,
        keyring: Keyring,
        sink: Sink,
        message: Message,
        header: Header,
        keys: Sequence[SigningKey],
        now: int,
        signed: Callable[[Message], None],
    ) -> None:
        self._keyring = keyring
        self._sink = sink
        self._message = message
        self._header = header
        self._keys = keys
        self._now = now
        self._signed = signed
        self._heads: tuple[bytes, ...] = ()

    def begin(self) -> None:
        content = self._message.content
        if isinstance(content, InlineContent) and content.octets <= LOOP_OCTETS:
            self._hashed(hash_body(content))
        else:
            self._keyring.aside(lambda: hash_body(content), self._hashed)

    def _hashed(self, digest: bytes | Exception) -> None:
        if isinstance(digest, Exception):
            self._give_up(f"its content cannot be read: {digest}")
            return
        self._heads = tuple([write_head(key, self._header, self._now, digest) for key in self._keys])
        to_sign = [
            (key, self._header.fields + relax_field(b"dkim-signature", head.partition(b":")[2]))
            for key, head in zip(self._keys, self._heads, strict=True)
        ]
        self._keyring.sign(to_sign, self._done)

    def _done(self, signatures: Sequence[bytes] | Exception) -> None:
        if isinstance(signatures, Exception):
            self._give_up(str(signatures))
            return
        fields = [head + _fold(b64encode(each)) for head, each in zip(self._heads, signatures, strict=True)]
        self._signed(replace(self._message, prefix=b"".join([*fields, self._message.prefix])))

    def _give_up(self, why: str) -> None:
        self._sink.note("error", "message not signed", id=self._message.id, why=why)
        self._signed(self._message)


def _may_sign(signs: tuple[str, ...], author: bytes) -> bool:
    """May the names in a From: field be used by somebody who may use those of `signs`?"""
    senders = senders_of(signs)
    if senders.is_any:
        return True
    authors = find_authors(author)
    return bool(authors) and all(map(senders.allow, authors))


def _read_header_of(message: Message) -> Header | str:
    content = message.content
    first = content.body if isinstance(content, InlineContent) else next(iter(content.chunks()), b"")
    first = first[: HEADER_OCTETS + 4]
    return read_header(message.prefix + first, is_all=len(first) == content.octets)


def read_header(octets: bytes, *, is_all: bool = True) -> Header | str:
    """Read what is to be signed from octets that begin with a header section; or say why it cannot be signed.

    `is_all`: there are no more octets, so that the section may end where they do.
    """
    found: dict[bytes, list[bytes]] = {}
    position = 0
    while (match := _match_field(octets, position)) is not None:
        name = match[1].lower()
        if name in _ORDER:
            found.setdefault(name, []).append(match[2])
        position = match.end()
    if not octets.startswith(b"\r\n", position) and not (is_all and position == len(octets)):
        return "its header section has a line that is no field, or is too long"
    authors = found.get(b"from", [])
    if len(authors) != 1:
        return "it has no From: field" if not authors else f"it has {len(authors)} From: fields"
    domain = find_domain(authors[0])
    if domain is None:
        return "its From: field has no address with a usable domain"
    names: list[bytes] = []
    fields: list[bytes] = []
    for name in sorted(found, key=_ORDER.__getitem__):
        values = found[name]
        names += [name] * len(values)
        fields += [relax_field(name, value) + b"\r\n" for value in reversed(values)]  # RFC 6376 5.4.2: bottom up
    return Header((b"from", *names), b"".join(fields), domain, authors[0])


def find_domain(author: bytes) -> str | None:
    """Give the domain of the first address in the value of a From: field, as A-labels; None: there is none."""
    text = _find_aside.sub(_clear, author)
    found = _find_angle(text) or _find_bare(text)
    try:
        return None if found is None else str(to_domain(found[1].decode("utf-8")))
    except ValueError:
        return None


def _clear(aside: re.Match[bytes]) -> bytes:
    """Give what stands for a quoted string or a comment; one that does not end is none."""
    return b'""' if aside[1] else b"" if aside[2] else aside[0]


def find_authors(author: bytes) -> tuple[Address, ...]:
    """Give all that may be taken for addresses in the value of a From: field, as A-labels.

    None at all, if readers may differ about it (quotes or comments that do not end, comments in comments, what is no
    address but for its @), or if there are more than AUTHORS.
    """
    if any(not (aside[1] or aside[2]) for aside in _find_aside.finditer(author)):
        return ()
    words = [word for word in _find_words(_find_aside.sub(_clear, author)) if b"@" in word]
    if len(words) > AUTHORS:
        return ()
    try:
        return tuple([_to_address(word.decode("utf-8")) for word in words])
    except ValueError:
        return ()


def _to_address(text: str) -> Address:
    return Address(text, to_domain(text.rpartition("@")[2]))


def relax_field(name: bytes, value: bytes) -> bytes:
    """Give a header field in relaxed form, without its CRLF (RFC 6376 3.4.2); `name` is lower case."""
    return name + b":" + _collapse(b" ", value.replace(b"\r\n", b"")).strip(b" \t")


def hash_body(content: Content) -> bytes:
    """Give the SHA-256 of a content's body in relaxed form (RFC 6376 3.4.4). Raises: StoreError: it cannot be read."""
    digest = sha256()
    for piece in relax_body(_body_of(content)):
        digest.update(piece)
    return digest.digest()


def _body_of(content: Content) -> Iterator[bytes]:
    """Give what follows the empty line, in the pieces it comes in; nothing behind a header section that is too long."""
    chunks = iter(content.chunks())
    pending = b"\r\n"  # as if a line ended before it: the first one may be the empty one
    for chunk in chunks:
        start = max(0, len(pending) - 3)
        pending += chunk
        end = pending.find(b"\r\n\r\n", start)
        if end >= 0:
            yield pending[end + 4 :]
            yield from chunks
        if end >= 0 or len(pending) > HEADER_OCTETS + 4:
            return


def relax_body(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Give a body in relaxed form, piece by piece: blanks collapsed, none at line ends, no empty lines at the end.

    What a piece ends in (blanks and line ends) waits for the next one: it may be the end of all.
    """
    waiting: list[bytes] = []  # joined once: a body of nothing but blanks would take quadratic time
    is_empty = True
    for piece in pieces:
        kept = piece.rstrip(b" \t\r\n")
        if kept:
            is_empty = False
            yield _relax(b"".join([*waiting, kept]))
            waiting.clear()
        waiting.append(_relax(piece[len(kept) :]))  # at once: fifty megabytes in one call would hold up everybody
    if not is_empty:
        yield b"\r\n"


def _relax(octets: bytes) -> bytes:
    if b"\t" in octets or b"  " in octets or b" \r" in octets:
        octets = _collapse(b" ", octets).replace(b" \r\n", b"\r\n")
    return octets


def write_head(key: SigningKey, header: Header, now: int, digest: bytes) -> bytes:
    """Give a DKIM-Signature field up to and with "b=" (RFC 6376 3.5), folded."""
    names = b":".join(header.names)
    tags = [
        b"v=1;", b"a=%b;" % key.algorithm.encode(), b"c=relaxed/relaxed;", b"d=%b;" % key.domain.encode(),
        b"s=%b;" % key.selector.encode(), b"t=%d;" % now, *_list_tag(names), b"bh=%b;" % b64encode(digest),
    ]  # fmt: skip
    lines, line = [], b"DKIM-Signature:"
    for tag in tags:
        if len(line) + 1 + len(tag) > LINE_OCTETS:
            lines.append(line)
            line = b""
        line += b" " + tag
    return b"\r\n".join([*lines, line, b" b="])


def _list_tag(names: bytes) -> Iterator[bytes]:
    """Cut h= where it may be folded: behind colons."""
    word = b"h="
    for name in names.split(b":"):
        if len(word) + len(name) + 1 > LINE_OCTETS - 2:
            yield word
            word = b""
        word += name + b":"
    yield word[:-1] + b";"


def _fold(base64: bytes) -> bytes:
    first, rest = base64[: LINE_OCTETS - 3], base64[LINE_OCTETS - 3 :]
    lines = [first, *(rest[start : start + LINE_OCTETS - 1] for start in range(0, len(rest), LINE_OCTETS - 1))]
    return b"\r\n ".join(lines) + b"\r\n"
