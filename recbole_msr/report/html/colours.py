"""The colours of heat maps and of the lines in figures; all other looks of a page are in page.css."""

from __future__ import annotations

from typing import Any

STEPS = 11
"""Colours in a scale; odd, so that a scale about zero has a middle."""

SCALES = {
    # name: the stops in light and in dark, each from the lowest value to the highest.
    "sequential": (("#f3f7fc", "#7fb1dc", "#0b3c78"), ("#18222d", "#2f6ca8", "#a9d3ff")),
    "diverging": (("#a63603", "#f7f6f5", "#0b4f8a"), ("#ffb380", "#232527", "#8cc4ff")),
}
"""The colour scales of heat maps."""

BETTER, WORSE = "#3b82d6", "#c2571a"
"""The ends of the colour scale of figures; like all colours of lines and points readable on white and near black."""
FIGURE_SCALE: list[list[Any]] = [[0.0, WORSE], [0.5, "#8a8f98"], [1.0, BETTER]]
"""The colour scale of figures, from worse to better, as plotly takes it."""
COLOURS = {
    "complete": BETTER,
    "pruned": WORSE,
    "failed": "#d64545",
    "running": "#8a8f98",
    "best": "#9b5de5",
    "defaults": "#1a9a6c",
}
"""State or rank of a trial: the colour of its line."""
_LINES = ("#3b82d6", "#c2571a", "#1a9a6c", "#9b5de5", "#d64545", "#8a8f98", "#a8790a", "#0e93a8", "#cf4a97", "#6f8f1f")


def line_style(number: int) -> dict[str, str]:
    """Return colour and dashes of the line with this number (0, 1, ...).

    There are ten colours; later lines have the same ones with other dashes.
    """
    dashes = ("solid", "dash", "dot", "dashdot")
    return {"color": _LINES[number % len(_LINES)], "dash": dashes[number // len(_LINES) % len(dashes)]}


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours "#rrggbb", 1 to 21, as WCAG 2 defines it; text is readable from 4.5."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def colours(scale: str, dark: bool) -> list[tuple[str, str]]:
    """Return background and text colour of every step of a scale, from the lowest value to the highest."""
    stops = SCALES[scale][dark]
    pairs = []
    for step in range(STEPS):
        place = step / (STEPS - 1) * (len(stops) - 1)
        left = min(int(place), len(stops) - 2)
        ends = zip(_channels(stops[left]), _channels(stops[left + 1]), strict=True)
        background = "#" + "".join(f"{round(a + (b - a) * (place - left)):02x}" for a, b in ends)
        # One of the two is always readable: their contrasts with any colour multiply to 21.
        pairs.append((background, max("#000000", "#ffffff", key=lambda ink: contrast(background, ink))))
    return pairs


def scale_rules() -> str:
    """Return the CSS rules of all steps: `.s0` to `.s10` of the sequential scale, `.d0` to `.d10` of the diverging."""

    def rules(dark: bool) -> str:
        return "".join(
            f".{scale[0]}{step}{{background:{background};color:{ink}}}"
            for scale in SCALES
            for step, (background, ink) in enumerate(colours(scale, dark))
        )

    return f"{rules(False)}@media(prefers-color-scheme:dark){{{rules(True)}}}"


def _luminance(colour: str) -> float:
    channels = [value / 255 for value in _channels(colour)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
