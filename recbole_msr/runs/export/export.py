"""Export a finished run as ONNX, with all that scoring a row takes."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from recbole_msr.errors import InputError
from recbole_msr.files.digest import file_digest
from recbole_msr.files.outputs import EXPORT, check_folder, check_paths, writing
from recbole_msr.layers.manual_backward import plain_operations
from recbole_msr.runs.ensemble import SavedEnsemble
from recbole_msr.runs.export.check import check_export
from recbole_msr.runs.export.document import describe, vocabularies
from recbole_msr.runs.export.embeddings import KINDS
from recbole_msr.runs.export.ensemble_graph import EnsembleGraph, check_one_vocabulary, shared_inputs
from recbole_msr.runs.export.exported_model import DOCUMENT, GRAPH, PROGRAM, VOCABULARY, optional_package
from recbole_msr.runs.export.fields import Field, exportable_model, model_fields
from recbole_msr.runs.export.graph import ExportGraph
from recbole_msr.runs.export.onnx_graph import onnx_model
from recbole_msr.runs.open_folder import load
from recbole_msr.threads import torch_threads

_LARGEST_FILE = 1 << 30
"""Bytes of weights that are kept in the graph's own file, which cannot hold more than 2 GB."""


FORMATS = {"onnx": GRAPH, "torch": PROGRAM}
"""What a graph may be written as, and its file."""


@torch_threads()
@torch.no_grad()
def export_run(
    run_dir: str | Path,
    out: str | Path,
    check: bool = True,
    knowledge_dir: str | Path | None = None,
    embeddings: str = "float32",
    format: str = "onnx",
) -> list[str]:
    """Write a run's model as ONNX, its vocabularies, and a description of inputs and outputs as JSON.

    The files are model.onnx (or model.pt2), vocabulary.json and export.json. With `check`, it must give the scores of
    `SavedRun.predict`, or nothing is written; with embeddings of fewer bits, those of the model with these embeddings,
    and what is lost is told.

    Args:
        run_dir: the folder of a run with a model of this package, or of an ensemble of such runs.
        out: the folder to write; an earlier export in it is written over.
        check: compare the scores.
        knowledge_dir: where the run's knowledge is now, if it has moved.
        embeddings: the numbers of the embedding tables: float32, float16, or int8 with a scale for each vector.
        format: onnx, or torch for a program of `torch.export`.

    Returns:
        Lines that say what was written and what the check has found.

    Raises:
        InputError: the run cannot be exported, with the reason; the check fails; a file cannot be written.
    """
    for key, value, words in (("--embeddings", embeddings, KINDS), ("--format", format, FORMATS)):
        if value not in words:
            raise InputError(f"{key} must be one of {', '.join(words)}, got '{value}'")
    check_paths({"knowledge_dir": knowledge_dir}, run=run_dir, out=out)
    for package in ("onnx", "onnxscript", *(["onnxruntime"] if check else [])) if format == "onnx" else ():
        optional_package(package)
    out = Path(out)
    check_folder(out, EXPORT, "--out")
    run = load(run_dir, knowledge_dir)
    members = run.members
    models = [exportable_model(member) for member in members]
    fields = [
        model_fields(member.recbole_config, member.dataset, model)
        for member, model in zip(members, models, strict=True)
    ]
    every = shared_inputs(fields)
    document = describe(
        " + ".join(dict.fromkeys(type(model).__name__ for model in models)),
        [model.predicted for model in models], members[0].dataset, every, run.scorer.columns,
    )  # fmt: skip
    if isinstance(run, SavedEnsemble):
        check_one_vocabulary(run, fields)
        document["members"] = len(members)
    document["embeddings"] = embeddings
    graphs = [
        ExportGraph(model, member.dataset, own, member.calibration, embeddings)
        for member, model, own in zip(members, models, fields, strict=True)
    ]
    graph = EnsembleGraph(graphs, run.scorer.member_mean) if isinstance(run, SavedEnsemble) else graphs[0]
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as made:
            written = Path(made)
            _write_graph(graph, document["model"], written / FORMATS[format], check)
            _write_json(written / VOCABULARY, vocabularies(members[0].dataset, every))
            if format == "onnx":
                document["opset"] = _opset(written / GRAPH)
            document["sha256"] = {path.name: file_digest(path) for path in sorted(written.iterdir())}
            _write_json(written / DOCUMENT, document)
            if check:
                document["check"] = check_export(run, written, every, embeddings)
                _write_json(written / DOCUMENT, document)
            out.mkdir(exist_ok=True)
            # The description goes first and comes last: without it a folder is no exported model, so that none has
            # files of two exports.
            (out / DOCUMENT).unlink(missing_ok=True)
            for stale in (*FORMATS.values(), _weights_of(GRAPH)):  # of an earlier export in the other format, or larger
                if not (written / stale).exists():
                    (out / stale).unlink(missing_ok=True)
            for path in sorted(written.iterdir(), key=lambda path: path.name == DOCUMENT):
                os.replace(path, out / path.name)
    return [f"{out}: {model_line(document)}", *check_lines(document.get("check"))]


