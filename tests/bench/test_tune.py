"""α by stage from measured times: the search, on times that are known."""

from __future__ import annotations

import itertools
import logging
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import octavize
from octavize import InputError
from octavize.bench import tune as fastest
from octavize.bench.contenders import Contender
from octavize.bench.runtimes import RUNTIMES, Setting
from octavize.bench.tune import MARGIN, Choice, Tuner, combine, plan_of, stages
from octavize.convert.inputs import Inputs
from octavize.convert.planner import Planner
from octavize.nn.conv import OctConv

EXAMPLE = (1, 3, 32, 32)


def net() -> nn.Module:
    """Two stages: 16 pixels, then 8."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
    )


def test_stages_are_layers_that_write_maps_of_one_size() -> None:
    planner = Planner(net(), example=EXAMPLE)
    assert stages(planner) == [("1", "2"), ("3", "4")]
    plan = plan_of(planner, {("1", "2"): 0.5, ("3", "4"): 0.25})
    assert plan.alphas["2"] == 0.5
    assert plan.alphas["3"] == 0.25
    assert plan_of(planner, {("3", "4"): 0.5}).alphas["1"] == 0


def test_combinations_are_the_best_of_all() -> None:
    random = torch.Generator().manual_seed(0)
    draws = torch.rand(4, 4, 2, generator=random)
    options = [[Choice((float(i),), *pair) for i, pair in enumerate(stage.tolist())] for stage in draws]
    found = combine(options)
    for many in itertools.product(*options):
        macs, seconds = sum(c.macs_saved for c in many), sum(c.time_saved for c in many)
        # one that saves as much arithmetic, within what counts as equal, is not slower
        assert any(abs(c.macs_saved - macs) < 0.03 and c.time_saved >= seconds - 1e-9 for c in found)
    for choice in found:
        many = [options[i][int(alpha)] for i, alpha in enumerate(choice.alphas)]
        assert choice.macs_saved == pytest.approx(sum(c.macs_saved for c in many))
        assert choice.time_saved == pytest.approx(sum(c.time_saved for c in many))


def slow_where_octave(contender: Any, setting: Any) -> Any:
    """A stand-in for a runtime: octave layers of the first stage cost time, those of the second save it."""
    alphas = {name: m.alpha for name, m in contender.model.named_modules() if isinstance(m, OctConv)}
    seconds = 0.004 + 0.004 * alphas.get("2", 0) - 0.003 * alphas.get("4", 0)
    return lambda: time.sleep(seconds)


def test_octave_goes_where_it_pays(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(fastest, "choose_runtimes", lambda names: {names[0]: slow_where_octave})
    planner = Planner(net(), example=EXAMPLE)
    budget = plan_of(planner, {("3", "4"): 0.5}).macs_ratio + 0.005
    with caplog.at_level(logging.INFO, "octavize"):
        plan = Tuner(planner, "openvino", rounds=5).plan(budget)
    assert budget - MARGIN <= plan.macs_ratio <= budget
    assert plan.alphas["2"] == 0
    assert plan.alphas["4"] == 0.5
    assert any(line.startswith("one α") for line in caplog.messages)


def test_one_alpha_where_nothing_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(contender: Any, setting: Any) -> Any:
        alphas = {m.alpha for m in contender.model.modules() if isinstance(m, OctConv)}
        return lambda: time.sleep(0.001 if len(alphas) == 1 else 0.004)

    monkeypatch.setattr(fastest, "choose_runtimes", lambda names: {names[0]: uneven})
    plan = Tuner(Planner(net(), example=EXAMPLE), "compile", rounds=3).plan(0.7)
    assert len(set(plan.alphas.values())) == 1


@pytest.mark.parametrize(
    ("budget", "runtime", "words"),
    [
        (0.6, "tensorrt", "runtime='tensorrt': give one of onnxruntime"),
        (0.01, "compile", "budget=0.01 cannot be reached"),
        (60, "compile", "budget=60: give a number above 0 to 1, the octave network's share"),
    ],
)
def test_bad_input(budget: float, runtime: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        octavize.tune(net(), budget, runtime, example=EXAMPLE)


@pytest.mark.parametrize("name", ["rounds", "threads", "batch"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_bad_counts(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name}={value!r}: give a whole number of at least 1$"):
        octavize.tune(net(), 0.7, "compile", example=EXAMPLE, **{name: value})


def test_what_is_asked_is_done(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Batch, threads and ways of the layers reach the networks that are timed; the model is left alone."""
    seen: set[Any] = set()

    def runtime(contender: Any, setting: Any) -> Any:
        ways = {(m.exchange, m.downsample) for m in contender.model.modules() if isinstance(m, OctConv)}
        seen.add((setting.batch, setting.threads, *ways))
        return lambda: None

    monkeypatch.setattr(fastest, "choose_runtimes", lambda names: {names[0]: runtime})
    model = net()
    with caplog.at_level(logging.INFO, "octavize"):
        found = octavize.tune(
            *(model, 0.7, "openvino"),
            **{"batch": 3, "threads": 1, "rounds": 1, "exchange": "low_to_high", "downsample": "stride"},
            example=EXAMPLE,
        )
    assert seen == {(3, 1, ("low_to_high", "stride"))}
    assert {(d.exchange, d.downsample) for d in found.decisions} == {("low_to_high", "stride")}
    assert caplog.messages
    assert not any(isinstance(m, OctConv) for m in model.modules())


