"""Normalization and other parameters a channel: each half by the pixels that it stores."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.helpers.maps import MAPS, dense_of, equal, make, map_named, randomized, stored_channels
from tests.helpers.reference import repeat_pixels
from torch import nn

import octavize

pytestmark = pytest.mark.filterwarnings("error::octavize.nn.dispatch.DenseFallbackWarning")

Function = Callable[..., Any]


NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MANY_PIXELS = [name for name in MAPS if name != "one pixel"]


@pytest.mark.parametrize("where", MANY_PIXELS)
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_batch_norm_of_the_stored_pixels(where: str, momentum: float | None) -> None:
    x = map_named(where)
    c = x.shape[1]
    norm = randomized(NORMS[x.dim() - 2](c, momentum=momentum))
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    y = x
    for step in range(2):
        y = norm(x)
        for i, (before, after) in enumerate(zip(stored_channels(x), stored_channels(y), strict=True)):
            m, v = before.mean(), before.var(unbiased=False)
            equal(after, (before - m) / (v + norm.eps).sqrt() * norm.weight[i] + norm.bias[i])
            share = momentum or 1 / (step + 1)
            mean[i] = (1 - share) * mean[i] + share * m
            var[i] = (1 - share) * var[i] + share * before.var()
        equal(norm.running_mean, mean)
        equal(norm.running_var, var)
    assert norm.num_batches_tracked == 2
    assert y.channel_layout == x.channel_layout
    norm.eval()
    equal(dense_of(norm(x)), norm(dense_of(x)))
    equal(norm.running_mean, mean)


@pytest.mark.parametrize("where", ["even", "low first"])
def test_batch_norm_on_even_sizes_is_the_dense_one(where: str) -> None:
    x = map_named(where)
    norm = randomized(nn.BatchNorm2d(4))
    equal(dense_of(copy.deepcopy(norm)(x)), norm(dense_of(x)))


@pytest.mark.parametrize("where", MANY_PIXELS)
@pytest.mark.parametrize("training", [True, False])
def test_gradient_of_batch_norm(where: str, training: bool) -> None:
    x = map_named(where)
    norm = randomized(NORMS[x.dim() - 2](x.shape[1])).train(training)
    leaves = [x.high.requires_grad_(), x.low.requires_grad_(), norm.weight, norm.bias]
    loss = dense_of(norm(x)).pow(3).sum()
    got = torch.autograd.grad(loss, leaves, allow_unused=True)

    # The same from stored pixels alone.
    parts = []
    for i, before in enumerate(stored_channels(x)):
        m = before.mean() if training else norm.running_mean[i]
        v = before.var(unbiased=False) if training else norm.running_var[i]
        if not training:
            m, v = torch.zeros(()).double(), torch.ones(()).double()
        parts.append((before - m) / (v + norm.eps).sqrt() * norm.weight[i] + norm.bias[i])
    if not training:
        norm.reset_running_stats()
        got = torch.autograd.grad(dense_of(norm(x)).pow(3).sum(), leaves, allow_unused=True)
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        up = part.unsqueeze(1)
        if part.shape[1:] != x.shape[2:]:
            for axis in range(x.dim() - x.octave_dims, x.dim()):
                up = repeat_pixels(up, axis, x.shape[axis])
        total = total + up.pow(3).sum()
    wanted = torch.autograd.grad(total, leaves, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        if b is not None and b.numel():
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [{"affine": False}, {"track_running_stats": False}, {"affine": False, "track_running_stats": False}],
)
def test_batch_norm_without_its_parts(options: dict[str, bool]) -> None:
    x = make((1, 1, 2, 2), 4, 4)
    norm = nn.BatchNorm2d(6, **options).double()
    equal(dense_of(norm(x)), copy.deepcopy(norm)(dense_of(x)))
    norm.eval()
    equal(dense_of(norm(x)), norm(dense_of(x)))


@pytest.mark.parametrize("where", ["even", "odd", "interleaved", "all high", "all low", "line", "video"])
def test_instance_norm_of_the_stored_pixels(where: str) -> None:
    x = map_named(where)
    norms = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
    norm = randomized(norms[x.dim() - 2](x.shape[1], affine=True, track_running_stats=True))
    y = norm(x)
    for i, (before, after) in enumerate(zip(stored_channels(x), stored_channels(y), strict=True)):
        flat = before.flatten(1)
        m, v = flat.mean(1), flat.var(1, unbiased=False)
        shape = (-1, *[1] * (before.dim() - 1))
        normal = (before - m.view(shape)) / (v + norm.eps).sqrt().view(shape)
        equal(after, normal * norm.weight[i] + norm.bias[i])
        equal(norm.running_mean[i], 0.1 * m.mean())
        equal(norm.running_var[i], 0.9 + 0.1 * flat.var(1).mean())
    norm.eval()
    equal(dense_of(norm(x)), norm(dense_of(x)))


@pytest.mark.parametrize("where", MAPS)
@pytest.mark.parametrize("shared", [True, False])
def test_prelu(where: str, shared: bool) -> None:
    x = map_named(where)
    act = nn.PReLU(1 if shared else x.shape[1]).double()
    nn.init.uniform_(act.weight)
    equal(dense_of(act(x)), act(dense_of(x)))
    equal(dense_of(x.prelu(act.weight)), act(dense_of(x)))
    wanted = torch.autograd.grad(act(dense_of(x)).sum(), act.weight)[0]
    equal(torch.autograd.grad(dense_of(act(x)).sum(), act.weight)[0], wanted)


LONELY: dict[str, tuple[Callable[[], Any], int]] = {
    "instance": (lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True), 3),
    "batch": (lambda: nn.BatchNorm2d(6), 1),
}


@pytest.mark.parametrize("name", LONELY)
@pytest.mark.parametrize("size", [(2, 2), (2, 1)])
@pytest.mark.parametrize("layout", [(4, 2), (2, 1, 2, 1), (0, 6)])
def test_the_variance_of_one_stored_pixel_that_stands_for_several(
    name: str, size: tuple[int, int], layout: tuple[int, ...]
) -> None:
    """The dense map is constant there: the result is the bias, and the running variance shrinks."""
    kind, images = LONELY[name]
    x = make(layout, *size)
    x = x.like(x.high[:images], x.low[:images])
    norm = randomized(kind())
    dense = copy.deepcopy(norm)
    y = norm(x)
    equal(dense_of(y), dense(dense_of(x)))
    _, low = y.split_channels(torch.arange(6))
    equal(y.low, norm.bias[low].view(1, -1, 1, 1).expand(y.low.shape))
    equal(norm.running_mean, dense.running_mean)
    equal(norm.running_var[low], dense.running_var[low])


def test_the_variance_of_one_dense_pixel_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm2d(4).double()(make((2, 2), 1, 1)[:1])


def test_what_follows_a_norm_may_work_in_place_where_a_half_is_empty() -> None:
    """Two norms read a map, as in a pre-activation shortcut, and each result is changed in place."""
    head = octavize.OctConv2d(3, 8, 3, padding=1, alpha=1)
    branches = [
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True), octavize.OctConv2d(8, 8, 1, alpha=1))
        for _ in range(2)
    ]
    shared = head(torch.randn(2, 3, 8, 8))
    (branches[0](shared) + branches[1](shared)).to_dense().square().sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0
