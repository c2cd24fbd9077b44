"""What an exported model reads and gives, as JSON: enough to score a row with no program of this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recbole_msr.data.dataset import ScenarioDataset
from recbole_msr.evaluation.layout import CLASS_TYPES, Layout
from recbole_msr.runs.export.fields import MISSING_ID, Field
from recbole_msr.schema import UNKNOWN_SCENARIO, Scenario
from recbole_msr.version import __version__

FORMAT = 1
"""Number of the format of export.json; it grows when a reader must be changed."""
HASHED_FORMAT = 2
"""The same where a field is hashed, which a reader of the first does not know."""
HISTORY_FORMAT = 3
"""The same where there is a history."""
BINS_FORMAT = 4
"""The same where bins have ids of their own: a run with `only_scenario` knows one of them."""
OUTPUT = "scores"
"""The name of the graph's output."""


def describe(
    name: str, layouts: Sequence[Layout], dataset: ScenarioDataset, fields: list[Field], columns: dict[str, list[str]]
) -> dict[str, Any]:
    """Return the content of export.json, but for the files and the check.

    Args:
        name: of the model.
        layouts: what it predicts; of an ensemble, what each member does.
        dataset: the run's vocabularies and tables.
        fields: what the model reads.
        columns: of each task and conditional, the names of its columns of the scores.
    """
    scenario = _scenario(dataset.schema.scenario, list(dataset.scenario_names))
    return {
        "format": BINS_FORMAT if scenario.get("rule") == "bins" and "ids" in scenario else _format(fields),
        "made_by": {"recbole-msr": __version__, "torch": str(torch.__version__)},
        "model": name,
        "signature": {
            "inputs": [_input(field, dataset) for field in fields if field.is_given],
            "outputs": [
                {"name": OUTPUT, "dtype": "float32", "shape": ["batch", sum(map(len, columns.values()))],
                 "columns": _columns(layouts, columns)}
            ],
        },
        "scenario": scenario,
        "main_task": dataset.schema.main_task,
    }  # fmt: skip


def _format(fields: list[Field]) -> int:
    if any(field.kind == "history" for field in fields):
        return HISTORY_FORMAT
    return HASHED_FORMAT if any(field.buckets for field in fields) else FORMAT


def vocabularies(dataset: ScenarioDataset, fields: list[Field]) -> dict[str, dict[str, int]]:
    """Return the content of vocabulary.json: field -> token -> id, from 1; 0 is every other token."""
    named = dict.fromkeys(field.vocabulary for field in fields if field.vocabulary)
    return {name: {str(t): i for i, t in enumerate(np.asarray(dataset.field2id_token[name])) if i} for name in named}


def _input(field: Field, dataset: ScenarioDataset) -> dict[str, Any]:
    is_number = field.kind == "number"
    described: dict[str, Any] = {
        "name": field.name,
        "kind": field.kind,
        "column": field.column,
        "dtype": "float64" if is_number else "int64",
        "shape": ["batch", *_positions(field)],
        "missing": "NaN" if is_number else field.padding if field.kind == "history" else MISSING_ID,
        "missing_means": _missing(field),
    }
    if field.buckets is not None:
        described["hash"] = {
            "function": "blake2b",
            "bytes": 8,
            "byte_order": "little",
            "buckets": field.buckets,
            "first_id": len(dataset.field2id_token[field.vocabulary]),
        }
    elif not is_number:
        described["unknown"] = 0
    if field.kind in ("token_seq", "history"):
        described["padding"] = field.padding
    if field.kind == "history":
        described |= {"vocabulary": field.vocabulary, "length": field.length, "means": _history(field)}
    if field.scale is not None:
        described["mean"] = field.scale["mean"]
    return described


def _positions(field: Field) -> list[Any]:
    """Return the dimensions behind the batch."""
    if field.kind == "history":
        return ["history" if field.rows is not None else f"{field.name}_length"]
    return [field.length] if field.kind == "token_seq" else []


def _history(field: Field) -> str:
    """Say what the positions of a history are."""
    if field.rows is None:
        return f"the first {field.length} tokens of the column, which the model has no others of"
    of = f" with the label 1 of {field.rows.of}" if field.rows.of else ""
    where = " in the row's scenario" if field.rows.scenario == "own" else ""
    return f"the last {field.length} earlier rows{of} of the user{where}, in any order, -1 behind them"


def _missing(field: Field) -> str:
    """Say what stands for a missing value."""
    if field.table is not None:
        return f"the value of the table in the graph, by {field.key}"
    return {
        "number": "the mean of the training data",
        "token_seq": "no token",
        "scenario": "an unknown scenario",
        "token": "unknown",
        "history": "no history",
    }[field.kind]


def _columns(layouts: Sequence[Layout], columns: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Describe every column of the output, in order."""
    described = []
    for task, names in columns.items():
        layout = next(layout for layout in layouts if task in layout.types)
        kind = layout.types[task]
        classes = list(layout.classes[task]) if kind in CLASS_TYPES else []
        for place, name in enumerate(names):
            about: dict[str, Any] = {"name": name, "task": task, "type": kind, "meaning": _meaning(task, kind)}
            if place < len(classes):
                about |= {"class": classes[place], "meaning": "probability of the class"}
            described.append(about)
    return described


def _meaning(task: str, kind: str) -> str:
    """Say what a column of a task is that is none of a class."""
    if kind == "number":
        return "the number, in the field's unit"
    if kind == "ordered":
        return "expected value of the classes"
    return "probability of the label 1" if "|" not in task else "probability of the first, given the second"


def _scenario(declared: Scenario, names: list[str]) -> dict[str, Any]:
    """Return how a row's scenario follows from a column, and the id of each."""
    ids = {name: number for number, name in enumerate(names, start=1)}
    described: dict[str, Any] = {
        "names": ids,
        "unknown": UNKNOWN_SCENARIO,
        "unknown_means": "the mean of all scenarios, weighted by their shares of the training rows",
        "column": declared.field,
    }
    if declared.field is None:
        return described | {"rule": "none"}
    if declared.bins is not None:
        described |= {"rule": "bins", "edges": list(declared.bins)}
        of_bins = declared.assign(bin_values(declared.bins), names).tolist()
        return described if of_bins == list(ids.values()) else described | {"ids": of_bins}
    if declared.groups is None:
        return described | {"rule": "values", "ids": ids, "other": UNKNOWN_SCENARIO}
    tokens = [token for listed in declared.groups.values() for token in listed]
    unlisted = "".join(tokens) + "-"  # longer than each of them
    *of_tokens, other = declared.assign([*tokens, unlisted], names).tolist()
    return described | {"rule": "values", "ids": dict(zip(tokens, of_tokens, strict=True)), "other": other}


def bin_values(edges: Sequence[float]) -> list[float]:
    """Return a number of each bin, in their order."""
    return [edges[0] - 1, *edges]
