# SPDX-License-Identifier: MIT
"""Check `resolver`: does each name server answer, how fast, does it validate, and is its NXDOMAIN true?

Each server is asked alone, so that a dead second one is seen before the first one dies. Remembers nothing.
"""

import secrets
from functools import partial
from ipaddress import ip_address, ip_network

from smarthost.ops.doctor.findings import Findings, side_by_side
from smarthost.ops.doctor.world import Server, World
from smarthost.ports import Answer, AnswerStatus

SIGNED = "isc.org"  # signed since 2006
BROKEN = "dnssec-failed.org"  # kept broken on purpose
SLOW_S = 0.3  # MX, A and AAAA of one destination are asked one after the other
_TEST_POINT = "2.0.0.127"  # RFC 5782 5: every blocklist has it
_REFUSALS = ip_network("127.255.255.0/24")  # Spamhaus: "you ask by way of a public resolver", or too much
_LOCAL_RESOLVER = "run a resolver of your own (unbound on 127.0.0.1), and name it in /etc/resolv.conf or [dns] servers"
_PUBLIC = (
    *("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),  # Google
    *("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),  # Cloudflare
    *("9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"),  # Quad9
    *("208.67.222.222", "208.67.220.220", "2620:119:35::35", "2620:119:53::53"),  # OpenDNS
)
_HEARD = (AnswerStatus.FOUND, AnswerStatus.NODATA, AnswerStatus.NXDOMAIN)


async def check_resolver(world: World, told: Findings) -> None:
    """Ask each server for itself."""
    alive: list[Server] = []
    await side_by_side(told, [partial(_look, world, server, alive) for server in world.servers])
    if not alive:
        told.fail(
            "no name server answers: no mail can leave by MX, and no name of a next hop is found",
            f"check the network and the firewall (UDP and TCP port 53); {_LOCAL_RESOLVER}",
        )


def _where(server: Server) -> str:
    host, port = server
    return host if port == 53 else f"{host} port {port}"


async def _look(world: World, server: Server, alive: list[Server], told: Findings) -> None:
    resolver, where = world.resolver_at(server), _where(server)
    started = world.clock.monotonic()
    first = await resolver.ask(SIGNED, "A")
    took_s = world.clock.monotonic() - started
    if first.status not in _HEARD:
        told.fail(
            f"{where}: {first.detail or first.status.value}",
            "take it out of /etc/resolv.conf (or [dns] servers), or mend it: each question waits for it",
        )
        return
    alive.append(server)
    if first.status is AnswerStatus.NXDOMAIN:
        told.warn(
            f"{where}: says that {SIGNED} does not exist: it does not know the Internet's names",
            "where mail goes by MX, name a server that does; in a closed network, ignore this",
        )
    if took_s > SLOW_S:
        told.warn(f"{where}: answers, but took {took_s * 1000:.0f} ms for one question", _LOCAL_RESOLVER)
    else:
        told.ok(f"{where}: answers in {took_s * 1000:.0f} ms")
    _judge_validation(where, server, first, await resolver.ask(BROKEN, "A"), told)
    _judge_nxdomain(where, await resolver.ask(f"smarthost-doctor-{secrets.token_hex(8)}.com", "A"), told)
    await _judge_public(world, server, told)


def _judge_validation(where: str, server: Server, signed: Answer, broken: Answer, told: Findings) -> None:
    refuses_broken = broken.status is AnswerStatus.SERVFAIL
    if signed.secure and refuses_broken:
        told.ok(f"{where}: validates DNSSEC")
        if not ip_address(server[0]).is_loopback:
            told.warn(
                f"{where}: is not on this machine, so its word about DNSSEC is not believed (anybody on the way could"
                " say so)",
                _LOCAL_RESOLVER,
            )
    elif broken.status is AnswerStatus.FOUND:
        told.warn(f"{where}: does not validate DNSSEC: it believes forged answers ({BROKEN})", _LOCAL_RESOLVER)
    else:
        told.warn(
            f"{where}: does not say that {SIGNED} is validated; of {BROKEN} it says"
            f" {broken.detail or broken.status.value}",
            _LOCAL_RESOLVER,
        )


def _judge_nxdomain(where: str, answer: Answer, told: Findings) -> None:
    if answer.status is AnswerStatus.FOUND:
        told.fail(
            f"{where}: invents addresses for names that do not exist ({', '.join(answer.addresses[:3])})",
            f"mail to a misspelt domain would go there instead of bouncing: {_LOCAL_RESOLVER}",
        )
    elif answer.status is not AnswerStatus.NXDOMAIN:
        said = answer.detail or answer.status.value
        told.warn(f"{where}: a name that does not exist gives {said}, not NXDOMAIN", _LOCAL_RESOLVER)
    else:
        told.ok(f"{where}: names that do not exist are NXDOMAIN")


async def _judge_public(world: World, server: Server, told: Findings) -> None:
    where = _where(server)
    if server[0] in _PUBLIC:
        told.warn(
            f"{where}: is a public resolver: blocklists do not answer it, and its limits are shared with strangers",
            _LOCAL_RESOLVER,
        )
    if not world.wishes.blocklist:
        return
    answer = await world.resolver_at(server).ask(f"{_TEST_POINT}.{world.wishes.blocklist}", "A")
    refusals = [each for each in answer.addresses if ip_address(each) in _REFUSALS]
    if refusals:
        told.warn(
            f"{where}: {world.wishes.blocklist} refuses to answer it ({refusals[0]}): for a public resolver, or"
            " for asking too much",
            _LOCAL_RESOLVER,
        )
