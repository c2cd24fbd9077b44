"""Other initial values than this package's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_msr.layers.embedding import INITIAL_STD
from recbole_msr.layers.mlp import MLPBank
from recbole_msr.layers.star import StarLinear

WEIGHT_INIT = ("he", "torch")
"""he: variance 2 / fan-in, biases 0 (`recbole_msr.layers.mlp.initialise`). torch: as `torch.nn.Linear` draws both."""

_CROSS_LAYERS = ("features.interaction.layers.", "features.interaction.reduced.")


@torch.no_grad()
def reinitialise(model: nn.Module, embedding_std: float, weight_init: str) -> None:
    """Give a model that has just been built the initial values asked for.

    Args:
        model: with its `FeatureEmbedding` as `features`.
        embedding_std: standard deviation of the embeddings of the features.
        weight_init: a word of `WEIGHT_INIT`, for all layers behind them, cross layers included.
    """
    for table in model.get_submodule("features").modules():
        if isinstance(table, (nn.Embedding, nn.EmbeddingBag)):
            table.weight.mul_(embedding_std / INITIAL_STD)
    if weight_init == "he":
        return
    for name, layer in model.named_modules():
        if name.startswith("features.") and not name.startswith(_CROSS_LAYERS):
            continue
        if isinstance(layer, MLPBank):
            for weight, bias in zip(layer.weights, layer.biases, strict=True):
                _as_torch(weight, bias)
        elif isinstance(layer, (nn.Linear, StarLinear)):
            _as_torch(layer.weight, layer.bias)


def _as_torch(weight: Tensor, bias: Tensor | None) -> None:
    bound = weight.shape[-1] ** -0.5
    weight.uniform_(-bound, bound)
    if bias is not None:
        bias.uniform_(-bound, bound)
