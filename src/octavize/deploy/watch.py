"""One run of a network, watched: how octave layers are fed, and which batch norm belongs to which of them.

A batch norm can be folded into a convolution only if it reads exactly what the convolution made, and nothing
else does. The order of modules does not tell; a run does. It takes place on the meta device: no values, no
memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from octavize.convert.trace import CONVOLUTIONS, Shape, dtype_of, explained, leaves, to_meta, without_devices
from octavize.nn._torch_internals import BatchNorm, TorchDispatchMode, tree_leaves
from octavize.nn.dispatch import unannounced
from octavize.nn.tensor import OctTensor
from octavize.split import ChannelLayout


@dataclass
class Seen:
    """What one run showed, by the names of modules."""

    layouts: dict[str, set[ChannelLayout]] = field(default_factory=dict)
    """The channel layouts in which each convolution was fed; of a plain tensor, all high."""
    plain: set[str] = field(default_factory=set)
    """The convolutions that were only fed plain tensors."""
    norms: dict[str, str] = field(default_factory=dict)
    """Convolution → the batch norm that is the only reader of its output."""


@dataclass(frozen=True)
class _Made:
    """The output of one convolution; kept, so that no other tensor gets its identity."""

    conv: str
    output: Any
    halves: list[Tensor]


class _Readers(TorchDispatchMode):
    """Notes in which batch norm, if any, each operation took place that read the output of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int, set[str | None]] = {}
        self.inside: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and id(value) in self.of:
                self.of[id(value)].add(self.inside[-1] if self.inside else None)
        return func(*args, **kwargs)


def watch(model: nn.Module, shape: Shape) -> Seen:
    """Run a copy of a network, in evaluation mode and without values, on an input of this shape.

    Raises:
        TraceError: the network does not run on it.
    """
    return without_devices(lambda: _watch(model, shape))


def _watch(model: nn.Module, shape: Shape) -> Seen:
    meta = to_meta(model)
    names = {module: name for name, module in meta.named_modules()}
    seen, readers = Seen(), _Readers()
    made: dict[int, _Made] = {}
    runs_of: dict[str, int] = dict.fromkeys(names.values(), 0)
    read: dict[str, _Made] = {}
    not_plain: set[str] = set()

    def conv_ran(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        name, value = names[module], args[0] if args else kwargs["input"]
        runs_of[name] += 1
        seen.layouts.setdefault(name, set()).add(_channel_layout(value))
        if isinstance(value, OctTensor):
            not_plain.add(name)
        made[id(output)] = _Made(name, output, _halves(output))
        readers.of |= {id(half): set() for half in made[id(output)].halves}

    def norm_starts(module: nn.Module, args: tuple[Any, ...]) -> None:
        name = names[module]
        runs_of[name] += 1
        if args and id(args[0]) in made:
            read[name] = made[id(args[0])]
        readers.inside.append(name)

    def norm_ends(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        readers.inside.pop()

    for module in names:
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(conv_ran, with_kwargs=True)
        elif isinstance(module, BatchNorm):
            module.register_forward_pre_hook(norm_starts)
            module.register_forward_hook(norm_ends)
    with explained(model, shape), torch.no_grad(), unannounced(), readers:
        output = meta(torch.empty(shape, device="meta", dtype=dtype_of(model)))
    returned = {id(half) for leaf in leaves(output) for half in _halves(leaf)}
    for norm, source in read.items():
        ids = {id(half) for half in source.halves}
        if (
            runs_of[norm] == runs_of[source.conv] == 1
            and not ids & returned
            and all(readers.of[i] == {norm} for i in ids)
        ):
            seen.norms[source.conv] = norm
    seen.plain = seen.layouts.keys() - not_plain
    return seen


def _halves(value: Any) -> list[Tensor]:
    """The tensors that hold a map's values."""
    if isinstance(value, OctTensor):
        return [half for half in (value.high, value.low) if half.shape[1] > 0]
    return [value] if isinstance(value, Tensor) else []


def _channel_layout(value: Any) -> ChannelLayout:
    return value.channel_layout if isinstance(value, OctTensor) else (value.shape[1], 0)
