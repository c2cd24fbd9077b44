"""The control: vectors that know nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import Encoder


class RandomEncoder(Encoder):
    """A vector from N(0, 1) that depends on the text and the seed alone.

    Args:
        size: H.
        encoder_seed: another seed draws other vectors.
    """

    def __init__(self, *, size: int = 384, encoder_seed: int = 0) -> None:
        if not isinstance(size, int) or size < 1:
            raise InputError(f"the size of random vectors must be a whole number from 1, got {size!r}")
        self._size, self._seed = size, encoder_seed
        self.identity = f"random size={size} seed={encoder_seed}"

    def encode_with_answers(self, texts: Sequence[str]) -> tuple[np.ndarray, None]:
        """Return vectors (N, H), float32, and None."""
        vectors = np.empty((len(texts), self._size), dtype=np.float32)
        for row, text in enumerate(texts):
            digest = hashlib.blake2b(f"{self._seed}\0{text}".encode(), digest_size=16).digest()
            vectors[row] = np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(
                self._size, dtype=np.float32
            )
        return vectors, None
