"""Converters from public raw formats to RecBole's atomic files, one module a source."""

from __future__ import annotations

import csv
import filecmp
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from recbole_msr.data.converters import movielens
from recbole_msr.errors import InputError, nearest
from recbole_msr.files.outputs import check_paths, holds

CONVERTERS = {"ml-1m": movielens.convert_ml_1m}


def convert(
    dataset: str, raw_dir: str | Path, out_dir: str | Path, sample: int | None = None, seed: int = 2020
) -> Path:
    """Write `out_dir/DATASET/DATASET.inter, .user, .item` from raw files.

    Args:
        dataset: whose raw files they are.
        raw_dir: the folder with the raw files.
        out_dir: the folder to write below (what is `data_path` later). If it already is called as the dataset, the
            files go right into it.
        sample: keep this many random interactions only.
        seed: seed of the sample.

    Returns:
        The dataset's folder.

    Raises:
        InputError: an unknown dataset, missing or unreadable raw files, an impossible sample, other files there.
    """
    if dataset not in CONVERTERS:
        names = ", ".join(CONVERTERS)
        raise InputError(f"no converter for '{dataset}'{nearest(dataset, CONVERTERS) or '.'} There is: {names}.")
    if sample is not None and sample < 1:
        raise InputError(f"--sample must be at least 1, got {sample}")
    check_paths({}, raw_dir=raw_dir, out_dir=out_dir)
    raw, out = Path(raw_dir), Path(out_dir)
    if not raw.is_dir():
        raise InputError(f"there is no folder {raw} with raw files")
    tables = CONVERTERS[dataset](raw, sample, seed)
    folder = out if out.resolve().name == dataset else out / dataset
    if (kind := holds(folder)) is not None:
        raise InputError(f"{folder} holds {kind.content}, and a dataset does not go into it: give another folder")
    missing = [one for one in (folder, *folder.parents) if not os.path.lexists(one)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{dataset}-", dir=folder) as temporary:
            for suffix, frame in tables.items():
                # As text: who reads atomic files takes quotes for what they are.
                frame.to_csv(Path(temporary, suffix), sep="\t", index=False, quoting=csv.QUOTE_NONE)
            for suffix in tables:
                _check_same(Path(temporary, suffix), folder / f"{dataset}.{suffix}")
            for suffix in tables:  # all of them, or none
                Path(temporary, suffix).replace(folder / f"{dataset}.{suffix}")
    except csv.Error as error:
        raise InputError(f"a value in {raw} holds a tab or a line end, which an atomic file cannot: {error}") from error
    except OSError as error:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    return folder


def _check_same(new: Path, there: Path) -> None:
    """Refuse to put a file in the place of another one: RecBole's own conversion, say, or another sample.

    Raises:
        InputError: there is a file with another content.
    """
    if os.path.lexists(there) and not (there.is_file() and filecmp.cmp(new, there, shallow=False)):
        raise InputError(
            f"{there} exists and differs from what the raw files give: give another folder, or remove it if it is not "
            "needed any more"
        )
