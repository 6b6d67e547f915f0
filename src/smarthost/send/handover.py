# SPDX-License-Identifier: MIT
"""Hands one message of our queue to another node over an open session, with all that this node knows of it.

Says what the other node answered for each recipient; judges no answer, opens no session, settles nothing (drain.py
does). The content leaves as it lies here, behind the prefix we wrote; nothing is converted or signed. If the session
breaks behind the final dot, nobody knows who has the message: then both have it, and at worst it arrives twice.
"""

import re

from msgspec import Struct

from smarthost.mail.address import split_domain
from smarthost.mail.content import Content
from smarthost.mail.envelope import DsnRequest, SenderTls
from smarthost.mail.errors import LocalProtocolError, SmarthostError
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.progress import Origin, Progress
from smarthost.mail.reply import Reply
from smarthost.mail.settlement import State
from smarthost.send.offer import share_out
from smarthost.send.session import Session, TransactionLost
from smarthost.smtp.client import Transaction
from smarthost.smtp.transfer import write_origin, write_progress
from smarthost.smtp.wire import TransactionEnded

CLOSING = 421
_find_id = re.compile(r"\bqueued as ([0-9a-z]{16})\b").search
_USER = "user:"  # as a route's senders name who logged in


class HandedOver(Struct, frozen=True):
    """What was heard of a lease's recipients, by index; of those in neither nothing certain is known.

    `taken`: the id that each has at the other node, and the reply. `refused`: why; not `was_asked`: we know without
    having asked. `broke`: what ended the session.
    """

    taken: dict[int, tuple[str, Reply]]
    refused: dict[int, str]
    broke: str = ""
    was_asked: bool = True


async def hand_over(session: Session, lease: Lease, content: Content) -> HandedOver:
    """Hand over all recipients of a lease, in as many transactions as the other node's limits ask for.

    Safe to cancel: the connection is aborted then.
    """
    offered = session.extensions
    assert offered is not None, "the session is set up"
    everybody = list(range(len(lease.recipients)))
    octets = lease.octets + len(lease.prefix)
    if offered.refuses_size(octets):
        why = f"it has {octets} octets, the other node takes {offered.size}"
        return HandedOver({}, dict.fromkeys(everybody, why), was_asked=False)
    heard = HandedOver({}, {})
    for indices in share_out(lease, everybody, offered):
        try:
            ended = await session.transact(_compose(lease, indices, octets), content, lease.prefix)
        except LocalProtocolError as error:  # nothing was written
            heard.refused.update(dict.fromkeys(indices, f"cannot be sent there: {error}"))
            continue
        if broke := _listen(ended, indices, heard):
            return HandedOver(heard.taken, heard.refused, broke)
    return heard


def origin_of(lease: Lease) -> Origin:
    """Say where a message came from; who logged in is not stored by name, but may be known all the same."""
    user = ""
    for recipient in lease.recipients:
        scope = split_domain(recipient.domain)[1]
        if scope.startswith(_USER):
            user = scope.removeprefix(_USER)
            break
    else:
        if lease.sender not in (lease.reverse_path, lease.client):
            user = lease.sender
    return Origin(lease.received_at, lease.client, lease.sender, user)


def progress_of(recipient: LeasedRecipient) -> Progress:
    """Say how far a recipient has come."""
    return Progress(
        State.HELD if recipient.is_held else State.DEFERRED,
        recipient.due,
        recipient.attempts,
        recipient.last_status,
        recipient.last_reply,
        recipient.why,
        recipient.host,
        recipient.is_delay_told,
    )


def _compose(lease: Lease, indices: list[int], octets: int) -> Transaction:
    recipients = [lease.recipients[index] for index in indices]
    return Transaction(
        lease.reverse_path,
        tuple([each.address for each in recipients]),
        octets,
        lease.body,
        lease.smtputf8,
        lease.ret,
        lease.envid,
        lease.tls is SenderTls.REQUIRED,
        tuple([DsnRequest(each.notify, each.orcpt) for each in recipients]),
        write_origin(origin_of(lease)),
        tuple([write_progress(progress_of(each)) for each in recipients]),
    )


def _listen(ended: TransactionEnded | TransactionLost, indices: list[int], heard: HandedOver) -> str:
    """Note what was heard; gives what broke the session, or ""."""
    if isinstance(ended, TransactionLost):
        if ended.heard is not None:
            _note(ended.heard, indices, heard)
        error: SmarthostError = ended.error
        return f"{error} (at {ended.step})"
    return _note(ended, indices, heard)


def _note(ended: TransactionEnded, indices: list[int], heard: HandedOver) -> str:
    for index, reply in zip(indices, ended.recipients, strict=True):
        decisive = _decisive(ended, reply)
        if decisive is None:
            continue
        if decisive.code == CLOSING:
            return f"the other node said {decisive}"
        if decisive.is_positive:
            found = _find_id(" ".join(decisive.lines))
            heard.taken[index] = (found[1] if found else "", decisive)
        else:
            heard.refused[index] = f"the other node said {decisive}"
    return ""


def _decisive(ended: TransactionEnded, recipient: Reply | None) -> Reply | None:
    """Give the reply that decided about a recipient; None: none was heard."""
    for reply in (ended.mail, recipient, ended.data):
        if reply is not None and reply.code >= 400:
            return reply
    return ended.final if recipient is not None else None
