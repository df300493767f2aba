"""The settings of a process, seen from outside: what it takes from the system again and again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

FAULTS = """
import resource, sys, torch
from octavize.bench.process import settle_process
if sys.argv[1] == "settled":
    settle_process()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
places, again = set(), 0
for _ in range(60):
    before = faults()
    block = torch.ones(1 << 24)  # 64 MiB
    place = block.data_ptr()
    again += faults() - before if place in places else 0
    places.add(place)
    block.sum()
    del block
print(again, len(places))
"""

KERNELS = """
import sys, torch
from octavize.bench.process import settle_process
if sys.argv[1] == "settled":
    settle_process()
weight = torch.randn(16, 16, 3, 3)
def once():
    for side in range(300, 1500):
        torch.conv2d(torch.zeros(1, 16, 8, side), weight)
once()
print("again", flush=True)
once()
"""


def output(code: str, argument: str, **variables: str) -> str:
    own = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"  # other tests may have settled this process
    environment = {name: value for name, value in os.environ.items() if name != own} | variables
    given = [sys.executable, "-c", code, argument]
    run = subprocess.run(given, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.skipif(sys.platform != "linux" or os.confstr("CS_GNU_LIBC_VERSION") is None, reason="of glibc")
@pytest.mark.slow
def test_large_blocks_are_kept() -> None:
    """Memory that was given once costs nothing the second time, and the heap stops growing.

    A new place is growth: a small block that outlives the large one may settle in the hole it left, and the
    next large one then needs another. That comes a few times as a process begins, not at every step.
    """
    again, _ = map(int, output(FAULTS, "not").split())
    assert again > 100_000  # else this test tests nothing
    again, places = map(int, output(FAULTS, "settled").split())
    assert again < 1000
    assert places <= 12  # of 60 blocks; 3 to 7 in practice


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="of oneDNN")
@pytest.mark.slow
def test_many_kernels_are_kept() -> None:
    def recompute_in_backward(argument: str) -> int:
        told = output(KERNELS, argument, ONEDNN_VERBOSE="profile_create")
        return told.split("again")[1].count("create:cache_miss")

    assert recompute_in_backward("not") > 1000  # else this test tests nothing
    assert recompute_in_backward("settled") == 0
