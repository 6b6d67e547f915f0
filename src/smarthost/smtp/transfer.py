# SPDX-License-Identifier: MIT
"""XTRANSFER: by which a node hands its queue to another node of smarthost, with its schedule (an extension of ours).

A server offers "XTRANSFER 1" to clients that may use it. MAIL then takes XTRANSFER=<where the message came from>, and
each RCPT of that transaction must have XTRANSFER=<how far this recipient has come>. A value is JSON in base64url
without padding, for "=" and blanks may not stand in it (RFC 5321 4.1.2). Read strictly: types, bounds, no unknown
field, no control character. Whether a time makes sense now is for accept.transfers to say. Pure.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from smarthost.mail.progress import Origin, Progress
from smarthost.mail.settlement import State

KEYWORD = "XTRANSFER"
VERSION = "1"  # another one, when what is written here is not understood by those who read this
# Cut off here when written: of a reply of 100 lines the first thirty say why. Their JSON has at most twice as many
# octets, and with the longest path, NOTIFY and ORCPT all of it stays below limits.TRANSFER_LINE_OCTETS.
REPLY_OCTETS = 4000
WHY_OCTETS = 2000
NAME_OCTETS = 512  # a host, a client, a user; a reverse-path of 256 as the one by which fairness counts
_STATUS_OCTETS = 16
_END_OF_TIMES = 253_402_300_800.0  # the year 10000

_Time = Annotated[float, Meta(ge=0.0, lt=_END_OF_TIMES)]
_Reply = Annotated[str, Meta(max_length=REPLY_OCTETS)]
_Why = Annotated[str, Meta(max_length=WHY_OCTETS)]
_Name = Annotated[str, Meta(max_length=NAME_OCTETS)]
_T = TypeVar("_T")


class _OriginFields(Struct, forbid_unknown_fields=True, omit_defaults=True):
    received_at: _Time
    client: _Name
    sender: _Name
    user: _Name = ""


class _ProgressFields(Struct, forbid_unknown_fields=True, omit_defaults=True):
    state: Literal["deferred", "held"]
    due: _Time
    attempts: Annotated[int, Meta(ge=0, lt=1 << 31)] = 0
    status: Annotated[str, Meta(max_length=_STATUS_OCTETS)] = ""
    last_reply: _Reply = ""
    why: _Why = ""
    host: _Name = ""
    delay_told: bool = False


_encode = msgspec.json.Encoder().encode
_origin_of = msgspec.json.Decoder(_OriginFields)
_progress_of = msgspec.json.Decoder(_ProgressFields)
_match_base64 = re.compile(rb"[A-Za-z0-9_-]++").fullmatch
_STATES = {"deferred": State.DEFERRED, "held": State.HELD}


def write_origin(origin: Origin) -> str:
    """Give the value of MAIL's parameter; a text that is too long or not printable is cut and cleaned."""
    return _write(
        _OriginFields(
            origin.received_at,
            _fit(origin.client, NAME_OCTETS),
            _fit(origin.sender, NAME_OCTETS),
            _fit(origin.user, NAME_OCTETS),
        )
    )


def write_progress(progress: Progress) -> str:
    """Give the value of RCPT's parameter; texts as in `write_origin`."""
    return _write(
        _ProgressFields(
            "held" if progress.state is State.HELD else "deferred",
            progress.due,
            progress.attempts,
            _fit(progress.status, _STATUS_OCTETS),
            _fit(progress.last_reply, REPLY_OCTETS),
            _fit(progress.why, WHY_OCTETS),
            _fit(progress.host, NAME_OCTETS),
            progress.is_delay_told,
        )
    )


def read_origin(value: bytes | None) -> Origin | None:
    """Read MAIL's parameter; None: malformed."""
    found = _read(value, _origin_of)
    if found is None or not _are_printable(found.client, found.sender, found.user):
        return None
    return Origin(found.received_at, found.client, found.sender, found.user)


def read_progress(value: bytes | None) -> Progress | None:
    """Read RCPT's parameter; None: malformed."""
    found = _read(value, _progress_of)
    if found is None or not _are_printable(found.status, found.last_reply, found.why, found.host):
        return None
    return Progress(
        _STATES[found.state],
        found.due,
        found.attempts,
        found.status,
        found.last_reply,
        found.why,
        found.host,
        found.delay_told,
    )


def _write(fields: Struct) -> str:
    return urlsafe_b64encode(_encode(fields)).rstrip(b"=").decode("ascii")


def _read(value: bytes | None, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    if value is None or _match_base64(value) is None or len(value) % 4 == 1:
        return None
    try:
        return decoder.decode(urlsafe_b64decode(value + b"=" * (-len(value) % 4)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _are_printable(*texts: str) -> bool:
    return all(map(str.isprintable, texts))


def _fit(text: str, octets: int) -> str:
    """Give what of a text may travel; nothing that is stored may keep a message from going on."""
    if not text.isprintable():  # a lone half of a surrogate pair is not, either
        text = "".join([character if character.isprintable() else "?" for character in text])
    written = text.encode()
    return text if len(written) <= octets else written[:octets].decode("utf-8", "ignore")
