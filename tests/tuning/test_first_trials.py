"""Where a search begins: defaults, first configurations, warm start."""

import json

import optuna
import pytest
import yaml

from recbole_msr import registry, search
from recbole_msr.errors import InputError
from recbole_msr.tuning.first_configurations import check_configurations, first_configurations, read_first
from recbole_msr.tuning.first_trials import first_trials
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.warm_start import BEST, read_warm_start

SPACE = {
    "model": "LR",
    "search": {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "train_batch_size": [512, 1024, 2048],
    },
}
CONFIG = {"learning_rate": 0.001, "train_batch_size": 2048, "dropout": 0.0}
SHIPPED = sorted(path.stem for path in registry.search_spaces("first").glob("*.yaml"))


def _settings(**given):
    return SearchSettings("LR", "d", {"seed": 1, "threads": 1}, {}, ["auc"], "s", "out", trials=9, **given)


def _file(folder, content, name="first.yaml"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def _study(folder, values, name="earlier", direction="maximize", **attributes):
    """An earlier study as a search leaves it: settings are a user attribute of each trial."""
    (folder / "workers").mkdir(parents=True)
    (folder / "workers" / "search.json").write_text(json.dumps({"study": name, "storage": None}))
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    study = optuna.create_study(study_name=name, storage=optuna.storages.JournalStorage(backend), direction=direction)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    for value, settings in values:
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"settings": settings}))
    return folder


# First configurations.


def test_the_defaults_come_first_then_the_configurations_in_their_order():
    listed = [{"learning_rate": 0.01}, {"train_batch_size": 512}, {"learning_rate": 0.001}]
    trials = first_trials(_settings(first={"LR": listed}), Space.load(SPACE), CONFIG)
    assert [trial.origin for trial in trials] == ["defaults", "first configuration 1", "first configuration 2"]
    space = Space.load(SPACE)
    assert [space.settings(trial.params) for trial in trials] == [
        {"learning_rate": 0.001, "train_batch_size": 2048},
        {"learning_rate": 0.01, "train_batch_size": 2048},
        {"learning_rate": 0.001, "train_batch_size": 512},  # and the third is the defaults again
    ]


def test_a_configuration_outside_a_narrowed_space_is_left_out_and_named_once(caplog):
    listed = [{"learning_rate": 0.5}, {"learning_rate": 0.01}, {"dropout": 0.3}, {"train_batch_size": 9}]
    with caplog.at_level("INFO"):
        trials = first_trials(_settings(first={"LR": listed}), Space.load(SPACE), CONFIG)
    assert [trial.origin for trial in trials] == ["defaults", "first configuration 2"]
    told = [record.message for record in caplog.records if "left out" in record.message]
    assert len(told) == 1
    assert "first configurations 1, 3, 4 of LR" in told[0]
    assert "learning_rate is 0.5" in told[0]


def test_a_key_that_the_search_fixes_keeps_its_value():
    space = Space.load(SPACE).fixing({"train_batch_size": 1024})
    config = {**CONFIG, "train_batch_size": 1024}
    listed = [{"learning_rate": 0.01, "train_batch_size": 512}]
    trials = first_trials(_settings(first={"LR": listed}), space, config)
    assert [space.settings(trial.params) for trial in trials] == [
        {"learning_rate": 0.001, "train_batch_size": 1024},
        {"learning_rate": 0.01, "train_batch_size": 1024},
    ]


def test_a_model_without_a_file_has_none():
    assert first_configurations("LLM4MSR") == []


@pytest.mark.parametrize("first", ["off", "OFF", False])
def test_they_can_be_left_out(first):
    assert read_first(first, ["HiNet"], Space.load(SPACE)) == {}


def test_a_file_of_ones_own_is_taken(tmp_path):
    path = _file(tmp_path, {"configurations": [{"learning_rate": 0.01}]})
    assert read_first(str(path), ["LR"], Space.load(SPACE)) == {"LR": [{"learning_rate": 0.01}]}


def test_a_folder_has_a_file_for_each_model(tmp_path):
    (tmp_path / "LR.yaml").write_text("configurations: [{learning_rate: 0.01}]\n")
    (tmp_path / "FM.yaml").write_text("configurations: [{embedding_size: 8}]\n")
    assert read_first(tmp_path, ["LR", "HiNet"], Space.load(SPACE)) == {"LR": [{"learning_rate": 0.01}]}


