"""Users and items of an explanation: tables, heat maps of what their levels do, and whole texts."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from recbole_msr.report.html.page import heat_map, table, text
from recbole_msr.runs.explain.views import IdView, Prompt

Line = list[str | int | float | None]
_OWN = {"user": "their own", "item": "its own"}
_SQUARED = "\N{SUPERSCRIPT TWO}"


def id_parts(views: Sequence[IdView], level: str) -> list[str | Markup]:
    """Draw users or items.

    Args:
        views: what was read of them.
        level: "user" or "item".
    """
    parts: list[str | Markup] = [table(*id_table(views, level))]
    moved = [view for view in views if view.fields is not None]
    tokens, name = [view.token for view in moved], f"{level.title()} level"
    if moved:
        shares = [dict(view.fields or {}) for view in moved]
        caption = f"{name}: which share of |x' - x|{_SQUARED} falls on each field of the input"
        values: list[list[float | None]] = [list(share.values()) for share in shares]
        parts.append(heat_map(tokens, list(shares[0]), values, caption=caption, corner=f"{level} \\ field", low=0.0))
        changes: list[list[float | None]] = [list(view.change.values()) for view in moved]
        caption = f"{name}: mean probability with it minus the one without it, over the {level}'s training rows"
        show, tasks = "{:+.4f}".format, list(moved[0].change)
        parts.append(
            heat_map(
                tokens, tasks, changes, caption=caption, corner=f"{level} \\ task", scale="diverging", show=show
            )
        )  # fmt: skip
    for view in views:
        parts += prompt_parts(view.prompt, f"{level.title()} {view.token}", opened=view is views[0])
    return parts


def id_table(views: Sequence[IdView], level: str) -> tuple[list[str], list[Line]]:
    """Return the header and a line for each user or item."""
    tasks = next((list(view.change) for view in views if view.change), [])
    titled, moves, knows = (
        any(value is not None for value in values)
        for values in zip(*((view.title, view.movement, view.known) for view in views), strict=True)
    )
    header = [level.title(), *(["Title"] if titled else []), "Training rows"]
    header += ["Movement, mean", "greatest", *(f"Change of {task}" for task in tasks)] if moves else []
    header += ["Vector"] if knows else []
    lines: list[Line] = []
    for view in views:
        line: Line = [view.token, *([view.title] if titled else []), _rows_of(view)]
        if moves:
            line += [*(view.movement or (None, None)), *(view.change.get(task) for task in tasks)]
        if knows:
            line.append(_OWN[level] if view.known else f"the one of unknown {level}s")
        lines.append(line)
    return header, lines


def _rows_of(view: IdView) -> str | None:
    if view.rows is None:
        return None
    return ", ".join(f"{name}: {count:,}" for name, count in view.rows.items()) or "none"


def prompt_parts(prompt: Prompt | None, whose: str, opened: bool) -> list[str | Markup]:
    """Draw a prompt and what the language model wrote, to be folded away."""
    if prompt is None:
        return []
    parts: list[str | Markup] = [text(prompt.text, f"{whose}: prompt ({prompt_length(prompt)})", opened)]
    if prompt.answer is not None:
        parts.append(text(prompt.answer or "(nothing)", f"{whose}: what the language model wrote", opened))
    return parts


def prompt_length(prompt: Prompt) -> str:
    """Say how long a prompt is."""
    tokens = f"{prompt.n_tokens} tokens" if prompt.n_tokens else "length unknown"
    return f"{tokens}, cut to fit" if prompt.truncated else tokens
