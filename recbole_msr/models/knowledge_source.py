"""Where a run's frozen vectors come from: a store, parts of its profiles, or a control."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from recbole_msr.errors import InputError, nearest
from recbole_msr.models.frozen_vectors import FITTED_ROWS, FrozenVectors
from recbole_msr.models.knowledge_controls import CONTROLS, permuted_rows, random_like, random_vectors
from recbole_msr.models.leave_one_out import LeaveOneOut
from recbole_msr.options import Options
from recbole_msr.prompts.own_rows import OwnRows, knows_rows, own_rows
from recbole_msr.prompts.store import Knowledge

logger = logging.getLogger(__name__)

_own_rows: WeakKeyDictionary[Any, dict[tuple[Any, ...], OwnRows]] = WeakKeyDictionary()  # by training split


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
