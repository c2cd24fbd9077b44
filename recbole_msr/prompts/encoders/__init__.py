"""Encoders: texts in, one vector each out, behind one small protocol.

minilm            all-MiniLM-L6-v2 as packaged for pip: needs no download (extra "minilm")
hf:PATH_OR_NAME   a Hugging Face causal language model (extra "llm")
st:PATH_OR_NAME   a sentence-transformers model (extra "minilm")
server:URL        an OpenAI-compatible server
random            vectors that know nothing, as the control
"""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_msr.errors import InputError, nearest

_KINDS = {
    "minilm": ("recbole_msr.prompts.encoders.sentence", "MiniLM"),
    "st": ("recbole_msr.prompts.encoders.sentence", "SentenceEncoder"),
    "hf": ("recbole_msr.prompts.encoders.causal", "CausalEncoder"),
    "server": ("recbole_msr.prompts.encoders.server", "ServerEncoder"),
    "random": ("recbole_msr.prompts.encoders.random", "RandomEncoder"),
}
_NEEDS_NAME = {"st": "PATH_OR_NAME", "hf": "PATH_OR_NAME", "server": "URL"}


class Encoder(ABC):
    """A model that turns texts into vectors.

    What takes memory (a model) is loaded when the first text is encoded, so that an encoder can be asked what it is,
    or be sent to another process, at no cost.

    Attributes:
        identity: what it is and how it is used: equal identities make equal vectors.
        device: where it computes, for encoders that do so here: "cpu", "cuda:1"; may be set before the first text.
    """

    identity: str
    device: str | None = None

    @property
    def window(self) -> int | None:
        """The longest text it reads, in tokens; None for no limit."""
        return None

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return the lengths of texts in tokens (N,), with everything that is added to them."""
        return np.array([len(text.split()) for text in texts], dtype=np.int64)

    @abstractmethod
    def encode_with_answers(self, texts: Sequence[str]) -> tuple[np.ndarray, list[str] | None]:
        """Return vectors (N, H), float32, and what the model wrote to every text (None where it writes nothing)."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors (N, H), float32."""
        return self.encode_with_answers(texts)[0]


def make_encoder(spec: str, options: Mapping[str, Any] | None = None) -> Encoder:
    """Return an encoder by its specification, e.g. "minilm" or "hf:PATH".

    Args:
        spec: see this module.
        options: settings of that encoder.

    Raises:
        InputError: there is no such encoder, it has no such option, or it cannot be used.
    """
    kind, _, source = str(spec).partition(":")
    if kind not in _KINDS:
        raise InputError(
            f"there is no encoder '{spec}'{nearest(kind, _KINDS) or '.'}"
            f" Encoders: minilm, hf:PATH_OR_NAME, st:PATH_OR_NAME, "
            "server:URL, random."
        )
    if kind in _NEEDS_NAME and not source:
        raise InputError(f"encoder '{kind}' needs to know which: {kind}:{_NEEDS_NAME[kind]}")
    if kind not in _NEEDS_NAME and source:
        raise InputError(f"encoder '{kind}' takes nothing behind a colon, got '{spec}'")
    module, name = _KINDS[kind]
    made = getattr(importlib.import_module(module), name)
    known = [p.name for p in inspect.signature(made).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options or {}:
        if option not in known:
            raise InputError(
                f"encoder '{kind}' has no option '{option}'{nearest(option, known) or '.'} It has {', '.join(known)}."
            )
    encoder: Encoder = made(*([source] if kind in _NEEDS_NAME else []), **(options or {}))
    return encoder


def option_names() -> set[str]:
    """Return all options that one encoder or another has."""
    makers = [getattr(importlib.import_module(module), name) for module, name in _KINDS.values()]
    return {p.name for made in makers for p in inspect.signature(made).parameters.values() if p.kind is p.KEYWORD_ONLY}
