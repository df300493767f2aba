"""How many CPU threads torch works with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """torch with so many CPU threads; None leaves them as they are."""
    before = torch.get_num_threads()
    if threads not in (None, before):
        torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        if threads not in (None, before):
            torch.set_num_threads(before)
