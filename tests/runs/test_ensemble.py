"""A folder of several runs predicts as one run does: the weighted mean of their probabilities."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.errors import InputError
from recbole_msr.runs.ensemble import Member, write_ensemble
from recbole_msr.runs.predict import Predictor
from tests.conftest import SCENARIOS, SETTINGS
from tests.runs.tiny import write_tiny

FRAME = pd.DataFrame(
    {"user_id": ["u1", "u2", "nobody"], "item_id": ["i1", "i2", "i3"], "age": [20, 30, None]}, index=["a", "b", "c"]
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of finished runs by name: two models of all tasks, and RecBole's LR for each task alone."""
    folder = tmp_path_factory.mktemp("runs")
    data_path = write_tiny(folder)
    common = {**SETTINGS, "load_col": None, "data_path": str(data_path), "threads": 1, "epochs": 1}
    common |= {"scenario": SCENARIOS[3], "learning_rate": 0.05}

    def train(name, model, **settings):
        recbole_msr.run(model, "tiny", config={**common, "output_dir": str(folder / name), **settings})

    train("bottom", "SharedBottom")
    train("omoe", "OMoE", seed=7)
    train("click", "LR", main_task="click")
    train("like", "LR", main_task="like")
    train("two scenarios", "LR", scenario=SCENARIOS[2])
    return {path.name: path for path in folder.iterdir()}


def refusal(work):
    with pytest.raises(InputError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_of_a_single_task_model_opens_and_predicts_its_task(runs):
    for task in ("click", "like"):
        run = recbole_msr.load(runs[task])
        assert run.tasks == [task]
        assert run.predict(FRAME).columns.tolist() == [task]


def test_probabilities_are_the_weighted_means_of_the_members_that_predict_the_task(runs, tmp_path):
    members = [Member(runs["bottom"], 3), Member(runs["omoe"], 0.5, ["like"]), Member(runs["click"], 1.5)]
    write_ensemble(tmp_path / "written", members)
    folder = tmp_path / "moved" / "here"
    folder.parent.mkdir()
    (tmp_path / "written").rename(folder)
    ensemble = recbole_msr.load(folder)
    scored = ensemble.score(FRAME)
    single = {name: recbole_msr.load(runs[name]).score(FRAME) for name in ("bottom", "omoe", "click")}
    assert scored.scores.columns.tolist() == ensemble.tasks == ["click", "like"]
    assert scored.scores.index.tolist() == ["a", "b", "c"]
    for row in FRAME.index:
        bottom, omoe, click = (single[name].scores.loc[row] for name in ("bottom", "omoe", "click"))
        assert math.isclose(
            scored.scores.loc[row, "click"], (3 * bottom["click"] + 1.5 * click["click"]) / 4.5, rel_tol=1e-5
        )
        assert math.isclose(
            scored.scores.loc[row, "like"], (3 * bottom["like"] + 0.5 * omoe["like"]) / 3.5, rel_tol=1e-5
        )
    assert scored.unknown == single["bottom"].unknown
    assert scored.unknown["user_id"] == 1
    assert ensemble.config["dataset"] == "tiny"
    assert "model" not in ensemble.config
    assert repr(ensemble) == f"SavedEnsemble(3 of LR, OMoE, SharedBottom, '{folder}')"
    assert Predictor(folder).predict(FRAME).equals(scored.scores)


def test_one_run_for_each_task_becomes_a_folder_that_the_command_takes(runs, tmp_path, capsys):
    folder = write_ensemble(tmp_path / "best", [Member(runs["like"]), Member(runs["click"])])
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    assert main(["predict", f"--run={folder}", f"--data={tmp_path}/rows.csv", f"--out={tmp_path}/out.csv"]) == 0
    printed = capsys.readouterr().out
    assert "3 rows scored for click, like" in printed
    assert "user_id: 1 row has a value never seen in training" in printed
    written = pd.read_csv(tmp_path / "out.csv", dtype={"click": "float32", "like": "float32"})
    for task in ("click", "like"):
        expected = recbole_msr.load(runs[task]).predict(FRAME)[task].to_numpy()
        np.testing.assert_array_equal(written[task].to_numpy(), expected)
    assert main(["predict", f"--run={folder}", f"--data={tmp_path}/rows.csv", f"--out={folder}/ensemble.json"]) == 2


def test_a_folder_is_replaced_as_a_whole_and_only_one_of_the_kind(runs, tmp_path):
    folder = tmp_path / "best"
    shutil.copytree(runs["bottom"], folder)
    write_ensemble(folder, [Member(runs["bottom"]), Member(runs["omoe"])])
    assert len(recbole_msr.load(folder).members) == 2
    write_ensemble(folder, [Member(runs["omoe"])])
    assert sorted(path.name for path in folder.iterdir()) == ["ensemble.json", "members"]
    assert [path.name for path in (folder / "members").iterdir()] == ["1"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    told = refusal(lambda: write_ensemble(tmp_path / "other", [Member(runs["omoe"])]))
    assert "holds something else" in told
    refusal(lambda: write_ensemble(folder, [Member(tmp_path / "nowhere")]))
    assert len(recbole_msr.load(folder).members) == 1, "a refused one leaves what was there"
    assert {path.name for path in tmp_path.iterdir()} == {"best", "other"}


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf])
def test_a_weight_is_finite_and_above_0(weight, runs, tmp_path):
    told = refusal(lambda: write_ensemble(tmp_path / "out", [Member(runs["bottom"], weight)]))
    assert "weight" in told
    assert not (tmp_path / "out").exists()


