"""Encoders of texts, one vector each, behind one small protocol; `ENCODERS` lists them.

A new encoder is a module here with a subclass of `Encoder`, whose keyword-only arguments are its options, an entry in
`ENCODERS`, and a row in `docs/knowledge.md`.
"""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_msr.errors import InputError, nearest


@dataclass(frozen=True)
class EncoderInfo:
    """An encoder, before anything is imported."""

    module: str
    """The module of this package that holds its class."""
    class_name: str
    """The name of its class, an `Encoder`."""
    source: str | None = None
    """The word for what a specification names behind a colon; None where it names nothing."""

    def load(self) -> type[Encoder]:
        """Import its class."""
        encoder: type[Encoder] = getattr(importlib.import_module(f"{__name__}.{self.module}"), self.class_name)
        return encoder

    def options(self) -> list[str]:
        """List the settings that it reads."""
        parameters = inspect.signature(self.load()).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


ENCODERS: Mapping[str, EncoderInfo] = {
    "minilm": EncoderInfo("sentence", "MiniLM"),
    "smollm": EncoderInfo("smollm", "SmolLM"),
    "hf": EncoderInfo("causal", "CausalEncoder", "PATH_OR_NAME"),
    "st": EncoderInfo("sentence", "SentenceEncoder", "PATH_OR_NAME"),
    "server": EncoderInfo("server", "ServerEncoder", "URL"),
    "random": EncoderInfo("random", "RandomEncoder"),
}
"""Kind -> encoder, in the order of messages: all-MiniLM-L6-v2 as packaged for pip, which needs no download;
SmolLM2-135M-Instruct, a causal language model as packaged for pip; a causal language model of Hugging Face; a
sentence-transformers model; an OpenAI-compatible server; and, as the control, random vectors, which hold nothing of the
text."""
DEFAULT_ENCODER = "minilm"


def encoder_forms() -> list[str]:
    """List how each encoder is specified: "minilm", "hf:PATH_OR_NAME" and so on."""
    return [kind if encoder.source is None else f"{kind}:{encoder.source}" for kind, encoder in ENCODERS.items()]


class Encoder(ABC):
    """Turns texts into vectors.

    What takes memory (a model) is loaded when the first text is encoded, so that asking an encoder for its identity,
    or sending it to another process, costs nothing.

    Attributes:
        identity: what it is and how it is used: equal identities make equal vectors.
        window: the longest text it reads, in tokens; None for no limit.
        writes: whether the model writes an answer to each text, of which the vectors are.
        device: where it computes, for encoders that do so here: "cpu", "cuda:1"; may be set before the first text.
    """

    identity: str
    writes: bool = False
    device: str | None = None

    @property
    def window(self) -> int | None:
        """Maximum length of a text in tokens; None for no limit."""
        return None

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return the lengths of texts in tokens (N,), with everything that is added to them."""
        return np.array([len(text.split()) for text in texts], dtype=np.int64)

    @abstractmethod
    def encode_with_answers(self, texts: Sequence[str]) -> tuple[np.ndarray, list[str] | None]:
        """Return vectors (N, H), float32, and the model's answer to every text (None where it writes nothing)."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (N, H), float32."""
        return self.encode_with_answers(texts)[0]


def make_encoder(spec: str, options: Mapping[str, Any] | None = None) -> Encoder:
    """Build an encoder from its specification, e.g. "minilm" or "hf:PATH".

    Args:
        spec: one of `encoder_forms`.
        options: settings of that encoder.

    Raises:
        InputError: there is no such encoder, it has no such option, or it cannot be used.
    """
    kind, _, source = str(spec).partition(":")
    if kind not in ENCODERS:
        raise InputError(
            f"there is no encoder '{spec}'{nearest(kind, ENCODERS) or '.'} Encoders: {', '.join(encoder_forms())}."
        )
    encoder = ENCODERS[kind]
    if encoder.source is not None and not source:
        raise InputError(f"encoder '{kind}' needs to know which: {kind}:{encoder.source}")
    if encoder.source is None and source:
        raise InputError(f"encoder '{kind}' takes nothing behind a colon, got '{spec}'")
    names = encoder.options()
    for option in options or {}:
        if option not in names:
            raise InputError(
                f"encoder '{kind}' has no option '{option}'{nearest(option, names) or '.'} It has {', '.join(names)}."
            )
    return encoder.load()(*([source] if source else []), **(options or {}))


def option_names() -> set[str]:
    """Return the names of the options of all encoders."""
    return {option for encoder in ENCODERS.values() for option in encoder.options()}
