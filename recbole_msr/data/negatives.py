"""Negatives for logs of positives: `train_neg_sample_args`, and the sampler that draws them.

A log without labels is a log of positives (RecBole's convention). For each positive, `sample_num` items are drawn that
the user does not have as a positive in training; the row of a drawn item has the label 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from recbole_msr.data.item_pools import ItemPool, draw_others
from recbole_msr.data.item_sets import ItemSets
from recbole_msr.errors import InputError
from recbole_msr.evaluation.ranking_mode import ranks
from recbole_msr.schema import SCENARIO_FIELD, UNKNOWN_SCENARIO, Schema, Task
from recbole_msr.validation import Settings, validate

LABEL_OF_POSITIVES = "label"
"""The field that a log of positives need not have: RecBole's own `LABEL_FIELD`."""
_EXAMPLE = "{distribution: uniform, sample_num: 1}"


class NegativeSettings(Settings):
    """The declaration `train_neg_sample_args`, where tasks are declared."""

    distribution: Literal["uniform", "popularity"] = "uniform"
    """All items alike, or in proportion to their positives in training to the power of `alpha`."""
    sample_num: Annotated[int, Field(ge=1)] = 1
    """N, items that are drawn for each positive."""
    alpha: float = 1.0
    """The power of `popularity`."""
    dynamic: bool = False
    """RecBole's choice of items by the model's scores, which is not to be had here."""
    candidate_num: int = 0
    """Read with `dynamic` alone."""
    same_scenario: bool = False
    """Draw only items that training rows of the positive's scenario have."""

    @model_validator(mode="after")
    def _possible(self) -> NegativeSettings:
        if self.alpha < 0:
            raise ValueError(f"alpha must be at least 0, got {self.alpha:g}: 1 draws by popularity, 0 all items alike")
        if self.alpha != 1 and self.distribution == "uniform":
            raise ValueError(f"alpha: {self.alpha:g} is for distribution: popularity; uniform draws all items alike")
        if self.dynamic or self.candidate_num:
            key = "dynamic: True" if self.dynamic else f"candidate_num: {self.candidate_num}"
            raise ValueError(
                f"{key} draws by the model's scores, which only RecBole's own trainer does, without tasks: leave "
                "dynamic and candidate_num out"
            )
        return self

    @classmethod
    def from_config(cls, config: Any) -> NegativeSettings | None:
        """Read a configuration's `train_neg_sample_args`; None where none are sampled, or no tasks declared.

        RecBole's own defaults for its models of items are no declaration: tasks learn labelled rows unless the user, or
        a model of tasks, says otherwise.

        Raises:
            InputError: a key is unknown or a value impossible, or no task can learn from what is sampled.
        """
        declared, key = config["train_neg_sample_args"], "train_neg_sample_args"
        schema = Schema.from_config(config)
        if schema is None or not isinstance(declared, Mapping) or declared.get("distribution") in (None, "none"):
            return None
        if key not in getattr(config, "external_config_dict", {key: None}) and not hasattr(
            config.model_class, "predict_tasks"
        ):
            return None
        settings = validate(cls, declared, key, example=_EXAMPLE)
        if "binary" not in schema.types.values():
            raise InputError(f"{key}: a drawn item has the label 0, and no task has labels of 0 and 1: set {key}: ~")
        if config["trainer"] == "recbole":
            raise InputError(
                f"{key}: RecBole's own trainer would give every row of the log the label 1: set trainer: lightning"
            )
        return settings


def reads_positives(task: Task) -> bool:
    """Return whether a task is read from the label that a log of positives need not have."""
    return task.field == LABEL_OF_POSITIVES and task.type == "binary"


def check_evaluated(config: Any, schema: Schema, file: str) -> None:
    """Refuse metrics of labels, and thresholds, for tasks of a log of positives.

    Args:
        config: reads `eval_args` and `metrics`.
        schema: the declared tasks.
        file: the name of the log.

    Raises:
        InputError: names the task and what would be right.
    """
    for task in filter(reads_positives, schema.tasks):
        every = f"task '{task.name}': {file} has no field '{task.field}', so every row is a positive"
        if task.at_least is not None or task.above is not None:
            raise InputError(f"{every}, and a threshold compares with nothing: leave at_least and above out")
        if task.name == schema.main_task and not ranks(config):
            raise InputError(
                f"{every}, and {', '.join(config['metrics'])} need negatives too: rank items, with eval_args: "
                "{mode: full}, metrics: [NDCG, Recall], topk: [10]"
            )


