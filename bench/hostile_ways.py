# SPDX-License-Identifier: MIT
"""The table of hostile hosts: what each does at which step, and what a recipient there may get. Pure.

Numbers are those of the list of forty-five; some have several forms. `hostile_hosts.py` plays them. A step without an
entry is played as a good host would.
"""

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias

from msgspec import Struct

GOOD = "sink.test"  # where smtp-source and the probe send to by themselves
GOOD_ADDRESS = "127.0.44.1"
_NETWORK = "127.0.45"
LARGE_OCTETS = (
    2_000_000  # must exceed what the kernel takes for a peer that reads nothing, and the 64 KiB kept in memory
)
_FLOOD_OCTETS = 65_536
HELD_UP = "held up"
RESET_EARLY = "deferred 4.4.1 or 4.4.2"  # the kernel tells us before or after it tells us of the connection


class Act(Enum):
    """What is done instead of a reply."""

    CLOSE = "close"
    RESET = "reset"
    SILENT = "silent"
    DEAF = "deaf"  # reads no more either
    REFUSE = "refuse"  # nobody listens
    LOST = "lost"  # SYNs are


class Flood(Struct, frozen=True):
    """Says these octets again and again, every so many seconds, or as fast as they are read."""

    octets: bytes
    every_s: float = 0.0


class Turn(Struct, frozen=True):
    """One after another, each time the step is reached; then the last for ever."""

    acts: tuple["bytes | Act", ...]


Deed: TypeAlias = bytes | Act | Flood | Turn | Mapping[bytes, bytes]  # the last: a reply for each local part


class Way(Struct, frozen=True, kw_only=True):
    """A way to be hostile. `ends`: for each recipient, in order, the outcome and status of the first attempt."""

    number: int
    name: str
    address: str
    does: Mapping[str, Deed]
    ends: tuple[str, ...]
    recipients: tuple[str, ...] = ("bob",)
    extensions: tuple[bytes, ...] = (b"PIPELINING",)
    inside_tls: tuple[bytes, ...] | None = None  # extensions there
    at_starttls: bytes | Act | None = None  # instead of the handshake, when the client has begun it
    narrow: bool = False  # a small window for what comes in
    drops_pipelined: bool = False  # hears one command of a group
    octets: int = 0  # of the content that shows it; 0: any
    body: str = ""
    tls: str = ""  # what the operator demands
    is_us: bool = False  # the exchanger has our own name

    @property
    def domain(self) -> str:
        """Give its domain."""
        return f"n{self.number:02}-{self.name.replace(' ', '-')}.example"


def _row(number: int, name: str, ends: str, does: Mapping[str, Deed] | None = None, **more: object) -> Way:
    address = f"{_NETWORK}.{next(_hosts)}"
    return Way(number=number, name=name, address=address, does=does or {}, ends=tuple(ends.split(", ")), **more)  # type: ignore[arg-type]


def _each(number: int, act: Act, word: str, ends: str, since: int = 0) -> list[Way]:
    """One after another through the session."""
    extensions = (b"SIZE",)  # no pipelining: each command is a step of its own
    steps = list(enumerate(("banner", "ehlo", "mail", "rcpt", "data")))
    return [
        _row(number + n, f"{word} at {step}", ends, {step: act}, extensions=extensions) for n, step in steps[since:]
    ]


_hosts = iter(range(1, 255))
_TLS = (b"PIPELINING", b"STARTTLS")
_BUSY = b"421 4.3.2 busy\r\n"
_THREE = ("early", "u1", "u2")

