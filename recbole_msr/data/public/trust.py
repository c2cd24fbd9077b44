"""Epinions and Ciao: ratings of products in categories, by users who trust each other (Tang et al., WSDM 2012).

https://www.cse.msu.edu/~tangjili/datasetcode/truststudy.htm. Who trusts whom is not read.
"""

from __future__ import annotations

from recbole_msr.data.public.columns import key, label, number, tokens
from recbole_msr.data.public.spec import MatrixForm, PublicSet, Published, Raw, Table

_FORM = MatrixForm(("user", "product", "category", "rating", "helpfulness"), ("timestamp",))


def _site(name: str, published: Published) -> PublicSet:
    return PublicSet(
        name,
        Table(
            (Raw("rating*.mat", _FORM),),
            {
                "user_id": key("user"),
                "item_id": key("product"),
                **tokens("category"),
                "rating": label("rating"),
                "helpfulness": number("helpfulness"),
                "timestamp": number("timestamp", optional=True),
            },
        ),
        preset="trust",
        published={"": published},
        source="users of its files",
        left_out={"*trust*.mat": "who trusts whom"},
    )


SETS = (
    _site("epinions", Published(922_267, 22_166, 296_277)),
    _site("ciao", Published(284_086, 7_375, 106_797)),
)
