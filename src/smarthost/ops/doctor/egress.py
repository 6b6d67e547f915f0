# SPDX-License-Identifier: MIT
"""Check `egress`: does mail get out: to exchangers at port 25, as far as their banner, and to each configured next hop?

A next hop is tried as mail would use it (send.probe): EHLO, TLS, certificate, whether AUTH is offered; the password is
tried with --login alone. An exchanger hears QUIT after its banner. Never MAIL, never DATA.
"""

import asyncio
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address

from msgspec import Struct
from msgspec.structs import replace

from smarthost.config import Config, NextHopSection, Protocol
from smarthost.mail.errors import RemoteProtocolError, TransportError
from smarthost.mail.explanation import Probed
from smarthost.mail.hop import Host, SessionPolicy, TlsLevel
from smarthost.mail.reply import Reply
from smarthost.ops.doctor.findings import Findings, side_by_side
from smarthost.ops.doctor.talk import Talk
from smarthost.ops.doctor.world import FAR_IPV4, FAR_IPV6, World, aside, speakers
from smarthost.ports import Answer, AnswerStatus, Resolver
from smarthost.send.probe import Prober, ProbeTerms
from smarthost.send.session import Session, SetupFailed
from smarthost.smtp.steps import Step

DIAL_S = 4.0  # a SYN that is dropped is not answered later either
HOP_S = 8.0
MOST_HOPS = 20
_OFF_S = 120.0  # what DKIM's and TLS's peers forgive


async def check_egress(world: World, told: Findings) -> None:
    """Try what the configuration would use: next hops, exchangers, or both."""
    hops = _hops(world.config)
    parts = [partial(_try_hop, world, hop) for hop in hops[:MOST_HOPS]]
    if speakers(world.config):
        parts.append(partial(_try_exchangers, world))
    await side_by_side(told, parts)
    if len(hops) > MOST_HOPS:
        told.skip(f"{len(hops) - MOST_HOPS} further next hops were not tried")


def _hops(config: Config) -> tuple[NextHopSection, ...]:
    routed = [hop for route in config.routes for hop in route.next_hops]
    return tuple(dict.fromkeys((*config.next_hops, *routed)))


# -- exchangers --------------------------------------------------------------------------------------------------------


class _Greeting(Struct, frozen=True):
    """What came of one exchanger: its banner, or why there is none."""

    exchanger: str
    banner: Reply | None
    why: str


async def _try_exchangers(world: World, told: Findings) -> None:
    """Each family apart; all domains at the same time."""
    families = {rdtype for speaker in speakers(world.config) for rdtype in speaker.families.rdtypes}
    parts = [
        partial(_try_family, world, rdtype, far)
        for rdtype, far in (("A", FAR_IPV4), ("AAAA", FAR_IPV6))
        if rdtype in families
    ]
    await side_by_side(told, parts)


async def _try_family(world: World, rdtype: str, far: str, told: Findings) -> None:
    family = "IPv4" if rdtype == "A" else "IPv6"
    if not await aside(lambda: world.machine.route_to(far)):
        if rdtype == "AAAA":
            told.skip("IPv6: this machine has no route; mail leaves by IPv4 alone")
        else:
            told.fail("IPv4: this machine has no route to the Internet", "give it an address and a default route")
        return
    sources = [each.source for each in speakers(world.config) if each.source and (":" in each.source) == (":" in far)]
    source = sources[0] if sources else ""
    async with asyncio.TaskGroup() as tasks:
        each_domain = [
            tasks.create_task(_greet(world, domain, rdtype, source)) for domain in world.wishes.probe_domains
        ]
    came = [task.result() for task in each_domain]
    greetings = [each for each in came if isinstance(each, _Greeting)]
    _judge_family(world, family, greetings, [each for each in came if isinstance(each, str)], told)


async def _greet(world: World, domain: str, rdtype: str, source: str) -> _Greeting | str | None:
    """Hear the banner of an exchanger with an address of this family; a text: DNS does not give one; None: none has."""
    mx = await world.resolver.ask(domain, "MX")
    if mx.status is not AnswerStatus.FOUND:
        return f"MX of {domain}: {mx.detail or mx.status.value}"
    answer: Answer | None = None
    for record in sorted(mx.mx, key=lambda each: each.preference)[:3]:
        answer = await world.resolver.ask(record.exchange, rdtype)
        if answer.addresses:
            return await _hear(world, record.exchange, answer.addresses[0], source)
    if answer is None or answer.status in (AnswerStatus.FOUND, AnswerStatus.NODATA, AnswerStatus.NXDOMAIN):
        return None
    return f"exchanger of {domain}: {answer.detail or answer.status.value}"


async def _hear(world: World, name: str, address: str, source: str) -> _Greeting:
    exchanger = f"{name} [{address}]"
    try:
        connection = await world.dialer.dial(address, world.config.mx.port, source=source, timeout_s=DIAL_S)
    except TransportError as error:
        return _Greeting(exchanger, None, str(error))
    talk = Talk(connection)
    try:
        return _Greeting(exchanger, await talk.hear(), "")
    except (TransportError, RemoteProtocolError) as error:
        return _Greeting(exchanger, None, f"connected, then {error}")
    finally:
        talk.leave()


