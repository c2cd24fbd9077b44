"""Search spaces: reading, sampling, finding settings again, and what is refused."""

import json
import math
from functools import cache

import optuna
import pytest
from optuna.trial import FixedTrial

from recbole_msr.config.build import build_config
from recbole_msr.errors import InputError
from recbole_msr.tuning.space.key_rules import check_space
from recbole_msr.tuning.space.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

FULL = """
model: HiNet
fixed: {epochs: 10}
search:
  second: {type: int, low: 1, high: 5, when: {kind: [b, c]}}
  kind: [a, b, c]
  rate: {type: float, low: 1e-4, high: 1e-2, log: true}
  share: {type: float, low: 0.1, high: 0.7, step: 0.2}
  sizes: {type: layers, depth: [0, 3], width: [32, 64]}
  wide: {type: layers, depth: 2, width: {low: 10, high: 30, step: 10}}
  mixed: [null, true, 2, 0.5, word, [1, 2], {name: x}]
"""


@pytest.fixture
def load(tmp_path):
    """load(text, name="space.yaml") -> the Space in a file with this text."""

    def load(text, name="space.yaml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return Space.load(tmp_path / name)

    return load


def _trials(space, count=60, **options):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5), **options)
    for _ in range(count):
        trial = study.ask()
        settings = space.suggest(trial)
        study.tell(trial, 0.0)
        yield trial, settings


def _refused(load, text, name="space.yaml"):
    with pytest.raises(InputError) as error:
        load(text, name)
    return str(error.value)


# Sampling


def test_samples_are_of_the_declared_types_and_inside_the_bounds(load):
    space = load(FULL)
    assert (space.model, space.fixed) == ("HiNet", {"epochs": 10})
    assert sorted(space.keys) == ["epochs", "kind", "mixed", "rate", "second", "share", "sizes", "wide"]
    seen = [settings for _, settings in _trials(space)]
    assert all(one["epochs"] == 10 for one in seen)
    assert {one["kind"] for one in seen} == {"a", "b", "c"}
    assert all(isinstance(one["rate"], float) and 1e-4 <= one["rate"] <= 1e-2 for one in seen)
    assert {one["share"] for one in seen} == {0.1, 0.3, 0.5, 0.7}
    assert {len(one["sizes"]) for one in seen} == {0, 1, 2, 3}
    assert {width for one in seen for width in one["sizes"]} == {32, 64}
    assert {width for one in seen for width in one["wide"]} == {10, 20, 30}
    assert {len(one["wide"]) for one in seen} == {2}
    assert {json.dumps(one["mixed"]) for one in seen} == {
        *("null", "true", "2", "0.5", '"word"', "[1, 2]", '{"name": "x"}')
    }


def test_log_means_that_magnitudes_are_equally_likely(load):
    space = load("search:\n  rate: {type: float, low: 1e-4, high: 1e-2, log: true}\n")
    below = sum(settings["rate"] < 1e-3 for _, settings in _trials(space, 400))
    assert 150 < below < 250  # uniform, it would be 36


def test_a_parameter_is_sampled_only_where_its_condition_holds(load):
    for trial, settings in _trials(load(FULL)):
        assert ("second" in settings) == (settings["kind"] in ("b", "c"))
        assert ("second" in trial.params) == ("second" in settings)


def test_there_is_a_width_for_each_layer_that_exists_and_no_other(load):
    for trial, settings in _trials(load(FULL)):
        widths = [name for name in trial.params if name.startswith("sizes.") and name != "sizes.depth"]
        assert widths == [f"sizes.{i}" for i in range(1, trial.params["sizes.depth"] + 1)]
        assert settings["sizes"] == [trial.params[name] for name in widths]


