"""Rules of labels for layers: reductions and norms, pooling, convolutions and matrix products."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from octavize.calibration.label_book import Book, NotUnderstood, same_rows
from octavize.calibration.label_rules import Call, Labels, label_rule, meet
from octavize.calibration.labels import NEUTRAL

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
    are reduced to one value move as one.
    """
    labels = book[tensor]
    for d in dims:
        if (labels == labels.narrow(d, 0, 1)).all():
            labels = labels.narrow(d, 0, 1)
    varies = [d for d in dims if labels.shape[d] > 1]
    if not varies:
        return book.ledger.combine(labels)
    kept = [d for d in range(labels.dim()) if d not in varies]
    moved = labels.permute(*kept, *varies)
    rows = moved.reshape(-1, torch.Size([labels.shape[d] for d in varies]).numel())
    shape = [1 if d in varies else n for d, n in enumerate(labels.shape)]
    in_order = rows.sort(1).values
    if (in_order == in_order[:1]).all():
        _relate_counts(book, in_order[0])
        return torch.zeros(shape, dtype=torch.long)
    if (rows == NEUTRAL).any() or rows.shape[1] > 1024:
        raise NotUnderstood
    rows, row = rows.unique(dim=0, return_inverse=True)
    made = rows[:, 0]
    for others in rows.T[1:]:
        made = book.ledger.combine(made, others)
    return made[row].reshape(shape)


def _relate_counts(book: Book, labels: Tensor) -> None:
    """Channels that occur n times may change places with those that occur n times as well."""
    found, counts = labels.unique(return_counts=True)
    for count in counts.unique():
        book.ledger.combine(found[counts == count])


@label_rule(
    "mean", "sum", "amax", "amin", "var", "std", "linalg_vector_norm", "logsumexp", "prod", "norm", "var_mean"
)
def reduction(book: Book, call: Call) -> Sequence[Labels]:
    tensor = call.tensors()[0]
    labels = reduce(book, tensor, _dims(call, tensor.dim()))
    return [labels.reshape(result.shape) for result in call.results()]


@label_rule("_softmax", "_log_softmax")
def softmax(book: Book, call: Call) -> Sequence[Labels]:
    reduce(book, call["self"], _dims(call, call["self"].dim()))
    return [book.ledger.combine(book[call["self"]])]


@label_rule("native_layer_norm")
def layer_norm(book: Book, call: Call) -> Sequence[Labels]:
    x = call["input"]
    reduce(book, x, range(x.dim() - len(call["normalized_shape"]), x.dim()))
    return [_scale(book, call, x.shape, ("weight", "bias"))]


@label_rule("native_group_norm")
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


@label_rule(
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
    operands = []
    for vector in (call.named.get(name) for name in names):
        if vector is not None:
            view = (*vector.shape, *[1] * after)
            operands.append((vector.reshape(view), book[vector].reshape(view)))
    operands.append((call["input"], book[call["input"]]))  # last: vectors are fast to combine
    return meet(book, operands, shape)


# ---- space ------------------------------------------------------------------------------------------

_POOLS = ("avg_pool", "max_pool", "_adaptive_avg_pool", "adaptive_max_pool", "upsample_nearest")
_SPATIAL = (
    [f"{name}{d}d" for name in _POOLS for d in (1, 2, 3)]
    + [f"max_pool{d}d_with_indices" for d in (2, 3)]
    + [f"_upsample_nearest_exact{d}d" for d in (1, 2, 3)]
    + ["adaptive_avg_pool1d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"]
    + ["upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"]
)


@label_rule(*_SPATIAL)
def pool_or_resize(book: Book, call: Call) -> Sequence[Labels]:
    """Every channel for itself: its label covers whatever size the result has."""
    found = re.search(r"(\d)d", call.name)
    x = call.tensors()[0]
    spatial = int(found[1]) if found else x.dim() - 2
    labels = book.over(x, range(x.dim() - spatial, x.dim()))
    return [book.ledger.combine(labels)]  # indices of a maximum are frozen


@label_rule("convolution", "_convolution")
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
    made = book.ledger.combine(made)
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
    """Labels of the rows (m,) and columns (n,) of a matrix (…, m, n): only a weight has both.

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
    if (columns == NEUTRAL).all():
        return book.ledger.combine(rows)[:, None]
    if (rows != NEUTRAL).any():
        raise NotUnderstood
    return book.ledger.combine(columns)[None]


@label_rule("mm", "bmm")
def product(book: Book, call: Call) -> Sequence[Labels]:
    return [_product(book, call["self"], call["mat2"])]


@label_rule("addmm", "baddbmm")
def add_product(book: Book, call: Call) -> Sequence[Labels]:
    first, second = call.tensors()[1:]
    made = _product(book, first, second)
    bias = call.tensors()[0]
    return [meet(book, [(call.out, made), (bias, book[bias])], call.out.shape)]


@label_rule("linear")
def linear(book: Book, call: Call) -> Sequence[Labels]:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    read = same_rows(book[x].reshape(-1, x.shape[-1]))
    book.join(read, book.axis(weight, 1))
    return [_add_bias(book, book.axis(weight, 0), bias)]
