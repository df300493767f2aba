"""What each operation does to labels, one rule a kind of operation.

A rule takes the book and a `Call` that has run already, enters relations, and returns the labels of the
results. Whatever it is not sure of it refuses with `NotUnderstood`, and the channels that the call read are
frozen: a guess would change the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .label_book import Book, NotUnderstood, Weight, one_value, same_rows
from .labels import FROZEN, NEUTRAL

Labels = Tensor | int | None  # to be broadcast to a result's shape; None: the rule has stored them


@dataclass
class Call:
    """An ATen operation that has run: arguments by name, results, and operands as they were before."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    before: dict[str, Tensor]  # copies of operands that the operation changed in place, by argument
    out: Any

    def __post_init__(self) -> None:
        self.name: str = self.func._schema.name.split("::")[1].removesuffix("_")
        self.named: dict[str, Any] = {
            a.name: a.default_value for a in self.func._schema.arguments if a.has_default_value()
        }
        self.named |= {a.name: v for a, v in zip(self.func._schema.arguments, self.args, strict=False)}
        self.named |= self.kwargs

    def __getitem__(self, name: str) -> Any:
        if name not in self.named:
            raise NotUnderstood
        return self.named[name]

    def value(self, name: str) -> Tensor:
        """The values that an operand had when it was read."""
        return self.before.get(name, self[name])

    def tensors(self) -> list[Tensor]:
        """All tensors it read."""
        return [t for t in tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor)]

    def results(self) -> list[Tensor]:
        return [t for t in tree_leaves(self.out) if isinstance(t, Tensor)]


Rule = Callable[[Book, Call], Sequence[Labels]]
_RULES: dict[str, Rule] = {}


def propagate(book: Book, call: Call) -> None:
    """Give the results of a call their labels."""
    rule = _RULES.get(call.name)
    if rule is None and torch.Tag.pointwise in call.func.tags:
        rule = pointwise
    if _is_constant(book, call, rule):
        return  # its labels are read off its values
    results = call.results()
    found: Sequence[Labels] = []
    try:
        if rule is None:
            raise NotUnderstood
        found = rule(book, call)
    except (NotUnderstood, RuntimeError):  # torch refuses to do to labels what it does to numbers
        for tensor in call.tensors():
            book.freeze(tensor)
    for i, result in enumerate(results):
        labels = found[i] if i < len(found) else FROZEN
        if labels is not None and any(result is tensor for tensor in call.tensors()):
            _overwrite(book, result, labels)
        elif labels is not None:
            book.hold(result, labels)


def _is_constant(book: Book, call: Call, rule: Rule | None) -> bool:
    """Whether the result depends on no weight and no activation."""
    if call.name.endswith("_like") or call.name.startswith("new_"):
        return True
    # Moved data can be a view that is written to later: it needs labels from the start.
    if rule is move or call.func._schema.is_mutable:
        return False
    return all(book.is_constant(tensor) for tensor in call.tensors())


def _overwrite(book: Book, tensor: Tensor, labels: Tensor | int) -> None:
    """New labels for a tensor changed in place, seen by all its views."""
    if book.weight(tensor) is not None:
        book.freeze(tensor)
        return
    held = book[tensor]
    if held.shape != tensor.shape:  # squeezed in place
        book.hold(tensor, labels)
        return
    held.copy_(labels) if isinstance(labels, Tensor) else held.fill_(labels)


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


# ---- place by place ---------------------------------------------------------------------------------


@_rule("_prelu_kernel")
def pointwise(book: Book, call: Call) -> Sequence[Labels]:
    """Operands meet place by place; the result carries the label of the first that has one."""
    names = [name for name, value in call.named.items() if isinstance(value, Tensor)]
    if len(names) != len(call.tensors()) or "out" in call.named:
        raise NotUnderstood
    return [meet(book, [(call.value(name), book[call[name]]) for name in names], call.results()[0].shape)]


def meet(book: Book, operands: Sequence[tuple[Tensor, Tensor]], shape: Sequence[int]) -> Tensor:
    """Relate operands, each (values, labels), that are broadcast to `shape`; the labels of the result.

    Raises:
        NotUnderstood: an operand without labels treats the channels of another differently.
    """
    result = torch.zeros((), dtype=torch.long).expand(tuple(shape))
    for _, labels in operands:
        labels = labels.expand(result.shape)
        book.ledger.relate(result, labels)
        result = torch.where(result == NEUTRAL, labels, result)
    for values, labels in operands:
        _check_neutral(values, labels, result)
    return result


