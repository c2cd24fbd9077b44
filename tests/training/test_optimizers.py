"""Row-wise optimisers: what they do to touched rows and to the others, and runs with sparse embedding gradients."""

import copy
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.training.optimizers import UniqueRows, _put, _take, build_optimizer, clip_sparse, parameter_groups

SMALL = {
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "WARNING",
    "train_batch_size": 64,
    "metric_decimal_place": 12,
    "epochs": 2,
    "scenario": {"field": "age", "bins": [30]},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
}
HINET = {
    "sub_experts": 2,
    "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8],
    "tower_hidden_sizes": [4],
    "scenario_embedding_size": 4,
    "dropout": 0.3,
}


@pytest.fixture
def run(tiny_data, tmp_path, monkeypatch):
    """run(folder="out", model="HiNet", callbacks=(), **settings) -> a run on the tiny data."""
    monkeypatch.chdir(tmp_path)

    def start(folder="out", model="HiNet", callbacks=(), **settings):
        given = SMALL | (HINET if model == "HiNet" else {}) | {"data_path": str(tiny_data), "output_dir": folder}
        return recbole_msr.run(model, "tiny", config=given | settings, callbacks=callbacks)

    return start


def config_of(learner="adam", gradients="sparse", **settings):
    names = ("clip_grad_norm", "lightning", "enable_amp", "precision", "embedding_weight_decay")
    given = {"learner": learner, "embedding_gradients": gradients, "learning_rate": 0.05, "fused_optimizer": True}
    return dict.fromkeys(names) | given | {"weight_decay": 0.0, "embedding_learning_rate_factor": 1.0} | settings


class Small(nn.Module):
    """A table, an embedding bag and a dense layer."""

    def __init__(self, sparse):
        super().__init__()
        torch.manual_seed(3)
        self.table = nn.Embedding(12, 4, sparse=sparse)
        self.bag = nn.EmbeddingBag(7, 4, mode="mean", padding_idx=0, sparse=sparse)
        self.first = nn.Embedding(12, 1, sparse=sparse)
        self.layer = nn.Linear(4, 1)

    def forward(self, ids, bags):
        return self.layer(self.table(ids).sum(1) + self.bag(bags)) + self.first(ids).sum(1)


def train(model, optimizer, batches):
    for ids, bags in batches:
        optimizer.zero_grad()
        F.softplus(model(ids, bags)).mean().backward()
        optimizer.step()


