"""Score rows with an exported model: its JSON files and onnxruntime, no torch and no RecBole."""

from __future__ import annotations

import importlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_msr.data.table_rows import bucket_of
from recbole_msr.errors import InputError
from recbole_msr.files.json import read_json

DOCUMENT, VOCABULARY, GRAPH, PROGRAM = "export.json", "vocabulary.json", "model.onnx", "model.pt2"
"""The files of an exported model, GRAPH or PROGRAM. Beside GRAPH stands a file of weights where these are large."""
_BLOCK = 512
"""Rows of a call of onnxruntime: what an operation leaves for the next one stays in the processor's cache."""


class ExportedModel:
    """An exported model, opened.

    Args:
        folder: what `export_run` wrote.
        threads: onnxruntime's threads for a call.

    Attributes:
        folder: where it is.
        document: the content of export.json.
        columns: the names of the scores' columns.
        input_names: the names of the graph's inputs.

    Raises:
        InputError: onnxruntime is not installed, or a file is missing or damaged.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        self.folder = folder = Path(folder)
        try:
            self.document: dict[str, Any] = read_json(folder / DOCUMENT, {"signature": dict, "scenario": dict})
            self._ids: dict[str, dict[str, int]] = read_json(folder / VOCABULARY)
        except OSError as error:
            raise InputError(f"{folder} is no exported model: {error.strerror or error}") from error
        self._run = self._open(folder, threads)
        signature = self.document["signature"]
        self._inputs: list[dict[str, Any]] = signature["inputs"]
        self.input_names: list[str] = [about["name"] for about in self._inputs]
        self.columns: list[str] = [column["name"] for column in signature["outputs"][0]["columns"]]

    def _open(self, folder: Path, threads: int) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        """Return what gives scores (n, C) of the graph's inputs."""
        runtime = optional_package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            session = runtime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own, one class a reason
            raise InputError(f"{folder / GRAPH} cannot be opened: {error}") from error
        return lambda inputs: np.asarray(session.run(None, dict(inputs))[0])

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Return the scores (N, C), float32, of the columns of N rows.

        Args:
            columns: by name, a value a row: text of a token, a list of texts of a token_seq, a number, or None.
        """
        return self.score(self.inputs(columns))

    def score(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the scores (N, C), float32, of the graph's inputs, as `inputs` returns them, N >= 1."""
        size = len(next(iter(inputs.values())))
        blocks = [
            self._run({name: value[start : start + _BLOCK] for name, value in inputs.items()})
            for start in range(0, size, _BLOCK)
        ]
        return np.concatenate(blocks)

    def inputs(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        """Return the graph's inputs by name, of columns as for `predict`; those that are left out are missing."""
        size = len(next(iter(columns.values())))
        return {
            about["name"]: self._input(about, columns.get(about["column"], [None] * size)) for about in self._inputs
        }

    def _input(self, about: Mapping[str, Any], values: Sequence[Any]) -> np.ndarray:
        if about["kind"] == "number":
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        if about["kind"] == "scenario":
            ids = [about["missing"] if value is None else self._scenario(value) for value in values]
            return np.array(ids, dtype=np.int64)
        vocabulary, missing = self._ids[about.get("vocabulary", about["name"])], about["missing"]
        if about["kind"] == "token":
            found = [missing if value is None else _id(about, vocabulary, value) for value in values]
            return np.array(found, dtype=np.int64)
        is_history = about["kind"] == "history"
        length = about["length"] if is_history else about["shape"][1]
        of_none = [] if is_history else [missing] * length
        rows = [
            of_none if tokens is None else [_id(about, vocabulary, token) for token in tokens][:length]
            for tokens in values
        ]
        return _padded(rows, max(1, *map(len, rows)) if is_history else length, about["padding"])

    def _scenario(self, value: Any) -> int:
        rule = self.document["scenario"]
        if rule["rule"] == "bins":
            place = bisect_right(rule["edges"], float(value))
            return int(rule["ids"][place]) if "ids" in rule else place + 1
        return int(rule["ids"].get(value, rule["other"]))


def _padded(rows: Sequence[Sequence[int]], length: int, padding: int) -> np.ndarray:
    """Return ids (N, length) of rows that have so many at most."""
    table = np.full((len(rows), length), padding, dtype=np.int64)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = ids
    return table


def _id(about: Mapping[str, Any], vocabulary: Mapping[str, int], token: str) -> int:
    """Return the id of a token; of one that is not in the vocabulary that of its bucket, or the unknown one."""
    known = vocabulary.get(token)
    if known is not None:
        return known
    rule = about.get("hash")
    return int(about["unknown"]) if rule is None else rule["first_id"] + bucket_of(token, rule["buckets"])


def optional_package(name: str) -> Any:
    """Import a package of the extra `export`.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"exporting needs {name}: pip install 'recbole-msr[export]'") from error