def test_samples_survive_a_storage_on_disk_and_tpe_takes_the_space(load, tmp_path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
    space = load(FULL)
    study = optuna.create_study(
        storage=storage, sampler=optuna.samplers.TPESampler(multivariate=True, group=True, n_startup_trials=5, seed=1)
    )
    sampled = {}
    for number in range(12):
        trial = study.ask()
        sampled[number] = space.suggest(trial)
        study.tell(trial, float(number % 3))
    for trial in optuna.load_study(study_name=study.study_name, storage=storage).trials:
        assert space.settings(trial.params) == sampled[trial.number]


# Back


def test_params_of_is_the_inverse_of_settings(load):
    space = load(FULL)
    for trial, settings in _trials(space):
        params, lines = space.params_of(settings)
        assert lines == []
        assert params.keys() == trial.params.keys()
        assert space.settings(params) == settings


def test_a_number_outside_becomes_the_nearest_and_anything_else_is_left_out(load):
    space = load(FULL)
    config = {
        "epochs": 10,
        "kind": "z",
        "rate": 0.5,
        "share": 0.34,
        "sizes": [64, 48, 7, 7],
        "wide": [10, 20],
        "mixed": None,
    }
    params, lines = space.params_of(config)
    assert params == {
        "rate": 0.01, "share": 0.3, "sizes.depth": 3, "sizes.1": 64, "sizes.2": 32, "sizes.3": 32, "wide.1": 10,
        "wide.2": 20, "mixed": None,
    }  # fmt: skip
    told = "\n".join(lines)
    assert len(lines) == 6
    assert "kind is z, the space holds a, b, c: it is sampled" in told
    assert "rate is 0.5" in told
    assert "0.01, is taken" in told
    assert "share is 0.34" in told
    assert "sizes has 4 layers, the space holds 0 to 3: 3 are taken" in told
    assert "sizes[1] is 48" in told


def test_what_is_not_set_and_what_is_fixed_otherwise_is_told(load):
    space = load(
        "fixed: {epochs: 10}\nsearch:\n  rate: {type: float, low: 0.1, high: 0.2}\n"
        "  sizes: {type: layers, depth: 1, width: [8]}\n"
    )
    params, lines = space.params_of({"epochs": 20})
    assert params == {}
    assert lines == [
        "rate is not set, no number: it is sampled",
        "sizes is not set, no list of layers: it is sampled",
        "epochs is 20, the space fixes it to 10",
    ]


def test_parameters_of_another_space_are_refused(load):
    space = load(FULL)
    with pytest.raises(InputError, match=r"not of this space.*'kind'"):
        space.settings({"rate": 1e-3})
    with pytest.raises(InputError, match="not of this space"):
        space.settings({"kind": "z"})


def test_an_enqueued_default_is_the_first_trial(load):
    space = load(FULL)
    settings = {
        "epochs": 10,
        "kind": "b",
        "second": 2,
        "rate": 1e-3,
        "share": 0.5,
        "sizes": [64],
        "wide": [10, 30],
        "mixed": [1, 2],
    }
    study = optuna.create_study()
    study.enqueue_trial(space.params_of(settings)[0])
    assert space.suggest(study.ask()) == settings


# Grid


def test_a_grid_has_every_value(load):
    space = load(
        "search:\n  b: {type: int, low: 2, high: 6, step: 2}\n  c: [[1], [2]]\n"
        "  d: {type: float, low: 0.0, high: 0.3, step: 0.1}\n  e: {type: layers, depth: 2, width: [4, 8]}\n"
    )
    grid = space.grid()
    assert grid == {"b": [2, 4, 6], "c": ["[1]", "[2]"], "d": [0.0, 0.1, 0.2, 0.3], "e.1": [4, 8], "e.2": [4, 8]}
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(grid, seed=1))
    study.optimize(lambda trial: float(len(str(space.suggest(trial)))), n_trials=200)
    assert len({json.dumps(space.settings(trial.params)) for trial in study.trials}) == 3 * 2 * 4 * 4


def test_what_is_no_grid_is_told_by_name(load):
    with pytest.raises(InputError) as error:
        load(FULL).grid()
    told = str(error.value)
    assert "give a step, or list the choices, of rate" in told
    assert "to sizes" in told
    assert "'when' stands at second" in told


# Equal spaces


def test_the_plain_form_gives_the_same_space_again(load):
    space = load(FULL)
    again = Space.load(json.loads(json.dumps(space.to_dict())))
    assert again.to_dict() == space.to_dict()
    assert again.fingerprint == space.fingerprint
    assert again.differences(space) == []
    for (_, one), (_, other) in zip(_trials(space, 20), _trials(again, 20), strict=True):
        assert one == other


