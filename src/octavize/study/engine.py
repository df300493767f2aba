"""Training the runs of a study on one machine: worker processes, one for each GPU or core."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from octavize.data.images import Images
from octavize.errors import InputError
from octavize.study.design import Planned
from octavize.study.progress import Progress
from octavize.study.work import in_one_line, train
from octavize.training.hardware import Hardware, gpus, named_device, prepare_process
from octavize.training.recipe import Recipe
from octavize.training.train import load_images

DEATHS = 3
"""So many workers may be killed from outside, with no run finished in between, before a study gives up."""
SHOW = 1.0
"""Seconds between two looks at the progress."""


def train_here(
    runs: Sequence[Planned],
    recipe: Recipe,
    out: Path,
    data_dir: str | Path | None,
    hardware: Hardware,
    workers: int,
    progress: Progress,
) -> None:
    """Train runs until every one is finished or has failed.

    Every worker has an executor of its own: one that is killed takes no other with it.

    Args:
        runs: those that are not at an end, in the order in which they are wanted.
        recipe: whose images they are; every worker loads its own.
        hardware: of one run.
        workers: how many.

    Raises:
        InputError: the disk is full, the machine is in other trouble, or workers are killed again and again.
    """
    crew, deaths = Crew(recipe, out, data_dir, hardware, workers), 0
    waiting, free = deque(runs), deque(range(min(crew.size, len(runs))))
    running: dict[Future[None], tuple[int, Planned]] = {}
    try:
        while waiting or running:
            while waiting and free:
                number, place = free.popleft(), waiting.popleft()
                running[crew.train(number, place)] = number, place
            progress.show([place for _, place in running.values()])
            for future in wait(running, timeout=SHOW, return_when=FIRST_COMPLETED).done:
                number, place = running.pop(future)
                free.append(number)
                try:
                    future.result()
                    deaths = 0
                except BrokenExecutor:
                    deaths += 1
                    waiting.appendleft(place)
            if deaths > DEATHS:
                raise InputError(
                    f"workers is {crew.size}: {deaths} were killed and no run got to its end; give fewer "
                    "--workers if memory is short"
                )
    finally:
        crew.stop()


class Crew:
    """Worker processes by number. They end when `stop` is called, or when this process is gone."""

    def __init__(
        self, recipe: Recipe, out: Path, data_dir: str | Path | None, hardware: Hardware, size: int
    ) -> None:
        self.given, self.hardware, self.size = (recipe, out, data_dir), hardware, size
        self.context = multiprocessing.get_context("spawn")
        self.life, self._ours = self.context.Pipe(duplex=False)
        self.executors: dict[int, ProcessPoolExecutor] = {}

    def train(self, number: int, place: Planned) -> Future[None]:
        """Let a worker train a run; one that was killed is replaced."""
        executor = self.executors.get(number) or self._start(number)
        try:
            return executor.submit(_work, place, *self.given, self._hardware_of(number))
        except BrokenExecutor:
            return self._start(number).submit(_work, place, *self.given, self._hardware_of(number))

    def stop(self) -> None:
        """End all workers at once; runs under way go on from their last finished epoch another time."""
        self._ours.close()
        for executor in self.executors.values():
            executor.shutdown(cancel_futures=True)

    def _start(self, number: int) -> ProcessPoolExecutor:
        begin = (self.life, self._hardware_of(number))
        self.executors[number] = ProcessPoolExecutor(1, self.context, _begin, begin)
        return self.executors[number]

    def _hardware_of(self, number: int) -> Hardware:
        # Few runs left do not mean more threads for each: a run's results depend on its threads.
        return hardware_of(number, self.size, self.hardware)


def _begin(life: Connection, hardware: Hardware) -> None:
    """What a worker does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is told to all: the parent decides
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    prepare_process(hardware)  # also for whatever comes before the first training


def _end_with(life: Connection) -> None:
    """End this process when the other end is closed, as the system does when the parent is killed: a study
    that is started again would otherwise have too many."""
    try:
        life.recv()
    except (EOFError, OSError):
        os._exit(1)


_images: Images | None = None
"""Of the study, once a worker has loaded them."""


def _work(place: Planned, recipe: Recipe, out: Path, data_dir: str | Path | None, hardware: Hardware) -> None:
    global _images
    if _images is None:
        with in_one_line(out, f"run {place.slug}"):
            _images = load_images(recipe, data_dir)
    train(place, _images, out, hardware)


def cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_workers(hardware: Hardware) -> int:
    """One for each GPU, or for each core, or for so many cores as a run shall have threads."""
    return gpus(hardware) or max(1, cores() // (hardware.threads or 1))


def hardware_of(number: int, workers: int, hardware: Hardware) -> Hardware:
    """What the n-th worker trains on: its GPU, or its share of the cores."""
    threads = hardware.threads or max(1, cores() // workers)
    own: str | int | None = named_device(hardware)
    if own is None:
        devices = gpus(hardware)
        own = f"{number % devices}," if devices else 1
    return replace(hardware, devices=own, threads=threads)
