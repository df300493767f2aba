"""What the parts of gpu.py share: the device, what it is called, and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from octavize.bench.environment import environment

NEEDS_CUDA = "CUDA graphs and streams need a CUDA device"


def describe(device: str) -> dict[str, Any]:
    """Versions, the device, and how it multiplies in float32."""
    found = environment("timm", "triton")
    found["device"] = device
    found["tf32"] = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "matrices": torch.backends.cuda.matmul.allow_tf32,
    }
    if is_cuda(device):
        about = torch.cuda.get_device_properties(device)
        found["device"] = about.name
        found["capability"] = f"{about.major}.{about.minor}"
        found["memory_bytes"] = about.total_memory
        found["multiprocessors"] = about.multi_processor_count
        found["cuda"], found["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
        found["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    return found


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def synchronize(device: str) -> None:
    """Until the device has done what it was told."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


def free(device: str) -> None:
    """Give back what nobody uses: memory of the device, and compiled code."""
    torch.compiler.reset()
    if is_cuda(device):
        torch.cuda.empty_cache()


@contextmanager
def whole_float32() -> Iterator[None]:
    """In here float32 is float32, not TF32."""
    matrices: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    before = matrices.allow_tf32, convolutions.allow_tf32
    matrices.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        matrices.allow_tf32, convolutions.allow_tf32 = before


def capture(call: Callable[[], object], pool: Any = None) -> Callable[[], None]:
    """What replays a call as a CUDA graph, made after three calls on a side stream, as torch's manual has it.

    Args:
        pool: memory that graphs share whose results nobody reads.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        call()
    return partial(_replay, graph, call)


def _replay(graph: torch.cuda.CUDAGraph, call: object) -> None:
    """A graph knows but addresses: as long as it lives, so has the call, with the tensors that it reads."""
    graph.replay()