def test_the_fingerprint_does_not_depend_on_the_order_of_parameters_but_on_all_else(load):
    one = load("search:\n  a: [1, 2]\n  b: [3, 4]\n")
    assert load("search:\n  b: [3, 4]\n  a: {choices: [1, 2]}\n").fingerprint == one.fingerprint
    for other in ("  a: [2, 1]\n  b: [3, 4]\n", "  a: [1, 2]\n", "  a: [1, 2]\n  b: {choices: [3, 4], when: {a: 1}}\n"):
        assert load("search:\n" + other).fingerprint != one.fingerprint
    assert load("fixed: {c: 1}\nsearch:\n  a: [1, 2]\n  b: [3, 4]\n").fingerprint != one.fingerprint


def test_differences_are_told_by_parameter(load):
    was = load("fixed: {epochs: 5}\nsearch:\n  a: [1, 2]\n  b: [3, 4]\n")
    now = load("model: HiNet\nfixed: {epochs: 6}\nsearch:\n  a: [1, 2, 3]\n  c: [5, 6]\n")
    assert now.differences(was) == [
        "model: HiNet, was not set",
        "fixed epochs: 6, was 5",
        "a: {type: categorical, choices: [1, 2, 3]}, was {type: categorical, choices: [1, 2]}",
        "b: not there, was {type: categorical, choices: [3, 4]}",
        "c: {type: categorical, choices: [5, 6]}, was not there",
    ]


# Including


def test_what_a_file_includes_is_searched_and_what_it_says_itself_wins(load):
    load("search:\n  a: [1, 2]\n  b: {choices: [3, 4], when: {a: 1}}\n  c: [5, 6]\n", "base.yaml")
    space = load("include: base.yaml\nfixed: {c: 7}\nsearch:\n  a: [1, 9]\n  d: {choices: [0, 1], when: {b: 4}}\n")
    assert space.to_dict() == {
        "fixed": {"c": 7},
        "search": {
            "a": {"type": "categorical", "choices": [1, 9]},
            "b": {"type": "categorical", "choices": [3, 4], "when": {"a": [1]}},
            "d": {"type": "categorical", "choices": [0, 1], "when": {"b": [4]}},
        },
    }


def test_an_included_parameter_that_can_no_longer_exist_is_gone(load):
    load("search:\n  a: [1, 2]\n  b: {choices: [3, 4], when: {a: 1}}\n  c: [5, 6]\n", "base.yaml")
    assert load("include: base.yaml\nfixed: {a: 2}\n").keys == ["c", "a"]
    assert load("include: base.yaml\nfixed: {a: 1}\n").to_dict()["search"]["b"] == {
        "type": "categorical",
        "choices": [3, 4],
    }


def test_conditions_on_what_the_file_declares_itself_are_on_its_own_declaration(around, load):
    text = "search:\n  backbone: {type: model, choices: [X, Y]}\n  own: [2, 9]\n"
    space = load(text)
    conditions = {one.name: one.when for one in space.parameters if one.key == "under"}
    assert conditions == {"X.under": {"backbone": ("X",), "own": (2,)}}  # Y's wants own: 3, which is never
    for _, settings in _trials(space, 30):
        assert ("under" in settings) == (settings["backbone"] == "X" and settings["own"] == 2)


def test_a_shipped_space_can_be_included_by_the_models_name(load):
    space = load("include: HiNet\nfixed: {dropout: 0.1}\nsearch:\n  sub_experts: [3, 5]\n")
    assert space.model == "HiNet"
    assert set(space.keys) == set(Space.of_model("HiNet").keys)
    assert space.fixed == {"dropout": 0.1}
    assert {settings["sub_experts"] for _, settings in _trials(space, 20)} == {3, 5}


def test_a_file_that_includes_itself_is_refused(load):
    assert "leads back to this file" in _refused(load, "include: space.yaml\nsearch: {a: [1, 2]}\n")


# A model around another


@pytest.fixture
def around(load, tmp_path, monkeypatch):
    """A space over two models' spaces, which agree in `shared` and differ in `own`."""
    from recbole_msr import registry

    load(
        "search:\n  shared: [1, 2]\n  own: [1, 2]\n  under: {choices: [7, 8], when: {own: 2}}\n  x: [0, 1]\n", "X.yaml"
    )
    load(
        "fixed: {set: 5}\nsearch:\n  shared: [1, 2]\n  own: [3, 4]\n  under: {choices: [7, 8], when: {own: 3}}\n",
        "Y.yaml",
    )
    monkeypatch.setattr(registry, "search_spaces", lambda *parts: tmp_path.joinpath(*parts))
    return load("search:\n  backbone: {type: model, choices: [X, Y]}\n")


