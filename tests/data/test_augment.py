"""Batch augmentation against a slow loop over images, and normalization against its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from octavize.data.augment import crop_and_flip, to_input
from octavize.errors import InputError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 6, channels: int = 3, height: int = 8, width: int = 11) -> Tensor:
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=seeded(5))


def windows(image: Tensor, padding: int, flip: bool) -> list[Tensor]:
    """Every window of a padded image, and its mirror images when asked for."""
    _, height, width = image.shape
    padded = F.pad(image, (padding,) * 4)
    cut = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    # Mirroring comes second, on the window.
    return cut + [window.flip(2) for window in cut] if flip else cut


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_every_result_is_a_window_of_its_own_image(padding: int, flip: bool) -> None:
    images = batch()
    out = crop_and_flip(images, padding, flip, seeded())
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    for before, after in zip(images, out, strict=True):
        assert any(torch.equal(after, window) for window in windows(before, padding, flip))


def test_all_offsets_and_both_mirrors_occur_independently() -> None:
    image = batch(1, 1, 6, 6)
    out = crop_and_flip(image.expand(2000, -1, -1, -1), 1, True, seeded())
    possible = windows(image[0], 1, True)
    counts = [int((out == window).flatten(1).all(1).sum()) for window in possible]
    assert sum(counts) == 2000
    # 18 equally likely outcomes of 111 expected; five deviations of slack.
    assert min(counts) > 60
    assert max(counts) < 165


def test_no_crop_and_no_flip_is_the_identity() -> None:
    images = batch()
    assert torch.equal(crop_and_flip(images, 0, False, seeded()), images)


def test_the_seed_decides() -> None:
    images = batch(32)
    torch.manual_seed(1)
    first = crop_and_flip(images, 4, True, seeded(7))
    torch.manual_seed(2)
    assert torch.equal(first, crop_and_flip(images, 4, True, seeded(7)))
    assert not torch.equal(first, crop_and_flip(images, 4, True, seeded(8)))


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    crop_and_flip(batch(), 4, True, seeded())
    assert torch.equal(state, torch.get_rng_state())


def test_switching_the_flip_off_keeps_the_crops() -> None:
    images = batch(64)
    flipped = crop_and_flip(images, 2, True, seeded())
    plain = crop_and_flip(images, 2, False, seeded())
    same = (flipped == plain).flatten(1).all(1)
    mirrored = (flipped == plain.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < mirrored.sum() < 48


def test_border_is_filled_per_channel() -> None:
    images = torch.zeros(200, 2, 4, 4, dtype=torch.uint8)
    out = crop_and_flip(images, 2, False, seeded(), fill=[10.4, 20.0])
    assert out[:, 0].unique().tolist() == [0, 10]
    assert out[:, 1].unique().tolist() == [0, 20]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [None, 8])
def test_to_input_normalizes(channels: int, size: int | None) -> None:
    images = batch(channels=channels, height=8, width=8)
    mean, std = [0.3, 0.4, 0.5][:channels], [0.2, 0.25, 0.3][:channels]
    out = to_input(images, mean, std, size=size)
    center, spread = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    assert out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, (images.float() / 255 - center) / spread)
    torch.testing.assert_close(to_input(images, mean, std, normalize=False), images.float() / 255)


@pytest.mark.parametrize("size", [4, 12, 16])
def test_to_input_resizes_with_antialiasing(size: int) -> None:
    images = batch(height=8, width=8)
    out = to_input(images, [0.5] * 3, [0.5] * 3, size=size)
    scaled = images.float() / 127.5 - 1
    expected = F.interpolate(scaled, size=(size, size), mode="bilinear", antialias=True)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_normalizing_by_its_own_statistics_gives_zero_and_one() -> None:
    images = batch(64, 1)
    scaled = images.float() / 255
    out = to_input(images, [scaled.mean().item()], [scaled.std().item()])
    assert out.mean().item() == pytest.approx(0, abs=1e-4)
    assert out.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: to_input(x, [0.5], [0.5]), "mean has 1 values for 3 channels"),
        (lambda x: to_input(x, [0.5] * 3, [0.5]), "std has 1 values for 3 channels"),
        (lambda x: to_input(x, [0.5] * 3, [0.5, 0.0, 0.5]), r"std=\(0.5, 0.0, 0.5\) must be above 0"),
        (lambda x: to_input(x, [0.5] * 3, [0.5] * 3, size=0), "size=0: give a whole number"),
        (lambda x: to_input(x[0], [0.5] * 3, [0.5] * 3), r"shape \(3, 8, 11\)"),
        (lambda x: crop_and_flip(x, -1), "padding=-1: give a whole number"),
        (lambda x: crop_and_flip(x[0]), r"shape \(3, 8, 11\)"),
        (lambda x: crop_and_flip(x, 1, fill=[0.0]), "fill has 1 values for images of 3 channels"),
    ],
)
def test_bad_arguments(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(batch())
