"""Options of a command, declared once: one class that Python, the command line and the documentation read.

A class of options is a frozen pydantic dataclass. Each field has its type with the check (`Count`, `Seconds`), its
default, a docstring, and, where the command has it too, an `Argument`::

    @options
    class SweepOptions(JobOptions):
        trials: Annotated[Count | None, Argument("N", int)] = None
        "Maximum number of trials."

    @takes(SweepOptions)
    def sweep(options: SweepOptions) -> Result: ...

    sweep(trials=20)
    sweep(SweepOptions(trials=20), workers=4)

So `sweep` has every field as a keyword argument, for editors and `help()` too, and adding an option is adding a field.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar, get_type_hints, overload

from pydantic import ConfigDict, SkipValidation, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass
from typing_extensions import dataclass_transform

from recbole_msr.errors import InputError, nearest
from recbole_msr.validation import message_of
from recbole_msr.value_kinds import Kind, WrongValueError, checked, is_finite

P = ParamSpec("P")
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

MOST_PROCESSES = 10_000
"""Largest number of workers and of seeds: each is a process or a whole training."""


def count(at_least: int, at_most: int | None = None) -> Kind:
    """Return the kind of whole numbers within bounds; 2.0 and "2" are refused, unlike by `value_kinds.whole`."""
    right = f"a whole number of at least {at_least}" + (f" and at most {at_most}" if at_most is not None else "")

    def is_right(value: Any) -> bool:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and at_least <= value and (at_most is None or value <= at_most)

    return checked(right, is_right)


def real(right: str, is_within: Callable[[float], bool]) -> Kind:
    """Return the kind of finite numbers for which `is_within` is true; `right` describes them for messages."""
    return checked(right, lambda value: isinstance(value, (int, float)) and is_finite(value) and is_within(value))


Count = Annotated[int, count(1)]
"""At least 1."""
CountOrZero = Annotated[int, count(0)]
"""At least 0."""
Processes = Annotated[int, count(1, MOST_PROCESSES)]
"""1 to 10,000 workers, or trainings."""
ProcessesOrNone = Annotated[int, count(0, MOST_PROCESSES)]
"""0 to 10,000."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_TEXT = 40


def seconds() -> Kind:
    """Return the kind of times above 0: a number of seconds, or text such as 90s, 30m, 1h or 1h30m."""
    right = "a time above 0, in seconds or as in 90s, 30m or 1h"

    def take(value: Any) -> float:
        found = value
        if isinstance(value, str) and len(value) <= _LONGEST_TEXT:
            text = value.strip().lower()
            parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
            is_time = parts and "".join(map("".join, parts)) == text
            if is_time:
                found = sum(float(number) * _UNITS[unit] for number, unit in parts)
            elif re.fullmatch(r"\d+(\.\d*)?(e[+-]?\d{1,3})?", text):
                found = float(text)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not is_finite(found) or found <= 0:
            raise WrongValueError(right, value)
        return float(found)

    return Kind(right, take)


Seconds = Annotated[float, seconds()]
"""A time above 0."""
Flag = Annotated[bool, checked("True or False", lambda value: isinstance(value, bool))]
"""True or False."""
Paths = Annotated[
    Sequence[str | Path],
    checked("a list of paths", lambda value: isinstance(value, Sequence) and not isinstance(value, (str, bytes))),
]
"""Paths of files."""
Keys = Annotated[
    Mapping[str, Any],
    checked("a mapping such as {epochs: 5}", lambda value: isinstance(value, Mapping)),
]
"""Keys and values."""


@dataclass(frozen=True)
class Argument:
    """Make a field an argument of the command: `--total-epochs` for `total_epochs`.

    Attributes:
        metavar: placeholder of the value in `--help`.
        read: converts the text: `int`, `float`, or `yaml` for a value as in a configuration file.
        short: a second, short name of the argument.
        choices: the only values allowed.
    """

    metavar: str | None = None
    read: Any = str
    short: str | None = None
    choices: Sequence[str] | None = None


@dataclass_transform(frozen_default=True)
def options(class_: type[T]) -> type[T]:
    """Make a class of fields a frozen, validated dataclass; the fields' docstrings become their descriptions.

    Its constructor raises `InputError` for an unknown name or a wrong value. Fields of the type `SkipValidation[...]`
    are checked where they are read, together with the data, the model or the space.
    """
    config = ConfigDict(use_attribute_docstrings=True, arbitrary_types_allowed=True)
    made: Any = validated_dataclass(class_, frozen=True, config=config)
    validated, signature = made.__init__, inspect.signature(made)

    @wraps(validated)
    def __init__(self: Any, *arguments: Any, **keywords: Any) -> None:
        names = list(signature.parameters)
        for name in keywords:
            if name not in names:
                hint = nearest(name, names) or "."
                raise InputError(f"there is no option '{name}'{hint} Options: {', '.join(names)}.")
        signature.bind(*arguments, **keywords)
        try:
            validated(self, *arguments, **keywords)
        except ValidationError as error:
            flags = {field.name: field.flag for field in declared_options(made)}
            raise InputError(message_of(error, key_format=lambda name: flags[name])) from None

    made.__init__ = __init__
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class DeclaredOption:
    """One field of a class of options, as the command line and the documentation show it.

    Attributes:
        name: its name.
        default: its default.
        summary: first paragraph of its docstring, for `--help`.
        description: the whole docstring.
        argument: how the command reads it; None if only Python has it.
    """

    name: str
    default: Any
    summary: str
    description: str
    argument: Argument | None

    @property
    def flag(self) -> str:
        """Return the argument of the command, `--total-epochs`; the plain name of a field that it does not have."""
        return self.name if self.argument is None else f"--{self.name.replace('_', '-')}"


