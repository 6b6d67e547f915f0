# SPDX-License-Identifier: MIT
"""What a route is chosen by: recipient domains (exact, then the longest suffix), and senders.

Of several senders that a message has, the most specific one counts: the user who logged in, then the reverse-path, then
its domain. A sender's route for some domains comes before one for all, whichever of its senders they are for; between
the two stand the routes of the recipient domain (route.table): a route for all mail of a sender must not drag the
operator's own domains along. Pure; knows nothing of what a route is.
"""

from typing import Generic, TypeVar

from smarthost.mail.address import to_domain
from smarthost.mail.errors import ConfigError

USER = "user:"

R = TypeVar("R")


class ByDomain(Generic[R]):
    """Routes by recipient domain: "example.org", or ".example.org" for what is below it."""

    def __init__(self) -> None:
        self._exact: dict[str, R] = {}
        self._suffixes: dict[str, R] = {}

    def add(self, key: str, route: R, place: str) -> None:
        """Add a route. Raises: ConfigError: names `place`; the key is no domain, or comes twice."""
        routes = self._suffixes if key.startswith(".") else self._exact
        try:
            domain = to_domain(key.removeprefix("."))
        except ValueError as error:
            raise ConfigError(str(error), key=place) from error
        if domain in routes:
            raise ConfigError("this domain has a route already", key=place)
        routes[domain] = route

    def find(self, domain: str) -> R | None:
        """Give the most specific route of this domain, if it has one."""
        found = self._exact.get(domain)
        if found is not None:
            return found
        if self._suffixes and not domain.startswith("["):
            _, dot, parent = domain.partition(".")
            while dot:  # the longest suffix wins
                found = self._suffixes.get(parent)
                if found is not None:
                    return found
                _, dot, parent = parent.partition(".")
        return None


class BySender(Generic[R]):
    """Routes by sender, for some recipient domains or for all. False while there are none."""

    def __init__(self) -> None:
        self._some: dict[str, ByDomain[R]] = {}
        self._all: dict[str, R] = {}

    def __bool__(self) -> bool:
        return bool(self._some or self._all)

    def add(self, sender: str, domain: str, route: R, place: str) -> None:
        """Add a route; domain "" is all. Raises: ConfigError: names `place`; no sender, no domain, or both twice."""
        key = _read_sender(sender, place)
        if domain:
            self._some.setdefault(key, ByDomain()).add(domain, route, place)
        elif key in self._all:
            raise ConfigError("this sender has a route already", key=place)
        else:
            self._all[key] = route

    def choose(self, reverse_path: str, user: str, domain: str) -> str:
        """Give that one of a message's senders by whom a route is chosen for this domain; "" if there is none."""
        keys = _keys_of(reverse_path)
        if user:
            keys = (f"{USER}{user}", *keys)
        chosen = self._choose_for_domain(keys, domain) or self._choose_for_all(keys)
        return chosen[1] if chosen else ""

    def find_for_domain(self, sender: str, domain: str) -> tuple[R, str] | None:
        """Give the route for this very domain, and whose it is: that sender's, or that of its domain."""
        return self._choose_for_domain(_keys_of(sender) or (sender,), domain)

    def find_for_all(self, sender: str) -> tuple[R, str] | None:
        """Give the route for all domains, and whose it is: that sender's, or that of its domain."""
        return self._choose_for_all(_keys_of(sender) or (sender,))

    def _choose_for_domain(self, keys: tuple[str, ...], domain: str) -> tuple[R, str] | None:
        for key in keys:
            routes = self._some.get(key)
            found = routes.find(domain) if routes is not None else None
            if found is not None:
                return found, key
        return None

    def _choose_for_all(self, keys: tuple[str, ...]) -> tuple[R, str] | None:
        for key in keys:
            found = self._all.get(key)
            if found is not None:
                return found, key
        return None


def _keys_of(reverse_path: str) -> tuple[str, ...]:
    """Give as what senders a reverse-path counts, the most specific one first; none for the null path and for users.

    Case does not matter: who names "Ann@example.org" in a route means ann@example.org, although RFC 5321 2.4 leaves the
    local part to its own host.
    """
    local_part, _, written = reverse_path.rpartition("@")
    if not written or reverse_path.startswith(USER):
        return ()
    try:
        domain = to_domain(written)
    except ValueError:
        return ()
    return (f"{_fold(local_part)}@{domain}", f"@{domain}") if local_part else (f"@{domain}",)


def _fold(text: str) -> str:
    """Fold ASCII letters only: other scripts' rules turn some addresses into others."""
    return text.lower() if text.isascii() else text.encode().lower().decode()


def _read_sender(sender: str, place: str) -> str:
    if sender.startswith(USER) and len(sender) > len(USER) and sender.isprintable():
        return sender
    keys = _keys_of(sender) if "@" in sender and sender.isprintable() else ()
    if not keys:
        raise ConfigError(
            f'not a sender such as "ann@example.org", "@example.org" or "user:ann": {sender!r}', key=place
        )
    return keys[0]
