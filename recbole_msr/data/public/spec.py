"""What a public dataset is: its raw files, the columns that are made of them, its preset and its published counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from recbole_msr.files.text_rows import CSV, Batch, TextForm

Convert = Callable[[pa.Array], pa.Array]
"""Makes the text of a column's cells of the raw ones; a missing cell stays missing."""
Step = Callable[[Batch], Batch]
"""Makes other rows of a batch, such as a row of each item of a list that was shown."""


@dataclass(frozen=True)
class JsonForm:
    """A file with a JSON object in each line.

    Attributes:
        fields: the keys that are read, and the Arrow type of their values.
        needed: those that every line has.
    """

    fields: Mapping[str, pa.DataType]
    needed: tuple[str, ...]


@dataclass(frozen=True)
class MatrixForm:
    """A MATLAB file that holds one matrix.

    Attributes:
        names: its columns.
        optional: further columns, which a version of the file may have.
    """

    names: tuple[str, ...]
    optional: tuple[str, ...] = ()


Form = TextForm | JsonForm | MatrixForm


@dataclass(frozen=True)
class Raw:
    """A raw file, or several of the same form.

    Attributes:
        name: its name, or a pattern of names such as `*_5.json`, anywhere below the raw folder; `.gz` may follow. A
            folder before it must be there too: `*train*/news.tsv`.
        form: how it holds its rows.
        optional: whether it may be absent.
        constants: columns with the same value in all of its rows.
        named: a column whose value is what the pattern's star stands for.
        unlike: a pattern of names that are not meant.
        part: `train`, `test`, or None where the set has no splits of its own.
        step: a function that is called with the raw folder and the file, and returns a step for its batches.
    """

    name: str
    form: Form = CSV
    optional: bool = False
    constants: Mapping[str, str] = field(default_factory=dict)
    named: str | None = None
    unlike: str | None = None
    part: str | None = None
    step: Callable[[Path, Path], Step] | None = None


@dataclass(frozen=True)
class Column:
    """A column of an atomic file.

    Attributes:
        kind: its type: token, token_seq, float.
        sources: the raw columns that it may be made of: the first that a file has.
        convert: makes its cells of the raw ones; None: they stay as they are.
        is_needed: whether every row has a value.
        is_optional: whether a file may have none of `sources`: its rows have no value.
    """

    kind: str
    sources: tuple[str, ...]
    convert: Convert | None = None
    is_needed: bool = False
    is_optional: bool = False


@dataclass(frozen=True)
class Table:
    """An atomic file: what it is read from, and its columns by name, in their order.

    Attributes:
        raws: its raw files.
        columns: its columns.
        is_complete: of users or items: whether it must have all that the interactions have.
        only_used: of users or items: whether those without an interaction are left out.
    """

    raws: tuple[Raw, ...]
    columns: Mapping[str, Column]
    is_complete: bool = False
    only_used: bool = False


@dataclass(frozen=True)
class Published:
    """Counts that a source gives: whole ones, or rounded ones such as "17.7M"; None where it gives none."""

    rows: int | str
    users: int | str | None = None
    items: int | str | None = None


@dataclass(frozen=True)
class PublicSet:
    """A public dataset.

    Attributes:
        name: its name, for `recbole-msr data NAME`.
        inter: the interactions.
        user: the users; None where the raw files say nothing of them.
        item: the items; likewise.
        preset: the name of its preset in `properties/public/` or `properties/dataset/`.
        counted_by: the column by whose values rows are counted and compared; None: all together.
        published: counts by value of that column, or by "" for all.
        source: where these counts are published.
        left_out: raw files that are not read, by pattern, and why.
        user_field: the column of users; where the raw files name none, what stands in its place.
        item_field: the column of items; likewise.
    """

    name: str
    inter: Table
    preset: str
    source: str
    user: Table | None = None
    item: Table | None = None
    counted_by: str | None = None
    published: Mapping[str, Published] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    user_field: str = "user_id"
    item_field: str = "item_id"

    @property
    def sides(self) -> dict[str, Table]:
        """Return the tables of users and items, by suffix."""
        return {suffix: table for suffix, table in (("user", self.user), ("item", self.item)) if table is not None}

    @property
    def has_splits(self) -> bool:
        """Return whether the raw files are split into training and test rows."""
        return any(raw.part is not None for raw in self.inter.raws)