def declared_options(class_: type) -> list[DeclaredOption]:
    """Return the fields of a class of options, in the order of its constructor."""
    return [
        DeclaredOption(name, parameter.default, *_described(class_, name))
        for name, parameter in inspect.signature(class_).parameters.items()
    ]


def _described(class_: Any, name: str) -> tuple[str, str, Argument | None]:
    """Return summary, description and argument; pydantic keeps a description with the class that has the field."""
    owners = [owner.__pydantic_fields__[name] for owner in class_.__mro__ if name in vars(owner).get(_FIELDS, {})]
    text = next((field.description for field in owners if field.description), "")
    summary = " ".join(text.split("\n\n")[0].split())
    return summary, " ".join(text.split()), next((x for x in owners[0].metadata if isinstance(x, Argument)), None)


_FIELDS = "__pydantic_fields__"


def same_fields(options: Any, class_: type) -> dict[str, Any]:
    """Return the options whose names are fields of another dataclass, too."""
    return {field.name: getattr(options, field.name) for field in fields(class_) if hasattr(options, field.name)}


class OptionsFunction(Protocol[P, T_contra, R_co]):
    """A function that takes its options one by one, or as one object, with changes to it by name."""

    @overload
    def __call__(self, options: T_contra, /, **changes: Any) -> R_co: ...

    @overload
    def __call__(self, *arguments: P.args, **options: P.kwargs) -> R_co: ...


def takes(class_: Callable[P, T]) -> Callable[[Callable[[T], R]], OptionsFunction[P, T, R]]:
    """Let a function of an options object be called with the object's fields as arguments, too."""
    options_class: Any = class_

    def decorate(function: Callable[[T], R]) -> OptionsFunction[P, T, R]:
        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> R:
            if arguments and isinstance(arguments[0], options_class):
                if len(arguments) > 1:
                    raise InputError("beside an object of options, changes to it are given by name: workers=2")
                options = arguments[0]
                return function(replace(options, **keywords) if keywords else options)
            return function(options_class(*arguments, **keywords))

        described: Any = call
        described.__signature__ = _readable_signature(options_class, function)
        described.__doc__ = _with_arguments(inspect.getdoc(function) or "", declared_options(options_class))
        typed: OptionsFunction[P, T, R] = described
        return typed

    return decorate


def _readable_signature(class_: Any, function: Callable[..., Any]) -> inspect.Signature:
    """Return the constructor's signature with plain types: `trials: int | None = None`."""
    types, signature = get_type_hints(class_), inspect.signature(class_)
    plain = [part.replace(annotation=types[part.name]) for part in signature.parameters.values()]
    return signature.replace(parameters=plain, return_annotation=inspect.signature(function).return_annotation)


def _with_arguments(text: str, parameters: Sequence[DeclaredOption]) -> str:
    """Add the options to a docstring, in front of its next section."""
    before, section, after = text.partition("\nReturns:\n")
    listed = "\n".join(f"    {option.name}: {option.description}" for option in parameters)
    return f"{before}\nArgs:\n{listed}\n{section}{after}"


@options
class JobOptions:
    """Options that a search and a comparison have in common."""

    _: KW_ONLY
    config_files: Paths = ()
    """YAML files of configuration keys; later ones win."""
    config: Keys | None = None
    """Configuration keys of every training, as `recbole_msr.run` takes them; they win over the files."""
    output: Annotated[SkipValidation[str | Path | None], Argument("DIR")] = None
    """Output folder."""
    workers: Annotated[Processes, Argument("N", int)] = 1
    """Number of processes on this machine.

    With 1, everything runs in the calling process."""
    timeout: Annotated[Seconds | None, Argument("TIME")] = None
    """Time limit: seconds, or 90s, 30m, 1h."""
    wandb: Annotated[SkipValidation[str | None], Argument(choices=("online", "offline", "disabled"))] = None
    """Mode of Weights & Biases; by default online after `wandb login`, else offline."""
    wandb_project: SkipValidation[str | None] = None
    """Project in Weights & Biases; by default recbole-msr."""
    progress: Flag = True
    """Show a progress bar."""
    command: SkipValidation[str | None] = None
    """Command that the results name as their origin; by default the call in Python."""
