"""Loss weighting: every method against its paper's equations, worked out another way."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_msr.config.loss_weightings import LOSS_WEIGHTINGS
from recbole_msr.errors import InputError
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.schema import MISSING_LABEL
from recbole_msr.training.weighting.loss_weighting import (
    DynamicWeightAverage,
    GradientWeighting,
    GradNorm,
    PCGrad,
)


class TwoLayers(MultiScenarioRecommender):
    """What tasks share (embeddings and one layer), and one matrix of which every task has a row of its own."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.bottom = torch.nn.Linear(self.features.output_size, 4)
        self.heads = torch.nn.Linear(4, self.n_tasks)

    def logits(self, x, scenario):
        return self.heads(self.bottom(x).tanh())

    def shared(self):
        return [*self.features.parameters(), *self.bottom.parameters()]


@pytest.fixture
def module_of(make_dataset):
    """module_of(method, model=TwoLayers, **settings) -> its RecModule and all training rows."""

    def make(method, model=TwoLayers, **settings):
        from recbole_msr.training.module import RecModule

        config, train = make_dataset(3, loss_weighting=method, **settings)
        torch.manual_seed(1)
        return RecModule(model(config, train), config), train[torch.arange(len(train))]

    return make


def step(module, rows, factor=1.0):
    """One training step up to the gradients, as Lightning takes it; `factor` is what Lightning puts to the loss."""
    loss = module.training_step(rows, 0)
    module.backward(loss * factor)
    return loss.item()


def gradients(parameters):
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


def task_gradients(model, rows, parameters):
    """The gradient of every L_t (T, P), one task after the other."""
    found = []
    for t in range(model.n_tasks):
        parts = torch.autograd.grad(model.task_losses(rows)[t], parameters)
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


# Uncertainty


def test_uncertainty_is_kendalls_loss_and_its_gradient(module_of):
    module, rows = module_of("uncertainty")
    model = module.model
    s = [0.3, -0.7]
    with torch.no_grad():
        model.log_variances.copy_(torch.tensor(s))
    losses = model.task_losses(rows).tolist()
    expected = sum(math.exp(-s_t) * loss + s_t / 2 for s_t, loss in zip(s, losses, strict=True))
    by_task = task_gradients(model, rows, model.shared())
    assert step(module, rows) == pytest.approx(expected, rel=1e-6)
    by_s = [0.5 - math.exp(-s_t) * loss for s_t, loss in zip(s, losses, strict=True)]
    assert model.log_variances.grad.tolist() == pytest.approx(by_s, rel=1e-5)
    weighted = math.exp(-s[0]) * by_task[0] + math.exp(-s[1]) * by_task[1]
    torch.testing.assert_close(gradients(model.shared()), weighted, rtol=1e-4, atol=1e-7)
    assert module.task_weights == pytest.approx({"click": math.exp(-0.3), "like": math.exp(0.7)}, rel=1e-6)


def test_uncertainty_learns_nothing_of_a_task_without_labels_in_the_batch(module_of):
    module, rows = module_of("uncertainty")
    rows["label_like"][:] = MISSING_LABEL
    losses = module.model.task_losses(rows)
    assert step(module, rows) == pytest.approx(losses[0].item(), rel=1e-6)
    of_click, of_like = module.model.log_variances.grad.tolist()
    assert of_click == pytest.approx(0.5 - losses[0].item(), rel=1e-5)
    assert of_like == 0


def test_uncertainties_do_not_decay(module_of):
    module, rows = module_of("uncertainty", weight_decay=10.0, learner="sgd", learning_rate=0.1)
    optimizer = module.configure_optimizers()
    with torch.no_grad():
        module.model.log_variances.fill_(1.0)
    bias = module.model.bottom.bias.detach().clone()
    step(module, rows)
    optimizer.step()
    s = module.model.log_variances
    torch.testing.assert_close(s.detach(), 1.0 - 0.1 * s.grad)
    decayed = bias - 0.1 * (module.model.bottom.bias.grad + 10.0 * bias)
    torch.testing.assert_close(module.model.bottom.bias.detach(), decayed)


def test_a_model_around_another_has_the_only_uncertainties(make_model):
    model, rows = make_model(3, "LLM4MSR", loss_weighting="uncertainty", knowledge="none", backbone="SharedBottom")
    assert [name for name, _ in model.named_parameters() if "log_variances" in name] == ["log_variances"]
    model.calculate_loss(rows).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# DWA


