"""Two settings of a process without which training and timing on a CPU do some work over and over."""

from __future__ import annotations

import ctypes
import os
from functools import cache

KERNELS = 16_384
"""So many kernels oneDNN may keep. By default 1,024, less than a dozen networks in training have: taking
turns, they would make all of theirs anew at every call, and octave networks have most."""
_MALLOPT = ((-4, 0), (-1, -1), (-2, 64 << 20), (-8, 1))
"""Parameters of glibc's mallopt, by their numbers in malloc.h, and values: take no block from the system by
itself (M_MMAP_MAX), give none back (M_TRIM_THRESHOLD), ask for much at a time (M_TOP_PAD), and serve all
threads from one heap (M_ARENA_MAX)."""


@cache
def settle_process() -> None:
    """Let this process keep the kernels that oneDNN has made, and the memory that it was given once.

    The C library of Linux takes every large feature map anew from the system, which clears it page by page,
    at every step of training: a quarter of the time of a MobileNetV1 in batches of 384. Elsewhere that part
    does nothing. Memory is kept for good then: a process whose blocks get larger and larger, with small ones
    in between, may hold twice what it needs. The part of oneDNN needs to come before the process's first
    convolution.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    if os.name == "posix":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            for number, value in _MALLOPT:
                mallopt(number, value)
