# SPDX-License-Identifier: MIT
"""`mailq` (sendmail -bp), `sendmail -q` and `sendmail -bv`: what waits as Postfix prints it, and asking for it to go.

The layout is that of Postfix's postqueue with long queue ids, line by line, since scripts read it: "Mail queue is
empty", the headings, "*" behind an id that is being tried and "!" behind one on hold, reasons in parentheses, the
total. Only root and the daemon's own user may ask. Standard library only.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smarthost.ops.sendmail_hand_in import UNFINISHED, NotNow, Unreachable, exchange
from smarthost.ops.sendmail_options import NO_PERMISSION, UNAVAILABLE, USAGE, Complaint

_HEADINGS = ("----Queue ID-----", "--Size--", "---Arrival Time----", "--Sender/Recipient------")
_REASON_COLUMN = 76  # Postfix right-aligns reasons there
_FILTERS = {"I": "id", "R": "domain", "S": "reverse_path"}
Write = Callable[[str], object]


def printable(text: str) -> str:
    """Escape what a terminal would obey or hide, as ops.words does."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode() for each in text
    )


def list_queue(state_dirs: Sequence[str], drops: Sequence[str], write: Write) -> None:
    """Print the queue, and how much waits in the drop directory. Raises: Complaint."""
    messages = octets = 0
    waiting = _waiting_drops(drops)
    try:
        for answer in _ask(state_dirs, {"verb": "queue-find"}):
            if answer["what"] == "message":
                if not messages:
                    write("{:<17} {:>8} {:<19} {}\n".format(*_HEADINGS))
                messages += 1
                octets += answer["message"]["octets"]
                write("".join(f"{line}\n" for line in _entry(answer["message"])) + "\n")
    except Unreachable as error:
        left = f"; {waiting} messages wait for it in {drops[0]}" if waiting else ""
        raise Complaint(f"{error}{left}", error.code) from None
    if waiting:
        write(f"-- {waiting} more in {drops[0]}, not yet taken up by the daemon\n")
    if messages:
        write(f"-- {(octets + 1023) // 1024} Kbytes in {messages} Request{'' if messages == 1 else 's'}.\n")
    else:
        write("Mail queue is empty\n")


def flush(which: str, state_dirs: Sequence[str], write: Write) -> None:
    """Make mail due now: all ("" ), "IID", "RDOMAIN" or "SSENDER"; "30m" asks for a daemon's interval, and is ignored.

    Raises: Complaint.
    """
    if which[:1].isdigit():
        return
    if which and (which[0] not in _FILTERS or not which[1:]):
        raise Complaint(f"-q{which}: write -q, -qIID, -qRDOMAIN or -qSSENDER", USAGE)
    chosen = {_FILTERS[which[0]]: which[1:].strip("<>")} if which else {}
    changed = 0
    request = {"verb": "queue-change", "change": "retry", "which": chosen, "reason": "sendmail -q"}
    for answer in _ask(state_dirs, request):
        if answer["what"] == "changed":
            changed += len(answer["recipients"]) + len(answer["wished"])
    write(f"{changed} recipient{'' if changed == 1 else 's'} due now\n")


def verify(addresses: Sequence[str], state_dirs: Sequence[str], write: Write) -> bool:
    """Print for each address what would happen to mail for it; False: one would not be taken. Raises: Complaint."""
    is_fine = True
    for address in addresses:
        try:
            for answer in _ask(state_dirs, {"verb": "plan-address", "address": address}):
                if answer["what"] == "explained":
                    write(f"{printable(address)}... {printable(answer['explanation']['conclusion'])}\n")
        except (Unreachable, NotNow):
            raise
        except Complaint as error:
            if error.code == NO_PERMISSION:
                raise
            is_fine = False
            write(f"{printable(address)}... {printable(str(error))}\n")
    return is_fine


def _ask(state_dirs: Sequence[str], request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Ask the first daemon that answers."""
    denied = ""
    for state_dir in state_dirs:
        answers = exchange(state_dir, request)
        try:
            first = next(answers, None)
        except Unreachable as error:
            denied = denied or (str(error) if "permission" in str(error) else "")
            continue
        if first is not None:
            if first["what"] != "done":
                yield first
            yield from answers
        return
    if denied:
        raise Complaint(f"{denied}: only root and the user whose daemon it is may ask", NO_PERMISSION)
    raise Unreachable(f"smarthost is not running: no daemon answers at {' or '.join(state_dirs)}", UNAVAILABLE)


def _entry(message: dict[str, Any]) -> Iterator[str]:
    recipients = message["recipients"]
    states = {each["state"] for each in recipients}
    mark = "*" if "leased" in states else "!" if states == {"held"} else ""
    sender = printable(message["reverse_path"]) or "MAILER-DAEMON"
    at = time.ctime(message["received_at"])[:19]
    yield f"{message['id'] + mark:<17} {message['octets']:>8} {at} {sender}"
    by_reason: dict[str, list[str]] = {}
    for each in recipients:
        by_reason.setdefault(each.get("why") or each.get("last_reply") or "", []).append(each["address"])
    for reason in sorted(by_reason):  # those without one first, as there is nothing to say about them
        if reason:
            yield f"{'(' + printable(reason) + ')':>{_REASON_COLUMN + 2}}"
        for address in by_reason[reason]:
            yield f"{'':<17} {'':>8} {'':<19} {printable(address)}"


def _waiting_drops(drops: Sequence[str]) -> int:
    try:
        with os.scandir(drops[0]) as found:
            return sum(not each.name.startswith(UNFINISHED) and each.is_file(follow_symlinks=False) for each in found)
    except OSError:
        return 0
