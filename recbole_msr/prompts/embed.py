"""Building knowledge: every prompt is encoded once, whatever happens meanwhile.

A build works in a hidden folder named after its key. Vectors are written to their place in LEVEL.npy as soon as they
are there, and then noted in a journal; a build that was killed reads the journal and goes on with what is missing.
When all is done the folder is renamed to the knowledge's name: there is never half of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from recbole_msr.errors import InputError
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.json import parse_json, read_json
from recbole_msr.files.outputs import KNOWLEDGE, check_path, holds, is_dataset
from recbole_msr.prompts.build import Prompts
from recbole_msr.prompts.encoders import Encoder
from recbole_msr.prompts.fingerprint import differences
from recbole_msr.prompts.profiles import Profiles
from recbole_msr.prompts.store import FORMAT, LEVELS, SUFFIXES, Knowledge, check_name, file_checksum, knowledge_folder

STORE_DTYPES = ("float16", "float32")
_META = "knowledge.json"
_ENTRY = {"level": str, "size": int, "rows": [int], "answers": ([str | None], None)}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of `build_knowledge`.

    Attributes:
        knowledge: the finished knowledge, opened.
        encoded: how many prompts were encoded now; 0 where all were there already.
        found: where everything was found: "" (it was built now), or the name of the knowledge that held it.
    """

    knowledge: Knowledge
    encoded: int
    found: str = ""


def build_knowledge(
    name: str,
    folder: str | Path | None,
    prompts: Sequence[Prompts],
    encoder: Encoder,
    made_by: Mapping[str, Any],
    *,
    request: str | None = None,
    store_dtype: str = "float16",
    batch_size: int = 32,
    sort_by_length: bool = True,
    replace: bool = False,
    show_progress: bool = True,
    lightning: Mapping[str, Any] | None = None,
    profiles: Sequence[Profiles] = (),
) -> Outcome:
    """Encode prompts into the knowledge `name`, unless that was done before.

    Args:
        name: what it is to be called.
        folder: the knowledge folder; see `knowledge_folder`.
        prompts: the prompts, one entry a level.
        encoder: what encodes them.
        made_by: what made the prompts ("data", "template" and so on): part of the key and of knowledge.json.
        request: the hash by which `find_knowledge` finds the result again.
        store_dtype: float16 or float32.
        batch_size: prompts encoded at once.
        sort_by_length: put prompts of like length into a batch, the longest first, so that little is padded.
        replace: take the place of other knowledge of this name.
        show_progress: a progress bar.
        lightning: options of pytorch_lightning.Trainer; with several devices they share the prompts.
        profiles: levels that are not encoded, but made of the vectors of the level "item".

    Raises:
        InputError: the name is taken by something else, a vector is not a number, or the encoder fails; what is encoded
            so far is kept.
    """
    if store_dtype not in STORE_DTYPES:
        raise InputError(f"store_dtype must be one of {', '.join(STORE_DTYPES)}, got '{store_dtype}'")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number from 1, got {batch_size!r}")
    for level in prompts:
        if not len(level):
            raise InputError(f"there is no {level.level} to make a prompt of")
    made_by = dict(made_by) | {
        "encoder": encoder.identity,
        "dtype": store_dtype,
        "prompts": {level.level: level.digest() for level in prompts},
    }
    key = hashlib.blake2b(json.dumps(made_by, sort_keys=False).encode(), digest_size=16).hexdigest()
    root = knowledge_folder(folder)
    target = root / check_name(name)
    check_store(root, target)
    if os.path.lexists(target):
        present = _key_of(target)
        if present == key and (existing := _open_intact(name, root, replace)):
            return Outcome(existing, 0, name)
        if not replace:
            raise InputError(
                f"the knowledge '{name}' in {root} exists and was made otherwise{_describe_changes(target, made_by)}; "
                "give another --name, or --replace to put the new one in its place"
            )
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the knowledge folder {root} cannot be made: {error.strerror or error}") from error
    if shared := _share(root, target, "key", key):
        return shared

    started = time.perf_counter()
    with _locked(root / f".building-{key}") as working:
        build = Build(working, prompts, store_dtype)
        encoded = _encode_all(build, prompts, encoder, batch_size, sort_by_length, show_progress, dict(lightning or {}))
        counts: dict[str, dict[str, Any]] = {
            level.level: {
                "rows": len(level),
                "truncated": int(level.truncated.sum()),
                "cut_inside": level.within,
                "mean_tokens": round(float(level.lengths.mean()), 1),
                "longest": int(level.lengths.max()),
            }
            for level in prompts
        }
        size = build.finish(prompts)
        for profile in profiles:
            counts[profile.level] = profile.write(working, np.load(working / "item.npy"), store_dtype)
        counts = {level: counts[level] for level in LEVELS if level in counts}
        for name_of, of in counts.items():
            of["checksums"] = {suffix: file_checksum(working / f"{name_of}{suffix}") for suffix in SUFFIXES}
        meta = {
            "format": FORMAT,
            "key": key,
            "request": request,
            **made_by,
            "size": size,
            "window": encoder.window,
            "levels": counts,
            "seconds": round(time.perf_counter() - started, 1),
            "versions": _versions(),
        }
        text = json.dumps(meta, indent=2, ensure_ascii=False) + "\n"
        write_atomically(working / _META, lambda path: Path(path).write_text(text, encoding="utf-8"))
        _publish(working, target)
    return Outcome(Knowledge.open(name, root), encoded)


