"""The curves of `benchmarks/anytime.py` as an SVG file: best validation value by time, a panel for each dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

Results = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Dataset -> side -> what each repetition found."""
_COLOURS = {"before": "#7f7f7f", "auto": "#1a9a6c", "HiNet": "#3366cc"}
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 420, 260, 62, 40, 30
_FIRST_SECOND = 1.0
_LOWEST_RANK = 0.25
"""The value axis begins where the searches' curves have this share of their steps behind them."""


def write_picture(results: Results, path: Path) -> None:
    """Write the curves of all datasets.

    Args:
        results: what was measured.
        path: the SVG file.
    """
    panels = [(name, sides) for name, sides in results.items() if any(sides.get(side) for side in _COLOURS)]
    width = len(panels) * (_WIDTH + _LEFT + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_TOP + _HEIGHT + 60}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{_TOP + _HEIGHT + 60}" fill="white"/>',
    ]
    for number, (name, sides) in enumerate(panels):
        lines += _panel(name, sides, number * (_WIDTH + _LEFT + _GAP) + _LEFT)
    path.write_text("\n".join([*lines, "</svg>"]) + "\n", encoding="utf-8")


def _panel(name: str, sides: Mapping[str, Sequence[Mapping[str, Any]]], left: float) -> Iterator[str]:
    shown = {side: [found for found in sides.get(side, []) if found["curve"]] for side in _COLOURS}
    found = [one for repetitions in shown.values() for one in repetitions]
    last = max(one["budget"] for one in found)
    steps = sorted(value for one in found for _, value in one["curve"])
    low, high = steps[int(_LOWEST_RANK * len(steps))], steps[-1]
    low, high = low - 0.02 * (high - low), high + 0.05 * (high - low)

    def across(seconds: float) -> float:
        least = math.log(_FIRST_SECOND)
        return left + _WIDTH * (math.log(max(seconds, _FIRST_SECOND)) - least) / (math.log(last) - least)

    def down(value: float) -> float:
        return _TOP + _HEIGHT * (1 - (max(value, low) - low) / (high - low))

    yield f'<text x="{left}" y="{_TOP - 22}" font-weight="bold">{escape(name)}</text>'
    yield f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#999"/>'
    for value in _ticks(low, high):
        yield f'<line x1="{left}" x2="{left + _WIDTH}" y1="{down(value):.1f}" y2="{down(value):.1f}" stroke="#eee"/>'
        yield f'<text x="{left - 6}" y="{down(value) + 4:.1f}" text-anchor="end">{value:.4f}</text>'
    for seconds in (1, 3, 10, 30, 60, 180, 600, 1200, 3600):
        if seconds <= last:
            label = f"{seconds} s" if seconds < 60 else f"{seconds // 60} min"
            yield f'<text x="{across(seconds):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{label}</text>'
    drawn = {side: repetitions for side, repetitions in shown.items() if repetitions}
    for place, (side, repetitions) in enumerate(drawn.items()):
        yield f'<text x="{left + 70 + 90 * place}" y="{_TOP - 22}" fill="{_COLOURS[side]}">{side}</text>'
        for one in repetitions:
            points = list(_stairs(one["curve"], last))
            path = " ".join(f"{across(seconds):.1f},{down(value):.1f}" for seconds, value in points)
            yield f'<polyline points="{path}" fill="none" stroke="{_COLOURS[side]}" stroke-width="2"/>'


def _stairs(curve: Sequence[Sequence[float]], last: float) -> Iterator[tuple[float, float]]:
    """Yield the corners of a curve that keeps each value until the next one."""
    kept: float | None = None
    for seconds, value in curve:
        if kept is not None:
            yield seconds, kept
        yield seconds, value
        kept = value
    if kept is not None:
        yield last, kept


def _ticks(low: float, high: float) -> Iterator[float]:
    """Yield round values in a range, four to ten of them."""
    step = 10 ** math.floor(math.log10(high - low))
    step = next(one for one in (step, step / 2, step / 5, step / 10) if (high - low) / one >= 4)
    value = math.ceil(low / step) * step
    while value <= high:
        yield value
        value += step
