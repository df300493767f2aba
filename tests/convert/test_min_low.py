"""Narrow layers: what has few low channels stays dense, unless its user names it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from octavize import InputError, OctConv2d, calibrate, create_model, octavize, plan

EXAMPLE = (1, 3, 8, 8)


def widths(*channels: int) -> nn.Sequential:
    """A stem, and a convolution to each of these numbers of channels."""
    pairs = zip((3, *channels), channels, strict=False)
    return nn.Sequential(nn.Conv2d(3, 3, 1), *(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs), nn.ReLU())


@pytest.mark.usual_min_low
def test_layers_with_few_low_channels_stay_dense_and_say_so() -> None:
    made = plan(widths(30, 32, 8), 0.5, example=EXAMPLE)
    assert [d.alpha for d in made.decisions] == [None, 0.0, 0.5, 0.0]
    assert made.decisions[1].reason.startswith("narrow: 15 low channels, fewer than min_low=16")


@pytest.mark.usual_min_low
@pytest.mark.parametrize("alpha", [{"*": 0.5}, lambda name, module: 0.5])
def test_who_names_layers_gets_them_however_narrow(alpha: Any) -> None:
    made = plan(widths(30, 32, 8), alpha, example=EXAMPLE)
    assert [d.alpha for d in made.decisions] == [None, 0.5, 0.5, 0.0]
    assert plan(widths(30, 32, 8), alpha, min_low=16, example=EXAMPLE).alphas["1"] == 0.0


@pytest.mark.usual_min_low
def test_min_low_is_an_argument_of_all_who_plan() -> None:
    net, images = widths(30, 32, 8), [torch.randn(4, 3, 8, 8)]
    assert plan(net, 0.5, min_low=0, example=EXAMPLE).alphas["1"] == 0.5
    assert calibrate(net, images, 0.5, example=EXAMPLE).alphas["1"] == 0.0
    assert calibrate(net, images, 0.5, min_low=15, example=EXAMPLE).alphas["1"] == 0.5
    layers: Any = octavize(net, 0.5, min_low=15, example=EXAMPLE)
    assert (layers[1].alpha, layers[2].alpha) == (0.5, 0.5)


@pytest.mark.usual_min_low
def test_a_budget_is_met_by_wide_layers() -> None:
    made = plan(widths(30, 64, 64), budget=0.9, example=EXAMPLE)
    assert made.macs_ratio <= 0.9
    assert made.alphas["1"] == 0


@pytest.mark.usual_min_low
def test_named_networks_follow_the_paper_however_narrow() -> None:
    low = {
        m.alpha
        for m in create_model("oct_cifar_resnet20", 0.125, width=0.5).modules()
        if isinstance(m, OctConv2d) and m.alpha
    }
    assert low == {0.125}


@pytest.mark.parametrize("bad", [-1, 1.5, "8", True])
def test_min_low_is_a_whole_number(bad: Any) -> None:
    with pytest.raises(InputError, match=r"min_low=.*give a whole number"):
        plan(widths(16), 0.5, min_low=bad, example=EXAMPLE)


def test_a_plan_has_its_own_min_low() -> None:
    made = plan(widths(16, 16), 0.5, example=EXAMPLE)
    with pytest.raises(InputError, match="min_low and a plan are both given"):
        octavize(widths(16, 16), made, min_low=4)
