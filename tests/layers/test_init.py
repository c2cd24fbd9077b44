import pytest
import torch

from recbole_msr.layers.embedding import INITIAL_STD
from recbole_msr.registry import BUILT_IN_MODELS

MODELS = [name for name in BUILT_IN_MODELS if name not in ("HiNet", "LLM4MSR")]

FIRST_LAYER = {
    "AITM": "tower.weights.0",
    "APG": "towers.bank.weights.0",
    "AdaSparse": "layers.0.0.weight",
    "AdaptDHM": "fcn.0.weight",
    "AutoIFS": "bottom.0.weight",
    "HAMUR": "layers.0.weights.0",
    "M3oE": "shared_experts.weights.0",
    "PEPNet": "towers.layers.0.weights.0",
    "PLE": "levels.0.experts.weights.0",
    "SARNet": "shared_experts.bank.weights.0",
    "STAR": "fcn.0.weight",
    "SharedBottom": "bottom.0.weight",
}
"""Name of a layer, where it is not the first of experts."""


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_have_the_standard_deviation_asked_for(make_model, name):
    for std in (0.0001, INITIAL_STD):
        features = make_model(3, name, embedding_std=std)[0].features
        known = torch.cat([features.table.weight, *(table.weight for table in features.seq_tables)])
        known = known[known.any(dim=1)]  # the rows of unknown values are 0
        assert known.std().item() == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_drawn_as_asked(make_model, name):
    """As torch draws them, no entry of a layer, weight or bias, is above one over the root of its width."""
    he, torch_like = (make_model(3, name, weight_init=init)[0] for init in ("he", "torch"))
    first = FIRST_LAYER.get(name, "experts.weights.0")
    bound = dict(he.named_parameters())[first].shape[-1] ** -0.5
    assert dict(torch_like.named_parameters())[first].abs().max() <= bound
    assert dict(he.named_parameters())[first].abs().max() > 2 * bound
    bias = first.replace("weight", "bias") if "weights" not in first else first.replace("weights", "biases")
    assert not dict(he.named_parameters())[bias].any()
    assert dict(torch_like.named_parameters())[bias].any()
