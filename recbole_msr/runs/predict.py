"""Score files of rows with a finished run or an ensemble, without the data it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch

from recbole_msr.errors import InputError
from recbole_msr.files.outputs import check_paths, check_result
from recbole_msr.files.row_files import Batch, open_rows, write_rows
from recbole_msr.runs.ensemble_scorer import EnsembleScorer
from recbole_msr.runs.open_folder import load
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.scoring import ENCODED_ROWS, Scored, Scorer
from recbole_msr.schema import SCENARIO_FIELD
from recbole_msr.threads import torch_threads


class Predictor:
    """A finished run that predicts and remembers the counts of its last prediction.

    `recbole_msr.load` gives the same predictions; where threads share a run, use that.

    Args:
        run_dir: the folder of a run (best.ckpt and vocabulary/) or of an ensemble; all of it is read at once.

    Attributes:
        tasks: the names of the tasks T.
        unknown: of the last `predict`: by field, rows with a value never seen in training.
        missing: of the last `predict`: by numerical feature, rows without a number.

    Raises:
        InputError: as `recbole_msr.load`.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self._scorer = load(run_dir).scorer
        self.tasks = self._scorer.tasks
        self.unknown: dict[str, int] = {}
        self.missing: dict[str, int] = {}

    def predict(self, rows: pd.DataFrame, batch_size: int = 8192) -> pd.DataFrame:
        """Predict new rows as `SavedRun.predict` does, and keep the counts."""
        scored = self.score(rows, batch_size)
        self.unknown, self.missing = scored.unknown, scored.missing
        return scored.scores

    def score(self, rows: pd.DataFrame, batch_size: int = 8192) -> Scored:
        """Predict new rows as `SavedRun.score` does."""
        return self._scorer.score(rows, batch_size)


@torch_threads()
@torch.no_grad()
def predict_file(
    run_dir: str | Path, data: str | Path, out: str | Path, batch_size: int = 8192, prefix: str = "",
    histories: str | Path | None = None,
) -> list[str]:  # fmt: skip
    """Score the rows of a CSV or Parquet file; the output has the input's columns as they were, and those of `Scored`.

    Both files are read and written a part at a time, so memory does not grow with them.

    Args:
        run_dir: the folder of a run or of an ensemble.
        data: a file with a row an event.
        out: the file to write; there is one only once all rows are scored.
        batch_size: rows scored at a time.
        prefix: what the names of the scores begin with, before the task's name.
        histories: file of what users have done, as for `SavedRun.predict`; it is read at once.

    Returns:
        Lines that say what was done.

    Raises:
        InputError: a file cannot be read or written, or is neither .csv nor .parquet; the input has a column called
            like a score; a value is not what it must be.
    """
    check_paths({}, run=run_dir, data=data, out=out)
    for path in (data, out):
        if Path(path).suffix not in (".csv", ".parquet"):
            raise InputError(f"{path} must be a .csv or .parquet file")
    if batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, got {batch_size}")
    scorer = load(run_dir).scorer
    if histories is not None:
        scorer = scorer.with_histories(histories)
    names = [prefix + name for name in scorer.names]
    sources = {"the rows (--data)": data, "the histories (--histories)": histories}
    check_result(out, sources, names, "scores")
    counts = RowCounts()
    with open_rows(data, max(batch_size, ENCODED_ROWS)) as (schema, batches):
        schema = _with_scores(schema, names, data)
        scored = _scored_batches(scorer, batches, schema, data, batch_size, counts)
        rows = write_rows(out, schema, scored, varied=names)
    return [f"{rows} rows scored for {', '.join(scorer.tasks)}: {out}", *_count_lines(scorer, counts)]


def _with_scores(schema: pa.Schema, names: list[str], data: str | Path) -> pa.Schema:
    """Return the schema of rows with a column for every score.

    Raises:
        InputError: the rows have a column of that name.
    """
    taken = [name for name in names if name in schema.names]
    if taken:
        raise InputError(
            f"{data} has a column '{taken[0]}' already, as the scores are called: name them otherwise with "
            f"--prefix, such as --prefix=score_"
        )
    for name in names:
        schema = schema.append(pa.field(name, pa.float32()))
    return schema


def _scored_batches(
    scorer: Scorer | EnsembleScorer,
    batches: Iterator[Batch],
    schema: pa.Schema,
    data: str | Path,
    batch_size: int,
    counts: RowCounts,
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        scores = scorer.score_batch(batch, data, batch_size, counts)
        columns = [*batch.columns.columns, *(pa.array(column) for column in scores.T.copy())]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _count_lines(scorer: Scorer | EnsembleScorer, counts: RowCounts) -> list[str]:
    lines = []
    for field, count in counts.unknown.items():
        consequence = "averaged over all scenarios" if field == SCENARIO_FIELD else "the unknown embedding is used"
        if scorer.is_sequence(field):
            consequence = "left out of the sequence"
        lines.append(f"{field}: {_rows_have(count)} a value never seen in training ({consequence})")
    for field, count in counts.missing.items():
        lines.append(f"{field}: {_rows_have(count)} no value (the mean of the training data is used)")
    if scorer.histories is not None:
        lines += scorer.histories.counts.lines(counts.with_history)
    return lines


def _rows_have(count: int) -> str:
    return "1 row has" if count == 1 else f"{count} rows have"
