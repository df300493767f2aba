"""What a network does with a layer's output, found from one run and not from names.

That decides where a constant may go that the layer shall add (its bias, or the running mean of the batch norm
after it), which outputs the activation cannot tell apart, and what map is added to the output in the end.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from octavize.calibration.coupling import stand_in
from octavize.calibration.walk import first_of
from octavize.convert.blocks import SUMS
from octavize.convert.inputs import Inputs
from octavize.nn._torch_internals import tree_leaves

NORMS = frozenset({"batch_norm"})
CLAMPS = {"relu": (0.0, math.inf), "relu_": (0.0, math.inf), "relu6": (0.0, 6.0)}
BOUNDED = frozenset({"hardtanh", "hardtanh_"})
Tap = tuple[str, str]
"""A module's map: the module's name, and whether its "input" or its "output" is meant."""


@dataclass(frozen=True)
class Follows:
    """What follows a layer.

    `norm` is the name of the batch norm that alone reads its output, and that reads nothing else. `added` is
    the map that is added to what comes out of it. `bounds` are those of the activation after all that, which
    makes all values beyond them equal.
    """

    norm: str | None = None
    added: Tap | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Traced:
    """The calls of layers, in order, and what follows the layers that are called once."""

    calls: list[str]
    follows: dict[str, Follows]


def trace_calls(model: nn.Module, image: Inputs, layers: Collection[str]) -> Traced:
    """Run a vanilla network on an image and look what it does with the outputs of some of its layers."""
    net = stand_in(model)
    record = _Record(net)
    calls: list[tuple[str, int]] = []  # name, value made

    def ran(name: str, module: nn.Module, args: Any, output: Any) -> None:
        calls.append((name, record.number(output)))

    for name in layers:
        net.get_submodule(name).register_forward_hook(partial(ran, name))
    for name, module in net.named_modules():
        module.register_forward_pre_hook(partial(record.enters, name), with_kwargs=True)
        module.register_forward_hook(partial(record.leaves, name))
    with torch.no_grad(), record:
        output = image.call(net)
    for value in tree_leaves(output):
        if isinstance(value, Tensor):
            record.readers[record.number(value)].append(_Call("output"))
    times = Counter(name for name, _ in calls)
    follows = {name: record.after(value) for name, value in calls if times[name] == 1}
    return Traced([name for name, _ in calls], follows)


@dataclass(frozen=True)
class _Call:
    """One call of a torch function: the values it reads, by number, and the one that it makes."""

    name: str
    reads: tuple[int, ...] = ()
    made: int = -1
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def argument(self, place: int, name: str, otherwise: Any = None) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, otherwise)


class _Record(TorchFunctionMode):
    """Which function reads which values. A function that writes into a tensor makes a new value."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.readers: dict[int, list[_Call]] = defaultdict(list)
        self._norm_of = {id(b): name.rpartition(".")[0] for name, b in net.named_buffers()}
        self._uses: Counter[int] = Counter()
        self._number: dict[int, int] = {}  # of the value that a tensor holds
        self._alive: list[Tensor] = []  # ids are reused
        self._seen_at: dict[int, Tap] = {}  # the first module that a value entered or left
        self._entered: Counter[str] = Counter()

    def number(self, tensor: Any) -> int:
        """Of the value that a tensor holds now."""
        if id(tensor) not in self._number:
            self._name_anew(tensor)
        return self._number[id(tensor)]

    def _name_anew(self, tensor: Any) -> int:
        self._alive.append(tensor)
        self._number[id(tensor)] = len(self._alive)
        return len(self._alive)

    def enters(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """A module is called."""
        self._entered[name] += 1
        if isinstance(first_of(args, kwargs), Tensor):
            self._seen_at.setdefault(self.number(first_of(args, kwargs)), (name, "input"))

    def leaves(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """A module has run."""
        if isinstance(output, Tensor):
            self._seen_at.setdefault(self.number(output), (name, "output"))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reads = tuple(self.number(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        result = func(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if not made:  # such as a shape
            return result
        name = getattr(func, "__name__", "")
        if name in NORMS:
            self._uses[id(args[1]) if len(args) > 1 else id(kwargs.get("running_mean"))] += 1
        call = _Call(name, reads, self._name_anew(made[0]), args, kwargs)
        for tensor in made[1:]:
            self._name_anew(tensor)
        for value in set(reads):
            self.readers[value].append(call)
        return result

    def after(self, value: int) -> Follows:
        """What happens to a value."""
        found, start = Follows(), value
        call = self._only(value)
        if call is not None and call.name in NORMS and not call.argument(5, "training", False):
            mean = call.argument(1, "running_mean")
            if mean is None or self._uses[id(mean)] > 1 or id(mean) not in self._norm_of:
                return found
            found, value = replace(found, norm=self._norm_of[id(mean)]), call.made
            call = self._only(value)
        if call is not None and call.name == "dropout" and not call.argument(2, "training", True):
            value = call.made
            call = self._only(value)
        if (
            call is not None
            and call.name in SUMS
            and len(call.reads) == 2
            and call.kwargs.get("alpha", 1) == 1
        ):
            other = next((v for v in call.reads if v != value), value)
            added = self._seen_at.get(other)
            # It has to be there when the layer is called.
            if added is None or other >= start or self._entered[added[0]] > 1:
                return found
            found, value = replace(found, added=added), call.made
            call = self._only(value)
        if call is not None:
            found = replace(found, bounds=_bounds(call))
        return found

    def _only(self, value: int) -> _Call | None:
        """The only call that reads a value."""
        return self.readers[value][0] if len(self.readers[value]) == 1 else None


def _bounds(call: _Call) -> tuple[float, float]:
    """Between which values an activation lets differences through; infinite for other functions."""
    if call.name in BOUNDED:
        return float(call.argument(1, "min_val", -1.0)), float(call.argument(2, "max_val", 1.0))
    return CLAMPS.get(call.name, (-math.inf, math.inf))
