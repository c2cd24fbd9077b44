"""Douban: ratings of books, music and films by the same users (Zhu et al., CIKM 2019).

https://www.kaggle.com/datasets/fengzhujoey/douban-datasetratingreviewside-information. Ids of items get the domain
before them: they are counted anew in each.
"""

from __future__ import annotations

from recbole_msr.data.public.columns import (
    chained,
    date_time,
    first_characters,
    key,
    no_number_is_missing,
    number,
    plain_text,
    prefixed,
    token,
)
from recbole_msr.data.public.spec import PublicSet, Published, Raw, Table
from recbole_msr.files.text_rows import TextForm

_TABS = TextForm(("\t",), strict=False)
_SECONDS = date_time("%Y-%m-%d %H:%M:%S", "%Y-%m-%d", "%Y/%m/%d")
_PUBLISHED = {
    "book": Published(227_251, 2_212, 95_872),
    "music": Published(179_847, 1_820, 79_878),
    "movie": Published(1_278_401, 2_712, 34_893),
}


def _file(domain: str) -> Raw:
    step = prefixed(f"{domain}-", f"{domain}_id")
    return Raw(f"{domain}reviews_cleaned.txt", _TABS, constants={"domain": domain}, step=lambda folder, path: step)


SETS = (
    PublicSet(
        "douban",
        Table(
            tuple(_file(domain) for domain in _PUBLISHED),
            {
                "user_id": key("user_id"),
                "item_id": key(*(f"{domain}_id" for domain in _PUBLISHED)),
                "domain": key("domain"),
                "rating": number("rating"),
                "timestamp": number("time", convert=chained(_SECONDS, no_number_is_missing)),
                "time": token("time", convert=plain_text),
            },
        ),
        user=Table(
            (Raw("users_cleaned.txt", _TABS),),
            {
                "user_id": key("UID"),
                "living_place": token("living_place", convert=plain_text),
                "join_month": token("join_time", convert=chained(plain_text, first_characters(7))),
            },
        ),
        preset="douban",
        counted_by="domain",
        published=_PUBLISHED,
        source="Scenario-Wise-Rec",
    ),
)
