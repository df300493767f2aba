"""What each operation does to the labels of channels, one rule a kind of operation.

A rule takes the graph and a `Call` that has run already, enters relations, and returns the labels of each
result, in layers. Whatever it is not sure of it refuses with `NotUnderstood`, and the channels that the call
read are frozen: a guess would change the network. What torch itself can take apart into simpler operations,
such as norms, needs no rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from octavize.calibration.channel_graph import FROZEN, NEUTRAL, ChannelGraph, Layers, NotUnderstood, one_value
from octavize.nn._torch_internals import TorchDispatchMode, decompositions, schema_of, tree_leaves, tree_map

_TAKEN_APART = """
    native_batch_norm cudnn_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _batch_norm_no_update native_layer_norm native_group_norm _softmax _log_softmax _safe_softmax
    _prelu_kernel hardswish log_sigmoid_forward glu masked_fill fill zero rsub addmm baddbmm im2col
    pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d
"""
_SIMPLER = decompositions(
    op for name in _TAKEN_APART.split() if (op := getattr(torch.ops.aten, name, None)) is not None
)


class Call:
    """An ATen operation that has run: its arguments by name, the tensors it read, and its results."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        self.func, self.args, self.kwargs, self.out = func, args, kwargs, out
        self.name: str = schema_of(func).name.split("::")[1]
        arguments = schema_of(func).arguments
        self.named = {a.name: a.default_value for a in arguments if a.has_default_value()}
        self.named |= {a.name: v for a, v in zip(arguments, args, strict=False)} | kwargs
        self.reads = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self.results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]


Rule = Callable[[ChannelGraph, Call], Sequence[Layers]]


