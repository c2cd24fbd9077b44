"""The benchmarks measure what they say: the same work on every side, on data that can be learnt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks import ablation, accuracy, fused, large, leaderboard, synthetic, tables
from benchmarks.limits import Products, flops
from benchmarks.targets import targets
from recbole_msr.comparison.run import CompareResult
from recbole_msr.registry import registered_models

ROOT = Path(__file__).parent.parent
HEAD = "user_id:token\titem_id:token"


def test_the_synthetic_file_has_the_sizes_asked_for(tmp_path):
    file = synthetic.make(tmp_path, rows=3000, ids=50, seed=1) / "synthetic" / "synthetic.inter"
    lines = file.read_text().splitlines()
    names = [column.split(":")[0] for column in lines[0].split("\t")]
    columns = dict(zip(names, zip(*(line.split("\t") for line in lines[1:]), strict=True), strict=True))

    assert len(lines) == 3001
    assert len(synthetic.TOKENS) == 12
    assert [len(set(columns[field])) for field in synthetic.TOKENS] == [50] * 12
    assert set(columns["scenario"]) == {str(n) for n in range(1, 9)}
    assert {set(columns[task]) == {"0", "1"} for task in synthetic.TASKS} == {True}
    assert lines[0].startswith(HEAD)
    assert {len(set(columns[field])) > 1000 for field in synthetic.FLOATS} == {True}


def test_the_synthetic_file_is_made_once_and_again_for_other_sizes(tmp_path):
    file = synthetic.make(tmp_path, rows=100, ids=5) / "synthetic" / "synthetic.inter"
    first = (file.stat().st_mtime_ns, file.read_bytes())
    synthetic.make(tmp_path, rows=100, ids=5)
    assert (file.stat().st_mtime_ns, file.read_bytes()) == first
    synthetic.make(tmp_path, rows=200, ids=5)
    assert len(file.read_text().splitlines()) == 201


@pytest.mark.parametrize(("name", "part"), [("G", 0), ("S_i", 1), ("A_i", 2)])
def test_an_ablated_hinet_reads_the_other_parts_alone(make_model, name, part):
    made, rows = make_model(3, ablation.AblatedHiNet, ablation=name, expert_hidden_sizes=[6], dropout=0.0)
    whole, _ = make_model(3, "HiNet", expert_hidden_sizes=[6], dropout=0.0)
    whole.load_state_dict(made.state_dict())
    x, scenario = made.embed(rows), made.scenario_of(rows)
    ours, theirs = (each.scenario_layers[0](x, scenario, each.scenario_embedding) for each in (made, whole))
    assert not ours[:, 6 * part : 6 * part + 6].any()
    others = [column for column in range(18) if column // 6 != part]
    torch.testing.assert_close(ours[:, others], theirs[:, others])


def test_the_leaderboard_has_every_model_and_searches_the_best_on_validation():
    assert set(registered_models()) - {"LLM4MSR"} < set(leaderboard.models())
    found = [
        {"label": label, "valid": {"auc/macro": {"mean": mean}}}
        for label, mean in zip("ABCD", (1, 3, 4, 2), strict=True)
    ]
    reference, failed = {"label": leaderboard.REFERENCE, "valid": found[0]["valid"]}, {"label": "E", "valid": {}}
    compared = CompareResult({"entries": [*found, reference, failed]}, Path())
    assert leaderboard.best(compared, 2) == [leaderboard.REFERENCE, "C", "B"]


@pytest.mark.parametrize("ablation_name", ["attention uniform", "attention given"])
def test_an_ablated_attention_is_not_learnt(make_model, ablation_name):
    made, rows = make_model(3, ablation.AblatedHiNet, ablation=ablation_name, expert_hidden_sizes=[6], dropout=0.0)
    layer, x, scenario = made.scenario_layers[0], made.embed(rows), made.scenario_of(rows)
    s, share = layer.experts(x)[:3], layer.san.share
    for row in range(len(x)):
        i = int(scenario[row])
        expected = sum(share[i, m] * s[m, row] for m in range(3) if m != i)
        ours = layer(x, scenario, made.scenario_embedding)[row, -6:]
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(share.sum(dim=1), torch.ones(3))
    assert torch.equal(share[~torch.eye(3, dtype=torch.bool)], torch.full((6,), 0.5)) == (
        ablation_name == "attention uniform"
    )


def test_expert_dropout_leaves_out_sub_experts_in_training_alone(make_model):
    made, rows = make_model(3, ablation.AblatedHiNet, ablation="expert dropout", dropout=0.0)
    experts, x = made.scenario_layers[0].experts, made.embed(rows)
    plain = type(experts).gate(experts, x)
    torch.testing.assert_close(experts.eval().gate(x), plain)
    g = experts.train().gate(x)
    left_out = g == 0
    assert 0.1 < left_out.float().mean() < 0.3
    torch.testing.assert_close(g.sum(dim=1), torch.ones(g.shape[0], g.shape[2]))
    kept = plain.masked_fill(left_out, 0)
    torch.testing.assert_close(g, kept / kept.sum(dim=1, keepdim=True))


def test_the_diversity_term_is_the_mean_of_squared_cosines(make_model):
    made, rows = make_model(3, ablation.AblatedHiNet, ablation="diversity", dropout=0.0)
    bank = made.scenario_layers[0].experts.sub_experts
    n_experts, k = made.eval().scenario_layers[0].experts.shape
    with torch.no_grad():
        q = bank(made.eval().embed(rows)).double().numpy()
        term = made.train().row_losses(rows)[0]
        plain = made.eval().row_losses(rows)[0]
    for row in range(3):
        cosines = []
        for e in range(n_experts):
            for first in range(k):
                for second in range(first + 1, k):
                    a, b = q[e * k + first, row], q[e * k + second, row]
                    cosines.append((a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)) ** 2)
        added = (term - plain)[row].double().numpy()
        labelled = added != 0
        assert labelled.any()
        np.testing.assert_allclose(
            added[labelled], ablation.DIVERSITY * np.mean(cosines) / made.n_tasks, rtol=1e-3, atol=1e-6
        )


def test_ids_say_something_about_the_planted_labels():
    columns = synthetic.draw(rows=40_000, ids=20, seed=3)
    half = 20_000
    for task in synthetic.TASKS:
        label = columns[task].astype(float)
        # Scored by how often each id of each field was positive in the first half: no model of this package.
        score = np.zeros(half)
        for field in synthetic.TOKENS:
            ids = columns[field]
            positive = np.bincount(ids[:half], label[:half], minlength=21) + label[:half].mean()
            rate = positive / (np.bincount(ids[:half], minlength=21) + 1)
            score += np.log(rate[ids[half:]] / (1 - rate[ids[half:]]))
        assert roc_auc_score(label[half:], score) > 0.75
        assert roc_auc_score(label[half:], columns["float_1"][half:]) < 0.65  # no single column gives it away


def test_scenarios_weigh_the_ids_differently():
    columns = synthetic.draw(rows=60_000, ids=4, seed=5)
    scenario, label = columns["scenario"], columns["click"]
    spread = []
    for field in synthetic.TOKENS:
        ids = columns[field]
        rates = [[label[(ids == n) & (scenario == s)].mean() for n in range(1, 5)] for s in range(1, 9)]
        spread.append(np.ptp(rates, axis=1))  # in each scenario, between the field's best id and its worst
    # The error of such a difference is about 0.02; weights between 0.3 and 0.7 make up to twice as large ones.
    assert max(one.max() / one.min() for one in spread) > 1.5
    assert max(one.max() - one.min() for one in spread) > 0.08


@pytest.fixture
def twins(make_model):
    """twins(scenarios) -> HiNet, the plain one with its weights, and rows; both without dropout."""

    def make(scenarios):
        from benchmarks.plain_hinet import PlainHiNet

        small = {"expert_hidden_sizes": [9, 6], "task_expert_hidden_sizes": [7, 5], "tower_hidden_sizes": [4]}
        small |= {"sub_experts": 3, "scenario_embedding_size": 8, "san_hidden_sizes": [5]}
        ours, rows = make_model(scenarios, "HiNet", **small)
        plain, _ = make_model(scenarios, PlainHiNet, **small)
        give_weights(ours, plain)
        return ours.eval(), plain.eval(), rows

    return make


@torch.no_grad()
def give_weights(ours, plain):
    """Copy HiNet's weights into the plain one, module by module."""

    def bank(source, targets, first=0):
        for e, target in enumerate(targets):
            linear = [layer for layer in target if isinstance(layer, torch.nn.Linear)]
            for layer, weight, bias in zip(linear, source.weights, source.biases, strict=True):
                layer.weight.copy_(weight[first + e])
                layer.bias.copy_(bias[first + e])

    plain.features.load_state_dict(ours.features.state_dict())
    layer = ours.scenario_layers[0]
    k = len(plain.shared.experts)
    for number, expert in enumerate([*plain.specific, plain.shared]):  # the shared one is the last
        bank(layer.experts.sub_experts, expert.experts, number * k)
        expert.gate.weight.copy_(layer.experts.gates.weight[number * k : (number + 1) * k])
        expert.gate.bias.copy_(layer.experts.gates.bias[number * k : (number + 1) * k])
    if plain.h is not None:
        plain.scenario_embedding.weight.copy_(ours.scenario_embedding)
        plain.h.load_state_dict(dict(zip(plain.h.state_dict(), layer.san.h.state_dict().values(), strict=True)))
    cgc = ours.task_layers[0]
    n_own = len(plain.task_own[0])
    for t, own in enumerate(plain.task_own):
        bank(cgc.experts, own, t * n_own)
        plain.task_gates[t].weight.copy_(cgc.gates.weights[0][t])
        plain.task_gates[t].bias.copy_(cgc.gates.biases[0][t])
    bank(cgc.experts, plain.task_shared, len(plain.task_own) * n_own)
    bank(ours.towers, plain.towers)


