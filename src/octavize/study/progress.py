"""How far a study is: runs at an end, runs under way, time left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from octavize.data.images import Images
from octavize.errors import InputError
from octavize.study.design import Planned
from octavize.study.estimate import seconds_of, trained_speeds
from octavize.study.queue import failure, finished, holder
from octavize.training.journal import read_metrics
from octavize.training.report import seconds


@dataclass(frozen=True)
class Progress:
    """Counts of runs, what each run under way is at, and seconds left if that is known."""

    total: int
    done: int
    failed: int
    running: tuple[str, ...]
    left: float | None

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = "" if self.left is None else f", {seconds(self.left)} left"
        return f"{self.done}/{self.total} runs done{failed}, {len(self.running)} under way{left}"

    @property
    def over(self) -> bool:
        """Whether every run is at an end."""
        return self.done + self.failed == self.total


def look(places: Sequence[Planned], out: Path, images: Images, macs: dict[str, int]) -> Progress:
    """The state of a study's folder.

    Args:
        places: one for every run.
        macs: by `network_key`, to tell the time of networks that nothing is known of yet.
    """
    speeds = trained_speeds(places, out, images)
    done, failed, running, left = 0, 0, [], []
    for place in places:
        folder = place.folder(out)
        if finished(folder) is not None:
            done += 1
            continue
        if failure(folder) is not None:
            failed += 1
            continue
        epochs, whole = _epochs(folder), place.recipe.epochs_of(place.run.model)
        if holder(folder):
            running.append(f"{place.run} ({place.cell.name}): epoch {epochs + 1}/{whole}")
        time = seconds_of(place.recipe, images, speeds, macs)
        left.append(None if time is None else time * (1 - epochs / whole))
    known = [time for time in left if time is not None]
    total = sum(known) / max(1, len(running)) if len(known) == len(left) else None
    return Progress(len(places), done, failed, tuple(running), total)


def _epochs(folder: Path) -> int:
    try:
        return len(read_metrics(folder))
    except InputError:
        return 0
