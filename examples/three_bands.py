"""A draft of more than two bands: an octave map whose low half is itself an octave map.

Run it with `python examples/three_bands.py`. docs/bands.md says what it shows, and what it would take to be
more than a draft.

With `alpha=(0.25, 0.125)` five eighths of the output channels have full resolution, a quarter half and an
eighth a quarter of it. Write L for the low half, with its two bands. The layer is the paper's:

    Y_high = X_high * W_hh + U(L * W_lh)
    Y_low  = [P(X_high), L] * W_low

only that `L * W_lh` and the second line are octave convolutions now. Multiplied out they are nine paths.
A path between two bands convolves at the resolution of the lower one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from octavize import InputError, OctConv2d, OctTensor

Map = OctTensor | Tensor


class ThreeBandConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with three bands: the same weight and bias.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: those of `torch.nn.Conv2d`. The padding
            must keep the size. There are no groups in this draft.
        alpha: shares of output channels at half and at a quarter of the resolution; they come last, in this
            order. The split of the input is read from the input.

    Raises:
        InputError: no channel would have full resolution, or the geometry does not keep the size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        *,
        alpha: tuple[float, float] = (0.25, 0.125),
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        if 2 * padding != kernel_size - 1 or stride not in (1, 2):
            raise InputError(f"padding={padding}, stride={stride}: give {kernel_size // 2}, and 1 or 2")
        self.counts = band_channels(out_channels, alpha)
        self._parts: dict[tuple[int, ...], OctConv2d] = {}

    def forward(self, input: Map) -> Any:
        """Convolve a plain map, or an octave map of two or three bands.

        Returns:
            An octave map whose low half is an octave map. Without channels at a quarter of the resolution, an
            octave map; without those at half of it either, a plain tensor.
        """
        rows, n_low = self.counts[0], sum(self.counts[1:])
        if n_low == 0 and not isinstance(input, OctTensor):
            return super().forward(input)  # between plain maps it is torch's own
        x = input if isinstance(input, OctTensor) else OctTensor.all_high(input)
        (w_high, w_low), (b_high, b_low) = self.weight.split([rows, n_low]), (None, None)
        if self.bias is not None:
            b_high, b_low = self.bias.split([rows, n_low])
        high = self._to_high(x, w_high, b_high)
        if n_low == 0:
            return high
        both: Map = torch.cat([halve(x.high), x.low], 1)  # pyright: ignore[reportAssignmentType,reportCallIssue,reportArgumentType]
        low = self._octave(both, w_low, b_low, self.counts[2], self.stride[0])
        return OctTensor.trusted(high, low, (rows, n_low), 2, False)  # pyright: ignore[reportArgumentType]

    def _to_high(self, x: OctTensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Y_high = X_high * W_hh + U(L * W_lh); with a stride of 2, L has the resolution of Y_high."""
        n_high, n_low = x.high.shape[1], x.low.shape[1]
        w_hh, w_lh = weight.split([n_high, n_low], dim=1)
        y = F.conv2d(halve(x.high) if self.stride[0] == 2 else x.high, w_hh, bias, padding=self.padding)
        if n_low == 0:
            return y
        from_low = self._octave(x.low, w_lh, None, 0, 1)
        assert isinstance(from_low, Tensor)  # no low channels were asked for
        return y + (from_low if self.stride[0] == 2 else F.interpolate(from_low, y.shape[2:]))

    def _octave(self, x: Map, weight: Tensor, bias: Tensor | None, low: int, stride: int) -> Map:
        """The octave convolution of two bands with this part of the weight, of whose rows `low` are low."""
        rows, columns = weight.shape[:2]
        key = (columns, rows, low, stride, bias is not None)
        if key not in self._parts:  # without parameters of its own: they are this layer's
            self._parts[key] = OctConv2d(
                *(columns, rows, self.kernel_size, stride, self.padding),
                bias=bias is not None,
                device="meta",
                alpha=low / rows,
                downsample="pool_always",  # every path of a layer pools, also between plain halves
            )
        given = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        return functional_call(self._parts[key], given, (x,))


def band_channels(channels: int, alpha: Sequence[float]) -> tuple[int, ...]:
    """How many channels each band has, the full resolution first: shares of `channels`, rounded down.

    Raises:
        InputError: a share is negative, or no channel would have full resolution.
    """
    low = [int(share * channels + 1e-6) for share in alpha]
    if min(alpha) < 0 or sum(low) >= channels:
        raise InputError(f"alpha={alpha}: give shares from 0 on that leave channels at full resolution")
    return channels - sum(low), *low


def macs(counts_in: Sequence[int], counts_out: Sequence[int], kernel: int, size: Sequence[int]) -> int:
    """Multiply–accumulates of a layer of stride 1 for any number of bands. `size` is the full resolution.

    Every path convolves at the lower resolution of its two bands. A band costs a quarter of the one before.
    """
    sizes = [tuple(size)]
    while len(sizes) < max(len(counts_in), len(counts_out)):
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    return sum(
        a * b * kernel**2 * sizes[max(i, j)][0] * sizes[max(i, j)][1]
        for i, a in enumerate(counts_in)
        for j, b in enumerate(counts_out)
    )


def halve(x: Tensor) -> Tensor:
    """P: averages of 2 × 2 pixels; at the border, of those that exist."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def bands(x: Map) -> list[Tensor]:
    """The tensors of a map, the highest resolution first."""
    return [x.high, *bands(x.low)] if isinstance(x, OctTensor) else [x]


def dense(x: Map) -> Tensor:
    """The ordinary map: with a low half that is an octave map, `to_dense` takes one band away."""
    while isinstance(x, OctTensor):
        x = x.to_dense()
    return x


def main() -> None:
    """Train a few steps of a small network with three bands."""
    torch.manual_seed(0)
    alpha = (0.25, 0.125)
    net = nn.Sequential(
        ThreeBandConv2d(3, 32, 3, padding=1, bias=False, alpha=alpha),
        nn.BatchNorm2d(32),  # torch's own layers work on the map: their rules ask the halves, one by one
        nn.ReLU(inplace=True),
        ThreeBandConv2d(32, 64, 3, stride=2, padding=1, bias=False, alpha=alpha),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        ThreeBandConv2d(64, 64, 1, alpha=(0.0, 0.0)),  # merges
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 4),
    )
    x, labels = torch.randn(8, 3, 33, 33), torch.arange(8) % 4
    print("bands:", [tuple(band.shape) for band in bands(net[:6](x))])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for step in range(3):
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.3f}")
    counts = band_channels(64, alpha)
    share = macs(counts, counts, 3, (56, 56)) / macs([64], [64], 3, (56, 56))
    print(f"arithmetic of a layer of 64 channels: {share:.3f} of vanilla's")


if __name__ == "__main__":
    main()
