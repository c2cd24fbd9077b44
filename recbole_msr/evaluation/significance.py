"""Tests of differences between two models: is one more than chance of the test rows, the seeds, many comparisons?

A metric on test rows is, up to terms that vanish, the true value plus a sum of one influence a row. The difference of
two models on the same rows is such a sum too, and its variance is the sum of the squared influences of what is
independent: of users, as one user's rows are not. For the AUC the influences are the placement values of DeLong, DeLong
and Clarke-Pearson ("Comparing the areas under two or more correlated receiver operating characteristic curves: a
nonparametric approach", Biometrics 1988), found by ranks as in Sun and Xu ("Fast implementation of DeLong's
algorithm", IEEE Signal Processing Letters 2014), and added up by user as in Obuchowski ("Nonparametric analysis of
clustered ROC curve data", Biometrics 1997). NumPy and SciPy only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from recbole_msr.evaluation.class_formulas import expected_values
from recbole_msr.evaluation.formulas import ranks
from recbole_msr.evaluation.layout import CLASS_TYPES, Layout
from recbole_msr.evaluation.metrics import METRICS, metrics_of, smaller_is_better
from recbole_msr.evaluation.segments import Segments
from recbole_msr.schema import MISSING_LABELS, UNKNOWN_SCENARIO, TaskType, wrong_labels

_ZERO = 1e-12
"""Errors and differences up to this are the rounding of numbers that are equal."""

Sums = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Difference:
    """A model minus the reference, the mean over the seeds.

    Attributes:
        mean: in the metric's own direction: for LogLoss, negative is better.
        low, high: 95 % interval from both errors together, for this difference alone.
        row_error: standard error of `mean` that the test rows cause.
        seed_error: standard error of `mean` that the seeds cause; None with one seed.
        degrees: of freedom of both errors together; None where both are 0.
        p_rows: two-sided p value with the rows' error alone: would other rows say the same of these trained models?
        p_seeds: of the paired t test over the seeds: would other seeds say the same on these rows? None with one seed,
            and where all seeds have the same difference, other than 0 (as of models that depend on no seed).
        p: with both errors together.
        seeds: how many.
    """

    mean: float
    low: float
    high: float
    row_error: float
    seed_error: float | None
    degrees: float | None
    p_rows: float
    p_seeds: float | None
    p: float
    seeds: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON types."""
        return asdict(self)


