# SPDX-License-Identifier: MIT
"""Delivery by MX on loopback: a real daemon, a name server, and exchangers at several addresses."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.live.content import KINDS, assert_same, without_our_field
from tests.live.dns import by_mx, serving_names
from tests.live.raw import RawClient
from tests.live.rig import Daemon, serving
from tests.live.sink import Sink

from smarthost.testing.dns import Zone

pytestmark = pytest.mark.slow

DOMAINS = 50
EACH = 10
SITES = 5  # so many sets of exchangers serve the domains
ADDRESSES = [f"127.0.1.{n}" for n in range(1, 2 * SITES + 1)]


def _zone() -> Zone:
    """Fifty domains at five sites, each site with two exchangers of different preference."""
    records: dict[str, list[str]] = {}
    for n in range(DOMAINS):
        site = n % SITES
        records[f"d{n}.example"] = [f"MX 10 mx1.site{site}.example", f"MX 20 mx2.site{site}.example"]
    for site in range(SITES):
        records[f"mx1.site{site}.example"] = [f"A {ADDRESSES[2 * site]}"]
        records[f"mx2.site{site}.example"] = [f"A {ADDRESSES[2 * site + 1]}"]
    return Zone(records)


@contextmanager
def _delivering(state_dir: Path, zone: Zone) -> Iterator[tuple[Daemon, Sink]]:
    with (
        Sink(ADDRESSES) as sink,
        serving_names(zone) as names,
        serving(state_dir, *by_mx(names, sink.port)) as daemon,
    ):
        yield daemon, sink


def test_500_recipients_over_50_domains(tmp_path: Path) -> None:
    """Each recipient gets the message once, from the better exchanger of its domain, as it was sent."""
    recipients = [f"r{m}@d{n}.example" for m in range(EACH) for n in range(DOMAINS)]
    content = KINDS["multipart"]

    with _delivering(tmp_path / "state", _zone()) as (daemon, sink):
        with RawClient(daemon.port) as client:
            client.send(content, *recipients)
        relayed = daemon.some_lines(len(recipients), "relayed")
        assert daemon.queue() == []

    got = Counter(address for message in sink.arrived for address in message.addresses)
    assert got == Counter(recipients)
    assert Counter(line["recipient"] for line in relayed) == Counter(recipients)
    for message in sink.arrived:
        assert_same(content, without_our_field(message.content), message.at)
        (domain,) = {address.split("@")[1] for address in message.addresses}
        assert message.at == ADDRESSES[2 * (int(domain[1:].removesuffix(".example")) % SITES)]
    assert len(sink.arrived) == DOMAINS  # recipients of a domain share a transaction


def test_150_recipients_of_one_domain(tmp_path: Path) -> None:
    """More recipients than a transaction may have go in several, each to each once."""
    recipients = [f"r{m}@d1.example" for m in range(150)]

    with _delivering(tmp_path / "state", _zone()) as (daemon, sink):
        with RawClient(daemon.port) as client:
            client.send(KINDS["short"], *recipients)
        daemon.some_lines(len(recipients), "relayed")

    assert Counter(address for message in sink.arrived for address in message.addresses) == Counter(recipients)
    assert max(len(message.recipients) for message in sink.arrived) <= 100  # RFC 5321 4.5.3.1.8


def test_a_dead_exchanger_costs_one_look(tmp_path: Path) -> None:
    """Where the better exchanger is down, all mail goes to the other, and only the first message tries in vain."""
    zone = _zone()
    zone.set("mx1.site0.example", "A 127.0.1.99")  # nobody listens there

    with _delivering(tmp_path / "state", zone) as (daemon, sink):
        for n in range(20):
            with RawClient(daemon.port) as client:
                client.send(KINDS["short"], f"r{n}@d0.example")
            daemon.line("relayed", recipient=f"r{n}@d0.example")
        relayed = daemon.some_lines(20, "relayed")

    assert {message.at for message in sink.arrived} == {ADDRESSES[1]}
    dialled = [line for line in relayed if "at connect: connection refused" in "".join(line.get("walk", []))]
    assert 1 <= len(dialled) <= 2  # it is probed again after 5 s, should this take so long
    assert len([line for line in daemon.lines if line["what"] in ("deferred", "postponed")]) == 0


def test_null_mx_and_no_such_domain_come_back(tmp_path: Path) -> None:
    """Mail that can never be delivered is returned at once, with a report that names each recipient and why."""
    zone = _zone()
    zone.set("null.example", "MX 0 .")

    with _delivering(tmp_path / "state", zone) as (daemon, sink):
        with RawClient(daemon.port) as client:
            client.send(KINDS["short"], "a@null.example", "b@nowhere.example", sender="teller@d0.example")
        report = sink.wait_for_recipient("teller@d0.example")
        null = daemon.line("bounced", recipient="a@null.example")
        nowhere = daemon.line("bounced", recipient="b@nowhere.example")

    assert (null["status"], nowhere["status"]) == ("5.1.10", "5.1.2")
    assert report.mail.startswith(b"FROM:<>")
    for words in (b"a@null.example", b"b@nowhere.example", b"Status: 5.1.10", b"Status: 5.1.2"):
        assert words in report.content
