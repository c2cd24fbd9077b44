"""Validation of settings by pydantic models, with errors in one line for the person who wrote the settings.

A model declares its keys as documented fields. `validate` reads a mapping into it, and turns pydantic's
`ValidationError` into an `InputError` that names the place, the value and what would be right there. A field's type is
one of Python's, or a `Kind` of `value_kinds`, which brings its own words. A validator of a field or of the model says
what is wrong by a `WrongValueError`, or by a `ValueError` with a text that goes on after the place::

    class Sampler(Settings):
        trials: Annotated[int, whole(1)] = 100
        direction: Literal["minimize", "maximize"] = "maximize"

    validate(Sampler, {"trails": 5}, "sampler")
    # InputError: sampler: unknown key 'trails'; did you mean 'trials'? Known keys: trials, direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from recbole_msr.errors import InputError, nearest
from recbole_msr.value_kinds import WrongValueError, shown


class Settings(BaseModel):
    """Base of models that are read from a configuration: unknown keys are refused, values are not converted.

    An instance is immutable and, as pydantic's models are, equal to another one with the same values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


SettingsType = TypeVar("SettingsType", bound=BaseModel)


def validate(
    model: type[SettingsType],
    values: Any,
    place: str = "",
    *,
    example: str = "",
    preset: Mapping[str, Any] | None = None,
    key_format: Callable[[str], str] = str,
) -> SettingsType:
    """Read a mapping into a pydantic model.

    Args:
        model: the model.
        values: what the user wrote.
        place: where it was written, which the message begins with: "task 'click'", "space.yaml:12".
        example: a right mapping, for the message: "{field: rating, at_least: 4}".
        preset: fields that the caller sets and the user may not.
        key_format: how the user writes a key, where that differs: `"--{}".format` for an option of a command.

    Raises:
        InputError: one line with the place, the value found, what would be right, and the nearest names of a
            misspelt key. Of several errors a misspelt key is named first, since it often explains the others.
    """
    preset = preset or {}
    if not isinstance(values, Mapping):
        such_as = f" such as {example}" if example else ""
        raise InputError(f"{place or 'the settings'} must be a mapping{such_as}, got {shown(values)}")
    known = [key for key in _keys(model) if key not in preset]
    for key in values:
        if key not in known:
            raise InputError(_at(place, _unknown_key(key, known)))
    try:
        return model.model_validate({**values, **preset})
    except ValidationError as error:
        raise InputError(_at(place, message_of(error, model, example, key_format))) from error


def message_of(
    error: ValidationError, model: Any = None, example: str = "", key_format: Callable[[str], str] = str
) -> str:
    """Put the first of a `ValidationError`'s errors in one line, without the place of the whole mapping.

    Args:
        error: the error.
        model: the model that was validated, from which the known keys of nested mappings are taken.
        example: a right mapping, for the message of a key that is missing.
        key_format: how the user writes a key of the outermost mapping.
    """
    details = error.errors(include_url=False)
    first: Any = min(details, key=lambda detail: _RANK.get(detail["type"], len(_RANK)))
    place: Sequence[Any] = first["loc"]
    kind, context, value = first["type"], first.get("ctx", {}), first["input"]
    if kind in ("extra_forbidden", "missing"):
        *outer, key = place
        text = _unknown_key(key, _keys(_type_at(model, outer))) if kind == "extra_forbidden" else f"needs a {key}"
        if kind == "missing" and example and not outer:
            text = f"{text}, e.g. {example}"
        return _at(_joined(outer, key_format), text)
    where = _joined(place, key_format)
    reason = context.get("error")
    if isinstance(reason, WrongValueError):
        return reason.message(where) if where else str(reason)
    if reason is not None:
        return _at(where, str(reason))
    return f"{where or 'it'} must be {_right(kind, context, first['msg'])}, got {shown(value)}"


_RANK = {"extra_forbidden": 0, "missing": 1}
"""Errors that are named before others."""

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}

_BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "too_short": "of {min_length} or more entries",
    "too_long": "of {max_length} or fewer entries",
}


def _right(kind: str, context: Mapping[str, Any], otherwise: str) -> str:
    """Say what pydantic's type or bound asks for; `otherwise` is pydantic's own sentence."""
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    return _TYPES.get(kind, otherwise.removeprefix("Input should be ").removeprefix("a valid "))


def _unknown_key(key: Any, known: Sequence[str]) -> str:
    return f"unknown key '{key}'{nearest(str(key), known) or '.'} Known keys: {', '.join(known)}."


def _at(place: str, text: str) -> str:
    if not place:
        return text
    return f"{place} {text}" if text.startswith("needs a ") else f"{place}: {text}"


def _joined(steps: Sequence[Any], key_format: Callable[[str], str]) -> str:
    """Put the keys and indices that lead to a value in one text; the first element of a list is 1."""
    if steps and steps[-1] == "[key]":
        steps = [*steps[:-2], "a key"]
    words = [str(step + 1) if isinstance(step, int) else str(step) for step in steps]
    return ": ".join([key_format(words[0]), *words[1:]] if words else [])


def _keys(model: Any) -> list[str]:
    """List the keys that a model reads; none where it is no pydantic model."""
    if not _is_model(model):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _type_at(model: Any, place: Sequence[Any]) -> Any:
    """Find the type at a place inside a model: the model there, or None where that cannot be said."""
    for step in place:
        inner = next(_models_in(model), None)
        if isinstance(step, str) and inner is not None and step in inner.model_fields:
            model = inner.model_fields[step].annotation
    return next(_models_in(model), None)


def _models_in(annotation: Any) -> Iterator[Any]:
    if _is_model(annotation):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
