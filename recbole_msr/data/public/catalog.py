"""All public datasets, by name."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from recbole_msr.data.public import (
    ali_ccp,
    aliexpress,
    amazon,
    douban,
    frappe,
    kuairand,
    kuaisar,
    mind,
    movielens,
    tenrec,
    trust,
    yelp,
)
from recbole_msr.data.public.spec import PublicSet
from recbole_msr.errors import InputError, nearest
from recbole_msr.registry import properties

_MODULES = (kuairand, kuaisar, aliexpress, ali_ccp, tenrec, mind, amazon, douban, trust, yelp, frappe, movielens)
SETS: dict[str, PublicSet] = {public.name: public for module in _MODULES for public in module.SETS}
"""What `recbole-msr data NAME` converts."""


def refuse_unknown(name: str) -> NoReturn:
    """Refuse a name that no public dataset has.

    Raises:
        InputError: always; it names the nearest, and all.
    """
    if name == "ml-100k":
        raise InputError(
            "RecBole brings ml-100k converted (run_recbole --dataset=ml-100k); ml-100k-grouplens is what converts "
            "GroupLens' files"
        )
    raise InputError(f"no converter for '{name}'{nearest(name, SETS) or '.'} There is: {', '.join(SETS)}.")


def preset_file(name: str) -> Path:
    """Return the file of a preset: of a public dataset, or of one that models take without being asked."""
    path = properties("public", f"{name}.yaml")
    return path if path.is_file() else properties("dataset", f"{name}.yaml")
