"""Text, JSON and YAML; files that are written whole or not at all; folders of commands; users' code; what
files say of themselves."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from octavize._version import __version__
from octavize.errors import InputError, one_line, require_extra, shown

LEFT = (".part", ".lock")
"""Suffixes of files that a killed command leaves behind; a folder with nothing else counts as empty."""


def is_full(error: BaseException | None) -> bool:
    """Whether an exception, or what it came from, says that there is no room on a disk."""
    while error is not None:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "os error 28" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill at any moment, finds the old content or the new one."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


@contextmanager
def together(folder: Path, last: str) -> Iterator[Path]:
    """A folder for files that `folder` gets at the end, all or none; the one called `last` comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(suffix=LEFT[0], dir=folder) as part:
        yield Path(part)
        for file in sorted(Path(part).iterdir(), key=lambda file: file.name == last):
            os.replace(file, folder / file.name)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with `write_text`."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Indented JSON, as files hold it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping that `write_json` wrote; None if there is no such file.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"file {path} is damaged: delete it to have it made anew")
    return value


def known_json(path: Path) -> dict[str, Any]:
    """`read_json` for what can be made anew: an empty mapping if the file is missing or damaged."""
    try:
        return read_json(path) or {}
    except InputError:
        return {}


def parse_yaml(text: str) -> Any:
    """What a YAML text says; a mapping may have each key once, of which YAML itself would take the last.

    Raises:
        InputError: it is not YAML, or a key is there twice.
    """
    require_extra("yaml", "cli")
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
            node, names = super().compose_mapping_node(anchor), []
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                    name = self.construct_object(key)
                    if name in names:
                        line = key.start_mark.line + 1
                        raise InputError(f"{name!r} is there twice, again in line {line}: keep one")
                    names.append(name)
            return node

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise InputError(f"it is not valid YAML ({one_line(error)}): mend it") from None


def check_folder(
    folder: Path,
    owner: str | None = None,
    foreign: Callable[[Path], str] = lambda path: "",
    remedy: str = "",
) -> None:
    """Check that a command may write to a folder: it is new, empty, or was begun by the same command.

    Args:
        owner: name of the file that says which command owns the folder; None if it must be new or empty.
        foreign: reads that file and names another owner; an empty text if the folder is ours.
        remedy: what the user may do about it besides giving another folder.

    Raises:
        InputError: the folder is a file, belongs to another command, or holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out is {folder}, which is a file: give a folder with --out")
    path = folder / owner if owner else None
    if path is not None and path.is_file():
        if whose := foreign(path):
            raise InputError(f"out is {folder}, {whose}: give another --out{remedy}")
    elif folder.is_dir() and any(found.suffix not in LEFT for found in folder.iterdir()):
        raise InputError(
            f"out is {folder}, which holds other files: give a new or an empty folder with --out"
        )


# ---- folders of converted networks -----------------------------------------------------------------------

PLAN, WEIGHTS, NETWORK = "plan.yaml", "weights.safetensors", "network.json"
"""The files of such a folder: α of every layer; the state dict; how the vanilla network is built."""
FORMAT = 1
BEST = "best.safetensors"
"""The weights of a trained run."""
FACTS = ("classes", "mean", "std", "normalize", "size", "in_chans")
"""What may be known of a network's input."""


def about_network(origin: Mapping[str, Any], facts: Mapping[str, Any], order: str = "") -> dict[str, Any]:
    """What `network.json` holds.

    Args:
        origin: how the vanilla network is built: `kind`, `name`, `arguments`.
        facts: what is known of its input; what is none of `FACTS` is left out.
        order: of its channels, see `octavize.convert.order`.
    """
    return {
        "format": FORMAT,
        "origin": dict(origin),
        "input": {key: facts[key] for key in FACTS if key in facts},
        "order": order,
        "version": __version__,
    }


