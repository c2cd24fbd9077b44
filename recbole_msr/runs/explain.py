"""What a finished run has learnt between its scenarios, and for single users: numbers and texts, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.dataset
import torch
from torch import Tensor

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.layers.experts import ScenarioExtraction
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.hinet import HiNet
from recbole_msr.models.llm4msr import LLM4MSR
from recbole_msr.prompts.store import Knowledge
from recbole_msr.runs.gate_use import GateUse, GateWatch
from recbole_msr.runs.initial_weights import Movement, Weights, movements, read_start
from recbole_msr.runs.saved_run import SavedRun
from recbole_msr.schema import SCENARIO_FIELD
from recbole_msr.threads import torch_threads

ROWS = 2048
"""So many training rows of a scenario are looked at, evenly spread over them; of a user too."""
SCENARIOS = 30
"""Of so many scenarios, those with most training rows, something is shown."""
_FUSED = ["added", "left out"]
"""What LLM4MSR's gate decides of what the scenario level says."""


@dataclass(frozen=True)
class Matrix:
    """Numbers with names on both sides.

    Attributes:
        title, says: what the numbers are, in a few words and in a sentence or two.
        corner: what rows and columns are.
        rows, columns: their names (R), (C).
        values: (R, C); None where there is none.
        signed: whether zero is a middle.
    """

    title: str
    says: str
    corner: str
    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]
    signed: bool = False


@dataclass(frozen=True)
class Prompt:
    """What a language model was asked and, if it was to write, what it wrote.

    Attributes:
        text, answer: of the store; `answer` is None where nothing was generated.
        n_tokens: the prompt's length in the encoder's tokens.
        truncated: whether it was cut to fit the encoder's window.
    """

    text: str
    answer: str | None
    n_tokens: int
    truncated: bool


@dataclass(frozen=True)
class ScenarioView:
    """One scenario.

    Attributes:
        rows: training rows; None where the training data are not there.
        movement: the mean of `LLM4MSR.movement` over them; None without a user level.
        strength: by task the mean of |`LLM4MSR.strengths`|; empty without a scenario level.
    """

    name: str
    rows: int | None
    movement: float | None
    strength: dict[str, float]
    prompt: Prompt | None


@dataclass(frozen=True)
class UserView:
    """One user.

    Attributes:
        rows: by scenario the user's training rows; None where the training data are not there.
        known: whether the user level has a vector of this user's own; None without a user level.
        movement: mean and greatest |x' - x| / |x| over the user's training rows.
        fields: which share of |x' - x|^2 falls on each field of x; sums to 1.
        change: by task the mean probability with the user level minus the one without it.
    """

    token: str
    rows: dict[str, int] | None
    known: bool | None
    prompt: Prompt | None
    movement: tuple[float, float] | None = None
    fields: dict[str, float] | None = None
    change: dict[str, float] = field(default_factory=dict)


@dataclass
class Explanation:
    """All of it.

    Attributes:
        run: the folder.
        facts: what run it is.
        notes: what cannot be shown, and why.
        evaluation: the test cells; None for a run without them.
        scenarios, users: one by one; in the order of the run, and of the question.
        between: what scenarios take from each other.
        gates: how much experts are used.
        weights: every line of `gates`, of an attention, and of what else is weighed, where there is a choice.
        moves: how far they are from where the run began; empty where that is not known.
    """

    run: Path
    facts: dict[str, str]
    notes: list[str]
    evaluation: Evaluation | None
    scenarios: list[ScenarioView]
    users: list[UserView]
    between: list[Matrix]
    gates: list[GateUse]
    weights: list[Weights]
    moves: list[Movement]


