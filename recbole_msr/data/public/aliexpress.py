"""AliExpress: searches in four countries, with clicks and purchases (Li et al., CIKM 2020).

https://tianchi.aliyun.com/dataset/74690. Rows are joined with their search, and columns are called as in MTReclib
(https://github.com/easezyc/Multitask-Recommendation-Library), whose sixteen categories and 63 numbers they are. The
data name neither users nor items: the first category of the user and of the item stand in their places.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.public.columns import key, label, number, token
from recbole_msr.data.public.lookup import Lookup
from recbole_msr.data.public.raw_files import find_files
from recbole_msr.data.public.spec import Convert, PublicSet, Raw, Step, Table
from recbole_msr.errors import InputError
from recbole_msr.files.text_rows import TextForm

_ITEM = TextForm(names=tuple(f"item_{i}" for i in range(1, 50)))
_USER = TextForm(names=tuple(f"user_{i}" for i in range(1, 34)))
_ITEM_CATEGORIES = (19, 34, 35, 36, 40, 41, 42)
_CATEGORIES = (
    *(f"user_{i}" for i in (*range(2, 9), 32, 33)),
    *(f"item_{i}" for i in _ITEM_CATEGORIES),
)
_NUMBERS = (
    *(f"user_{i}" for i in range(9, 32)),
    *(f"item_{i}" for i in range(2, 49) if i not in _ITEM_CATEGORIES),
)
_COUNTRIES = ("NL", "ES", "FR", "US")


def _step(folder: Path, path: Path) -> Step:
    """Read the searches that belong to a file of items, and return what joins them."""
    name = path.name.removesuffix(".gz").replace("_item_", "_user_")
    found = find_files(folder, name)
    if not found:
        raise InputError(f"{folder} has neither {name} nor {name}.gz, the searches of {path.name}")
    columns = {column: (column, None) for column in (*_CATEGORIES, *_NUMBERS) if column.startswith("user")}
    searches = Lookup(found[0], _USER, "user_1", columns, [name for name in columns if name in _NUMBERS])
    return lambda batch: searches.join(batch, "item_1")


def _at_least(smallest: int) -> Convert:
    """Return a function that makes 1 of the labels from `smallest` on; the labels are 0, 1 (click) and 2 (purchase)."""

    def convert(cells: pa.Array) -> pa.Array:
        known = pc.is_in(cells, pa.array(["0", "1", "2"]))
        return pc.if_else(known, pc.if_else(pc.greater_equal(cells, str(smallest)), "1", "0"), cells)

    return convert


def _files(country: str) -> tuple[Raw, ...]:
    return tuple(
        Raw(f"{country.lower()}_item_{part}.csv", _ITEM, True, {"country": country}, part=part, step=_step)
        for part in ("train", "test")
    )


SETS = (
    PublicSet(
        "aliexpress",
        Table(
            tuple(raw for country in _COUNTRIES for raw in _files(country)),
            {
                "search_id": key("item_1"),
                "country": key("country"),
                "click": label("item_49", convert=_at_least(1)),
                "conversion": label("item_49", convert=_at_least(2)),
                **{f"categorical_{i}": token(name) for i, name in enumerate(_CATEGORIES, start=1)},
                **{f"numerical_{i}": number(name) for i, name in enumerate(_NUMBERS, start=1)},
            },
        ),
        preset="aliexpress",
        counted_by="country",
        source="none are published with the data",
        user_field="categorical_1",
        item_field="categorical_10",
    ),
)