class Watch(TorchDispatchMode):
    """Tells the graph of every operation of this thread."""

    def __init__(self, graph: ChannelGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            out = _taken_apart(func, args, kwargs or {})
        if out is NotImplemented:
            out = func(*args, **kwargs or {})
            _follow(self.graph, Call(func, args, kwargs or {}, out))
        return out


def _taken_apart(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation as several simpler ones, if it can be."""
    if func in _SIMPLER:
        return _SIMPLER[func](*args, **kwargs)
    if func is torch.ops.aten.convolution.default and args[2] is not None:
        x, weight, bias, *rest = args
        return func(x, weight, None, *rest) + bias.reshape(-1, *[1] * (weight.dim() - 2))
    if func is torch.ops.aten.copy.default:
        return args[1].to(args[0]).expand(args[0].shape).clone()
    if func is torch.ops.aten.as_strided_.default:  # torch restrides axes of length 1 after it has pooled
        (old, size), new = args[:2], args[0].as_strided(*args[1:])
        return old if old.shape == torch.Size(size) and _in_order(old, new) else NotImplemented
    return func.decompose(*args, **kwargs)


def _in_order(old: Tensor, new: Tensor) -> bool:
    """Whether two views of one memory read it alike."""
    same = old.numel() == new.numel() and old.data_ptr() == new.data_ptr()
    return same and old.is_contiguous() and new.is_contiguous()


def _follow(graph: ChannelGraph, call: Call) -> None:
    """Give the results of a call their labels."""
    if re.search("^new_|_like$", call.name) or all(map(graph.is_constant, call.reads)):
        return  # its labels are read off its values
    found: Sequence[Layers] = []
    try:
        found = _rule(call)(graph, call)
    except (NotUnderstood, RuntimeError):  # torch refuses to do to labels what it does to values
        for tensor in call.reads:
            graph.freeze(*graph.layers(tensor))
    for i, result in enumerate(call.results):
        graph[result] = found[i] if i < len(found) else [torch.full([1] * result.dim(), FROZEN)]


def _rule(call: Call) -> Rule:
    if schema_of(call.func).is_mutable:
        raise NotUnderstood
    if call.name in _RULES:
        return _RULES[call.name]
    if re.search(r"(pool|upsample)\w*[123]d", call.name) and len(call.reads) == 1:
        return _pool_or_resize
    if torch.Tag.pointwise in call.func.tags:
        return _pointwise
    raise NotUnderstood


def _pointwise(graph: ChannelGraph, call: Call) -> Sequence[Layers]:
    """Operands meet place by place, and an operand without labels treats all channels that it meets alike."""
    shape, operands = call.results[0].shape, [(tensor, graph[tensor]) for tensor in call.reads]
    made = operands[0][1][(None,) * (len(shape) - call.reads[0].dim())]
    for _, labels in operands[1:]:
        made = graph.combine(made, labels)
    if not all(_treats_alike(values, labels, made, shape) for values, labels in operands):
        raise NotUnderstood
    return [[made]]


def _treats_alike(values: Tensor, labels: Tensor, made: Tensor, shape: Sequence[int]) -> bool:
    met = (labels == NEUTRAL) & (made != NEUTRAL)
    if values.numel() < 2 or not met.any():
        return True
    if labels.numel() == 1:
        changes = [dim for dim in range(-values.dim(), 0) if made.shape[dim] > 1]
        return all(bool((values == values.narrow(dim, 0, 1)).all()) for dim in changes)
    return one_value(values.cpu().expand(shape)[met.expand(shape)])


_SAME = ["alias", "clone", "contiguous", "detach", "lift_fresh", "_to_copy"]
_RESHAPED = ["view", "_unsafe_view", "_reshape_alias", "as_strided"]
_MOVED = """
    cat expand flip index index_select _unsafe_index native_channel_shuffle permute repeat roll select
    select_scatter slice slice_scatter split split_with_sizes squeeze stack t transpose unbind unfold
    unsqueeze
"""


def _move(graph: ChannelGraph, call: Call) -> Sequence[Layers]:
    """The labels go where the data goes: the same operation on them, layer by layer.

    What puts several operands into one result gives each fresh labels, so that two shifts of a map are told
    apart once they are concatenated.
    """
    indices = call.reads[1:] if "index" in call.name else []
    joins = len(call.reads) - len(indices) > 1
    if not all(map(graph.is_constant, indices)):
        raise NotUnderstood

    def labels_of(value: Any, layer: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        if any(value is index for index in indices):
            return value.cpu()
        labels = graph.combine(graph[value], graph[value]) if joins else graph.layers(value)[layer]
        return labels.expand(value.shape)

    moved = []
    for layer in range(len(graph.layers(call.reads[0]))):
        args, kwargs = tree_map(lambda value, layer=layer: labels_of(value, layer), (call.args, call.kwargs))
        moved.append(_on_labels(call, args, kwargs))
    return [list(layers) for layers in zip(*moved, strict=True)]


def _on_labels(call: Call, args: Any, kwargs: Any) -> Sequence[Tensor]:
    if call.name in _SAME:
        return [args[0]]
    if call.name in _RESHAPED:
        if call.name == "as_strided" and not _in_order(call.reads[0], call.out):
            raise NotUnderstood
        return [args[0].reshape(call.out.shape)]
    made = call.func(*args, **kwargs)
    return [made] if isinstance(made, Tensor) else made


def _pad(graph: ChannelGraph, call: Call) -> Sequence[Layers]:
    """Padding is no channel. But a channel that is padded, as every other is, stays one."""
    old = graph[call.reads[0]]
    widths = [n if old.shape[-1 - i // 2] > 1 else 0 for i, n in enumerate(call.named["pad"])]
    return [[pad(old, widths, value=NEUTRAL)]]


def _reduction(graph: ChannelGraph, call: Call) -> Sequence[Layers]:
    """Reductions for which the order does not matter: means, maxima, norms.

    Along axes where they do not change, labels stay. If the same set of channels is reduced everywhere, no
    channel is left, and they may change places only among themselves. Otherwise the channels that are reduced
    to one value move as one.
    """
    old, dim = graph[call.reads[0]], call.named.get("dim")
    dims = [d % old.dim() for d in ([dim] if isinstance(dim, int) else dim or range(old.dim()))]
    shape = torch.Size([1 if d in dims else n for d, n in enumerate(old.shape)])
    kept = [d for d in range(old.dim()) if d not in dims]
    rows = old.permute(*kept, *dims).reshape(shape.numel(), -1)
    in_order, columns = rows.sort(1).values, rows.T.unique_consecutive(dim=0)
    made = columns[0]
    if len(columns) > 1 and (in_order == in_order[:1]).all():
        found, counts = in_order[0].unique(return_counts=True)
        for count in counts.unique():  # those that occur as often may change places
            graph.relate(found[counts == count], torch.tensor(NEUTRAL))
        made = torch.full_like(made, NEUTRAL)
    elif len(columns) > 4096 or (len(columns) > 1 and (rows == NEUTRAL).any()):
        raise NotUnderstood
    else:
        for column in columns[1:]:
            made = graph.combine(made, column)
    made = made.reshape(shape)
    return [[made if result.dim() == old.dim() else made.squeeze(tuple(dims))] for result in call.results]


def _pool_or_resize(graph: ChannelGraph, call: Call) -> Sequence[Layers]:
    """Every channel for itself: its label covers whatever size the result has."""
    spatial = int(re.findall(r"([123])d", call.name)[0])
    old = graph[call.reads[0]]
    if any(n != 1 for n in old.shape[-spatial:]):
        raise NotUnderstood
    return [[old]]  # indices of a maximum are frozen


def _convolution(graph: ChannelGraph, call: Call) -> Sequence[Layers]:
    weight, groups, transposed = (call.named[name] for name in ("weight", "groups", "transposed"))
    (read,) = graph.along(call.reads[0], 1)
    if any((labels == FROZEN).any() for labels in graph.layers(weight)):
        raise NotUnderstood  # computed from other weights
    rows, columns, *kernel = graph.along(weight, *range(weight.dim()))
    graph.freeze(*kernel)
    reads, made = (rows, columns) if transposed else (columns, rows)
    if groups == 1:
        graph.contract(read, reads)
    else:  # whole groups move, on both sides at once
        graph.freeze(columns)  # the place in a group
        if transposed:
            graph.contract(read, rows)
            made = graph.new_labels(call.out.shape[1])
        graph.tie(torch.cat([side.reshape(groups, -1) for side in (read, made)], 1))
    return [[made.reshape(1, -1, *[1] * len(kernel))]]


def _product(graph: ChannelGraph, call: Call) -> Sequence[Layers]:
    """The product of (…, m, k) and (…, k, n): it has channels in its rows or in its columns."""
    rows, inner = graph.along(call.reads[0], -2, -1)
    outer, columns = graph.along(call.reads[1], -2, -1)
    graph.contract(inner, outer)
    if (rows != NEUTRAL).any() and (columns != NEUTRAL).any():
        raise NotUnderstood
    made = rows[:, None] if (rows != NEUTRAL).any() else columns[None]
    return [[made.reshape(*[1] * (call.out.dim() - 2), *made.shape)]]


_REDUCED = "mean sum amax amin var std var_mean linalg_vector_norm logsumexp prod norm"
_RULES: dict[str, Rule] = {
    **dict.fromkeys([*_SAME, *_RESHAPED, *_MOVED.split()], _move),
    "constant_pad_nd": _pad,
    **dict.fromkeys(_REDUCED.split(), _reduction),
    "convolution": _convolution,
    **dict.fromkeys(["mm", "bmm"], _product),
}
