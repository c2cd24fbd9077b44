"""Misspelt keys are refused, and no key that something reads is."""

from pathlib import Path

import pytest
import recbole
import yaml
from recbole.utils import argument_list

from recbole_msr import registry
from recbole_msr.config.build import build_config
from recbole_msr.config.keys import check_keys, known_keys
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import read_yaml

PROPERTIES = Path(recbole.__path__[0], "properties")
GIVEN = {"state": "ERROR", "use_gpu": False, "tasks": {"click": "label"}}


def _yaml_keys(path):
    return set(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def _unknown(keys, model):
    with pytest.raises(InputError) as error:
        check_keys(keys, registry.model_class(model), {})
    return str(error.value)


def test_misspelt_keys_are_named_with_the_nearest():
    told = _unknown(["learning_rat", "epochs", "sub_expert"], "HiNet")
    assert "'learning_rat'; did you mean 'learning_rate'" in told
    assert "'sub_expert'; did you mean 'sub_experts'" in told
    assert "--strict=False" in told
    assert "'epochs'" not in told
    assert "keys" in told


def test_a_key_of_another_model_is_unknown():
    assert "'sub_experts'" in _unknown(["sub_experts"], "DeepFM")
    assert "'mlp_hidden_size'" in _unknown(["mlp_hidden_size"], "HiNet")


@pytest.mark.parametrize("path", sorted((PROPERTIES / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_of_recboles_models_is_known(path):
    try:
        registry.model_class(path.stem)
    except (ImportError, ValueError) as error:
        pytest.skip(f"RecBole cannot load {path.stem} here: {error}")
    content = read_yaml(path)
    told = ""
    try:
        build_config(path.stem, "ml-100k", content | {"state": "ERROR", "use_gpu": False})
    except InputError as error:  # some want further settings
        told = str(error)
    assert "unknown configuration key" not in told


@pytest.mark.parametrize("model", ["HiNet", "DeepFM", "SASRec", "KGAT", "BPR"])
def test_every_general_key_is_known_for_every_model(model):
    keys = _yaml_keys(PROPERTIES / "overall.yaml")
    for path in (PROPERTIES / "quick_start_config").glob("*.yaml"):
        keys |= _yaml_keys(path)
    for path in (PROPERTIES / "dataset").glob("*.yaml"):
        if "url" not in path.stem:
            keys |= _yaml_keys(path)
    for name in ("general", "training", "evaluation", "dataset"):
        keys |= set(getattr(argument_list, f"{name}_arguments"))
    keys |= _yaml_keys(registry.properties("overall.yaml"))
    keys |= {"model", "dataset", "worker", "shuffle", "discretization", "numerical_features", "wandb_project"}
    check_keys(keys, registry.model_class(model), {})


def test_every_key_of_hinet_is_known_without_its_defaults():
    check_keys(
        _yaml_keys(registry.properties("model", "HiNet.yaml")) | {"loss_weights"}, registry.model_class("HiNet"), {}
    )


def test_the_keys_an_outside_model_reads_are_known():
    from recbole_msr.models.base import MultiScenarioRecommender

    class Mine(MultiScenarioRecommender):
        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.width = config["my_width"]

    check_keys(["my_width", "embedding_size", "numerical_as", "loss_weights"], Mine, {})

    space = {"__name__": "typed_in"}  # as in a notebook, where no source can be read
    exec("class Typed:\n    def __init__(self, config):\n        self.width = config['typed_width']\n", space)
    check_keys(["typed_width"], space["Typed"], {})
    assert "typed_widht" not in known_keys(space["Typed"])


@pytest.mark.parametrize("model", ["DeepFM", "BPR", "HiNet"])
def test_strict_may_be_turned_off(model):
    with pytest.raises(InputError, match="learning_rat"):
        build_config(model, "ml-100k", GIVEN | {"learning_rat": 0.1})
    assert build_config(model, "ml-100k", GIVEN | {"learning_rat": 0.1, "strict": False})["learning_rat"] == 0.1


def test_ready_keys_pass_with_their_model():
    for model, key, value in (
        ("DeepFM", "mlp_hidden_size", [8]),
        ("SASRec", "n_layers", 1),
        ("BPR", "embedding_size", 8),
        ("HiNet", "sub_experts", 2),
    ):
        own = {"train_neg_sample_args": None, "tasks": None} if model == "SASRec" else {}
        given = GIVEN | own | {key: value, "alias_of_item_id": None, "benchmark_filename": None}
        assert build_config(model, "ml-100k", given)[key] == value
