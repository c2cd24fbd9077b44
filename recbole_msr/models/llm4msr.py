"""LLM4MSR: a language model's knowledge of users and scenarios, as generated layers around a multi-scenario model.

"LLM4MSR: An LLM-Enhanced Paradigm for Multi-Scenario Recommendation", CIKM 2024, arXiv 2406.12529. The paper's
equations were not at hand: what its abstract, figure and official code leave open is our choice, see docs/llm4msr.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr import registry
from recbole_msr.errors import InputError, nearest
from recbole_msr.layers.meta import META_WEIGHTS, MetaLayers
from recbole_msr.layers.mlp import ACTIVATIONS
from recbole_msr.layers.tracing import is_exported
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.given_profiles import GivenProfiles, given_profiles
from recbole_msr.models.knowledge import REDUCTIONS, KnowledgeVectors
from recbole_msr.models.knowledge_source import KnowledgeSource, knowledge_name
from recbole_msr.models.leave_one_out import training_rows
from recbole_msr.options import Options

FUSIONS = ("learned", "fixed", "gate")
LEVELS = {
    "both": ("user", "scenario"),
    "user": ("user",),
    "scenario": ("scenario",),
    "item": ("item",),
    "all": ("user", "item", "scenario"),
    "none": (),
}
"""The levels that a word of `knowledge_level` stands for."""
BOTTOM_LEVELS = ("user", "item")
"""Levels at the bottom of the backbone, in the order in which rows go through them."""

_REMEMBERED_BYTES = 1 << 29
"""In evaluation the generated weights of all users are kept up to so many bytes."""


class LLM4MSR(MultiScenarioRecommender):
    """Meta layers at the bottom of a backbone and beside it, their weights made of frozen vectors.

    x'  = x + c f(x; theta_u),       theta_u = MetaNet_U(h_u)      user level, at the bottom; c fixed
    x'  = x' + c f(x'; theta_i),     theta_i = MetaNet_I(h_i)      item level, behind it, where there is one
    o_t = backbone.logits(x', s)                                   any `MultiScenarioRecommender`
    r_t = head_t(f(x'; theta_s)),    theta_s = MetaNet_S(h_s)      scenario level, beside the backbone
    y_t = sigmoid(o_t + alpha r_t)

    h_u, h_i and h_s are the vectors that a language model has made of the prompts of user u, item i and scenario s (see
    `KnowledgeVectors`), f the `MetaLayers`. alpha is a learned number, a fixed one, or a gate for each row and task,
    sigmoid(w_t x' + v_t h_s + c_t).

    At the start f(x; theta_u) = 0, f(x'; theta_i) = 0 and head = 0, so that y is exactly the backbone's, whose weights
    are drawn as they would be without all this. With `knowledge: none` or `knowledge_level: none` it is the backbone
    alone.

    The backbone reads its own keys, with its own defaults; the others are in properties/model/LLM4MSR.yaml and, for the
    vectors, in properties/overall.yaml.

    Attributes:
        backbone: the model inside.
        user_level, item_level, scenario_level: `BottomLevel` of users and of items, and `ScenarioLevel`; or None.
        learning_rate_factors: of a level whose learning rate is not the backbone's, what that is multiplied by.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        option = Options(config)
        levels = LEVELS[option.choice("knowledge_level", tuple(LEVELS))]
        self.user_level: BottomLevel | None = None
        self.item_level: BottomLevel | None = None
        self.scenario_level: ScenarioLevel | None = None
        of_backbone: dict[str, float] = getattr(self.backbone, "learning_rate_factors", {})
        self.learning_rate_factors = {f"backbone.{name}": factor for name, factor in of_backbone.items()}
        self.without_weight_decay = [f"backbone.{name}" for name in getattr(self.backbone, "without_weight_decay", ())]
        self.first_best_epoch = self.backbone.first_best_epoch
        if knowledge_name(config) == "none" or not levels:
            return

        source = KnowledgeSource(config, dataset)
        reduction = option.choice("knowledge_reduction", REDUCTIONS)
        size = option.integer("knowledge_reduced_size")
        width = self.backbone.features.output_size
        meta: dict[str, Any] = {
            "hidden_sizes": option.sizes("meta_hidden_sizes", may_be_empty=True),
            "n_layers": option.integer("meta_layers"),
            "weights": option.choice("meta_weights", META_WEIGHTS),
            "rank": option.integer("meta_rank"),
            "activation": option.choice("meta_activation", ACTIVATIONS),
            "dropout": option.number("meta_dropout", at_least=0, below=1),
        }
        scale = option.number("meta_scale", at_least=0)
        if scale == 0:
            raise InputError("'meta_scale' must not be 0: user and item level would never learn")

        def bottom_level(of: str) -> BottomLevel:
            vectors = KnowledgeVectors(source, of, reduction, size)
            return BottomLevel(vectors, MetaLayers(width, vectors.size, **meta, begins_as_zero=True), scale)

        self.user_field, self.item_field = dataset.uid_field, dataset.iid_field
        if "user" in levels:
            self.user_level = bottom_level("user")
        if "scenario" in levels:
            vectors = KnowledgeVectors(source, "scenario", reduction, size)
            layers = MetaLayers(width, vectors.size, **meta)
            fusion, alpha = option.choice("fusion", FUSIONS), option.number("fusion_alpha")
            if alpha == 0 and fusion != "gate":
                raise InputError("'fusion_alpha' must not be 0: the scenario level would never learn")
            self.scenario_level = ScenarioLevel(vectors, layers, self.n_outputs, fusion, alpha)
        if "item" in levels:  # last: the others' weights are drawn as they are without it
            self.item_level = bottom_level("item")
        factors = {
            "item_level": option.number("item_level_learning_rate_factor", at_least=0),
            "user_level": option.number("user_level_learning_rate_factor", at_least=0),
            "scenario_level": option.number("scenario_level_learning_rate_factor", at_least=0),
        }
        for name, factor in factors.items():
            if factor == 0:
                raise InputError(f"'{name}_learning_rate_factor' must not be 0: the level would never learn")
            if factor != 1 and getattr(self, name) is not None:
                self.learning_rate_factors[name] = factor

    def _add_features(self, config: Any, dataset: Any) -> None:
        # Before all else: with the same seed its weights are those it would have alone.
        self.backbone = backbone_class(config["backbone"])(config, dataset)

    @property
    def features(self) -> Any:  # type: ignore[override]
        """The backbone's."""
        return self.backbone.features

    def embed(self, interaction: Any) -> Tensor:
        """Return x' (B, D)."""
        return self._embed_through(BOTTOM_LEVELS, interaction)

    def embed_without(self, level: str, interaction: Any) -> Tensor:
        """Return x' (B, D) as it is without the user or the item level."""
        return self._embed_through([other for other in BOTTOM_LEVELS if other != level], interaction)

    def _embed_through(self, levels: Collection[str], interaction: Any) -> Tensor:
        x: Tensor = self.backbone.embed(interaction)
        if self.user_level is not None and "user" in levels:
            ids, rows = self.known_ids(self.user_field, interaction), training_rows(interaction)
            given = given_profiles(interaction)
            x = self.user_level(x, ids, rows) if given is None else self.user_level.of_given(x, ids, given)
        if self.item_level is not None and "item" in levels:
            x = self.item_level(x, self.known_ids(self.item_field, interaction))
        return x

    def known_ids(self, field: str, interaction: Any) -> Tensor:
        """Return the ids (B,) of users or items by which vectors are looked up: 0 for those beyond the vocabulary."""
        ids: Tensor = self.features.known_ids(field, interaction[field])
        return ids

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return o_t + alpha r_t (B, T) of rows x' (B, D)."""
        o = self.backbone.logits(x, scenario)
        return o if self.scenario_level is None else o + self.scenario_level(x, scenario)

    def every_scenario_logits(self, x: Tensor) -> Tensor:
        """Return o_t + alpha r_t of each row in each scenario (M, B, T)."""
        o = self.backbone.every_scenario_logits(x)
        return o if self.scenario_level is None else o + self.scenario_level.every_scenario(x)

    def calibration(self, logits: Tensor) -> Tensor | float:
        """Return the backbone's own term of the loss (B, T)."""
        return self.backbone.calibration(logits)

    def around(self, level: str, interaction: Any) -> tuple[Tensor, Tensor]:
        """Return x as the user or the item level gets it, and as it leaves it, (B, D) each."""
        place = BOTTOM_LEVELS.index(level)
        before, after = (self._embed_through(BOTTOM_LEVELS[:end], interaction) for end in (place, place + 1))
        return before, after

    @torch.no_grad()
    def movement(self, interaction: Any, level: str = "user") -> Tensor:
        """Return each row's distance moved by the user or the item level (B,): |x' - x| / |x|; zeros without it."""
        x, moved = self.around(level, interaction)
        distance: Tensor = (moved - x).norm(dim=1) / x.norm(dim=1).clamp(min=1e-12)
        return distance

    @torch.no_grad()
    def strengths(self, interaction: Any) -> Tensor:
        """Return the scenario level's share of each row's logits (B, T): alpha r_t; zeros without a scenario level."""
        x, scenario = self.embed(interaction), self.scenario_of(interaction).clamp(min=0)
        if self.scenario_level is None:
            return x.new_zeros(len(x), self.n_outputs)
        strengths: Tensor = self.scenario_level(x, scenario)
        return strengths


class BottomLevel(nn.Module):
    """x' = x + c f(x; MetaNet(h)), h of the row's user or of its item.

    c is in effect a learning rate of the level's own: embeddings begin far smaller than what a few steps of the
    generator make of f.

    In evaluation an id's theta is computed once and kept until a weight changes, as it depends on the id alone; and
    where a batch holds few ids, as a request for one user's candidates does of users, their rows go through together.

    Args:
        vectors: h, by id.
        layers: the meta layers.
        scale: c.
    """

    def __init__(self, vectors: KnowledgeVectors, layers: MetaLayers, scale: float = 1.0) -> None:
        super().__init__()
        self.vectors, self.layers, self.scale = vectors, layers, scale
        n_bytes = 4 * len(vectors.known) * layers.n_weights
        self._remembered = _Remembered() if n_bytes <= _REMEMBERED_BYTES else None

    def forward(self, x: Tensor, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return x' (B, D) of rows x (B, D), their users' or items' ids (B,), and in training their numbers (B,)."""
        if self.training or torch.is_grad_enabled():
            self.forget()
            return self._moved(x, self.layers(x, self.generate(ids, rows)))
        if is_exported():
            return self._moved(x, self.layers(x, self.generate(ids)))
        if self.layers.is_light:
            return self._moved(x, self.layers(x, self._remember(ids)))
        unique_ids, which = ids.unique(return_inverse=True)
        return self._moved_by(x, self._remember(unique_ids), which)

    def _moved_by(self, x: Tensor, theta: Tensor, which: Tensor) -> Tensor:
        """Return x' (B, D) of rows x (B, D), K sets of weights (K, P), and which set is each row's (B,)."""
        if not self.layers.is_light and 8 * len(theta) <= len(x):
            return self._moved(x, self.layers(x, theta, which))
        return self._moved(x, self.layers(x, theta[which]))

    def of_given(self, x: Tensor, ids: Tensor, given: GivenProfiles) -> Tensor:
        """Return x' (B, D) as `forward` does, of rows x (B, D), of which some have another profile than their user."""
        theirs = given.numbers >= 0
        others = ~theirs
        moved = torch.empty_like(x)
        if others.any():
            moved[others] = self(x[others], ids[others])
        if theirs.any():
            theta = self.layers.generate(self.vectors.of_profiles(given.vectors))
            moved[theirs] = self._moved_by(x[theirs], theta, given.numbers[theirs])
        return moved

    def _moved(self, x: Tensor, f: Tensor) -> Tensor:
        return torch.add(x, f, alpha=self.scale)

    def generate(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return theta (B, P) of ids (B,), in training without the rows (B,)."""
        return self.layers.generate(self.vectors(ids, rows))

    def _remember(self, ids: Tensor) -> Tensor:
        if self._remembered is None:
            return self.generate(ids)
        made_by = [*self.layers.parameters(), *self.vectors.parameters(), *self.vectors.buffers()]
        return self._remembered.get(ids, len(self.vectors.known), made_by, self.generate)

    def forget(self) -> None:
        """Let what is remembered go."""
        if self._remembered is not None:
            self._remembered.clear()


class ScenarioLevel(nn.Module):
    """alpha r_t, r_t = head_t(f(x'; MetaNet_S(h_s))).

    The weights are made once a batch for all M scenarios.

    Args:
        vectors: h, by scenario.
        layers: the meta layers.
        n_tasks: T.
        fusion: a word of `FUSIONS`.
        alpha: what a learned alpha begins with, or the fixed one; not read by the gate.
    """

    def __init__(self, vectors: KnowledgeVectors, layers: MetaLayers, n_tasks: int, fusion: str, alpha: float) -> None:
        super().__init__()
        self.vectors, self.layers, self.fusion = vectors, layers, fusion
        width = layers.input_size
        self.head = nn.Linear(width, n_tasks)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.alpha: nn.Parameter | float = nn.Parameter(torch.tensor(alpha)) if fusion == "learned" else alpha
        if fusion == "gate":
            self.gate_of_x = nn.Linear(width, n_tasks)
            self.gate_of_h = nn.Linear(vectors.size, n_tasks, bias=False)
            for start in (self.gate_of_x.weight, self.gate_of_x.bias, self.gate_of_h.weight):
                nn.init.zeros_(start)  # 1/2 for every row; h's components are far too large for a small draw of weights
        self.register_buffer("scenarios", torch.arange(len(vectors.known)), persistent=False)

    def forward(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Return alpha r_t (B, T) of rows x' (B, D) and their scenarios (B,)."""
        h = self.vectors(self.scenarios)
        r = self.layers.head(x, self.layers.generate(h), scenario, self.head)
        return (self.gate(x, h, scenario) if self.fusion == "gate" else self.alpha) * r

    def gate(self, x: Tensor, h: Tensor, scenario: Tensor) -> Tensor:
        """Return alpha (B, T) with `fusion="gate"`, of x' (B, D), vectors (M, size) and the rows' scenarios (B,)."""
        scores: Tensor = self.gate_of_x(x) + self.gate_of_h(h)[scenario]
        return scores.sigmoid()

    def every_scenario(self, x: Tensor) -> Tensor:
        """Return alpha r_t of each row in each scenario (M, B, T)."""
        h = self.vectors(self.scenarios)
        r = self.layers.every_head(x, self.layers.generate(h), self.head)
        if self.fusion != "gate":
            return self.alpha * r
        scores: Tensor = self.gate_of_x(x) + self.gate_of_h(h).unsqueeze(1)
        return scores.sigmoid() * r

    def generate(self) -> Tensor:
        """Return theta (M, P) of all scenarios."""
        return self.layers.generate(self.vectors(self.scenarios))


class _Remembered:
    """Rows (N, P) that are computed when they are first asked for, and again when what they are made of changes.

    Several threads may ask at once: one after the other looks rows up, and fills in what is missing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._made_by: list[Any] | None = None
            self._table: Tensor | None = None

    def get(self, ids: Tensor, n_ids: int, made_by: list[Tensor], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Rows (B, P) of ids (B,); `compute(ids)` gives those that are missing."""
        with self._lock:
            state = [ids.device, *_state(made_by)]
            if torch.is_autocast_enabled(ids.device.type):
                state.append(torch.get_autocast_dtype(ids.device.type))
            if state != self._made_by:
                self._made_by, self._table = state, None
                with torch.inference_mode(False):  # a tensor made in inference mode could not be filled outside it
                    self._has = torch.zeros(n_ids, dtype=torch.bool, device=ids.device)
            missing = ids[~self._has[ids]]
            if len(missing) or self._table is None:
                missing = missing.unique()
                rows = compute(missing)
                if self._table is None:
                    with torch.inference_mode(False):
                        self._table = torch.empty(n_ids, rows.shape[1], dtype=rows.dtype, device=rows.device)
                self._table[missing], self._has[missing] = rows, True
            return self._table.index_select(0, ids)

    def __deepcopy__(self, memo: Any) -> _Remembered:
        return _Remembered()

    def __reduce__(self) -> Any:
        return _Remembered, ()


def _state(tensors: list[Tensor]) -> list[Any]:
    """Return numbers that change when the tensors do: their writes, and norms, as fused optimisers count no writes."""
    versions = [None if t.is_inference() else t._version for t in tensors]
    return versions + torch.stack([t.detach().norm() for t in tensors if t.is_floating_point()]).tolist()


def backbone_class(name: Any) -> type[MultiScenarioRecommender]:
    """Return the model class that a `backbone` key names.

    Raises:
        InputError: there is none of this name that can be a backbone; the message lists those that can.
    """
    if name in registry.registered_models():
        backbone = registry.model_class(name)
        if _can_be_backbone(backbone):
            return backbone
    possible = [
        model_name for model_name in registry.registered_models() if _can_be_backbone(registry.model_class(model_name))
    ]
    raise InputError(
        f"'backbone': '{name}' is no model that LLM4MSR can be built around{nearest(str(name), possible)} "
        f"Those are: {', '.join(possible)}."
    )


def _can_be_backbone(model: type) -> bool:
    return issubclass(model, MultiScenarioRecommender) and not issubclass(model, LLM4MSR)
