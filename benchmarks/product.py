"""What a trained model costs in use: exported, in a file of rows, and behind HTTP.

    python -m benchmarks --parts export predict serve

Each figure stands beside one of the same process: PyTorch's own time for the same rows, or that of an evaluation.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clients import WARM_UP

CLIENTS, CANDIDATES, REQUESTS = 16, 200, 60
"""Of the server: clients at once, rows of a request, requests of each client."""
_TRAINED: dict[str, Any] = {
    **{"epochs": 1, "threads": 1, "use_gpu": False, "show_progress": False, "state": "ERROR"},
    "lightning": {"limit_train_batches": 5},
}


def _run(model: str, folder: str, **settings: Any) -> Path:
    """Train a model on ml-100k for a few steps: how long it takes does not depend on what it has learnt."""
    import recbole_msr

    given = _TRAINED | settings | {"output_dir": str(Path(folder).resolve())}
    return recbole_msr.run(model, settings.get("dataset", "ml-100k"), config=given).folder


def export(model: str = "HiNet", rows: int = 4096, times: int = 15) -> dict[str, Any]:
    """Return seconds of scoring rows by onnxruntime and by PyTorch, one thread each, in turn.

    Both do the same: from ids to scores, fields of users and items by their tables. PyTorch has the layers as they
    predict, not a traced graph.
    """
    import torch

    import recbole_msr
    from recbole_msr.runs.export.check import drawn_rows
    from recbole_msr.runs.export.export import export_run
    from recbole_msr.runs.export.exported_model import ExportedModel
    from recbole_msr.runs.export.fields import model_fields
    from recbole_msr.runs.export.graph import ExportGraph

    run: Any = recbole_msr.load(_run(model, "run"))
    export_run(run.folder, "exported", check=False)
    exported = ExportedModel("exported", threads=1)
    fields = model_fields(run.recbole_config, run.dataset, run.model)
    drawn = drawn_rows(run.dataset, fields, rows=rows)
    inputs = exported.inputs({str(name): drawn[name].tolist() for name in drawn})
    for name, value in inputs.items():  # known values: rows of unknown scenarios are scored once for each scenario
        if value.dtype == np.int64:
            inputs[name] = np.maximum(value, 1)
    graph = ExportGraph(run.model, run.dataset, fields, None).eval()
    tensors = [torch.from_numpy(inputs[field.name]) for field in graph.inputs]

    def by_pytorch() -> np.ndarray:
        with torch.inference_mode():
            scores: np.ndarray = graph(*tensors).numpy()
        return scores

    ways: dict[str, Callable[[], np.ndarray]] = {"onnxruntime": lambda: exported.score(inputs), "PyTorch": by_pytorch}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores = {name: way() for name, way in ways.items()}
    for _ in range(times):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    medians = {name: statistics.median(of_way) for name, of_way in seconds.items()}
    difference = float(np.abs(scores["onnxruntime"] - scores["PyTorch"]).max())
    return {"model": model, "rows": rows, **medians, "largest_difference": difference}


def predict(data_path: str, rows: int = 2_000_000) -> dict[str, Any]:
    """Return rows a second of DeepFM over a Parquet file (opening the run included), and of an evaluation."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from recbole.data import create_dataset

    import recbole_msr
    from benchmarks import synthetic
    from benchmarks.measure import peak_gb
    from recbole_msr.config.build import build_config
    from recbole_msr.runs.predict import predict_file
    from recbole_msr.training.trainer import LightningTrainer

    settings = synthetic.SETTINGS | _TRAINED | {"data_path": data_path, "trainer": "lightning"}
    folder = recbole_msr.run("DeepFM", synthetic.NAME, config=settings | {"output_dir": "deepfm"}).folder
    columns = synthetic.draw(rows=rows, ids=20_000, seed=7)
    pq.write_table(pa.table({name: columns[name] for name in columns if name not in synthetic.TASKS}), "rows.parquet")
    before = peak_gb()
    config = build_config("DeepFM", synthetic.NAME, settings | {"checkpoint_dir": os.getcwd()})
    train = create_dataset(config).build()[0]
    opened: Any = recbole_msr.load(folder)
    trainer = LightningTrainer(config, opened.model)
    ways: dict[str, tuple[int, Callable[[], Any]]] = {
        "predict": (rows, lambda: predict_file(folder, "rows.parquet", "scored.parquet")),
        "evaluation": (len(train), lambda: trainer.evaluate(train, load_best_model=False)),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):  # in turn
        for name, (_, way) in ways.items():
            began = time.process_time()
            way()
            spent[name].append(time.process_time() - began)
    speeds = {name: count / min(spent[name]) for name, (count, _) in ways.items()}
    return {"rows": rows, "evaluated rows": len(train), **speeds, "GB before": before, "GB at most": peak_gb()}


