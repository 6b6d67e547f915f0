# SPDX-License-Identifier: MIT
"""What is wrong between keys that are right each by itself. Pure: gives (dotted key, what to mend).

A check is left out where a table that it reads is wrong itself: what is missing there would be blamed on others.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from ipaddress import ip_address, ip_network

from smarthost.config import units
from smarthost.config.values import (
    BareNewline,
    Config,
    Endpoint,
    ListenerSection,
    ListenerTls,
    Mode,
    Network,
)

SMTP_PORT = 25
_ALL_MAPPED = ip_network("::ffff:0:0/96")  # all of IPv4, since mapped addresses are taken for what they stand for
_FOR_USERS = (Mode.SUBMISSION, Mode.SUBMISSIONS)


def find_contradictions(config: Config, wrong: AbstractSet[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Name all contradictions of a Config; `wrong` are tables, and keys at the top, that could not all be read."""
    for check, reads in _CHECKS.items():
        if wrong.isdisjoint(reads):
            yield from check(config)


def _of_times(config: Config) -> Iterator[tuple[str, str]]:
    retry, hosts = config.retry, config.hosts
    if retry.first_s > retry.longest_s:
        longest = units.duration_text(retry.longest_s)
        yield "retry.first", f"{units.duration_text(retry.first_s)} is above retry.longest ({longest})"
    if hosts.longest_pause_s < hosts.first_pause_s:
        first = units.duration_text(hosts.first_pause_s)
        yield (
            "hosts.longest_pause",
            f"{units.duration_text(hosts.longest_pause_s)} is below hosts.first_pause ({first})",
        )


def _of_hostname(config: Config) -> Iterator[tuple[str, str]]:
    is_test_network = config.mx.allow_private and bool(config.dns.servers)
    if not config.next_hops and not is_test_network and not _is_qualified(config.hostname):
        yield (
            "hostname",
            f'"{config.hostname}" is not fully qualified, and hosts on the internet refuse such a name in EHLO: '
            "set hostname (--hostname) to a name that DNS knows, or set next_hop (--next-hop)",
        )


def _is_qualified(hostname: str) -> bool:
    last = hostname.rpartition(".")[2]
    return last != hostname and last not in ("localdomain", "localhost") and not last.isdecimal()


def _of_tls(config: Config) -> Iterator[tuple[str, str]]:
    if config.tls.key_file is not None and config.tls.certificate_file is None:
        yield "tls.key_file", "a key without a certificate: set tls.certificate_file"
    if config.tls.client_ca_file is not None and not config.tls.client_certificates:
        yield "tls.client_ca_file", "has no effect without client_certificates = true"


def _of_listeners(config: Config) -> Iterator[tuple[str, str]]:
    for number, listener in enumerate(config.listeners, 1):
        for key, detail in _of_listener(listener, config):
            yield f"listener[{number}].{key}", detail


def _of_listener(listener: ListenerSection, config: Config) -> Iterator[tuple[str, str]]:
    has_certificate = (listener.certificate_file or config.tls.certificate_file) is not None
    mode = listener.mode
    if listener.key_file is not None and listener.certificate_file is None:
        yield "key_file", "a key without a certificate: set certificate_file beside it"
    if mode in _FOR_USERS:
        yield from _of_submission(listener, config, has_certificate=has_certificate)
    elif listener.tls in (ListenerTls.OFFERED, ListenerTls.REQUIRED) and not has_certificate:
        yield "tls", f'"{listener.tls.value}" needs a certificate: set tls.certificate_file'
    if mode is Mode.LMTP and any(endpoint.port == SMTP_PORT for endpoint in listener.listen):
        yield "listen", f"LMTP is not spoken at port {SMTP_PORT} (RFC 2033 5)"
    for key in ("proxy_from", "xclient_from"):
        if _is_everyone(getattr(listener, key)):
            yield key, "everyone could claim any address: name your own balancers only"


def _of_submission(listener: ListenerSection, config: Config, *, has_certificate: bool) -> Iterator[tuple[str, str]]:
    mode = listener.mode
    if config.auth.users_file is None:
        yield "mode", f'"{mode.value}" is for users, and there are none: set auth.users_file'
    if listener.relay_from is not None:
        yield "relay_from", f'"{mode.value}" goes by users, not by networks: leave it out'
    if listener.bare_newline is BareNewline.NORMALISE:
        yield "bare_newline", '"normalise" is for old machines of your own networks: use it with mode = "relay"'
    if mode is Mode.SUBMISSIONS:
        if listener.tls not in (None, ListenerTls.REQUIRED):
            yield "tls", '"submissions" is TLS from the first octet: leave it out'
        if not has_certificate:
            yield "mode", '"submissions" needs a certificate: set tls.certificate_file'
        return
    if has_certificate and listener.tls is not ListenerTls.NONE:
        return
    if not all(map(_is_loopback, listener.listen)):
        yield "tls", "passwords would travel in clear: set tls.certificate_file, or listen on loopback only"
    elif listener.tls in (ListenerTls.OFFERED, ListenerTls.REQUIRED):
        yield "tls", f'"{listener.tls.value}" needs a certificate: set tls.certificate_file'


