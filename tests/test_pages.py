"""The Python of the pages runs as it stands, from top to bottom, on what the pages take for granted.

Networks and images are small here: `resnet50` of torchvision is narrow and has a block a stage.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser
from torch import nn

import octavize
from octavize.nn.dispatch import RULES
from octavize.zoo.find import Origin
from octavize.zoo.storage import save_converted

torchvision = pytest.importorskip("torchvision")
ROOT = Path(__file__).parent.parent
SMALL = (1, 3, 32, 32)


class Narrow(torchvision.models.ResNet):
    """An eighth of the width, a block a stage."""

    def __init__(self) -> None:
        super().__init__(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1])
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(256, 10)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        self.inplanes = 8 if planes == 64 else self.inplanes
        return super()._make_layer(block, planes // 8, *args, **kwargs)


def small_resnet(weights: str | None = None) -> nn.Module:
    """In the place of torchvision's `resnet50`: the same kinds of layers under the same names."""
    return Narrow()


def small_loader() -> list[torch.Tensor]:
    return [torch.randn(8, 3, 32, 32) for _ in range(2)]


def converted(folder: str, origin: Origin, vanilla: nn.Module) -> None:
    """Write what `octavize convert` writes."""
    decided = octavize.plan(vanilla, 0.5, example=SMALL)
    save_converted(folder, octavize.octavize(vanilla, decided), decided, origin, {"size": 32})


def of_the_readme() -> dict[str, Any]:
    images = torch.randn(8, 3, 32, 32)
    layers = {"nn": nn, "bn": nn.BatchNorm2d(64)}
    return {"trained": small_resnet(), "loader": small_loader(), "images": images, **layers}


def of_the_guide() -> dict[str, Any]:
    converted("r50", Origin("timm", "resnet10t"), Origin("timm", "resnet10t").build())
    return {}


def of_converting() -> dict[str, Any]:
    mynets = SimpleNamespace(build=small_resnet)
    converted("octave-r50", Origin("timm", "resnet10t"), Origin("timm", "resnet10t").build())
    converted("octave", Origin("function", "mynets:build"), mynets.build())
    return {"vanilla": small_resnet(), "loader": small_loader(), "mynets": mynets}


def of_large_kernels() -> dict[str, Any]:
    """Without the hub's weights."""

    def create(name: str, **given: Any) -> Any:
        return timm.create_model(name, **{**given, "pretrained": False})

    offline = SimpleNamespace(create_model=create, utils=timm.utils)
    return {"timm": offline, "octavize": octavize, "nn": nn}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": of_the_readme,
    "README.zh.md": of_the_readme,
    "docs/guide.md": of_the_guide,
    "docs/convert-trained.md": of_converting,
    "docs/large-kernels.md": of_large_kernels,
    "docs/features.md": dict,
}
"""What a page takes for granted, by its path; written into the working folder or as names."""
SLOW = {"README.md", "README.zh.md"}
"""They tune by measured time."""
NOT_RUN = {"docs/article.zh.md", "docs/deploy.md", "docs/paddle.md", "docs/paddle.zh.md"}
"""Quantizing and tuning take minutes; tests/paddle runs the pages for Paddle, where torch is not."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small networks, few measurements, no hub; and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models, "resnet50", small_resnet)
    monkeypatch.setattr(octavize, "tune", partial(octavize.tune, rounds=1, example=(1, 3, 128, 128)))
    monkeypatch.setattr(octavize.OctaveNetwork, "push_to_hub", octavize.OctaveNetwork.save_pretrained)
    monkeypatch.setitem(RULES, torch.erfinv, RULES[torch.erfinv])  # the guide shows how to write it


PAGES = [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in GIVEN]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("small")
def test_the_code_of_a_page_runs(page: str) -> None:
    document = Document.parse(str(ROOT / page), PythonCodeBlockParser())
    document.namespace.update(GIVEN[page]())
    examples = list(document.examples())
    assert examples
    for example in examples:
        example.evaluate()


def test_every_page_with_code_is_run() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    found = {page.relative_to(ROOT).as_posix() for page in pages if "```python" in page.read_text("utf-8")}
    assert found - NOT_RUN == set(GIVEN)
