# SPDX-License-Identifier: MIT
"""What a message needs of a host and its session beyond RFC 5321, and the form in which its content can go there.

Finds out only what a host's offer makes necessary, each thing once for an attempt. Judges no host: it names the
extension that is missing, and send.verdict says what that means. Reads content (StoreError passes through), opens and
sends nothing. What is converted is held in memory, bounded by an Allowance that all attempts share.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from smarthost.mail.address import recipient_domain
from smarthost.mail.content import Content, InlineContent
from smarthost.mail.envelope import NULL_REVERSE_PATH, Body, DsnRequest, Notify, SenderTls
from smarthost.mail.hop import Host, SessionPolicy, TlsLevel
from smarthost.mail.lease import Lease, LeasedRecipient
from smarthost.mail.plan import Plan
from smarthost.mail.result import DsnDuty
from smarthost.send.convert import MOST_OCTETS, Conversion
from smarthost.send.gates import least_demand
from smarthost.smtp.extensions import Extensions

# Of originals being converted or sent in converted form, in all; a larger one has its turn alone. Quoted-printable may
# treble them, so this is about 128 MiB of memory at worst.
CONVERTING_OCTETS = 32 * 1024 * 1024
ORCPT_CHARACTERS = 500  # RFC 3461 4.2

_T = TypeVar("_T")
# Looking a member up in its Enum costs a tenth of a microsecond, and each attempt asks for several.
_SEVEN_BIT, _EIGHT_BIT_MIME, _BINARY_MIME = Body.SEVEN_BIT, Body.EIGHT_BIT_MIME, Body.BINARY_MIME
_NO_WISH = SenderTls.DEFAULT
_PASSED_ON, _DELIVERED, _RELAYED = DsnDuty.PASSED_ON, DsnDuty.DELIVERED, DsnDuty.RELAYED
_UNSET = Notify.UNSET


class Allowance:
    """How much may be converted at once. All attempts of a Sender share one."""

    def __init__(self, octets: int = CONVERTING_OCTETS) -> None:
        self._most = octets
        self._taken = 0

    def take(self, octets: int) -> bool:
        """Take that many octets; False: not now."""
        if self._taken and self._taken + octets > self._most:
            return False
        self._taken += octets
        return True

    def give_back(self, octets: int) -> None:
        """Give back what was taken."""
        self._taken -= octets


class Rendition(Struct, frozen=True, gc=False):
    """A message in the form in which a host gets it: what leaves, and what MAIL says of it."""

    prefix: bytes
    content: Content
    octets: int
    body: Body
    is_converted: bool = False
    is_plain: bool = False  # nothing about its recipients needs a parameter either
    was_signed: bool = False  # with DKIM, before it was converted


class Unfit(Struct, frozen=True, gc=False):
    """There is no form that the host would take. `lacks`: the extension that is missing."""

    lacks: str


def plain_form(lease: Lease, content: Content, offered: Extensions) -> Rendition | None:
    """Give mail that needs nothing special, as received, where the host takes all such mail in one transaction.

    That is nearly all mail at nearly all hosts, decided in one look. None: who needs what is to be found out (Needs).
    """
    prefix, body = lease.prefix, lease.body
    octets = lease.octets + len(prefix)
    if (
        lease.smtputf8
        or lease.tls is not _NO_WISH
        or body is _BINARY_MIME
        or not lease.reverse_path.isascii()
        or (offered.size and offered.size < octets)
        or offered.most_recipients is not None
        or offered.most_recipient_domains is not None
    ):
        return None
    for recipient in lease.recipients:
        if recipient.notify is not _UNSET or recipient.orcpt or not recipient.address.isascii():
            return None
    if body is _SEVEN_BIT and isinstance(content, InlineContent) and content.body.isascii() and prefix.isascii():
        return Rendition(prefix, content, octets, _SEVEN_BIT, False, True)
    return Rendition(prefix, content, octets, _EIGHT_BIT_MIME, False, True) if offered.eight_bit_mime else None


class Needs:
    """What one lease with its content needs. `close` gives back the memory that was taken for a converted form."""

    # What was found out so far. Most mail needs nothing, and pays for nothing: these belong to the class.
    _is_seven_bit: bool | None = None
    _header: bool | None = None
    _is_tried = False
    _seven_bit: Rendition | None = None
    _taken = 0

    def __init__(self, lease: Lease, content: Content, allowance: Allowance) -> None:
        self._lease = lease
        self._content = content
        self._allowance = allowance

    def close(self) -> None:
        """Forget the converted form."""
        if self._taken:
            self._allowance.give_back(self._taken)
            self._taken = 0
            self._seven_bit = None

    # SMTPUTF8 (RFC 6531)

    @property
    def header_needs_utf8(self) -> bool:
        """Is the header section of mail that came with SMTPUTF8 beyond ASCII? Other mail goes as any 8-bit mail."""
        if self._header is None:
            self._header = self._lease.smtputf8 and not self._is_header_ascii()
        return self._header

    def needs_utf8(self, recipients: Sequence[LeasedRecipient]) -> bool:
        """Must MAIL say SMTPUTF8 for these recipients? That the mail came with it is no reason."""
        if not self._lease.reverse_path.isascii():
            return True
        for recipient in recipients:
            if not recipient.address.isascii():
                return True
        return self._lease.smtputf8 and self.header_needs_utf8

    def _is_header_ascii(self) -> bool:
        if not self._lease.prefix.isascii():
            return False
        before = b""
        for chunk in self._content.chunks():
            seen = before + chunk
            end = seen.find(b"\r\n\r\n")
            if not (chunk if end < 0 else seen[:end]).isascii():
                return False
            if end >= 0 or seen.startswith(b"\r\n"):
                return True
            before = chunk[-3:]
        return True

    # DSN (RFC 3461)

    def requests(self, recipients: Sequence[LeasedRecipient], *, utf8: bool) -> tuple[DsnRequest, ...]:
        """Give what was asked for these recipients, () if nothing was; `utf8`: they go with SMTPUTF8."""
        if not any(map(_asks_dsn, recipients)):
            return ()
        return tuple([DsnRequest(one.notify, one.orcpt if utf8 else _to_ascii(one.orcpt)) for one in recipients])

    # 8BITMIME (RFC 6152), BINARYMIME (RFC 3030)

    def fit(self, offered: Extensions | None) -> Rendition | Unfit | None:
        """Give the message in a form that the host takes, as received wherever it takes that; None: convert() first.

        Content that is in memory is looked at: it costs less than a microsecond. Content in a file is not, where the
        host takes 8-bit content anyway: BODY=8BITMIME is a permission, and is true of 7-bit content, too.
        Raises: StoreError.
        """
        lease, content = self._lease, self._content
        if lease.body is _BINARY_MIME:
            if offered is None or offered.takes_binary:
                return self._as_received(_BINARY_MIME)
            return self._converted(lacks="BINARYMIME")
        # RFC 6531 3.1: who offers SMTPUTF8 takes 8-bit content, even if it forgets to say so
        if offered is None or offered.eight_bit_mime or (offered.smtputf8 and self.needs_utf8(lease.recipients)):
            if lease.body is _SEVEN_BIT and isinstance(content, InlineContent) and self._is_ascii():
                return self._as_received(_SEVEN_BIT)
            return self._as_received(_EIGHT_BIT_MIME)
        if self._is_ascii():
            return self._as_received(_SEVEN_BIT)
        fit = self._converted(lacks="8BITMIME")
        if isinstance(fit, Unfit) and (lease.body is _SEVEN_BIT or lease.reverse_path == NULL_REVERSE_PATH):
            # Declared by nobody, taken by all hosts for thirty years: better as it came than not at all, never
            # stripped. And a report that bounced would be lost in silence.
            return self._as_received(_SEVEN_BIT)
        return fit

    async def convert(self, sleep: Callable[[float], Awaitable[None]]) -> bool:
        """Convert the content as far as that is possible, so that `fit` knows; False: there is no room for it now.

        Lets others run in between, for which it calls `sleep`. Safe to cancel. Raises: StoreError.
        """
        octets = self._lease.octets + len(self._lease.prefix)
        if octets <= MOST_OCTETS:
            if not self._allowance.take(octets):
                return False
            self._taken += octets
            conversion = Conversion(b"".join([self._lease.prefix, *self._content.chunks()]))
            for _ in conversion.steps():
                await sleep(0)
            self._note(conversion)
        self._is_tried = True
        return True

    def _note(self, conversion: Conversion) -> None:
        result = conversion.result
        if result is None:
            return
        if conversion.is_needed:
            header = result[: result.find(b"\r\n\r\n") + 2].lower()
            was_signed = header.startswith(b"dkim-signature:") or b"\r\ndkim-signature:" in header
            self._seven_bit = Rendition(
                b"", InlineContent(result), len(result), _SEVEN_BIT, is_converted=True, was_signed=was_signed
            )
        else:
            self._seven_bit = self._as_received(_SEVEN_BIT)

    def _converted(self, lacks: str) -> Rendition | Unfit | None:
        if self._seven_bit is None and self._is_tried:
            return Unfit(lacks)
        return self._seven_bit

    def _as_received(self, body: Body) -> Rendition:
        lease = self._lease
        return Rendition(lease.prefix, self._content, lease.octets + len(lease.prefix), body)

    def _is_ascii(self) -> bool:
        if self._is_seven_bit is None:
            content = self._content
            if isinstance(content, InlineContent):
                self._is_seven_bit = content.body.isascii() and self._lease.prefix.isascii()
            else:
                self._is_seven_bit = self._lease.prefix.isascii() and all(map(bytes.isascii, content.chunks()))
        return self._is_seven_bit


def _asks_dsn(recipient: LeasedRecipient) -> bool:
    return recipient.notify is not _UNSET or recipient.orcpt != ""


def _to_ascii(orcpt: str) -> str:
    """Write ORCPT for a host without SMTPUTF8 (RFC 6533 3, utf-8-addr-xtext), "" if it would be too long then."""
    if orcpt.isascii():
        return orcpt
    written = "".join([c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in orcpt])
    return written if len(written) <= ORCPT_CHARACTERS else ""


def dsn_duty(offered: Extensions | None, *, is_lmtp: bool) -> DsnDuty:
    """Say who tells of a success at a host (RFC 3461 5.2.1, 5.2.2)."""
    if offered is not None and offered.dsn:
        return _PASSED_ON
    return _DELIVERED if is_lmtp else _RELAYED


# TLS (RFC 8689)


def demanded_policy(lease: Lease, plan: Plan, host: Host) -> SessionPolicy:
    """Give what a session with this host must be like for this mail: its sender may ask for more TLS, or for less."""
    policy = plan.policy_of(host)
    if lease.tls is _NO_WISH:
        return policy
    if lease.tls is SenderTls.REQUIRED:  # RFC 8689 4.2.1: a certificate that is valid for the host's name
        return policy if policy.tls is TlsLevel.VERIFIED else replace(policy, tls=TlsLevel.VERIFIED)
    return least_demand(plan, host)


# LIMITS (RFC 9422)


def share_out(lease: Lease, indices: list[int], offered: Extensions | None) -> list[list[int]]:
    """Share recipients out among transactions, so that none has more of them, or of their domains, than a host allows.

    Recipients of one domain stay together; else the order is the lease's.
    """
    if offered is None:
        return [indices]
    most, domains = offered.most_recipients, offered.most_recipient_domains
    if domains is None:
        return [indices] if most is None or len(indices) <= most else _slices(indices, most)
    by_domain: dict[str, list[int]] = {}
    for index in indices:
        by_domain.setdefault(recipient_domain(lease.recipients[index].domain), []).append(index)
    shares = []
    for together in _slices(list(by_domain.values()), domains):
        shares += _slices([index for share in together for index in share], most or len(indices))
    return shares


def _slices(items: list[_T], most: int) -> list[list[_T]]:
    return [items[start : start + most] for start in range(0, len(items), most)]
