# SPDX-License-Identifier: MIT
"""One transaction on the client's side: the commands it needs, those already written, and what the host answered.

`encode_command` is the one way from text to command octets: no envelope can end a command early or begin another.
Pure values and one small mutable record; smtp.client alone decides when to write and whose turn it is.
"""

import re

from msgspec import Struct

from smarthost.mail.envelope import Body
from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import Reply
from smarthost.smtp.extensions import Extensions
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded

GROUP_RECIPIENTS = (
    100  # RCPTs written before their replies are read: bounds what either side must buffer (RFC 2920 3.1)
)


class Transaction(Struct, frozen=True, gc=False):
    """What to send: an envelope, and how many octets its content has with its prefix, before dot-stuffing."""

    reverse_path: str
    recipients: tuple[str, ...]
    octets: int
    body: Body
    smtputf8: bool


# What no command may hold: C0 and C1 controls, DEL, and the separators that some hosts take for a line's end.
_search_control = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]").search
# A path between its angle brackets: characters that cannot end it, and quoted strings, in which anything may stand
# (RFC 5321 4.1.2: Quoted-string = DQUOTE *QcontentSMTP DQUOTE). Looser than Mailbox on purpose: local parts are opaque.
_match_path = re.compile(r'(?:[^ <>"\\]++|"(?:[^"\\]++|\\.)*+")*+').fullmatch


def encode_command(line: str, utf8: bool = False) -> bytes:
    """Give the octets of one command with its CRLF. Every command that leaves smarthost comes from here.

    Raises: LocalProtocolError: anything but printable ASCII or, with `utf8`, text without controls (RFC 6531 3.3).
    """
    if line.isascii() and line.isprintable():
        return line.encode("ascii") + b"\r\n"
    if not utf8 or _search_control(line) is not None:
        raise LocalProtocolError(f"not to be sent in a command: {line[:200]!r}")
    try:
        return line.encode("utf-8") + b"\r\n"
    except UnicodeEncodeError:
        raise LocalProtocolError(f"not to be sent in a command: {line[:200]!r}") from None


def check_name(name: str) -> str:
    """Give back the name for EHLO; what is no domain or address literal at all is refused.

    Raises: LocalProtocolError: it is empty, or would not stay one argument.
    """
    if not name or not name.isascii() or not name.isprintable() or any(c in name for c in ' <>"\\'):
        raise LocalProtocolError(f"not a name for EHLO: {name[:200]!r}")
    return name


def compose(transaction: Transaction, extensions: Extensions) -> list[bytes]:
    """Give the commands MAIL, RCPT..., DATA, with the parameters that the host has offered to take.

    Raises: LocalProtocolError: no recipient, more octets than the host takes, or an address that cannot be sent.
    """
    if not transaction.recipients:
        raise LocalProtocolError("a transaction needs a recipient")
    if extensions.refuses_size(transaction.octets):
        raise LocalProtocolError(f"{transaction.octets} octets for a host that takes {extensions.size}")
    utf8 = transaction.smtputf8 and extensions.smtputf8
    mail = f"MAIL FROM:<{check_path(transaction.reverse_path)}>"
    if extensions.size is not None:
        mail += f" SIZE={transaction.octets}"  # RFC 1870 6.1
    if extensions.eight_bit_mime and transaction.body is Body.EIGHT_BIT_MIME:
        mail += " BODY=8BITMIME"
    if utf8:
        mail += " SMTPUTF8"
    commands = [encode_command(mail, utf8)]
    for recipient in transaction.recipients:
        if not recipient:
            raise LocalProtocolError("a recipient is never the null path")
        commands.append(encode_command(f"RCPT TO:<{check_path(recipient)}>", utf8))
    commands.append(_DATA)
    return commands


def check_path(path: str) -> str:
    """Give back a path for between angle brackets; what could end it early or begin a parameter is refused.

    Controls and UTF-8 are encode_command's business. Raises: LocalProtocolError: it would not stay one path.
    """
    if _match_path(path) is None:
        raise LocalProtocolError(f"a path that would not stay between its brackets: {path[:200]!r}")
    return path


_DATA = encode_command("DATA")


class Exchange:
    """The state of one open transaction. Only the machine that owns it may touch it."""

    __slots__ = ("_commands", "_heard", "_sent", "_steps", "data", "is_accepting", "mail")

    def __init__(self, commands: list[bytes]) -> None:
        self._commands = commands
        self._steps = [Step.MAIL, *[Step.RCPT] * (len(commands) - 2), Step.DATA]
        self._sent = 0
        self._heard: list[Reply] = []
        self.mail: Reply | None = None
        self.data: Reply | None = None
        self.is_accepting = False  # MAIL and at least one RCPT were answered 2xx

    def take_group(self, pipelining: bool) -> tuple[bytes, list[Step]]:
        """Give the next octets to write with the replies they call for: a group, or one command without PIPELINING.

        MAIL and DATA ride along with the RCPTs; DATA is last in its group, as RFC 2920 3.1 demands.
        """
        start, left = self._sent, len(self._commands) - self._sent
        count = (left if left <= GROUP_RECIPIENTS + 2 else GROUP_RECIPIENTS) if pipelining else 1
        end = self._sent = start + count
        return b"".join(self._commands[start:end]), self._steps[start:end]

    def hear_recipient(self, reply: Reply) -> None:
        """Note the reply to the next RCPT."""
        self._heard.append(reply)
        if reply.code < 300 and self.mail is not None and self.mail.code < 300:
            self.is_accepting = True

    @property
    def is_hopeless(self) -> bool:
        """Was everything answered that could still have led to DATA?"""
        if self.mail is not None and self.mail.code >= 300:
            return True
        return self._sent == len(self._commands) - 1 and not self.is_accepting

    @property
    def leaves_open(self) -> bool:
        """Does the host hold something of it now? After any dot it does not (RFC 5321 4.1.1.4)."""
        if self.data is not None and self.data.code < 400:
            return False
        return (self.mail is not None and self.mail.code < 300) or any(reply.code < 300 for reply in self._heard)

    def summary(self, final: Reply | None) -> TransactionEnded:
        """Say what was heard; None stands for what was not.

        Raises: LocalProtocolError: MAIL has no answer yet.
        """
        if self.mail is None:
            raise LocalProtocolError("a transaction cannot end before MAIL was answered")
        heard = self._heard
        unheard = len(self._commands) - 2 - len(heard)
        recipients = (*heard, *[None] * unheard) if unheard else tuple(heard)
        return TransactionEnded(self.mail, recipients, self.data, final)