def _check_neutral(values: Tensor, labels: Tensor, result: Tensor) -> None:
    """Values without a label must be the same for all the channels that they meet."""
    met = (labels.expand(result.shape) == NEUTRAL) & (result != NEUTRAL)
    if values.numel() < 2 or not met.any():
        return
    if (labels == NEUTRAL).all():
        lead = result.dim() - values.dim()
        varies = [d for d in range(values.dim()) if (result != result.narrow(d + lead, 0, 1)).any()]
        if all(bool((values == values.narrow(d, 0, 1)).all()) for d in varies):
            return
    if not one_value(values.cpu().expand(result.shape)[met]):
        raise NotUnderstood


@_rule("copy")
def copy_(book: Book, call: Call) -> Sequence[Labels]:
    book.ledger.relate(book[call["src"]], torch.tensor(NEUTRAL))
    return [book[call["src"]]]


@_rule("fill", "zero")
def fill_(book: Book, call: Call) -> Sequence[Labels]:
    return [NEUTRAL if one_value(call.results()[0]) else FROZEN]


@_rule("as_strided")
def restride(book: Book, call: Call) -> Sequence[Labels]:
    """Only where it changes nothing but the strides of axes of length 1, as torch does after pooling."""
    if not torch.equal(call.value("self"), call.results()[0]):
        raise NotUnderstood
    return [book[call["self"]]]


@_rule("glu")
def glu(book: Book, call: Call) -> Sequence[Labels]:
    halves = book[call["self"]].chunk(2, call["dim"])
    values = call["self"].chunk(2, call["dim"])
    return [meet(book, list(zip(values, halves, strict=True)), call.out.shape)]


# ---- moving data ------------------------------------------------------------------------------------

_MOVES = (
    "_reshape_alias _to_copy _unsafe_view alias cat channel_shuffle clone constant_pad_nd contiguous detach diagonal"
    " expand flip im2col index index_select lift_fresh movedim narrow native_channel_shuffle permute pixel_shuffle"
    " pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d"
    " replication_pad2d replication_pad3d roll rot90 select slice split split_with_sizes squeeze stack"
    " t transpose unbind unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze view _unsafe_index"
)


@_rule(*_MOVES.split())
def move(book: Book, call: Call) -> Sequence[Labels]:
    """The labels go where the data goes: the same operation on them."""
    if any(book.weight(t) is not None and t.squeeze().dim() > 1 for t in call.tensors()):
        return _view_weight(book, call)

    indices = call.tensors()[1:] if "index" in call.name else []
    if not all(book.is_constant(index) for index in indices):
        raise NotUnderstood

    def swap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if any(value is index for index in indices):
            return value.cpu()
        book.ledger.relate(book[value], torch.tensor(NEUTRAL))
        return book[value]

    args, kwargs = tree_map(swap, (call.args, call.kwargs))
    kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "device", "layout", "pin_memory")}
    if call.name == "constant_pad_nd":
        args = (*args[:2], NEUTRAL)
    moved = [t for t in tree_leaves(_on_labels(call, args, kwargs)) if isinstance(t, Tensor)]
    for result, labels in zip(call.results(), moved, strict=True):
        book[result] = labels  # not a copy: a view of labels for a view of data
    return [None] * len(moved)


def _on_labels(call: Call, args: Any, kwargs: Any) -> Any:
    if call.name in ("_to_copy", "lift_fresh"):
        return args[0].clone()
    try:
        return call.func(*args, **kwargs)
    except NotImplementedError:  # no kernel for integers; labels are small enough to be exact as doubles
        args = tree_map(lambda v: v.double() if isinstance(v, Tensor) else v, args)
        return tree_map(lambda v: v.long() if isinstance(v, Tensor) else v, call.func(*args, **kwargs))


def _view_weight(book: Book, call: Call) -> Sequence[Labels]:
    """A parameter seen with its axes in another order, as the transposed weight of a linear layer."""
    source = call.args[0]
    weight = book.weight(source) if isinstance(source, Tensor) else None
    if weight is None or len(call.tensors()) != 1 or len(call.results()) != 1:
        raise NotUnderstood
    probe = torch.empty(source.shape, device="meta")
    strides = {step: d for d, step in enumerate(probe.stride()) if probe.shape[d] > 1}
    seen = call.func(probe, *call.args[1:], **call.kwargs)
    dims: list[int | None] = []
    for length, step in zip(seen.shape, seen.stride(), strict=True):
        d = strides.get(step) if length > 1 else None
        if length > 1 and (d is None or probe.shape[d] != length):
            raise NotUnderstood  # axes merged, cut or repeated
        dims.append(None if d is None else weight.dims[d])
    book.set_weight(call.results()[0], Weight(weight.name, tuple(dims)))
    return [None]


# ---- reductions and norms ---------------------------------------------------------------------------