class Rows:
    """The test rows that all models predict.

    Cells are defined as in `evaluate_cells`: at least `min_rows` rows that carry the task's label, and both classes for
    a binary task.

    Args:
        labels: (N, T) of 0, 1, or numbers; and `MISSING_LABELS` of the task's type for a row that does not count for
            the task.
        scenario: (N,) integers 1..M in the order of `scenario_names`; rows with 0 (unknown) count in no cell.
        users: (N,) whose rows belong together; None takes every row as independent, which is DeLong's test.
        min_rows: of a defined cell.
        types: the tasks' types by name; binary where not given.
        classes: of each task of classes the names of its classes.
        weights: of each task that is compared by weights, too, those of its rows (N,), finite and >= 0.
        segments: of the rows, which are compared as the cells are, over all scenarios.

    Attributes:
        shape: of the predictions: (N, T), more columns where tasks have classes.

    Raises:
        ValueError: the arguments do not fit each other.
    """

    def __init__(
        self,
        labels: np.ndarray,
        scenario: np.ndarray,
        users: np.ndarray | None,
        scenario_names: Sequence[str],
        task_names: Sequence[str],
        min_rows: int = 2,
        types: Mapping[str, TaskType] | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        segments: Segments | None = None,
    ) -> None:
        labels, scenario = np.asarray(labels), np.asarray(scenario)
        self._weights = {task: np.asarray(of_task, dtype=np.float64) for task, of_task in (weights or {}).items()}
        if labels.ndim != 2 or labels.shape[1] != len(task_names):
            raise ValueError(f"labels must be (rows, {len(task_names)} tasks), got {labels.shape}")
        self.layout = Layout.of(task_names, types, classes)
        self.shape = len(labels), self.layout.width
        for what, values in (("scenario", scenario), ("users", users)):
            if values is not None and np.shape(values) != (len(labels),):
                raise ValueError(f"{what} must be ({len(labels)},), one value a row, got {np.shape(values)}")
        for column, kind in enumerate(self.layout.types.values()):
            wrong = wrong_labels(labels[:, column], kind)
            if wrong is not None:
                raise ValueError(wrong)
        outside = (scenario < UNKNOWN_SCENARIO) | (scenario > len(scenario_names))
        if outside.any():
            raise ValueError(
                f"scenario must hold integers from {UNKNOWN_SCENARIO} (unknown) to {len(scenario_names)}, "
                f"got {scenario[outside][0]}"
            )
        user = np.arange(len(labels)) if users is None else ranks(users)
        self.users = int(user.max(initial=-1)) + 1
        self.metrics = [name for name, metric in METRICS.items() if metric.difference is not None]
        self.cells: dict[str, _Cell] = {}
        self.means: dict[str, list[str]] = {"macro": []}
        for column, (task, kind) in enumerate(self.layout.types.items()):
            known = labels[:, column] != MISSING_LABELS[kind]
            self._add(task, task, np.flatnonzero(known), labels[:, column], user, 1, pooled=True)
            self.means[f"{task}/macro"] = []
            for number, name in enumerate(scenario_names, 1):
                key = f"{name}/{task}"
                self._add(key, task, np.flatnonzero(known & (scenario == number)), labels[:, column], user, min_rows)
                if key in self.cells and self.cells[key].defined:
                    self.means["macro"].append(key)
                    self.means[f"{task}/macro"].append(key)
            for name, there in () if segments is None else segments.members():
                rows = np.flatnonzero(known & there)
                self._add(f"{name}/{task}", task, rows, labels[:, column], user, min_rows, pooled=True)

    def _add(
        self,
        key: str,
        task: str,
        rows: np.ndarray,
        labels: np.ndarray,
        user: np.ndarray,
        min_rows: int,
        pooled: bool = False,
    ) -> None:
        if len(rows):
            label, kind = labels[rows], self.layout.types[task]
            defined = len(rows) >= min_rows and (kind != "binary" or 0 < (label == 1).sum() < len(rows))
            columns, values = self.layout.columns[task], self.layout.class_values(task)
            weight = self._weights[task][rows] if task in self._weights else None
            self.cells[key] = _Cell(key, columns, rows, label, user[rows], defined, pooled, kind, values, weight)

    def measure(self, predictions: np.ndarray) -> Measured:
        """Measure one model of one seed: its metrics, and the influence of each user on them.

        It takes two sorts a task and keeps no array of N rows, so it pays to measure each model once.

        Args:
            predictions: (N, T) probabilities or numbers, as `evaluate_cells` takes them; NaN for a row that the model
                does not predict. What it does not predict as a whole is absent from the result: a cell, a task, the
                mean over cells of which one is absent, the value over all rows.

        Raises:
            ValueError: the shape does not fit, or some rows of a cell are predicted and some are not.
        """
        predictions = np.asarray(predictions)
        if predictions.shape != self.shape:
            raise ValueError(f"predictions must be {self.shape} as the labels are, got {predictions.shape}")
        values: dict[str, float] = {}
        sums: dict[str, Sums] = {}
        nan = np.isnan(predictions)
        for key, cell in self.cells.items():
            missing = int(nan[cell.rows, cell.columns].any(axis=1).sum())
            if missing and not cell.pooled and missing < len(cell.rows):
                raise ValueError(
                    f"predictions of {key} are NaN in {missing} of {len(cell.rows)} rows: a model predicts all "
                    "labelled rows of a cell or none"
                )
            if not missing:
                for metric, (value, parts) in cell.measure(predictions[cell.rows, cell.columns]).items():
                    values[f"{metric}/{key}"], sums[f"{metric}/{key}"] = value, parts
        return Measured(self, values, sums)


class CellParts(Protocol):
    """A cell of what is tested: its rows, or ranked lists, in parts whose means enter a metric."""

    @property
    def parts(self) -> Mapping[str, tuple[Part, ...]]:
        """The parts by metric."""


class TestedRows(Protocol):
    """What all models are measured on: the rows that they predict (`Rows`), or the lists that they rank."""

    users: int
    metrics: list[str]
    means: dict[str, list[str]]

    @property
    def cells(self) -> Mapping[str, CellParts]:
        """The cells by SCENARIO/TASK, and the tasks by name."""


class Measured(NamedTuple):
    """One model of one seed on some rows: see `Rows.measure`."""

    rows: TestedRows
    values: dict[str, float]
    """Metric key of a task or of a cell -> value; what is undefined is absent."""
    sums: dict[str, Sums]
    """The same keys -> for each class of the cell (AUC) or for all its rows (others) the influence of each user."""

    def value(self, key: str) -> float | None:
        """Return the value of any metric key that is tested, means over cells among them; None if absent."""
        cells = _cells_of(self.rows, key)
        if not cells or any(cell not in self.values for cell in cells):
            return None
        return float(np.mean([self.values[cell] for cell in cells]))


