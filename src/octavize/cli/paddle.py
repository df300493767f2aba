"""What `--backend paddle` does, in an environment that may lack torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavize.cli import options as o
from octavize.cli.answers import check_octave, compared, converted, plan_values
from octavize.cli.telling import Answer
from octavize.errors import InputError, extra_here, require_extra
from octavize.text import to_csv

BACKENDS = ("torch", "paddle")


def is_paddle(backend: str) -> bool:
    """Whether a command is for Paddle.

    Raises:
        InputError: the backend is unknown or not installed.
    """
    if backend not in BACKENDS:
        raise InputError(f"--backend is {backend!r}: give {' or '.join(BACKENDS)}")
    if backend == "paddle":
        require_extra("paddle", "paddle")
        os.environ.setdefault("GLOG_minloglevel", "2")  # its remarks on itself are not for our users
    elif extra_here(""):
        raise InputError(
            "torch is not installed, and PaddlePaddle is: add --backend paddle, or run "
            "`pip install 'octavize[torch]'`"
        )
    return backend == "paddle"


def refuse(options: Mapping[str, object], why: str) -> None:
    """Raises InputError for the first of the options that is given; `why` says what it needs."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise InputError(f"{option} is given with --backend paddle: {why}; leave it out")


def models(pattern: str, costs: bool) -> Answer:
    """`octavize models` of Paddle's networks."""
    from octavize.paddle.zoo import list_models

    if costs:
        raise InputError(
            "--costs is given with --backend paddle: `octavize profile --backend paddle NAME` counts them; "
            "leave it out"
        )
    names = list_models(pattern)
    if not names:
        raise InputError(f"PATTERN {pattern!r} matches no network: see `octavize models --backend paddle`")
    return Answer(names, names)


def profile(
    names: list[str], alphas: list[float] | None, layers: bool, as_csv: bool, **chosen: Any
) -> Answer:
    """`octavize profile` of Paddle's networks."""
    from octavize.paddle.profile import COLUMNS, layers_of, profile_rows, table

    if not layers:
        rows = profile_rows(names, alphas or [0.0, 0.5], **chosen)
        return Answer(rows, [to_csv(COLUMNS, rows).rstrip("\n") if as_csv else str(table(rows))])
    if len(names) > 1 or len(alphas or []) > 1 or as_csv:
        raise InputError("--layers shows one network at one α, and not as CSV: give one name and one α")
    plan = layers_of(names[0], alphas[0] if alphas else 0.5, **chosen)
    return Answer(plan_values(plan), [str(plan)])


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
) -> Answer:
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
    check_octave(name, decided, alpha)
    net = octavize(model, decided, inplace=True)
    given = {"mean": mean, "std": std}
    facts = {key: value for key, value in given.items() if value}
    facts |= {"size": decided.input_shape[-1], "in_chans": decided.input_shape[1]}
    save_converted(out, net, decided, origin, facts)
    return converted(decided, weights, out)


EXPERIMENT = ("filelock", "pydantic", "matplotlib", "jinja2", "skimage", "PIL", "safetensors", "tqdm")
"""What `compare` needs beside Paddle."""


def compare(
    recipe: str,
    out: Path | None,
    given: Mapping[str, Any],
    training: o.TrainingOptions,
    machine: o.MachineOptions,
    restart: bool,
) -> Answer:
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
    out = out or Path("runs") / chosen.name
    return compared(run(chosen, out, data_dir=training.data_dir, restart=restart), out)
