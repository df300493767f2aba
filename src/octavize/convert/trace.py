"""One run of a network on the meta device: the layers, their order, their shapes and their costs.

Nothing is computed and no memory is used, so even ResNet-200 at 224 pixels takes a second.
Multiply–accumulates are counted by torch's own flop counter: convolutions and matrix products, as the
literature counts a network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.utils.flop_counter import FlopCounterMode

from octavize.errors import InputError, one_line, shown
from octavize.nn._torch_internals import forward_hooks, tree_leaves
from octavize.nn.dispatch import Octave, observe_calls, oct_tensors, unannounced
from octavize.nn.tensor import OctTensor
from octavize.planning import Fallback, Layer, Shape, Trace, TraceError

Result = TypeVar("Result")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Sources:
    """Follows OctTensors through a network: which layers made their channels."""

    def __init__(self) -> None:
        self.fallbacks: list[Fallback] = []
        self._known: dict[int, tuple[Octave, frozenset[str]]] = {}  # keeps the tensor: ids are reused

    def of(self, *values: Any) -> frozenset[str]:
        none: tuple[Any, frozenset[str]] = (None, frozenset())
        found = (self._known.get(id(x), none)[1] for x in oct_tensors(values))
        return frozenset().union(*found)

    def add(self, value: Any, sources: frozenset[str]) -> None:
        for x in oct_tensors(value):
            self._known[id(x)] = (x, self.of(x) | sources)

    def watch(self, name: str, operands: Sequence[Any], result: Any, dense: bool) -> None:
        sources = self.of(*operands)
        if dense:
            self.fallbacks.append(Fallback(name, sources))
        self.add(result, sources)


def shapes(value: Any) -> tuple[Shape, Shape | None]:
    """Shapes of the two halves of a map; low is None for a plain tensor."""
    if isinstance(value, OctTensor):
        return tuple(value.high.shape), tuple(value.low.shape)
    return tuple(value.shape), None


def example_shape(model: nn.Module, example: Tensor | Sequence[int] | None = None) -> Shape:
    """The input shape to trace a network with: of `example`, or (1, C, H, W) derived from the network.

    C is that of the first convolution; H and W come from timm's configuration, else they are 224. Video
    networks get 8 frames of 112 pixels.

    Raises:
        InputError: the network has no convolution, or is not a network; or `example` is not a shape.
    """
    check_network(model)
    if isinstance(example, Tensor):
        return tuple(example.shape)
    if example is not None:
        if isinstance(example, str) or not isinstance(example, Sequence):
            raise InputError(
                f"example={shown(example)} is neither an input nor its shape, such as (1, 3, 224, 224)"
            )
        if not all(isinstance(n, int) and n > 0 for n in example):
            raise InputError(
                f"example={tuple(example)} is no shape: give whole numbers above 0, as (1, 3, 96, 96)"
            )
        return tuple(example)
    first = next((m for m in model.modules() if isinstance(m, CONVOLUTIONS)), None)
    if first is None:
        raise InputError(f"{type(model).__name__} has no convolution: octavize converts CNNs")
    if len(first.kernel_size) == 3:
        return (1, first.in_channels, 8, 112, 112)
    config = getattr(model, "default_cfg", None) or {}
    side = config.get("input_size", (3, 224, 224))[-1]
    return (1, first.in_channels, *[side] * len(first.kernel_size))


def image_shape(model: nn.Module, size: int, batch: int = 1) -> Shape:
    """(N, C, H, W) of square images of `size` pixels, with the channels that the network reads.

    Raises:
        InputError: the network reads sound or video.
    """
    shape = example_shape(model)
    if len(shape) != 4:
        raise InputError(
            f"model {type(model).__name__} seems, by its first convolution, to read inputs of shape {shape} "
            "and no images: use octavize in Python, where example= gives any shape"
        )
    return (batch, shape[1], size, size)


def check_network(model: Any) -> None:
    """Check that a model is a network, and not a name or a state dict.

    Raises:
        InputError: it is not a torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        told = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise InputError(f"model is {told}, no torch.nn.Module: build the network first, then give it")


def to_meta(model: nn.Module) -> nn.Module:
    """A copy of the network without values and without users' hooks, in evaluation mode."""
    return clean_copy(model, lambda values: values.to("meta"))


