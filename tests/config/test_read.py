# SPDX-License-Identifier: MIT
"""A text becomes a Config, or all its errors."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from smarthost.config import Config, Endpoint, HostsSection, RouteSection, Surroundings, parse_config, read_config
from smarthost.config.keys import SECTION_KEYS, TOP_KEYS
from smarthost.mail.errors import ConfigError
from smarthost.mail.hop import Credentials, TlsLevel
from smarthost.route.table import Families

HERE = Surroundings("relay.example.org", Path("/var/lib/smarthost"))
NAMELESS = Surroundings("box", Path("/var/lib/smarthost"))


def read(text: str, **flags: object) -> Config:
    return parse_config(text, {name.replace("__", "."): value for name, value in flags.items()}, HERE)


def errors(text: str, surroundings: Surroundings = HERE) -> list[str]:
    return [str(error) for error in read_config(text, surroundings=surroundings).errors]


def test_an_empty_text_is_the_defaults() -> None:
    """smarthost runs without a configuration: loopback in, by MX out."""
    config = read("")

    assert config.listen == (Endpoint("127.0.0.1", 2525),)
    assert config.relay_from == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert config.hostname == "relay.example.org"
    assert config.state_dir == Path("/var/lib/smarthost")
    assert config.next_hops == ()
    assert (config.limits.message_octets, config.limits.recipients, config.limits.sessions_per_lane) == (
        50 << 20,
        1000,
        20,
    )
    assert (config.retry.first_s, config.retry.longest_s, config.retry.expire_after_s) == (300, 4000, 432000)
    assert config.hosts == HostsSection(first_pause_s=5, longest_pause_s=3600, forget_after_s=14400, patience_s=8)
    assert (config.dns.alias_lookups, config.mx.families) == (3, Families.BOTH)
    assert not config.relays_for_everyone


def test_a_full_text_is_read_whole() -> None:
    """Every key ends up where it belongs, in seconds and octets."""
    config = read("""
        hostname = "Mail.Example.org"
        state_dir = "/srv/mail"
        listen = ["127.0.0.1:25", "[::1]:25"]
        relay_from = ["10.0.0.0/8"]
        postmaster = "pm@example.org"
        soft_bounce = true
        next_hop = "smtp.example.net:587"
        [dns]
        servers = ["127.0.0.1:5353"]
        timeout = "2s"
        alias_lookups = 1
        [mx]
        port = 2526
        allow_private = true
        families = "ipv4"
        [hosts]
        first_pause = "2s"
        longest_pause = "30m"
        forget_after = "1d"
        patience = 3
        [retry]
        first = "1m"
        longest = "1h"
        jitter = 0
        expire_after = "2d"
        [limits]
        message_size = "1MiB"
        idle_session = 2
        [log]
        level = "warning"
        accepted = false
    """)

    assert config.hostname == "mail.example.org"
    assert config.state_dir == Path("/srv/mail")
    assert config.listen[1] == Endpoint("::1", 25)
    assert config.postmaster == "pm@example.org"
    assert config.soft_bounce
    assert config.next_hops
    assert (config.next_hops[0].host, config.next_hops[0].port) == ("smtp.example.net", 587)
    assert config.dns.servers == (Endpoint("127.0.0.1", 5353),)
    assert (config.dns.timeout_s, config.mx.port, config.mx.allow_private) == (2.0, 2526, True)
    assert (config.dns.alias_lookups, config.mx.families) == (1, Families.IPV4)
    assert (config.hosts.first_pause_s, config.hosts.longest_pause_s) == (2.0, 1800.0)
    assert (config.hosts.forget_after_s, config.hosts.patience_s) == (86400.0, 3.0)
    assert (config.retry.first_s, config.retry.jitter, config.retry.expire_after_s) == (60, 0, 172800)
    assert (config.limits.message_octets, config.limits.idle_session_s) == (1 << 20, 2.0)
    assert (config.log.level, config.log.accepted) == ("warning", False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hostnam = 'a.b'", "line 1: hostnam: unknown key; did you mean hostname?"),
        ("[limits]\nrecipient = 5", "line 2: limits.recipient: unknown key; did you mean limits.recipients?"),
        ("[limit]\nrecipients = 5", "line 1: limit: unknown key; did you mean [limits]?"),
        ("[dns]\nhostname = 'x'", 'line 2: dns.hostname: unknown key; "hostname" belongs at the top of the file'),
        ("idle_session = 5", 'line 1: idle_session: unknown key; "idle_session" belongs in [limits]'),
        ("zzz = 5", "line 1: zzz: unknown key"),
        ("dns.server = []", "line 1: dns.server: unknown key; did you mean dns.servers?"),
        ("dns = { server = [] }", "line 1: dns.server: unknown key; did you mean dns.servers?"),
        ("dns = 5", "line 1: dns: expected a table, written as [dns]"),
        ("listen = '127.0.0.1:25'", 'line 1: listen: expected an array such as [...], got "127.0.0.1:25"'),
        ("listen = []", "line 1: listen: expected at least 1 element"),
        ("relay_from = ['10.1.2.3/8']", 'line 1: relay_from: element 1: not a network: "10.1.2.3/8" has host bits set'),
        ("soft_bounce = 'no'", "line 1: soft_bounce: expected true or false"),
        ("[retry]\nfirst = '5 minutes'", "line 2: retry.first: expected a duration such as"),
        ("[retry]\nfirst = '2h'", "line 2: retry.first: 2h is above retry.longest (4000s)"),
        ("[limits]\nrecipients = 99", "line 2: limits.recipients: expected 100 to 100000 (RFC 5321 4.5.3.1.8"),
        ("[limits]\nmessage_size = '10KiB'", "line 2: limits.message_size: expected 64KiB to 2GiB (RFC 5321 4.5.3.1.7"),
        ("[limits]\nidle_session = '6m'", "line 2: limits.idle_session: expected 0s to 5m, got 360"),
        ("[dns]\nalias_lookups = 17", "line 2: dns.alias_lookups: expected 1 to 16, got 17"),
        ("[dns]\nalias_lookups = 0", "line 2: dns.alias_lookups: expected 1 to 16, got 0"),
        ("[mx]\nfamilies = 'ipv5'", 'line 2: mx.families: expected one of both, ipv4, ipv6, got "ipv5"'),
        ("[next_hop]\nhost='a.b'\nfamilies=6", "line 3: next_hop.families: expected one of both, ipv4, ipv6, got 6"),
        ("[next_hop]\nhost='::1'\nfamilies='ipv4'", 'line 3: next_hop.families: "ipv4" leaves no way to ::1'),
        ("[next_hop]\nhost='10.0.0.1'\nfamilies='ipv6'", 'line 3: next_hop.families: "ipv6" leaves no way to 10.'),
        ("[[route]]\ndomains=['a.b']\nfamilies='4'", "line 3: route[1].families: expected one of both, ipv4, ipv6"),
        (
            "[[route]]\ndomains=['a.b']\nfamilies='ipv4'\nnext_hop='a.b:25'",
            "line 3: route[1].families: is for delivery",
        ),
        ("[[route]]\ndomains=['a.b']\nfamilies='ipv4'\nrefuse='x'", "line 3: route[1].families: is for delivery by MX"),
        ("[[route]]\ndomains=['a.b']\nnext_hop={host='a', families=''}", "line 3: route[1].next_hop.families: expec"),
        ("[hosts]\nfirst_pause = '2h'", "line 2: hosts.first_pause: expected 100ms to 1h, got 7200"),
        (
            "[hosts]\nfirst_pause = 60\nlongest_pause = '10s'",
            "line 3: hosts.longest_pause: 10s is below hosts.first_pau",
        ),
        ("[hosts]\nlongest_pause = '1s'", "line 2: hosts.longest_pause: 1s is below hosts.first_pause (5s)"),
        ("[hosts]\nlongest_pause = '2d'", "line 2: hosts.longest_pause: expected 1s to 1d, got 172800"),
        ("[hosts]\nforget_after = 59", "line 2: hosts.forget_after: expected 1m to 30d, got 59"),
        ("[hosts]\npatience = '6m'", "line 2: hosts.patience: expected 100ms to 5m, got 360"),
        ("[next_hop]\nport = 25", "line 1: next_hop.host: missing"),
        ("next_hop = 25", "line 1: next_hop: expected a table"),
        ("next_hop = 'a_b:25'", "line 1: next_hop: expected HOST:PORT; not a host name"),
        ("[next_hop]\nhost = 'h.example'\nusername = 'me'", "line 1: next_hop: username needs password_file"),
        ("[next_hop]\nhost = 'h.example'\npassword = 'x'", "line 1: next_hop: username needs password_file"),
        ("[route]\ndomains = ['a.b']", "line 1: route: expected [[route]] with two brackets"),
        ("[[route]]\nrefuse = 'no'", "line 1: route[1].domains: missing"),
        ("[[route]]\ndomains=['a.b']\n[[route]]\ndomain=['b.c']", "line 4: route[2].domain: unknown key"),
        ("[[route]]\ndomains=['a.b']\nrefuse='x'\nnext_hop='a.b:25'", "line 1: route[1]: set next_hop or"),
        ("[[route]]\ndomains=['a.b']\nnext_hop={hots='x'}", "line 3: route[1].next_hop.hots: unknown key"),
        ("route = [5]", "line 1: route[1]: expected a table"),
        ("a = \n", "line 1: not TOML: Invalid value"),
        ("x = 1\nx = 2", "line 2: not TOML: Cannot overwrite a value"),
    ],
)
def test_bad_configurations_name_line_key_and_cure(text: str, said: str) -> None:
    """Whatever is wrong, the operator reads where it is and what would be right."""
    told = errors(text)

    assert any(error.startswith(said) for error in told), told


def test_all_errors_of_a_text_are_told_in_the_order_of_lines() -> None:
    """A file with three mistakes is mended in one go."""
    text = "hostname = 'a b'\n[limits]\nerrors = 0\n[dns]\ntimeout = 'x'\n[log]\nlevel = 5\n"

    assert [error.split(":")[0] for error in errors(text)] == ["line 1", "line 3", "line 5", "line 7"]


def test_parse_config_raises_the_first_error_and_tells_all() -> None:
    """Who embeds smarthost gets one exception with key, line, and everything that is wrong."""
    with pytest.raises(ConfigError) as refused:
        read("a = 1\nb = 2")

    assert (refused.value.key, refused.value.line) == ("a", 1)
    assert str(refused.value).splitlines() == ["line 1: a: unknown key", "line 2: b: unknown key"]


def test_flags_replace_what_the_text_says() -> None:
    """An option of the command line wins over the file, within a table too."""
    config = read("listen = ['127.0.0.1:1']\n[mx]\nport = 26", listen=["127.0.0.1:0"], mx__allow_private=True)

    assert config.listen == (Endpoint("127.0.0.1", 0),)
    assert (config.mx.port, config.mx.allow_private) == (26, True)


def test_a_next_hop_flag_replaces_the_whole_table() -> None:
    """A password for one host is never offered to another one."""
    config = read("[next_hop]\nhost='a.b'\nusername='u'\npassword='p'", next_hop="c.d:26")

    assert config.next_hops
    assert config.next_hops[0].host == "c.d"
    assert config.next_hops[0].credentials is None


def test_errors_of_flags_name_the_flag() -> None:
    """An error in an option does not send the operator to the file."""
    reading = read_config("[dns]\nservers = []", {"dns.servers": ["x"]}, {"dns.servers": "--dns"}, surroundings=HERE)

    assert [(error.key, error.line) for error in reading.errors] == [("--dns", None)]


def test_a_flag_for_a_table_that_is_none_is_the_tables_error() -> None:
    """A flag does not hide that the file is wrong."""
    reading = read_config("mx = 5", {"mx.port": 26}, surroundings=HERE)

    assert [error.key for error in reading.errors] == ["mx"]


@pytest.mark.parametrize("name", ["box", "localhost", "localhost.localdomain", "10.0.0.1", "x.localhost"])
def test_direct_mx_wants_a_qualified_hostname(name: str) -> None:
    """A relay that would introduce itself as "localhost" to the internet does not start."""
    told = errors(f'hostname = "{name}"')

    assert len(told) == 1
    assert told[0].startswith(f'line 1: hostname: "{name}" is not fully qualified')
    assert "--next-hop" in told[0]


def test_an_unqualified_machine_is_told_about_the_hostname() -> None:
    """Where nobody set a hostname, the error names the key to set."""
    assert errors("", NAMELESS)[0].startswith('hostname: "box" is not fully qualified')


@pytest.mark.parametrize(
    "text", ["next_hop = 'a.b:25'", "[dns]\nservers = ['127.0.0.1:53']\n[mx]\nallow_private = true"]
)
def test_an_unqualified_hostname_will_do_away_from_the_internet(text: str) -> None:
    """With a next hop, or in a test network, any name will do."""
    assert parse_config(text, {}, NAMELESS).hostname == "box"


@pytest.mark.parametrize("text", ["[dns]\nservers = ['127.0.0.1:53']", "[mx]\nallow_private = true"])
def test_half_a_test_network_is_none(text: str) -> None:
    """Own name servers alone, or private addresses alone, do not make a test network."""
    assert len(errors(text, NAMELESS)) == 1


def test_a_machine_name_that_ehlo_cannot_carry_is_not_used() -> None:
    """Container names such as my_app do not end up in EHLO."""
    config = parse_config("next_hop = 'a.b:25'", {}, Surroundings("my_app", Path("/x")))

    assert config.hostname == "localhost"


def test_a_password_demands_verified_tls() -> None:
    """With a username, TLS is verified unless the operator says otherwise."""
    config = read("[next_hop]\nhost = 'h.example'\nusername = 'u'\npassword = 'p'")

    assert config.next_hops
    assert config.next_hops[0].tls is TlsLevel.VERIFIED
    assert config.next_hops[0].credentials == Credentials("u", "p")


@pytest.mark.parametrize("level", ["none", "opportunistic"])
def test_a_password_is_never_risked_in_clear(level: str) -> None:
    """A password with TLS that may fall away is refused, but on loopback."""
    text = "[next_hop]\nhost = '{}'\nusername = 'u'\npassword = 'p'\ntls = '" + level + "'"

    assert errors(text.format("h.example"))[0].startswith("line 5: next_hop.tls: the password could travel in clear")
    assert errors(text.format("127.0.0.1")) == []
    assert errors(text.format("localhost")) == []


def test_implicit_tls_contradicts_no_tls() -> None:
    """TLS from the first octet and no TLS cannot both be meant."""
    told = errors("[next_hop]\nhost='h.example'\nimplicit_tls=true\ntls='none'")

    assert told == ['line 4: next_hop.tls: "none" contradicts implicit_tls: choose "required" or "verified"']


def test_passwords_come_from_files(tmp_path: Path) -> None:
    """A password file's line end is not part of the password, its spaces are."""
    secret = tmp_path / "secret"
    secret.write_text("pass word \r\n")

    config = read(f"[next_hop]\nhost='h.example'\nusername='u'\npassword_file='{secret}'")

    assert config.next_hops
    assert config.next_hops[0].credentials == Credentials("u", "pass word ")


