"""Files of search spaces: their content, with its lines, read into parameters.

Two kinds are read: the YAML of this package (search_spaces/README.md has its grammar), and RecBole's `hyper.test`::

    learning_rate loguniform -8,0
    embedding_size choice [64, 96, 128]
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from recbole_msr.errors import InputError
from recbole_msr.files.yaml import SafeLoader, read_text, yaml_error
from recbole_msr.tuning.space.parameters import Categorical, Layers, Number, Parameter, is_number, label, plain
from recbole_msr.tuning.space.source import Source
from recbole_msr.tuning.space.store_parameter import Stores, read_stores
from recbole_msr.value_kinds import literal

_HYPER_TYPES = ("choice", "uniform", "quniform", "loguniform")
_HYPER = re.compile(rf"^\s*\w+\s+({'|'.join(_HYPER_TYPES)})\s", re.MULTILINE)

_MAX_CHOICES, _MAX_STEPS, _MAX_LAYERS, _MAX_NAME = 1_000, 10**9, 100, 200
_MAX_INTEGER = 2**53  # a database keeps numbers as floats
_MAX_BOUND = 1e300  # the distance between two such numbers is finite

_KEYS_BY_TYPE = {  # besides `type`, `key` and `when`
    "int": ("low", "high", "log", "step"),
    "float": ("low", "high", "log", "step"),
    "categorical": ("choices",),
    "layers": ("depth", "width"),
    "model": ("choices",),
    "stores": ("names", "build", "dataset"),
}


def read_source(source: str | Path | Mapping[str, Any]) -> Source:
    """Read a space's file, or take a mapping in its place.

    Raises:
        InputError: the file cannot be read, or holds no keys and values.
    """
    if isinstance(source, Mapping):
        return Source(source)
    path = Path(source).expanduser()
    text = read_text(path, "the search space")
    if path.suffix not in (".yaml", ".yml", ".json") and _HYPER.search(text):
        return _read_hyper(text, path)
    return _read_yaml(text, path)


def _read_yaml(text: str, path: Path) -> Source:
    loader = None
    try:
        loader = SafeLoader(text)
        node = loader.get_single_node()
        lines: dict[tuple[str, ...], int] = {}
        source = Source({}, str(path), path.parent, lines)
        if node is not None:
            _note_lines(node, (), source, lines)
        content = None if node is None else loader.construct_document(node)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise yaml_error(error, str(path)) from error
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path} must hold keys and values (search: {{...}}), it holds {kind}")
    return Source(content, str(path), path.parent, lines)


def _note_lines(node: Any, path: tuple[str, ...], source: Source, lines: dict[tuple[str, ...], int]) -> None:
    """Note the line of every key below mappings; refuse keys that stand twice in one mapping, wherever it is."""
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _note_lines(part, path, source, {})
    if not isinstance(node, yaml.MappingNode):
        return
    here: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"{source.name}:{line}: a key is a word, not a list or a mapping")
        if key.value in here:
            raise InputError(
                f"{source.name}:{here[key.value]}: '{key.value}' stands here already; line {line} has it again"
            )
        here[key.value] = line
        inside = (*path, str(key.value))
        lines[inside] = line
        _note_lines(value, inside, source, lines)


def _read_hyper(text: str, path: Path) -> Source:
    """Read RecBole's format: a name, a type and values on each line; shorter lines are skipped, as RecBole does."""
    search: dict[str, Any] = {}
    lines: dict[tuple[str, ...], int] = {}
    source = Source({"search": search}, str(path), path.parent, lines)
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split(maxsplit=2)
        if len(words) < 3 or line.lstrip().startswith("#"):
            continue
        name, kind, values = words
        if name in search:
            source.refuse(f"'{name}' stands here already; line {number} has it again", "search", name)
        lines["search", name] = number
        source.only(_HYPER_TYPES, [kind], "search", name, what="type of RecBole's")
        try:
            search[name] = _hyper_body(kind, values)
        except (ValueError, SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
            wanted = "[VALUE, VALUE, ...]" if kind == "choice" else "LOW,HIGH" + (",STEP" if kind == "quniform" else "")
            shown = values if len(values) <= 80 else f"{values[:80]}..."
            source.refuse(f"'{name} {kind}' wants {wanted}, got {shown!r} ({_why(error)})", "search", name)
    return source


def _why(error: Exception) -> str:
    if isinstance(error, ArithmeticError):
        return "a number is too large, or a step is 0"
    return str(error) or type(error).__name__


def _hyper_body(kind: str, values: str) -> dict[str, Any]:
    if kind == "choice":
        choices = ast.literal_eval(values)
        if not isinstance(choices, (list, tuple)):
            raise ValueError("no list")
        return {"type": "categorical", "choices": [_as_recbole_reads(value) for value in choices]}
    low, high, *step = (float(value) for value in values.split(","))
    if len(step) != (kind == "quniform"):
        raise ValueError(f"{2 + len(step)} numbers")
    if kind == "loguniform":  # hyperopt's bounds are those of the logarithm
        return {"type": "float", "low": math.exp(low), "high": math.exp(high), "log": True}
    if kind == "uniform":
        return {"type": "float", "low": low, "high": high}
    # hyperopt rounds to multiples of the step, whatever the bounds are.
    q = Decimal(str(step[0]))
    ends = [q * round(Decimal(str(end)) / q) for end in (low, high)]
    if all(number == int(number) for number in (*ends, q)):
        return {"type": "int", "low": int(ends[0]), "high": int(ends[1]), "step": int(q)}
    return {"type": "float", "low": float(ends[0]), "high": float(ends[1]), "step": float(q)}


def _as_recbole_reads(value: Any) -> Any:
    """Read a word as RecBole does, which evaluates its configuration: '[64, 64]' is a list."""
    evaluated = literal(value)
    return value if evaluated is None else evaluated


# Parameters.


def read_parameter(source: Source, name: str) -> Parameter | list[str]:
    """Read the parameter that a file declares under `search: NAME`; of `type: model` the names of the models.

    Raises:
        InputError: names the file and line, the value and what would be right.
    """
    body, kind = _body_and_type(source, name)
    at = ("search", name)
    key = body.get("key", name)
    if not all(isinstance(word, str) and 0 < len(word) <= _MAX_NAME for word in (key, name)):
        got = f"got {str(name)[:50]!r} and {str(key)[:50]!r}"
        source.refuse(f"a parameter's name and key are words of at most {_MAX_NAME} letters, {got}", *at)
    common: dict[str, Any] = {
        "name": name,
        "key": key,
        "when": _read_when(source, at, body),
        "place": source.place(*at),
    }
    if kind in ("int", "float"):
        return Number(**common, **_read_bounds(source, at, body, kind == "int"))
    if kind == "layers":
        return Layers(**common, **_read_layers(source, at, body))
    if kind == "stores":
        return Stores(**common, **read_stores(source, at, body))
    choices = _read_choices(source, (*at, "choices"), body.get("choices"))
    return Categorical(**common, choices=choices) if kind == "categorical" else list(choices)


def _body_and_type(source: Source, name: str) -> tuple[Mapping[str, Any], str]:
    """Return a parameter's keys, checked against those of its type, and its type."""
    body, at = source.content["search"][name], ("search", name)
    if isinstance(body, (list, tuple)):
        return {"choices": list(body)}, "categorical"
    if not isinstance(body, Mapping):
        source.refuse(
            f"'{name}' must be a list of choices or a mapping such as {{type: float, low: 0.1, high: 0.5}}, got "
            f"{body!r}; a fixed value stands under 'fixed:'", *at
        )  # fmt: skip
    kind = body.get("type", "categorical" if "choices" in body else None)
    if kind is None:
        source.refuse(f"'{name}' needs a type: {', '.join(_KEYS_BY_TYPE)}", *at)
    source.only(_KEYS_BY_TYPE, [kind], *at, "type", what="type")
    source.only(("type", "key", "when", *_KEYS_BY_TYPE[kind]), body, *at)
    return body, kind


def _read_when(source: Source, at: tuple[str, ...], body: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    when = body.get("when", {})
    if not isinstance(when, Mapping) or ("when" in body and not when):
        source.refuse(f"'when' must be conditions such as {{backbone: STAR}}, got {when!r}", *at, "when")
    conditions = {}
    for name, values in when.items():
        listed = values if isinstance(values, list) else [values]
        if not listed:
            source.refuse(f"'when: {name}' lists no value", *at, "when", name)
        conditions[str(name)] = tuple(listed)
    return conditions


def _read_choices(source: Source, at: tuple[str, ...], choices: Any) -> tuple[Any, ...]:
    if not isinstance(choices, (list, tuple)) or not choices:
        source.refuse(f"'{at[1]}' must list its choices, such as [16, 32], got {choices!r}", *at)
    if len(choices) > _MAX_CHOICES:
        source.refuse(f"'{at[1]}' has {len(choices):,} choices, of at most {_MAX_CHOICES:,}", *at)
    labels: list[Any] = []
    for choice in choices:
        require_plain(source, choice, *at)
        if label(choice) in labels:
            source.refuse(f"'{at[1]}' has the choice {choice!r} twice, or one equal to it", *at)
        labels.append(label(choice))
    return tuple(plain(choice) for choice in choices)


def _read_bounds(source: Source, at: tuple[str, ...], body: Mapping[str, Any], is_integer: bool) -> dict[str, Any]:
    low = _read_number(source, at, body, "low", is_integer)
    high = _read_number(source, at, body, "high", is_integer)
    step = None if body.get("step") is None else _read_number(source, at, body, "step", is_integer)
    log = body.get("log", False)
    if not isinstance(log, bool):
        source.refuse(f"'log' of '{at[1]}' must be true or false, got {log!r}", *at, "log")
    if low >= high:
        rule = f"'low' of '{at[1]}' must be below 'high', got {low} and {high}"
        source.refuse(f"{rule}; a fixed value stands under 'fixed:'", *at, "low")
    if log and step is not None:
        rule = f"'{at[1]}' cannot have both 'log' and 'step' (Optuna has no such distribution)"
        source.refuse(f"{rule}: leave one out, or list the choices", *at, "step")
    if log and low <= 0:
        source.refuse(f"'low' of '{at[1]}' must be above 0 with 'log', got {low}", *at, "low")
    if step is not None:
        _check_step(source, at, low, high, step)
    return {"low": low, "high": high, "is_integer": is_integer, "log": log, "step": step}


def _read_number(source: Source, at: tuple[str, ...], body: Mapping[str, Any], key: str, is_integer: bool) -> float:
    """Read a bound or a step; an integer where the parameter is one."""
    value: Any = body.get(key)
    if is_number(value) and abs(value) > _MAX_BOUND:
        source.refuse(f"'{key}' of '{at[1]}' is too large, got {value!r:.50}", *at, key)
    # NaN is not below any bound, so it is refused here, too.
    if not is_number(value) or not abs(value) <= _MAX_BOUND or (is_integer and not float(value).is_integer()):
        right = "a whole number" if is_integer else "a number"
        got = f"got {value!r}" if key in body else "but it is not given"
        source.refuse(f"'{key}' of '{at[1]}' must be {right}, {got}", *at, key)
    if is_integer and abs(value) > _MAX_INTEGER:
        source.refuse(f"'{key}' of '{at[1]}' must be between -2^53 and 2^53, got {value!r}", *at, key)
    return int(value) if is_integer else float(value)


def _check_step(source: Source, at: tuple[str, ...], low: float, high: float, step: float) -> None:
    if step <= 0:
        source.refuse(f"'step' of '{at[1]}' must be above 0, got {step}", *at, "step")
    if (high - low) / step > _MAX_STEPS:
        source.refuse(f"'step' of '{at[1]}' is too small: there are more than {_MAX_STEPS:,} steps", *at, "step")
    steps, rest = divmod(Decimal(str(high)) - Decimal(str(low)), Decimal(str(step)))
    if rest:
        last = Decimal(str(low)) + steps * Decimal(str(step))
        rule = f"'high' of '{at[1]}' is not reached in steps of {step} from {low}"
        source.refuse(f"{rule}: the last one is {last}", *at, "high")


def _read_layers(source: Source, at: tuple[str, ...], body: Mapping[str, Any]) -> dict[str, Any]:
    fewest, most = _read_depth(source, at, body.get("depth"))
    return {"fewest": fewest, "most": most, "width": _read_width(source, (*at, "width"), body.get("width"))}


def _read_depth(source: Source, at: tuple[str, ...], depth: Any) -> tuple[int, int]:
    ends: list[Any] = depth if isinstance(depth, list) else [depth, depth]
    if len(ends) != 2 or not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        source.refuse(f"'depth' of '{at[1]}' must be a number of layers or [FEWEST, MOST], got {depth!r}", *at, "depth")
    fewest, most = ends
    if most > _MAX_LAYERS:
        source.refuse(f"'depth' of '{at[1]}' must be at most {_MAX_LAYERS} layers, got {depth!r}", *at, "depth")
    if not 0 <= fewest <= most or most == 0:
        rule = f"'depth' of '{at[1]}' must rise from 0 or more layers to at least 1"
        source.refuse(f"{rule}, got {depth!r}", *at, "depth")
    return fewest, most


def _read_width(source: Source, at: tuple[str, ...], width: Any) -> Number | Categorical:
    made: Number | Categorical
    if isinstance(width, Mapping):
        source.only(_KEYS_BY_TYPE["int"], width, *at)
        made = Number("", "", **_read_bounds(source, at, width, True))
        sizes: Sequence[Any] = [made.low]
    else:
        sizes = _read_choices(source, at, width)
        made = Categorical("", "", choices=tuple(sizes))
    if not all(is_number(size) and float(size).is_integer() and size >= 1 for size in sizes):
        source.refuse(f"widths of '{at[1]}' are whole numbers from 1, got {width!r}", *at)
    return made


def require_plain(source: Source, value: Any, *path: Any) -> None:
    """Refuse what JSON cannot hold: a date, a set, infinity."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        parts = list(value.values())
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    elif value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        parts = []
    else:
        source.refuse(
            f"{value!r} is no plain value (a word, a number, true, null, or a list or mapping of them)", *path
        )
    for part in parts:
        require_plain(source, part, *path)