@pytest.mark.parametrize("scenarios", [1, 2, 3])
def test_the_plain_hinet_is_hinet(twins, scenarios):
    ours, plain, rows = twins(scenarios)
    x, scenario = ours.embed(rows), ours.scenario_of(rows)
    torch.testing.assert_close(plain.logits(x, scenario), ours.logits(x, scenario), rtol=1e-5, atol=1e-5)
    size = [sum(p.numel() for p in model.parameters()) for model in (ours, plain)]
    assert size[0] == size[1]


def test_the_plain_hinet_learns_the_same_step(twins):
    ours, plain, rows = twins(3)
    for model in (ours, plain):
        model.calculate_loss(rows).backward()
    torch.testing.assert_close(plain.features.table.weight.grad, ours.features.table.weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(plain.scenario_embedding.weight.grad, ours.scenario_embedding.grad, rtol=1e-4, atol=1e-6)


def test_the_plain_hinet_begins_with_the_same_distribution(make_model):
    from benchmarks.plain_hinet import PlainHiNet

    sizes = {"expert_hidden_sizes": [300], "sub_experts": 4}
    ours, plain = make_model(3, "HiNet", **sizes)[0], make_model(3, PlainHiNet, **sizes)[0]
    drawn = torch.cat([expert[0].weight.flatten() for expert in plain.shared.experts])
    expected = ours.scenario_layers[0].experts.sub_experts.weights[0].detach().flatten()
    assert float(drawn.detach().std() / expected.std()) == pytest.approx(1, abs=0.02)
    gates = (
        plain.shared.gate.weight.detach().abs().max(),
        ours.scenario_layers[0].experts.gates.weight.detach().abs().max(),
    )
    assert float(gates[0] / gates[1]) == pytest.approx(1, abs=0.1)


def test_the_counted_matrix_products_are_those_of_the_layers():
    layer, x = torch.nn.Linear(5, 3), torch.zeros(7, 5, requires_grad=True)
    with Products() as products:
        layer(x).sum().backward()
    # x W' forward, and both factors' gradients backward, of 2 * 7 * 5 * 3 each.
    assert sum(count * flops(*pair) for pair, count in products.found.items()) == 3 * 2 * 7 * 5 * 3


def verdicts(**found):
    return [line.split(" | ")[-1].removesuffix(" |") for line in accuracy.lines("M", found)[3:]]


def test_a_path_is_noise_if_it_is_no_further_from_the_exact_one_than_seeds_are():
    # Differences 0.001, 0.002, 0.003: mean 0.002, standard error 0.000577, t(2) = 4.3027.
    mean, half = accuracy.paired([0.001, 0.002, 0.003])
    assert mean == pytest.approx(0.002)
    assert half == pytest.approx(4.3027 * 0.001 / 3**0.5, rel=1e-4)
    close = [0.8, 0.8001, 0.7999]
    assert verdicts(exact=close, good=[0.8001, 0.8, 0.7999], bad=[0.7, 0.701, 0.7]) == ["yes", "no"]
    assert verdicts(exact=close, near=[0.8008, 0.8009, 0.8007], far=[0.8012, 0.8013, 0.8011]) == ["yes", "no"]
    spread = [0.800, 0.801, 0.802]
    assert verdicts(exact=spread, inside=[0.8018, 0.8028, 0.8038], outside=[0.8022, 0.8032, 0.8042]) == ["yes", "no"]
    assert verdicts(exact=spread, broken_with_one_seed=[0.800, 0.801, 0.700]) == ["no"]  # its interval holds 0
    assert verdicts(exact=[0.8], other=[0.5]) == ["not known"]
    assert verdicts(exact=[0.8, 0.81], other=[0.8, 0.81]) == ["not known"]


def test_a_target_is_the_ratio_of_medians():
    runs = {"RecBole": [{"rows_per_second": [10.0, 30.0]}, {"rows_per_second": [20.0]}]}
    runs["ours"] = [{"rows_per_second": [50.0, 70.0, 1000.0]}]
    found = {target.what: target for target in targets({"train": {"ml-1m": {"LR": runs}}})}
    (row,) = [target for what, target in found.items() if what.startswith("LR, training")]
    assert row.ratio == pytest.approx(70 / 20)
    assert row.met
    assert {target.met for target in found.values() if target is not row} == {None}


def test_on_a_gpu_every_side_is_compared_by_itself():
    def measured(*rows_per_second, **more):
        return {"rows_per_second": list(rows_per_second), "peak_gpu_gb": 1.0, **more}

    gpu = {"RecBole, plain, batch 4096": measured(1.0), "RecBole, plain, batch 16384": measured(2.0)}
    gpu |= {"ours, batch 65536": measured(5.0, 6.0, 7.0)}
    gpu |= {"ours, bf16, batch 65536": measured(30.0)}
    told = ["compile: the model is trained without: it could not be compiled (no compiler)"]
    gpu |= {"ours, compiled, batch 65536": measured(90.0, warnings=told)}
    gpu |= {"limit": {"flops_per_row": 3.0, "fp32": {"rows_per_second": 12.0}, "bf16": {"rows_per_second": 60.0}}}
    found = [target for target in targets({"gpu": gpu}) if target.what.startswith("GPU")]
    assert [target.ratio for target in found] == [3.0, 0.5, 15.0, 0.5, None, None]
    assert [target.met for target in found] == [False, True, True, True, None, None]
    assert found[4].note == "the model could not be compiled"
    assert ["could not be compiled" in line for line in tables.gpu_table({"gpu": gpu})[2:]] == [False] * 4 + [True]


def test_a_side_that_was_not_compiled_does_not_count():
    told = ["compile: the model is trained without: it could not be compiled (no compiler)"]
    runs = {"RecBole": [{"rows_per_second": [10.0]}], "ours": [{"rows_per_second": [50.0], "warnings": told}]}
    results = {"train": {"ml-1m": {"LR": runs}}}
    (row,) = [target for target in targets(results) if target.what.startswith("LR, training")]
    assert (row.ratio, row.met, row.note) == (None, None, "the model could not be compiled")
    assert "| ours (could not be compiled) | 1 |  |" in tables.train_table(results)[-1]
    runs["ours"].append({"rows_per_second": [30.0], "warnings": ["another one"]})
    (row,) = [target for target in targets(results) if target.what.startswith("LR, training")]
    assert row.ratio == 3.0


def test_figures_of_several_files_are_put_together():
    first = {"threads": 1, "train": {"ml-1m": {"LR": {"ours": [{"rows_per_second": [10.0]}]}}}}
    second = {"threads": 2, "train": {"ml-1m": {"LR": {"ours": [{"rows_per_second": [30.0]}], "RecBole": []}}}}
    found = tables.together(tables.together({}, first), second)
    runs = [{"rows_per_second": [10.0]}, {"rows_per_second": [30.0]}]
    assert found == {"threads": 2, "train": {"ml-1m": {"LR": {"ours": runs, "RecBole": []}}}}


def test_trainings_at_once_are_measured_beside_the_same_one_by_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    data = {"dataset": "ml-100k", "data_path": None, "rounds": 1}
    case = {"model": "LR", "kind": "seeds", "batch": 2048, "members": 2}
    found = fused.together(**case, **data)
    assert set(found) == {"one by one", "side by side", "stacked"}
    assert min(found.values()) > 0
    # Sparse gradients cannot be stacked: what is trained side by side then is not called stacked.
    whole = fused._settings
    monkeypatch.setattr(fused, "_settings", lambda *a, **k: whole(*a, **k) | {"embedding_gradients": "sparse"})
    assert set(fused.together(**case, **data)) == {"one by one", "side by side"}


def test_the_table_of_memory_has_the_ratios_to_the_usual():
    ways = {
        "as it is": [{"rows_per_second": [100.0, 120.0, 80.0], "evaluation": [2.0], "peak_gb": 1.0}],
        "both": [{"rows_per_second": [50.0], "evaluation": [4.0], "peak_gb": 1.0}],
    }
    lines = tables.memory_table({"memory": {"ml-1m": {"HiNet": {"ours": ways}}}})
    assert lines[2] == "| ml-1m | HiNet | ours | as it is | 100.0 | 1.00 | 2.00 | 1.00 | 1.00 |"
    assert lines[3] == "| ml-1m | HiNet | ours | both | 50.0 | 0.50 | 4.00 | 0.50 | 1.00 |"


def test_the_table_of_trainings_at_once_has_the_ratios():
    members = [{"model": "LR", "batch": 64, "members": 8, "kind": "trials", "one by one": 10.0, "side by side": 15.0}]
    final = [{"model": "LR", "seeds": 5, "one by one": 12.0, "together": 8.0}]
    lines = tables.fused_table({"fused": {"members": members, "final": final}})
    assert lines[2] == "| LR | 64 | 8 trials | 10.0 | 1.50 |  |"
    assert lines[-1] == "| LR | 5 | 12.0 | 8.00 | 1.50 |"


@pytest.mark.slow
def test_the_command_measures_and_writes(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks", "--parts", "train", "--models", "LR", "--datasets", "synthetic"]
    command += [
        "--rounds",
        "1",
        "--sides",
        "RecBole",
        "ours",
        "--stretches",
        "1",
        "--steps",
        "3",
        "--rows",
        "4000",
        "--ids",
        "50",
    ]
    command += ["--batch_size", "256", "--work", str(tmp_path), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    found = json.loads(out.read_text())
    sides = found["train"]["synthetic"]["LR"]
    assert {"RecBole", "ours"} <= set(sides)
    keys = {"import", "load", "rows_per_second", "epoch", "evaluation", "peak_gb", "auc", "parameters", "steps"}
    for runs in sides.values():
        assert keys <= set(runs[0])
        assert min(runs[0]["rows_per_second"]) > 0
    assert sides["RecBole"][0]["parameters"] == sides["ours"][0]["parameters"]
    assert sides["RecBole"][0]["auc"] == pytest.approx(sides["ours"][0]["auc"], abs=2e-4)  # the same work was done
    assert found["machine"]["cores"] >= 1
    assert [target["what"] for target in found["targets"]] == [target.what for target in targets(found)]
    assert "at least" in done.stdout.split("## targets")[1]
    assert list(tmp_path.glob("temporary-*")) == []


def test_a_log_is_prepared_alike_from_parquet_and_from_its_atomic_file(tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_MSR_CACHE", str(tmp_path / "cache"))
    file = str(large.make(tmp_path / "logs", 2000))
    large.write_atomic(file)
    found = [large.prepare(file, beside=["users", "items"]), large.prepare(file), large.prepare(file, atomic=True)]
    assert [each["rows"] for each in found] == [found[0]["rows"]] * 3
    assert sum(found[0]["rows"]) == 2000
    assert 0 < found[0]["peak_gb"] < 5