def request_hash(made_by: Mapping[str, Any], encoder: Encoder, levels: Sequence[str], store_dtype: str) -> str:
    """Hash of what decides about knowledge before a prompt is written, this package's own code among it."""
    code = hashlib.blake2b(digest_size=16)
    for module in ("facts.py", "build.py", "template.py", "profiles.py", "windows.py"):
        code.update(Path(__file__).with_name(module).read_bytes())
    asked = [dict(made_by), encoder.identity, list(levels), store_dtype, code.hexdigest()]
    return hashlib.blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest()


def find_knowledge(name: str, folder: str | Path | None, request: str, replace: bool = False) -> Outcome | None:
    """Find the knowledge that this request has made before, under this name or another; None where there is none."""
    root = knowledge_folder(folder)
    target = root / check_name(name)
    check_store(root, target)
    if _meta_of(target).get("request") == request and (existing := _open_intact(name, root, replace)):
        return Outcome(existing, 0, name)
    return _share(root, target, "request", request) if replace or not os.path.lexists(target) else None


def check_store(root: Path, target: Path) -> None:
    """Refuse to put knowledge below, or in the place of, anything but knowledge.

    Args:
        root: the knowledge folder.
        target: the folder of one name in it.

    Raises:
        InputError: it says what is there.
    """
    check_path("knowledge_dir", root)
    kind = holds(root)
    if kind is not None or is_dataset(root):
        what = kind.content if kind is not None else "a dataset"
        raise InputError(f"{root} holds {what}, and knowledge does not go into it: give another knowledge_dir")
    if os.path.lexists(target) and not KNOWLEDGE.is_in(target) and not (target.is_dir() and not os.listdir(target)):
        kind = holds(target) if target.is_dir() else None
        found = f"the folder of {kind.content}" if kind is not None else "no knowledge"
        raise InputError(f"{target} is {found} and is not replaced: give another --name or knowledge_dir, or remove it")


def _open_intact(name: str, root: Path, replace: bool) -> Knowledge | None:
    """Knowledge that is there, with all of its files compared with their checksums; None if it is to be built again.

    Raises:
        InputError: it is damaged, and not to be replaced.
    """
    try:
        knowledge = Knowledge.open(name, root)
        knowledge.check_files()
    except InputError as error:
        if not replace:
            raise
        logger.warning("%s; it is not used", error)
        return None
    return knowledge


def _share(root: Path, target: Path, what: str, value: str) -> Outcome | None:
    """Give the knowledge with this key (or request) a second name; what is damaged is passed over."""
    for path in sorted(root.glob("[!.]*/knowledge.json")):
        twin = path.parent
        if _meta_of(twin).get(what) == value and _open_intact(twin.name, root, replace=True) is not None:
            _publish(_linked(twin, root / f".copy-{value}-{os.getpid()}"), target)
            return Outcome(Knowledge.open(target.name, root), 0, twin.name)
    return None


