"""Where training runs: devices for Lightning, threads, and a description of both for the record."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from octavize.bench.environment import environment
from octavize.bench.process import settle_process
from octavize.bench.timing import same_random_numbers
from octavize.deploy.threads import torch_threads
from octavize.errors import InputError, one_line
from octavize.training.counting import Steps


@dataclass(frozen=True)
class Hardware:
    """Where training runs; all but `threads` are handed to Lightning's Trainer as they are."""

    accelerator: str = "auto"
    devices: str | int = "auto"
    nodes: int = 1
    strategy: str = "auto"
    threads: int | None = None
    """CPU threads per process; none leaves torch's own choice."""


HERE = Hardware()
"""Whatever this machine has."""


def check_hardware(hardware: Hardware, precision: str) -> None:
    """Raises InputError where Lightning cannot have these devices, this strategy or this precision."""
    with quiet_lightning():
        bare_trainer(hardware, precision)


def make_trainer(
    hardware: Hardware, precision: str, *, callbacks: Sequence[pl.Callback] = (), **settings: Any
) -> pl.Trainer:
    """Lightning's Trainer with what all runs share.

    Raises:
        InputError: Lightning cannot have these devices, this strategy or this precision.
    """
    try:
        return pl.Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=hardware.strategy,
            precision=precision,  # pyright: ignore[reportArgumentType]  (checked by Recipe)
            callbacks=[Steps(), *callbacks],
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            use_distributed_sampler=False,
            **settings,
        )
    except (MisconfigurationException, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"devices={hardware.devices}, nodes={hardware.nodes}, strategy={hardware.strategy}, "
            f"precision={precision} cannot be had here ({one_line(error)}): change one of these options"
        ) from None


def bare_trainer(hardware: Hardware, precision: str) -> pl.Trainer:
    """`make_trainer` without anything that writes."""
    return make_trainer(hardware, precision, logger=False, enable_checkpointing=False)


def guarded(trainer: pl.Trainer, call: Callable[[], Any]) -> None:
    """Lightning turns Ctrl-C into exit code 1 and then ignores further ones; hand it on as what it was."""
    try:
        call()
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks about hardware, workers and log directories off the terminal."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def named_device(hardware: Hardware) -> str | None:
    """The one device that is named by its number, as in `--devices 1,`; None where none is."""
    number, comma, rest = str(hardware.devices).partition(",")
    return f"{number}," if comma and not rest.strip() else None


def gpus(hardware: Hardware) -> int:
    """How many GPUs there are for runs of one process."""
    trainer = _trainer_of_one(hardware)
    return 0 if trainer.strategy.root_device.type == "cpu" else trainer.num_devices


def device_of(hardware: Hardware) -> torch.device:
    """What a run of one process trains on."""
    return _trainer_of_one(hardware).strategy.root_device


def _trainer_of_one(hardware: Hardware) -> pl.Trainer:
    """Lightning knows the accelerators, and this asks it."""
    alone = replace(hardware, devices=named_device(hardware) or "auto", nodes=1, strategy="auto")
    with quiet_lightning():
        return bare_trainer(alone, "32-true")


@contextmanager
def lent(hardware: Hardware) -> Iterator[None]:
    """In here torch has its share of the cores: more threads than cores are slower than fewer.

    Afterwards the threads, and the random numbers that come next, are as before.
    """
    with torch_threads(hardware.threads), same_random_numbers():
        yield


def prepare_process(hardware: Hardware) -> None:
    """Let a process that does nothing but train keep what it needs again and again; threads as in `lent`."""
    settle_process()
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)


def describe_environment(trainer: pl.Trainer, precision: str) -> dict[str, Any]:
    """Versions and hardware, to be kept beside every measured number."""
    device = trainer.strategy.root_device
    return {
        **environment("torchvision", "timm", "lightning"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": trainer.world_size,
        "precision": precision,
        "memory_format": "channels_last",
    }
