# SPDX-License-Identifier: MIT
"""What one value may look like, and what is said when it does not."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from smarthost.config import units
from smarthost.config.values import Endpoint
from smarthost.mail.hop import TlsLevel


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("4h", 14400),
        ("5d", 432000),
        ("1w", 604800),
        ("1h30m", 5400),
        ("250ms", 0.25),
        (7, 7),
        (0.5, 0.5),
    ],
)
def test_durations_are_read_in_every_unit(raw: object, seconds: float) -> None:
    """A duration may be written in the unit that suits it."""
    assert units.duration(0, 1e6)(raw) == seconds


@pytest.mark.parametrize("raw", ["5", "m", "5 m", "-5m", "5x", "", True, None, [5], "5m ", "1e3s", "５m"])
def test_what_is_no_duration_is_refused(raw: object) -> None:
    """A duration without a unit, or with an unknown one, is an error and not a guess."""
    with pytest.raises(ValueError, match="expected a duration such as"):
        units.duration(0, 1e6)(raw)


@pytest.mark.parametrize("raw", [-1, 101, "2m", float("nan"), float("inf")])
def test_durations_out_of_bounds_name_the_bounds(raw: object) -> None:
    """A duration beyond what makes sense is refused with what would do."""
    with pytest.raises(ValueError, match=r"expected 0s to 100s \(why not\)"):
        units.duration(0, 100, "why not")(raw)


@given(some.integers(min_value=0, max_value=10**9))
def test_durations_as_text_are_read_back(milliseconds: int) -> None:
    """What `config show` prints can be put into a file."""
    seconds = milliseconds / 1000 if milliseconds < 1000 else float(milliseconds // 1000)

    text = units.duration_text(seconds)

    assert units.duration(0, 1e7)(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("raw", "octets"),
    [
        ("512KiB", 524288),
        ("50MiB", 52428800),
        ("1GiB", 1 << 30),
        ("10MB", 10**7),
        ("1.5 KiB", 1536),
        ("7", 7),
        ("7B", 7),
        (9, 9),
        ("50mib", 52428800),
    ],
)
def test_sizes_are_read_in_every_unit(raw: object, octets: int) -> None:
    """A size may be written in the unit that suits it."""
    assert units.size(0, 1 << 40)(raw) == octets


@pytest.mark.parametrize("raw", ["50 Mib/s", "MiB", "-1KiB", "", 1.5, True, None])
def test_what_is_no_size_is_refused(raw: object) -> None:
    """A size that nobody can read is an error."""
    with pytest.raises(ValueError, match="expected a size such as"):
        units.size(0, 1 << 40)(raw)


@given(some.integers(min_value=0, max_value=1 << 40))
def test_sizes_as_text_are_read_back(octets: int) -> None:
    """What `config show` prints can be put into a file."""
    assert units.size(0, 1 << 40)(units.size_text(octets)) == octets


@pytest.mark.parametrize(
    ("raw", "host", "port"),
    [
        ("127.0.0.1:2525", "127.0.0.1", 2525),
        ("[::1]:25", "::1", 25),
        ("localhost:2525", "127.0.0.1", 2525),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[2001:DB8::1]", "2001:db8::1", 53),
        ("2001:db8::1", "2001:db8::1", 53),
        ("192.0.2.1", "192.0.2.1", 53),
    ],
)
def test_numeric_endpoints_are_read(raw: str, host: str, port: int) -> None:
    """Addresses to listen on, or to ask, are IP addresses with a port, or the default port."""
    assert units.endpoint(53, numeric=True, any_port=True)(raw) == Endpoint(host, port)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("127.0.0.1", "the port is missing"),
        ("[::1]", "the port is missing"),
        ("127.0.0.1:", "a port is a number"),
        ("127.0.0.1:smtp", "a port is a number"),
        ("127.0.0.1:65536", "a port is a number from 0 to 65535"),
        ("127.0.0.1:²", "a port is a number"),
        ("[::1]25", "a port is a number"),
        ("127.0.0.1:0", "port 0 means nothing here"),
        (":25", "such as 127.0.0.1:2525"),
        ("*:25", 'got host "*"'),
        ("mail.example:25", 'got host "mail.example"'),
        (25, "expected a text in quotes, got 25"),
        ("127.0.0.1:25\n", "without control characters"),
    ],
)
def test_wrong_numeric_endpoints_say_what_is_missing(raw: object, said: str) -> None:
    """A wrong address says what is wrong with it."""
    with pytest.raises(ValueError, match=re.escape(said)):
        units.endpoint(numeric=True)(raw)


@pytest.mark.parametrize(
    "raw",
    ["999.1.1.1:25", "1.2.3:25", "-a.example:25", "a_b:25", "a..b:25", ":25", "ex ample:25", f"{'a' * 64}.example:25"],
)
def test_hosts_that_no_resolver_could_find_are_refused(raw: str) -> None:
    """A next hop must be a name DNS can hold or an IP address; 999.1.1.1 is neither."""
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        units.endpoint(25)(raw)


def test_endpoints_are_written_as_they_are_read() -> None:
    """IPv6 addresses get their brackets back."""
    assert str(Endpoint("::1", 25)) == "[::1]:25"
    assert str(Endpoint("mx.example", 25)) == "mx.example:25"


def test_networks_with_host_bits_are_refused_with_the_likely_meaning() -> None:
    """A slip in relay_from is not rounded up to a bigger network."""
    with pytest.raises(ValueError, match=r'has host bits set; did you mean "10\.0\.0\.0/8"\?'):
        units.network("10.0.0.1/8")


@pytest.mark.parametrize("raw", ["10.0.0.0/33", "example.org", "10.0.0", "", 10, "::1/129", True])
def test_what_is_no_network_is_refused(raw: object) -> None:
    """relay_from takes CIDR networks and nothing else."""
    with pytest.raises(ValueError, match=r"not a network|expected a text"):
        units.network(raw)


@pytest.mark.parametrize(
    "raw", ["postmaster", "@example.org", "a b@example.org", "<a@example.org>", "a@", "a@exa_mple.org", "a@b..c"]
)
def test_what_is_no_address_is_refused(raw: str) -> None:
    """The postmaster's address must be one that mail can be sent to."""
    with pytest.raises(ValueError, match=r"not an address|expected a text"):
        units.mailbox(raw)


