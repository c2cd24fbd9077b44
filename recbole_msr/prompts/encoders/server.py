"""An OpenAI-compatible server (vLLM, text-embeddings-inference, llama.cpp and the like) by URL."""

from __future__ import annotations

import http.client
import json
import logging
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import Encoder

KEY_VARIABLE = "RECBOLE_MSR_API_KEY"
_CHARACTERS_A_TOKEN = 3  # a cautious guess: the server keeps its tokenizer to itself

logger = logging.getLogger(__name__)
_Reply = TypeVar("_Reply")


class ServerEncoder(Encoder):
    """The embeddings endpoint of an OpenAI-compatible server.

    Mode `prompt` embeds the prompt; mode `generate` lets the chat endpoint answer it and embeds the answer.
    What fails for a while (no connection, no answer in time, status 408, 409, 429 or 5xx) is asked again, after 0.5,
    1, 2, ... seconds or when the server says. The environment variable RECBOLE_MSR_API_KEY is sent as the key.

    Args:
        url: up to the version: http://host:8000/v1.
        server_model: the name of the model for embeddings.
        chat_model: the name of the model for answers; `server_model` if not given.
        mode: "prompt" or "generate".
        max_new_tokens: the longest answer.
        size: H, where it is to be checked; else the first answer tells it.
        window: the longest prompt in tokens; as the server does not tell its tokenizer, three characters are counted
            as one token.
        timeout: seconds to wait for an answer.
        retries: how often a request is repeated.
        parallel: how many answers are asked for at a time, in mode `generate`.
    """

    def __init__(
        self,
        url: str,
        *,
        server_model: str = "",
        chat_model: str | None = None,
        mode: str = "prompt",
        max_new_tokens: int = 128,
        size: int | None = None,
        window: int | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        parallel: int = 4,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"a server's URL begins with http:// or https://, got '{url}'")
        if not server_model:
            raise InputError(f"which model of {url}? Name it: --server_model=NAME")
        if mode not in ("prompt", "generate"):
            raise InputError(f"mode must be one of prompt, generate, got '{mode}'")
        for what, value, least in (("timeout", timeout, 0.001), ("retries", retries, 0), ("parallel", parallel, 1)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < least:
                raise InputError(f"{what} must be a number from {least:g}, got {value!r}")
        self.writes = mode == "generate"
        self._url, self._model, self._chat, self._mode = url.rstrip("/"), server_model, chat_model or server_model, mode
        self._new, self._size, self._timeout, self._retries = max_new_tokens, size, float(timeout), int(retries)
        self._parallel = int(parallel)
        self._window = window
        answer = f" chat={self._chat} max_new_tokens={max_new_tokens}" if mode == "generate" else ""
        self.identity = f"server {self._url} model={server_model} mode={mode}{answer}"

    @property
    def window(self) -> int | None:
        """The longest text it reads, in tokens; None for no limit."""
        return self._window

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return the lengths of texts in tokens (N,)."""
        return np.array([math.ceil(len(text) / _CHARACTERS_A_TOKEN) for text in texts], dtype=np.int64)

    def encode_with_answers(self, texts: Sequence[str]) -> tuple[np.ndarray, list[str] | None]:
        """Return vectors (N, H), float32, and the texts that the model wrote, or None."""
        answers = None
        if self._mode == "generate":
            with ThreadPoolExecutor(self._parallel) as pool:
                answers = list(pool.map(self._answer, texts))
        body = {"model": self._model, "input": list(answers or texts)}
        return self._ask("embeddings", body, lambda reply: self._vectors(reply, len(texts))), answers

    def _vectors(self, reply: Any, count: int) -> np.ndarray:
        try:
            entries = sorted(reply["data"], key=lambda entry: entry["index"])
            vectors = [np.asarray(entry["embedding"], dtype=np.float32) for entry in entries]
        except (KeyError, TypeError, ValueError) as error:
            raise _WrongAnswer(f"something else than embeddings: {_short(reply)}") from error
        if len(vectors) != count:
            raise _WrongAnswer(f"{len(vectors)} vectors for {count} texts")
        size = self._size or len(vectors[0])
        for vector in vectors:
            if vector.shape != (size,):
                raise _WrongAnswer(
                    f"a vector of size {vector.size} where {size} is expected (all must have the same size)"
                )
        self._size = size
        return np.stack(vectors)

    def _answer(self, prompt: str) -> str:
        body = {
            "model": self._chat,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._new,
            "temperature": 0,
        }
        return self._ask("chat/completions", body, _message)

    def _ask(self, endpoint: str, body: dict[str, Any], read: Callable[[Any], _Reply]) -> _Reply:
        """Send a request, again where that can help, and return the server's reply as `read` reads it."""
        request = urllib.request.Request(
            f"{self._url}/{endpoint}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        if os.environ.get(KEY_VARIABLE):
            request.add_unredirected_header("Authorization", f"Bearer {os.environ[KEY_VARIABLE]}")
        for attempt in range(self._retries + 1):
            wait = min(0.5 * 2**attempt, 60.0)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as response:
                    return read(json.loads(response.read()))
            except _WrongAnswer as error:
                problem = str(error)
            except urllib.error.HTTPError as error:
                problem = f"status {error.code}: {_short(error.read().decode(errors='replace'))}"
                if error.code not in (408, 409, 429) and error.code < 500:
                    raise InputError(f"{self._url}/{endpoint} refuses the request with {problem}") from error
                asked = error.headers.get("Retry-After", "")
                wait = min(float(asked), 300.0) if asked.isdigit() else wait
            except TimeoutError:
                problem = f"no answer within {self._timeout:g} seconds"
            except json.JSONDecodeError:
                problem = "the answer is not JSON"
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                reason = getattr(error, "reason", error)
                timed_out = isinstance(reason, TimeoutError)
                problem = f"no answer within {self._timeout:g} seconds" if timed_out else f"no connection ({reason})"
            if attempt < self._retries:
                logger.warning("%s/%s: %s; asked again in %g s", self._url, endpoint, problem, wait)
                time.sleep(wait)
        raise InputError(f"{self._url}/{endpoint} failed {self._retries + 1} times, the last time with {problem}")


class _WrongAnswer(Exception):
    """The server answered, but not what it should."""


def _message(reply: Any) -> str:
    try:
        text: str = reply["choices"][0]["message"]["content"].strip()
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _WrongAnswer(f"something else than a message: {_short(reply)}") from error
    if not text:
        raise _WrongAnswer("an empty message")
    return text


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:200] + "..."