@pytest.mark.parametrize("content", [b"", b"\n", b"hunter2\nhunter3\n", b"hunter2\xff"])
def test_password_files_that_are_none_are_refused_without_showing_them(tmp_path: Path, content: bytes) -> None:
    """An error about a password does not contain it."""
    secret = tmp_path / "secret"
    secret.write_bytes(content)

    told = errors(f"[next_hop]\nhost='h.example'\nusername='u'\npassword_file='{secret}'")

    assert told == [f"line 4: next_hop.password_file: {secret}: expected one line of UTF-8 with the password"]


def test_a_missing_password_file_is_named() -> None:
    """A password file that is not there says so."""
    told = errors("[next_hop]\nhost='h.example'\nusername='u'\npassword_file='/nonexistent'")

    assert told == ["line 4: next_hop.password_file: cannot be read: /nonexistent: No such file or directory"]


def test_a_missing_ca_file_is_named() -> None:
    """Certificates that nobody can read are told before any mail waits for them."""
    told = errors("[next_hop]\nhost='h.example'\nca_file='/nonexistent'")

    assert told == ["line 3: next_hop.ca_file: cannot be read: /nonexistent: No such file or directory"]


def test_password_and_password_file_exclude_each_other() -> None:
    """Which of two passwords holds is not guessed."""
    told = errors("[next_hop]\nhost='h.example'\nusername='u'\npassword='p'\npassword_file='/x'")

    assert any("set password or password_file, not both" in error for error in told)


