"""The report of a study in a real browser, at the width of a phone, without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.study import alone, tiny_study
from tests.helpers.training import CLASSES, make_folder

from octavize.study.report import headline, interval

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PROBE = """<!doctype html>
<iframe id="page" srcdoc="{page}" style="width:{width}px;height:20000px;border:0"></iframe>
<pre id="found"></pre><script>
window.onload = () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  const size = e => [e.getBoundingClientRect().width, e.getBoundingClientRect().height];
  const found = {{
    width: root.clientWidth, content: root.scrollWidth, text: page.body.innerText,
    figures: [...page.querySelectorAll("figure svg")].map(size),
    marks: [...page.querySelectorAll("figure svg")].map(s => s.querySelectorAll("path, use").length),
    injected: page.querySelectorAll("i, script").length,
    fonts: parseFloat(getComputedStyle(page.querySelector("p")).fontSize),
    outside: document.getElementById("page").contentWindow.performance.getEntriesByType("resource").length,
  }};
  document.getElementById("found").textContent = JSON.stringify(found);
}};
</script>"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with every part of the report: factors, effects, a failed run, odd names."""
    root = tmp_path_factory.mktemp("report")
    data_dir = make_folder(root / "images")
    study = tiny_study(
        root,
        epochs=2,
        about="Is <script>alert(1)</script> shown as text?",
        arms={"vanilla": {"alpha": 0}, "<i>octave": {"alpha": 0.5}, "wild": {"alpha": 0.5, "lr": 1e30}},
        factors={"rate & <i>schedule": {"constant": {}, "linear": {"schedule": "linear", "epochs": 6}}},
    )
    alone(study, root / "out", data_dir)
    return root / "out"


def look(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """What a browser finds on the page; the host can be reached by no name."""
    probe = folder / f"probe-{width}.html"
    probe.write_text(PROBE.format(page=html.escape(page.read_text("utf-8")), width=width), "utf-8")
    assert BROWSER
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--enable-logging=stderr", "--window-size=1200,2000", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert ":CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 1100])
def test_a_browser_shows_all_of_it(width: int, out: Path, tmp_path: Path) -> None:
    found = look(out / "report.html", width, tmp_path)
    assert found["width"] == width
    assert found["content"] <= width  # no horizontal scrolling
    assert found["fonts"] >= 14
    page = (out / "report.html").read_text("utf-8")
    # A figure of differences, one of effects, one of accuracies, and two of curves.
    assert len(found["figures"]) == page.count("<figure") == 5
    assert all(w > 250 and h > 60 for w, h in found["figures"]), found["figures"]
    assert min(found["marks"]) > 20
    assert found["injected"] == 0
    assert found["outside"] == 0
    for text in (CLASSES[0], "<i>octave", "<script>alert(1)</script>", "rate & <i>schedule", "diverged"):
        assert text in found["text"]
    assert "networks cost" in found["text"]


def test_nothing_is_fetched_and_nothing_runs(out: Path) -> None:
    page = (out / "report.html").read_text("utf-8")
    for outside in ("http-equiv", "<script", "<link", 'src="http', "url(http", "@import"):
        assert outside not in page


def row(mean: float, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high}


def test_the_headline_counts_intervals() -> None:
    results = {"reference": "vanilla", "arms": ["vanilla", "octave"]}
    rows = [row(0.01, 0.001, 0.02), row(-0.02, -0.03, -0.01), row(0.0, -0.01, 0.01), row(-0.02, -0.03, -0.01)]
    text = headline({**results, "differences": rows})
    assert text == "Differences to vanilla, by their 95\u00a0% intervals: 1 above zero, 2 below, 1 undecided."
    assert headline({**results, "differences": [*rows, row(0.5)]}).endswith("1 undecided; 1 with one seed.")
    assert headline({**results, "differences": []}) == "No pair of octave and vanilla is finished yet."
    assert "−2.0 to +1.0 points" in headline({**results, "differences": [row(0.01), row(-0.02)]})
    assert interval(row(-0.012, -0.02, -0.004)) == "−1.2 (−2.0 to −0.4)"
    assert interval(row(0.012)) == "+1.2"
