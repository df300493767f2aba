"""Runs of a network that stand still at chosen layers, so that many runs can go on layer by layer together.

What a layer is to be fitted on comes from all images at once, and what the next layers read depends on the
result. Running all images from the start for every layer takes time that grows with the square of the depth.
A walk is a run in a thread of its own that waits inside the network instead. Only one of all threads runs at
a time.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from octavize.calibration.coupling import stand_in
from octavize.convert.inputs import Inputs
from octavize.nn._torch_internals import TorchDispatchMode, tree_leaves

Maps = Any
"""A Tensor or an OctTensor."""


@dataclass(frozen=True)
class Stop:
    """Where a walk stands: the call of a layer, what it read, and what it made if it has run."""

    name: str
    x: Maps
    y: Maps


class Ended(RuntimeError):
    """The network's forward ended before the walk came to the layer."""


class _Cancelled(BaseException):
    """Ends a walk from within, past whatever the network catches."""


@dataclass
class Walk:
    """A run of a network, in evaluation mode and without its users' hooks, that stops at some layers.

    Args:
        model: it shares its memory with the walk: weights changed in place count from the next layer on.
        images: what it is called with.
        stops: of each layer by name, the calls to stop at, counted from 0.
        after: stop after the layer has run, instead of before.
        hold: maps to keep, in `held`: names of modules, each with "input" (the first) or "output".
    """

    model: nn.Module
    images: Inputs
    stops: Mapping[str, Collection[int]]
    after: bool = False
    hold: Collection[tuple[str, str]] = ()
    held: dict[tuple[str, str], Maps] = field(default_factory=dict)
    _calls: Counter[str] = field(default_factory=Counter)
    _at: Stop | None = None
    _error: BaseException | None = None
    _cancelled: bool = False

    def __post_init__(self) -> None:
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        net = stand_in(self.model)
        for name in self.stops:
            layer = net.get_submodule(name)
            if self.after:
                layer.register_forward_hook(partial(self._ran, name), with_kwargs=True)
            else:
                layer.register_forward_pre_hook(partial(self._before, name), with_kwargs=True)
        for name, side in self.hold:
            module = net.get_submodule(name)
            if side == "input":
                module.register_forward_pre_hook(partial(self._keep_input, name), with_kwargs=True)
            else:
                module.register_forward_hook(partial(self._keep_output, name))
        # Whoever is silent about dense fallbacks is so in the thread, too.
        run = partial(copy_context().run, self._run, net)
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def next(self) -> Stop:
        """Go on to the next stop.

        Raises:
            Ended: there is none; or whatever the network raises.
        """
        self._at = None
        self._go.release()
        self._arrived.acquire()
        if self._error is not None:
            raise self._error
        if self._at is None:
            raise Ended("the network's forward ended")
        return self._at

    def to(self, name: str) -> Stop:
        """Go on to the next stop at this layer, past others.

        Raises:
            Ended: there is none; or whatever the network raises.
        """
        while (stop := self.next()).name != name:
            pass
        return stop

    def close(self) -> None:
        """End the run where it stands, and give back its memory."""
        self._cancelled = True
        self._go.release()
        self._thread.join()
        self._at = None
        self.held.clear()

    def _run(self, net: nn.Module) -> None:
        self._go.acquire()
        try:
            if not self._cancelled:
                with torch.no_grad():
                    self.images.call(net)
        except _Cancelled:
            pass
        except BaseException as error:  # it is raised again where somebody waits
            self._error = error
        finally:
            self._arrived.release()

    def _keep_input(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.held[name, "input"] = first_of(args, kwargs)

    def _keep_output(self, name: str, module: nn.Module, args: Any, output: Maps) -> None:
        self.held[name, "output"] = output

    def _before(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._stand(name, first_of(args, kwargs), None)

    def _ran(self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Maps) -> None:
        self._stand(name, first_of(args, kwargs), output)

    def _stand(self, name: str, x: Maps, y: Maps) -> None:
        call = self._calls[name]
        self._calls[name] += 1
        if call not in self.stops[name]:
            return
        self._at = Stop(name, x, y)
        self._arrived.release()
        self._go.acquire()
        if self._cancelled:
            raise _Cancelled


def first_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a module is called with, first; None if with nothing."""
    return args[0] if args else next(iter(kwargs.values()), None)


def standing_bytes(model: nn.Module, image: Inputs, layers: Collection[str]) -> dict[str, int]:
    """The most memory that maps take, in bytes, while a run of one image stands after a layer or a later one.

    Args:
        layers: names, in the order in which they run.
    """
    net, live, found = stand_in(model), _Live(), dict.fromkeys(layers, 0)

    def look(name: str, *_: object) -> None:
        found[name] = max(found[name], live.now)

    for name in layers:
        net.get_submodule(name).register_forward_hook(partial(look, name))
    with torch.no_grad(), live:
        image.call(net)
    most = list(accumulate(reversed(found.values()), max))
    return dict(zip(found, reversed(most), strict=True))


class _Live(TorchDispatchMode):
    """Adds up the memory of all tensors that operations have made and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
