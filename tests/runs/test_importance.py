"""Permutation importance, against a slow loop over rows with the weights of a small model."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.errors import InputError
from recbole_msr.runs.ensemble import Member, write_ensemble
from recbole_msr.runs.explain.explain import importance_over_runs
from recbole_msr.runs.explain.permutation import ImportanceOptions
from tests.runs.tiny import SMALL

SETTINGS = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp", "seen"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "class", "price"],
    },
    "scenario": {"field": "age", "bins": [30], "names": ["young", "old"]},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "numerical_features": ["price"],
    "eval_args": {"split": {"RS": [0.4, 0.2, 0.4]}},
    **SMALL,
    "learning_rate": 0.05,
    "train_batch_size": 64,
    "eval_batch_size": 50,
}


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """A dataset "tiny" of 600 rows; gender is that of the scenario: it is constant in both."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    draw = np.random.default_rng(4)
    pairs = draw.permutation(40 * 30)[:600]
    age = draw.integers(16, 60, 40)
    taste = draw.normal(size=30)
    tables = {
        "user": {
            "user_id:token": [f"u{n}" for n in range(40)],
            "age:token": age,
            "gender:token": np.where(age < 30, "F", "M"),
        },
        "item": {
            "item_id:token": [f"i{n}" for n in range(30)],
            "class:token_seq": [f"c{n % 3} c{n % 5}" for n in range(30)],
            "price:float": draw.normal(size=30).round(2),
        },
        "inter": {
            "user_id:token": [f"u{p // 30}" for p in pairs],
            "item_id:token": [f"i{p % 30}" for p in pairs],
            "rating:float": np.clip(np.round(3.5 + taste[pairs % 30] + draw.normal(size=600)), 1, 5),
            "timestamp:float": np.arange(600),
            "seen:token_seq": [f"i{p % 7} i{p % 11}" for p in pairs],
        },
    }
    for suffix, columns in tables.items():
        pd.DataFrame(columns).to_csv(folder / f"tiny.{suffix}", sep="\t", index=False)
    return folder.parent


@pytest.fixture(scope="module")
def train(run_tiny, tmp_path_factory):
    """train(model, **settings) -> the folder of a finished run."""

    def go(model="SharedBottom", **settings):
        folder = tmp_path_factory.mktemp("runs") / model
        sizes = {"bottom_hidden_sizes": [8], "tower_hidden_sizes": []} if model == "SharedBottom" else {}
        run_tiny(folder, model, **sizes | settings)
        return folder

    return go


@pytest.fixture(scope="module")
def run(train):
    return train()


def _test_rows(run):
    """The test rows as RecBole has them, their scenarios, and the opened run."""
    from recbole.data import create_dataset

    saved = recbole_msr.load(run)
    test = create_dataset(saved.recbole_config).build()[2]
    rows = {name: column.clone() for name, column in test[torch.arange(len(test))].interaction.items()}
    return rows, test.row_scenario(test.inter_feat).numpy(), saved


def _slow_auc(score, label):
    pairs = [(p > n) + 0.5 * (p == n) for p in score[label == 1] for n in score[label == 0]]
    return float(np.mean(pairs))


def _slow_losses(run, columns, shuffles, seed, weights=None):
    """Row by row: the AUC of each cell, less that with the columns of another row of the scenario.

    `weights` has those of runs by their folders, whose predictions are averaged.
    """
    from recbole.data.interaction import Interaction

    rows, scenario, saved = _test_rows(run)
    models = [(saved.model, 1)] if weights is None else [(recbole_msr.load(of).model, w) for of, w in weights.items()]

    def predict(given):
        scores = [w * model.predict_tasks(Interaction(given)).double().numpy() for model, w in models]
        return sum(scores) / sum(w for _, w in models)

    losses = {(s, t): [] for s in (1, 2) for t in range(2)}
    for number in range(shuffles):
        draw = np.random.default_rng([seed, number])
        changed = {name: column.clone() for name, column in rows.items()}
        for s in np.unique(scenario):
            places = np.flatnonzero(scenario == s)
            for place, donor in zip(places, places[draw.permutation(len(places))], strict=True):
                for name in columns:
                    changed[name][place] = rows[name][donor]
        with torch.no_grad():
            before, after = predict(rows), predict(changed)
        for (s, t), found in losses.items():
            label = rows[["label_click", "label_like"][t]].numpy()
            here = scenario == s
            found.append(_slow_auc(before[here, t], label[here]) - _slow_auc(after[here, t], label[here]))
    return {key: np.array(found) for key, found in losses.items()}


