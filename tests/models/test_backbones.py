"""What holds of every backbone, whatever its equations."""

import copy
import pickle
import re

import pytest
import torch
import yaml

from recbole_msr import run
from recbole_msr.errors import InputError
from recbole_msr.registry import BUILT_IN_MODELS, properties
from tests.models.equations import TASKS

SMALL = {"embedding_size": 4, "dropout": 0.0}
MOE = SMALL | {"experts": 3, "expert_hidden_sizes": [8, 6], "tower_hidden_sizes": [5]}
BACKBONES = {
    "SharedBottom": SMALL | {"bottom_hidden_sizes": [8, 6], "tower_hidden_sizes": [5]},
    "OMoE": MOE,
    "MMoE": MOE,
    "HMoE": MOE,
    "PLE": SMALL | {"expert_hidden_sizes": [8, 6], "tower_hidden_sizes": [5], "levels": 2},
    "STAR": SMALL | {"fcn_hidden_sizes": [8, 6], "auxiliary_hidden_sizes": [5]},
    "AITM": SMALL | {"tower_hidden_sizes": [8, 6]},
    "M2M": MOE | {"scenario_embedding_size": 3, "view_size": 4},
    "AdaSparse": SMALL | {"hidden_sizes": [8, 6], "scenario_embedding_size": 3},
    "SARNet": SMALL | {"expert_hidden_sizes": [8], "expert_output_size": 6, "tower_hidden_sizes": [5]},
    "APG": SMALL | {"hidden_sizes": [8, 6], "rank": 3, "scenario_embedding_size": 3},
    "M3oE": SMALL
    | {"star_size": 7, "representation_size": 6, "shared_experts": 3, "expert_hidden_sizes": [8, 6]}
    | {"tower_hidden_sizes": [5]},
    "HAMUR": SMALL | {"hidden_sizes": [8, 6], "rank": 3, "bottleneck_size": 4, "hyper_hidden_sizes": [5]},
    "AdaptDHM": SMALL | {"fcn_hidden_sizes": [8, 6], "scenario_embedding_size": 3},
    "AutoIFS": SMALL
    | {"bottom_hidden_sizes": [9, 8], "unit_size": 6, "gate_hidden_sizes": [5], "scenario_embedding_size": 3},
    "PEPNet": SMALL | {"tower_hidden_sizes": [8, 6], "scenario_embedding_size": 3, "gate_hidden_size": 5},
}
PUBLISHED = {
    "AdaSparse": 230_320,
    "AdaptDHM": 257_490,
    "PEPNet": 232_330,
    "SARNet": 239_340,
    "SharedBottom": 227_590,
    "MMoE": 217_800,
    "PLE": 224_200,
    "STAR": 308_630,
}
WITHOUT_AGE = ("AdaSparse", "AdaptDHM", "SARNet")
"""Models that Scenario-Wise-Rec's script for ml-1m gives no plain number."""

every_backbone = pytest.mark.parametrize("name", [n for n in BUILT_IN_MODELS if n not in ("HiNet", "LLM4MSR")])


@pytest.fixture
def backbone(make_model):
    return lambda name, scenarios=3, **settings: make_model(scenarios, name, **(BACKBONES.get(name, SMALL) | settings))


@every_backbone
@pytest.mark.parametrize("scenarios", [1, 2, 3])
@pytest.mark.parametrize("tasks", [1, 2])
def test_gradients_reach_every_parameter(backbone, name, scenarios, tasks):
    """No parameter is made in forward, and none is there for nothing."""
    model, rows = backbone(name, scenarios, activation="tanh", tasks=TASKS[tasks])
    torch.nn.init.normal_(model.features.table.weight)
    model.calculate_loss(rows).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key
        assert torch.isfinite(parameter.grad).all(), key


@every_backbone
def test_all_that_a_prediction_depends_on_is_in_the_state(backbone, name):
    model, rows = backbone(name)
    twin, _ = backbone(name)
    for parameter in twin.parameters():
        torch.nn.init.normal_(parameter)
    model.eval(), twin.eval()
    assert not torch.allclose(twin.predict_tasks(rows), model.predict_tasks(rows))
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin.predict_tasks(rows), model.predict_tasks(rows), rtol=0, atol=0)


@every_backbone
@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_serves_as_a_backbone(backbone, name, batch_norm):
    """Logits follow from x and the scenario alone, row by row, and give x a gradient."""
    model, rows = backbone(name, batch_norm=batch_norm)
    model.calculate_loss(rows)
    model.eval()
    x, scenario = torch.randn(9, model.features.output_size, requires_grad=True), torch.arange(9) % 3
    logits = model.logits(x, scenario)
    assert logits.shape == (9, 2)
    order = torch.randperm(9)
    torch.testing.assert_close(model.logits(x[order], scenario[order]), logits[order])
    torch.testing.assert_close(model.logits(x[4:5], scenario[4:5]), logits[4:5])
    logits.sum().backward()
    assert (x.grad.abs().sum(dim=1) > 0).all()


