"""freeze(): a network for inference only. Batch norms are folded, octave weights are split once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.parametrize import is_parametrized

from octavize.convert.inputs import Example, Inputs
from octavize.convert.planner import Way, convolutions
from octavize.convert.swap import replace_module
from octavize.convert.trace import clean_copy, example_inputs, warn_of_hooks
from octavize.deploy.difference import difference
from octavize.deploy.frozen import JOINS, FrozenOctConv, Pool, parameter, torch_layer
from octavize.deploy.network import FrozenNetwork
from octavize.deploy.packed import PackedConv2d
from octavize.deploy.watch import Seen, watch
from octavize.errors import InputError, shown
from octavize.nn._torch_internals import computes_as, may_have_pre_hooks
from octavize.nn.conv import OctConv
from octavize.plans.deciding import per_layer

TORCH_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def freeze(
    model: nn.Module,
    example: Example | Inputs | None = None,
    *,
    join: Way = "low_out",
) -> FrozenNetwork:
    """A copy of a network that only infers: the same function, in fewer and larger steps.

    * A batch norm that is the only reader of a convolution's output is folded into the convolution's weight
      and bias. Whatever else its module does stays (the activation of timm's `BatchNormAct2d`).
    * Each octave convolution becomes a `FrozenOctConv`, which holds one weight per path instead of splitting
      the vanilla weight at every call. One with α = 0 and plain input becomes torch's convolution.
    * Weights of 2-D convolutions are laid out channels-last and, on the CPU, for oneDNN: once instead of at
      every call, at the price of a second copy.
    * For images of the size of `example`, the network runs as one list of calls, see `flat.py`.

    One run on the meta device finds which norm follows which layer, see `watch.py`. These stay as they are:
    transposed convolutions; layers whose class has its own `forward`; octave layers whose inputs have several
    layouts; batch norms before a convolution, as in DenseNets.

    Args:
        model: any network, octave or not. It is not changed.
        example: an input or its shape, (1, 3, 224, 224), or several inputs, see `octavize.plan`; by default
            derived from the network. Images of another size are only slower, as are several inputs; inputs
            that change a layer's split are refused later.
        join: which paths of octave layers are joined, see `frozen.py`: `low_out` is usually fastest in
            PyTorch. In the same three forms as `exchange` in `octavize.plan`; by name pattern, a layer
            without a match gets "none": {"layer3.*": "low_in"}.

    Returns:
        A network in evaluation mode, on the same device and in the same dtype, without gradients and without
        users' hooks. It agrees with `model.eval()` without them, up to rounding. Its attribute `net` has the
        layers under their names.

    Raises:
        InputError: the network does not run on `example`, `join` is not one of the three, or one of its
            patterns matches no layer.

    Warns:
        UserWarning: the network has hooks, which are left out.

    Examples:
        >>> net = octavize.freeze(octavize.create_model("oct_resnet50", alpha=0.5))
    """
    inputs = example_inputs(model, example)
    shape = inputs.shape if isinstance(inputs, Inputs) else inputs
    return FrozenNetwork(freeze_layers(model, inputs, join=join), shape)


def freeze_layers(model: nn.Module, shape: Inputs | Sequence[int], *, join: Way = "none") -> nn.Module:
    """The network of `freeze` with its own `forward` and its layers under their names: what is exported.

    It is compared with `model` once. A forward may use a layer in ways that the watched run does not show (a
    batch norm also kept in a list, a weight read by itself): then no batch norm is folded. It may also need
    maps in torch's usual order, as `view(N, -1)` does: then weights keep it, and so do the maps.
    """
    layers = convolutions(model)
    problem: str | None = None
    joins = per_layer("join", join, layers, _check_join, dict.fromkeys(layers, "none"))
    with torch.inference_mode(False), torch.no_grad():
        given = shape if isinstance(shape, Inputs) else tuple(shape)
        warn_of_hooks(model, "the frozen network")
        seen = watch(model, given)
        for folding, channels_last in product((True, False), repeat=2):
            frozen = clean_copy(model)
            for p in frozen.parameters():
                p.requires_grad_(False)
            for name in seen.layouts:
                _freeze_layer(frozen, name, seen, joins[name], folding)
            if not channels_last:
                _lay_out_as_torch(frozen)
            problem = difference(model, frozen, given)
            if problem is None:
                return frozen.eval()
    raise InputError(
        f"model {type(model).__name__} cannot be frozen: frozen, {problem}; run or export it in another way"
    )


def _lay_out_as_torch(net: nn.Module) -> None:
    """Weights in torch's usual order, and layers that keep the order of their maps."""
    net.to(memory_format=torch.contiguous_format)
    for module in net.modules():
        if isinstance(module, PackedConv2d):
            vars(module).pop("_packed", None)
            module.__class__ = nn.Conv2d  # pyright: ignore[reportAttributeAccessIssue]


def _freeze_layer(net: nn.Module, name: str, seen: Seen, join: str, folding: bool) -> None:
    """Fold what can be folded into one convolution, and put its frozen form in its place."""
    layer: Any = net.get_submodule(name)
    octave = _is_octave(layer)
    if may_have_pre_hooks(layer) or not (octave or _is_torch(layer)):
        return  # hooks make weights anew at every call
    if octave and len(seen.layouts[name]) > 1:
        return
    weight, bias = (layer.kernel() if octave else layer.weight), layer.bias
    if folding and name in seen.norms:
        norm = net.get_submodule(seen.norms[name])
        rest = _besides(norm)
        if rest is not None:
            weight, bias = _fold(weight, bias, norm)
            replace_module(net, norm, rest)
    if octave:
        replace_module(net, layer, _frozen(layer, name, seen, weight, bias, join))
        return
    layer.weight, layer.bias = parameter(weight), None if bias is None else parameter(bias)
    if type(layer) is nn.Conv2d:
        layer.__class__ = PackedConv2d


def _frozen(
    layer: OctConv, name: str, seen: Seen, weight: Tensor, bias: Tensor | None, join: str
) -> nn.Module:
    vanilla = name not in seen.octave and (layer.octave.depthwise or layer.octave.out_layout[1] == 0)
    if vanilla and layer.octave.pools_plain:
        settings = {"stride": layer.octave.stride}
        return nn.Sequential(Pool(layer.octave.factors), torch_layer(layer, weight, bias, **settings))
    if vanilla or not layer.octave.keeps_size:
        return torch_layer(layer, weight, bias)  # of a map in two frequencies it reads the whole resolution
    (channel_layout,) = seen.layouts[name]
    return FrozenOctConv(layer, channel_layout, weight, bias, join=join, name=name)


def _check_join(join: str) -> str:
    if join not in JOINS:
        told = ", ".join(JOINS)
        raise InputError(f"join={shown(join)}: give one of {told}, or a mapping from names to them")
    return join


_MAY_DIFFER = ("__init__", "kernel", "extra_repr")
"""What a user's octave layer may do in its own way: the weight that it computes is read when it is frozen."""


def _is_octave(layer: nn.Module) -> bool:
    """Whether a layer computes what `OctConv` does; the transposed ones do not, and a user's may not."""
    own = [name for name, value in vars(OctConv).items() if callable(value) and name not in _MAY_DIFFER]
    return isinstance(layer, OctConv) and all(getattr(type(layer), m) is getattr(OctConv, m) for m in own)


def _is_torch(layer: nn.Module) -> bool:
    """Whether a layer computes torch's convolution of its weight and bias as they are."""
    if is_parametrized(layer):
        return False
    return any(isinstance(layer, kind) and computes_as(type(layer), kind) for kind in TORCH_CONVOLUTIONS)


# ---- batch norms ----------------------------------------------------------------------------------------


def _besides(norm: Any) -> nn.Module | None:
    """What the module of a batch norm does after normalizing: nothing, or timm's dropout and activation.

    None if it cannot be folded: without running statistics it does something else to every input, and a class
    with a `forward` of its own may do anything.
    """
    forward = type(norm).forward
    if norm.running_mean is None or norm.running_var is None:
        return None
    if forward is nn.BatchNorm2d.forward:
        return nn.Identity()
    timms = sys.modules.get("timm.layers.norm_act")
    if timms is not None and forward is timms.BatchNormAct2d.forward:
        return nn.Sequential(norm.drop, norm.act)
    return None


def _fold(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias that include a batch norm. In float64, so that the fold itself rounds once."""
    values = (weight, bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    doubled: Any = (None if v is None else v.double() for v in values)
    w, b, mean, variance, scale, shift = doubled
    folded = fuse_conv_bn_weights(w, b, mean, variance, norm.eps, scale, shift)
    return folded[0].to(weight.dtype), folded[1].to(weight.dtype)
