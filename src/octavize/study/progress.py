"""How far a study is: runs at an end, runs under way, time left."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from octavize.data.images import Images
from octavize.report.numbers import seconds
from octavize.report.progress import Show, status
from octavize.study.design import Planned
from octavize.study.estimate import all_macs, seconds_of, trained_speeds
from octavize.study.work import failure, finished
from octavize.training.metrics import known_metrics

logger = logging.getLogger(__name__)


class Progress:
    """What is told while an engine trains: `with Progress(…) as progress: progress.show(running)`.

    Args:
        runs: one place for every run of the study.
        out: the study's folder.
    """

    def __init__(self, runs: Sequence[Planned], out: Path, images: Images) -> None:
        self.runs, self.out, self.images = runs, out, images
        self.macs = all_macs(runs, images)
        self._open = ExitStack()
        self._show: Show = lambda text: None

    def __enter__(self) -> Progress:
        self._show = self._open.enter_context(status())
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._open.close()
        if kind is None:
            logger.info(self.line(()))

    def show(self, running: Collection[Planned]) -> None:
        """Tell how far the study is. Cheap enough for once a second."""
        self._show("\n".join([self.line(running), *map(self._at, running)]))

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
