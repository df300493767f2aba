"""The workers of one machine, and what they are seen to do."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console

from octavize.data.images import Images
from octavize.errors import InputError
from octavize.study import worker
from octavize.study.design import Planned
from octavize.study.estimate import all_macs
from octavize.study.progress import Progress, look
from octavize.training.hardware import Hardware, gpus, named_device
from octavize.training.recipe import Recipe

DEATHS = 3
"""So many workers may be killed from outside, with no run finished in between, before a study gives up."""
POLL, SHOW = 1.0, 30.0
"""Seconds between looks at the folder, and between lines of progress where there is no terminal."""


class Crew:
    """Processes that train the runs of a study until none is left. A worker that is killed is replaced.

    Args:
        runs, out: as of `worker.work`.
        recipe: whose images they are.
        images: for what is known of them; every worker loads its own.
        data_dir: where they lie.
        hardware: of one run.
        workers: how many; by default one for each GPU or core.
    """

    def __init__(
        self,
        runs: Sequence[Planned],
        recipe: Recipe,
        images: Images,
        out: Path,
        data_dir: str | Path | None,
        hardware: Hardware,
        workers: int | None,
    ) -> None:
        self.runs, self.recipe, self.images, self.out = list(runs), recipe, images, out
        self.data_dir, self.hardware = data_dir, hardware
        self.macs = all_macs(runs, images)
        self.wanted = workers or default_workers(hardware)
        self.context = multiprocessing.get_context("spawn")
        self.messages = self.context.SimpleQueue()
        self.processes: list[BaseProcess] = []
        self.deaths, self.done = 0, 0

    def train(self, console: Console) -> None:
        """Start the workers and watch them to the end.

        Raises:
            InputError: one of them had to stop, such as by a full disk, or they are killed again and again.
        """
        state = self._look()
        if state.over:
            return
        count = min(self.wanted, state.total - state.done - state.failed)
        self.done = state.done
        try:
            self.processes = [self._start(number) for number in range(count)]
            self._watch(console)
            for process in self.processes:  # each finds for itself that nothing is left
                process.join(10)
        finally:
            self._stop()

    def _look(self) -> Progress:
        return look(self.runs, self.out, self.images, self.macs)

    def _start(self, number: int) -> BaseProcess:
        # Few runs left do not mean more threads for each: a run's results depend on its threads.
        hardware = hardware_of(number, self.wanted, self.hardware)
        given = (self.runs, self.recipe, self.out, self.data_dir, hardware, self.messages)
        process = self.context.Process(target=worker.main, args=given)
        process.start()
        return process

    def _watch(self, console: Console) -> None:
        state, shown = self._look(), 0.0
        with console.status("") as status:
            while not state.over:
                status.update("\n".join([str(state), *state.running]))
                if not console.is_terminal and time.monotonic() - shown > SHOW:
                    console.print(str(state), highlight=False)
                    shown = time.monotonic()
                time.sleep(POLL)
                state = self._look()
                if not state.over:
                    self._replace_dead(state.done)
        console.print(str(state), highlight=False)

    def _replace_dead(self, done: int) -> None:
        if done != self.done:
            self.deaths, self.done = 0, done
        for number, process in enumerate(self.processes):
            if process.exitcode in (None, 0):
                continue
            if not self.messages.empty():
                raise InputError(self.messages.get())
            self.deaths += 1
            if self.deaths > DEATHS:
                raise InputError(
                    f"workers is {len(self.processes)}: {self.deaths} were killed and no run got to its "
                    "end; give fewer --workers if memory is short"
                )
            self.processes[number] = self._start(number)

    def _stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()


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
