"""A search over several models: which take part, what each trial's model is, where the budget goes."""

import json

import optuna
import pytest
import torch
from recbole.data import create_dataset

from recbole_msr import registry
from recbole_msr.data.packed import PackedTable
from recbole_msr.errors import InputError
from recbole_msr.training.configure import training_config
from recbole_msr.tuning.models import read_models
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.joint import joint_space
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study_data import StudyData
from recbole_msr.tuning.trial_settings import trial_config, trial_model, trial_settings


def settings_of(config, **changes):
    given = {
        "model": "SharedBottom",
        "dataset": "tiny",
        "config": {"seed": 1, "data_seed": 1, "threads": 1, **config},
        "space": {"search": {"learning_rate": [0.1, 0.01]}},
        "objectives": ["auc/macro"],
        "study": "s",
        "output": "out",
        "trials": 1,
    }
    return SearchSettings(**{**given, **changes})


def test_the_model_of_a_trial_is_the_sampled_one_in_a_search_over_models(config):
    one = settings_of(config)
    assert trial_model(one, {"learning_rate": 0.1}) == "SharedBottom"
    several = settings_of(config, models=["SharedBottom", "PLE"])
    assert trial_model(several, {"model": "PLE"}) == "PLE"
    assert trial_model(several, {}) == "SharedBottom"


def test_a_trial_leaves_out_the_keys_that_its_model_does_not_read(config):
    several = settings_of({**config, "dropout": 0.3}, models=["SharedBottom", "DeepFM"], unread={"DeepFM": ["dropout"]})
    assert trial_settings(several, {"model": "SharedBottom"})["dropout"] == 0.3
    deep = trial_settings(several, {"model": "DeepFM", "learning_rate": 0.1})
    assert "dropout" not in deep
    assert "model" not in deep
    made = trial_config(several, {"model": "DeepFM", "learning_rate": 0.1})
    assert (made["model"], made["learning_rate"], made["epochs"]) == ("DeepFM", 0.1, 3)


def test_every_trial_says_its_model(search):
    (trial,) = search(trials=1).study.get_trials()
    assert trial.user_attrs["model"] == "SharedBottom"


@pytest.mark.parametrize("damage", [{"models": "PLE"}, {"unread": {"PLE": "epochs"}}])
def test_damaged_settings_of_models_are_refused(config, damage, tmp_path):
    made = settings_of(config, output=str(tmp_path))
    made.write()
    file = tmp_path / "workers" / "search.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(InputError, match=next(iter(damage))):
        SearchSettings.of_folder(tmp_path)


def read(config, models="auto", **changes):
    return read_models(models, "tiny", {**config, **changes})


def test_auto_is_about_a_dozen_models_of_which_each_can_be_searched(config):
    taking = read(config)
    assert 10 <= len(taking.models) <= 14
    assert {"SharedBottom", "HiNet", "DeepFM", "FM"} <= set(taking.models)
    spaces = {path.stem for path in registry.search_spaces().glob("*.yaml")}
    assert spaces == set(taking.models) | set(taking.left_out), "each is in it, or left out with a reason"
    assert all(taking.left_out.values())


def test_auto_leaves_out_what_one_task_or_one_scenario_makes_the_same(config):
    one_task = read(config, tasks={"click": {"field": "rating", "at_least": 4}})
    assert "AITM" not in one_task.models
    assert "several tasks" in one_task.left_out["AITM"]
    assert "HiNet" in one_task.models
    one_scenario = read(config, scenario=None)
    assert "STAR" not in one_scenario.models
    assert "several scenarios" in one_scenario.left_out["HiNet"]
    neither = read(config, scenario=None, tasks={"click": {"field": "rating", "at_least": 4}})
    assert "MMoE" not in neither.models
    assert "SharedBottom" in neither.models


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ("", "no models given"),
        ([], "no models given"),
        ("HiNet,HiNet", "HiNet is named twice"),
        ("HiNte", "there is no model 'HiNte'; did you mean 'HiNet'"),
        ("auto,HiNet", "auto stands alone"),
        ("ENMF", "no search space for 'ENMF'"),
        ("SharedBottom,BPR", "BPR cannot take part: it ranks items"),
    ],
)
def test_lists_that_cannot_be_used(config, models, told):
    with pytest.raises(InputError, match=told):
        read(config, models)


