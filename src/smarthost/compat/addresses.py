# SPDX-License-Identifier: MIT
"""The two addresses of an envelope file: whether they are there, and whether they can be said in SMTP.

The original let any pickle be an envelope and any text an address; here an envelope is a pair of texts, and an address
what can be neither more nor less than one path in a command. Decides nothing about the message.
"""

import re
from pickle import UnpicklingError
from typing import Any, BinaryIO

from smarthost.compat.envelope import read_envelope
from smarthost.mail.address import Address, to_domain
from smarthost.mail.errors import LocalProtocolError
from smarthost.smtp.exchange import check_path, encode_command

PATH_OCTETS = 1000  # RFC 5321 4.5.3.1.3 says 256, and to take more where one can; fits a command line anywhere

#   name-addr = [display-name] "<" path ">"; quoted strings may hold angle brackets. email.utils.parseaddr guesses: it
#   makes another address of "<a@b> <c@d>" and of "a@b>", and "", the null reverse-path, of what it cannot read.
_QUOTED = r'"(?:[^"\\]++|\\.)*+"'
_match_named = re.compile(rf'(?:[^<>"\x00-\x1f\x7f]++|{_QUOTED})*+<((?:[^<>"\\]++|{_QUOTED})*+)>', re.DOTALL).fullmatch


def read_addresses(file: BinaryIO, name: str) -> tuple[str, str]:
    """Give sender ("" for the null reverse-path) and recipient of an envelope file, without name and brackets.

    Raises: pickle.UnpicklingError: it is damaged or foreign; names `name`.
    """
    return addresses_of(read_envelope(file, name), name)


def addresses_of(envelope: Any, name: str) -> tuple[str, str]:
    """Give sender and recipient of an envelope as it was read. Raises: as read_addresses."""
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
    """Give a recipient as an address with a domain, or why it is none.

    Looser than smtp.grammar: what the original handed on is handed on, and the host judges it ("a..b@c" is in use).
    """
    local, _, domain = text.rpartition("@")
    if not local or not domain:
        return "it has no local part or no domain"
    defect = why_not_said(text)
    if defect:
        return defect
    try:
        return Address(text, to_domain(domain))
    except ValueError as error:
        return str(error)


def why_not_said(path: str) -> str:
    """Say why this cannot stand between the brackets of MAIL or RCPT, or ""."""
    if len(path) > PATH_OCTETS:
        return f"it has more than {PATH_OCTETS} octets"
    try:
        encode_command(check_path(path))
    except LocalProtocolError as error:
        return str(error)
    return ""
