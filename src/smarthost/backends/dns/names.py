# SPDX-License-Identifier: MIT
"""What the machine itself knows about names: resolv.conf, the hosts file, the search list.

Only names that the operator configured are looked up this way (a next hop called "relay" in a container network):
exchangers named by strangers go to DNS as they are. Files are read once (but SystemServers looks again); unreadable
ones count as empty.
"""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from smarthost.ports import Answer, AnswerStatus, Resolver

DNS_PORT = 53
SERVERS = 3  # resolv.conf(5): MAXNS
HOSTS_TTL_S = 60
SEARCH_S = 30.0  # ports.Resolver: however long the search list is


class ResolvConf(Struct, frozen=True, gc=False):
    """What resolv.conf(5) says, as far as we heed it; without a name server the one on loopback is meant."""

    servers: tuple[tuple[str, int], ...] = (("127.0.0.1", DNS_PORT),)
    search: tuple[str, ...] = ()
    ndots: int = 1


def read_resolv_conf(path: Path = Path("/etc/resolv.conf")) -> ResolvConf:
    """Read the system's resolver configuration."""
    conf = _read(path)
    return conf if conf.servers else replace(conf, servers=ResolvConf().servers)


def _read(path: Path) -> ResolvConf:
    servers: list[tuple[str, int]] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for words in _lines(path):
        match words:
            case ["nameserver", address, *_] if _is_address(address):
                servers.append((address, DNS_PORT))
            case ["search" | "domain", *domains]:
                search = tuple(domain.lower().strip(".") for domain in domains if domain.strip("."))
            case ["options", *options]:
                for option in options:
                    if option.startswith("ndots:") and option[6:].isdecimal():
                        ndots = min(int(option[6:]), 15)  # resolv.conf(5)
    return ResolvConf(tuple(servers[:SERVERS]), search, ndots)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class SystemServers:
    """The name servers of resolv.conf as it stands now: a callable that reads the file when it has changed.

    A file that is missing or names no server (it is being replaced, or the network is gone) leaves the last ones.
    """

    def __init__(self, path: Path = Path("/etc/resolv.conf")) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = None
        self._is_settled = False
        self._servers = ResolvConf().servers

    def __call__(self) -> tuple[tuple[str, int], ...]:
        stamp = self._stamp_now()  # before the file is read: what changes meanwhile is seen next time
        if stamp != self._stamp or not self._is_settled:
            self._is_settled = stamp == self._stamp  # read twice: within a tick of the kernel a file changes unseen
            self._stamp = stamp
            self._servers = _read(self._path).servers or self._servers
        return self._servers

    def _stamp_now(self) -> tuple[int, ...] | None:
        try:
            seen = self._path.stat()
        except OSError:
            return None
        return seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_size


def read_hosts(path: Path = Path("/etc/hosts")) -> dict[str, tuple[str, ...]]:
    """Read the hosts file: name -> addresses in the order of the file."""
    hosts: dict[str, tuple[str, ...]] = {}
    for address, *names in _lines(path):
        try:
            text = str(ip_address(address))
        except ValueError:
            continue
        for name in names:
            name = name.lower().removesuffix(".")
            hosts[name] = (*hosts.get(name, ()), text)
    return hosts


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text("ascii", "replace")
    except OSError:
        return []
    words = (line.partition("#")[0].partition(";")[0].split() for line in text.splitlines())
    return [line for line in words if line]


class LocalNames:
    """Implements ports.Resolver: the hosts file first, then DNS along the search list."""

    def __init__(
        self, resolver: Resolver, hosts: Mapping[str, tuple[str, ...]], search: tuple[str, ...] = (), ndots: int = 1
    ) -> None:
        self._resolver = resolver
        self._hosts = hosts
        self._search = search
        self._ndots = ndots

    async def ask(self, name: str, rdtype: str) -> Answer:
        """See ports.Resolver."""
        known = self._hosts.get(name)
        if known is not None and rdtype in ("A", "AAAA"):
            addresses = tuple(address for address in known if (":" in address) is (rdtype == "AAAA"))
            status = AnswerStatus.FOUND if addresses else AnswerStatus.NODATA
            return Answer(
                name, rdtype, status, addresses=addresses, canonical=name, ttl_s=HOSTS_TTL_S, detail="hosts file"
            )
        try:
            async with asyncio.timeout(SEARCH_S):
                return await self._ask_along(name, rdtype)
        except TimeoutError:
            detail = f"no answer along the search list within {SEARCH_S:g} s in all"
            return Answer(name, rdtype, AnswerStatus.TIMEOUT, canonical=name, detail=detail)

    async def _ask_along(self, name: str, rdtype: str) -> Answer:
        """Give what is found first; else what the name itself gave, unless it may exist where nobody could tell."""
        said: dict[str, Answer] = {}
        for full in self._candidates(name):
            said[full] = answer = await self._resolver.ask(full, rdtype)
            if answer.status is AnswerStatus.FOUND:
                return answer
        for full, answer in (name, said[name]), *said.items():
            if answer.status in (AnswerStatus.SERVFAIL, AnswerStatus.TIMEOUT):
                detail = answer.detail if full == name else f"{full}: {answer.detail}"
                return replace(answer, name=name, canonical=answer.canonical if full == name else name, detail=detail)
        return said[name]

    def _candidates(self, name: str) -> list[str]:
        """resolv.conf(5): a name with fewer than ndots dots is tried with the search list first."""
        searched = [f"{name}.{domain}" for domain in self._search]
        return [*searched, name] if name.count(".") < self._ndots else [name, *searched]
