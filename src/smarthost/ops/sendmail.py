# SPDX-License-Identifier: MIT
"""sendmail(1), mailq(1) and newaliases(1) over smarthost: what cron, PHP, mutt, git and mdadm call to send mail.

One program by three names: that of argv[0] decides. Ends with a sysexits code and one line on standard error; 0 means
that the message is durable, in the queue or in the drop directory. Each part is imported when it is needed, and only
the standard library: this starts for every message.
"""

import os
import pwd
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from smarthost.ops.sendmail_options import (
    BAD_INPUT,
    IO_ERROR,
    NO_PERMISSION,
    SOFTWARE,
    USAGE,
    Asked,
    Complaint,
    read_options,
)

if TYPE_CHECKING:
    from smarthost.ops.sendmail_place import Place

_MODES = {"mailq": "list", "newaliases": "aliases"}


def main() -> None:
    """Run this process as sendmail, or by the other name it was called by."""
    _run(_name())


def mailq() -> None:
    """Run this process as mailq."""
    _run("mailq")


def newaliases() -> None:
    """Run this process as newaliases."""
    _run("newaliases")


def _name() -> str:
    called = os.path.basename(sys.argv[0]) if sys.argv else ""
    name = called.removeprefix("smarthost-")
    return name if name in _MODES else "sendmail"


def _run(name: str) -> None:
    """Carry out this process's command line, and end it: the outermost edge."""
    try:
        code = run(sys.argv[1:], name)
        sys.stdout.flush()
    except Complaint as error:
        code = error.code
        _complain(name, str(error))
    except BrokenPipeError:  # `mailq | head`: whoever read had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        code = IO_ERROR
        _complain(name, f"{error.filename or 'input or output'}: {error.strerror or error}")
    except Exception as error:  # noqa: BLE001 - the outermost edge of ops: whoever called tries again later
        code = SOFTWARE
        _complain(name, f"this is a bug of smarthost: {error!r}")
    sys.exit(code)


def _complain(name: str, text: str) -> None:
    from smarthost.ops.sendmail_queue import printable

    if sys.stderr is not None:
        sys.stderr.write(f"{name}: {printable(text)}\n")


def run(arguments: Sequence[str], name: str = "sendmail") -> int:
    """Carry out a command line; gives the exit code. Raises: Complaint."""
    asked = read_options(arguments, _MODES.get(name, "deliver"))
    if asked.mode == "aliases":
        sys.stdout.write("smarthost has no aliases, so there is nothing to rebuild: see routes and postmaster\n")
        return 0
    from smarthost.ops.sendmail_place import find_place

    place = find_place(asked.config, os.environ)
    match asked.mode:
        case "session":
            from smarthost.ops.sendmail_session import run_session

            return run_session(place.listen)
        case "list":
            from smarthost.ops.sendmail_queue import list_queue

            list_queue(place.state_dirs, place.drops, sys.stdout.write)
            return 0
        case "verify":
            from smarthost.ops.sendmail_queue import verify

            _require_addresses(asked)
            addresses = _complete_all(asked.addresses, place.host)
            return 0 if verify(addresses, place.state_dirs, sys.stdout.write) else BAD_INPUT
    if asked.flush is not None and not asked.addresses and not asked.reads_recipients:
        from smarthost.ops.sendmail_queue import flush

        flush(asked.flush, place.state_dirs, sys.stdout.write)
        return 0
    return _deliver(asked, place)


def _deliver(asked: Asked, place: "Place") -> int:
    from smarthost.ops.sendmail_hand_in import Envelope, hand_in
    from smarthost.ops.sendmail_text import author_of, complete, read_input, recipients_of, take_apart

    host = place.host
    user, full_name = _who_asks()
    _require_permission(user, place)
    if not asked.reads_recipients:
        _require_addresses(asked)
    recipients = _complete_all(asked.addresses, host)
    reverse_path = _reverse_path(asked, user, host)
    if sys.stdin is None:
        raise Complaint("standard input is closed: there is no message", BAD_INPUT)
    text = take_apart(read_input(sys.stdin.buffer, place.message_octets, ignores_dots=asked.ignores_dots))
    if asked.reads_recipients:
        recipients += [each.within(host) for each in recipients_of(text)]
    recipients = list(dict.fromkeys(recipients))
    if not recipients:
        raise Complaint("no recipients: neither the command line nor To, Cc and Bcc name any", BAD_INPUT)
    for each in (reverse_path, *recipients):
        _require_text(each)
    name = asked.full_name if asked.full_name is not None else os.environ.get("NAME") or full_name
    author = author_of(name, reverse_path or f"{user}@{host}")
    content = complete(text, author=author, now=time.time(), token=os.urandom(8).hex(), host=host)
    id = hand_in(Envelope(reverse_path, recipients), content, place.state_dirs, place.drops)
    if asked.is_verbose:
        sys.stdout.write(f"queued as {id}\n" if id else "left for the daemon\n")
    return 0


def _who_asks() -> tuple[str, str]:
    """Give the caller's user name and full name (the first part of GECOS, where & stands for the user name)."""
    uid = os.getuid()
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return f"uid{uid}", ""
    return entry.pw_name, entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())


def _require_permission(user: str, place: "Place") -> None:
    """Say now what the daemon would only log later; it is the daemon that decides."""
    if os.geteuid() == 0 or "*" in place.users or user in place.users:
        return
    owners = {os.stat(each).st_uid for each in place.drops if os.path.isdir(each)}
    if os.geteuid() not in owners:
        raise Complaint(f"{user} may not send mail: maildrop.users does not name this user", NO_PERMISSION)


def _require_addresses(asked: Asked) -> None:
    if not asked.addresses:
        raise Complaint("name the recipients on the command line, or write -t to take them from the message", USAGE)


def _complete_all(addresses: Sequence[str], host: str) -> list[str]:
    from smarthost.ops.sendmail_addresses import read_addresses

    completed: list[str] = []
    for address in addresses:
        try:
            completed += [each.within(host) for each in read_addresses(address)]
        except ValueError as error:
            raise Complaint(f"{address}: {error}", BAD_INPUT) from None
    return completed


def _reverse_path(asked: Asked, user: str, host: str) -> str:
    if asked.sender is None:
        return f"{user}@{host}"
    if asked.sender in ("", "<>"):
        return ""
    named = _complete_all([asked.sender], host)
    if len(named) != 1:
        raise Complaint(f"-f {asked.sender}: not one address", BAD_INPUT)
    return named[0] if "@" in named[0] else f"{named[0]}@{host}"


def _require_text(address: str) -> None:
    try:
        address.encode()
    except UnicodeEncodeError:
        raise Complaint(f"not an address: {address!a} is not UTF-8", BAD_INPUT) from None


if __name__ == "__main__":
    main()
