"""Runs with weighted tasks: trained, predicted, fused, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import recbole_msr
from recbole_msr.errors import InputError
from tests.runs.tiny import write_tiny

SETTINGS = {
    "scenario": {"field": "age", "bins": [30]},
    "tasks": {
        "like": {"field": "rating", "at_least": 4, "weight": "value"},
        "stars": {"field": "rating", "type": "number"},
    },
    "embedding_size": 4,
    "learning_rate": 0.02,
    "epochs": 2,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
}


@pytest.fixture
def write(tmp_path):
    """write(change=None) -> data_path of the tiny dataset with a column of values, as `change` leaves them."""

    def make(change=None):
        path = write_tiny(tmp_path)
        file = path / "tiny" / "tiny.inter"
        rows = pd.read_csv(file, sep="\t")
        rows["value:float"] = 1.0 + np.arange(len(rows)) % 7
        if change is not None:
            change(rows)
        rows.to_csv(file, sep="\t", index=False)
        return path

    return make


def _run(data_path, folder, model="SharedBottom", **settings):
    given = SETTINGS | {"data_path": str(data_path), "output_dir": str(folder)} | settings
    return recbole_msr.run(model, "tiny", config=given)


def _probabilities(run, data_path):
    frame = pd.read_csv(data_path / "tiny" / "tiny.inter", sep="\t").rename(columns=lambda name: name.split(":")[0])
    return recbole_msr.load(run.folder).predict(frame[["user_id", "item_id"]].head(50)).to_numpy()


def test_weights_change_what_is_learnt_and_their_unit_does_not(write, tmp_path):
    weighted = _run(path := write(), tmp_path / "weighted")
    tasks = {"like": {"field": "rating", "at_least": 4}, "stars": SETTINGS["tasks"]["stars"]}
    bare = _run(path, tmp_path / "bare", tasks=tasks)
    first = _probabilities(weighted, path)
    assert np.abs(first - _probabilities(bare, path)).max() > 1e-4
    frame = pd.read_csv(path / "tiny" / "tiny.inter", sep="\t")
    frame["value:float"] *= 8
    frame.to_csv(path / "tiny" / "tiny.inter", sep="\t", index=False)
    assert _probabilities(_run(path, tmp_path / "unit"), path) == pytest.approx(first, abs=1e-5)


def test_equal_weights_give_the_result_without_weights(write, tmp_path):
    def equal(rows):
        rows["value:float"] = 4.0

    path = write(equal)
    tasks = {"like": {"field": "rating", "at_least": 4}, "stars": SETTINGS["tasks"]["stars"]}
    bare = _run(path, tmp_path / "bare", tasks=tasks)
    assert (_probabilities(_run(path, tmp_path / "equal"), path) == _probabilities(bare, path)).all()


def test_a_row_without_a_label_needs_no_weight(write, tmp_path):
    def without(rows):
        rows["seen:float"] = (rows["rating:float"] > 3).astype(float)
        rows.loc[::5, ["seen:float", "value:float"]] = None

    tasks = {"seen": {"field": "seen", "missing": "ignore", "weight": "value"}}
    made = _run(write(without), tmp_path / "run", tasks=tasks)
    assert np.isfinite(made.test.pooled["seen"].value("logloss"))


@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm", "pcgrad", "dwa"])
def test_loss_weightings_take_weights(write, tmp_path, weighting):
    made = _run(write(), tmp_path / "run", loss_weighting=weighting)
    assert np.isfinite(made.test.pooled["like"].value("logloss"))


def test_recboles_trainer_learns_with_weights(write, tmp_path):
    path = write()
    by_recbole = _run(path, tmp_path / "recbole", trainer="recbole")
    by_lightning = _run(path, tmp_path / "lightning")
    assert by_recbole.summary["test"]["metrics"] == pytest.approx(by_lightning.summary["test"]["metrics"], abs=0.05)


def _negative(rows):
    rows.loc[[7, 9], "value:float"] = -2


def _missing(rows):
    rows.loc[4, "value:float"] = None


def _zero(rows):
    rows["value:float"] = 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_negative, r"tiny\.inter, line 9: 'value', the weight of task 'like', is -2; .* >= 0 \(2 such rows\)"),
        (_missing, r"tiny\.inter, line 6: 'value', the weight of task 'like', is empty"),
        (_zero, r"tiny\.inter, line 2: 'value', the weight of task 'like', is 0 there and in every other row"),
    ],
)
def test_impossible_weights_are_told_with_file_and_line(write, tmp_path, change, told):
    with pytest.raises(InputError, match=told) as raised:
        _run(write(change), tmp_path / "run")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        ("valu", "task 'like': weight: no field 'valu' in dataset 'tiny'; did you mean 'value'"),
        ("age", "weight: 'age' is a token of the user file, but weights are numbers of interactions"),
        ("item_id", "weight: 'item_id' is a token"),
    ],
)
def test_a_field_that_holds_no_weights_is_told(write, tmp_path, weight, told):
    with pytest.raises(InputError, match=told):
        _run(write(), tmp_path / "run", tasks={"like": {"field": "rating", "at_least": 4, "weight": weight}})


def test_a_model_of_recbole_refuses_weights(write, tmp_path):
    with pytest.raises(InputError, match="main_task 'like' has a weight, and DeepFM, one of RecBole's models"):
        _run(write(), tmp_path / "run", "DeepFM")


@pytest.mark.slow
def test_a_comparison_refuses_only_the_model_that_cannot_weigh(write, tmp_path):
    tasks = {"like": SETTINGS["tasks"]["like"]}
    compared = recbole_msr.compare(
        models=["SharedBottom", "OMoE", "DeepFM"],
        dataset="tiny",
        seeds=1,
        output=tmp_path / "out",
        workers=1,
        config=SETTINGS | {"data_path": str(write()), "tasks": tasks},
    )
    by_label = {entry["label"]: entry for entry in compared.summary["entries"]}
    assert by_label["SharedBottom"]["status"] == by_label["OMoE"]["status"] == "complete"
    assert "has a weight" in str(by_label["DeepFM"])


@pytest.mark.slow
def test_fused_trials_learn_with_weights(write, tmp_path):
    path, values = write(), []
    for fused in ("off", 2):
        found = recbole_msr.search(
            model="SharedBottom", dataset="tiny", trials=2, fused=fused, output=tmp_path / f"out_{fused}", workers=1,
            final_seeds=1, config=SETTINGS | {"data_path": str(path)},
        )  # fmt: skip
        values.append([trial.value for trial in found.study.trials if trial.value is not None])
    assert values[0] == pytest.approx(values[1], abs=2e-3)


def test_weighted_metrics_of_a_run_are_those_of_its_test_rows_and_their_weights(write, tmp_path):
    tasks = {"like": SETTINGS["tasks"]["like"] | {"weighted": True}, "stars": SETTINGS["tasks"]["stars"]}
    made = _run(
        path := write(), tmp_path / "run", tasks=tasks, valid_metric="weighted_auc/macro", save_predictions=True
    )
    rows = pd.read_parquet(made.folder / "predictions.parquet")
    frame = pd.read_csv(path / "tiny" / "tiny.inter", sep="\t").rename(columns=lambda name: name.split(":")[0])
    scores = recbole_msr.load(made.folder).predict(frame[["user_id", "item_id"]])["like"].to_numpy()
    places = np.abs(rows["score_like"].to_numpy()[:, None] - scores).argmin(axis=1)  # of the test rows in the file
    weights = frame["value"].to_numpy()[places]
    expected = roc_auc_score(rows["label_like"], rows["score_like"], sample_weight=weights)
    assert made.test.flat()["weighted_auc/like"] == pytest.approx(expected, abs=1e-6)
    assert "weighted_mae" not in made.test.metrics


def test_weighted_without_a_weight_is_refused(write, tmp_path):
    with pytest.raises(InputError, match=r"task 'like'.*weighted goes with weight"):
        _run(write(), tmp_path / "run", tasks={"like": {"field": "rating", "at_least": 4, "weighted": True}})


def test_ranked_lists_refuse_weighted(write, tmp_path):
    tasks = {"like": SETTINGS["tasks"]["like"] | {"weighted": True}}
    with pytest.raises(InputError, match="task 'like': weighted: true is of labelled rows, and eval_args: mode: full"):
        _run(write(), tmp_path / "run", tasks=tasks, eval_args={"mode": "full"}, metrics=["NDCG"], topk=[5])


def test_a_comparison_tests_and_shows_weighted_metrics(write, tmp_path):
    tasks = {"like": SETTINGS["tasks"]["like"] | {"weighted": True}, "stars": SETTINGS["tasks"]["stars"]}
    settings = SETTINGS | {"data_path": str(write()), "tasks": tasks}
    made = recbole_msr.compare(
        "SharedBottom,MMoE", "tiny", seeds=1, config=settings, output=tmp_path / "out", wandb="disabled", progress=False
    )
    summary = json.loads((Path(made.folder) / "summary.json").read_text(encoding="utf-8"))
    other = next(entry for entry in summary["entries"] if entry["label"] == "MMoE")
    assert {"weighted_auc/macro", "weighted_logloss/like"} <= set(other["differences"]) <= set(other["test"])
    page = next(Path(made.folder).glob("*.html")).read_text(encoding="utf-8")
    assert "Weighted AUC" in page
    assert "Weighted MAE" not in page
