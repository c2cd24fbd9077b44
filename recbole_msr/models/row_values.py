"""What is the same for a training row in every epoch: computed once, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_TABLE_BYTES = 1 << 29
"""Numbers of rows are kept up to so many bytes, and else computed anew in each epoch."""


class RowValues:
    """A few numbers for each training row, each computed when it is first asked for.

    No module's state holds them, and copies of a model share them.

    Args:
        n_rows: how many training rows there are.
        width: P, numbers of a row.
    """

    def __init__(self, n_rows: int, width: int) -> None:
        self._shape = (n_rows, width)
        self._table: Tensor | None = None

    @property
    def has_room(self) -> bool:
        """Whether the values of all rows can be kept."""
        return 4 * self._shape[0] * self._shape[1] <= _TABLE_BYTES

    @torch.no_grad()
    def of(self, rows: Tensor, wanted: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the values (B, P) of a batch's rows, float32; those that are not wanted are not to be used.

        Args:
            rows: numbers of the training rows (B,); -1 for a drawn one, which is not kept.
            wanted: whose values are asked for (B,).
            compute: makes the values (n, P) of places (n,) in the batch.
        """
        with torch.inference_mode(False):
            if self._table is None or self._table.device != rows.device:
                self._table = torch.full(self._shape, torch.nan, dtype=torch.float32, device=rows.device)
            values = self._table[rows.clamp(min=0)]
        values[rows < 0] = torch.nan
        absent = (wanted & values[:, 0].isnan()).nonzero().squeeze(1)
        if len(absent):
            found = compute(absent).float()
            values[absent] = found
            kept = rows[absent] >= 0
            self._table[rows[absent][kept]] = found[kept]
        return values

    def __deepcopy__(self, memo: dict[int, Any]) -> RowValues:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}
