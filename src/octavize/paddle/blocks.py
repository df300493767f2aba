"""The residual blocks of a network, found by one run: by what modules add up, not by names.

A residual block is a module that adds what its layers made of its input to that input, or to one convolution
of it (the shortcut). Modules of the same class count too: the strided blocks of a MobileNetV2 have no sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import paddle
from paddle import Tensor, nn

from octavize.paddle.dispatch import Octave, dense, octave_values, unannounced
from octavize.paddle.geometry import CONVOLUTIONS, geometry_of
from octavize.paddle.inputs import Inputs
from octavize.paddle.trace import clean_copy, dtype_of, explained
from octavize.paddle.wrapping import enable
from octavize.plans.exchanging import Block

SUMS = frozenset({"add", "add_"})


def residual_blocks(model: nn.Layer, inputs: Inputs) -> list[Block]:
    """The residual blocks of a vanilla network, in the order in which they run.

    A module that holds other residual blocks is none itself, and neither is the whole network.

    Raises:
        TraceError: the network does not run on these inputs.
    """
    enable()  # the run is followed through Paddle's functions, as octave maps are
    net = clean_copy(model)
    run = _Run()
    layers = dict(net.named_sublayers(include_self=True))
    for name, layer in layers.items():
        run.follow(name, layer)
    given = inputs.made(dtype_of(net))
    with explained(model, given), paddle.no_grad(), unannounced():
        given.each(run.start).call(net)
    kinds = {type(layers[name]) for name in run.residual}
    of_a_kind = [name for name in run.sizes if type(layers[name]) in kinds]
    innermost = [name for name in of_a_kind if not any(n.startswith(f"{name}.") for n in of_a_kind)]
    return [block for name in innermost if (block := run.block(name)) is not None]


class _Run:
    """How many convolutions each map of a run has behind it, and which modules add up maps."""

    def __init__(self) -> None:
        self.residual: set[str] = set()
        self.sizes: dict[str, tuple[int, ...]] = {}  # of what modules write, in the order in which they end
        self.depths: dict[str, int] = {}  # of the outputs of dense convolutions
        self._running: list[tuple[str, int | None]] = []  # the modules, with the depth of their one input

    def start(self, x: Any) -> Any:
        """An input of the network, which no convolution has made."""
        return _Followed(x, None, self)

    def follow(self, name: str, layer: nn.Layer) -> None:
        """Follow a layer of the network that is about to run."""

        def starts(layer: nn.Layer, args: tuple[Any, ...]) -> None:
            read = args[0] if args else None
            self._running.append((name, read.depth if isinstance(read, _Followed) else None))

        def ends(layer: nn.Layer, args: tuple[Any, ...], output: Any) -> None:
            _, before = self._running.pop()
            if not isinstance(output, _Followed) or name in self.sizes:
                return
            self.sizes[name] = tuple(output.shape[2:])
            # A map of one pixel is a gate of channels, and no step of the block.
            if isinstance(layer, CONVOLUTIONS) and max(output.shape[2:]) > 1:
                output.depth = (before or 0) + 1
                if not geometry_of(layer).depthwise:  # which has nothing to exchange
                    self.depths[name] = output.depth

        before: Any = starts
        after: Any = ends
        layer.register_forward_pre_hook(before)
        layer.register_forward_post_hook(after)

    def note(self, name: str, depths: list[int], result: Any) -> None:
        """A function was called on maps of these depths."""
        if len(depths) != 2 or name not in SUMS or result.ndim <= 2 or not self._running:
            return
        module, before = self._running[-1]
        least, most = sorted(depths)
        if module and before is not None and before <= least <= before + 1 and least < most:
            self.residual.add(module)

    def block(self, name: str) -> Block | None:
        """The block of this name; None without a dense convolution."""
        own = {layer: depth for layer, depth in self.depths.items() if layer.startswith(f"{name}.")}
        last = frozenset(layer for layer, depth in own.items() if depth == max(own.values()))
        return Block(frozenset(own), last, self.sizes[name]) if own else None


class _Followed(Octave):
    """A plain tensor on its way through a network: every function gets the tensor, and the run is told."""

    rules: ClassVar[Any]
    strict = False

    def __init__(self, value: Tensor, depth: int | None, run: _Run) -> None:
        self.value, self.depth, self.run = value, depth, run

    def to_dense(self) -> Tensor:
        return self.value

    def __getattr__(self, name: str) -> Any:
        own = getattr(self.value, name)
        return super().__getattr__(name) if callable(own) else own


class _EveryFunction:
    """The rules of a followed tensor: one for every name."""

    def get(self, name: str) -> Callable[..., Any]:
        def rule(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            followed: list[Any] = octave_values([*args, *kwargs.values()])
            result = func(*map(dense, args), **{key: dense(value) for key, value in kwargs.items()})
            run, depths = followed[0].run, [x.depth for x in followed if x.depth is not None]
            run.note(name, depths, result)
            return _following(result, max(depths, default=None), run)

        return rule


_Followed.rules = _EveryFunction()


def _following(result: Any, depth: int | None, run: _Run) -> Any:
    if isinstance(result, Tensor):
        return _Followed(result, depth, run)
    if type(result) in (list, tuple):
        return type(result)(_following(part, depth, run) for part in result)
    return result
