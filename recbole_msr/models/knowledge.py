"""Frozen knowledge vectors inside a model: looked up by internal id, scaled, reduced, and kept out of its weights."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError, nearest
from recbole_msr.layers.embedding import INITIAL_STD, FeatureEmbedding
from recbole_msr.layers.interaction import Part
from recbole_msr.models.frozen_vectors import CHUNK, FITTED_ROWS, FrozenVectors, principal_components, standard_scale
from recbole_msr.models.given_profiles import GivenProfiles, given_profiles
from recbole_msr.models.knowledge_controls import CONTROLS, permuted_rows, random_like, random_vectors
from recbole_msr.models.leave_one_out import LeaveOneOut, training_rows
from recbole_msr.models.row_values import RowValues
from recbole_msr.options import Options
from recbole_msr.prompts.own_rows import OwnRows, knows_rows, own_rows
from recbole_msr.prompts.store import Knowledge

logger = logging.getLogger(__name__)

LEVELS = ("user", "scenario", "item")
MATCHES = ("none", "dot", "product")
REDUCTIONS = ("none", "linear", "pca", "whitening")

_MATCH = "match of user and item"
_own_rows: WeakKeyDictionary[Any, dict[tuple[Any, ...], OwnRows]] = WeakKeyDictionary()  # by training split
_REDUCED_BYTES = 1 << 31
"""PCA scores of all ids are computed beforehand for training up to so many bytes, and else batch by batch."""


class KnowledgeSource:
    """The source of a run's vectors: a store, or a control; see the keys `knowledge...`.

    Args:
        config: a RecBole Config.
        dataset: a `ScenarioDataset`. One without interactions is a finished run's, restored to score new rows: then the
            store is not compared with the data, and nothing is fitted, as all that comes with the weights.

    Attributes:
        fits: whether there are training data that the store must fit.
        bake: whether the reduced vectors are kept with the weights.
        leaves_one_out: whether a training row is left out of the profile of its user.

    Raises:
        InputError: no such store, it was built from other data, or a setting is impossible.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        option = Options(config)
        self.name = knowledge_name(config)
        self.fits = getattr(dataset, "inter_feat", None) is not None
        self.bake = option.flag("knowledge_bake")
        self.standardises = option.choice("knowledge_scale", ("standard", "none")) == "standard"
        self.unknown_share = option.number("knowledge_unknown_share", at_least=0, below=1)
        self._device = option.choice("knowledge_device", ("auto", "cpu", "model"))
        self._dataset = dataset
        self._random = (option.integer("knowledge_size"), option.integer("knowledge_seed", at_least=0))
        self._parts = [str(part) for part in np.atleast_1d(config["knowledge_parts"] or [])]
        self._control = option.choice("knowledge_control", CONTROLS)
        self.leaves_one_out = option.flag("knowledge_leave_one_out")
        self._store: Any = None
        if self.name != "random" and not self.is_baked:
            self._store = Knowledge.open(self.name, config["knowledge_dir"])
            if self.fits:
                self._store.check(dataset)

    @property
    def store(self) -> Knowledge | None:
        """The opened store; None with `random`, and where the weights hold all that is needed."""
        store: Knowledge | None = self._store
        return store

    @property
    def control(self) -> str:
        """`knowledge_control`."""
        return self._control

    def parts(self, level: str) -> dict[str, int]:
        """Return the lengths of the parts that are read of a level's profiles, in the store's order."""
        return {part: size for part, size in self._store.parts(level).items() if not self._parts or part in self._parts}

    @property
    def is_baked(self) -> bool:
        """True where the weights hold all that is needed of the vectors."""
        return self.bake and not self.fits

    @property
    def key(self) -> bytes:
        """16 bytes that tell these vectors from others."""
        if self._store is None:
            return _hashed(f"random {self._random}")
        return stored_key(self._store, self._parts, self._control, self._random[1])

    @property
    def n_rows(self) -> int:
        """The number of training rows; 0 in a restored run."""
        return len(self._dataset.inter_feat) if self.fits else 0

    def is_profile(self, level: str) -> bool:
        """Return whether a level's vectors are profiles, means over training rows: its own ones."""
        has_parts = self._store is not None and level in self._store.levels and bool(self._store.parts(level))
        return has_parts and self._control == "none"

    def leave_one_out(self, level: str) -> LeaveOneOut | None:
        """Return what takes training rows out of a level's profiles; None where that is not wanted or not possible."""
        if not (self.fits and self.leaves_one_out and self.is_profile(level)):
            return None
        if not knows_rows(self._store):
            logger.warning(
                "knowledge '%s' was made by another version of this package: a training row's own label stays in the "
                "profile of its %s. Make it anew with recbole-msr embed --replace",
                *(self.name, level),
            )
            return None
        made = _own_rows.setdefault(self._dataset, {})
        key = (self._store.key, level, *sorted(self._parts))
        if key not in made:
            made[key] = own_rows(self._dataset, self._store, level, self._parts)
        return LeaveOneOut(made[key], FrozenVectors(self._store.vectors("item"), None, self._device))

    def tokens(self, level: str) -> list[str]:
        """Return the external names of all ids of a level; of users and items the first is none."""
        if level == "scenario":
            return [str(name) for name in self._dataset.scenario_names]
        return [str(token) for token in self._dataset.field2id_token[id_field(self._dataset, level)]]

    def vectors(self, level: str) -> FrozenVectors:
        """Return the frozen vectors of a level.

        Raises:
            InputError: the store has none of this level, or they are damaged.
        """
        tokens = self.tokens(level)
        if self._store is None:
            rows = np.arange(len(tokens))
            matrix = random_vectors(tokens, self._random[0], self._random[1], level)
        else:
            if level not in self._store.levels:
                raise InputError(
                    f"knowledge '{self.name}' has no vectors of {level}s, only of {', '.join(self._store.levels)}s: "
                    f"build them with recbole-msr embed --name={self.name} and this level, or choose another"
                )
            matrix, names = self._store.vectors(level), self._store.tokens(level)
            size = self._store.level_size(level)
            if matrix.ndim != 2 or matrix.shape != (len(names), size):
                raise InputError(
                    f"knowledge '{self.name}' is damaged: its {level} vectors have the shape {tuple(matrix.shape)}, "
                    f"but there are {len(names)} {level}s and vectors of {size} numbers"
                )
            matrix = self._of_parts(matrix, level)
            rows = pd.Index(np.asarray(names, dtype=object)).get_indexer(pd.Index(np.asarray(tokens, dtype=object)))
            rows = rows.astype(np.int64)
        if level != "scenario":
            rows[0] = -1
        if self.fits:
            self._require_numbers(FrozenVectors(matrix, rows), level)
        if self._store is not None and self._control == "random":
            matrix = random_like(FrozenVectors(matrix), names.tolist(), self._random[1], level)
        elif self._store is not None and self._control == "permuted":
            rows = np.where(rows >= 0, permuted_rows(names.tolist(), self._random[1], level)[rows], -1)
        return FrozenVectors(matrix, rows, self._device)

    def _of_parts(self, matrix: np.ndarray, level: str) -> np.ndarray:
        """Return the columns (N, H) of the parts that `knowledge_parts` names, of profiles."""
        if not self._parts:
            return matrix
        known = [part for of in self._store.levels for part in self._store.parts(of)]
        if not known:
            raise InputError(
                f"'knowledge_parts': the {level} vectors of knowledge '{self.name}' have no parts: those of users and "
                "scenarios of recbole-msr embed --template=profile have"
            )
        for part in self._parts:
            if part not in known:
                raise InputError(
                    f"'knowledge_parts': knowledge '{self.name}' has no part '{part}'{nearest(part, known) or ';'} "
                    f"it has {', '.join(dict.fromkeys(known))}"
                )
        parts = self._store.parts(level)
        if not parts:  # of items
            return matrix
        ends = np.cumsum(list(parts.values()))
        columns = [
            np.asarray(matrix)[:, end - size : end]
            for (part, size), end in zip(parts.items(), ends, strict=True)
            if part in self._parts
        ]
        if not columns:
            raise InputError(
                f"'knowledge_parts': a {level}'s profile has none of {', '.join(self._parts)}; it has "
                f"{', '.join(parts)}"
            )
        return np.concatenate(columns, axis=1)

    def _require_numbers(self, vectors: FrozenVectors, level: str) -> None:
        if not vectors.has().any():
            raise InputError(f"knowledge '{self.name}' has no vector of any {level} of these data")
        limit = None if vectors.matrix.size <= 1 << 28 else FITTED_ROWS
        for chunk in vectors.chunks(limit):
            if not np.isfinite(chunk).all():
                raise InputError(
                    f"knowledge '{self.name}' has {level} vectors that are not numbers (NaN or infinite): build it "
                    "again with recbole-msr embed, in single precision if the encoder ran in half"
                )

    def known(self, level: str, vectors: FrozenVectors) -> np.ndarray:
        """Mark the known ids (N,): those with a vector; of users, those that also have a training interaction."""
        is_known = vectors.has()
        if level == "user":
            trained = np.zeros_like(is_known)
            trained[np.unique(np.asarray(self._dataset.inter_feat[id_field(self._dataset, level)]))] = True
            is_known &= trained
        return is_known