def read_about(folder: str | Path) -> dict[str, Any]:
    """What `network.json` holds: `origin`, `input` (`mean`, `std`, `size` in pixels, `classes`), `version`.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(folder) / NETWORK
    if not path.is_file():
        raise InputError(
            f"folder {folder} has no {NETWORK}: give one that `octavize convert` or `adapt` wrote"
        )
    about: dict[str, Any] = {}
    try:
        about = json.loads(path.read_text("utf-8"))
        complete = {"kind", "name"} <= about["origin"].keys() <= {"kind", "name", "arguments"}
        _ = about.get("format")
    except (AttributeError, ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise InputError(f"network {path} is damaged: convert the network again")
    if about.get("format") != FORMAT:
        raise InputError(f"network {path} has format {about.get('format')}: this version reads {FORMAT}")
    return about


# ---- code of the user's own ------------------------------------------------------------------------------


def call_named(name: str, kind: type) -> Any:
    """The network that `module:function` returns; the current folder counts as the last place of modules.

    So a file there that is called like an installed module hides nothing.

    Args:
        kind: of networks, such as `torch.nn.Module`.

    Raises:
        InputError: the name leads to no network.
    """
    module_name, _, attribute = name.partition(":")
    before = list(sys.path)
    sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        model = found if isinstance(found, kind) else found()
    except (Exception, SystemExit) as error:  # somebody else's code may raise anything
        raise InputError(
            f"model {name} could not be made ({one_line(error, kind=True)}): give module:function of a "
            "function that takes no arguments and returns the network"
        ) from error
    finally:
        sys.path[:] = before
    if not isinstance(model, kind):
        told = f"{kind.__module__.partition('.')[0]}.nn.{kind.__name__}"
        raise InputError(f"model {name} returned a {type(model).__name__}: return a {told}")
    return model


# ---- what a file may say about how a network is built ----------------------------------------------------
#
# Builders take arguments that load other files, or fetch code and weights (`checkpoint_path`, `pretrained`),
# and names that do (`hf-hub:`): a file must not decide which code runs.

ARGUMENTS = frozenset(
    {
        *("num_classes", "in_chans", "width", "exchange", "downsample", "octave_bias"),
        *("output_stride", "global_pool", "img_size", "num_features", "channels", "width_mult"),
        *("cardinality", "base_width", "block_reduce_first", "down_kernel_size", "avg_down", "pad_type"),
        *("stem_width", "stem_type", "stem_size", "fix_stem", "replace_stem_pool"),
        *("act_layer", "norm_layer", "aa_layer", "zero_init_last"),
        *("drop_rate", "drop_path_rate", "drop_block_rate", "dropout", "stochastic_depth_prob"),
    }
)
"""Arguments of builders that only give a network its form."""


def arguments_of_file(path: str | Path, arguments: Any) -> dict[str, Any]:
    """The arguments of a builder as a file gives them, without `pretrained`: the weights are in the file.

    Raises:
        InputError: one of them is not in the list, or no plain value.
    """
    if not isinstance(arguments, Mapping):
        raise InputError(f"file {path}: the arguments of its network are {shown(arguments)}: write it again")
    wanted = {name: value for name, value in arguments.items() if name != "pretrained"}
    for name, value in wanted.items():
        if name not in ARGUMENTS or not _is_plain(value):
            raise InputError(
                f"file {path} builds its network with {name}={shown(value)}, which a file may not decide: "
                "build the network in Python, and load the weights into it"
            )
    return wanted


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


# ---- what files say of themselves, whichever framework wrote them ------------------------------------------

KEY = "octavize"
"""Under this key a file carries its metadata, as JSON."""
OWN = {"input_shape", "dynamic_batch", "dynamic_size", "smallest_size", "octavize", "precision"}
OWN |= {"inputs", "outputs"}
"""Metadata of an exported network that nobody else can give."""


def completed(told: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a file tells of a run; what an older version did not tell of its images (`data`) is as asked."""
    old, new = told.get("data"), asked.get("data")
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return dict(told)
    return {**told, "data": {**new, **old}}


def check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Raises InputError if users give what an export says itself."""
    if own := OWN & {*(metadata or {})}:
        raise InputError(f"metadata has {', '.join(sorted(own))}, which export writes itself: leave it out")


def input_names(about: str) -> list[str]:
    """Of an exported file's inputs, by its metadata as JSON."""
    return [each["name"] for each in json.loads(about).get("inputs", [{"name": "input"}])]


def output_names(about: str) -> list[str]:
    """Of its outputs, likewise."""
    return [each["name"] for each in json.loads(about).get("outputs", [{"name": "output"}])]


def output_name(path: Sequence[object], taken: Container[str]) -> str:
    """Of a tensor that a network returns, by the keys and numbers that lead to it: `out`, `output.0`.

    Args:
        taken: names of the inputs, which no output gets.
    """
    name = ".".join(map(str, path))
    return f"output.{name}" if name[0].isdigit() or name in taken else name
