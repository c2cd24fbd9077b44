"""The spaces that come with the package: every searched key changes the built model or its training."""

import hashlib
import itertools
import json
import random
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from optuna.trial import FixedTrial

from recbole_msr import registry
from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import read_yaml
from recbole_msr.runs.knowledge_commands import embed
from recbole_msr.training.module import PackedData, build_optimizer
from recbole_msr.training.optimizers import parameter_groups
from recbole_msr.training.trainer import LightningTrainer
from recbole_msr.tuning.models import RANKERS
from recbole_msr.tuning.space.conditions import needs
from recbole_msr.tuning.space.key_rules import check_space
from recbole_msr.tuning.space.parameters import Categorical, Layers, Number
from recbole_msr.tuning.space.space import Space
from tests.prompts.small_data import write_items

MODELS = sorted({path.stem for path in registry.search_spaces().glob("*.yaml")} - {*RANKERS})
"""The models that learn from rows; those that rank items are in test_ranker_search.py."""
OURS = [model for model in MODELS if model in registry.BUILT_IN_MODELS]
TRAINED_LONGER = ("DeepFM", "HiNet", "LLM4MSR", "SharedBottom")
"""Those that the settings of training are tried on: one of RecBole's and three kinds of the package's."""
PRESETS = sorted(path.stem for path in registry.properties("dataset").glob("*.yaml"))


def _is_for(preset, model):
    """Whether a preset is not another model's, as ml-1m-PLE is PLE's."""
    named = preset.rpartition("-")[2]
    return named == model or named not in OURS


@dataclass
class Data:
    """A dataset in a folder, its splits, and some rows of it."""

    settings: dict
    train: object
    valid: object
    rows: object
    configs: dict = field(default_factory=dict)
    trained: dict = field(default_factory=dict)

    def config(self, model, **settings):
        """A configuration as a trial's; to build one takes long, so that only those without settings are checked."""
        backbone = settings.get("backbone")
        if (model, backbone) not in self.configs:
            self.configs[model, backbone] = self.checked(model, **({"backbone": backbone} if backbone else {}))
        config = deepcopy(self.configs[model, backbone])
        for key, value in settings.items():
            config[key] = value
        return config

    def checked(self, model, **settings):
        return build_config(model, "tiny", self.settings | settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """60 users, 30 items, 1,200 ratings, three scenarios, two tasks; and the stores that LLM4MSR's space wants."""
    from recbole.data import create_dataset

    root = tmp_path_factory.mktemp("data")
    folder, draw = root / "tiny", random.Random(3)
    folder.mkdir()
    users = [f"u{u}\t{draw.randint(16, 60)}\t{draw.choice('FM')}" for u in range(60)]
    pairs = draw.sample([(u, i) for u in range(60) for i in range(30)], 1200)
    rows = [
        f"u{u}\ti{i}\t{min(5, max(1, round(3 + (u + i) % 3 - draw.random() * 2)))}\t{n}"
        for n, (u, i) in enumerate(pairs)
    ]
    for kind, header, lines in (
        ("user", "user_id:token\tage:token\tgender:token", users),
        ("inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float", rows),
    ):
        (folder / f"tiny.{kind}").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    write_items(folder)
    settings = {
        "data_path": str(root),
        "load_col": {
            "inter": ["user_id", "item_id", "rating", "timestamp"],
            "user": ["user_id", "age", "gender"],
            "item": ["item_id", "class"],
        },
        "tasks": {"click": {"field": "rating", "at_least": 3}, "like": {"field": "rating", "at_least": 4}},
        "scenario": {"field": "age", "bins": [25, 40]},
        **{"packed_cache": False, "use_gpu": False, "show_progress": False, "state": "ERROR", "shuffle": False},
        **{"trainer": "lightning", "checkpoint_dir": str(root), "knowledge_dir": str(root / "knowledge")},
        **{"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"}},
        **{"train_neg_sample_args": None, "metrics": ["AUC", "LogLoss"], "valid_metric": "AUC"},
    }
    config = build_config("HiNet", "tiny", settings)
    train, valid, _ = create_dataset(config).build()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        for number, wanted in enumerate(Space.of_model("LLM4MSR").resolve("tiny").stores()):
            # The random encoder in MiniLM's place; else as the space wants it.
            how = wanted.settings | {"encoder": "random", "encoder_seed": number, "size": 12, "name": wanted.name}
            list(embed("tiny", [], settings | how))
    return Data(settings, train, valid, train[torch.arange(64)])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def _space(model):
    return Space.of_model(model).resolve("tiny")


def _cases():
    """Every parameter of every space; those that need an epoch or more are read by the training, not by the model."""
    return [
        (model, parameter.name)
        for model in MODELS
        for parameter in _space(model).parameters
        if model in TRAINED_LONGER or parameter.key not in HOW
    ]


