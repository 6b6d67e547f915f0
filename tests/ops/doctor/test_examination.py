# SPDX-License-Identifier: MIT
"""Checks run side by side; one that breaks, or does not end, is a line and harms no other."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from tests.ops.doctor.rig import Rig, levels

from smarthost.ops.doctor import examination
from smarthost.ops.doctor.examination import CHECKS, examine
from smarthost.ops.doctor.findings import Finding, Findings, side_by_side
from smarthost.ops.doctor.world import World, aside


async def fine(world: World, told: Findings) -> None:
    told.ok("fine")


async def breaks(world: World, told: Findings) -> None:
    told.ok("before")

    async def part(below: Findings) -> None:
        below.ok("inside")
        raise KeyError("a bug")

    await side_by_side(told, [part])


async def hangs(world: World, told: Findings) -> None:
    told.ok("before")

    async def for_ever(below: Findings) -> None:
        below.warn("inside", "a cure")
        await aside(RELEASED.wait)

    await side_by_side(told, [for_ever])


RELEASED = threading.Event()


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    """Let the threads that a test left behind end."""
    RELEASED.clear()
    yield
    RELEASED.set()


def run(
    monkeypatch: pytest.MonkeyPatch, checks: dict[str, examination.Check], *only: str, errors: tuple[str, ...] = ()
) -> tuple[list[Finding], list[Finding]]:
    monkeypatch.setattr(examination, "CHECKS", checks)
    rig = Rig()
    rig.change(errors=errors)
    told: list[Finding] = []
    return asyncio.run(examine(rig.world, only, 0.05, told.append)), told


def test_a_check_that_breaks_is_a_line_beside_what_it_had_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, and the others say theirs."""
    found, told = run(monkeypatch, {"one": breaks, "two": fine})

    assert levels(found) == ["ok", "ok", "fail", "ok"]
    assert found[2].seen == "the check itself broke: KeyError: 'a bug'"
    assert told == found


def test_a_check_that_does_not_end_is_a_line_beside_what_it_had_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead network disk holds a thread for ever; the doctor goes on, and ends."""
    found, _ = run(monkeypatch, {"one": hangs, "two": fine})

    assert levels(found) == ["ok", "warn", "fail", "ok"]
    assert found[2].seen == "not finished within 0.05 s"


def test_checks_run_at_the_same_time_and_are_told_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first waits for the second here, and still stands first."""
    met = asyncio.Event()

    async def waits(world: World, told: Findings) -> None:
        await met.wait()
        told.ok("waited")

    async def meets(world: World, told: Findings) -> None:
        met.set()
        told.ok("met")

    found, _ = run(monkeypatch, {"one": waits, "two": meets})

    assert ["waited", "met"] == [each.seen for each in found]


def test_only_the_named_checks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the doctor's order, not the operator's."""
    found, _ = run(monkeypatch, {"one": fine, "two": hangs, "three": fine}, "three", "one")

    assert ["one", "three"] == [each.check for each in found]


def test_without_a_configuration_only_what_needs_none_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A doctor who refuses to look because of a slip in a file is no help."""
    found, _ = run(monkeypatch, {"config": fine, "relaying": fine, "resolver": fine}, errors=("line 3: nonsense",))

    assert levels(found) == ["ok", "skip", "ok"]


def test_a_check_that_was_asked_for_alone_fails_without_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a login only must not read "0 fail": what is wrong is in that line, since no other has it."""
    checks: dict[str, examination.Check] = {"config": fine, "egress": fine, "clock": fine}
    errors = ("smarthost.toml: line 3: nonsense", 'hostname: "vm" is not fully qualified')
    found, _ = run(monkeypatch, checks, "egress", "clock", errors=errors)

    assert levels(found) == ["fail", "ok"]
    assert all(error in found[0].seen for error in errors)
    assert "--config FILE" in found[0].cure


def test_what_a_peer_says_at_length_is_cut() -> None:
    """A line stays a line."""
    told = Findings("x")
    told.ok("y" * 10_000)

    assert len(told.found[0].seen) < 1000


def test_every_check_has_a_name_that_the_help_lists() -> None:
    """--only takes them."""
    from smarthost.ops.doctor.command import doctor

    assert doctor.help is not None
    assert f"--only: {', '.join(CHECKS)}." in " ".join(doctor.help.split())