def _dims(call: Call, ndim: int) -> list[int]:
    dim = call.named.get("dim")
    if dim is None or dim == []:
        return list(range(ndim))
    return [d % ndim for d in (dim if isinstance(dim, (list, tuple)) else [dim])] if ndim else []


def reduce(book: Book, tensor: Tensor, dims: Sequence[int]) -> Tensor:
    """Labels of a symmetric reduction (mean, maximum, …), the reduced axes kept with length 1.

    Along axes where they do not change, labels stay. A reduction over the same set of channels everywhere
    leaves no channel, and its channels may change places only among themselves. Otherwise the channels that
    are reduced to one value move as one, and the first of them names the result.
    """
    labels = book[tensor]
    for d in dims:
        if (labels == labels.narrow(d, 0, 1)).all():
            labels = labels.narrow(d, 0, 1)
    varies = [d for d in dims if labels.shape[d] > 1]
    book.ledger.relate(labels, torch.tensor(NEUTRAL))
    if not varies:
        return labels
    kept = [d for d in range(labels.dim()) if d not in varies]
    moved = labels.permute(*kept, *varies)
    rows = moved.reshape(-1, torch.Size([labels.shape[d] for d in varies]).numel())
    shape = [1 if d in varies else n for d, n in enumerate(labels.shape)]
    in_order = rows.sort(1).values
    if (in_order == in_order[:1]).all():
        _relate_counts(book, in_order[0])
        return torch.zeros(shape, dtype=torch.long)
    rows_once = rows.unique(dim=0)
    if (rows == NEUTRAL).any() or rows.shape[1] > 4096 or FROZEN in rows_once:
        raise NotUnderstood
    book.ledger.tie(rows_once)
    return rows[:, 0].reshape(shape)


def _relate_counts(book: Book, labels: Tensor) -> None:
    """Channels that occur n times may change places with those that occur n times as well."""
    found, counts = labels.unique(return_counts=True)
    for count in counts.unique():
        book.ledger.relate(found[counts == count], torch.tensor(NEUTRAL))


