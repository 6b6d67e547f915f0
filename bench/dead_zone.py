# SPDX-License-Identifier: MIT
"""The names of the benchmark with dead exchangers, and the name server that gives them; run as `python dead_zone.py`.

`site.example` and `dead.example` have two exchangers of equal preference each, the others one of their own. Imports
nothing of the benchmark, so that it runs as a program; says `ready` on stdout once it answers.
"""

import asyncio
import sys

from smarthost.testing.dns import ScriptedDns, Zone

SITE = "site.example"
DEAD = "dead.example"
OTHERS = tuple(f"other{number}.example" for number in range(1, 6))
ADDRESSES: dict[str, tuple[str, ...]] = {
    SITE: ("127.0.0.2", "127.0.0.3"),
    DEAD: ("127.0.0.4", "127.0.0.5"),
    **{other: (f"127.0.0.{10 + number}",) for number, other in enumerate(OTHERS, 1)},
}


def compose_zone() -> Zone:
    """Give each domain its MX records, all of preference 10, and their addresses."""
    zone = Zone()
    for domain, addresses in ADDRESSES.items():
        names = [f"mx{number}.{domain}" for number in range(1, len(addresses) + 1)]
        zone.set(domain, *(f"MX 10 {name}" for name in names))
        for name, address in zip(names, addresses, strict=True):
            zone.set(name, f"A {address}")
    return zone


class QuickDns(ScriptedDns):
    """Remembers its answers, octet for octet: Postfix asks three times for each message, and must not wait for us."""

    def __init__(self, zone: Zone, host: str, port: int) -> None:
        super().__init__(zone, host, port)
        self._remembered: dict[tuple[bytes, bool], bytes | None] = {}

    def answer(self, message: bytes, *, over_tcp: bool) -> bytes | None:
        """Give the answer to a query; the first two octets are its id."""
        key = (message[2:], over_tcp)
        if key not in self._remembered:
            self._remembered[key] = super().answer(message, over_tcp=over_tcp)
        remembered = self._remembered[key]
        return None if remembered is None else message[:2] + remembered[2:]


async def _serve(host: str, port: int) -> None:
    async with QuickDns(compose_zone(), host, port):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