def test_a_folder_without_a_file_of_the_searchs_models_is_refused(tmp_path):
    (tmp_path / "FM.yaml").write_text("configurations: [{embedding_size: 8}]\n")
    with pytest.raises(InputError, match=r"no file of a model of the search, such as LR\.yaml"):
        read_first(tmp_path, ["LR"], Space.load(SPACE))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            {"configurations": [{"learning_rate": 0.01}, {"lerning_rate": 0.1}]},
            r"configuration 2: 'lerning_rate'.*learn",
        ),
        ({"configurations": [{"learning_rate": 5}]}, r"configuration 1: learning_rate is 5, the space holds"),
        ({"configurations": [{"train_batch_size": [1]}]}, r"configuration 1: train_batch_size is"),
        ({"model": "FM", "configurations": [{"learning_rate": 0.01}]}, r"of FM, and the search is of LR"),
        ({"configurations": []}, r"'configurations' must be a list"),
        ({"configurations": [3]}, r"configuration 1 must be a mapping"),
        ({"configuration": [{"learning_rate": 0.01}]}, r"unknown key 'configuration'.*configurations"),
        ("configurations: [", r"first\.yaml"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_file_and_key(tmp_path, content, told):
    path = _file(tmp_path, content)
    with pytest.raises(InputError, match=told) as error:
        read_first(str(path), ["LR"], Space.load(SPACE))
    assert "\n" not in str(error.value)
    assert "first.yaml" in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml"):
        read_first(str(tmp_path / "absent.yaml"), ["LR"], Space.load(SPACE))


@pytest.mark.parametrize("model", SHIPPED)
def test_shipped_configurations_are_inside_of_the_models_space_and_differ(model):
    listed = first_configurations(model)
    assert 1 <= len(listed) <= 12
    space = Space.of_model(model)
    check_configurations(listed, model, space, f"search_spaces/first/{model}.yaml")
    defaults = yaml.safe_load(registry.describe(model))
    assert all(any(defaults.get(key) != value for key, value in one.items()) for one in listed)
    assert len({json.dumps(one, sort_keys=True) for one in listed}) == len(listed)


# Warm start.


def test_the_best_settings_of_an_earlier_search_are_taken(tmp_path):
    values = [(0.5 + i / 100, {"learning_rate": 0.001 * (i + 1), "train_batch_size": 512}) for i in range(8)]
    folder = _study(tmp_path / "old", [*values, (0.9, values[7][1])])  # the last one twice
    listed = read_warm_start(str(folder), ["LR"], Space.load(SPACE))
    assert [one["settings"] for one in listed] == [values[i][1] for i in (7, 6, 5, 4, 3)]
    assert len(listed) == BEST
    trials = first_trials(_settings(warm_start=listed), Space.load(SPACE), CONFIG)
    assert [trial.origin for trial in trials] == ["defaults", *["warm start"] * BEST]
    assert trials[1].params["learning_rate"] == pytest.approx(0.008)


def test_smaller_is_better_where_the_earlier_search_says_so(tmp_path):
    values = [(0.6, {"learning_rate": 0.01}), (0.4, {"learning_rate": 0.02})]
    folder = _study(tmp_path / "old", values, direction="minimize")
    listed = read_warm_start([folder], ["LR"], Space.load(SPACE))
    assert [one["settings"]["learning_rate"] for one in listed] == [0.02, 0.01]


def test_what_fits_is_used_and_the_rest_is_named(tmp_path, caplog):
    settings = {"learning_rate": 0.01, "train_batch_size": 7, "sub_experts": 3, "model": "LR"}
    folder = _study(tmp_path / "old", [(0.7, settings)])
    listed = read_warm_start(folder, ["LR"], Space.load(SPACE))
    (_, trial) = first_trials(_settings(warm_start=listed), Space.load(SPACE), CONFIG)
    assert Space.load(SPACE).settings(trial.params) == {"learning_rate": 0.01, "train_batch_size": 2048}
    assert "from 'earlier' is left out for LR: sub_experts is not searched; train_batch_size is 7" in caplog.text


def test_another_models_study_gives_the_keys_that_exist_here(tmp_path):
    values = [(0.7, {"learning_rate": 0.01, "sub_experts": 3})]
    folder = _study(tmp_path / "old", values, recbole_msr={"model": "HiNet"})
    listed = read_warm_start(folder, ["LR"], Space.load(SPACE))
    (_, trial) = first_trials(_settings(warm_start=listed), Space.load(SPACE), CONFIG)
    assert trial.params["learning_rate"] == 0.01


def test_in_a_study_of_several_models_this_ones_trials_are_taken(tmp_path):
    values = [(0.9, {"model": "FM", "learning_rate": 0.02}), (0.7, {"model": "LR", "learning_rate": 0.01})]
    listed = read_warm_start(_study(tmp_path / "old", values), ["LR"], Space.load(SPACE))
    assert [one["settings"] for one in listed] == [{"learning_rate": 0.01}]


def test_several_studies_take_turns(tmp_path):
    first = _study(tmp_path / "a", [(0.7, {"learning_rate": 0.01}), (0.6, {"learning_rate": 0.02})])
    second = _study(tmp_path / "b", [(0.1, {"learning_rate": 0.03})])
    listed = read_warm_start(f"{first},{second}", ["LR"], Space.load(SPACE))
    assert [one["settings"]["learning_rate"] for one in listed] == [0.01, 0.03, 0.02]


def test_a_storage_and_the_name_of_a_study_are_read(tmp_path):
    address = f"sqlite:///{tmp_path / 'studies.db'}"
    for name, rate in (("one", 0.01), ("two", 0.02)):
        study = optuna.create_study(study_name=name, storage=address, direction="maximize")
        study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"settings": {"learning_rate": rate}}))
    listed = read_warm_start(f"{address}#two", ["LR"], Space.load(SPACE))
    assert [one["settings"] for one in listed] == [{"learning_rate": 0.02}]
    with pytest.raises(InputError, match=r"has no study 'tw'.*two"):
        read_warm_start(f"{address}#tw", ["LR"], Space.load(SPACE))
    with pytest.raises(InputError, match=r"give STORAGE#STUDY\. There are one, two"):
        read_warm_start(address, ["LR"], Space.load(SPACE))


