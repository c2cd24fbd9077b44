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
from recbole_msr.tuning.space.parameters import Categorical, Found, Layers, Parameter, plain, same, shown
from recbole_msr.tuning.space.source import Source
from recbole_msr.tuning.space.space_file import read_parameter, read_source, require_plain
from recbole_msr.tuning.space.store_parameter import Stores, StoreWanted

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


_MAX_POINTS = 100_000


class Space:
    """The keys that a search may set, with their values. Made by `load` or `of_model`.

    Attributes:
        model: name of its model; None for any.
        fixed: configuration keys with fixed values.
        parameters: the searched keys, each after those that its conditions name.
    """

    def __init__(self, model: str | None, fixed: Mapping[str, Any], parameters: Sequence[Parameter], name: str) -> None:
        self.model, self.fixed, self.name = model, dict(fixed), name
        names = [parameter.name for parameter in parameters]
        for twice in (parameter for parameter in parameters if names.count(parameter.name) > 1):
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
            InputError: names file and line, the value and what would be right.
        """
        try:
            return _build(read_source(source), ())
        except (RecursionError, MemoryError) as error:
            name = "the search space" if isinstance(source, Mapping) else source
            raise InputError(f"{name} is nested too deeply, or too large") from error

    @classmethod
    def of_model(cls, model: str, settings: Mapping[str, Any] | None = None) -> Space:
        """Return the space that comes with the package.

        Args:
            model: the model's name.
            settings: the configuration that all trials share; where it declares a `history` that the model reads, the
                space has `parts/history.yaml` too.

        Raises:
            InputError: there is none for this model.
        """
        space = cls.load(_shipped(model))
        if (settings or {}).get("history") is None or not hasattr(registry.model_class(model), "predict_tasks"):
            return space
        of_history = cls.load(registry.search_spaces("parts", "history.yaml")).parameters
        return Space(space.model, space.fixed, [*space.parameters, *of_history], space.name)

    @property
    def keys(self) -> list[str]:
        """Return the configuration keys that it sets: the searched ones, then the fixed ones."""
        return list(dict.fromkeys([*(parameter.key for parameter in self.parameters), *self.fixed]))

    def keys_of(self, model: str) -> list[str]:
        """Return the searched keys of a model: in a space over several models, those that exist where it is chosen."""
        one = (model,)
        return list(dict.fromkeys(p.key for p in self.parameters if p.when.get("model", one) == one))

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Sample the configuration keys of a trial; the fixed ones are among them."""
        settings: dict[str, Any] = plain(self.fixed)
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if _holds(parameter, chosen):
                chosen[parameter.name] = settings[parameter.key] = parameter.suggest(trial)
        return settings

    def settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `suggest` returned for a trial with these Optuna parameters.

        Raises:
            InputError: a parameter is missing, or none of its choices.
        """
        from optuna.trial import FixedTrial

        try:
            return self.suggest(FixedTrial(dict(params)))
        except ValueError as error:
            raise InputError(f"{self.name}: these parameters are not of this space: {error}") from error

    def params_of(self, config: Any) -> tuple[dict[str, Any], list[str]]:
        """Find the Optuna parameters that give the settings of a configuration.

        Args:
            config: a mapping or a RecBole Config; a key that it lacks counts as not set.

        Returns:
            The parameters, and a line for every key whose value the space does not hold: a number became the nearest
            one inside, anything else was left out, to be sampled.
        """
        params: dict[str, Any] = {}
        lines: list[str] = []
        for inside, outside in self.params_by_key(config).values():
            params |= inside
            lines += outside
        lines += [
            f"{key} is {shown(_value(config, key))}, the space fixes it to {shown(value)}"
            for key, value in self.fixed.items()
            if not same(_value(config, key), value)
        ]
        return params, lines

    def params_by_key(self, config: Any) -> dict[str, Found]:
        """Return what `params_of` does, for every searched key whose conditions hold."""
        from optuna.trial import FixedTrial

        found: dict[str, Found] = {}
        chosen: dict[str, Any] = {}
        for parameter in self.parameters:
            if not _holds(parameter, chosen):
                continue
            inside, _ = found[parameter.key] = parameter.find(_value(config, parameter.key))
            if inside and parameter.values() is not None:  # no condition can be on others
                chosen[parameter.name] = parameter.suggest(FixedTrial(inside))
        return found

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of every parameter by its Optuna name, for `optuna.samplers.GridSampler`.

        Raises:
            InputError: names the parameters without finitely many values, and those that do not always exist.
        """
        self._refuse_no_grid()
        values_by_name: dict[str, list[Any]] = {}
        for parameter in self.parameters:
            values_by_name |= parameter.grid() or {}
        points = math.prod(len(values) for values in values_by_name.values())
        if points > _MAX_POINTS:
            raise InputError(
                f"{self.name}: this grid has {points:,} points, of at most {_MAX_POINTS:,}: give fewer choices or "
                "larger steps, or take another sampler"
            )
        return values_by_name

    def _refuse_no_grid(self) -> None:
        endless = [parameter for parameter in self.parameters if parameter.grid() is None]
        reasons = {
            "give a step, or list the choices, of": [
                parameter.name for parameter in endless if not isinstance(parameter, Layers)
            ],
            "give one depth, and widths that can be listed, to": [
                parameter.name for parameter in endless if isinstance(parameter, Layers)
            ],
            "every combination must exist, but 'when' stands at": [
                parameter.name for parameter in self.parameters if parameter.when
            ],
        }
        if any(reasons.values()):
            why = "; ".join(f"{reason} {', '.join(names)}" for reason, names in reasons.items() if names)
            raise InputError(f"{self.name}: this space is no grid: {why}")

    def stores(self) -> list[StoreWanted]:
        """Return the knowledge stores that trials may use, those to be built first, without `random` and `none`.

        Raises:
            RuntimeError: their names depend on the dataset, and `resolve` was not asked.
        """
        stores = []
        for parameter in self.parameters:
            if isinstance(parameter, Stores):
                parameter.require_dataset()
                stores += parameter.stores(parameter.dataset or "")
        return [store for store in stores if not store.is_reserved]

    def resolve(self, dataset: str) -> Space:
        """Return the same space for a dataset, with the names of all its stores."""
        resolved = [
            parameter.resolve(dataset) if isinstance(parameter, Stores) else parameter for parameter in self.parameters
        ]
        return Space(self.model, self.fixed, resolved, self.name)

    def fixing(self, settings: Mapping[str, Any]) -> Space:
        """Return the space with some keys fixed instead of searched; parameters that can then no longer exist are gone.

        Raises:
            InputError: nothing is left to search.
        """
        fixed = {**self.fixed, **plain(settings)}
        rest = [parameter for parameter in self.parameters if parameter.key not in settings]
        names = {parameter.name: parameter.key for parameter in self.parameters}
        return Space(self.model, fixed, settled(rest, fixed, names), self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole space as plain values, from which `load` makes an equal one, with all that was included."""
        model = {"model": self.model} if self.model else {}
        fixed = {"fixed": plain(self.fixed)} if self.fixed else {}
        return model | fixed | {"search": {parameter.name: parameter.to_dict() for parameter in self.parameters}}

    @property
    def fingerprint(self) -> str:
        """Return a hash of `to_dict()`, which does not depend on the order of parameters."""
        return hashlib.blake2b(json.dumps(self.to_dict(), sort_keys=True).encode(), digest_size=16).hexdigest()

    def differences(self, other: Space) -> list[str]:
        """Return the changes since `other`, one line each."""
        lines = []
        if self.model != other.model:
            lines.append(f"model: {shown(self.model)}, was {shown(other.model)}")
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
        return shown(value)
    return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in value.items()) + "}"


# From a file to a space.


def _shipped(model: str) -> Path:
    models = sorted((path.stem for path in registry.search_spaces().glob("*.yaml")), key=str.lower)
    if model not in models:
        raise InputError(
            f"there is no search space for '{model}'{nearest(model, models) or '.'}"
            f" There are those of {', '.join(models)}; "
            "--space=FILE takes one of your own (search_spaces/README.md says how to write it)."
        )
    return registry.search_spaces(f"{model}.yaml")


def _build(source: Source, including: tuple[str, ...]) -> Space:
    """Build the space of a file, with all that it includes.

    Args:
        source: the file.
        including: paths of the files that include it.
    """
    model, fixed, search = _read_sections(source)
    declared, by_model = _read_declared(source, search)
    for parameter in declared:
        if parameter.key in fixed:
            where = source.place("fixed", parameter.key)
            source.refuse(f"'{parameter.key}' is searched, and fixed at {where}", "search", parameter.name)
    declared_keys = {parameter.key for parameter in declared} | set(fixed)

    included: list[Parameter] = []
    for number, name in enumerate(_as_list(source.content.get("include"))):
        space = _included(source, name, including)
        included = [parameter for parameter in included if parameter.key not in space.keys] + space.parameters
        fixed = {**{key: value for key, value in space.fixed.items() if key not in declared_keys}, **fixed}
        model = model or (space.model if number == 0 else None)
    for name, models in by_model.items():
        included += _spaces_of(source, name, models, including)
    return _joined(source, model, fixed, declared, included, declared_keys)


def _read_sections(source: Source) -> tuple[str | None, Mapping[str, Any], Mapping[str, Any]]:
    """Return model, fixed values and searched parameters, as the file has them."""
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
    return model, fixed, search


def _read_declared(source: Source, search: Iterable[str]) -> tuple[list[Parameter], dict[str, list[str]]]:
    """Return the file's own parameters, and the models of each parameter of `type: model`."""
    declared: list[Parameter] = []
    by_model: dict[str, list[str]] = {}
    for name in search:
        read = read_parameter(source, name)
        if not isinstance(read, Parameter):
            by_model[name] = read
            read = read_parameter(_as_categorical(source, name), name)
            assert isinstance(read, Parameter)
        declared.append(read)
    return declared, by_model


def _joined(
    source: Source,
    model: str | None,
    fixed: Mapping[str, Any],
    declared: Sequence[Parameter],
    included: Sequence[Parameter],
    declared_keys: set[str],
) -> Space:
    """Join the file's own parameters with the included ones; its own win."""
    keys = {parameter.name: parameter.key for parameter in [*included, *declared]}
    included = _without_declared(declared, included, declared_keys)
    _check_conditions(source, declared, [*included, *declared], fixed)
    kept = settled([*included, *declared], fixed, keys)
    kept_names = {parameter.name for parameter in kept}
    for parameter in declared:
        if parameter.name not in kept_names:
            never = f"'{parameter.name}' can never exist: what its 'when' asks for is fixed otherwise"
            source.refuse(never, "search", parameter.name, "when")
    return Space(model, plain(fixed), kept, source.name)


def _without_declared(
    declared: Sequence[Parameter], included: Sequence[Parameter], declared_keys: set[str]
) -> list[Parameter]:
    """Return included parameters without those that the file declares itself; conditions on these now mean its own.

    A parameter whose condition the file's own declaration can never fulfil is left out.
    """
    by_key = {parameter.key: parameter for parameter in declared}
    replaced = {parameter.name: by_key[parameter.key] for parameter in included if parameter.key in by_key}
    kept = []
    for parameter in included:
        conditions = [(replaced[name], wanted) for name, wanted in parameter.when.items() if name in replaced]
        if parameter.key not in declared_keys and all(_may_be(other, wanted) for other, wanted in conditions):
            when = {replaced[name].name if name in replaced else name: parameter.when[name] for name in parameter.when}
            kept.append(replace(parameter, when=when))
    return kept


def _may_be(parameter: Parameter, wanted: Iterable[Any]) -> bool:
    """Return whether a parameter can have one of the wanted values."""
    values = parameter.values() or []
    return any(same(value, other) for value in values for other in wanted)


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _as_categorical(source: Source, name: str) -> Source:
    body = {**source.content["search"][name], "type": "categorical"}
    return replace(source, content={"search": {name: body}})


def _included(source: Source, name: Any, including: tuple[str, ...]) -> Space:
    """Return the space of a model, or of a file beside the one that includes it."""
    if not isinstance(name, str):
        source.refuse(f"'include' must name a model or a file, got {name!r}", "include")
    beside = (source.folder or Path()) / name
    path = beside if beside.is_file() else _shipped(name)
    if str(path.resolve()) in including:
        source.refuse(f"'include: {name}' leads back to this file", "include")
    inner = read_source(path)
    return _build(inner, (*including, str(Path(source.name).resolve())) if source.folder else including)


def _spaces_of(source: Source, name: str, models: Iterable[str], including: tuple[str, ...]) -> list[Parameter]:
    """Return the parameters of several models' spaces, each under the condition that its model is chosen.

    A parameter that is the same in all spaces that have it becomes one; one that differs becomes one for each model,
    named MODEL.key.

    Args:
        source: the file.
        name: the parameter of `type: model` that chooses between the models.
        models: their names.
        including: paths of the files that include this one.
    """
    by_model: dict[str, list[Parameter]] = {}
    for model in models:
        try:
            space = _included(source, str(model), including)
        except InputError as error:
            source.refuse(str(error), "search", name, "choices")
        by_model[model] = [*_fixed_choices(space), *space.parameters]
    owners: dict[str, list[str]] = {}
    for model, parameters in by_model.items():
        for parameter in parameters:
            owners.setdefault(parameter.name, []).append(model)
    differing = _differing(by_model)
    conditional: dict[str, Parameter] = {}
    for model, parameters in by_model.items():
        renamed = {other: f"{model}.{other}" for other in differing}
        for parameter in parameters:
            new_name = renamed.get(parameter.name, parameter.name)
            chosen = (model,) if parameter.name in differing else tuple(owners[parameter.name])
            when = {renamed.get(other, other): values for other, values in parameter.when.items()}
            conditional[new_name] = replace(parameter, name=new_name, when={name: chosen, **when})
    return list(conditional.values())


def _differing(by_model: Mapping[str, Sequence[Parameter]]) -> set[str]:
    """Return the names of parameters that differ between models, and of those whose conditions are on such."""
    forms: dict[str, list[dict[str, Any]]] = {}
    for parameters in by_model.values():
        for parameter in parameters:
            forms.setdefault(parameter.name, []).append(parameter.to_dict())
    differing = {name for name, bodies in forms.items() if any(body != bodies[0] for body in bodies)}
    while True:
        dependent = {
            name for name, bodies in forms.items() if any(differing & set(body.get("when", {})) for body in bodies)
        }
        if dependent <= differing:
            return differing
        differing |= dependent


def _fixed_choices(space: Space) -> list[Parameter]:
    """Return fixed values as parameters of one choice, so that they can have a condition."""
    return [Categorical(key, key, choices=(value,), place=space.name) for key, value in space.fixed.items()]


def _check_conditions(
    source: Source, declared: Sequence[Parameter], parameters: Sequence[Parameter], fixed: Mapping[str, Any]
) -> None:
    """Refuse conditions on parameters that do not exist, and on values that they never have."""
    by_name = {parameter.name: parameter for parameter in parameters}
    for parameter in declared:
        for name, wanted in parameter.when.items():
            if name not in fixed:
                _check_condition(source, parameter, name, wanted, by_name, fixed)


def _check_condition(
    source: Source,
    parameter: Parameter,
    name: str,
    wanted: Iterable[Any],
    by_name: Mapping[str, Parameter],
    fixed: Mapping[str, Any],
) -> None:
    at = ("search", parameter.name, "when", name)
    if name not in by_name:
        hint = nearest(name, [*by_name, *fixed])
        source.refuse(f"'{parameter.name}' depends on '{name}', which is neither searched nor fixed{hint}", *at)
    values = by_name[name].values()
    if values is None:
        kinds = "a choice, an integer, or a float by steps"
        source.refuse(f"'{parameter.name}' cannot depend on '{name}', only on {kinds}", *at)
    for value in wanted:
        if not any(same(value, other) for other in values):
            hint = nearest(str(value), [str(other) for other in values])
            listed = ", ".join(shown(other) for other in values[:20])
            never = f"'{parameter.name}' can never exist at {name}: {shown(value)}{hint or ';'}"
            source.refuse(f"{never} '{name}' is one of {listed}", *at)
