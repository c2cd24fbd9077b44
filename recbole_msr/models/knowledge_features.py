"""Knowledge vectors among the features of any model: learned projections of them, and the match of user and item."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError, nearest
from recbole_msr.layers.embedding import INITIAL_STD, FeatureEmbedding
from recbole_msr.layers.interaction import Part
from recbole_msr.layers.tracing import is_looked_into
from recbole_msr.models.given_profiles import GivenProfiles, given_profiles
from recbole_msr.models.knowledge import KnowledgeVectors
from recbole_msr.models.knowledge_source import KnowledgeSource, id_field, knowledge_name
from recbole_msr.models.leave_one_out import training_rows
from recbole_msr.models.row_values import RowValues
from recbole_msr.options import Options

logger = logging.getLogger(__name__)

MATCHES = ("none", "dot", "product")

_MATCH = "match of user and item"


class KnowledgeMatch(nn.Module):
    """The match of a row's user vector u (P H,) and item vector v (H,), both scaled; u_p (H,) is a part of a profile.

    dot:     m_p = u_p . v / H, a number for each of the P parts (one, where users have vectors of prompts)
    product: m = W [u_1 * v, ..., u_P * v], W learned

    Args:
        source: where the vectors come from.
        how: a word of `MATCHES`, but none.
        size: the width of m for `product`.

    Attributes:
        width: the width of m.

    Raises:
        InputError: the vectors of users and items do not fit together, or are not there when the run is restored.
    """

    def __init__(self, source: KnowledgeSource, how: str, size: int) -> None:
        super().__init__()
        if source.bake:
            raise InputError("'knowledge_match' reads the store's vectors as they are: turn knowledge_bake off")
        self.user = KnowledgeVectors(source, "user", "none", 0)
        self.item = KnowledgeVectors(source, "item", "none", 0)
        if self.user.size % self.item.size:
            raise InputError(
                f"'knowledge_match': a user's vector of {self.user.size} numbers is not made of parts as wide as an "
                f"item's, {self.item.size}"
            )
        if source.fits and source.is_profile("user") and not source.leaves_one_out:
            logger.warning(
                "knowledge_match: %s with knowledge_leave_one_out: False: a training row's own label is part of its "
                "user's profile, so that the match is nearer to the label in training than in validation and test",
                how,
            )
        self._shape = (self.user.size // self.item.size, self.item.size)
        self.width, self.product = self._shape[0], None
        if how == "product":
            self.width, self.product = size, nn.Linear(self.user.size, size, bias=False)
            nn.init.normal_(self.product.weight, std=INITIAL_STD / self.user.size**0.5)
        self._of_rows = RowValues(source.n_rows, self.width) if how == "dot" else None

    def forward(
        self, user: Tensor, item: Tensor, rows: Tensor | None = None, given: GivenProfiles | None = None
    ) -> Tensor:
        """Return m (B, width) of ids (B,) of users and items, and in training of the rows' numbers (B,).

        Args:
            user: ids of the users.
            item: ids of the items.
            rows: as for `KnowledgeVectors.forward`.
            given: profiles that stand for the vectors of some of the users.
        """
        if not self.training or rows is None or self._of_rows is None or not self._of_rows.has_room or is_looked_into():
            return self._match(self.user(user, rows, given), self.item(item))
        takes_user, takes_item = self.user.takes_own(user, rows), self.item.takes_own(item)
        takes_both = takes_user & takes_item

        def known(places: Tensor) -> tuple[Tensor, Tensor]:
            return self.user.of_known(user[places], rows[places]), self.item.of_known(item[places])

        match = self._of_rows.of(rows, takes_both, lambda places: self._match(*known(places)))  # never trained
        others = (~takes_both).nonzero().squeeze(1)
        u, v = known(others)
        u, v = self.user.or_unknown(u, takes_user[others]), self.item.or_unknown(v, takes_item[others])
        of_others = self._match(u, v)
        return match.to(of_others.dtype).index_copy(0, others, of_others)

    def _match(self, u: Tensor, v: Tensor) -> Tensor:
        products = u.unflatten(1, self._shape) * v.unsqueeze(1)
        match: Tensor = products.mean(dim=2) if self.product is None else self.product(products.flatten(1))
        return match


class KnowledgeFeatures(FeatureEmbedding):
    """x (B, D) of `FeatureEmbedding`, with learned projections of its user's and its item's vectors behind the fields.

    Behind them is the match of the two, with `knowledge_match`.

    Args:
        config: reads `knowledge_features`, `knowledge_feature_size` and `knowledge_match` beside the others.
        dataset, exclude: see `FeatureEmbedding`.
    """

    def __init__(self, config: Any, dataset: Any, exclude: Collection[str] = ()) -> None:
        super().__init__(config, dataset, exclude)
        levels = _feature_levels(config)
        source = KnowledgeSource(config, dataset)
        size = Options(config).integer("knowledge_feature_size")
        self.id_fields = {level: id_field(dataset, level) for level in levels}
        self.knowledge = nn.ModuleDict(
            {level: KnowledgeVectors(source, level, "linear", size, gain=INITIAL_STD) for level in levels}
        )
        self._level_of = {f"knowledge of the {level}": level for level in levels}
        self.columns += [Part(name, size) for name in self._level_of]
        self.output_size += size * len(levels)
        self.match: KnowledgeMatch | None = None
        how = Options(config).choice("knowledge_match", MATCHES)
        if how != "none":
            if len(levels) < 2:
                raise InputError("'knowledge_match' is of users and items: set knowledge_features: [user, item]")
            self.match = KnowledgeMatch(source, how, size)
            self.columns.append(Part(_MATCH, self.match.width))
            self.output_size += self.match.width

    def vectors(self, interaction: Any) -> Tensor:
        """Return all parts of x but their interactions (B, ...)."""
        rows, given = training_rows(interaction), given_profiles(interaction)
        vectors = [
            self.knowledge[level](self.known_ids(field, interaction[field]), rows, given if level == "user" else None)
            for level, field in self.id_fields.items()
        ]
        if self.match is not None:
            fields = (self.id_fields[level] for level in ("user", "item"))
            ids = (self.known_ids(field, interaction[field]) for field in fields)
            vectors.append(self.match(*ids, rows, given))
        return torch.cat([super().vectors(interaction), *vectors], dim=1)

    def columns_of(self, fields: Collection[str]) -> Tensor | None:
        """Mark the columns of `vectors` as `FeatureEmbedding.columns_of`; None with a match: it depends on both ids."""
        return super().columns_of(fields) if self.match is None else None

    def _is_of(self, part: str, fields: Collection[str]) -> bool:
        level = self._level_of.get(part)
        return super()._is_of(part, fields) if level is None else self.id_fields[level] in fields


def input_features(config: Any, dataset: Any, exclude: Collection[str] = ()) -> FeatureEmbedding:
    """Return a model's input: its fields, knowledge vectors (`knowledge_features`), their interactions."""
    has_knowledge = config["knowledge_features"] and knowledge_name(config) != "none"
    features = (KnowledgeFeatures if has_knowledge else FeatureEmbedding)(config, dataset, exclude)
    features.add_interaction(config)
    return features


def _feature_levels(config: Any) -> list[str]:
    given, possible = config["knowledge_features"], ("user", "item")
    levels = [given] if isinstance(given, str) else given
    if not isinstance(levels, Sequence) or len({str(level) for level in levels}) < len(levels):
        raise InputError(f"'knowledge_features' must be a list of different words such as [user, item], got {given!r}")
    for level in levels:
        if level not in possible:
            raise InputError(
                f"'knowledge_features': there are vectors of {' and '.join(possible)}, not of {level!r}"
                f"{nearest(str(level), possible)}"
            )
    return list(levels)
