"""RecBole finds registered models by name, with their defaults, wherever it takes a model's name."""

import re
import sys
import textwrap

import pytest
import torch

import recbole_msr
from recbole_msr import registry
from recbole_msr.errors import InputError
from recbole_msr.models.base import MultiScenarioRecommender

SMALL = {
    "sub_experts": 2,
    "expert_hidden_sizes": [8],
    "task_expert_hidden_sizes": [8],
    "tower_hidden_sizes": [4],
    "load_col": None,
    "scenario": {"field": "gender"},
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "epochs": 1,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "threads": 1,
}


@pytest.fixture
def settings(tiny_data, monkeypatch):
    monkeypatch.chdir(tiny_data)
    monkeypatch.setattr(sys, "argv", ["test"])
    return SMALL | {"data_path": str(tiny_data), "checkpoint_dir": str(tiny_data / "saved")}


class Linear(MultiScenarioRecommender):
    """One linear layer a scenario and task."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.depth = config["my_depth"]
        shape = (self.n_scenarios, len(self.task_names), self.features.output_size)
        self.weight = torch.nn.Parameter(torch.zeros(shape))

    def logits(self, x, scenario):
        return torch.einsum("bd,btd->bt", x, self.weight[scenario])


DEFAULTS = {
    "embedding_size": 4,
    "numerical_as": "raw",
    "my_depth": 3,
    "train_neg_sample_args": None,
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
    "metrics": ["AUC", "LogLoss"],
    "valid_metric": "AUC",
}


# RecBole's own functions


def test_the_defaults_are_those_of_properties(settings):
    import yaml
    from recbole.config import Config

    config = Config(
        model="HiNet", dataset="tiny", config_dict={"data_path": settings["data_path"], "tasks": SMALL["tasks"]}
    )
    for key, value in yaml.safe_load(registry.properties("model", "HiNet.yaml").read_text()).items():
        if key not in ("eval_args", "train_neg_sample_args", "metrics"):  # RecBole fills these in
            assert config[key] == value, key
    assert config["data_seed"] == 2020
    assert config["LABEL_FIELD"] == "label_click"
    given = SMALL | {"data_path": settings["data_path"], "main_task": "like", "dropout": 0.4}
    config = Config(model="HiNet", dataset="tiny", config_dict=given)
    assert (config["dropout"], config["LABEL_FIELD"], config["main_task"]) == (0.4, "label_like", "like")


def test_a_dataset_may_have_a_preset(settings):
    from recbole.config import Config

    def scenario(model, dataset, **given):
        return Config(model=model, dataset=dataset, config_dict={"state": "ERROR"} | given)["scenario"]

    preset = {"field": "age", "bins": [25, 35]}
    assert scenario("HiNet", "ml-100k") == preset
    assert scenario("HiNet", "ml-100k", scenario={"field": "gender"}) == {"field": "gender"}
    assert scenario("DeepFM", "ml-100k") is None
    assert scenario("DeepFM", "ml-100k", preset="ml-100k") == preset
    with pytest.raises(InputError, match=r"no preset 'ml-100'; did you mean 'ml-100k'"):
        scenario("HiNet", "ml-100k", preset="ml-100")


def test_get_model_and_get_trainer():
    from recbole.trainer import Trainer
    from recbole.utils import ModelType, get_model, get_trainer

    from recbole_msr.models.hinet import HiNet
    from recbole_msr.training.trainer import LightningTrainer

    assert get_model("HiNet") is HiNet
    assert get_trainer(ModelType.CONTEXT, "HiNet") is LightningTrainer
    assert get_trainer(ModelType.CONTEXT, "DeepFM") is Trainer


def test_run_recbole_trains_hinet(settings):
    from recbole.quick_start import run_recbole

    result = run_recbole(model="HiNet", dataset="tiny", config_dict=dict(settings), saved=False)
    assert set(result["test_result"]) == {"auc", "logloss"}
    assert 0 < result["test_result"]["auc"] < 1
    assert result["best_valid_score"] == result["best_valid_result"]["auc"]


def test_load_data_and_model_opens_our_checkpoint(settings):
    from recbole.quick_start import load_data_and_model

    run = recbole_msr.run("HiNet", "tiny", config=settings | {"output_dir": "out"})
    config, model, dataset, train, valid, test = load_data_and_model(str(run.folder / "best.ckpt"))
    assert (config["model"], dataset.scenario_names) == ("HiNet", ["F", "M"])
    assert [len(loader._dataset) for loader in (train, valid, test)] == [480, 60, 60]
    for name, weight in run.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


def test_load_data_and_model_opens_what_recboles_own_trainer_saved(settings):
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.quick_start import load_data_and_model
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    config = Config(model="HiNet", dataset="tiny", config_dict=settings)
    init_seed(1, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    trained = get_model("HiNet")(config, train._dataset)
    trainer = Trainer(config, trained)
    trainer.fit(train, valid, show_progress=False)
    metrics = trainer.evaluate(test)
    with pytest.warns(RuntimeWarning, match="pickle"):
        config, model, _, _, _, again = load_data_and_model(trainer.saved_model_file)
    assert torch.equal(again._dataset.inter_feat["user_id"], test._dataset.inter_feat["user_id"])
    assert Trainer(config, model).evaluate(again, load_best_model=False) == metrics


def test_a_data_path_may_be_the_datasets_own_folder(settings):
    from recbole.config import Config

    given = settings | {"data_path": f"{settings['data_path']}/tiny"}
    assert Config(model="HiNet", dataset="tiny", config_dict=given)["data_path"] == f"{settings['data_path']}/tiny"


# Models of others


def test_a_class_of_ones_own_runs_under_its_name(settings, register):
    from recbole.quick_start import run_recbole
    from recbole.utils import get_model

    assert register(Linear, DEFAULTS) is Linear
    assert "Linear" in registry.registered_models()
    assert get_model("Linear") is Linear
    own = {key: value for key, value in settings.items() if "expert" not in key and "tower" not in key}
    result = recbole_msr.run("Linear", "tiny", config=own | {"my_depth": 5, "output_dir": "out"})
    assert result.model.depth == 5
    assert result.summary["tasks"] == ["click", "like"]
    assert "auc" in run_recbole(model="Linear", dataset="tiny", config_dict=own, saved=False)["test_result"]
    assert registry.describe("Linear").splitlines()[0] == "embedding_size: 4"


def test_defaults_may_be_a_file_or_the_classes_own(tmp_path, register):
    (tmp_path / "own.yaml").write_text("my_depth: 7\nlearning_rate: 1e-2\n")
    assert registry.Registration("Linear", lambda: Linear, tmp_path / "own.yaml").default_settings() == {
        "my_depth": 7,
        "learning_rate": 0.01,
    }
    with_own = type("WithOwn", (Linear,), {"defaults": {"my_depth": 2}})
    assert registry.Registration("WithOwn", lambda: with_own).default_settings() == {"my_depth": 2}


def test_a_name_belongs_to_one_class(register):
    register(Linear, DEFAULTS)
    register(Linear, DEFAULTS | {"my_depth": 4})
    assert registry.registrations()["Linear"].default_settings()["my_depth"] == 4
    with pytest.raises(InputError, match="'Linear' is registered already"):
        register(type("Linear", (MultiScenarioRecommender,), {"__module__": "elsewhere"}))
    with pytest.raises(InputError, match="'HiNet' is registered already"):
        register(type("HiNet", (MultiScenarioRecommender,), {}))


def test_an_installed_package_may_bring_models(settings, tmp_path, monkeypatch, register):
    from recbole.utils import get_model

    site = tmp_path / "site"
    (site / "others-1.0.dist-info").mkdir(parents=True)
    (site / "others-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (site / "others-1.0.dist-info" / "entry_points.txt").write_text(
        "[recbole_msr.models]\nBrought = others_models:Brought\n"
    )
    (site / "others_models.py").write_text(
        textwrap.dedent(f"""
            import torch
            from recbole_msr.models.base import MultiScenarioRecommender

            class Brought(MultiScenarioRecommender):
                defaults = {DEFAULTS!r}

                def __init__(self, config, dataset):
                    super().__init__(config, dataset)
                    self.layer = torch.nn.Linear(self.features.output_size, config["brought_width"] or 2)

                def logits(self, x, scenario):
                    return self.layer(x)
            """)
    )
    monkeypatch.syspath_prepend(site)
    try:
        assert "Brought" in registry.registered_models()
        assert "others_models" not in sys.modules, "a model that is not asked for is not imported"
        assert get_model("Brought").__module__ == "others_models"
        own = {key: value for key, value in settings.items() if "expert" not in key and "tower" not in key}
        result = recbole_msr.run("Brought", "tiny", config=own | {"brought_width": 2, "output_dir": "out"})
        assert result.summary["trainer"] == "lightning"
        with pytest.raises(InputError, match=r"brought_widht.*brought_width"):
            recbole_msr.run("Brought", "tiny", config=own | {"brought_widht": 2, "output_dir": "out"})
    finally:
        sys.modules.pop("others_models", None)
        sys.modules.pop(f"{registry.RECBOLE_PACKAGE}.brought", None)


@pytest.mark.parametrize(("name", "nearest"), [("HiNett", "HiNet"), ("hinet", "HiNet"), ("DepFM", "DeepFM")])
def test_an_unknown_model_is_an_error_that_suggests_names(name, nearest):
    with pytest.raises(InputError, match=rf"no model '{name}'; did you mean .*'{nearest}'"):
        registry.model_class(name)
    with pytest.raises(InputError, match=nearest):
        registry.describe(name)


def test_what_describe_tells_is_the_defaults_file():
    import yaml

    assert yaml.safe_load(registry.describe("HiNet"))["sub_experts"] == 5
    assert "mlp_hidden_size" in yaml.safe_load(registry.describe("DeepFM"))
    assert {"DeepFM", "SASRec", "BPR"} <= set(registry.recbole_models())


@pytest.mark.parametrize("name", registry.BUILT_IN_MODELS)
def test_a_built_in_model_has_its_class_its_files_and_its_place_in_the_docs(name):
    from recbole_msr.files.yaml import read_yaml

    assert registry.model_class(name).__name__ == name
    assert registry.properties("model", f"{name}.yaml").is_file()
    assert read_yaml(registry.search_spaces(f"{name}.yaml"))["model"] == name
    root = registry.search_spaces().parent
    for page in ("README.md", "search_spaces/README.md"):
        assert re.search(rf"\b{name}\b", (root / page).read_text(encoding="utf-8")), page
