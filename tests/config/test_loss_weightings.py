"""The registry of loss weightings agrees with what the package has of each."""

import pytest

from recbole_msr import registry
from recbole_msr.config.key_table import KEYS
from recbole_msr.config.loss_weightings import LOSS_WEIGHTINGS, weightings_where
from recbole_msr.files.yaml import read_yaml
from recbole_msr.training.weighting.loss_weighting import GradientWeighting, LossWeighting

DEFAULTS = read_yaml(registry.properties("overall.yaml"))


@pytest.mark.parametrize("name", LOSS_WEIGHTINGS)
def test_a_weighting_is_accepted_and_its_options_have_defaults_of_their_kind(name):
    assert KEYS["loss_weighting"].kind.take(name) == name
    for key, kind in LOSS_WEIGHTINGS[name].options.items():
        assert KEYS[key].kind.take(DEFAULTS[key]) == kind.take(DEFAULTS[key]) == DEFAULTS[key]


@pytest.mark.parametrize("name", [name for name, weighting in LOSS_WEIGHTINGS.items() if weighting.needs_trainer])
def test_a_weighting_of_the_trainer_has_a_class_that_does_what_the_registry_says(name):
    weighting = LOSS_WEIGHTINGS[name]
    assert issubclass(weighting.load(), LossWeighting)
    assert issubclass(weighting.load(), GradientWeighting) == weighting.reads_gradients
    assert not weighting.is_constant


def test_search_spaces_search_only_what_the_registry_has():
    folder = registry.search_spaces()
    searched = [read_yaml(path).get("search", {}) for path in (*folder.glob("*.yaml"), *folder.glob("parts/*.yaml"))]
    words = [word for space in searched for word in space.get("loss_weighting", ())]
    assert set(words) == set(LOSS_WEIGHTINGS) - {"equal"}  # fixed is equal where loss_weights are not set


def test_weightings_are_named_in_a_message():
    assert weightings_where(lambda weighting: weighting.is_constant, "or") == "fixed or equal"
    assert weightings_where(lambda weighting: "dwa_temperature" in weighting.options) == "dwa"
    assert weightings_where(lambda weighting: not weighting.needs_trainer) == "fixed, equal and uncertainty"
