# ruff: noqa: E501  a case is a line
"""What scenarios and tasks may be declared as."""

from __future__ import annotations

import math
import random
from typing import Any

from tests.fuzz.case import EITHER, REFUSED, RUN, RUNS, Case, Family, as_yaml
from tests.fuzz.families.settings import VALUES, _instead

BAD_SCENARIOS: list[Any] = [
    5, True, [], {}, "", " ", "nothing", {"field": None}, {"field": ""}, {"field": 5}, {"field": []}, {"field": "nothing"},
    {"field": {"field": "country"}}, {"bins": [1]}, {"field": "age", "bins": []}, {"field": "age", "bins": 20},
    {"field": "age", "bins": [True]}, {"field": "age", "bins": [20, 20]}, {"field": "age", "bins": [21, 20]},
    {"field": "age", "bins": ["20"]}, {"field": "age", "bins": [None]}, {"field": "age", "bins": [math.nan]},
    {"field": "age", "bins": [math.inf]}, {"field": "age", "bins": [[20]]}, {"field": "age", "bins": {"a": 20}},
    {"field": "age", "bins": [20], "names": ["a"]}, {"field": "age", "bins": [20], "names": ["a", "a"]},
    {"field": "age", "bins": [20], "names": ["a", None]}, {"field": "age", "bins": [20], "names": ["a", ""]},
    {"field": "age", "bins": [20], "names": ["a", " "]}, {"field": "age", "bins": [20], "names": "ab"},
    {"field": "age", "bins": [20], "names": ["a", ["b"]]},
    {"field": "age", "bins": [20], "names": ["a", "A\n"]}, {"field": "age", "names": ["a"]}, {"field": "country", "bins": [20]},
    {"field": "country", "groups": {}}, {"field": "country", "groups": []}, {"field": "country", "groups": {"a": []}},
    {"field": "country", "groups": {"a": None}}, {"field": "country", "groups": {"a": {"b": 1}}},
    {"field": "country", "groups": {"": ["FR", "DE"]}}, {"field": "country", "groups": {None: ["FR", "DE"]}},
    {"field": "country", "groups": {" ": ["FR", "DE"]}}, {"field": "country", "groups": {"a": ["FR", "FR"], "b": ["DE"]}},
    {"field": "country", "groups": {"a": ["FR"], "b": ["FR", "DE"]}}, {"field": "country", "groups": {"a": ["FR"]}},
    {"field": "country", "groups": {"a": [None], "b": ["FR", "DE"]}}, {"field": "country", "groups": {"a": [["FR"]], "b": ["DE"]}},
    {"field": "country", "groups": {"a": ["FR"]}, "other": "a"}, {"field": "country", "groups": {"a": ["FR"]}, "other": ""},
    {"field": "country", "groups": {"a": ["FR"]}, "other": " "}, {"field": "country", "groups": {"a": ["FR"]}, "other": []},
    {"field": "country", "groups": {"a": ["FR"]}, "other": {}}, {"field": "country", "other": "a"},
    {"field": "country", "groups": {"a": ["FR", "DE"]}, "bins": [1]}, {"field": "country", "keep_field": "x"},
    {"field": "country", "keep_field": 1}, {"field": "country", "nonsense": 1}, {"field": "country", "Bins": [1]},
    {"field": "title"}, {"field": "user_id", "bins": [1]}, {"field": "clicked", "groups": {"a": ["x"]}},
]  # fmt: skip
GOOD_SCENARIOS: list[Any] = [
    "country", {"field": "country"}, {"field": "age", "bins": [20]}, {"field": "age", "bins": [19, 21], "names": ["x", "y", "z"]},
    {"field": "country", "groups": {"west": ["FR"]}, "other": "rest"}, {"field": "country", "groups": {"a": "FR", "b": "DE"}},
    {"field": "country", "keep_field": True}, {"field": "age"}, None,
]  # fmt: skip
BAD_TASKS: list[Any] = [
    5, True, [], {}, "clicked", ["clicked"], {"click": 5}, {"click": None}, {"click": []}, {"click": {}}, {"click": ""},
    {"": {"field": "clicked"}}, {None: {"field": "clicked"}}, {" ": {"field": "clicked"}}, {"a b": {"field": "clicked"}},
    {"a/b": {"field": "clicked"}}, {"macro": {"field": "clicked"}}, {"worst": {"field": "clicked"}},
    {"auc": {"field": "clicked"}}, {"gauc": {"field": "clicked"}}, {"logloss": {"field": "clicked"}}, {"all": {"field": "clicked"}},
    {"AUC": {"field": "clicked"}},
    {"click": {"field": None}}, {"click": {"field": ""}}, {"click": {"field": 5}}, {"click": {"field": []}},
    {"click": {"field": "nothing"}}, {"click": {"field": "user_id"}}, {"click": {"field": "country"}}, {"click": {"field": "age"}},
    {"click": {"field": "timestamp"}}, {"click": {"field": "clicked", "at_least": "x"}}, {"click": {"field": "clicked", "above": []}},
    {"click": {"field": "clicked", "at_least": True}}, {"click": {"field": "clicked", "at_least": math.nan}},
    {"click": {"field": "clicked", "at_least": 1, "above": 1}}, {"click": {"field": "clicked", "at_least": 5}},
    {"click": {"field": "clicked", "above": -5}}, {"click": {"field": "clicked", "missing": "x"}},
    {"click": {"field": "clicked", "missing": None}}, {"click": {"field": "clicked", "missing": True}},
    {"click": {"field": "clicked", "nonsense": 1}}, {"click": {"at_least": 1}},
]  # fmt: skip
GOOD_TASKS: list[Any] = [
    {"click": "clicked"}, {"buy": {"field": "bought"}, "click": {"field": "clicked"}}, {"a-b_1": {"field": "clicked", "at_least": 1}},
    {"click": {"field": "clicked", "missing": "ignore"}}, {"a": {"field": "clicked"}, "b": {"field": "clicked", "above": 0}},
]  # fmt: skip
OTHERS = [
    ("main_task", value, REFUSED) for value in ("nothing", 5, "", " ", [], {}, True, "CLICK", "click ", ["click"])
] + [("only_scenario", value, REFUSED) for value in ("nothing", 5, "", " ", [], {}, True, "fr", "all", ["FR"])]


