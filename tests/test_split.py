"""Counting channels."""

from __future__ import annotations

import pytest

from octavize.split import low_channels


def test_a_share_of_so_many_channels_is_so_many() -> None:
    assert [(k, c) for c in range(1, 513) for k in range(c + 1) if low_channels(c, k / c) != k] == []


@pytest.mark.parametrize(
    ("alpha", "channels", "low"), [(0.29, 100, 29), (0.5, 5, 2), (0.99, 3, 2), (0, 9, 0)]
)
def test_the_integer_part(alpha: float, channels: int, low: int) -> None:
    assert low_channels(channels, alpha) == low
