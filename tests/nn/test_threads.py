"""Observing, and keeping quiet, is of the thread that asked for it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from octavize import DenseFallbackWarning, OctTensor, plan
from octavize.nn.dispatch import observe_calls, unannounced

LIMIT = 30.0


def octave_map() -> OctTensor:
    return OctTensor(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 2, 2))


def in_another_thread(call: Callable[[], object]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def test_calls_of_another_thread_are_not_seen() -> None:
    own: list[str] = []
    others: list[str] = []

    def other() -> None:
        octave_map().relu()
        with observe_calls(lambda name, *_: others.append(name)):
            octave_map().sigmoid()

    with observe_calls(lambda name, *_: own.append(name)):
        octave_map().abs()
        in_another_thread(other)
        octave_map().tanh()
    octave_map().neg()
    assert own == ["abs", "tanh"]
    assert others == ["sigmoid"]


def test_a_plan_made_beside_a_running_network_lists_its_own_fallbacks() -> None:
    class Beside(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            in_another_thread(lambda: octave_map().cumsum(2))
            return super().forward(input)

    convs = [nn.Conv2d(n, 32, 3, padding=1) for n in (3, 32, 32)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DenseFallbackWarning)
        told = plan(Beside(*convs), 0.5, example=(1, 3, 8, 8))
    assert not told.fallbacks
    assert told.alphas["1"] == 0.5


def test_two_threads_that_end_in_any_order() -> None:
    """The one that began first ends first: the other goes on seeing its own."""
    seen: list[str] = []
    begun, ended = threading.Event(), threading.Event()

    def longer() -> None:
        with observe_calls(lambda name, *_: seen.append(name)):
            begun.set()
            assert ended.wait(LIMIT)
            octave_map().relu()

    thread = threading.Thread(target=longer)
    with observe_calls(lambda name, *_: seen.append("wrong")):
        thread.start()
        assert begun.wait(LIMIT)
    ended.set()
    thread.join(LIMIT)
    assert seen == ["relu"]


def test_observers_within_observers() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with observe_calls(lambda name, *_: outer.append(name)):
        with observe_calls(lambda name, *_: inner.append(name)):
            octave_map().relu()
        octave_map().abs()
    assert (outer, inner) == (["relu", "abs"], ["relu"])


def test_another_thread_still_warns() -> None:
    x = octave_map()

    def other() -> None:
        with pytest.warns(DenseFallbackWarning, match="cumsum"):
            x.cumsum(1)

    filters = list(warnings.filters)
    with unannounced():
        x.cumsum(1)
        in_another_thread(other)
    assert list(warnings.filters) == filters
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x.cumsum(1)  # once a process


def test_what_was_not_announced_is_announced_later() -> None:
    with unannounced():
        octave_map().cumsum(1)
    with pytest.warns(DenseFallbackWarning, match="cumsum"):
        octave_map().cumsum(1)


def test_a_compiler_is_not_observed_and_traces_one_graph() -> None:
    torch._dynamo.reset()
    seen: list[str] = []

    def run(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return OctTensor(high, low).relu().to_dense()

    x = octave_map()
    with observe_calls(lambda name, *_: seen.append(name)):
        torch.compile(run, backend="eager", fullgraph=True)(x.high, x.low)
    assert seen == []