def test_the_chosen_models_own_space_is_searched(around):
    for _, settings in _trials(around):
        if settings["backbone"] == "X":
            assert settings.keys() - {"under"} == {"backbone", "shared", "own", "x"}
            assert settings["own"] in (1, 2)
            assert ("under" in settings) == (settings["own"] == 2)
        else:
            assert settings.keys() - {"under"} == {"backbone", "shared", "own", "set"}
            assert settings["own"] in (3, 4)
            assert ("under" in settings) == (settings["own"] == 3)


def test_equal_parameters_of_models_are_one_and_others_are_named_after_their_model(around):
    names = [parameter.name for parameter in around.parameters]
    assert names.count("shared") == 1
    assert {"X.own", "Y.own", "X.under", "Y.under", "x", "set"} <= set(names)


def test_settings_of_either_model_are_found_again(around):
    for settings in (
        {"backbone": "X", "shared": 2, "own": 1, "x": 0},
        {"backbone": "Y", "shared": 1, "own": 4, "set": 5},
    ):
        params, lines = around.params_of(settings)
        assert lines == []
        assert around.settings(params) == settings


def test_fixing_the_model_leaves_its_own_parameters(around):
    space = around.fixing({"backbone": "Y", "shared": 2})
    assert space.fixed == {"backbone": "Y", "shared": 2}
    assert [parameter.name for parameter in space.parameters] == ["set", "Y.own", "Y.under"]
    assert {settings["backbone"] for _, settings in _trials(space, 5)} == {"Y"}
    with pytest.raises(InputError, match="nothing to search"):
        around.fixing({"backbone": "X", "shared": 1, "own": 1, "x": 0})


# Stores


STORES = """
search:
  knowledge:
    type: stores
    names: [movies, random]
    build: {encoder: [minilm, random], template: [full, /some/mine.yaml], pooling: mean}
  level: {choices: [1, 2], when: {knowledge: movies}}
"""


def test_stores_are_named_after_the_dataset_and_what_makes_them(load):
    space = load(STORES).resolve("ml-100k")
    wanted = {one.name: one.settings for one in space.stores()}
    assert wanted == {
        "ml-100k-minilm-full": {"encoder": "minilm", "template": "full", "pooling": "mean"},
        "ml-100k-minilm-mine": {"encoder": "minilm", "template": "/some/mine.yaml", "pooling": "mean"},
        "ml-100k-random-full": {"encoder": "random", "template": "full", "pooling": "mean"},
        "ml-100k-random-mine": {"encoder": "random", "template": "/some/mine.yaml", "pooling": "mean"},
        "movies": None,
    }
    assert {settings["knowledge"] for _, settings in _trials(space)} == {*wanted, "random"}
    assert Space.load(space.to_dict()).stores() == space.stores()
    assert load(STORES).resolve("ml-1m").fingerprint != space.fingerprint


def test_several_products_with_names_of_their_own(load):
    space = load(
        "search:\n  knowledge:\n    type: stores\n    build:\n"
        "      - {encoder: 'hf:models/Qwen3-0.6B', pooling: [last, mean], layer: [-1, -4], levels: [user, scenario]}\n"
        "      - {encoder: 'st:a/all', max_items: 5}\n      - {encoder: 'st:b/all', max_items: 5}\n"
    ).resolve("d")
    names = [one.name for one in space.stores()]
    assert names[:2] == ["d-Qwen3-0.6B-full-pooling=last-layer=-1", "d-Qwen3-0.6B-full-pooling=last-layer=-4"]
    assert len(set(names)) == len(names) == 6
    assert all(name.startswith("d-all-full-") for name in names[4:])
    assert space.stores()[0].settings["levels"] == ["user", "scenario"]


def test_before_the_dataset_is_known_stores_cannot_be_sampled(load):
    space = load(STORES)
    for ask in (space.stores, lambda: space.suggest(FixedTrial({"knowledge": "movies"})), space.grid):
        with pytest.raises(RuntimeError, match="resolve"):
            ask()


