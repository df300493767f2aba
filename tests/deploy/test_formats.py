"""One file in the folder of formats is a format: written, compared, read, named by the commands, timed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.cli import run
from tests.helpers.deploy import octave

from octavize import InputError, export, load_runtime
from octavize.deploy import formats as f

TOY = '''
"""A program in one file, what is known of it in another."""

import io

from octavize.deploy.formats import Format

ERROR = 0.0


def write(program, path, about):
    import torch

    held = io.BytesIO()
    torch.export.save(program, held)
    path.write_bytes(held.getvalue())
    path.with_suffix(".about").write_text(about)


def load(path, threads):
    import torch

    net = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def run(batch):
        return [net(torch.from_numpy(batch)).detach().numpy() + ERROR]

    return run, path.with_suffix(".about").read_text()


FORMAT = Format(
    suffix=".toy",
    runtime="Toys",
    write=write,
    load=load,
    needed_to_load=("json",),
    beside=(".about",),
    timed_as="toys",
)
'''
SHAPE = (1, 3, 8, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of formats that holds one."""
    made = tmp_path / "more_formats"
    made.mkdir()
    (made / "toy.py").write_text(TOY)
    return made


@pytest.fixture
def toy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of a file of this format, which is found as if it lay in the package."""
    monkeypatch.setattr(f, "__path__", [*f.__path__, str(folder)])
    yield folder.parent / "net.toy"
    for module in [name for name in sys.modules if name.startswith(f"{f.__name__}.toy")]:
        delattr(f, module.rpartition(".")[2])
        del sys.modules[module]


def command(folder: Path, *arguments: object, first: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with this folder of formats beside octavize's."""
    given = [str(argument) for argument in arguments]
    program = (
        f"import sys\n{first}\nimport octavize.deploy.formats as f\nf.__path__.append({str(folder)!r})\n"
        f"sys.argv = ['octavize', *{given!r}]\nfrom octavize.cli import run\nrun()"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_the_formats_of_octavize() -> None:
    assert {".onnx", ".xml", ".pt2"} <= set(f.formats())
    assert {"onnxruntime", "openvino"} <= set(f.timed_formats())
    assert f.formats()[".xml"].files(Path("a/b.xml")) == (Path("a/b.xml"), Path("a/b.bin"))


def test_a_file_in_the_folder_is_a_format(toy: Path) -> None:
    assert export(octave(), toy, SHAPE, metadata={"classes": list("abcd")}) < 1e-5
    assert {p.name for p in toy.parent.iterdir() if p.is_file()} == {"net.toy", "net.about"}
    runner, x = load_runtime(toy, trust=True), torch.randn(3, *SHAPE[1:])
    with torch.no_grad():
        np.testing.assert_allclose(runner(x), octave()(x).numpy(), rtol=1e-4, atol=1e-5)
    assert runner.metadata["classes"] == list("abcd")


def test_its_files_are_compared_with_the_network(toy: Path) -> None:
    assert ".toy" in f.formats()  # which imports it
    sys.modules[f"{f.__name__}.toy"].ERROR = 0.5
    with pytest.raises(InputError, match=r"net.toy is not written: its outputs differ"):
        export(octave(), toy, SHAPE)
    assert [p.name for p in toy.parent.iterdir()] == ["more_formats"]


def test_the_commands_know_it(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy.parent)
    size = ("--size", 16, "--num-classes", 3)
    code, out, err = run(capsys, "export", "oct_mobilenet_v1_small", *size, "--to", toy)
    assert code == 0, err
    assert "parity: largest error" in out
    Image.new("RGB", (20, 20)).save("a.png")
    code, out, err = run(capsys, "predict", toy, "a.png", "--json")
    assert code == 0, err
    assert out.count("probability") == 3
    toy.unlink()  # the file beside it is not replaced either
    code, _, err = run(capsys, "export", "oct_mobilenet_v1_small", *size, "--to", toy)
    assert code == 2
    assert f"{toy.with_suffix('.about')} exists: give another name" in err
    for arguments in (("export", "oct_resnet50", "--to", "net.no"), ("predict", "net.no", "a.png")):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert ".onnx, .xml, .pt2, .toy" in err


def test_a_missing_module_of_it_is_named(toy: Path) -> None:
    text = TOY.replace('"json",', '"no_such_module",').replace("beside=", 'extra="toys", beside=')
    (toy.parent / "more_formats/toy.py").write_text(text)
    toy.touch()
    for call in (lambda: export(octave(), toy, SHAPE), lambda: load_runtime(toy, trust=True)):
        with pytest.raises(InputError, match=r"no_such_module is not .* 'octavize\[toys\]'"):
            call()


def test_it_says_which_files_it_writes(toy: Path) -> None:
    (toy.parent / "more_formats/toy.py").write_text(TOY.replace('beside=(".about",),', ""))
    with pytest.raises(RuntimeError, match=r"format .toy writes other files than it says: net.about"):
        export(octave(), toy, SHAPE)
    assert [p.name for p in toy.parent.iterdir()] == ["more_formats"]


def test_two_formats_of_one_suffix_are_refused(toy: Path) -> None:
    (toy.parent / "more_formats/toy_again.py").write_text(TOY)
    with pytest.raises(RuntimeError, match=r"toy_again: another format has the suffix .toy already"):
        f.formats()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("export", ".toy (Toys)"),
        ("predict", ".toy (Toys)"),
        ("bench", "onnxruntime, openvino, toys"),
        ("convert", "onnxruntime, openvino, toys or compile"),
    ],
)
def test_help_names_it_and_needs_no_runtime(name: str, words: str, folder: Path) -> None:
    hide = "for name in ('torch', 'numpy', 'onnx', 'onnxruntime', 'openvino'): sys.modules[name] = None"
    done = command(folder, name, "--help", first=hide)
    assert done.returncode == 0, done.stderr
    shown = " ".join("".join(letter for letter in done.stdout if letter not in "│╭╮╰╯─").split())
    assert words in shown


@pytest.mark.slow
def test_it_is_timed(folder: Path) -> None:
    settings = (
        "--size",
        32,
        "--rounds",
        1,
        "--batch",
        1,
        "--threads",
        1,
        "--alpha",
        0.5,
        "--runtime",
        "toys",
    )
    done = command(folder, "bench", "oct_cifar_resnet20", *settings)
    assert done.returncode == 0, done.stderr
    assert "toys" in done.stdout
