"""The paper's tables, counted anew."""

from __future__ import annotations

import json

import pytest
from tests.helpers.cli import run

from octavize.bench.paper import PUBLISHED, Published, layer_rows, network_row

QUICK = [row for row in PUBLISHED if not any(deep in row.model for deep in ("101", "152", "3d", "2d"))]


def test_table_1() -> None:
    for row in layer_rows():
        alpha = row["alpha"]
        assert row["macs"] == pytest.approx(100 * (1 - 0.75 * alpha * (2 - alpha)))
        assert row["memory"] == pytest.approx(100 * (1 - 0.75 * alpha))
        assert abs(row["macs"] - row["macs_printed"]) < 1
        assert abs(row["memory"] - row["memory_printed"]) < 1


@pytest.mark.parametrize(
    "published",
    [pytest.param(row, marks=() if row in QUICK else pytest.mark.slow) for row in PUBLISHED],
    ids=lambda row: f"{row.table} {row.network} {row.alpha}",
)
def test_networks_come_within_what_is_printed(published: Published) -> None:
    row = network_row(published)
    if published.table == "Table 8" and published.alpha > 0.1:
        assert row["difference"] > 0.05, "its note says that no such α gives so little"
    else:
        assert abs(row["difference"]) < 0.015
    if published.params is not None:
        assert row["params_found"] == pytest.approx(published.params, abs=0.06)


def test_costs_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "models", "oct_resnet50", "--costs", "--json")[1])
    [row] = told
    assert (row["macs"], row["params"]) == (2_367_143_936, 25_557_032)
    assert row["tables"] == {"Table 2": 2.4e9, "Table 6": 2.4e9}
    code, _, err = run(capsys, "models", "--alpha", "0.25")
    assert code == 2
    assert err.startswith("Error: --alpha 0.25 is given without --costs")
    code, _, err = run(capsys, "models", "vgg*")
    assert (code, err) == (2, "Error: PATTERN 'vgg*' matches no network: see `octavize models`\n")
