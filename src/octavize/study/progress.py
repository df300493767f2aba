"""How far a study is, on the terminal: runs at an end, runs under way, time left."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from rich.console import Console

from octavize.data.images import Images
from octavize.report.numbers import seconds
from octavize.study.design import Planned
from octavize.study.estimate import all_macs, seconds_of, trained_speeds
from octavize.study.work import failure, finished
from octavize.training.metrics import known_metrics

LINES = 30.0
"""Seconds between lines where there is no terminal."""


class Progress:
    """What the terminal shows while an engine trains: `with Progress(…) as progress: progress.show(running)`.

    Args:
        runs: one place for every run of the study.
        out: the study's folder.
    """

    def __init__(self, runs: Sequence[Planned], out: Path, images: Images, console: Console) -> None:
        self.runs, self.out, self.images, self.console = runs, out, images, console
        console.file = console.file  # the same from here on, whatever an engine does with sys.stdout
        self.macs = all_macs(runs, images)
        self.status = console.status("")
        self.told = 0.0

    def __enter__(self) -> Progress:
        self.status.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.status.stop()
        if kind is None:
            self.console.print(self.line(()))

    def show(self, running: Collection[Planned]) -> None:
        """Tell how far the study is. Cheap enough for once a second."""
        line = self.line(running)
        self.status.update("\n".join([line, *map(self._at, running)]))
        if not self.console.is_terminal and time.monotonic() - self.told > LINES:
            self.told = time.monotonic()
            self.console.print(line)

    def line(self, running: Collection[Planned]) -> str:
        """Counts of runs, and the time left where every network's speed is known or told by another's."""
        done, failed, left = 0, 0, []
        for place in self.runs:
            if finished(place.folder(self.out)) is not None:
                done += 1
            elif failure(place.folder(self.out)) is not None:
                failed += 1
            else:
                left.append(place)
        text = f"{done}/{len(self.runs)} runs done"
        text += f", {failed} failed" if failed else ""
        text += f", {len(running)} under way" if running else ""
        time = self._left(left)
        return text + (f", {seconds(time / max(1, len(running)))} left" if time else "")

    def _left(self, runs: Sequence[Planned]) -> float | None:
        """Seconds of training that runs still need on one worker."""
        speeds, total = trained_speeds(self.runs, self.out, self.images), 0.0
        for place in runs:
            whole = seconds_of(place.recipe, self.images, speeds, self.macs)
            if whole is None:
                return None
            total += whole * (1 - self._epochs(place) / _all_epochs(place))
        return total

    def _at(self, place: Planned) -> str:
        epoch = min(self._epochs(place) + 1, _all_epochs(place))
        return f"{place.run} ({place.cell.name}): epoch {epoch}/{_all_epochs(place)}"

    def _epochs(self, place: Planned) -> int:
        return len(known_metrics(place.folder(self.out)))


def _all_epochs(place: Planned) -> int:
    return place.recipe.epochs_of(place.run.model)
