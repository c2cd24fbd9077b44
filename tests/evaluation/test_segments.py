"""Segments of rows by the training rows of their users and items, against pandas and pairs counted one by one."""

import json

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from recbole_msr.evaluation.cells import Evaluation, evaluate_cells
from recbole_msr.evaluation.list_significance import Lists
from recbole_msr.evaluation.segments import Segments, class_names, segment_names
from recbole_msr.evaluation.significance import Rows, differences
from tests.conftest import SCENARIOS, SETTINGS

DECLARED = {"user_rows": [10, 13], "item_rows": [1, 14, 30]}
NAMES = ["user_rows:0-9", "user_rows:10-12", "user_rows:13+"]
NAMES += ["item_rows:0", "item_rows:1-13", "item_rows:14-29", "item_rows:30+"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_tiny_data):
    """A run with segments and predictions, and its test rows with the training rows of their users and items."""
    from recbole.data import create_dataset

    given = SETTINGS | {"data_path": str(shared_tiny_data), "scenario": SCENARIOS[2], "epochs": 1}
    given["tasks"] = {**SETTINGS["tasks"], "stars": {"field": "rating", "type": "number"}}
    given |= {"segments": DECLARED, "valid_metric": "auc/user_rows:10-12/click"}
    folder = tmp_path_factory.mktemp("segments") / "run"
    made = recbole_msr.run(
        "SharedBottom", "tiny", config={**given, "output_dir": str(folder), "save_predictions": True}
    )
    dataset = create_dataset(build_config("SharedBottom", "tiny", given))
    train, _, test = (
        pd.DataFrame({key: split.inter_feat[key].numpy() for key in ("user_id", "item_id")})
        for split in dataset.build()
    )
    rows = pd.read_parquet(folder / "predictions.parquet")
    for side in ("user", "item"):
        rows[f"{side}_rows"] = test[f"{side}_id"].map(train[f"{side}_id"].value_counts()).fillna(0).astype(int)
    return made, rows


def _inside(rows, name):
    axis, _, span = name.partition(":")
    low, high = (span.rstrip("+"), np.inf) if span.endswith("+") else (span.split("-")[0], span.split("-")[-1])
    return rows[(rows[axis] >= int(low)) & (rows[axis] <= float(high))]


