"""From a program of `torch.export` to an ONNX model.

`torch.onnx.export` traces every operation of a program twice more, to lower it and to find conversions of types: three
quarters of an export. The programs here have few operations that ONNX does not know, which are replaced one by one, so
that the program is converted as it is. That takes functions which PyTorch does not promise to keep: where one has gone,
an operation is not known, or onnxruntime does not open what came of it, `torch.onnx.export` does its work.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import Any

import torch

from recbole_msr.runs.export.branches import branch_unknown_rows
from recbole_msr.runs.export.document import OUTPUT
from recbole_msr.runs.export.exported_model import optional_package

logger = logging.getLogger(__name__)

_aten = torch.ops.aten


def onnx_model(program: torch.export.ExportedProgram, inputs: Sequence[str], is_checked: bool) -> Any:
    """Return a program as an `onnx_ir.Model`.

    Args:
        program: the program; its graph may be changed.
        inputs: names of its inputs.
        is_checked: whether its scores will be compared; only then it is converted as it is.
    """
    if is_checked:
        try:
            model = _converted(program)
            for value, name in zip(model.graph.inputs, inputs, strict=True):
                value.name = name
            (output,) = model.graph.outputs
            output.name = OUTPUT
            _simplify(model)
            if any(node.op_type.startswith("Sequence") for node in model.graph.all_nodes()):
                raise ValueError("it has sequences")
            whole = optional_package("onnx_ir").to_proto(model).SerializeToString()
            optional_package("onnxruntime").InferenceSession(whole, providers=["CPUExecutionProvider"])
        except Exception as error:  # of many kinds
            logger.debug("export: not converted as it is: %s", error)
        else:
            return model
    exported = torch.onnx.export(
        program, (), input_names=[*inputs], output_names=[OUTPUT], dynamo=True, verbose=False, optimize=False
    )
    assert exported is not None
    _simplify(exported.model)
    return exported.model


def _converted(program: torch.export.ExportedProgram) -> Any:
    from torch.onnx._internal.exporter import _core

    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in _ASSERTIONS:
            graph.erase_node(node)
        elif node.target in _LISTS:
            _take_apart(graph, node)
        elif node.target in _REPLACED:
            with graph.inserting_before(node):
                result = _REPLACED[node.target](partial(_call, graph, node.meta["val"]), *node.args)
            node.replace_all_uses_with(result)
            graph.erase_node(node)
            result.name = node.name  # by which the program knows its outputs
    program.graph_module.recompile()
    convert: Any = _core._exported_program_to_onnx_program
    return convert(program, registry=_registry(), lower="at_conversion").model


def _take_apart(graph: Any, node: Any) -> None:
    """Replace what is taken out of a list of tensors by a part of the tensor that the list was made of.

    ONNX would keep the list as a sequence, which few programs but onnxruntime read.
    """
    dim = node.args[_LISTS[node.target]] if len(node.args) > _LISTS[node.target] else node.kwargs.get("dim", 0)
    for user in list(node.users):
        place = user.args[1]
        with graph.inserting_before(user):
            call = partial(_call, graph, user.meta["val"])
            if node.target is _aten.unbind.int:
                part = call(_aten.select.int, node.args[0], dim, place)
            else:
                ends = list(accumulate((int(value.shape[dim]) for value in node.meta["val"]), initial=0))
                part = call(_aten.slice.Tensor, node.args[0], dim, ends[place], ends[place + 1])
        user.replace_all_uses_with(part)
        graph.erase_node(user)
        part.name = user.name
    graph.erase_node(node)


def _call(graph: Any, like: Any, target: Any, *args: Any, **options: Any) -> Any:
    """Add a call to a graph, of which `like` is an example of the result."""
    node = graph.call_function(target, args, options)
    node.meta["val"] = like
    return node


_LISTS = {
    _aten.unbind.int: 1,
    _aten.split.Tensor: 2,
    _aten.split_with_sizes.default: 2,
    _aten.chunk.default: 2,
}
"""Operations that give a list, and where their dimension stands among the arguments."""
_ASSERTIONS = frozenset({_aten._assert_tensor_metadata.default, _aten._assert_scalar.default})


def _batch_norm(call: Callable[..., Any], *arguments: Any) -> Any:
    *statistics, training, momentum, epsilon, _ = arguments
    assert not training
    outputs = call(_aten._native_batch_norm_legit_no_training.default, *statistics, momentum, epsilon)
    like = outputs.meta["val"]
    outputs.meta["val"] = (like, like.new_empty(0), like.new_empty(0))
    result = call(operator.getitem, outputs, 0)
    result.meta["val"] = like
    return result


def _block_diag(call: Callable[..., Any], blocks: Sequence[Any]) -> Any:
    """Put zeros beside each block, and the blocks below each other."""
    shapes = [block.meta["val"].shape for block in blocks]
    width, before, rows = sum(columns for _, columns in shapes), 0, []
    for block, (_, columns) in zip(blocks, shapes, strict=True):
        row = call(_aten.constant_pad_nd.default, block, [before, width - before - columns], 0.0)
        row.meta["val"] = row.meta["val"].new_empty((block.meta["val"].shape[0], width))
        before += columns
        rows.append(row)
    return call(_aten.cat.default, rows, 0)


_REPLACED: dict[Any, Callable[..., Any]] = {
    _aten.to.dtype: lambda call, x, dtype: call(_aten._to_copy.default, x, dtype=dtype),
    _aten.rsub.Scalar: lambda call, x, other: call(_aten.add.Scalar, call(_aten.neg.default, x), other),
    _aten.batch_norm.default: _batch_norm,
    _aten.block_diag.default: _block_diag,
}
"""What makes of a call of an operation one that ONNX knows, given a function that adds a call, and its arguments."""


@cache
def _registry() -> Any:
    """Return the operations that are known; finding them takes a second."""
    from torch.onnx._internal.exporter import _registration

    find: Any = _registration.ONNXRegistry.from_torchlib
    return find()


def _simplify(model: Any) -> None:
    """Take out of a graph what is constant, unused or there twice.

    The exporter's own optimiser also looks for what can be fused, for two thirds of an export's time; onnxruntime does
    that again when it opens the file, and is as fast without.
    """
    passes = optional_package("onnx_ir.passes.common")
    optional_package("onnxscript.optimizer").fold_constants(model)
    for change in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
    ):
        change(model)
    branch_unknown_rows(model)
    for last in (passes.OutputFixPass(), passes.NameFixPass()):
        last(model)
