"""A study so small that all of its runs take seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tests.helpers.training import MODEL, tiny

from octavize.study.load import load_study
from octavize.study.model import Study
from octavize.study.run import Prepared, analyze_study, check, prepare
from octavize.study.work import ended, train
from octavize.training.hardware import Hardware
from octavize.training.recipe import dump_recipe
from octavize.training.summary import Timing

ARMS: dict[str, Any] = {"vanilla": {"alpha": 0}, "octave": {"alpha": 0.5}}
FAST = Timing(batch=2, rounds=1)
CPU = Hardware(accelerator="cpu", devices=1, threads=1)
FILES = ("results.json", "results.csv")
EVERY = {
    "factors": {"bias": {"off": {}, "on": {"octave_bias": True}}},
    "arms": {**ARMS, "thinner": {"alpha": 0, "match": "octave", "by": "size", "to": "macs"}},
}


def write_study(folder: Path, *, epochs: int = 2, **entries: Any) -> Path:
    """A study's file, with its recipe beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(dump_recipe(tiny(epochs=epochs)), "utf-8")
    given = {"recipe": "tiny.yaml", "models": [MODEL], "arms": ARMS, "seeds": [0, 1], **entries}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(given, allow_unicode=True, sort_keys=False), "utf-8")
    return path


def tiny_study(folder: Path, **entries: Any) -> Study:
    """The study of such a file."""
    return load_study(write_study(folder, **entries))


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text("utf-8"))


def planned(study: Study, out: Path, data_dir: Path) -> Prepared:
    """The study's folder and runs, before any is trained."""
    return prepare(study, out, check(study, data_dir, CPU))


def work(plan: Prepared, out: Path) -> None:
    """Train what is left in this process, as an engine's workers would."""
    for place in plan.runs:
        if not ended(place.folder(out)):
            train(place, plan.images, out, CPU)


def alone(study: Study, out: Path, data_dir: Path) -> dict[str, Any]:
    """The whole study in this process."""
    work(planned(study, out, data_dir), out)
    return analyze_study(study, out, data_dir=data_dir, timing=FAST)