def test_a_store_that_is_not_set_becomes_the_first_one(load):
    params, lines = load(STORES).resolve("d").params_of({})
    assert params == {"knowledge": "d-minilm-full"}
    assert lines == ["knowledge is not set: the first store, d-minilm-full, is taken"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{type: stores}", "no store to choose from"),
        ("{type: stores, build: {template: full}}", "must name an encoder"),
        ("{type: stores, build: {encoder: minilm, templat: full}}", "did you mean 'template'"),
        ("{type: stores, build: {encoder: minilm, template: []}}", "lists nothing"),
        ("{type: stores, names: [a, a]}", "'a' twice"),
        ("{type: stores, names: [../a]}", "plain name"),
        ("{type: stores, names: movies}", "must list stores"),
    ],
)
def test_impossible_stores_are_refused(load, body, told):
    assert told in _refused(load, f"search:\n  knowledge: {body}\n")


# Refusals


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("serch:\n  a: [1, 2]\n", 1, "unknown key 'serch'; did you mean 'search'"),
        ("search:\n  a: {type: flaot, low: 1, high: 2}\n", 2, "unknown type 'flaot'; did you mean 'float'"),
        ("search:\n  a:\n    type: int\n    low: 1\n    hihg: 2\n", 5, "unknown key 'hihg'; did you mean 'high'"),
        ("search:\n  a: {type: int, choices: [1]}\n", 2, "unknown key 'choices'"),
        ("search:\n  a: {low: 1, high: 2}\n", 2, "'a' needs a type: int, float, categorical"),
        ("search:\n  a: 5\n", 2, "a fixed value stands under 'fixed:'"),
        ("search:\n  a: []\n", 2, "'a' must list its choices"),
        ("search:\n  a: [1, 1.0]\n", 2, "twice, or one equal to it"),
        ("search:\n  a: [1, true]\n", 2, "twice, or one equal to it"),
        ("search:\n  a: [!!timestamp 2020-01-01]\n", 2, "only plain values are read"),
        ("search:\n  a: [.inf]\n", 2, "no plain value"),
        ("search:\n  a: {type: float, low: 1}\n", 2, "'high' of 'a' must be a number, but it is not given"),
        ("search:\n  a: {type: int, low: 1.5, high: 2}\n", 2, "'low' of 'a' must be a whole number, got 1.5"),
        ("search:\n  a: {type: float, low: 2, high: 1}\n", 2, "must be below 'high', got 2.0 and 1.0"),
        ("search:\n  a: {type: float, low: 0, high: 1, log: true}\n", 2, "above 0 with 'log'"),
        ("search:\n  a: {type: float, low: 1, high: 2, log: 1}\n", 2, "'log' of 'a' must be true or false"),
        ("search:\n  a: {type: float, low: 1, high: 2, log: true, step: 1}\n", 2, "cannot have both 'log' and 'step'"),
        (
            "search:\n  a: {type: int, low: 1, high: 8, step: 2}\n",
            2,
            "not reached in steps of 2 from 1: the last one is 7",
        ),
        ("search:\n  a: {type: int, low: 1, high: 8, step: -1}\n", 2, "'step' of 'a' must be above 0"),
        ("search:\n  a: {type: layers, depth: [1, 2, 3], width: [8]}\n", 2, "a number of layers or [FEWEST, MOST]"),
        ("search:\n  a: {type: layers, depth: [3, 1], width: [8]}\n", 2, "must rise"),
        ("search:\n  a: {type: layers, depth: 1, width: [8.5]}\n", 2, "widths of 'a' are whole numbers"),
        ("search:\n  a: {type: layers, depth: 1, width: {low: 0, high: 4}}\n", 2, "widths of 'a' are whole numbers"),
        ("search:\n  a: {type: model, choices: [Hinet]}\n", 2, "no search space for 'Hinet'; did you mean 'HiNet'"),
        (
            "search:\n  a: [1, 2]\n  b: {choices: [1], when: {aa: 1}}\n",
            3,
            "'aa', which is neither searched nor fixed; did you mean 'a'",
        ),
        ("search:\n  a: [1, 2]\n  b: {choices: [1], when: {a: 3}}\n", 3, "'b' can never exist at a: 3"),
        ("search:\n  a: [x, yes!]\n  b: {choices: [1], when: {a: yes}}\n", 3, "'b' can never exist at a: True"),
        ("search:\n  a: [1, 2]\n  b: {choices: [1], when: {}}\n", 3, "'when' must be conditions"),
        (
            "search:\n  a: {type: float, low: 0, high: 1}\n  b: {choices: [1], when: {a: 0.5}}\n",
            3,
            "cannot depend on 'a', only on a choice",
        ),
        (
            "fixed: {a: 2}\nsearch:\n  b: {choices: [1], when: {a: 3}}\n  c: [1]\n",
            3,
            "what its 'when' asks for is fixed otherwise",
        ),
        ("fixed: {a: 2}\nsearch:\n  a: [1, 2]\n", 3, "'a' is searched, and fixed"),
        (
            "search:\n  a: {choices: [1, 2], when: {b: 1}}\n  b: {choices: [1, 2], when: {a: 1}}\n",
            2,
            "in a circle: a needs b needs a",
        ),
        (
            "search:\n  a: [1, 2]\n  b: {choices: [1, 2], when: {a: 1}}\n  c: {choices: [3], when: {b: 1, a: 2}}\n",
            4,
            "'c' can never exist",
        ),
        ("search:\n  a: [1, 2]\n  b: {key: a, choices: [3, 4]}\n", 3, "'a' and 'b' may both set 'a'"),
        ("search:\n  a: [1, 2]\n  a: [3, 4]\n", 2, "'a' stands here already; line 3 has it again"),
        ("model: 5\nsearch:\n  a: [1, 2]\n", 1, "'model' must be a model's name"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(load, tmp_path, text, line, told):
    message = _refused(load, text)
    assert message.startswith(f"{tmp_path / 'space.yaml'}:{line}: "), message
    assert told in message


def test_two_parameters_may_set_one_key_under_conditions_that_exclude_each_other(load):
    space = load(
        "search:\n  a: [x, y]\n  b: {choices: [1, 2], when: {a: x}}\n  c: {key: b, choices: [3, 4], when: {a: y}}\n"
    )
    for _, settings in _trials(space, 30):
        assert settings["b"] in ((1, 2) if settings["a"] == "x" else (3, 4))
    assert space.params_of({"a": "y", "b": 4}) == ({"a": "y", "c": 4}, [])


@pytest.mark.parametrize("text", ["search: {}\n", "fixed: {a: 1}\n", "model: HiNet\n"])
def test_an_empty_space_is_refused(load, text):
    assert "nothing to search" in _refused(load, text)


@pytest.mark.parametrize(
    ("text", "told"), [("", "it holds nothing"), ("- 1\n", "it holds a list"), ("a: [\n", "not valid YAML")]
)
def test_a_file_that_is_no_space_is_refused(load, text, told):
    assert told in _refused(load, text)


def test_a_missing_file_and_a_missing_model_are_told(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the search space .*nowhere\.yaml: No such file"):
        Space.load(tmp_path / "nowhere.yaml")
    with pytest.raises(InputError, match=r"no search space for 'Hinet'; did you mean 'HiNet'.*--space=FILE"):
        Space.of_model("Hinet")
    with pytest.raises(InputError, match=r"no search space for 'xgboost'.*AFM, AITM, APG"):
        Space.of_model("xgboost")


# RecBole's hyper.test


HYPER = """
learning_rate loguniform -8,0
embedding_size choice [64, 96 ,128]
train_batch_size choice [512, 1024, 2048]
mlp_hidden_size choice ['[64, 64, 64]','[128, 128]']

dropout uniform 0.0,0.5
n_layers quniform 1,5,2
weight quniform 0.1,0.5,0.2
"""


def test_recboles_file_is_read_as_it_is(load):
    space = load(HYPER, "hyper.test")
    search = space.to_dict()["search"]
    assert search["learning_rate"] == {"type": "float", "low": math.exp(-8), "high": 1.0, "log": True}
    assert search["embedding_size"]["choices"] == [64, 96, 128]
    assert search["mlp_hidden_size"]["choices"] == [[64, 64, 64], [128, 128]]  # as RecBole's Config reads the words
    assert search["dropout"] == {"type": "float", "low": 0.0, "high": 0.5}
    # hyperopt: round(x / q) * q for x in [low, high]; 1 / 2 and 5 / 2 are rounded to 0 and 2.
    assert search["n_layers"] == {"type": "int", "low": 0, "high": 4, "step": 2}
    assert search["weight"] == {"type": "float", "low": 0.0, "high": 0.4, "step": 0.2}


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a choice [1, 2]\n\nb chioce [1, 2]\n", 3, "did you mean 'choice'"),
        ("a uniform 1\n", 1, "'a uniform' wants LOW,HIGH"),
        ("a quniform 1,2\n", 1, "'a quniform' wants LOW,HIGH,STEP"),
        ("a choice 1, 2, \n\na choice [1]\n", 3, "stands here already"),
        ("a choice 5\n", 1, "'a choice' wants [VALUE, VALUE, ...]"),
        ("a choice [1, 2\n", 1, "'a choice' wants"),
    ],
)
def test_a_wrong_line_of_recboles_file_is_told(load, tmp_path, text, line, told):
    message = _refused(load, text, "hyper.test")
    assert message.startswith(f"{tmp_path / 'hyper.test'}:"), message
    assert told in message
    if "already" not in told:
        assert f":{line}: " in message


