"""One scenario of those that are declared, alone (`only_scenario`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from recbole_msr.errors import InputError, nearest
from recbole_msr.schema import UNKNOWN_SCENARIO, Scenario, Schema, as_token


def only_scenario(config: Any, names: Sequence[str]) -> str | None:
    """Return the scenario's name that `only_scenario` gives, which YAML may have made a number; None without.

    Args:
        config: the configuration.
        names: names of all scenarios.

    Raises:
        InputError: there is no scenario of that name.
    """
    configured = config["only_scenario"]
    if configured is None:
        return None
    name = str(as_token(configured))
    if name not in names:
        hint = nearest(name, names) or "."
        raise InputError(f"only_scenario: there is no scenario '{name}'{hint} The scenarios are: {', '.join(names)}.")
    return name


def alone(schema: Schema, name: str) -> Schema:
    """Return the schema with the named scenario alone, whose id is 1."""
    return replace(schema, scenario=_OneScenario.model_construct(**vars(schema.scenario), name=name))


class _OneScenario(Scenario):
    """One scenario of a declaration, with id 1; every value that the declaration gives to another is unknown."""

    name: str = ""

    def fixed_names(self) -> list[str]:
        return [self.name]

    def assign(self, values: Any, names: Any) -> np.ndarray:
        every = super().fixed_names() or [self.name]
        ids = super().assign(values, every)
        return np.where(ids == every.index(self.name) + 1, 1, UNKNOWN_SCENARIO)