def differences(model: Sequence[Measured], reference: Sequence[Measured]) -> dict[str, Difference]:
    r"""Return a model minus a reference, for each metric key that both have.

    With S seeds, :math:`D_s` the difference of seed s, and :math:`\bar\phi_u` the influence of user u on the
    difference, averaged over the seeds:

    .. math:: \mathrm{Var}(\bar D) = \sum_u \bar\phi_u^2 + \frac{1}{S} \cdot \frac{\sum_s (D_s - \bar D)^2}{S - 1}

    The test is a t test with Welch's and Satterthwaite's degrees of freedom (Satterthwaite, "An approximate
    distribution of estimates of variance components", Biometrics Bulletin 1946; Welch, Biometrika 1947). Those of the
    rows' part come from its own parts in the same way, a part being a class of a cell: few positive users count as few,
    as in the test of Brunner and Munzel (Biometrical Journal 2000); they are never more than the users less one. What
    a seed does to some rows only is in both terms, so that the test errs on the careful side.

    A class tells nothing of its spread where it has one user, or where the difference is the same for all users
    (everything ranked right, against everything wrong): its variance is 0, be there but two rows. There each user
    counts with the whole difference, not with the deviation from the mean: the variance that holds if the true
    difference is 0. So a lone user is never significant, and many that agree are. Equal predictions have p = 1.

    Args:
        model: one for each seed, all of the same `Rows`.
        reference: the same of the reference, in the same order of seeds.

    Returns:
        `auc/macro`, `auc/TASK` (all rows), `auc/TASK/macro`, `auc/SCENARIO/TASK`, `auc/SEGMENT/TASK`, and the same of
        every metric that is tested; what is undefined, or what one of them lacks with any seed, is absent.

    Raises:
        ValueError: no seeds, not as many on both sides, or measured on different rows.
    """
    if not model or len(model) != len(reference):
        raise ValueError(f"a difference needs the same seeds on both sides, got {len(model)} and {len(reference)}")
    rows = model[0].rows
    measured = [*model, *reference]
    if any(one.rows is not rows for one in measured):
        raise ValueError("a difference needs the same rows on both sides: measure both with the same Rows")

    per_seed: dict[str, np.ndarray] = {}
    sums: dict[str, Sums] = {}
    for key in model[0].values:
        if all(key in one.values for one in measured):
            per_seed[key] = np.array([a.values[key] - b.values[key] for a, b in zip(model, reference, strict=True)])
            sums[key] = tuple(
                np.mean([a.sums[key][i] - b.sums[key][i] for a, b in zip(model, reference, strict=True)], axis=0)
                for i in range(len(model[0].sums[key]))
            )
    found = {}
    for metric, (least, greatest) in ((name, METRICS[name].bounds) for name in rows.metrics):
        for name in [*rows.means, *rows.cells]:
            key = f"{metric}/{name}"
            cells = _cells_of(rows, key)
            if cells and all(cell in per_seed for cell in cells):
                variance, degrees = _row_variance(rows, cells, per_seed, sums)
                one = _difference(np.mean([per_seed[cell] for cell in cells], axis=0), variance, degrees)
                most = greatest - least  # with few degrees of freedom t reaches beyond what can be
                found[key] = replace(one, low=max(one.low, -most), high=min(one.high, most))
    return found


def with_further_error(difference: Difference, error: float, degrees: float) -> Difference:
    """Return a difference with one more independent error in its interval and its p value.

    Args:
        difference: the difference.
        error: the standard error of `mean` that something else causes.
        degrees: of freedom of that error.
    """
    if error <= _ZERO:
        return difference
    variances, degrees_of = [error**2], [degrees]
    if difference.degrees is not None:
        variances.append(difference.row_error**2 + (difference.seed_error or 0.0) ** 2)
        degrees_of.append(difference.degrees)
    whole, freedom = sum(variances) ** 0.5, _satterthwaite(variances, degrees_of)
    reach, mean = _t_quantile(freedom) * whole, difference.mean
    return replace(difference, low=mean - reach, high=mean + reach, degrees=freedom, p=_p_value(mean, whole, freedom))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p values so that the chance of any false finding among the tests stays what it is for one test.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979. None (no
    test) stays None and counts for nothing.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    adjusted: list[float | None] = [None] * len(p_values)
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    so_far = 0.0
    for before, (p, place) in enumerate(tested):
        so_far = max(so_far, min(1.0, (len(tested) - before) * p))
        adjusted[place] = so_far
    return adjusted


