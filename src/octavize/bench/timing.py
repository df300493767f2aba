"""How calls are timed: in turns, so that whatever else the machine does meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from octavize.report.progress import bar

WARM_UP_ROUNDS = 3


def interleave(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = WARM_UP_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call in each round, `warm_up` rounds before them left out."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with bar("timing", (warm_up + rounds) * len(calls)) as advance:
        for number in range(warm_up + rounds):
            for name, call in calls.items():
                start = clock()
                call()
                passed = clock() - start
                advance()
                if number >= warm_up:
                    seconds[name].append(passed)
    return seconds


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Whatever is drawn in here, what torch draws afterwards is as if nothing had been."""
    import torch

    with torch.random.fork_rng(range(torch.cuda.device_count())):
        yield
