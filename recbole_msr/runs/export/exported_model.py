"""Score rows with an exported model: its JSON files and onnxruntime, no torch and no RecBole."""

from __future__ import annotations

import importlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_msr.data.table_rows import bucket_of
from recbole_msr.errors import InputError
from recbole_msr.files.json import read_json

DOCUMENT, VOCABULARY, GRAPH = "export.json", "vocabulary.json", "model.onnx"
"""The files of an exported model. Weights beyond 2 GB stand in a file beside the graph, which it names."""


class ExportedModel:
    """An exported model, opened.

    Args:
        folder: what `export_run` wrote.
        threads: onnxruntime's threads for a call.

    Attributes:
        document: the content of export.json.
        columns: the names of the scores' columns.

    Raises:
        InputError: onnxruntime is not installed, or a file is missing or damaged.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        folder = Path(folder)
        runtime = optional_package("onnxruntime")
        try:
            self.document: dict[str, Any] = read_json(folder / DOCUMENT, {"signature": dict, "scenario": dict})
            self._ids: dict[str, dict[str, int]] = read_json(folder / VOCABULARY)
        except OSError as error:
            raise InputError(f"{folder} is no exported model: {error.strerror or error}") from error
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own, one class a reason
            raise InputError(f"{folder / GRAPH} cannot be opened: {error}") from error
        signature = self.document["signature"]
        self._inputs: list[dict[str, Any]] = signature["inputs"]
        self.columns: list[str] = [column["name"] for column in signature["outputs"][0]["columns"]]

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Return the scores (N, C), float32, of the columns of N rows.

        Args:
            columns: by name, a value a row: text of a token, a list of texts of a token_seq, a number, or None.
        """
        scores: np.ndarray = self._session.run(None, self.inputs(columns))[0]
        return scores

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
        vocabulary, missing = self._ids[about["name"]], about["missing"]
        if about["kind"] == "token":
            found = [missing if value is None else _id(about, vocabulary, value) for value in values]
            return np.array(found, dtype=np.int64)
        length = about["shape"][1]
        table = np.full((len(values), length), about["padding"], dtype=np.int64)
        for row, tokens in zip(table, values, strict=True):
            if tokens is None:
                row[:] = missing
                continue
            known = [_id(about, vocabulary, token) for token in tokens][:length]
            row[: len(known)] = known
        return table

    def _scenario(self, value: Any) -> int:
        rule = self.document["scenario"]
        if rule["rule"] == "bins":
            return bisect_right(rule["edges"], float(value)) + 1
        return int(rule["ids"].get(value, rule["other"]))


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
