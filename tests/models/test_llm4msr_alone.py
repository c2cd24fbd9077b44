"""LLM4MSR on one scenario alone takes that scenario's vector from the knowledge of all."""

import numpy as np
import pytest
import torch

from recbole_msr.errors import InputError
from recbole_msr.prompts.fingerprint import fingerprint

SMALL = {
    "backbone": "SharedBottom",
    "embedding_size": 4,
    "knowledge": "mine",
    "knowledge_reduced_size": 2,
    "knowledge_scale": "none",
    "knowledge_reduction": "none",
    "meta_rank": 3,
    "meta_hidden_sizes": [6],
}
NAMES = ["young", "mid", "old"]


@pytest.fixture
def vectors(make_dataset, write_knowledge):
    """The vectors of a store made of all three scenarios."""
    return write_knowledge(make_dataset(3, "LLM4MSR", **SMALL)[1])


@pytest.fixture
def make(vectors, make_model, knowledge_dir):
    return lambda **settings: make_model(3, "LLM4MSR", **(SMALL | {"knowledge_dir": knowledge_dir} | settings))


@pytest.mark.parametrize("name", NAMES)
def test_the_named_scenarios_vector_is_taken(name, make, vectors):
    model, rows = make(only_scenario=name)
    assert set(rows["scenario"].tolist()) == {1}
    found = model.scenario_level.vectors(model.scenario_of(rows)).detach()
    assert len(found) == len(rows["scenario"])
    np.testing.assert_allclose(found, np.tile(vectors["scenario"][name], (len(found), 1)), rtol=1e-6)


@pytest.mark.parametrize("reduction", ["none", "pca"])
def test_scaling_and_pca_are_those_of_all_scenarios(reduction, make):
    given = {"knowledge_scale": "standard", "knowledge_reduction": reduction}
    whole, _ = make(**given)
    for index, name in enumerate(NAMES):
        alone, _ = make(**given, only_scenario=name)
        expected = whole.scenario_level.vectors(torch.tensor([index]))
        torch.testing.assert_close(alone.scenario_level.vectors(torch.tensor([0])), expected)


def test_users_without_a_training_row_of_the_scenario_are_unknown(make):
    whole, rows = make()
    alone, _ = make(only_scenario="mid")
    users = rows["user_id"][rows["scenario"] == 2].unique().tolist()
    assert 0 < len(users) < int(whole.user_level.vectors.known.sum())
    assert torch.nonzero(alone.user_level.vectors.known).flatten().tolist() == sorted(users)


def test_knowledge_of_another_split_is_refused(make):
    with pytest.raises(InputError, match=r"'mine' was built from other training data.*data_seed: 2020 -> 3"):
        make(only_scenario="mid", data_seed=3)


def test_knowledge_of_other_rows_is_refused(make, tiny_data):
    path = tiny_data / "tiny" / "tiny.user"
    path.write_text(path.read_text(encoding="utf-8").replace("u3\t", "u3\t1"), encoding="utf-8")  # much older
    with pytest.raises(InputError, match=r"'mine' was built from other training data.*content of the \.user file"):
        make(only_scenario="mid")


def test_knowledge_is_the_same_whichever_scenario_is_trained_on(make_dataset, tiny_data):
    of_all = fingerprint(make_dataset(3)[1])
    assert of_all["training_rows"]["count"] == 480
    for name in NAMES:
        assert fingerprint(make_dataset(3, only_scenario=name)[1]) == of_all
