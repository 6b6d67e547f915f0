# SPDX-License-Identifier: MIT
"""What is wrong with a row: its checksum, or where it has none, values that no row of ours holds. Pure; in the child.

"" means that nothing is known to be wrong. The texts follow "damaged: " in a recipient's `why`, in records and the log.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from smarthost.backends.sqlite import checksums
from smarthost.mail.identity import encode_id

MESSAGE = (
    "key", "tag", "received_at", "reverse_path", "body", "smtputf8", "client", "sender", "octets", "in_file", "prefix",
    "ret", "envid", "tls", "checksum", "recipients",
)  # fmt: skip
RECIPIENT = (
    "message", "n", "address", "domain", "state", "due", "attempts", "last_reply", "status", "why", "host", "owed_at",
    "awaits_host", "notify", "orcpt", "dsn", "delay_told", "checksum",
)  # fmt: skip
STATES = frozenset({"deferred", "held", "relayed", "bounced", "expired", "cancelled"})  # mail.settlement.State
OPEN_STATES = frozenset({"deferred", "held"})
_BODIES = frozenset({"7BIT", "8BITMIME", "BINARYMIME"})  # mail.envelope.Body
_TLS = frozenset({"", "required", "optional"})  # mail.envelope.SenderTls

ENVELOPE = "its envelope does not match its checksum"
ADDRESS = "its address does not match its checksum"
CONTENT = "its content does not match its checksum"
NO_CONTENT = "its content is gone"
NO_MESSAGE = "its message is gone"
NO_TEXT = "an address in it is no text"


def of_message(row: Sequence[Any]) -> str:
    """Judge a message's columns, in the order of MESSAGE."""
    (key, tag, received_at, reverse_path, body, smtputf8, client, sender, _, in_file, prefix, ret, envid, tls,
     checksum, recipients) = row  # fmt: skip
    if not isfinite(received_at):
        return "its time is no time"
    if checksum is not None:
        expected = checksums.of_message(
            encode_id(key, tag), reverse_path, body, smtputf8, client, sender, prefix, ret, envid, tls,
            recipients or 0, checksums.content_of(checksum),
        )  # fmt: skip
        return "" if expected == checksum else ENVELOPE
    if body not in _BODIES or tls not in _TLS or smtputf8 not in (0, 1) or in_file not in (0, 1):
        return "its parameters are none that we know"
    return "" if _is_text(reverse_path) else NO_TEXT


def of_recipient(
    n: int, address: str, domain: str, notify: int, orcpt: str, checksum: int | None, whole: int | None
) -> str:
    """Judge what does not change in a recipient; `whole`: the checksum of its message, None when that has none."""
    if checksum is not None and whole is not None:
        return "" if checksums.of_recipient(whole, n, address, domain, notify, orcpt) == checksum else ADDRESS
    if checksum is not None or whole is not None:
        return ADDRESS
    if not 0 <= notify < 16:
        return "its parameters are none that we know"
    return "" if address and domain and _is_text(address) and _is_text(domain) else NO_TEXT


def of_progress(state: str, due: float, attempts: int) -> str:
    """Judge what changes in a recipient."""
    if state not in STATES:
        return f"its state is none that we know: {state!r:.40}"
    if not isfinite(due):
        return "its due time is no time"
    return "" if 0 <= attempts < 1 << 31 else "its number of attempts is none"


def _is_text(text: str) -> bool:
    return text.isprintable() and "\ufffd" not in text  # which stands for octets that are no UTF-8
