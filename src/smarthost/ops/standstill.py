# SPDX-License-Identifier: MIT
"""Why nothing at all can be delivered, in a sentence: for `smarthost ping` and the page's headline. Pure."""

from collections.abc import Callable, Sequence

from smarthost.mail.explanation import HostReport
from smarthost.ops import words

DETAIL = 200  # characters of what a host said
_FAILS = {
    "connect": "cannot be reached",
    "banner": "does not take us",
    "starttls": "fails at TLS",
    "tls": "fails at TLS",
    "auth": "refuses our login",
}


def say_standstill(hosts: Sequence[HostReport], tell_time: Callable[[float], str]) -> str:
    """Say what keeps all mail back, such as "mail.example refuses our login since 09:51: 535 ..."; "" if nothing does.

    A host that says something tells more than one that is not there, so it is the one that is quoted.
    """
    if not hosts:
        return ""
    told = min(hosts, key=lambda host: (host.step == "connect", host.since))
    others = count_names(hosts) - 1
    more = f" (and {words.count(others, 'other host')})" if others else ""
    is_said = told.detail[:3].isdecimal()
    fails = _FAILS.get(told.step, f"fails at {told.step}") if is_said or told.step != "auth" else "fails at the login"
    return f"{told.name or told.address} {fails} since {tell_time(told.since)}{more}: {told.detail[:DETAIL]}"


def count_names(hosts: Sequence[HostReport]) -> int:
    """Give how many hosts these are, by name: one may have several addresses, and several services."""
    return len({host.name or host.address for host in hosts})
