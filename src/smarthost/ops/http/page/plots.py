# SPDX-License-Identifier: MIT
"""Counts to the lines of a small SVG plot: only numbers of ours get in, and the template draws them. Pure."""

from collections.abc import Sequence

from msgspec import Struct

WIDTH = 720
HEIGHT = 96
_STEPS = (1, 2, 5)


class Line(Struct, frozen=True):
    """One series: `path` and, closed to the bottom, `area`, as SVG path data; `per_minute`: of the last minute."""

    name: str
    tone: str
    path: str
    area: str
    per_minute: float
    total: int


class Plot(Struct, frozen=True):
    """Several series on one scale. `top`: the value at the upper edge, per minute."""

    title: str
    unit: str
    top: float
    lines: tuple[Line, ...]
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def spoken(self) -> str:
        """Say in words what it shows."""
        parts = [f"{line.name} {line.per_minute:.0f} a minute now, {line.total:,} in all" for line in self.lines]
        return f"{self.title}, last 30 minutes: {'; '.join(parts)}"


def draw(title: str, unit: str, series: Sequence[tuple[str, str, Sequence[int]]], slot_s: float) -> Plot:
    """Draw (name, tone, counts a slot), oldest first, by the minute; the last slot is not over and is left out."""
    slots = round(60.0 / slot_s)
    whole = [(name, tone, counts[:-1], _by_minute(counts[:-1], slots)) for name, tone, counts in series]
    top = round_up(max([max(minutes, default=0) for _, _, _, minutes in whole], default=0))
    lines = []
    for name, tone, counts, minutes in whole:
        path = _path(minutes, top)
        area = f"{path}V{HEIGHT}H0Z"
        lines.append(Line(name, tone, path, area, float(minutes[-1]) if minutes else 0.0, sum(counts)))
    return Plot(title, unit, top, tuple(lines))


def _by_minute(counts: Sequence[int], slots: int) -> list[int]:
    """Give for each moment what the minute before it had, so that the line and its figure say the same."""
    return [sum(counts[max(0, end - slots) : end]) for end in range(min(slots, len(counts)), len(counts) + 1)]


def _path(values: Sequence[float], top: float) -> str:
    step = WIDTH / max(1, len(values) - 1)
    points: list[str] = []
    before = None
    for place, value in enumerate(values):
        y = HEIGHT - 1 - value / top * (HEIGHT - 4)
        text = f"{y:.1f}"
        follows = values[place + 1] if place + 1 < len(values) else None
        if text == before and follows == value:
            continue  # in the middle of a flat stretch: the line says it already
        points.append(f"{place * step:.1f} {text}")
        before = text
    return "M" + "L".join(points)


def round_up(value: float) -> float:
    """Give the next of 1, 2, 5, 10, 20, 50 ... above; at least 10."""
    scale = 10.0
    while True:
        for step in _STEPS:
            if value <= step * scale:
                return step * scale
        scale *= 10
