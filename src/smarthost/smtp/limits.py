# SPDX-License-Identifier: MIT
"""Every number of RFC 5321 4.5.3 in one place, for both roles, with its source; and the limits an operator may set.

Sizes are octets with the CRLF, times are seconds. Constants are fixed by protocol or design; `Limits` is what a
listener allows, and `check_limits` refuses values below what the RFC demands or beyond what the machines can keep.
"""

from math import isfinite

from msgspec import Struct

from smarthost.mail.errors import ConfigError

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE

# Sizes (RFC 5321 4.5.3.1)

LOCAL_PART_OCTETS = 64  # 4.5.3.1.1
DOMAIN_OCTETS = 255  # 4.5.3.1.2; a name that DNS can hold has 253
PATH_OCTETS = 256  # 4.5.3.1.3, with the angle brackets
# 4.5.3.1.4 says 512, and each extension adds its own (SMTPUTF8 10, SIZE 26, BODY 17, DSN about 1,100 to MAIL and RCPT):
# 2,048 holds their sum, and is Postfix's line_length_limit.
COMMAND_LINE_OCTETS = 2048
# From clients that may hand over a queue (smtp.transfer): RCPT with what a host last said, and why. The longest has
# 17,600 octets for that, and 900 for path, NOTIFY and ORCPT.
TRANSFER_LINE_OCTETS = 20 * KIBIBYTE
# What is read and thrown away of a line that is too long, in the hope of its CRLF; enough for a paste of header fields.
DISCARD_OCTETS = 64 * KIBIBYTE
# Content of up to this many octets on the wire comes in one piece, larger content in pieces of at least about this.
CONTENT_PIECE_OCTETS = 64 * KIBIBYTE
MESSAGE_OCTETS_FLOOR = 64 * KIBIBYTE  # 4.5.3.1.7
MESSAGE_OCTETS_CEILING = 10**18  # SIZE has 20 digits (RFC 1870 3); the store counts octets in 63 bits
RECIPIENTS_FLOOR = 100  # 4.5.3.1.8
SIZE_DIGITS = 20  # RFC 1870 3
ENVID_OCTETS = 100  # RFC 3461 4.4, as written
ORCPT_OCTETS = 500  # RFC 3461 4.2, as written; the same for AUTH= of MAIL (RFC 4954 3)
SASL_LINE_OCTETS = 12288  # RFC 4954 4.5
USERNAME_OCTETS = 255  # RFC 4616 2 demands as many of an authcid
# A refused chunk is read to its end, for its octets are on their way; not one that is larger than this and than any
# message taken here. Exchange Online sends messages of at most 150 MB, each as one chunk.
REFUSED_CHUNK_OCTETS = 256 * MEBIBYTE

# Patience with a client

# NOOP, RSET, VRFY, HELP and repeated EHLO without a message completed in between: Postfix's smtpd_junk_command_limit.
JUNK_COMMANDS = 100
SERVER_COMMAND_S = 300.0  # 4.5.3.2.7

# Patience with a host (RFC 5321 4.5.3.2 unless said otherwise)

CONNECT_S = 10.0  # ours: TCP's own patience is minutes, and the next host is waiting (design, Defaults)
BANNER_S = 300.0  # 4.5.3.2.1
HELLO_S = 300.0  # not named by the RFC; as any command of a server that has just greeted
STARTTLS_S = 120.0  # not named; no database stands behind it
TLS_HANDSHAKE_S = 60.0  # not named; two or three round trips and one signature
AUTH_S = 120.0  # not named; for the whole exchange, password hashing and directories included
MAIL_S = 300.0  # 4.5.3.2.2
RCPT_S = 300.0  # 4.5.3.2.3; DATA, which rides along with them, has it too (4.5.3.2.4 says 120)
CONTENT_BLOCK_S = 180.0  # 4.5.3.2.5, for each block handed to TCP
FINAL_DOT_S = 600.0  # 4.5.3.2.6; giving up earlier makes duplicates (RFC 1047)


class Limits(Struct, frozen=True, gc=False, kw_only=True):
    """What a listener allows; the defaults are the design's.

    `errors`: 5xx replies in a session since its last completed message. `command_timeout_s`: between commands.
    `content_timeout_s`: between two chunks of content. `content_total_s`: for the whole content, however steadily it
    drips; the default asks 15 kB/s of the largest message.
    """

    message_octets: int = 50 * MEBIBYTE
    recipients: int = 1000
    errors: int = 20  # Postfix's smtpd_hard_error_limit
    connections: int = 1000
    connections_per_client: int = 100  # a client of a smart host is often a mail server; Postfix allows 50
    command_timeout_s: float = SERVER_COMMAND_S
    content_timeout_s: float = CONTENT_BLOCK_S
    content_total_s: float = 3600.0


# Key, least value, and why. The RFC's times for servers are a SHOULD (4.5.3.2.7), and under attack the operator knows
# better: only what no human or TCP retransmission could meet is refused.
_FLOORS: tuple[tuple[str, float, str], ...] = (
    ("message_octets", MESSAGE_OCTETS_FLOOR, "RFC 5321 4.5.3.1.7"),
    ("recipients", RECIPIENTS_FLOOR, "RFC 5321 4.5.3.1.8"),
    ("errors", 1, "the first error must be answerable"),
    ("connections", 1, "nobody could connect"),
    ("connections_per_client", 1, "nobody could connect"),
    ("command_timeout_s", 1.0, "RFC 5321 4.5.3.2.7 recommends 300"),
    ("content_timeout_s", 1.0, "RFC 5321 4.5.3.2.5 recommends 180"),
    ("content_total_s", 1.0, "it bounds the whole content"),
)


def check_limits(limits: Limits, section: str = "limits") -> None:
    """Refuse limits that RFC 5321 forbids or that cannot work.

    Raises: ConfigError: its key is `section`, a dot, and the field.
    """
    for field, floor, why in _FLOORS:
        value: float = getattr(limits, field)
        if not isfinite(value) or value < floor:
            raise ConfigError(f"{value:g} is below {floor:g}, the least allowed ({why})", key=f"{section}.{field}")
    if limits.message_octets > MESSAGE_OCTETS_CEILING:
        raise ConfigError(
            f"{limits.message_octets} is above {MESSAGE_OCTETS_CEILING}, the most allowed",
            key=f"{section}.message_octets",
        )
    if limits.content_total_s < limits.content_timeout_s:
        raise ConfigError(
            f"{limits.content_total_s:g} is below content_timeout_s ({limits.content_timeout_s:g})",
            key=f"{section}.content_total_s",
        )
