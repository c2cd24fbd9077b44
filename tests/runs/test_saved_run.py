"""`recbole_msr.load`: one way to open a finished run, with the same checks for all that is done with it."""

import json
import logging
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_msr
from recbole_msr.cli import main
from recbole_msr.errors import InputError
from tests.conftest import SCENARIOS, SETTINGS
from tests.runs.tiny import write_tiny

SMALL = {"sub_experts": 2, "expert_hidden_sizes": [8], "task_expert_hidden_sizes": [8], "tower_hidden_sizes": [4]}
FRAME = pd.DataFrame(
    {"user_id": ["u1", "u2", "nobody"], "item_id": ["i1", "i2", "i3"], "age": [20, 30, 40]}, index=["a", "b", "c"]
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small HiNet with tasks, and RecBole's BPR without: the results of both runs, in folders "hinet" and "bpr"."""
    folder = tmp_path_factory.mktemp("runs")
    data_path = write_tiny(folder)
    settings = {**SETTINGS, "load_col": None, "data_path": str(data_path), "threads": 1, "epochs": 1}
    hinet = settings | SMALL | {"scenario": SCENARIOS[3], "output_dir": str(folder / "hinet")}
    bpr = settings | {"tasks": None, "output_dir": str(folder / "bpr"), "metrics": ["MRR"], "valid_metric": "MRR@10"}
    return {
        "hinet": recbole_msr.run("HiNet", "tiny", config=hinet),
        "bpr": recbole_msr.run("BPR", "tiny", config=bpr),
    }


@pytest.fixture
def copied(trained, tmp_path):
    """copied(name) -> a copy of a run's folder, to be changed."""

    def copy(name="hinet"):
        return shutil.copytree(trained[name].folder, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}")

    return copy


def refusal(work):
    with pytest.raises(InputError) as error:
        work()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_run_gives_back_the_run(trained):
    result = trained["hinet"]
    saved = recbole_msr.load(result.folder)
    assert saved.result == json.loads((result.folder / "result.json").read_text())
    assert saved.evaluation.test.to_dict() == result.test.to_dict()
    assert saved.evaluation.valid.to_dict() == result.valid.to_dict()
    assert (saved.config["model"], saved.config["dataset"], saved.config["epochs"]) == ("HiNet", "tiny", 1)
    assert saved.config["tasks"] == SETTINGS["tasks"]
    assert saved.tasks == ["click", "like"]
    assert not saved.model.training
    for name, value in result.model.state_dict().items():
        assert torch.equal(saved.model.state_dict()[name], value), name
    score = result.summary["best_valid_score"]
    metric = result.summary["valid_metric"]
    assert repr(saved) == f"SavedRun(HiNet on tiny, valid {metric} {score:.4f}, '{result.folder}')"


def test_predictions_are_a_column_a_task_with_the_frames_index_and_those_of_the_model(trained, tmp_path):
    result = trained["hinet"]
    saved = recbole_msr.load(str(result.folder))
    scores = saved.predict(FRAME)
    assert scores.columns.tolist() == ["click", "like"]
    assert scores.index.tolist() == ["a", "b", "c"]
    from recbole.data.interaction import Interaction

    age = saved.dataset.field2token_id["age"]
    rows = {
        "user_id": [saved.dataset.field2token_id["user_id"].get(user, 0) for user in FRAME["user_id"]],
        "item_id": [saved.dataset.field2token_id["item_id"][item] for item in FRAME["item_id"]],
        "age": [age.get(str(value), 0) for value in FRAME["age"]],
        "scenario": [1, 2, 3],
    }
    with torch.no_grad():
        expected = result.model.eval().predict_tasks(Interaction({k: torch.tensor(v) for k, v in rows.items()}))
    np.testing.assert_array_equal(scores.to_numpy(), expected.numpy())
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    assert main(["predict", f"--run={result.folder}", f"--data={tmp_path}/rows.csv", f"--out={tmp_path}/out.csv"]) == 0
    written = pd.read_csv(tmp_path / "out.csv", dtype={"click": "float32", "like": "float32"})
    np.testing.assert_array_equal(written[["click", "like"]].to_numpy(), scores.to_numpy())


def test_predicting_explaining_and_predicting_again_do_not_disturb_each_other(trained):
    saved = recbole_msr.load(trained["hinet"].folder)
    before, explanation = saved.predict(FRAME), saved.explain(n=2)
    assert saved.predict(FRAME).equals(before)
    again = recbole_msr.load(trained["hinet"].folder)
    assert again.explain(n=2) == explanation
    assert again.explain(n=2) == explanation, "notes do not pile up"
    assert again.predict(FRAME).equals(before)
    assert explanation.evaluation == saved.evaluation.test
    assert len(explanation.users) == 2
    assert len(again.explain().users) == 5


def test_a_run_without_tasks_shows_what_it_has_and_says_why_not_the_rest(trained, caplog):
    result = trained["bpr"]
    saved = recbole_msr.load(result.folder)
    assert saved.result["test"] == result.summary["test"]
    assert saved.config["model"] == "BPR"
    assert saved.evaluation == (None, None)
    assert repr(saved).startswith("SavedRun(BPR on tiny, valid mrr@10 ")
    why = f"the run in {result.folder} (BPR) was made without scenarios and tasks: "
    assert refusal(lambda: saved.predict(FRAME)) == (
        f"{why}only runs with tasks keep the vocabulary that scoring new rows takes"
    )
    assert refusal(saved.explain).startswith(f"{why}there is nothing to explain")
    advice = refusal(lambda: saved.model)
    assert advice.startswith(why)
    path = re.search(r"recbole.quick_start.load_data_and_model\('(.*)'\)", advice).group(1)
    from recbole.quick_start import load_data_and_model

    caplog.set_level(logging.ERROR)
    model = load_data_and_model(path)[1]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in result.model.state_dict().items())


