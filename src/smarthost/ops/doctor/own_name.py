# SPDX-License-Identifier: MIT
"""Check `name`: do receivers believe the name in our EHLO, forwards and back, for each address that mail comes from?

Receivers compare: the EHLO name has an address, the address has a name (PTR), and that name has the address (FCrDNS).
IPv4 and IPv6 are judged apart, since most trouble is with one of them. Also asks a blocklist about the addresses.
"""

from functools import partial
from ipaddress import ip_address, ip_network

from smarthost.ops.doctor.findings import Findings, side_by_side
from smarthost.ops.doctor.world import Outgoing, World, aside, outgoing, speakers
from smarthost.ports import Answer, AnswerStatus

_PRIVATE_ENDINGS = (
    "local",
    "localdomain",
    "localhost",
    "internal",
    "lan",
    "home",
    "corp",
    "invalid",
    "test",
    "example",
)
_LISTED = ip_network("127.0.0.0/16")  # RFC 5782 2.1; 127.255.255.0/24 are the list's own complaints
_NAMES_READ = 10
_FULL = "set hostname to a name that is in the public DNS, such as relay.example.org with your domain"
_ABSENT = (AnswerStatus.NODATA, AnswerStatus.NXDOMAIN)


async def check_name(world: World, told: Findings) -> None:
    """Judge each name that we give, then each address that it is given from."""
    said = speakers(world.config)
    if not said:
        if "." not in world.config.hostname:
            told.warn(f"hostname {world.config.hostname}: not a full name; some smart hosts refuse such an EHLO", _FULL)
        told.skip("all mail goes through smart hosts: their names and addresses count with receivers, not ours")
        return
    names = dict.fromkeys(speaker.hostname for speaker in said)
    by_name = [partial(_judge_hostname, world, name) for name in names]
    await side_by_side(told, [*by_name, partial(_judge_addresses, world)])


async def _judge_addresses(world: World, told: Findings) -> None:
    seen = await outgoing(world)
    if not seen:
        told.fail(
            "this machine has no route to the Internet, by IPv4 or by IPv6",
            "give it an address and a default route, or hand mail to a smart host ([[next_hop]])",
        )
    await side_by_side(told, [partial(_judge_address, world, each) for each in seen])


def _judge_form(hostname: str, told: Findings) -> bool:
    last = hostname.rpartition(".")[2]
    if "." in hostname and last not in _PRIVATE_ENDINGS and not last.isdecimal():
        return True
    told.fail(f"hostname {hostname}: no such name exists outside; receivers refuse such an EHLO", _FULL)
    return False


async def _judge_hostname(world: World, hostname: str, told: Findings) -> None:
    if not _judge_form(hostname, told):
        return
    answers = [await world.resolver.ask(hostname, rdtype) for rdtype in ("A", "AAAA")]
    addresses = [address for answer in answers for address in answer.addresses]
    if not addresses:
        silent = [answer for answer in answers if answer.status not in _ABSENT]
        if silent:
            told.warn(f"hostname {hostname}: DNS does not say: {_said(silent[0])}", "see the lines about the resolver")
        else:
            told.fail(f"hostname {hostname}: has no address in DNS", "add an A (and AAAA) record for it")
        return
    own = await aside(world.machine.addresses)
    ours = [address for address in addresses if address in own or address in world.wishes.public_addresses]
    if ours:
        told.ok(f"hostname {hostname}: is {', '.join(ours)}, an address of ours")
    elif any(ip_address(address).is_global for address in own):
        told.warn(
            f"hostname {hostname}: is {', '.join(addresses[:4])}, which this machine does not have",
            "point its A and AAAA records here, or set hostname to this machine's name",
        )
    else:
        told.ok(
            f"hostname {hostname}: is {', '.join(addresses[:4])}; this machine has private addresses only, so it is"
            " behind NAT (say --public-address to have what is behind it checked)"
        )


async def _judge_address(world: World, out: Outgoing, told: Findings) -> None:
    family = f"IPv{out.version}"
    if not out.address:
        told.skip(
            f"{family}: mail leaves from {out.local}, which is private: behind NAT, and nobody here knows as what",
            "say --public-address with what the outside sees",
        )
        return
    how = {"given": " (as you said)", "assumed": f" (behind NAT; taken from {out.speaker.hostname})"}.get(out.how, "")
    await _judge_ptr(world, out, f"{family} {out.address}{how}", told)
    await _judge_listing(world, out, told)


async def _judge_ptr(world: World, out: Outgoing, whose: str, told: Findings) -> None:
    hostname = out.speaker.hostname
    answer = await world.resolver.ask(ip_address(out.address).reverse_pointer, "PTR")
    ask_provider = f"ask whoever gave you {out.address} to set its PTR to {hostname}"
    if answer.status in _ABSENT:
        if out.version == 6:
            told.warn(
                f"{whose}: has no PTR; Gmail and others refuse mail from it",
                f'{ask_provider}; or set families = "ipv4" under [mx], and mail leaves by IPv4 alone',
            )
        else:
            told.fail(f"{whose}: has no PTR; most receivers refuse mail from it", ask_provider)
        return
    if not answer.texts:
        told.warn(f"{whose}: DNS does not say its PTR: {_said(answer)}", "see the lines about the resolver")
        return
    names = answer.texts[:_NAMES_READ]
    rdtype = "A" if out.version == 4 else "AAAA"
    confirmed = [name for name in names if out.address in await _addresses(world, name, rdtype)]
    if hostname in confirmed:
        told.ok(f"{whose}: its PTR is {hostname}, which has that address")
    elif confirmed:
        told.warn(
            f"{whose}: its PTR is {confirmed[0]}, but we say EHLO {hostname}",
            f"{ask_provider}, or set hostname to {confirmed[0]}",
        )
    else:
        said = f"{whose}: its PTR is {names[0]}, which does not have that address"
        if out.version == 6:
            told.warn(said, f'{ask_provider}; or set families = "ipv4" under [mx]')
        else:
            told.fail(said, f"give {names[0]} that address, or {ask_provider}")


async def _addresses(world: World, name: str, rdtype: str) -> tuple[str, ...]:
    return (await world.resolver.ask(name, rdtype)).addresses


async def _judge_listing(world: World, out: Outgoing, told: Findings) -> None:
    zone = world.wishes.blocklist
    if not zone:
        return
    reversed_address = ip_address(out.address).reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
    answer = await world.resolver.ask(f"{reversed_address}.{zone}", "A")
    codes = [each for each in answer.addresses if ip_address(each) in _LISTED]
    if codes:
        told.fail(
            f"{out.address}: is listed in {zone} ({', '.join(codes[:4])})",
            f"look it up at the list's own page ({zone.partition('.')[2]}), end the cause, then ask to be removed",
        )
    elif answer.status is AnswerStatus.NXDOMAIN:
        told.ok(f"{out.address}: is not listed in {zone}")


def _said(answer: Answer) -> str:
    return answer.detail or answer.status.value
