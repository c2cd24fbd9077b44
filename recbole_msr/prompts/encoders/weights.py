"""The files of an encoder's model, and the digest that identifies them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from recbole_msr.errors import InputError
from recbole_msr.files.digest import file_digest

_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja")


def require(extra: str, *modules: str) -> None:
    """Refuse to go on without the packages of an optional extra."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise InputError(f"this encoder needs {', '.join(missing)}: pip install 'recbole-msr[{extra}]'")


def model_folder(source: str) -> Path:
    """Return the folder of a model: a path, or a model's name on the Hugging Face hub, which is fetched once.

    Raises:
        InputError: there is no such folder, and no such model can be had from the hub.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
            raise InputError(f"the folder {path} holds no model: it has neither config.json nor modules.json")
        return path
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise InputError(f"there is no model folder {path}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, ignore_patterns=["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot"]))
    except Exception as error:  # the hub's client raises many kinds
        raise InputError(
            f"'{source}' is no folder here, and no model of that name can be had from the Hugging Face hub "
            f"({type(error).__name__}); give the path of a downloaded model"
        ) from error


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's files: weights, configuration, tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SUFFIXES and path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\0".encode())
    return digest.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and hints that loading a model prints."""
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    names = ("sentence_transformers", "httpx")
    levels = [logging.getLogger(name).level for name in names]
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        transformers_logging.enable_progress_bar()
        enable_progress_bars()
        for name, level in zip(names, levels, strict=True):
            logging.getLogger(name).setLevel(level)