WAYS: tuple[Way, ...] = (
    # 1-8: close or reset
    _row(1, "refuses", "deferred 4.4.1", {"connect": Act.REFUSE}),
    _row(1, "resets at connect", RESET_EARLY, {"connect": Act.RESET}),
    *_each(2, Act.CLOSE, "closes", "deferred 4.4.2"),
    *_each(2, Act.RESET, "resets", "deferred 4.4.2", since=1),
    _row(7, "closes in content", "deferred 4.4.2", {"body": Act.CLOSE}, octets=LARGE_OCTETS),
    _row(7, "resets in content", "deferred 4.4.2", {"body": Act.RESET}, octets=LARGE_OCTETS),
    _row(8, "closes after the dot", "deferred 4.4.2", {"dot": Act.CLOSE}),
    _row(8, "resets after the dot", "deferred 4.4.2", {"dot": Act.RESET}),
    # 9-16: silence
    _row(9, "black hole", HELD_UP, {"connect": Act.LOST}),
    *_each(10, Act.SILENT, "silent", HELD_UP),
    _row(15, "silent in content", HELD_UP, {"body": Act.SILENT}),
    _row(16, "silent after the dot", HELD_UP, {"dot": Act.SILENT}),
    # 17: 421
    *[
        _row(17, f"421 at {step}", "deferred 4.3.2", {step: _BUSY})
        for step in ("banner", "ehlo", "mail", "rcpt", "data", "dot")
    ],
    # 18-21: codes
    _row(18, "354 to mail", "deferred 4.5.0", {"mail": b"354 go\r\n"}, extensions=(b"SIZE",)),
    _row(19, "250 to data", "deferred 4.5.0", {"data": b"250 ok\r\n"}),
    _row(20, "351 after the dot", "deferred 4.5.0", {"dot": b"351 what\r\n"}),
    _row(20, "299 to rcpt", "relayed 2.0.0", {"rcpt": b"299 fine\r\n"}),
    _row(20, "499 to rcpt", "deferred 4.0.0", {"rcpt": b"499 no\r\n"}),
    _row(20, "599 to rcpt", "bounced 5.0.0", {"rcpt": b"599 no\r\n"}),
    _row(20, "999 to rcpt", "deferred 4.5.0", {"rcpt": b"999 no\r\n"}),
    _row(21, "code without text", "relayed 2.0.0", {"dot": b"250\r\n"}),
    # 22-26: replies without measure
    _row(22, "endless reply", "deferred 4.5.0", {"ehlo": Flood(b"250-more\r\n" * (_FLOOD_OCTETS // 10))}),
    _row(23, "endless line", "deferred 4.5.0", {"banner": Flood(b"x" * _FLOOD_OCTETS)}),
    _row(24, "control characters", "bounced 5.1.1", {"rcpt": b"550 5.1.1 \x00\x1b[31mno\x07\rX: \x85\xff\r\n"}),
    _row(25, "codes that differ", "deferred 4.5.0", {"rcpt": b"250-yes\r\n550 no\r\n"}),
    _row(26, "an octet a second", HELD_UP, {"rcpt": Flood(b"2", 1.0)}, extensions=(b"SIZE",)),
    # 27-33
    _row(27, "stops reading", HELD_UP, {"body": Act.DEAF}, octets=LARGE_OCTETS, narrow=True),
    _row(28, "speaks before us", "deferred 4.5.0", {"banner": b"220 mx\r\n250 mx\r\n"}),
    _row(28, "a reply too many", "deferred 4.5.0", {"data": b"354 go\r\n250 done\r\n"}),
    _row(28, "a reply too few", "deferred 4.5.0", {"rcpt": b""}),
    _row(29, "354 for nobody", "bounced 5.1.1", {"rcpt": b"550 5.1.1 unknown\r\n"}),
    _row(
        30, "mixed recipients", "relayed 2.0.0, deferred 4.2.1, bounced 5.1.1",
        {"rcpt": {b"u1": b"450 4.2.1 later\r\n", b"u2": b"550 5.1.1 unknown\r\n"}}, recipients=_THREE,
    ),
    _row(31, "too many", "relayed 2.0.0, relayed 2.0.0, deferred 4.5.3", {"rcpt": {b"u2": b"452 4.5.3 many\r\n"}},
         recipients=_THREE),
    _row(31, "too many of old", "relayed 2.0.0, relayed 2.0.0, deferred 4.5.3", {"rcpt": {b"u2": b"552 many\r\n"}},
         recipients=_THREE),
    _row(32, "closes after its 250", "relayed 2.0.0", {"after": Act.CLOSE}),
    _row(33, "answers too late", HELD_UP, {"dot": Flood(b"250 2.0.0 late\r\n", 630.0)}),
    # 34-38
    _row(34, "554 banner", "deferred 4.3.2", {"banner": b"554 no\r\n"}),
    _row(34, "521 banner", "deferred 4.3.2", {"banner": b"521 5.3.2 no\r\n"}),
    _row(35, "helo only", "relayed 2.0.0", {"ehlo": b"502 5.5.1 what\r\n"}),
    _row(
        36, "absurd offers", "relayed 2.0.0",
        extensions=(b"SIZE " + b"9" * 23, b"LIMITS RCPTMAX=0 MAILMAX=-1 RCPTDOMAINMAX=x =", b"AUTH", b"X" * 900),
    ),
    _row(37, "chunking that fails", "deferred 4.5.1", {"bdat": b"502 5.5.1 what\r\n"},
         extensions=(b"CHUNKING", b"BINARYMIME"), body="BINARYMIME"),
    _row(37, "chunking not needed", "relayed 2.0.0", {"bdat": b"502 5.5.1 what\r\n"},
         extensions=(b"PIPELINING", b"CHUNKING", b"BINARYMIME")),
    _row(38, "pipelining that fails", HELD_UP, drops_pipelined=True),
    # 39-41: TLS
    _row(39, "octets injected at starttls", "deferred 4.5.0", {"starttls": b"220 go\r\n250 x\r\n"}, extensions=_TLS),
    _row(39, "garbage for tls", "relayed 2.0.0", extensions=_TLS, at_starttls=b"\x16\x03\x99\xff\xff" * 40),
    _row(39, "plain text for tls", "relayed 2.0.0", extensions=_TLS, at_starttls=b"250 mx\r\n"),
    _row(39, "tls that stalls", HELD_UP, extensions=_TLS, at_starttls=Act.SILENT),
    _row(39, "tls that closes", "relayed 2.0.0", extensions=_TLS, at_starttls=Act.CLOSE),
    _row(39, "a certificate of nobody", "relayed 2.0.0", extensions=_TLS, inside_tls=(b"PIPELINING",)),
    _row(39, "a certificate that must be good", "deferred 4.7.5", extensions=_TLS, inside_tls=(), tls="verified"),
    _row(40, "no close notify", "relayed 2.0.0", {"after": Act.RESET}, extensions=_TLS, inside_tls=(b"PIPELINING",)),
    _row(41, "offers less inside tls", "relayed 2.0.0", extensions=(b"STARTTLS", b"8BITMIME"), inside_tls=(),
         body="8BITMIME"),
    # 42-45
    _row(42, "greylists", "deferred 4.7.1", {"rcpt": Turn((b"450 4.7.1 later\r\n", b"250 2.1.5 ok\r\n"))}),
    _row(43, "full for ever", "deferred 4.2.2", {"rcpt": b"452 4.2.2 full\r\n"}),
    _row(44, "no to one message", "bounced 5.7.1", {"dot": Turn((b"550 5.7.1 not this\r\n", b"250 2.0.0 ok\r\n"))}),
    _row(45, "our own name in the banner", "relayed 2.0.0", {"banner": b"220 relay.example.org ESMTP\r\n"}),
    _row(45, "our own name as exchanger", "bounced 5.4.6", is_us=True),
)  # fmt: skip
