"""The commands of pages and of `--help` are those that the program has: names, options, values.

Lines of code blocks are read as the command reads them, without running it. Of a mention within a sentence,
which may lack arguments, the command and its options have to exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from tests.helpers.cli import run
from torch import nn

from octavize.cli.main import app
from octavize.cli.options import spread
from octavize.data.textures import photograph

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
MENTION = re.compile(r"`octavize ([^`]+)`")
EXAMPLE = re.compile(r"\[cyan\]octavize (.*?)\[/cyan\]", re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
TOLD = re.compile(r" {2,}| (?=only convert)")
"""What parts a command from what the READMEs say of it."""

program: Any = typer.main.get_command(app)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Commands of the page's code blocks, each with what is said of it there."""
    for language, text in BLOCK.findall(page.read_text("utf-8")):
        lines = re.sub(r" *\\\n *", " ", text).splitlines() if language in ("", "bash", "sh") else []
        commands = [n for n, line in enumerate(lines) if line.startswith("octavize ")]
        for number, end in zip(commands, [*commands, len(lines)][1:], strict=True):
            command, *about = TOLD.split(
                lines[number].partition(" #")[0].removeprefix("octavize "), maxsplit=1
            )
            about += [line for line in lines[number + 1 : end] if line.startswith(" ")]
            yield command, " ".join(about)


def mentions(page: Path) -> list[str]:
    """Commands in sentences."""
    return MENTION.findall(BLOCK.sub("", page.read_text("utf-8")))


def options_of(name: str) -> set[str]:
    """All options of a command; of the program itself, in place of a command's name."""
    if name in OWN:
        return set(OWN)
    assert name in program.commands, f"octavize has no command {name!r}"
    found = {"--help"}
    for parameter in program.commands[name].params:
        found.update(parameter.opts, parameter.secondary_opts)
    return found


def parse(command: str) -> None:
    """Read a command line as the program does; raises its error if it refuses it."""
    command, _, file = command.partition(" > ")
    assert not file or "--json" in command, "only JSON alone stands on standard output"
    name, *arguments = spread(shlex.split(command))
    if name in OWN:
        return
    assert name in program.commands, f"octavize has no command {name!r}"
    program.commands[name].make_context(name, arguments)


OWN = ("--help", "--version", "--install-completion", "--show-completion")
"""Options of the program."""
WITH_BLOCKS = [page for page in PAGES if any(blocks(page))]
WITH_MENTIONS = [page for page in PAGES if mentions(page)]


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=named)
def test_commands_of_a_page_are_understood(page: Path) -> None:
    for command, about in blocks(page):
        parse(command)
        assert set(OPTION.findall(about)) <= options_of(command.split()[0]), command


@pytest.mark.parametrize("page", WITH_MENTIONS, ids=named)
def test_commands_in_sentences_exist(page: Path) -> None:
    for mention in mentions(page):
        assert set(OPTION.findall(mention)) <= options_of(mention.split()[0]), mention


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_scripts_and_targets_of_a_page_exist(page: Path) -> None:
    text, makefile = page.read_text("utf-8"), (ROOT / "Makefile").read_text("utf-8")
    for script in re.findall(r"(?:^|`)python ((?:examples|benchmarks|docs)/[\w/]+\.py)", text, re.MULTILINE):
        assert (ROOT / script).is_file(), script
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)(?=[ `\n])", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", sorted(program.commands))
def test_examples_of_the_help_are_understood(name: str) -> None:
    examples = EXAMPLE.findall(program.commands[name].help or "")
    assert examples
    for example in examples:
        parse(example)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("compares", "no command 'compares'"),
        ("compare --no-such-option", "No such option"),
        ("profile x --size many", "valid integer"),
        ("export x", "Missing parameter: to"),
        ("bands a b", "unexpected extra argument"),
    ],
)
def test_what_is_wrong_is_found(wrong: str, why: str) -> None:
    with pytest.raises(Exception, match=why):
        parse(wrong)


NETS = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
    )
"""
FEW = "--rounds 1 --size 32"
RUN = {
    "models": "",
    "bands photo.jpg": "",
    "profile oct_resnet50 --alpha 0.5 --layers": "--size 32",
    "profile resnet50 timm:efficientnet_b0 mynets:build": FEW,
    "convert mynets:build --weights mine.pth --size 96 --alpha 0.5 --out octave": "",
}
"""Lines of pages, and what makes them small."""
RUN_IN_TURN = {
    "train oct_cifar_resnet20 --alpha 0 --recipe cifar --out runs/r20": "--data textures --limit-train 64 "
    '--epochs 1 --set \'model_arguments={"*": {"width": 0.5}}\'',
    "adapt runs/r20 --alpha 0.25 --out octave-r20": "--epochs 1 --norm-images 64",
    "export runs/r20 --to r20.onnx": "",
    "predict r20.onnx photo.jpg": "",
    "bench oct_mobilenet_v1 --alpha 0.5 --runtime onnxruntime --batch 1 --threads 1 --same-macs": FEW,
    "study article --data cifar10 --data-dir ~/data --list": "--data textures --limit-train 100 --seed 0",
    "tables": "",
}
"""Those that build on one another, or take longer."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what the pages take for granted: a photograph, a network of one's own, its weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Image.fromarray(photograph("camera")).save("photo.jpg")
    Path("mynets.py").write_text(NETS)
    made: dict[str, Any] = {}
    exec(NETS, made)
    net: nn.Module = made["build"]()
    torch.save(net.state_dict(), "mine.pth")


def small(capsys: pytest.CaptureFixture[str], line: str, more: str) -> None:
    assert any(line == command for page in WITH_BLOCKS for command, _ in blocks(page)), f"on no page: {line}"
    code, out, err = run(capsys, *shlex.split(line), *shlex.split(more))
    assert code == 0, err
    assert out


@pytest.mark.parametrize("line", RUN)
@pytest.mark.usefixtures("here")
def test_a_command_of_a_page_runs(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    small(capsys, line, RUN[line])


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_commands_of_pages_run_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    for line, more in RUN_IN_TURN.items():
        small(capsys, line, more)
