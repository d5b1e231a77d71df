"""Scatter plots as inline SVG: labelled points with their intervals, readable ticks, linear or logarithmic axes.

Points differ in shape as well as in colour (Okabe and Ito's palette, in page.css), and every one bears its name. All text
is escaped. Perception against distortion is the plane of Blau and Michaeli (1711.06077).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

WIDTH, HEIGHT = 400, 290  # units of the viewBox
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 28, 48  # margins around the area of the points
LETTER, LINE = 7.2, 13  # about the width of a letter and the height of a line of a label
ARROWS = {(1, 1): "↗", (1, -1): "↘", (-1, 1): "↖", (-1, -1): "↙"}
STYLES = 8  # colours and shapes before they repeat
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0Z",
    "M-4.5-4.5H4.5V4.5H-4.5Z",
    "M0-5.8L5.6 4.4H-5.6Z",
    "M0-6.3L6.3 0L0 6.3L-6.3 0Z",
    "M0 5.8L5.6-4.4H-5.6Z",
    "M-1.8-5.6H1.8V-1.8H5.6V1.8H1.8V5.6H-1.8V1.8H-5.6V-1.8H-1.8Z",
    "M0-6L5.7-1.9L3.5 4.9H-3.5L-5.7-1.9Z",
    "M-5.6-2.9L0-5.9L5.6-2.9V2.9L0 5.9L-5.6 2.9Z",
)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What an axis shows."""

    label: str
    better: Literal["higher", "lower", "none"]
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model in the plane; intervals are None where unknown."""

    label: str
    style: int  # number of its colour and shape
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Maps values of [low, high] to units of the drawing [start, stop]."""

    low: float
    high: float
    start: float
    stop: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, value = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / (high - low) * (self.stop - self.start)


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Return about five round values in [low, high]: steps of 1, 2 or 5; on a logarithmic axis 1, 2, 5 or decades."""
    if log:
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        digits = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
        every = max(1, math.ceil(math.log10(high / low) / 6))
        values = [d * 10.0**e for e in exponents if e % every == 0 for d in digits]
        return [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def tick_label(value: float, step: float) -> str:
    """Return a tick with as many digits behind the point as `step` needs."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def shape(style: int) -> Markup:
    """Return the mark of a model as an SVG path around 0, 0."""
    return Markup('<path class="m{}" d="{}"/>').format(style % STYLES, SHAPES[style % STYLES])


def scatter(points: Sequence[Point], x: Axis, y: Axis, title: str) -> Markup:
    """Return an <svg>. `points` is not empty, and on a logarithmic axis positive."""
    to_x = _scale([(p.x, p.x_interval) for p in points], LEFT, WIDTH - RIGHT, x.log)
    to_y = _scale([(p.y, p.y_interval) for p in points], HEIGHT - BOTTOM, TOP, y.log)
    parts = [*_grid(to_x, to_y), *_titles(x, y)]
    for p in points:
        parts += _whiskers(p, to_x, to_y)
    places = _label_places([(to_x(p.x), to_y(p.y), _lines(p.label)) for p in points])
    for p, (left, top, anchor) in zip(points, places, strict=True):
        at = Markup('<g transform="translate({:.1f} {:.1f})">{}<title>{}: {:.4g}, {:.4g}</title></g>')
        parts.append(at.format(to_x(p.x), to_y(p.y), shape(p.style), p.label, p.x, p.y))
        lines = Markup("").join(
            Markup('<tspan x="{:.1f}" y="{:.1f}">{}</tspan>').format(left, top + (i + 0.8) * LINE, line)
            for i, line in enumerate(_lines(p.label))
        )
        parts.append(Markup('<text class="name" text-anchor="{}">{}</text>').format(anchor, lines))
    opening = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return opening.format(WIDTH, HEIGHT, title) + Markup("").join(parts) + Markup("</svg>")


def _scale(values: Sequence[tuple[float, tuple[float, float] | None]], start: float, stop: float, log: bool) -> _Scale:
    """Return a scale with room on both sides of all values and their intervals."""
    known = [v for value, interval in values for v in (value, *(interval or ()))]
    low, high = min(known), max(known)
    if log:
        room = max((high / low) ** 0.12, 1.3)
        return _Scale(low=low / room, high=high * room, start=start, stop=stop, log=True)
    room = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return _Scale(low=low - room, high=high + room, start=start, stop=stop, log=False)