@pytest.mark.parametrize(
    ("name", "columns"),
    [("item_id", ["item_id"]), ("class", ["class"]), ("price", ["price"]), ("item_id+price", ["item_id", "price"])],
)
def test_the_loss_is_that_of_a_loop_over_rows(run, name, columns):
    (found,) = recbole_msr.load(run).importance([name], shuffles=3, seed=5).fields
    slow = _slow_losses(run, columns, 3, 5)
    for s, scenario in enumerate(("young", "old"), start=1):
        for t, task in enumerate(("click", "like")):
            loss, expected = found.loss("auc", task, scenario), slow[s, t]
            assert loss.mean == pytest.approx(expected.mean(), abs=1e-6)
            assert loss.seed_error == pytest.approx(expected.std(ddof=1) / 3**0.5, abs=1e-6)
            assert loss.low < loss.mean < loss.high
    mean = np.mean([slow[1, 0].mean(), slow[2, 0].mean()])
    assert found.loss("auc", "click", macro=True).mean == pytest.approx(mean, abs=1e-6)


@pytest.fixture(scope="module")
def other(train):
    """The same model with another seed."""
    return train(seed=7)


@pytest.fixture(scope="module")
def ensemble(run, other, tmp_path_factory):
    return write_ensemble(tmp_path_factory.mktemp("ensembles") / "both", [Member(run, 3), Member(other)])


def test_of_an_ensemble_the_mean_of_the_members_predictions_loses(run, other, ensemble):
    (found,) = recbole_msr.load(ensemble).importance(["item_id+price"], shuffles=2, seed=5).fields
    slow = _slow_losses(run, ["item_id", "price"], 2, 5, {run: 3, other: 1})
    for s, scenario in enumerate(("young", "old"), start=1):
        for t, task in enumerate(("click", "like")):
            assert found.loss("auc", task, scenario).mean == pytest.approx(slow[s, t].mean(), abs=1e-6)


def test_over_runs_the_loss_is_their_mean_with_what_runs_and_shuffles_change(run, other):
    runs = [recbole_msr.load(folder) for folder in (run, other)]
    importance = importance_over_runs(runs, ["item_id"], shuffles=3, seed=5)
    loss = importance.fields[0].loss("auc", "click", "old")
    each = np.array([_slow_losses(folder, ["item_id"], 3, 5)[2, 0] for folder in (run, other)])  # (runs, shuffles)
    assert loss.mean == pytest.approx(each.mean(), abs=1e-6)
    assert loss.by_run == pytest.approx(each.mean(axis=1), abs=1e-6)
    assert loss.run_error == pytest.approx(each.mean(axis=1).std(ddof=1) / 2**0.5, abs=1e-6)
    assert loss.seed_error == pytest.approx(each.mean(axis=0).std(ddof=1) / 3**0.5, abs=1e-6)
    parts = [(loss.row_error**2, 1e9), (loss.seed_error**2, 2), (loss.run_error**2, 1)]
    error = sum(variance for variance, _ in parts)
    reach = (loss.high - loss.low) / 2
    assert reach >= stats.t.ppf(0.975, error**2 / sum(v**2 / of for v, of in parts)) * error**0.5 * (1 - 1e-6)
    alone = runs[0].importance(["item_id"], shuffles=3, seed=5).fields[0].loss("auc", "click", "old")
    assert loss.by_run[0] == pytest.approx(alone.mean), "as the run alone"
    values = [of.importance(["item_id"], shuffles=1).values["auc/click/macro"] for of in runs]
    assert importance.values["auc/click/macro"] == pytest.approx(np.mean(values))


