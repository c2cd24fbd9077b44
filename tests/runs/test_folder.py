"""A run's folder: never written over, never half-written, gone again if the run could not start."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.runs.folder import RunFolder

SMALL = {
    "sub_experts": 2,
    "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8],
    "tower_hidden_sizes": [4],
    "load_col": None,
    "scenario": {"field": "age", "bins": [30]},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "epochs": 1,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "ERROR",
}


@pytest.fixture
def settings(tiny_data, monkeypatch):
    monkeypatch.chdir(tiny_data)
    return SMALL | {"data_path": str(tiny_data)}


def _names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _open(path, resume=False):
    folder = RunFolder(path, "HiNet-tiny", resume)
    folder.close()
    return folder


def test_a_folder_with_a_run_is_not_written_over(tmp_path):
    paths = []
    for _ in range(3):
        folder = _open(tmp_path / "out")
        folder.write_yaml("config.yaml", {"epochs": 1})
        paths.append(folder.path.relative_to(tmp_path).as_posix())
    assert paths == ["out", "out/run-2", "out/run-3"]


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: RunFolder(tmp_path / "out", "HiNet-tiny"), range(8)))
    for folder in folders:
        folder.close()
    found = {folder.path.relative_to(tmp_path).as_posix() for folder in folders}
    assert found == {"out", *(f"out/run-{n}" for n in range(2, 9))}


def test_a_run_without_a_folder_gets_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = _open(None)
    assert folder.path.is_dir()
    assert folder.path.as_posix().startswith("runs/HiNet-tiny-")


def test_a_folder_that_was_made_in_vain_goes_again_but_no_other(tmp_path):
    (tmp_path / "there").mkdir()
    folder = _open(tmp_path / "there" / "a" / "b")
    assert (tmp_path / "there" / "a" / "b").is_dir()
    folder.discard()
    assert _names(tmp_path) == {"there"}
    folder = _open(tmp_path / "there" / "a" / "b")
    (tmp_path / "there" / "a" / "mine.txt").write_text("")
    folder.discard()
    assert _names(tmp_path) == {"there", "there/a", "there/a/mine.txt"}


@pytest.mark.parametrize("below", ["file", "file/out", "file/a/b"])
def test_a_folder_that_cannot_be_written_is_an_error(below, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"the output folder .* cannot be written"):
        _open(tmp_path / below)
    assert _names(tmp_path) == {"file"}
    assert (tmp_path / "file").read_text() == "mine"


def test_only_a_run_can_be_resumed(tmp_path):
    with pytest.raises(InputError, match="give that folder"):
        _open(None, resume=True)
    with pytest.raises(InputError, match=r"no run to resume in .*out"):
        _open(tmp_path / "out", resume=True)
    assert not (tmp_path / "out").exists()


def test_a_run_is_resumed_with_its_own_settings(tmp_path):
    _open(tmp_path / "out").write_yaml("config.yaml", {"epochs": 1, "learning_rate": 0.1, "bins": [1, 2]})
    folder = _open(tmp_path / "out", resume=True)
    folder.check_same({"epochs": 9, "learning_rate": 0.1, "bins": [1, 2], "show_progress": False})
    with pytest.raises(InputError, match=r"learning_rate: 0.1 -> 0.2"):
        folder.check_same({"epochs": 1, "learning_rate": 0.2, "bins": [1, 2]})
    with pytest.raises(InputError, match=r"bins: \[1, 2\] -> None"):
        folder.check_same({"epochs": 1, "learning_rate": 0.1})


def test_what_is_written_is_whole_or_what_was_there(tmp_path):
    folder = _open(tmp_path / "out")
    folder.write_json("result.json", {"auc": 0.5, "name": "é"})
    with pytest.raises(ValueError):
        folder.write_json("result.json", {"auc": float("nan")})
    with pytest.raises(TypeError):
        folder.write_json("result.json", {"auc": object()})
    assert json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8")) == {"auc": 0.5, "name": "é"}
    assert _names(tmp_path / "out") == {"result.json", "run.log"}


@pytest.mark.parametrize("model", ["HiNet", "DeepFM", "BPR"])
def test_a_runs_config_gives_the_same_metrics_again(model, settings, tiny_data):
    from recbole_msr.runs.run import run

    given = dict(settings)
    if model != "HiNet":
        given = {
            k: v for k, v in given.items() if k not in ("scenario", "tasks") and "expert" not in k and "tower" not in k
        }
        given |= {"embedding_size": 4} | ({"threshold": {"rating": 4}} if model == "DeepFM" else {})
    first = run(model, "tiny", config=given | {"output_dir": "out", "metric_decimal_place": 12})
    assert {"config.yaml", "result.json", "metrics.csv", "best.ckpt"} <= _names(tiny_data / "out")
    assert not {name for name in _names(tiny_data / "out") if name.startswith(".") or name.endswith(".pth")}
    again = run(None, None, [tiny_data / "out" / "config.yaml"], {"output_dir": "again"})
    for split in ("valid", "test"):
        assert again.summary[split] == first.summary[split]
    # RecBole makes a number of '0'; it is where the GPU is, not what is computed.
    before, after = (yaml.safe_load((tiny_data / name / "config.yaml").read_text()) for name in ("out", "again"))
    assert before | {"gpu_id": 0} == after | {"gpu_id": 0}
    assert json.loads((tiny_data / "out" / "result.json").read_text()) == first.summary


WRONG = {
    "a missing scenario field": {"scenario": {"field": "agee", "bins": [30]}},
    "a misspelt main task": {"main_task": "clik"},
    "a misspelt task in loss_weights": {"loss_weights": {"clik": 2}},
    "a misspelt scenario in loss_weights": {"loss_weights": {"click": {"age<31": 2}}},
    "an impossible size": {"tower_hidden_sizes": [0]},
    "a label that is not 0/1": {"tasks": {"click": "rating"}},
    "an empty split": {"eval_args": {"split": {"RS": [1, 0, 0]}, "order": "RO", "group_by": None, "mode": "labeled"}},
    "an unknown key": {"learning_rat": 0.1},
    "a value of another kind": {"epochs": "many"},
    "an unknown validation metric": {"valid_metric": "auc/clik"},
    "a validation split of one class": {"tasks": {"click": {"field": "rating", "at_least": 6}}},
    "a validation metric of a cell of one class": {
        "tasks": {"click": {"field": "rating", "at_least": 4}, "none": {"field": "rating", "at_least": 6}},
        "valid_metric": "auc/age<30/none",
    },
    "a metric of rankings": {"metrics": ["Recall"], "valid_metric": "Recall@10"},
    "an unknown option of Lightning": {"lightning": {"precison": "16-mixed"}},
    "an unknown optimiser": {"learner": "adamm"},
    "an unknown scheduler": {"lr_scheduler": {"name": "CosineAnealingLR"}},
    "negatives by scores": {"train_neg_sample_args": {"distribution": "uniform", "dynamic": True}},
}


def test_a_metric_without_a_value_is_told_before_the_first_epoch(settings, tiny_data, monkeypatch):
    from recbole_msr.training.trainer import LightningTrainer

    monkeypatch.setattr(LightningTrainer, "fit", lambda *_, **__: pytest.fail("it is trained"))
    none = {"tasks": {"click": {"field": "rating", "at_least": 4}, "none": {"field": "rating", "at_least": 6}}}
    few = settings | {"min_scenario_rows": 10_000}
    for model, given, told in (
        ("HiNet", settings | none | {"main_task": "none"}, "task 'none' over all rows: one class"),
        ("HiNet", settings | none | {"valid_metric": "auc/none/macro"}, "scenario 'age<30', task 'none': one class"),
        ("DeepFM", settings | none | {"main_task": "none"}, "'AUC' has no value on the validation split of 'tiny'"),
        ("HiNet", few | {"valid_metric": "auc/macro"}, "scenario 'age>=30', task 'click': .* rows, fewer than 10000"),
        ("HiNet", few | {"valid_metric": "logloss/worst"}, "has no value on the validation split"),
    ):
        given = {k: v for k, v in given.items() if model == "HiNet" or not ("expert" in k or "tower" in k)}
        with pytest.raises(InputError, match=told):
            recbole_msr.run(model, "tiny", config=given | {"output_dir": "a/out"})
        assert not (tiny_data / "a").exists()


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_run_that_cannot_start_leaves_nothing(wrong, settings, tiny_data):
    with pytest.raises(InputError):
        recbole_msr.run("HiNet", "tiny", config=settings | {"output_dir": "a/out"} | wrong)
    assert not (tiny_data / "a").exists()
    (tiny_data / "mine").mkdir()
    (tiny_data / "mine" / "notes.txt").write_text("")
    with pytest.raises(InputError):
        recbole_msr.run("HiNet", "tiny", config=settings | {"output_dir": "mine"} | wrong)
    assert _names(tiny_data / "mine") == {"notes.txt"}
