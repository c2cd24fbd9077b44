"""Serve a finished run or an ensemble over HTTP: scores of rows, lists of items, the rows' fields as OpenAPI.

The server reads nothing but JSON of the fields that it names; bodies and batches are bounded. It takes the extra
`serve` (FastAPI, uvicorn and orjson).
"""

from __future__ import annotations

import asyncio
import gc
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field, create_model

from recbole_msr.errors import InputError
from recbole_msr.files.row_files import Batch
from recbole_msr.runs.export.graph_scorer import GraphScorer
from recbole_msr.runs.open_folder import load
from recbole_msr.runs.recommend import Recommender, first_run, recommend_with
from recbole_msr.runs.row_counts import RowCounts
from recbole_msr.runs.turns import Turns
from recbole_msr.threads import share, torch_threads
from recbole_msr.version import __version__

MOST_ROWS = 10_000
"""Rows of a request, unless told otherwise."""
MOST_BYTES = 16 << 20
"""Bytes of a request's body."""
MOST_ITEMS = 1_000
"""Length of a list, and of a list of candidates ten times that."""
MOST_LISTED = 1_000_000
"""Items of all lists of a request."""
_HISTORY = 10
"""Rows of histories of a request, as a multiple of `most_rows`."""
_BATCH = 8192
"""Rows that the model scores at a time."""
_RECOMMENDERS = 16
"""Recommenders that are kept: their items are encoded already."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
"""What an ASGI application is given."""


class Server:
    """What a server answers from: an opened run.

    The model computes one thing at a time. Requests for scores that wait are computed together.

    Args:
        run_dir: the folder of a run or of an ensemble.
        most_rows: rows of a request at most.
        exported: folder of the run's exported model, by which rows are scored; None for PyTorch.

    Attributes:
        app: the ASGI application.

    Raises:
        InputError: the run cannot be opened, the export is not its own, or FastAPI is not installed.
    """

    def __init__(self, run_dir: str | Path, most_rows: int = MOST_ROWS, exported: str | Path | None = None) -> None:
        if most_rows < 1:
            raise InputError(f"--max-rows must be at least 1, got {most_rows}")
        self._run, self._most_rows = load(run_dir), most_rows
        self._first = first_run(self._run)
        self._turns = Turns()  # a model takes all threads of the process for a request
        self._recommenders: OrderedDict[tuple[Any, ...], Recommender] = OrderedDict()
        self._threads = min(torch.get_num_threads(), share())  # read once: a limit of cores is in files
        self._scorer: Any = self._run.scorer  # a run that cannot score is refused now
        self._names = self._scorer.names
        if exported is not None:
            self._scorer = GraphScorer(self._run, exported, self._threads)
        self.app = self._application()

    def _application(self) -> Any:
        try:
            import orjson
            from fastapi import FastAPI, Request, Response

            from recbole_msr.runs.request_rows import STRICT, RowColumns, RowReader, Value, row_types
            from recbole_msr.runs.score_queue import Answer, ScoreQueue, batch_of, scores_json
        except ImportError as error:
            raise InputError(
                f"serve takes FastAPI, uvicorn and orjson ({error}): pip install 'recbole-msr[serve]'"
            ) from error
        app = FastAPI(title="recbole-msr", version=__version__, docs_url=None, redoc_url=None)
        queue = ScoreQueue(self._score)
        # Of each kind one request computes, and the others wait without a thread.
        of_histories, of_lists = ThreadPoolExecutor(1, "histories"), ThreadPoolExecutor(1, "lists")
        row, context = row_types(self._first.dataset)
        rows, contexts = list[row], list[context]  # type: ignore[valid-type]
        most = _HISTORY * self._most_rows
        histories: Any = (
            list[dict[str, Value]] | None,
            Field(None, min_length=1, max_length=most, description="what users have done, a row an event"),
        )
        score_request = create_model(
            "ScoreRequest",
            __config__=STRICT,
            rows=(rows, Field(min_length=1, max_length=self._most_rows)),
            histories=histories,
        )
        recommend_request = create_model(
            "RecommendRequest",
            __config__=STRICT,
            users=(contexts, Field(min_length=1, max_length=self._most_rows)),
            k=(int, Field(10, ge=1, le=MOST_ITEMS)),
            score=(str | None, Field(None, max_length=200, description="a formula such as click * buy")),
            scenario=(str | None, Field(None, max_length=200)),
            candidates=(list[str] | None, Field(None, min_length=1, max_length=10 * MOST_ITEMS)),
            histories=histories,
        )

        @app.exception_handler(InputError)
        async def refuse(request: Request, error: InputError) -> Any:
            return Response(*_refusal(422, str(error)), media_type="application/json")

        @app.get("/health")
        async def health() -> dict[str, Any]:
            return {"status": "ok", "run": str(self._run.folder), "tasks": list(self._run.tasks)}

        async def scores(rows: RowColumns) -> bytes:
            return scores_json(await queue.answer(rows), self._names)

        def with_histories(rows: RowColumns, histories: list[dict[str, Any]]) -> bytes:
            batch, counts = batch_of(rows), RowCounts()
            found, told = self._score_with(batch, histories, counts)
            return scores_json(Answer(found, counts), self._names, {"histories": told})

        async def score(request: Any) -> Any:
            rows = RowColumns.of_rows(request.rows)
            if request.histories is None:
                found = await scores(rows)
            else:  # their users have these profiles in this request alone
                found = await asyncio.get_running_loop().run_in_executor(
                    of_histories, with_histories, rows, request.histories
                )
            return Response(found, media_type="application/json")

        def lists(request: Any) -> bytes:
            return orjson.dumps(self.recommend(request.users, **request.model_dump(exclude={"users"})))

        async def recommend(request: Any) -> Any:
            found = await asyncio.get_running_loop().run_in_executor(of_lists, lists, request)
            return Response(found, media_type="application/json")

        score.__annotations__["request"] = score_request
        recommend.__annotations__["request"] = recommend_request
        app.post("/score", response_model=dict[str, Any])(score)
        app.post("/recommend", response_model=dict[str, Any])(recommend)
        return ScoreRoute(app, RowReader(self._first.dataset, self._most_rows).read, scores)

    def _score(self, batch: Batch, counts: RowCounts) -> np.ndarray:
        """Return the scores (N, C) of a batch of N rows."""
        with self._turns, torch_threads(self._threads), torch.no_grad():
            scores: np.ndarray = self._scorer.score_batch(batch, "the request", _BATCH, counts)
        return scores

    def _score_with(
        self, batch: Batch, histories: list[dict[str, Any]], counts: RowCounts
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Return the scores (N, C) of rows whose users have histories, by PyTorch; and what became of the histories."""
        with self._turns, torch_threads(self._threads), torch.no_grad():
            scorer = self._run.scorer.with_histories(self._history_frame(histories))
            scores = scorer.score_batch(batch, "the request", _BATCH, counts)
        told = scorer.histories
        assert told is not None
        return scores, _history_counts(told.counts, counts)

    def _history_frame(self, histories: list[dict[str, Any]]) -> pd.DataFrame:
        """Return the rows of histories as a table.

        Raises:
            InputError: the run reads no profiles of users, or a row has a field that no profile is made of.
        """
        columns = self._run.scorer.history_reader.columns
        strange = next((name for row in histories for name in row if name not in columns), None)
        if strange is not None:
            raise InputError(f"histories: there is no field '{strange}'; a row has {', '.join(columns)}")
        return pd.DataFrame(_columns(histories), dtype=object)

    def recommend(
        self,
        users: list[dict[str, Any]],
        candidates: list[str] | None = None,
        histories: list[dict[str, Any]] | None = None,
        **options: Any,
    ) -> Any:
        """Return a list of items for each of the users' rows; options are those of `Recommender`."""
        k = options.get("k", 10)
        if len(users) * k > MOST_LISTED:
            raise InputError(
                f"k: {len(users)} lists of {k} are more than {MOST_LISTED} items: ask for fewer users a request"
            )
        key = (*sorted((name, str(value)) for name, value in options.items()),)
        with self._turns:
            recommender = self._recommenders.get(key) if candidates is None else None
            if recommender is None:
                recommender = Recommender(self._run, candidates=candidates, **options)
                if candidates is None:
                    self._recommenders[key] = recommender
                    while len(self._recommenders) > _RECOMMENDERS:
                        self._recommenders.popitem(last=False)
            frame = pd.DataFrame(_columns(users), dtype=object)
            frame["_row"] = range(len(frame))
            if histories is not None:
                recommender = recommender.with_histories(self._history_frame(histories))
        found = recommend_with(recommender, frame, self._turns)  # requests for scores have theirs between the parts
        names = [recommender.item_field, "score", *self._names]
        lists: list[list[dict[str, Any]]] = [[] for _ in users]
        for row, values in zip(found["_row"], found[names].to_dict("records"), strict=True):
            lists[row].append(values)
        answer = {"lists": lists, "unknown_candidates": recommender.unknown_candidates}
        told = recommender.history_counts
        return answer if told is None else answer | {"histories": _history_counts(told, recommender.counts)}


