"""Text vectors of items as numbers that every model reads: the default encoder's vectors, cut to a few dimensions."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.outside_data import SOURCE, AbsentDataError

DIMENSIONS = 16
COLUMNS = [f"text_{number}" for number in range(DIMENSIONS)]
_TEXTS = {
    "frappe": ("apps.csv.gz", "item", ("name", "category", "short desc")),
    "amazon": ("items.csv.gz", "item_id", ("text",)),
}
"""File, key and fields of the texts of items."""


def add_text_vectors(name: str, dataset: str, folder: Path, source: Path = SOURCE) -> str:
    """Write a copy of a prepared dataset whose items have `COLUMNS` beside their fields, unless it is there.

    Args:
        name: of the raw data: frappe or amazon.
        dataset: the prepared dataset.
        folder: its data_path.
        source: folder of the raw data.

    Returns:
        The name of the copy.
    """
    copy = f"{dataset}-text"
    target = folder / copy / f"{copy}.item"
    if target.is_file():
        return copy
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / dataset / f"{dataset}.inter", folder / copy / f"{copy}.inter")
    items = read_items(folder / dataset)
    texts = item_texts(name, source)
    values = text_vectors([texts.get(item, "") for item in items["item_id:token"]])
    columns = {f"{column}:float": values[:, number] for number, column in enumerate(COLUMNS)}
    _write_items(target, items.assign(**columns))
    return copy


def add_titles(name: str, folder: Path, source: Path = SOURCE) -> None:
    """Give the items of a prepared dataset their texts as the field `title`, unless they have it.

    Args:
        name: of the raw data: frappe or amazon.
        folder: of the prepared dataset.
        source: folder of the raw data.
    """
    items = read_items(folder)
    if "title:token_seq" not in items:
        texts = item_texts(name, source)
        titles = [" ".join(texts.get(item, "").split()) for item in items["item_id:token"]]
        _write_items(folder / f"{folder.name}.item", items.assign(**{"title:token_seq": titles}))


def read_items(folder: Path) -> pd.DataFrame:
    """Return the items of a prepared dataset: its .item file, or without one the ids of its interactions."""
    file = folder / f"{folder.name}.item"
    form: dict[str, Any] = {"sep": "\t", "dtype": str, "keep_default_na": False, "quoting": csv.QUOTE_NONE}
    if file.is_file():
        return pd.read_csv(file, **form)
    rows = pd.read_csv(folder / f"{folder.name}.inter", **form)
    return pd.DataFrame({"item_id:token": rows["item_id:token"].unique()})


def _write_items(file: Path, items: pd.DataFrame) -> None:
    partial = file.with_suffix(".part")
    items.to_csv(partial, sep="\t", index=False, quoting=csv.QUOTE_NONE)
    partial.rename(file)


def item_texts(name: str, source: Path = SOURCE) -> dict[str, str]:
    """Return the text of each item, its fields one after the other."""
    file, key, fields = _TEXTS[name]
    if not (source / name / file).is_file():
        raise AbsentDataError(f"the texts of {name} are left out: there is no {source / name / file}")
    items = pd.read_csv(source / name / file, dtype=str, keep_default_na=False)
    texts = items[list(fields)].agg(". ".join, axis=1)
    return dict(zip(items[key], texts, strict=True))


def text_vectors(texts: Sequence[str]) -> np.ndarray:
    """Return the first principal components of the texts' vectors (N, DIMENSIONS), with deviation 1 each."""
    from recbole_msr.prompts.encoders import DEFAULT_ENCODER, make_encoder

    encoder = make_encoder(DEFAULT_ENCODER)
    order = np.argsort([len(text) for text in texts], kind="stable")  # alike lengths in a batch
    parts = [encoder.encode([texts[n] for n in order[first : first + 256]]) for first in range(0, len(texts), 256)]
    return principal_components(np.concatenate(parts)[np.argsort(order)], DIMENSIONS)


def principal_components(vectors: np.ndarray, size: int) -> np.ndarray:
    """Return the first principal components (N, size) of vectors (N, D), with mean 0 and deviation 1 each."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    components = centred @ directions[:, ::-1][:, :size]
    scaled: np.ndarray = (components / components.std(axis=0)).round(4)
    return scaled
