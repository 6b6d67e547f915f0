# SPDX-License-Identifier: MIT
"""The server's states and moves, as data: which command may come when, where it leads, what is said to the others.

`MOVES[state][verb]` is the state after a positive answer, or the Reply that refuses the verb in that state. What is not
in a row is not a command. smtp.server only follows this table; the diagram in the documents is drawn from it. A
negative answer to an allowed command changes no state, but for a chunk of content (RFC 3030 2). Whether STARTTLS, AUTH
and XCLIENT are there at all is said by the Offer, and asked before the table is.
"""

from collections.abc import Mapping
from enum import IntEnum

from smarthost.mail.reply import Reply, reply


class State(IntEnum):
    """Where a session stands. An IntEnum because it is compared and hashed for every command."""

    CONNECTED = 0  # the banner is still owed
    SECURING = 1  # 220 to STARTTLS is said, the handshake is not done
    GREETED = 2
    VOID = 3  # a chunk of content was refused: RSET must come (RFC 3030 2)
    READY = 4  # EHLO or HELO accepted, no transaction
    MAIL = 5  # a transaction without recipients
    RECIPIENTS = 6  # at least one recipient accepted
    CHUNKED = 7  # between two chunks of content
    CHUNK = 8  # within one
    CONTENT = 9  # between 354 and the final dot
    ENDED = 10  # the final dot, or the last chunk, is unanswered
    CLOSED = 11


# The same as globals: 3.11 takes some 50 ns to find a member in its enum, and the machine asks forty times a message.
CONNECTED = State.CONNECTED
SECURING = State.SECURING
GREETED = State.GREETED
VOID = State.VOID
READY = State.READY
MAIL = State.MAIL
RECIPIENTS = State.RECIPIENTS
CHUNKED = State.CHUNKED
CHUNK = State.CHUNK
CONTENT = State.CONTENT
ENDED = State.ENDED
CLOSED = State.CLOSED

Row = Mapping[bytes, State | Reply]

HELLO_FIRST = reply(503, "5.5.1", "Say EHLO or HELO first")
LHLO_FIRST = reply(503, "5.5.1", "Say LHLO first")
NOT_LMTP = reply(500, "5.5.1", "This is LMTP: say LHLO")  # RFC 2033 4.1
MAIL_FIRST = reply(503, "5.5.1", "No transaction is open: MAIL comes first")
RCPT_FIRST = reply(503, "5.5.1", "No recipient was given: RCPT comes first")
MAIL_OPEN = reply(503, "5.5.1", "A transaction is open already: end it with DATA or RSET")
CONTENT_BEGUN = reply(503, "5.5.1", "Chunks of content were sent already: only BDAT or RSET may follow")
RSET_FIRST = reply(503, "5.5.1", "A chunk was refused: RSET comes first")
# RFC 4954 4 has it so for AUTH. RFC 3207 4.2 would have STARTTLS forget the transaction, silently: nobody means that.
NOT_NOW = reply(503, "5.5.1", "Not within a transaction: end it with DATA or RSET")
BINARY_NEEDS_BDAT = reply(503, "5.5.1", "BODY=BINARYMIME is sent with BDAT")  # RFC 3030 3
NOT_OFFERED = reply(502, "5.5.1", "Command not implemented")
NO_VALID_RECIPIENT = reply(554, "5.5.1", "No valid recipient")  # RFC 5321 3.3; for RCPT_FIRST when all were refused

STARTTLS_FIRST = reply(530, "5.7.0", "Must issue a STARTTLS command first")  # RFC 3207 4
TLS_IN_USE = reply(503, "5.5.1", "TLS is in use already")
TLS_FIRST = reply(538, "5.7.11", "STARTTLS comes before AUTH")  # RFC 4954 6
AUTHENTICATED = reply(503, "5.5.1", "Authenticated already")  # RFC 4954 4
NOT_LAST = reply(421, "4.7.0", "Nothing may be sent behind STARTTLS before TLS is in use")
CANNOT_FOLLOW = reply(421, "4.7.0", "Nobody knows where the next command begins")
BDAT_SYNTAX = reply(501, "5.5.4", "Syntax: BDAT octets [LAST]")

UNKNOWN = reply(500, "5.5.2", "Command not recognized")
OVERLONG = reply(500, "5.5.2", "Line too long")
VRFY_SYNTAX = reply(501, "5.5.4", "Syntax: VRFY address")
TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients")  # RFC 5321 4.5.3.1.10: never 552
TOO_MANY_ERRORS = reply(421, "4.7.0", "Too many errors")
TOO_MUCH_JUNK = reply(421, "4.7.0", "Too many commands without a message")
NOT_SMTP = reply(421, "4.7.0", "This is SMTP")