def test_members_that_do_not_go_together_are_refused(runs, tmp_path):
    out = tmp_path / "out"
    assert "scenario differ" in refusal(
        lambda: write_ensemble(out, [Member(runs["bottom"]), Member(runs["two scenarios"])])
    )
    assert "does not predict the task 'like', only click" in refusal(
        lambda: write_ensemble(out, [Member(runs["click"], tasks=["like"])])
    )
    assert "one member or more" in refusal(lambda: write_ensemble(out, []))
    assert "different ones" in refusal(lambda: write_ensemble(out, [Member(runs["click"], tasks=[])]))
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(runs["bottom"] / "best.ckpt", bare)
    (bare / "result.json").write_text("{}")
    assert "it has no vocabulary" in refusal(lambda: write_ensemble(out, [Member(bare)]))
    assert not out.exists()


def test_damaged_folders_are_told(runs, tmp_path):
    folder = write_ensemble(tmp_path / "out", [Member(runs["bottom"], 2), Member(runs["omoe"])])
    good = json.loads((folder / "ensemble.json").read_text())
    assert [member["weight"] for member in good["members"]] == [2, 1]

    def told(content):
        (folder / "ensemble.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return refusal(lambda: recbole_msr.load(folder))

    def changed(**member):
        return {**good, "members": [{**good["members"][0], **member}, good["members"][1]]}

    assert "cannot be read as JSON" in told("{")
    assert "lacks the key 'members'" in told({"format": good["format"]})
    assert "with the version of recbole-msr that wrote it" in told({**good, "format": "recbole-msr-ensemble/2"})
    assert "another kind of file" in told({**good, "format": "else"})
    assert "must be finite and above 0" in told(changed(weight=0))
    assert "Infinity" in told(json.dumps(changed(weight=math.inf)))
    assert "must be a finite number" in told(changed(weight="1"))
    for place in ("/tmp", "../bottom", "", "members/../../bottom"):
        assert "lies below it" in told(changed(folder=place))
    assert "is there twice" in told(changed(folder="members/2"))
    assert "no folder members/3" in told(changed(folder="members/3"))
    assert "does not predict the task 'buy'" in told(changed(tasks=["buy"]))
    shutil.rmtree(folder / "members" / "2" / "vocabulary")
    (folder / "ensemble.json").write_text(json.dumps(good))
    assert "vocabulary" in refusal(lambda: recbole_msr.load(folder).predict(FRAME))


def test_what_takes_one_run_names_a_member(runs, tmp_path, capsys):
    folder = write_ensemble(tmp_path / "out", [Member(runs["bottom"])])
    assert main(["explain", f"--run={folder}", "--n=1"]) == 2
    assert "of an ensemble the importance of fields is shown" in capsys.readouterr().err
    assert "members/1" in refusal(lambda: recbole_msr.load(folder).explain(n=1))
    told = refusal(lambda: recbole_msr.run("LR", "tiny", config={"output_dir": str(folder), "tasks": None}))
    assert "holds an ensemble" in told
