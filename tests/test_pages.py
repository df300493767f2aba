"""The Python of the pages runs as it stands, from top to bottom, on what the pages take for granted.

Networks and images are small here: `resnet50` of torchvision is narrow and has a block a stage.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from sybil.document import Document, PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser
from torch import nn

import octavize
from octavize.convert import swap
from octavize.nn.dispatch import RULES
from octavize.study.load import load_study
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
    return {"trained": small_resnet(), "loader": small_loader()}


def of_the_guide() -> dict[str, Any]:
    converted("r50", Origin("timm", "resnet10t"), Origin("timm", "resnet10t").build())
    return {}


def of_converting() -> dict[str, Any]:
    mynets = SimpleNamespace(build=small_resnet)
    converted("octave-r50", Origin("timm", "resnet10t"), Origin("timm", "resnet10t").build())
    converted("octave", Origin("function", "mynets:build"), mynets.build())
    return {"vanilla": small_resnet(), "loader": small_loader(), "mynets": mynets}


def of_deploying() -> dict[str, Any]:
    images = torch.randn(4, 3, 224, 224)
    return {"model": small_resnet().eval(), "names": list("abcdefghij"), "loader": [images], "images": images}


def of_large_kernels() -> dict[str, Any]:
    """Without the hub's weights."""

    def create(name: str, **given: Any) -> Any:
        return timm.create_model(name, **{**given, "pretrained": False})

    offline = SimpleNamespace(create_model=create, utils=timm.utils)
    return {"timm": offline, "octavize": octavize, "nn": nn}


def of_training() -> dict[str, Any]:
    return {"loader": [(torch.randn(2, 3, 64, 64), torch.tensor([0, 1])) for _ in range(2)]}


def of_compressing() -> dict[str, Any]:
    return {"trained": small_resnet().eval(), "loader": [torch.randn(8, 3, 224, 224)]}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": of_the_readme,
    "README.zh.md": of_the_readme,
    "docs/guide.md": of_the_guide,
    "docs/convert-trained.md": of_converting,
    "docs/deploy.md": of_deploying,
    "docs/how-to/compress.md": of_compressing,
    "docs/how-to/int8.md": of_deploying,
    "docs/how-to/rule.md": dict,
    "docs/how-to/train.md": of_training,
    "docs/large-kernels.md": of_large_kernels,
    "docs/features.md": dict,
}
"""What a page takes for granted, by its path; written into the working folder or as names."""
SLOW = {"README.md", "README.zh.md", "docs/deploy.md", "docs/how-to/compress.md", "docs/how-to/int8.md"}
"""They tune by measured time, or quantize."""
OF_PADDLE = {"docs/article.zh.md", "docs/paddle.md", "docs/paddle.zh.md"}
"""tests/paddle runs them, where torch is not."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Small networks, few measurements, no hub; an empty working folder; rules of pages are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models, "resnet50", small_resnet)
    monkeypatch.setattr(octavize, "tune", partial(octavize.tune, rounds=1, example=(1, 3, 128, 128)))
    monkeypatch.setattr(octavize.OctaveNetwork, "push_to_hub", octavize.OctaveNetwork.save_pretrained)
    rules, handlers = dict(RULES), dict(swap._HANDLERS)
    yield
    for registered, before in ((RULES, rules), (swap._HANDLERS, handlers)):
        registered.clear()
        registered.update(before)


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
    assert found - OF_PADDLE == set(GIVEN)


def of_a_layer() -> dict[str, Any]:
    return {"torch": torch, "OctConv2d": octavize.OctConv2d}


def of_a_rule() -> dict[str, Any]:
    return {"torch": torch, "oct_rule": octavize.oct_rule}


def of_a_handler() -> dict[str, Any]:
    class Standardized(nn.Conv2d):
        def standardize(self, weight: torch.Tensor) -> torch.Tensor:
            return weight - weight.mean((1, 2, 3), keepdim=True)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return self._conv_forward(input, self.standardize(self.weight), self.bias)

    names = {"OctConv2d": octavize.OctConv2d, "oct_handler": octavize.oct_handler}
    return {"Standardized": Standardized, **names}


def of_a_hub() -> dict[str, Any]:
    origin = Origin("timm", "resnet10t")
    converted("runs/r50", origin, origin.build())
    return {"OctaveNetwork": octavize.OctaveNetwork}


def of_refitting() -> dict[str, Any]:
    functions = {name: getattr(octavize, name) for name in ("calibrate", "octavize", "refit")}
    return {"trained": small_resnet().eval(), "images": small_loader(), **functions}


DOCSTRINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "calibration/refit.py": of_refitting,
    "convert/octavize.py": lambda: {"octavize": octavize.octavize, "torchvision": torchvision},
    "convert/swap.py": of_a_handler,
    "deploy/freeze.py": lambda: {"octavize": octavize},
    "nn/conv.py": of_a_layer,
    "nn/dispatch.py": of_a_rule,
    "zoo/hub.py": of_a_hub,
}
"""What the examples of a file take for granted."""
SOURCE = ROOT / "src/octavize"


@pytest.mark.parametrize("file", DOCSTRINGS)
@pytest.mark.usefixtures("small")
def test_the_code_of_a_docstring_runs(file: str) -> None:
    document = PythonDocStringDocument.parse(str(SOURCE / file), DocTestParser(doctest.ELLIPSIS))
    document.namespace.update(DOCSTRINGS[file]())
    examples = list(document.examples())
    assert examples
    for example in examples:
        example.evaluate()


def test_every_docstring_with_code_is_run() -> None:
    files = {file.relative_to(SOURCE).as_posix(): file.read_text("utf-8") for file in SOURCE.rglob("*.py")}
    found = {name for name, text in files.items() if re.search(r"^ *>>> ", text, re.MULTILINE)}
    assert {name for name in found if not name.startswith("paddle/")} == set(DOCSTRINGS)


def test_the_study_of_the_page_is_one(tmp_path: Path) -> None:
    """The YAML file that docs/study.md shows."""
    (text,) = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs/study.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text, "utf-8")
    study = load_study(str(path))
    assert [arm.name for arm in study.arms] == ["vanilla", "octave", "thinner"]
