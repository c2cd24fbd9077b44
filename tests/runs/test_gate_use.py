"""Gates are watched as they are: the weights seen are those that mix the experts, in every model that has some."""

import pytest
import torch

from recbole_msr.runs.gate_use import GateWatch

SMALL = {"expert_hidden_sizes": [6], "tower_hidden_sizes": [4], "dropout": 0.0, "embedding_size": 4}
NAMES = ["young", "mid", "old"]
BOTH = [f"{task}, {name}" for task in ("click", "like") for name in NAMES]


def watched(model, rows):
    model.eval()
    watch = GateWatch(model)
    with torch.no_grad():
        for m in range(3):
            batch = rows[rows["scenario"] == m + 1]
            with watch.scenario(m):
                model.logits(model.embed(batch), model.scenario_of(batch))
    return watch.use()


def mean_of_softmax(model, rows, m, weight, bias):
    with torch.no_grad():
        x = model.embed(rows[rows["scenario"] == m + 1])
        return (x @ weight.t() + bias).softmax(dim=1).mean(dim=0).tolist()


@pytest.mark.parametrize(
    ("model", "settings", "lines"),
    [
        ("MMoE", {}, BOTH),
        ("MMoE", {"gates_per": "scenario"}, NAMES),
        ("MMoE", {"gates_per": "task", "towers_per": "scenario"}, BOTH),
        ("HMoE", {}, BOTH),
        ("OMoE", {}, NAMES),
    ],
)
def test_a_mixtures_gates_are_averaged_over_the_scenario_that_goes_through_them(model, settings, lines, make_model):
    made, rows = make_model(3, model, experts=3, **SMALL, **settings)
    (use,) = watched(made, rows)
    assert use.gates == lines
    bank = made.gate if model == "OMoE" else made.gates
    for number, name in enumerate(lines):
        m = NAMES.index(name.split(", ")[-1])
        gate = {"OMoE": 0}.get(model, number)
        if settings.get("gates_per") == "task":
            gate = number // 3
        expected = mean_of_softmax(made, rows, m, bank.weights[0][gate], bank.biases[0][gate])
        assert use.weights[number] == pytest.approx(expected, rel=1e-4)
    assert use.dead == []


@pytest.mark.parametrize("per", ["scenario", "task", "scenario_task"])
def test_every_level_of_ple_is_seen(per, make_model):
    made, rows = make_model(3, "PLE", levels=2, own_experts=2, shared_experts=1, experts_per=per, **SMALL)
    first, last = watched(made, rows)
    assert first.gates == last.gates == (NAMES if per == "scenario" else BOTH)
    assert first.experts == ["own expert 1", "own expert 2", "shared expert 1"]
    gates = made.levels[0].gates
    for number, name in enumerate(first.gates):
        gate = number // 3 if per == "task" else number
        m = NAMES.index(name.split(", ")[-1])
        expected = mean_of_softmax(made, rows, m, gates.weights[0][gate], gates.biases[0][gate])
        assert first.weights[number] == pytest.approx(expected, rel=1e-4)
    assert all(sum(line) == pytest.approx(1) for line in last.weights)


def test_an_expert_nobody_weighs_or_that_says_nothing_is_dead(make_model):
    made, rows = make_model(3, "MMoE", experts=3, **SMALL)
    with torch.no_grad():
        made.gates.biases[0][:, 1] = -50
        made.gates.biases[0][2, 0] = -50  # one gate alone does not make it dead
        made.experts.biases[0][2] = -1e4
    (use,) = watched(made, rows)
    assert [line.split(":")[0] for line in use.dead] == ["expert 2", "expert 3"]
    assert "output is 0" in use.dead[1]


def test_the_watch_changes_nothing_and_leaves_nothing_behind(make_model):
    made, rows = make_model(3, "PLE", **SMALL)
    made.eval()
    before = made.predict_tasks(rows)
    watched(made, rows)
    assert torch.equal(made.predict_tasks(rows), before)
    assert not any(module._forward_hooks for module in made.modules())


def test_scenarios_that_are_not_shown_still_keep_an_expert_alive(make_model):
    made, rows = make_model(3, "OMoE", experts=2, **SMALL)
    made.eval()
    watch = GateWatch(made)
    with torch.no_grad():
        for m in range(3):
            batch = rows[rows["scenario"] == m + 1]
            made.gate.biases[0][0] = torch.tensor([0.0, 60.0 if m == 2 else -60.0])
            with watch.scenario(m):
                made.logits(made.embed(batch), made.scenario_of(batch))
    (use,) = watch.use([0])
    assert use.gates == ["young"]
    assert use.weights[0] == pytest.approx([1, 0])
    assert use.dead == []


def test_what_weighs_something_else_than_experts_is_seen_too(make_model):
    def others(made, rows):
        made.eval()
        watch = GateWatch(made)
        with torch.no_grad():
            for m in range(3):
                batch = rows[rows["scenario"] == m + 1]
                with watch.scenario(m):
                    made.logits(made.embed(batch), made.scenario_of(batch))
        return watch.use_of_others()

    made, rows = make_model(3, "HMoE", experts=3, **SMALL)
    (use,) = others(made, rows)
    assert (use.gates, use.experts, use.dead) == (BOTH, NAMES, [])
    bank = made.relation_weights
    for number in range(6):
        expected = mean_of_softmax(made, rows, number % 3, bank.weights[0][number], bank.biases[0][number])
        assert use.weights[number] == pytest.approx(expected, rel=1e-4)

    made, rows = make_model(3, "PLE", levels=2, own_experts=1, shared_experts=1, experts_per="task", **SMALL)
    (use,) = others(made, rows)
    assert (use.gates, use.experts) == (NAMES, ["own expert 1", "own expert 2", "shared expert 1"])
    gate = made.levels[0].shared_gate
    assert use.weights[1] == pytest.approx(mean_of_softmax(made, rows, 1, gate.weight, gate.bias), rel=1e-4)

    made, rows = make_model(3, "AITM", tower_hidden_sizes=[4], embedding_size=4)
    (use,) = others(made, rows)
    assert (use.gates, use.experts) == (NAMES, ["handed over", "own tower"])
    with torch.no_grad():
        made.transfer.h2.weight.mul_(1e6)
    (later,) = others(made, rows)
    assert all(sum(line) == pytest.approx(1) for line in later.weights)
    assert later.weights != use.weights