def _grid(to_x: _Scale, to_y: _Scale) -> list[Markup]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    line = Markup('<path class="grid" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>')
    text = Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    parts = []
    for value, label in _labelled_ticks(to_x):
        parts += [
            line.format(to_x(value), TOP, to_x(value), bottom),
            text.format(to_x(value), bottom + 15, "middle", label),
        ]
    for value, label in _labelled_ticks(to_y):
        parts += [
            line.format(LEFT, to_y(value), right, to_y(value)),
            text.format(LEFT - 7, to_y(value) + 4, "end", label),
        ]
    parts.append(Markup('<path class="axis" d="M{} {}V{}H{}"/>').format(LEFT, TOP, bottom, right))
    return parts


def _labelled_ticks(scale: _Scale) -> list[tuple[float, str]]:
    values = ticks(scale.low, scale.high, scale.log)
    if scale.log:
        return [(v, f"{v:g}") for v in values]
    return [(v, tick_label(v, values[1] - values[0] if len(values) > 1 else abs(v) or 1.0)) for v in values]


def _titles(x: Axis, y: Axis) -> list[Markup]:
    """Return the names of the axes with the better direction, and an arrow to the corner that is better in both."""
    signs = {"higher": 1, "lower": -1, "none": 0}
    horizontal = {1: f"{x.label} (better →)", -1: f"{x.label} (← better)", 0: x.label}[signs[x.better]]
    vertical = {1: f"{y.label} (better ↑)", -1: f"{y.label} (better ↓)", 0: y.label}[signs[y.better]]
    text = Markup('<text class="title" x="{}" y="{}" text-anchor="{}">{}</text>')
    parts = [
        text.format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "middle", horizontal),
        text.format(6, 17, "start", vertical),
    ]
    towards = signs[x.better], signs[y.better]
    if towards in ARROWS:
        left = WIDTH - RIGHT - 16 if towards[0] > 0 else LEFT + 16
        top = TOP + 22 if towards[1] > 0 else HEIGHT - BOTTOM - 10
        parts.append(
            Markup('<text class="arrow" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                left, top, ARROWS[towards]
            )
        )
    return parts


def _whiskers(p: Point, to_x: _Scale, to_y: _Scale) -> list[Markup]:
    line = Markup('<path class="whisker m{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>')
    style, x, y = p.style % STYLES, to_x(p.x), to_y(p.y)
    parts = []
    if p.x_interval:
        parts.append(line.format(style, to_x(p.x_interval[0]), y, to_x(p.x_interval[1]), y))
    if p.y_interval:
        parts.append(line.format(style, x, to_y(p.y_interval[0]), x, to_y(p.y_interval[1])))
    return parts


def _lines(label: str) -> list[str]:
    """Return a label in at most two lines: the model, and how it was called."""
    lines = label.split(" ", 1)
    return [line if len(line) <= 30 else line[:29] + "…" for line in lines]


def _label_places(marks: Sequence[tuple[float, float, list[str]]]) -> list[tuple[float, float, str]]:
    """Place each label (left or middle or right, top, anchor) where it covers least of marks, labels and the margin."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y, _ in marks]
    places = []
    for x, y, lines in marks:
        width, height = max(map(len, lines)) * LETTER, len(lines) * LINE
        centre = min(max(x, LEFT + 4 + width / 2), WIDTH - 2 - width / 2)
        options = [
            (x + 10, y - height / 2, "start"),
            (x - 10, y - height / 2, "end"),
            (centre, y - 10 - height, "middle"),
            (centre, y + 9, "middle"),
            (x + 7, y - 7 - height, "start"),
            (x - 7, y - 7 - height, "end"),
            (x + 7, y + 7, "start"),
            (x - 7, y + 7, "end"),
        ]
        boxes = [_box(left, top, anchor, width, height) for left, top, anchor in options]
        costs = [sum(_overlap(box, other) for other in taken) + 20 * _outside(box) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        places.append(options[best])
    return places


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _box(x: float, top: float, anchor: str, width: float, height: float) -> Box:
    left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
    return left, top, left + width, top + height


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _outside(box: Box) -> float:
    return (
        max(0.0, LEFT - box[0]) + max(0.0, box[2] - WIDTH) + max(0.0, TOP - box[1]) + max(0.0, box[3] - HEIGHT + BOTTOM)
    )
