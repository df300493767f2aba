"""Normalization and augmentation of whole batches, on whatever device the images are on.

Nothing here loops over images: a batch is padded once and every image reads its own window of it through
one advanced-indexing gather.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from octavize.data.normalize import check_statistics
from octavize.errors import InputError, whole


def to_input(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    size: int | None = None,
    normalize: bool = True,
) -> Tensor:
    """uint8 images as network input.

    Args:
        images: (N, C, H, W) uint8.
        mean, std: per channel, for images scaled to 0..1.
        size: side of the result in pixels, by antialiased bilinear resizing; None keeps (H, W).
        normalize: subtract `mean` and divide by `std`; False leaves 0..1.

    Returns:
        (N, C, size, size) float32, channels-last in memory, on the device of `images`.

    Raises:
        InputError: `mean` or `std` do not fit the channels, or `size` is below 1.
    """
    _check_images(images)
    check_statistics(mean, std, images.shape[1])
    if size is not None:
        whole("size", size, 1)
    values = images.to(torch.float32).contiguous(memory_format=torch.channels_last)
    if size is not None and images.shape[2:] != (size, size):
        # Resizing is linear and its weights add up to 1, so normalizing afterwards changes nothing.
        values = F.interpolate(
            values, size=(size, size), mode="bilinear", align_corners=False, antialias=True
        )
    if normalize:
        # (v / 255 - mean) / std in one multiplication and one addition.
        scale = torch.tensor([1 / (255 * s) for s in std], device=values.device).view(1, -1, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=values.device)
        values = torch.addcmul(shift.view(1, -1, 1, 1), values, scale)
    else:
        values = values / 255
    return values.contiguous(memory_format=torch.channels_last)


def crop_and_flip(
    images: Tensor,
    padding: int = 4,
    flip: bool = True,
    generator: torch.Generator | None = None,
    *,
    fill: Sequence[float] | None = None,
) -> Tensor:
    """Each image shifted by its own random offset and mirrored, or not, on its own.

    Args:
        images: (N, C, H, W), any dtype.
        padding: pixels of border on each side; the crop offset is uniform over 0..2·padding, rows and columns
            independently. 0 is no crop.
        flip: mirror each image left to right with probability one half.
        generator: where the random numbers come from (a CPU generator serves every device); None is torch's
            global one.
        fill: value of the border per channel, in the images' own units; None is 0.

    Returns:
        (N, C, H, W), dtype and device of `images`.

    Raises:
        InputError: `padding` is negative or `fill` does not fit the channels.
    """
    _check_images(images)
    whole("padding", padding, 0)
    count, _, height, width = images.shape
    device = generator.device if generator is not None else torch.device("cpu")
    # Always drawn, so that switching the crop or the flip off does not shift the other's random numbers.
    offsets = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=device)
    mirrored = torch.rand((count, 1), generator=generator, device=device) < 0.5
    rows = torch.arange(height, device=device) + offsets[0]
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + offsets[1]
    padded = _pad(images, padding, fill).permute(0, 2, 3, 1)  # channels last: the gather copies whole pixels
    image = torch.arange(count, device=images.device)[:, None, None]
    rows, columns = rows.to(images.device), columns.to(images.device)
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _pad(images: Tensor, padding: int, fill: Sequence[float] | None) -> Tensor:
    """A border of `padding` pixels, `fill` per channel (rounded where the dtype is an integer)."""
    count, channels, height, width = images.shape
    values = [0.0] * channels if fill is None else list(fill)
    if len(values) != channels:
        raise InputError(f"fill has {len(values)} values for images of {channels} channels: give one each")
    if not images.dtype.is_floating_point:
        values = [float(round(value)) for value in values]
    border = torch.tensor(values, device=images.device).to(images.dtype).view(1, -1, 1, 1)
    padded = border.repeat(count, 1, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    return padded


def _check_images(images: Tensor) -> None:
    if images.ndim != 4:
        raise InputError(f"images has shape {tuple(images.shape)}: give a batch (N, C, H, W)")
