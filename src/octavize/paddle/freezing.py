"""freeze(): a network for inference only. Batch norms are folded, octave weights are split once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import paddle
from paddle import Tensor, nn

from octavize.errors import InputError
from octavize.paddle.comparing import difference
from octavize.paddle.conv import OctConv
from octavize.paddle.conv_transpose import OctConvTranspose
from octavize.paddle.dispatch import unannounced
from octavize.paddle.frozen import split_once
from octavize.paddle.inputs import Example, Inputs
from octavize.paddle.tensor import OctTensor
from octavize.paddle.trace import clean_copy, dtype_of, example_inputs, explained
from octavize.split import ChannelLayout

CONVOLUTIONS = (nn.Conv1D, nn.Conv2D, nn.Conv3D)
_NORMS = (nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D, nn.BatchNorm)


def freeze(model: nn.Layer, example: Example | Inputs | None = None) -> nn.Layer:
    """A copy of a network that only infers: the same function, in fewer steps.

    * A batch norm that reads a convolution's output is folded into the convolution's weight and bias. Paddle
      Inference does so too, but not where an octave convolution adds up two paths.
    * Each octave convolution holds the parts of its weight instead of splitting it at every call.

    One run finds which norm follows which layer. These stay as they are: transposed convolutions; layers
    whose class has its own `forward`; octave layers whose inputs have several layouts; batch norms before a
    convolution, as in DenseNets.

    Args:
        model: any network, octave or not. It is not changed.
        example: an input or its shape, (1, 3, 224, 224), see `octavize.paddle.plan`; by default derived from
            the network. Maps of other sizes may follow; inputs that change a layer's split are refused.

    Returns:
        A network in evaluation mode, without gradients and without users' hooks. It agrees with
        `model.eval()` up to rounding: the two are compared on one random input. If a forward uses a layer in
        ways that the run does not show, no batch norm is folded.

    Raises:
        InputError: the network does not run on `example`, or gives two answers to it.

    Examples:
        >>> net = octavize.paddle.freeze(octavize.paddle.octavize(paddle.vision.models.resnet50()))
    """
    inputs, problem = example_inputs(model, example), ""
    seen = _watch(model, inputs)
    with paddle.no_grad():
        for folding in (True, False):
            frozen = clean_copy(model)
            layers: dict[str, Any] = dict(frozen.named_sublayers(include_self=True))
            for norm, conv in seen.norms.items() if folding else ():
                _replace(frozen, layers[norm], _fold(layers[conv], layers[norm]))
            for name, layouts in seen.layouts.items():
                if len(layouts) == 1 and _splits(layers[name], *layouts):
                    split_once(layers[name], *layouts)
            for parameter in frozen.parameters():
                parameter.stop_gradient = True
            problem = difference(model, frozen, inputs)
            if problem is None:
                return frozen
    raise InputError(f"model {type(model).__name__} cannot be frozen: frozen, {problem}")


# ---- which norm follows which layer ---------------------------------------------------------------------


class _Seen:
    """What one run of a network tells about its layers, by name."""

    def __init__(self) -> None:
        self.layouts: dict[str, set[ChannelLayout]] = {}  # of the inputs of convolutions
        self.norms: dict[str, str] = {}  # of batch norms: the convolution whose output they read
        self._made: dict[int, tuple[str, Any]] = {}  # keeps the outputs: ids are reused
        self._ran: list[str] = []

    def convolution(self, name: str) -> Any:
        def after(layer: Any, args: Any, output: Any) -> None:
            x = args[0]
            layout = x.channel_layout if isinstance(x, OctTensor) else (x.shape[1], 0)
            self.layouts.setdefault(name, set()).add(layout)
            self._ran.append(name)
            self._made[id(output)] = name, output

        return after

    def norm(self, name: str) -> Any:
        def before(layer: Any, args: Any) -> None:
            made, _ = self._made.get(id(args[0]), (None, None))
            self._ran.append(name)
            if made is not None:
                self.norms[name] = made

        return before

    def keep_single(self) -> None:
        """Forget norms of layers that ran several times, or with several norms."""
        convolutions = list(self.norms.values())
        once = {name for name in self._ran if self._ran.count(name) == 1}
        self.norms = {
            norm: conv
            for norm, conv in self.norms.items()
            if {norm, conv} <= once and convolutions.count(conv) == 1
        }
        self._made.clear()


def _watch(model: nn.Layer, inputs: Inputs) -> _Seen:
    net, seen = clean_copy(model), _Seen()
    for name, layer in net.named_sublayers(include_self=True):
        if _is_plain(layer):
            layer.register_forward_post_hook(seen.convolution(name))
        elif _can_fold(layer):
            layer.register_forward_pre_hook(seen.norm(name))
    with explained(model, inputs), paddle.no_grad(), unannounced():
        inputs.made(dtype_of(net)).call(net)
    seen.keep_single()
    return seen


def _is_plain(layer: nn.Layer) -> bool:
    """Whether a layer computes its kind's convolution of its weight and bias as they are."""
    if isinstance(layer, OctConv):
        own = ("forward", "_octave", "_depthwise", "_convolve", "kernel")
        return not isinstance(layer, OctConvTranspose) and all(
            getattr(type(layer), name) is getattr(OctConv, name) for name in own
        )
    return any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in CONVOLUTIONS)


