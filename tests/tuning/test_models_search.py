"""`recbole_msr.search` over several models, from end to end on "tiny"."""

import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import yaml

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.report.tuning.terminal import print_search
from recbole_msr.tuning.settings import SearchSettings

from .conftest import CONFIG


@pytest.fixture
def over(tiny_data, tmp_path, monkeypatch, no_pages):
    """recbole_msr.search over models of "tiny", in the folder `out` of the test."""
    monkeypatch.chdir(tmp_path)

    def go(models, trials, **options):
        own = {**CONFIG, "data_path": str(tiny_data), "epochs": 2, **options.pop("config", {})}
        given = {"output": "out", "final_seeds": 0, "wandb": "disabled", "progress": False, "first": "off"}
        return recbole_msr.search(models=models, dataset="tiny", trials=trials, config=own, **{**given, **options})

    return go


def mean_over_cells(runs):
    """The macro AUC of several runs of one task each, from their results' cells."""
    aucs = [
        cell["auc"]
        for run in runs
        for tasks in json.loads((Path(run.folder) / "result.json").read_text())["valid"]["cells"].values()
        for cell in tasks.values()
        if cell["undefined"] is None
    ]
    return sum(aucs) / len(aucs)


@pytest.mark.slow
def test_one_study_over_models_of_all_tasks_and_of_one(over):
    result = over("SharedBottom,FM", 5)
    trials = result.study.get_trials()
    frame = result.trials
    assert {trial.user_attrs["model"] for trial in trials[:2]} == {"SharedBottom", "FM"}
    assert list(frame["origin"][:2]) == ["defaults", "defaults"]
    for trial in trials:
        assert trial.params["model"] == trial.user_attrs["model"] == trial.user_attrs["settings"]["model"]
        assert all(name == "model" or name.startswith(trial.params["model"]) for name in trial.params)
    first = next(trial for trial in trials if trial.user_attrs["model"] == "FM")
    keys = {key: value for key, value in first.user_attrs["settings"].items() if key != "model"}
    config = {**json.loads(Path("out/workers/search.json").read_text())["config"], **keys}
    runs = [
        recbole_msr.run(
            "FM",
            "tiny",
            config={
                **config,
                "main_task": task,
                "valid_metric": "auc/macro",
                "output_dir": task,
                "show_progress": False,
            },
        )
        for task in ("click", "like")
    ]
    assert first.value == pytest.approx(mean_over_cells(runs), abs=1e-9)
    assert first.user_attrs["epochs"] == sum(run.summary["epochs"] for run in runs)
    assert set(first.user_attrs["valid"]["pooled"]) == {"click", "like"}

    models = result.summary["models"]
    assert sum(found["trials"] for found in models.values()) == 5
    assert sum(found["share"] for found in models.values()) == pytest.approx(1, abs=1e-3)
    assert result.summary["best"]["values"][0] == max(found["best"] for found in models.values())
    assert models["FM"]["defaults"] == first.value
    assert result.summary["model"] == yaml.safe_load(Path("out/best.yaml").read_text())["model"]
    defaults = trials[result.summary["defaults"]["number"]]
    assert defaults.user_attrs["model"] == result.summary["model"], "those of the best trial's model"
    told = StringIO()
    print_search(result.summary, file=told)
    lines = [line.split() for line in told.getvalue().splitlines()]
    for model, found in models.items():
        (line,) = [line for line in lines if line[:1] == [model] and len(line) == 6]
        assert (line[1], line[3]) == (f"{found['best']:.4f}", str(found["trials"]))
    with pytest.raises(InputError, match=r"models: \['SharedBottom', 'FM'\] -> \['SharedBottom', 'PLE'\]"):
        over("SharedBottom,PLE", 6, study="SharedBottom-FM-tiny")


@pytest.mark.slow
def test_a_winner_of_one_task_is_a_model_for_each_task(over, tiny_data):
    result = over(["FM", "LR"], 2, config={"epochs": 1})
    assert result.summary["model"] in ("FM", "LR")
    best = recbole_msr.load("out/best")
    users = pd.read_csv(tiny_data / "tiny" / "tiny.user", sep="\t").head(3)
    users.columns = [name.split(":")[0] for name in users.columns]
    scores = best.predict(users.assign(item_id="i1", price=2.5))
    assert list(scores.columns) == ["click", "like"]
    text = Path("out/best.yaml").read_text()
    assert "learns one task at a time: this file is of 'click'" in text
    assert "--main_task=like" in text


def test_the_pruner_leaves_every_models_defaults_alone(over):
    strict = {"name": "percentile", "percentile": 0.1, "n_startup_trials": 0, "n_warmup_steps": 0}
    result = over("LR,SharedBottom,MMoE,PLE", 4, pruner=strict, sampler="random")
    states = {trial.user_attrs["model"]: trial.state.name for trial in result.study.get_trials()}
    assert states == dict.fromkeys(("LR", "SharedBottom", "MMoE", "PLE"), "COMPLETE")


def test_options_that_do_not_go_with_several_models(over):
    for options, told in (
        ({"space": "mine.yaml"}, "--space is one model's"),
        ({"model": "HiNet"}, "the model is 'HiNet' as well"),
        ({"objectives": "auc"}, "a part of the results"),
        ({"fused": 2}, "not trained at once"),
        ({"sampler": "grid"}, "a grid is of one model's space"),
    ):
        with pytest.raises(InputError, match=told):
            over("FM,LR", 1, **options)
    assert not Path("out").exists()


def test_a_model_that_cannot_be_built_is_left_out_of_auto_and_refused_in_a_list(over, monkeypatch):
    from recbole.model.context_aware_recommender.fm import FM

    def broken(*_):
        raise ValueError("no such field")

    monkeypatch.setattr(FM, "__init__", broken)
    with pytest.raises(InputError, match=r"FM cannot take part: .*no such field"):
        over("LR,FM", 1)
    monkeypatch.setattr("recbole_msr.tuning.models.AUTO", ("LR", "FM"))
    result = over("auto", 1, config={"epochs": 1})
    assert result.summary["models"].keys() == {"LR"}
    assert "no such field" in result.summary["left_out"]["FM"]
    assert SearchSettings.of_folder(Path("out")).study == "auto-tiny"


def test_a_time_limit_that_is_too_short_for_an_epoch_is_refused(over):
    with pytest.raises(InputError, match="too short: an epoch of the cheapest model"):
        over("LR,FM", None, timeout=1e-4)


@pytest.mark.slow
def test_rungs_judge_a_model_of_one_task_by_all_tasks(over):
    result = over("FM,SharedBottom", 2, fidelity="1/2:1", config={"epochs": 1})
    by_model = {trial.user_attrs["model"]: trial for trial in result.study.get_trials()}
    assert set(by_model) == {"FM", "SharedBottom"}
    for trial in by_model.values():
        (rung,) = trial.user_attrs["rungs"]
        assert (rung["share"], rung["epochs"]) == (0.5, 1)
        assert trial.intermediate_values[1] == rung["value"]
