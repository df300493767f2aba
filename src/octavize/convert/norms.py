"""Batch norm after conversion: running statistics measured anew on real images.

A converted network carries the running statistics of the vanilla one, but its channels have other means and
variances: low channels are averages. A few thousand images correct that, without any gradient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from octavize.convert.inputs import Example, Inputs, Shape, checked_example
from octavize.convert.loaders import batch_count, images_of, run_on
from octavize.convert.trace import check_network, clean_copy
from octavize.errors import InputError, whole
from octavize.nn._torch_internals import BatchNorm
from octavize.report.progress import steps

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
TRUSTED = 0.1
"""A `norm_shift` up to which running statistics measured anew are better than those of training.

EfficientNet-Lite0 loses 19 of 73 points of accuracy by statistics of images of 20 of its 1,000 classes, whose
shift is 0.19."""
CONTROLS = 512
"""Images that the vanilla network's shift is measured on."""


def reestimate_norms(
    model: nn.Module,
    loader: Iterable[object],
    *,
    vanilla: nn.Module | None = None,
    max_images: int = 4096,
    example: Example | None = None,
) -> int:
    """Replace the running statistics of all batch norms by averages over the images of a loader.

    Each layer gets the average of its batches' means and (unbiased) variances, weighted by the number of
    images in each. Meanwhile it normalizes with the batch's own statistics (the "precise batch norm" of Wu &
    Johnson 2021), and everything else (dropout, stochastic depth, …) is in evaluation mode. Afterwards every
    `training` flag and every `momentum` is as before. A layer that no image reached keeps its statistics;
    after an error, all layers keep theirs.

    Args:
        model: any network, octave or not; changed in place. Batch norms are torch's and their subclasses,
            such as timm's `BatchNormAct2d`; those without running statistics are left alone.
        loader: batches of the network's input, see `convert.loaders.images_of`, shuffled so that each batch
            mixes classes. They are moved to the network's device and dtype.
        vanilla: the trained network that `model` was made of. It is the control: images on which its own
            statistics are not those it remembers, as those of a few of its classes, cost accuracy.
        max_images: stop after this many images.
        example: what a network of several inputs, or of whole numbers, is called with, see `octavize.plan`:
            the batches hold as much, see `convert.loaders.images_of`.

    Returns:
        The number of images used; 0, without reading the loader, for a network without batch norm.

    Raises:
        InputError: the loader yields nothing or something else, or only once though it is read twice; the
            network does not run on its batches, or makes values of them that are not finite; or `max_images`
            is below 2.

    Warns:
        UserWarning: `vanilla` remembers other statistics.
    """
    whole("max_images", max_images, 2)
    check_network(model)
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    if vanilla is not None and isinstance(loader, Iterator):
        raise InputError(
            f"loader is a {type(loader).__name__}, which yields its batches once, and with vanilla they are "
            "read twice: give a list of them, or a DataLoader"
        )
    like, used = None if example is None else checked_example(model, example), 0
    with torch.no_grad(), _averaging(model, norms):
        total = batch_count(loader, max_images)
        for images in steps(images_of(loader, max_images, like), "measuring batch norms", total):
            run_on(model, images)
            used += images.batch
    if vanilla is not None:
        _control(vanilla, loader, max_images, like)
    return used


def _control(
    vanilla: nn.Module, loader: Iterable[object], max_images: int, like: Inputs | Shape | None
) -> None:
    shift = norm_shift(vanilla, loader, max_images=min(max_images, CONTROLS), like=like)
    if shift is not None and shift > TRUSTED:
        warnings.warn(
            f"reestimate_norms: on these images the means of the vanilla network's maps, too, lie {shift:.2f}"
            f" deviations off those that its batch norms remember, more than {TRUSTED:g}: the new statistics "
            "are those of these images alone, and may cost accuracy on others; refit, or use images of all "
            "kinds",
            UserWarning,
            stacklevel=3,
        )


def norm_shift(
    model: nn.Module,
    loader: Iterable[object],
    *,
    max_images: int = 4096,
    like: Inputs | Shape | None = None,
) -> float | None:
    """How far the means of a vanilla network's maps on some images are from those its batch norms remember.

    Of each batch norm, the root mean square over its channels of (mean − running mean) / running deviation;
    of all batch norms, the upper quartile. On images of the kind that the network was trained on it is small.
    If not, whatever is measured on these images, running statistics included, is right for them alone.

    Args:
        model: a trained network, in the state in which it was trained: no octave one that was converted.
        loader, max_images: see `reestimate_norms`.
        like: what the loader yields, see `convert.loaders.images_of`.

    Returns:
        The shift in deviations; None for a network without running statistics.
    """
    net = clean_copy(model, lambda values: values)
    sums: dict[BatchNorm, tuple[Tensor, int]] = {}

    def add(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(norm, BatchNorm)
        x = args[0] if args else kwargs["input"]
        total, count = sums.get(norm, (0.0, 0))
        sums[norm] = total + x.double().transpose(0, 1).flatten(1).sum(1), count + x.numel() // x.shape[1]

    for norm in net.modules():
        if isinstance(norm, BatchNorm) and norm.running_mean is not None:
            norm.register_forward_pre_hook(add, with_kwargs=True)
    with torch.no_grad():
        for images in images_of(loader, max_images, like):
            run_on(net, images)
    shifts = [_shift(norm, total / count) for norm, (total, count) in sums.items()]
    return float(torch.tensor(shifts).quantile(0.75)) if shifts else None


def _shift(norm: BatchNorm, mean: Tensor) -> float:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    return float(((mean - norm.running_mean) / deviation).square().mean().sqrt())


def _check_finite(model: nn.Module, norms: list[BatchNorm]) -> None:
    for name, norm in model.named_modules():
        if not isinstance(norm, BatchNorm) or norm not in norms:
            continue
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        if not all(v.isfinite().all() for v in (mean, variance)):
            raise InputError(
                f"model: what {name!r} reads on these images is not finite, or too large for "
                f"{str(variance.dtype).removeprefix('torch.')}: mend its weights, or give float32"
            )


@contextmanager
def _averaging(model: nn.Module, norms: list[BatchNorm]) -> Iterator[None]:
    """Inside, batch norms average their input; then flags and momenta, after an error all, are restored."""
    flags = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    before = {
        norm: {k: v.clone() for k in STATISTICS if (v := getattr(norm, k)) is not None} for norm in norms
    }
    seen = dict.fromkeys(norms, 0)

    def weigh(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The running average moves by this batch's share of all images so far, so the first batch replaces
        # the old statistics. Counting per call lets a layer that is used twice average both uses.
        assert isinstance(norm, BatchNorm)
        count = (args[0] if args else kwargs["input"]).shape[0]
        seen[norm] += count
        norm.momentum = count / seen[norm]

    hooks = [norm.register_forward_pre_hook(weigh, with_kwargs=True) for norm in norms]
    done = False
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.training = True  # .train() would turn on the dropout in timm's norms
        yield
        _check_finite(model, norms)
        done = True
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in flags.items():
            module.training = flag
        for norm in norms:
            norm.momentum = momenta[norm]
            if not done or seen[norm] == 0:
                for key, value in before[norm].items():
                    getattr(norm, key).copy_(value)