def test_a_named_model_that_cannot_take_part_is_refused(config):
    with pytest.raises(InputError, match=r"--models: AITM cannot take part: .*several tasks"):
        read(config, "HiNet,AITM", tasks={"click": {"field": "rating", "at_least": 4}})


def test_a_key_is_kept_from_models_that_do_not_read_it_and_refused_if_none_does(config):
    taking = read(config, "HiNet,DeepFM", sub_experts=3)
    assert taking.unread["DeepFM"] == ["sub_experts"]
    assert taking.config_of("HiNet")["sub_experts"] == 3
    assert "sub_experts" not in taking.config_of("DeepFM")
    with pytest.raises(InputError, match="no model of the search reads 'dropuot'; did you mean 'dropout'"):
        read(config, "HiNet,DeepFM", dropuot=0.1)
    with pytest.raises(InputError, match="no model of the search reads 'sub_experts'"):
        read(config, "FM,DeepFM", sub_experts=3)
    assert read(config, "FM,DeepFM", strict=False, sub_experts=3).models == ["FM", "DeepFM"]


def test_all_models_share_rows_epochs_and_metric(config):
    taking = read(config, "SharedBottom,DeepFM")
    assert (taking.config["epochs"], taking.config["valid_metric"]) == (3, "auc/macro")
    for metric in ("auc", "auc/click", "logloss/young/like"):
        with pytest.raises(InputError, match="a part of the results"):
            read(config, "SharedBottom,DeepFM", valid_metric=metric)


def test_the_joint_space_has_each_models_own_under_the_condition_that_it_is_chosen():
    space = joint_space(["HiNet", "DCNV2"], "tiny", {"HiNet": {"dropout": 0.1}})
    names = {parameter.name: parameter for parameter in space.parameters}
    assert names["model"].values() == ["HiNet", "DCNV2"]
    assert names["HiNet.sub_experts"].when == {"model": ("HiNet",)}
    assert names["DCNV2.low_rank"].when == {"DCNV2.mixed": (True,), "model": ("DCNV2",)}
    assert names["DCNV2.low_rank"].key == "low_rank"
    assert "HiNet.dropout" not in names, "it is set"
    assert Space.load(space.to_dict()).fingerprint == space.fingerprint
    own = Space.of_model("DCNV2")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        settings = space.suggest(study.ask())
        if settings["model"] == "DCNV2":
            assert set(settings) - {"model"} <= set(own.keys)
        else:
            assert "sub_experts" in settings
            assert "reg_weight" not in settings


def test_the_defaults_of_each_model_lie_in_the_joint_space(config):
    taking = read({key: value for key, value in config.items() if key != "train_batch_size"})
    space = joint_space(taking.models, "tiny", {})
    several = settings_of(taking.config, models=taking.models)
    for model in taking.models:
        params, outside = space.params_of(trial_config(several, {"model": model}))
        assert params["model"] == model
        assert not outside


def test_rows_of_a_single_task_model_are_those_that_compare_gives_it(config, tiny_data):
    """Some rows lack the label of like."""
    file = tiny_data / "tiny" / "tiny.inter"
    header, *rows = file.read_text().splitlines()
    column = [f"{header}\tliked:float", *(f"{row}\t{'' if i % 3 == 0 else i % 2}" for i, row in enumerate(rows))]
    file.write_text("\n".join(column) + "\n")
    tasks = {"click": {"field": "rating", "at_least": 4}, "like": {"field": "liked", "missing": "ignore"}}
    load = {**config["load_col"], "inter": ["user_id", "item_id", "rating", "timestamp", "liked"]}
    taking = read(config, "SharedBottom,DeepFM", tasks=tasks, load_col=load)
    data = StudyData(settings_of(taking.config, models=taking.models))
    for task in ("click", "like"):
        made = training_config("DeepFM", "tiny", {**taking.config, "main_task": task})
        ours, theirs = data.of(made), create_dataset(made).build()
        assert len(ours.train) == len(theirs[0])
        for mine, split in ((ours.train, theirs[0]), (ours.valid, theirs[1])):
            one, other = mine.batch(slice(None)), PackedTable(split).batch(slice(None))
            for field in ("user_id", "item_id", "label_click", "label_like", "scenario"):
                assert torch.equal(one[field], other[field])
        assert (ours.train_split.schema.main_task, ours.train_split.label_field) == (task, f"label_{task}")
    assert len(data.train) > len(data.of(made).train)
    assert data.of(training_config("SharedBottom", "tiny", taking.config)) is data