def _judge_family(world: World, family: str, greetings: list[_Greeting], troubles: list[str], told: Findings) -> None:
    port = world.config.mx.port
    heard = [each for each in greetings if each.banner is not None]
    welcome = [each for each in heard if each.banner is not None and each.banner.code == 220]
    silent = [each for each in greetings if each.banner is None]
    for each in heard:
        assert each.banner is not None, "heard"
        if each.banner.code != 220:
            told.warn(
                f"{family} port {port}: {each.exchanger} greets us with {each.banner}",
                "read its words: the address may be listed, or lack a PTR (see the lines about the name)",
            )
        _judge_time(each, world, told)
    if welcome:
        told.ok(f"{family} port {port}: {len(welcome)} of {len(greetings)} exchangers greet us: {welcome[0].exchanger}")
        for each in silent:
            told.warn(f"{family} port {port}: {each.exchanger}: {each.why}", "others answer: it may be that host's own")
    elif silent and not heard:
        tried = "; ".join(f"{each.exchanger}: {each.why}" for each in silent)
        if family == "IPv6":
            cure = f'have port {port} opened for IPv6, or set families = "ipv4" under [mx]: mail tries IPv6 first'
        else:
            cure = (
                f"most hosting providers block port {port} until asked: ask yours to open it, or hand mail to a smart"
                " host at port 587 or 465 ([[next_hop]])"
            )
        told.fail(f"{family} port {port} is closed outwards: {tried}", cure)
    elif not greetings and troubles:
        told.fail(
            f"{family} port {port}: not tried, no exchanger was found: {_grouped(troubles)}",
            "see the lines about the resolver; --probe-domain names other receivers",
        )
    elif not greetings:
        told.skip(f"{family} port {port}: none of {', '.join(world.wishes.probe_domains)} has such an exchanger")


def _grouped(troubles: list[str]) -> str:
    """Give "MX of a, MX of b: why; ...": a dead name server is the trouble of all."""
    names: dict[str, list[str]] = {}
    for each in troubles:
        what, _, why = each.partition(": ")
        names.setdefault(why, []).append(what)
    return "; ".join(f"{', '.join(what)}: {why}" for why, what in names.items())


def _judge_time(greeting: _Greeting, world: World, told: Findings) -> None:
    """Some exchangers say what time it is (RFC 5321 does not ask for it); one is enough to see a clock that is off."""
    assert greeting.banner is not None, "heard"
    text = " ".join(greeting.banner.lines)
    try:
        theirs = parsedate_to_datetime(text.rpartition(";")[2].strip()).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return
    off_s = world.clock.wall() - theirs
    if abs(off_s) > _OFF_S:
        told.warn(
            f"our clock and that of {greeting.exchanger} differ by {abs(off_s):.0f} s (ours is"
            f" {'ahead' if off_s > 0 else 'behind'})",
            "see the lines about the clock",
        )


# -- next hops ---------------------------------------------------------------------------------------------------------


async def _try_hop(world: World, hop: NextHopSection, told: Findings) -> None:
    addresses, why = await _addresses(world.names, hop)
    where = f"next hop {hop.host}:{hop.port}"
    if not addresses:
        told.fail(f"{where}: {why}", "correct the name in [[next_hop]], or see the lines about the resolver")
        return
    if hop.credentials is not None and hop.tls is TlsLevel.NONE and not hop.implicit_tls:
        told.warn(f"{where}: the password travels in clear (tls = none)", 'set tls = "verified"')
    reached = [each for each in addresses if await aside(partial(world.machine.route_to, each))]
    for each in addresses:
        if reached and each not in reached:
            told.skip(f"{where} [{each}]: this machine has no route there; mail takes its other address")
    await side_by_side(told, [partial(_try_address, world, hop, each) for each in reached or addresses])


async def _addresses(names: Resolver, hop: NextHopSection) -> tuple[list[str], str]:
    """Give the first address of each family that the hop uses, or why there is none."""
    try:
        return [str(ip_address(hop.host))], ""
    except ValueError:
        pass
    async with asyncio.TaskGroup() as tasks:  # a search list multiplies the time of a dead name server
        asked = [tasks.create_task(_ask(names, hop.host, rdtype)) for rdtype in _rdtypes(hop)]
    answers = [task.result() for task in asked]
    found = [answer.addresses[0] for answer in answers if answer.addresses]
    whys = [answer.detail or answer.status.value for answer in answers if not answer.addresses]
    return found, f"no address: {'; '.join(dict.fromkeys(whys))}"


async def _ask(names: Resolver, name: str, rdtype: str) -> Answer:
    return await names.ask(name, rdtype)