@_rule("mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "logsumexp", "prod", "norm", "var_mean")
def reduction(book: Book, call: Call) -> Sequence[Labels]:
    tensor = call.tensors()[0]
    labels = reduce(book, tensor, _dims(call, tensor.dim()))
    return [labels.reshape(result.shape) for result in call.results()]


@_rule("_softmax", "_log_softmax")
def softmax(book: Book, call: Call) -> Sequence[Labels]:
    reduce(book, call["self"], _dims(call, call["self"].dim()))
    return [book[call["self"]]]


@_rule("native_layer_norm")
def layer_norm(book: Book, call: Call) -> Sequence[Labels]:
    x = call["input"]
    reduce(book, x, range(x.dim() - len(call["normalized_shape"]), x.dim()))
    return [_scale(book, call, x.shape, ("weight", "bias"))]


@_rule("native_group_norm")
def group_norm(book: Book, call: Call) -> Sequence[Labels]:
    x, groups = call["input"], call["group"]
    channels = book.channels(x, x.dim() - 2)
    if groups == 1:
        _relate_counts(book, channels)
    else:
        _tie_groups(book, channels.reshape(groups, -1))
    return [_scale(book, call, x.shape, ("weight", "bias"), after=x.dim() - 2)]


def _tie_groups(book: Book, groups: Tensor) -> None:
    """Every group (a row) moves as one. A channel without a label keeps its group in place."""
    book.ledger.tie(groups)
    book.ledger.freeze(groups[(groups == NEUTRAL).any(1)])


@_rule(
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
)
def batch_norm(book: Book, call: Call) -> Sequence[Labels]:
    x = call["input"]
    if call.named.get("training") or call.named.get("running_mean") is None:
        book.channels(x, x.dim() - 2)  # statistics of the batch are those of one channel each
    return [_scale(book, call, x.shape, ("weight", "bias", "running_mean", "running_var"), after=x.dim() - 2)]


def _scale(book: Book, call: Call, shape: Sequence[int], names: Sequence[str], after: int = 0) -> Tensor:
    """A map meets vectors with one entry a channel, `after` axes before its end."""
    operands = [(call["input"], book[call["input"]])]
    for vector in (call.named.get(name) for name in names):
        if vector is not None:
            view = (*vector.shape, *[1] * after)
            operands.append((vector.reshape(view), book[vector].reshape(view)))
    return meet(book, operands, shape)


# ---- space ------------------------------------------------------------------------------------------

_POOLS = ("avg_pool", "max_pool", "_adaptive_avg_pool", "adaptive_max_pool", "upsample_nearest")
_SPATIAL = (
    [f"{name}{d}d" for name in _POOLS for d in (1, 2, 3)]
    + [f"max_pool{d}d_with_indices" for d in (2, 3)]
    + [f"_upsample_nearest_exact{d}d" for d in (1, 2, 3)]
    + "adaptive_avg_pool1d upsample_linear1d upsample_bilinear2d upsample_bicubic2d".split()
    + "upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa".split()
)


@_rule(*_SPATIAL)
def pool_or_resize(book: Book, call: Call) -> Sequence[Labels]:
    """Every channel for itself: its label covers whatever size the result has."""
    found = re.search(r"(\d)d", call.name)
    x = call.tensors()[0]
    spatial = int(found[1]) if found else x.dim() - 2
    labels = book.over(x, range(x.dim() - spatial, x.dim()))
    book.ledger.relate(labels, torch.tensor(NEUTRAL))
    return [labels]  # indices of a maximum are frozen


@_rule("convolution", "_convolution")
def convolution(book: Book, call: Call) -> Sequence[Labels]:
    x, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    spatial = weight.dim() - 2
    read = book.channels(x, spatial)
    reads, makes = (0, 1) if call["transposed"] else (1, 0)
    if groups == 1:
        book.join(read, book.axis(weight, reads))
        made = book.axis(weight, makes)
    else:
        made = _grouped(book, weight, read, groups, bool(call["transposed"]))
    return [_add_bias(book, made, bias).reshape(-1, *[1] * spatial)]


def _add_bias(book: Book, made: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return made
    return meet(book, [(torch.zeros(()), made), (bias, book[bias])], made.shape)


def _grouped(book: Book, weight: Tensor, read: Tensor, groups: int, transposed: bool) -> Tensor:
    """Channels made by a grouped convolution, of which whole groups move, on both sides at once."""
    within = book.axis(weight, 1)  # the place in a group
    book.ledger.freeze(within)
    if transposed:
        book.join(read, book.axis(weight, 0))
        made = book.ledger.new_axis(groups * weight.shape[1])
    else:
        made = book.axis(weight, 0)
    _tie_groups(book, torch.cat([read.reshape(groups, -1), made.reshape(groups, -1)], 1))
    return made


# ---- matrices ---------------------------------------------------------------------------------------


def _matrix(book: Book, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Labels of the rows (m,) and of the columns (n,) of a matrix (…, m, n): at most one kind unless a weight.

    Raises:
        NotUnderstood: both change, or not the same in every matrix of a batch.
    """
    if book.weight(tensor) is not None and tensor.dim() == 2:
        return book.axis(tensor, 0), book.axis(tensor, 1)
    labels = book[tensor]
    rows, columns = labels.shape[-2:]
    if (labels == labels[..., :1, :]).all():
        by_column = same_rows(labels[..., 0, :].reshape(-1, columns))
        return torch.zeros(rows, dtype=torch.long), by_column
    if (labels == labels[..., :, :1]).all():
        return same_rows(labels[..., :, 0].reshape(-1, rows)), torch.zeros(columns, dtype=torch.long)
    raise NotUnderstood


def _product(book: Book, a: Tensor, b: Tensor) -> Tensor:
    """Labels of the matrix product of (…, m, k) and (…, k, n), to be broadcast to (…, m, n)."""
    (rows, inner), (outer, columns) = _matrix(book, a), _matrix(book, b)
    book.ledger.relate(inner, outer)
    if len(inner) > 1:  # a sum over k: both sides move along, or neither
        book.ledger.freeze(inner[outer == NEUTRAL])
        book.ledger.freeze(outer[inner == NEUTRAL])
    book.ledger.relate(rows, torch.tensor(NEUTRAL))
    if (columns == NEUTRAL).all():
        return rows[:, None]
    if (rows != NEUTRAL).any():
        raise NotUnderstood
    return columns[None]


@_rule("mm", "bmm")
def product(book: Book, call: Call) -> Sequence[Labels]:
    return [_product(book, call["self"], call["mat2"])]


@_rule("addmm", "baddbmm")
def add_product(book: Book, call: Call) -> Sequence[Labels]:
    first, second = call.tensors()[1:]
    made = _product(book, first, second)
    bias = call.tensors()[0]
    return [meet(book, [(call.out, made), (bias, book[bias])], call.out.shape)]


@_rule("linear")
def linear(book: Book, call: Call) -> Sequence[Labels]:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    read = same_rows(book[x].reshape(-1, x.shape[-1]))
    book.join(read, book.axis(weight, 1))
    return [_add_bias(book, book.axis(weight, 0), bias)]


def changed_operands(func: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """The arguments that an operation is going to change in place."""
    if not func._schema.is_mutable:
        return
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
            yield argument.name, value
