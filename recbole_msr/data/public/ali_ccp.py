"""Ali-CCP: what Taobao showed, with clicks and purchases (Ma et al., SIGIR 2018).

https://tianchi.aliyun.com/dataset/408. A row's features
are written in one cell, as field, id and weight; those of its user stand in another file, under a common index. Taken
are the eighteen fields of AITM (Xi et al., KDD 2021): 101 is the user, 205 the item, 301 the scenario. As there, a row
without a field has the id 0.
"""

from __future__ import annotations

from pathlib import Path

from recbole_msr.data.public.columns import filled, key, label, matched
from recbole_msr.data.public.lookup import Lookup
from recbole_msr.data.public.raw_files import find_files
from recbole_msr.data.public.spec import Convert, PublicSet, Published, Raw, Step, Table
from recbole_msr.errors import InputError
from recbole_msr.files.text_rows import Batch, TextForm

_SKELETON = TextForm(names=("sample_id", "click", "purchase", "common", "count", "features"), quoted=False)
_COMMON = TextForm(names=("common", "count", "features"), quoted=False)
_OF_USER = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
_OF_ROW = ("205", "206", "207", "216", "508", "509", "702", "853", "301")


def _id_of(field: str) -> Convert:
    r"""Return a function that finds a field's id among features: field \x02 id \x03 weight, with \x01 between them."""
    return matched(f"(?:^|\x01){field}\x02(?P<kept>[^\x03]*)\x03")


def _step(folder: Path, path: Path) -> Step:
    """Read the users' features that belong to a file of rows, and return what joins them and finds the fields."""
    name = path.name.removesuffix(".gz").replace("sample_skeleton", "common_features")
    found = find_files(folder, name)
    if not found:
        raise InputError(f"{folder} has neither {name} nor {name}.gz, the users' features of {path.name}")
    users = Lookup(found[0], _COMMON, "common", {field: ("features", _id_of(field)) for field in _OF_USER})

    def step(batch: Batch) -> Batch:
        joined = users.join(batch, "common")
        rows, features = joined.columns, joined.columns.column("features")
        for field in _OF_ROW:
            rows = rows.append_column(field, _id_of(field)(features))
        return Batch(rows, batch.place)

    return step


_NAMES = {"101": "user_id", "205": "item_id"}
SETS = (
    PublicSet(
        "ali-ccp",
        Table(
            tuple(Raw(f"sample_skeleton_{part}.csv", _SKELETON, part=part, step=_step) for part in ("train", "test")),
            {
                **{_NAMES.get(field, f"f{field}"): key(field, convert=filled("0")) for field in (*_OF_USER, *_OF_ROW)},
                "click": label("click"),
                "purchase": label("purchase"),
            },
        ),
        preset="ali-ccp",
        published={"": Published("85.3M")},
        source="Scenario-Wise-Rec",
    ),
)
