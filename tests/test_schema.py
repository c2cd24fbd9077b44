"""What a configuration declares becomes scenario ids and labels; what is declared wrongly is named."""

import math

import numpy as np
import pandas as pd
import pytest

from recbole_msr.errors import InputError
from recbole_msr.schema import MISSING_LABEL, Schema, as_token, label_field

CLICK = {"click": {"field": "rating", "at_least": 4}}


def _schema(scenario=None, tasks=CLICK, **more):
    return Schema.from_config({"scenario": scenario, "tasks": tasks, **more})


def _task(**spec):
    return _schema(tasks={"t": {"field": "f", **spec}}).tasks[0]


def test_a_configuration_without_tasks_has_no_schema():
    assert Schema.from_config({}) is None


def test_tasks_keep_their_order_and_the_first_is_the_main_one():
    tasks = {"like": {"field": "rating", "at_least": 5}, "click": "clicked"}
    schema = _schema(tasks=tasks)
    assert schema.task_names == ["like", "click"]
    assert schema.label_fields == ["label_like", "label_click"] == [label_field(n) for n in tasks]
    assert (schema.main_task, schema.main_index) == ("like", 0)
    assert _schema(tasks=tasks, main_task="click").main_index == 1


# Labels


def test_labels_by_threshold():
    values = np.array([1.0, 3.5, 4.0, 4.5, 5.0])
    assert _task(at_least=4).labels(values).tolist() == [0, 0, 1, 1, 1]
    assert _task(above=4).labels(values).tolist() == [0, 0, 0, 1, 1]
    assert _task(at_least=4).labels(["1", "3.5", "4", "4.5", "5"]).tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("values", [[0, 1, 1], ["0", "1", "1.0"], np.array([False, True, True]), np.array([0.0, 1, 1])])
def test_labels_of_a_0_1_field(values):
    labels = _task().labels(values)
    assert labels.dtype == np.float32
    assert labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("values", [[1.0, math.nan, 0.0], ["1", None, "0"], ["1", "", "0"], ["1", math.nan, "0"]])
def test_a_missing_label_is_an_error_that_counts_or_is_left_out(values):
    assert _task(missing="ignore").labels(values).tolist() == [1, MISSING_LABEL, 0]
    assert _task(missing="ignore", at_least=1).labels(values).tolist() == [1, MISSING_LABEL, 0]
    with pytest.raises(InputError, match=r"task 't'.*'f' has no number in 1 of 3 rows.*first is interaction 2.*ignore"):
        _task().labels(values)


@pytest.mark.parametrize("missing", ["error", "ignore"])
def test_a_label_that_is_not_0_or_1_is_named(missing):
    with pytest.raises(InputError, match=r"task 't'.*'f' must hold 0 and 1, but holds 3 in 2 rows.*at_least"):
        _task(missing=missing).labels([0, 1, 3, 4])
    with pytest.raises(InputError, match=r"task 't'.*'f' must hold numbers, but holds 'yes' in interaction 2"):
        _task(missing=missing).labels(["1", "yes"])


# Scenarios


def test_bins_take_their_lower_edge():
    scenario = _schema({"field": "age", "bins": [25, 35]}).scenario
    ages = [1, 24, 24.99, 25, 34, 35, 80]
    expected = pd.cut(ages, [-math.inf, 25, 35, math.inf], right=False, labels=False) + 1
    names = scenario.fixed_names()
    assert names == ["age<25", "25<=age<35", "age>=35"]
    assert scenario.assign(ages, names).tolist() == expected.tolist()
    assert scenario.assign([str(age) for age in ages], names).tolist() == expected.tolist()
    assert scenario.assign([math.nan, None, "?"], names).tolist() == [0, 0, 0]


def test_bins_may_be_named():
    declared = {"field": "age", "bins": [30], "names": ["young", "old"]}
    assert _schema(declared).scenario.fixed_names() == ["young", "old"]


