# SPDX-License-Identifier: MIT
"""Which reverse-paths somebody may use: a list of addresses ("ann@example.org"), domains ("@example.org"), or "*".

Pure. Domains are compared as lower-case A-labels and exactly: "@example.org" is not "@sub.example.org". Local parts
are compared without regard to case where they are ASCII (as Postfix's sender maps do; RFC 5321 2.4 leaves it to the
host that owns them, and no sane one gives Ann's and ann's mail to two people), else exactly; nothing in them is
unquoted or cut.
"""

from collections.abc import Iterable
from functools import lru_cache

from smarthost.mail.address import Address, Domain, to_domain
from smarthost.mail.errors import ConfigError


class Senders:
    """The reverse-paths of a user or network. Immutable. Raises: ConfigError: names `senders`."""

    __slots__ = ("_addresses", "_domains", "is_any")

    def __init__(self, senders: Iterable[str]) -> None:
        self.is_any = False
        addresses: set[tuple[str, Domain]] = set()
        domains: set[Domain] = set()
        for text in senders:
            local_part, at, domain = text.rpartition("@")
            if text == "*":
                self.is_any = True
            elif not at:
                raise ConfigError(f"{text!r} is no address, no @domain, and not *", key="senders")
            elif local_part:
                addresses.add((_fold(local_part), _to_domain(domain, text)))
            else:
                domains.add(_to_domain(domain, text))
        self._addresses = frozenset(addresses)
        self._domains = frozenset(domains)

    def allow(self, address: Address) -> bool:
        """May this be the reverse-path?"""
        if self.is_any or address.domain in self._domains:
            return True
        return (_fold(address.text.rpartition("@")[0]), address.domain) in self._addresses


@lru_cache(maxsize=1024)  # a user has the same few all day long: 0.1 us instead of 5
def senders_of(senders: tuple[str, ...]) -> Senders:
    """Give the Senders of a user. Raises: ConfigError: names `senders`."""
    return Senders(senders)


def _fold(local_part: str) -> str:
    return local_part.lower() if local_part.isascii() else local_part


def _to_domain(domain: str, text: str) -> Domain:
    try:
        return to_domain(domain)
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}", key="senders") from error
