"""No gate and no attention has chosen before anything is learnt: at the start all are nearly uniform."""

import pytest
import torch

FACTOR = 1.15
"""At the start no weight is further from uniform than by this factor, either way."""

MODELS = {
    "HiNet": {"scenario_layers": 2, "task_layers": 2},
    "HiNet, a deep attention": {"san_hidden_sizes": [32]},
    "MMoE": {},
    "OMoE": {},
    "HMoE": {},
    "PLE": {"levels": 2},
    "AITM": {},
    "M2M": {},
    "M3oE": {},
    "SARNet": {},
}


@pytest.fixture
def weights_of(monkeypatch):
    """weights_of(model, rows) -> every softmax that the model takes, times the number of choices: 1 is uniform."""

    def look(model, rows):
        found, softmax = [], torch.Tensor.softmax

        def noted(scores, dim):
            weights = softmax(scores, dim=dim)
            open_to = scores != -torch.inf
            found.append((weights * open_to.sum(dim=dim, keepdim=True))[open_to])
            return weights

        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(torch.Tensor, "softmax", noted)
            model.eval().predict_tasks(rows)
        return found

    return look


@pytest.mark.parametrize("size", [4, 16])
@pytest.mark.parametrize("named", MODELS)
def test_gates_and_attentions_begin_nearly_uniform(named, size, make_model, weights_of):
    name = named.split(",")[0]
    model, rows = make_model(3, name, embedding_size=size, **MODELS[named])
    found = weights_of(model, rows)
    assert found, "each of these has a gate or an attention"
    for weights in found:
        assert weights.max() < FACTOR
        assert weights.min() > 1 / FACTOR


def test_scenarios_of_star_begin_with_the_same_logit(make_model):
    model, rows = make_model(3, "STAR")
    with torch.no_grad():
        x = model.eval().embed(rows)
        by_scenario = torch.stack([model.logits(x, torch.full((len(x),), m)) for m in range(3)])
    assert (by_scenario.amax(0) - by_scenario.amin(0)).max() < 0.1


def test_the_attention_of_hinet_can_still_become_anything(make_model):
    """A small start is no bound: a few steps towards one scenario reach it."""
    model, _ = make_model(3, "HiNet")
    san = model.scenario_layers[0].san
    optimizer = torch.optim.Adam([model.scenario_embedding, *san.parameters()], lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        (-san.weights(model.scenario_embedding)[0, 2].log()).backward()
        optimizer.step()
    assert san.weights(model.scenario_embedding)[0, 2] > 0.95