def listed() -> list[Case]:
    """Declarations that are refused, and some that run."""
    found = []
    for key, values, right in (
        *(("scenario", BAD_SCENARIOS, REFUSED), ("scenario", GOOD_SCENARIOS, RUNS)),
        *(("tasks", BAD_TASKS, REFUSED), ("tasks", GOOD_TASKS, RUNS)),
    ):
        found += [_case(key, value, right) for value in values]
    return found + [_case(key, value, right) for key, value, right in OTHERS]


def _case(key: str, value: Any, right: frozenset[str]) -> Case:
    line = f"{key}: {as_yaml(value)}"
    names = ("scenario", "task", "group", "field", "class") if right is REFUSED else ()
    return Case(line[:120], RUN, right, (), _instead(key, line + "\n"), names=names)


def draw(draw: random.Random) -> Case:
    """A declaration with one of its values replaced."""
    key = draw.choice(("scenario", "tasks"))
    value = draw.choice(GOOD_SCENARIOS if key == "scenario" else GOOD_TASKS)

    def replaced(part: Any) -> Any:
        if draw.random() < 0.3:
            return draw.choice(list(VALUES.values()))
        if isinstance(part, dict):
            return {
                (draw.choice(list(VALUES.values())[:25]) if draw.random() < 0.1 else k): replaced(v)
                for k, v in part.items()
            }
        return [replaced(one) for one in part] if isinstance(part, list) else part

    return _case(key, replaced(value), EITHER)


FAMILY = Family("declarations", listed, draw)