def test_runs_of_other_rows_or_models_have_no_common_importance(run, train):
    split = recbole_msr.load(train(eval_args={"split": {"RS": [0.6, 0.2, 0.2]}}))
    with pytest.raises(InputError, match="have different rows in this split"):
        importance_over_runs([recbole_msr.load(run), split])
    with pytest.raises(InputError, match=r"is of DeepFM, and .* of SharedBottom"):
        importance_over_runs([recbole_msr.load(run), recbole_msr.load(train("DeepFM", mlp_hidden_size=[8]))])


def test_an_ensemble_averages_calibrated_members_as_predict_does(train, other, tmp_path):
    from recbole_msr.runs.explain.sources import RunSources
    from recbole_msr.runs.export.check import rows_of_split
    from recbole_msr.runs.export.fields import model_fields
    from recbole_msr.schema import label_field

    calibrated = train(calibrate="isotonic")
    both = recbole_msr.load(write_ensemble(tmp_path / "both", [Member(calibrated), Member(other)]))
    first = both.members[0]
    assert first.calibration is not None
    test = RunSources(first).split("test")
    p = both.predict(rows_of_split(test, model_fields(first.recbole_config, first.dataset, first.model)))
    found = both.importance(["price"], shuffles=1)
    for task in both.tasks:
        label = test.inter_feat[label_field(task)].numpy()
        assert found.values[f"auc/{task}"] == pytest.approx(_slow_auc(p[task].to_numpy(), label), abs=1e-6)


def test_the_command_shows_runs_and_ensembles(run, other, ensemble, tmp_path, capsys):
    page = tmp_path / "page.html"
    options = [f"--out={page}", "--fields=price,item", "--shuffles=2"]
    assert main(["explain", f"--runs={run},{other}", *options]) == 0
    assert "Importance of fields (test rows, 2 shuffles, 2 runs)" in capsys.readouterr().out
    runs = [recbole_msr.load(folder) for folder in (run, other)]
    importance = importance_over_runs(runs, ["price", "item"], shuffles=2)
    written = json.loads((tmp_path / "page-importance.json").read_text())
    assert written == importance.to_dict()
    assert written["runs"] == [str(run), str(other)]
    table = pd.read_csv(tmp_path / "page-importance.csv")
    pd.testing.assert_frame_equal(table, importance.frame(), check_dtype=False)
    assert "run_error" in table
    assert "by run, mean over the scenarios" in page.read_text()
    page = tmp_path / "ensemble.html"
    assert main(["explain", f"--run={ensemble}", f"--out={page}", "--fields=price", "--shuffles=2"]) == 0
    assert "2 shuffles, 2 members" in capsys.readouterr().out
    written = json.loads((tmp_path / "ensemble-importance.json").read_text())
    assert written == recbole_msr.load(ensemble).importance(["price"], shuffles=2).to_dict()
    assert "Ensemble of SharedBottom on tiny" in page.read_text()
    assert main(["explain", f"--run={ensemble}", f"--out={page}", "--shuffles=0"]) == 2
    assert "which --shuffles=0 leaves out" in capsys.readouterr().err


def test_a_loss_of_a_metric_that_is_best_small_is_positive_where_the_field_helps(run):
    (found,) = recbole_msr.load(run).importance(["item"]).fields
    assert found.loss("auc", "click", macro=True).mean > 0.05
    assert found.loss("logloss", "click", macro=True).mean > 0


def test_user_and_item_are_all_their_fields(run):
    fields = recbole_msr.load(run).importance(["user", "item"], shuffles=1).fields
    by_name = {one.name: set(one.fields) for one in fields}
    assert by_name == {"user": {"user_id", "age", "gender"}, "item": {"item_id", "class", "price"}}


