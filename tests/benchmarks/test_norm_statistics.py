"""The benchmark that reads weights twice: it changes nothing of the training and reads as evaluation does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.study import write_study
from tests.helpers.training import MODEL, make_folder, tiny

from octavize.training.metrics import read_metrics
from octavize.training.runs import Run
from octavize.training.train import load_images, train_run


@pytest.fixture
def norm_statistics(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return __import__("norm_statistics")


def test_watching_changes_nothing(norm_statistics: Any, tmp_path: Path) -> None:
    recipe, run = tiny(lr=0.001), Run(MODEL, 0.5, 1)
    images = load_images(recipe, make_folder(tmp_path / "images"))
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    watch = norm_statistics.NormWatch(watched / norm_statistics.NORMS, images=20)
    results = [
        train_run(run, recipe, images, watched, callbacks=[watch]),
        train_run(run, recipe, images, alone),
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
    norm_statistics: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = make_folder(tmp_path / "images"), tmp_path / "out"
    study = write_study(tmp_path, epochs=1)
    command = f"x {study} --seed 0 --data folder --data-dir {data} --out {out} --threads 1"
    monkeypatch.setattr("sys.argv", command.split())
    norm_statistics.main()
    found = json.loads((out / "norms.json").read_text("utf-8"))
    assert {run["study"] for run in found["runs"]} == {"study"}
    assert [(run["arm"], run["seed"], len(run["epochs"])) for run in found["runs"]] == [
        ("vanilla", 0, 1),
        ("octave", 0, 1),
    ]
    assert {run["run"] for run in found["runs"]} == {path.name for path in (out / "runs").iterdir()}
    first, second = found["runs"]
    others = [{**first, "run": "of another study"}, {**first, "study": "that shares the run"}]
    (out / "norms.json").write_text(json.dumps({**found, "runs": [*found["runs"], *others]}), "utf-8")
    norm_statistics.main()
    assert json.loads((out / "norms.json").read_text("utf-8"))["runs"] == [*others, first, second]
    command += f" --results {out / 'norms.json'}"
    monkeypatch.setattr("sys.argv", command.replace(str(out), str(tmp_path / "new"), 1).split())
    monkeypatch.setattr(norm_statistics, "rows_by_epoch", lambda folder: [])  # nothing was read
    norm_statistics.main()
    assert json.loads((out / "norms.json").read_text("utf-8"))["runs"] == [*others, first, second]
    monkeypatch.setattr(norm_statistics, "IMAGES", 5)
    with pytest.raises(SystemExit):
        norm_statistics.main()
    assert "is not what 5 images gave: give a new file" in capsys.readouterr().err


def row(epoch: int, accuracy: float) -> dict[str, Any]:
    return {"epoch": epoch, **{way: {"val": {"accuracy": accuracy}} for way in ("running", "measured")}}


def test_tables_of_what_is_there_so_far(norm_statistics: Any) -> None:
    study_tables: Any = __import__("study_tables")
    words = study_tables.WORDS["en"]
    where = {"torch": "2.9", "precision": "32-true", "threads": 1}
    about = {"model": MODEL, "study": "tiny", "setting": "s", "seed": 0, "environment": where}
    vanilla = {**about, "arm": "vanilla", "epochs": [row(1, 0.25), row(2, 0.5)]}
    octave = {**about, "arm": "octave", "epochs": [row(1, 0.5)], "environment": {**where, "torch": "2.10"}}
    alone = study_tables.norms({"images": 8, "runs": [vanilla]}, words)
    assert "| 2 | 50.00% | 50.00% |" in alone
    assert "octave" not in alone
    both = study_tables.norms({"images": 8, "runs": [octave, vanilla]}, words).splitlines()
    assert any(line.startswith("| 1 | 25.00% | 25.00% | 50.00% | 50.00% | +25.0") for line in both)
    assert "| 2 | 50.00% | 50.00% |  |  |  |  |" in both
    assert "torch 2.10 / 2.9" in both[-1]
    other = {**vanilla, "study": "other", "epochs": [row(1, 0.75)]}
    apart = study_tables.norms({"images": 8, "runs": [vanilla, other]}, words)
    assert "| 1 | 25.00% | 25.00% |" in apart
    assert "| 1 | 75.00% | 75.00% |" in apart