@torch_threads()
def explain(
    run_dir: str | Path,
    users: Sequence[str] | None = None,
    n: int = 5,
    knowledge_dir: str | Path | None = None,
) -> Explanation:
    """Look into a finished run.

    Training rows are read again from where the run found them, and prompts from its store; what is not there any more
    is named in the notes, and the rest is shown. All numbers are of the training rows, but for the evaluation, which
    is the run's own.

    Args:
        run_dir: the run's folder.
        users: raw ids of users; by default `n` users spread over the scenarios.
        n: how many those are.
        knowledge_dir: where the knowledge is now, if it has moved.

    Raises:
        InputError: no finished run with scenarios and tasks, or an unknown user.
    """
    if n < 1:
        raise InputError(f"--n must be at least 1 user, got {n}")
    run = SavedRun(Path(run_dir), knowledge_dir)
    if users is not None:
        run.check_users(users)
    store, problem = run.store()
    model, train = run.model(problem is None), run.training_rows()
    rows = None if train is None else _Rows(train)
    names = run.dataset.scenario_names
    shown = _largest(run.dataset)
    if len(names) > SCENARIOS:
        run.notes.append(f"of the {len(names)} scenarios the {SCENARIOS} with most training rows are shown")

    seen = _Seen(model, rows, shown) if model is not None and rows is not None else None
    attention = [] if model is None else _attention(model, shown, run.notes)
    weights = _lines(attention, [] if seen is None else [*seen.gates, *seen.others])
    if seen is not None:
        weights += _fusion_lines(seen.fusion)
    start = read_start(run.folder)
    if weights and start is None:
        run.notes.append(
            "how far attentions and gates have moved is not known: the run was made by a version that did not keep "
            "where they began"
        )
    between = list(attention)
    if seen is not None:
        between += seen.between()
    scenario_prompts = _prompts(store, "scenario", [names[m] for m in shown], run.notes)
    scenarios = [
        ScenarioView(
            names[m],
            None if rows is None else len(rows.of_scenario[m]),
            None if seen is None else seen.movement.get(m),
            {} if seen is None else seen.strength.get(m, {}),
            scenario_prompts.get(names[m]),
        )
        for m in shown
    ]
    gates = [] if seen is None else seen.gates
    levels = (model.user_level, model.scenario_level) if isinstance(model, LLM4MSR) else (None, None)
    if any(levels) and not all(levels):
        lacks, what = ("scenario", "strengths") if levels[0] is not None else ("user", "movement")
        run.notes.append(f"the run has no {lacks} level (knowledge_level), so there is no {what} to show")
    if model is not None and rows is not None and not between and not gates and not any(levels):
        run.notes.append(
            f"this {run.name} has neither gates over experts nor attention nor meta layers: its results by scenario "
            "are shown, and the training rows of scenarios and users"
        )
    chosen = list(dict.fromkeys(users)) if users is not None else _some_users(run.dataset, rows, shown, n)
    user_prompts = _prompts(store, "user", chosen, run.notes)
    views = [_user(token, run.dataset, model, rows, user_prompts.get(token)) for token in chosen]
    return Explanation(
        run.folder, run.facts(model), run.notes, run.evaluation(), scenarios, views, between, gates, weights,
        movements(weights, start or []),
    )  # fmt: skip


def weights_at(model: MultiScenarioRecommender, train: ScenarioDataset) -> list[Weights]:
    """The attentions and gates of a model as it is, over the training rows that `explain` looks at.

    Neither the model nor a random generator changes.
    """
    inner, shown = model.backbone if isinstance(model, LLM4MSR) else model, _largest(train)
    attention, watch, was_training = _attention(model, shown, []), GateWatch(inner), model.training
    fusion: dict[str, float] = {}
    if watch.parts or watch.others or _has_fusion_gate(model):
        rows, device = _Rows(train), next(model.parameters()).device
        model.eval()
        try:
            with torch.no_grad():
                for m in shown:
                    if len(rows.of_scenario[m]):
                        batch = rows.batch(rows.of_scenario[m]).to(device)
                        x, scenario = model.embed(batch), model.scenario_of(batch)
                        with watch.scenario(m):
                            inner.logits(x, scenario)
                        fusion |= _fusion(model, m, x, scenario)
        finally:
            model.train(was_training)
    return _lines(attention, [*watch.use(shown), *watch.use_of_others(shown)]) + _fusion_lines(fusion)


