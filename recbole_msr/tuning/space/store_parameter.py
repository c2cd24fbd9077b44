"""A parameter over knowledge stores: those that exist, and those that are to be built."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from recbole_msr.errors import InputError
from recbole_msr.prompts.encoders import option_names
from recbole_msr.prompts.store import check_name
from recbole_msr.tuning.space.parameters import Categorical, Found
from recbole_msr.tuning.space.source import Source

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


RESERVED = ("random", "none")
"""Values of `knowledge` that are not stores."""
_PROMPTS = ("language", "max_items", "max_tokens", "long_prompts", "title_field", "category_field", "liked")
_TEXT = ("template", "levels", *_PROMPTS)
_MAX_STORES = 1000
_STORE = ("batch_size", "sort_by_length", "store_dtype")


@dataclass(frozen=True)
class StoreWanted:
    """A store that trials may use.

    Attributes:
        name: what `knowledge` is set to.
        settings: settings that `recbole_msr.runs.knowledge_commands.embed` builds it with; None if it must exist.
    """

    name: str
    settings: dict[str, Any] | None = None

    @property
    def is_reserved(self) -> bool:
        """Return whether the name stands for no store."""
        return self.name in RESERVED


@dataclass(frozen=True)
class Stores(Categorical):
    """A choice of stores.

    Attributes:
        names: stores that exist, `random` or `none`.
        build: settings to build stores with, a list of values each: all combinations are built, of each mapping
            separately.
        dataset: the dataset the stores are built from, which their names begin with; None until it is known.
        choices: the stores' names, once the dataset is known.
    """

    names: tuple[str, ...] = ()
    build: tuple[Mapping[str, list[Any]], ...] = ()
    dataset: str | None = None

    def __post_init__(self) -> None:
        if self.is_known:
            object.__setattr__(self, "choices", tuple(store.name for store in self.stores(self.dataset or "")))

    def resolve(self, dataset: str) -> Stores:
        """Return the same choice for a dataset."""
        return replace(self, dataset=dataset) if self.build else self

    def stores(self, dataset: str) -> list[StoreWanted]:
        """Return all stores of the choice, those to be built first."""
        built = [
            StoreWanted(_name(dataset, settings, product), settings)
            for product in self.build
            for values in itertools.product(*product.values())
            if (settings := dict(zip(product, values, strict=True)))
        ]
        names = [store.name for store in built]
        for number, store in enumerate(built):
            if names.count(store.name) > 1:  # two products that differ in a setting with one value in each
                digest = hashlib.blake2b(json.dumps(store.settings).encode(), digest_size=3).hexdigest()
                built[number] = replace(store, name=f"{store.name}-{digest}")
        return [*built, *(StoreWanted(name) for name in self.names)]

    def suggest(self, trial: BaseTrial) -> Any:
        """Sample a store's name."""
        self.require_dataset()
        return super().suggest(trial)

    def find(self, value: Any) -> Found:
        """Return the parameters that give a store; the first store where none is set."""
        self.require_dataset()
        if value is None:  # there is no default to be tried first
            return {self.name: self.choices[0]}, [
                f"{self.key} is not set: the first store, {self.choices[0]}, is taken"
            ]
        return super().find(value)

    def grid(self) -> dict[str, list[Any]]:
        """Return the stores' names."""
        self.require_dataset()
        return super().grid()

    def values(self) -> list[Any]:
        """Return the stores' names, without those to be built until the dataset is known."""
        return super().values() or list(self.names)

    @property
    def is_known(self) -> bool:
        """Return whether the names of all stores are known."""
        return not self.build or self.dataset is not None

    def body(self) -> dict[str, Any]:
        """Return the keys of the file."""
        names = {"names": list(self.names)} if self.names else {}
        build = {"build": [dict(each) for each in self.build]} if self.build else {}
        return {"type": "stores"} | names | build | ({} if self.dataset is None else {"dataset": self.dataset})

    def require_dataset(self) -> None:
        """Require that the names of the stores are known.

        Raises:
            RuntimeError: they are not yet.
        """
        if not self.is_known:
            raise RuntimeError("the names of stores depend on the dataset: ask space.resolve(dataset)")


def read_stores(source: Source, at: tuple[str, ...], body: Mapping[str, Any]) -> dict[str, Any]:
    """Read the keys of a parameter of `type: stores`.

    Args:
        source: the file.
        at: path of the parameter in it.
        body: its keys.

    Returns:
        Arguments of `Stores`.

    Raises:
        InputError: an unknown setting, or nothing to choose from.
    """
    names, products = _read_names(source, at, body.get("names", [])), _read_products(source, at, body.get("build", []))
    if not names and not products:
        source.refuse(f"'{at[1]}' has no store to choose from: give 'names' or 'build'", *at)
    dataset = body.get("dataset")
    arguments: dict[str, Any] = {"names": tuple(names), "build": tuple(products), "dataset": dataset}
    stores = [store.name for store in Stores("", "", **arguments).stores(dataset or "DATASET")]
    for name in stores:
        if stores.count(name) > 1:
            source.refuse(f"'{at[1]}' has the store '{name}' twice", *at)
    return arguments


def _read_names(source: Source, at: tuple[str, ...], names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        source.refuse(f"'names' of '{at[1]}' must list stores, such as [movies, random], got {names!r}", *at, "names")
    for name in names:
        if name not in RESERVED:
            try:
                check_name(name)
            except InputError as error:
                source.refuse(str(error), *at, "names")
    return names


def _read_products(source: Source, at: tuple[str, ...], build: Any) -> list[dict[str, list[Any]]]:
    """Read 'build': one mapping or a list of them, each setting with one value or a list."""
    products = build if isinstance(build, list) else [build]
    for product in products:
        if not isinstance(product, Mapping) or "encoder" not in product:
            example = "{encoder: minilm, template: [full, brief]}"
            source.refuse(
                f"'build' of '{at[1]}' must name an encoder, such as {example}, got {product!r}", *at, "build"
            )
        allowed = ("encoder", *_TEXT, *_STORE, *sorted(option_names()))
        source.only(allowed, product, *at, "build", what="setting of recbole-msr embed")
    return [_value_lists(source, at, product) for product in products]


def _value_lists(source: Source, at: tuple[str, ...], product: Mapping[str, Any]) -> dict[str, list[Any]]:
    lists = {key: value if isinstance(value, list) else [value] for key, value in product.items()}
    for key, values in lists.items():
        if not values:
            source.refuse(f"'build: {key}' of '{at[1]}' lists nothing", *at, "build", key)
        if key == "levels" and not isinstance(values[0], list):
            lists[key] = [values]  # [user, scenario] is one value
    if math.prod(map(len, lists.values())) > _MAX_STORES:
        rule = f"'build' of '{at[1]}' asks for more than {_MAX_STORES} stores: give fewer values"
        source.refuse(rule, *at, "build")
    return lists


def _name(dataset: str, settings: Mapping[str, Any], product: Mapping[str, list[Any]]) -> str:
    """Return a readable name with the varied settings: ml-100k-minilm-full, ml-100k-Qwen3-0.6B-full-pooling=last."""
    kind, _, source = str(settings["encoder"]).partition(":")
    template = PurePath(str(settings.get("template") or "full")).stem
    varied = [key for key in product if len(product[key]) > 1 and key not in ("encoder", "template")]
    rest = [f"{key}={_word(settings[key])}" for key in varied]
    return "-".join([dataset, _word(PurePath(source).name or kind), _word(template), *rest])


def _word(value: Any) -> str:
    joined = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.+=-]", "_", joined)