def test_nothing_that_fits_is_an_error_and_nothing_is_created(tmp_path):
    folder = _study(tmp_path / "old", [(0.7, {"sub_experts": 3})])
    with pytest.raises(InputError, match=r"nothing of .*old fits: they set sub_experts"):
        read_warm_start(folder, ["LR"], Space.load(SPACE))
    with pytest.raises(InputError, match=r"there is no study's storage"):
        read_warm_start(f"sqlite:///{tmp_path / 'absent.db'}#x", ["LR"], Space.load(SPACE))
    with pytest.raises(InputError, match=r"there is no folder"):
        read_warm_start(str(tmp_path / "absent"), ["LR"], Space.load(SPACE))
    with pytest.raises(InputError, match=r"is no folder of a search"):
        read_warm_start(tmp_path, ["LR"], Space.load(SPACE))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_a_study_without_a_finished_trial_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no finished trial"):
        read_warm_start(_study(tmp_path / "old", []), ["LR"], Space.load(SPACE))


# In a search.


def test_a_search_begins_with_them_and_a_second_one_with_its_best(tmp_path):
    path = _file(tmp_path, {"model": "LR", "configurations": [{"learning_rate": 0.01}, {"learning_rate": 0.02}]})
    given = {"preset": "ml-100k", "epochs": 1, "threads": 1, "lightning": {"limit_train_batches": 2}}
    shared = {
        **{"config": given, "space": SPACE, "final_seeds": 0, "wandb": "disabled", "progress": False},
        "dataset": "ml-100k",
    }
    first = search("LR", **shared, trials=3, first=path, output=tmp_path / "first")
    assert first.trials["origin"].tolist() == ["defaults", "first configuration 1", "first configuration 2"]
    second = search("LR", **shared, trials=3, first="off", warm_start=tmp_path / "first", output=tmp_path / "second")
    assert second.trials["origin"].tolist() == ["defaults", "warm start", "warm start"]
    best = max(first.study.trials, key=lambda trial: trial.value)
    assert best.params in [trial.params for trial in second.study.trials[:2]]
