"""KuaiSAR: the search and the recommendation of Kuaishou, by the same users (Sun et al., CIKM 2023, arXiv 2306.07705).

https://kuaisar.github.io. Searches have clicks alone; recommendations have five kinds of feedback and the play time.
"""

from __future__ import annotations

from recbole_msr.data.public.columns import bracketed, key, milliseconds, number, token, tokens, words
from recbole_msr.data.public.spec import PublicSet, Published, Raw, Table

_INTER = {
    "user_id": key("user_id"),
    "item_id": key("item_id"),
    "timestamp": number("timestamp", "search_session_timestamp", convert=milliseconds),
    "service": key("service"),
    "click": number("click", "click_cnt"),
    **{name: number(name, optional=True) for name in ("like", "follow", "forward", "search", "search_item_related")},
    **{name: number(name, optional=True) for name in ("playing_time", "duration_ms")},
    **{name: token(name, optional=True) for name in ("search_session_id", "search_source", "item_type")},
    "keyword": words("keyword", convert=bracketed, optional=True),
}
_LEVELS = ("first", "second", "third", "fourth")
_ITEM = {
    "item_id": key("item_id"),
    "caption": words("caption", convert=bracketed),
    "author_id": token("author_id"),
    "item_kind": token("item_type"),
    **tokens("upload_time upload_type"),
    **tokens(" ".join(f"{level}_level_category_id" for level in _LEVELS)),
    "category_names": words("first_level_category_name_en", optional=True),
}
_RECOMMENDED = Raw("rec_inter.csv", constants={"service": "recommendation"})
_SEARCHED = Raw("src_inter.csv", constants={"service": "search"})


def _version(name: str, published: dict[str, Published]) -> PublicSet:
    return PublicSet(
        name,
        Table((_RECOMMENDED, _SEARCHED), _INTER),
        user=Table(
            (Raw("user_features.csv"),),
            {"user_id": key("user_id"), **tokens("search_active_level rec_active_level onehot_feat1 onehot_feat2")},
        ),
        item=Table((Raw("item_features.csv"),), _ITEM, only_used=True),
        preset="kuaisar",
        counted_by="service",
        published=published,
        source="KuaiSAR's page",
        left_out={"social_network.csv": "who follows whom"},
    )


SETS = (
    _version(
        "kuaisar",
        {
            "": Published(19_664_885, 25_877, 6_890_707),
            "search": Published(5_059_169, 25_877, 3_026_189),
            "recommendation": Published(14_605_716, 25_877, 4_046_367),
        },
    ),
    _version("kuaisar-small", {"recommendation": Published(7_493_101, 25_877, 2_281_034)}),
)
