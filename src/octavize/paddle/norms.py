"""Batch norms' running statistics measured anew, as `octavize.convert.norms` does it in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.nn.layer.norm import _BatchNormBase


def reestimate_norms(model: nn.Layer, batches: Iterable[Any], run: Callable[[Any], object]) -> None:
    """Replace the running statistics of all batch norms by averages over batches of images.

    Each layer gets the average of its batches' means and (biased) variances, weighted by the number of images
    in each. Meanwhile it normalizes with the batch's own statistics, and everything else is in evaluation
    mode. Afterwards every `training` flag and every momentum is as before. A layer that no image reached
    keeps its statistics; after an error, all layers keep theirs.

    Args:
        model: any network, octave or not; changed in place. Norms that use global statistics are left alone.
        batches: what `run` takes, shuffled so that each batch mixes classes.
        run: calls the network with a batch.
    """
    norms = [
        layer
        for layer in model.sublayers(include_self=True)
        if isinstance(layer, (_BatchNormBase, nn.BatchNorm)) and not layer._use_global_stats
    ]
    if norms:
        with paddle.no_grad(), _averaging(model, norms):
            for batch in batches:
                run(batch)


@contextmanager
def _averaging(model: nn.Layer, norms: list[Any]) -> Iterator[None]:
    """Inside, batch norms average their input; then flags and momenta, after an error all, are restored."""
    flags = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    before = [(norm, norm._momentum, [value.clone() for value in _statistics(norm)]) for norm in norms]
    seen = dict.fromkeys(map(id, norms), 0)

    def weigh(norm: Any, args: tuple[Any, ...]) -> None:
        # The running average moves by this batch's share of all images so far, so the first batch replaces
        # the old statistics. Counting per call lets a layer that is used twice average both uses.
        count = args[0].shape[0]
        seen[id(norm)] += count
        norm._momentum = 1 - count / seen[id(norm)]

    hooks = [norm.register_forward_pre_hook(weigh) for norm in norms]
    done = False
    try:
        model.eval()
        for norm in norms:
            for value, fresh in zip(_statistics(norm), (0.0, 1.0), strict=True):
                value.fill_(fresh)  # a share of zero of what is not finite would not be zero
            norm.training = True
        yield
        done = True
    finally:
        for hook in hooks:
            hook.remove()
        for layer, flag in flags:
            layer.training = flag
        for norm, momentum, values in before:
            norm._momentum = momentum
            if not done or seen[id(norm)] == 0:
                for value, old in zip(_statistics(norm), values, strict=True):
                    value.set_value(old)


def _statistics(norm: Any) -> tuple[Tensor, Tensor]:
    return norm._mean, norm._variance
