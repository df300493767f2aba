"""`octavize profile --backend paddle`, in an environment that may lack torch."""

from __future__ import annotations

import json

import pytest

from octavize.cli.main import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["profile", "--backend", "paddle", *arguments])
    return int(ended.value.code or 0)


def test_costs_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("oct_mobilenet_v1", "--alpha", "0", "0.5", "--num-classes", "10", "--json") == 0
    vanilla, octave = json.loads(capsys.readouterr().out)
    assert (vanilla["macs"], octave["macs"]) == (567_726_592, 317_153_920)  # the article's own
    assert vanilla["params"] == octave["params"]
    assert octave["macs_ratio"] == pytest.approx(317_153_920 / 567_726_592)


def test_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("oct_resnet18_small", "--layers", "--size", "32") == 0
    told = capsys.readouterr().out
    assert "layer2.0.conv1" in told
    assert "octave" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("oct_resnet51",), "did you mean"),
        (("oct_resnet18", "--rounds", "3"), "--backend paddle leaves out"),
        (("oct_resnet18", "oct_resnet34", "--layers"), "give one name and one α"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