def id_field(dataset: Any, level: str) -> str:
    """Return the field with the ids of a level's users or items."""
    return str(dataset.uid_field if level == "user" else dataset.iid_field)


def knowledge_name(config: Any) -> str:
    """Return the configured `knowledge`: a store's name, `random` or `none`.

    Raises:
        InputError: it is not set.
    """
    name = config["knowledge"]
    if name is None or not str(name).strip():
        raise InputError(
            "'knowledge' is not set: give the name of a store (recbole-msr embed --dataset=... --encoder=... "
            "--name=NAME builds one, then --knowledge=NAME), 'random' for the control, or 'none' for no vectors"
        )
    return str(name)


def stored_key(store: Knowledge, parts: Collection[str], control: str, seed: int) -> bytes:
    """Return 16 bytes that tell the vectors that a run reads of a store from others.

    Args:
        store: the store.
        parts: `knowledge_parts`, in any order; none stand for all.
        control: `knowledge_control`.
        seed: `knowledge_seed`, which the controls are drawn with.
    """
    made_by = store.key
    known = {part for level in store.levels for part in store.parts(level)}
    if parts and set(parts) != known:
        made_by += f" parts {sorted(set(parts))}"
    if control != "none":
        made_by += f" {control} {seed}"
    return _hashed(made_by)