# Which keys may be searched


@cache
def _config(model, **settings):
    tasks = {"click": {"field": "rating", "at_least": 4}}
    return build_config(model, "tiny", {"tasks": tasks, "state": "ERROR", "use_gpu": False} | settings)


@pytest.fixture
def check(load):
    """check(text, model="HiNet", **settings): `check_space` for a search with these settings."""
    return lambda text, model="HiNet", **settings: check_space(load(text), model, _config(model, **settings))


def test_a_key_that_the_model_does_not_read_is_refused_with_the_nearest_and_the_line(check, tmp_path):
    with pytest.raises(InputError) as error:
        check("search:\n  dropout: [0.1, 0.2]\n  sub_expert: [3, 5]\n")
    assert str(error.value).startswith(f"{tmp_path / 'space.yaml'}:3: HiNet does not read 'sub_expert'")
    assert "did you mean 'sub_experts'" in str(error.value)
    with pytest.raises(InputError, match="HiNet does not read 'mlp_hidden_size'"):
        check("search:\n  mlp_hidden_size: [[8], [16]]\n")
    check("search:\n  mlp_hidden_size: [[8], [16]]\n", "DeepFM")
    check("search:\n  whatever: [1, 2]\n", strict=False)


@pytest.mark.parametrize(
    "key",
    [
        *("seed", "data_seed", "eval_args", "load_col", "scenario", "tasks", "main_task", "preset", "LABEL_FIELD"),
        *("user_inter_num_interval", "threshold", "data_path", "numerical_features", "train_neg_sample_args"),
    ],
)
@pytest.mark.parametrize("part", ["fixed: {%s: 1}\nsearch:\n  dropout: [0.1, 0.2]\n", "search:\n  %s: [1, 2]\n"])
def test_the_split_never_depends_on_the_trial(check, key, part):
    with pytest.raises(InputError, match=f"'{key}' cannot be part of a search.*the split never depends on the trial"):
        check(part % key)


