"""Training the runs of a study on a Ray cluster, whose machines share the study's folder and the images'."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from octavize.data.images import Images
from octavize.errors import InputError
from octavize.study.design import Planned
from octavize.study.progress import Progress
from octavize.study.work import ended, leave_launcher, train
from octavize.training.hardware import Hardware

logger = logging.getLogger(__name__)
RETRIES = 3
"""So many times Ray starts a run again whose machine is lost or whose process is killed."""
SHOW, LATE = 1.0, 60.0
"""Seconds between two looks at the progress, and after which all machines see a file that one has written."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: its address, as of `ray.init`, and the part of a GPU that a run takes, above 0 to 1."""

    address: str
    gpu_share: float = 1.0


def train_on_cluster(
    runs: Sequence[Planned],
    out: Path,
    images: Images,
    hardware: Hardware,
    cluster: Cluster,
    progress: Progress,
) -> None:
    """Train runs until every one is finished or has failed, each as a task of Ray's.

    Args:
        runs: those that are not at an end, in the order in which they are wanted.
        out: the study's folder, which has this path on all machines.
        hardware: of one run: a GPU if it says so or the cluster has one, and `threads` cores, by default one.
        cluster: where they are trained.

    Raises:
        InputError: there is no such cluster, it has no GPU to share, the disk is full, a machine is in other
            trouble or does not see the folder, or a run is killed again and again.
    """
    out = out.resolve()
    with _connected(cluster.address, out) as ray:
        own, share = _share(hardware, ray.cluster_resources(), cluster.gpu_share)
        if not any(_fits(share, node["Resources"]) for node in ray.nodes() if node["Alive"]):
            logger.info("no machine of the cluster has %s now: runs wait for one", share)
        task = ray.remote(num_returns="streaming", max_retries=RETRIES, **share)(_work)
        shared = ray.put(images)
        tasks = {task.remote(place, shared, out, own): place for place in runs}
        running: dict[Any, Planned] = {}
        while tasks:
            progress.show(list(running.values()))
            for one in ray.wait(list(tasks), timeout=SHOW)[0]:
                if _begun(ray, one, tasks[one]):
                    running[one] = tasks[one]
                else:
                    running.pop(one, None)
                    del tasks[one]
    _wait_for_files(runs, out)


def _work(place: Planned, images: Images, out: Path, hardware: Hardware) -> Iterator[None]:
    """The task: tells that it has begun, and then trains."""
    if not (out / "study.yaml").is_file():
        raise InputError(
            f"out is {out}, which {socket.gethostname()} does not see: give a folder that all machines share"
        )
    leave_launcher()
    yield
    train(place, images, out, hardware)


def _begun(ray: Any, task: Any, place: Planned) -> bool:
    """Whether a task has begun, or (False) has come to its end."""
    try:
        ray.get(next(task))
    except StopIteration:
        return False
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        reason = f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}"
        raise InputError(
            f"run {place.slug} cannot be trained on a machine of the cluster ({reason}): install the same "
            "octavize[cluster] on all of them"
        ) from error
    except ray.exceptions.RayError as error:
        raise InputError(
            f"run {place.slug} was killed {RETRIES + 1} times ({type(error).__name__}): see its log.txt, and "
            "give more --threads, so that fewer runs share a machine, if memory is short"
        ) from error
    return True


def _share(
    hardware: Hardware, resources: Mapping[str, float], gpu_share: float
) -> tuple[Hardware, dict[str, float]]:
    """What a run trains on, and what Ray gives it for that, of a cluster with these resources."""
    threads = hardware.threads or 1
    gpu = hardware.accelerator in ("gpu", "cuda") or (
        hardware.accelerator == "auto" and resources.get("GPU", 0) > 0
    )
    if gpu_share != 1 and not gpu:
        raise InputError(f"gpu_share is {gpu_share}, and the cluster has no GPU: leave it out")
    own = replace(hardware, accelerator="gpu" if gpu else hardware.accelerator, devices=1, threads=threads)
    return own, {"num_cpus": threads, "num_gpus": gpu_share * gpu}


def _fits(share: Mapping[str, float], resources: Mapping[str, float]) -> bool:
    return all(resources.get(name, 0) >= share[f"num_{name.lower()}s"] for name in ("CPU", "GPU"))


@contextmanager
def _connected(address: str, out: Path) -> Iterator[Any]:
    """Ray, connected to a cluster; what it has to say goes to `ray.log`."""
    import ray

    with (out / "ray.log").open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"address is {address}, where no Ray cluster answers ({reason}): run `ray start --head` on "
                "one machine, and on the others `ray start --address=` with the address that it names"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError or ValueError where nobody answers: Ray itself would try for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"  # as Ray does
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def _wait_for_files(runs: Sequence[Planned], out: Path) -> None:
    """A shared folder may show what other machines wrote only after a while."""
    late = time.monotonic() + LATE
    while time.monotonic() < late and not all(ended(place.folder(out)) for place in runs):
        time.sleep(SHOW)
