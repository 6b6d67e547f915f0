# SPDX-License-Identifier: MIT
"""The server's states and moves, as data: which command may come when, where it leads, what is said to the others.

`MOVES[state][verb]` is the state after a positive answer, or the Reply that refuses the verb in that state. What is not
in a row is not a command. smtp.server only follows this table; the diagram in the documents is drawn from it. A
negative answer to an allowed command changes no state. STARTTLS, AUTH and BDAT enter here when they are offered.
"""

from collections.abc import Mapping
from enum import IntEnum

from smarthost.mail.reply import Reply, reply


class State(IntEnum):
    """Where a session stands. An IntEnum because it is compared and hashed for every command."""

    CONNECTED = 0  # the banner is still owed
    GREETED = 1
    READY = 2  # EHLO or HELO accepted, no transaction
    MAIL = 3  # a transaction without recipients
    RECIPIENTS = 4  # at least one recipient accepted
    CONTENT = 5  # between 354 and the final dot
    ENDED = 6  # the final dot is unanswered
    CLOSED = 7


Row = Mapping[bytes, State | Reply]

HELLO_FIRST = reply(503, "5.5.1", "Say EHLO or HELO first")
MAIL_FIRST = reply(503, "5.5.1", "No transaction is open: MAIL comes first")
RCPT_FIRST = reply(503, "5.5.1", "No recipient was given: RCPT comes first")
MAIL_OPEN = reply(503, "5.5.1", "A transaction is open already: end it with DATA or RSET")
NOT_OFFERED = reply(502, "5.5.1", "Command not implemented")
NO_VALID_RECIPIENT = reply(554, "5.5.1", "No valid recipient")  # RFC 5321 3.3; for RCPT_FIRST when all were refused

UNKNOWN = reply(500, "5.5.2", "Command not recognized")
OVERLONG = reply(500, "5.5.2", "Line too long")
VRFY_SYNTAX = reply(501, "5.5.4", "Syntax: VRFY address")
TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients")  # RFC 5321 4.5.3.1.10: never 552
TOO_MANY_ERRORS = reply(421, "4.7.0", "Too many errors")
TOO_MUCH_JUNK = reply(421, "4.7.0", "Too many commands without a message")
NOT_SMTP = reply(421, "4.7.0", "This is SMTP")

_UNOFFERED = (b"AUTH", b"BDAT", b"STARTTLS", b"EXPN", b"TURN", b"ETRN", b"ATRN", b"SEND", b"SOML", b"SAML")


def _row(state: State, mail: State | Reply, rcpt: State | Reply, data: State | Reply) -> Row:
    """Give a row; what can be said at any time (RFC 5321 4.1.4) leads back to `state`, or out of the transaction."""
    return {
        b"MAIL": mail,
        b"RCPT": rcpt,
        b"DATA": data,
        b"EHLO": State.READY,
        b"HELO": State.READY,
        b"RSET": min(state, State.READY),
        b"NOOP": state,
        b"VRFY": state,
        b"HELP": state,
        b"QUIT": State.CLOSED,
        **dict.fromkeys(_UNOFFERED, NOT_OFFERED),
    }


MOVES: tuple[Row, ...] = (  # indexed by State
    {},  # CONNECTED: nothing is read before the banner
    _row(State.GREETED, HELLO_FIRST, HELLO_FIRST, HELLO_FIRST),
    _row(State.READY, State.MAIL, MAIL_FIRST, MAIL_FIRST),
    _row(State.MAIL, MAIL_OPEN, State.RECIPIENTS, RCPT_FIRST),
    _row(State.RECIPIENTS, MAIL_OPEN, State.RECIPIENTS, State.CONTENT),
    {},  # CONTENT: no commands
    {},  # ENDED: pipelined commands wait
    {},  # CLOSED
)

# A line that begins so was not written by a mail program: a browser was made to talk to us (cross-protocol attack).
FOREIGN_VERBS = frozenset(
    (b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS", b"DELETE", b"PATCH", b"TRACE", b"PRI")
)
