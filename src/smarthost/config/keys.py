# SPDX-License-Identifier: MIT
"""Every key an operator may write: its place, its field, how its value is read. Pure.

What each means is in meanings.toml; docs/configuration.md is written from both, and tests hold them together.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from smarthost.config import units as read
from smarthost.config.values import (
    DAY_S,
    AuthSection,
    BareNewline,
    DkimSection,
    DnsSection,
    EventsSection,
    HostsSection,
    HttpSection,
    LimitsSection,
    ListenerSection,
    ListenerTls,
    LogSection,
    MaildropSection,
    Mode,
    MxSection,
    NetworkSection,
    Protocol,
    RecordsSection,
    RetrySection,
    TlsSection,
    WebhookSection,
)
from smarthost.mail.hop import TlsLevel
from smarthost.route.table import Families
from smarthost.smtp.limits import MESSAGE_OCTETS_FLOOR, RECIPIENTS_FLOOR


class Setting(NamedTuple):
    """A key's field and how its value is read."""

    field: str
    read: Callable[[object], Any]


HOUR_S = 3600.0
_PORT = read.whole(1, 65535)
_RATE = read.whole(0, 10_000_000)
_FAMILIES = read.one_of(Families)
_TLS_LEVEL = read.one_of(TlsLevel)
_LISTEN = Setting("listen", read.several(read.endpoint(numeric=True, any_port=True), at_least=1))
TOP_KEYS: Mapping[str, Setting] = {
    "hostname": Setting("hostname", read.host_name),
    "state_dir": Setting("state_dir", read.path),
    "listen": _LISTEN,
    "relay_from": Setting("relay_from", read.several(read.network)),
    "transfer_from": Setting("transfer_from", read.several(read.network)),
    "postmaster": Setting("postmaster", read.mailbox),
    "soft_bounce": Setting("soft_bounce", read.boolean),
}
SECTION_KEYS: Mapping[str, tuple[type[Struct], Mapping[str, Setting]]] = {
    "dns": (
        DnsSection,
        {
            "servers": Setting("servers", read.several(read.endpoint(53, numeric=True))),
            "timeout": Setting("timeout_s", read.duration(0.1, 30)),  # ports.Resolver: an answer within 30 s
            "alias_lookups": Setting("alias_lookups", read.whole(1, 16)),  # a resolver follows 16 in one answer
        },
    ),
    "mx": (
        MxSection,
        {
            "port": Setting("port", _PORT),
            "allow_private": Setting("allow_private", read.boolean),
            "families": Setting("families", _FAMILIES),
            "tls": Setting("tls", _TLS_LEVEL),
        },
    ),
    "hosts": (
        HostsSection,
        {
            "first_pause": Setting("first_pause_s", read.duration(0.1, HOUR_S)),
            "longest_pause": Setting("longest_pause_s", read.duration(1, DAY_S)),
            "forget_after": Setting("forget_after_s", read.duration(60, 30 * DAY_S)),
            # RFC 5321 4.5.3.2.1: a lone host may take five minutes to greet us
            "patience": Setting("patience_s", read.duration(0.1, 300)),
        },
    ),
    "retry": (
        RetrySection,
        {
            "first": Setting("first_s", read.duration(0.1, DAY_S)),
            "longest": Setting("longest_s", read.duration(0.1, 7 * DAY_S)),
            "jitter": Setting("jitter", read.fraction),
            "delay_warning": Setting("delay_warning_s", read.duration(0, 30 * DAY_S)),
            "expire_after": Setting("expire_after_s", read.duration(1, 30 * DAY_S)),
        },
    ),
    "limits": (
        LimitsSection,
        {
            "message_size": Setting(
                "message_octets", read.size(MESSAGE_OCTETS_FLOOR, 2 << 30, "RFC 5321 4.5.3.1.7: 64 KiB at least")
            ),
            "recipients": Setting(
                "recipients", read.whole(RECIPIENTS_FLOOR, 100_000, "RFC 5321 4.5.3.1.8: 100 at least")
            ),
            "errors": Setting("errors", read.whole(1, 10_000)),
            "connections": Setting("connections", read.whole(1, 100_000)),
            "connections_per_client": Setting("connections_per_client", read.whole(1, 100_000)),
            "client_prefix_ipv4": Setting("client_prefix_ipv4", read.whole(8, 32)),
            "client_prefix_ipv6": Setting("client_prefix_ipv6", read.whole(16, 128)),
            "connections_per_minute": Setting("connections_per_minute", _RATE),
            "messages_per_minute": Setting("messages_per_minute", _RATE),
            "recipients_per_minute": Setting("recipients_per_minute", _RATE),
            "errors_per_minute": Setting("errors_per_minute", _RATE),
            "sessions_per_lane": Setting("sessions_per_lane", read.whole(1, 1000)),
            "messages_per_session": Setting("messages_per_session", read.whole(1, 100_000)),
            # RFC 5321 4.5.3.2.7: a host hangs up after five idle minutes, so a longer wait keeps dead sessions
            "idle_session": Setting("idle_session_s", read.duration(0, 300)),
        },
    ),
    "tls": (
        TlsSection,
        {
            "certificate_file": Setting("certificate_file", read.path),
            "key_file": Setting("key_file", read.path),
            "client_certificates": Setting("client_certificates", read.boolean),
            "client_ca_file": Setting("client_ca_file", read.path),
        },
    ),
    "auth": (AuthSection, {"users_file": Setting("users_file", read.path)}),
    "events": (EventsSection, {"file": Setting("file", read.path), "syslog": Setting("syslog", read.syslog)}),
    "log": (LogSection, {"level": Setting("level", read.log_level), "accepted": Setting("accepted", read.boolean)}),
    "records": (RecordsSection, {"keep": Setting("keep_s", read.duration(DAY_S, 90 * DAY_S))}),
    "maildrop": (
        MaildropSection,
        {"directory": Setting("directory", read.path), "users": Setting("users", read.several(read.text))},
    ),
    "http": (
        HttpSection,
        {
            "listen": Setting("listen", read.several(read.endpoint(numeric=True, any_port=True))),
            "tokens_file": Setting("tokens_file", read.path),
            "certificate_file": Setting("certificate_file", read.path),
            "key_file": Setting("key_file", read.path),
            "public_url": Setting("public_url", read.origin),
            "show_content": Setting("show_content", read.boolean),
        },
    ),
}
NEXT_HOP_KEYS: Mapping[str, Setting] = {
    "host": Setting("host", read.hop_host),
    "port": Setting("port", _PORT),
    "protocol": Setting("protocol", read.one_of(Protocol)),
    "tls": Setting("tls", _TLS_LEVEL),
    "implicit_tls": Setting("implicit_tls", read.boolean),
    "families": Setting("families", _FAMILIES),
    "source": Setting("source", read.local_address),
    "hostname": Setting("hostname", read.host_name),
    "username": Setting("username", read.text),
    "password": Setting("password", read.text),
    "password_file": Setting("password_file", read.path),
    "ca_file": Setting("ca_file", read.path),
}
ROUTE_KEYS: Mapping[str, Setting] = {
    "domains": Setting("domains", read.several(read.route_domain, at_least=1)),
    "senders": Setting("senders", read.several(read.sender, at_least=1)),
    "refuse": Setting("refuse", read.text),
    "families": Setting("families", _FAMILIES),
    "tls": Setting("tls", _TLS_LEVEL),
    "source": Setting("source", read.local_address),
    "hostname": Setting("hostname", read.host_name),
}
# Tables that may stand there several times, written [[name]]: the Config's field, what each becomes, and its keys.
REPEATED_KEYS: Mapping[str, tuple[str, type[Struct], Mapping[str, Setting]]] = {
    "listener": (
        "listeners",
        ListenerSection,
        {
            "listen": _LISTEN,
            "mode": Setting("mode", read.one_of(Mode)),
            "tls": Setting("tls", read.one_of(ListenerTls)),
            "certificate_file": Setting("certificate_file", read.path),
            "key_file": Setting("key_file", read.path),
            "relay_from": Setting("relay_from", read.several(read.network)),
            "proxy_from": Setting("proxy_from", read.several(read.network)),
            "xclient_from": Setting("xclient_from", read.several(read.network)),
            "bare_newline": Setting("bare_newline", read.one_of(BareNewline)),
        },
    ),
    "network": (
        "networks",
        NetworkSection,
        {
            "networks": Setting("networks", read.several(read.network, at_least=1)),
            "senders": Setting("senders", read.several(read.allowed_sender, at_least=1)),
            "connections": Setting("connections", _RATE),
            "connections_per_minute": Setting("connections_per_minute", _RATE),
            "messages_per_minute": Setting("messages_per_minute", _RATE),
            "recipients_per_minute": Setting("recipients_per_minute", _RATE),
            "errors_per_minute": Setting("errors_per_minute", _RATE),
        },
    ),
    "webhook": (
        "webhooks",
        WebhookSection,
        {
            "url": Setting("url", read.web_address),
            "secret_file": Setting("secret_file", read.path),
            "kinds": Setting("kinds", read.several(read.record_kind, at_least=1)),
            "ca_file": Setting("ca_file", read.path),
            "batch": Setting("batch", read.whole(1, 1000)),
            "timeout": Setting("timeout_s", read.duration(0.1, 300)),
        },
    ),
    "dkim": (
        "dkim",
        DkimSection,
        {
            "domains": Setting("domains", read.several(read.host_name, at_least=1)),
            "selector": Setting("selector", read.selector),
            "key_file": Setting("key_file", read.path),
        },
    ),
}
TABLES = ("next_hop", "route", *REPEATED_KEYS, *SECTION_KEYS)
