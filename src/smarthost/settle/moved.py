# SPDX-License-Identifier: MIT
"""The settlement of recipients that another node has taken over: here they are at their end, there they go on.

Pure. No attempt is counted and no report is owed: what the sender is to hear, the other node says.
"""

from collections.abc import Callable, Mapping

from smarthost.mail.hop import TlsFacts
from smarthost.mail.lease import Lease
from smarthost.mail.record import Kind, Record
from smarthost.mail.reply import Reply
from smarthost.mail.settlement import SettledRecipient, Settlement, State
from smarthost.settle.record import describe_tls

_STATUS = "2.0.0"


def settle_moved(
    lease: Lease,
    taken: Mapping[int, tuple[str, Reply]],
    *,
    node: str,
    address: str,
    tls: TlsFacts | None,
    now: float,
    next_seq: Callable[[], int],
) -> Settlement:
    """Settle the recipients of these indices. `taken`: their id at `node` ("HOST:PORT"), and what it said."""
    recipients = []
    records = []
    for index, (id, reply) in sorted(taken.items()):
        leased = lease.recipients[index]
        why = f"moved to {node} as {id}" if id else f"moved to {node}"
        said = str(reply)
        recipients.append(
            SettledRecipient(
                leased.n, leased.address, leased.domain, State.RELAYED, 0.0, leased.attempts, _STATUS, said, why
            )
        )
        records.append(
            Record(
                next_seq(),
                Kind.MOVED,
                now,
                lease.id,
                leased.address,
                lease.reverse_path,
                leased.attempts,
                _STATUS,
                said,
                why,
                node,
                address,
                tls=describe_tls(tls),
                octets=lease.octets,
                client=lease.client,
                queued_s=max(0.0, now - lease.received_at),
            )
        )
    return Settlement(lease.id, tuple(recipients), tuple(records))
