# SPDX-License-Identifier: MIT
"""Check `relaying`: is this an open relay? The policy is read, and our own listeners are asked as a stranger would.

RCPT is the last word said: no DATA, so nothing is ever queued by this. A stranger is simulated by an address of ours
that the policy does not trust; where there is none, only the policy was judged, and the line says so.
"""

from functools import partial
from ipaddress import ip_address

from msgspec import Struct

from smarthost.config import Config, ListenerSection, Mode, Network
from smarthost.mail.errors import RemoteProtocolError, TransportError
from smarthost.ops.doctor.findings import Findings, side_by_side
from smarthost.ops.doctor.talk import Talk
from smarthost.ops.doctor.world import World, aside

DIAL_S = 3.0
_ELSEWHERE = "example.net"  # RFC 2606: nobody's mail, and nothing is sent
_LARGE_IPV4, _LARGE_IPV6 = 8, 16
_EVERYWHERE = ("", "*", "0.0.0.0", "::")  # noqa: S104 - compared, not bound


async def check_relaying(world: World, told: Findings) -> None:
    """Judge the policy first: it is wrong whether a daemon runs or not."""
    config = world.config
    _judge_policy(config, told)
    if world.daemon is None:
        told.skip("no daemon runs for this state directory, so its listeners were not asked", "smarthost serve")
        return
    own = await aside(world.machine.addresses)
    strangers = [each for each in own if not ip_address(each).is_loopback and not ip_address(each).is_link_local]
    doors = list(_doors(config, world.daemon.listen, strangers))
    if not doors:
        told.skip("no listener for machines can be reached from outside this machine")
    await side_by_side(told, [partial(_try_door, world, door, strangers) for door in doors])


def _judge_policy(config: Config, told: Findings) -> None:
    networks = list(_trusted(config))
    everybody = [(key, network) for key, network in networks if network.prefixlen == 0]
    large = [(key, network) for key, network in networks if _is_large(network)]
    for key, network in everybody:
        told.fail(
            f"{key} has {network}: an open relay: everybody may send through this host, which gets it blocked",
            "name your own networks only; people elsewhere log in ([[listener]] mode = submission)",
        )
    for key, network in large:
        told.warn(f"{key} has {network}, a large part of the Internet", "name your own networks only")
    if not everybody and not large:
        told.ok("only named networks may relay: " + (", ".join(sorted({str(network) for _, network in networks})[:8])))


def _trusted(config: Config) -> list[tuple[str, Network]]:
    """Give every network that is trusted with more than its own mail, and the key that says so."""
    trusted = [("relay_from", network) for network in config.relay_from]
    trusted += [("transfer_from", network) for network in config.transfer_from]
    for number, section in enumerate(config.listeners, 1):
        at = f"listener[{number}]"
        trusted += [(f"{at}.relay_from", network) for network in section.relay_from or ()]
        trusted += [(f"{at}.proxy_from", network) for network in section.proxy_from]
        trusted += [(f"{at}.xclient_from", network) for network in section.xclient_from]
    return trusted


def _is_large(network: Network) -> bool:
    least = _LARGE_IPV4 if network.version == 4 else _LARGE_IPV6
    return 0 < network.prefixlen < least and not network.is_private


# -- as a stranger -----------------------------------------------------------------------------------------------------


class _Door(Struct, frozen=True):
    """An address at which we listen, and whom the listener trusts."""

    host: str
    port: int
    trusted: tuple[Network, ...]


