# SPDX-License-Identifier: MIT
"""What happens in one life of a relay: who there is, what is sent, and what goes wrong when. Values only.

Times are virtual seconds since the start. The shapes of trouble are named by what a host, a resolver or a disk does.
simulate.draw makes one from a seed, before anything happens.
"""

from enum import Enum

from msgspec import Struct

from smarthost.testing.mortal import Moment
from smarthost.testing.world import WorldTerms

HOUR_S = 3600.0


class Mood(Enum):
    """How a host behaves for a while."""

    WELL = "well"
    REFUSES = "refuses connections"
    BLACK_HOLE = "black hole"
    RESETS = "resets connections after some octets"
    STALLS = "lets nothing through after some octets"
    SILENT = "silent at a step"
    HANGS_UP = "hangs up at a step"
    CUTS_REPLY = "cuts the connection within a reply"
    TAKES_AND_CUTS = "takes the content and cuts the connection before the reply"
    TAKES_AND_HALF_REPLIES = "takes the content and cuts the connection within the reply"
    TARPIT = "tarpit"
    GREYLISTS = "greylists"
    CLOSING = "421 at a step"
    TEMPORARY = "4xx at a step"
    BANS = "5xx before any mail"
    REJECTS = "5xx after the content"


STEPS = ("banner", "ehlo", "mail", "rcpt", "data", "dot")
LATE_STEPS = ("mail", "rcpt", "data", "dot")


class HostTrouble(Struct, frozen=True, kw_only=True):
    """A host's mood from `begins` to `ends`. `step` and `n` (octets, seconds or one in so many) by the mood."""

    address: str
    mood: Mood
    begins: float
    ends: float
    step: str = ""
    n: float = 0.0


class NameTrouble(Struct, frozen=True, kw_only=True):
    """What DNS says of a name meanwhile: "servfail" or "timeout"."""

    name: str
    fault: str
    begins: float
    ends: float


class DiskTrouble(Struct, frozen=True, kw_only=True):
    """The disk "fails", is "full", or contents are "unreadable"."""

    how: str
    begins: float
    ends: float


class Death(Struct, frozen=True, kw_only=True):
    """A crash: `steps` callbacks of the event loop after the first such `moment` (None: at once) from `at` on.

    The machine's clock is `clock_step_s` further when the relay is back, after `down_s`.
    """

    at: float
    moment: Moment | None
    steps: int
    down_s: float
    clock_step_s: float = 0.0


class Stop(Struct, frozen=True, kw_only=True):
    """A stop in good order with `grace_s`, and the next start after `down_s`; `moment` and `steps` as of a Death."""

    at: float
    moment: Moment | None
    steps: int
    grace_s: float
    down_s: float
    clock_step_s: float = 0.0


class ClockStep(Struct, frozen=True, kw_only=True):
    """The machine's clock is stepped while the relay is up."""

    at: float
    step_s: float


class Order(Struct, frozen=True, kw_only=True):
    """What an operator says: "retry", "cancel" (of one recipient or domain) or "reset" (of all hosts).

    "hold" (of one recipient, a domain or all) and "suspend" (of a domain, or of a sender) are ended `lasts_s` later.
    """

    at: float
    verb: str
    recipient: str = ""
    domain: str = ""
    sender: str = ""
    lasts_s: float = 0.0


class Site(Struct, frozen=True, kw_only=True):
    """A domain and the addresses of its exchangers, best first; those of one `preference` stand together."""

    domain: str
    addresses: tuple[str, ...]
    is_equal: bool = False  # all at one preference


class Outage(Struct, frozen=True, kw_only=True):
    """A whole site is away."""

    site: Site
    begins: float
    ends: float


class Posting(Struct, frozen=True, kw_only=True):
    """A message that a client wants to be rid of. `cut_at`: the first connection dies after so many octets."""

    at: float
    token: str
    reverse_path: str
    recipients: tuple[str, ...]
    silent: tuple[str, ...] = ()  # recipients with NOTIFY=NEVER
    body_octets: int = 0
    cut_at: int | None = None
    again_s: float = 120.0


class Scenario(Struct, frozen=True, kw_only=True):
    """All that will happen in one life of a relay."""

    seed: int
    hours: float
    terms: WorldTerms
    sites: tuple[Site, ...]
    nowhere: tuple[str, ...]  # domains that do not exist
    null: tuple[str, ...]  # domains that accept no mail, and say so
    postings: tuple[Posting, ...]
    hosts: tuple[HostTrouble, ...]
    names: tuple[NameTrouble, ...]
    disks: tuple[DiskTrouble, ...]
    deaths: tuple[Death, ...]
    stops: tuple[Stop, ...]
    clock: tuple[ClockStep, ...]
    orders: tuple[Order, ...]

    @property
    def ends(self) -> float:
        return self.hours * HOUR_S

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(address for site in self.sites for address in site.addresses))


def is_bad(recipient: str) -> bool:
    """Is this an address that every host refuses for good?"""
    return recipient.startswith("gone")


def host_name(address: str) -> str:
    """Give the name of the exchanger at an address."""
    return f"mx{address.rpartition('.')[2]}.hosts.example"
