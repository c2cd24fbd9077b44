"""Serve a finished run or an ensemble over HTTP: scores of rows, lists of items, the rows' fields as OpenAPI.

The server reads nothing but JSON of the fields that it names; bodies and batches are bounded. It takes the extra
`serve` (FastAPI and uvicorn).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from pydantic import ConfigDict, Field, create_model
from recbole.utils import FeatureSource, FeatureType
from typing_extensions import NotRequired, TypedDict

from recbole_msr.errors import InputError
from recbole_msr.files.row_files import Batch, row_place
from recbole_msr.runs.open_folder import load
from recbole_msr.runs.recommend import Recommender, first_run, recommend_with
from recbole_msr.runs.row_columns import arrow_column
from recbole_msr.runs.row_encoder import RowCounts
from recbole_msr.schema import SCENARIO_FIELD
from recbole_msr.threads import share, torch_threads
from recbole_msr.version import __version__

MOST_ROWS = 10_000
"""Rows of a request, unless told otherwise."""
MOST_BYTES = 16 << 20
"""Bytes of a request's body."""
MOST_ITEMS = 1_000
"""Length of a list, and of a list of candidates ten times that."""
_BATCH = 8192
"""Rows that the model scores at a time."""
_RECOMMENDERS = 16
"""Recommenders that are kept: their items are encoded already."""

Value = str | int | float | bool | None