def _can_fold(layer: Any) -> bool:
    """Whether this is a batch norm that only knows running statistics once it infers, channels first."""
    if not any(isinstance(layer, kind) and type(layer).forward is kind.forward for kind in _NORMS):
        return False
    if isinstance(layer, nn.BatchNorm):
        return not layer._trainable_statistics and layer._data_layout[1:2] == "C"
    return layer._use_global_stats is not False and layer._data_format[1:2] == "C"


# ---- what becomes of them -------------------------------------------------------------------------------


def _splits(layer: Any, layout: ChannelLayout) -> bool:
    """Whether a convolution of such an input works on two halves; otherwise it is Paddle's own."""
    if not isinstance(layer, OctConv) or not layer._settings.keeps_size:
        return False
    dense = layout[1:] == (0,)
    return not (dense and (layer._settings.depthwise or layer._settings.out_layout[1] == 0))


def _fold(conv: Any, norm: Any) -> nn.Layer:
    """Bring a batch norm into a convolution, in float64; what is left of the norm takes its place."""
    parameters = (conv.weight, conv.bias, norm._mean, norm._variance, norm.weight, norm.bias)
    doubled: Any = (None if p is None else p.astype("float64") for p in parameters)
    weight, bias, mean, variance, scale, shift = doubled
    factor = (variance + norm._epsilon).rsqrt()
    factor = factor if scale is None else factor * scale
    moved = -mean if bias is None else bias - mean
    folded = moved * factor if shift is None else moved * factor + shift
    conv.weight.set_value((weight * factor.reshape([-1, *[1] * (weight.ndim - 1)])).astype(conv.weight.dtype))
    if conv.bias is None:
        conv.bias = conv.create_parameter([folded.shape[0]], dtype=conv.weight.dtype, is_bias=True)
    conv.bias.set_value(folded.astype(conv.weight.dtype))
    activation = getattr(norm, "_act", None)
    return nn.Identity() if activation is None else _Activation(activation)


class _Activation(nn.Layer):
    """The activation of the older `nn.BatchNorm`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Any:
        return getattr(nn.functional, self.name)(x)


def _replace(net: nn.Layer, layer: nn.Layer, new: nn.Layer) -> None:
    """Put a layer in the place of another, wherever the network holds it."""
    for holder, name in list(_places(net, layer)):
        holder._sub_layers[name] = new


def _places(net: nn.Layer, layer: nn.Layer) -> Iterator[tuple[Any, str]]:
    for holder in net.sublayers(include_self=True):
        for name, held in holder._sub_layers.items():
            if held is layer:
                yield holder, name
