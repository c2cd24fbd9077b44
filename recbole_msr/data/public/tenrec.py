"""Tenrec: videos and articles in two feeds of Tencent (Yuan et al., NeurIPS 2022).

https://tenrec0.github.io. Users are the same ones in all four files. Ids of articles get a prefix: they are counted
apart from those of videos. Rows of articles are clicks alone.
"""

from __future__ import annotations

from recbole_msr.data.public.columns import key, label, missing, number, prefixed, token
from recbole_msr.data.public.spec import PublicSet, Published, Raw, Table

_UNKNOWN = missing("\\N")
_INTER = {
    "user_id": key("user_id"),
    "item_id": key("item_id"),
    "scenario": key("scenario"),
    "click": label("click"),
    **{
        name: number(name, convert=_UNKNOWN, optional=True)
        for name in ("like", "follow", "share", "favorite", "read", "read_time", "watching_times")
    },
    **{name: token(name, convert=_UNKNOWN) for name in ("gender", "age")},
    "category": token("video_category", "category_first", convert=_UNKNOWN),
    "subcategory": token("category_second", convert=_UNKNOWN, optional=True),
}


def _file(name: str) -> Raw:
    step = (lambda folder, path: prefixed("article-", "item_id")) if name.endswith("article") else None
    return Raw(f"{name}.csv", optional=True, constants={"scenario": name}, step=step)


_PUBLISHED = {
    "QK-video": Published(493_458_970, 5_022_750, 3_753_436),
    "QB-video": Published(2_442_299, 34_240, 130_637),
    "QK-article": Published(46_111_728, 1_325_838, 220_122),
    "QB-article": Published(348_736, 24_516, 7_355),
}
SETS = (
    PublicSet(
        "tenrec",
        Table(tuple(_file(name) for name in _PUBLISHED), _INTER),
        preset="tenrec",
        counted_by="scenario",
        published=_PUBLISHED,
        source="the paper's table",
    ),
)
