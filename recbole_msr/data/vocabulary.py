"""The tokens that ids stand for, as a dataset and its cache keep them: decoded when they are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

import numpy as np
import pyarrow as pa
import torch

Encoded = tuple[torch.Tensor, torch.Tensor]
"""The tokens of a field in UTF-8, one after the other (bytes,), and where each ends (tokens,)."""


class Vocabularies(MutableMapping[str, np.ndarray]):
    """Field -> its tokens by id (RecBole's `field2id_token`), decoded when a field is first asked for.

    Args:
        encoded: field -> its tokens as `encode` gives them.
    """

    def __init__(self, encoded: Mapping[str, Encoded] | None = None) -> None:
        self._encoded = dict(encoded or {})
        self._tokens: dict[str, np.ndarray] = {}

    def size(self, field: str) -> int:
        """Return the number of tokens of a field, without decoding them."""
        return len(self._encoded[field][1]) if field in self._encoded else len(self._tokens[field])

    def column(self, field: str) -> pa.Array:
        """Return the tokens of a field by id as an Arrow column, without decoding those that are still encoded.

        Half a surrogate, which UTF-8 does not have, makes its token null.
        """
        if field in self._encoded:
            text, ends = self._encoded[field]
            offsets = np.concatenate([[0], ends.numpy()]).astype(np.int64)
            column = pa.LargeStringArray.from_buffers(
                len(ends), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(text.numpy()))
            )
            with contextlib.suppress(pa.ArrowException):
                column.validate(full=True)
                return column
        return text_column(self[field].tolist())

    def copy(self) -> Vocabularies:
        """Return a shallow copy."""
        other = Vocabularies(self._encoded)
        other._tokens = dict(self._tokens)
        return other

    def __getitem__(self, field: str) -> np.ndarray:
        if field not in self._tokens:
            self._tokens[field] = decode(self._encoded[field])
        return self._tokens[field]

    def __setitem__(self, field: str, tokens: np.ndarray) -> None:
        self._encoded.pop(field, None)
        self._tokens[field] = tokens

    def __delitem__(self, field: str) -> None:
        if field not in self:
            raise KeyError(field)
        self._encoded.pop(field, None)
        self._tokens.pop(field, None)

    def __contains__(self, field: object) -> bool:
        return field in self._encoded or field in self._tokens

    def __iter__(self) -> Iterator[str]:
        return iter([*self._encoded, *(field for field in self._tokens if field not in self._encoded)])

    def __len__(self) -> int:
        return sum(1 for _ in self)


class TokenIds(MutableMapping[str, dict[str, int]]):
    """Field -> id of every token (RecBole's `field2token_id`), made from the vocabulary when first asked for."""

    def __init__(self, vocabularies: Mapping[str, np.ndarray]) -> None:
        self._vocabularies = vocabularies
        self._ids: dict[str, dict[str, int]] = {}

    def __getitem__(self, field: str) -> dict[str, int]:
        if field not in self._ids:
            self._ids[field] = {token: i for i, token in enumerate(self._vocabularies[field].tolist())}
        return self._ids[field]

    def __setitem__(self, field: str, ids: dict[str, int]) -> None:
        self._ids[field] = ids

    def __delitem__(self, field: str) -> None:
        self._ids.pop(field, None)

    def __contains__(self, field: object) -> bool:
        return field in self._vocabularies or field in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter([*self._vocabularies, *(field for field in self._ids if field not in self._vocabularies)])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def encode(tokens: np.ndarray) -> Encoded:
    """Tokens as bytes, for a file."""
    with contextlib.suppress(pa.ArrowException, UnicodeError):  # half a surrogate, which UTF-8 does not have
        column = pa.array(tokens, pa.large_string())
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, dtype=np.int64)[1 : len(tokens) + 1]
        if not column.null_count:
            size = int(ends[-1]) if len(ends) else 0
            return torch.from_numpy(np.frombuffer(data, np.uint8, size).copy()), torch.from_numpy(ends.copy())
    parts = [str(token).encode("utf-8", "surrogatepass") for token in tokens.tolist()]
    text = np.frombuffer(b"".join(parts), dtype=np.uint8)
    return torch.from_numpy(text.copy()), torch.from_numpy(np.cumsum([len(part) for part in parts], dtype=np.int64))


def decode(encoded: Encoded) -> np.ndarray:
    """Return the tokens that `encode` was given."""
    text, ends = encoded[0].numpy().tobytes(), encoded[1].tolist()
    parts = [text[begin:end].decode("utf-8", "surrogatepass") for begin, end in zip([0, *ends], ends, strict=False)]
    return token_array(parts)


def text_column(tokens: Sequence[str | None]) -> pa.Array:
    """Return tokens as an Arrow column; half a surrogate, which UTF-8 does not have, makes its token null."""
    try:
        return pa.array(tokens, pa.large_string())
    except (pa.ArrowException, UnicodeError):
        return pa.array([token if _is_utf8(token) else None for token in tokens], pa.large_string())


def _is_utf8(token: str | None) -> bool:
    return token is not None and not any("\ud800" <= letter <= "\udfff" for letter in token)


def token_array(tokens: Sequence[str]) -> np.ndarray:
    """Tokens as an array of Python strings: in one of fixed width, each takes as much as the longest."""
    return np.array(tokens, dtype=object)
