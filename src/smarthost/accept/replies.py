# SPDX-License-Identifier: MIT
"""Every policy and store reply we speak, named; those said for each message also as octets.

Pure. What the grammar or the order of commands demands is said by smtp.server. Each enhanced code has the class of its
reply code (RFC 2034 4). Deviation: RFC 2034 wants none before EHLO; our 421 at the banner has one, as Postfix's has,
since it goes to logs that people read.
"""

import re

from smarthost.mail.errors import NoNewMail, StoreFull
from smarthost.mail.reply import Reply, reply
from smarthost.smtp import states

MAIL_OK = reply(250, "2.1.0", "Ok")
MAIL_OK_OCTETS = MAIL_OK.encode()
RCPT_OK = reply(250, "2.1.5", "Ok")
RCPT_OK_OCTETS = RCPT_OK.encode()

TOO_BUSY = reply(421, "4.3.2", "Too many sessions, try again later")
TOO_MANY_CONNECTIONS = reply(421, "4.7.0", "Too many connections from your network, try again later")
BANNED_FOR_ERRORS = reply(421, "4.7.0", "Too many errors from your network, try again later")
SHUTTING_DOWN = reply(421, "4.3.2", "Shutting down, try again later")
TIMED_OUT = reply(421, "4.4.2", "Timed out while waiting for you")
LOCAL_ERROR = reply(421, "4.3.0", "Local error, try again later")

STORE_FAILED = reply(451, "4.3.0", "Cannot store mail now, try again later")
STORE_FULL = reply(452, "4.3.1", "Not enough space to store mail now, try again later")
STORE_FAILED_AT_BANNER = reply(421, "4.3.0", "Cannot store mail now, try again later")

TLS_FIRST = states.STARTTLS_FIRST  # the machine says it to all other commands
TLS_UNAVAILABLE = reply(454, "4.7.0", "TLS is not available now")  # RFC 3207 4
AUTH_FIRST = reply(530, "5.7.0", "Authentication required")  # RFC 4954 6
AUTH_OK = reply(235, "2.7.0", "Authentication successful")
AUTH_FAILED = reply(535, "5.7.8", "Authentication failed: user name or password is wrong")  # which is nobody's business
AUTH_UNAVAILABLE = reply(454, "4.7.0", "Users cannot be checked now, try again later")
AUTH_BUSY = reply(454, "4.7.0", "Too many logins at once, try again later")
AUTH_BANNED = reply(454, "4.7.0", "Too many failed logins, try again later")
TOO_MANY_LOGINS = reply(421, "4.7.0", "Too many failed logins in this session")

TOO_MANY_MESSAGES = reply(450, "4.7.1", "Too many messages in this minute, try again later")
TOO_MANY_RECIPIENTS = reply(452, "4.7.1", "Too many recipients in this minute, try again later")
TOO_MANY_ERRORS = reply(421, "4.7.0", "Too many errors in this minute, try again later")
TOO_SLOW = reply(421, "4.4.2", "This message takes too long")
NULL_SENDER_DENIED = reply(550, "5.7.1", 'Mail from <> is not for users: it needs senders = ["*"]')

MAIL_LOOP = reply(554, "5.4.6", "Too many hops, this message is going in circles")
NO_POSTMASTER = reply(550, "5.1.1", "No postmaster is configured here")
NO_DOMAIN = reply(553, "5.1.3", "The recipient address needs a domain")

_NOT_VISIBLE = re.compile(r"[^ -~]")

_QUEUED = b"250 2.0.0 Ok: queued as "


def queued(id: str) -> bytes:
    """Give the octets that say: this message is ours now. Only after the store has committed."""
    return _QUEUED + id.encode("ascii") + b"\r\n"


def chunk_taken(octets: int) -> Reply:
    """Say that a chunk was read, as RFC 3030 2 has it."""
    return reply(250, "2.0.0", f"{octets} octets received")


def greeting(hostname: str, *, is_lmtp: bool = False) -> Reply:
    """Give the banner (RFC 5321 4.3.1: our name comes first; RFC 2034 4: no enhanced code)."""
    return reply(220, "", f"{hostname} {'LMTP' if is_lmtp else 'ESMTP'} smarthost")


def relay_denied(client: str) -> Reply:
    """Refuse to relay for a client address, and say which setting would allow it: its postmaster will ask ours."""
    return reply(550, "5.7.1", f"Relaying denied: {client} is not among the networks of relay_from")


def sender_denied_to_user(sender: str, user: str) -> Reply:
    """Refuse a reverse-path to a user (RFC 6409 6.1), and say what would allow it."""
    return reply(550, "5.7.1", f"Sender denied: {clean(sender)} is not among the senders of user {clean(user, 64)}")


def sender_denied_to_network(sender: str, client: str) -> Reply:
    """Refuse a reverse-path to a client address, and say what would allow it."""
    return reply(550, "5.7.1", f"Sender denied: {clean(sender)} is not among the senders of the network of {client}")


def clean(text: str, characters: int = 256) -> str:
    """Give a stranger's text as visible ASCII, for a reply or a note; what is none shows as "?"."""
    return _NOT_VISIBLE.sub("?", text[:characters])


def for_store_failure(failure: Exception) -> Reply:
    """Give the reply for what keeps the store from filing mail: always temporary; private detail stays here."""
    if isinstance(failure, NoNewMail):
        return no_new_mail(failure, 451)
    return STORE_FULL if isinstance(failure, StoreFull) else STORE_FAILED


def no_new_mail(failure: NoNewMail, code: int) -> Reply:
    """Say why an operator wants no new mail: 421 at the banner, 451 to a client that is there already."""
    return reply(code, "4.3.2", str(failure))
