from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.jobs import model_cost as cost

HINET = {
    "embedding_size": 6,
    "sub_experts": 3,
    "expert_hidden_sizes": [10, 7],
    "scenario_embedding_size": 5,
    "task_own_experts": 2,
    "task_shared_experts": 1,
    "task_expert_hidden_sizes": [9],
    "tower_hidden_sizes": [8, 4],
}

MEASURES = [cost.flops, lambda model, rows: cost.latency(model, rows, 4, repeats=2, warmup=1)]


@pytest.fixture
def batch(make_dataset):
    """Rows as models get them under training."""
    return lambda rows=64, **settings: PackedTable(make_dataset(3, **settings)[1]).batch(slice(rows))


def test_parameters_are_those_that_training_may_change():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    assert cost.parameters(model) == 3 * 5 + 5 + 5 + 5 + 5 * 2 + 2
    model[0].requires_grad_(False)
    assert cost.parameters(model) == 5 + 5 + 5 * 2 + 2


@pytest.mark.parametrize("batch_norm", [False, True])  # two ways through a bank of experts
def test_the_operations_of_hinet_are_those_of_its_equations(make_model, batch, batch_norm):
    model, _ = make_model(3, "HiNet", **HINET, batch_norm=batch_norm)
    rows, scenarios, tasks = 64, 3, 2
    width = 5 * 6  # user_id, item_id, age, gender, class
    sub_experts, gates = 4 * 3 * (width * 10 + 10 * 7), width * 4 * 3
    c = 3 * 7
    task_experts, task_gates = (tasks * 2 + 1) * c * 9, tasks * c * (2 + 1)
    towers = tasks * (9 * 8 + 8 * 4 + 4)
    a_row = 2 * (sub_experts + gates + task_experts + task_gates + towers)
    a_batch = 2 * scenarios * 5 * scenarios  # h(e) of the attention between scenarios
    assert cost.flops(model, batch(rows)) == round(a_row + a_batch / rows)
    assert cost.flops(model, batch(7)) == round(a_row + a_batch / 7)


def test_the_operations_of_deepfm_are_those_of_its_dense_layers(make_model, batch):
    model, _ = make_model(3, "DeepFM", embedding_size=6, mlp_hidden_size=[12, 5])
    width = model.num_feature_field * 6
    assert cost.flops(model, batch()) == 2 * (width * 12 + 12 * 5 + 5)


def test_sums_over_experts_are_counted_wherever_they_are_products(make_model, batch):
    """MMoE's mix of experts is a matrix product on a GPU; on a CPU it is summed expert by expert."""
    kept_apart = {"gates_per": "task", "towers_per": "task"}
    sizes = {"embedding_size": 6, "experts": 4, "expert_hidden_sizes": [10, 7], "tower_hidden_sizes": [8]}
    model, _ = make_model(3, "MMoE", **sizes, **kept_apart)
    width, tasks = 5 * 6, 2
    experts, gates, mixes = 4 * (width * 10 + 10 * 7), tasks * width * 4, tasks * 4 * 7
    towers = tasks * (7 * 8 + 8)
    assert cost.flops(model, batch()) == 2 * (experts + gates + mixes + towers)


def test_a_model_without_matrix_products_costs_nothing(make_model, batch):
    assert cost.flops(make_model(3, "LR", embedding_size=6)[0], batch()) == 0


def test_fused_attention_is_counted(make_model, batch):
    model, _ = make_model(
        3, "AutoInt", embedding_size=6, attention_size=8, num_heads=2, n_layers=1, has_residual=False,
        mlp_hidden_size=[12],
    )  # fmt: skip
    fields = model.num_feature_field
    into, query_key_value_out = fields * 6 * 8, 4 * fields * 8 * 8
    scores_and_sums = 2 * fields * fields * 8
    deep = fields * 6 * 12 + 12
    assert cost.flops(model, batch()) == 2 * (into + query_key_value_out + scores_and_sums + fields * 8 + deep)


