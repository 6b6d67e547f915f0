# SPDX-License-Identifier: MIT
"""Show where the mail for domains goes: python examples/mx_calculator.py [DNS_ADDRESS:PORT] DOMAIN...

Without a name server it asks those of /etc/resolv.conf. Ends with 1 if a domain has no exchanger.
"""

import asyncio
import sys

from smarthost import MXCalculator, ResolutionError
from smarthost.backends.clock import SystemClock
from smarthost.backends.dns import DnsResolver


async def show(calculator: MXCalculator, domain: str) -> bool:
    """Print the exchangers of a domain, or why there are none."""
    try:
        exchangers = await calculator.get_mxs(domain)
    except ResolutionError as error:
        print(f"{domain}: {error}")
        print(f"  {'final' if error.is_permanent else 'temporary'}, {error.status}")
        for line in error.evidence[:-1]:  # the last one is the conclusion
            print(f"  {line}")
        return False
    print(f"{domain}:")
    for each in exchangers:
        print(f"  {each.preference} {each.name} [{', '.join(each.addresses)}]")
    best = exchangers[0]
    calculator.mark_bad(best, "only a rehearsal")  # what a program does after a failed connection
    print(f"  were {best.name} marked bad: {(await calculator.get_mx(domain)).name}")
    calculator.mark_good(best)
    return True


async def main(arguments: list[str]) -> int:
    """Ask for each domain with one calculator, which remembers what DNS said."""
    server, colon, port = arguments[0].rpartition(":")
    resolver = DnsResolver(SystemClock(), [(server, int(port))]) if colon else None
    async with MXCalculator(resolver=resolver) as calculator:
        found = [await show(calculator, domain) for domain in (arguments[1:] if colon else arguments)]
    if resolver is not None:
        resolver.close()
    return 0 if all(found) else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(sys.argv[1:])))
