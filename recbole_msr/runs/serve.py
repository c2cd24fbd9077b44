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
from pydantic import BaseModel, ConfigDict, Field, create_model
from recbole.utils import FeatureSource, FeatureType

from recbole_msr.errors import InputError
from recbole_msr.runs.open_folder import load
from recbole_msr.runs.recommend import Recommender, first_run, recommend_with
from recbole_msr.schema import SCENARIO_FIELD
from recbole_msr.version import __version__

MOST_ROWS = 10_000
"""Rows of a request, unless told otherwise."""
MOST_BYTES = 16 << 20
"""Bytes of a request's body."""
MOST_ITEMS = 1_000
"""Length of a list, and of a list of candidates ten times that."""
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
        self.app = self._application()

    def _application(self) -> Any:
        try:
            from fastapi import FastAPI, Request
            from fastapi.responses import JSONResponse
        except ImportError as error:
            raise InputError(f"serve takes FastAPI and uvicorn ({error}): pip install 'recbole-msr[serve]'") from error
        app = FastAPI(title="recbole-msr", version=__version__, docs_url=None, redoc_url=None)
        row, context = row_models(self._first.dataset)
        rows = list[row]  # type: ignore[valid-type]
        contexts = list[context]  # type: ignore[valid-type]
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
            return self.score([one.model_dump(exclude_none=True) for one in request.rows])

        def recommend(request: Any) -> dict[str, Any]:
            given = request.model_dump(exclude={"users"})
            users = [one.model_dump(exclude_none=True) for one in request.users]
            lists: dict[str, Any] = self.recommend(users, **given)
            return lists

        score.__annotations__["request"] = score_request
        recommend.__annotations__["request"] = recommend_request
        app.post("/score")(score)
        app.post("/recommend")(recommend)
        return app

    def score(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the predictions of rows, and the rows that lack something, by field."""
        with self._lock:
            scored = self._scorer.score(_frame(rows))
        return {
            # As pandas' records, which take as long as the model.
            "scores": [dict(zip(self._scorer.names, row, strict=True)) for row in scored.scores.to_numpy().tolist()],
            "unknown": scored.unknown,
            "missing": scored.missing,
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
            frame = _frame(users)
            frame["_row"] = range(len(frame))
            found = recommend_with(recommender, frame)
        names = [recommender.item_field, "score", *self._scorer.names]
        lists: list[list[dict[str, Any]]] = [[] for _ in users]
        for row, values in zip(found["_row"], found[names].to_dict("records"), strict=True):
            lists[row].append(values)
        return {"lists": lists, "unknown_candidates": recommender.unknown_candidates}


_STRICT = ConfigDict(extra="forbid")


def row_models(dataset: Any) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the models of a row to score, and of a row of the context of a list: without the item's fields.

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
        entry = (str | int, ...) if needed else (value, None)
        of_row[field] = entry
        if source not in (FeatureSource.ITEM, FeatureSource.ITEM_ID):
            of_context[field] = entry
    scenario = schema.scenario.field
    if scenario is not None and scenario not in of_row:
        of_row[scenario] = of_context[scenario] = (Value, None)
    row = create_model("Row", __config__=_STRICT, **of_row)
    context = create_model("Context", __config__=_STRICT, **of_context)
    return row, context


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a table; a field that no row has is no column."""
    return pd.DataFrame(rows, dtype=object)


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
