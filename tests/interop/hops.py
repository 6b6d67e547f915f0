# SPDX-License-Identifier: MIT
"""What the hops on a message's way wrote on top of it: taken off, so that the rest can be compared, and read."""

import re

from tests.live.content import split_field

_OURS = re.compile(
    rb"Received: from (?P<name>\S+) \((?P<client>[^()]+)\)(?: \(using (?P<tls>[^()]+)\))?"
    rb" by relay\.example\.org with (?P<protocol>(?:E|UTF8)?(?:SMTP|LMTP)S?A?) id [0-9a-z]{16}(?: for <[^<>]+>)?; [^;]+"
)


class Trace(dict[str, str]):
    """What our Received: field says: `name`, `client`, `tls` ("" for clear text), `protocol`."""


def take_ours(content: bytes) -> tuple[Trace, bytes]:
    """Take our field off. Raises: AssertionError: it is not on top, or not well-formed (RFC 5321 4.4, RFC 3848)."""
    field, rest = split_field(content)
    match = _OURS.fullmatch(field.replace(b"\r\n", b"").rstrip())
    assert match is not None, f"not our Received: {field!r}"
    return Trace({name: (said or b"").decode() for name, said in match.groupdict().items()}), rest


def take_theirs(content: bytes, by: bytes) -> bytes:
    """Take off the Received: field of another program, which names itself `by`."""
    field, rest = split_field(content)
    assert by in field, f"not {by!r}: {field!r}"
    return rest
