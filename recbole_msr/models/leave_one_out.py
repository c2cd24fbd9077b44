"""Profiles in training: that of a row's user is made of the user's other rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recbole_msr.data.rows import ROW_FIELD
from recbole_msr.models.frozen_vectors import FrozenVectors
from recbole_msr.prompts.own_rows import OwnRows

_TABLE_BYTES = 1 << 28
"""Parts are reduced beforehand, each by itself, up to so many bytes, and else batch by batch."""


def training_rows(interaction: Any) -> Tensor | None:
    """Return the numbers of a batch's rows among the training rows (B,), -1 for drawn ones; None where it has none."""
    has_rows = ROW_FIELD in interaction
    return interaction[ROW_FIELD] if has_rows else None


class _Shares(NamedTuple):
    """Those of `OwnRows`, of a batch or of all rows."""

    items: Tensor
    parts: Tensor
    shares: Tensor
    is_only: Tensor


class LeaveOneOut:
    """Takes training rows out of the profiles that they are part of.

    A part is a mean, m = sum_i w_i c_i / W with W = sum_i w_i, of item vectors c_i = v_i - mean v. Without the row j

        m' = m + w_j / (W - w_j) (m - c_j),   or m' = 0, the part of a user without such rows, if j is its only row

    The weights of the other rows stay: in `recent` they are no newer for it. All but the means is linear, so that a
    reduced profile changes by the reduced change.

    Args:
        rows: the rows' shares w / (W - w).
        items: the items' vectors v (I, H).
    """

    def __init__(self, rows: OwnRows, items: FrozenVectors) -> None:
        self.n_parts, self._items = rows.n_parts, items
        columns = (rows.items, rows.parts, rows.shares, rows.is_only)
        self._rows = _Shares(*(torch.from_numpy(column) for column in columns))
        self._mean = torch.from_numpy(sum(chunk.sum(axis=0) for chunk in items.chunks()) / len(items.matrix)).float()
        self._reduced: tuple[FrozenVectors, FrozenVectors] | None = None

    def is_only(self, rows: Tensor) -> Tensor:
        """Mark the rows (B,) beside which their owner has none: the owner is as unknown as one without any."""
        return self._of(rows).is_only

    def take_out(self, profiles: Tensor, rows: Tensor) -> Tensor:
        """Return profiles (B, P H) without the rows (B,) that they are read for; they are written over."""
        of = self._of(rows)
        parts = profiles.view(-1, self._items.size)
        places = self._places(torch.arange(len(rows), device=rows.device), of)
        own = self._items.gather(of.items) - self._mean
        change = _change(parts[places], own.unsqueeze(1), of.shares)
        return parts.index_add_(0, places.flatten(), change.flatten(0, 1)).view_as(profiles)

    def has_reduced(self, n_ids: int, size: int) -> bool:
        """Return whether there is room for parts that are reduced beforehand, to `size` numbers each."""
        return 4 * (n_ids + len(self._items.matrix)) * self.n_parts * size <= _TABLE_BYTES

    def reduced_change(self, ids: Tensor, rows: Tensor, profiles: FrozenVectors, components: Tensor) -> Tensor:
        """Return the change of reduced profiles (B, size) by leaving the rows out.

        Args:
            ids: of the owners (B,).
            rows: the rows (B,).
            profiles: of all owners, by id.
            components: the reduction (size, P H).
        """
        if self._reduced is None:
            self._reduced = self._reduce(profiles, components)
        of = self._of(rows)
        of_owners, of_items = self._reduced
        places = self._places(ids, of)
        own = of_items.gather(self._places(of.items, of).flatten()).view(*places.shape, -1)
        return _change(of_owners.gather(places.flatten()).view_as(own), own, of.shares).sum(dim=1)

    def projected(self, ids: Tensor, rows: Tensor, profiles: FrozenVectors, weight: Tensor) -> Tensor:
        """Return profiles (B, P H) without the rows that they are read for, times a learned matrix: (B, size).

        A batch has fewer owners and items than rows, and the product is made of each of them once.

        Args:
            ids: of the owners (B,).
            rows: the rows (B,).
            profiles: of all owners, by id.
            weight: the matrix (size, P H).
        """
        of = self._of(rows)
        by_part = weight.unflatten(1, (self.n_parts, -1))
        owners, owner = ids.unique(return_inverse=True)
        items, item = of.items.unique(return_inverse=True)
        own = profiles.gather(owners).to(weight.dtype).unflatten(1, (self.n_parts, -1))
        centred = (self._items.gather(items) - self._mean).to(weight.dtype)
        m = torch.einsum("nph,sph->nps", own, by_part)
        c = torch.einsum("nh,sph->nps", centred, by_part)
        m_of, c_of = (parts.flatten(0, 1)[self._places(places, of)] for parts, places in ((m, owner), (c, item)))
        return m.sum(dim=1)[owner] + _change(m_of, c_of, of.shares).sum(dim=1)

    def forget(self) -> None:
        """Let reduced parts go, of components that are others now."""
        self._reduced = None

    @torch.no_grad()
    def _reduce(self, profiles: FrozenVectors, components: Tensor) -> tuple[FrozenVectors, FrozenVectors]:
        by_part = components.float().cpu().unflatten(1, (self.n_parts, -1))  # (size, P, H)
        n_ids = len(profiles.has())
        owners = [
            torch.einsum("nph,sph->nps", profiles.gather(ids).unflatten(1, (self.n_parts, -1)), by_part)
            for ids in torch.arange(n_ids).split(4096)
        ]
        items = [
            torch.einsum("nh,sph->nps", self._items.gather(ids) - self._mean.cpu(), by_part)
            for ids in torch.arange(len(self._items.matrix)).split(4096)
        ]
        of_owners, of_items = (FrozenVectors(torch.cat(parts).flatten(0, 1).numpy()) for parts in (owners, items))
        return of_owners, of_items

    def _places(self, owners: Tensor, of: _Shares) -> Tensor:
        """Return where the rows' parts stand (B, 3) in a table of the parts of all owners, or items (B,)."""
        return owners.unsqueeze(1) * self.n_parts + of.parts

    def _of(self, rows: Tensor) -> _Shares:
        """Return the shares of rows (B,); a drawn row has none."""
        if self._rows.shares.device != rows.device:
            with torch.inference_mode(False):
                self._rows = _Shares(*(column.to(rows.device) for column in self._rows))
                self._mean = self._mean.to(rows.device)
        is_drawn = rows < 0
        items, parts, shares, is_only = (column.index_select(0, rows.clamp(min=0)) for column in self._rows)
        shares = shares.masked_fill(is_drawn.unsqueeze(1), 0.0)
        return _Shares(items.long(), parts.long(), shares, is_only & ~is_drawn)

    def __deepcopy__(self, memo: dict[int, Any]) -> LeaveOneOut:
        return self


def _change(parts: Tensor, own: Tensor, shares: Tensor) -> Tensor:
    """Return m' - m (B, 3, ...) of parts m, own items c and shares w / (W - w) (B, 3), or `ALL`, -1, for m' = 0."""
    shares = shares.unsqueeze(2)
    return shares * parts - shares.clamp(min=0) * own
