"""Recommend: the items with the best scores for every user, by a finished run or an ensemble."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.row_files import Batch, row_place
from recbole_msr.runs.explain.sources import RunSources
from recbole_msr.runs.row_columns import arrow_column
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.row_encoder import OF_ITEM, RawRows
from recbole_msr.runs.scoring import PROFILE_FIELD
from recbole_msr.schema import SCENARIO_FIELD, as_token
from recbole_msr.threads import torch_threads

if TYPE_CHECKING:
    from recbole_msr.runs.given_histories import HistoryCounts

USERS_AT_ONCE = 256
"""Users whose lists are made together, at most."""
PAIRS_HELD = 1 << 21
"""Pairs whose predictions are held at once, unless one user has more: 32 bytes each with two tasks."""
PAIRS_AT_ONCE = 65_536
"""Pairs of a user and an item that a model scores at once."""
RANK, ITEM_SCORE = "rank", "score"
_OPERATORS: Mapping[type, Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.Pow: operator.pow, ast.USub: operator.neg, ast.UAdd: operator.pos},
}


class Score:
    """A formula over the predictions, such as `click * buy` or `0.3 * click + buy ** 2`.

    It has names of predictions, numbers, `+ - * / **` and brackets; it is taken apart here, never evaluated as code.

    Args:
        text: the formula; None for the first task alone.
        names: names of the predictions.

    Raises:
        InputError: it is no such formula, or has a name that is not predicted.
    """

    def __init__(self, text: str | None, names: Sequence[str]) -> None:
        self._names = list(names)
        self.text = text if text is not None else self._names[0]
        try:
            tree = ast.parse(self.text, mode="eval").body if text is not None else ast.Name(self.text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"--score='{self.text}' is no formula such as 'click * buy'") from error
        self._tree = tree
        self._check(tree)

    def _check(self, node: Any) -> None:
        if isinstance(node, ast.Name):
            if node.id not in self._names:
                hint = nearest(node.id, self._names) or ";"
                raise InputError(
                    f"--score: nothing called '{node.id}' is predicted{hint} there is {', '.join(self._names)}"
                )
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            self._check(node.left)
            self._check(node.right)
        elif isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            self._check(node.operand)
        elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
            raise InputError(
                f"--score='{self.text}': a formula has names of predictions, numbers, + - * / ** and brackets"
            )

    def __call__(self, predictions: np.ndarray) -> np.ndarray:
        """Return the scores (...) of predictions (..., C), float64.

        Raises:
            InputError: one is no finite number.
        """
        with np.errstate(all="ignore"):
            found = self._value(self._tree, predictions.astype(np.float64))
            scores = np.broadcast_to(np.asarray(found, dtype=np.float64), predictions.shape[:-1])
        if not np.isfinite(scores).all():
            raise InputError(f"--score='{self.text}' is no finite number for some user and item")
        return scores

    def _value(self, node: Any, predictions: np.ndarray) -> Any:
        if isinstance(node, ast.Name):
            return predictions[..., self._names.index(node.id)]
        if isinstance(node, ast.BinOp):
            left, right = (self._value(part, predictions) for part in (node.left, node.right))
            return _OPERATORS[type(node.op)](left, right)
        if isinstance(node, ast.UnaryOp):
            return _OPERATORS[type(node.op)](self._value(node.operand, predictions))
        return np.float64(node.value)


class Recommender:
    """Makes lists of items for users.

    Args:
        run: what `recbole_msr.load` opened.
        k: length of a list.
        score: formula of the scores, see `Score`; None for the first task.
        candidates: raw ids of the items to choose from; None for all that the run has trained on.
        scenario: name of the scenario of all lists; None where the users' rows tell it.
        exclude_seen: leave out the items that a user has a row with in the run's data, or in the histories.
        histories: what users have done, as for `SavedRun.predict`.

    Attributes:
        user_field, item_field: the fields of their ids.
        formula: how scores are computed.
        unknown_candidates: the candidates that the run does not know, which no list has.
        counts: users' rows that lack something.

    Raises:
        InputError: an option cannot be used; the message names it.
    """

    def __init__(
        self,
        run: Any,
        k: int = 10,
        score: str | None = None,
        candidates: Sequence[Any] | None = None,
        scenario: str | None = None,
        exclude_seen: bool = False,
        histories: RawRows | pd.DataFrame | str | Path | None = None,
    ) -> None:
        if k < 1:
            raise InputError(f"--k must be at least 1, got {k}")
        first = first_run(run)
        dataset: ScenarioDataset = first.dataset
        self.user_field, self.item_field = str(dataset.uid_field), str(dataset.iid_field)
        self.counts = RowCounts()
        self._k = k
        self._scorer = run.scorer if histories is None else run.scorer.with_histories(histories)
        self.formula = Score(score, self._scorer.names)
        self._ids, tokens, self.unknown_candidates = _candidates(dataset, first.model, candidates)
        self._tokens = pa.array(tokens, pa.string())
        columns = {self.item_field: self._tokens}
        items = RawRows(columns, [*columns], len(tokens), "the candidates", row_place(0), RowCounts())
        self._items = self._scorer.encode(items, "item")
        self._column = _scenario_column(run, scenario)
        self._seen = _seen(run) if exclude_seen else None

    @property
    def users_at_once(self) -> int:
        """The number of users whose lists are made together: memory is bounded, however many items there are."""
        return max(1, min(USERS_AT_ONCE, PAIRS_HELD // len(self._ids)))

    @property
    def history_counts(self) -> HistoryCounts | None:
        """What became of the rows of histories; None without."""
        histories = self._scorer.histories
        return None if histories is None else histories.counts

    def with_histories(self, histories: RawRows | pd.DataFrame) -> Recommender:
        """Return a recommender of the same items, whose users have the profiles of some histories."""
        recommender = copy(self)
        recommender._scorer, recommender.counts = self._scorer.with_histories(histories), RowCounts()
        return recommender

    @torch_threads()
    @torch.no_grad()
    def lists(self, batch: Batch, source: str) -> pa.Table:
        """Return the lists of some users.

        Args:
            batch: a row a list: the user, and the fields of the context that the model reads.
            source: what an error calls the rows.

        Returns:
            A row for each user and place: the columns of the user's row, `rank` from 1, the item, `score`, and all
            predictions. A list is shorter than k where fewer items are left. Of equal scores the item that the run
            met first comes first.
        """
        names = list(batch.columns.schema.names)
        taken = [name for name in (RANK, ITEM_SCORE, self.item_field, *self._scorer.names) if name in names]
        if taken:
            raise InputError(f"{source} has a column '{taken[0]}', as one of the result is called: leave it out")
        columns, size = {name: batch.columns.column(name) for name in names}, batch.columns.num_rows
        if self._column is not None:
            field, value = self._column
            columns[field] = pa.repeat(value, size)
        raw = RawRows(columns, [*columns], size, source, lambda i: f"{source}, {batch.place(i)}", self.counts)
        contexts = self._scorer.encode(raw, "context")
        predictions = self._scorer.cross(contexts, self._items, PAIRS_AT_ONCE)
        scores = self.formula(predictions).copy()
        if self._seen is not None:
            of_members = [contexts] if isinstance(contexts, Mapping) else contexts
            for context, seen in zip(of_members, self._seen, strict=True):
                for row, user in enumerate(context[self.user_field].tolist()):
                    if user in seen:
                        scores[row, np.isin(self._ids, seen[user])] = -np.inf
            self._leave_out_histories(of_members, scores)
        rows, places, ranks = _best(scores, self._k)
        picked = pa.Table.from_batches([batch.columns]).take(pa.array(rows))
        added = {
            RANK: pa.array(ranks, pa.int32()),
            self.item_field: self._tokens.take(pa.array(places)),
            ITEM_SCORE: pa.array(scores[rows, places], pa.float64()),
        }
        for number, name in enumerate(self._scorer.names):
            added[name] = pa.array(predictions[rows, places, number], pa.float32())
        for name, column in added.items():
            picked = picked.append_column(name, column)
        return picked

    def _leave_out_histories(self, contexts: Sequence[Mapping[str, torch.Tensor]], scores: np.ndarray) -> None:
        """Set the scores (n, I) of the items of the users' histories to minus infinity."""
        numbers = next((context[PROFILE_FIELD] for context in contexts if PROFILE_FIELD in context), None)
        if numbers is None or self._scorer.histories is None:
            return
        for row, number in enumerate(numbers.tolist()):
            if number >= 0:
                own = pa.array(sorted(self._scorer.histories.items[number]), pa.string())
                scores[row, pc.is_in(self._tokens, own).to_numpy(zero_copy_only=False)] = -np.inf


