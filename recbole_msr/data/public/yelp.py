"""Yelp Open Dataset: reviews of businesses.

https://business.yelp.com/data/resources/open-dataset/.
"""

from __future__ import annotations

import pyarrow as pa

from recbole_msr.data.public.columns import date_time, key, label, number, plain_text, split, token, words
from recbole_msr.data.public.spec import JsonForm, PublicSet, Published, Raw, Table

_TEXT, _NUMBER = pa.string(), pa.float64()
_REVIEW = JsonForm(
    {
        **dict.fromkeys(("review_id", "user_id", "business_id", "date"), _TEXT),
        **dict.fromkeys(("stars", "useful", "funny", "cool"), _NUMBER),
    },
    ("user_id", "business_id", "stars"),
)
_BUSINESS = JsonForm(dict.fromkeys(("business_id", "name", "city", "state", "categories"), _TEXT), ("business_id",))
_FILE = "yelp_academic_dataset"

SETS = (
    PublicSet(
        "yelp",
        Table(
            (Raw(f"{_FILE}_review.json", _REVIEW),),
            {
                "user_id": key("user_id"),
                "item_id": key("business_id"),
                "stars": label("stars"),
                "timestamp": number("date", convert=date_time("%Y-%m-%d %H:%M:%S", "%Y-%m-%d")),
                **{name: number(name) for name in ("useful", "funny", "cool")},
            },
        ),
        item=Table(
            (Raw(f"{_FILE}_business.json", _BUSINESS),),
            {
                "item_id": key("business_id"),
                "name": words("name"),
                **{name: token(name, convert=plain_text) for name in ("city", "state")},
                "categories": words("categories", convert=split(",")),
            },
        ),
        preset="yelp",
        published={"": Published(6_990_280, 1_987_929, 150_346)},
        source="RecBole's RecSysDatasets, yelp2022",
        left_out={
            f"{_FILE}_user.json": "counts as of the end of the data, and friends",
            f"{_FILE}_tip.json": "tips",
            f"{_FILE}_checkin.json": "times of visits without their users",
        },
    ),
)