def numpy_dwa(last, before, temperature):
    ratio = np.asarray(last) / np.asarray(before)
    exponential = np.exp(ratio / temperature)
    return len(ratio) * exponential / exponential.sum()


def test_dwa_weighs_by_the_ratio_of_the_last_two_epochs_mean_losses():
    weighting = DynamicWeightAverage(3, temperature=1.5)
    draw = np.random.default_rng(3)
    epochs = draw.uniform(0.1, 2.0, size=(4, 5, 3))  # epoch, batch, task
    told = []
    for epoch in epochs:
        weighting.start_epoch()
        told.append(weighting.task_weights().tolist())
        for batch in epoch:
            loss = weighting(torch.tensor(batch, dtype=torch.float32), torch.tensor([9, 9, 9]))
            assert loss.item() == pytest.approx(np.dot(told[-1], batch), rel=1e-5)
        weighting.end_epoch()
    means = epochs.mean(axis=1)
    assert told[0] == told[1] == pytest.approx([1, 1, 1])
    assert told[2] == pytest.approx(numpy_dwa(means[1], means[0], 1.5), rel=1e-5)
    assert told[3] == pytest.approx(numpy_dwa(means[2], means[1], 1.5), rel=1e-5)


def test_dwa_averages_over_batches_that_have_the_label():
    weighting = DynamicWeightAverage(2, temperature=2.0)
    for first, second in ((1.0, 3.0), (0.5, 2.0)):
        weighting.start_epoch()
        weighting(torch.tensor([first, second]), torch.tensor([4, 4]))
        weighting(torch.tensor([first, 0.0]), torch.tensor([4, 0]))  # nobody has the second label
        weighting.end_epoch()
    weighting.start_epoch()
    assert weighting.weights.tolist() == pytest.approx(numpy_dwa([0.5, 2.0], [1.0, 3.0], 2.0), rel=1e-6)


def test_dwa_takes_a_task_without_any_label_as_standing_still():
    weighting = DynamicWeightAverage(2, temperature=2.0)
    for loss in (1.0, 0.5):
        weighting.start_epoch()
        weighting(torch.tensor([loss, 0.0]), torch.tensor([4, 0]))
        weighting.end_epoch()
    weighting.start_epoch()
    assert weighting.weights.tolist() == pytest.approx(numpy_dwa([0.5, 1.0], [1.0, 1.0], 2.0), rel=1e-6)


# GradNorm


def test_gradnorm_goes_down_the_papers_loss(module_of):
    """Four steps beside a plain implementation: L_grad differentiated by differences, torch's Adam, renormalised."""
    alpha, rate = 1.5, 0.05
    module, rows = module_of("gradnorm", gradnorm_alpha=alpha, gradnorm_learning_rate=rate)
    model = module.model
    with torch.no_grad():
        model.heads.weight[1] *= 5  # gradients of different norms
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    w = torch.ones(2, requires_grad=True)
    of_w = torch.optim.Adam([w], lr=rate)
    initial, before = None, None
    for number in range(4):
        batch = rows[torch.arange(100 * number, 100 * number + 80)]
        used = w.detach().clone()
        by_task = task_gradients(model, batch, list(model.parameters()))
        losses = model.task_losses(batch)
        initial = losses.detach() if initial is None else initial
        ratio = losses.detach() / initial

        def norms(weights, losses=losses):
            by_weighted = [
                torch.autograd.grad(weights[t] * losses[t], model.shared(), retain_graph=True) for t in (0, 1)
            ]
            return torch.stack([torch.sqrt(sum((part**2).sum() for part in one)) for one in by_weighted]).double()

        target = norms(used).mean() * (ratio / ratio.mean()) ** alpha
        slope = []
        for side in torch.eye(2) * 0.01:  # L_grad is linear in w between its kinks
            up, down = ((norms(used + sign * side) - target).abs().sum() for sign in (1, -1))
            slope.append((up - down) / 0.02)
        w.grad = torch.stack(slope).float()
        of_w.step()
        with torch.no_grad():
            w *= 2 / w.sum()

        optimizer.zero_grad()
        expected_loss = (used * losses.detach()).sum().item()
        assert step(module, batch) == pytest.approx(expected_loss, rel=1e-5)
        torch.testing.assert_close(gradients(model.parameters()), used @ by_task, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(module.weighting.weights, w.detach(), rtol=1e-5, atol=1e-6)
        optimizer.step()
        assert before is None or not torch.equal(before, w)
        before = w.detach().clone()
    assert module.task_weights == pytest.approx({"click": w[0].item(), "like": w[1].item()}, rel=1e-5)


@pytest.mark.parametrize(("alpha", "sign"), [(1.0, -1), (2.0, 1)])
def test_gradnorm_wants_larger_gradients_of_slow_tasks_by_alpha(alpha, sign):
    """G = 1 and r = (1.2, 0.8): targets (1.2, 0.8) or (1.44, 0.64), and norms (1.3, 0.7) lie between them."""
    weighting = GradNorm(2, alpha, learning_rate=0.1)
    weighting.update(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 1.0]))
    assert weighting.weights.tolist() == [1, 1], "where all norms are as wanted nothing moves"
    weighting.update(torch.tensor([2.4, 2.4]), torch.tensor([1.3, 0.7]))
    change = 0.1 * (0.1 / (1 - 0.9**2)) / (0.001 / (1 - 0.999**2)) ** 0.5  # Adam's second step, the first being 0
    assert weighting.weights.tolist() == pytest.approx([1 + sign * change, 1 - sign * change], rel=1e-4)


