"""Permutation importance of finished runs and ensembles: fields are shuffled within the scenarios, one after the other.

A shuffle gives every row the field's value of another row of its scenario; all else of the row stays. What scenarios
differ in is thus no importance: a field that is the same in all rows of a scenario has none there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import evaluate_cells
from recbole_msr.evaluation.importance import SHOWN, FieldImportance, Importance, losses, mean_measured
from recbole_msr.evaluation.significance import Rows
from recbole_msr.runs.explain.scores import Scores, rows_by_scenario
from recbole_msr.threads import torch_threads

if TYPE_CHECKING:
    from recbole_msr.runs.saved_run import SavedRun

SHUFFLES = 5
ROWS = 20_000
SEED = 2020
_QUIET_SECONDS = 5.0
"""Progress is told no more often."""


@dataclass(frozen=True)
class ImportanceOptions:
    """What is shuffled, how often, and on which rows.

    Attributes:
        fields: names of fields; "a+b" shuffles two together, "user" and "item" all that the model reads of either,
            "history" the whole history. None for every field that the model reads, each by itself.
        shuffles: of each field.
        split: "test" or "valid"; None for the test split, and for the validation split of a run not tested yet.
        rows: rows of each scenario that are predicted at most, spread evenly; None for all.
        seed: what the shuffles follow from; shuffle k is the same for all fields.
        tell: takes a line of progress now and then; None for none.

    Raises:
        InputError: a value is impossible; the message names the command's option.
    """

    fields: Sequence[str] | None = None
    shuffles: int = SHUFFLES
    split: Literal["test", "valid"] | None = None
    rows: int | None = ROWS
    seed: int = SEED
    tell: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        for option, value, least in (("shuffles", self.shuffles, 1), ("rows", self.rows, 2), ("seed", self.seed, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"--{option} must be a whole number, {least} or more, got {value!r}")
        if self.split not in (None, "test", "valid"):
            raise InputError(f"--split must be test or valid, got {self.split!r}")
        if isinstance(self.fields, str) or (self.fields is not None and not all(self.fields)):
            raise InputError(f"--fields takes names of fields, got {self.fields!r}")
        if self.fields is not None and not self.fields:
            raise InputError("--fields needs one field or more")


@torch_threads()
@torch.no_grad()
def measure_importance(
    sources: Sequence[Scores],
    split: str,
    options: ImportanceOptions,
    notes: Sequence[str] = (),
    runs: Sequence[str] = (),
) -> Importance:
    """Shuffle fields and measure what each metric loses, the mean over several runs.

    Args:
        sources: what predicts the rows of the split: a run, an ensemble, or runs of one model.
        split: name of the split.
        options: what is shuffled.
        notes: what a reader must know already.
        runs: the folders of several runs.

    Raises:
        InputError: a field is unknown, the data are gone or have changed, or the runs are of other rows.
    """
    found_notes = list(notes)
    shuffler = _Shuffler(sources, options)
    first = sources[0]
    chosen = first.read if options.fields is None else list(dict.fromkeys(options.fields))
    for field in chosen:  # what is unknown is refused before anything is predicted again
        first.find(field)
    found, started = [], time.monotonic()
    for number, field in enumerate(chosen, start=1):
        found.append(shuffler.importance(field))
        if options.tell is not None and time.monotonic() - started > _QUIET_SECONDS and number < len(chosen):
            options.tell(f"importance: {number} of {len(chosen)} fields ({field})")
            started = time.monotonic()
    ignored = [one.name for one in found if not one.is_read]
    if options.fields is None and first.unread:
        found_notes.append(f"the model does not read {', '.join(first.unread)}: importance exactly 0")
    elif ignored:
        found_notes.append(f"the model does not read {', '.join(ignored)}: importance exactly 0")
    return shuffler.result(split, found, found_notes, runs)


def choose_split(
    runs: Sequence[SavedRun], wanted: Literal["test", "valid"] | None
) -> tuple[Literal["test", "valid"], list[str]]:
    """Return the split on which importance is measured, and notes on that.

    Raises:
        InputError: RecBole's own trainer evaluated a run.
    """
    notes: list[str] = []
    untested = [run for run in runs if run.evaluation.test is None]
    if any(run.evaluation.valid is None for run in untested):
        raise InputError("RecBole's own trainer evaluated this run: its model does not predict row by row")
    if wanted is None and untested:
        of = "the run has" if len(runs) == 1 else f"{len(untested)} of {len(runs)} runs have"
        notes.append(f"{of} not been tested yet: importance is of the validation rows")
    if any(_of_lists(run) for run in runs):
        notes.append("the run is evaluated by ranked lists, importance by the labels of rows")
    return wanted or ("valid" if untested else "test"), notes


def _of_lists(run: SavedRun) -> bool:
    evaluation = run.evaluation.test or run.evaluation.valid
    return evaluation is not None and bool(evaluation.of_lists)


class _Shuffler:
    """Predicts chosen rows of a split again and again, with some columns shuffled.

    Args:
        sources: what predicts them.
        options: what is shuffled.
    """

    def __init__(self, sources: Sequence[Scores], options: ImportanceOptions) -> None:
        self._sources, self._options = list(sources), options
        first = sources[0]
        for other in sources[1:]:
            first.check_same_rows(other)
        self._types, rows = dict(first.layout.types), first.rows
        about = (rows.labels(first.layout), rows.scenario, rows.users, rows.scenarios, list(self._types))
        classes, least = first.layout.classes, rows.least
        self._rows = Rows(*about, least, self._types, classes)
        scores = [source.scores(None, None) for source in sources]
        evaluated = evaluate_cells(
            scores[0], *about, next(iter(self._types)), min_rows=least, types=self._types, classes=classes
        )
        self._undefined = tuple(evaluated.undefined)
        self._bases = [self._rows.measure(of_run) for of_run in scores]
        orders = [np.random.default_rng([options.seed, number]) for number in range(options.shuffles)]
        self._donors = [_shuffled_within(rows.scenario, order) for order in orders]

    def importance(self, name: str) -> FieldImportance:
        """Return the importance of a field, or of several that are shuffled together."""
        shuffled = []
        for source, base in zip(self._sources, self._bases, strict=True):
            if source.reads(name):
                shuffled.append([self._rows.measure(source.scores(name, donors)) for donors in self._donors])
            else:
                shuffled.append([base] * self._options.shuffles)
        is_read = any(source.reads(name) for source in self._sources)
        found = self._defined(losses(self._bases, shuffled))
        return FieldImportance(name, self._sources[0].find(name), is_read, found)

    def _defined(self, found: dict[str, Any]) -> dict[str, Any]:
        """Leave out cells that count in no mean."""
        undefined = {f"{scenario}/{task}" for scenario, task, _ in self._undefined}
        return {key: value for key, value in found.items() if key.split("/", 1)[1] not in undefined}

    def result(self, split: str, found: Sequence[FieldImportance], notes: list[str], runs: Sequence[str]) -> Importance:
        """Return all importances, the greatest first."""
        values, rows = self._values(), self._sources[0].rows
        for task, kind in self._types.items():
            if f"{SHOWN[kind]}/{task}/macro" not in values:
                reasons = dict.fromkeys(reason for _, of, reason in self._undefined if of == task)
                notes.append(f"{task} has no importance by scenario: {'; '.join(reasons) or 'no rows'}")
        if len(rows.scenario) < rows.of_rows:
            notes.append(
                f"importance is of {len(rows.scenario):,} of {rows.of_rows:,} {split} rows: at most "
                f"{self._options.rows:,} of each scenario, spread evenly"
            )
        return Importance(
            split=split,
            rows=len(rows.scenario),
            of_rows=rows.of_rows,
            shuffles=self._options.shuffles,
            seed=self._options.seed,
            types=self._types,
            scenarios=rows.scenarios,
            values=values,
            fields=tuple(_by_importance(found, self._types)),
            undefined=self._undefined,
            notes=tuple(notes),
            runs=tuple(runs),
        )

    def _values(self) -> dict[str, float]:
        """Return the metrics of the rows as they are, with the means over the scenarios; of several runs their mean."""
        base = mean_measured(self._bases)
        values = self._defined(base.values)
        for metric in list(dict.fromkeys(key.split("/")[0] for key in values)):
            for task in self._types:
                mean = base.value(f"{metric}/{task}/macro")
                if mean is not None:
                    values[f"{metric}/{task}/macro"] = mean
        return values


def _shuffled_within(scenario: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return for each row the row (n,) of its scenario whose values it gets."""
    donors = np.empty(len(scenario), dtype=np.int64)
    for rows in rows_by_scenario(scenario):
        donors[rows] = rows[generator.permutation(len(rows))]
    return donors


def _by_importance(found: Sequence[FieldImportance], types: Any) -> list[FieldImportance]:
    """Sort fields by their loss relative to the greatest of each task, the mean over the tasks."""
    weights = dict.fromkeys(range(len(found)), 0.0)
    for task, kind in types.items():
        of_task = [one.loss(SHOWN[kind], task, macro=True) or one.loss(SHOWN[kind], task) for one in found]
        most = max((abs(loss.mean) for loss in of_task if loss is not None), default=0.0)
        for place, loss in enumerate(of_task):
            weights[place] += 0.0 if loss is None or most == 0 else loss.mean / most
    return [found[place] for place in sorted(weights, key=lambda place: -weights[place])]