def draw(n, rows=range(12), bags=range(7), seed=0):
    """n batches in which every one of the given rows occurs, some often."""
    draws = torch.Generator().manual_seed(seed)
    rows, bags = torch.tensor(list(rows)), torch.tensor(list(bags))
    made = []
    for _ in range(n):
        ids = torch.cat([rows, rows[torch.randint(len(rows), (48 - len(rows),), generator=draws)]])
        bag = torch.cat([bags, bags[torch.randint(len(bags), (48 - len(bags),), generator=draws)]])
        order = torch.randperm(48, generator=draws)
        made.append((ids[order].view(16, 3), bag[order].view(16, 3)))
    return made


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("learner", ["adam", "adamw", "sgd", "adagrad", "rmsprop"])
def test_where_every_batch_has_every_row_the_sparse_path_is_the_dense_one(learner, fused, decay):
    models = Small(sparse=True), Small(sparse=False)
    before = models[0].table.weight.detach().clone()
    for model, gradients in zip(models, ("sparse", "dense"), strict=True):
        config = config_of(learner, gradients, fused_optimizer=fused, weight_decay=decay)
        optimizer = build_optimizer(model.parameters(), config)
        # The bag's row 0 stands for nothing: no batch trains it, and only the dense path lets it decay.
        train(model, optimizer, draw(8))
    sparse, dense = (model.state_dict() for model in models)
    assert not torch.allclose(sparse["table.weight"], before, atol=1e-3)
    for name, weight in dense.items():
        part = slice(1, None) if name == "bag.weight" else slice(None)
        torch.testing.assert_close(sparse[name][part], weight[part], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learner", ["sgd", "adagrad"])
def test_without_weight_decay_sgd_and_adagrad_lose_nothing_by_being_lazy(learner):
    models = Small(sparse=True), Small(sparse=False)
    batches = [batch for seed, rows in enumerate(([1, 2, 5], [5, 7], [0, 11])) for batch in draw(3, rows, [2, 3], seed)]
    for model, gradients in zip(models, ("sparse", "dense"), strict=True):
        train(model, build_optimizer(model.parameters(), config_of(learner, gradients)), batches)
    sparse, dense = (model.state_dict() for model in models)
    for name, weight in dense.items():
        torch.testing.assert_close(sparse[name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_adam_is_lazy_adam_and_rows_of_no_batch_stay_as_they_are_to_the_bit(decay):
    """Against lazy Adam in NumPy and double precision."""
    torch.manual_seed(1)
    table = nn.Embedding(9, 3, sparse=True)
    other = nn.Parameter(torch.ones(3))
    start = table.weight.detach().clone()
    optimizer = build_optimizer([table.weight, other], config_of(weight_decay=decay))
    weight, first, second = start.double().numpy().copy(), np.zeros((9, 3)), np.zeros((9, 3))
    target = torch.randn(6, 3)
    batches = [[1, 1, 4, 2, 1, 4], [2, 2, 2, 2, 2, 2], [4, 7, 7, 1, 2, 4], [1, 2, 1, 2, 1, 2]]
    for t, ids in enumerate(batches, start=1):
        optimizer.zero_grad()
        ((table(torch.tensor(ids)) - target) ** 2).sum().backward()
        optimizer.step()
        gradient = np.zeros((9, 3))
        for place, row in enumerate(ids):
            gradient[row] += 2 * (weight[row] - target[place].double().numpy())
        for row in set(ids):
            g = gradient[row] + decay * weight[row]
            first[row] = 0.9 * first[row] + 0.1 * g
            second[row] = 0.999 * second[row] + 0.001 * g**2
            corrected = first[row] / (1 - 0.9**t), second[row] / (1 - 0.999**t)
            weight[row] -= 0.05 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    np.testing.assert_allclose(table.weight.detach().numpy(), weight, rtol=1e-5, atol=1e-6)
    untouched = [0, 3, 5, 6, 8]
    assert torch.equal(table.weight[untouched], start[untouched])
    assert not optimizer.state[table.weight]["exp_avg"][untouched].any()


def test_without_weight_decay_adam_is_pytorchs_sparse_adam():
    models = Small(sparse=True), Small(sparse=True)
    tables = [[model.table.weight, model.bag.weight, model.first.weight] for model in models]
    ours = build_optimizer(models[0].parameters(), config_of())
    theirs = torch.optim.SparseAdam(tables[1], lr=0.05), torch.optim.Adam(models[1].layer.parameters(), lr=0.05)
    for ids, bags in draw(3, [1, 2, 5], [2, 3]) + draw(3, [5, 7], [1, 4]):
        for model in models:
            model.zero_grad()
            F.softplus(model(ids, bags)).mean().backward()
        for optimizer in (ours, *theirs):
            optimizer.step()
    one, other = (model.state_dict() for model in models)
    for name, weight in other.items():  # SparseAdam adds its eps before the moments are corrected, Adam after
        torch.testing.assert_close(one[name], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("width", [1, 2, 3, 10])
@pytest.mark.parametrize("layout", ["in one piece", "from an odd place on", "every other row", "turned"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_are_copied_as_they_are(width, layout, dtype):
    """Of any width and layout; sums of repeated rows are those of a loop, in the order of the batch."""
    whole = torch.randn(40, width).to(dtype)
    rows = torch.tensor([0, 3, 7, 19])
    table = {
        "in one piece": whole[:20].clone(),
        "from an odd place on": whole.flatten()[1 : 1 + 20 * width].view(20, width),
        "every other row": whole[::2],
        "turned": whole.t().clone().t(),
    }[layout]
    values, expected = torch.randn(4, width).to(dtype), table.clone()
    expected[rows] = values
    _put(table, rows, values)
    assert table.equal(expected)
    assert _take(table, rows).equal(values)


@pytest.mark.parametrize("distinct", [3, 50, 5000])
@pytest.mark.parametrize("width", [1, 4])
def test_gradients_of_a_row_are_summed_in_their_order(distinct, width):
    indices, values = torch.randint(distinct, (200,)), torch.randn(200, width)
    gradient = torch.sparse_coo_tensor(indices[None], values, (5000, width))
    rows, sums = UniqueRows().summed(gradient)
    expected: dict[int, torch.Tensor] = {}
    for index, value in zip(indices.tolist(), values, strict=True):
        expected[index] = expected[index] + value if index in expected else value
    assert rows.tolist() == sorted(expected)
    assert sums.equal(torch.stack([expected[row] for row in sorted(expected)]))


def test_its_state_goes_on_after_saving_and_loading_to_the_same_bits(tmp_path):
    whole, batches = Small(sparse=True), draw(4, [1, 2, 5], [2, 3]) + draw(4, [5, 7], [1, 4])
    optimizer = build_optimizer(whole.parameters(), config_of(weight_decay=0.01))
    train(whole, optimizer, batches[:3])
    torch.save((whole.state_dict(), optimizer.state_dict()), tmp_path / "state")
    train(whole, optimizer, batches[3:])

    again = Small(sparse=True)
    optimizer = build_optimizer(again.parameters(), config_of(weight_decay=0.01))
    weights, state = torch.load(tmp_path / "state", weights_only=True)
    again.load_state_dict(weights)
    optimizer.load_state_dict(state)
    train(again, optimizer, batches[3:])
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in whole.state_dict().items())


@pytest.mark.parametrize(("clip", "limit"), [(nn.utils.clip_grad_norm_, 0.01), (nn.utils.clip_grad_value_, 0.001)])
def test_gradients_are_clipped_as_if_they_were_dense(clip, limit):
    sparse, dense = Small(sparse=True), Small(sparse=False)
    ids, bags = draw(1, [1, 2, 5], [2, 3])[0]
    for model in (sparse, dense):
        F.softplus(model(ids, bags)).mean().backward()
    unclipped = copy.deepcopy(dense.table.weight.grad)
    optimizer = build_optimizer(sparse.parameters(), config_of())
    clip_sparse(optimizer, lambda parameters: clip(parameters, limit))
    clip(dense.parameters(), limit)
    assert not torch.allclose(dense.table.weight.grad, unclipped)
    for one, other in zip(sparse.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(one.grad.to_dense() if one.grad.is_sparse else one.grad, other.grad)


def weights_of(result):
    return torch.load(result.folder / "best.ckpt", weights_only=True)["state_dict"]


def history(folder):
    with open(Path(folder) / "metrics.csv") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "rows_per_second")} for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("model", ["HiNet", "DeepFM", "LR"])
@pytest.mark.parametrize("learner", ["sgd", "adagrad"])
def test_a_run_with_an_exact_learner_gives_the_same_result_either_way(run, model, learner):
    given = {"model": model, "learner": learner, "learning_rate": 0.02, "weight_decay": 0.0}
    dense, sparse = run("dense", **given), run("sparse", embedding_gradients="sparse", **given)
    one, other = weights_of(dense), weights_of(sparse)
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-4)
    assert sparse.summary["best_valid_score"] == pytest.approx(dense.summary["best_valid_score"], abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss_weighting": "uncertainty", "clip_grad_norm": {"max_norm": 0.5}},
        {"lr_scheduler": {"name": "StepLR", "step_size": 1}, "precision": "bf16-mixed", "learner": "adamw"},
        {"loss_weighting": "dwa", "lightning": {"accumulate_grad_batches": 2}, "clip_grad_norm": {"max_norm": 0.5}},
    ],
)
def test_a_resumed_run_with_sparse_gradients_gives_the_identical_result(run, settings):
    given = settings | {"embedding_gradients": "sparse", "epochs": 4, "stopping_step": 100, "learning_rate": 0.01}
    whole = run("whole", **given)

    class Stop(Exception):
        pass

    import pytorch_lightning as pl

    class Interrupt(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise Stop

    with pytest.raises(Stop):
        run("halved", callbacks=[Interrupt()], **given)
    assert len(history("halved")) == 2
    resumed = run("halved", resume=True, **given)
    assert history(resumed.folder) == history(whole.folder)
    one, other = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.summary["test"] == whole.summary["test"]


def test_the_learning_rate_of_embeddings_follows_the_scheduler(run):
    scheduled = run("out", embedding_gradients="sparse", lr_scheduler={"name": "StepLR", "step_size": 1, "gamma": 0.0})
    once = run("once", embedding_gradients="sparse", epochs=1)
    table = "features.table.weight"
    last = torch.load(scheduled.folder / "best.ckpt", weights_only=True)
    assert [float(row["learning_rate"]) for row in history(scheduled.folder)] == [0.001, 0.0]
    assert torch.equal(last["state_dict"][table], weights_of(once)[table])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_weighting": "gradnorm"}, "they need embedding_gradients: dense"),
        ({"loss_weighting": "pcgrad"}, "they need embedding_gradients: dense"),
        ({"learner": "sparse_adam"}, "set learner: adam"),
        ({"lightning": {"accelerator": "cpu", "strategy": "ddp"}}, "is for one device"),
        ({"embedding_gradients": "spars"}, "must be one of dense, sparse, got 'spars'; did you mean 'sparse'"),
    ],
)
def test_what_cannot_be_sparse_is_refused(run, settings, message):
    with pytest.raises(InputError, match=message):
        run(**({"embedding_gradients": "sparse"} | settings))
    assert not Path("out").exists()


@pytest.mark.parametrize("gradients", ["dense", "sparse"])
def test_embeddings_have_a_learning_rate_and_a_decay_of_their_own(gradients):
    """As two optimisers, one for the tables and one for the rest, have them."""
    own = {"embedding_learning_rate_factor": 0.5, "embedding_weight_decay": 0.3}
    one, two = Small(gradients == "sparse"), Small(gradients == "sparse")
    config = config_of("sgd", gradients, weight_decay=0.1)
    tables = [two.table.weight, two.bag.weight, two.first.weight]
    apart = [
        build_optimizer(tables, config | {"learning_rate": 0.025, "weight_decay": 0.3}),
        build_optimizer(two.layer.parameters(), config),
    ]
    both = build_optimizer(parameter_groups(one, config | own), config | own)
    assert [group["lr"] for group in both.param_groups] == [0.05, 0.025]
    for ids, bags in draw(5):
        for model, optimizers in ((one, [both]), (two, apart)):
            model.zero_grad()
            F.softplus(model(ids, bags)).mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(weight, two.state_dict()[name])


def test_parameters_are_one_group_where_nothing_is_set_apart():
    model = Small(sparse=False)
    config = config_of(weight_decay=0.1, embedding_weight_decay=0.1)
    optimizer = build_optimizer(parameter_groups(model, config), config)
    assert [list(map(id, group["params"])) for group in optimizer.param_groups] == [list(map(id, model.parameters()))]


def test_a_decay_of_embeddings_is_refused_for_a_learner_without_one():
    with pytest.raises(InputError, match="sparse_adam has no weight decay: leave embedding_weight_decay out"):
        parameter_groups(Small(sparse=True), config_of("sparse_adam", embedding_weight_decay=0.1))
