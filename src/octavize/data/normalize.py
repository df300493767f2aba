"""Images as networks see them, without a framework: scaled, and normalized by mean and deviation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from octavize.errors import InputError, shown


def normalized(
    images: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], normalize: bool = True
) -> npt.NDArray[np.float32]:
    """Images (N, C, H, W) as input of a network, in float32.

    Args:
        mean, std: per channel, for images scaled to 0..1.
        normalize: subtract `mean` and divide by `std`; False leaves 0..1.

    Raises:
        InputError: `mean` or `std` do not fit the channels.
    """
    check_statistics(mean, std, images.shape[1])
    values: npt.NDArray[np.float32] = np.divide(images, 255, dtype=np.float32)
    if normalize:
        values -= np.array(mean, np.float32)[:, None, None]
        values /= np.array(std, np.float32)[:, None, None]
    return values


def check_together(mean_and_std: Mapping[str, Any]) -> None:
    """Raises InputError where one of mean and deviation, by the names that callers know, is given alone."""
    given = [name for name, value in mean_and_std.items() if value]
    if len(given) == 1:
        (other,) = mean_and_std.keys() - given
        raise InputError(f"{given[0]}={shown(mean_and_std[given[0]])} comes without {other}: give both")


def check_statistics(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raises InputError unless mean and deviation are usable numbers, one each a channel."""
    for name, values in (("mean", mean), ("std", std)):
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise InputError(f"{name}={shown(values)}: give a list of numbers, one for each channel")
        if len(values) != channels:
            raise InputError(f"{name} has {len(values)} values for {channels} channels: give one each")
    if not all(map(math.isfinite, (*mean, *std))):
        raise InputError(f"mean={tuple(mean)} and std={tuple(std)} must be finite numbers")
    if not all(0 <= value <= 1 for value in mean):
        raise InputError(
            f"mean={tuple(mean)}: images are scaled to 0..1, and so is their mean: "
            "divide it by 255, and std too"
        )
    if not all(value > 0 for value in std):
        raise InputError(f"std={tuple(std)} must be above 0: measure it on images that have contrast")
