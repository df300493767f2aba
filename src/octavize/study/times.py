"""What clocks and machines have to do with: how fast runs trained, beside what their arithmetic allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octavize.bench.environment import environment
from octavize.errors import InputError
from octavize.files import read_json
from octavize.study.estimate import ceiling
from octavize.study.queue import finished
from octavize.study.worker import MACHINE

Times = dict[str, Any]


def times_of(results: dict[str, Any], out: Path) -> Times:
    """What `times.json` holds: the machine, and for each finished run its seconds and images a second.

    Args:
        results: of `analyze`.
        out: the study's folder.
    """
    runs: dict[str, Any] = {}
    where: dict[str, Any] = {}
    for run in results["runs"]:
        result = finished(out / "runs" / run["run"])
        if result is not None:
            where = result["environment"]
            runs[run["run"]] = _speed(run, result, out / "runs" / run["run"], results["data"]["train"])
    total = sum(run["train_seconds"] for run in runs.values())
    return {"environment": where or environment(), "train_seconds": total, "runs": runs}


def _speed(run: dict[str, Any], result: dict[str, Any], folder: Path, images: int) -> Times:
    seconds = result["train_seconds"]
    speed = images * result["epochs"] / seconds if seconds else None
    try:
        machine = read_json(folder / MACHINE) or {}
    except InputError:  # cut short; training again would not be worth it
        machine = {}
    most = ceiling(run["macs"], machine["peak_macs"]) if "peak_macs" in machine else None
    return {
        "host": machine.get("host"),
        "train_seconds": seconds,
        "images_per_second": speed,
        "ceiling_per_second": most,
        "share": speed / most if speed and most else None,
    }
