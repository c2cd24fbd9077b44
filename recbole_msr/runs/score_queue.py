"""Requests that wait are scored together: one pass of the model for all that came while it computed the last one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from recbole_msr.files.row_files import Batch, row_place
from recbole_msr.runs.request_rows import ColumnTypes, RowColumns
from recbole_msr.runs.row_columns import arrow_column
from recbole_msr.runs.row_counts import PartCounts, RowCounts

_BATCH = 8192
"""Rows of requests that are taken together, unless one has more."""
_TEXT = ColumnTypes(frozenset({str}))
_TURNS = 3
"""Turns of the event loop that a request takes from its socket to the queue."""


class Answer(NamedTuple):
    """What a request for scores is answered.

    Attributes:
        scores: (n, C), float32.
        counts: its rows that lack something.
    """

    scores: np.ndarray
    counts: RowCounts


class ScoreQueue:
    """Answers requests for scores in the order in which they come, those that wait together.

    No request waits for others to come: those that arrive while others are computed, or read and answered, are taken
    together. Each gets what it would get alone; a request with an error gets its error, and no other does.

    Args:
        score: returns the scores (N, C) of a batch of N rows, and counts those that lack something.
    """

    def __init__(self, score: Callable[[Batch, RowCounts], np.ndarray]) -> None:
        self._score = score
        self._waiting: deque[tuple[RowColumns, asyncio.Future[Answer]]] = deque()
        self._is_busy = False
        self._thread = ThreadPoolExecutor(1, "scores")

    async def answer(self, rows: RowColumns) -> Answer:
        """Return the scores of a request's rows.

        Raises:
            InputError: a row cannot be scored; it is named.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((rows, future))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._gather, loop)
        return await future

    def _gather(self, loop: asyncio.AbstractEventLoop, turns: int = 0, waiting: int = 0) -> None:
        """Compute what waits as soon as no request is on its way through the event loop."""
        if len(self._waiting) > waiting:
            turns = 0
        if turns < _TURNS and sum(rows.size for rows, _ in self._waiting) < _BATCH:
            loop.call_soon(self._gather, loop, turns + 1, len(self._waiting))
        else:
            self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute what waits, in the thread of the model."""
        taken: list[tuple[RowColumns, asyncio.Future[Answer]]] = []
        size = 0
        while self._waiting and (not taken or size + self._waiting[0][0].size <= _BATCH):
            rows, future = self._waiting.popleft()
            if not future.done():  # the client has gone
                taken.append((rows, future))
                size += rows.size
        if not taken:
            self._is_busy = False
            return
        computed = loop.run_in_executor(self._thread, self.score_parts, [rows for rows, _ in taken])
        computed.add_done_callback(lambda done: self._finish(loop, [future for _, future in taken], done))

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        futures: Sequence[asyncio.Future[Answer]],
        computed: asyncio.Future[list[Answer | Exception]],
    ) -> None:
        error = computed.exception()
        answers = [error] * len(futures) if error is not None else computed.result()
        for future, answer in zip(futures, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Answer):
                future.set_result(answer)
            else:
                future.set_exception(answer)
        self._gather(loop)

    def score_parts(self, parts: Sequence[RowColumns]) -> list[Answer | Exception]:
        """Return the answer to each of several requests, or its error."""
        groups: dict[Any, list[int]] = {}
        for place, part in enumerate(parts):
            groups.setdefault(part.types, []).append(place)
        answers: dict[int, Answer | Exception] = {}
        for places in groups.values():
            answers |= zip(places, self._score_group([parts[place] for place in places]), strict=True)
        return [answers[place] for place in range(len(parts))]

    def _score_group(self, parts: Sequence[RowColumns]) -> Sequence[Answer | Exception]:
        """Return the answers to requests whose rows have the same fields and types of values."""
        rows, counts = RowColumns.join(parts), PartCounts([part.size for part in parts])
        try:
            scores = self._score(batch_of(rows), counts)
        except Exception as error:
            if len(parts) == 1:
                return [error]
            return [self._score_group([part])[0] for part in parts]  # the others are answered as if they were alone
        ends = np.cumsum([part.size for part in parts])[:-1]
        return [Answer(*one) for one in zip(np.split(scores, ends), counts.parts, strict=True)]


def batch_of(rows: RowColumns) -> Batch:
    """Return the rows of a request as those of a file."""
    columns = {name: arrow_column(values) for name, values in rows.columns.items()}
    texts = {name: rows.columns[name] for name, types in rows.types if types == _TEXT}
    return Batch(pa.RecordBatch.from_pydict(columns), row_place(0), texts)


def scores_json(answer: Answer, names: Sequence[str], more: Mapping[str, Any] | None = None) -> bytes:
    """Return an answer as JSON: an object for each row, whose keys are the names (C,) of the columns; and `more`.

    Numbers have the digits that tell a float32 from its neighbours; one that is not finite is null.
    """
    numbers = orjson.dumps(np.ascontiguousarray(answer.scores).ravel(), option=orjson.OPT_SERIALIZE_NUMPY)
    values = numbers[1:-1].split(b",")
    keys = [b"," + orjson.dumps(name) + b":" for name in names]
    keys[0] = b"},{" + keys[0][1:]
    pieces = [b""] * (2 * len(values))
    pieces[::2], pieces[1::2] = keys * len(answer.scores), values
    counts = {"unknown": dict(answer.counts.unknown), "missing": dict(answer.counts.missing)}
    rest = orjson.dumps(counts | dict(more or {}))
    return b'{"scores":[' + b"".join(pieces)[2:] + b"}]," + rest[1:]