class Server:
    """What a server answers from: an opened run, one request at a time.

    Args:
        run_dir: the folder of a run or of an ensemble.
        most_rows: rows of a request at most.

    Attributes:
        app: the ASGI application.

    Raises:
        InputError: the run cannot be opened, or FastAPI is not installed.
    """

    def __init__(self, run_dir: str | Path, most_rows: int = MOST_ROWS) -> None:
        if most_rows < 1:
            raise InputError(f"--max-rows must be at least 1, got {most_rows}")
        self._run, self._most_rows = load(run_dir), most_rows
        self._first = first_run(self._run)
        self._lock = threading.Lock()  # a model takes all threads of the process for a request
        self._recommenders: OrderedDict[tuple[Any, ...], Recommender] = OrderedDict()
        self._scorer = self._run.scorer  # a run that cannot score is refused now
        self._names = self._scorer.names
        self._threads = min(torch.get_num_threads(), share())  # read once: a limit of cores is in files
        self.app = self._application()

    def _application(self) -> Any:
        try:
            from fastapi import FastAPI, Request
            from fastapi.responses import JSONResponse
        except ImportError as error:
            raise InputError(f"serve takes FastAPI and uvicorn ({error}): pip install 'recbole-msr[serve]'") from error
        app = FastAPI(title="recbole-msr", version=__version__, docs_url=None, redoc_url=None)
        row, context = row_types(self._first.dataset)
        rows, contexts = list[row], list[context]  # type: ignore[valid-type]
        score_request = create_model(
            "ScoreRequest", __config__=_STRICT, rows=(rows, Field(min_length=1, max_length=self._most_rows))
        )
        recommend_request = create_model(
            "RecommendRequest",
            __config__=_STRICT,
            users=(contexts, Field(min_length=1, max_length=self._most_rows)),
            k=(int, Field(10, ge=1, le=MOST_ITEMS)),
            score=(str | None, Field(None, max_length=200, description="a formula such as click * buy")),
            scenario=(str | None, Field(None, max_length=200)),
            candidates=(list[str] | None, Field(None, min_length=1, max_length=10 * MOST_ITEMS)),
        )

        @app.middleware("http")
        async def bound(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
            length = request.headers.get("content-length")
            if length is None and request.method == "POST":
                return JSONResponse({"detail": "the request needs a Content-Length"}, status_code=411)
            if length is not None and (not length.isdigit() or int(length) > MOST_BYTES):
                return JSONResponse({"detail": f"a body has {MOST_BYTES} bytes at most"}, status_code=413)
            return await call_next(request)

        @app.exception_handler(InputError)
        async def refuse(request: Request, error: InputError) -> Any:
            return JSONResponse({"detail": str(error)}, status_code=422)

        @app.get("/health")
        def health() -> dict[str, Any]:
            return {"status": "ok", "run": str(self._run.folder), "tasks": list(self._run.tasks)}

        def score(request: Any) -> dict[str, Any]:
            return self.score(request.rows)

        def recommend(request: Any) -> dict[str, Any]:
            given = request.model_dump(exclude={"users"})
            lists: dict[str, Any] = self.recommend(request.users, **given)
            return lists

        score.__annotations__["request"] = score_request
        recommend.__annotations__["request"] = recommend_request
        app.post("/score")(score)
        app.post("/recommend")(recommend)
        return app

    def score(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the predictions of rows, and the rows that lack something, by field."""
        columns = {name: arrow_column(values) for name, values in _columns(rows).items()}
        batch = Batch(pa.RecordBatch.from_pydict(columns), row_place(0))
        counts = RowCounts.zero()
        with self._lock, torch_threads(self._threads), torch.no_grad():
            scores = self._scorer.score_batch(batch, "the request", _BATCH, counts)
        return {
            "scores": [dict(zip(self._names, row, strict=True)) for row in scores.tolist()],
            "unknown": dict(counts.unknown),
            "missing": dict(counts.missing),
        }

    def recommend(self, users: list[dict[str, Any]], candidates: list[str] | None = None, **options: Any) -> Any:
        """Return a list of items for each of the users' rows; options are those of `Recommender`."""
        key = (*sorted((name, str(value)) for name, value in options.items()),)
        with self._lock:
            recommender = self._recommenders.get(key) if candidates is None else None
            if recommender is None:
                recommender = Recommender(self._run, candidates=candidates, **options)
                if candidates is None:
                    self._recommenders[key] = recommender
                    while len(self._recommenders) > _RECOMMENDERS:
                        self._recommenders.popitem(last=False)
            frame = pd.DataFrame(_columns(users), dtype=object)
            frame["_row"] = range(len(frame))
            found = recommend_with(recommender, frame)
        names = [recommender.item_field, "score", *self._names]
        lists: list[list[dict[str, Any]]] = [[] for _ in users]
        for row, values in zip(found["_row"], found[names].to_dict("records"), strict=True):
            lists[row].append(values)
        return {"lists": lists, "unknown_candidates": recommender.unknown_candidates}


_STRICT = ConfigDict(extra="forbid")


def row_types(dataset: Any) -> tuple[Any, Any]:
    """Return the types of a row to score, and of a row of the context of a list: without the item's fields.

    They are dictionaries with a type for each key: an object for each row would take longer to make than the scores.

    Args:
        dataset: the run's vocabularies.
    """
    schema = dataset.schema
    unread = {*schema.label_fields, *schema.weight_fields.values(), SCENARIO_FIELD}
    of_row: dict[str, Any] = {}
    of_context: dict[str, Any] = {}
    for field, source in dataset.field2source.items():
        if field in unread:
            continue
        kind = dataset.field2type[field]
        value: Any = list[Value] | str | None if kind == FeatureType.TOKEN_SEQ else Value
        if kind == FeatureType.FLOAT:
            value = float | None
        needed = field in (dataset.uid_field, dataset.iid_field)
        entry: Any = str | int if needed else NotRequired[value]
        of_row[field] = entry
        if source not in (FeatureSource.ITEM, FeatureSource.ITEM_ID):
            of_context[field] = entry
    scenario = schema.scenario.field
    if scenario is not None and scenario not in of_row:
        of_row[scenario] = of_context[scenario] = NotRequired[Value]
    row = TypedDict("Row", of_row)  # type: ignore[misc]
    context = TypedDict("Context", of_context)  # type: ignore[misc]
    for kind in (row, context):
        kind.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]
    return row, context


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of rows by field, None where a row has none; a field that no row has is left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def serve(run_dir: str | Path, host: str = "127.0.0.1", port: int = 8000, most_rows: int = MOST_ROWS) -> None:
    """Serve until the process is told to stop (Ctrl-C, SIGTERM): requests under way are finished first.

    Args:
        run_dir: the folder of a run or of an ensemble.
        host: the address to listen at; by default this machine alone.
        port: the port.
        most_rows: rows of a request at most.

    Raises:
        InputError: the run cannot be opened, or the extra is not installed.
    """
    server = Server(run_dir, most_rows)
    import uvicorn

    print(
        f"Serving {run_dir} at http://{host}:{port} (POST /score, /recommend; GET /health, /openapi.json)", flush=True
    )
    uvicorn.run(server.app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)
