# SPDX-License-Identifier: MIT
"""The SMTP domain that feeds the queue: whom it relays for, and what it tells a client when the disk will not have it.

Whatever fails here is temporary to the peer: 452 or 451 while the message comes, 421 at its end, where Twisted's server
knows only 250 and 550. Never acknowledges what the queue has not made durable. Twisted's SMTP servers call it, through
a delivery object. A crash leaves what the spool's does.
"""

import errno
import ipaddress
import os
from contextlib import ExitStack
from typing import Any

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.mail import smtp
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

from smarthost.compat.addresses import read_path, read_recipient, why_not_said
from smarthost.compat.envelope import write_envelope
from smarthost.compat.words import shown
from smarthost.mail.address import Address

_SHOWN = 100  # characters of an address in a log line
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DomainQueuer:
    """A domain whose mail goes into `service.queue`, for authenticated users and for clients on this machine.

    Two differences from the original: a null reverse-path is accepted, or bounces could not pass (RFC 5321 section
    4.5.5), and an address that could not be passed on, or routed, is not: nobody would hear of it later.
    """

    def __init__(self, service: Any, authenticated: bool = False) -> None:
        self.service = service
        self.authed = authenticated

    def exists(self, user: Any) -> Any:
        """Give the callable that starts a message to the user, an smtp.User or what looks like one.

        Raises: SMTPBadRcpt if we do not relay for this client, an address lacks its local part or domain, or the
        relaying side could not say or route it.
        """
        if (
            self.willRelay(user.dest, user.protocol)
            and _is_sender(_text(user.orig))
            and _is_recipient(_text(user.dest))
        ):
            return lambda: self.startMessage(user)
        raise _bad_recipient(user)

    def willRelay(self, address: Any, protocol: Any) -> bool:
        """Tell whether we relay for the client of a protocol; the address does not matter here.

        We do for authenticated users, over UNIX sockets, and for peers on loopback, whichever family.
        """
        if self.authed:
            return True
        peer = protocol.transport.getPeer()
        return isinstance(peer, UNIXAddress) or _is_loopback(getattr(peer, "host", None))

    def startMessage(self, user: Any) -> Any:
        """Begin a message in the queue, its envelope durable, and give the IMessage that takes its lines.

        Raises: SMTPServerError, temporary, if the directory does not take it.
        """
        sender, recipient = _text(user.orig), _text(user.dest)
        queue = self.service.queue
        try:
            with ExitStack() as undo:
                envelope, message = queue.createNewMessage()
                undo.callback(message.connectionLost)
                with envelope:
                    write_envelope(envelope, sender, recipient)
                undo.pop_all()
        except OSError as error:
            raise _local_trouble(error, "begin") from error
        if queue.noisy:
            log.msg(f"queueing {_name_of(message)}from {sender[:_SHOWN]!r} to {recipient[:_SHOWN]!r}")
        return QueuedMessage(message, user.protocol)


@implementer(smtp.IMessage)
class QueuedMessage:
    """A message on its way into the queue, and the server protocol that hears what becomes of it."""

    def __init__(self, message: Any, protocol: Any) -> None:
        self.message = message
        self.protocol = protocol

    def __getattr__(self, name: str) -> Any:
        """Give what the queue's own message has besides: fp, name, finalName."""
        if name == "message":  # while it is unpickled or copied: there is none to ask
            raise AttributeError(name)
        return getattr(self.message, name)

    def lineReceived(self, line: bytes) -> None:
        """Pass a line on. Raises: SMTPServerError, temporary; the message is given up then."""
        try:
            self.message.lineReceived(line)
        except OSError as error:
            self.message.connectionLost()  # the server forgets a receiver whose first line fails
            raise _local_trouble(error, "take a line of") from error

    def eomReceived(self) -> "Deferred[Any]":
        """Make the message durable; the Deferred has fired then.

        On failure the server would say 550, which bounces. So we say 421 and hang up, once a transaction, and the
        Deferred never fires. Another recipient's message that was durable before this one failed will come again.
        """
        if self._has_hung_up():
            self.message.connectionLost()  # nobody hears our 250: kept, it would only be a duplicate
            return Deferred()
        kept: Deferred[Any] = self.message.eomReceived()
        return kept.addErrback(self._hang_up)

    def connectionLost(self) -> None:
        """Give the message up."""
        self.message.connectionLost()

    def _has_hung_up(self) -> bool:
        return bool(getattr(getattr(self.protocol, "transport", None), "disconnecting", False))

    def _hang_up(self, failure: Failure) -> "Failure | Deferred[Any]":
        if not hasattr(self.protocol, "sendCode"):
            return failure
        log.msg(f"cannot keep a message, its client is told to come again: {failure.getErrorMessage()}")
        if not self._has_hung_up():
            self.protocol.sendCode(421, b"4.3.0 Cannot keep the message now, closing; try again later")
            self.protocol.transport.loseConnection()
        return Deferred()


def _name_of(message: Any) -> str:
    """Name a message as the queue does; a program's own queue may give what has no name."""
    path = getattr(message, "finalName", "")
    return f"{shown(os.path.basename(path).removesuffix('-D'))} " if path else ""  # noqa: PTH119


def _local_trouble(error: OSError, verb: str) -> smtp.SMTPServerError:
    log.msg(f"cannot {verb} a message, its client is told to try again: {error}")
    # octets, where the other SMTPServerErrors have text: after DATA the server sends them as they are
    if error.errno in _FULL:
        return smtp.SMTPServerError(452, b"4.3.1 No space for the message now, try again later")
    return smtp.SMTPServerError(451, b"4.3.0 Cannot keep the message now, try again later")


def _bad_recipient(user: Any) -> smtp.SMTPBadRcpt:
    try:
        return smtp.SMTPBadRcpt(user)
    except (smtp.AddressError, UnicodeError):  # it parses the address, which a str of the caller's need not survive
        return smtp.SMTPBadRcpt("")


def _text(address: Any) -> str:
    """Give an smtp.Address or str as text, "" for the null reverse-path, surrogates for what is not ASCII in it."""
    octets = bytes(address) if isinstance(address, smtp.Address) else b""
    text = octets.decode("ascii", "surrogateescape") if octets else str(address)
    return "" if text == "<>" else text


def _is_sender(text: str) -> bool:
    path = read_path(text)
    local, _, domain = path.rpartition("@")
    return not path or bool(local and domain and not why_not_said(path))


def _is_recipient(text: str) -> bool:
    return isinstance(read_recipient(read_path(text)), Address)


def _is_loopback(host: object) -> bool:
    if not isinstance(host, str):  # four octets would be an address, too
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