def _largest(dataset: ScenarioDataset) -> list[int]:
    """The scenarios of which something is shown, in their order."""
    if len(dataset.scenario_names) <= SCENARIOS:
        return list(range(len(dataset.scenario_names)))
    return sorted(np.argsort(-np.asarray(dataset.scenario_shares), kind="stable")[:SCENARIOS].tolist())


def _has_fusion_gate(model: MultiScenarioRecommender) -> bool:
    level = model.scenario_level if isinstance(model, LLM4MSR) else None
    return level is not None and level.fusion == "gate"


def _fusion(model: MultiScenarioRecommender, m: int, x: Tensor, scenario: Tensor) -> dict[str, float]:
    """LLM4MSR's gate before the scenario level: for every task and scenario m its mean over rows x' (B, D)."""
    if not _has_fusion_gate(model):
        return {}
    level = cast(LLM4MSR, model).scenario_level
    assert level is not None
    alpha = level.gate(x, level.vectors(level.scenarios), scenario).mean(dim=0).tolist()
    return {f"{task}, {model.scenario_names[m]}": a for task, a in zip(model.task_names, alpha, strict=True)}


def _fusion_lines(fusion: Mapping[str, float]) -> list[Weights]:
    return [Weights("Fusion gate of the scenario level", line, _FUSED, [a, 1 - a]) for line, a in fusion.items()]


def _lines(attention: Sequence[Matrix], gates: Sequence[GateUse]) -> list[Weights]:
    found = []
    for matrix in attention:
        for row, values in zip(matrix.rows, matrix.values, strict=True):
            open_to = [(name, value) for name, value in zip(matrix.columns, values, strict=True) if value is not None]
            found.append(Weights(matrix.title, row, [n for n, _ in open_to], [v for _, v in open_to]))
    for use in gates:
        found += [
            Weights(use.title, name, use.experts, values) for name, values in zip(use.gates, use.weights, strict=True)
        ]
    return [line for line in found if len(line.choices) > 1]


# Training rows.


class _Rows:
    """Which training rows belong to whom."""

    def __init__(self, train: ScenarioDataset) -> None:
        # Not `train[rows]`, which would make whole columns and keep them for as long as the run trains.
        self._table = PackedTable(train)
        columns = self._table.whole([train.uid_field, SCENARIO_FIELD])
        self.scenario, self.user = columns[SCENARIO_FIELD].numpy() - 1, columns[train.uid_field].numpy()
        order = np.argsort(self.scenario, kind="stable")
        edges = np.searchsorted(self.scenario[order], np.arange(len(train.scenario_names) + 1))
        self.of_scenario = [order[start:end] for start, end in pairwise(edges)]

    def batch(self, rows: np.ndarray) -> Any:
        """These rows with all their fields; of many, `ROWS` evenly spread."""
        if len(rows) > ROWS:
            rows = rows[np.linspace(0, len(rows) - 1, ROWS).astype(np.int64)]
        return self._table.batch(torch.from_numpy(rows))


