"""The contract of a multi-scenario, multi-task model."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import ContextRecommender
from torch import Tensor, nn

from recbole_msr.config.loss_weightings import LOSS_WEIGHTINGS, weightings_where
from recbole_msr.errors import InputError, nearest
from recbole_msr.evaluation.layout import CLASS_TYPES, Layout
from recbole_msr.layers.embedding import FeatureEmbedding
from recbole_msr.layers.number_target import NumberTarget
from recbole_msr.layers.task_chain import chain_losses, chain_probability, task_chains
from recbole_msr.layers.tracing import is_exported, replace_rows
from recbole_msr.models.knowledge_features import input_features
from recbole_msr.models.measures import Measure
from recbole_msr.options import Options
from recbole_msr.schema import MISSING_LABEL, SCENARIO_FIELD, Schema, TaskType

logger = logging.getLogger(__name__)

_ROWS_BY_SCENARIO = 1 << 16
"""Rows of unknown scenarios are scored in every scenario, at most so many at once."""


class MultiScenarioRecommender(ContextRecommender):
    """A RecBole model for M scenarios and T tasks: a subclass defines `logits`, and has the rest.

    x = embed(interaction),   y = sigmoid(logits(x, scenario)),   L as in `calculate_loss`.

    A task of numbers has its `NumberTarget` in the place of the sigmoid and the cross-entropy: `logits` gives its z. A
    task of K classes has K logits, with a softmax: inside a model it counts as K tasks, so `logits` is (B, C) with C
    columns of `layout`, as many as tasks where none has classes.

    The logit of a task after another is that of p(task | the task before it). p(task) is the product along its chain,
    and its loss is the product's, over all rows (`layers.task_chain`).

    It trains under RecBole's own trainer and any loop that calls `calculate_loss`. `predict` is the main
    task, for RecBole's metrics; `predict_tasks` is all of them.

    Args:
        config: a RecBole Config; read here: `LABEL_FIELD`, `device`, `loss_weights`, `loss_weighting`,
            `scenario_balance`, and what `input_features` reads.
        dataset: a `recbole_msr.data.dataset.ScenarioDataset`.

    Attributes:
        task_names, scenario_names: the T tasks and M scenarios, in the order of columns and ids everywhere.
        features: a `FeatureEmbedding`; `features.output_size` is D.
        loss_weighting: a word of `LOSS_WEIGHTINGS`; "fixed" wherever there is one task.
        layout: the tasks' columns of logits.
        predicted: the columns of predictions: those of the tasks, then of the conditionals, such as "buy|click".
        parents: the task before each task that comes after one, by name.
        number_targets: by the index of the task, as text, what a task of numbers has beside the binary ones.
        log_variances: s (T,), learned, for the uncertainty weighting; None for every other.

    Raises:
        InputError: the dataset knows no tasks, or a setting is impossible.
    """

    key_readers: ClassVar[tuple[type, ...]] = (FeatureEmbedding,)
    """Classes beside the model's own whose source says which configuration keys are read."""
    loss_weights: Tensor
    """lambda (M, T): what the key of this name says, times each scenario's weight of `scenario_balance`."""
    log_variances: nn.Parameter | None
    scenario_shares: Tensor
    """Each scenario's share of the training rows (M,); sums to 1."""

    def __init__(self, config: Any, dataset: Any) -> None:
        # ContextRecommender's own __init__ would make tables that nothing here reads.
        super(ContextRecommender, self).__init__()
        schema: Schema | None = getattr(dataset, "schema", None)
        if schema is None:
            raise InputError(
                f"{type(self).__name__} needs tasks, and scenarios if there are several: declare them, e.g. "
                "tasks: {click: {field: rating, at_least: 4}} and scenario: {field: age, bins: [25, 35]}"
            )
        self.LABEL = config["LABEL_FIELD"]
        self.device = config["device"]
        self.double_tower = False
        self.numerical_features = config["numerical_features"]

        self.task_names = schema.task_names
        self.label_fields = schema.label_fields
        self.main_index = schema.main_index
        self.missing_labels = schema.missing_labels
        self.weight_fields = [task.weight_field for task in schema.tasks]
        self.layout = Layout(schema.types, getattr(dataset, "label_classes", {}))
        self.predicted = Layout(schema.predicted_types, self.layout.classes)
        self.parents = schema.parents
        self._chains = {  # by the index of the last task, the columns of its logits
            self.task_names.index(task): [self.layout.columns[name].start for name in chain]
            for task, chain in task_chains(self.task_names, self.parents).items()
        }
        self._all_binary = set(schema.types.values()) == {"binary"}
        self.number_targets = nn.ModuleDict(
            {
                str(index): NumberTarget(task.transform, task.loss, dataset.label_scale[task.name])
                for index, task in enumerate(schema.tasks)
                if task.type == "number"
            }
        )
        self.scenario_names = list(dataset.scenario_names)
        self._add_features(config, dataset)
        self.embedding_size = config["embedding_size"]
        weights = loss_weights(config["loss_weights"], self.task_names, self.scenario_names)
        inside = self._inside()
        self.loss_weighting = loss_weighting(config, self.task_names, weights, tell=not inside)
        learned = nn.Parameter(torch.zeros(self.n_tasks)) if self.loss_weighting == "uncertainty" else None
        self.register_parameter("log_variances", learned)
        for model in inside:  # the loss is the outer model's
            model.log_variances = None
        shares = torch.tensor(getattr(dataset, "scenario_shares", None) or [1.0] * self.n_scenarios)
        self.register_buffer("scenario_shares", shares / shares.sum())
        balance = Options(config).number("scenario_balance", at_least=0)
        if balance and self.n_scenarios == 1 and not inside:
            logger.warning("scenario_balance: %g does nothing: there is one scenario", balance)
        by_scenario = balanced_weights(self.scenario_shares, balance)
        self.register_buffer("loss_weights", by_scenario.unsqueeze(1) * weights, persistent=False)

    def _add_features(self, config: Any, dataset: Any) -> None:
        """Set `features`; a model around another leaves that to it."""
        self.features = input_features(config, dataset, exclude={SCENARIO_FIELD, self.LABEL, *self.label_fields})

    @property
    def n_scenarios(self) -> int:
        """M."""
        return len(self.scenario_names)

    @property
    def n_tasks(self) -> int:
        """T."""
        return len(self.task_names)

    @property
    def n_outputs(self) -> int:
        """C, the number of logits: T, and K instead of 1 for a task of K classes."""
        return self.layout.width

    @property
    def output_names(self) -> list[str]:
        """What each logit is of: a task, or TASK=CLASS."""
        return self.layout.names

    first_best_epoch = 1
    """The first epoch that may be the best, and after which training may stop early; earlier ones prepare for it."""

    def start_epoch(self, epoch: int) -> bool:
        """Prepare for an epoch of training, counted from 0; Lightning's training calls it, RecBole's does not.

        Returns:
            Whether the weights are others now, so that the optimiser begins anew.
        """
        begins_anew = [model.start_epoch(epoch) for model in self._inside()]
        return any(begins_anew)

    def training_state(self) -> dict[str, Tensor]:
        """Return what an interrupted training needs to go on, beside the `state_dict`."""
        return {name: value for model in self._inside() for name, value in model.training_state().items()}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Take over the `training_state` of an interrupted training."""
        for model in self._inside():
            model.load_training_state(state)

    def _inside(self) -> list[MultiScenarioRecommender]:
        return [model for model in self.children() if isinstance(model, MultiScenarioRecommender)]

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return every task's logit (B, C).

        Args:
            x: input vectors (B, D).
            scenario: each row's scenario (B,), 0..M-1.
        """
        raise NotImplementedError

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return every task's logit of each row in each scenario (M, B, C), of inputs x (B, D).

        A model may compute here once what its scenarios share. A subclass that defines `logits` alone has this loop
        over the scenarios, whatever the model that it is derived from does.
        """
        return torch.stack(
            [self.logits(x, torch.full(x.shape[:1], m, device=x.device)) for m in range(self.n_scenarios)]
        )

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "logits" in vars(cls) and "every_scenario_logits" not in vars(cls):
            cls.every_scenario_logits = MultiScenarioRecommender.every_scenario_logits  # type: ignore[method-assign]

    def embed(self, interaction: Any) -> Tensor:
        """Return x (B, D): all feature fields and their `interaction`; the scenario and the labels are none of them."""
        x: Tensor = self.features(interaction)
        return x

    def scenario_of(self, interaction: Any) -> Tensor:
        """Return each row's scenario (B,), 0..M-1, or -1 for a scenario that training has not known."""
        scenario: Tensor = interaction[SCENARIO_FIELD] - 1
        return scenario

    def labels_of(self, interaction: Any) -> Tensor:
        """Return each row's labels (B, T): 0 and 1, numbers, or those of classes; `missing_labels` for none."""
        return torch.stack([interaction[field] for field in self.label_fields], dim=1)

    def predict_tasks(self, interaction: Any) -> Tensor:
        """Probability of every task and class, or the number in the field's unit (B, P).

        There are as many columns as in `predicted`: those of the C logits, then the conditionals.

        A row of an unknown scenario gets the mean of what the M scenarios would predict for it, weighted by
        their shares of the training rows. A conditional is then the quotient of such means.
        """
        x, scenario = self.embed(interaction), self.scenario_of(interaction)
        unknown = scenario < 0
        if is_exported():  # a graph does not choose whether: it does so for those rows, which may be none
            y = self.predictions(self.logits(x, scenario.clamp(min=0)))
            return replace_rows(y, unknown, lambda rows: self._mean_predictions(x.index_select(0, rows)))
        n_unknown = int(unknown.sum())
        if n_unknown and n_unknown == len(x):
            return self._mean_predictions(x)
        y = self.predictions(self.logits(x, scenario.clamp(min=0)))
        return y if not n_unknown else y.index_put((unknown,), self._mean_predictions(x[unknown]))

    def _mean_predictions(self, x: Tensor) -> Tensor:
        """Return the mean (B, P) over scenarios, by their shares, of what each predicts for inputs x (B, D)."""
        # A graph takes rows as they come; elsewhere their number times M is bounded.
        parts = [x] if is_exported() else x.split(max(1, _ROWS_BY_SCENARIO // self.n_scenarios))
        means = []
        for part in parts:
            y = self.predictions(self.every_scenario_logits(part).flatten(0, 1))
            y = torch.unflatten(y, 0, (self.n_scenarios, -1))
            means.append((self.scenario_shares.view(-1, 1, 1) * y).sum(dim=0))
        mean = torch.cat(means)
        return self._with_quotients(mean) if self._chains else mean

    def _with_quotients(self, y: Tensor) -> Tensor:
        """Make the conditionals of predictions (B, P) the quotients of their tasks' probabilities."""
        quotients: list[Tensor] = list(y[:, self.n_outputs :].unbind(dim=1))
        for number, (task, parent) in enumerate(self.parents.items()):
            p, before = (y[:, self.layout.columns[name].start] for name in (task, parent))
            quotients[number] = torch.where(before > 0, p / before, quotients[number])
        return torch.cat([y[:, : self.n_outputs], torch.stack(quotients, dim=1)], dim=1)

    def predictions(self, logits: Tensor) -> Tensor:
        """Return what is predicted of logits (B, C): probabilities, or numbers in the field's unit (B, P)."""
        logits = logits.float()  # in half precision a sigmoid would tie many rows that the logits tell apart
        if self._all_binary and not self._chains:
            return logits.sigmoid()
        parts = []
        for index, (kind, z) in enumerate(self._by_task(logits)):
            if kind == "number":
                parts.append(self._number_target(index).predictions(z.squeeze(1)).unsqueeze(1))
            elif index in self._chains:
                parts.append(chain_probability(self._chain_logits(index, logits)).unsqueeze(1))
            else:
                parts.append(z.softmax(dim=1) if kind in CLASS_TYPES else z.sigmoid())
        given = [logits[:, columns[-1:]].sigmoid() for columns in self._chains.values()]
        return torch.cat([*parts, *given], dim=1)

    def _chain_logits(self, index: int, logits: Tensor) -> list[Tensor]:
        """Return the logits (B,) of the tasks that lead to one, from the first to itself, of logits (B, C)."""
        return [logits[:, column] for column in self._chains[index]]

    def task_reads_logits(self) -> Tensor:
        """Return whether task t's probability reads logit c (T, C): its own, and those of the tasks before it."""
        reads = torch.zeros(self.n_tasks, self.n_outputs, dtype=torch.bool)
        for t, columns in enumerate(self.layout.columns.values()):
            reads[t, columns] = True
            reads[t, self._chains.get(t, [])] = True
        return reads

    def _number_target(self, index: int) -> NumberTarget:
        target = self.number_targets[str(index)]
        assert isinstance(target, NumberTarget)
        return target

    def _by_task(self, logits: Tensor) -> list[tuple[TaskType, Tensor]]:
        """Return each task's type and its columns of the logits (B, C)."""
        if logits.shape[1] != self.n_outputs:
            raise InputError(
                f"{type(self).__name__} has {logits.shape[1]} logits a row, and its tasks and classes need "
                f"{self.n_outputs} ({', '.join(self.output_names)}): let `logits` give `n_outputs` of them"
            )
        return [(kind, logits[:, self.layout.columns[task]]) for task, kind in self.layout.types.items()]

    def predict(self, interaction: Any) -> Tensor:
        """Probability of the main task, or its number, or the number of its likeliest class (B,)."""
        main = self.predict_tasks(interaction)[:, self.layout.columns[self.task_names[self.main_index]]]
        return main.squeeze(1) if main.shape[1] == 1 else main.argmax(dim=1).float()

    def calculate_loss(self, interaction: Any) -> Tensor:
        """L, a scalar: the sum of `task_losses`, L = sum_t 1/N_t sum_b lambda_{i(b),t} BCE(y_bt, label_bt).

        With `loss_weighting: uncertainty`, L = sum_t exp(-s_t) L_t + s_t / 2 over the tasks that have a label in the
        batch: what Kendall et al. (CVPR 2018, eq. 10) have for a classification, L_t / sigma_t^2 + log sigma_t, with
        s_t = log sigma_t^2. It begins with s = 0, all weights 1. For a task of numbers with `loss: mse` it is their
        regression's, exp(-s_t) L_t / 2 + s_t / 2.

        Raises:
            InputError: `loss_weighting` is one that only the Lightning trainer has.
        """
        if LOSS_WEIGHTINGS[self.loss_weighting].needs_trainer:
            raise _needs_trainer(self.loss_weighting)
        return self.summed_losses(*self.counted_losses(interaction))

    def summed_losses(self, losses: Tensor, counts: Tensor) -> Tensor:
        """L, as `calculate_loss`, from L_t (T,) and N_t (T,) of the whole batch."""
        if self.log_variances is None:
            return losses.sum()
        s = self.log_variances
        if self.number_targets:
            factors = torch.ones_like(losses)
            for index, target in self.number_targets.items():
                factors[int(index)] = 0.5 if target.loss == "mse" else 1.0
            losses = factors * losses
        return torch.where(counts > 0, (-s).exp() * losses + s / 2, 0.0).sum()

    def task_losses(self, interaction: Any) -> Tensor:
        """L_t (T,): the mean of `row_losses` over the N_t rows that carry task t's label; 0 if none does."""
        return self.counted_losses(interaction)[0]

    def counted_losses(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """L_t (T,), as `task_losses`, and N_t (T,)."""
        losses, counts = self.row_losses(interaction)
        n = counts.sum(dim=0)
        return losses.sum(dim=0) / n.clamp(min=1), n

    def row_losses(self, interaction: Any) -> tuple[Tensor, Tensor]:
        """Return lambda_{i(b),t} BCE(y_bt, label_bt) (B, T), and which of them count (B, T).

        A task of numbers has the loss of its `NumberTarget` instead of the BCE, one of classes the cross-entropy. A
        task after another has the BCE of the product of probabilities, whatever the label of the task before it. For a
        task with weights w it is lambda_{i(b),t} w_bt BCE(y_bt, label_bt); the mean of w over training rows is 1.

        A row counts for task t if it carries t's label and its scenario is known; where it does not, its loss
        is 0 and no gradient flows from it.
        """
        scenario, labels = self.scenario_of(interaction), self.labels_of(interaction)
        counts = self._labelled(labels) & (scenario >= 0).unsqueeze(1)
        scenario = scenario.clamp(min=0)
        logits = self.logits(self.embed(interaction), scenario).float()
        weights = self._weights(interaction, scenario)
        losses = weights * self._label_losses(logits, labels) + self.calibration(logits)
        return torch.where(counts, losses, 0.0), counts

    def _weights(self, interaction: Any, scenario: Tensor) -> Tensor:
        """Return lambda_{i(b),t} w_bt (B, T), of scenarios (B,): w is 1 for a task without weights."""
        weights = self.loss_weights[scenario]
        if not any(self.weight_fields):
            return weights
        columns = zip(weights.unbind(dim=1), self.weight_fields, strict=True)
        return torch.stack([own if field is None else own * interaction[field] for own, field in columns], dim=1)

    def _labelled(self, labels: Tensor) -> Tensor:
        """Return which labels (B, T) are there (B, T)."""
        if self._all_binary:
            return labels != MISSING_LABEL
        pairs = zip(labels.unbind(dim=1), self.missing_labels, strict=True)
        return torch.stack([column != missing for column, missing in pairs], dim=1)

    def _label_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each label's own loss (B, T); what it is where a label is missing does not matter."""
        if self._all_binary and not self._chains:
            return F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0), reduction="none")
        columns = []
        for index, ((kind, z), y) in enumerate(zip(self._by_task(logits), labels.unbind(1), strict=True)):
            if kind == "number":
                columns.append(self._number_target(index).losses(z.squeeze(1), y))
            elif kind in CLASS_TYPES:
                columns.append(F.cross_entropy(z, y.clamp(min=0).long(), reduction="none"))
            elif index in self._chains:
                columns.append(chain_losses(self._chain_logits(index, logits), y.clamp(min=0)))
            else:
                columns.append(F.binary_cross_entropy_with_logits(z.squeeze(1), y.clamp(min=0), reduction="none"))
        return torch.stack(columns, dim=1)

    def calibration(self, logits: Tensor) -> Tensor | float:
        """Return a model's own term of the loss for every row and task (B, T), of its logits (B, C); 0 here."""
        return 0.0

    def measures(self, x: Tensor, scenario: Tensor) -> list[Measure]:
        """Return what there is to see of how rows are treated, for `explain`; nothing here.

        Args:
            x: input vectors (B, D).
            scenario: each row's scenario (B,), 0..M-1.
        """
        return []


def loss_weights(declared: Any, tasks: Sequence[str], scenarios: Sequence[str]) -> Tensor:
    """Return lambda (M, T) from a configuration's `loss_weights`; what is not named weighs 1.

    Args:
        declared: None, {task: number} or {task: {scenario: number}}.
        tasks: names of the T tasks.
        scenarios: names of the M scenarios.

    Raises:
        InputError: an unknown name, something else than a number >= 0, or nothing left to learn.
    """
    weights = torch.ones(len(scenarios), len(tasks))
    if declared is None:
        return weights
    if not isinstance(declared, Mapping):
        example = f"{{{tasks[0]}: 0.5}} or {{{tasks[0]}: {{{scenarios[0]}: 0.5}}}}"
        raise InputError(f"'loss_weights' must map tasks to numbers, e.g. {example}, got {declared!r}")
    for task, value in declared.items():
        t = _index("loss_weights", "task", task, tasks)
        if isinstance(value, Mapping):
            for scenario, number in value.items():
                m = _index(f"loss_weights: {task}", "scenario", scenario, scenarios)
                weights[m, t] = _weight(f"{task}: {scenario}", number)
        else:
            weights[:, t] = _weight(str(task), value)
    if not weights.any():
        raise InputError("'loss_weights' are all 0: nothing would be learnt")
    return weights


def balanced_weights(shares: Tensor, balance: float) -> Tensor:
    """Return each scenario's weight in the loss w (M,), whose mean over the training rows is 1.

    w_m = p_m^-beta / sum_j p_j^(1 - beta)

    With beta = 0 all weights are 1, and every row counts alike. With beta = 1 every scenario counts alike, however many
    rows it has; 0.5 weighs by the root. This is the loss's form of drawing scenarios with a temperature, in
    proportion to p_m^(1 - beta) (Arivazhagan et al., "Massively Multilingual Neural Machine Translation in the Wild",
    2019, section 4.2, with T = 1 / (1 - beta)).

    >>> balanced_weights(torch.tensor([0.8, 0.2]), 1.0)
    tensor([0.6250, 2.5000])

    Args:
        shares: p, each scenario's share of the training rows (M,).
        balance: beta, 0 to 1.
    """
    if not balance:
        return torch.ones_like(shares)
    present = shares > 0  # a scenario without rows weighs nothing in the mean
    powers = torch.where(present, shares.clamp(min=torch.finfo(shares.dtype).tiny) ** -balance, 1.0)
    return powers / (powers * shares).sum()


def loss_weighting(config: Any, tasks: Sequence[str], weights: Tensor, tell: bool = True) -> str:
    """Return the word of `LOSS_WEIGHTINGS` that a configuration's `loss_weighting` comes to.

    Args:
        config: read here: `loss_weighting`, `loss_weights` and `trainer`.
        tasks: names of the T tasks; with one of them there is nothing to weigh, and it is "fixed".
        weights: lambda (M, T).
        tell: whether to say so then.

    Raises:
        InputError: an unknown word, one that does not go with `loss_weights`, or one that the trainer does not have.
    """
    chosen = Options(config).choice("loss_weighting", LOSS_WEIGHTINGS)
    if chosen == "fixed":
        return chosen
    if chosen == "equal":
        if config["loss_weights"] is not None:
            raise InputError(
                f"loss_weighting: equal makes every weight 1, but 'loss_weights' are {config['loss_weights']!r}: leave "
                "them out, or set loss_weighting: fixed"
            )
        return chosen
    unweighted = [task for task, has_weight in zip(tasks, weights.any(dim=0).tolist(), strict=True) if not has_weight]
    if unweighted:
        raise InputError(
            f"loss_weighting: {chosen} cannot weigh task '{unweighted[0]}': its 'loss_weights' are 0 (fixed leaves a "
            "task out that way)"
        )
    if len(tasks) > 1:
        if LOSS_WEIGHTINGS[chosen].needs_trainer and config["trainer"] == "recbole":
            raise _needs_trainer(chosen)
        return chosen
    if tell:
        logger.warning("loss_weighting: %s does nothing: there is one task, '%s'", chosen, tasks[0])
    return "fixed"


def _needs_trainer(chosen: str) -> InputError:
    return InputError(
        f"loss_weighting: {chosen} needs more of the training than RecBole's own trainer hands out: set trainer: "
        f"lightning, or loss_weighting to {weightings_where(lambda weighting: not weighting.needs_trainer, 'or')}"
    )


def _index(key: str, what: str, name: Any, names: Sequence[str]) -> int:
    if str(name) not in names:
        hint = nearest(str(name), names) or "."
        raise InputError(f"'{key}': there is no {what} '{name}'{hint} The {what}s are: {', '.join(names)}.")
    return names.index(str(name))


def _weight(where: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise InputError(f"'loss_weights: {where}' must be a number >= 0, got {value!r}")
    return float(value)
