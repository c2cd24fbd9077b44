"""Vectors that no training changes, and what is computed of all of them: scale, principal components."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

FITTED_ROWS = 20_000
"""Mean, deviation and PCA are those of so many rows of a larger store, evenly spaced."""
CHUNK = 1 << 24
"""Numbers read from a store at once."""
_DENSE = 1024
"""All eigenvectors of a matrix with so many rows are computed; of a larger one, such as profiles have, those wanted."""
_ALL_AXES = 2048
"""Where all axes of vectors with more numbers than this are wanted, they are those of so many rows."""
_RESIDENT_BYTES = 1 << 30
"""With knowledge_device: auto a table up to so large is kept on the model's accelerator."""


class FrozenVectors:
    """Vectors of ids 0..N-1 that no training changes, in memory or in a memory-mapped file.

    No module's state holds them, copies of a model share them, and DDP does not broadcast them.

    Args:
        matrix: (rows, H), float16 or float32.
        rows: which row is each id's (N,), -1 for an id without one; None where id and row are the same.
        device: `cpu`: rows are gathered there, batch by batch; `model`: the matrix is copied to the device of the ids
            that are asked for; `auto`: copied if it is not large.
    """

    def __init__(self, matrix: np.ndarray, rows: np.ndarray | None = None, device: str = "auto") -> None:
        self.matrix = matrix
        self.rows = rows
        self._device = device
        self._resident: tuple[Tensor, Tensor | None] | None = None

    @property
    def size(self) -> int:
        """H."""
        return int(self.matrix.shape[1])

    def has(self) -> np.ndarray:
        """Mark the ids that have a vector (N,)."""
        return np.ones(len(self.matrix), dtype=bool) if self.rows is None else self.rows >= 0

    def gather(self, ids: Tensor) -> Tensor:
        """Vectors (B, H), float32 on the ids' device; of an id without a vector those of another, not to be used."""
        on_file = isinstance(self.matrix, np.memmap)
        if ids.device.type == "cpu":
            stays = not on_file
        else:
            stays = self._device == "model" or (self._device == "auto" and self.matrix.nbytes <= _RESIDENT_BYTES)
        if stays:
            table, rows = self._on(ids.device)
            return table.index_select(0, ids if rows is None else rows[ids]).float()
        places = ids.cpu().numpy()
        if self.rows is not None:
            places = self.rows[places].clip(0)
        return torch.from_numpy(np.asarray(self.matrix)[places].astype(np.float32)).to(ids.device)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        resident = self._resident  # read once: a thread that uses another device may replace it
        if resident is None or resident[0].device != device:
            # Made outside inference mode: a tensor made inside it could not be used in training later.
            with torch.inference_mode(False):
                matrix = np.array(self.matrix) if isinstance(self.matrix, np.memmap) else self.matrix
                rows = None if self.rows is None else torch.from_numpy(self.rows.clip(0)).to(device)
                resident = self._resident = (torch.from_numpy(matrix).to(device), rows)
        return resident

    def chunks(self, limit: int | None = None) -> Iterator[np.ndarray]:
        """Return the matrix, or `limit` evenly spaced rows of it, in parts of bounded size (n, H) as float64."""
        n = len(self.matrix)
        chosen = np.arange(n) if limit is None or n <= limit else np.linspace(0, n - 1, limit).astype(np.int64)
        step = max(1, CHUNK // self.size)
        for start in range(0, len(chosen), step):
            yield np.asarray(self.matrix)[chosen[start : start + step]].astype(np.float64)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenVectors:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_resident": None}


def standard_scale(vectors: FrozenVectors) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of every dimension, (H,) each; a dimension without any has the deviation 1.

    Prompts of one template resemble each other, so most of a raw vector is what all have in common. A single vector has
    nothing to differ from: its mean is 0, and its deviation the root of its mean square.
    """
    n, total = 0, np.zeros(vectors.size)
    for chunk in vectors.chunks(FITTED_ROWS):
        n, total = n + len(chunk), total + chunk.sum(axis=0)
    mean = total / n if n > 1 else np.zeros(vectors.size)
    squares = sum(((chunk - mean) ** 2).sum(axis=0) for chunk in vectors.chunks(FITTED_ROWS)) / n
    if n == 1:
        squares = np.full(vectors.size, squares.mean())
    deviation = np.sqrt(squares)
    return mean, np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, 1.0)


def principal_components(vectors: FrozenVectors, size: int, whiten: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """PCA: mean (H,) and components (size, H), so that (v - mean) @ components.T are the scores of v.

    The mean square of the `size` scores is 1: all components are divided by one number, so that the first still vary
    most, or with `whiten` each by its own deviation, so that all vary alike. A component's sign is that of its largest
    entry. Components beyond the number of vectors are zero, and the others are the larger for it, as what follows reads
    all `size` of them. A single vector is its own component.
    """
    mean, variances, directions = principal_axes(vectors, size)
    components = np.zeros((size, vectors.size))
    if len(variances):
        spread = variances[:, None] * len(variances) if whiten else variances.sum()
        components[: len(directions)] = directions / np.sqrt(spread / size)
    return mean, components


def principal_axes(vectors: FrozenVectors, size: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (H,), variances (r,) in falling order and their directions (r, H), of which there are `size` at most.

    r is at most the rank: one less than there are vectors. A single vector is its own direction. All axes of vectors
    with many numbers, such as profiles of many scenarios, are those of fewer rows: time grows with the cube of the
    smaller of the two counts.
    """
    limit = _ALL_AXES if size is None and vectors.size > _ALL_AXES else FITTED_ROWS
    sample = np.concatenate(list(vectors.chunks(limit)))
    mean = sample.mean(axis=0) if len(sample) > 1 else np.zeros(vectors.size)
    sample -= mean
    few = len(sample) <= vectors.size  # then the small product has the same eigenvalues
    values, eigenvectors = _eigenvectors(sample @ sample.T if few else sample.T @ sample, size)
    order = np.argsort(values)[::-1][:size]
    values = values[order]
    kept = values > max(float(values[0]), 0.0) * 1e-9
    directions = (sample.T @ eigenvectors[:, order[kept]] if few else eigenvectors[:, order[kept]]).T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.sign(directions[np.arange(len(directions)), largest])[:, None]
    return mean, values[kept] / len(sample), directions


def _eigenvectors(gram: np.ndarray, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of a symmetric matrix; of a large one with few wanted, the `size` largest alone."""
    if size is not None and len(gram) > max(_DENSE, 8 * size):
        from scipy.sparse.linalg import eigsh  # slow to import, and only needed here

        # From a fixed vector: always to the same result. Not of ones: with fewer vectors than numbers in each, those of
        # mean 0 have a product that maps ones to 0, and the start would be rounding errors.
        start = np.cos(np.arange(len(gram)))
        return tuple(eigsh(gram, size, v0=start))
    return np.linalg.eigh(gram)