class _Seen:
    """What is found when training rows go through the model, scenario by scenario.

    Attributes:
        movement, strength: see `ScenarioView`, by scenario.
        gates: see `Explanation`.
        others: the use of what weighs something else than experts.
        fusion: see `_fusion`.
    """

    @torch.no_grad()
    def __init__(self, model: MultiScenarioRecommender, rows: _Rows, shown: list[int]) -> None:
        self._model, self._shown = model, shown
        self._cross: dict[tuple[int, int], list[float]] = {}
        self.movement: dict[int, float] = {}
        self.strength: dict[int, dict[str, float]] = {}
        self.fusion: dict[str, float] = {}
        inner = model.backbone if isinstance(model, LLM4MSR) else model
        watch = GateWatch(inner)
        for m, of_scenario in enumerate(rows.of_scenario):
            if not len(of_scenario) or not (m in shown or watch.parts or watch.others):
                continue
            batch = rows.batch(of_scenario)
            x, scenario = model.embed(batch), model.scenario_of(batch)
            if watch.parts or watch.others:
                with watch.scenario(m):
                    inner.logits(x, scenario)
            if isinstance(model, LLM4MSR) and m in shown:
                self._look_at_levels(model, m, batch, x)
                self.fusion |= _fusion(model, m, x, scenario)
        self.gates, self.others = watch.use(shown), watch.use_of_others(shown)

    def _look_at_levels(self, model: LLM4MSR, m: int, batch: Any, x: Tensor) -> None:
        if model.user_level is not None:
            self.movement[m] = float(model.movement(batch).mean())
        if model.scenario_level is None:
            return
        own = model.strengths(batch).abs().mean(dim=0).tolist()
        self.strength[m] = dict(zip(model.task_names, own, strict=True))
        for other in self._shown:
            through = model.scenario_level(x, torch.full((len(x),), other))
            self._cross[m, other] = through.mean(dim=0).tolist()

    def between(self) -> list[Matrix]:
        """For every task: what the layers of each scenario would add to the logits of each scenario's rows."""
        names = [self._model.scenario_names[m] for m in self._shown]
        return [
            Matrix(
                f"Scenario level: what is added to the logit of '{task}'",
                "The rows of a scenario (down) are put through the meta layers that were generated for a scenario "
                "(across): the mean of alpha r. On the diagonal stands what the model really adds; numbers "
                "that are alike along a line say that the scenarios' layers do the same.",
                "rows of \\ layers of",
                names,
                names,
                [[self._cross.get((i, j), _none(self._model.n_tasks))[t] for j in self._shown] for i in self._shown],
                signed=True,
            )
            for t, task in enumerate(self._model.task_names)
            if self._cross
        ]


def _none(count: int) -> list[Any]:
    return [None] * count


def _attention(model: MultiScenarioRecommender, shown: list[int], notes: list[str]) -> list[Matrix]:
    """HiNet's SAN weights, a matrix for every scenario layer; of a model without, nothing."""
    inner = model.backbone if isinstance(model, LLM4MSR) else model
    if not isinstance(inner, HiNet):
        return []
    if inner.n_scenarios == 1:
        notes.append("with one scenario HiNet has no attention between scenarios")
        return []
    if inner.n_scenarios == 2:
        notes.append("with two scenarios every attention weight is 1: there is nothing to learn")
    names, found = [inner.scenario_names[m] for m in shown], []
    for number, layer in enumerate(inner.scenario_layers, start=1):
        with torch.no_grad():
            a = cast(ScenarioExtraction, layer).san.weights(inner.scenario_embedding).tolist()
        found.append(
            Matrix(
                f"HiNet: attention between scenarios, layer {number}",
                "How much a scenario (down) takes from the expert of each other scenario (across). The weights follow "
                "from the scenario alone, and those of all other scenarios sum to 1.",
                "scenario \\ takes from",
                names,
                names,
                [[None if i == j else a[i][j] for j in shown] for i in shown],
            )
        )
    return found


# Users.


def _some_users(dataset: ScenarioDataset, rows: _Rows | None, shown: list[int], n: int) -> list[str]:
    """Users spread over the scenarios, and in each over those with few and with many rows."""
    tokens = dataset.field2id_token[dataset.uid_field]
    if rows is None:
        places = np.unique(np.linspace(1, len(tokens) - 1, n).astype(np.int64))
        return [str(tokens[place]) for place in places]
    chosen: list[int] = []
    largest = sorted((m for m in shown if len(rows.of_scenario[m])), key=lambda m: -len(rows.of_scenario[m]))
    for place, m in enumerate(largest[:n]):
        users, counts = np.unique(rows.user[rows.of_scenario[m]], return_counts=True)
        users = users[np.argsort(counts, kind="stable")]
        wanted = len(range(place, n, len(largest[:n])))
        free = users[~np.isin(users, chosen)]
        if len(free):
            picked = np.unique(((np.arange(wanted) + 0.5) / wanted * len(free)).astype(np.int64))
            chosen += free[picked].tolist()
    return [str(tokens[user]) for user in chosen]


