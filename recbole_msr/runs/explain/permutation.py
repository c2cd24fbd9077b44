"""Permutation importance of a finished run: its fields are shuffled within the scenarios, one after the other.

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
from recbole.data.interaction import Interaction

from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import evaluate_cells
from recbole_msr.evaluation.importance import SHOWN, FieldImportance, Importance, losses
from recbole_msr.evaluation.prediction_file import labels_of_split, layout_of_split
from recbole_msr.evaluation.significance import Rows
from recbole_msr.runs.explain.shuffled_fields import FieldGroups, columns_read
from recbole_msr.threads import torch_threads

if TYPE_CHECKING:
    from recbole_msr.data.dataset import ScenarioDataset
    from recbole_msr.runs.explain.sources import RunSources
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
def measure_importance(run: SavedRun, sources: RunSources, options: ImportanceOptions) -> Importance:
    """Shuffle a run's fields and measure what each metric loses, as `SavedRun.importance` describes.

    Args:
        run: the run.
        sources: what it was made of.
        options: what is shuffled.

    Raises:
        InputError: a field is unknown, the data are gone or have changed, or the model cannot be opened.
    """
    notes: list[str] = []
    tested = run.evaluation.test is not None
    if not tested and run.evaluation.valid is None:
        raise InputError("RecBole's own trainer evaluated this run: its model does not predict row by row")
    name = options.split or ("test" if tested else "valid")
    if options.split is None and not tested:
        notes.append("the run has not been tested yet: importance is of the validation rows")
    if _of_lists(run):
        notes.append("the run is evaluated by ranked lists, importance by the labels of rows")
    shuffler = _Shuffler(run, sources.split(name), options)
    chosen = shuffler.groups.read if options.fields is None else list(dict.fromkeys(options.fields))
    wanted = [(field, shuffler.groups.find(field)) for field in chosen]
    found, started = [], time.monotonic()
    for number, (field, columns) in enumerate(wanted, start=1):
        found.append(shuffler.importance(field, columns))
        if options.tell is not None and time.monotonic() - started > _QUIET_SECONDS and number < len(wanted):
            options.tell(f"importance: {number} of {len(wanted)} fields ({field})")
            started = time.monotonic()
    ignored = [one.name for one in found if not one.is_read]
    if options.fields is None and shuffler.groups.unread:
        notes.append(f"the model does not read {', '.join(shuffler.groups.unread)}: importance exactly 0")
    elif ignored:
        notes.append(f"the model does not read {', '.join(ignored)}: importance exactly 0")
    return shuffler.result(name, found, notes)


def _of_lists(run: SavedRun) -> bool:
    evaluation = run.evaluation.test or run.evaluation.valid
    return evaluation is not None and bool(evaluation.of_lists)


class _Shuffler:
    """Predicts chosen rows of a split again and again, with some columns shuffled.

    Args:
        run: the run.
        split: the split.
        options: what is shuffled.

    Attributes:
        groups: the fields.
    """

    def __init__(self, run: SavedRun, split: ScenarioDataset, options: ImportanceOptions) -> None:
        self._options, self._config = options, run.recbole_config
        self._of_rows = len(split)
        scenario = split.row_scenario(split.inter_feat).numpy()
        rows = _chosen_rows(scenario, options.rows)
        self._scenario = scenario[rows]
        self._table = PackedTable(split).part(torch.from_numpy(rows))
        model = run.model
        self._predict: Any = getattr(model, "predict_tasks", model.predict)
        self._batch_size = int(self._config["eval_batch_size"])
        first = self._batch(slice(0, self._batch_size))
        read = columns_read(self._predict, first)
        self.groups = FieldGroups(self._config, split, list(first.interaction), read)
        self._read = read
        scores = self._scores((), None)
        layout = layout_of_split(split, scores.shape[1])
        labels = labels_of_split(split, layout)[rows]
        users = split.inter_feat[split.uid_field].numpy()[rows] if split.uid_field in split.inter_feat else None
        self._types = dict(layout.types)
        self._scenarios = tuple(split.scenario_names)
        least = self._config["min_scenario_rows"] or 1
        about = (labels, self._scenario, users, self._scenarios, list(self._types))
        self._rows = Rows(*about, least, self._types, layout.classes)
        evaluated = evaluate_cells(
            scores, *about, next(iter(self._types)), min_rows=least, types=self._types, classes=layout.classes
        )
        self._undefined = tuple(evaluated.undefined)
        self._base = self._rows.measure(scores)
        orders = [np.random.default_rng([options.seed, number]) for number in range(options.shuffles)]
        self._donors = [_shuffled_within(self._scenario, order) for order in orders]

    def importance(self, name: str, columns: tuple[str, ...]) -> FieldImportance:
        """Return the importance of columns that are shuffled together."""
        if self._read.isdisjoint(columns):
            shuffled = [self._base] * self._options.shuffles
        else:
            shuffled = [self._rows.measure(self._scores(columns, donors)) for donors in self._donors]
        return FieldImportance(
            name, columns, not self._read.isdisjoint(columns), self._defined(losses(self._base, shuffled))
        )

    def _defined(self, found: dict[str, Any]) -> dict[str, Any]:
        """Leave out cells that count in no mean."""
        undefined = {f"{scenario}/{task}" for scenario, task, _ in self._undefined}
        return {key: value for key, value in found.items() if key.split("/", 1)[1] not in undefined}

    def result(self, split: str, found: Sequence[FieldImportance], notes: list[str]) -> Importance:
        """Return all importances, the greatest first."""
        values = self._values()
        for task, kind in self._types.items():
            if f"{SHOWN[kind]}/{task}/macro" not in values:
                reasons = dict.fromkeys(reason for _, of, reason in self._undefined if of == task)
                notes.append(f"{task} has no importance by scenario: {'; '.join(reasons) or 'no rows'}")
        if len(self._scenario) < self._of_rows:
            notes.append(
                f"importance is of {len(self._scenario):,} of {self._of_rows:,} {split} rows: at most "
                f"{self._options.rows:,} of each scenario, spread evenly"
            )
        return Importance(
            split=split,
            rows=len(self._scenario),
            of_rows=self._of_rows,
            shuffles=self._options.shuffles,
            seed=self._options.seed,
            types=self._types,
            scenarios=self._scenarios,
            values=values,
            fields=tuple(_by_importance(found, self._types)),
            undefined=self._undefined,
            notes=tuple(notes),
        )

    def _values(self) -> dict[str, float]:
        """Return the metrics of the rows as they are, with the means over the scenarios."""
        values = self._defined(self._base.values)
        for metric in list(dict.fromkeys(key.split("/")[0] for key in values)):
            for task in self._types:
                mean = self._base.value(f"{metric}/{task}/macro")
                if mean is not None:
                    values[f"{metric}/{task}/macro"] = mean
        return values

    def _scores(self, columns: tuple[str, ...], donors: np.ndarray | None) -> np.ndarray:
        """Return the predictions (n, C), with the donors' values (n,) in some columns."""
        parts = []
        for start in range(0, len(self._scenario), self._batch_size):
            rows = slice(start, start + self._batch_size)
            batch = self._batch(rows)
            if donors is not None:
                given = self._batch(torch.from_numpy(donors[rows]))
                batch = Interaction({**batch.interaction, **{name: given[name] for name in columns}})
            scores = self._predict(batch)
            parts.append(scores.reshape(len(batch), -1).float().cpu().numpy())
        return np.concatenate(parts)

    def _batch(self, rows: slice | torch.Tensor) -> Interaction:
        return self._table.batch(rows).to(self._config["device"])


def _by_scenario(scenario: np.ndarray) -> list[np.ndarray]:
    """Return the places of each scenario's rows, in their order."""
    order = np.argsort(scenario, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(scenario[order])) + 1)


def _chosen_rows(scenario: np.ndarray, most: int | None) -> np.ndarray:
    """Return the places of at most so many rows of each scenario, in their order."""
    parts = _by_scenario(scenario)
    if most is not None:
        parts = [p if len(p) <= most else p[np.linspace(0, len(p) - 1, most).astype(np.int64)] for p in parts]
    return np.sort(np.concatenate(parts))


def _shuffled_within(scenario: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return for each row the row (n,) of its scenario whose values it gets."""
    donors = np.empty(len(scenario), dtype=np.int64)
    for rows in _by_scenario(scenario):
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
