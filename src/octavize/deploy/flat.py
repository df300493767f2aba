"""A frozen network as one list of calls: no modules, no octave tensors, and fewer passes over every map.

`torch.export` writes down what the network calls on plain tensors. In that list

* a convolution has a copy of its weight, laid out for oneDNN, and takes over the sum and the activation that
  follow it,
* a low map that is up-sampled and added to a high one is added where it lies, through a broadcast view,
* an activation overwrites the map that nothing else reads.

Each changes speed only. `view` may copy, since maps are channels-last.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node

from octavize.deploy.program import without_guards
from octavize.nn._torch_internals import may_write, onednn

aten = torch.ops.aten
ONEDNN: Any = onednn()
"""Networks are only flattened where torch has it."""
LAID_OUT = "laid_out"
"""Key of what is known of weights: name, name of the copy, geometry, shape of the input."""
LAID_OUT_FOR = "laid_out_for"
"""Key of the batch and the number of threads that the copies are for."""
CONVOLUTION = ONEDNN and ONEDNN.convolve
SUMS = (ONEDNN and ONEDNN.convolve_and_add, ONEDNN and ONEDNN.convolve_into)
IN_PLACE_ADD = (aten.add_.Tensor, operator.iadd)
ADD = (aten.add.Tensor, operator.add, *IN_PLACE_ADD)
ACTIVATIONS = {
    aten.relu.default: "relu",
    aten.relu_.default: "relu",
    aten.silu.default: "swish",
    aten.silu_.default: "swish",
    aten.hardswish.default: "hardswish",
    aten.hardswish_.default: "hardswish",
}
"""oneDNN's names for what a convolution can do to its output."""
_CONV2D_DEFAULTS = (None, None, None, [1, 1], [0, 0], [1, 1], 1)


def flatten(program: torch.export.ExportedProgram) -> GraphModule:
    """The calls of an exported network, rewritten for float32 tensors on the CPU that are channels-last."""
    exported: Any = without_guards(program)
    calls = GraphModule(exported, exported.graph)  # without the hooks that check every input
    for step in (_view, _own_weight, _add_into_convolution, _add_where_it_lies, _activate):
        for node in list(calls.graph.nodes):
            if node.op == "call_function":
                step(calls, node)
    calls.graph.eliminate_dead_code()
    calls.graph.lint()
    calls.recompile()
    return calls


def lay_out(calls: GraphModule, batch: int) -> None:
    """Lay the weights out as oneDNN wants them for batches of this size on this many threads, once.

    Another size or number works too, but up to a third slower.
    """
    wanted = (batch, torch.get_num_threads())
    if calls.meta.get(LAID_OUT_FOR) == wanted:
        return
    with torch.inference_mode(False):  # the copies outlive the mode of this call
        for weight, copy, geometry, size in calls.meta.get(LAID_OUT, ()):
            values = operator.attrgetter(weight)(calls).detach()
            size = [n if isinstance(n, int) else batch for n in size]
            setattr(calls, copy, ONEDNN.lay_out(values, *geometry, size))
    calls.meta[LAID_OUT_FOR] = wanted


def _view(calls: GraphModule, node: Node) -> None:
    """A view of a map that was not channels-last in the network, as in `view(N, -1)`: it may have to copy."""
    if node.target is aten.view.default:
        node.target = aten.reshape.default


def _own_weight(calls: GraphModule, node: Node) -> None:
    """A convolution with a weight of its own: it gets a copy that can be laid out."""
    if node.target is not aten.conv2d.default:
        return
    given = [*node.args, *_CONV2D_DEFAULTS[len(node.args) :]]
    x, weight, bias, stride, padding, dilation, groups = given
    if not isinstance(x, Node) or not isinstance(weight, Node) or weight.op != "get_attr":
        return
    geometry = (padding, stride, dilation, groups)
    name = f"laid_out_{node.name}"
    values = operator.attrgetter(str(weight.target))(calls).detach()
    calls.register_buffer(name, values, persistent=False)  # as it lies, until `lay_out`
    told = (str(weight.target), name, geometry, list(x.meta["val"].shape))
    calls.meta.setdefault(LAID_OUT, []).append(told)
    with calls.graph.inserting_before(node):
        args = (x, calls.graph.get_attr(name), bias, *geometry, "none", [], "")
        _replace(node, calls.graph.call_function(CONVOLUTION, args))


