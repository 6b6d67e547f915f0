# SPDX-License-Identifier: MIT
"""Reads XCLIENT, by which a proxy that is trusted says for whom it speaks (Postfix's XCLIENT_README; no RFC).

Decides nothing about who is trusted: smtp.server calls this only where the driver offered it. Strict all the same, for
the values go where the connection's own would: policy, logs, Received fields. Pure.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address

from smarthost.mail.reply import Reply, reply
from smarthost.smtp.grammar import parse_hello
from smarthost.smtp.limits import DOMAIN_OCTETS, USERNAME_OCTETS
from smarthost.smtp.wire import XclientReceived
from smarthost.smtp.xtext import decode_xtext

UNAVAILABLE = "[UNAVAILABLE]"
TEMPORARILY_UNAVAILABLE = "[TEMPUNAVAIL]"

XCLIENT_SYNTAX = reply(501, "5.5.4", "Syntax: XCLIENT attribute=value ...; one is malformed, unknown or given twice")

_match_name = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*+)").fullmatch
_match_port = re.compile(r"[0-9]{1,5}").fullmatch


def parse_xclient(argument: bytes) -> XclientReceived | Reply:
    """Read what follows "XCLIENT ": attributes in their order, values decoded, addresses without their "IPV6:"."""
    attributes: dict[str, str] = {}
    for word in argument.rstrip(b" \t").split(b" "):
        name, equals, value = word.partition(b"=")
        keyword = name.upper().decode("ascii", "replace")
        text = decode_xtext(value)
        read = _READERS.get(keyword)
        if read is None or not equals or not text or keyword in attributes:
            return XCLIENT_SYNTAX
        text = text.upper() if text.upper() in (UNAVAILABLE, TEMPORARILY_UNAVAILABLE) else read(text)
        if not text:
            return XCLIENT_SYNTAX
        attributes[keyword] = text
    return XclientReceived(tuple(attributes.items()))


def _read_name(text: str) -> str:
    return text if len(text) <= DOMAIN_OCTETS and _match_name(text) else ""


def _read_address(text: str) -> str:
    try:
        if text[:5].upper() == "IPV6:":
            return "" if "%" in text else str(IPv6Address(text[5:]))
        return str(IPv4Address(text))
    except ValueError:
        return ""


def _read_port(text: str) -> str:
    return text if _match_port(text) and int(text) < 65536 else ""


def _read_protocol(text: str) -> str:
    return text.upper() if text.upper() in ("SMTP", "ESMTP") else ""


def _read_hello(text: str) -> str:
    return "" if isinstance(parse_hello(text.encode("ascii")), Reply) else text


def _read_login(text: str) -> str:
    return text if len(text) <= USERNAME_OCTETS else ""


_READERS: Mapping[str, Callable[[str], str]] = {
    "NAME": _read_name,
    "ADDR": _read_address,
    "PORT": _read_port,
    "PROTO": _read_protocol,
    "HELO": _read_hello,
    "LOGIN": _read_login,
    "DESTADDR": _read_address,
    "DESTPORT": _read_port,
}