def test_routes_are_read_in_order() -> None:
    """Each route has its domains and where they go."""
    config = read("""
        [[route]]
        domains = ["Intern.Example", "*.intern.example"]
        next_hop = "10.0.0.9:26"
        [[route]]
        domains = ["gone.example"]
        refuse = "closed"
        [[route]]
        domains = ["direct.example"]
        [[route]]
        domains = ["safe.example"]
        [route.next_hop]
        host = "h.example"
        tls = "verified"
        families = "ipv4"
        [[route]]
        domains = ["six.example"]
        families = "ipv6"
    """)

    assert config.routes[0].domains == ("intern.example", "*.intern.example")
    assert config.routes[0].next_hops
    assert (config.routes[0].next_hops[0].host, config.routes[0].next_hops[0].port) == ("10.0.0.9", 26)
    assert config.routes[1].refuse == "closed"
    assert config.routes[2] == RouteSection(domains=("direct.example",))
    assert config.routes[3].next_hops
    assert config.routes[3].next_hops[0].tls is TlsLevel.VERIFIED
    assert (config.routes[3].next_hops[0].families, config.routes[3].families) == (Families.IPV4, None)
    assert (config.routes[4].families, config.routes[4].next_hops) == (Families.IPV6, ())


@pytest.mark.parametrize(("network", "is_open"), [("0.0.0.0/0", True), ("::/0", True), ("0.0.0.0/1", False)])
def test_open_relays_are_recognised(network: str, is_open: bool) -> None:
    """A configuration that lets everyone send is known for what it is."""
    assert read(f"relay_from = ['{network}']").relays_for_everyone is is_open


_VALUES = some.recursive(
    some.one_of(some.text(max_size=5), some.integers(), some.booleans(), some.just("127.0.0.1:25"), some.just("5m")),
    lambda inner: (
        some.lists(inner, max_size=2) | some.dictionaries(some.sampled_from(["host", "port", "domains", "x"]), inner)
    ),
    max_leaves=4,
)


@settings(deadline=None)  # the machine's load says nothing about the reading
@given(
    some.dictionaries(
        some.sampled_from([*TOP_KEYS, *SECTION_KEYS, "next_hop", "route", "retry.first", "mx.port"]),
        _VALUES,
        max_size=4,
    )
)
def test_whatever_is_laid_over_is_read_or_refused(flags: dict[str, object]) -> None:
    """No value in any place makes the reading itself fail."""
    reading = read_config("", flags, surroundings=HERE)

    assert (reading.config is None) == bool(reading.errors)


def test_a_tokens_file_that_is_not_made_yet_says_how() -> None:
    """The first login fails for nothing but a missing file."""
    told = errors("[http]\ntokens_file = '/nonexistent'")

    assert told == [
        "line 2: http.tokens_file: cannot be read: /nonexistent: No such file or directory; "
        "make it: smarthost tokens add NAME"
    ]
