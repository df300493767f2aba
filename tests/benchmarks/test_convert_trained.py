"""The benchmark of converted networks: its rows survive a kill, its table is the one in the guide."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.training import MODEL, make_folder, tiny

from octavize.cli.main import main
from octavize.training.recipe import dump_recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text("utf-8").splitlines()]


def test_the_guide_says_what_the_results_say() -> None:
    run("convert_trained_report.py", "--check")


@pytest.mark.slow
def test_rows_are_measured_once(tmp_path: Path) -> None:
    data, out, vanilla = make_folder(tmp_path / "images"), tmp_path / "out", tmp_path / "net"
    (tmp_path / "tiny.yaml").write_text(dump_recipe(tiny(epochs=1, alphas=[0])), "utf-8")
    with pytest.raises(SystemExit):
        main(
            f"train {MODEL} --alpha 0 --recipe {tmp_path}/tiny.yaml --data-dir {data} --out {vanilla} "
            "--accelerator cpu --threads 1".split()
        )
    command = ("convert_trained.py", vanilla, "--data-dir", data, "--alpha", 0.5, "--channels", "arbitrary")
    settings = ("--out", out, "--accelerator", "cpu", "--threads", 1, "--epochs", 1)
    run(*command, *settings)
    first = rows_of(out)
    assert [row["stage"] for row in first] == ["vanilla", "converted", "norms", "adapted"]
    # A kill while the last row was being written: that row alone is measured again.
    text = (out / "rows.jsonl").read_text("utf-8")
    (out / "rows.jsonl").write_text(text[:-20], "utf-8")
    run(*command, *settings, "--train-scratch", "--seed", 0, 1)
    again = rows_of(out)
    assert again[:3] == first[:3]
    assert {**again[3], "seconds": 0} == {**first[3], "seconds": 0}
    assert [row["stage"] for row in again[4:]] == ["scratch", "adapted", "scratch"]
    table = run("convert_trained_report.py", out)
    assert "| 0.5 | arbitrary |" in table
    assert "±" in table
    assert (out / "accuracy-net.png").stat().st_size > 1000