def _write_graph(graph: ExportGraph | EnsembleGraph, name: str, path: Path, is_checked: bool) -> None:
    """Write a graph as ONNX, or as a program of PyTorch; its first dimension is dynamic."""
    n_bytes = sum(tensor.nbytes for tensor in graph.state_dict().values())
    examples = tuple(_example(field) for field in graph.inputs)
    try:
        with plain_operations(), quiet():
            program = torch.export.export(graph, examples, dynamic_shapes=(_dynamic(graph.inputs),), strict=False)
            if path.name == PROGRAM:
                torch.export.save(program, path)
                return
            is_large = n_bytes > _LARGEST_FILE
            model = onnx_model(program, [field.name for field in graph.inputs], is_checked and not is_large)
            weights = _weights_of(path.name) if is_large else None
            optional_package("onnx_ir").save(model, path, external_data=weights)
    except OSError:
        raise
    except Exception as error:  # the exporter's own, of many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{name} cannot be exported: PyTorch says: {reason[0]}") from error


def _weights_of(graph: str) -> str:
    """Return the name of the file of weights beside a graph's."""
    return f"{graph}.data"


def _dynamic(fields: Sequence[Field]) -> tuple[dict[int, Any], ...]:
    """Return each input's dynamic dimensions: the rows, and the positions of histories."""
    batch, positions, found = torch.export.Dim("batch"), torch.export.Dim("history"), []
    for number, field in enumerate(fields):
        found.append({0: batch})
        if field.kind == "history":
            found[-1][1] = positions if field.rows is not None else torch.export.Dim(f"length_{number}")
    return tuple(found)


def _example(field: Field) -> torch.Tensor:
    """Return an input of 5 rows; a number that is neither 0 nor 1, which an export takes for a constant."""
    if field.kind == "history":
        return torch.zeros((5, 3), dtype=torch.int64)
    if field.kind == "number":
        return torch.ones(5, dtype=torch.float64)
    return torch.zeros((5, field.length) if field.kind == "token_seq" else (5,), dtype=torch.int64)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own workings from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _opset(path: Path) -> int:
    version: int = optional_package("onnx").load(path, load_external_data=False).opset_import[0].version
    return version


def model_line(document: dict[str, Any]) -> str:
    """Say in a line what an export reads and gives."""
    inputs, (output,) = document["signature"]["inputs"], document["signature"]["outputs"]
    given = ", ".join(column["name"] for column in output["columns"])
    of = f"ensemble of {document['members']} ({document['model']})" if "members" in document else document["model"]
    form = f"ONNX opset {document['opset']}" if "opset" in document else "torch.export"
    small = "" if document["embeddings"] == "float32" else f", embeddings in {document['embeddings']}"
    return f"{of}, {form}{small}; {len(inputs)} inputs, scores of {given}"


def check_lines(check: dict[str, Any] | None) -> list[str]:
    """Say what the check has found."""
    if check is None:
        return ["not checked (--no-check)"]
    lines = [
        f"{check[name]['rows']} {words}: its scores differ from {check['compared_with']} by at most "
        f"{check[name]['largest_difference']:.1e}"
        for name, words in (("test_rows", "test rows"), ("drawn_rows", "rows drawn from the vocabularies"))
        if name in check
    ]
    for task, of_task in check.get("lost", {}).items():
        lines.append(
            f"{task}: {of_task['metric']} of the test rows {of_task['before']:.5f}, {of_task['after']:.5f} with these "
            "embeddings"
        )
    if "test_rows_left_out" in check:
        lines.append(f"test rows were not compared: {check['test_rows_left_out']}")
    return lines
