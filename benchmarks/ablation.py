"""What each part of HiNet brings: the model without it beside the whole, and beside a SharedBottom as large.

    python -m benchmarks.ablation --work=DIR [--sets yelp kuairand] [--rows 42000] [--seeds 3]

Method. `recbole_msr.compare` on the datasets of `benchmarks.outside_data`, with the models' defaults and one split; so
all entries have the same rows, and each difference from the whole HiNet is tested over rows and seeds. Entries:

- K = 1, K = 2: fewer sub-experts (the default has 5);
- without A_i, S_i or G: this part of C_i = concat[G, S_i, A_i] is 0, so that nothing is learnt through it;
- uniform attention: a_im = 1 / (M - 1), nothing is learnt of e_i;
- SharedBottom: its bottom as wide as makes it as many parameters as HiNet's.

Prints each comparison's leaderboard, and its conclusions.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import recbole_msr
from benchmarks.leaderboard import SETTINGS, table
from benchmarks.outside_data import missing, prepare
from recbole_msr.config.build import build_config
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.files.yaml import read_yaml
from recbole_msr.layers.experts import ScenarioExtraction
from recbole_msr.models.hinet import HiNet
from recbole_msr.options import Options
from recbole_msr.registry import properties

PARTS = ("G", "S_i", "A_i")
"""The parts of C_i, in their order."""
ABLATIONS = ("none", *PARTS, "attention")


class AblatedHiNet(HiNet):
    """HiNet without one of its parts, which the key `ablation` names, a word of `ABLATIONS`."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        ablation = Options(config).choice("ablation", ABLATIONS)
        for layer in self.scenario_layers:
            assert isinstance(layer, ScenarioExtraction)
            if ablation in PARTS:
                layer.register_forward_hook(_Without(PARTS.index(ablation)))
            elif ablation == "attention":
                layer.san = _Uniform(layer.san)  # type: ignore[assignment]


class _Without:
    def __init__(self, part: int) -> None:
        self._part = part

    def __call__(self, layer: nn.Module, inputs: Any, c: Tensor) -> Tensor:
        parts = list(c.chunk(len(PARTS), dim=-1))
        parts[self._part] = torch.zeros_like(parts[self._part])
        return torch.cat(parts, dim=-1)


class _Uniform(nn.Module):
    """An attention that takes alike from all other scenarios."""

    def __init__(self, san: Any) -> None:
        super().__init__()
        self.top_k = None
        self.register_buffer("share", (~san.itself).float() / max(len(san.itself) - 1, 1), persistent=False)

    def weights(self, e: Tensor | None) -> Any:
        """Return a (M, M)."""
        return self.share

    def forward(self, s: Tensor, scenario: Tensor, e: Tensor | None) -> Tensor:
        """A_i (B, H), as `ScenarioAwareAttention`."""
        return torch.einsum("bm,mbh->bh", self.weights(e)[scenario].to(s.dtype), s)


def bottom_width(dataset: str, config: dict[str, Any]) -> int:
    """Return the width w for which SharedBottom's bottom [w, 64] has about as many parameters as HiNet."""
    built = build_config("HiNet", dataset, config)
    model = HiNet(built, ScenarioDataset(built).build()[0])
    n = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("features"))
    return round((n - 64) / (model.features.output_size + 1 + 64))


def entries(dataset: str, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the entries of the comparison, the whole HiNet first."""
    ablated = {f"without {part}": {"model": "AblatedHiNet", "ablation": part} for part in PARTS}
    return {
        "HiNet": {"model": "HiNet"},
        "K = 1": {"model": "HiNet", "sub_experts": 1},
        "K = 2": {"model": "HiNet", "sub_experts": 2},
        **ablated,
        "uniform attention": {"model": "AblatedHiNet", "ablation": "attention"},
        "SharedBottom": {"model": "SharedBottom", "bottom_hidden_sizes": [bottom_width(dataset, config), 64]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for data and comparisons")
    parser.add_argument("--sets", nargs="+", default=["yelp", "kuairand"])
    parser.add_argument("--rows", type=int, default=42_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    recbole_msr.register(AblatedHiNet, read_yaml(properties("model", "HiNet.yaml")) | {"ablation": "none"})
    for name in given.sets:
        if (why := missing(name)) is not None:
            print(why)
            continue
        dataset, config = prepare(name, given.work / "data", rows=given.rows)
        config |= SETTINGS
        compared = recbole_msr.compare(
            entries(dataset, config),
            dataset,
            config=config,
            seeds=given.seeds,
            output=given.work / f"compare-{name}",
            progress=False,
        )
        print(f"\n{name}, {given.rows} rows at most, {given.seeds} seeds\n")
        print(table(compared))
        print("\n".join(compared.verdict), flush=True)


if __name__ == "__main__":
    main()
