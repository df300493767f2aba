"""One run of a network, watched: how octave layers are fed, and which batch norm belongs to which of them.

A batch norm can be folded into a convolution only if it reads exactly what the convolution made, and nothing
else does. The order of modules does not tell; a run does. It takes place on the meta device: no values, no
memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from octavize.convert.inputs import Inputs, Shape, inputs_of
from octavize.convert.trace import CONVOLUTIONS, dtype_of, explained, leaves, to_meta, without_devices
from octavize.nn._torch_internals import BatchNorm, TorchDispatchMode, tree_leaves
from octavize.nn.dispatch import unannounced
from octavize.nn.tensor import OctTensor
from octavize.split import ChannelLayout


@dataclass
class Seen:
    """What one run showed, by the names of modules."""

    layouts: dict[str, set[ChannelLayout]] = field(default_factory=dict)
    """The channel layouts in which each convolution was fed; of a plain tensor, all high."""
    octave: set[str] = field(default_factory=set)
    """The convolutions that were fed an OctTensor."""
    norms: dict[str, str] = field(default_factory=dict)
    """Convolution → the batch norm that is the only reader of its output."""


@dataclass(frozen=True)
class _Made:
    """The output of one convolution, which is kept, so that no other tensor gets its identity.

    `readers` are the batch norms in which operations read it; None is any other place.
    """

    conv: str
    output: Any
    readers: set[str | None] = field(default_factory=set)


class _Watch(TorchDispatchMode):
    """Follows the outputs of a network's convolutions."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.seen = Seen()
        self.made: dict[int, _Made] = {}  # by the identity of an output, and of its halves
        self.normed: dict[str, _Made] = {}  # what each batch norm was given
        self.runs: Counter[str] = Counter()
        self.inside: list[str] = []  # the batch norms that run now
        for name, module in net.named_modules():
            if isinstance(module, CONVOLUTIONS):
                module.register_forward_hook(partial(self._conv_ran, name), with_kwargs=True)
            elif isinstance(module, BatchNorm):
                module.register_forward_pre_hook(partial(self._norm_starts, name))
                module.register_forward_hook(self._norm_ends)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.is_read((args, kwargs or {}), self.inside[-1] if self.inside else None)
        return func(*args, **kwargs or {})

    def is_read(self, values: Any, reader: str | None) -> None:
        for value in tree_leaves(values):
            if id(value) in self.made:
                self.made[id(value)].readers.add(reader)

    def _conv_ran(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        value = args[0] if args else kwargs["input"]
        octave = isinstance(value, OctTensor)
        self.seen.layouts.setdefault(name, set()).add(value.channel_layout if octave else (value.shape[1], 0))
        if octave:
            self.seen.octave.add(name)
        self.runs[name] += 1
        self.made |= dict.fromkeys(map(id, (output, *_halves(output))), _Made(name, output))

    def _norm_starts(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.runs[name] += 1
        if args and id(args[0]) in self.made:
            self.normed[name] = self.made[id(args[0])]
        self.inside.append(name)

    def _norm_ends(self, module: nn.Module, args: Any, output: Any) -> None:
        self.inside.pop()


def watch(model: nn.Module, shape: Inputs | Shape) -> Seen:
    """Run a copy of a network, in evaluation mode and without values, on an input of this shape.

    Raises:
        TraceError: the network does not run on it.
    """
    return without_devices(lambda: _watch(model, shape))


def _watch(model: nn.Module, shape: Inputs | Shape) -> Seen:
    meta = to_meta(model)
    run = _Watch(meta)
    with explained(model, shape), torch.no_grad(), unannounced(), run:
        output = inputs_of(shape, "meta", dtype_of(model)).call(meta)
    run.is_read([_halves(leaf) for leaf in leaves(output)], None)
    for norm, source in run.normed.items():
        if source.readers == {norm} and run.runs[norm] == run.runs[source.conv] == 1:
            run.seen.norms[source.conv] = norm
    return run.seen


def _halves(value: Any) -> list[Tensor]:
    """The tensors that hold a map's values."""
    if isinstance(value, OctTensor):
        return [half for half in (value.high, value.low) if half.shape[1] > 0]
    return [value] if isinstance(value, Tensor) else []