def recommend(run: Any, users: pd.DataFrame | Sequence[Any], **options: Any) -> pd.DataFrame:
    """Return the best items for users, as `SavedRun.recommend` describes."""
    recommender = Recommender(run, **options)
    if not isinstance(users, pd.DataFrame):
        users = pd.DataFrame({recommender.user_field: [as_token(user) for user in users]})
    return recommend_with(recommender, users)


def recommend_with(
    recommender: Recommender, users: pd.DataFrame, turn: AbstractContextManager[Any] | None = None
) -> pd.DataFrame:
    """Return the lists of the users of a table, a part at a time.

    Args:
        recommender: what makes them.
        users: a row a list.
        turn: entered for each part; None where nobody else computes.
    """
    if users.columns.duplicated().any():
        raise InputError("the users' rows have two columns of one name")
    columns = {str(name): arrow_column(users[name]) for name in users.columns}
    whole = pa.RecordBatch.from_pydict(columns)
    parts, size = [], recommender.users_at_once
    for start in range(0, max(1, whole.num_rows), size):
        with turn or nullcontext():
            parts.append(recommender.lists(Batch(whole.slice(start, size), row_place(start)), "the users"))
    lists: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    return lists


def _candidates(
    dataset: ScenarioDataset, model: Any, given: Sequence[Any] | None
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the ids of the candidates in ascending order, their tokens, and the tokens that the run does not know."""
    vocabulary = dataset.field2id_token[dataset.iid_field]
    ids = dataset.field2token_id[dataset.iid_field]
    if given is None:
        chosen = np.arange(1, len(vocabulary))
        features = getattr(model, "features", None)
        if features is not None and hasattr(features, "has_seen"):
            chosen = chosen[features.has_seen(dataset.iid_field, torch.from_numpy(chosen)).cpu().numpy()]
        unknown: list[str] = []
    else:
        tokens = list(dict.fromkeys(str(as_token(one)) for one in given if one is not None))
        unknown = [token for token in tokens if token not in ids]
        chosen = np.array(sorted(ids[token] for token in tokens if token in ids), dtype=np.int64)
    if not len(chosen):
        raise InputError("there is no candidate that the run knows: candidates are raw ids of items of its data")
    return chosen, [str(vocabulary[number]) for number in chosen], unknown


def _scenario_column(run: Any, name: str | None) -> tuple[str, pa.Scalar] | None:
    """Return the field and the value that make a row one of the scenario."""
    if name is None:
        return None
    dataset: ScenarioDataset = first_run(run).dataset
    scenario, names = dataset.schema.scenario, dataset.scenario_names
    if name not in names:
        hint = nearest(name, names) or ";"
        raise InputError(f"--scenario: there is no '{name}'{hint} scenarios are {', '.join(names)}")
    if scenario.field is None:  # every row is of this one
        return None
    if dataset.field2source[SCENARIO_FIELD] in OF_ITEM:
        raise InputError(
            f"--scenario='{name}': the scenario is the items' own ('{scenario.field}'), the same for every user; "
            "--candidates chooses items"
        )
    found = [value for value in scenario.examples(name) if scenario.assign([value], names)[0] == names.index(name) + 1]
    is_read = any(member.scorer.reads(scenario.field) for member in run.members)
    several = scenario.bins is not None or (scenario.groups is not None and name == scenario.other)
    if not found or (is_read and (several or len(found) > 1)):
        reason = f", and the model reads '{scenario.field}' itself" if found else ""
        raise InputError(
            f"--scenario='{name}' is no single value of '{scenario.field}'{reason}: give the users' rows a column "
            f"'{scenario.field}'"
        )
    return scenario.field, pa.scalar(found[0], pa.string() if scenario.bins is None else pa.float64())


def first_run(run: Any) -> Any:
    """Return a run itself, or the first member of an ensemble."""
    return run.members[0]


def _seen(run: Any) -> list[dict[int, np.ndarray]]:
    """Return for each member the items of every user's rows in its data: the member's id of the user -> the run's ids.

    A member whose data are those of an earlier one has nothing to add.

    Raises:
        InputError: the data are gone, or have changed since, so that ids mean others.
    """
    read: list[tuple[np.ndarray, ...]] = []
    found: list[dict[int, np.ndarray]] = []
    for member in run.members:
        dataset: ScenarioDataset = member.dataset
        users, items = RunSources(member).users_and_items()
        vocabularies = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
        data = (users, items, *vocabularies)
        if any(all(map(np.array_equal, data, other)) for other in read):
            found.append({})
            continue
        read.append(data)
        found.append(_by_user(users, _ids_in(first_run(run).dataset, dataset)[items]))
    return found


def _ids_in(dataset: ScenarioDataset, other: ScenarioDataset) -> np.ndarray:
    """Return the id in a dataset of every item of another one, 0 for an item that it does not have."""
    ids = dataset.field2token_id[dataset.iid_field]
    return np.array([ids.get(token, 0) for token in other.field2id_token[other.iid_field].tolist()], dtype=np.int64)


def _by_user(users: np.ndarray, items: np.ndarray) -> dict[int, np.ndarray]:
    order = np.argsort(users, kind="stable")
    found, starts = np.unique(users[order], return_index=True)
    return dict(zip(found.tolist(), np.split(items[order], starts[1:]), strict=True))


def _best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, places and ranks of the k best of each row, the first of equal ones; minus infinity is left out."""
    rows, places, ranks = ([np.arange(0)] for _ in range(3))  # there may be no row at all
    k = min(k, scores.shape[1])
    least = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    for row, (own, last) in enumerate(zip(scores, least, strict=True)):
        reach = np.flatnonzero((own >= last) & (own > -np.inf))
        best = reach[np.argsort(-own[reach], kind="stable")][:k]
        rows.append(np.full(len(best), row))
        places.append(best)
        ranks.append(np.arange(1, len(best) + 1))
    return tuple(np.concatenate(parts).astype(np.int64) for parts in (rows, places, ranks))  # type: ignore[return-value]