def _is_loopback(endpoint: Endpoint) -> bool:
    return ip_address(endpoint.host).is_loopback


def _is_everyone(networks: Iterable[Network]) -> bool:
    return any(network.prefixlen == 0 or network == _ALL_MAPPED for network in networks)


def _of_addresses(config: Config) -> Iterator[tuple[str, str]]:
    seen: dict[Endpoint, str] = {}
    listens = [("listen", config.listen)]
    listens += [(f"listener[{number}].listen", each.listen) for number, each in enumerate(config.listeners, 1)]
    listens.append(("http.listen", config.http.listen))
    for key, endpoints in listens:
        for endpoint in endpoints:
            if not endpoint.port:  # each gets a free port of its own
                continue
            for other, at in seen.items():
                if endpoint == other:
                    yield key, f"{endpoint} is taken by {at} already"
                elif _covers(other, endpoint):
                    yield key, f"{endpoint} is covered by {other} of {at} already"
                elif _covers(endpoint, other):
                    yield key, f"{endpoint} covers {other} of {at}: name one of them"
            seen.setdefault(endpoint, key)


def _covers(wildcard: Endpoint, endpoint: Endpoint) -> bool:
    """Does one take every address of the other's family at its port, so that the other cannot be bound?"""
    all_of, one = ip_address(wildcard.host), ip_address(endpoint.host)
    return wildcard.port == endpoint.port and all_of.is_unspecified and all_of.version == one.version


def _of_networks(config: Config) -> Iterator[tuple[str, str]]:
    seen: dict[Network, int] = {}
    for number, section in enumerate(config.networks, 1):
        for network in section.networks:
            if seen.setdefault(network, number) != number:
                yield f"network[{number}].networks", f"{network} is described by network[{seen[network]}] already"


def _of_keys(config: Config) -> Iterator[tuple[str, str]]:
    seen: set[tuple[str, str]] = set()
    for number, section in enumerate(config.dkim, 1):
        for domain in section.domains:
            if (domain, section.selector) in seen:
                yield f"dkim[{number}].selector", f'"{section.selector}" is another key of {domain} already'
            seen.add((domain, section.selector))


def _of_http(config: Config) -> Iterator[tuple[str, str]]:
    http = config.http
    if http.key_file is not None and http.certificate_file is None:
        yield "http.key_file", "a key without a certificate: set http.certificate_file"
    if http.public_url.startswith("http:") and http.certificate_file is not None:
        yield "http.public_url", "begins with http:, but http.certificate_file makes it https: write https://"
    outside = [str(endpoint) for endpoint in http.listen if not _is_loopback(endpoint)]
    if outside and http.tokens_file is None:
        yield (
            "http.listen",
            f"{outside[0]} is not loopback, and there are no tokens: set http.tokens_file (smarthost tokens add NAME)",
        )
    if outside and http.certificate_file is None:
        yield (
            "http.listen",
            f"tokens would travel in clear to {outside[0]}: set http.certificate_file, "
            "or listen on loopback only, behind a proxy that speaks TLS",
        )


def _of_webhooks(config: Config) -> Iterator[tuple[str, str]]:
    seen: dict[str, int] = {}
    for number, section in enumerate(config.webhooks, 1):
        if seen.setdefault(section.url, number) != number:
            yield f"webhook[{number}].url", f"is that of webhook[{seen[section.url]}] already: a URL has one cursor"


_CHECKS: Mapping[Callable[[Config], Iterator[tuple[str, str]]], tuple[str, ...]] = {  # with what each of them reads
    _of_times: ("retry", "hosts"),
    _of_hostname: ("hostname", "next_hop", "mx", "dns"),
    _of_tls: ("tls",),
    _of_listeners: ("listener", "tls", "auth"),
    _of_addresses: ("listen", "listener", "http"),
    _of_networks: ("network",),
    _of_keys: ("dkim",),
    _of_http: ("http",),
    _of_webhooks: ("webhook",),
}