class ScoreRoute:
    """An ASGI application that bounds bodies, answers plain requests for scores itself, and leaves all else to FastAPI.

    FastAPI takes as long for a request of 200 rows as the model. What it would refuse, or convert, it still gets.

    Args:
        app: FastAPI's application.
        read: returns the rows of a body, None where they are to be looked at by FastAPI.
        scores: returns the answer to rows as JSON.
    """

    def __init__(
        self,
        app: Callable[[Any, Receive, Send], Awaitable[None]],
        read: Callable[[bytes], Any],
        scores: Callable[[Any], Awaitable[bytes]],
    ) -> None:
        self._app, self._read, self._scores = app, read, scores

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request, or hand on what is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length")
        if length is None and scope["method"] == "POST":
            await _respond(send, *_refusal(411, "the request needs a Content-Length"))
        elif length is not None and (not length.isdigit() or int(length) > MOST_BYTES):
            await _respond(send, *_refusal(413, f"a body has {MOST_BYTES} bytes at most"))
        elif scope["path"] != "/score" or scope["method"] != "POST" or headers.get(b"content-type") != _JSON:
            await self._app(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        messages = [await receive()]
        while messages[-1]["type"] == "http.request" and messages[-1].get("more_body"):
            messages.append(await receive())
        rows = None
        if messages[-1]["type"] == "http.request":
            rows = self._read(b"".join(message.get("body", b"") for message in messages))
        if rows is not None:
            try:
                await _respond(send, await self._scores(rows))
            except InputError as error:
                await _respond(send, *_refusal(422, str(error)))
            return
        messages.reverse()

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, again, send)


