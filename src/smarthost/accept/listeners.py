# SPDX-License-Identifier: MIT
"""What the doors of this host are: the terms of each listener, and those they all share. Values only."""

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from smarthost.accept.clients import ClientTerms
from smarthost.accept.policy import RelayPolicy
from smarthost.mail.content import Draft
from smarthost.mail.message import Message
from smarthost.ports import Authenticator, Clock, Sink, TlsService
from smarthost.smtp.limits import Limits
from smarthost.smtp.offer import ServerSettings


class Mode(Enum):
    """What a listener is for."""

    RELAY = "relay"  # clients in some networks hand us mail, and users who log in
    SUBMISSION = "submission"  # users submit (RFC 6409)
    SUBMISSIONS = "submissions"  # users submit, TLS from the first octet (RFC 8314)
    LMTP = "lmtp"  # as RELAY, with a reply for each recipient (RFC 2033)


class ListenerTerms(Struct, frozen=True, kw_only=True):
    """What holds at one listener.

    `settings.is_lmtp` goes with Mode.LMTP; `settings.normalises_newlines` is for clients in the networks of `policy`
    only. `tls`: None means that there is no certificate. `requires_tls`: no mail and no AUTH before TLS.
    `implicit_tls`: TLS from the first octet, as SUBMISSIONS always has it. `users`: who may log in, and from anywhere;
    inside TLS, or in clear from and to loopback unless `requires_tls`. `xclient_from`: networks (CIDR) whose XCLIENT is
    believed. `transfer_from`: networks whose nodes may hand over their queues, and so relay what they like.
    """

    settings: ServerSettings
    policy: RelayPolicy
    mode: Mode = Mode.RELAY
    tls: TlsService | None = None
    requires_tls: bool = False
    implicit_tls: bool = False
    users: Authenticator | None = None
    xclient_from: tuple[str, ...] = ()
    transfer_from: tuple[str, ...] = ()


class ReceptionTerms(Struct, frozen=True, kw_only=True):
    """What all receptions share.

    `add` files a message and calls back with None once it is durable, or with what prevented it. `refusal` says why new
    mail cannot be taken now, or None. `sign` is given what clients who may relay hand us, before `add`: it calls back
    once, at once or later, with the message to file, of the same id.
    """

    limits: Limits
    clock: Clock
    sink: Sink
    next_id: Callable[[], str]
    add: Callable[[Message, Callable[[Exception | None], None]], None]
    draft: Callable[[], Draft]
    refusal: Callable[[], Exception | None]
    sign: Callable[[Message, Callable[[Message], None]], None] | None = None
    clients: ClientTerms = ClientTerms()
