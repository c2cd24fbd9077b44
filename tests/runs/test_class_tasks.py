"""Runs with tasks of classes: tested, predicted, averaged, compared and searched for."""

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.quick_start import load_data_and_model

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.runs.ensemble import Member, write_ensemble
from recbole_msr.runs.predict import predict_file
from tests.runs.tiny import SMALL, write_tiny

TASKS = {
    "click": {"field": "rating", "at_least": 4},
    "stars": {"field": "rating", "type": "classes", "ordered": True},
    "mood": {"field": "mood", "type": "classes", "missing": "ignore"},
}
SETTINGS = {
    "scenario": {"field": "age", "bins": [30]},
    "tasks": TASKS,
    **SMALL,
    "epochs": 1,
}
STARS = [1, 2, 3, 4, 5]
COLUMNS = ["click", *(f"stars={star}" for star in STARS), "stars", "mood=bad", "mood=good"]


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    path = write_tiny(tmp_path_factory.mktemp("classes"))
    file = path / "tiny" / "tiny.inter"
    rows = pd.read_csv(file, sep="\t")
    rows["mood:token"] = np.where(rows["rating:float"] + np.arange(len(rows)) % 3 > 3, "good", "bad")
    rows.loc[::9, "mood:token"] = None
    rows.to_csv(file, sep="\t", index=False)
    return path


@pytest.fixture(scope="module")
def trained(run_tiny, tmp_path_factory):
    return run_tiny(tmp_path_factory.mktemp("run") / "first", save_predictions=True)


@pytest.fixture
def rows(data_path):
    frame = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t").rename(columns=lambda name: name.split(":")[0])
    return frame[["user_id", "item_id"]].head(40)


def test_test_metrics_are_those_of_the_predictions_file(trained):
    table = pd.read_parquet(trained.folder / "predictions.parquet")
    for task, names in (("stars", STARS), ("mood", ["bad", "good"])):
        known = table[table[f"label_{task}"] >= 0]
        probabilities = known[[f"score_{task}={name}" for name in names]].to_numpy(np.float64)
        label = known[f"label_{task}"].to_numpy()
        cell = trained.test.pooled[task]
        assert cell.rows == len(known)
        assert cell.value("accuracy") == pytest.approx((probabilities.argmax(axis=1) == label).mean())
        losses = [-np.log(row[k]) for row, k in zip(probabilities, label, strict=True)]
        assert cell.value("logloss") == pytest.approx(np.mean(losses), rel=1e-5)
        if task == "stars":
            errors = probabilities @ np.array(STARS) - np.array(STARS)[label]
            assert cell.value("rmse") == pytest.approx((errors**2).mean() ** 0.5, rel=1e-5)


def test_a_saved_run_predicts_each_class_and_the_expected_value_of_ordered_ones(trained, rows, tmp_path):
    predicted = recbole_msr.load(trained.folder).predict(rows)
    assert list(predicted) == COLUMNS
    stars = predicted[[f"stars={star}" for star in STARS]].to_numpy(np.float64)
    assert stars.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert predicted["stars"].to_numpy() == pytest.approx(stars @ np.array(STARS), rel=1e-5)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    predict_file(trained.folder, tmp_path / "rows.csv", tmp_path / "scored.csv")
    written = pd.read_csv(tmp_path / "scored.csv")
    assert list(written) == ["user_id", "item_id", *COLUMNS]
    assert written["stars"].to_numpy() == pytest.approx(predicted["stars"].to_numpy(), abs=1e-5)


def test_an_ensemble_averages_the_columns(trained, run_tiny, rows, tmp_path):
    other = run_tiny(tmp_path / "other", "OMoE", seed=3)
    ensemble = write_ensemble(tmp_path / "both", [Member(trained.folder), Member(other.folder, 3)])
    one, two = (recbole_msr.load(folder).predict(rows) for folder in (trained.folder, other.folder))
    found = recbole_msr.load(ensemble).predict(rows)
    assert list(found) == COLUMNS
    assert found.to_numpy() == pytest.approx((one.to_numpy() + 3 * two.to_numpy()) / 4, abs=1e-5)


def test_a_main_task_of_classes_is_validated_by_its_logloss(run_tiny, tmp_path):
    made = run_tiny(tmp_path / "run", main_task="stars")
    assert made.summary["valid_metric"] == "logloss"
    assert made.summary["test"]["metrics"] == {"logloss": round(made.test.pooled["stars"].value("logloss"), 4)}


