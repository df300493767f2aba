"""The benchmark that reads weights twice: it changes nothing of the training and reads as evaluation does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiment_help import MODEL, make_folder, tiny
from octavize.experiment.journal import read_metrics
from octavize.experiment.train import Run, load_pictures, train_run
from study_help import silent, write_study


@pytest.fixture
def norm_statistics(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return __import__("norm_statistics")


def test_watching_changes_nothing(norm_statistics: Any, tmp_path: Path) -> None:
    recipe, run = tiny(lr=0.001), Run(MODEL, 0.5, 1)
    pictures = load_pictures(recipe, make_folder(tmp_path / "pictures"))
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    watch = norm_statistics.NormWatch(watched / norm_statistics.NORMS, pictures=20)
    results = [
        train_run(run, recipe, pictures, watched, console=silent(), callbacks=[watch]),
        train_run(run, recipe, pictures, alone, console=silent()),
    ]
    assert results[0]["test_loss"] == results[1]["test_loss"]
    metrics, plain = read_metrics(watched), read_metrics(alone)
    assert [{**row, "seconds": 0} for row in metrics] == [{**row, "seconds": 0} for row in plain]
    rows = norm_statistics.rows_by_epoch(watched)
    assert [row["epoch"] for row in rows] == [1, 2]
    for row, known in zip(rows, metrics, strict=True):
        assert row["running"]["val"]["loss"] == pytest.approx(known["val_loss"], rel=1e-5)
        assert row["running"]["val"]["accuracy"] == pytest.approx(known["val_accuracy"])
        assert row["measured"]["val"]["loss"] != pytest.approx(known["val_loss"], rel=1e-5)


def test_its_runs_are_the_studys(
    norm_statistics: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = make_folder(tmp_path / "pictures"), tmp_path / "out"
    study = write_study(tmp_path, epochs=1)
    command = f"x {study} --seed 0 --data folder --data-dir {data} --out {out} --threads 1"
    monkeypatch.setattr("sys.argv", command.split())
    norm_statistics.main()
    found = json.loads((out / "norms.json").read_text("utf-8"))
    assert [(run["arm"], run["seed"], len(run["epochs"])) for run in found["runs"]] == [
        ("vanilla", 0, 1),
        ("octave", 0, 1),
    ]
    assert {run["run"] for run in found["runs"]} == {path.name for path in (out / "runs").iterdir()}
    found["runs"].append({**found["runs"][0], "run": "of another study"})
    (out / "norms.json").write_text(json.dumps(found), "utf-8")
    norm_statistics.main()
    runs = [run["run"] for run in json.loads((out / "norms.json").read_text("utf-8"))["runs"]]
    assert runs == ["of another study", *(run["run"] for run in found["runs"][:2])]