def test_groups_and_the_rest():
    groups = {"north": ["se", "no"], "south": "it", "code": [7]}
    scenario = _schema({"field": "country", "groups": groups}).scenario
    assert scenario.fixed_names() == ["north", "south", "code"]
    values = ["no", "it", "se", "fr", None, 7.0, "7"]
    assert scenario.assign(values, scenario.fixed_names()).tolist() == [1, 2, 1, 0, 0, 3, 3]
    rest = _schema({"field": "country", "groups": groups, "other": "rest"}).scenario
    assert rest.fixed_names() == ["north", "south", "code", "rest"]
    assert rest.assign(values, rest.fixed_names()).tolist() == [1, 2, 1, 4, 0, 3, 3]


def test_a_fields_own_values_and_no_scenario_at_all():
    scenario = _schema("tab").scenario
    assert scenario.fixed_names() is None
    assert scenario.assign(["b", "a", "z"], ["a", "b"]).tolist() == [2, 1, 0]
    assert _schema().scenario.fixed_names() == ["all"]
    assert _schema().scenario.assign([None, 1, "x"], ["all"]).tolist() == [1, 1, 1]


def test_a_source_field_stays_a_feature_only_where_something_is_derived_from_it():
    assert _schema({"field": "age", "bins": [30]}).scenario.keep_field
    assert not _schema({"field": "tab"}).scenario.keep_field
    assert _schema({"field": "tab", "keep_field": True}).scenario.keep_field
    assert not _schema({"field": "scenario", "groups": {"a": [1]}}).scenario.keep_field


@pytest.mark.parametrize(
    ("value", "token"),
    [(3, "3"), (3.0, "3"), (np.int64(3), "3"), (np.float32(3), "3"), (3.5, "3.5"), ("007", "007"), (None, None)],
)
def test_raw_values_are_written_as_in_a_file(value, token):
    assert as_token(value) == token
    assert as_token(math.nan) is None


# Wrong declarations

