# SPDX-License-Identifier: MIT
"""Reads the ESMTP parameters of MAIL and RCPT: SIZE, BODY, SMTPUTF8, RET, ENVID, REQUIRETLS, AUTH, NOTIFY, ORCPT.

RFC 1870, 6152, 3030, 6531, 3461, 6533, 8689, 4954; and XTRANSFER (smtp.transfer). Each at most once; whatever is
malformed is 501, whatever is not offered is 555. ENVID, ORCPT and AUTH stay as they were written, after it was seen
that no control character hides in them. Called by smtp.grammar only; pure.
"""

import re
from collections.abc import Callable, Mapping

from smarthost.mail.envelope import Body, DsnRequest, Notify
from smarthost.mail.progress import Origin, Progress
from smarthost.mail.reply import Reply, reply
from smarthost.smtp.limits import ENVID_OCTETS, ORCPT_OCTETS, SIZE_DIGITS
from smarthost.smtp.offer import Offer
from smarthost.smtp.transfer import read_origin, read_progress
from smarthost.smtp.xtext import is_xtext

#   esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")      esmtp-value = 1*(%d33-60 / %d62-126 / UTF8-non-ascii)
_match_parameter = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([!-<>-~\x80-\xff]++))?+").fullmatch

#   original-recipient-address = addr-type ";" xtext        addr-type = atom
_match_orcpt = re.compile(rb"([A-Za-z0-9!#$%&'*+/?^_`{|}~-]++);(.++)", re.DOTALL).fullmatch

# RFC 6533 3:
#   utf-8-addr-xtext   = 1*(QCHAR / EmbeddedUnicodeChar)
#   utf-8-addr-unitext = 1*(QUCHAR / EmbeddedUnicodeChar)      QUCHAR = QCHAR / UTF8-non-ascii
#   QCHAR = %x21-2a / %x2c-3c / %x3e-5b / %x5d-7e             EmbeddedUnicodeChar = %x5C.78 "{" HEXPOINT "}"
# Deviation: hexchars of xtext are taken as well, since RFC 3461 asks for them in any address type.
_match_utf8_address = re.compile(
    r"(?:[!-*,-<>-\[\]-~]|\+(?:[2-6][0-9A-F]|7[0-9A-E])|[^\x00-\x9f\u2028\u2029]|\\x\{[0-9A-Fa-f]{2,6}\})++"
).fullmatch
_find_points = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}").findall
_replace_high_hexchars = re.compile(rb"\+([89A-F][0-9A-F])").sub
_replace_beyond_ascii = re.compile(r"[^\x00-\x7f]").sub

PARAMETER_SYNTAX = reply(501, "5.5.4", "A parameter is malformed or given twice")
PARAMETER_UNKNOWN = reply(555, "5.5.4", "A parameter that is not offered here")
TOO_LARGE = reply(552, "5.3.4", "The declared size is larger than what is accepted here")

_BODIES = {b"7BIT": Body.SEVEN_BIT, b"8BITMIME": Body.EIGHT_BIT_MIME, b"BINARYMIME": Body.BINARY_MIME}
_NOTIFY = {b"SUCCESS": Notify.SUCCESS, b"FAILURE": Notify.FAILURE, b"DELAY": Notify.DELAY}


class MailParameters:
    """What the parameters of one MAIL said."""

    __slots__ = ("auth", "body", "envid", "origin", "requires_tls", "ret", "size", "smtputf8")

    def __init__(self) -> None:
        self.size: int | None = None
        self.body = Body.SEVEN_BIT
        self.smtputf8 = False
        self.ret = ""
        self.envid = ""
        self.requires_tls = False
        self.auth = ""
        self.origin: Origin | None = None


def parse_mail_parameters(text: bytes, max_octets: int, offer: Offer) -> MailParameters | Reply:
    """Read what follows the path of MAIL, without the space before it."""
    words = _split(text)
    if isinstance(words, Reply):
        return words
    parameters = MailParameters()
    for keyword, value in words.items():
        read = _MAIL.get(keyword)
        if (
            read is None
            or (keyword == b"AUTH" and not offer.auth)
            or (keyword == b"REQUIRETLS" and not offer.requiretls)
            or (keyword == b"XTRANSFER" and not offer.transfer)
        ):
            return PARAMETER_UNKNOWN
        if not read(parameters, value):
            return PARAMETER_SYNTAX
    return TOO_LARGE if parameters.size is not None and parameters.size > max_octets else parameters


def parse_rcpt_parameters(text: bytes, smtputf8: bool) -> DsnRequest | Reply:
    """Read what follows the path of RCPT, without the space before it; `smtputf8`: MAIL declared it."""
    words = _split(text)
    return words if isinstance(words, Reply) else _read_request(words, smtputf8)


def parse_moved_rcpt_parameters(text: bytes, smtputf8: bool) -> tuple[DsnRequest, Progress] | Reply:
    """Read what follows the path of RCPT where MAIL said XTRANSFER: this one must say it, too."""
    words = _split(text)
    if isinstance(words, Reply):
        return words
    progress = read_progress(words.pop(b"XTRANSFER", None))
    if progress is None:
        return PARAMETER_SYNTAX
    request = _read_request(words, smtputf8)
    return request if isinstance(request, Reply) else (request, progress)