def adjust(
    differences: Mapping[str, Mapping[str, Difference]], alpha: float = 0.05
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the differences of all entries as plain JSON types, with Holm's correction.

    Each metric key is a family of its own: the question is which entries differ from the reference on it.

    Args:
        differences: label of an entry -> metric key -> difference.
        alpha: the chance of a false finding among the entries, for one metric key.

    Returns:
        label -> metric key -> the fields of `Difference` and `p_adjusted`, `significant` (`p_adjusted` below alpha),
        `better` and `worse` (significant, and in which direction).
    """
    result: dict[str, dict[str, dict[str, Any]]] = {label: {} for label in differences}
    for key in dict.fromkeys(key for of_entry in differences.values() for key in of_entry):
        labels = [label for label, of_entry in differences.items() if key in of_entry]
        for label, p in zip(labels, holm([differences[label][key].p for label in labels]), strict=True):
            difference = differences[label][key]
            significant = p is not None and p < alpha
            lower = difference.mean < 0
            result[label][key] = difference.to_dict() | {
                "p_adjusted": p,
                "significant": significant,
                "better": significant and lower == smaller_is_better(key),
                "worse": significant and lower != smaller_is_better(key),
            }
    return result


class Part:
    """Rows of a cell whose mean enters a metric: a class (AUC) or all (LogLoss).

    Args:
        user: codes of the rows' users (N,).
        weight: of the rows (N,), above 0; None where each counts once.

    Attributes:
        users: codes of the users that have such rows, ascending.
        share: of the rows, or of their weight, that each of them has; sums to 1.
        degrees: of freedom of the sum of their squared influences.
    """

    def __init__(self, user: np.ndarray, weight: np.ndarray | None = None) -> None:
        self.users, self._of, count = np.unique(user, return_inverse=True, return_counts=True)
        self._weight = weight
        self.share = count / len(user) if weight is None else np.bincount(self._of, weight) / weight.sum()
        self.degrees = max(len(self.users) - 1, 1)

    def influence(self, terms: np.ndarray, mean: float) -> np.ndarray:
        """Return each user's part of the mean of the rows' terms, less the part that would be expected."""
        terms, size = (terms, len(terms)) if self._weight is None else (terms * self._weight, self._weight.sum())
        total = np.bincount(self._of, terms, len(self.users)) / size
        scaled: np.ndarray = (total - mean * self.share) * np.sqrt((self.degrees + 1) / self.degrees)
        return scaled


class _Cell:
    """Labelled rows of a task: those of a scenario, or all of them."""

    def __init__(
        self,
        key: str,
        columns: slice,
        rows: np.ndarray,
        label: np.ndarray,
        user: np.ndarray,
        defined: bool,
        pooled: bool,
        kind: TaskType,
        values: np.ndarray | None,
        weight: np.ndarray | None = None,
    ) -> None:
        self.key, self.columns, self.rows, self.defined, self.pooled = key, columns, rows, defined, pooled
        self.label, self.kind, self._values = label, kind, values
        positive = label == 1
        parts: dict[str, tuple[Part, ...]] = {"rows": (Part(user),)}
        if kind in ("number", "ordered") and label.min() < label.max():
            parts["pairs"] = parts["rows"]
        if kind == "binary" and defined:
            parts["classes"] = (Part(user[positive]), Part(user[~positive]))
        self.parts: dict[str, tuple[Part, ...]] = {
            name: parts[metric.difference.over]
            for name, metric in METRICS.items()
            if kind in metric.types
            and not metric.weighted
            and metric.difference is not None
            and metric.difference.over in parts
        }
        if weight is not None:
            self._add_weighted(user, weight)

    def _add_weighted(self, user: np.ndarray, weight: np.ndarray) -> None:
        """Add the parts of the weighted metrics: of the rows that have a weight."""
        self._counting = np.flatnonzero(weight > 0)
        self._weight, user, label = weight[self._counting], user[self._counting], self.label[self._counting]
        positive = label == 1
        parts: dict[str, tuple[Part, ...]] = {}
        if len(user):
            parts["rows"] = (Part(user, self._weight),)
        if self.kind == "binary" and self.defined and 0 < positive.sum() < len(user):
            parts["classes"] = tuple(Part(user[rows], self._weight[rows]) for rows in (positive, ~positive))
        for name in metrics_of([], [self.kind]):
            difference = METRICS[name].difference
            if difference is not None and difference.over in parts:
                self.parts[name] = parts[difference.over]

    def measure(self, score: np.ndarray) -> dict[str, tuple[float, Sums]]:
        """Return each tested metric's value and each part's influences, of the cell's own columns of predictions."""
        score, label = (score if self.kind in CLASS_TYPES else score[:, 0]), self.label
        if self._values is not None:  # what is said of numbers is said of the expected value
            as_number = expected_values(score, self._values), self._values[label.astype(np.int64)]
        measured: dict[str, tuple[float, Sums]] = {}
        for name, parts in self.parts.items():
            test = METRICS[name].difference
            assert test is not None
            of_number = self._values is not None and "number" in METRICS[name].types
            arrays: list[np.ndarray] = list(as_number if of_number else (score, label))
            if METRICS[name].weighted:
                arrays = [*(array[self._counting] for array in arrays), self._weight]
            value, terms = test.terms(*arrays)
            influences = (part.influence(of_part, value) for part, of_part in zip(parts, terms, strict=True))
            measured[name] = value, tuple(influences)
        return measured


def _cells_of(rows: TestedRows, key: str) -> list[str]:
    """Return the keys whose mean a key is: itself, but for a mean over the cells that can have the metric."""
    metric, name = key.split("/", 1)
    if name not in rows.means:
        return [key]
    if name == "macro" and METRICS[metric].has_unit:
        of_tasks = [cells for mean, cells in rows.means.items() if mean != name]
        if sum(any(metric in rows.cells[cell].parts for cell in cells) for cells in of_tasks) > 1:
            return []  # values in several units
    return [f"{metric}/{cell}" for cell in rows.means[name] if metric in rows.cells[cell].parts]


def _row_variance(
    rows: TestedRows, cells: Sequence[str], per_seed: Mapping[str, np.ndarray], sums: Mapping[str, Sums]
) -> tuple[float, float]:
    """Return the variance of the mean of cells' differences that the rows cause, and its degrees of freedom."""
    total = np.zeros(rows.users)
    there = np.zeros(rows.users, dtype=bool)
    squares, degrees = [], []
    for key in cells:
        metric, name = key.split("/", 1)
        for part, of_part in zip(rows.cells[name].parts[metric], sums[key], strict=True):
            if np.abs(of_part).max() <= _ZERO:  # nothing is known of its spread
                of_part = per_seed[key].mean() * part.share
            weighted = of_part / len(cells)
            total[part.users] += weighted
            there[part.users] = True
            squares.append(float(weighted @ weighted))
            degrees.append(float(part.degrees))
    return float(total @ total), min(_satterthwaite(squares, degrees), max(float(there.sum()) - 1, 1.0))


def _satterthwaite(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of estimated variances."""
    total = sum(variances)
    if total == 0:
        return sum(degrees)
    return 1 / sum((variance / total) ** 2 / of for variance, of in zip(variances, degrees, strict=True))


def _difference(per_seed: np.ndarray, row_variance: float, row_degrees: float) -> Difference:
    mean, seeds = float(per_seed.mean()), len(per_seed)
    row_error = row_variance**0.5 if row_variance > _ZERO**2 else 0.0
    seed_error = p_seeds = None
    variances, degrees = [row_error**2], [row_degrees]
    if seeds > 1:
        seed_error = float(per_seed.std(ddof=1)) / seeds**0.5
        seed_error = seed_error if seed_error > _ZERO else 0.0
        variances.append(seed_error**2)
        degrees.append(seeds - 1)
        p_seeds = None if seed_error == 0 and abs(mean) > _ZERO else _p_value(mean, seed_error, seeds - 1)
    error = sum(variances) ** 0.5
    both = _satterthwaite(variances, degrees) if error else None
    reach = 0.0 if both is None else _t_quantile(both) * error
    return Difference(
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        row_error=row_error,
        seed_error=seed_error,
        degrees=both,
        p_rows=_p_value(mean, row_error, row_degrees),
        p_seeds=p_seeds,
        p=1.0 if both is None else _p_value(mean, error, both),
        seeds=seeds,
    )


def _p_value(mean: float, error: float, degrees: float) -> float:
    """Return the two-sided p value of a t test; 1 without an error, which only a difference of 0 has."""
    if error == 0:
        return 1.0
    from scipy.special import stdtr  # slow to import, and a process that trains does without it

    return float(2 * stdtr(degrees, -abs(mean) / error))


def _t_quantile(degrees: float) -> float:
    """Return the quantile 0.975 of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))
