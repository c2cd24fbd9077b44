"""The models' parts in NumPy, for one row and with the weights of a state_dict: slow, and written on their own."""

from itertools import pairwise

import numpy as np
import torch

EPS = 1e-5
ONE_TASK = {"click": {"field": "rating", "at_least": 4}}
TWO_TASKS = ONE_TASK | {"like": {"field": "rating", "at_least": 5}}
THREE_TASKS = {f"at_least_{n}": {"field": "rating", "at_least": n} for n in (3, 4, 5)}
TASKS = {1: ONE_TASK, 2: TWO_TASKS, 3: THREE_TASKS}


def state_of(model):
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def softmax(scores):
    weights = np.exp(scores - np.max(scores))
    return weights / weights.sum()


def relu(x):
    return np.maximum(x, 0)


def normalised(x, state, name, channels=slice(None)):
    """Batch norm in evaluation."""
    mean, variance = state[f"{name}.running_mean"][channels], state[f"{name}.running_var"][channels]
    return (x - mean) / np.sqrt(variance + EPS) * state[f"{name}.weight"][channels] + state[f"{name}.bias"][channels]


def bank(state, name, index, x, n_linear=0):
    """MLP number `index` of a bank; the last `n_linear` layers have neither norm nor activation."""
    depth = sum(key.startswith(f"{name}.weights.") for key in state)
    for layer in range(depth):
        x = state[f"{name}.weights.{layer}"][index] @ x + state[f"{name}.biases.{layer}"][index]
        if layer < depth - n_linear:
            if f"{name}.norms.{layer}.weight" in state:
                x = normalised(x, state, f"{name}.norms.{layer}", slice(index * len(x), (index + 1) * len(x)))
            x = relu(x)
    return x


def gate(state, name, index, x):
    """Softmax weights of gate number `index` of a bank of gates."""
    scores = state[f"{name}.weights.0"][index] @ x + state[f"{name}.biases.0"][index]
    if f"{name}.norm.weight" in state:
        scores = normalised(scores, state, f"{name}.norm", slice(index * len(scores), (index + 1) * len(scores)))
    return softmax(scores)


def mlp(state, name, x, n_linear=0):
    """An `MLP`: its linear layers, each but the last `n_linear` followed by its norm, if there is one, and ReLU."""
    numbers = sorted({int(key.removeprefix(f"{name}.").split(".")[0]) for key in state if key.startswith(f"{name}.")})
    linear = [n for n in numbers if state[f"{name}.{n}.weight"].ndim == 2]
    for n in linear:
        x = state[f"{name}.{n}.weight"] @ x + state[f"{name}.{n}.bias"]
        if n in linear[: len(linear) - n_linear]:
            if n + 1 in numbers and n + 1 not in linear:
                x = normalised(x, state, f"{name}.{n + 1}")
            x = relu(x)
    return x


def group(per, i, t, n_scenarios):
    """Number of the group of task t in scenario i."""
    return {"scenario": i, "task": t, "scenario_task": t * n_scenarios + i}[per]


def tower(state, name, per, i, t, n_scenarios, z):
    """Task t's logit in scenario i from its own z."""
    outputs = bank(state, f"{name}.bank", group(per, i, t, n_scenarios), z, n_linear=1)
    return outputs[t] if per == "scenario" else outputs[0]


def count(model):
    """Parameters but those of the embeddings."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("features"))


def mlp_size(*sizes):
    """Parameters of fully connected layers between these widths."""
    return sum(d * h + h for d, h in pairwise(sizes))


def assert_logits_equal(model, rows, slow, n_rows=40):
    """`model.logits` of some rows equals slow(state, x, i, t) for every row, its scenario i and every task t.

    Running statistics are moved off their start by a training step; the comparison is in evaluation.
    """
    model.calculate_loss(rows)
    model.eval()
    rows = rows[list(range(n_rows))]
    x, scenario = model.embed(rows), model.scenario_of(rows)
    assert scenario.unique().tolist() == list(range(model.n_scenarios))
    state = state_of(model)
    expected = [
        [slow(state, x[b].detach().double().numpy(), int(scenario[b]), t) for t in range(model.n_tasks)]
        for b in range(n_rows)
    ]
    np.testing.assert_allclose(model.logits(x, scenario).detach(), expected, rtol=1e-3, atol=1e-5)
    with torch.no_grad():  # where no gradient is wanted a model may leave out what its rows do not need
        np.testing.assert_allclose(model.logits(x, scenario), expected, rtol=1e-3, atol=1e-5)
        last = scenario == model.n_scenarios - 1
        expected = np.array(expected)[last.numpy()]
        np.testing.assert_allclose(model.logits(x[last], scenario[last]), expected, rtol=1e-3, atol=1e-5)
