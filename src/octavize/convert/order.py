"""Apply a plan's order of channels to a network: permute its parameters and buffers, once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.plans.reordering import Permutation

MARK = "octave_order"
"""Attribute of a network: the key of the permutation that its channels are in.

It is dropped when a state dict is loaded, which may be in any order: who loads one and knows, marks anew."""


def order_of(model: nn.Module) -> str:
    """The key of the permutation that a network's channels are in; empty for the original order."""
    return getattr(model, MARK, "")


def mark_order(model: nn.Module, key: str) -> None:
    """Note which permutation a network's channels are in, for instance after weights were loaded."""
    if not hasattr(model, MARK):  # the hook stays with the mark, in copies and pickled networks too
        if not key:
            return
        model.register_load_state_dict_post_hook(_forget_order)
    setattr(model, MARK, key)


def _forget_order(model: nn.Module, incompatible_keys: object) -> None:
    setattr(model, MARK, "")


def check_order(model: nn.Module, permutation: Permutation) -> None:
    """Check that a plan's permutation can be applied to this network, or was applied already.

    Raises:
        InputError: the network carries another order, has other parameters, or its weights are in this order
            though it does not know.
    """
    kind, carried = type(model).__name__, order_of(model)
    if carried == permutation.key:
        return
    if carried != permutation.base:
        raise InputError(
            f"plan: it is for another order of channels than this {kind} is in, "
            f"{carried or 'its first'}: calibrate this network anew"
        )
    tensors = tensors_of(model)
    for order in permutation.orders:
        for name, dim in order.axes:
            shape = tuple(tensors[name].shape) if name in tensors else ()
            if not 0 <= dim < len(shape) or shape[dim] != len(order.places):
                raise InputError(
                    f"plan: it is for another network: it puts {len(order.places)} channels of {name!r} in "
                    f"order, dimension {dim}, and this {kind} has {shape or 'none'}; calibrate this network"
                )
    if _is_ordered(tensors, permutation):
        raise InputError(
            f"plan: the weights of this {kind} are in the plan's order of channels already, which would be "
            "applied twice: call octavize(model, plan) first, then load them"
        )


@torch.no_grad()
def apply_order(model: nn.Module, permutation: Permutation) -> None:
    """Put a network's channels into a plan's order, in place; the network computes the same.

    A network whose channels are already in that order stays as it is. The parameters stay the same objects;
    gradients and optimizer states, if any, are not permuted.

    Raises:
        InputError: see `check_order`; the network is unchanged.
    """
    check_order(model, permutation)
    if order_of(model) == permutation.key:
        return
    tensors = tensors_of(model)
    for order in permutation.orders:
        for name, dim in order.axes:
            places = torch.tensor(order.places, device=tensors[name].device)
            tensors[name].copy_(tensors[name].index_select(dim, places))
    mark_order(model, permutation.key)


def sizes(tensors: Mapping[str, Tensor], axes: Iterable[tuple[str, int]]) -> tuple[int, ...]:
    """How large the weights of each channel are along the axes of an order: whole numbers up to 255.

    Weights of convolutions count, where there are any: those of norms begin alike.
    """
    found = list(axes)
    total: Tensor | int = 0
    for name, dim in [axis for axis in found if tensors[axis[0]].dim() > 1] or found:
        values = tensors[name].detach().double().movedim(dim, 0)
        norms = values.reshape(len(values), -1).norm(dim=1).cpu()
        total = total + norms / norms.mean().clamp_min(1e-30)
    assert isinstance(total, Tensor)  # an order has axes
    return tuple((255 * total / total.max().clamp_min(1e-30)).nan_to_num(0).round().int().tolist())


CHANCE = 4.0
"""Standard deviations beyond which sizes of channels do not resemble others by chance."""


def _is_ordered(tensors: Mapping[str, Tensor], permutation: Permutation) -> bool:
    """Whether the sizes of channels are those of the new order, or resemble them, and the old ones less.

    Training changes a channel's size a little, and the sizes of random weights resemble nothing.
    """
    known = [o for o in permutation.orders if o.sizes and not any(tensors[n].is_meta for n, _ in o.axes)]
    now = [sizes(tensors, order.axes) for order in known]
    then = [order.sizes for order in known]
    new = [tuple(order.sizes[place] for place in order.places) for order in known]
    if now == new != then:
        return True
    return _alike(now, new) > max(_alike(now, then), CHANCE)


def _alike(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> float:
    """How much some lists of numbers resemble others: correlations, in standard deviations of chance."""
    total = 0.0
    for one, other in zip(a, b, strict=True):
        x, y = (torch.tensor(v, dtype=torch.float64) - sum(v) / len(v) for v in (one, other))
        total += float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-30)) * math.sqrt(len(one))
    return total / math.sqrt(max(len(a), 1))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])