def _hashed(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class KnowledgeVectors(nn.Module):
    """h (B, size): the frozen vectors of ids, scaled and reduced; of unknown ids a learned vector.

    h = reduce((v - mean) / deviation)   for an id whose vector v (H,) is known
    h = unknown                          for every other id; learned

    reduce is the identity, a learned matrix (size, H) without a bias, or the PCA of the store, whitened or not, which
    brings a scale of its own. Mean, deviation and PCA are computed once, from the store, and kept with the weights.

    Users without a training interaction are unknown, and so no training row needs the unknown vector. For it to be
    learned, a share of the rows, drawn anew in every training step, takes it instead of its own.

    In training, mean and PCA are those of the store; in a restored run they come with the weights, as does which ids
    are known. A store that has been built anew since then is refused.

    In training, a row's user has the profile that is made of the user's other rows (`LeaveOneOut`), and is unknown
    without any: else the vector would tell the row's own label.

    Args:
        source: where the vectors come from.
        level: a word of `LEVELS`.
        reduction: a word of `REDUCTIONS`.
        size: the width of h; not read with the reduction `none`.
        gain: standard deviation of h that a learned reduction begins with.

    Attributes:
        size: the width of h.
    """

    known: Tensor
    """Which ids are known (N,)."""
    key: Tensor
    """What tells these vectors from others (16,)."""
    mean: Tensor
    """(H,)."""
    inverse_deviation: Tensor
    """(H,)."""
    components: Tensor
    """(size, H)."""

    def __init__(self, source: KnowledgeSource, level: str, reduction: str, size: int, gain: float = 1.0) -> None:
        super().__init__()
        if source.bake and reduction == "none":
            raise InputError(
                "'knowledge_bake' keeps the reduced vectors with the weights: choose a knowledge_reduction (pca, "
                "whitening or linear), or turn knowledge_bake off"
            )
        self.level, self.size, self._name = level, size, source.name
        self._bake, self._is_baked = source.bake, source.is_baked
        self._unknown_share = 0.0 if level == "scenario" else source.unknown_share
        self._reduced: FrozenVectors | None = None  # all that `reduce` gives, where it is known beforehand
        self._has_warned = False
        self._leave_one_out = source.leave_one_out(level) if level == "user" else None
        self.linear: nn.Linear | None = None
        n_ids = len(source.tokens(level))
        is_known = torch.zeros(n_ids, dtype=torch.bool)
        if not source.is_baked:
            self._frozen = source.vectors(level)
            if reduction == "none":
                self.size = self._frozen.size
            if source.fits:
                is_known = torch.from_numpy(source.known(level, self._frozen))
            self._add_reduction(source, reduction, gain)
        self.unknown = nn.Parameter(torch.randn(self.size) * INITIAL_STD)
        self.register_buffer("known", is_known)
        self.register_buffer("key", torch.frombuffer(bytearray(source.key), dtype=torch.uint8).clone())

    def _add_reduction(self, source: KnowledgeSource, reduction: str, gain: float) -> None:
        width = self._frozen.size
        mean, deviation, components = np.zeros(width), np.ones(width), np.zeros((self.size, width))
        self._is_pca = reduction in ("pca", "whitening")
        self._is_scaled = source.standardises and not self._is_pca
        if source.fits and self._is_scaled:
            mean, deviation = standard_scale(self._frozen)
        if source.fits and self._is_pca:
            mean, components = principal_components(self._frozen, self.size, whiten=reduction == "whitening")
        if self._is_scaled or self._is_pca:
            self.register_buffer("mean", torch.from_numpy(mean).float())
        if self._is_scaled:
            self.register_buffer("inverse_deviation", torch.from_numpy(1 / deviation).float())
        if self._is_pca:
            self.register_buffer("components", torch.from_numpy(components).float())
        if reduction == "linear":
            self.linear = nn.Linear(width, self.size, bias=False)
            nn.init.normal_(self.linear.weight, std=gain / width**0.5)

    def forward(self, ids: Tensor, rows: Tensor | None = None, given: GivenProfiles | None = None) -> Tensor:
        """Return h (B, size) of internal ids (B,).

        Args:
            ids: the ids.
            rows: numbers of the training rows that they are read for (B,), see `training_rows`; read in training alone.
            given: profiles that stand for the vectors of some of the ids, known or not.
        """
        h = torch.where(self.takes_own(ids, rows).unsqueeze(1), self.of_known(ids, rows), self.unknown)
        return h if given is None else given.put(h, self.of_profiles(given.vectors))

    def of_profiles(self, vectors: Tensor) -> Tensor:
        """Return h (K, size) of vectors (K, H) as the store has them, float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self._reduce(vectors)

    def takes_own(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Mark the ids (B,) that take their own vector, and not the unknown one; in training a share is drawn anew."""
        is_known = self.known[ids]
        if self.training and self._unknown_share:
            is_known = is_known & (torch.rand(len(ids), device=ids.device) >= self._unknown_share)
        if self.training and self._leave_one_out is not None and rows is not None:
            is_known = is_known & ~self._leave_one_out.is_only(rows)
        return is_known

    def of_known(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return h (B, size) of ids that are known; what it says of others is not to be used."""
        if not self.training or self._leave_one_out is None:
            return self._known_vectors(ids)
        if rows is None:
            self._warn_of_own_labels()
            return self._known_vectors(ids)
        return self._vectors_without(self._leave_one_out, ids, rows)

    def _warn_of_own_labels(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "knowledge_leave_one_out: the batches of this training do not say which rows they have, as those of "
                "trainer: lightning do: a row's own label stays in the profile of its %s",
                self.level,
            )

    def _vectors_without(self, own: LeaveOneOut, ids: Tensor, rows: Tensor) -> Tensor:
        """Return h (B, size) of known ids without their rows."""
        if self._is_pca and self._reduces_at_once() and own.has_reduced(len(self.known), self.size):
            return self._known_vectors(ids) + own.reduced_change(ids, rows, self._frozen, self.components)
        if self.linear is not None:
            with torch.autocast(ids.device.type, enabled=False):  # the mean is taken off last, which takes all digits
                weight, bias = self._scaled_linear(self.linear)
                return own.projected(ids, rows, self._frozen, weight) + bias
        return self._reduce(own.take_out(self._frozen.gather(ids), rows))

    def _known_vectors(self, ids: Tensor) -> Tensor:
        if self._reduced is None and self._is_pca and self._reduces_at_once():
            self._reduced = FrozenVectors(self._reduce_all())
        if self._reduced is not None:
            return self._reduced.gather(ids)
        return self._reduce(self._frozen.gather(ids))

    def _reduces_at_once(self) -> bool:
        """Return whether PCA goes over all vectors beforehand: where that is quick, or is done once for many epochs."""
        if len(self.known) * self._frozen.size <= 1 << 26:
            return True
        return self.training and len(self.known) * self.size * 4 <= _REDUCED_BYTES

    def _reduce(self, v: Tensor) -> Tensor:
        if self._is_pca:
            return (v - self.mean) @ self.components.t()
        if self._is_scaled:
            v = (v - self.mean) * self.inverse_deviation
        return v if self.linear is None else self.linear(v.to(self.linear.weight.dtype))

    def _scaled_linear(self, linear: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return the matrix (size, H) and the bias (size,) of scale and learned reduction together."""
        if not self._is_scaled:
            return linear.weight, torch.zeros((), device=linear.weight.device)
        weight = linear.weight * self.inverse_deviation
        return weight, -weight @ self.mean

    @torch.no_grad()
    def _reduce_all(self) -> np.ndarray:
        """Return reduce of all ids (N, size), float32 in memory; zeros where an id is not known."""
        step = max(1, CHUNK // max(self.size, self._frozen.size))
        parts = []
        with torch.autocast(self.known.device.type, enabled=False):
            for ids in torch.arange(len(self.known), device=self.known.device).split(step):
                h = self._reduce(self._frozen.gather(ids)).masked_fill(~self.known[ids].unsqueeze(1), 0.0)
                parts.append(h.float().cpu().numpy())
        return np.concatenate(parts)

    # The reduced vectors in a checkpoint, so that whoever scores with it needs no store.

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._bake:
            reduced = self._reduced.matrix if self._reduced is not None else self._reduce_all()
            destination[prefix + "baked"] = torch.from_numpy(reduced)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        baked = state_dict.pop(prefix + "baked", None)
        saved_key = state_dict.get(prefix + "key")
        if self._is_baked:
            if baked is None:
                raise InputError("the weights hold no reduced vectors: they were kept with knowledge_bake off")
            self._reduced = FrozenVectors(baked.cpu().numpy())
            for name in ("mean", "inverse_deviation", "components", "linear.weight"):
                state_dict.pop(prefix + name, None)
        elif saved_key is not None and not torch.equal(saved_key.cpu(), self.key.cpu()):
            raise InputError(
                f"the weights were trained with other vectors than knowledge '{self._name}' has now: it was built anew "
                "since then. Build it again as it was, or train again"
            )
        else:
            self._reduced = None
        if self._leave_one_out is not None:
            self._leave_one_out.forget()
        super()._load_from_state_dict(state_dict, prefix, *args)


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
        if not self.training or rows is None or self._of_rows is None or not self._of_rows.has_room or _is_traced():
            return self._match(self.user(user, rows, given), self.item(item))
        takes_user, takes_item = self.user.takes_own(user, rows), self.item.takes_own(item)
        takes_both = takes_user & takes_item

        def known(places: Tensor) -> tuple[Tensor, Tensor]:
            return self.user.of_known(user[places], rows[places]), self.item.of_known(item[places])

        match = self._of_rows.of(rows, takes_both, lambda places: self._match(*known(places)))  # never trained
        others = (~takes_both).nonzero().squeeze(1)
        u, v = known(others)
        u = torch.where(takes_user[others].unsqueeze(1), u, self.user.unknown)
        v = torch.where(takes_item[others].unsqueeze(1), v, self.item.unknown)
        of_others = self._match(u, v)
        return match.to(of_others.dtype).index_copy(0, others, of_others)

    def _match(self, u: Tensor, v: Tensor) -> Tensor:
        products = u.unflatten(1, self._shape) * v.unsqueeze(1)
        match: Tensor = products.mean(dim=2) if self.product is None else self.product(products.flatten(1))
        return match


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


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
