"""The parts of an explanation, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from recbole_msr.evaluation.cells import Evaluation
from recbole_msr.evaluation.importance import Importance
from recbole_msr.runs.gate_use import GateUse
from recbole_msr.runs.initial_weights import Movement, Weights


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
    """A prompt of the run's knowledge.

    Attributes:
        text: the prompt.
        answer: what the language model wrote; None where nothing was generated.
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
        name: the scenario.
        rows: training rows; None where the training data are not there.
        movement: by bottom level of LLM4MSR, "user" and "item", the mean of `LLM4MSR.movement` over them.
        strength: by task the mean of |`LLM4MSR.strengths`|; empty without a scenario level.
        prompt: the scenario's prompt; None without one.
    """

    name: str
    rows: int | None
    movement: dict[str, float]
    strength: dict[str, float]
    prompt: Prompt | None


@dataclass(frozen=True)
class IdView:
    """One user, or one item.

    Attributes:
        token: the raw id.
        rows: by scenario its training rows; None where the training data are not there.
        known: whether the model reads a vector of its own; None where it reads none of users, or of items.
        prompt: its prompt; None without one.
        movement: mean and greatest |x' - x| / |x| over its training rows, by the user level, or the item level.
        fields: the share of |x' - x|^2 that falls on each field of x; sums to 1.
        change: by task the mean probability with the level minus the one without it.
        title: an item's title; None without one.
    """

    token: str
    rows: dict[str, int] | None
    known: bool | None
    prompt: Prompt | None
    movement: tuple[float, float] | None = None
    fields: dict[str, float] | None = None
    change: dict[str, float] = field(default_factory=dict)
    title: str | None = None


class Neighbour(NamedTuple):
    """A user, item or scenario near another one.

    Attributes:
        name: its raw id, or the scenario's name.
        cosine: that of the two vectors.
        title: an item's title; None without one.
    """

    name: str
    cosine: float
    title: str | None = None


@dataclass(frozen=True)
class Neighbours:
    """The nearest users or items to some users, items or scenarios.

    Attributes:
        of, to: the levels, such as "user" and "item".
        says: what vectors they are near by.
        nearest: by name, the nearest first; without those that have no vector.
    """

    of: str
    to: str
    says: str
    nearest: dict[str, list[Neighbour]]

    def with_titles(self, titles: Mapping[str, str]) -> Neighbours:
        """Return the same with the titles of items, by id."""
        named = {
            name: [one._replace(title=titles.get(one.name)) for one in best] for name, best in self.nearest.items()
        }
        return replace(self, nearest=named)


@dataclass(frozen=True)
class LevelVectors:
    """The vectors of a level.

    Attributes:
        level: "user", "item" or "scenario".
        widths: by what reads them ("meta layers", "features", "match"), how many numbers each has.
        known, ids: how many have a vector of their own, and how many there are.
    """

    level: str
    widths: dict[str, int]
    known: int
    ids: int


@dataclass(frozen=True)
class KnowledgeView:
    """What a run makes of a language model's vectors.

    Attributes:
        levels: what it reads.
        neighbours: who is near whom.
        cosines: those between the vectors of scenarios; None without them.
        changes: by task, how much predictions for training rows of each scenario, user and item change with permuted
            vectors.
        metrics: by task, those of validation rows by scenario and segment, with vectors as they are and permuted.
    """

    levels: list[LevelVectors]
    neighbours: list[Neighbours]
    cosines: Matrix | None
    changes: list[Matrix]
    metrics: list[Matrix]


@dataclass
class Explanation:
    """What a run has learnt.

    Attributes:
        run: the folder.
        facts: the run in a few words, by name.
        notes: what cannot be shown, and why.
        evaluation: the test cells; None for a run without them.
        scenarios, users: one by one; in the order of the run, and of the question.
        items: some, spread over those with few and with many training rows; empty where the model reads no vectors of
            items.
        between: what scenarios take from each other, and what the model measures of each one's rows.
        gates: how much experts are used.
        weights: every line of `gates`, of an attention, and of whatever else weighs a choice.
        moves: how far they are from where the run began; empty where that is not known.
        knowledge: what it makes of a language model's vectors; None of a model that reads none.
        importance: what is lost when a field is shuffled; None where it was not asked for, or cannot be measured.
    """

    run: Path
    facts: dict[str, str]
    notes: list[str]
    evaluation: Evaluation | None
    scenarios: list[ScenarioView]
    users: list[IdView]
    items: list[IdView]
    between: list[Matrix]
    gates: list[GateUse]
    weights: list[Weights]
    moves: list[Movement]
    knowledge: KnowledgeView | None = None
    importance: Importance | None = None