def test_a_field_that_is_constant_in_every_scenario_loses_exactly_nothing(run):
    (found,) = recbole_msr.load(run).importance(["gender"]).fields
    assert found.is_read
    assert {(loss.mean, loss.low, loss.high) for loss in found.losses.values()} == {(0.0, 0.0, 0.0)}


def test_a_field_whose_weights_are_zero_loses_exactly_nothing(run, tmp_path):
    saved = recbole_msr.load(run)
    features, start = saved.model.features, 0
    for part in features.columns:
        if part.name == "price":
            break
        start += part.width
    with torch.no_grad():
        first = next(p for p in saved.model.parameters() if p.dim() >= 2 and features.output_size in p.shape)
        at = first.shape.index(features.output_size)
        first.index_fill_(at, torch.tensor([start]), 0.0)
    price, item = sorted(saved.importance(["price", "item_id"]).fields, key=lambda one: one.name != "price")
    assert price.is_read
    assert {loss.mean for loss in price.losses.values()} == {0.0}
    assert item.loss("auc", "click", macro=True).mean > 0


def test_a_field_that_the_model_does_not_read_is_exactly_0_and_named(run):
    importance = recbole_msr.load(run).importance(["timestamp"])
    (found,) = importance.fields
    assert not found.is_read
    assert {(loss.mean, loss.low, loss.high) for loss in found.losses.values()} == {(0.0, 0.0, 0.0)}
    assert importance.notes == ("the model does not read timestamp: importance exactly 0",)


def test_by_default_every_field_that_the_model_reads_is_shuffled_by_itself(run):
    importance = recbole_msr.load(run).importance(shuffles=1)
    expected = {"user_id", "item_id", "age", "gender", "class", "price", "seen"}
    assert {one.name for one in importance.fields} == expected
    assert "timestamp" in importance.notes[0]


def test_a_field_has_the_same_importance_whatever_else_is_asked_for(run):
    saved = recbole_msr.load(run)
    alone = saved.importance(["price"]).fields[0]
    beside = {one.name: one for one in saved.importance(["item_id", "price", "class"]).fields}["price"]
    assert alone.losses == beside.losses
    assert alone.losses != saved.importance(["price"], seed=1).fields[0].losses


def test_the_history_is_one_field_exchanged_as_a_whole(train):
    folder = train(
        history={"fields": ["item_id"], "length": 5, "given": {"seen": "item_id"}}, alias_of_item_id=["seen"]
    )
    importance = recbole_msr.load(folder).importance(shuffles=2, seed=3)
    found = {one.name: one for one in importance.fields}["history"]
    assert set(found.fields) == {"history_rows", "seen"}
    slow = _slow_losses(folder, ["history_rows", "seen"], 2, 3)
    assert found.loss("auc", "like", "old").mean == pytest.approx(slow[2, 1].mean(), abs=1e-6)
    with pytest.raises(
        InputError, match="'seen' is part of each row's history, which is shuffled whole: ask for history"
    ):
        recbole_msr.load(folder).importance(["seen"])


def test_a_model_of_one_task_has_the_importance_of_that_task(train):
    importance = recbole_msr.load(train("DeepFM", mlp_hidden_size=[8])).importance(["item_id"], shuffles=2)
    assert list(importance.types) == ["click"]
    assert importance.fields[0].loss("auc", "click", macro=True) is not None


def test_tasks_of_numbers_and_classes_lose_mae_and_accuracy(train):
    tasks = {"price_paid": {"field": "timestamp", "type": "number"}, "rating": {"field": "rating", "type": "classes"}}
    importance = recbole_msr.load(train(tasks=tasks)).importance(["item_id"], shuffles=2)
    (found,) = importance.fields
    assert found.loss("mae", "price_paid", "old") is not None
    assert found.loss("accuracy", "rating", "old") is not None
    assert found.loss("auc", "rating", "old") is None


