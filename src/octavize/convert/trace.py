"""One run of a network on the meta device: the layers, their order, their shapes and their costs.

Nothing is computed and no memory is used, so even ResNet-200 at 224 pixels takes a second.
Multiply–accumulates are counted by torch's own flop counter: convolutions and matrix products, as the
literature counts a network.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.utils.flop_counter import FlopCounterMode

from octavize.convert.inputs import Example, Inputs, Shape, checked_example, inputs_of
from octavize.convert.lines import LINES
from octavize.convert.quick_shapes import QuickShapes
from octavize.errors import InputError, one_line
from octavize.nn._torch_internals import forward_hooks, tree_leaves
from octavize.nn.conv import OctConv
from octavize.nn.dispatch import ASKED, Octave, observe_calls, oct_tensors, unannounced
from octavize.nn.tensor import OctTensor
from octavize.plans.planning import Fallback, Layer, Trace, TraceError

Result = TypeVar("Result")
Module = TypeVar("Module", bound=nn.Module)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Sources:
    """Follows OctTensors through a network: which layers made their channels."""

    def __init__(self) -> None:
        self.fallbacks: list[Fallback] = []
        self._known: dict[int, tuple[Octave, frozenset[str]]] = {}  # keeps the tensor: ids are reused

    def follow(self, octave: nn.Module) -> None:
        """Follow the maps that the layers of a network are about to make."""

        def made(name: str, layer: Any, args: Any, kwargs: Any, output: Any) -> None:
            # A depthwise layer only passes on its input's split.
            self.add(output, self.of(args, kwargs) if layer.octave.depthwise else frozenset([name]))

        for name, layer in octave.named_modules():
            if isinstance(layer, OctConv):
                layer.register_forward_hook(partial(made, name), with_kwargs=True)

    def of(self, *values: Any) -> frozenset[str]:
        none: tuple[Any, frozenset[str]] = (None, frozenset())
        found = (self._known.get(id(x), none)[1] for x in oct_tensors(values))
        return frozenset().union(*found)

    def add(self, value: Any, sources: frozenset[str]) -> None:
        for x in oct_tensors(value):
            self._known[id(x)] = (x, self.of(x) | sources)

    def watch(self, name: str, operands: Sequence[Any], result: Any, dense: bool) -> None:
        sources = self.of(*operands)
        if dense and (name != ASKED or LINES.asks_for_a_tensor()):
            self.fallbacks.append(Fallback(name, sources, LINES.of_call()))
        self.add(result, sources)


def shapes(value: Any) -> tuple[Shape, Shape | None]:
    """Shapes of the two halves of a map; low is None for a plain tensor."""
    if isinstance(value, OctTensor):
        return tuple(value.high.shape), tuple(value.low.shape)
    return tuple(value.shape), None


def example_inputs(model: nn.Module, example: Example | Inputs | None = None) -> Inputs | Shape:
    """What to trace a network with: an example, checked; or a shape (1, C, H, W) derived from the network.

    C is that of the first convolution, or 3 where only that runs: some networks rearrange space to channels
    first. H and W come from timm's configuration, else they are 224. Video networks get 8 frames of 112
    pixels.

    Raises:
        InputError: the network has no convolution, or is not a network; or `example` is none.
    """
    check_network(model)
    if example is not None:
        return checked_example(model, example)
    first: Any = next(_convolutions(model), None)
    if first is None:
        raise InputError(f"{type(model).__name__} has no convolution: octavize converts CNNs")
    config = getattr(model, "default_cfg", None) or {}
    side = config.get("input_size", (3, 224, 224))[-1]
    size = (8, 112, 112) if len(first.kernel_size) == 3 else (side,) * len(first.kernel_size)
    shape, colored = (1, first.in_channels, *size), (1, 3, *size)
    return colored if shape != colored and not runs(model, shape) and runs(model, colored) else shape


def example_shape(model: nn.Module, example: Example | None = None) -> Shape:
    """The shape of the image in `example_inputs`, (N, C, H, W)."""
    inputs = example_inputs(model, example)
    return inputs.shape if isinstance(inputs, Inputs) else inputs


def runs(model: nn.Module, shape: Inputs | Shape) -> bool:
    """Whether a network takes inputs of a shape."""
    try:
        trace(model, shape)
    except TraceError:
        return False
    return True


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


def clean_copy(model: nn.Module, make: Callable[[Any], Any] = lambda values: values.clone()) -> nn.Module:
    """A copy of the network without users' hooks, in evaluation mode; `make` copies values.

    Raises:
        InputError: it is not a torch.nn.Module.
    """
    check_network(model)
    # `deepcopy` would copy the values itself, and refuse those that autograd made: give it the copies.
    memo: dict[int, Any] = {id(v): make(v.detach()) for v in _held(model)}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(make(p.detach()), requires_grad=p.requires_grad)
    clean = copy.deepcopy(model, memo).eval()
    drop_hooks(clean)
    return clean


def copied(model: Module) -> Module:
    """A copy of the network as it is, hooks included.

    Values that autograd made are copied without their history: maps that the forward kept, and weights that
    hooks compute from others, as in pruned networks.
    """
    return copy.deepcopy(model, {id(v): v.detach().clone() for v in _held(model) if not v.is_leaf})


def _held(model: nn.Module) -> list[Any]:
    """All tensors and octave maps that the modules of a network hold, in containers too."""
    kept = [
        value
        for module in model.modules()
        for name, value in vars(module).items()
        if name != "_modules" and type(value) not in _SCALARS and not (isinstance(value, dict) and not value)
    ]
    return [value for value in tree_leaves(kept) if isinstance(value, (Tensor, OctTensor))]


_SCALARS = {bool, int, float, str, type(None)}


def drop_hooks(model: nn.Module) -> None:
    """Remove the hooks that users put on a network."""
    for _, hooks, key in users_hooks(model):
        del hooks[key]


def users_hooks(model: nn.Module) -> list[tuple[str, MutableMapping[int, Any], int]]:
    """The hooks that users put on a network: each layer's name, where the hook is kept, and its key there."""
    return [
        (name, hooks, key)
        for name, module in model.named_modules()
        for hooks in forward_hooks(module)
        for key, hook in hooks.items()
        # Weight norm and pruning are part of the network.
        if not hasattr(hook, "compute_weight") and not isinstance(hook, BasePruningMethod)
    ]


