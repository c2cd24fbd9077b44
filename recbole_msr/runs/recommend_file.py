"""Recommend from file to file, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_paths, check_result
from recbole_msr.files.row_files import Batch, open_rows, row_place, write_rows
from recbole_msr.runs.open_folder import load
from recbole_msr.runs.recommend import ITEM_SCORE, RANK, Recommender, first_run


def recommend_file(
    run_dir: str | Path, users: str, out: str | Path, candidates: str | Path | None = None, **options: Any
) -> list[str]:
    """Write the best items for users to a file, a part at a time.

    Args:
        run_dir: the folder of a run or of an ensemble.
        users: a .csv or .parquet file with a row a list, or raw ids with commas between them.
        out: the .csv or .parquet file to write, over older lists alone; there is one only once all lists are made.
        candidates: a file with a row an item; None for all items that the run has trained on.
        **options: as `Recommender` takes them.

    Returns:
        Lines that say what was done.

    Raises:
        InputError: a file cannot be read or written, or an option cannot be used.
    """
    check_paths({}, run=run_dir, out=out)
    if Path(out).suffix not in (".csv", ".parquet"):
        raise InputError(f"{out} must be a .csv or .parquet file")
    sources = {"the users (--users)": users, "the candidates (--candidates)": candidates}
    sources["the histories (--histories)"] = options.get("histories")
    check_result(out, sources, (RANK, ITEM_SCORE), "lists")
    run = load(run_dir)
    field = str(first_run(run).dataset.iid_field)
    items = None if candidates is None else _items_of(candidates, field)
    recommender = Recommender(run, candidates=items, **options)
    lists = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal lists
        for batch in _users_of(users, recommender.user_field, recommender.users_at_once):
            lists += batch.columns.num_rows
            yield recommender.lists(batch, users if Path(users).suffix else "the users")

    found = tables()
    first = next(found)
    rows = write_rows(out, first.schema, _batches(first, found))
    lines = [f"{rows} items for {lists} lists by {recommender.formula.text}: {out}"]
    if recommender.unknown_candidates:
        shown = ", ".join(recommender.unknown_candidates[:3])
        lines.append(f"{len(recommender.unknown_candidates)} candidates are not known to the run: {shown}")
    unknown = recommender.counts.unknown[recommender.user_field]
    if unknown:
        but = "" if recommender.history_counts is None else ", but for the profiles of histories"
        lines.append(f"{unknown} users are not known to the run: their lists are those of an unknown user{but}")
    if recommender.history_counts is not None:
        lines += recommender.history_counts.lines(recommender.counts.with_history, "list")
    return lines


def _batches(first: pa.Table, others: Iterator[pa.Table]) -> Iterator[pa.RecordBatch]:
    yield from first.to_batches()
    for table in others:
        yield from table.to_batches()


def _users_of(users: str, field: str, size: int) -> Iterator[Batch]:
    if Path(users).suffix in (".csv", ".parquet"):
        with open_rows(users, size) as rows:
            yield from rows.batches
        return
    tokens = [token.strip() for token in users.split(",") if token.strip()]
    if not tokens:
        raise InputError("--users names a .csv or .parquet file, or users with commas between them; got nothing")
    for start in range(0, len(tokens), size):
        part = pa.array(tokens[start : start + size], pa.string())
        yield Batch(pa.RecordBatch.from_pydict({field: part}), row_place(start))


def _items_of(path: str | Path, field: str) -> list[Any]:
    check_paths({}, candidates=path)
    tokens: list[Any] = []
    with open_rows(path, 65_536) as rows:
        if field not in rows.schema.names:
            raise InputError(f"{path} has no column '{field}', the items' ids: it has {', '.join(rows.schema.names)}")
        for batch in rows.batches:
            tokens += batch.columns.column(field).to_pylist()
    return tokens
