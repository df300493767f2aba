"""What is published holds what users need, and none of the results that only pages show."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

from octavize import __version__

ROOT = Path(__file__).parent.parent
SOURCE = {file.relative_to(ROOT).as_posix() for file in (ROOT / "src/octavize").rglob("*") if file.is_file()}
SHIPPED = {name for name in SOURCE if "__pycache__" not in name}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    # without isolation no package is fetched
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (path,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(path).namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {name.removeprefix("src/") for name in SHIPPED}
    assert "octavize/py.typed" in package
    for folder, least in (("training/recipes", 3), ("study/studies", 7)):
        assert sum(name.startswith(f"octavize/{folder}/") for name in package) >= least


def test_the_wheel_says_what_it_is(built: Path) -> None:
    (path,) = built.glob("*.whl")
    info = f"octavize-{__version__}.dist-info"
    with zipfile.ZipFile(path) as wheel:
        about = wheel.read(f"{info}/METADATA").decode()
        assert "octavize = octavize.cli:run" in wheel.read(f"{info}/entry_points.txt").decode()
        assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert f"\nVersion: {__version__}\n" in about
    assert "\nLicense-Expression: MIT\n" in about
    assert re.findall(r"^Requires-Dist: (?!.*extra ==).*", about, re.MULTILINE) == []


def test_the_sdist_is_small_and_has_no_results(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert path.stat().st_size < 1_000_000
    assert names >= SHIPPED
    assert names >= {"LICENSE", "README.md", "README.zh.md"}
    assert names >= {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}
    assert not any(name.startswith(("docs/", "benchmarks/", "tests/", "runs/")) for name in names)
    assert "examples/gallery/bands.py" in names
    assert not any(name.endswith((".ipynb", ".png")) for name in names)


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    newest = re.search(r"^## ([\d.]+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert citation["version"] == __version__
    assert newest is not None
    assert newest[1] == __version__
