"""Settings that a pydantic model refuses are reported in one line, in this package's words."""

import math
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator, model_validator

from recbole_msr.errors import InputError
from recbole_msr.validation import Settings, validate
from recbole_msr.value_kinds import number, whole


class Stopping(Settings):
    patience: int = 3
    delta: Annotated[float, number(0)] = 0.0


class Search(Settings):
    name: str
    trials: Annotated[int, whole(1)] = 100
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    direction: Literal["minimize", "maximize"] = "maximize"
    edges: Annotated[tuple[float, ...], Field(strict=False)] = ()
    stopping: Stopping | None = None
    stages: dict[str, Stopping] = Field(default_factory=dict)
    verbose: bool = False

    @field_validator("name")
    @classmethod
    def _not_empty(cls, name: str) -> str:
        if not name:
            raise ValueError("'' is empty")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> "Search":
        if self.direction == "minimize" and self.edges:
            raise ValueError("give edges or minimize, not both")
        return self


def test_values_of_the_right_kind_are_read_and_defaults_filled_in():
    search = validate(Search, {"name": "s", "trials": 5.0, "edges": [1, 2.5], "stopping": {"patience": 1}}, "search")
    assert search == Search(name="s", trials=5, edges=(1.0, 2.5), stopping=Stopping(patience=1))
    assert (search.trials, search.stopping.delta, search.direction) == (5, 0.0, "maximize")


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Search(name="s").trials = 5


KEYS = "name, trials, share, direction, edges, stopping, stages, verbose"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "file:3 must be a mapping such as {name: s}, got 3"),
        ({"trails": 1}, f"file:3: unknown key 'trails'; did you mean 'trials'? Known keys: {KEYS}."),
        ({"name": "s", 7: 1}, f"file:3: unknown key '7'. Known keys: {KEYS}."),
        ({"trials": 0}, "file:3 needs a name, e.g. {name: s}"),
        ({"name": "s", "trials": 0}, "file:3: trials must be a whole number of at least 1, got 0"),
        ({"name": "s", "share": 0}, "file:3: share must be above 0, got 0"),
        ({"name": "s", "share": 2}, "file:3: share must be at most 1, got 2"),
        ({"name": "s", "share": "1"}, "file:3: share must be a number, got '1'"),
        ({"name": "s", "share": True}, "file:3: share must be a number, got True"),
        ({"name": "s", "share": math.inf}, "file:3: share must be a finite number, got inf"),
        ({"name": "s", "share": math.nan}, "file:3: share must be a finite number, got nan"),
        ({"name": "s", "direction": "up"}, "file:3: direction must be 'minimize' or 'maximize', got 'up'"),
        ({"name": "s", "edges": 1}, "file:3: edges must be a list, got 1"),
        ({"name": "s", "edges": [1, "2"]}, "file:3: edges: 2 must be a number, got '2'"),
        ({"name": "s", "verbose": 1}, "file:3: verbose must be true or false, got 1"),
        ({"name": 1}, "file:3: name must be text, got 1"),
        ({"name": ""}, "file:3: name: '' is empty"),
        ({"name": "s", "stopping": 1}, "file:3: stopping must be a mapping, got 1"),
        ({"name": "s", "stopping": {"patience": 1.5}}, "file:3: stopping: patience must be a whole number, got 1.5"),
        ({"name": "s", "stopping": {"delta": -1}}, "file:3: stopping: delta must be a number of at least 0, got -1"),
        (
            {"name": "s", "stopping": {"patince": 1}},
            "file:3: stopping: unknown key 'patince'; did you mean 'patience'? Known keys: patience, delta.",
        ),
        (
            {"name": "s", "stages": {"first": {"dleta": 1}}},
            "file:3: stages: first: unknown key 'dleta'; did you mean 'delta'? Known keys: patience, delta.",
        ),
        ({"name": "s", "stages": {3: {}}}, "file:3: stages: a key must be text, got 3"),
        ({"name": "s", "direction": "minimize", "edges": [1]}, "file:3: give edges or minimize, not both"),
    ],
)
def test_a_wrong_value_is_reported_with_its_place_and_what_is_right(values, message):
    with pytest.raises(InputError) as error:
        validate(Search, values, "file:3", example="{name: s}")
    assert str(error.value) == message


def test_a_long_value_is_cut():
    with pytest.raises(InputError) as error:
        validate(Search, {"name": "s", "trials": "x" * 10_000}, "search")
    assert len(str(error.value)) < 300


def test_keys_may_be_named_as_options_of_a_command():
    with pytest.raises(InputError, match=r"^--trials must be a whole number of at least 1, got 0$"):
        validate(Search, {"name": "s", "trials": 0}, key_format="--{}".format)


def test_a_field_that_the_caller_sets_is_no_key_of_the_user():
    assert validate(Search, {"trials": 3}, "search", preset={"name": "s"}).name == "s"
    with pytest.raises(InputError, match=r"unknown key 'name'\. Known keys: trials, "):
        validate(Search, {"name": "t"}, "search", preset={"name": "s"})
