"""Hugging Face causal language models: hidden states of a prompt, or of the answer the model writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import Encoder
from recbole_msr.prompts.encoders.weights import model_folder, quiet, require, weights_digest

DTYPES = ("float32", "bfloat16", "float16")


def usable_device(device: str | None) -> str:
    """Return the device of a name, or refuse one that does not exist; without a name a GPU, if there is one."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except Exception as error:  # another kind for every backend
        raise InputError(f"the device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    return device


class CausalEncoder(Encoder):
    """Hidden states of a causal language model.

    Mode `prompt`: one forward pass over the prompt. Mode `generate`: the model writes an answer (greedily), and the
    states are those of the answer's tokens, with the prompt before them, from one forward pass over both; an end mark
    is not counted, and an empty answer leaves the prompt's last token. In both, pooling `last` takes the last token's
    state (LLM4MSR: of the last generated token), `mean` the mean over the tokens.

    Args:
        source: a folder, or a name on the Hugging Face hub.
        layer: which hidden states: 0 the embeddings, 1 the first layer, ..., -1 the last (behind the final norm).
        pooling: "last" or "mean".
        mode: "prompt" or "generate".
        max_new_tokens: the longest answer.
        chat: whether the prompt is put into the model's chat template; by default where it has one.
        device: "cpu", "cuda", ...; a GPU if there is one and nothing is given.
        dtype: float32, bfloat16 or float16: what the model computes in.

    Raises:
        InputError: the packages are not installed, there is no such model, or it has no such layer.
    """

    def __init__(
        self,
        source: str,
        *,
        layer: int = -1,
        pooling: str = "last",
        mode: str = "prompt",
        max_new_tokens: int = 128,
        chat: bool | None = None,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        require("llm", "transformers", "tokenizers")
        for what, value, choices in (
            ("pooling", pooling, ("last", "mean")),
            ("mode", mode, ("prompt", "generate")),
            ("dtype", dtype, DTYPES),
        ):
            if value not in choices:
                raise InputError(f"{what} must be one of {', '.join(choices)}, got '{value}'")
        if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be a whole number from 1, got {max_new_tokens!r}")
        from transformers import AutoConfig, AutoTokenizer

        self._folder = model_folder(source)
        try:
            with quiet():
                config = AutoConfig.from_pretrained(self._folder, local_files_only=True)
                self._tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
        except Exception as error:  # a damaged folder shows in many ways
            raise InputError(f"the model in {self._folder} cannot be loaded: {error}") from error
        text = config.get_text_config()
        layers = int(text.num_hidden_layers)
        if not isinstance(layer, int) or not -layers - 1 <= layer <= layers:
            raise InputError(
                f"layer must be from {-layers - 1} to {layers}: the model has {layers} layers, got {layer!r}"
            )
        self._layer = layer if layer < 0 else layer - layers - 1  # as counted from the end
        self.writes = mode == "generate"
        self._pooling, self._mode, self._new, self._dtype = pooling, mode, max_new_tokens, dtype
        self._chat = bool(self._tokenizer.chat_template) if chat is None else bool(chat)
        if self._chat and not self._tokenizer.chat_template:
            raise InputError(f"chat: the tokenizer in {self._folder} has no chat template")
        self.device = usable_device(device)
        windows = [getattr(text, "max_position_embeddings", None), self._tokenizer.model_max_length]
        known_windows = [int(window) for window in windows if window is not None and 0 < window < 10**9]
        self._window = min(known_windows, default=None)
        if mode == "generate" and self._window is not None:
            self._window -= max_new_tokens
            if self._window < 1:
                raise InputError(f"max_new_tokens={max_new_tokens} leaves no room for a prompt in this model's window")
        answer = f" max_new_tokens={max_new_tokens}" if mode == "generate" else ""
        self.identity = (
            f"causal {self._weights(source)} layer={self._layer} pooling={pooling} mode={mode}{answer} "
            f"chat={self._chat} dtype={dtype}"
        )
        self._model: Any = None

    def _weights(self, source: str) -> str:
        return f"{Path(source).name} sha256={weights_digest(self._folder)}"

    @property
    def window(self) -> int | None:
        """The longest text it reads, in tokens; None for no limit."""
        return self._window

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_model": None}

    def _load(self) -> Any:
        import torch
        from transformers import AutoModel, AutoModelForCausalLM

        if self._model is None:
            kind = AutoModelForCausalLM if self._mode == "generate" else AutoModel  # without the head where it is idle
            try:
                with quiet():
                    self._model = kind.from_pretrained(
                        self._folder, dtype=getattr(torch, self._dtype), local_files_only=True
                    )
            except Exception as error:
                raise InputError(f"the model in {self._folder} cannot be loaded: {error}") from error
            self._model.eval().to(self.device)
        return self._model

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._chat:
            texts = [self._in_chat(text) for text in texts]
        encoded = self._tokenizer(list(texts), add_special_tokens=not self._chat, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _in_chat(self, text: str) -> str:
        said = [{"role": "user", "content": text}]
        return str(self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Return the lengths of texts in tokens (N,)."""
        return np.array([len(ids) for ids in self._ids(texts)], dtype=np.int64)

    def encode_with_answers(self, texts: Sequence[str]) -> tuple[np.ndarray, list[str] | None]:
        """Return vectors (N, H), float32, and the texts that the model wrote, or None."""
        import torch

        prompts = self._ids(texts)
        with torch.inference_mode():
            if self._mode == "prompt":
                return self._states(prompts, [0] * len(prompts)), None
            answers = self._generate(prompts)
            both = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            begins = [min(len(prompt), len(sequence) - 1) for prompt, sequence in zip(prompts, both, strict=True)]
            return self._states(both, begins), [
                str(self._tokenizer.decode(a, skip_special_tokens=True)).strip() for a in answers
            ]

    def _states(self, sequences: list[list[int]], begins: list[int]) -> np.ndarray:
        """Pooled states (N, H) of each sequence from its token number `begin` on.

        Padding stands on the right, where a causal model cannot see it from any token that counts.
        """
        import torch

        model = self._load()
        model = getattr(model, model.base_model_prefix, model)
        ids, mask = self._padded(sequences, left=False)
        inner = self._layer != -1
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=inner, use_cache=False)
        states = (output.hidden_states[self._layer] if inner else output.last_hidden_state).float()
        if self._pooling == "last":
            pooled = states[torch.arange(len(sequences)), mask.sum(dim=1) - 1]
        else:
            counted = mask * (
                torch.arange(ids.shape[1], device=ids.device) >= torch.tensor(begins, device=ids.device)[:, None]
            )
            pooled = (states * counted[..., None]).sum(dim=1) / counted.sum(dim=1, keepdim=True)
        vectors: np.ndarray = pooled.cpu().numpy()
        return vectors

    def _generate(self, prompts: list[list[int]]) -> list[list[int]]:
        """Return the tokens of the answers, without the end mark."""
        model = self._load()
        ids, mask = self._padded(prompts, left=True)
        config = model.generation_config
        marks = config.eos_token_id if config.eos_token_id is not None else self._tokenizer.eos_token_id
        ends = set() if marks is None else set(marks) if isinstance(marks, (list, tuple)) else {marks}
        written = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=self._new, do_sample=False, num_beams=1,
            temperature=None, top_p=None, top_k=None, eos_token_id=sorted(ends) or None, pad_token_id=self._filler,
        )  # fmt: skip
        answers = []
        for row in written[:, ids.shape[1] :].tolist():
            end = next((i for i, token in enumerate(row) if token in ends), len(row))
            answers.append(row[:end])
        return answers

    @property
    def _filler(self) -> int:
        return next((t for t in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id) if t is not None), 0)

    def _padded(self, sequences: list[list[int]], left: bool) -> tuple[Any, Any]:
        """Token ids and mask (N, L), both int64."""
        import torch

        length = max(len(sequence) for sequence in sequences)
        ids = torch.full((len(sequences), length), self._filler)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            place = slice(length - len(sequence), length) if left else slice(0, len(sequence))
            ids[row, place] = torch.tensor(sequence)
            mask[row, place] = 1
        return ids.to(self.device), mask.to(self.device)