def warn_of_hooks(model: nn.Module, what: str) -> None:
    """Tell users that something is without the hooks of their network, which may change what it computes."""
    hooked = [name for name, _, _ in users_hooks(model)]
    if hooked:
        where = f"its layer {hooked[0]!r}" if hooked[0] else "itself"
        warnings.warn(
            f"{type(model).__name__} has a hook on {where}: {what} is without hooks, and differs where one "
            "changes what a layer reads or returns; let the forward do that",
            UserWarning,
            stacklevel=4,
        )


def trace(model: nn.Module, shape: Inputs | Shape) -> Trace:
    """Run a network on the meta device and record its convolutions and fully connected layers.

    Args:
        shape: shape of the input, (N, C, H, W), or the inputs themselves.

    Raises:
        TraceError: the network does not run on such an input.
    """
    return with_gradients_if_asked(lambda grad: _trace(model, shape, grad))


def with_gradients_if_asked(run: Callable[[bool], Result]) -> Result:
    """Run without autograd, or with it where the network asks for gradients, as by hooks in its forward.

    Raises:
        TraceError: both runs fail; the error is that of the first.
    """
    try:
        return without_devices(lambda: run(False))
    except TraceError as error:
        if "require" not in str(error) or "grad" not in str(error):
            raise
        try:
            return without_devices(lambda: run(True))
        except TraceError:
            raise error from error.__cause__


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


