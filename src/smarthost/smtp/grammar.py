# SPDX-License-Identifier: MIT
"""Reads the arguments of MAIL, RCPT, EHLO and HELO (RFC 5321 4.1, 6531 3.3): a value, or the Reply to give.

Strict where leniency is dangerous (octets, quoting, routes), lenient where only old clients are hurt; each leniency is
marked. Works on bytes with ASCII-only patterns that cannot backtrack; whatever is in a local part stays opaque. Decides
nothing about who may send what. smtp.parameters reads what follows a path. Called by smtp.server, accept.inject; pure.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct

from smarthost.mail.address import Address, Domain, to_domain
from smarthost.mail.envelope import Body
from smarthost.mail.reply import Reply, reply
from smarthost.smtp.limits import DOMAIN_OCTETS, LOCAL_PART_OCTETS, PATH_OCTETS
from smarthost.smtp.offer import NOTHING, Offer
from smarthost.smtp.parameters import (
    PARAMETER_SYNTAX,
    parse_mail_parameters,
    parse_moved_rcpt_parameters,
    parse_rcpt_parameters,
)
from smarthost.smtp.wire import MailReceived, RcptReceived

# RFC 5321 4.1.2, with RFC 6531 3.3: UTF8-non-ascii is added to atext, qtextSMTP and sub-domain (%x80-FF here; whether
# it is UTF-8 is checked once, for the whole path).
#   Dot-string        = Atom *("."  Atom)              Atom = 1*atext
#   Quoted-string     = DQUOTE *QcontentSMTP DQUOTE    QcontentSMTP = qtextSMTP / quoted-pairSMTP
#   qtextSMTP         = %d32-33 / %d35-91 / %d93-126   quoted-pairSMTP = %d92 %d32-126
#   Domain            = sub-domain *("." sub-domain)   sub-domain = Let-dig [Ldh-str]
#   address-literal   = "[" ( IPv4-address-literal / IPv6-address-literal / General-address-literal ) "]"
#   General-address-literal = Standardized-tag ":" 1*dcontent    dcontent = %d33-90 / %d94-126
# Deviation: "_" in a sub-domain, for reverse-paths such as root@web_1.lan; DNS holds it and nothing else depends on it.
# Deviation: no empty Quoted-string: ""@d names nobody (as RFC 5322 erratum 3135 has it for messages).
# Where hyphens stand, label lengths and literals: see _derive_domain, which remembers.
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]++"
_LOCAL_PART = rb"(?:" + _ATOM + rb"(?:\." + _ATOM + rb')*+|"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])++")'
_LABEL = rb"[A-Za-z0-9_\x80-\xff-]++"
_DOMAIN = rb"(?:" + _LABEL + rb"(?:\." + _LABEL + rb")*+|\[[!-Z^-~]++\])"
_MAILBOX = rb"(" + _LOCAL_PART + rb"@(" + _DOMAIN + rb"))"

#   mail     = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF          Reverse-path = Path / "<>"
#   rcpt     = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF
#   Path     = "<" [ A-d-l ":" ] Mailbox ">"                                A-d-l: refused, see _explain
# Deviation: one space after the colon, which RFC 5321 3.3 forbids and too many devices send.
_PARAMETERS = rb"(?: ([!-~\x80-\xff]++(?: [!-~\x80-\xff]++)*+))?+"
_match_mail = re.compile(rb"(?i:FROM:) ?+<(?:" + _MAILBOX + rb")?+>" + _PARAMETERS).fullmatch
_match_rcpt = re.compile(rb"(?i:TO:) ?+<(?:" + _MAILBOX + rb"|((?i:postmaster)))>" + _PARAMETERS).fullmatch

_find_control = re.compile(rb"[\x00-\x1f\x7f]").search
# Beyond ASCII: C1, and the separators that some take for a line's end. No host would hear them from us (smtp.exchange).
_find_harmful = re.compile("[\x80-\x9f\u2028\u2029]").search

#   ehlo = "EHLO" SP ( Domain / address-literal ) CRLF
# Deviation: any one word of printable ASCII that a name could be as long as: a name that is only stamped into Received
# is no reason to refuse mail (RFC 5321 4.1.4), and Windows names have underscores and worse.
_match_hello = re.compile(rb"[!-~]{1,%d}" % DOMAIN_OCTETS).fullmatch

BARE_NEWLINE = reply(500, "5.5.2", "A command line ends in CRLF and has no other CR or LF")
CONTROL_CHARACTER = reply(501, "5.5.4", "Control character in a command")
NOT_ASCII = reply(501, "5.5.4", "Only addresses may have characters beyond ASCII")
NO_ARGUMENT = reply(501, "5.5.4", "This command takes no argument")
HELLO_SYNTAX = reply(501, "5.5.4", "Syntax: EHLO your-host-name")
MAIL_SYNTAX = reply(501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")
RCPT_SYNTAX = reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
UTF8_UNDECLARED = reply(553, "5.6.7", "An address beyond ASCII needs MAIL with SMTPUTF8")

_SEVEN_BIT = Body.SEVEN_BIT  # a global: 3.11 takes some 50 ns to find a member in its enum


class _Side(Struct, frozen=True):
    """What differs between the two paths: how they are written, and the replies that refuse them."""

    keyword: bytes
    match_path: Callable[[bytes], re.Match[bytes] | None]
    syntax: Reply
    bad: Reply
    no_domain: Reply
    too_long: Reply
    bad_domain: Reply
    not_utf8: Reply
    source_route: Reply


def _side(keyword: bytes, path: bytes, syntax: Reply, status: str, role: str) -> _Side:
    return _Side(
        keyword=keyword,
        match_path=re.compile(path).match,
        syntax=syntax,
        bad=reply(501, status, f"Not a valid {role} address"),
        no_domain=reply(501, status, f"The {role} address has no domain"),
        too_long=reply(501, status, f"More than {LOCAL_PART_OCTETS} octets before the @, or {PATH_OCTETS} in all"),
        bad_domain=reply(501, status, f"The domain of the {role} address is not a valid name or address literal"),
        not_utf8=reply(501, status, f"The {role} address is not UTF-8"),
        # RFC 5321 4.1.1.3 and appendix F.2: a server may decline to be routed through.
        source_route=reply(553, status, "Source routes are not accepted: give the address alone"),
    )


_REVERSE = _side(b"FROM:", rb"<(?:" + _MAILBOX + rb")?+>", MAIL_SYNTAX, "5.1.7", "sender")
_FORWARD = _side(b"TO:", rb"<(?:" + _MAILBOX + rb"|(?i:postmaster))>", RCPT_SYNTAX, "5.1.3", "recipient")


def parse_hello(argument: bytes) -> str | Reply:
    """Read the name of EHLO or HELO: 1 to 255 octets of 0x21-0x7E, otherwise as the client likes."""
    name = argument.rstrip(b" \t")
    return name.decode("ascii") if _match_hello(name) else HELLO_SYNTAX


def parse_mail(argument: bytes, max_octets: int, offer: Offer = NOTHING) -> MailReceived | Reply:
    """Read what follows "MAIL "; refuses a declared size above `max_octets`, and parameters that are not offered."""
    match = _match_mail(argument)
    if match is None:
        trimmed = argument.rstrip(b" \t")  # RFC 5321 4.1.1: SHOULD tolerate trailing white space
        return parse_mail(trimmed, max_octets, offer) if trimmed != argument else _explain(argument, _REVERSE)
    mailbox, domain, text = match.groups()
    if text is not None:
        return _parse_long_mail(mailbox, domain, text, max_octets, offer)
    if mailbox is None:
        return MailReceived(None, None, _SEVEN_BIT, False)
    address = _read_mailbox(mailbox, domain, False, _REVERSE)
    return MailReceived(address, None, _SEVEN_BIT, False) if isinstance(address, Address) else address


def _parse_long_mail(
    mailbox: bytes | None, domain: bytes, text: bytes, max_octets: int, offer: Offer
) -> MailReceived | Reply:
    said = parse_mail_parameters(text, max_octets, offer)
    if isinstance(said, Reply):
        return said
    address = None if mailbox is None else _read_mailbox(mailbox, domain, said.smtputf8, _REVERSE)
    if isinstance(address, Reply):
        return address
    return MailReceived(
        address, said.size, said.body, said.smtputf8, said.ret, said.envid, said.requires_tls, said.auth, said.origin
    )


def parse_rcpt(argument: bytes, smtputf8: bool) -> RcptReceived | Reply:
    """Read what follows "RCPT "; `smtputf8`: MAIL declared it."""
    match = _match_rcpt(argument)
    if match is None:
        trimmed = argument.rstrip(b" \t")
        return parse_rcpt(trimmed, smtputf8) if trimmed != argument else _explain(argument, _FORWARD)
    mailbox, domain, postmaster, text = match.groups()
    request = None if text is None else parse_rcpt_parameters(text, smtputf8)
    if isinstance(request, Reply):
        return request
    if mailbox is None:
        return RcptReceived(Address(postmaster.decode("ascii"), Domain("")), request)
    address = _read_mailbox(mailbox, domain, smtputf8, _FORWARD)
    return RcptReceived(address, request) if isinstance(address, Address) else address


def parse_moved_rcpt(argument: bytes, smtputf8: bool) -> RcptReceived | Reply:
    """Read what follows "RCPT " where MAIL said XTRANSFER."""
    match = _match_rcpt(argument)
    if match is None:
        return _explain(argument, _FORWARD)
    mailbox, domain, _, text = match.groups()
    said = PARAMETER_SYNTAX if text is None or mailbox is None else parse_moved_rcpt_parameters(text, smtputf8)
    if isinstance(said, Reply):
        return said
    address = _read_mailbox(mailbox, domain, smtputf8, _FORWARD)
    if isinstance(address, Reply):
        return address
    request, progress = said
    return RcptReceived(address, request if request.notify or request.orcpt else None, progress)


def find_forbidden(line: bytes) -> Reply | None:
    """Say what is wrong with the octets of a line, if anything is."""
    if b"\r" in line or b"\n" in line:
        return BARE_NEWLINE
    return CONTROL_CHARACTER if _find_control(line) else None


def refuse_argument(argument: bytes) -> Reply | None:
    """Refuse anything but trailing white space (RFC 5321 4.1.1)."""
    if not argument or not argument.strip(b" \t"):
        return None
    return find_forbidden(argument) or NO_ARGUMENT


def _read_mailbox(mailbox: bytes, domain: bytes, smtputf8: bool, side: _Side) -> Address | Reply:
    octets = len(mailbox)
    if octets - len(domain) - 1 > LOCAL_PART_OCTETS or octets + 2 > PATH_OCTETS:
        return side.too_long
    if not mailbox.isascii() and not smtputf8:
        return UTF8_UNDECLARED
    try:
        text = mailbox.decode("utf-8")
    except UnicodeDecodeError:
        return side.not_utf8
    if smtputf8 and _find_harmful(text):
        return side.bad
    try:
        return Address(text, _derive_domain(domain))
    except ValueError:
        return side.bad_domain


@lru_cache(maxsize=4096)  # mail goes to few domains: 0.08 us instead of 2; at most 4,096 x 255 octets twice
def _derive_domain(octets: bytes) -> Domain:
    """Raises: ValueError: neither a domain nor an address literal."""
    if octets.startswith(b"["):
        text = octets.decode("ascii")
        _check_literal(text[1:-1])
        return to_domain(text)
    if octets.isascii() and (octets.startswith(b"-") or octets.endswith(b"-") or b"-." in octets or b".-" in octets):
        raise ValueError("a label neither begins nor ends with a hyphen")
    return to_domain(octets.decode("utf-8"))


def _check_literal(text: str) -> None:
    """Raises: ValueError: not an IPv4 or IPv6 address; a general literal needs a tag (RFC 5321 4.1.3)."""
    tag, colon, rest = text.partition(":")
    if not colon:
        IPv4Address(text)  # refuses leading zeros, which some read as octal
    elif tag.lower() == "ipv6":
        if "%" in rest:
            raise ValueError("an address literal has no zone")
        IPv6Address(rest)
    elif not rest or not tag.replace("-", "").isalnum() or tag.endswith("-"):
        raise ValueError("not an address literal")


def _explain(argument: bytes, side: _Side) -> Reply:
    """Say what is wrong with an argument that did not match."""
    forbidden = find_forbidden(argument)
    if forbidden is not None:
        return forbidden
    if argument[: len(side.keyword)].upper() != side.keyword:
        return side.syntax
    path = argument[len(side.keyword) :].removeprefix(b" ")
    if not path.startswith(b"<") or b">" not in path:
        return side.syntax
    if path.startswith(b"<@"):
        return side.source_route
    if side.match_path(path):  # so it is what follows that is wrong
        return PARAMETER_SYNTAX
    return side.bad if b"@" in path else side.no_domain