def test_gradnorm_brings_gradients_to_one_norm_where_alpha_is_0():
    """Weights alone move here: they must come to those at which w_t ||grad L_t|| is the same."""
    weighting = GradNorm(3, alpha=0.0, learning_rate=0.01)
    norms = torch.tensor([1.0, 2.0, 4.0])
    for _ in range(600):
        weighting.update(torch.tensor([0.5, 0.6, 0.7]), norms)
    balanced = 3 * (1 / norms) / (1 / norms).sum()
    torch.testing.assert_close(weighting.weights, balanced, rtol=0.05, atol=0)
    assert weighting.weights.sum().item() == pytest.approx(3, rel=1e-5)


def test_gradnorm_keeps_weights_positive():
    weighting = GradNorm(2, alpha=0.0, learning_rate=0.5)
    for _ in range(20):
        weighting.update(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1e4]))
        assert (weighting.weights > 0).all()
        assert weighting.weights.sum().item() == pytest.approx(2, rel=1e-5)


def test_gradnorm_waits_where_a_batch_lacks_a_label(module_of):
    module, rows = module_of("gradnorm")
    lacking = rows[torch.arange(50)]
    lacking["label_like"][:] = MISSING_LABEL
    before = {name: value.clone() for name, value in module.weighting.state_dict().items()}
    step(module, lacking)
    for name, value in module.weighting.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    plain = torch.autograd.grad(module.model.task_losses(lacking)[0], module.model.shared())
    torch.testing.assert_close(gradients(module.model.shared()), torch.cat([part.flatten() for part in plain]))
    module.weighting.update(torch.tensor([1.0, 1.0]), torch.tensor([1.0, torch.inf]))  # half precision overflowed
    assert module.weighting.weights.tolist() == [1, 1]
    step(module, rows)
    assert module.weighting.weights.tolist() != [1, 1]


# PCGrad


def numpy_pcgrad(gradients, orders):
    """Algorithm 1 of the paper, for given orders of the other tasks."""
    total = np.zeros_like(gradients[0])
    for i, g in enumerate(gradients):
        projected = g.copy()
        for j in orders[i]:
            product = projected @ gradients[j]
            if product < 0:
                projected -= product / (gradients[j] @ gradients[j]) * gradients[j]
        total += projected
    return total


def combine(weighting, rows, reached=None):
    vectors = torch.tensor(rows, dtype=torch.float32)
    everything = torch.ones_like(vectors, dtype=torch.bool) if reached is None else torch.tensor(reached)
    ones = torch.ones(len(vectors))
    return weighting.combine(vectors.clone(), everything, ones, ones)


def test_pcgrad_by_hand():
    """g1 = (1, 0), g2 = (-1, 1): g1' = (1/2, 1/2), g2' = (0, 1)."""
    assert combine(PCGrad(2, 0), [[1, 0], [-1, 1]]).tolist() == [0.5, 1.5]
    assert combine(PCGrad(2, 0), [[1, 0], [1, 1]]).tolist() == [2, 1]
    assert combine(PCGrad(2, 0), [[1, 0], [0, 0]]).tolist() == [1, 0], "a task without a gradient"
    assert combine(PCGrad(2, 0), [[1, 0], [-1, 0]]).tolist() == [0, 0], "opposite gradients leave nothing"


