# SPDX-License-Identifier: MIT
"""Draws a scenario from a seed: who there is, what is sent, and what goes wrong when. Values only, decided beforehand.

Nothing of it depends on what the relay does, so a change of the relay leaves the same seed the same weather. Times are
virtual seconds since the start. The shapes of trouble are named by what a host, a resolver or a disk does.
"""

import random
from enum import Enum

from msgspec import Struct

from smarthost.queue.schedule import RetrySchedule
from smarthost.testing.mortal import Moment
from smarthost.testing.world import WorldTerms

HOUR_S = 3600.0
MINUTE_S = 60.0


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
    """What an operator says: "retry", "cancel" (of one recipient or domain) or "reset" (of all hosts)."""

    at: float
    verb: str
    recipient: str = ""
    domain: str = ""


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


def draw(seed: int, hours: float) -> Scenario:
    """Draw a scenario; the same for the same seed and hours."""
    return _Draw(seed, hours).scenario()


class _Draw:
    def __init__(self, seed: int, hours: float) -> None:
        self.seed = seed
        self.hours = hours
        self.ends = hours * HOUR_S
        self.random = random.Random(f"scenario {seed}")
        self.expire_after_s = self.random.choice((4, 4, 8, 12, 20)) * HOUR_S

    def scenario(self) -> Scenario:
        sites = self._sites()
        self.outages = self._outages(sites)
        nowhere, null = ("tpyo.example", "nowhere.example"), ("null.example",)
        senders = [f"s{n}@{self.random.choice(sites).domain}" for n in range(self.random.randint(3, 12))]
        postings = self._postings(sites, (*nowhere, *null), senders)
        return Scenario(
            seed=self.seed,
            hours=self.hours,
            terms=self._terms(),
            sites=sites,
            nowhere=nowhere,
            null=null,
            postings=postings,
            hosts=self._hosts(sites),
            names=self._names(sites),
            disks=self._disks(),
            deaths=self._deaths(),
            stops=self._stops(),
            clock=tuple(
                ClockStep(at=self._time(), step_s=self._clock_step()) for _ in range(self.random.choice((0, 0, 1, 2)))
            ),
            orders=self._orders(postings),
        )

    def _time(self) -> float:
        return self.random.uniform(0.0, self.ends)

    def _many(self, least: float, most: float) -> int:
        """Draw how many of something there are: between so many a day, and at least now and then one."""
        share = self.random.uniform(least, most) * self.hours / 24
        return int(share) + (self.random.random() < share % 1)

    def _span(self, *typical_s: float) -> tuple[float, float]:
        """Draw when something begins and ends."""
        begins = self._time()
        return begins, begins + self.random.choice(typical_s) * self.random.uniform(0.3, 1.7)

    def _terms(self) -> WorldTerms:
        draw = self.random
        return WorldTerms(
            commit_delay_s=draw.choice((0.0005, 0.002, 0.02)),
            reads_take_s=draw.choice(((0.0001, 0.001), (0.001, 0.02), (0.01, 0.2))),
            latency_s=draw.choice((0.001, 0.01, 0.08)),
            sessions_per_lane=draw.choice((1, 2, 3, 5, 20)),
            sessions=draw.choice((3, 10, 2000)),
            messages_per_session=draw.choice((1, 3, 100)),
            schedule=RetrySchedule(
                first_s=draw.choice((60.0, 300.0)),
                longest_s=draw.choice((1200.0, 4000.0)),
                expire_after_s=self.expire_after_s,
                delay_warning_s=draw.choice((0.0, HOUR_S, 3 * HOUR_S)),
            ),
        )

    # -- who there is -------------------------------------------------------------------------------------------------

    def _sites(self) -> tuple[Site, ...]:
        draw = self.random
        provider = ("192.0.2.250", "192.0.2.251")
        sites = []
        for n in range(draw.randint(4, 10)):
            if n and draw.random() < 0.25:
                addresses: tuple[str, ...] = provider
            else:
                addresses = tuple([f"192.0.2.{10 * n + m + 1}" for m in range(draw.choice((1, 1, 2, 2, 3)))])
            sites.append(Site(domain=f"d{n}.example", addresses=addresses, is_equal=draw.random() < 0.4))
        return tuple(sites)

    def _postings(self, sites: tuple[Site, ...], hopeless: tuple[str, ...], senders: list[str]) -> tuple[Posting, ...]:
        draw = self.random
        times = [self._time() for _ in range(int(self.hours * draw.uniform(1.0, 5.0)))]
        for _ in range(self._many(0.5, 2.0)):  # everybody at once, as at nine in the morning
            at = self._time()
            times += [at + draw.uniform(0.0, 20.0) for _ in range(draw.randint(5, 25))]
        postings = [self._posting(n, at, sites, hopeless, senders) for n, at in enumerate(sorted(times))]
        for _ in range(self._many(0.5, 2.0)):  # somebody's bulk for one domain
            at, site = self._time(), draw.choice(sites)
            for _ in range(draw.randint(10, 40)):
                soon = at + draw.uniform(0.0, 2.0)
                postings.append(self._posting(len(postings), soon, (site,), (site.domain,), senders))
        for outage in self.outages:
            site = outage.site
            for _ in range(draw.randint(3, 15)):
                soon = outage.begins + draw.uniform(0.0, 1800.0)
                postings.append(self._posting(len(postings), soon, (site,), (site.domain,), senders))
        return tuple(sorted(postings, key=lambda each: each.at))

    def _outages(self, sites: tuple[Site, ...]) -> tuple[Outage, ...]:
        """Draw which whole sites are away for so long that mail expires."""
        draw, outages = self.random, []
        for _ in range(self._many(0.3, 1.5)):
            begins = self._time() * 0.5
            ends = begins + self.expire_after_s + draw.uniform(2.0, 8.0) * HOUR_S
            outages.append(Outage(site=draw.choice(sites), begins=begins, ends=min(ends, self.ends)))
        return tuple(outages)

    def _posting(
        self, n: int, at: float, sites: tuple[Site, ...], hopeless: tuple[str, ...], senders: list[str]
    ) -> Posting:
        draw = self.random
        many = 1 if draw.random() < 0.7 else draw.choice((2, 3, 5, 12, 120 if draw.random() < 0.1 else 20))
        recipients = []
        for m in range(many):
            local = "gone" if draw.random() < 0.03 else "user"
            domain = draw.choice(hopeless) if draw.random() < 0.02 else draw.choice(sites).domain
            recipients.append(f"{local}{n}x{m}@{domain}")
        return Posting(
            at=at,
            token=f"t{n}",
            reverse_path="" if draw.random() < 0.05 else draw.choice(senders),
            recipients=tuple(recipients),
            silent=tuple([each for each in recipients if draw.random() < 0.03]),
            body_octets=draw.choice((10, 200, 3000, 100_000 if draw.random() < 0.1 else 1000)),
            cut_at=int(draw.uniform(1, 800)) if draw.random() < 0.04 else None,
            again_s=draw.uniform(20.0, 900.0),
        )

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def _hosts(self, sites: tuple[Site, ...]) -> tuple[HostTrouble, ...]:
        draw = self.random
        addresses = list(dict.fromkeys(address for site in sites for address in site.addresses))
        troubles = [self._trouble(draw.choice(addresses), *self._span(60.0, 600.0, HOUR_S, 4 * HOUR_S)) for _ in
                    range(len(addresses) * self._many(0.8, 3.0))]  # fmt: skip
        for outage in self.outages:
            mood = draw.choice((Mood.REFUSES, Mood.BLACK_HOLE, Mood.SILENT))
            for address in outage.site.addresses:
                troubles.append(
                    HostTrouble(address=address, mood=mood, begins=outage.begins, ends=outage.ends, step="banner")
                )
        for _ in range(self._many(0.0, 1.0)):  # a storm
            begins, ends = self._span(1200.0, HOUR_S)
            ends = min(ends, self.ends)
            troubles += [
                HostTrouble(address=each, mood=Mood.CLOSING, begins=begins, ends=ends, step=draw.choice(STEPS))
                for each in addresses
            ]
        return tuple(sorted(troubles, key=lambda each: (each.begins, each.address)))

    def _trouble(self, address: str, begins: float, ends: float) -> HostTrouble:
        draw = self.random
        mood = draw.choice([mood for mood in Mood if mood is not Mood.WELL])
        step, n = "", 0.0
        match mood:
            case Mood.SILENT | Mood.HANGS_UP | Mood.CUTS_REPLY | Mood.CLOSING:
                step = draw.choice(STEPS)
            case Mood.TEMPORARY:
                step = draw.choice(LATE_STEPS)
            case Mood.BANS:
                step = draw.choice(("banner", "ehlo"))
            case Mood.RESETS | Mood.STALLS:
                n = float(draw.randint(1, 1500))
            case Mood.TARPIT:
                n = draw.choice((0.5, 5.0, 7.9, 30.0, 290.0))
            case Mood.REJECTS:
                n = draw.choice((2.0, 5.0))
        return HostTrouble(address=address, mood=mood, begins=begins, ends=min(ends, self.ends), step=step, n=n)

    def _names(self, sites: tuple[Site, ...]) -> tuple[NameTrouble, ...]:
        draw = self.random
        troubles = []
        for _ in range(self._many(1.0, 8.0)):
            site = draw.choice(sites)
            names = [site.domain, *(host_name(address) for address in site.addresses)]
            begins, ends = self._span(30.0, 600.0, HOUR_S, 3 * HOUR_S)
            troubles.append(
                NameTrouble(
                    name=draw.choice(names),
                    fault=draw.choice(("servfail", "timeout")),
                    begins=begins,
                    ends=min(ends, self.ends),
                )
            )
        return tuple(sorted(troubles, key=lambda each: each.begins))

    def _disks(self) -> tuple[DiskTrouble, ...]:
        troubles = []
        for _ in range(self._many(0.5, 4.0)):
            begins, ends = self._span(5.0, 300.0, 1800.0, 3600.0)
            how = self.random.choice(("fails", "full", "unreadable"))
            troubles.append(DiskTrouble(how=how, begins=begins, ends=min(ends, self.ends)))
        return tuple(sorted(troubles, key=lambda each: each.begins))

    def _clock_step(self) -> float:
        return self.random.choice((-5 * HOUR_S, -HOUR_S, -60.0, -0.5, 0.5, 60.0, HOUR_S, 30 * HOUR_S))

    def _deaths(self) -> tuple[Death, ...]:
        draw = self.random
        moments = (None, *Moment)
        return tuple(
            sorted(
                [
                    Death(
                        at=self._time(),
                        moment=draw.choice(moments),
                        steps=draw.randint(1, draw.choice((3, 30, 300))),
                        down_s=draw.choice((0.5, 5.0, 60.0, 1800.0)),
                        clock_step_s=self._clock_step() if draw.random() < 0.15 else 0.0,
                    )
                    for _ in range(self._many(1.0, 8.0))
                ],
                key=lambda each: each.at,
            )
        )

    def _stops(self) -> tuple[Stop, ...]:
        draw = self.random
        return tuple(
            sorted(
                [
                    Stop(
                        at=self._time(),
                        moment=draw.choice((None, *Moment)),
                        steps=draw.randint(1, draw.choice((3, 100, 1000))),
                        grace_s=draw.choice((0.0, 0.05, 2.0, 30.0)),
                        down_s=draw.choice((0.5, 5.0, 60.0, 1800.0)),
                        clock_step_s=self._clock_step() if draw.random() < 0.15 else 0.0,
                    )
                    for _ in range(self._many(1.0, 8.0))
                ],
                key=lambda each: each.at,
            )
        )

    def _orders(self, postings: tuple[Posting, ...]) -> tuple[Order, ...]:
        draw = self.random
        orders = []
        for _ in range(self._many(1.0, 8.0)):
            posting = draw.choice(postings) if postings else None
            verb = draw.choice(("retry", "retry", "reset", "cancel"))
            if verb == "reset" or posting is None:
                orders.append(Order(at=self._time(), verb="reset"))
            elif verb == "cancel":
                at = posting.at + draw.choice((0.0, 1.0, 400.0)) * draw.random()
                orders.append(Order(at=at, verb=verb, recipient=draw.choice(posting.recipients)))
            else:
                domain = draw.choice(posting.recipients).rpartition("@")[2] if draw.random() < 0.5 else ""
                orders.append(Order(at=self._time(), verb=verb, domain=domain))
        return tuple(sorted(orders, key=lambda each: each.at))


def host_name(address: str) -> str:
    """Give the name of the exchanger at an address."""
    return f"mx{address.rpartition('.')[2]}.hosts.example"
