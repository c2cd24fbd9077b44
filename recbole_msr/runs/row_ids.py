"""Find the ids of raw values of new rows, whatever type a table keeps them in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.table_rows import bucket_of
from recbole_msr.data.vocabulary import text_column
from recbole_msr.runs.row_columns import decode_distinct, distinct_values, encode_distinct, gather, is_text, no_text
from recbole_msr.schema import as_token

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?", re.ASCII)
"""Matches a whole number, which a table with gaps writes as 3.0; 007 is a name."""
_USUAL = r"^(0|-?[1-9][0-9]{0,18})$"
"""Matches a whole number of at most 19 digits, as it is written without decimals."""
_WITH_DECIMALS = r"^-?(0|[1-9][0-9]*)\.0+$"
_FEW = 8
"""A table of all tokens is hashed for a column's distinct texts where these are no fewer than an eighth of them."""
_EXACT = 1 << 24
"""Below it float32 holds every whole number."""
_SMALL, _SPARSE = 1 << 16, 16
"""Whole numbers up to the first, or the second times their count, are looked up in an array, others in a hash table."""

_Ids = Mapping[Any, int] | Callable[[], Mapping[Any, int]]


class Vocabulary:
    """Finds the ids of raw values, whatever type a table keeps them in.

    The text of a value comes first. Where the vocabulary has no such text, a whole number also goes by its other
    spellings (3, 3.0), unless the vocabulary holds several of them.

    Args:
        ids: ids by token, or a function that returns them, called when a value other than a whole number is looked up;
            0 (padding) is the id of no value.
        tokens: the tokens by id (V,), where they are at hand as an Arrow column.

    >>> Vocabulary({"3.0": 1, "x": 2}).find(3)
    1
    """

    def __init__(self, ids: _Ids, tokens: pa.Array | None = None) -> None:
        self._given, self._tokens = ids, tokens

    @cached_property
    def _ids(self) -> Mapping[Any, int]:
        return self._given() if callable(self._given) else self._given

    @cached_property
    def _column(self) -> pa.Array:
        if self._tokens is not None:
            return self._tokens
        by_id = {number: token for token, number in self._ids.items() if isinstance(token, str)}
        return text_column([by_id.get(number) for number in range(max(by_id, default=-1) + 1)])

    @cached_property
    def _spelled(self) -> dict[str, set[int]]:
        """Ids of the tokens that are whole numbers with decimals, by the number's text."""
        spelled: dict[str, set[int]] = {}
        places = np.flatnonzero(pc.fill_null(pc.match_substring_regex(self._column, _WITH_DECIMALS), False))
        for place, token in zip(places.tolist(), self._column.take(pa.array(places)).to_pylist(), strict=True):
            spelled.setdefault(token.split(".")[0], set()).add(place)
        return spelled

    @cached_property
    def _by_number(self) -> NumberIds:
        return NumberIds(self._column)

    def find(self, value: Any) -> int:
        """Return the id of a value, 0 where there is none."""
        if isinstance(value, bool):
            return self._ids.get(str(value), 0) or self._only("true" if value else "false", "1" if value else "0")
        if isinstance(value, int) and str(value) in self._ids:
            return self._ids[str(value)]
        if isinstance(value, (int, float, Decimal)) and math.isfinite(value) and value == int(value):
            return self._only(str(int(value)))
        text = str(value)
        if text in self._ids:
            return self._ids[text]
        if not self._spelled and "." not in text:
            return 0
        whole = _WHOLE.fullmatch(text)
        return self._only(whole[1]) if whole else 0

    def ids(self, values: Sequence[Any]) -> np.ndarray:
        """Return `find` of values that are all of one type, shape (N,)."""
        exact: Iterable[int | None] = [None] * len(values)
        if values and isinstance(values[0], (str, int)):  # of these types the text comes first: one look-up each
            exact = map(self._ids.get, values if isinstance(values[0], str) else map(str, values))
        pairs = zip(exact, values, strict=True)
        return np.array([self.find(value) if known is None else known for known, value in pairs], dtype=np.int64)

    def ids_of_texts(self, texts: Sequence[str]) -> np.ndarray | None:
        """Return `find` of texts (N,); None where one is empty, which is no value."""
        found = [*map(self._ids.get, texts)]
        if "" in self._ids or (not all(found) and "" in texts):
            return None
        if not all(found):
            found = [known or self.find(text) for known, text in zip(found, texts, strict=True)]
        return np.array(found, dtype=np.int64)

    def ids_of(self, name: str, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Return `find` of every cell of a column.

        Args:
            name: the column's name, for errors.
            column: (N,).

        Returns:
            Ids (N,), 0 where a cell is empty; and which cells are (N,).

        Raises:
            InputError: as `distinct_values`.
        """
        whole = whole_numbers(column)
        if whole is None:
            places, distinct = encode_distinct(name, column)
            if is_text(distinct.type) and _FEW * len(distinct) > len(self._column):
                return gather(self._ids_of_texts(name, distinct), places), places < 0
            return gather(self.ids(decode_distinct(name, distinct)), places), places < 0
        numbers, empty = whole
        # A whole number's own text comes before its other spellings; of one that is written 3.0 it does not.
        if pa.types.is_floating(column.type) and self._spelled:
            found = np.zeros(len(numbers), dtype=np.int64)
        else:
            found = self._by_number.find(numbers)
        if self._spelled or self.finds_all:
            rest = np.flatnonzero((found == 0) & ~empty)
            distinct, places = np.unique(numbers[rest], return_inverse=True)
            spelled = map(float if pa.types.is_floating(column.type) else int, distinct.tolist())
            found[rest] = np.array([self.find(value) for value in spelled], dtype=np.int64)[places]
        if empty.any():
            found[empty] = 0
        return found, empty

    def _ids_of_texts(self, name: str, distinct: pa.Array) -> np.ndarray:
        """Return `find` of a column of text (D,), by a hash table that Arrow makes of all tokens."""
        found = pc.index_in(pc.cast(distinct, pa.large_string()), self._column).fill_null(0)
        ids: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.int64)
        may_be = pc.invert(distinct.is_null())
        if not (self._spelled or self.finds_all):
            may_be = pc.match_substring(distinct, ".").fill_null(False)
        rest = np.flatnonzero((ids == 0) & may_be.to_numpy(zero_copy_only=False))
        try:
            values = distinct.take(pa.array(rest)).to_pylist()
        except ValueError as error:
            raise no_text(name, distinct, error) from error
        ids[rest] = [self.find(value) for value in values]
        return ids

    finds_all = False
    """Whether values that are in no vocabulary have ids, too."""

    def _only(self, *texts: str) -> int:
        """Return the id of the only token with one of these spellings, 0 if there are several or none."""
        ids = {self._ids[text] for text in texts if text in self._ids}
        ids = ids.union(*(self._spelled.get(text, ()) for text in texts))
        return ids.pop() if len(ids) == 1 else 0


class HashedVocabulary(Vocabulary):
    """A vocabulary of V ids, whose unknown values have ids beyond it: V + the bucket of the value's hash.

    Args:
        ids: see `Vocabulary`; V of them.
        tokens: likewise.
        buckets: the number of buckets.
    """

    finds_all = True

    def __init__(self, ids: _Ids, tokens: pa.Array | None, buckets: int) -> None:
        super().__init__(ids, tokens)
        self._buckets = buckets

    def find(self, value: Any) -> int:
        """Return the id of a value: for one that is not in the vocabulary that of its bucket."""
        return super().find(value) or len(self._ids) + bucket_of(str(as_token(value)), self._buckets)


class NumberIds:
    """Ids of the tokens that are whole numbers as they are usually written (3, not 3.0 or 03).

    Args:
        tokens: by id (V,).
    """

    def __init__(self, tokens: pa.Array) -> None:
        is_whole = pc.fill_null(pc.match_substring_regex(tokens, _USUAL), False)
        texts = tokens.filter(is_whole)
        longest = pc.max(pc.binary_length(texts)).as_py() or 0
        numbers = (
            pc.cast(texts, pa.int64()).to_numpy(zero_copy_only=False)
            if longest < len(str(2**63))
            else np.array([int(text) if abs(int(text)) < 2**63 else 0 for text in texts.to_pylist()], dtype=np.int64)
        )
        ids = np.flatnonzero(is_whole)
        is_known = (ids > 0) & ((numbers != 0) | (np.asarray(pc.equal(texts, "0"))))  # 0 is the id of no value
        ids, numbers = ids[is_known], numbers[is_known]
        self._index: pd.Index | None = None
        largest = int(numbers.max(initial=-1))
        if len(numbers) and (numbers.min() < 0 or largest > max(_SMALL, _SPARSE * len(numbers))):
            self._index, self._of_place = pd.Index(numbers), np.append(ids, 0)
        else:
            self._of_number = np.zeros(largest + 2, dtype=np.int64)  # the last one is that of all larger numbers
            self._of_number[numbers] = ids

    def find(self, numbers: np.ndarray) -> np.ndarray:
        """Return the ids of whole numbers (N,), 0 where there is none."""
        found: np.ndarray
        if self._index is not None:
            found = self._of_place[self._index.get_indexer(pd.Index(numbers))]
        else:  # as an unsigned number a negative one is larger than all
            places = np.minimum(numbers.view(np.uint64), np.uint64(len(self._of_number) - 1))
            found = self._of_number[places.view(np.int64)]
        return found


def whole_numbers(column: pa.Array) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a column of whole numbers (N,) as int64, and which cells are empty (N,); None where it holds others.

    Numbers with decimals that are all whole (3.0), as a table with gaps writes them, are whole numbers, too.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    is_float = pa.types.is_float32(kind) or pa.types.is_float64(kind)
    if not (is_float or (pa.types.is_integer(kind) and not pa.types.is_uint64(kind))):
        return None
    empty = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(0, kind))
    values = column.to_numpy(zero_copy_only=False)
    if is_float:
        values = np.where(empty, 0, values)
        if not (np.abs(values) < _EXACT).all() or (values != np.floor(values)).any():
            return None
    return np.ascontiguousarray(values, dtype=np.int64), empty


def to_id_sequences(
    name: str, column: pa.Array, vocabulary: Vocabulary, length: int, separator: str
) -> tuple[np.ndarray, np.ndarray]:
    """Convert a column of lists, or of separated text, to sequences of ids.

    Args:
        name: the column's name, for errors.
        column: (N,).
        vocabulary: ids of tokens.
        length: the most tokens of a sequence; further ones are cut off.
        separator: between the tokens of a text.

    Returns:
        Ids (N, length), padded with 0; and which rows hold unknown tokens (N,).
    """
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _split_lists(name, column, vocabulary, length)
    places, values = distinct_values(name, column)
    lists = [value.split(separator) if isinstance(value, str) else [value] for value in values]
    sequences = [[vocabulary.find(token) for token in tokens if token != ""][:length] for tokens in lists]
    table = np.zeros((len(lists) + 1, length), dtype=np.int64)  # the last row is that of rows without a value
    for row, ids in enumerate(sequences):
        table[row, : len(ids)] = ids
    return table[places], gather([0 in ids for ids in sequences], places, False).astype(bool)


def _split_lists(name: str, column: pa.Array, vocabulary: Vocabulary, length: int) -> tuple[np.ndarray, np.ndarray]:
    places, values = distinct_values(name, pc.list_flatten(column))
    ids = gather(vocabulary.ids(values), places)
    rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)[places >= 0]
    ids = ids[places >= 0]
    position = np.arange(len(rows)) - np.searchsorted(rows, rows)
    rows, ids, position = (part[position < length] for part in (rows, ids, position))
    table, unknown = np.zeros((len(column), length), dtype=np.int64), np.zeros(len(column), dtype=bool)
    table[rows, position] = ids
    unknown[rows[ids == 0]] = True
    return table, unknown
