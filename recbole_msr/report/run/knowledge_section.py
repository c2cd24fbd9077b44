"""The section of an explanation about a language model's vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from recbole_msr.report.html.page import facts, heat_map, table
from recbole_msr.report.run.id_sections import Line
from recbole_msr.runs.explain.views import KnowledgeView, Matrix, Neighbour, Neighbours

_PERMUTED = (
    "Permuted vectors: every known user, item or scenario gets the vector of another one, and the trained model "
    "predicts again; nothing is trained. What changes much relies on whose vector it is. That alone does not say that "
    "a language model's knowledge does it: vectors drawn at random tell users apart, too (recbole-msr compare "
    "--knowledge-ablation)."
)


def knowledge_parts(view: KnowledgeView, titles: Mapping[str, str]) -> list[str | Markup]:
    """Draw what a run makes of its vectors.

    Args:
        view: what there is.
        titles: those of the items that are shown, by id.
    """
    parts: list[str | Markup] = [table(*_levels(view), caption="Vectors that the model reads")]
    for near in view.neighbours:
        parts += [f"{_title(near)}. {near.says}", facts(_lines(near, titles))]
    if view.cosines is not None:
        parts.append(_matrix(view.cosines, "diverging", "{:+.3f}"))
    if view.changes:
        parts.append(_PERMUTED)
    parts += [_matrix(matrix, "sequential", "{:.4f}", low=0.0) for matrix in view.changes]
    parts += [_matrix(matrix, "sequential", "{:.4f}") for matrix in view.metrics]
    return parts


def _matrix(matrix: Matrix, scale: str, show: str, low: float | None = None) -> Markup:
    return heat_map(
        matrix.rows, matrix.columns, matrix.values, caption=f"{matrix.title}. {matrix.says}", corner=matrix.corner,
        scale=scale, low=low, show=show.format,
    )  # fmt: skip


def _levels(view: KnowledgeView) -> tuple[list[str], list[Line]]:
    lines: list[Line] = [
        [f"{one.level}s", ", ".join(f"{by}: {width}" for by, width in one.widths.items()), one.known, one.ids]
        for one in view.levels
    ]
    return ["Vectors of", "Read by, numbers", "Known", "of"], lines


def _title(near: Neighbours) -> str:
    return f"{near.to.title()}s nearest to {near.of}s"


def _lines(near: Neighbours, titles: Mapping[str, str]) -> dict[str, str]:
    known = titles if near.of == "item" else {}
    return {_named(name, known.get(name)): _joined(best) for name, best in near.nearest.items()}


def _named(name: str, title: str | None) -> str:
    return name if title is None else f"{title} [{name}]"


def _joined(best: Sequence[Neighbour]) -> str:
    """Return names and cosines, the nearest first."""
    return "; ".join(f"{_named(one.name, one.title)} ({one.cosine:.3f})" for one in best)


def knowledge_tables(view: KnowledgeView) -> Iterator[tuple[str, list[str], list[Line]]]:
    """Yield the title, the header and the lines of each table."""
    yield "Vectors", *_levels(view)
    for near in view.neighbours:
        yield _title(near), [near.of.title(), "Nearest"], [[name, _joined(best)] for name, best in near.nearest.items()]
    matrices = [*([] if view.cosines is None else [view.cosines]), *view.changes, *view.metrics]
    for matrix in matrices:
        lines: list[Line] = [[name, *line] for name, line in zip(matrix.rows, matrix.values, strict=True)]
        yield matrix.title, [matrix.corner, *matrix.columns], lines