class Build:
    """A build's folder: vectors in place, and a journal of those that are there.

    Every process of a build has a journal of its own, so that several may write at once.

    Args:
        folder: the folder.
        prompts: what is to be encoded.
        dtype: of the vectors on disk.
        rank: number of this process.
    """

    def __init__(self, folder: Path, prompts: Sequence[Prompts], dtype: str, rank: int = 0) -> None:
        self.folder, self._dtype, self.rank = folder, np.dtype(dtype), rank
        self._tokens = {level.level: level.tokens for level in prompts}
        self._texts = {level.level: level.texts for level in prompts}
        self._read: list[dict[str, Any]] | None = None

    @property
    def size(self) -> int | None:
        """H, once the first vector is there."""
        for entry in self._entries():
            return int(entry["size"])
        return None

    def missing(self, level: str) -> np.ndarray:
        """Row numbers that have no vector yet."""
        done = np.zeros(len(self._tokens[level]), dtype=bool)
        for entry in self._entries():
            if entry["level"] == level:
                done[entry["rows"]] = True
        return np.flatnonzero(~done)

    def write(self, level: str, rows: Sequence[int], vectors: np.ndarray, answers: Sequence[str] | None) -> None:
        """Put vectors (n, H) in their places and note them.

        Raises:
            InputError: a vector holds what is not a number, they have another size than those before, or the disk
                is full.
        """
        size = self.size
        if vectors.ndim != 2 or len(vectors) != len(rows) or (size is not None and vectors.shape[1] != size):
            raise InputError(
                f"the encoder gave vectors of shape {vectors.shape} for {len(rows)} {level} prompts; "
                f"({len(rows)}, {size or 'H'}) is expected{self.kept()}"
            )
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(vectors.astype(self._dtype))
        bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
        if len(bad):
            row = rows[int(bad[0])]
            text = " ".join(self._texts[level][row].split())[:80]
            overflow = " (they are too large for float16: --store_dtype=float32)" if np.isfinite(vectors).all() else ""
            raise InputError(
                f"the encoder gave NaN or infinite vectors for {len(bad)} of {len(rows)} {level} prompts{overflow}, "
                f"the first for '{self._tokens[level][row]}': {text}...{self.kept()}"
            )
        try:
            self._write(level, rows, stored, answers)
        except OSError as error:
            raise InputError(
                f"the vectors cannot be written to {self.folder}: {error.strerror or error}{self.kept()}"
            ) from error

    def _write(self, level: str, rows: Sequence[int], stored: np.ndarray, answers: Sequence[str] | None) -> None:
        count, size = len(self._tokens[level]), stored.shape[1]
        header = _npy_header((count, size), self._dtype)
        # Not through a memory map: a full disk is an error here, and a killed process there.
        file = os.open(self.folder / f"{level}.npy", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            whole = len(header) + count * size * self._dtype.itemsize
            if os.fstat(file).st_size != whole:
                os.ftruncate(file, whole)
            os.pwrite(file, header, 0)
            for row, vector in zip(rows, stored, strict=True):
                os.pwrite(file, vector.tobytes(), len(header) + row * size * self._dtype.itemsize)
            os.fsync(file)  # before the journal says so
        finally:
            os.close(file)
        entry = {"level": level, "size": size, "rows": [int(row) for row in rows], "answers": answers}
        with open(self._journal_file, "a", encoding="utf-8") as journal:
            journal.write(
                "\n" + json.dumps(entry, ensure_ascii=False) + "\n"
            )  # behind half a line, should there be one
            journal.flush()
            os.fsync(journal.fileno())
        self._entries().append(entry)

    def finish(self, prompts: Sequence[Prompts]) -> int:
        """Write the indices and texts, remove the journals; returns H."""
        size = self.size
        assert size is not None
        for level in prompts:
            assert not len(self.missing(level.level))
            answers: list[str | None] = [None] * len(level)
            for entry in self._entries():
                if entry["level"] == level.level and entry["answers"] is not None:
                    for row, answer in zip(entry["rows"], entry["answers"], strict=True):
                        answers[row] = answer
            tokens = pa.array(level.tokens, pa.string())
            index = {
                "token": tokens,
                "row": np.arange(len(level)),
                "n_tokens": level.lengths,
                "truncated": level.truncated,
            }
            texts = {
                "token": tokens,
                "prompt": pa.array(level.texts, pa.string()),
                "answer": pa.array(answers, pa.string()),
            }
            pq.write_table(pa.table(index), self.folder / f"{level.level}.parquet")
            pq.write_table(pa.table(texts), self.folder / f"{level.level}_texts.parquet", compression="zstd")
        for path in self.folder.glob("done-*.jsonl"):
            path.unlink()
        return size

    def reread(self) -> None:
        """Read the journals anew at the next question: other processes have written."""
        self._read = None

    def _entries(self) -> list[dict[str, Any]]:
        """Read the whole entries of all processes' journals; a line cut short by a kill is none."""
        if self._read is None:
            self._read = list(self._read_journals())
        return self._read

    def _read_journals(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("done-*.jsonl")):
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        entry = parse_json(line.encode(), path.name, _ENTRY)
                    except InputError:
                        continue
                    rows, answers = entry["rows"], entry["answers"]
                    last = len(self._tokens.get(entry["level"], ())) - 1
                    if all(0 <= row <= last for row in rows) and (answers is None or len(answers) == len(rows)):
                        yield entry

    @property
    def _journal_file(self) -> Path:
        return self.folder / f"done-{self.rank}.jsonl"

    def kept(self) -> str:
        """Half a sentence for errors: what is not lost."""
        done = sum(len(entry["rows"]) for entry in self._entries())
        return "" if not done else f"; the {done} vectors made so far are kept, and the same command goes on from there"


def batches_of(rows: np.ndarray, lengths: np.ndarray, batch_size: int, sort_by_length: bool) -> list[list[int]]:
    """Row numbers in batches; sorted, the longest come first, so that memory runs out at once or never."""
    order = rows[np.argsort(-lengths[rows], kind="stable")] if sort_by_length else rows
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]