def _branches(space, parameter):
    """Every way in which the conditions of a parameter hold: values of other parameters by name."""
    wanted = needs(parameter, {one.name: one for one in space.parameters})
    return [dict(zip(wanted, values, strict=True)) for values in itertools.product(*wanted.values())]


def _variants(parameter):
    """Sets of Optuna parameters that differ in one of the parameter's own; each set has at least two."""
    name = parameter.name
    if isinstance(parameter, Number):
        return [[{name: end} for end in (int(parameter.low), int(parameter.high))]
                if parameter.is_integer else [{name: parameter.low}, {name: parameter.high}]]  # fmt: skip
    if isinstance(parameter, Categorical):
        return [[{name: label} for label in parameter.grid()[name]]]
    assert isinstance(parameter, Layers)
    first, *_, last = _widths(parameter)
    full = {f"{name}.{i}": first for i in range(1, parameter.most + 1)}
    found = [[full | {f"{name}.depth": depth} for depth in range(parameter.fewest, parameter.most + 1)]]
    full[f"{name}.depth"] = parameter.most
    found += [[full, full | {f"{name}.{i}": last}] for i in range(1, parameter.most + 1)]
    return [sets for sets in found if len(sets) > 1]


def _widths(layers):
    return layers.width.choices if isinstance(layers.width, Categorical) else (layers.width.low, layers.width.high)


def _defaults(data, model, branch):
    """The Optuna parameters of the defaults in a branch, and some value for those that do not exist there."""
    space = _space(model)
    keys = {one.name: one.key for one in space.parameters}
    config = data.config(model, **({"backbone": branch["backbone"]} if "backbone" in branch else {}))
    given = {key: config[key] for key in space.keys} | {keys[name]: value for name, value in branch.items()}
    return _at_an_end(space, 0) | space.params_of(given)[0]


def _at_an_end(space, end):
    """Optuna parameters with the first (0) or last (-1) value of everything."""
    return {name: value for one in space.parameters for name, value in _variants(one)[0][end].items()}


def _smallest(space):
    """Optuna parameters of the smallest layers."""
    return {
        name: value
        for one in space.parameters
        if isinstance(one, Layers)
        for name, value in {f"{one.name}.depth": 1, f"{one.name}.1": _widths(one)[0]}.items()
    }


def _train_two_steps(data, config, model):
    _step_through(config, model, [data.rows, data.rows])


def _train_an_epoch(data, config, model):
    config["train_batch_size"] //= 32  # there are 960 rows
    _step_through(config, model, PackedData(config, {"train": data.train}).train_dataloader())


def _train_three_epochs(data, config, model):
    """Under the Lightning trainer."""
    config["epochs"] = config["stopping_step"] = 3
    config["train_batch_size"] = 320  # three steps an epoch
    LightningTrainer(config, model).fit(data.train, data.valid, verbose=False, saved=False)


def _train_small_batches(data, config, model):
    """Under the Lightning trainer; the gradients of few rows are larger."""
    config["epochs"] = 1
    config["train_batch_size"] = 20
    LightningTrainer(config, model).fit(data.train, data.valid, verbose=False, saved=False)


HOW = {
    "train_batch_size": _train_an_epoch,
    "loss_weighting": _train_three_epochs,  # dynamic weight average weighs from the third epoch on
    **dict.fromkeys(("learning_rate_schedule", "schedule_epochs", "warmup_epochs"), _train_three_epochs),
    **dict.fromkeys(("search_epochs", "final_temperature"), _train_three_epochs),
    "clip_grad_norm": _train_small_batches,
}


def _step_through(config, model, batches):
    optimizer = build_optimizer(parameter_groups(model, config), config)
    for batch in batches:
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        (sum(loss) if isinstance(loss, tuple) else loss).backward()
        optimizer.step()


def _trained(data, model, settings, train=_train_two_steps):
    """Shapes of the weights that are learned and of those that are not, and a digest of the learned values."""
    known = json.dumps([model, settings, train.__name__])
    if known not in data.trained:
        config = data.config(model, **settings)
        torch.manual_seed(7)
        made = registry.model_class(model)(config, data.train)
        before = {name: weight.detach().clone() for name, weight in made.named_parameters()}
        made.train()
        train(data, config, made)
        after = dict(made.named_parameters())
        learned = {name: weight for name, weight in after.items() if not torch.equal(weight, before[name])}
        digest = hashlib.sha256(b"".join(weight.detach().numpy().tobytes() for weight in learned.values())).digest()
        shapes = {name: tuple(weight.shape) for name, weight in after.items()}
        idle = {name: shape for name, shape in shapes.items() if name not in learned}
        data.trained[known] = ({name: shapes[name] for name in learned}, idle, digest)
    return data.trained[known]


