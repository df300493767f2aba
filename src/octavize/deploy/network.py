"""What `octavize.freeze` returns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from octavize.deploy.difference import agree, dense_leaves
from octavize.deploy.flat import flatten, lay_out
from octavize.deploy.packed import is_plain_cpu
from octavize.deploy.program import export_program
from octavize.errors import InputError, one_line
from octavize.nn._torch_internals import counts_changes, onednn, version_of


class _Calls(NamedTuple):
    """A list of calls, None where there is none, and the parameters that it was written for."""

    graph: GraphModule | None
    parameters: list[nn.Parameter]
    versions: list[int | None]


class FrozenNetwork(nn.Module):
    """A network of frozen layers, and the list of its calls.

    The list is for float32 images of the size of `shape` on the CPU, in batches of any size: a batch of
    another size than the last costs the time to copy the weights. Everything else (another size or device,
    gradients, autocast, compilers, networks that cannot be exported) runs through the layers.

    Attributes:
        net: the network of frozen layers, with its own `forward`.
        shape: of the input it was frozen for, (N, C, H, W); N does not matter.
    """

    def __init__(self, net: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.net, self.shape = net, tuple(shape)
        self._calls: _Calls | None = None
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the network; see its own `forward`."""
        is_image = len(args) == 1 and not kwargs and self._fits(args[0])
        calls = self.calls(args[0].shape[0]) if is_image else None
        if calls is None:
            return self.net(*args, **kwargs)
        return calls(args[0].contiguous(memory_format=torch.channels_last))

    def calls(self, batch: int = 1) -> GraphModule | None:
        """The list of calls, laid out for batches of this size; None if the network has none.

        It is written at the first call of this, in some seconds, and again when weights have changed; a
        warning says why it could not be. Layers that are replaced, and changes through `.data`, go unnoticed:
        freeze the changed network instead.
        """
        if self._calls is None or self._calls.versions != [version_of(p) for p in self._calls.parameters]:
            parameters = list(self.net.parameters())  # walking through all modules would take a millisecond
            self._calls = _Calls(self._written(parameters), parameters, [version_of(p) for p in parameters])
        if self._calls.graph is not None:
            lay_out(self._calls.graph, batch)
        return self._calls.graph

    def _written(self, parameters: list[nn.Parameter]) -> GraphModule | None:
        if onednn() is None or not counts_changes():  # a list of old weights could not be told from a new one
            return None
        if not all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters):
            return None
        try:
            with torch.inference_mode(False), torch.no_grad():
                program = export_program(self.net, self.shape, dynamic_batch=True, dynamic_size=False)
                calls = flatten(program)
                problem = self._problem(calls)
        except InputError as error:
            calls, problem = None, str(error)
        if problem is None:
            return calls
        name = type(self.net).__name__
        warnings.warn(f"{name} runs layer by layer, which is slower: {problem}", UserWarning, stacklevel=4)
        return None

    def _problem(self, calls: GraphModule) -> str | None:
        """Why a list of calls does not compute what the layers do on random batches; None if it does.

        Its maps are channels-last, and a forward may ask how they lie (`as_strided`, `is_contiguous`). Two
        batches, since what the forward makes at every call, such as a generator, the list makes only once.
        """
        generator = torch.Generator().manual_seed(0)
        for batch in (2, 1):
            x = torch.randn((batch, *self.shape[1:]), generator=generator)
            expected, others = (dense_leaves(_seeded(self.net, each)) for each in (x, -x))
            try:
                got = dense_leaves(_seeded(calls, x.contiguous(memory_format=torch.channels_last)))
            except RuntimeError as error:
                return f"its list of calls fails ({one_line(error)})"
            if not agree(expected, got, others):
                return "its list of calls gives other outputs"
        return None

    def _fits(self, x: Any) -> bool:
        return (
            isinstance(x, Tensor)
            and x.dim() == 4
            and tuple(x.shape[1:]) == self.shape[1:]
            and x.shape[0] > 0
            and is_plain_cpu(x)
            and not self.net.training
            and not (torch.is_grad_enabled() and x.requires_grad)
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._calls = None
        return super()._apply(fn, recurse)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As that of any module."""
        self._calls = None
        return super().load_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_calls": None}

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


def _seeded(net: nn.Module, x: Tensor) -> Any:
    """The output, with the same random numbers at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return net(x)
