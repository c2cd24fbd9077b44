import numpy as np
import pytest
import torch

from recbole_msr.errors import InputError
from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, count, mlp, mlp_size, tower

SMALL = {"embedding_size": 4, "scenario_embedding_size": 3, "hidden_sizes": [8, 6], "dropout": 0.0}
EPSILON, BETA = 0.4, 2.0
PRUNERS = 3


def factors(state, number, kind, e, h):
    """pi of a layer's units."""
    v = state[f"pruners.{number}.linear.weight"] @ np.concatenate([e, h])
    steep = 1 / (1 + np.exp(-state["alpha"] * v))
    if kind == "scaling":
        return BETA / (1 + np.exp(-v))
    if kind == "binarization":
        return (steep > EPSILON).astype(float)
    return np.where(BETA * steep > EPSILON, BETA * steep, 0.0)


def layers_of(state, kind, x, i):
    """What every pruner makes of its layer: x, then the hidden layers; and its factors."""
    e = state["scenario_embedding"][i]
    pi = [factors(state, 0, kind, e, x)]
    h = np.concatenate([e, pi[0] * x])
    for number in (0, 1):
        h = mlp(state, f"layers.{number}", h)
        pi.append(factors(state, number + 1, kind, e, h))
        h = pi[-1] * h
    return h, pi


def slow_logits(kind, per, scenarios):
    def slow(state, x, i, t):
        return tower(state, "towers", per, i, t, scenarios, layers_of(state, kind, x, i)[0])

    return slow


@pytest.fixture
def adasparse(make_model):
    """A model whose pruners prune some units."""

    def make(scenarios=3, **settings):
        model, rows = make_model(scenarios, "AdaSparse", **(SMALL | {"epsilon": EPSILON, "beta": BETA} | settings))
        for parameter in (model.scenario_embedding, model.features.table.weight):
            torch.nn.init.normal_(parameter)
        for pruner in model.pruners:
            torch.nn.init.normal_(pruner.linear.weight)
        return model, rows

    return make


@every(
    2,
    scenarios=[1, 2, 3],
    tasks=[1, 3],
    kind=["binarization", "scaling", "fusion"],
    per=["scenario", "task", "scenario_task"],
    batch_norm=[False, True],
)
def test_logits_equal_the_equations(adasparse, scenarios, tasks, kind, per, batch_norm):
    settings = {"tasks": TASKS[tasks], "pruning": kind, "towers_per": per, "batch_norm": batch_norm, "alpha_step": 0.5}
    model, rows = adasparse(scenarios, **settings)
    assert_logits_equal(model, rows, slow_logits(kind, per, scenarios))
    assert model.alpha == 1.5  # after one training step


@pytest.mark.parametrize("kind", ["binarization", "fusion"])
def test_the_loss_has_the_sparsity_term(adasparse, kind):
    """0.3 times the mean over rows and layers of the squared distance to 0.15, outside of 0.1 to 0.2."""
    given = {"pruning": kind, "sparsity_low": 0.1, "sparsity_high": 0.2, "alpha_step": 0.0}
    model, rows = adasparse(**given, sparsity_weight=0.3)
    with torch.no_grad():
        found = model.calculate_loss(rows).item()
        model.sparsity_weight = 0.0
        plain = model.calculate_loss(rows).item()
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    x, scenario = model.embed(rows).detach().double().numpy(), model.scenario_of(rows).tolist()
    terms = []
    for b in range(len(x)):
        for pi in layers_of(state, kind, x[b], scenario[b])[1]:
            pruned = np.mean(pi == 0)
            terms.append(0.0 if 0.1 <= pruned <= 0.2 else (pruned - 0.15) ** 2)
    assert np.mean(terms) > 0
    assert found - plain == pytest.approx(0.3 * np.mean(terms), rel=1e-3)
    model.eval()
    assert model.calculate_loss(rows).item() == pytest.approx(plain, rel=1e-5)


def test_the_sparsity_term_draws_the_share_of_pruned_units_into_its_range(adasparse):
    model, rows = adasparse(sparsity_weight=100.0, sparsity_low=0.5, sparsity_high=0.6, pruning="binarization")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def pruned():
        with torch.no_grad():
            return model.measures(model.embed(rows), model.scenario_of(rows))[0].values.mean(dim=0)

    before = pruned()
    for _ in range(60):
        optimizer.zero_grad()
        model.calculate_loss(rows).backward()
        optimizer.step()
    assert (before - 0.55).abs().max() > 0.1
    assert (pruned() - 0.55).abs().max() < 0.08


def test_nothing_is_pruned_at_the_start(make_model):
    model, rows = make_model(3, "AdaSparse")
    (shown,) = model.measures(model.embed(rows), model.scenario_of(rows))
    assert shown.columns == ["input", "layer 1", "layer 2"]
    assert not shown.values.any()


@pytest.mark.parametrize("kind", ["binarization", "scaling", "fusion"])
def test_every_kind_trains_all_parameters(adasparse, kind):
    model, rows = adasparse(pruning=kind, activation="tanh")
    model.calculate_loss(rows).backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_a_range_upside_down_is_refused(make_model):
    with pytest.raises(InputError, match=r"'sparsity_low' 0\.5 is above 'sparsity_high' 0\.25"):
        make_model(3, "AdaSparse", **SMALL, sparsity_low=0.5)


def test_the_number_of_parameters_is_that_of_the_equations(make_model):
    model, _ = make_model(3, "AdaSparse", **SMALL)
    d = model.features.output_size
    pruners = (3 + d) * d + (3 + 8) * 8 + (3 + 6) * 6
    assert count(model) == 3 * 3 + pruners + mlp_size(3 + d, 8, 6) + 2 * mlp_size(6, 1)