def _encode_all(
    build: Build, prompts: Sequence[Prompts], encoder: Encoder, batch_size: int, sort_by_length: bool,
    show_progress: bool, lightning: dict[str, Any],
) -> int:  # fmt: skip
    work = [(level, build.missing(level.level)) for level in prompts]
    encoded, total = sum(len(rows) for _, rows in work), sum(len(level) for level, _ in work)
    if encoded < total:
        logger.info("%d of %d prompts are encoded already; going on with the rest", total - encoded, total)
    jobs = [
        (level.level, batch, [level.texts[row] for row in batch])
        for level, rows in work
        for batch in batches_of(rows, level.lengths, batch_size, sort_by_length)
    ]
    if not jobs:
        return 0
    if lightning.get("devices", 1) not in (1, "1", "auto", None) or lightning.get("num_nodes", 1) != 1:
        from recbole_msr.prompts.devices import encode_on_devices

        encode_on_devices(build, jobs, encoder, lightning, show_progress)
        build.reread()
        return encoded
    with tqdm(
        total=total, initial=total - encoded, unit="prompt", desc="encode", disable=None if show_progress else True
    ) as bar:
        for level, rows, texts in jobs:
            try:
                vectors, answers = encoder.encode_with_answers(texts)
            except InputError as error:
                raise InputError(f"{error}{build.kept()}") from error
            build.write(level, rows, vectors, answers)
            bar.update(len(rows))
    return encoded


def _npy_header(shape: tuple[int, int], dtype: np.dtype) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Hold a build's folder, for one build at a time; it is gone once the build was published."""
    try:
        folder.mkdir(exist_ok=True)
        lock = open(folder / ".lock", "a")  # noqa: SIM115 (held until the end of the block)
    except OSError as error:
        raise InputError(
            f"the knowledge folder {folder.parent} cannot be written: {error.strerror or error}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError("the same knowledge is being built by another process; wait until it is done") from error
        try:
            yield folder
        except BaseException:
            if not any(folder.glob("done-*.jsonl")):  # nothing worth keeping
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _publish(folder: Path, target: Path) -> None:
    """Rename a finished folder into place, where another one may stand."""
    (folder / ".lock").unlink(missing_ok=True)
    old = target.with_name(f".old-{target.name}-{os.getpid()}")
    if os.path.lexists(target):
        os.replace(target, old)
    os.replace(folder, target)
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


def _linked(source: Path, folder: Path) -> Path:
    """Make a second folder of the same files, as hard links where the disk knows them."""
    folder.mkdir()
    for path in source.iterdir():
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copy2(path, folder / path.name)
    return folder


def _meta_of(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / _META))
    except (OSError, InputError):
        return {}


def _key_of(folder: Path) -> str | None:
    return _meta_of(folder).get("key")


def _describe_changes(folder: Path, made_by: Mapping[str, Any]) -> str:
    meta = _meta_of(folder)
    if not meta:
        return " (it holds no knowledge.json)"
    changed = [key for key in made_by if meta.get(key) != made_by[key]]
    changes = differences(meta.get("data", {}), made_by.get("data", {}))
    return f" (what differs: {', '.join(changed)}{': ' + '; '.join(changes) if changes else ''})"


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("recbole-msr", "torch", "transformers", "sentence-transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