def _rdtypes(hop: NextHopSection) -> tuple[str, ...]:
    """Give the kinds of address that mail would use: what its source address cannot reach is not among them."""
    if not hop.source:
        return hop.families.rdtypes
    return ("AAAA",) if ":" in hop.source else ("A",)


def _policy(world: World, hop: NextHopSection) -> SessionPolicy:
    return SessionPolicy(
        hop.hostname or world.config.hostname,
        hop.port,
        tls=hop.tls,
        implicit_tls=hop.implicit_tls,
        source=hop.source,
        is_lmtp=hop.protocol is Protocol.LMTP,
    )


async def _try_address(world: World, hop: NextHopSection, address: str, told: Findings) -> None:
    policy = _policy(world, hop)
    probed = await _probe(world, hop, address, policy)
    where = f"next hop {hop.host}:{hop.port} [{address}]"
    if probed is None:
        told.fail(f"{where}: not ready within {HOP_S:g} s", "check host, port, and the firewalls on the way")
        return
    if not probed.ok:
        told.fail(f"{where}: failed at {probed.step}: {probed.why}", _cure(probed.step))
        return
    told.ok(f"{where}: ready in {probed.took_s * 1000:.0f} ms, {probed.tls or 'in clear'}")
    await _judge_tls(world, hop, address, probed, told)
    await _judge_auth(world, hop, address, probed, told)


async def _probe(world: World, hop: NextHopSection, address: str, policy: SessionPolicy) -> Probed | None:
    prober = Prober(ProbeTerms(world.dialer, world.clock, lambda source, host: None, DIAL_S))
    try:
        async with asyncio.timeout(HOP_S):
            return await prober.probe(Host(hop.host, (address,)), address, policy)
    except TimeoutError:
        return None


def _cure(step: str) -> str:
    match step:
        case "connect":
            return "check host and port in [[next_hop]], and the firewalls on the way"
        case "tls" | "starttls":
            return "name its CA with ca_file, or choose the level of tls that it can keep (docs/configuration.md)"
        case _:
            return "read its words, and ask whoever runs it"


async def _judge_tls(world: World, hop: NextHopSection, address: str, probed: Probed, told: Findings) -> None:
    where = f"next hop {hop.host}:{hop.port} [{address}]"
    if hop.tls in (TlsLevel.NONE, TlsLevel.VERIFIED) and (probed.tls or hop.tls is TlsLevel.NONE):
        return
    if not probed.tls:
        if not ip_address(address).is_private:
            told.warn(f"{where}: offers no TLS: mail goes there in clear", "ask whoever runs it for STARTTLS")
        return
    verified = await _probe(world, hop, address, replace(_policy(world, hop), tls=TlsLevel.VERIFIED))
    if verified is None:
        return
    if verified.ok:
        told.ok(f'{where}: its certificate is good for its name: tls = "verified" would hold')
    elif hop.credentials is not None:
        told.warn(
            f"{where}: its certificate is not good for its name ({verified.why}), so anybody in between can read the"
            " password",
            'name its CA with ca_file and set tls = "verified"',
        )
    else:
        told.ok(f"{where}: its certificate was not asked to be good for its name, and is not: {verified.why}")


async def _judge_auth(world: World, hop: NextHopSection, address: str, probed: Probed, told: Findings) -> None:
    where = f"next hop {hop.host}:{hop.port} [{address}]"
    offered = [each.upper().split()[1:] for each in probed.extensions if each.upper().startswith("AUTH ")]
    if hop.credentials is None:
        return
    if not any({"PLAIN", "LOGIN"} & set(mechanisms) for mechanisms in offered):
        told.fail(
            f"{where}: offers neither AUTH PLAIN nor AUTH LOGIN, but a username is configured",
            "use its submission port (587, or 465 with implicit_tls), or remove the username",
        )
    elif not world.wishes.login:
        told.ok(f"{where}: offers AUTH; the password was not tried (--login tries it)")
    else:
        await _log_in(world, hop, address, told)


async def _log_in(world: World, hop: NextHopSection, address: str, told: Findings) -> None:
    assert hop.credentials is not None, "asked before"
    where = f"next hop {hop.host}:{hop.port} [{address}]"
    policy = replace(_policy(world, hop), credentials=hop.credentials)
    failed: SetupFailed | TransportError | None
    try:
        connection = await world.dialer.dial(address, hop.port, source=hop.source, timeout_s=DIAL_S)
        session = Session(connection, world.clock, (hop.host, address, policy))
        failed = await session.set_up(HOP_S)
        session.quit()
    except TransportError as error:
        failed = error
    if failed is None:
        told.ok(f"{where}: takes the password of {hop.credentials.username}")
    elif isinstance(failed, SetupFailed) and failed.step is Step.AUTH:
        told.fail(
            f"{where}: refuses the password of {hop.credentials.username}: {failed.said}",
            "correct username and password_file; mail waits meanwhile, none is lost",
        )
    else:
        said = failed.said if isinstance(failed, SetupFailed) else failed
        told.warn(f"{where}: the password could not be tried: {said}", "try again")