def test_a_copy_with_weights_and_vocabulary_alone_predicts(trained, copied):
    folder, expected = copied(), recbole_msr.load(trained["hinet"].folder).predict(FRAME)
    for path in folder.iterdir():
        if path.name not in ("best.ckpt", "vocabulary"):
            path.unlink()
    saved = recbole_msr.load(folder)
    assert saved.predict(FRAME).equals(expected)
    assert repr(saved) == f"SavedRun(HiNet on tiny, '{folder}')"
    unfinished = f"the run in {folder} has not come to its end (run_recbole --resume --output_dir={folder} goes on"
    assert refusal(lambda: saved.result).startswith(unfinished)
    assert refusal(saved.explain).startswith(unfinished)


def test_folders_that_hold_no_finished_run_are_refused_at_once(trained, copied, tmp_path):
    load = recbole_msr.load
    assert refusal(lambda: load(tmp_path / "none")) == f"there is no run folder {tmp_path / 'none'}"
    (tmp_path / "empty").mkdir()
    assert "is no run's folder: it has no config.yaml and no checkpoint" in refusal(lambda: load(tmp_path / "empty"))
    above = trained["hinet"].folder.parent
    told = refusal(lambda: load(above))
    assert told == f"{above} is no run's folder; there are runs in {above / 'bpr'}, {above / 'hinet'}"
    for name in ("hinet", "bpr"):
        folder = copied(name)
        (folder / "result.json").unlink()
        shutil.rmtree(folder / "vocabulary", ignore_errors=True)
        told = refusal(lambda: load(folder))  # noqa: B023
        assert told.startswith(
            f"the run in {folder} has not come to its end (run_recbole --resume --output_dir={folder}"
        )
    folder = copied()
    (folder / "best.ckpt").unlink()
    assert refusal(lambda: load(folder)) == f"there is no checkpoint {folder / 'best.ckpt'}"
    assert refusal(lambda: load("a\0b"))


def test_a_copied_checkpoint_of_a_run_without_tasks_is_not_called_unfinished(trained, tmp_path):
    shutil.copy(trained["bpr"].folder / "best.ckpt", tmp_path)
    saved = recbole_msr.load(tmp_path)
    assert "was made without scenarios and tasks" in refusal(lambda: saved.predict(FRAME))


def test_threads_that_open_a_run_at_once_build_its_model_once(trained, monkeypatch):
    """From Python 3.12 on `cached_property` has no lock; and RecBole reads the arguments of the process."""
    monkeypatch.setattr("sys.argv", ["server", "--seed=7"])
    saved = recbole_msr.load(trained["hinet"].folder)
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(lambda _: saved.model, range(4)))
        configs = list(threads.map(lambda _: recbole_msr.load(trained["hinet"].folder).recbole_config, range(4)))
    assert len({id(model) for model in models}) == 1
    assert {config["seed"] for config in configs} == {saved.config["seed"]}
    assert sys.argv == ["server", "--seed=7"]


def test_damaged_files_are_named(copied):
    cut = copied() / "best.ckpt"
    cut.write_bytes(cut.read_bytes()[:-100])
    assert f"{cut} cannot be read: it is damaged" in refusal(lambda: recbole_msr.load(cut.parent))
    for name in ("tables.safetensors", "dataset.json"):
        folder = copied()
        path = folder / "vocabulary" / name
        path.write_bytes(path.read_bytes()[:100])
        for work in (lambda run: run.predict(FRAME), lambda run: run.explain(), lambda run: run.model):
            saved = recbole_msr.load(folder)
            assert f"the vocabulary in {folder} is damaged" in refusal(lambda: work(saved))  # noqa: B023
    shutil.rmtree(folder / "vocabulary")
    assert "has no folder vocabulary" in refusal(lambda: recbole_msr.load(folder).predict(FRAME))
    folder = copied()
    (folder / "result.json").write_text('{"model": "HiNet"')
    saved = recbole_msr.load(folder)
    assert f"{folder / 'result.json'} is damaged" in refusal(lambda: saved.result)
    assert f"{folder / 'result.json'} is damaged" in refusal(saved.explain)
    assert repr(saved).startswith("SavedRun(HiNet on tiny, '")


def test_a_checkpoint_of_another_version_names_it_and_what_to_do(copied):
    folder = copied()
    content = torch.load(folder / "best.ckpt", weights_only=True)
    torch.save(content | {"format": "recbole-msr/9"}, folder / "best.ckpt")
    told = refusal(lambda: recbole_msr.load(folder))
    assert "is not of the format recbole-msr/1, but recbole-msr/9: open it with the version" in told


def test_arguments_that_cannot_be_used_are_refused(trained):
    saved = recbole_msr.load(trained["hinet"].folder)
    assert "pandas DataFrame, got list" in refusal(lambda: saved.predict([1]))
    assert "batch_size must be at least 1, got 0" in refusal(lambda: saved.predict(FRAME, batch_size=0))
    assert "at least 1 user, got 0" in refusal(lambda: saved.explain(n=0))
    assert "there is no user 'u99'" in refusal(lambda: saved.explain(users=["u99"]))
    twice = pd.concat([FRAME, FRAME["age"]], axis=1)
    assert "two columns called 'age'" in refusal(lambda: saved.predict(twice))