def serve(model: str = "SharedBottom", rounds: int = 5) -> dict[str, Any]:
    """Return milliseconds of requests by clients at once over loopback, and of the bare forward pass of one.

    One server scores by PyTorch and one by the exported model. The clients are a process of their own. All are measured
    in turn, several times; the medians of the rounds count.
    """
    import torch

    import recbole_msr
    from recbole_msr.runs.export.export import export_run

    folder = _run(model, "run")
    run: Any = recbole_msr.load(folder)
    export_run(folder, "exported")
    bodies = json.dumps(_bodies(run.dataset))
    bare: list[float] = []
    found: dict[str, list[dict[str, float]]] = {"PyTorch": [], "onnxruntime": []}
    with _server(folder) as by_pytorch, _server(folder, "--exported=exported") as by_onnxruntime:
        ports = {"PyTorch": by_pytorch, "onnxruntime": by_onnxruntime}
        for _ in range(rounds):
            bare.append(_bare_milliseconds(run, torch))
            for way, port in ports.items():
                found[way].append(_ask(port, bodies))
    medians = {
        way: {name: statistics.median(one[name] for one in of_way) for name in of_way[0]}
        for way, of_way in found.items()
    }
    return {"model": model, "bare_ms": statistics.median(bare), **medians}


@contextmanager
def _server(folder: Path, *options: str) -> Iterator[int]:
    """Start a server with one thread, and yield its port when it takes connections."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "recbole_msr", "serve", "--run", str(folder), "--port", str(port), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.wait()


def _ask(port: int, bodies: str) -> dict[str, float]:
    """Let all clients send their requests, and return what these took."""
    clients = [sys.executable, "-m", "benchmarks.clients", str(port), str(CLIENTS)]
    asked = subprocess.run(clients, input=bodies, stdout=subprocess.PIPE, text=True, check=True)
    waits = json.loads(asked.stdout)
    return {
        "median_ms": statistics.median(waits["milliseconds"]),
        "p99_ms": float(np.percentile(waits["milliseconds"], 99)),
        "requests_per_second": len(waits["milliseconds"]) / waits["seconds"],
    }


def _wait_for(port: int, server: subprocess.Popen[str]) -> None:
    """Wait until a server takes connections."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError(f"the server has ended with exit code {server.returncode}") from None
            time.sleep(0.1)


def _bare_milliseconds(run: Any, torch: Any) -> float:
    """Return the median milliseconds of the model for the rows of one request, already encoded."""
    from recbole.data.interaction import Interaction

    tables = {
        field: table[field]
        for table in (run.dataset.user_feat, run.dataset.item_feat)
        if table is not None
        for field in table.columns
    }
    places = torch.randint(1, 900, (CANDIDATES,))
    batch = Interaction({field: column[places] for field, column in tables.items()})
    spent = []
    with torch.inference_mode():
        for _ in range(200):
            began = time.perf_counter()
            run.model.predict_tasks(batch)
            spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)


def _bodies(dataset: Any) -> list[str]:
    """Return the bodies of all requests: a user and drawn candidates each."""
    users, items = (dataset.field2id_token[field][1:].tolist() for field in (dataset.uid_field, dataset.iid_field))
    draw, bodies = np.random.default_rng(0), []
    for _ in range(CLIENTS * (REQUESTS + WARM_UP)):
        user = users[draw.integers(len(users))]
        candidates = draw.choice(items, CANDIDATES, replace=False).tolist()
        bodies.append(json.dumps({"rows": [{dataset.uid_field: user, dataset.iid_field: one} for one in candidates]}))
    return bodies