@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm", "pcgrad"])
def test_loss_weightings_take_classes(run_tiny, tmp_path, weighting):
    made = run_tiny(tmp_path / "run", loss_weighting=weighting)
    assert np.isfinite(made.test.pooled["stars"].value("logloss"))


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"field": "timestamp", "type": "classes"}, "holds 600 different values, more than the 100"),
        ({"field": "rating", "type": "classes", "classes": [1, 2, 3, 4]}, "holds '5' in .* rows .*, which is none of"),
        ({"field": "rating", "type": "classes", "at_least": 3}, "at_least and above make a label of 0 and 1"),
        ({"field": "rating", "ordered": True}, "classes and ordered are for type: classes"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(run_tiny, tmp_path, task, told):
    with pytest.raises(InputError, match=told) as raised:
        run_tiny(tmp_path / "run", tasks=TASKS | {"new": task})
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_comparison_tests_classes(data_path, tmp_path):
    compared = recbole_msr.compare(
        models=["SharedBottom", "DeepFM"],
        dataset="tiny",
        seeds=2,
        output=tmp_path / "out",
        workers=1,
        config=SETTINGS | {"data_path": str(data_path)},
    )
    by_label = {entry["label"]: entry for entry in compared.summary["entries"]}
    assert {entry["status"] for entry in by_label.values()} == {"complete"}
    assert "accuracy/mood" in by_label["SharedBottom"]["test"]
    assert "auc/click" in by_label["DeepFM"]["differences"]
    assert "Accuracy" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def _split_rows(checkpoint, split):
    """The rows of a split by RecBole's data path, and what the model of a checkpoint predicts for them."""
    _, model, _, _, *loaders = load_data_and_model(str(checkpoint))
    dataset = loaders[split]._dataset
    rows = dataset[torch.arange(len(dataset))]
    with torch.no_grad():
        return rows, model.eval().predict_tasks(rows).double().numpy()


def _slow_accuracy(scores, labels, scenario):
    """The mean over scenarios and tasks of classes of the share of rows whose likeliest class is the right one."""
    shares = []
    for task, columns in {"mood": [0, 1], "stars": [2, 3, 4, 5, 6]}.items():
        for number in set(scenario):
            rows = [n for n in range(len(scores)) if scenario[n] == number and labels[task][n] >= 0]
            right = [max(range(len(columns)), key=lambda k: scores[n][columns[k]]) == labels[task][n] for n in rows]
            shares.append(sum(right) / len(right))
    return sum(shares) / len(shares)


@pytest.mark.slow
@pytest.mark.parametrize("fused", ["off", 2])
def test_a_search_is_for_a_metric_of_classes_and_ends_with_an_ensemble(data_path, tmp_path, fused, rows):
    tasks = {name: TASKS[name] for name in ("mood", "stars")}
    tasks["when"] = {"field": "timestamp", "type": "number", "transform": "log1p"}
    tasks |= {"click": {"field": "rating", "at_least": 3}, "buy": {"field": "rating", "at_least": 5, "after": "click"}}
    found = recbole_msr.search(
        model="SharedBottom",
        dataset="tiny",
        trials=3,
        fused=fused,
        final_seeds=2,
        confirm=1,
        objectives="accuracy/macro",
        output=tmp_path / "out",
        workers=1,
        config=SETTINGS | {"data_path": str(data_path), "tasks": tasks},
    )
    assert found.best_value == max(trial.value for trial in found.study.trials if trial.value is not None)
    told = found.summary["ensemble"]
    total = sum(member["weight"] for member in told["members"])
    folders = sorted((tmp_path / "out" / "ensemble" / "members").iterdir(), key=lambda path: int(path.name))
    for split, name in enumerate(("valid", "test")):
        of_members = [_split_rows(folder / "best.ckpt", split) for folder in folders]
        weighted = [m["weight"] * scores for m, (_, scores) in zip(told["members"], of_members, strict=True)]
        split_rows, mean = of_members[0][0], sum(weighted) / total
        labels = {task: split_rows[f"label_{task}"].numpy() for task in tasks}
        expected = _slow_accuracy(mean, labels, split_rows["scenario"].tolist())
        assert told[name]["value"] == pytest.approx(expected, abs=1e-9)
        pooled = told[name]["cells"]["pooled"]
        seconds = mean[:, 7]  # the mean of the predicted times, not of their logarithms
        assert pooled["when"]["mae"] == pytest.approx(np.abs(seconds - labels["when"]).mean(), rel=1e-6)
        losses = [np.log(row[2 + int(star)]) for row, star in zip(mean, labels["stars"], strict=True)]
        assert pooled["stars"]["logloss"] == pytest.approx(-np.mean(losses), rel=1e-6)
    gain = told["gain"]["winner"]
    assert (gain["metric"], len(gain["seeds"])) == ("accuracy/macro", 2)
    assert {"accuracy/mood", "rmse/stars", "mae/when", "auc/buy"} <= set(gain["differences"])
    predicted = recbole_msr.load(tmp_path / "out" / "ensemble").predict(rows)
    alone = [recbole_msr.load(folder).predict(rows) for folder in folders]
    assert list(predicted) == list(alone[0])
    plain = [name for name in predicted if name != "buy|click"]
    slow = sum(m["weight"] * one[plain].to_numpy(np.float64) for m, one in zip(told["members"], alone, strict=True))
    assert predicted[plain].to_numpy() == pytest.approx(slow / total, rel=1e-5)
    assert (predicted["buy|click"] * predicted["click"]).to_numpy() == pytest.approx(predicted["buy"].to_numpy())


def test_members_with_other_classes_are_refused(trained, run_tiny, data_path, rows, tmp_path):
    other = tmp_path / "data" / "tiny"
    other.mkdir(parents=True)
    for name in ("tiny.inter", "tiny.user"):
        text = (data_path / "tiny" / name).read_text()
        (other / name).write_text(text.replace("\tbad", "\tsad"))
    member = run_tiny(tmp_path / "run", data_path=str(other.parent))
    both = recbole_msr.load(write_ensemble(tmp_path / "both", [Member(trained.folder), Member(member.folder)]))
    with pytest.raises(
        InputError, match=r"classes of task 'mood' differ .*mood=bad, mood=good and mood=good, mood=sad"
    ):
        both.predict(rows)
