"""What is counted while a network trains and is evaluated."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from octavize.training.metrics import finite_or_none
from octavize.training.module import Meter, epoch_seed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_image_counts_alike(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(700, 10, dtype=dtype), torch.randint(0, 10, (700,))
    losses = F.cross_entropy(scores, labels, reduction="none")
    meter = Meter(10)
    for batch in torch.arange(700).split(
        3
    ):  # so many that a sum in bfloat16 would stand still; the last has one
        meter.update(losses[batch], scores[batch], labels[batch])
    loss, accuracy = meter.take()
    assert loss == pytest.approx(losses.double().mean().item(), rel=1e-5)
    assert accuracy == pytest.approx((scores.argmax(1) == labels).double().mean().item())


def test_a_loss_that_is_no_number_shows() -> None:
    meter = Meter(2)
    meter.update(torch.tensor([1.0, math.nan]), torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))
    assert math.isnan(meter.take()[0])
    assert [finite_or_none(loss) for loss in (1.5, math.nan, math.inf)] == [1.5, None, None]


def test_seeds_of_epochs_are_far_apart_and_stay_what_they_were() -> None:
    seeds = {epoch_seed(seed, epoch, rank) for seed in range(4) for epoch in range(4) for rank in range(4)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert epoch_seed(3, 1, 0) == 11_425_928_242_767_342_472
    torch.Generator().manual_seed(max(seeds))
