"""A network as torch.export writes it down."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_map, tree_unflatten

from octavize.convert.inputs import Inputs, Shape, inputs_of, joined
from octavize.convert.trace import leaves
from octavize.deploy.formats.onnx import quiet
from octavize.errors import InputError, one_line
from octavize.files import output_name
from octavize.nn.dispatch import unannounced
from octavize.nn.tensor import OctTensor


def export_program(
    frozen: nn.Module, given: Inputs | Shape, dynamic_batch: bool, dynamic_size: bool
) -> torch.export.ExportedProgram:
    """A frozen network as torch.export sees it; given inputs, it takes their tensors by position.

    Raises:
        InputError: it cannot be exported, or not for inputs of any size.
    """
    try:
        return _program(frozen, given, dynamic_batch, dynamic_size)
    except Exception as error:  # torch raises many kinds
        remedy = _remedy(frozen, given, dynamic_batch, dynamic_size)
        raise InputError(
            f"model {type(frozen).__name__} cannot be exported ({one_line(error)}): {remedy}"
        ) from error


class _Positional(nn.Module):
    """A network whose inputs are the tensors of an example, one after the other; all else stays as in it."""

    def __init__(self, net: nn.Module, example: Inputs) -> None:
        super().__init__()
        self.net, self.example = net, example

    def forward(self, *tensors: Tensor) -> Any:
        left = iter(tensors)
        return self.example.map(lambda _: next(left)).call(self.net)


class _Dense(nn.Module):
    """A network whose octave outputs are dense."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = self.net(*args, **kwargs)
        return tree_map(lambda v: v.to_dense() if isinstance(v, OctTensor) else v, found)


def with_dense_outputs(net: nn.Module, inputs: Inputs) -> nn.Module:
    """The network itself, or one around it where it returns octave maps, of which runtimes know nothing."""
    with torch.no_grad(), unannounced():
        octave = any(isinstance(v, OctTensor) for v in leaves(inputs.call(net)))
    return _Dense(net) if octave else net


def _program(
    frozen: nn.Module, given: Inputs | Shape, dynamic_batch: bool, dynamic_size: bool
) -> torch.export.ExportedProgram:
    inputs = inputs_of(given, "cpu", torch.float32)
    if isinstance(given, Inputs):
        frozen = _Positional(frozen, inputs)
    if dynamic_batch and inputs.batch == 1:  # it would be taken for a constant
        inputs = joined([inputs, inputs])
    free = (open_axes(x, inputs, dynamic_batch, dynamic_size) for x in inputs.tensors)
    axes = tuple(dict.fromkeys(found, torch.export.Dim.DYNAMIC) or None for found in free)
    parameters = inspect.signature(frozen.forward).parameters.values()
    told = (axes,) if any(p.kind is p.VAR_POSITIONAL for p in parameters) else axes
    # Where torch fails to simplify a condition on sizes it keeps it, and logs a traceback nevertheless.
    noisy = quiet("torch.fx.experimental.symbolic_shapes")
    with torch.no_grad(), torch.autocast("cpu", enabled=False), noisy:
        return torch.export.export(frozen, tuple(inputs.tensors), dynamic_shapes=told, strict=False)


def open_axes(x: Tensor, inputs: Inputs, dynamic_batch: bool, dynamic_size: bool) -> list[int]:
    """The axes of one of the inputs whose length stays open."""
    rows = [0] if dynamic_batch and inputs.is_batched(x) else []
    return [*rows, *range(2, x.dim())] if dynamic_size and inputs.is_sized(x) else rows


def returned_by(
    program: torch.export.ExportedProgram, taken: Sequence[str], called: str
) -> list[dict[str, Any]] | None:
    """What a network returns, for the metadata of its file; None of a single tensor.

    Args:
        called: the network's name, for messages.
        taken: names of the file's inputs, which no output gets.

    Returns:
        For each tensor, in the order in which the network returns them, its `name` (the keys of dicts and the
        numbers of sequences that lead to it) and `rows`: whether it has a row for each image.

    Raises:
        InputError: there is something else than tensors among it.
    """
    spec, signature = program.call_spec.out_spec, program.graph_signature
    if spec is None or spec.is_leaf():
        return None
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    images = values[str(next(iter(signature.user_inputs)))]
    returned, found = signature.user_outputs, []
    paths, _ = tree_flatten_with_path(tree_unflatten(list(range(len(returned))), spec))
    for (path, _), output in zip(paths, returned, strict=True):
        keys = [getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path]
        name = output_name(keys, taken)
        value = values.get(output) if isinstance(output, str) else output
        if not isinstance(value, Tensor):
            raise InputError(f"model {called} returns {value!r} as {name}: let it return tensors alone")
        rows = value.dim() > 0 and str(value.shape[0]) == str(images.shape[0])
        found.append({"name": name, "rows": rows})
    return found


def _remedy(frozen: nn.Module, given: Inputs | Shape, dynamic_batch: bool, dynamic_size: bool) -> str:
    """What to do about a network that cannot be exported: found by leaving less open."""
    makes = "its forward makes a number of"
    if dynamic_size and _runs(frozen, given, dynamic_batch, False):
        return f"{makes} the size of a map, so export it for one size (dynamic_size=False)"
    if dynamic_batch and _runs(frozen, given, False, False):
        return (
            f"{makes} the batch, as len(x) and x.shape.numel() do; write x.size(0) and x.numel(), or export "
            "it in Python for one batch (dynamic_batch=False)"
        )
    return "its forward does what torch.export cannot follow, such as a branch on values; change that"


def _runs(frozen: nn.Module, given: Inputs | Shape, dynamic_batch: bool, dynamic_size: bool) -> bool:
    try:
        _program(frozen, given, dynamic_batch, dynamic_size)
    except Exception:  # as above
        return False
    return True


def without_guards(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The calls of a program, without those that check its input; torch before 2.9 writes none."""
    knows = "check_guards" in inspect.signature(program.module).parameters
    return program.module(check_guards=False) if knows else program.module()
