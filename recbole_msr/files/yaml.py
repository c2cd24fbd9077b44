"""YAML as this package reads and writes it: plain values only, every key once, names as they are written.

A configuration, a `best.yaml` or a search space may come from somebody else. Reading one builds mappings, lists, text,
numbers, booleans and null, and nothing else; no text in it is evaluated.
"""

from __future__ import annotations

import ast
import copy
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from recbole_msr.errors import InputError

DEEPEST = 64
"""Mappings and lists may stand inside each other so many times."""
LARGEST = 10_000_000
"""Bytes of a YAML file at most."""
_SMALL = 10_000

NAME_KEYS = frozenset(
    {
        *("model", "dataset", "backbone", "preset", "main_task", "only_scenario", "knowledge", "language"),
        *("data_path", "output_dir", "cache_dir", "knowledge_dir", "init_from", "wandb_project", "name"),
        "study",
    }
)
"""Keys whose value is a name or a path: `NO`, `01` and `1e3` are text there, not false, 1 and 1000."""

_TAG = "tag:yaml.org,2002:"
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]*)?")
# The pattern of RecBole's loader, for which 1e-3 is a number; YAML 1.1 wants a point in it.
_FLOAT = re.compile(
    r"""^(?:
     [-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |\.[0-9_]+(?:[eE][-+][0-9]+)?
    |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.X,
)


class SafeLoader(yaml.SafeLoader):
    """PyYAML's safe loader with RecBole's numbers, and without what can go wrong unseen.

    It refuses a key that stands twice in a mapping, anchors that blow a small file up or contain themselves, nesting
    beyond `DEEPEST`, and every tag but those of plain values. Dates stay text.
    """

    _depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node; refuse nesting beyond `DEEPEST`."""
        self._depth += 1
        if self._depth > DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, f"nested deeper than {DEEPEST} levels", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_node(self) -> Node | None:
        """Return the document's node, its anchors checked and its names kept as text."""
        node = super().get_single_node()
        if node is not None:
            _check_size(node)
            _keep_names(node)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; refuse a key that is there already."""
        seen: dict[Any, Node] = {}
        for key_node, _ in node.value if isinstance(node, MappingNode) else ():
            if key_node.tag == _TAG + "merge":
                continue
            key = self.construct_object(key_node, deep=True)
            try:
                before = seen.setdefault(key, key_node)
            except TypeError as error:
                raise _refusal("a key must be a word or a number", key_node) from error
            if before is not key_node:
                line = before.start_mark.line + 1
                raise _refusal(f"the key '{key_node.value}' stands here already, in line {line}", key_node)
        return super().construct_mapping(node, deep=deep)


def _without(resolvers: Mapping[str, list[Any]], *tags: str) -> dict[str, list[Any]]:
    return {first: [(tag, pattern) for tag, pattern in rows if tag not in tags] for first, rows in resolvers.items()}


_PLAIN_TAGS = {None, *(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map"))}
SafeLoader.yaml_constructors = {tag: f for tag, f in yaml.SafeLoader.yaml_constructors.items() if tag in _PLAIN_TAGS}
# What RecBole's loader takes for a number comes first, as there.
SafeLoader.yaml_implicit_resolvers = _without(yaml.SafeLoader.yaml_implicit_resolvers, _TAG + "timestamp")
SafeLoader.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))


class _Dumper(yaml.SafeDumper):
    """Quotes text that `SafeLoader` would take for something else: '1e3'."""


_Dumper.yaml_implicit_resolvers = _without(yaml.SafeDumper.yaml_implicit_resolvers)
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))


def _refusal(problem: str, node: Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, SequenceNode):
        yield from node.value


def _check_size(root: Node) -> None:
    """Refuse anchors that contain themselves, or that make a small file large."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size_of(node: Node) -> int:
        if id(node) in open_nodes:
            raise _refusal("an anchor contains itself", node)
        if id(node) not in sizes:
            open_nodes.add(id(node))
            sizes[id(node)] = 1 + sum(map(size_of, _children(node)))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if size_of(root) > max(_SMALL, 10 * len(sizes)):
        raise _refusal(f"its anchors stand for {size_of(root):,} values in place of the {len(sizes):,} written", root)


# Names stay text.


def _keep_names(root: Node) -> None:
    """Make scalars text where settings hold names: models, tasks, scenarios, their fields and values."""
    seen, waiting = set[int](), [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            waiting.extend(_children(node))
            for key, value in _pairs(node):
                _keep_names_of(str(key.value), value)


def _keep_names_of(key: str, value: Node) -> None:
    if key in NAME_KEYS:
        _as_text(value)
    elif key == "tasks":
        _as_text(value)
        for name, body in _pairs(value):
            _as_text(name)
            _as_text(body)
            _as_text(_child(body, "field"))
    elif key == "scenario":
        _as_text(value)
        _as_text(_child(value, "field"))
        _as_text(_child(value, "other"))
        for inner in ("names", "groups"):
            names = _child(value, inner)
            _as_text(names)
            for node in _children(names) if names is not None else ():
                _as_text(node)
                for listed in _children(node) if isinstance(node, SequenceNode) else ():
                    _as_text(listed)


def _pairs(node: Node | None) -> list[tuple[Node, Node]]:
    return node.value if isinstance(node, MappingNode) else []


def _child(node: Node | None, key: str) -> Node | None:
    return next((value for name, value in _pairs(node) if name.value == key), None)


def _as_text(node: Node | None) -> None:
    """Take a scalar by the letter; null stays null, and a plain decimal number the number that it is."""
    number = node is not None and node.tag in (_TAG + "int", _TAG + "float")
    if isinstance(node, ScalarNode) and (node.tag == _TAG + "bool" or (number and not _DECIMAL.fullmatch(node.value))):
        node.tag = _TAG + "str"


# Reading and writing.


def parse_yaml(text: str, name: str = "the text") -> Any:
    """Return the content of a YAML text.

    Args:
        text: the text.
        name: its name in messages, for instance its file.

    Raises:
        InputError: it is no YAML, or holds what `SafeLoader` refuses; the message names the line.
    """
    try:
        return yaml.load(text, Loader=SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise yaml_error(error, name) from error


def yaml_error(error: Exception, name: str) -> InputError:
    """Return the error to raise for an exception of PyYAML's while it read `name`."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    place = name if mark is None else f"{name}:{mark.line + 1}"
    told = " ".join(str(problem or error).split())
    hint = ""
    if "could not determine a constructor" in told:
        hint = "; only plain values are read: text, numbers, true, false, null, lists and mappings"
    refused = isinstance(error, yaml.constructor.ConstructorError)  # valid YAML, but not read
    return InputError(f"{place}{':' if refused else ' is not valid YAML:'} {told}{hint}")


def read_text(path: str | Path, what: str = "the configuration file") -> str:
    """Return the text of a small file, in UTF-8, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, is too large, or is no UTF-8.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise InputError(f"{what} {path} has more than {LARGEST:,} bytes: it is something else")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"cannot read {what} {path}: line {line} is not UTF-8; save the file as UTF-8") from error
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read {what} {path}: {told}") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, with the numbers as RecBole reads them (1e-3 is one).

    Raises:
        InputError: the file is missing, is not YAML, or holds something else than a mapping with words as keys.
    """
    content = parse_yaml(read_text(path), str(path))
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{path} must hold keys and values (key: value), not {type(content).__name__}")
    for key in content or {}:
        if not isinstance(key, str):
            raise InputError(f"{path}: the key {key!r} is no word; put it in quotes if it is one")
    return content or {}


def read_defaults(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file of an installed package: as `read_yaml`, but parsed once while it is unchanged.

    Each caller gets a mapping of its own.

    Raises:
        InputError: as `read_yaml`.
    """
    try:
        state = os.stat(path)
    except OSError:
        return read_yaml(path)
    return copy.deepcopy(_parsed(str(path), state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=256)
def _parsed(path: str, modified: int, size: int) -> dict[str, Any]:
    return read_yaml(path)


def write_yaml_text(content: Any, width: int = 120, flow: bool = False) -> str:
    """Return YAML that `read_yaml` reads back to the same, keys in their order.

    Args:
        content: plain values.
        width: characters a line, about.
        flow: everything in brackets, in one line where `width` allows.
    """
    style = True if flow else None
    return yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=style, width=width
    )


def parse_argument(key: str, text: str) -> Any:
    """Return the value of `--key=text`: YAML, or a Python literal unknown to YAML (None, a tuple); else the text.

    The value of a key in `NAME_KEYS` is the text itself, but for null, None, ~ and what stands in quotes.

    Raises:
        InputError: it is YAML with a key given twice, a tag, or nesting without end.
    """
    try:
        loader = SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return text
        _keep_names_of(key, node)
        value = loader.construct_document(node)
    except (yaml.scanner.ScannerError, yaml.parser.ParserError, yaml.reader.ReaderError):
        return python_literal(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise yaml_error(error, f"--{key}") from error
    if not isinstance(value, str) or not isinstance(node, ScalarNode) or node.style is not None:
        return value
    if key in NAME_KEYS:
        return None if text == "None" else text
    return python_literal(text)


def python_literal(text: str) -> Any:
    """Return a text's value as a Python literal (a number, a list, None, a quoted word); never evaluate it.

    Any other text is returned as it is. RecBole evaluates the text values of its command line and of `config_dict`;
    this replaces that.
    """
    word = text.strip().lower()
    if word in ("true", "false"):
        return word == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value if value is None or isinstance(value, (str, int, float, list, tuple, dict)) else text


class TypedSettings(dict[str, Any]):
    """Settings whose values have their types already: RecBole's Config takes them as they are."""