AGE = {"field": "age", "bins": [30]}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"scenario": AGE}, r"'tasks' is not"),
        ({"tasks": {}}, r"'tasks' must map"),
        ({"tasks": ["click"]}, r"'tasks' must map"),
        ({"tasks": {"click": 3}}, r"task 'click' must be a mapping"),
        ({"tasks": {"click": {"at_least": 4}}}, r"task 'click' needs a field"),
        ({"tasks": {"click": {"field": "r", "at_leats": 4}}}, r"task 'click'.*'at_leats'.*did you mean 'at_least'"),
        ({"tasks": {"click": {"field": "r", "at_least": "4"}}}, r"task 'click': at_least must be a number, got '4'"),
        ({"tasks": {"click": {"field": "r", "above": True}}}, r"task 'click': above must be a number"),
        ({"tasks": {"click": {"field": "r", "above": math.nan}}}, r"task 'click': above must be a number"),
        ({"tasks": {"click": {"field": "r", "above": 1, "at_least": 2}}}, r"task 'click'.*not both"),
        (
            {"tasks": {"click": {"field": "r", "missing": "ignor"}}},
            r"task 'click': missing must be 'error' or 'ignore'",
        ),
        ({"tasks": {"a/b": "r"}}, r"task name 'a/b'"),
        ({"tasks": {"worst": "r"}}, r"task name 'worst'"),
        *[({"tasks": {name: "r"}}, rf"task name '{name}' is taken") for name in ("macro", "all", "Worst")],
        ({"tasks": {"": "r"}}, r"task name '' is empty"),
        ({"tasks": {None: "r"}}, r"task name None is empty.*quote it"),
        ({"tasks": {False: "r"}}, r"task name False is True or False.*quote it"),
        ({"tasks": {"click": {"field": True}}}, r"task 'click': field: True is True or False.*quote it"),
        ({"tasks": {"click": ""}}, r"task 'click': field: '' is empty"),
        ({"tasks": {"click": {"field": "r", "at_least": 10**400}}}, r"task 'click': at_least must be a number"),
        ({"tasks": CLICK, "main_task": True}, r"main_task True is True or False.*quote it"),
        ({"tasks": {1: "r", "1": "q"}}, r"two tasks have the same name"),
        ({"tasks": CLICK, "main_task": "clik"}, r"main_task 'clik'.*did you mean 'click'"),
        ({"tasks": CLICK, "scenario": 3}, r"scenario must be a mapping"),
        ({"tasks": CLICK, "scenario": {"bins": [30]}}, r"scenario needs a field"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bin": [30]}}, r"unknown key 'bin'.*did you mean 'bins'"),
        ({"tasks": CLICK, "scenario": AGE | {"groups": {"a": [1]}}}, r"bins or groups, not both"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bins": [35, 25]}}, r"bins must be ascending"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bins": [25, 25]}}, r"bins must be ascending"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bins": []}}, r"bins must be ascending"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bins": 30}}, r"bins must be ascending"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bins": "30"}}, r"bins must be ascending"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bins": ["a"]}}, r"bins must be ascending"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bins": [True]}}, r"bins must be ascending"),
        ({"tasks": CLICK, "scenario": {"field": "age", "bins": [10**400]}}, r"bins must be ascending"),
        ({"tasks": CLICK, "scenario": {"field": None}}, r"scenario: field: None is empty"),
        ({"tasks": CLICK, "scenario": {"field": True, "bins": [1]}}, r"scenario: field: True.*quote it"),
        ({"tasks": CLICK, "scenario": AGE | {"names": ["a", ""]}}, r"scenario: names: 2: '' is empty"),
        ({"tasks": CLICK, "scenario": AGE | {"names": ["a", "b\n"]}}, r"scenario: names: 2: 'b\\n' is no name"),
        ({"tasks": CLICK, "scenario": AGE | {"names": ["a", ["b"]]}}, r"scenario: names: 2: \['b'\] is no name"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {"a": [1]}, "other": []}}, r"other: \[\] is no name"),
        ({"tasks": {"a": {"field": ["b"]}}}, r"task 'a': field: \['b'\] is no name"),
        ({"tasks": CLICK, "scenario": AGE | {"names": ["a", None]}}, r"scenario: names: 2: None is empty.*quote it"),
        ({"tasks": CLICK, "scenario": AGE | {"names": ["a", False]}}, r"scenario: names: 2: False.*quote it"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {"": [1]}}}, r"scenario: groups: name '' is empty"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {None: [1]}}}, r"groups: name None is empty.*quote it"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {False: [1]}}}, r"groups: name False.*quote it"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {"a": [False]}}}, r"group 'a' lists False.*quote it"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {"a": True}}}, r"group 'a' lists True.*quote it"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {"a": [1]}, "other": ""}}, r"other: '' is empty"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {"a": [1]}, "other": False}}, r"other: False.*quote it"),
        ({"tasks": CLICK, "scenario": AGE | {"names": ["a"]}}, r"names are for bins, one more than edges"),
        ({"tasks": CLICK, "scenario": AGE | {"names": ["a", "a"]}}, r"names are for bins"),
        ({"tasks": CLICK, "scenario": AGE | {"names": "ab"}}, r"names are for bins"),
        ({"tasks": CLICK, "scenario": AGE | {"names": 5}}, r"names are for bins"),
        ({"tasks": CLICK, "scenario": {"field": "tab", "names": ["a"]}}, r"names are for bins"),
        (
            {"tasks": CLICK, "scenario": {"field": "tab", "groups": []}},
            r"scenario: groups must be a mapping of names to lists",
        ),
        ({"tasks": CLICK, "scenario": {"field": "tab", "groups": {"a": []}}}, r"group 'a' must list values"),
        ({"tasks": CLICK, "scenario": {"field": "tab", "groups": {"a": [None]}}}, r"group 'a' lists an empty value"),
        ({"tasks": CLICK, "scenario": {"field": "tab", "groups": {"a": [1], "b": ["1"]}}}, r"value '1'.*'a' and 'b'"),
        ({"tasks": CLICK, "scenario": {"field": "tab", "groups": {1: ["a"], "1": ["b"]}}}, r"two groups.*'1'"),
        ({"tasks": CLICK, "scenario": AGE | {"other": "rest"}}, r"'other' goes with groups"),
        ({"tasks": CLICK, "scenario": {"field": "t", "groups": {"a": [1]}, "other": "a"}}, r"'other' goes with groups"),
        ({"tasks": CLICK, "scenario": AGE | {"keep_field": "no"}}, r"keep_field must be true or false"),
        ({"tasks": CLICK, "scenario": {"field": "scenario", "keep_field": True}}, r"'scenario' is replaced"),
    ],
)
def test_wrong_declarations_are_named(config, told):
    with pytest.raises(InputError, match=told):
        Schema.from_config(config)


