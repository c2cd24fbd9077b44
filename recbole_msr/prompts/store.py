"""The store of knowledge vectors: opened without reading them, and without any language model.

Knowledge NAME is a folder of that name in the knowledge folder:

    knowledge.json           everything that made it: data and split, template, encoder and its weights, options; key
    LEVEL.npy                (N, H) float16 or float32, mapped into memory; of profiles (N, size of all parts)
    LEVEL.parquet            one row a vector, in order: token, row, n_tokens, truncated
    LEVEL_texts.parquet      token, prompt, answer (in generate mode)

with LEVEL in scenario, user, item; `token` is the external id as in the atomic files, or the scenario's name.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from recbole_msr.errors import InputError, nearest
from recbole_msr.files import outputs
from recbole_msr.files.json import mismatch, read_json
from recbole_msr.prompts.fingerprint import differences, fingerprint

LEVELS = ("scenario", "user", "item")
SUFFIXES = (".npy", ".parquet", "_texts.parquet")
"""Of a level's files."""
FORMAT = "recbole-msr-knowledge/1"
CHECKED_BYTES = 2**30
"""Files up to this size are compared with their checksum when knowledge is opened, larger ones by `embed` alone."""
_SHAPE = {
    **{"key": str, "size": int, "dtype": str, "data?": dict},
    "levels": {str: {"rows": int, "checksums?": {str: int}, "size?": int, "parts?": {str: int}}},
}
logger = logging.getLogger(__name__)
_checked: set[tuple[Any, ...]] = set()  # files that this process has compared, as they were then
RESERVED = ("random", "none")
"""Names that stand for no store: `--knowledge=random` and `--knowledge=none`."""


def knowledge_folder(folder: str | Path | None) -> Path:
    """Return the folder as given, else the environment's RECBOLE_MSR_KNOWLEDGE, else ~/.cache/recbole-msr/knowledge."""
    return Path(folder or os.environ.get("RECBOLE_MSR_KNOWLEDGE") or "~/.cache/recbole-msr/knowledge").expanduser()


def file_checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    total, view = 0, memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(view):
            total = zlib.crc32(view[:count], total)
    return total


def check_name(name: str) -> str:
    """Refuse what cannot be a folder's name, and the names that stand for no store."""
    outputs.check_name("knowledge", name)
    if name in RESERVED:
        raise InputError(f"'{name}' is no name for knowledge: --knowledge={name} means something else")
    return name


