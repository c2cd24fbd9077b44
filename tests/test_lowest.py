"""One run and one search, kept by W&B offline: the subset that `.ci/lowest` runs on the lowest allowed versions."""

import json

import recbole_msr
from tests.tuning.conftest import CONFIG, SPACE


def kept_runs(folder):
    return [file for file in folder.glob("offline-run-*/*.wandb") if file.stat().st_size > 0]


def test_a_run_leaves_its_results_and_a_wandb_run(tiny_data, tmp_path):
    settings = {
        **{key: CONFIG[key] for key in ("load_col", "tasks", "scenario", "use_gpu", "train_batch_size", "threads")},
        **{"data_path": str(tiny_data), "epochs": 2, "output_dir": str(tmp_path / "run"), "wandb": "offline"},
        **{"sub_experts": 2, "expert_hidden_sizes": [8], "task_expert_hidden_sizes": [8], "tower_hidden_sizes": [8]},
    }
    result = recbole_msr.run("HiNet", "tiny", config=settings)
    kept = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert set(kept["test"]["cells"]) == {"young", "old"}
    assert 0 < result.test.macro("auc") < 1
    assert len(kept_runs(tmp_path / "run" / "wandb")) == 1


def test_a_search_of_two_trials_leaves_its_study_a_page_and_wandb_runs(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {**CONFIG, "data_path": str(tiny_data), "epochs": 1}
    options = {"space": SPACE, "output": "out", "final_seeds": 1, "wandb": "offline", "progress": False}
    result = recbole_msr.search("SharedBottom", "tiny", 2, config=config, **options)
    assert list(result.trials["state"]) == ["complete", "complete"]
    assert len(result.study.trials) == 2
    assert "<html" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")[:2000]
    assert len(kept_runs(tmp_path / "out" / "wandb")) == 3, "one a trial, and the study's"
