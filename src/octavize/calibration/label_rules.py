"""What each operation does to labels, one rule a kind of operation.

A rule takes the book and a `Call` that has run already, enters relations, and returns the labels of the
results. Whatever it is not sure of it refuses with `NotUnderstood`, and the channels that the call read are
frozen: a guess would change the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from octavize.calibration.label_book import Book, NotUnderstood, Weight, one_value
from octavize.calibration.labels import FROZEN, NEUTRAL
from octavize.nn._torch_internals import schema_of, tree_leaves, tree_map

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
        schema = schema_of(self.func)
        self.name: str = schema.name.split("::")[1].removesuffix("_")
        self.named: dict[str, Any] = {
            a.name: a.default_value for a in schema.arguments if a.has_default_value()
        }
        self.named |= {a.name: v for a, v in zip(schema.arguments, self.args, strict=False)}
        self.named |= self.kwargs

    def __getitem__(self, name: str) -> Any:
        if name not in self.named:
            raise NotUnderstood
        return self.named[name]

    def value(self, name: str) -> Tensor:
        """The values that an operand had when it was read."""
        return self.before[name] if name in self.before else self[name]

    def tensors(self) -> list[Tensor]:
        """All tensors it read."""
        return [t for t in tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor)]

    def results(self) -> list[Tensor]:
        return [t for t in tree_leaves(self.out) if isinstance(t, Tensor)]


def changed_operands(func: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """The arguments that an operation is going to change in place."""
    if not schema_of(func).is_mutable:
        return
    for argument, value in zip(schema_of(func).arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
            yield argument.name, value


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
    if rule is move or schema_of(call.func).is_mutable:
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


def label_rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator that registers a rule for operations, in place or not, by their names in ATen."""

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


# ---- place by place ---------------------------------------------------------------------------------


# Those that torch does not tag as pointwise, alone or in place.
_UNTAGGED = (
    "_prelu_kernel abs copysign eq ge gelu gt hardswish le lt masked_fill mish ne relu6 rsub threshold"
)


@label_rule(*_UNTAGGED.split())
def pointwise(book: Book, call: Call) -> Sequence[Labels]:
    """Operands meet place by place."""
    names = [name for name, value in call.named.items() if isinstance(value, Tensor)]
    if len(names) != len(call.tensors()) or "out" in call.named:
        raise NotUnderstood
    return [meet(book, [(call.value(name), book[call[name]]) for name in names], call.results()[0].shape)]


def meet(book: Book, operands: Sequence[tuple[Tensor, Tensor]], shape: Sequence[int]) -> Tensor:
    """Labels (*shape) of what is made of operands, each (values, labels), place by place after broadcasting.

    Raises:
        NotUnderstood: an operand without labels treats the channels of another differently.
    """
    result = torch.tensor(NEUTRAL)
    for _, labels in operands:
        result = book.ledger.combine(result, labels)
    result = result.expand(tuple(shape))
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


@label_rule("copy")
def copy_(book: Book, call: Call) -> Sequence[Labels]:
    return [book.ledger.combine(book[call["src"]])]


@label_rule("fill", "zero")
def fill_(book: Book, call: Call) -> Sequence[Labels]:
    return [NEUTRAL if one_value(call.results()[0]) else FROZEN]


@label_rule("as_strided")
def restride(book: Book, call: Call) -> Sequence[Labels]:
    """Only where it changes nothing but the strides of axes of length 1, as torch does after pooling."""
    if not torch.equal(call.value("self"), call.results()[0]):
        raise NotUnderstood
    return [book[call["self"]]]


@label_rule("glu")
def glu(book: Book, call: Call) -> Sequence[Labels]:
    halves = book[call["self"]].chunk(2, call["dim"])
    values = call["self"].chunk(2, call["dim"])
    return [meet(book, list(zip(values, halves, strict=True)), call.out.shape)]


# ---- moving data ------------------------------------------------------------------------------------

_MOVES = """
    alias cat channel_shuffle clone constant_pad_nd contiguous detach diagonal expand flip im2col index
    index_select lift_fresh movedim narrow native_channel_shuffle permute pixel_shuffle pixel_unshuffle
    reflection_pad1d reflection_pad2d reflection_pad3d repeat replication_pad1d
    replication_pad2d replication_pad3d _reshape_alias roll rot90 select slice split split_with_sizes
    squeeze stack t _to_copy transpose unbind unfold unsafe_chunk _unsafe_index unsafe_split
    unsafe_split_with_sizes _unsafe_view unsqueeze view
"""


@label_rule(*_MOVES.split())
def move(book: Book, call: Call) -> Sequence[Labels]:
    """The labels go where the data goes: the same operation on them.

    A copy has fresh labels, one set an operand, so that two shifts of a map are told apart once they are
    concatenated. A view has views of the labels, so that writing into it is seen by what it is a view of.
    """
    if any(book.weight(t) is not None and t.squeeze().dim() > 1 for t in call.tensors()):
        return _view_weight(book, call)

    indices = call.tensors()[1:] if "index" in call.name else []
    if not all(book.is_constant(index) for index in indices):
        raise NotUnderstood

    is_view = schema_of(call.func).arguments[0].alias_info is not None

    def swap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if any(value is index for index in indices):
            return value.cpu()
        return book[value] if is_view else book.ledger.combine(book[value])

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


# Last, since layers build on all of the above: whoever propagates labels has all rules for it.
