# SPDX-License-Identifier: MIT
"""Draws a scenario from a seed. Nothing of it depends on what the relay does: a seed keeps its weather.

How often things happen is chosen so that two days see several of each kind, and so that outages outlast expiry now and
then. All troubles end with the scenario, except those of the relay's own life.
"""

import random

from simulate.scenario import (
    HOUR_S,
    LATE_STEPS,
    STEPS,
    ClockStep,
    Death,
    DiskTrouble,
    HostTrouble,
    Mood,
    NameTrouble,
    Order,
    Outage,
    Posting,
    Scenario,
    Site,
    Stop,
    host_name,
)
from smarthost.queue.schedule import RetrySchedule
from smarthost.testing.mortal import Moment
from smarthost.testing.world import WorldTerms


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

    def _while(self) -> float:
        return self.random.choice((1.0, 60.0, 4 * 3600.0)) * self.random.random()

    def _orders(self, postings: tuple[Posting, ...]) -> tuple[Order, ...]:
        draw = self.random
        orders = []
        for _ in range(self._many(1.0, 8.0)):
            posting = draw.choice(postings) if postings else None
            verb = draw.choice(("retry", "retry", "reset", "cancel", "hold", "suspend"))
            if verb == "reset" or posting is None:
                orders.append(Order(at=self._time(), verb="reset"))
            elif verb == "cancel":
                at = posting.at + draw.choice((0.0, 1.0, 400.0)) * draw.random()
                orders.append(Order(at=at, verb=verb, recipient=draw.choice(posting.recipients)))
            elif verb == "hold":
                recipient = draw.choice(posting.recipients) if draw.random() < 0.5 else ""
                at = posting.at + draw.choice((0.0, 1.0, 400.0)) * draw.random()
                orders.append(Order(at=at, verb=verb, recipient=recipient, lasts_s=self._while()))
            elif verb == "suspend":
                domain = draw.choice(posting.recipients).rpartition("@")[2]
                sender = posting.reverse_path if draw.random() < 0.3 else ""
                orders.append(Order(at=self._time(), verb=verb, domain=domain, sender=sender, lasts_s=self._while()))
            else:
                domain = draw.choice(posting.recipients).rpartition("@")[2] if draw.random() < 0.5 else ""
                orders.append(Order(at=self._time(), verb=verb, domain=domain))
        return tuple(sorted(orders, key=lambda each: each.at))
