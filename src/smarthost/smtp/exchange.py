# SPDX-License-Identifier: MIT
"""One transaction on the client's side: the commands it needs, those already written, and what the host answered.

`encode_command` is the one way from text to command octets: no envelope can end a command early or begin another.
Pure values and one small mutable record; smtp.client alone decides when to write and whose turn it is.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat

from msgspec import Struct

from smarthost.mail.envelope import Body, DsnRequest, Notify
from smarthost.mail.errors import LocalProtocolError
from smarthost.mail.reply import Reply
from smarthost.smtp.extensions import Extensions
from smarthost.smtp.limits import ENVID_OCTETS, ORCPT_OCTETS
from smarthost.smtp.steps import Step
from smarthost.smtp.wire import TransactionEnded
from smarthost.smtp.xtext import is_xtext

GROUP_RECIPIENTS = (
    100  # RCPTs written before their replies are read: bounds what either side must buffer (RFC 2920 3.1)
)
_SEVEN_BIT, _BINARY = Body.SEVEN_BIT, Body.BINARY_MIME  # by way of the class a member costs 0.2 us (Python 3.11)


class Transaction(Struct, frozen=True, gc=False):
    """What to send: an envelope, and how many octets its content has with its prefix, before dot-stuffing.

    `ret`, `envid`, `requests`: as in Envelope; sent where the host offers DSN, else left out: whoever hands it here
    knows what the host offers and owes the reports. `requires_tls`: REQUIRETLS, which a host must offer. With
    Body.BINARY_MIME the content leaves in BDAT; then the host must offer CHUNKING and BINARYMIME. `origin`, `progress`:
    XTRANSFER of MAIL and of each RCPT as smtp.transfer writes them, for another node, which must offer it.
    """

    reverse_path: str
    recipients: tuple[str, ...]
    octets: int
    body: Body
    smtputf8: bool
    ret: str = ""
    envid: str = ""
    requires_tls: bool = False
    requests: tuple[DsnRequest, ...] = ()
    origin: str = ""
    progress: tuple[str, ...] = ()

    @property
    def is_chunked(self) -> bool:
        """Does the content leave in BDAT?

        Only what cannot leave otherwise: BDAT saves no round trip once nothing is sent to a host that accepted nobody,
        and a host that offers CHUNKING but does not know BDAT would take the content for commands.
        """
        return self.body is _BINARY


# What no command may hold: C0 and C1 controls, DEL, and the separators that some hosts take for a line's end.
_search_control = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]").search
# A path between its angle brackets: characters that cannot end it, and quoted strings, in which anything may stand
# (RFC 5321 4.1.2: Quoted-string = DQUOTE *QcontentSMTP DQUOTE). Looser than Mailbox on purpose: local parts are opaque.
_match_path = re.compile(r'(?:[^ <>"\\]++|"(?:[^"\\]++|\\.)*+")*+').fullmatch


# RFC 3461 4.2: original-recipient-address = addr-type ";" xtext, addr-type = atom. No "=", which no
# parameter's value may hold (RFC 5321 4.1.2); hexchars as in smtp.xtext
_ORCPT = r"[-!#-'*+/-9?A-Z^-~]++;(?:[!-*,-<>-~%s]|\+(?:[2-6][0-9A-F]|7[0-9A-E]))*+"
_match_orcpt = re.compile(_ORCPT % "").fullmatch
# RFC 6533 3: with SMTPUTF8 also utf-8-addr-unitext, which may hold UTF-8; encode_command refuses what is a control
_match_orcpt_utf8 = re.compile(_ORCPT % "\x80-\U0010ffff").fullmatch


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
    """Give the commands MAIL, RCPT..., DATA (none for BDAT), with the parameters that the host has offered to take.

    Raises: LocalProtocolError: no recipient, more octets than the host takes, an address or parameter that cannot be
    sent, or a demand that the host does not offer to meet.
    """
    recipients = transaction.recipients
    if not recipients:
        raise LocalProtocolError("a transaction needs a recipient")
    if extensions.refuses_size(transaction.octets):
        raise LocalProtocolError(f"{transaction.octets} octets for a host that takes {extensions.size}")
    utf8 = transaction.smtputf8 and extensions.smtputf8
    mail = f"MAIL FROM:<{check_path(transaction.reverse_path)}>"
    if extensions.size is not None:
        mail += f" SIZE={transaction.octets}"  # RFC 1870 6.1
    body = transaction.body
    if body is not _SEVEN_BIT:
        mail += _body_parameter(body, extensions)
    if utf8:
        mail += " SMTPUTF8"
    if transaction.requires_tls:
        if not extensions.requiretls:
            raise LocalProtocolError("REQUIRETLS for a host that does not offer it")
        mail += " REQUIRETLS"  # RFC 8689 4.1
    if extensions.dsn and (transaction.ret or transaction.envid):
        mail += _return_parameters(transaction)
    parameters: Iterable[str]
    parameters = _recipient_parameters(transaction, utf8) if extensions.dsn and transaction.requests else repeat("")
    if transaction.origin:
        if not extensions.transfer or len(transaction.progress) != len(recipients):
            raise LocalProtocolError("XTRANSFER for a host that does not offer it, or not for each recipient")
        mail += f" XTRANSFER={transaction.origin}"
        pairs = zip(parameters, transaction.progress, strict=False)
        parameters = [f"{parameter} XTRANSFER={progress}" for parameter, progress in pairs]
    commands = [encode_command(mail, utf8)]
    for recipient, parameter in zip(recipients, parameters, strict=False):
        if not recipient:
            raise LocalProtocolError("a recipient is never the null path")
        commands.append(encode_command(f"RCPT TO:<{check_path(recipient)}>{parameter}", utf8))
    if body is not _BINARY:
        commands.append(_DATA)
    return commands


def _body_parameter(body: Body, extensions: Extensions) -> str:
    if body is _BINARY:
        if not extensions.takes_binary:
            raise LocalProtocolError("binary content for a host that does not offer BINARYMIME and CHUNKING")
        return " BODY=BINARYMIME"
    return " BODY=8BITMIME" if extensions.eight_bit_mime else ""


def _return_parameters(transaction: Transaction) -> str:
    ret, envid = transaction.ret, transaction.envid
    if ret not in ("", "FULL", "HDRS"):
        raise LocalProtocolError(f"not a value for RET: {ret[:200]!r}")
    if len(envid) > ENVID_OCTETS or not (envid.isascii() and is_xtext(envid.encode("ascii"))):
        raise LocalProtocolError(f"not a value for ENVID: {envid[:200]!r}")
    return (f" RET={ret}" if ret else "") + (f" ENVID={envid}" if envid else "")


def _recipient_parameters(transaction: Transaction, utf8: bool) -> list[str]:
    if len(transaction.requests) != len(transaction.recipients):
        raise LocalProtocolError(f"{len(transaction.requests)} requests for {len(transaction.recipients)} recipients")
    match_orcpt = _match_orcpt_utf8 if utf8 else _match_orcpt
    parameters = []
    for request in transaction.requests:
        notify, orcpt = _NOTIFY.get(int(request.notify)), request.orcpt
        if notify is None:
            raise LocalProtocolError(f"not a value for NOTIFY: {request.notify!r}")
        if orcpt and (len(orcpt) > ORCPT_OCTETS or match_orcpt(orcpt) is None):
            raise LocalProtocolError(f"not a value for ORCPT: {orcpt[:200]!r}")
        parameters.append(notify + (f" ORCPT={orcpt}" if orcpt else ""))
    return parameters


def _notify_parameter(notify: Notify) -> str:
    # RFC 3461 4.1: notify-list-element = "SUCCESS" / "FAILURE" / "DELAY"; NEVER stands alone
    return f" NOTIFY={','.join([str(flag.name) for flag in Notify if flag and flag in notify])}" if notify else ""


_NOTIFY = {int(notify): _notify_parameter(notify) for notify in (Notify.NEVER, *map(Notify, range(0, 16, 2)))}


def check_path(path: str) -> str:
    """Give back a path for between angle brackets; what could end it early or begin a parameter is refused.

    Controls and UTF-8 are encode_command's business. Raises: LocalProtocolError: it would not stay one path.
    """
    if _match_path(path) is None:
        raise LocalProtocolError(f"a path that would not stay between its brackets: {path[:200]!r}")
    return path


_DATA = encode_command("DATA")


@lru_cache(maxsize=64)  # mostly the few counts that mail has; each is at most the recipients of one transaction
def _steps(recipients: int, is_chunked: bool) -> tuple[Step, ...]:
    return (Step.MAIL, *[Step.RCPT] * recipients) + (() if is_chunked else (Step.DATA,))


class Exchange:
    """The state of one open transaction. Only the machine that owns it may touch it."""

    __slots__ = ("_commands", "_heard", "_recipients", "_sent", "_steps", "data", "finals", "is_accepting", "mail")

    def __init__(self, commands: list[bytes], is_chunked: bool = False) -> None:
        self._commands = commands
        self._recipients = len(commands) - (1 if is_chunked else 2)
        self._steps = _steps(self._recipients, is_chunked)
        self._sent = 0
        self._heard: list[Reply] = []
        self.mail: Reply | None = None
        self.data: Reply | None = None  # to DATA, or a "no" to a chunk
        self.finals: list[Reply] | None = None  # in LMTP, once the end of the content is sent
        self.is_accepting = False  # MAIL and at least one RCPT were answered 2xx

    def take_group(self, pipelining: bool) -> tuple[bytes, Sequence[Step]]:
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
        """Was everything answered that could still have led to content?"""
        if self.mail is not None and self.mail.code >= 300:
            return True
        return self._sent == self._recipients + 1 and not self.is_accepting

    @property
    def is_asked(self) -> bool:
        """Were all commands written? If so and without DATA, content comes next."""
        return self._sent == len(self._commands)

    @property
    def accepted(self) -> int:
        """How many recipients the host accepted."""
        return sum([reply.code < 300 for reply in self._heard])

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
        unheard = self._recipients - len(heard)
        recipients = (*heard, *[None] * unheard) if unheard else tuple(heard)
        if self.finals is not None:
            return TransactionEnded(self.mail, recipients, self.data, None, self._spread(self.finals))
        return TransactionEnded(self.mail, recipients, self.data, final)

    def _spread(self, finals: Sequence[Reply]) -> tuple[Reply | None, ...]:
        """Give each recipient its own final reply; None where it has none."""
        left = iter(finals)
        return tuple([next(left, None) if reply.code < 300 else None for reply in self._heard])
