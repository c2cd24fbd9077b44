"""A chart of numbers with their intervals, drawn without a script: a bar from zero, and a line across its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from recbole_msr.report.html.templates import render
from recbole_msr.report.tables import MISSING

_WIDTH = 1000
"""Width of the chart in its own units."""


class Interval(NamedTuple):
    """A number and the interval that it is in."""

    mean: float
    low: float
    high: float


def interval_chart(
    rows: Sequence[tuple[str, Interval | None]],
    *,
    heading: str,
    header: str = "",
    caption: str = "",
    show: Callable[[float], str] = "{:.4f}".format,
) -> Markup:
    """Return a table of numbers, each with a bar and its interval; a bar is pale where the interval reaches over zero.

    Args:
        rows: names and numbers; None where there is none.
        heading: what the numbers are.
        header: what the rows are.
        caption: what the chart shows.
        show: a number as it is printed.
    """
    there = [interval for _, interval in rows if interval is not None]
    low = min([0.0, *(interval.low for interval in there)])
    high = max([0.0, *(interval.high for interval in there)])
    reach = (high - low) or 1.0

    def place(value: float) -> float:
        return round((value - low) / reach * _WIDTH, 1)

    def line(name: str, interval: Interval | None) -> dict[str, Any]:
        if interval is None:
            return {"name": name, "shown": "", "interval": ""}
        ends = sorted((place(0.0), place(interval.mean)))
        return {
            **{"name": name, "shown": show(interval.mean)},
            "interval": f"{show(interval.low)} to {show(interval.high)}",
            **{"start": ends[0], "width": round(ends[1] - ends[0], 1)},
            **{"low": place(interval.low), "high": place(interval.high)},
            "is_clear": interval.low > 0 or interval.high < 0,
        }

    return render(
        "intervals",
        caption=caption, header=header, heading=heading, lines=[line(*row) for row in rows],
        low=show(low) if there else "", high=show(high) if there else "", zero=place(0.0), missing=MISSING,
    )  # fmt: skip
