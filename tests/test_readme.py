"""READMEs and guide say what the committed results say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ("readme_tables.py", "realized_saving.py", "fastest.py", "study_tables.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_tables_are_those_of_the_results(script: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