class Knowledge:
    """Vectors that an encoder made of prompts, by level.

    Attributes:
        name, path: what it is called and where it is.
        meta: the content of knowledge.json.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.name, self.path, self.meta = path.name, path, meta
        self._vectors: dict[str, np.memmap] = {}
        self._tokens: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, name: str, folder: str | Path | None = None) -> Knowledge:
        """Open knowledge by name; the vectors are mapped into memory, not read.

        Args:
            name: as given to `recbole-msr embed --name=NAME`.
            folder: the knowledge folder; see `knowledge_folder`.

        Raises:
            InputError: there is none of that name (the message says how to build it), or its files are damaged.
        """
        root = knowledge_folder(folder)
        path = root / check_name(name)
        try:
            meta = read_json(path / "knowledge.json", Any)
        except (FileNotFoundError, NotADirectoryError) as error:
            names = sorted(p.parent.name for p in root.glob("*/knowledge.json") if not p.parent.name.startswith("."))
            has = f"it has {', '.join(names)}" if names else "it has none yet"
            where = "" if folder is None else f" --knowledge_dir={root}"
            raise InputError(
                f"there is no knowledge '{name}' in {root}{nearest(name, names) or ';'} {has}. Build it: "
                f"recbole-msr embed --dataset=DATASET --encoder=minilm --template=full --name={name}{where}"
            ) from error
        except OSError as error:
            raise InputError(f"the knowledge in {path} is damaged: knowledge.json cannot be read ({error})") from error
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            actual = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
            raise InputError(f"the knowledge in {path} is not of the format {FORMAT}, but {actual}; build it again")
        fault = mismatch(meta, _SHAPE)
        if fault is None and (strange := [level for level in meta["levels"] if level not in LEVELS]):
            fault = f"'levels' has {strange[0]!r}, none of {', '.join(LEVELS)}"
        if fault is None and meta["dtype"] not in ("float16", "float32"):
            fault = f"'dtype' must be float16 or float32, got {meta['dtype']!r}"
        if fault is not None:
            raise InputError(f"the knowledge in {path} is damaged: in knowledge.json {fault}")
        opened = cls(path, meta)
        for level in opened.levels:
            opened.vectors(level)
        opened.check_files(CHECKED_BYTES)
        return opened

    @property
    def key(self) -> str:
        """Hash of everything that made it."""
        return str(self.meta["key"])

    @property
    def levels(self) -> list[str]:
        """The levels that it has vectors of."""
        return list(self.meta["levels"])

    @property
    def size(self) -> int:
        """H, the length of the encoder's vectors."""
        return int(self.meta["size"])

    def level_size(self, level: str) -> int:
        """Length of a level's vectors: H, or of all parts of a profile together."""
        return int(self.meta["levels"][level].get("size", self.size))

    def parts(self, level: str) -> dict[str, int]:
        """Lengths of the parts that a level's vectors are put together of, in order; of a profile, else empty."""
        return dict(self.meta["levels"][level].get("parts", {}))

    def check_files(self, largest: int | None = None) -> None:
        """Compare the files with the checksums in knowledge.json, once a process for files that have not changed since.

        Knowledge that was built before there were checksums has none, and is taken as it is.

        Args:
            largest: leave larger files (bytes) out; None for none.

        Raises:
            InputError: a file is not as it was written.
        """
        for level, facts in self.meta["levels"].items():
            for suffix, checksum in facts.get("checksums", {}).items():
                if suffix not in SUFFIXES:
                    continue
                file = self._file(level, suffix)
                try:
                    stat = file.stat()
                    seen = (
                        str(file.resolve()),
                        checksum,
                        stat.st_size,
                        stat.st_ino,
                        stat.st_mtime_ns,
                        stat.st_ctime_ns,
                    )
                    if seen in _checked:
                        continue
                    if largest is not None and stat.st_size > largest:
                        logger.debug("%s is too large to be compared with its checksum at every start", file)
                        continue
                    if file_checksum(file) != checksum:
                        raise InputError(
                            f"the knowledge in {self.path} is damaged: {file.name} is not as it was written; build it "
                            "again (recbole-msr embed with the same settings and --replace)"
                        )
                except OSError as error:
                    raise InputError(
                        f"the knowledge in {self.path} is damaged: {file.name} cannot be read ({error})"
                    ) from error
                _checked.add(seen)

    def vectors(self, level: str) -> np.memmap:
        """Return the vectors of a level (N, H), float16 or float32, mapped into memory read-only.

        Raises:
            InputError: there is no such level, or the file is not as knowledge.json says.
        """
        if level not in self._vectors:
            file, rows = self._file(level, ".npy"), self.meta["levels"][level]["rows"]
            try:
                mapped = np.load(file, mmap_mode="r", allow_pickle=False)
            except Exception as error:  # NumPy raises many kinds for a damaged header
                raise InputError(
                    f"the knowledge in {self.path} is damaged: {file.name} cannot be read ({error})"
                ) from error
            size = self.level_size(level)
            if mapped.shape != (rows, size) or mapped.dtype.name != self.meta["dtype"]:
                raise InputError(
                    f"the knowledge in {self.path} is damaged: {file.name} holds {mapped.dtype} {mapped.shape}, "
                    f"not {self.meta['dtype']} {(rows, size)}"
                )
            self._vectors[level] = mapped
        return self._vectors[level]

    def tokens(self, level: str) -> np.ndarray:
        """External ids or scenario names (N,) as text, in the order of the vectors."""
        if level not in self._tokens:
            frame = self._read(level, ".parquet", ["token"])
            self._tokens[level] = frame["token"].to_numpy(dtype=object).astype(str)
        return self._tokens[level]

    def rows(self, level: str, tokens: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Row numbers (n,) of external ids, -1 for one that has no vector.

        >>> knowledge.rows("user", dataset.field2id_token["user_id"])  # doctest: +SKIP
        array([ -1,   0, 110, ...])
        """
        rows: np.ndarray = pd.Index(self.tokens(level)).get_indexer(np.asarray(tokens).astype(str)).astype(np.int64)
        return rows

    def texts(self, level: str) -> pd.DataFrame:
        """Return the prompts and answers of a level: token, prompt, answer (None where nothing was generated)."""
        return self._read(level, "_texts.parquet", None)

    def index(self, level: str) -> pd.DataFrame:
        """One row a vector: token, row, n_tokens, truncated."""
        return self._read(level, ".parquet", None)

    def check(self, dataset: Any) -> None:
        """Refuse knowledge of other data, of another split, or of other scenarios and tasks.

        Args:
            dataset: the training split of a `ScenarioDataset`, or one that serves a finished run (which has no
                interactions: then the settings alone are compared).

        Raises:
            InputError: names everything that differs.
        """
        changes = differences(self.meta.get("data", {}), fingerprint(dataset))
        if changes:
            raise InputError(
                f"the knowledge '{self.name}' was built from other training data; what differs (there -> here): "
                f"{'; '.join(changes)}. Its prompts may hold rows that are validation or test rows here. Build it from "
                f"these data: recbole-msr embed with the same settings, --name={self.name} --replace or another name"
            )

    def _file(self, level: str, suffix: str) -> Path:
        if level not in self.meta["levels"]:
            raise InputError(
                f"the knowledge '{self.name}' has no level '{level}', only {', '.join(self.levels)}; build it with "
                f"recbole-msr embed ... --levels=[{', '.join([*self.levels, level])}]"
            )
        return self.path / f"{level}{suffix}"

    def _read(self, level: str, suffix: str, columns: list[str] | None) -> pd.DataFrame:
        file = self._file(level, suffix)
        try:
            frame: pd.DataFrame = pq.read_table(file, columns=columns).to_pandas()
            if columns is not None:
                frame = frame[columns]
        except (OSError, ValueError, KeyError, TypeError, MemoryError) as error:
            raise InputError(
                f"the knowledge in {self.path} is damaged: {file.name} cannot be read ({error})"
            ) from error
        if len(frame) != self.meta["levels"][level]["rows"]:
            raise InputError(f"the knowledge in {self.path} is damaged: {file.name} holds {len(frame)} rows")
        return frame