@torch.no_grad()
def _user(
    token: str, dataset: ScenarioDataset, model: MultiScenarioRecommender | None, rows: _Rows | None, prompt: Any
) -> UserView:
    number = dataset.field2token_id[dataset.uid_field][token]
    level = model.user_level if isinstance(model, LLM4MSR) else None
    known = None if level is None else bool(level.vectors.known[number])
    if rows is None:
        return UserView(token, None, known, prompt)
    own = np.flatnonzero(rows.user == number)
    found, counts = np.unique(rows.scenario[own], return_counts=True)
    by_scenario = {dataset.scenario_names[m]: int(c) for m, c in zip(found, counts, strict=True)}
    if not isinstance(model, LLM4MSR) or level is None or not len(own):
        return UserView(token, by_scenario, known, prompt)
    batch = rows.batch(own)
    x, moved, scenario = model.backbone.embed(batch), model.embed(batch), model.scenario_of(batch)
    movement = model.movement(batch)
    squares = (moved - x).double().square().sum(dim=0)
    total = float(squares.sum())
    fields = None
    if total:
        fields = {name: float(squares[part].sum()) / total for name, part in field_slices(model.features)}
    change = (model.logits(moved, scenario).sigmoid() - model.logits(x, scenario).sigmoid()).mean(dim=0).tolist()
    return UserView(
        token, by_scenario, known, prompt, (float(movement.mean()), float(movement.max())), fields,
        dict(zip(model.task_names, change, strict=True)),
    )  # fmt: skip


def field_slices(features: Any) -> list[tuple[str, slice]]:
    """Which columns of x each field of a `FeatureEmbedding` has, in their order."""
    widths: list[tuple[str, int]] = [(name, features.table.embedding_dim) for name in features.token_fields]
    tables = [*features.seq_tables, *features.float_tables]
    names = [*features.token_seq_fields, *(features.float_fields if features.float_tables else [])]
    widths += [(name, table.embedding_dim) for name, table in zip(names, tables, strict=True)]
    if not features.float_tables:
        widths += [(name, 1) for name in features.float_fields]
    for name, vectors in getattr(features, "knowledge", {}).items():
        widths.append((f"knowledge of the {name}", vectors.size))
    ends = np.cumsum([width for _, width in widths]).tolist()
    return [(name, slice(end - width, end)) for (name, width), end in zip(widths, ends, strict=True)]


# Prompts.


def _prompts(store: Knowledge | None, level: str, tokens: Sequence[str], notes: list[str]) -> dict[str, Prompt]:
    """The prompts of some tokens, read without the others."""
    if store is None or level not in store.levels:
        return {}
    found: dict[str, dict[str, Any]] = {}
    try:
        for suffix in ("", "_texts"):
            table = pyarrow.dataset.dataset(store.path / f"{level}{suffix}.parquet", format="parquet")
            few = table.to_table(filter=pyarrow.dataset.field("token").isin([str(token) for token in tokens]))
            for line in few.to_pylist():
                found[line["token"]] = found.get(line["token"], {}) | line
        prompts = {
            token: Prompt(line["prompt"], line["answer"], int(line["n_tokens"]), bool(line["truncated"]))
            for token, line in found.items()
        }
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are among them
        notes.append(f"no {level} prompts: the knowledge in {store.path} is damaged ({error})")
        return {}
    missing = [token for token in tokens if token not in prompts]
    if missing:
        notes.append(
            f"the knowledge '{store.name}' has no prompt of {level} {', '.join(missing)}: only what has a training row "
            "has one"
        )
    return prompts
