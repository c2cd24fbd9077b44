"""A HiNet of the largest sizes whose weights serve the smaller HiNets inside it, and the space of these structures.

A sub-network is the HiNet of a structure whose weights are the leading units, sub-experts and experts of the largest
one's, as in Yu and Huang, Universally Slimmable Networks (ICCV 2019). A shallower one has the first layers; the output
layers of the towers are the same whatever their depth.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_msr.models.hinet import HiNet

RANDOM = 2
"""Random structures in a step of the sandwich rule."""
WIDTHS = (8, 16, 32, 64)
LARGEST: dict[str, Any] = {
    **{"scenario_layers": 2, "sub_experts": 4, "expert_hidden_sizes": [64, 64]},
    **{"task_layers": 2, "task_own_experts": 3, "task_shared_experts": 3, "task_expert_hidden_sizes": [64, 64]},
    "tower_hidden_sizes": [64, 64],
}
SMALLEST: dict[str, Any] = {
    **{"scenario_layers": 1, "sub_experts": 1, "expert_hidden_sizes": [8]},
    **{"task_layers": 1, "task_own_experts": 1, "task_shared_experts": 0, "task_expert_hidden_sizes": [8]},
    "tower_hidden_sizes": [8],
}


def draw(random: np.random.Generator) -> dict[str, Any]:
    """A random structure between the smallest and the largest."""
    structure: dict[str, Any] = {}
    for key, most in LARGEST.items():
        if isinstance(most, list):
            structure[key] = random.choice(WIDTHS, random.integers(1, len(most) + 1)).tolist()
        else:
            structure[key] = int(random.integers(SMALLEST[key], most + 1))
    return structure


class Structure(HiNet):
    """A HiNet without weights or features of its own: its layers are called with weights that it is given.

    Args:
        config, dataset: as of HiNet.
        input_size: width D of x.
    """

    forward = HiNet.logits

    def __init__(self, config: Any, dataset: Any, input_size: int) -> None:
        self._input_size = input_size
        with torch.device("meta"):
            super().__init__(config, dataset)

    def _add_features(self, config: Any, dataset: Any) -> None:
        self.features = SimpleNamespace(output_size=self._input_size)


class Supernet(HiNet):
    """The HiNet of the largest sizes, whose loss is the mean over the largest, the smallest and random structures.

    Args:
        config, dataset: as of HiNet.
        random: draws the structures of a step.
        sandwich: False for the loss of one random structure instead.
    """

    def __init__(self, config: Any, dataset: Any, random: np.random.Generator, sandwich: bool = True) -> None:
        super().__init__(config, dataset)
        self._parts = config, dataset
        self._random, self._sandwich = random, sandwich
        self._active: list[Structure] = []  # in a list, as it is no part of this module; empty for the largest

    def structure(self, settings: Mapping[str, Any]) -> Structure:
        """A structure for `using`."""
        config, dataset = self._parts
        config = copy.copy(config)
        config.final_config_dict = {**config.final_config_dict, **settings}
        return Structure(config, dataset, self.features.output_size)

    @contextmanager
    def using(self, structure: Structure | None) -> Iterator[None]:
        """Compute with a structure; None for the largest."""
        self._active = [] if structure is None else [structure]
        yield
        self._active = []

    def calculate_loss(self, interaction: Any) -> Tensor:
        losses = []
        always = (LARGEST, SMALLEST) if self._sandwich else ()
        for settings in (*always, *(draw(self._random) for _ in range(RANDOM if self._sandwich else 1))):
            with self.using(None if settings is LARGEST else self.structure(settings)):
                losses.append(super().calculate_loss(interaction))
        return torch.stack(losses).mean()

    def logits(self, x: Tensor, scenario: Tensor) -> Tensor:
        if not self._active:
            return super().logits(x, scenario)
        structure = self._active[0].train(self.training)
        logits: Tensor = torch.func.functional_call(structure, shared_weights(self, structure), (x, scenario))
        return logits


def shared_weights(large: HiNet, small: HiNet) -> dict[str, Tensor]:
    """Each of a smaller HiNet's tensors, cut from those of a larger one; not those of the features and the loss."""
    tensors = {**dict(large.named_parameters()), **dict(large.named_buffers())}
    found = {}
    for name, wanted in itertools.chain(small.named_parameters(), small.named_buffers()):
        if name.startswith(("scenario_", "task_layers.", "towers.")) and name != "scenario_shares":
            source = _last_layer(name, small, large)
            cut = tensors[source]
            sizes = zip(_blocks(large, source, cut.shape), _blocks(small, name, wanted.shape), strict=True)
            for dim, (most, some) in enumerate(sizes):
                if most != some:
                    cut = cut.index_select(dim, _leading(most, some))
            found[name] = cut
    return found


def _last_layer(name: str, small: HiNet, large: HiNet) -> str:
    """The name in the larger model: a tower's output layer comes after its hidden layers, however many."""
    before, _, place = name.rpartition(".")
    is_output = before.startswith("towers.") and int(place) == small.towers.n_hidden
    return f"{before}.{large.towers.n_hidden}" if is_output else name


_READS_C = re.compile(  # C_i = concat[G, S_i, A_i], of the scenario layer before
    r"scenario_layers\.[1-9]\d*\.experts\.(sub_experts\.weights\.0|gates\.weight)"
    r"|task_layers\.0\.(experts\.weights\.0|gates\.weights\.0|shared_gate\.weight)"
)

Blocks = list[tuple[int, ...]]
"""A dimension: blocks side by side, each a product of factors."""


def _blocks(model: HiNet, name: str, shape: Sequence[int]) -> list[Blocks]:
    """What the dimensions of a tensor are made of."""
    blocks: list[Blocks] = [[(size,)] for size in shape]
    layer: Any = model.get_submodule(".".join(name.split(".")[:2])) if "_layers." in name else None
    if name.startswith("scenario_layers.") and ".experts." in name:
        blocks[0] = [layer.experts.shape]  # experts x sub-experts
    elif name.startswith("task_layers."):
        all_experts: Blocks = [(layer.n_tasks, layer.n_own), (layer.n_shared,)]
        if ".gates." in name:  # (T, own and shared, ...)
            blocks[1] = [(layer.n_own,), (layer.n_shared,)]
        else:
            blocks[0] = all_experts
    if _READS_C.fullmatch(name):
        parts = 3 if model.n_scenarios > 1 else 2
        blocks[-1] = [(parts, shape[-1] // parts)]
    return blocks


def _leading(large: Blocks, small: Blocks) -> Tensor:
    """Places of the first entries along every factor of every block."""
    places, begin = [], 0
    for most, some in zip(large, small, strict=True):
        size = int(np.prod(most))
        block = torch.arange(begin, begin + size).reshape(most)
        places.append(block[tuple(slice(n) for n in some)].flatten())
        begin += size
    return torch.cat(places)
