"""Search spaces: from a file to sampled settings, and back.

A space is a YAML file (search_spaces/README.md has its grammar), one of RecBole's `hyper.test` files, or a mapping::

    space = Space.of_model("HiNet")
    space.suggest(trial)                      # {"sub_experts": 5, "expert_hidden_sizes": [128, 64], ...}
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_msr import registry
from recbole_msr.errors import InputError, nearest
from recbole_msr.tuning.space.conditions import in_order, refuse_overlaps, settled
from recbole_msr.tuning.space.parameters import Categorical, Layers, Parameter, plain, same, told
from recbole_msr.tuning.space.source import Source
from recbole_msr.tuning.space.space_file import read_parameter, read_source, require_plain
from recbole_msr.tuning.space.store_parameter import Stores, StoreWanted

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


_MOST_POINTS = 100_000


class Space:
    """What a search may set, and to what. Made by `load` or `of_model`.

    Attributes:
        model: the model it is for; None for any.
        fixed: configuration keys with fixed values.
        parameters: the searched ones, each behind those that its conditions name.
    """

    def __init__(self, model: str | None, fixed: Mapping[str, Any], parameters: Sequence[Parameter], name: str) -> None:
        self.model, self.fixed, self.name = model, dict(fixed), name
        names = [parameter.name for parameter in parameters]
        for twice in (one for one in parameters if names.count(one.name) > 1):
            raise InputError(
                f"{twice.place}: two parameters are named '{twice.name}': give one another name, and its 'key'"
            )
        self.parameters = in_order(parameters)
        if not self.parameters:
            raise InputError(f"{name}: there is nothing to search: no parameter stands under 'search:'")
        refuse_overlaps(self.parameters)

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any]) -> Space:
        """Read a space.

        Args:
            source: the path of a YAML file or of RecBole's `hyper.test`, or a mapping like the YAML's.

        Raises:
            InputError: names file and line, what was found and what would be right.
        """
        try:
            return _built(read_source(source), ())
        except (RecursionError, MemoryError) as error:
            name = "the search space" if isinstance(source, Mapping) else source
            raise InputError(f"{name} is nested too deeply, or too large") from error

    @classmethod
    def of_model(cls, model: str) -> Space:
        """The space that comes with the package.

        Raises:
            InputError: there is none for this model.
        """
        return cls.load(_shipped(model))

    @property
    def keys(self) -> list[str]:
        """The configuration keys it sets: the searched ones, then the fixed ones."""
        return list(dict.fromkeys([*(parameter.key for parameter in self.parameters), *self.fixed]))

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Sample; returns configuration settings, the fixed ones among them."""
        settings: dict[str, Any] = plain(self.fixed)
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if _holds(parameter, chosen):
                chosen[parameter.name] = settings[parameter.key] = parameter.suggest(trial)
        return settings

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What `suggest` returned for a trial with these Optuna parameters.

        Raises:
            InputError: a parameter is missing, or none of its choices.
        """
        from optuna.trial import FixedTrial

        try:
            return self.suggest(FixedTrial(dict(params)))
        except ValueError as error:
            raise InputError(f"{self.name}: these parameters are not of this space: {error}") from error

    def params_of(self, config: Any) -> tuple[dict[str, Any], list[str]]:
        """The Optuna parameters that give the settings of a configuration.

        Args:
            config: a mapping or a RecBole Config; a key that it lacks counts as not set.

        Returns:
            The parameters, and a line for every key whose value the space does not hold: a number became the nearest
            one inside, anything else was left out, to be sampled.
        """
        from optuna.trial import FixedTrial

        params: dict[str, Any] = {}
        lines: list[str] = []
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if not _holds(parameter, chosen):
                continue
            found, outside = parameter.find(_value(config, parameter.key))
            params |= found
            lines += outside
            if found and parameter.values() is not None:  # others are nobody's condition
                chosen[parameter.name] = parameter.suggest(FixedTrial(found))
        lines += [
            f"{key} is {told(_value(config, key))}, the space fixes it to {told(value)}"
            for key, value in self.fixed.items()
            if not same(_value(config, key), value)
        ]
        return params, lines

    def grid(self) -> dict[str, list[Any]]:
        """All values of every parameter by its Optuna name, for `optuna.samplers.GridSampler`.

        Raises:
            InputError: names the parameters without finitely many values, and those that do not always exist.
        """
        grids = {parameter.name: parameter.grid() for parameter in self.parameters}
        endless = [name for name, values in grids.items() if values is None]
        layers = [one.name for one in self.parameters if one.name in endless and isinstance(one, Layers)]
        conditional = [parameter.name for parameter in self.parameters if parameter.when]
        reasons = {
            "give a step, or list the choices, of": [name for name in endless if name not in layers],
            "give one depth, and widths that can be listed, to": layers,
            "every combination must exist, but 'when' stands at": conditional,
        }
        if any(reasons.values()):
            why = "; ".join(f"{reason} {', '.join(names)}" for reason, names in reasons.items() if names)
            raise InputError(f"{self.name}: this space is no grid: {why}")
        found = {name: values for grid in grids.values() if grid is not None for name, values in grid.items()}
        points = math.prod(len(values) for values in found.values())
        if points > _MOST_POINTS:
            raise InputError(
                f"{self.name}: this grid has {points:,} points, of at most {_MOST_POINTS:,}: give fewer choices or "
                "larger steps, or take another sampler"
            )
        return found

    def stores(self) -> list[StoreWanted]:
        """The knowledge stores that trials may use, those to be built first; `random` and `none` are not among them.

        Raises:
            RuntimeError: their names depend on the dataset, and `resolve` was not asked.
        """
        found = []
        for parameter in self.parameters:
            if isinstance(parameter, Stores):
                parameter.require_dataset()
                found += parameter.stores(parameter.dataset or "")
        return [wanted for wanted in found if not wanted.is_reserved]

    def resolve(self, dataset: str) -> Space:
        """The same space for a dataset: after it the names of all stores are known."""
        known = [one.resolve(dataset) if isinstance(one, Stores) else one for one in self.parameters]
        return Space(self.model, self.fixed, known, self.name)

    def fixing(self, settings: Mapping[str, Any]) -> Space:
        """The same space with some keys fixed instead of searched; parameters that can then no longer exist are gone.

        Raises:
            InputError: nothing is left to search.
        """
        fixed = {**self.fixed, **plain(settings)}
        rest = [parameter for parameter in self.parameters if parameter.key not in settings]
        names = {parameter.name: parameter.key for parameter in self.parameters}
        return Space(self.model, fixed, settled(rest, fixed, names), self.name)

    def to_dict(self) -> dict[str, Any]:
        """The whole space as plain values, from which `load` makes an equal one; what was included is in it."""
        model = {"model": self.model} if self.model else {}
        fixed = {"fixed": plain(self.fixed)} if self.fixed else {}
        return model | fixed | {"search": {one.name: one.to_dict() for one in self.parameters}}

    @property
    def fingerprint(self) -> str:
        """Equal for equal spaces: a hash of `to_dict()`, in which only the order of parameters does not count."""
        return hashlib.blake2b(json.dumps(self.to_dict(), sort_keys=True).encode(), digest_size=16).hexdigest()

    def differences(self, other: Space) -> list[str]:
        """What has changed since `other`, a line each."""
        lines = []
        if self.model != other.model:
            lines.append(f"model: {told(self.model)}, was {told(other.model)}")
        now = {f"fixed {key}": value for key, value in self.fixed.items()} | self.to_dict()["search"]
        was = {f"fixed {key}": value for key, value in other.fixed.items()} | other.to_dict()["search"]
        for name in dict.fromkeys([*was, *now]):
            if name not in was:
                lines.append(f"{name}: {_flow(now[name])}, was not there")
            elif name not in now:
                lines.append(f"{name}: not there, was {_flow(was[name])}")
            elif json.dumps(now[name], sort_keys=True) != json.dumps(was[name], sort_keys=True):
                lines.append(f"{name}: {_flow(now[name])}, was {_flow(was[name])}")
        return lines


def _holds(parameter: Parameter, chosen: Mapping[str, Any]) -> bool:
    return all(
        name in chosen and any(same(chosen[name], value) for value in values) for name, values in parameter.when.items()
    )


def _value(config: Any, key: str) -> Any:
    try:
        return config[key]
    except KeyError:
        return None


def _flow(value: Any) -> str:
    if not isinstance(value, Mapping):
        return told(value)
    return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in value.items()) + "}"


# From a file to a space.


def _shipped(model: str) -> Path:
    known = sorted((path.stem for path in registry.search_spaces().glob("*.yaml")), key=str.lower)
    if model not in known:
        raise InputError(
            f"there is no search space for '{model}'{nearest(model, known) or '.'}"
            f" There are those of {', '.join(known)}; "
            "--space=FILE takes one of your own (search_spaces/README.md says how to write it)."
        )
    return registry.search_spaces(f"{model}.yaml")


def _built(source: Source, including: tuple[str, ...]) -> Space:
    """A space from what its file says, with all that it includes."""
    content = source.content
    source.only(("model", "include", "fixed", "search"), content)
    model, fixed, search = content.get("model"), content.get("fixed") or {}, content.get("search") or {}
    if model is not None and not isinstance(model, str):
        source.refuse(f"'model' must be a model's name, got {model!r}", "model")
    for part, value in (("fixed", fixed), ("search", search)):
        if not isinstance(value, Mapping):
            source.refuse(f"'{part}' must hold keys and values, got {value!r}", part)
    for key, value in fixed.items():
        require_plain(source, value, "fixed", key)

    own: list[Parameter] = []
    by_model: dict[str, list[str]] = {}
    for name in search:
        read = read_parameter(source, name)
        if isinstance(read, Parameter):
            own.append(read)
        else:
            own.append(read_parameter(_as_categorical(source, name), name))  # type: ignore[arg-type]
            by_model[name] = read
    for parameter in own:
        if parameter.key in fixed:
            where = source.place("fixed", parameter.key)
            source.refuse(f"'{parameter.key}' is searched, and fixed at {where}", "search", parameter.name)

    own_keys = {parameter.key for parameter in own} | set(fixed)
    included: list[Parameter] = []
    for number, name in enumerate(_as_list(content.get("include"))):
        space = _included(source, name, including)
        included = [one for one in included if one.key not in space.keys] + space.parameters
        fixed = {**{key: value for key, value in space.fixed.items() if key not in own_keys}, **fixed}
        model = model or (space.model if number == 0 else None)
    for name, models in by_model.items():
        included += _spaces_of(source, name, models, including)
    names = {parameter.name: parameter.key for parameter in [*included, *own]}
    included = _beside(own, included, own_keys)
    _check_conditions(source, own, [*included, *own], fixed)
    kept = settled([*included, *own], fixed, names)
    for parameter in own:
        if all(parameter.name != one.name for one in kept):
            never = f"'{parameter.name}' can never exist: what its 'when' asks for is fixed otherwise"
            source.refuse(never, "search", parameter.name, "when")
    return Space(model, plain(fixed), kept, source.name)


def _beside(own: Sequence[Parameter], included: Sequence[Parameter], own_keys: set[str]) -> list[Parameter]:
    """Included parameters without those that the file declares itself; conditions on these are on its own now.

    One whose condition the file's own declaration can never fulfil is gone.
    """
    by_key = {parameter.key: parameter for parameter in own}
    taken = {one.name: by_key[one.key] for one in included if one.key in by_key}
    kept = []
    for parameter in included:
        if parameter.key in own_keys:
            continue
        when = {(taken[name].name if name in taken else name): wanted for name, wanted in parameter.when.items()}
        choices = [(taken[name].values() or [], wanted) for name, wanted in parameter.when.items() if name in taken]
        if all(any(same(value, one) for value in values for one in wanted) for values, wanted in choices):
            kept.append(replace(parameter, when=when))
    return kept


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _as_categorical(source: Source, name: str) -> Source:
    body = {**source.content["search"][name], "type": "categorical"}
    return replace(source, content={"search": {name: body}})


def _included(source: Source, name: Any, including: tuple[str, ...]) -> Space:
    """The space of a model, or of a file beside the one that includes it."""
    if not isinstance(name, str):
        source.refuse(f"'include' must name a model or a file, got {name!r}", "include")
    beside = (source.folder or Path()) / name
    path = beside if beside.is_file() else _shipped(name)
    if str(path.resolve()) in including:
        source.refuse(f"'include: {name}' leads back to this file", "include")
    inner = read_source(path)
    return _built(inner, (*including, str(Path(source.name).resolve())) if source.folder else including)


def _spaces_of(source: Source, name: str, models: Iterable[str], including: tuple[str, ...]) -> list[Parameter]:
    """The parameters of several models' spaces, each under the condition that its model is chosen.

    What is the same in all that have it becomes one parameter; what is not, one a model, named MODEL.key.
    """
    spaces = {}
    for model in models:
        try:
            spaces[model] = _included(source, str(model), including)
        except InputError as error:
            source.refuse(str(error), "search", name, "choices")
    each = {model: [*_fixed_choices(space), *space.parameters] for model, space in spaces.items()}
    forms: dict[str, dict[str, Any]] = {}
    for model, parameters in each.items():
        for parameter in parameters:
            forms.setdefault(parameter.name, {})[model] = parameter.to_dict()
    split = {known for known, bodies in forms.items() if any(b != next(iter(bodies.values())) for b in bodies.values())}
    # What depends on a parameter of several names has several itself.
    while more := {n for n, bodies in forms.items() for b in bodies.values() if split & set(b.get("when", {}))} - split:
        split |= more
    made: dict[str, Parameter] = {}
    for model, parameters in each.items():
        renamed = {known: f"{model}.{known}" for known in split}
        for parameter in parameters:
            own_name = renamed.get(parameter.name, parameter.name)
            having = (model,) if parameter.name in split else tuple(forms[parameter.name])
            when = {renamed.get(known, known): values for known, values in parameter.when.items()}
            made[own_name] = replace(parameter, name=own_name, when={name: having, **when})
    return list(made.values())


def _fixed_choices(space: Space) -> list[Parameter]:
    """Fixed values as parameters of one choice, so that they can have a condition."""
    return [Categorical(key, key, choices=(value,), place=space.name) for key, value in space.fixed.items()]


def _check_conditions(
    source: Source, own: Sequence[Parameter], known: Sequence[Parameter], fixed: Mapping[str, Any]
) -> None:
    """Refuse conditions on what is not there, and on values that it never has."""
    by_name = {parameter.name: parameter for parameter in known}
    for parameter in own:
        for name, wanted in parameter.when.items():
            at = ("search", parameter.name, "when", name)
            if name in fixed:
                continue
            if name not in by_name:
                hint = nearest(name, [*by_name, *fixed])
                source.refuse(f"'{parameter.name}' depends on '{name}', which is neither searched nor fixed{hint}", *at)
            values = by_name[name].values()
            if values is None:
                kinds = "a choice, an integer, or a float by steps"
                source.refuse(f"'{parameter.name}' cannot depend on '{name}', only on {kinds}", *at)
            for value in wanted:
                if not any(same(value, one) for one in values):
                    hint = nearest(str(value), [str(one) for one in values])
                    listed = ", ".join(told(one) for one in values[:20])
                    never = f"'{parameter.name}' can never exist at {name}: {told(value)}{hint or ';'}"
                    source.refuse(f"{never} '{name}' is one of {listed}", *at)