@every_backbone
def test_the_scenario_changes_the_prediction(backbone, name):
    model, rows = backbone(name)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.eval()
    x = model.embed(rows)
    each = [model.logits(x, torch.full((len(x),), i)) for i in range(3)]
    assert not torch.isclose(each[0], each[1]).all()
    assert not torch.isclose(each[1], each[2]).all()


@every_backbone
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_single_row_trains_and_is_predicted(backbone, name, batch_norm):
    model, rows = backbone(name, batch_norm=batch_norm)
    one = rows[torch.tensor([4])]
    assert torch.isfinite(model.calculate_loss(one))
    model.eval()
    torch.testing.assert_close(model.predict(one), model.predict(rows)[4:5])


@every_backbone
def test_a_row_of_an_unknown_scenario_is_predicted(backbone, name):
    model, rows = backbone(name)
    model.eval()
    each = []
    for m in range(3):
        rows["scenario"][:] = m + 1
        each.append(model.scenario_shares[m] * model.predict_tasks(rows))
    rows["scenario"][:] = 0
    torch.testing.assert_close(model.predict_tasks(rows), sum(each))


@every_backbone
def test_half_precision_trains(backbone, name):
    model, rows = backbone(name)
    with torch.autocast("cpu", torch.bfloat16):
        model.calculate_loss(rows).backward()
        assert model.predict_tasks(rows).dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@every_backbone
def test_a_model_is_copied_and_pickled_whole(backbone, name):
    model, rows = backbone(name)
    model.calculate_loss(rows).backward()
    model.eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin.predict_tasks(rows), model.predict_tasks(rows), rtol=0, atol=0)


@every_backbone
def test_a_few_steps_learn(backbone, name):
    model, rows = backbone(name)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = model.calculate_loss(rows)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.85 * losses[0]