def test_every_key_that_a_prepared_dataset_depends_on_is_refused(check):
    from recbole_msr.data import cache

    for key in cache._KEYS:
        with pytest.raises(InputError, match="the split never depends on the trial"):
            check(f"search:\n  {key}: [1, 2]\n")


def test_keys_of_the_search_itself_are_refused_and_a_budget_may_only_be_fixed(check):
    for key in ("valid_metric", "output_dir", "metrics", "model"):
        with pytest.raises(InputError, match="belongs to the search as a whole"):
            check(f"search:\n  {key}: [a, b]\n")
    for key in ("epochs", "lightning", "threads"):
        with pytest.raises(InputError, match="must be the same for all trials"):
            check(f"search:\n  {key}: [1, 2]\n")
    check("fixed: {epochs: 3}\nsearch:\n  dropout: [0.1, 0.2]\n")


def test_a_space_of_another_model_is_refused(check):
    with pytest.raises(InputError, match="is the search space of PLE, not of HiNet"):
        check("model: PLE\nsearch:\n  dropout: [0.1, 0.2]\n")


def test_a_key_of_one_backbone_needs_its_condition(check):
    backbone = "search:\n  backbone: [STAR, HiNet, PLE]\n"
    with pytest.raises(InputError, match=r":3: 'sub_experts' is read by HiNet, but the backbone may also be STAR, PLE"):
        check(backbone + "  sub_experts: [3, 5]\n", "LLM4MSR", knowledge="random")
    check(backbone + "  sub_experts: {choices: [3, 5], when: {backbone: HiNet}}\n", "LLM4MSR", knowledge="random")
    check("search:\n  sub_experts: [3, 5]\n", "LLM4MSR", knowledge="random", backbone="HiNet")
    with pytest.raises(InputError, match="LLM4MSR does not read 'sub_experts'"):
        check("search:\n  sub_experts: [3, 5]\n", "LLM4MSR", knowledge="random", backbone="STAR")