class NegativeSampler:
    """Draws items that users do not have as positives in training.

    Public use, for any rows of users and scenarios::

        sampler = NegativeSampler.of_training(train, NegativeSettings(sample_num=4))
        items = sampler.draw(users, scenarios, 4, seed=[2020, 0])  # (n, 4)

    Args:
        positives: the items of each user that are positives in training.
        pools: what is drawn from: one pool, or one for each id of a scenario.
        user_tokens: the users' names by id, for messages.
    """

    def __init__(self, positives: ItemSets, pools: Sequence[ItemPool], user_tokens: Sequence[Any]) -> None:
        self._positives, self._pools, self._user_tokens = positives, list(pools), user_tokens

    @classmethod
    def of_training(cls, train: Any, settings: NegativeSettings) -> NegativeSampler:
        """Make the sampler of a training split.

        A positive is a row with label 1 of any binary task. Popularity counts positives, in training alone (RecBole
        counts those of validation and test too). With `uniform` all items of the vocabulary are drawn, as in RecBole;
        with `same_scenario` those that rows of the scenario have in training. Where items are held out (`group_by:
        cold_item`), those that training rows have: else the held-out ones would be learnt, as what nobody likes.

        Args:
            train: the training split of a `ScenarioDataset`.
            settings: the declaration.
        """
        inter = train.every_label.inter_feat if train.every_label is not None else train.inter_feat
        users, items = (inter[key].numpy() for key in (train.uid_field, train.iid_field))
        n_items = int(train.item_num)
        positive = positive_rows(inter, train.schema)
        sets = ItemSets(users[positive], items[positive], int(train.user_num), n_items)
        usable = np.arange(n_items) > 0
        if train.item_feat is not None and SCENARIO_FIELD in train.item_feat:  # a row of it would count for nothing
            usable &= train.item_feat[SCENARIO_FIELD].numpy() != UNKNOWN_SCENARIO
        if train.config["eval_args"]["group_by"] == "cold_item":
            usable &= np.bincount(items, minlength=n_items) > 0
        scenario = train.row_scenario(inter).numpy()
        pools = []
        for number in range(len(train.scenario_names) + 1 if settings.same_scenario else 1):
            rows = scenario == number if settings.same_scenario else np.ones(len(items), dtype=bool)
            pools.append(_pool(items[rows], items[rows & positive], usable, settings))
        return cls(sets, pools, train.field2id_token[train.uid_field])

    def draw(
        self, users: np.ndarray, scenarios: np.ndarray, number: int, seed: int | Sequence[int] | np.random.Generator
    ) -> np.ndarray:
        """Draw items for rows, with replacement: none that the row's user has as a positive in training.

        Args:
            users: ids (n,).
            scenarios: ids (n,), 1..M; read with `same_scenario` alone.
            number: N, items a row.
            seed: of the draws: the same gives the same items.

        Returns:
            Ids of items (n, N).

        Raises:
            InputError: a user has every item that could be drawn.
        """
        kind = scenarios.astype(np.int64) if len(self._pools) > 1 else np.zeros(len(users), dtype=np.int64)
        self._check_left(users, kind)
        owner = np.repeat(users.astype(np.int64), number)
        drawn = draw_others(self._pools, np.repeat(kind, number), owner, self._positives, np.random.default_rng(seed))
        return drawn.reshape(len(users), number)

    def _check_left(self, users: np.ndarray, kind: np.ndarray) -> None:
        for number, pool in enumerate(self._pools):
            owners = np.unique(users[kind == number])
            none_left = owners[pool.left(owners, self._positives) == 0]
            if len(none_left):
                several = f" ({len(none_left)} such users)" if len(none_left) > 1 else ""
                where = " of a scenario" if len(self._pools) > 1 else ""
                raise InputError(
                    f"train_neg_sample_args: user '{self._user_tokens[none_left[0]]}' has every item{where} that could "
                    f"be drawn as a positive in training{several}: leave such users out (user_inter_num_interval), or "
                    "draw from more items"
                )


def positive_rows(inter: Any, schema: Schema) -> np.ndarray:
    """Return which rows are positives: those with label 1 of any binary task (N,)."""
    labels = [inter[task.label_field].numpy() == 1 for task in schema.tasks if task.type == "binary"]
    positive: np.ndarray = np.logical_or.reduce(labels)
    return positive


def _pool(items: np.ndarray, positives: np.ndarray, usable: np.ndarray, settings: NegativeSettings) -> ItemPool:
    """Return the pool of rows with some items (n,), of which some rows are positives (p,)."""
    counts = np.bincount(positives, minlength=len(usable))
    if settings.distribution == "popularity":
        chosen = np.flatnonzero(usable & (counts > 0))
        return ItemPool(chosen, (counts[chosen] / max(1, counts.sum())) ** settings.alpha)
    if settings.same_scenario:
        usable = usable & (np.bincount(items, minlength=len(usable)) > 0)
    return ItemPool(np.flatnonzero(usable))