def test_fewer_rows_are_spread_over_each_scenario_and_said(run):
    importance = recbole_msr.load(run).importance(["item_id"], rows=40, shuffles=1)
    assert importance.rows == 80
    assert "80 of 224 test rows: at most 40 of each scenario" in importance.notes[-1]


def test_the_test_rows_of_a_run_that_is_not_tested_are_left_alone(data_path, tmp_path):
    given = SETTINGS | {"data_path": str(data_path), "output_dir": str(tmp_path / "run")}
    recbole_msr.run("SharedBottom", "tiny", config=given, test=False)
    importance = recbole_msr.load(tmp_path / "run").importance(["item_id"], shuffles=1)
    assert importance.split == "valid"
    assert importance.notes[0] == "the run has not been tested yet: importance is of the validation rows"


def test_scenarios_of_one_class_have_no_importance_and_say_why(train):
    folder = train(tasks={"click": {"field": "rating", "at_least": 1}}, valid_metric="LogLoss")
    importance = recbole_msr.load(folder).importance(["item_id"], shuffles=1)
    assert [reason for _, _, reason in importance.undefined] == ["one class: all 1", "one class: all 1"]
    assert importance.notes[-1] == "click has no importance by scenario: one class: all 1"
    assert importance.fields[0].loss("auc", "click", "old") is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (["prise"], "there is no field 'prise'; did you mean 'price'"),
        (["item_id+nothing"], "there is no field 'nothing'"),
        (["label_click"], "'label_click' is a label"),
        (["scenario"], "there is no field 'scenario'|'scenario' is the scenario"),
        ([], "--fields needs one field or more"),
        ("price", "--fields takes names of fields"),
    ],
)
def test_fields_that_cannot_be_shuffled_are_refused(run, fields, told):
    with pytest.raises(InputError, match=told):
        recbole_msr.load(run).importance(fields)


@pytest.mark.parametrize("wrong", [{"shuffles": 0}, {"rows": 1}, {"seed": -1}, {"split": "train"}, {"shuffles": True}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))} must be"):
        ImportanceOptions(**wrong)


def test_the_command_writes_the_page_and_two_files(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["explain", f"--run={run}", f"--out={page}", "--fields=price,item", "--shuffles=2", "--n=1"]) == 0
    printed = capsys.readouterr().out
    assert "Importance of fields (test rows, 2 shuffles)" in printed
    importance = recbole_msr.load(run).importance(["price", "item"], shuffles=2)
    assert json.loads((tmp_path / "page-importance.json").read_text()) == importance.to_dict()
    table = pd.read_csv(tmp_path / "page-importance.csv")
    pd.testing.assert_frame_equal(table, importance.frame(), check_dtype=False)
    assert f"{importance.fields[0].loss('auc', 'click', 'old').mean:.4f}" in page.read_text()
    assert main(["explain", f"--run={run}", f"--out={page}", "--shuffles=2", "--n=1"]) == 0


def test_files_of_others_are_not_written_over(run, tmp_path, capsys):
    (tmp_path / "page-importance.csv").write_text("a,b\n1,2\n")
    assert main(["explain", f"--run={run}", f"--out={tmp_path / 'page.html'}"]) == 2
    assert "page-importance.csv exists and holds no importance of fields" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_no_shuffles_leave_importance_out(run, tmp_path):
    assert main(["explain", f"--run={run}", f"--out={tmp_path / 'page.html'}", "--shuffles=0"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert "Importance of fields" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--fields=nothing"], "there is no field 'nothing'"),
        (["--fields=,"], "--fields needs one field or more"),
        (["--rows=few"], "--rows must be a whole number or all"),
        (["--shuffles=-1"], "--shuffles must be a whole number, 1 or more"),
        (
            ["--shuffles=0", "--fields=price"],
            "--fields is about the importance of fields, which --shuffles=0 leaves out",
        ),
    ],
)
def test_bad_options_are_one_line(run, tmp_path, capsys, arguments, told):
    assert main(["explain", f"--run={run}", f"--out={tmp_path / 'page.html'}", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