# Numbers


def test_numbers_are_labels_as_they_are_and_a_missing_one_is_no_number():
    task = _task(type="number", missing="ignore")
    assert task.labels([1.5, "-2", None, 0]).tolist() == [1.5, -2, -math.inf, 0]
    assert task.missing_label == -math.inf


@pytest.mark.parametrize("transform", ["none", "quantile"])
def test_negative_numbers_are_for_every_transform_but_log1p(transform):
    assert _task(type="number", transform=transform).labels([-3, 2]).tolist() == [-3, 2]
    with pytest.raises(InputError, match=r"task 't': field 'f' must hold numbers >= 0 .* holds -3 in 1 of 2 rows"):
        _task(type="number", transform="log1p").labels([2, -3])


def test_infinite_numbers_are_refused():
    with pytest.raises(InputError, match=r"must hold finite numbers, but holds inf in 1 of 3 rows .* interaction 2"):
        _task(type="number").labels([1.0, np.inf, 3.0])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"type": "number", "at_least": 3}, "at_least and above make a label of 0 and 1"),
        ({"transform": "log1p"}, "transform and loss are for type: number"),
        ({"loss": "mae"}, "transform and loss are for type: number"),
        ({"type": "number", "transform": "sqrt"}, "transform"),
        ({"type": "regression"}, "type"),
    ],
)
def test_what_does_not_go_with_a_type_is_refused(spec, told):
    with pytest.raises(InputError, match=told):
        _task(**spec)


BUY = {"field": "bought", "after": "click"}


def test_a_task_after_another_has_a_conditional():
    schema = _schema(tasks=CLICK | {"buy": BUY})
    assert schema.parents == {"buy": "click"}
    assert schema.conditionals == {"buy|click": ("buy", "click")}
    assert list(schema.predicted_types) == ["click", "buy", "buy|click"]


def test_a_conditional_has_a_label_where_the_task_before_it_has_label_1():
    columns = {"label_click": np.array([0.0, 1, 1, 1, -1]), "label_buy": np.array([1.0, 0, 1, -1, 1])}
    labels = _schema(tasks=CLICK | {"buy": BUY}).labels(["buy", "buy|click"], columns.__getitem__)
    assert labels.T.tolist() == [[1, 0, 1, -1, 1], [-1, 0, 1, -1, -1]]


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ({"buy": BUY}, r"task 'buy': after: there is no task 'click'"),
        (
            CLICK | {"buy": BUY | {"after": "klick"}},
            r"task 'buy': after: there is no task 'klick'; did you mean 'click'",
        ),
        (CLICK | {"buy": BUY | {"after": "buy"}}, r"in a circle \(buy after buy\)"),
        (
            {"a": {"field": "f", "after": "c"}, "b": {"field": "f", "after": "a"}, "c": {"field": "f", "after": "b"}},
            r"in a circle \(a after c after b after a\)",
        ),
        ({"click": {"field": "f", "type": "number"}, "buy": BUY}, r"task 'click' is of type number"),
        ({"click": {"field": "f", "type": "classes"}, "buy": BUY}, r"task 'click' is of type classes"),
        (CLICK | {"buy": BUY | {"type": "number"}}, r"task 'buy': after is for labels of 0 and 1"),
        (CLICK | {"buy": {"field": "f", "strict": True}}, r"task 'buy': strict goes with after"),
        (CLICK | {"buy": BUY | {"strict": "yes"}}, r"task 'buy': strict must be true or false"),
        (CLICK | {"buy": BUY | {"after": ["click"]}}, r"task 'buy': after.*is no name"),
    ],
)
def test_a_wrong_order_of_tasks_is_one_line(tasks, told):
    with pytest.raises(InputError, match=told) as raised:
        _schema(tasks=tasks)
    assert "\n" not in str(raised.value)
