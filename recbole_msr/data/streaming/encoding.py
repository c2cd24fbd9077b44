"""Codes of tokens and numbers of cells, a batch at a time, as reading the atomic file of the same table gives them."""

from __future__ import annotations

from itertools import count

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from recbole.utils import FeatureType

from recbole_msr.data.atomic import NO_NUMBER
from recbole_msr.data.tables.columns import Place, as_text, check_text, first_no_number, plain_column, seconds

_LARGEST = 1 << 24
"""Whole numbers below it are looked up in an array, others in a dictionary."""


class TokenCodes:
    """Codes 0, 1, 2, ... of a column's tokens in the order of their first appearance; -1 for an empty cell.

    A code belongs to a token's text as an atomic file has it, whatever the column's type: 3, 3.0 and "3" are one.

    Args:
        field: the column's name, for errors.

    Attributes:
        tokens: text by code.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self.tokens: list[str] = []
        self._codes: dict[str, int] = {}
        self._of_number = np.full(0, -1, dtype=np.int32)
        self._by_number = True

    def encode(self, column: pa.Array, place: Place) -> np.ndarray:
        """Return the codes of a batch (n,), int32.

        Args:
            column: the cells, of any type.
            place: tells where row i is, for errors.

        Raises:
            InputError: a token holds what an atomic file cannot.
        """
        column = plain_column(column)
        codes: np.ndarray | None
        if self._by_number and pa.types.is_integer(column.type) and not column.null_count:
            codes = self._of_whole_numbers(column.to_numpy())
            if codes is not None:
                return codes
        self._to_text()
        encoded = column.dictionary_encode()
        places = pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64)
        text = as_text(
            self._field, encoded.dictionary, FeatureType.TOKEN, " ", lambda i: place(int((places == i).argmax()))
        )
        known, tokens = self._codes, self.tokens
        own = np.full(len(text) + 1, -1, dtype=np.int32)
        for number, token in enumerate(text.to_pylist()):
            if token:
                code = known.setdefault(token, len(tokens))
                if code == len(tokens):
                    tokens.append(token)
                own[number] = code
        codes = own[places]
        return codes

    def _of_whole_numbers(self, values: np.ndarray) -> np.ndarray | None:
        """Return the codes of whole numbers; None if one is negative or too large for an array of all."""
        if not len(values):
            return np.empty(0, dtype=np.int32)
        largest = int(values.max())
        if largest >= _LARGEST or int(values.min()) < 0:
            return None
        if largest >= len(self._of_number):
            more = np.full(max(largest + 1, min(2 * len(self._of_number), _LARGEST)), -1, dtype=np.int32)
            more[: len(self._of_number)] = self._of_number
            self._of_number = more
        codes: np.ndarray = self._of_number[values]
        unseen = codes < 0
        if unseen.any():
            new = pd.unique(values[unseen])
            self._of_number[new] = np.arange(len(self.tokens), len(self.tokens) + len(new))
            self.tokens.extend(map(str, new.tolist()))
            codes = self._of_number[values]
        return codes

    def _to_text(self) -> None:
        if self._by_number:
            self._by_number, self._of_number = False, np.empty(0, dtype=np.int32)
            self._codes = dict(zip(self.tokens, count(), strict=False))


def numbers(field: str, column: pa.Array, place: Place) -> np.ndarray:
    """Return the numbers of a batch (n,), float64; NaN where a cell holds none.

    Args:
        field: the column's name, for errors.
        column: the cells.
        place: tells where row i is, for errors.

    Raises:
        InputError: a cell holds text that is no number.
    """
    column = plain_column(column)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        check_text(field, column, place)
        if first_no_number(column) is not None:
            as_text(field, column, FeatureType.FLOAT, " ", place)  # names the cell
        column = pc.if_else(pc.is_in(column, pa.array(NO_NUMBER, kind)), None, column)
    elif pa.types.is_temporal(kind):
        column = seconds(column)
    elif pa.types.is_boolean(kind):
        column = pc.cast(column, pa.int8())
    elif pa.types.is_decimal(kind):
        column = pc.cast(column, pa.large_string())
    elif pa.types.is_float16(kind) or pa.types.is_float32(kind):
        column = pc.cast(column, pa.float32())
        values = column.to_numpy(zero_copy_only=False).astype(np.float64)
        uneven = np.isfinite(values) & (values != np.floor(values))
        if uneven.any():  # 0.1 in 32 bits is written as 0.1, which is another number in 64
            text = pc.cast(column.filter(pa.array(uneven)), pa.string())
            values[uneven] = pc.cast(text, pa.float64()).to_numpy()
        return np.asarray(values)
    found = pc.cast(column, pa.float64(), safe=False)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.float64)
