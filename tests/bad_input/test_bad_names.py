# SPDX-License-Identifier: MIT
"""DNS that lies, is silent or broken: unknown defers, known not to exist comes back, and other mail is not held up.

Rows: what DNS does -> what becomes of the recipient.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.live.content import KINDS
from tests.live.dns import by_mx, serving_names
from tests.live.raw import RawClient
from tests.live.rig import Daemon, serving
from tests.live.sink import Sink

from smarthost.testing.dns import Fault, Zone

pytestmark = pytest.mark.slow

GOOD = {"good.example": "MX 10 mx.good.example", "mx.good.example": "A 127.0.0.1"}
QUICK_DNS = "[dns]\ntimeout = '500ms'\n"

Records = dict[str, str]  # a name below the row's own domain, "" for that itself -> its record
Faults = dict[str, Fault]
MX = "MX 10 mx.{domain}"

ROWS: list[tuple[str, Records, Faults, str, str]] = [
    ("no answer to MX", {}, {"": Fault.TIMEOUT}, "deferred", "4.4"),
    ("SERVFAIL to MX", {}, {"": Fault.SERVFAIL}, "deferred", "4.4"),
    ("REFUSED to MX", {}, {"": Fault.REFUSED}, "deferred", "4.4"),
    ("garbage to MX", {}, {"": Fault.GARBAGE}, "deferred", "4.4"),
    ("answers with another id", {}, {"": Fault.WRONG_ID}, "deferred", "4.4"),
    ("answers to another question", {}, {"": Fault.WRONG_QUESTION}, "deferred", "4.4"),
    ("NXDOMAIN", {}, {}, "bounced", "5.1.2"),
    ("no such exchanger", {"": MX}, {}, "bounced", "5.4.4"),
    ("no answer about the exchanger", {"": MX, "mx.": "A 127.0.0.1"}, {"mx.": Fault.TIMEOUT}, "deferred", "4.4"),
    ("neither MX nor address", {"": "TXT none"}, {}, "bounced", "5."),
    ("null MX", {"": "MX 0 ."}, {}, "bounced", "5.1.10"),
    ("an alias to itself", {"": "CNAME {domain}"}, {}, "deferred", "4."),
    ("an exchanger that is us", {"": "MX 10 relay.example.org"}, {}, "bounced", "5.4.6"),
    ("an exchanger at no address", {"": MX, "mx.": "A 0.0.0.0"}, {}, "bounced", "5.4.4"),
    ("an exchanger at many addresses", {"": MX, "mx.": "A 224.0.0.1"}, {}, "bounced", "5.4.4"),
]


class Place(NamedTuple):
    """What the rows share: a daemon that delivers by MX, its name server, and the exchanger of good.example."""

    daemon: Daemon
    zone: Zone
    sink: Sink


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    state = tmp_path_factory.mktemp("names") / "state"
    zone = Zone(GOOD)
    with (
        Sink() as sink,
        serving_names(zone) as names,
        serving(state, *by_mx(names, sink.port), config=QUICK_DNS, quick=False) as daemon,
    ):
        yield Place(daemon, zone, sink)


@pytest.mark.parametrize(("what", "records", "faults", "became", "status"), ROWS, ids=[row[0] for row in ROWS])
def test_what_dns_does_to_mail(
    place: Place, what: str, records: Records, faults: Faults, became: str, status: str
) -> None:
    """The recipient with bad DNS is deferred or returned with the reason; the one with good DNS gets the message."""
    daemon, zone, sink = place
    row = "".join(each if each.isalnum() else "-" for each in what.lower())
    domain, sender, other = f"{row}.example", f"sender.{row}@good.example", f"other.{row}@good.example"
    for name, record in records.items():
        zone.set(name + domain, record.format(domain=domain))
    zone.faults |= {name + domain: fault for name, fault in faults.items()}

    with RawClient(daemon.port) as client:
        id = client.send(KINDS["short"], f"bob@{domain}", other, sender=sender)
    sink.wait_for_recipient(other)
    line = daemon.line(became, recipient=f"bob@{domain}")

    assert line["status"].startswith(status), line
    assert domain in line["why"], line
    if became == "deferred":
        (message,) = [each for each in daemon.queue() if each["id"] == id]
        assert [each["address"] for each in message["recipients"]] == [f"bob@{domain}"]
        assert message["recipients"][0]["why"] == line["why"]
    else:
        assert f"bob@{domain}".encode() in sink.wait_for_recipient(sender).content


def test_mail_deferred_for_dns_leaves_when_dns_answers(tmp_path: Path) -> None:
    """Nothing is lost by a name server that is down for a while."""
    zone = Zone(GOOD, faults={"good.example": Fault.TIMEOUT})

    with (
        Sink() as sink,
        serving_names(zone) as names,
        serving(tmp_path / "state", *by_mx(names, sink.port), config=QUICK_DNS) as daemon,
        RawClient(daemon.port) as client,
    ):
        client.send(KINDS["short"], "bob@good.example")
        daemon.line("deferred", recipient="bob@good.example")
        zone.faults.clear()
        sink.wait_for_recipient("bob@good.example")


def test_private_exchangers_are_not_dialled_without_leave(tmp_path: Path) -> None:
    """A stranger's DNS cannot make us talk to our own network: loopback is refused unless the operator allows it."""
    with Sink() as sink, serving_names(Zone(GOOD)) as names:
        arguments = [each for each in by_mx(names, sink.port) if each != "--allow-private"]
        with serving(tmp_path / "state", *arguments) as daemon, RawClient(daemon.port) as client:
            client.send(KINDS["short"], "bob@good.example", sender="")
            bounced = daemon.line("bounced", recipient="bob@good.example")

    assert bounced["status"] == "5.4.4"
    assert "127.0.0.1" in bounced["why"]
    assert sink.sessions == 0