def _read_request(words: dict[bytes, bytes | None], smtputf8: bool) -> DsnRequest | Reply:
    notify, orcpt = Notify.UNSET, ""
    for keyword, value in words.items():
        if keyword == b"NOTIFY":
            notify = _read_notify(value)
            if notify is Notify.UNSET:
                return PARAMETER_SYNTAX
        elif keyword == b"ORCPT":
            orcpt = _read_orcpt(value, smtputf8)
            if not orcpt:
                return PARAMETER_SYNTAX
        else:
            return PARAMETER_UNKNOWN
    return DsnRequest(notify, orcpt)


def _split(text: bytes) -> dict[bytes, bytes | None] | Reply:
    words: dict[bytes, bytes | None] = {}
    for word in text.split(b" "):
        match = _match_parameter(word)
        if match is None:
            return PARAMETER_SYNTAX
        keyword = match[1].upper()
        if keyword in words:
            return PARAMETER_SYNTAX
        words[keyword] = match[2]
    return words


def _read_size(parameters: MailParameters, value: bytes | None) -> bool:
    if value is None or not value.isdigit() or len(value) > SIZE_DIGITS:
        return False
    parameters.size = int(value)
    return True


def _read_body(parameters: MailParameters, value: bytes | None) -> bool:
    body = None if value is None else _BODIES.get(value.upper())
    if body is None:
        return False
    parameters.body = body
    return True


def _read_smtputf8(parameters: MailParameters, value: bytes | None) -> bool:
    parameters.smtputf8 = True
    return value is None


def _read_requiretls(parameters: MailParameters, value: bytes | None) -> bool:
    parameters.requires_tls = True
    return value is None


def _read_ret(parameters: MailParameters, value: bytes | None) -> bool:
    if value is None or value.upper() not in (b"FULL", b"HDRS"):
        return False
    parameters.ret = value.upper().decode("ascii")
    return True


def _read_envid(parameters: MailParameters, value: bytes | None) -> bool:
    if value is None or len(value) > ENVID_OCTETS or not is_xtext(value):
        return False
    parameters.envid = value.decode("ascii")
    return True


def _read_auth(parameters: MailParameters, value: bytes | None) -> bool:
    if value is None or len(value) > ORCPT_OCTETS or not (value == b"<>" or is_xtext(value)):
        return False
    parameters.auth = value.decode("ascii")
    return True


def _read_transfer(parameters: MailParameters, value: bytes | None) -> bool:
    parameters.origin = read_origin(value)
    return parameters.origin is not None


_MAIL: Mapping[bytes, Callable[[MailParameters, bytes | None], bool]] = {
    b"SIZE": _read_size,
    b"BODY": _read_body,
    b"SMTPUTF8": _read_smtputf8,
    b"RET": _read_ret,
    b"ENVID": _read_envid,
    b"REQUIRETLS": _read_requiretls,
    b"AUTH": _read_auth,
    b"XTRANSFER": _read_transfer,
}


def _read_notify(value: bytes | None) -> Notify:
    """Read NEVER, or a list of the others without repetition (RFC 3461 4.1); UNSET: malformed."""
    if value is None:
        return Notify.UNSET
    words = value.upper().split(b",")
    if words == [b"NEVER"]:
        return Notify.NEVER
    notify = Notify.UNSET
    for word in words:
        flag = _NOTIFY.get(word, Notify.UNSET)
        if not flag or flag in notify:
            return Notify.UNSET
        notify |= flag
    return notify


def _read_orcpt(value: bytes | None, smtputf8: bool) -> str:
    """Give ORCPT in ASCII, as written but for characters beyond it; "": malformed."""
    match = None if value is None or len(value) > ORCPT_OCTETS else _match_orcpt(value)
    if match is None:
        return ""
    kind, address = match.groups()
    if smtputf8 and kind.lower() == b"rfc822" and address.isascii() and not is_xtext(address):
        # Deviation: Postfix says rfc822 of every address, where RFC 6533 3 has utf-8 for those beyond ASCII.
        kind, address = b"utf-8", _replace_high_hexchars(lambda found: bytes.fromhex(found[1].decode("ascii")), address)
    if kind.lower() != b"utf-8":
        return match[0].decode("ascii") if is_xtext(address) else ""
    written = _read_utf8_address(address, smtputf8)
    orcpt = f"{kind.decode('ascii')};{written}"
    # What grew beyond the bound of RFC 3461 no other host would take.
    return orcpt if written and len(orcpt) <= ORCPT_OCTETS else ""


def _read_utf8_address(octets: bytes, smtputf8: bool) -> str:
    """Give utf-8-addr-xtext, which any host with DSN understands (RFC 6533 3); "": malformed."""
    if not octets.isascii() and not smtputf8:
        return ""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    if _match_utf8_address(text) is None or not all(_is_printable(int(point, 16)) for point in _find_points(text)):
        return ""
    return _replace_beyond_ascii(lambda match: f"\\x{{{ord(match[0]):X}}}", text)


def _is_printable(point: int) -> bool:
    """Is this a code point that may stand in an address: no control, no line separator, no half of a surrogate pair?"""
    if point < 0x20 or 0x7F <= point < 0xA0 or point in (0x2028, 0x2029):
        return False
    return point < 0xD800 or 0xDFFF < point <= 0x10FFFF
