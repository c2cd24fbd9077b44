"""Frozen knowledge vectors inside a model: looked up by internal id, scaled, reduced, and kept out of its weights."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_msr.errors import InputError
from recbole_msr.layers.embedding import INITIAL_STD
from recbole_msr.models.frozen_vectors import CHUNK, FrozenVectors, principal_components, standard_scale
from recbole_msr.models.given_profiles import GivenProfiles
from recbole_msr.models.knowledge_source import KnowledgeSource
from recbole_msr.models.leave_one_out import LeaveOneOut

logger = logging.getLogger(__name__)

LEVELS = ("user", "scenario", "item")
REDUCTIONS = ("none", "linear", "pca", "whitening")

_REDUCED_BYTES = 1 << 31
"""PCA scores of all ids are computed beforehand for training up to so many bytes, and else batch by batch."""


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
        reads: what is read, and how: models that differ in it are not trained as one batched model, though all their
            parameters are alike.
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
        leaves_out = self._leave_one_out is not None
        self.reads = (source.key.hex(), reduction, source.standardises, self._unknown_share, leaves_out)
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
        takes_own = self.takes_own(ids, rows)
        h = self.or_unknown(self.of_known(ids, rows), takes_own)
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

    def or_unknown(self, h: Tensor, takes_own: Tensor) -> Tensor:
        """Return h (B, size) with the unknown vector for the ids that do not take their own (B,)."""
        return torch.where(takes_own.unsqueeze(1), h, self.unknown)

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
