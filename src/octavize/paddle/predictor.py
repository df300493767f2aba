"""predictor_config(): Paddle Inference with oneDNN, without the passes that cannot take a program."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from paddle import inference

from octavize.errors import InputError, one_line, whole

logger = logging.getLogger(__name__)
_ACTIVATIONS = ("relu", "relu6", "gelu", "swish", "silu", "mish", "sigmoid", "tanh", "hardswish")
_ACTIVATIONS += ("leaky_relu", "hardsigmoid", "abs", "sqrt", "elu", "clip", "pow")
FAULTY_PASSES = {
    "onednn_placement_pass": "Paddle gives interpolation to oneDNN, which then cannot read its scales",
    "conv_concat_activation_onednn_fuse_pass": (
        "it moves an activation behind a concatenation into the convolutions before it, and fails where "
        "one of them has a bias or a sum"
    ),
}
"""Passes of Paddle 3.3 that fail on some programs, and why."""


def predictor_config(path: str | Path, threads: int | None = None) -> Any:
    """The configuration of Paddle Inference for a saved network: on the CPU, with oneDNN.

    Passes that cannot take this program are left out, and a warning of the logger `octavize.paddle.predictor`
    says which and why. Any program of Paddle is taken, such as one with `F.interpolate`.

    Args:
        path: what `octavize.paddle.save` or `paddle.jit.save` was given; with or without `.json`.
        threads: of oneDNN and of mathematics; None leaves it to Paddle.

    Returns:
        A `paddle.inference.Config`, to be changed further or given to `paddle.inference.create_predictor`.

    Raises:
        InputError: there is no such program, or it cannot be read.
    """
    path = Path(path)
    stem = path.name.removesuffix(".json").removesuffix(".pdiparams")
    program, weights = (path.with_name(f"{stem}{suffix}") for suffix in (".json", ".pdiparams"))
    for file in (program, weights):
        if not file.is_file():
            raise InputError(f"path {file} does not exist: write it with octavize.paddle.save(net, {stem!r})")
    config = inference.Config(str(program), str(weights))
    config.disable_glog_info()
    config.enable_mkldnn()
    if threads is not None:
        config.set_cpu_math_library_num_threads(whole("threads", threads, 1))
    for name in faulty_passes(program):
        logger.warning("%s: without %s, for %s", program.name, name, FAULTY_PASSES[name])
        config.delete_pass(name)
    return config


def faulty_passes(program: Path) -> list[str]:
    """Those of `FAULTY_PASSES` that cannot take a program.

    Raises:
        InputError: the file is no program of Paddle 3.
    """
    try:
        operators = list(_operators(json.loads(program.read_text("utf-8"))))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"path {program} is no program of Paddle 3 ({one_line(error)}): write it with "
            "octavize.paddle.save"
        ) from None
    joined = {result for op in operators if op.name == "concat" for result in op.results}
    found = {
        "onednn_placement_pass": any(op.name.endswith("_interp") for op in operators),
        "conv_concat_activation_onednn_fuse_pass": any(
            op.name.rstrip("_") in _ACTIVATIONS and not joined.isdisjoint(op.operands) for op in operators
        ),
    }
    return [name for name, faulty in found.items() if faulty]


class _Operator(NamedTuple):
    name: str
    operands: list[int]
    results: list[int]


def _operators(program: Any) -> Iterator[_Operator]:
    """The operators of a program, which the file lists by number of dialect and name: `1.conv2d`."""
    for region in program["program"]["regions"]:
        for block in region["blocks"]:
            for op in block["ops"]:
                operands, results = (_values(op.get(key, [])) for key in "IO")
                yield _Operator(op["#"].partition(".")[2], operands, results)


def _values(listed: Any) -> list[int]:
    return [value["%"] for value in (listed if isinstance(listed, list) else [listed])]
