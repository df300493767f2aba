"""What `octavize.freeze` returns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from octavize.convert.trace import users_hooks
from octavize.deploy.difference import agree, dense_leaves
from octavize.deploy.flat import flatten, lay_out
from octavize.deploy.packed import is_plain_cpu
from octavize.deploy.program import export_program
from octavize.errors import InputError, one_line
from octavize.nn._torch_internals import counts_changes, forward_hooks, onednn, version_of


class _Calls(NamedTuple):
    """A list of calls, None where there is none, and what it was written for."""

    graph: GraphModule | None
    places: Sequence[tuple[Mapping[str, Any], str]]  # of all parameters, buffers and layers, by name
    held: list[Any]  # there
    parameters: list[nn.Parameter]
    versions: list[Any]
    hooks: Sequence[Mapping[int, Any]]  # of all layers
    own_hooks: int

    @classmethod
    def of(cls, net: nn.Module, graph: GraphModule | None) -> _Calls:
        # These are kept, because walking through all modules at every call would take a millisecond.
        modules = list(net.modules())
        kept = [d for m in modules for d in (m._parameters, m._buffers, m._modules)]
        places = [(d, name) for d in kept for name in d]
        hooks = [each for module in modules for each in forward_hooks(module)]
        own_hooks = sum(map(len, hooks)) - len(users_hooks(net))
        parameters = list(net.parameters())
        versions = [version_of(p) for p in parameters]
        return cls(graph, places, [d[name] for d, name in places], parameters, versions, hooks, own_hooks)

    def is_current(self) -> bool:
        """Whether the network still has the weights and layers that the list was written for."""
        now = [d.get(name) for d, name in self.places]
        return all(map(is_, now, self.held)) and [version_of(p) for p in self.parameters] == self.versions

    def has_hooks(self) -> bool:
        """Whether users wait at layers for maps, which the list does not hand them."""
        return sum(map(len, self.hooks)) != self.own_hooks


class FrozenNetwork(nn.Module):
    """A network of frozen layers, and the list of its calls.

    The list is for float32 images of the size of `shape` on the CPU, in batches of any size: a batch of
    another size than the last costs the time to copy the weights. Everything else (another size or device,
    gradients, autocast, compilers, hooks on layers, networks that cannot be exported) runs through the
    layers.

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

        It is written at the first call of this, in some seconds, and again when weights have changed or
        layers were replaced; a warning says why it could not be. While layers have hooks, there is none.
        Changes through `.data`, and of attributes that are no tensors of the network, go unnoticed: freeze
        the changed network instead.
        """
        if self._calls is None or not self._calls.is_current():
            self._calls = None  # a failure leaves no old list
            if users_hooks(self.net):
                return None
            self._calls = _Calls.of(self.net, self._written())
        if self._calls.graph is None or self._calls.has_hooks():
            return None
        lay_out(self._calls.graph, batch)
        return self._calls.graph

    def _written(self) -> GraphModule | None:
        if onednn() is None or not counts_changes():  # a list of old weights could not be told from a new one
            return None
        if not all(p.dtype == torch.float32 and p.device.type == "cpu" for p in self.net.parameters()):
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
