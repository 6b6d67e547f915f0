# SPDX-License-Identifier: MIT
"""Every policy and store reply we speak, named; those said for each message also as octets.

Pure. What the grammar or the order of commands demands is said by smtp.server. Each enhanced code has the class of its
reply code (RFC 2034 4). Deviation: RFC 2034 wants none before EHLO; our 421 at the banner has one, as Postfix's has,
since it goes to logs that people read.
"""

from smarthost.mail.errors import StoreFull
from smarthost.mail.reply import Reply, reply

MAIL_OK = reply(250, "2.1.0", "Ok")
MAIL_OK_OCTETS = MAIL_OK.encode()
RCPT_OK = reply(250, "2.1.5", "Ok")
RCPT_OK_OCTETS = RCPT_OK.encode()

TOO_BUSY = reply(421, "4.3.2", "Too many sessions, try again later")
TOO_MANY_CONNECTIONS = reply(421, "4.7.0", "Too many connections from your address, try again later")
SHUTTING_DOWN = reply(421, "4.3.2", "Shutting down, try again later")
TIMED_OUT = reply(421, "4.4.2", "Timed out while waiting for you")
LOCAL_ERROR = reply(421, "4.3.0", "Local error, try again later")

STORE_FAILED = reply(451, "4.3.0", "Cannot store mail now, try again later")
STORE_FULL = reply(452, "4.3.1", "Not enough space to store mail now, try again later")
STORE_FAILED_AT_BANNER = reply(421, "4.3.0", "Cannot store mail now, try again later")
STORE_FULL_AT_BANNER = reply(421, "4.3.1", "Not enough space to store mail now, try again later")

MAIL_LOOP = reply(554, "5.4.6", "Too many hops, this message is going in circles")
NO_POSTMASTER = reply(550, "5.1.1", "No postmaster is configured here")
NO_DOMAIN = reply(553, "5.1.3", "The recipient address needs a domain")

_QUEUED = b"250 2.0.0 Ok: queued as "


def queued(id: str) -> bytes:
    """Give the octets that say: this message is ours now. Only after the store has committed."""
    return _QUEUED + id.encode("ascii") + b"\r\n"


def greeting(hostname: str) -> Reply:
    """Give the banner (RFC 5321 4.3.1: our name comes first; RFC 2034 4: no enhanced code)."""
    return reply(220, "", f"{hostname} ESMTP smarthost")


def relay_denied(client: str) -> Reply:
    """Refuse to relay for a client address, and say which setting would allow it: its postmaster will ask ours."""
    return reply(550, "5.7.1", f"Relaying denied: {client} is not among the networks of relay_from")


def for_store_failure(failure: Exception, *, at_banner: bool = False) -> Reply:
    """Give the reply for what keeps the store from filing mail: always temporary; private detail stays here."""
    if isinstance(failure, StoreFull):
        return STORE_FULL_AT_BANNER if at_banner else STORE_FULL
    return STORE_FAILED_AT_BANNER if at_banner else STORE_FAILED