def _differ(one, other):
    """Whether two trainings differ in what is learned. Weights that nothing trains count for nothing: where they
    change their shape, all others are drawn anew, and that proves nothing."""
    if one[0] != other[0]:
        return True
    return one[1] == other[1] and one[2] != other[2]


@pytest.mark.parametrize(("model", "name"), _cases())
def test_every_searched_parameter_changes_the_model_or_its_training(data, model, name):
    space = _space(model)
    parameter = next(one for one in space.parameters if one.name == name)
    train = HOW.get(parameter.key, _train_two_steps)
    small = _smallest(space) if parameter.key in HOW else {}
    for branch in _branches(space, parameter):
        defaults = _defaults(data, model, branch) | small
        for variants in _variants(parameter):
            seen = []
            for change in variants:
                settings = space.suggest(FixedTrial(defaults | change))
                trained = _trained(data, model, settings, train)
                for other, former in seen:
                    assert _differ(trained, other), f"{branch}: {change} and {former} train the same"
                seen.append((trained, change))


def test_the_proof_tells_a_dead_key_from_a_live_one(data):
    def differ(model, one, other):
        return _differ(_trained(data, model, one), _trained(data, model, other))

    assert not differ("LR", {"embedding_size": 8}, {"embedding_size": 16})  # a table that nothing reads
    assert not differ("KD_DAGFM", {"depth": 2}, {"depth": 3})  # the student, while the teacher learns
    assert not differ("HiNet", {}, {})
    assert differ("HiNet", {"dropout": 0.1}, {"dropout": 0.2})
    assert differ("HiNet", {"weight_decay": 1e-7}, {"weight_decay": 1e-3})


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_lie_inside(data, model):
    config = data.config(model)
    space = _space(model)
    params, lines = space.params_of(config)
    if model == "LLM4MSR":  # `knowledge` has no default
        assert len(lines) == 1
        assert "knowledge is not set" in lines[0]
    else:
        assert lines == []
    settings = space.settings(params)
    told = {key: config[key] for key in settings if key != "knowledge"}
    assert {key: value for key, value in settings.items() if key != "knowledge"} == told


@pytest.mark.parametrize(("model", "preset"), [(m, p) for p in PRESETS for m in MODELS if _is_for(p, m)])
def test_what_a_preset_sets_lies_inside(data, model, preset):
    given = read_yaml(registry.properties("dataset", f"{preset}.yaml"))
    config = data.config(model)
    space = _space(model)
    values = {key: given.get(key, config[key]) for key in space.keys} | {"knowledge": "tiny-minilm-full"}
    assert space.params_of(values)[1] == []


@pytest.mark.parametrize("model", MODELS)
def test_a_trial_at_either_end_of_the_space_is_accepted(data, model):
    for end in (0, -1):
        data.checked(model, **_space(model).suggest(FixedTrial(_at_an_end(_space(model), end))))


@pytest.mark.parametrize("model", MODELS)
def test_the_models_read_every_key_and_none_touches_the_data(data, model):
    check_space(_space(model), model, data.config(model))


def test_every_registered_model_has_a_space_and_so_has_every_baseline_that_trains_by_gradient():
    from recbole.utils import ModelType

    def trains_row_by_row(name):
        try:
            found = registry.model_class(name)
        except (InputError, ImportError, ValueError):  # its own library is not installed
            return False
        return found.type == ModelType.CONTEXT

    built_in = set(registry.BUILT_IN_MODELS)
    assert built_in | {name for name in registry.recbole_models() if trains_row_by_row(name)} == set(MODELS)


def test_the_files_and_the_shapes_of_several_models_agree_so_that_llm4msr_searches_them_once():
    names = [parameter.name for parameter in _space("LLM4MSR").parameters]
    assert names.count("learning_rate") == 1
    assert not [name for name in names if "." in name]
    shared = next(one for one in _space("LLM4MSR").parameters if one.name == "expert_hidden_sizes")
    assert shared.when == {"backbone": ("HiNet", "PLE", "MMoE")}


def test_the_largest_hinet_takes_the_arithmetic_that_its_file_says(data):
    """Multiplications of a row's way through the layers: the sizes of all weight matrices but the embeddings."""

    def arithmetic(settings):
        made = registry.model_class("HiNet")(data.config("HiNet", **settings), data.train)
        return sum(p.numel() for name, p in made.named_parameters() if "features" not in name)

    space = _space("HiNet")
    largest = {}
    for parameter in space.parameters:
        if isinstance(parameter, Number):
            largest[parameter.key] = int(parameter.high) if parameter.is_integer else parameter.high
        elif isinstance(parameter, Layers):
            largest[parameter.key] = [_widths(parameter)[-1]] * parameter.most
    largest |= {"embedding_size": 32, "tower_per_scenario": True}
    ratio = arithmetic(largest) / arithmetic({})
    assert ratio < 50
