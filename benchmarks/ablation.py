"""What each part of HiNet brings: the model without it beside the whole, and beside a SharedBottom as large.

    python -m benchmarks.ablation --work=DIR [--sets yelp kuairand ml-1m] [--rows 20000] [--seeds 5]

Method. `recbole_msr.compare` on the datasets of `benchmarks.outside_data`, with the models' defaults and one split; so
all entries have the same rows, and each difference from the whole HiNet is tested over rows and seeds. Entries:

- K = 1, K = 2: fewer sub-experts (the default has 5);
- without A_i, S_i or G: this part of C_i = concat[G, S_i, A_i] is 0, so that nothing is learnt through it;
- attention uniform, attention given: a_im = 1 / (M - 1), or in proportion to scenario m's training rows; nothing is
  learnt of e_i;
- expert dropout: in training each sub-expert is left out of a row's mixture with probability 0.2, and the others' gates
  are divided by their sum;
- diversity: the loss of a row also has 0.1 times the mean squared cosine of two sub-experts' outputs of one expert;
- SharedBottom; and with its bottom as wide as makes it as many parameters as HiNet's.

Prints each comparison's leaderboard, and its conclusions. Finished trainings are kept; the same command resumes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import recbole_msr
from benchmarks.leaderboard import SETTINGS, table
from benchmarks.outside_data import SOURCE, prepare, present
from recbole_msr.config.build import build_config
from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.files.yaml import read_yaml
from recbole_msr.layers.experts import ScenarioExtraction, SubExpertIntegration
from recbole_msr.models.hinet import HiNet
from recbole_msr.options import Options
from recbole_msr.registry import properties

PARTS = ("G", "S_i", "A_i")
"""The parts of C_i, in their order."""
ATTENTIONS = ("attention uniform", "attention given")
ADDITIONS = ("expert dropout", "diversity")
ABLATIONS = ("none", *PARTS, *ATTENTIONS, *ADDITIONS)
LEFT_OUT = 0.2
"""Probability with which expert dropout leaves out a sub-expert."""
DIVERSITY = 0.1
"""Weight of the diversity term."""


class AblatedHiNet(HiNet):
    """HiNet without one of its parts, or with an addition, which the key `ablation` names, a word of `ABLATIONS`."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        ablation = Options(config).choice("ablation", ABLATIONS)
        self._similarities: list[Tensor] = []
        for layer in self.scenario_layers:
            assert isinstance(layer, ScenarioExtraction)
            if ablation in PARTS:
                layer.register_forward_hook(_Without(PARTS.index(ablation)))
            elif ablation in ATTENTIONS:
                rows = torch.ones(self.n_scenarios)
                if ablation == "attention given":
                    rows = rows_by_scenario(dataset, self.n_scenarios)
                layer.san = _Given(layer.san, rows)  # type: ignore[assignment]
            elif ablation == "expert dropout":
                layer.experts.gate = _Dropped(layer.experts)  # type: ignore[method-assign]
            elif ablation == "diversity":
                layer.experts.sub_experts.register_forward_hook(self._add_similarity)

    def _add_similarity(self, bank: nn.Module, inputs: Any, q: Tensor) -> None:
        if self.training:
            self._similarities.append(similarity(q.unflatten(0, self.scenario_layers[0].experts.shape)))  # type: ignore

    def calibration(self, logits: Tensor) -> Tensor | float:
        """Return the diversity term, a T-th of it for each task (B, T); 0 without."""
        if not self._similarities:
            return 0.0
        term = DIVERSITY / self.n_tasks * torch.stack(self._similarities).sum(dim=0)
        self._similarities.clear()
        return term.unsqueeze(1).expand(-1, self.n_tasks)


def similarity(q: Tensor) -> Tensor:
    """Return the mean over experts and pairs k < l of cos(q_ek, q_el)^2 (B,) for outputs q (experts, K, B, H)."""
    direction = F.normalize(q, dim=-1)
    cosines = torch.einsum("ekbh,elbh->eklb", direction, direction).square()
    k = q.shape[1]
    of_pairs = cosines.sum(dim=(1, 2)) - torch.einsum("ekkb->eb", cosines)
    return of_pairs.mean(dim=0) / (k * (k - 1))


def rows_by_scenario(dataset: Any, n_scenarios: int) -> Tensor:
    """Return the number of training rows of each scenario (M,)."""
    scenario = dataset.row_scenario(dataset.inter_feat).long() - 1
    return torch.bincount(scenario[scenario >= 0], minlength=n_scenarios).float()


class _Dropped:
    """The gates of an integration, of which training leaves some out."""

    def __init__(self, experts: SubExpertIntegration) -> None:
        self._gate, self._experts = experts.gate, experts

    def __call__(self, x: Tensor) -> Tensor:
        g = self._gate(x)
        if not self._experts.training:
            return g
        kept = g * (torch.rand_like(g) >= LEFT_OUT)
        total = kept.sum(dim=1, keepdim=True)
        return torch.where(total > 0, kept / total.clamp(min=1e-12), g)  # where all would be left out none is


class _Without:
    def __init__(self, part: int) -> None:
        self._part = part

    def __call__(self, layer: nn.Module, inputs: Any, c: Tensor) -> Tensor:
        parts = list(c.chunk(len(PARTS), dim=-1))
        parts[self._part] = torch.zeros_like(parts[self._part])
        return torch.cat(parts, dim=-1)


class _Given(nn.Module):
    """An attention that takes from other scenarios in a given proportion.

    Args:
        san: whose place it takes.
        proportion: of every scenario (M,).
    """

    def __init__(self, san: Any, proportion: Tensor) -> None:
        super().__init__()
        self.top_k = None
        others = (~san.itself).float() * proportion
        self.register_buffer("share", others / others.sum(dim=1, keepdim=True).clamp(min=1), persistent=False)

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
    names = {part: f"without {part}" for part in PARTS} | {name: name for name in (*ATTENTIONS, *ADDITIONS)}
    ablated = {label: {"model": "AblatedHiNet", "ablation": name} for name, label in names.items()}
    return {
        "HiNet": {"model": "HiNet"},
        "K = 1": {"model": "HiNet", "sub_experts": 1},
        "K = 2": {"model": "HiNet", "sub_experts": 2},
        **ablated,
        "SharedBottom": {"model": "SharedBottom"},
        "SharedBottom, as large": {"model": "SharedBottom", "bottom_hidden_sizes": [bottom_width(dataset, config), 64]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for data and comparisons")
    parser.add_argument("--sets", nargs="+", default=["yelp", "kuairand", "ml-1m"])
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the raw data")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of whole users at most")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    recbole_msr.register(AblatedHiNet, read_yaml(properties("model", "HiNet.yaml")) | {"ablation": "none"})
    for name in present(given.sets, given.source):
        dataset, config = prepare(name, given.work / "data", rows=given.rows, source=given.source)
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
