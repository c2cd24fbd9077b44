"""Rows of an unknown scenario: in a graph they are scored in a branch that is left out where there are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from recbole_msr.runs.export.exported_model import optional_package

_BOOL, _INT32 = 9, 6
"""ONNX's numbers of these types."""


def branch_unknown_rows(model: Any) -> None:
    """Compute what is scattered over the rows that a condition finds, only if it finds any.

    An export records `y[unknown] = f(x[unknown])` as `NonZero`, f and `ScatterND`, which run for no row too. What
    serves nothing else goes into an `If`; the other branch hands y on as it is.

    Args:
        model: an `onnx_ir.Model`, changed in place.
    """
    graph = model.graph
    scatters = [node for node in graph if node.op_type == "ScatterND" and _nonzero(node) is not None]
    only = {node: node.inputs[:1] for node in scatters}
    kept = _ancestors(graph.outputs, only)
    while True:
        # One that serves another's rows alone goes into the branch of that one, as it is.
        outer = {node: inputs for node, inputs in only.items() if node in kept}
        needs = {node: _ancestors(node.inputs[1:], outer) - kept for node in outer}
        counts = Counter(node for nodes in needs.values() for node in nodes)
        shared = {node for node, count in counts.items() if count > 1}
        if not shared:
            break
        read_by_others = [
            value for node in shared for value in node.outputs if any(use.node not in shared for use in value.uses())
        ]
        kept |= _ancestors(read_by_others, only)
    for scatter, nodes in needs.items():
        found: Any = _nonzero(scatter)
        inside = nodes - _ancestors(found.inputs)
        _move(graph, scatter, found.inputs[0], [node for node in graph if node in inside])


def _move(graph: Any, scatter: Any, condition: Any, nodes: list[Any]) -> None:
    """Put nodes and the scatter behind them into the branch of an `If`."""
    ir = optional_package("onnx_ir")
    as_number = ir.node("Cast", [condition], {"to": _INT32})
    largest = ir.node("ReduceMax", as_number.outputs, {"keepdims": 0})
    is_any = ir.node("Cast", largest.outputs, {"to": _BOOL})
    y, result = scatter.inputs[0], scatter.outputs[0]
    left = ir.node("Identity", [y])
    merged = ir.node("If", is_any.outputs)
    merged.outputs[0].type, merged.outputs[0].shape = result.type or y.type, result.shape or y.shape
    ir.convenience.replace_all_uses_with(result, merged.outputs[0], replace_graph_outputs=True)
    graph.insert_before(scatter, [as_number, largest, is_any, merged])
    graph.remove([*nodes, scatter])
    for name, outputs, inside in (
        ("then_branch", [result], [*nodes, scatter]),
        ("else_branch", left.outputs, [left]),
    ):
        merged.attributes.add(ir.AttrGraph(name, ir.Graph([], outputs, nodes=inside, name=name)))


def _nonzero(scatter: Any) -> Any:
    """Return the node that found the rows of a scatter; None where they are no condition's."""
    return next((node for node in _ancestors(scatter.inputs[1:2]) if node.op_type == "NonZero"), None)


def _ancestors(values: Iterable[Any], only: dict[Any, Iterable[Any]] | None = None) -> set[Any]:
    """Return the nodes that values are made of; of the nodes in `only` no other inputs are followed."""
    found: set[Any] = set()
    waiting = [value for value in values if value is not None]
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            waiting += [value for value in (only or {}).get(node, node.inputs) if value is not None]
    return found
