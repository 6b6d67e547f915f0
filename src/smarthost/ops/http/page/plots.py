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
    """Draw (name, tone, counts a slot), oldest first; the last slot is not over and is left out."""
    per_minute = 60.0 / slot_s
    whole = [(name, tone, counts[:-1]) for name, tone, counts in series]
    top = round_up(max([max(counts, default=0) for _, _, counts in whole], default=0) * per_minute)
    lines = []
    for name, tone, counts in whole:
        path = _path([count * per_minute for count in counts], top)
        minute = counts[-round(per_minute) :]
        area = f"{path}V{HEIGHT}H0Z"
        lines.append(Line(name, tone, path, area, float(sum(minute)), sum(counts)))
    return Plot(title, unit, top, tuple(lines))


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
