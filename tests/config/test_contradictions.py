# SPDX-License-Identifier: MIT
"""Keys that are right each by itself and wrong together are refused before anything is opened."""

from pathlib import Path

import pytest

from smarthost.config import Surroundings, parse_config, read_config
from smarthost.config.values import ListenerTls, Mode

HERE = Surroundings("relay.example.org", Path("/var/lib/smarthost"))
CERTIFICATE = "[tls]\ncertificate_file = '/etc/hosts'\n"
USERS = "[auth]\nusers_file = '/etc/hosts'\n"


def errors(text: str) -> list[str]:
    return [str(error) for error in read_config(text, {}, surroundings=HERE).errors]


def listener(mode: str, where: str = "0.0.0.0:587", more: str = "") -> str:
    return f"[[listener]]\nlisten = ['{where}']\nmode = '{mode}'\n{more}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CERTIFICATE + listener("submission"), "there are none: set auth.users_file"),
        (USERS + listener("submission"), "listener[1].tls: passwords would travel in clear"),
        (USERS + CERTIFICATE + listener("submission", more="tls = 'none'"), "passwords would travel in clear"),
        (USERS + listener("submission", "127.0.0.1:587", "tls = 'required'"), '"required" needs a certificate'),
        (USERS + listener("submissions", "127.0.0.1:465"), '"submissions" needs a certificate'),
        (USERS + CERTIFICATE + listener("submissions", more="tls = 'offered'"), "TLS from the first octet"),
        (USERS + CERTIFICATE + listener("submission", more="relay_from = ['10.0.0.0/8']"), "by users, not by networks"),
        (USERS + CERTIFICATE + listener("submission", more="bare_newline = 'normalise'"), 'use it with mode = "relay"'),
        (listener("relay", more="tls = 'offered'"), '"offered" needs a certificate'),
        (listener("lmtp", "127.0.0.1:25"), "LMTP is not spoken at port 25"),
        (listener("relay", more="proxy_from = ['0.0.0.0/0']"), "everyone could claim any address"),
        (listener("relay", more="xclient_from = ['::/0']"), "everyone could claim any address"),
        (listener("relay", more="key_file = '/etc/hosts'"), "a key without a certificate"),
        ("[tls]\nkey_file = '/etc/hosts'", "a key without a certificate: set tls.certificate_file"),
        ("[tls]\nclient_ca_file = '/etc/hosts'", "has no effect without client_certificates"),
        ("listen = ['127.0.0.1:25']\n" + listener("relay", "127.0.0.1:25"), "is taken by listen already"),
        (listener("relay") + listener("relay"), "listener[2].listen: 0.0.0.0:587 is taken by listener[1].listen"),
        (
            listener("relay", "0.0.0.0:14025") + listener("relay", "127.0.0.1:14025"),
            "listener[2].listen: 127.0.0.1:14025 is covered by 0.0.0.0:14025 of listener[1].listen already",
        ),
        (
            listener("relay", "[::1]:25") + listener("relay", "[::]:25"),
            "listener[2].listen: [::]:25 covers [::1]:25 of listener[1].listen",
        ),
        ("listen = ['0.0.0.0:25', '127.0.0.1:25']", "listen: 127.0.0.1:25 is covered by 0.0.0.0:25 of listen"),
        ("[[network]]\nnetworks=['10.0.0.0/8']\n" * 2, "10.0.0.0/8 is described by network[1] already"),
        (
            "[[dkim]]\ndomains=['a.example']\nselector='s'\nkey_file='/etc/hosts'\n" * 2,
            '"s" is another key of a.example already',
        ),
        ("[[route]]\nrefuse='x'", "route[1].domains: missing"),
        ("[[route]]\ndomains=['a.b']\ntls='verified'\nnext_hop='a.b:25'", "is for delivery by MX"),
        ("next_hop = {host='h.example', protocol='lmtp'}", "next_hop.port: LMTP is not spoken at port 25"),
        ("[[listener]]\nmode='relay'", "line 1: listener[1].listen: missing"),
        ("[[dkim]]\ndomains=['a.example']", "dkim[1].key_file: missing"),
        ("[[dkim]]\ndomains=['a.example']\nselector='a b'\nkey_file='/etc/hosts'", "not a DKIM selector"),
        ("[auth]\nusers_file='/nonexistent'", "auth.users_file: cannot be read: /nonexistent"),
        ("[[network]]\nnetworks=['10.0.0.0/8']\nsenders=['@a b']", "network[1].senders: element 1: not a host name"),
        ("listener = 1", "listener: expected [[listener]] with two brackets"),
    ],
)
def test_what_cannot_work_or_is_not_safe_is_refused_by_name(text: str, said: str) -> None:
    """The error names the key and what to do."""
    told = errors(text)

    assert any(said in error for error in told), told


