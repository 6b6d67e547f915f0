# SPDX-License-Identifier: MIT
"""The steps of a client session: one word each, the same in the machine, in errors, verdicts and records."""

from enum import StrEnum


class Step(StrEnum):
    """The reply that is due; or, "at rest", what the machine waits for from its driver."""

    CONNECT = "connect"  # before there is a machine: here so that a failure is named with the same word
    BANNER = "banner"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    TLS = "tls"  # at rest: 220 came, the handshake and secured() must follow
    AUTH = "auth"
    IDLE = "idle"  # at rest: any command may come
    RSET = "rset"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    EMPTY = "empty"  # the reply to a lone dot, which ends a DATA that nobody needed
    CONTENT = "content"  # at rest: content() and content_end() must follow
    CHUNK = "chunk"  # the reply to a BDAT that is not the last; more content may follow
    FINAL = "final"  # the final dot or BDAT LAST was queued: from here on the host may have the message
    QUIT = "quit"
