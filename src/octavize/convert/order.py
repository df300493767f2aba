"""A plan's order of channels, applied to a network: parameters and buffers are permuted, once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.reordering import Permutation

MARK = "octave_order"
"""Attribute of a network: the key of the permutation that its channels are in.

It is dropped when a state dict is loaded, which may be in any order: who loads one and knows, marks anew."""


def order_of(model: nn.Module) -> str:
    """The key of the permutation that a network's channels are in; empty for their first order."""
    return getattr(model, MARK, "")


def mark_order(model: nn.Module, key: str) -> None:
    """Note which permutation a network's channels are in, such as by weights that were loaded."""
    if not hasattr(model, MARK):  # the hook stays with the mark, in copies and pickled networks too
        if not key:
            return
        model.register_load_state_dict_post_hook(_forget_order)
    setattr(model, MARK, key)


def _forget_order(model: nn.Module, incompatible_keys: object) -> None:
    setattr(model, MARK, "")


def check_order(model: nn.Module, permutation: Permutation) -> None:
    """Check that a plan's permutation can be applied to this network, or has been.

    Raises:
        InputError: the network carries another order, or has other parameters.
    """
    kind, carried = type(model).__name__, order_of(model)
    if carried == permutation.key:
        return
    if carried != permutation.base:
        raise InputError(
            f"plan: it is for another order of channels than this {kind} is in, "
            f"{carried or 'its first'}: calibrate this network anew"
        )
    tensors = _tensors(model)
    for order in permutation.orders:
        for name, dim in order.axes:
            shape = tuple(tensors[name].shape) if name in tensors else ()
            if not 0 <= dim < len(shape) or shape[dim] != len(order.places):
                raise InputError(
                    f"plan: it is for another network: it puts {len(order.places)} channels of {name!r} in "
                    f"order, dimension {dim}, and this {kind} has {shape or 'none'}; calibrate this network"
                )


@torch.no_grad()
def apply_order(model: nn.Module, permutation: Permutation) -> None:
    """Put a network's channels in a plan's order, in place; the network computes the same.

    Nothing is done to a network whose channels are in that order already. The parameters stay the same
    objects; gradients and optimizer states, if there are any, are not permuted.

    Raises:
        InputError: as `check_order`; the network is left as it was.
    """
    check_order(model, permutation)
    if order_of(model) == permutation.key:
        return
    tensors = _tensors(model)
    for order in permutation.orders:
        for name, dim in order.axes:
            places = torch.tensor(order.places, device=tensors[name].device)
            tensors[name].copy_(tensors[name].index_select(dim, places))
    mark_order(model, permutation.key)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])