@every_backbone
def test_an_epoch_runs_from_settings_to_results(tiny_data, tmp_path, name):
    settings = BACKBONES[name] | {
        "data_path": str(tiny_data),
        "output_dir": str(tmp_path / "run"),
        "load_col": {"inter": ["user_id", "item_id", "rating"], "user": ["user_id", "age", "gender"]},
        "scenario": {"field": "age", "bins": [25, 35]},
        "tasks": TASKS[2],
        "epochs": 1,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    result = run(name, "tiny", config=settings)
    assert 0 < result.test_metrics["auc"] < 1
    assert result.test.tasks == ["click", "like"]
    assert len(result.test.cells) == 3


@every_backbone
def test_every_setting_is_read_and_explained(name):
    """A key that nothing reads, or that nobody explains, is a key too many."""
    from recbole_msr.config.keys import known_keys
    from recbole_msr.registry import model_class

    text = properties("model", f"{name}.yaml").read_text(encoding="utf-8")
    ours, _, _ = text.partition("# Evaluation")
    keys = [line for line in ours.splitlines() if line and not line.startswith("#")]
    assert all("  # (" in line for line in keys)
    assert set(yaml.safe_load(text)) <= known_keys(model_class(name))


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("SharedBottom", "bottom_hidden_sizes", [], "'bottom_hidden_sizes' must be a non-empty list of integers >= 1"),
        ("SharedBottom", "towers_per", "scenarios", "did you mean 'scenario' or"),
        ("OMoE", "experts", 0, "'experts' must be an integer >= 1, got 0"),
        ("MMoE", "gates_per", "user", "'gates_per' must be one of scenario, task, scenario_task, got 'user'"),
        ("HMoE", "stop_gradient", 1, "'stop_gradient' must be true or false, got 1"),
        ("PLE", "shared_experts", 0, "'shared_experts' must be an integer >= 1, got 0"),
        ("STAR", "output_norm", "layer", "'output_norm' must be one of none, batch_norm, batch_norm_relu"),
        ("AITM", "calibrator_weight", -1, "'calibrator_weight' must be a number >= 0"),
        ("M3oE", "shared_experts", 0, "'shared_experts' must be an integer >= 1, got 0"),
        ("HAMUR", "adapters", 3, "'adapters' must be at most the number of 'hidden_sizes', 2, got 3"),
        ("AdaptDHM", "centre_momentum", 1, "'centre_momentum' must be a number >= 0 and < 1, got 1"),
        ("AutoIFS", "final_temperature", 0.5, "'final_temperature' must be a number >= 1, got 0.5"),
        ("AutoIFS", "gate_learning_rate_factor", 0, "'gate_learning_rate_factor' must not be 0"),
        ("AutoIFS", "trainer", "recbole", "set trainer: lightning"),
        ("M2M", "view_size", 0, "'view_size' must be an integer >= 1, got 0"),
        ("AdaSparse", "pruning", "sparse", "'pruning' must be one of binarization, scaling, fusion, got 'sparse'"),
        ("SARNet", "own_experts", 0, "'own_experts' must be an integer >= 1, got 0"),
        ("APG", "condition", "item", "'condition' must be one of scenario, mix, self, got 'item'"),
        ("PEPNet", "networks", "none", "'networks' must be one of both, epnet, ppnet, got 'none'"),
        ("PEPNet", "tower_hidden_sizes", [], "'tower_hidden_sizes' must be a non-empty list of integers >= 1"),
        ("PEPNet", "prior_fields", ["user"], "got ['user']; did you mean 'user_id'"),
        ("AITM", "towers_per", "scenario", "'towers_per' must be one of task, scenario_task, got 'scenario'"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(backbone, name, key, value, message):
    with pytest.raises(InputError) as error:
        backbone(name, **{key: value})
    assert message in str(error.value)


# Scenario-Wise-Rec's MovieLens-1M: files with ml-1m's numbers of values, without its ratings.

VALUES = {"user_id": 6040, "item_id": 3706, "gender": 2, "occupation": 21, "zip_code": 3439, "first_genre": 18}
UNRATED = 3883 - 3706


@pytest.fixture(scope="module")
def ml_1m_shape(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    folder = path / "ml-1m"
    folder.mkdir()

    def write(suffix, header, rows):
        lines = ["\t".join(header), *("\t".join(map(str, row)) for row in rows)]
        (folder / f"ml-1m.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")

    users, items = range(VALUES["user_id"]), range(VALUES["item_id"] + UNRATED)
    write(
        "user",
        ["user_id:token", "age:float", "gender:token", "occupation:token", "zip_code:token"],
        [
            (u, (1, 18, 25, 35, 45, 50, 56)[u % 7], u % 2, u % VALUES["occupation"], u % VALUES["zip_code"])
            for u in users
        ],
    )
    write("item", ["item_id:token", "first_genre:token"], [(i, i % VALUES["first_genre"]) for i in items])
    write(
        "inter",
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        [(u, u % VALUES["item_id"], 1 + u // 7 % 5, u) for u in users],
    )
    return path


def built(name, path, **settings):
    from recbole.data import create_dataset
    from recbole.utils import get_model

    from recbole_msr.config.build import build_config

    given = {"preset": f"ml-1m-{name}", "data_path": str(path), "packed_cache": False, "use_gpu": False}
    config = build_config(name, "ml-1m", given | {"state": "ERROR"} | settings)
    return get_model(name)(config, create_dataset(config).build()[0])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shipped_configuration_has_the_published_number_of_parameters(ml_1m_shape, name):
    """To the ten parameters that the publication rounds to, once the rows for unknown values are taken off.

    Every token field has one row for an unknown value here, which Scenario-Wise-Rec has not.
    """
    model = built(name, ml_1m_shape)
    features = model.features
    assert features.output_size == 6 * 16 + (name not in WITHOUT_AGE)
    assert features.table.num_embeddings == sum(VALUES.values()) + 6
    unknown_rows = len(features.token_fields) * 16
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round(n_parameters - unknown_rows, -1) == PUBLISHED[name]


def test_the_shipped_configuration_of_autoifs_has_the_sizes_of_its_authors_code(ml_1m_shape):
    model = built("AutoIFS", ml_1m_shape)
    width = 6 * 16 + 1 + 16  # the age is one number here, and the scenario has an embedding
    mlp = width * 1024 + 1024 + 1024 * 512 + 512
    units = 512 * 256 + 256 + 3 * (2 * (512 + 256) + 256) + 256 + 1 + 2 * (2 * (256 + 1) + 1)
    gates = mlp + 2 * (512 * 4 + 4)
    assert sum(p.numel() for n, p in model.named_parameters() if "features" not in n) == mlp + units + gates + 3 * 16


def test_movies_without_a_rating_would_have_embeddings_of_their_own(ml_1m_shape):
    model = built("SharedBottom", ml_1m_shape, item_inter_num_interval=None)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round(n_parameters - 6 * 16 - UNRATED * 16, -1) == PUBLISHED["SharedBottom"]


def test_the_shipped_configurations_differ_in_the_model_only():
    texts = {name: properties("dataset", f"ml-1m-{name}.yaml").read_text(encoding="utf-8") for name in PUBLISHED}
    for name in WITHOUT_AGE:
        assert texts[name].count("numerical_features: [] ") == 1
        texts[name] = re.sub(r"numerical_features: \[\] .*", "numerical_features: [age]", texts[name])
    shared = {text[text.index("scenario:") :].partition("\n\n")[0] for text in texts.values()}
    assert len(shared) == 1
    (protocol,) = (yaml.safe_load(text) for text in shared)
    usual = yaml.safe_load(properties("dataset", "ml-1m.yaml").read_text(encoding="utf-8"))
    del usual["tasks"]
    assert usual == {key: protocol[key] for key in usual}