def test_a_listener_for_users_on_loopback_needs_no_certificate() -> None:
    """An application on the same machine may log in without TLS."""
    config = parse_config(USERS + listener("submission", "127.0.0.1:587"), {}, HERE)

    assert config.listeners[0].mode is Mode.SUBMISSION
    assert config.listen == ()


def test_addresses_that_share_no_socket_stand_side_by_side() -> None:
    """Both families at one port, a wildcard beside another port, and free ports are no contradiction."""
    text = "listen = ['0.0.0.0:25', '[::]:25', '127.0.0.1:26', '[::1]:27', '0.0.0.0:0', '127.0.0.1:0']"

    assert errors(text) == []


def test_listen_and_listeners_stand_side_by_side() -> None:
    """The short form for machines, a table for the rest."""
    text = "listen = ['127.0.0.1:25']\n" + USERS + CERTIFICATE + listener("submission", more="tls = 'required'")

    config = parse_config(text, {}, HERE)

    assert [str(endpoint) for endpoint in config.listen] == ["127.0.0.1:25"]
    assert config.listeners[0].tls is ListenerTls.REQUIRED


def test_several_next_hops_keep_their_order() -> None:
    """The first is the first to be tried."""
    hops = "[[next_hop]]\nhost='a.example'\n[[next_hop]]\nhost='b.example'\nport=26\nsource='10.0.0.1'\n"
    route = "[[route]]\nsenders=['@c.example']\nnext_hop=['d.example:27', {host='e.example', hostname='me.example'}]"

    config = parse_config(hops + route, {}, HERE)

    assert [(hop.host, hop.port, hop.source) for hop in config.next_hops] == [
        ("a.example", 25, ""),
        ("b.example", 26, "10.0.0.1"),
    ]
    assert [(hop.host, hop.hostname) for hop in config.routes[0].next_hops] == [
        ("d.example", ""),
        ("e.example", "me.example"),
    ]


def test_one_listener_for_everyone_is_an_open_relay_too() -> None:
    """A warning does not depend on where it was written."""
    config = parse_config(listener("relay", more="relay_from = ['0.0.0.0/0']"), {}, HERE)

    assert config.relays_for_everyone


def test_contradictions_are_told_beside_keys_that_are_wrong() -> None:
    """All is told at once: a key that is wrong elsewhere hides no contradiction."""
    text = "hostnam = 'x'\n[next_hop]\nhost = 'h.example'\nusername = 'me'\n[http]\nlisten = ['0.0.0.0:80']\n"

    assert [told.partition(": ")[0] + ": " + told.split(": ")[1] for told in errors(text)] == [
        "line 1: hostnam",
        "line 2: next_hop",
        "line 6: http.listen",
        "line 6: http.listen",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "[http]\nlisten = ['0.0.0.0:80']\ntokens_file = '/nonexistent'\ncertificate_file = '/nonexistent'\n",
        "[tls]\nkey_file = '/etc/hosts'\ncertificate_file = 7\n",
        "[[listener]]\nlisten = ['127.0.0.1:25']\nmode = 'x'\n" + listener("submissions"),
        "hostname = 'vm'\nnext_hop = 'a_b:25'\n",
        "hostname = 'vm'\nnexthop = 'a.b:25'\n",
    ],
)
def test_what_is_wrong_itself_is_blamed_on_nothing_else(text: str) -> None:
    """A key that cannot be read is no missing key: what it would have contradicted is looked at when it is mended."""
    told = errors(text)

    assert told
    assert not [each for each in told if "set " in each or "in clear" in each or "qualified" in each], told
