"""A few epochs of gradient on the images that a network was refitted on, against the vanilla one's answers.

Refitting makes each layer right by itself. What is left adds up over the layers, and only the network's
output tells which of it matters. No labels are needed: the vanilla network sees the same images, flipped and
shifted anew each time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from octavize.calibration.coupling import stand_in
from octavize.calibration.follows import Tap
from octavize.calibration.refitting import Polished
from octavize.calibration.walk import Maps, first_of
from octavize.convert.inputs import Inputs, joined
from octavize.convert.trace import leaves
from octavize.nn.resample import halve
from octavize.nn.tensor import OctTensor

RATE = 3e-5
"""Of Adam, at the start; it falls to 0 by a cosine. Ten times as much ruins EfficientNet-Lite0."""
IMAGES = 16
"""Images a step."""
SHIFT = 20
"""Images are shifted by up to one part in so many of their side."""


def polish(
    model: nn.Module, vanilla: nn.Module, batches: Sequence[Inputs], taps: Collection[Tap], epochs: int
) -> Iterator[Polished]:
    """Train a network, in evaluation mode, to answer as the vanilla one does; yield after each epoch.

    Weights that are frozen stay. If the network is no closer to the vanilla one in the end, it is put back.

    Args:
        model: changed in place.
        vanilla: the vanilla network with its channels in the same order.
        batches: of its inputs.
        taps: maps that shall be alike in both networks, beside the outputs.
        epochs: passes over the images.
    """
    student, teacher = _Tapped(stand_in(model), taps), _Tapped(vanilla, taps)
    weights = [p for p in student.net.parameters() if p.requires_grad]
    kept = [p.detach().clone() for p in weights]
    before = after = _mean_distance(student, teacher, batches)
    images, generator = joined(batches), torch.Generator().manual_seed(0)
    steps = -(-images.batch // IMAGES)
    optimizer = torch.optim.Adam(weights, lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / (epochs * steps))
    )
    for epoch in range(epochs):
        for chosen in torch.randperm(images.batch, generator=generator).split(IMAGES):
            x = _augmented_alike(images.rows(chosen), generator)
            with torch.no_grad():
                wanted = teacher(x)
            with torch.enable_grad():
                optimizer.zero_grad()
                distance(student(x), wanted).backward()
            optimizer.step()
            schedule.step()
        if epoch == epochs - 1:
            after = _mean_distance(student, teacher, batches)
            if not after < before:
                _put_back(weights, kept)
        yield Polished(epoch + 1, before, min(before, after))


class _Tapped:
    """A network that returns its outputs, and the maps at its taps."""

    def __init__(self, net: nn.Module, taps: Collection[Tap]) -> None:
        self.net, self._seen = net, dict[Tap, Maps]()
        for tap in taps:
            net.get_submodule(tap[0]).register_forward_hook(partial(self._keep, tap), with_kwargs=True)

    def _keep(self, tap: Tap, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        self._seen[tap] = output if tap[1] == "output" else first_of(args, kwargs)

    def __call__(self, x: Inputs) -> tuple[list[Maps], list[Maps]]:
        outputs = [value for value in leaves(x.call(self.net)) if isinstance(value, (Tensor, OctTensor))]
        maps = [self._seen[tap] for tap in sorted(self._seen)]
        self._seen.clear()
        return outputs, maps


def distance(
    student: tuple[Sequence[Maps], Sequence[Maps]], teacher: tuple[Sequence[Maps], Sequence[Maps]]
) -> Tensor:
    """How far the answers are apart, plus how far the maps are.

    Outputs and maps are apart by their squared difference, as a share of the vanilla network's variance; and
    outputs (N, classes) by the divergence of their probabilities, KL(vanilla ‖ octave), too. It is the mean
    over outputs, plus the mean over maps.
    """
    (outputs, maps), (wanted, wanted_maps) = student, teacher
    answers = [_apart(*pair) + _divergence(*pair) for pair in zip(outputs, wanted, strict=True)]
    between = [_apart(*pair) for pair in zip(maps, wanted_maps, strict=True)]
    return torch.stack(answers).mean() + (torch.stack(between).mean() if between else 0.0)


def _divergence(scores: Maps, wanted: Tensor) -> Tensor | float:
    if wanted.dim() != 2:
        return 0.0
    logs, wanted_logs = (F.log_softmax(s.float(), dim=1) for s in (scores, wanted.detach()))
    return F.kl_div(logs, wanted_logs, reduction="batchmean", log_target=True)


def _apart(found: Maps, wanted: Tensor) -> Tensor:
    wanted = wanted.detach().float()
    spread = wanted.var().clamp_min(1e-12)
    if not isinstance(found, OctTensor):
        return (found.float() - wanted).square().mean() / spread
    high, low = found.split_channels(wanted, dim=1)
    pairs = (found.high, high), (found.low, halve(low, found.octave_dims))
    parts = [(own.float() - other).square().mean() * own.shape[1] for own, other in pairs if own.shape[1] > 0]
    return torch.stack(parts).sum() / wanted.shape[1] / spread


def _augmented_alike(inputs: Inputs, generator: torch.Generator) -> Inputs:
    """Inputs whose images are augmented, all that are as large in the same way: they may be a pair."""
    images = [x for x in inputs.tensors if x.is_floating_point() and x.shape[2:] == inputs.shape[2:]]
    images = [x for x in images if inputs.is_batched(x)]
    if not images:
        return inputs
    together = augmented(torch.cat(images, dim=1), generator).split([x.shape[1] for x in images], dim=1)
    changed = {id(x): new for x, new in zip(images, together, strict=True)}
    return inputs.map(lambda x: changed.get(id(x), x))


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W), some of them flipped, all shifted by a few pixels; other inputs as they are."""
    if images.dim() != 4:
        return images
    flips = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    images = torch.where(flips[:, None, None, None], images.flip(3), images)
    height, width = images.shape[2:]
    most = [side // SHIFT for side in (height, width)]
    down, right = (int(torch.randint(2 * m + 1, (), generator=generator)) for m in most)
    wide = F.pad(images, (most[1], most[1], most[0], most[0]), mode="reflect")
    return wide[:, :, down : down + height, right : right + width]


@torch.no_grad()
def _mean_distance(student: _Tapped, teacher: _Tapped, batches: Sequence[Inputs]) -> float:
    total = sum(float(distance(student(x), teacher(x))) * x.batch for x in batches)
    return total / sum(x.batch for x in batches)


@torch.no_grad()
def _put_back(weights: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for weight, old in zip(weights, kept, strict=True):
        weight.copy_(old)