_JSON = b"application/json"


def _history_counts(histories: Any, counts: RowCounts) -> dict[str, int]:
    """Return what became of the rows of histories, and how many rows have a profile of theirs."""
    told: dict[str, int] = histories._asdict() | {"with_history": counts.with_history}
    return told


def _refusal(status: int, detail: str) -> tuple[bytes, int]:
    """Return the body and the status of an answer to a request that is not right."""
    import orjson

    return orjson.dumps({"detail": detail}), status


async def _respond(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", _JSON), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of rows by field, None where a row has none; a field that no row has is left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def serve(
    run_dir: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    most_rows: int = MOST_ROWS,
    exported: str | Path | None = None,
) -> None:
    """Serve until the process is told to stop (Ctrl-C, SIGTERM): requests under way are finished first.

    Args:
        run_dir: the folder of a run or of an ensemble.
        host: the address to listen at; by default this machine alone.
        port: the port.
        most_rows: rows of a request at most.
        exported: folder of the run's exported model, by which rows are scored; None for PyTorch.

    Raises:
        InputError: the run cannot be opened, the export is not its own, or the extra is not installed.
    """
    server = Server(run_dir, most_rows, exported)
    import uvicorn

    gc.collect()
    gc.freeze()  # the model and the vocabularies stay: no collection walks through them while requests wait
    print(
        f"Serving {run_dir} at http://{host}:{port} (POST /score, /recommend; GET /health, /openapi.json)", flush=True
    )
    uvicorn.run(server.app, host=host, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=30)