_UNOFFERED = (b"EXPN", b"TURN", b"ETRN", b"ATRN", b"SEND", b"SOML", b"SAML")


def _row(
    state: State,
    *,
    mail: State | Reply,
    rcpt: State | Reply,
    content: tuple[State | Reply, State | Reply],
    session: tuple[State | Reply, State | Reply, State | Reply],
) -> Row:
    """Give a row; `content` is DATA and BDAT, `session` is STARTTLS, AUTH and XCLIENT.

    What can be said at any time (RFC 5321 4.1.4) leads back to `state`, or out of the transaction.
    """
    return {
        b"MAIL": mail,
        b"RCPT": rcpt,
        b"DATA": content[0],
        b"BDAT": content[1],
        b"STARTTLS": session[0],
        b"AUTH": session[1],
        b"XCLIENT": session[2],
        b"EHLO": State.READY,
        b"HELO": State.READY,
        b"RSET": State.GREETED if state is State.GREETED else State.READY,
        b"NOOP": state,
        b"VRFY": state,
        b"HELP": state,
        b"QUIT": State.CLOSED,
        **dict.fromkeys(_UNOFFERED, NOT_OFFERED),
    }


_NO_SESSION = (NOT_NOW, NOT_NOW, NOT_NOW)

MOVES: tuple[Row, ...] = (  # indexed by State
    {},  # CONNECTED: nothing is read before the banner
    {},  # SECURING: no octet is a command
    _row(
        State.GREETED,
        mail=HELLO_FIRST,
        rcpt=HELLO_FIRST,
        content=(HELLO_FIRST, HELLO_FIRST),
        session=(HELLO_FIRST, HELLO_FIRST, State.GREETED),
    ),
    _row(
        State.VOID,
        mail=RSET_FIRST,
        rcpt=RSET_FIRST,
        content=(RSET_FIRST, RSET_FIRST),
        session=(RSET_FIRST, RSET_FIRST, RSET_FIRST),
    ),
    _row(
        State.READY,
        mail=State.MAIL,
        rcpt=MAIL_FIRST,
        content=(MAIL_FIRST, MAIL_FIRST),
        session=(State.SECURING, State.READY, State.GREETED),
    ),
    _row(
        State.MAIL,
        mail=MAIL_OPEN,
        rcpt=State.RECIPIENTS,
        content=(RCPT_FIRST, RCPT_FIRST),
        session=_NO_SESSION,
    ),
    _row(
        State.RECIPIENTS,
        mail=MAIL_OPEN,
        rcpt=State.RECIPIENTS,
        content=(State.CONTENT, State.CHUNK),
        session=_NO_SESSION,
    ),
    _row(
        State.CHUNKED,
        mail=MAIL_OPEN,
        rcpt=CONTENT_BEGUN,
        content=(CONTENT_BEGUN, State.CHUNK),  # RFC 3030 2
        session=_NO_SESSION,
    ),
    {},  # CHUNK: no commands
    {},  # CONTENT: likewise
    {},  # ENDED: pipelined commands wait
    {},  # CLOSED
)


def _to_lmtp(row: Row) -> Row:
    """Give the row of RFC 2033 4.1, whose hello is LHLO."""
    if not row:
        return row
    moves = {verb: LHLO_FIRST if move is HELLO_FIRST else move for verb, move in row.items()}
    return {**moves, b"EHLO": NOT_LMTP, b"HELO": NOT_LMTP, b"LHLO": State.READY}


LMTP_MOVES: tuple[Row, ...] = tuple(_to_lmtp(row) for row in MOVES)

# A line that begins so was not written by a mail program: a browser was made to talk to us (cross-protocol attack).
FOREIGN_VERBS = frozenset(
    (b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS", b"DELETE", b"PATCH", b"TRACE", b"PRI")
)

_BEFORE_TLS = frozenset((b"EHLO", b"HELO", b"LHLO", b"STARTTLS", b"NOOP", b"QUIT", b"XCLIENT"))


def _in_clear(row: Row) -> Row:
    """Give a row of a server that wants TLS first."""
    return {verb: move if verb in _BEFORE_TLS else STARTTLS_FIRST for verb, move in row.items()}


CLEAR_MOVES: tuple[Row, ...] = tuple(map(_in_clear, MOVES))
LMTP_CLEAR_MOVES: tuple[Row, ...] = tuple(map(_in_clear, LMTP_MOVES))


def moves_of(*, is_lmtp: bool, is_clear: bool) -> tuple[Row, ...]:
    """Give the table to follow; `is_clear`: TLS is required and not in use."""
    if is_clear:
        return LMTP_CLEAR_MOVES if is_lmtp else CLEAR_MOVES
    return LMTP_MOVES if is_lmtp else MOVES