def test_host_names_become_what_dns_knows() -> None:
    """Upper case, a final dot and letters beyond ASCII are brought into the form that goes over the wire."""
    assert units.host_name("Mail.Bücher.Example.") == "mail.xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("reader", "raw", "said"),
    [
        (units.boolean, "yes", 'expected true or false, got "yes"'),
        (units.boolean, 1, "expected true or false, got 1"),
        (units.whole(1, 9), True, "expected a whole number, got true"),
        (units.whole(1, 9), 1.0, "expected a whole number, got 1.0"),
        (units.whole(1, 9), 10, "expected 1 to 9, got 10"),
        (units.fraction, 1, "expected a number from 0 to below 1, got 1"),
        (units.fraction, "0.1", 'expected a number from 0 to below 1, got "0.1"'),
        (units.one_of(TlsLevel), "always", 'expected one of none, opportunistic, required, verified, got "always"'),
        (units.log_level, "loud", 'expected one of info, warning, error, got "loud"'),
        (units.text, {}, "expected a text in quotes, got a table"),
        (units.text, "a\x1b[2J", "got 'a\\x1b[2J'"),
        (units.several(units.boolean), True, "expected an array such as [...], got true"),
        (units.several(units.boolean), [1, True, 2], "element 1: expected true or false, got 1; element 3: expected"),
        (units.several(units.boolean, at_least=1), [], "expected at least 1 element"),
        (units.route_domain, "*.*.example", "not a host name"),
    ],
)
def test_wrong_values_say_what_was_expected(reader: Callable[[object], object], raw: object, said: str) -> None:
    """Each kind of value says what it wants and what it got."""
    with pytest.raises(ValueError, match=re.escape(said)):
        reader(raw)


@given(
    some.one_of(
        some.text(),
        some.integers(),
        some.floats(),
        some.booleans(),
        some.none(),
        some.lists(some.text()),
        some.dictionaries(some.text(), some.text()),
    )
)
def test_any_value_is_read_or_refused(raw: object) -> None:
    """No value whatever makes a reader fail in another way than by refusing it."""
    for reader in (
        units.text, units.boolean, units.whole(0, 9), units.fraction, units.duration(0, 9), units.size(0, 9),
        units.host_name, units.mailbox, units.network, units.endpoint(25), units.endpoint(numeric=True),
        units.hop_host, units.one_of(TlsLevel), units.sender, units.selector, units.local_address,
        units.log_level, units.route_domain, units.several(units.text),
    ):  # fmt: skip
        try:
            reader(raw)
        except ValueError as refused:
            assert str(refused).isprintable()  # noqa: PT017 - either way is fine
