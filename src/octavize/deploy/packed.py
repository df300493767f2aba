"""A 2-D convolution for inference on the CPU, whose weight is laid out for oneDNN once.

torch hands oneDNN the weight as it lies in memory, and oneDNN brings it into its own order again at every
call; small inputs on one thread do not even get to oneDNN. Both cost an octave network more than a vanilla
one: it makes more and smaller calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavize.nn._torch_internals import (
    counts_changes,
    in_forward_derivative,
    in_transform,
    onednn,
    onednn_enabled,
    version_of,
)


class PackedConv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, with the same parameters and state dict, that keeps a second copy of its weight.

    The copy is made at the first call, and again when the weight has changed, or the size of the batch, on
    which the best order depends; changes through `.data`, which torch does not track, go unnoticed. It is
    only used for float32 on the CPU, outside of autograd, autocast,
    transforms and compilers; everything else is torch's own layer.
    """

    _packed: tuple[Tensor, tuple[int | None, int], Tensor] | None = None
    """The weight that was laid out, its version and the batch then, and the copy."""

    def forward(self, input: Tensor) -> Tensor:
        own = onednn() if self._can_pack(input) else None
        if own is None:
            return super().forward(input)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        weight = self.weight
        now = (version_of(weight), input.shape[0])
        if self._packed is None or self._packed[0] is not weight or self._packed[1] != now:
            laid_out = own.lay_out(weight.detach(), *geometry, list(input.shape))
            self._packed = (weight, now, laid_out)
        return own.convolve(input, self._packed[2], self.bias, *geometry, "none", [], "")

    def _can_pack(self, x: Tensor) -> bool:
        return (
            isinstance(x, Tensor)  # an OctTensor will be made dense
            and x.dim() == 4
            and x.numel() > 0
            and self.padding_mode == "zeros"
            and isinstance(self.padding, tuple)
            and is_plain_cpu(x)
            and self.weight.dtype == torch.float32
            and counts_changes()
            and not self.weight.is_inference()  # it has no version
            and not (torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad))
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._packed = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_packed"}


def is_plain_cpu(x: Tensor) -> bool:
    """Whether this tensor may be given to oneDNN by hand: float32 on the CPU, and nobody looks on.

    Autocast, compilers, tracers, the transforms of torch.func and forward-mode derivatives do.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and onednn_enabled()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not in_transform()
        and not in_forward_derivative()
    )
