"""What `--backend paddle` does, in an environment that may lack torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from octavize.cli import options as o
from octavize.errors import InputError, require_extra
from octavize.text import to_csv

BACKENDS = ("torch", "paddle")


def is_paddle(backend: str) -> bool:
    """Whether a command is for Paddle.

    Raises:
        InputError: the backend is unknown, or Paddle is not installed.
    """
    if backend not in BACKENDS:
        raise InputError(f"--backend is {backend!r}: give {' or '.join(BACKENDS)}")
    if backend == "paddle":
        require_extra("paddle", "paddle")
        os.environ.setdefault("GLOG_minloglevel", "2")  # its remarks on itself are not for our users
    return backend == "paddle"


def refuse(options: Mapping[str, object], why: str) -> None:
    """Raises InputError for the first of the options that is given; `why` says what it needs."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise InputError(f"{option} is given with --backend paddle: {why}; leave it out")


def profile(names: list[str], alphas: list[float] | None, layers: bool, form: str, **chosen: Any) -> str:
    """`octavize profile` of Paddle's networks."""
    from octavize.paddle.profile import COLUMNS, layers_of, profile_rows, table

    if not layers:
        rows = profile_rows(names, alphas or [0.0, 0.5], **chosen)
        made = {"json": lambda: json.dumps(rows, indent=2), "csv": lambda: to_csv(COLUMNS, rows)}
        return made.get(form, lambda: str(table(rows)))()
    if len(names) > 1 or len(alphas or []) > 1 or form != "text":
        raise InputError("--layers shows one network at one α, as text: give one name and one α")
    return str(layers_of(names[0], alphas[0] if alphas else 0.5, **chosen))


def convert(
    name: str,
    out: Path,
    source: Mapping[str, Any],
    *,
    size: int | None,
    mean: list[float] | None,
    std: list[float] | None,
    alpha: float | None,
    budget: float | None,
    plan: Path | None,
    exchange: str | None,
    downsample: str,
    min_low: int | None,
) -> None:
    """`octavize convert` of a network of Paddle.

    Args:
        source: `weights`, `pretrained` and `num_classes`, see `octavize.paddle.storage.find_vanilla`.
    """
    from octavize.paddle.convert import octavize
    from octavize.paddle.planner import plan as make_plan
    from octavize.paddle.storage import FUNCTION, find_vanilla, save_converted
    from octavize.paddle.trace import example_inputs
    from octavize.paddle.zoo import alphas_of, exchanges_of
    from octavize.plans.plan import Plan

    console = Console(highlight=False, soft_wrap=True)
    origin, model, weights = find_vanilla(name, **source)
    if plan is not None:
        decided = Plan.load(plan)
    else:
        named = origin.kind != FUNCTION
        share = 0.5 if alpha is None else alpha
        shares = alphas_of(name, model, share) if named else share
        shape = example_inputs(model).shape
        decided = make_plan(
            model,
            shares if budget is None else None,
            budget=budget,
            exchange=exchanges_of(name, model, exchange) if named else exchange,
            downsample=downsample,
            min_low=min_low,
            example=None if size is None else (*shape[:2], *(size,) * len(shape[2:])),
        )
    console.print(str(decided), markup=False)
    if alpha != 0 and not any(d.alpha for d in decided.decisions):
        raise InputError(f"model {name}: no layer of it becomes octave; the table gives the reasons")
    net = octavize(model, decided, inplace=True)
    given = {"mean": mean, "std": std}
    facts = {key: value for key, value in given.items() if value}
    facts |= {"size": decided.input_shape[-1], "in_chans": decided.input_shape[1]}
    save_converted(out, net, decided, origin, facts)
    console.print(f"weights: {weights}; network written to [bold]{out}[/bold]")


EXPERIMENT = ("pydantic", "matplotlib", "jinja2", "skimage", "PIL", "safetensors", "tqdm")
"""What `compare` needs beside Paddle."""


def compare(
    recipe: str,
    out: Path | None,
    given: Mapping[str, Any],
    training: o.TrainingOptions,
    machine: o.MachineOptions,
    restart: bool,
) -> None:
    """`octavize compare` in Paddle."""
    for module in EXPERIMENT:
        require_extra(module, "paddle-experiment")
    one = "one process trains, on one device"
    refuse({"--devices": machine.devices if machine.devices not in ("auto", "1") else None}, one)
    refuse({"--nodes": machine.nodes if machine.nodes > 1 else None}, one)
    refuse({"--strategy": machine.strategy if machine.strategy != "auto" else None}, one)
    if machine.threads is not None:  # Paddle reads it once, when it is imported
        os.environ["OMP_NUM_THREADS"] = str(machine.threads)
    from octavize.training.paddle.compare import choose_device
    from octavize.training.paddle.compare import compare as run
    from octavize.training.recipe import load_recipe

    choose_device(machine.accelerator)
    chosen = load_recipe(recipe, **training.overrides(), **given)
    with o.resumable():
        run(chosen, out or Path("runs") / chosen.name, data_dir=training.data_dir, restart=restart)
