"""Gradients of octave maps: hooks on them, `torch.autograd.grad` by them, and backward hooks of modules.

The gradient of a map is that of the dense map (N, C, *size). A low pixel stands for a cell of pixels that are
alike; each of them gets an equal share of its gradient, as if the network averaged (P) what it reads there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from octavize.errors import InputError
from octavize.nn._torch_internals import let_backward_hooks_see
from octavize.nn.channels import split_channels
from octavize.nn.dispatch import functions_named, oct_rule
from octavize.nn.resample import halve
from octavize.nn.tensor import OctTensor

Function = Callable[..., Any]


@oct_rule(torch.autograd.grad)
def grad(func: Function, outputs: Any, inputs: Any, grad_outputs: Any = None, **kwargs: Any) -> Any:
    """Gradients of outputs by inputs: those by a map are dense (N, C, *size)."""
    listed = [inputs] if isinstance(inputs, (Tensor, OctTensor)) else list(inputs)
    halves = iter(func(_dense(outputs), _halves(listed), _dense(grad_outputs), **kwargs))
    return tuple(_gradient(x, halves) if isinstance(x, OctTensor) else next(halves) for x in listed)


@oct_rule(torch.autograd.backward, torch.Tensor.backward)
def backward(func: Function, outputs: Any, *args: Any, inputs: Any = None, **kwargs: Any) -> None:
    """Backward from a map, from a gradient of the dense map, or to maps, whose `grad` it adds to."""
    if inputs is not None:
        kwargs["inputs"] = _halves([inputs] if isinstance(inputs, (Tensor, OctTensor)) else inputs)
    func(_dense(outputs), *map(_dense, args), **{name: _dense(value) for name, value in kwargs.items()})


@oct_rule(*functions_named("register_hook"))
def register_hook(func: Function, x: OctTensor, hook: Callable[[Tensor], Any]) -> Any:
    """A hook gets the gradient of the dense map. It cannot change it: the halves get theirs one by one."""
    if not x.requires_grad:
        return func(x.high, hook)  # torch's own error
    like = x.detach()  # the hook must not keep the graph
    learning = [half.requires_grad for half in (x.high, x.low)]

    def fire(gradients: Sequence[Tensor | None]) -> None:
        given = iter(gradients)
        if hook(like.gradient(*(next(given) if learns else None for learns in learning))) is not None:
            raise InputError(
                "a hook on an octave map returned another gradient: let it only look, change gradients in a "
                "backward hook of a module, or give alpha=0 to the layer that makes the map"
            )

    return torch.autograd.graph.register_multi_grad_hook(_halves([x]), fire)


@oct_rule(*functions_named("retain_grad"))
def retain_grad(func: Function, x: OctTensor) -> None:
    """Let backward keep `x.grad`."""
    for half in _halves([x]) or [x.high]:  # or torch's own error
        func(half)


def _halves(values: Sequence[Any]) -> list[Any]:
    """Values with maps replaced by those of their halves that get a gradient."""
    pairs = [(x.high, x.low) if isinstance(x, OctTensor) else (x,) for x in values]
    return [x for pair in pairs for x in pair if len(pair) == 1 or x.requires_grad]


def _gradient(x: OctTensor, halves: Any) -> Tensor | None:
    return x.gradient(*(next(halves) if half.requires_grad else None for half in (x.high, x.low)))


def _dense(values: Any) -> Any:
    if isinstance(values, (list, tuple)):
        return type(values)(_dense(value) for value in values)
    return values.to_dense() if isinstance(values, OctTensor) else values


def _seen_by_hooks(apply: Function, self: Any, fn: Function, args: Sequence[Any]) -> Any:
    """torch's way to hook what a module reads and writes, with dense maps in place of octave ones.

    The network reads the dense map by averaging. That changes no value, and the gradient becomes the dense
    map's.
    """
    if not torch.is_grad_enabled() or not any(isinstance(x, OctTensor) and x.requires_grad for x in args):
        return apply(self, fn, args)
    hooked, places = apply(self, fn, _dense(args))
    again = [
        _read(x, like) if isinstance(like, OctTensor) else x for x, like in zip(hooked, args, strict=True)
    ]
    return tuple(again), places


def _read(x: Tensor, like: OctTensor) -> OctTensor:
    high, low = split_channels(x, like.channel_layout, dim=1)
    return like.like(high, halve(low, like.octave_dims))


let_backward_hooks_see(_seen_by_hooks)
