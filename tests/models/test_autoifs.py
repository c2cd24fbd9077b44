import numpy as np
import pytest
import torch

from recbole_msr.runs.run import run
from tests.combinations import every
from tests.models.equations import TASKS, assert_logits_equal, count, mlp, mlp_size, normalised, relu

SMALL = {
    "embedding_size": 4,
    "scenario_embedding_size": 3,
    "bottom_hidden_sizes": [9, 8],
    "unit_size": 6,
    "rank": 2,
    "gate_hidden_sizes": [5],
    "dropout": 0.0,
}


def unit(state, name, v):
    return state[f"{name}.weight"] @ v + state[f"{name}.bias"]


def own_unit(state, name, n, v):
    return v @ state[f"{name}.into"][n] @ state[f"{name}.out"][n] + state[f"{name}.bias"][n]


def slow_logits(state, x, i, t):
    v = np.concatenate([x, state["scenario_embedding"][i]])
    p = mlp(state, "bottom", v)
    u, own = unit(state, "scenario_unit", p), own_unit(state, "own_scenario_units", i, p)
    h = u + own
    h = relu(normalised(h, state, "norm") if "norm.weight" in state else h)

    def shared(v):
        return unit(state, "task_unit", v)[0]

    def of_task(v):
        return own_unit(state, "own_task_units", t, v)[0]

    hidden = mlp(state, "gate_network", v)
    g = state["gate_heads.weights.0"][t] @ hidden + state["gate_heads.biases.0"][t]
    s = (g > 0) if state["is_selected"] else 1 / (1 + np.exp(-state["temperature"] * g))
    flows = [shared(u), of_task(own), of_task(u), shared(own)]
    return shared(h) + of_task(h) - sum(s[j] * flows[j] for j in range(4))


@pytest.fixture
def autoifs(make_model):
    """autoifs(scenarios, **settings) -> a model off its start, where little is each one's own, and all rows."""

    def make(scenarios=3, **settings):
        model, rows = make_model(scenarios, "AutoIFS", **(SMALL | settings))
        for name, parameter in model.named_parameters():
            if "own_" in name or "gate_" in name or name == "features.table.weight":
                torch.nn.init.normal_(parameter)
        return model, rows

    return make


@every(2, scenarios=[1, 2, 3], tasks=[1, 3], phase=["search", "retraining"], batch_norm=[False, True])
def test_logits_equal_the_equations(autoifs, scenarios, tasks, phase, batch_norm):
    model, rows = autoifs(scenarios, tasks=TASKS[tasks], batch_norm=batch_norm)
    model.temperature.fill_(1.7)
    model.is_selected.fill_(phase == "retraining")
    assert_logits_equal(model, rows, slow_logits)


def test_the_temperature_rises_by_a_factor_to_its_end(make_model):
    model, _ = make_model(3, "AutoIFS", **SMALL, search_epochs=5, final_temperature=81.0, epochs=9)
    model.is_selected.fill_(True)  # as in a run that begins with the weights of an earlier one
    found = []
    for epoch in range(5):
        assert not model.start_epoch(epoch)
        assert not model.is_selected
        found.append(model.temperature.item())
    np.testing.assert_allclose(found, [1, 3, 9, 27, 81], rtol=1e-5)


def test_retraining_begins_with_the_weights_before_the_last_epoch_of_the_search_and_with_its_gates(autoifs):
    model, _ = autoifs(search_epochs=2, epochs=9)
    other, _ = autoifs(search_epochs=2, epochs=9)
    states = []
    for epoch in range(2):
        model.start_epoch(epoch)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
    ended = {name: value.clone() for name, value in model.state_dict().items()}
    other.load_state_dict(ended)
    other.load_training_state(model.training_state())  # as a training that was interrupted between the two
    for each in (model, other):
        assert each.start_epoch(2)
        assert not each.training_state()
        for name, value in each.state_dict().items():
            if name == "is_selected":
                assert value
            else:
                assert torch.equal(value, (ended if name.startswith(("gate_", "temp")) else states[1])[name]), name


def test_gates_are_trained_in_the_search_alone(autoifs):
    model, rows = autoifs(search_epochs=1, epochs=3)
    for epoch, is_trained in ((0, True), (1, False)):
        model.start_epoch(epoch)
        model.zero_grad()
        model.calculate_loss(rows).backward()
        assert bool(model.gate_network[0].weight.grad.any()) == is_trained
        assert bool(model.gate_heads.weights[0].grad.any()) == is_trained


def test_what_explain_shows_are_the_pruned_flows(autoifs):
    model, rows = autoifs()
    model.is_selected.fill_(True)
    model.eval()
    (shown,) = model.measures(model.embed(rows), model.scenario_of(rows))
    assert shown.columns[:2] == ["click: shared to shared", "click: own to own"]
    assert shown.columns[7] == "like: own to shared"
    assert set(shown.values.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("rank", [1, 3])
def test_the_number_of_parameters_is_that_of_the_equations(make_model, rank):
    model, _ = make_model(3, "AutoIFS", **(SMALL | {"rank": rank}))
    d = model.features.output_size + 3
    units = mlp_size(8, 6) + 3 * (rank * (8 + 6) + 6) + mlp_size(6, 1) + 2 * (rank * (6 + 1) + 1)
    assert count(model) == 3 * 3 + mlp_size(d, 9, 8) + units + mlp_size(d, 5) + 2 * mlp_size(5, 4)


@pytest.fixture
def settings(tiny_data):
    return SMALL | {
        "data_path": str(tiny_data),
        "scenario": {"field": "age", "bins": [25, 35]},
        "tasks": TASKS[2],
        "search_epochs": 2,
        "epochs": 4,
        "stopping_step": 0,
        "learning_rate": 0.03,
        "gate_learning_rate_factor": 0.5,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }


def test_the_best_epoch_is_one_of_the_retraining(settings, tmp_path):
    """However good those of the search are; and an interrupted training goes on to the same weights."""
    seen = []

    def stop(epoch, score):
        seen.append(score)
        if epoch == 1 and len(seen) == 2:
            raise KeyboardInterrupt

    whole = run("AutoIFS", "tiny", config=settings | {"output_dir": str(tmp_path / "whole")})
    assert whole.summary["best_epoch"] >= 3
    assert whole.model.is_selected
    with pytest.raises(KeyboardInterrupt):
        run("AutoIFS", "tiny", config=settings | {"output_dir": str(tmp_path / "cut")}, after_epoch=stop)
    resumed = run("AutoIFS", "tiny", config=settings | {"output_dir": str(tmp_path / "cut"), "resume": True})
    for (name, value), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_a_training_that_is_all_search_is_told(settings, tmp_path, caplog):
    result = run("AutoIFS", "tiny", config=settings | {"epochs": 1, "output_dir": str(tmp_path / "run")})
    assert "all 1 epochs are search (search_epochs: 2): no flow is pruned for good" in caplog.text
    assert not result.model.is_selected
