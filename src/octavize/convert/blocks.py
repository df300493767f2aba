"""The residual blocks of a network, found by one run without values: by what modules add up, not by names.

A residual block is a module that adds what its layers made of its input to that input, or to one convolution
of it (the shortcut). Modules of the same class count too: the strided blocks of a MobileNetV2 have no sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from octavize.convert.inputs import Inputs, Shape, inputs_of
from octavize.convert.trace import CONVOLUTIONS, dtype_of, explained, to_meta, with_gradients_if_asked
from octavize.nn._torch_internals import tree_leaves
from octavize.nn.conv import geometry_of
from octavize.plans.exchanging import Block

SUMS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})


def residual_blocks(model: nn.Module, shape: Inputs | Shape) -> list[Block]:
    """The residual blocks of a vanilla network, in the order in which they run.

    A module that holds other residual blocks is none itself, and neither is the whole network.

    Raises:
        TraceError: the network does not run on an input of this shape.
    """
    return with_gradients_if_asked(lambda grad: _residual_blocks(model, shape, grad))


def _residual_blocks(model: nn.Module, shape: Inputs | Shape, grad: bool) -> list[Block]:
    meta = to_meta(model)
    run = _Run()
    for name, module in meta.named_modules():
        run.follow(name, module)
    with explained(model, shape), torch.set_grad_enabled(grad), run:
        inputs_of(shape, "meta", dtype_of(model)).call(meta)
    kinds = {type(meta.get_submodule(name)) for name in run.residual}
    of_a_kind = [name for name in run.sizes if type(meta.get_submodule(name)) in kinds]
    innermost = [name for name in of_a_kind if not any(n.startswith(f"{name}.") for n in of_a_kind)]
    return [block for name in innermost if (block := run.block(name)) is not None]


class _Run(TorchFunctionMode):
    """How many convolutions each map of a run has behind it, and which modules add up maps."""

    def __init__(self) -> None:
        super().__init__()
        self.residual: set[str] = set()
        self.sizes: dict[str, tuple[int, ...]] = {}  # of what modules write, in the order in which they end
        self.depths: dict[str, int] = {}  # of the outputs of dense convolutions
        self._running: list[tuple[str, int | None]] = []  # the modules, with the depth of their one input
        self._known: dict[int, tuple[Tensor, int]] = {}  # keeps the map: ids are reused

    def follow(self, name: str, module: nn.Module) -> None:
        """Follow a module of the network that is about to run."""

        def starts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            self._running.append((name, self._depth(given)))

        def ends(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            _, before = self._running.pop()
            if not isinstance(output, Tensor) or name in self.sizes:
                return
            self.sizes[name] = tuple(output.shape[2:])
            # A map of one pixel is a gate of channels, and no step of the block.
            if isinstance(module, CONVOLUTIONS) and max(output.shape[2:]) > 1:
                depth = (before or 0) + 1
                self._known[id(output)] = output, depth
                if not geometry_of(module).depthwise:  # which has nothing to exchange
                    self.depths[name] = depth

        module.register_forward_pre_hook(starts, with_kwargs=True)
        module.register_forward_hook(ends)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        depths = [depth for x in tree_leaves((args, kwargs)) if (depth := self._depth(x)) is not None]
        if depths:
            for made in tree_leaves(result):
                if isinstance(made, Tensor):
                    self._known[id(made)] = made, max(depths)
        if len(depths) == 2 and getattr(func, "__name__", "") in SUMS and result.dim() > 2 and self._running:
            name, before = self._running[-1]
            least, most = sorted(depths)
            if name and before is not None and before <= least <= before + 1 and least < most:
                self.residual.add(name)
        return result

    def _depth(self, value: Any) -> int | None:
        return self._known[id(value)][1] if id(value) in self._known else None

    def block(self, name: str) -> Block | None:
        """The block of this name; None without a dense convolution."""
        own = {layer: depth for layer, depth in self.depths.items() if layer.startswith(f"{name}.")}
        last = frozenset(layer for layer, depth in own.items() if depth == max(own.values()))
        return Block(frozenset(own), last, self.sizes[name]) if own else None