def clean_copy(model: nn.Module, make: Callable[[Tensor], Tensor] = Tensor.clone) -> nn.Module:
    """A copy of the network without users' hooks, in evaluation mode; `make` copies values.

    Raises:
        InputError: it is not a torch.nn.Module.
    """
    check_network(model)
    # `deepcopy` would copy the values itself, and refuse those that autograd made: give it the copies.
    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(make(p.detach()), requires_grad=p.requires_grad)
    for b in model.buffers():
        memo[id(b)] = make(b.detach())
    for module in model.modules():  # constants outside of buffers
        memo |= {id(v): make(v.detach()) for v in vars(module).values() if isinstance(v, Tensor)}
    copied = copy.deepcopy(model, memo).eval()
    drop_hooks(copied)
    return copied


def drop_hooks(model: nn.Module) -> None:
    """Remove the hooks that users put on a network."""
    for module in model.modules():
        for hooks in forward_hooks(module):
            for key, hook in list(hooks.items()):
                # Weight norm and pruning are part of the network.
                if not hasattr(hook, "compute_weight") and not isinstance(hook, BasePruningMethod):
                    del hooks[key]


def trace(model: nn.Module, shape: Shape) -> Trace:
    """Run a network on the meta device and record its convolutions and fully connected layers.

    Args:
        shape: shape of the input, (N, C, H, W).

    Raises:
        TraceError: the network does not run on such an input.
    """
    return without_devices(lambda: _trace(model, shape))


def without_devices(run: Callable[[], Result]) -> Result:
    """Run on the meta device; run again, with meta as the default, for a forward that names no device.

    Raises:
        TraceError: both runs fail; the error is that of the first.
    """
    try:
        return run()
    except TraceError as error:
        try:
            with torch.device("meta"):
                return run()
        except TraceError:
            raise error from error.__cause__


def _trace(model: nn.Module, shape: Shape) -> Trace:
    meta = to_meta(model)
    x = torch.empty(shape, device="meta", dtype=dtype_of(model))
    names = {module: name for name, module in meta.named_modules()}
    found: dict[str, Layer] = {}
    counter = FlopCounterMode(display=False)
    started: list[int] = []
    sources = _Sources()

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        started.append(counter.get_total_flops())

    def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        value = args[0] if args else kwargs["input"]
        macs = (counter.get_total_flops() - started.pop()) // 2
        name = names[module]
        if isinstance(output, OctTensor):  # a depthwise layer only passes on its input's split
            sources.add(output, sources.of(value) if module.octave.depthwise else frozenset([name]))
        first = found.get(name)
        if first is not None:
            reads_input = first.reads_input or value is x
            found[name] = replace(first, reads_input=reads_input, macs=first.macs + macs)
            return
        found[name] = Layer(
            name=name,
            kind=type(module).__name__,
            reads_input=value is x or not any(layer.kind != "Linear" for layer in found.values()),
            input=shapes(value),
            output=shapes(output),
            params=sum(p.numel() for p in module.parameters(recurse=False)),
            macs=macs,
        )

    for module in names:
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            module.register_forward_pre_hook(before, with_kwargs=True)
            module.register_forward_hook(after, with_kwargs=True)
    try:
        with explained(model, shape), torch.no_grad(), unannounced(), observe_calls(sources.watch), counter:
            output = meta(x)
    except TraceError as failed:
        failed.fallbacks = sources.fallbacks
        raise
    macs = counter.get_total_flops() // 2
    return Trace(list(found.values()), macs, sources.fallbacks, sources.of(_plain(output)))


@contextmanager
def explained(
    model: nn.Module, shape: Sequence[int], remedy: str = "give an example (--size) it runs on"
) -> Iterator[None]:
    """Turn an error of a network's forward into a `TraceError` that names the shape of its input."""
    try:
        yield
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} does not run on an input of shape {tuple(shape)}: {remedy} "
            f"({one_line(error, kind=True)})"
        ) from error


def leaves(output: Any) -> list[Any]:
    """The values that a network returns, taken out of containers and dataclasses."""
    return [leaf for value in tree_leaves(_plain(output)) for leaf in tree_leaves(_plain(value))]


def _plain(output: Any) -> Any:
    """The output of a network; a dataclass becomes a mapping."""
    return vars(output) if is_dataclass(output) and not isinstance(output, (type, dict)) else output


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of the first floating-point parameter; float32 if there is none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
