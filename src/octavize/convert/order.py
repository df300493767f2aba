"""Apply a plan's order of channels to a network: permute its parameters and buffers, once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from octavize.errors import InputError
from octavize.reordering import Permutation

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
    """Put a network's channels into a plan's order, in place; the network computes the same.

    A network whose channels are already in that order stays as it is. The parameters stay the same objects;
    gradients and optimizer states, if any, are not permuted.

    Raises:
        InputError: see `check_order`; the network is unchanged.
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
