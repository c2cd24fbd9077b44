"""A trained model that reads each user's, item's or scenario's vector of another one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.knowledge_controls import permuted_rows
from recbole_msr.models.llm4msr import BottomLevel
from recbole_msr.runs.explain.vectors import vectors_read


@contextmanager
def permuted_vectors(
    model: MultiScenarioRecommender, levels: Collection[str], tokens: Mapping[str, Sequence[str]], seed: int
) -> Iterator[None]:
    """Let a model read the vectors of some levels dealt to others, for as long as the context lasts.

    The known ids of a level are dealt as `knowledge_control: permuted` deals the vectors of a store: of two or more
    none keeps its own. What is unknown stays unknown. No weight changes.

    Args:
        model: the model, in evaluation mode.
        levels: the levels that are dealt.
        tokens: of each level the names of all ids.
        seed: what the order follows from, with the names.
    """
    hooks = []
    for level in levels:
        for vectors in vectors_read(model)[level]:
            donors = _donors(vectors.known, tokens[level], seed, level)

            def deal(_: Any, given: tuple[Any, ...], donors: Tensor = donors) -> tuple[Any, ...]:
                ids, *others = given
                return donors[ids], *others

            hooks.append(vectors.register_forward_pre_hook(deal))
    _forget(model)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        _forget(model)


def _donors(known: Tensor, tokens: Sequence[str], seed: int, level: str) -> Tensor:
    """Return for every id the one whose vector it gets (N,)."""
    donors = torch.arange(len(known), device=known.device)
    ids = known.nonzero().squeeze(1)
    names = [str(token) for token in np.asarray(tokens, dtype=object)[ids.cpu().numpy()]]
    donors[ids] = ids[torch.from_numpy(permuted_rows(names, seed, level)).to(ids.device)]
    return donors


def _forget(model: MultiScenarioRecommender) -> None:
    """Let go of layers that were generated of other vectors."""
    for module in model.modules():
        if isinstance(module, BottomLevel):
            module.forget()
