"""The Python of the pages for Paddle's users runs as it stands, from top to bottom; their commands parse."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from tests.helpers.article_checkpoint import as_the_article
from typer.main import get_command

from octavize.cli import options
from octavize.cli.main import app
from octavize.paddle import OctTensor, create_model, weights

ROOT = Path(__file__).parents[2]
PAGES = ("docs/paddle.md", "docs/paddle.zh.md", "docs/article.zh.md")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages take for granted, in the working folder."""
    monkeypatch.chdir(tmp_path)
    weights.to_torch(paddle.vision.models.resnet50(), "resnet50.safetensors")
    trained = as_the_article(create_model("oct_resnet50", 0.5, num_classes=10), np.random.default_rng(0))
    paddle.save({key: paddle.to_tensor(array) for key, array in trained.items()}, "article.pdparams")


def namespace_after(page: str) -> dict[str, Any]:
    """Run the blocks of a page, but those after `<!-- skip: next -->`, and return the names they leave."""
    document = Document.parse(str(ROOT / page), PythonCodeBlockParser(), SkipParser())
    examples = list(document.examples())
    assert examples
    for example in examples:
        example.evaluate()
    return document.namespace


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES[:2])
@pytest.mark.usefixtures("files")
def test_the_code_of_a_page_runs(page: str) -> None:
    pytest.importorskip("paddle2onnx")
    namespace_after(page)
    assert {"oct_resnet50.onnx", "oct_resnet50.json", "back.safetensors"} <= {
        p.name for p in Path().iterdir()
    }


def test_the_layer_of_the_article() -> None:
    layer: Callable[..., Any] = namespace_after("docs/article.zh.md")["ConvBNAct"](3, 8, 3, stride=2)
    found = layer(paddle.ones([2, 3, 9, 8]))
    assert isinstance(found, OctTensor)
    assert list(found.shape) == [2, 8, 5, 4]


def commands(page: str) -> list[str]:
    """The lines of a page's blocks, and the words in its text, that begin with the command."""
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    quoted = re.findall(r"`(octavize [a-z]+ [^`]+)`", text)
    return [line for line in (*lines, *quoted) if line.startswith("octavize ")]


COMMANDS = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_of_a_page_parses(page: str, line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command: Any = get_command(app)
    known = command.commands[name]
    given = options.spread(arguments)
    if line in dict.fromkeys(re.findall(r"`(octavize [^`]+)`", (ROOT / page).read_text("utf-8"))):
        for option in (word.partition("=")[0] for word in given if word.startswith("--")):
            assert any(option in [*p.opts, *p.secondary_opts] for p in known.params), option
    else:
        known.make_context(name, given)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10
