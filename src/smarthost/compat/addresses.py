# SPDX-License-Identifier: MIT
"""The two addresses of an envelope file: whether they are there, and whether they can be said in SMTP.

The original let any pickle be an envelope and any text an address; here an envelope is a pair of texts, and an address
is what smtp.grammar takes. Decides nothing about the message.
"""

import re
from pickle import UnpicklingError
from typing import Any, BinaryIO

from smarthost.compat.envelope import read_envelope
from smarthost.mail.address import Address
from smarthost.mail.reply import Reply
from smarthost.smtp.grammar import parse_mail, parse_rcpt

_NO_LIMIT = 1 << 62

#   name-addr = [display-name] "<" path ">"; quoted strings may hold angle brackets. email.utils.parseaddr guesses: it
#   makes another address of "<a@b> <c@d>" and of "a@b>", and "", the null reverse-path, of what it cannot read.
_QUOTED = r'"(?:[^"\\]++|\\.)*+"'
_match_named = re.compile(rf'(?:[^<>"\x00-\x1f\x7f]++|{_QUOTED})*+<((?:[^<>"\\]++|{_QUOTED})*+)>', re.DOTALL).fullmatch


def read_addresses(file: BinaryIO, name: str) -> tuple[str, str]:
    """Give sender ("" for the null reverse-path) and recipient of an envelope file, without name and brackets.

    Raises: pickle.UnpicklingError: it is damaged or foreign; names `name`.
    """
    envelope = read_envelope(file, name)
    if not isinstance(envelope, list | tuple) or len(envelope) != 2:
        raise UnpicklingError(f"{name}: not a pair of sender and recipient")
    try:
        return read_path(envelope[0]), read_path(envelope[1])
    except TypeError as error:
        raise UnpicklingError(f"{name}: {error}") from error


def read_path(address: Any) -> str:
    """Give an address (str or octets) without name and brackets; what has no such form, as it is.

    Raises: TypeError: it is no text.
    """
    if isinstance(address, bytes):
        address = address.decode("utf-8", "surrogateescape")
    if not isinstance(address, str):
        raise TypeError(f"an address is text, not {type(address).__name__}")
    text = address.strip()
    named = _match_named(text)
    return named[1].strip() if named is not None else text


def read_recipient(text: str) -> Address | str:
    """Give a recipient as an address with a domain, or why it is none."""
    read = parse_rcpt(_path(f"TO:<{text}>"), smtputf8=False)
    if isinstance(read, Reply):
        return str(read)
    return read.recipient if read.recipient.domain else "it has no domain"


def why_no_sender(text: str) -> str:
    """Say why this cannot be the reverse-path of a message, or ""."""
    read = parse_mail(_path(f"FROM:<{text}>"), _NO_LIMIT)
    return str(read) if isinstance(read, Reply) else ""


def _path(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate is no address either way
