"""Which convolutions can be octave, and what follows from it, in numbers alone and without a framework.

An octave layer must map every size to ⌈size / stride⌉ along each octave axis; a transposed one must map it to
stride · size. Otherwise the halves drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from octavize.errors import InputError, shown
from octavize.split import ChannelLayout, check_alpha, default_octave_dims, low_channels

Downsample = Literal["pool", "stride", "pool_always"]
Exchange = Literal["both", "low_to_high", "high_to_low", "none"]
DOWNSAMPLE: tuple[str, ...] = get_args(Downsample)
EXCHANGE: tuple[str, ...] = get_args(Exchange)


def check_downsample(downsample: str) -> str:
    """Return `downsample`.

    Raises:
        InputError: it is not one of the three names.
    """
    if downsample not in DOWNSAMPLE:
        raise InputError(
            f"downsample={shown(downsample)}: give 'pool' (the paper), 'stride' or 'pool_always'"
        )
    return downsample


def check_exchange(exchange: str) -> str:
    """Return `exchange`.

    Raises:
        InputError: it is not one of the four names.
    """
    if exchange not in EXCHANGE:
        raise InputError(f"exchange={shown(exchange)}: give one of {', '.join(EXCHANGE)}")
    return exchange


@dataclass(frozen=True)
class Geometry:
    """The numbers of a convolution; tuples have one number per spatial axis.

    `padding` is a tuple, or "same" or "valid". `unsuited` is what else keeps the layer from being octave, for
    the user to read, such as channels that come last.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    unsuited: str = ""

    @property
    def depthwise(self) -> bool:
        """Whether every output channel reads one input channel."""
        return self.groups == self.in_channels > 1

    def problem(self, octave_dims: int) -> str | None:
        """Why such a layer cannot be octave along its last `octave_dims` axes, or None."""
        if self.unsuited:
            return self.unsuited
        axes = range(-octave_dims, 0)
        if self.transposed:
            return self._transposed_problem(axes)
        if any(self.stride[axis] not in (1, 2) for axis in axes):
            return f"stride={self.stride} cannot be octave: strides of 1 and 2 can"
        if self.padding == "same":
            return None
        padding = (0,) * len(self.kernel_size) if isinstance(self.padding, str) else self.padding
        for axis in axes:
            lost = self.dilation[axis] * (self.kernel_size[axis] - 1)
            if 2 * padding[axis] != lost:
                needed = f"padding={lost // 2}" if lost % 2 == 0 else "an odd kernel, or padding='same'"
                return (
                    f"kernel_size={self.kernel_size} with padding={self.padding} and "
                    f"dilation={self.dilation} does not keep the map's size, so its halves would drift "
                    f"apart: octave needs {needed}"
                )
        return None

    def _transposed_problem(self, axes: range) -> str | None:
        assert not isinstance(self.padding, str)  # torch has no such transposed layer
        for axis in axes:
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            if reach + self.output_padding[axis] - 2 * self.padding[axis] != self.stride[axis]:
                return (
                    f"kernel_size={self.kernel_size} with stride={self.stride}, padding={self.padding} and "
                    f"output_padding={self.output_padding} does not multiply the map's size by the stride, "
                    "so its halves would drift apart"
                )
        return None


@dataclass(frozen=True)
class OctaveSettings:
    """The settings that a vanilla layer lacks, and what follows from them, computed once."""

    alpha: float
    octave_dims: int
    strict: bool
    downsample: str
    exchange: str
    depthwise: bool
    keeps_size: bool
    out_layout: ChannelLayout  # high and low channels of the output, unless depthwise
    weight_layout: ChannelLayout  # how the weight is split for them along its axis of outputs
    weight_dim: int  # that axis: 0, or 1 in transposed layers, whose groups share it
    factors: tuple[int, ...]  # the stride along the octave axes, 1 along the others: pooling takes it
    stride: tuple[int, ...]  # the stride along the other axes (time), and 1 along the octave axes
    strided: bool  # some octave axis has a stride of 2
    halves: bool  # all octave axes have one
    one_resolution: bool  # both outputs read the input at the low resolution
    pools_plain: bool  # a stride pools even where the layer reads and writes plain maps
    map_dims: int  # axes of a map: batch, channels, space

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        *,
        alpha: float = 0.5,
        octave_dims: int | None = None,
        strict: bool = False,
        downsample: str = "pool",
        exchange: str = "both",
    ) -> OctaveSettings:
        """The settings of a layer of this geometry.

        Raises:
            InputError: a value is out of range, or the geometry cannot keep the size of both halves.
        """
        spatial = len(geometry.kernel_size)
        dims = default_octave_dims(spatial) if octave_dims is None else octave_dims
        if not 1 <= dims <= spatial:
            raise InputError(
                f"octave_dims={octave_dims}: a {spatial}-D layer has 1 to {spatial} axes to halve"
            )
        alpha, problem = check_alpha(alpha), geometry.problem(dims)
        if problem is not None and alpha > 0:
            raise InputError(problem)
        low_out = low_channels(geometry.out_channels, alpha, geometry.groups)
        out_layout = (geometry.out_channels - low_out, low_out)
        shared = geometry.groups if geometry.transposed else 1
        along_octave, along_others = geometry.stride[-dims:], geometry.stride[:-dims]
        halves = all(stride == 2 for stride in along_octave)
        return cls(
            alpha=alpha,
            octave_dims=dims,
            strict=strict,
            downsample=check_downsample(downsample),
            exchange=check_exchange(exchange),
            depthwise=geometry.depthwise,
            keeps_size=problem is None,
            out_layout=out_layout,
            weight_layout=tuple(n // shared for n in out_layout),
            weight_dim=int(geometry.transposed),
            factors=(*[1] * len(along_others), *along_octave),
            stride=(*along_others, *[1] * dims),
            strided=2 in along_octave,
            halves=halves,
            one_resolution=halves and downsample != "stride" and geometry.groups == 1,
            pools_plain=2 in along_octave and downsample == "pool_always",
            map_dims=spatial + 2,
        )

    def exchanges(self, path: str, high_in: int, low_in: int) -> bool:
        """Whether the layer has this path, `low_to_high` or `high_to_low`, for these input channels."""
        # A layer that splits or merges would lose a half without the path.
        return self.exchange in ("both", path) or 0 in (high_in, low_in) or 0 in self.out_layout


def border(padding: Sequence[int] | str, kernel_size: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The padding of a convolution in pixels: (left, right) per axis, last axis first.

    With `same`, an even kernel gets the odd pixel on the right.
    """
    if padding == "valid":
        return [0] * (2 * len(kernel_size))
    if not isinstance(padding, str):
        return [n for n in reversed(padding) for _ in "lr"]
    missing = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    return [n for total in reversed(missing) for n in (total // 2, total - total // 2)]
