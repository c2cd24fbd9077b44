"""Keys of histories are searched where a history is declared, and only there."""

import pytest

from recbole_msr import registry
from recbole_msr.errors import InputError
from recbole_msr.tuning.options import SearchOptions
from recbole_msr.tuning.resolve import read_search
from recbole_msr.tuning.space.joint import joint_space
from recbole_msr.tuning.space.space import Space

HISTORY = {"history": {"fields": ["item_id"]}}
KEYS = {"history_pooling", "history_hidden_sizes"}


def _space(tmp_path, config, **options):
    given = {"use_gpu": False, "state": "ERROR"} | config
    return read_search(SearchOptions(dataset="ml-100k", config=given, output=tmp_path, trials=2, **options))[1]


@pytest.mark.parametrize("model", registry.registered_models())
def test_every_model_of_the_package_searches_them_where_a_history_is_declared(model):
    assert not KEYS & set(Space.of_model(model).keys)
    assert set(Space.of_model(model, HISTORY).keys) >= KEYS


def test_of_several_models_those_that_read_histories_search_them():
    space = joint_space(["HiNet", "FM"], "ml-100k", {"HiNet": HISTORY, "FM": {}})
    assert set(space.keys_of("HiNet")) >= KEYS
    assert not KEYS & set(space.keys_of("FM"))


def test_a_search_takes_them_from_its_settings(tmp_path):
    assert set(_space(tmp_path, HISTORY, model="SharedBottom").keys) >= KEYS
    assert "history_hidden_sizes" not in _space(tmp_path, HISTORY | {"history_pooling": "sum"}, model="HiNet").keys
    assert not KEYS & set(_space(tmp_path, {}, model="SharedBottom").keys)


def test_the_history_itself_is_the_data_and_not_searched(tmp_path):
    space = {"search": {"history": {"type": "categorical", "choices": [None, {"fields": ["item_id"]}]}}}
    with pytest.raises(InputError, match="'history' cannot be part of a search: it changes the data"):
        _space(tmp_path, {}, model="HiNet", space=space)