def test_the_fastest_of_several_exchanges(monkeypatch: pytest.MonkeyPatch) -> None:
    def runtime(contender: Any, setting: Any) -> Any:
        assert setting.precision == "float32"
        ways = {m.exchange for m in contender.model.modules() if isinstance(m, OctConv)}
        return lambda: time.sleep(0.001 if "none" in ways else 0.004)

    monkeypatch.setattr(fastest, "choose_runtimes", lambda names: {names[0]: runtime})
    found = octavize.tune(
        net(), 0.7, "compile", rounds=1, threads=2, exchange=["every", "none"], example=EXAMPLE
    )
    assert {d.exchange for d in found.decisions} == {"none"}
    with pytest.raises(InputError, match="precision 'int8': none of these runtimes"):
        octavize.tune(net(), 0.7, "compile", precision="int8", example=EXAMPLE)
    with pytest.raises(InputError, match="give at least one"):
        octavize.tune(net(), 0.7, "compile", exchange=[], example=EXAMPLE)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino not installed")
def test_in_a_runtime() -> None:
    model = octavize.octavize(net(), octavize.tune(net(), 0.7, "openvino", example=EXAMPLE))
    assert any(isinstance(m, OctConv) and m.alpha > 0 for m in model.modules())
    assert model.state_dict().keys() == net().state_dict().keys()


class Captioned(nn.Module):
    """An image and token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
            nn.Conv2d(32, 4, 1),
        )
        self.words = nn.Embedding(10, 4)

    def forward(self, image: Any, ids: Any) -> Any:
        return self.features(image).mean((2, 3)) + self.words(ids).mean(1)


def test_several_inputs_are_timed(tmp_path: Path) -> None:
    """Each runtime gets a network with all its inputs, for any batch."""
    example = Inputs((torch.randn(1, 3, 16, 16), torch.tensor([[1, 2, 9]])))
    c = Contender("net", Captioned().eval(), (3, 16, 16), 1, example=example)
    for name in ("eager", "frozen", "onnxruntime"):
        with torch.no_grad():
            RUNTIMES[name](c, Setting(2, 1, "cpu", tmp_path))()
    given = c.given(3)
    assert isinstance(given, Inputs)
    assert [tuple(x.shape) for x in given.tensors] == [(3, 3, 16, 16), (3, 3)]
