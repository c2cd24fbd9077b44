"""Frappe: apps that were used, with the context (Baltrunas et al., arXiv 1505.03014). Positives alone.

https://github.com/irecsys/CARSKit, context-aware_data_sets/Mobile_Frappe.zip.
"""

from __future__ import annotations

from recbole_msr.data.public.columns import key, label, plain_text, token, tokens, words
from recbole_msr.data.public.spec import PublicSet, Published, Raw, Table
from recbole_msr.files.text_rows import TextForm

_TABS = TextForm(("\t", ","), strict=False)
_CONTEXT = "daytime weekday isweekend homework cost weather country city"
_APP = ("category", "downloads", "developer", "language", "price")

SETS = (
    PublicSet(
        "frappe",
        Table(
            (Raw("frappe.csv", _TABS),),
            {"user_id": key("user"), "item_id": key("item"), "cnt": label("cnt"), **tokens(_CONTEXT)},
        ),
        item=Table(
            (Raw("meta.csv", _TABS),),
            {
                "item_id": key("item"),
                **{name: token(name, convert=plain_text) for name in _APP},
                "stars": token("rating", convert=plain_text),
                "name": words("name"),
            },
        ),
        preset="frappe",
        published={"": Published(96_203, 957, 4_082)},
        source="the data's README",
    ),
)