def test_pcgrad_leaves_alone_what_one_task_owns():
    """The third number is the first task's, the fourth the second's: kept, and without part in the products."""
    own = [[True, True, True, False], [True, True, False, True]]
    assert combine(PCGrad(2, 0), [[1, 0, 7, 0], [-1, 1, 0, -9]], own).tolist() == [0.5, 1.5, 7, -9]


def test_pcgrad_takes_three_tasks_in_random_orders_that_a_seed_gives():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(3, 4))
    vectors[2] = -vectors[0] - vectors[1] + 0.1 * draw.normal(size=4)
    others = [[1, 2], [0, 2], [0, 1]]
    choices = [list(itertools.permutations(one)) for one in others]
    possible = [numpy_pcgrad(vectors, orders) for orders in itertools.product(*choices)]
    first, second = PCGrad(3, 5), PCGrad(3, 5)
    seen = set()
    for _ in range(30):
        found = combine(first, vectors.tolist())
        assert torch.equal(found, combine(second, vectors.tolist()))
        near = [n for n, one in enumerate(possible) if np.allclose(found.numpy(), one, atol=1e-5)]
        assert near
        seen.add(near[0])
    assert len(seen) > 1


def test_pcgrad_on_a_model(module_of):
    module, rows = module_of("pcgrad")
    model = module.model
    with torch.no_grad():
        model.heads.weight[1] = model.heads.weight[0]
    rows["label_like"] = 1 - rows["label_click"]  # tasks that contradict each other
    rows["label_like"][::3] = MISSING_LABEL
    shared = task_gradients(model, rows, model.shared()).double().numpy()
    assert shared[0] @ shared[1] < 0, "there must be a conflict for this test to say something"
    own = task_gradients(model, rows, list(model.heads.parameters())).sum(dim=0)
    plain = model.task_losses(rows).sum().item()
    assert step(module, rows) == pytest.approx(plain, rel=1e-6)
    expected = torch.from_numpy(numpy_pcgrad(shared, [[1], [0]])).float()
    torch.testing.assert_close(gradients(model.shared()), expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradients(model.heads.parameters()), own)
    assert module.task_weights == {}


def test_pcgrad_without_conflict_is_the_plain_gradient(module_of):
    module, rows = module_of("pcgrad")
    rows["label_like"] = rows["label_click"]
    with torch.no_grad():
        module.model.heads.weight[1] = module.model.heads.weight[0]
    plain = task_gradients(module.model, rows, list(module.model.parameters())).sum(dim=0)
    step(module, rows)
    torch.testing.assert_close(gradients(module.model.parameters()), plain)


@pytest.mark.parametrize("method", ["gradnorm", "pcgrad"])
def test_gradients_carry_what_the_trainer_puts_to_the_loss(method, module_of):
    """A loss scaled by 1/2 twice, as for two accumulated batches, is the whole; one scaled by 2^10 is 2^10 times it."""
    module, rows = module_of(method, gradnorm_learning_rate=0.0)
    step(module, rows)
    whole = gradients(module.model.parameters())
    module.zero_grad()
    step(module, rows, 0.5)
    step(module, rows, 0.5)
    torch.testing.assert_close(gradients(module.model.parameters()), whole)
    module.zero_grad()
    scaled, rows = module_of(method)
    step(scaled, rows, 1024.0)
    torch.testing.assert_close(gradients(scaled.model.parameters()), 1024 * whole)
    unscaled, rows = module_of(method)
    step(unscaled, rows)
    torch.testing.assert_close(scaled.weighting.weights, unscaled.weighting.weights)


def test_strategies_that_split_gradients_are_refused():
    from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy

    GradientWeighting.check_strategy(DDPStrategy())
    GradientWeighting.check_strategy(SingleDeviceStrategy(torch.device("cpu")))
    with pytest.raises(InputError, match=r"strategy may be ddp .* got FSDPStrategy"):
        GradientWeighting.check_strategy(FSDPStrategy())


def test_every_method_has_its_place_in_the_docs():
    page = (Path(__file__).parents[3] / "docs" / "loss-weighting.md").read_text(encoding="utf-8")
    assert [method for method in LOSS_WEIGHTINGS if f"| `{method}` |" not in page] == []
