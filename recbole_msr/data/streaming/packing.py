"""The second pass: packed rows of the codes and numbers of a block, each put in its place in a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from recbole_msr.data.streaming.interactions import Interactions
from recbole_msr.data.streaming.scratch import BLOCK
from recbole_msr.data.streaming.tensor_file import RowsInPlace, TensorFile

Make = Callable[[slice, np.ndarray | None], np.ndarray]
"""Makes a column's values (n, ...) of a block's rows that stay."""
Places = dict[str, tuple[str, int, tuple[int, ...]]]
TYPES: dict[str, np.dtype] = {
    "tokens": np.dtype(np.int32),
    "floats": np.dtype(np.float32),
    "times": np.dtype(np.float64),
}


def places_of(columns: Mapping[str, torch.Tensor]) -> Places:
    """Return where each column stands in a packed row.

    Args:
        columns: some values of each, of the type and shape that all have.
    """
    places: Places = {}
    widths = {"tokens": 0, "floats": 0}
    for name, values in columns.items():
        kind, shape = "floats" if values.is_floating_point() else "tokens", tuple(values.shape[1:])
        places[name] = (kind, widths[kind], shape)
        widths[kind] += math.prod(shape)
    return places


def widths_of(places: Places) -> dict[str, int]:
    """Return how many numbers a packed row has in each table."""
    widths = {"tokens": 0, "floats": 0}
    for kind, start, shape in places.values():
        widths[kind] = max(widths[kind], start + math.prod(shape))
    return widths


def tables_of(rows: int, places: Places, with_times: bool) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return type and shape of the tables of packed rows."""
    tables: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        kind: (TYPES[kind], (rows, width)) for kind, width in widths_of(places).items()
    }
    return tables | ({"times": (TYPES["times"], (rows,))} if with_times else {})


def write_rows(
    log: Interactions,
    out: TensorFile,
    places: Places,
    makers: Mapping[str, Make],
    row_places: np.ndarray,
    seen: Callable[[np.ndarray, np.ndarray], None],
    folder: Path,
    sample: np.ndarray,
) -> np.ndarray:
    """Write the rows of a log into a file of tables.

    Args:
        log: the rows.
        out: the file, with tables as `tables_of` returns them.
        places: where each column stands.
        makers: makes each column, and "times" if there is such a table.
        row_places: the place of each row that stays (n,).
        seen: is given places and rows of every block; rows are structured, with "tokens", "floats" and "times".
        folder: for a scratch file.
        sample: some places, ascending (m,).

    Returns:
        The rows at the places of the sample (m,), structured.
    """
    row = np.dtype(
        [(kind, TYPES[kind], (width,)) for kind, width in widths_of(places).items() if width]
        + ([("times", TYPES["times"])] if "times" in makers else [])
    )
    in_place, first, sampled = RowsInPlace(folder / "rows", len(row_places), row), 0, []
    try:
        for block, stays in log.kept_blocks():
            count = block.stop - block.start if stays is None else int(np.count_nonzero(stays))
            rows = np.empty(count, dtype=row)
            for name, (kind, start, shape) in places.items():
                width = math.prod(shape)
                rows[kind][:, start : start + width] = makers[name](block, stays).reshape(count, width)
            if "times" in makers:
                rows["times"] = makers["times"](block, stays)
            own, first = row_places[first : first + count], first + count
            seen(own, rows)
            in_place.put(own, rows)
        for start, ordered in in_place.ordered():
            for name in row.names or ():
                out.write(name, start, ordered[name])
            begin, end = np.searchsorted(sample, [start, start + len(ordered)])
            sampled.append(ordered[sample[begin:end] - start])
    finally:
        in_place.close()
    return np.concatenate(sampled)


def labels_in_place(out: TensorFile, places: Places, field: str, rows: int) -> np.ndarray:
    """Return a column of floats of the first rows (n,)."""
    width = widths_of(places)["floats"]
    starts = range(0, rows, BLOCK)
    parts = [out.read_block("floats", start, min(BLOCK, rows - start), TYPES["floats"], width) for start in starts]
    return np.concatenate([part[:, places[field][1]] for part in parts])
