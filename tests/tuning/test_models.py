"""A search over several models: which take part, what each trial's model is, where the budget goes."""

import pytest

from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.trial_settings import trial_config, trial_model, trial_settings


def settings_of(config, **changes):
    given = {
        "model": "SharedBottom",
        "dataset": "tiny",
        "config": {**config, "seed": 1, "data_seed": 1},
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
    import json

    from recbole_msr.errors import InputError

    made = settings_of(config, output=str(tmp_path))
    made.write()
    file = tmp_path / "workers" / "search.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    with pytest.raises(InputError, match=next(iter(damage))):
        SearchSettings.of_folder(tmp_path)