def _trace(model: nn.Module, shape: Inputs | Shape, grad: bool) -> Trace:
    # Without autograd, torch's counter fails at a module that gets a parameter that requires a gradient.
    meta = to_meta(model) if grad else to_meta(model).requires_grad_(False)
    inputs = inputs_of(shape, "meta", dtype_of(model))
    names = {module: name for name, module in meta.named_modules()}
    found: dict[str, Layer] = {}
    counter = FlopCounterMode(display=False)
    started: list[int] = []
    sources = Sources()

    def given(value: Any) -> bool:
        return any(value is x for x in inputs.tensors)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        started.append(counter.get_total_flops())

    def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        value = args[0] if args else kwargs["input"]
        macs = (counter.get_total_flops() - started.pop()) // 2
        name = names[module]
        first = found.get(name)
        if first is not None:
            reads_input = first.reads_input or given(value)
            found[name] = replace(first, reads_input=reads_input, macs=first.macs + macs)
            return
        found[name] = Layer(
            name=name,
            kind=type(module).__name__,
            reads_input=given(value) or not any(layer.kind != "Linear" for layer in found.values()),
            input=shapes(value),
            output=shapes(output),
            params=sum(p.numel() for p in module.parameters(recurse=False)),
            macs=macs,
        )

    sources.follow(meta)
    for module in names:
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            module.register_forward_pre_hook(before, with_kwargs=True)
            module.register_forward_hook(after, with_kwargs=True)
    try:
        with (
            explained(model, shape),
            torch.set_grad_enabled(grad),
            unannounced(),
            observe_calls(sources.watch),
            counter,
            QuickShapes(),
        ):
            output = inputs.call(meta)
    except TraceError as failed:
        failed.fallbacks = [*sources.fallbacks, *LINES.failed_on(failed.__cause__, sources.of)]
        raise
    macs = counter.get_total_flops() // 2
    return Trace(list(found.values()), macs, sources.fallbacks, sources.of(_plain(output)))


@contextmanager
def explained(model: nn.Module, shape: Inputs | Sequence[int], remedy: str | None = None) -> Iterator[None]:
    """Turn an error of a network's forward into a `TraceError` that names the shape of its input."""
    try:
        yield
    except Exception as error:
        line = LINES.of_error(error)
        if remedy is None or "meta" in str(error).lower():  # torch's word for tensors without values
            remedy = _remedy(model, shape, error)
        told = shape if isinstance(shape, Inputs) else tuple(shape)
        raise TraceError(
            f"{type(model).__name__} does not run on an input of shape {told}: {remedy} "
            f"({one_line(error, kind=True)}{line and f', at {line}'})"
        ) from error


def _convolutions(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, CONVOLUTIONS))


def _remedy(model: nn.Module, given: Inputs | Sequence[int], error: Exception) -> str:
    """What to do about a network that does not run."""
    if "meta" in str(error).lower():
        parts = {name: len(list(_convolutions(part))) for name, part in model.named_children()}
        most = max(parts, key=parts.__getitem__, default="")
        asks = "its code asks for values, and octavize runs it without any"
        such = f"model.{most} = octavize(model.{most})"
        return f"{asks}; convert the part that does not, such as {such}" if parts.get(most) else asks
    wanted = [p.name for p in inspect.signature(model.forward).parameters.values() if p.default is p.empty]
    if len(wanted) > 1 and not isinstance(given, Inputs) and isinstance(error, TypeError):
        return f"its forward takes {', '.join(wanted)}: give all in Python, as example=({', '.join(wanted)})"
    return "give an example (--size) it runs on"


def leaves(output: Any) -> list[Any]:
    """The values that a network returns, taken out of containers and dataclasses."""
    return [leaf for value in tree_leaves(_plain(output)) for leaf in tree_leaves(_plain(value))]


def _plain(output: Any) -> Any:
    """The output of a network; a dataclass becomes a mapping."""
    return vars(output) if is_dataclass(output) and not isinstance(output, (type, dict, Octave)) else output


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of the first floating-point parameter; float32 if there is none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
