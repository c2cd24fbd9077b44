"""MIND: news that Microsoft News showed, with the clicks (Wu et al., ACL 2020).

https://msnews.github.io. A row is one news of an impression. The training and the validation folder are read; the
test folder tells no clicks.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from recbole_msr.data.public.columns import date_time, key, label, number, tokens, words
from recbole_msr.data.public.spec import PublicSet, Published, Raw, Table
from recbole_msr.files.text_rows import Batch, TextForm

_BEHAVIORS = TextForm(("\t",), ("impression_id", "user_id", "time", "history", "impressions"), quoted=False)
_NEWS = TextForm(
    ("\t",),
    ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"),
    quoted=False,
)


def _shown(batch: Batch) -> Batch:
    """Make a row of each news of an impression, which is written as N1-0 N2-1."""
    rows = batch.columns
    shown = pc.split_pattern_regex(pc.utf8_trim_whitespace(rows.column("impressions")), r"\s+")
    parents = pc.list_parent_indices(shown)
    parts = pc.extract_regex(pc.list_flatten(shown), r"^(?P<news>.+)-(?P<click>[01])$")
    columns = {
        "user_id": rows.column("user_id").take(parents),
        "time": rows.column("time").take(parents),
        "impression_id": rows.column("impression_id").take(parents),
        "news_id": pc.struct_field(parts, "news"),
        "click": pc.struct_field(parts, "click"),
    }
    return Batch(pa.record_batch(columns), lambda i: batch.place(parents[i].as_py()))


def _version(name: str, published: Published) -> PublicSet:
    folders = ("*train*", "*dev*")
    return PublicSet(
        name,
        Table(
            tuple(Raw(f"{folder}/behaviors.tsv", _BEHAVIORS, step=lambda folder, path: _shown) for folder in folders),
            {
                "user_id": key("user_id"),
                "item_id": key("news_id"),
                "timestamp": number("time", convert=date_time("%m/%d/%Y %I:%M:%S %p")),
                "click": label("click"),
                **tokens("impression_id"),
            },
        ),
        item=Table(
            tuple(Raw(f"{folder}/news.tsv", _NEWS) for folder in folders),
            {
                "item_id": key("news_id"),
                **tokens("category subcategory"),
                "title": words("title"),
                "abstract": words("abstract"),
            },
            is_complete=True,
        ),
        preset="mind",
        published={"": published},
        source="counts of its training and validation folders",
    )


SETS = (
    _version("mind-small", Published(8_584_442, 94_057, 22_771)),
    _version("mind-large", Published(97_592_931, 750_434, 29_309)),
)