def _pairs_won(scores, higher, lower):
    won = [(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i in higher for j in lower]
    return np.mean(won) if won else None


def test_the_metrics_of_a_run_are_those_of_the_rows_picked_by_hand(run):
    made, rows = run
    assert list(made.test.segments) == NAMES
    for name, of_segment in made.test.segments.items():
        inside = _inside(rows, name)
        cell, label, score = of_segment["click"], inside["label_click"].to_numpy(), inside["score_click"].to_numpy()
        assert (cell.rows, cell.positives) == (len(inside), int(label.sum()))
        if not len(inside):
            assert cell.undefined == "no rows"
            continue
        loss = np.mean([-np.log(s if y else 1 - s) for s, y in zip(score, label, strict=True)])
        assert cell.logloss == pytest.approx(loss, rel=1e-5)
        won = _pairs_won(score, np.flatnonzero(label == 1), np.flatnonzero(label == 0))
        assert cell.auc == (won if won is None else pytest.approx(won))
        stars = of_segment["stars"]
        error = (inside["label_stars"] - inside["score_stars"]).abs().mean()
        assert (stars.rows, stars.value("mae")) == (len(inside), pytest.approx(error, rel=1e-5))
    assert made.test.segments["item_rows:0"]["click"].rows == made.test.segments["item_rows:30+"]["click"].rows == 0
    assert min(made.test.segments[name]["click"].rows for name in NAMES[:3]) > 5


def test_they_are_in_the_files_and_change_no_other_value(run):
    made, _ = run
    written = json.loads((made.folder / "result.json").read_text())
    assert Evaluation.from_dict(written["test"]) == made.test == recbole_msr.load(made.folder).evaluation.test
    flat, without = made.test.flat(), Evaluation(made.test.main_task, made.test.pooled, made.test.cells).flat()
    of_segments = {key: value for key, value in flat.items() if key not in without}
    assert {key: flat[key] for key in without} == without
    assert all(key.split("/")[1] in NAMES for key in of_segments)
    assert of_segments["mae/user_rows:13+/stars"] == made.test.segments["user_rows:13+"]["stars"].value("mae")
    assert set(flat) <= set(made.test.keys())
    history = pd.read_csv(made.folder / "metrics.csv")
    assert history["valid/auc/user_rows:10-12/click"].iloc[-1] == pytest.approx(written["best_valid_score"])


def test_names_of_classes():
    assert class_names([1]) == ["0", "1+"]
    assert class_names([2, 3, 7]) == ["0-1", "2", "3-6", "7+"]
    assert segment_names(DECLARED) == NAMES
    assert segment_names(None) == []


def test_a_segment_of_one_class_or_without_rows_is_told_as_a_cell_is():
    segments = Segments({"user_rows": [1, 6]}, {"user_rows": np.array([0, 0, 0, 2, 2])})
    scores, labels = np.array([[0.2], [0.9], [0.4], [0.1], [0.8]]), np.array([[0], [1], [-1], [1], [1]])
    found = evaluate_cells(scores, labels, np.ones(5, int), None, ["all"], ["click"], "click", segments=segments)
    assert found.segments["user_rows:0"]["click"].auc == 1
    assert found.segments["user_rows:0"]["click"].rows == 2
    assert found.undefined_segments == [
        ("user_rows:1-5", "click", "no rows"),
        ("user_rows:6+", "click", "one class: all 1"),
    ]
    assert found.undefined == []


def test_ranked_lists_have_segments_of_users(shared_tiny_data, tmp_path):
    from recbole.data import create_dataset

    given = SETTINGS | {"data_path": str(shared_tiny_data), "scenario": SCENARIOS[2], "epochs": 1}
    given |= {"eval_args": {"mode": "full"}, "metrics": ["NDCG"], "topk": [5], "segments": {"user_rows": [12]}}
    splits = create_dataset(build_config("SharedBottom", "tiny", given)).build()
    counts = pd.Series(splits[0].inter_feat["user_id"].numpy()).value_counts()
    made = recbole_msr.run(
        "SharedBottom", "tiny", config={**given, "output_dir": str(tmp_path / "run"), "save_predictions": True}
    )
    lists = pd.read_parquet(tmp_path / "run" / "lists.parquet")
    few = lists["user"].map(counts).fillna(0) < 12
    for name, inside in (("user_rows:0-11", lists[few]), ("user_rows:12+", lists[~few])):
        values = inside["ndcg@5_click"].dropna()
        cell = made.test.segments[name]["click"]
        assert (cell.rows, cell.value("ndcg@5")) == (len(values), pytest.approx(values.mean()))
        assert cell.rows > 2


def test_a_difference_in_a_segment_is_that_of_its_rows_alone():
    draw = np.random.default_rng(1)
    labels, users = (draw.random((400, 1)) < 0.4).astype(float), draw.integers(0, 60, 400)
    scores = [np.clip(0.3 * labels + draw.random((400, 1)) * 0.7, 0, 1) for _ in range(4)]
    classes, scenario = draw.integers(0, 2, 400), np.ones(400, int)
    segments, inside = Segments({"user_rows": [1]}, {"user_rows": classes}), classes == 1
    whole = Rows(labels, scenario, users, ["a"], ["click"], segments=segments)
    alone = Rows(labels[inside], scenario[inside], users[inside], ["a"], ["click"])
    plain = Rows(labels, scenario, users, ["a"], ["click"])

    def tested(rows, of=slice(None)):
        measured = [rows.measure(one[of]) for one in scores]
        return differences(measured[:2], measured[2:])

    found, expected, without = tested(whole), tested(alone, inside), tested(plain)
    for metric in ("auc", "logloss"):
        difference = found[f"{metric}/user_rows:1+/click"].to_dict()
        assert difference == pytest.approx(expected[f"{metric}/click"].to_dict())
        assert difference["mean"] != 0
    assert {key: value for key, value in found.items() if "user_rows" not in key} == without


def test_a_difference_of_lists_in_a_segment_is_that_of_its_lists_alone():
    draw = np.random.default_rng(2)
    values, positives = draw.random((2, 50, 1, 1)), np.ones((50, 1), int)
    classes, users, scenario = draw.integers(0, 2, 50), np.arange(50) // 2, np.ones(50, int)
    segments, inside = Segments({"user_rows": [3]}, {"user_rows": classes}), classes == 0
    whole = Lists(positives, scenario, users, ["a"], ["click"], ["ndcg@5"], segments=segments)
    alone = Lists(positives[inside], scenario[inside], users[inside], ["a"], ["click"], ["ndcg@5"])
    found = differences([whole.measure(values[0])], [whole.measure(values[1])])
    expected = differences([alone.measure(values[0][inside])], [alone.measure(values[1][inside])])
    assert found["ndcg@5/user_rows:0-2/click"].to_dict() == pytest.approx(expected["ndcg@5/click"].to_dict())


@pytest.mark.parametrize(
    ("segments", "told"),
    [
        ({"user_rows": [6, 1]}, r"increasing whole numbers of at least 1.*\[1, 6, 21\].*\[6, 1\]"),
        ({"user_rows": [0, 5]}, "increasing whole numbers of at least 1"),
        ({"user_rows": []}, "increasing whole numbers of at least 1"),
        ({"users": [1]}, r"keys: user_rows, item_rows.*did you mean 'user_rows'"),
        ({}, "a mapping such as {user_rows"),
    ],
)
def test_borders_that_are_none_are_refused(segments, told):
    with pytest.raises(InputError, match=told) as error:
        build_config("SharedBottom", "ml-100k", {"segments": segments, "tasks": {"click": {"field": "rating"}}})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"trainer": "recbole"}, "segments is for runs under Lightning"),
        ({"eval_args": {"mode": "full"}}, "segments has item_rows, and a ranked list has positives of several items"),
        ({"tasks": None, "model": "DeepFM"}, "segments is read where tasks are declared"),
    ],
)
def test_runs_without_segments_refuse_them(settings, told):
    given = {"tasks": SETTINGS["tasks"], "segments": DECLARED, **settings}
    with pytest.raises(InputError, match=told):
        build_config(given.pop("model", "SharedBottom"), "ml-100k", given)


def test_a_metric_of_a_segment_that_has_no_value_is_refused_before_the_first_epoch(shared_tiny_data, tmp_path):
    given = SETTINGS | {"data_path": str(shared_tiny_data), "segments": DECLARED, "output_dir": str(tmp_path / "run")}
    with pytest.raises(InputError, match=r"segment 'item_rows:0', task 'click': no rows"):
        recbole_msr.run("SharedBottom", "tiny", config=given | {"valid_metric": "auc/item_rows:0/click"})


def test_a_scenario_may_not_be_called_as_a_segment(shared_tiny_data, tmp_path):
    scenario = {"field": "age", "bins": [30], "names": ["user_rows:0", "old"]}
    given = SETTINGS | {"data_path": str(shared_tiny_data), "segments": {"user_rows": [1]}, "scenario": scenario}
    with pytest.raises(InputError, match="the scenario 'user_rows:0' is called as a segment is"):
        recbole_msr.run("SharedBottom", "tiny", config=given | {"output_dir": str(tmp_path / "run")})