def _add_into_convolution(calls: GraphModule, node: Node) -> None:
    """`conv(x) + y`: the convolution adds. Not on a single pixel, where torch 2.9 fails."""
    if node.target not in ADD or len(node.args) != 2 or node.kwargs or _is_one_pixel(node):
        return
    for conv, other in (node.args, node.args[::-1]):
        if not isinstance(conv, Node) or not isinstance(other, Node) or conv.target is not CONVOLUTION:
            continue
        if len(conv.users) > 1 or not other < conv or not _same_shape(conv, other) or _changes(other, node):
            continue
        rest = (*conv.args[1:7], "add", 1.0, None, [], None)
        with calls.graph.inserting_before(conv):
            if _is_own(other):
                new = calls.graph.call_function(SUMS[1], (other, conv.args[0], *rest))
            else:
                new = calls.graph.call_function(SUMS[0], (conv.args[0], other, *rest))
        _replace(node, new)
        calls.graph.erase_node(conv)
        return


def _add_where_it_lies(calls: GraphModule, node: Node) -> None:
    """`y += U(low)`: without the map of the whole size in between."""
    if node.target not in IN_PLACE_ADD or len(node.args) != 2:
        return
    y, up = node.args
    if isinstance(up, Node) and up.target is aten.upsample_nearest2d.vec and len(up.users) == 1:
        with calls.graph.inserting_before(node):
            _replace(node, calls.graph.call_function(add_upsampled_, (y, up.args[0])))
        calls.graph.erase_node(up)


def _activate(calls: GraphModule, node: Node) -> None:
    """An activation: the last thing a convolution does, or written over what it reads."""
    name = ACTIVATIONS.get(node.target)  # pyright: ignore[reportArgumentType, reportCallIssue]
    source = node.args[0] if node.args else None
    if name is None or not isinstance(source, Node) or len(source.users) > 1:
        return
    if source.target is CONVOLUTION and source.args[7] == "none":
        source.update_arg(7, name)
    elif source.target in SUMS and source.args[10] is None and name == "relu":
        source.update_arg(10, name)
    else:
        if node.target is aten.relu.default and _is_own(source):
            node.target = aten.relu_.default
        return
    node.replace_all_uses_with(source)
    calls.graph.erase_node(node)


def _replace(node: Node, new: Node) -> None:
    new.meta = node.meta
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _is_one_pixel(node: Node) -> bool:
    return all(n == 1 for n in getattr(node.meta.get("val"), "shape", ())[2:])


def _same_shape(a: Node, b: Node) -> bool:
    shapes = [getattr(node.meta.get("val"), "shape", None) for node in (a, b)]
    return shapes[0] is not None and str(shapes[0]) == str(shapes[1])  # as text: it may hold symbols


def _is_own(node: Node) -> bool:
    """Whether a map is fresh memory that only its one user reads, so that it may be written over."""
    while len(node.users) == 1:
        if node.target in (CONVOLUTION, SUMS[0]):
            return True
        if node.target not in (add_upsampled_, SUMS[1], aten.relu_.default, *IN_PLACE_ADD):
            return False
        source = node.args[0]
        if not isinstance(source, Node):
            return False
        node = source
    return False


def _changes(node: Node, but_by: Node) -> bool:
    """Whether something else than one node writes over a map."""
    return any(_writes(user) and user.args[0] is node for user in node.users if user is not but_by)


def _writes(node: Node) -> bool:
    return node.target in (add_upsampled_, operator.iadd) or may_write(node.target)


def add_upsampled_(y: Tensor, low: Tensor) -> Tensor:
    """y += U(low), in place: each low pixel is added to the four that it stands for.

    Args:
        y: (N, C, H, W), changed and returned.
        low: (N, C, ⌈H/2⌉, ⌈W/2⌉).
    """
    height, width = y.shape[2:]
    if height % 2 or width % 2 or low.shape[2:] != (height // 2, width // 2):
        return y.add_(F.interpolate(low, size=(height, width), mode="nearest"))
    y.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).add_(low[:, :, :, None, :, None])
    return y