def _doors(config: Config, bound: tuple[tuple[str, int], ...], own: list[str]) -> list[_Door]:
    """Give where machines hand in mail, from outside: not those for users, not on loopback.

    What the daemon listens at and the configuration does not name (an option, a change since) is asked as well.
    """
    sections = ([ListenerSection(listen=config.listen)] if config.listen else []) + list(config.listeners)
    doors: dict[_Door, None] = {}
    unnamed = dict.fromkeys(bound)
    for section in sections:
        relay_from = config.relay_from if section.relay_from is None else section.relay_from
        trusted = (*relay_from, *section.proxy_from, *section.xclient_from, *config.transfer_from)
        for endpoint in section.listen:
            is_bound = any(port == endpoint.port for _, port in bound)
            unnamed = {(host, port): None for host, port in unnamed if port != endpoint.port}
            if section.mode is Mode.RELAY and is_bound:
                doors |= dict.fromkeys(_Door(host, endpoint.port, trusted) for host in _hosts(endpoint.host, own))
    for host, port in unnamed:
        doors |= dict.fromkeys(_Door(each, port, config.relay_from) for each in _hosts(host, own))
    return list(doors)


def _hosts(host: str, own: list[str]) -> list[str]:
    """Give the addresses of ours by which a stranger reaches a listener: one of each family that it listens to."""
    if host not in _EVERYWHERE:
        return [host] if host in own else []
    families = {"0.0.0.0": (False,), "::": (True,)}.get(host, (False, True))  # noqa: S104 - compared, not bound
    first = [next((each for each in own if (":" in each) is is_ipv6), "") for is_ipv6 in families]
    return [each for each in first if each]


async def _try_door(world: World, door: _Door, own: list[str], told: Findings) -> None:
    where = f"listener {door.host} port {door.port}"
    same_family = [each for each in own if (":" in each) == (":" in door.host)]
    sources = [each for each in same_family if not any(ip_address(each) in network for network in door.trusted)]
    if not sources:
        told.skip(
            f"{where}: all addresses of this machine are trusted by the policy, so nobody here can play the stranger",
            f"try from elsewhere: a RCPT for an address at {_ELSEWHERE} must be refused",
        )
        return
    try:
        connection = await world.dialer.dial(door.host, door.port, source=sources[0], timeout_s=DIAL_S)
    except TransportError as error:
        told.warn(f"{where}: cannot be reached from {sources[0]}: {error}", "if clients reach it, ignore this")
        return
    talk = Talk(connection)
    try:
        taken = await _ask(talk, world.config.hostname)
    except (TransportError, RemoteProtocolError) as error:
        told.warn(f"{where}: the test from {sources[0]} did not end: {error}", "try again; see the daemon's log")
        return
    finally:
        talk.leave()
    if taken:
        told.fail(
            f"{where}: takes {taken} from the stranger {sources[0]}: an open relay",
            "look at relay_from, transfer_from, xclient_from and proxy_from of this listener, and restart the daemon",
        )
    else:
        told.ok(f"{where}: refuses to relay for the stranger {sources[0]}")


async def _ask(talk: Talk, hostname: str) -> str:
    """Give the recipient that was taken, or "": the ways by which relays were open in the last forty years.

    Raises: TransportError, RemoteProtocolError: it did not let us ask.
    """
    banner = await talk.hear()
    if banner.code != 220:
        raise RemoteProtocolError(f"it greets us with {banner}")
    await talk.say(f"EHLO {hostname}")
    recipients = (
        f"<doctor@{_ELSEWHERE}>",
        f"<doctor%{_ELSEWHERE}@{hostname}>",
        f'<"doctor@{_ELSEWHERE}">',
        f"<@{hostname}:doctor@{_ELSEWHERE}>",
        f"<{_ELSEWHERE}!doctor>",
    )
    for reverse_path in (f"<doctor@{hostname}>", "<>"):
        mail = await talk.say(f"MAIL FROM:{reverse_path}")
        if mail.code == 421:
            raise RemoteProtocolError(f"it hangs up: {mail}")
        if not mail.is_positive:
            continue
        for recipient in recipients if reverse_path != "<>" else recipients[:1]:
            answer = await talk.say(f"RCPT TO:{recipient}")
            if answer.is_positive:
                return recipient
            if answer.code == 421:
                raise RemoteProtocolError(f"it hangs up: {answer}")
        await talk.say("RSET")
    return ""
