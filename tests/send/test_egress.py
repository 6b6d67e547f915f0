# SPDX-License-Identifier: MIT
"""The hint about a blocked port 25: said once, to those whom it helps, and to nobody else."""

import pytest

from smarthost.mail.record import Record
from smarthost.send.egress import EgressWatch


class Ear:
    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, object]]] = []

    def record(self, record: Record) -> None: ...

    def note(self, level: str, what: str, **facts: object) -> None:
        self.notes.append((what, facts))


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def watch(ear: Ear) -> EgressWatch:
    return EgressWatch(ear)


def fail(watch: EgressWatch, *hosts: int, port: int = 25, why: str = "timed out after 10 s") -> None:
    for host in hosts:
        watch.connect_failed(f"192.0.2.{host}", port, why)


def test_three_silent_sites_are_reported_once(watch: EgressWatch, ear: Ear) -> None:
    """The third silent address says that it is not theirs but ours; the hundredth adds nothing."""
    fail(watch, 1, 2)
    early = list(ear.notes)
    fail(watch, *range(3, 100))

    assert [] == early
    ((what, facts),) = ear.notes
    assert "outbound port 25 seems blocked" == what
    assert ["192.0.2.1", "192.0.2.2", "192.0.2.3"] == facts["addresses"]
    assert "587" in str(facts["cure"])


def test_one_silent_site_is_ordinary(watch: EgressWatch, ear: Ear) -> None:
    """However often the same address is silent, that is its own affair."""
    fail(watch, *[1] * 50, *[2] * 50)

    assert [] == ear.notes


def test_a_connection_anywhere_says_that_the_port_is_open(watch: EgressWatch, ear: Ear) -> None:
    """Who has reached one host on port 25 is not told that it is blocked."""
    fail(watch, 1, 2)
    watch.connected(25)
    fail(watch, 3, 4, 5)

    assert [] == ear.notes


@pytest.mark.parametrize(("port", "why"), [(587, "timed out after 10 s"), (25, "connection refused"), (25, "no route")])
def test_other_ports_and_other_failures_are_no_evidence(watch: EgressWatch, ear: Ear, port: int, why: str) -> None:
    """A refusal comes from a host that can be reached, and another port is another matter."""
    fail(watch, 1, 2, 3, 4, port=port, why=why)

    assert [] == ear.notes


def test_a_connection_to_another_port_proves_nothing(watch: EgressWatch, ear: Ear) -> None:
    """A submission server that answers does not open port 25."""
    watch.connected(587)
    fail(watch, 1, 2, 3)

    assert 1 == len(ear.notes)
