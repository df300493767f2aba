"""What every command tells: its answer on standard output, all else on standard error; what stops it."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import pty
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from tests.helpers.cli import run
from tests.helpers.training import MODEL, make_folder, tiny

from octavize import cli
from octavize.bench import environment
from octavize.cli.main import app, extra_of
from octavize.cli.telling import Bars
from octavize.report.progress import bar, listening, steps
from octavize.training.recipe import dump_recipe

COMMANDS = sorted(command.name for command in app.registered_commands if command.name)
NETWORK = ("oct_cifar_resnet20", "--alpha", 0.5, "--size", 32)
NETS = """
from torch import nn

def build():
    print("a remark of the user's own")
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1),
                         nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"")
    Image.radial_gradient("L").convert("RGB").resize((40, 40)).save("a.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"))


def quick(images: Path) -> tuple[Any, ...]:
    """Options of a training of seconds."""
    Path("tiny.yaml").write_text(dump_recipe(tiny(epochs=1, alphas=[0.5])), "utf-8")
    return ("--recipe", "tiny.yaml", "--data-dir", images, "--accelerator", "cpu", "--threads", 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_quiet_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "--quiet" in out
    assert "--json" in out


def test_answers_as_json(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing else on standard output, whatever a network's builder prints."""
    (Path(f"nets_{os.getpid()}.py")).write_text(NETS)
    made = run(capsys, "export", MODEL, "--size", 32, "--to", "m.pt2", "--json")
    assert made[0] == 0, made[2]
    bench = ("--runtime", "eager", "--rounds", 1, "--batch", 1, "--threads", 1)
    asked: list[tuple[tuple[Any, ...], set[str]]] = [
        (("convert", f"nets_{os.getpid()}:build", "--size", 16, "--out", "o"), {"folder", "weights", "plan"}),
        (("bands", "a.png"), {"octaves", "figure"}),
        (("bench", *NETWORK, *bench), {"environment", "rows"}),
        (("profile", *NETWORK, "--rounds", 1), {"environment", "rows"}),
        (("profile", *NETWORK, "--layers"), {"input_shape", "rows"}),
        (("train", MODEL, "--out", "t", *quick(images)), {"test_accuracy", "folder"}),
        (("compare", "--out", "c", *quick(images)), {"headline", "networks", "report", "results"}),
    ]
    for arguments, keys in asked:
        code, out, err = run(capsys, *arguments, "--json")
        assert code == 0, err
        assert json.loads(out).keys() >= keys, arguments
    assert json.loads(made[1])["files"] == ["m.pt2"]
    assert isinstance(json.loads(run(capsys, "models", "--json")[1]), list)


def test_quiet_leaves_the_answer(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "train", MODEL, "--out", "t", *quick(images), "--quiet")
    assert code == 0
    assert err == ""
    first, last = out.splitlines()
    assert first.startswith("test accuracy ")
    assert last == "network: t/best.safetensors"


def test_progress_is_told_on_standard_error(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compare", "--out", "c", *quick(images))
    assert code == 0
    assert f"[1/1] {MODEL}" in err
    assert "epoch   1/1" in err
    assert "epoch" not in out
    assert out.splitlines()[-1] == "report: c/report.html"
    assert logging.getLogger("octavize").handlers == []


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


FULL = OSError(errno.ENOSPC, "No space left on device", "somewhere")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FULL, "Error: the disk is full: make room; {}"),
        (
            RuntimeError("PytorchStreamWriter failed: No space left on device"),
            "Error: the disk is full: make room; {}",
        ),
        (KeyboardInterrupt(), "Interrupted: {}"),
    ],
)
def test_what_stops_a_command_takes_one_line(
    error: BaseException,
    line: str,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says what was kept and how to go on."""
    monkeypatch.setattr("octavize.zoo.storage.save_weights", raising(error))
    monkeypatch.setattr("octavize.training.journal.save_weights", raising(error))
    code, out, err = run(capsys, "convert", *NETWORK, "--out", "o")
    expected = 130 if isinstance(error, KeyboardInterrupt) else 2
    assert (code, out) == (expected, "")
    assert err == line.format("nothing was written; the same command begins anew") + "\n"
    assert list(Path("o").iterdir()) == []
    code, _, err = run(capsys, "train", MODEL, "--out", "t", *quick(images))
    assert code == expected
    assert err.splitlines()[-1] == line.format("the same command goes on from the last finished epoch")
    assert "Traceback" not in err


def test_after_a_full_disk_the_same_command_works(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr("octavize.zoo.storage.save_weights", raising(FULL))
        assert run(capsys, "convert", *NETWORK, "--out", "o")[0] == 2
    assert run(capsys, "convert", *NETWORK, "--out", "o")[0] == 0
    assert {path.name for path in Path("o").iterdir()} == {"plan.yaml", "weights.safetensors", "network.json"}


def test_a_really_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no such device")
    Path("bands.png").symlink_to("/dev/full")
    code, _, err = run(capsys, "bands", "a.png")
    assert (code, err.count("\n")) == (2, 1)
    assert "the disk is full: make room" in err


def test_a_missing_package_is_told_with_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        "timm": "models",
        "torch": "torch",
        "yaml": "cli",
        "huggingface_hub": "models",
        "nncf": "quantize",
    }
    assert {name: extra_of(name) for name in found} == found
    assert extra_of("mine") is None
    monkeypatch.setattr("octavize.zoo.models.list_models", raising(ModuleNotFoundError(name="timm")))
    code, _, err = run(capsys, "models")
    assert code == 2
    assert err.endswith("timm is not installed: run `pip install 'octavize[models]'`\n")


def test_a_busy_machine_is_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "SHORTEST", 0.0)
    monkeypatch.setattr(environment, "BUSY", -9.0)
    many = ("--runtime", "eager", "frozen", "--rounds", 1, "--batch", 1, 2, "--threads", 1)
    code, _, err = run(capsys, "bench", *NETWORK, *many)
    assert code == 0
    assert sum("measure again on an idle machine" in line for line in err.splitlines()) == 1


# ---- on a terminal -----------------------------------------------------------------------------------------


def shown(work: Callable[[], object]) -> str:
    text = io.StringIO()
    with listening(Bars(Console(file=text, force_terminal=True, width=80))):
        work()
    return text.getvalue()


def test_bars_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavize.cli.telling.REFRESH", -1.0)

    def work() -> None:
        for _ in steps("abcd", "[outer]"):
            with bar("inner", None) as advance:
                advance()

    text = shown(work)
    assert "[outer]" in text
    assert "inner" in text
    assert "2/4" in text
    assert "0:00:00" in text


def test_a_bar_goes_with_what_it_counted() -> None:
    def work() -> None:
        with pytest.raises(ValueError, match="wrong"), bar("one", 2):
            raise ValueError("wrong")
        list(steps("ab", "two"))

    assert "two" in shown(work)


def on_a_terminal(*arguments: str) -> Iterator[str]:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from octavize.cli import run; run()", *arguments]
    done = subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "100"})
    os.close(theirs)
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        yield part.decode(errors="replace")
    done.wait(60)
    os.close(ours)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_command_on_a_terminal_draws_bars() -> None:
    text = "".join(on_a_terminal("models", "oct_cifar_resnet2*", "--costs"))
    assert "counting" in text
    assert "oct_cifar_resnet20" in text
    assert "counting" not in "".join(on_a_terminal("models", "oct_cifar_resnet2*", "--costs", "--quiet"))


# ---- completion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "found"), [("octavize co", "convert"), ("octavize train --sch", "--schedule")]
)
def test_the_shell_completes(typed: str, found: str) -> None:
    words = {
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
        "_OCTAVIZE_COMPLETE": "complete_bash",
    }
    command = [sys.executable, "-c", "from octavize.cli import run; run()"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **words})
    assert found in done.stdout.split()


def test_completion_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "--install-completion" in out


def test_warnings_go_through_the_same_console(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from octavize.data import bands

    def draw(*_: object) -> list[tuple[str, float]]:
        warnings.warn("two\nlines", stacklevel=2)
        return [("1/4–1/2", 1.0)]

    monkeypatch.setattr(bands, "draw_bands", draw)
    code, out, err = run(capsys, "bands", "a.png")
    assert (code, err) == (0, "Warning: two lines\n")
    assert "100.00%" in out


def test_ctrl_c_before_a_command_has_begun_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("octavize.cli.main.settle_process", raising(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as ended:
        cli.run()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted: nothing was begun\n"
