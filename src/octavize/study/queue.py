"""Who trains which run: any number of processes, on any number of machines that share the folder.

A process holds a run by a claim in its folder, `claim`: filelock's lease, created atomically, with host and
process id, refreshed by a heartbeat. A claim is taken over at once when its process on the same host is gone,
and otherwise when it has not been refreshed for `LEASE` seconds. Hosts are told apart by their names.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import gethostname
from typing import Any

import lightning.pytorch as pl
from filelock import SoftFileLease, Timeout

from octavize.errors import InputError
from octavize.study.design import Planned
from octavize.training.journal import read_metrics
from octavize.training.train import read_result

LEASE = 120.0
"""Seconds without a heartbeat after which a claim counts as abandoned."""
FAILED = "failed.json"
CLAIM = "claim"


@contextmanager
def lease(path: Path) -> Iterator[SoftFileLease]:
    """Hold a lock file of the study's folder; waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with SoftFileLease(path, lease_duration=LEASE) as held:
        yield held


def finished(folder: Path) -> dict[str, Any] | None:
    """The result of a run; None where it is not finished or its files were cut short."""
    try:
        result = read_result(folder)
        return result if result and read_metrics(folder) else None
    except InputError:
        return None


def failure(folder: Path) -> dict[str, Any] | None:
    """Why a run has failed; None where it has not."""
    path = folder / FAILED
    try:
        return {"reason": "failed.json was cut short", **json.loads(path.read_text("utf-8"))}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return {"reason": "failed.json was cut short"}


def held(folder: Path) -> bool:
    """Whether a living process trains this run."""
    if not (folder / CLAIM).exists():
        return False
    claim = SoftFileLease(folder / CLAIM, lease_duration=LEASE, timeout=0)
    try:
        claim.acquire()  # takes over what a dead process left
    except Timeout:
        return True
    claim.release()
    return False


def holder(folder: Path) -> str | None:
    """Host and process that hold a run."""
    owner = SoftFileLease(folder / CLAIM, lease_duration=LEASE).owner
    return f"{owner.hostname}:{owner.pid}" if owner else None


def ended(folder: Path) -> bool:
    """Whether a run is finished or has failed."""
    return finished(folder) is not None or failure(folder) is not None


class Queue:
    """The runs of a study, for one process to take from.

    Args:
        out: the study's folder.
        places: one place for every run, in the order in which they are wanted.
    """

    def __init__(self, out: Path, places: Sequence[Planned]) -> None:
        self.out = out
        self.open = list(places)
        # One object a run for good: it has to watch a foreign claim over a while to know it abandoned.
        self._leases = {
            place.slug: SoftFileLease(place.folder(out) / CLAIM, lease_duration=LEASE, timeout=0)
            for place in places
        }

    def take(self, wait: float = 2.0) -> tuple[Planned, SoftFileLease] | None:
        """The next run that nobody has, claimed; the caller releases it. None once all runs are at an end.

        Where the others have all that is left, it waits for them: one of them may die.
        """
        while True:
            self.open = [place for place in self.open if not ended(place.folder(self.out))]
            for place in self.open:
                claim = self._claim(place)
                if claim is not None:
                    return place, claim
            if not self.open:
                return None
            time.sleep(wait)

    def _claim(self, place: Planned) -> SoftFileLease | None:
        claim = self._leases[place.slug]
        place.folder(self.out).mkdir(parents=True, exist_ok=True)
        if claim.is_locked:  # by ourselves
            return None
        try:
            claim.acquire()
        except Timeout:
            return None
        if ended(place.folder(self.out)):  # since we looked
            claim.release()
            return None
        return claim


class Lost(RuntimeError):
    """Another process has taken over the run, because this one did not answer for long."""


class StillOurs(pl.Callback):
    """Ends the training of a run whose claim was taken over."""

    def __init__(self, claim: SoftFileLease) -> None:
        self.claim = claim

    def lost(self) -> bool:
        """Whether the claim is no longer ours."""
        owner = self.claim.owner
        ours = owner is not None and (owner.pid, owner.hostname) == (os.getpid(), gethostname())
        return self.claim.compromise is not None or not ours

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.claim.compromise is not None:
            raise Lost(self.claim.compromise.reason)