class Vectors(nn.Module):
    """A model of products with single vectors."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(5))

    def predict(self, batch):
        x = batch["x"]
        left = torch.ones(3, 4, 5)
        total = torch.addbmm(torch.zeros(4, 6), left, torch.ones(3, 5, 6))
        return x @ self.w + torch.addmv(torch.zeros(len(x)), x, self.w) + self.w.dot(self.w) + total.sum()


def test_products_with_one_vector_are_counted():
    from recbole.data.interaction import Interaction

    batch = Interaction({"x": torch.ones(8, 5)})
    assert cost.flops(Vectors(), batch) == round(2 * (8 * 5 + 8 * 5 + 5 + 3 * 4 * 5 * 6) / 8)


def test_what_a_model_remembers_is_not_counted_and_the_count_repeats(make_model, batch):
    small = {"knowledge": "random", "knowledge_size": 10, "knowledge_reduced_size": 5, "embedding_size": 4}
    model, _ = make_model(3, "LLM4MSR", backbone="SharedBottom", knowledge_level="user", **small)
    rows = batch()
    first = cost.flops(model, rows)
    assert cost.flops(model, rows) == first
    alone, _ = make_model(3, "SharedBottom", embedding_size=4)
    width, rank = model.backbone.features.output_size, 8
    assert first == cost.flops(alone, rows) + 2 * (width * rank + rank * width)


@pytest.mark.parametrize("model", ["HiNet", "DeepFM"])
@pytest.mark.parametrize("measure", MEASURES)
def test_measuring_leaves_no_trace(make_model, batch, model, measure):
    settings = {"batch_norm": True} if model == "HiNet" else {"dropout_prob": 0.5}
    made, _ = make_model(3, model, **settings)
    next(made.children()).eval()  # a part that someone has frozen
    modes = [module.training for module in made.modules()]
    assert True in modes
    assert False in modes
    before = {key: value.clone() for key, value in made.state_dict().items()}
    draws, rows = torch.get_rng_state(), batch()
    columns = {key: value.clone() for key, value in rows.interaction.items()}
    measure(made, rows)
    assert [module.training for module in made.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(p.grad is None and not p.is_inference() for p in made.parameters())
    assert all(torch.equal(columns[key], value) for key, value in rows.interaction.items())
    made.train()
    made.calculate_loss(rows).backward()  # and training goes on


def test_a_failed_measurement_leaves_no_trace(make_model, batch, monkeypatch):
    made, _ = make_model(3, "HiNet", **HINET)
    monkeypatch.setattr(made, "predict_tasks", lambda interaction: 1 / 0)
    draws, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    for measure in MEASURES:
        with pytest.raises(ZeroDivisionError):
            measure(made, batch())
    assert all(module.training for module in made.modules())
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.backends.mha.get_fastpath_enabled() == fast


@pytest.mark.parametrize("model", ["HiNet", "DeepFM"])
def test_latency_is_the_median_of_passes_over_so_many_rows(make_model, batch, monkeypatch, model):
    made, _ = make_model(3, model)
    method = "predict_tasks" if model == "HiNet" else "predict"
    seen, score = [], getattr(made, method)

    def watched(interaction):
        seen.append((len(interaction), made.training, torch.is_inference_mode_enabled()))
        return score(interaction)

    monkeypatch.setattr(made, method, watched)
    # The clock at the start of the untimed pass, then five passes of 1, 2, 9, 3 and 4 seconds.
    ticks = iter([0, 900, 901, 1000, 1002, 2000, 2009, 3000, 3003, 4000, 4004])
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert cost.latency(made, batch(10), rows=25, repeats=5, warmup=1) == 3000
    assert seen == [(25, False, True)] * 6


def test_a_batch_is_repeated_or_cut_to_the_rows_asked_for(make_model, batch, monkeypatch):
    made, _ = make_model(3, "DeepFM")
    seen = []
    monkeypatch.setattr(made, "predict", lambda interaction: seen.append(interaction["user_id"].tolist()))
    rows = batch(3)
    a, b, c = rows["user_id"].tolist()
    for asked, expected in ((1, [a]), (3, [a, b, c]), (8, [a, b, c, a, b, c, a, b])):
        seen.clear()
        assert cost.latency(made, rows, asked, repeats=1, warmup=0) >= 0
        assert seen == [expected]


def test_no_rows_and_impossible_numbers_are_refused(make_model, batch):
    made, _ = make_model(3, "DeepFM")
    for measure in MEASURES:
        with pytest.raises(InputError, match="validation split"):
            measure(made, batch(0))
    for wrong, told in (({"repeats": 0}, "repeats must be at least 1, got 0"), ({"rows": 0}, "rows must be at least 1"),
                        ({"warmup": -1}, "warmup must be at least 0")):  # fmt: skip
        with pytest.raises(InputError, match=told):
            cost.latency(made, batch(), **({"rows": 1} | wrong))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_costs_on_a_gpu_are_those_of_the_model_there(make_model, batch):
    made, _ = make_model(3, "HiNet", **HINET)
    on_cpu = cost.flops(made, batch())
    made.to("cuda")
    made.device = torch.device("cuda")
    draws = torch.cuda.get_rng_state()
    assert cost.flops(made, batch()) == on_cpu
    assert cost.latency(made, batch(), 256, repeats=3) > 0
    assert torch.equal(torch.cuda.get_rng_state(), draws)
