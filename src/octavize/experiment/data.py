"""Pictures for the experiments: every data set becomes three splits of uint8 tensors.

`load_data("textures")` needs no download. `cifar10` and `cifar100` are read from `data_dir`, or downloaded
into it; `folder` reads `train/<class>/*` with `val/<class>/*` and/or `test/<class>/*`.

A split answers a whole batch of indices at once, which is what a `DataLoader` asks for when the data set
has `__getitems__`; the batch arrives ready, so collating is the identity:

    DataLoader(pictures.train, batch_size=128, shuffle=True, collate_fn=as_batch)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from octavize.errors import InputError, require_extra
from octavize.experiment.decode import decode, decode_all, one_line, open_rgb
from octavize.experiment.textures import PHOTOGRAPHS, stable_order, texture_patches

DATA_NAMES = ("textures", "cifar10", "cifar100", "folder")
DEFAULT_DATA_DIR = "~/.cache/octavize"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
# A split of a folder that would take more bytes than this once decoded is decoded batch by batch instead.
EAGER_BYTES = 4 * 2**30
# Mean and deviation of a split that does not fit in memory come from so many pictures, evenly spaced.
LAZY_SAMPLE = 2048
STATS_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Split:
    """One split in memory.

    Attributes:
        pictures: (N, C, H, W) uint8.
        labels: (N,) int64, indices into `Pictures.classes`.
    """

    pictures: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One picture (C, H, W) and its label ()."""
        return self.pictures[index], self.labels[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """A batch in one gather: pictures (B, C, H, W) uint8 and labels (B,) int64."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.pictures[index], self.labels[index]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one picture."""
        return self.pictures.shape[1], self.pictures.shape[2], self.pictures.shape[3]


@dataclass(frozen=True, eq=False)
class LazySplit:
    """One split too large for memory: like `Split`, but each batch is decoded when asked for.

    Attributes:
        paths: N picture files.
        labels: (N,) int64, indices into `Pictures.classes`.
        size: side of a decoded picture, pixels.
    """

    paths: list[Path]
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One picture (3, size, size) and its label (). Raises InputError for a broken picture."""
        return decode(self.paths[index], self.size), self.labels[index]

    def __getitems__(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        """A batch decoded by a pool of threads: pictures (B, 3, size, size) uint8 and labels (B,) int64.

        Raises:
            InputError: a picture is broken; the message names its path.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        return decode_all([self.paths[i] for i in index.tolist()], self.size), self.labels[index]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one picture."""
        return 3, self.size, self.size


AnySplit: TypeAlias = Split | LazySplit


@dataclass(frozen=True, eq=False)
class Pictures:
    """A data set.

    Attributes:
        name: as given to `load_data`.
        classes: names, in the order of the labels.
        train, val, test: the splits; `val` is what decisions are made on, `test` is for the final figure.
        mean, std: per channel, of the train pictures scaled to 0..1.
    """

    name: str
    classes: list[str]
    train: AnySplit
    val: AnySplit
    test: AnySplit
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.train.shape[0]

    @property
    def size(self) -> int:
        """Side of a picture, pixels."""
        return self.train.shape[1]


def as_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The `collate_fn` for these splits: `__getitems__` has already made the batch."""
    return batch


def load_data(
    name: str,
    *,
    size: int | None = None,
    data_dir: str | Path | None = None,
    val_fraction: float = 0.1,
    limit_train: int | None = None,
) -> Pictures:
    """Load a data set as three splits.

    Args:
        name: `textures`, `cifar10`, `cifar100` or `folder`.
        size: side of a picture in pixels. textures: 32 (default) or 64. CIFAR: 32 only (enlarge on the device
            with `augment.to_input`). folder: anything; other pictures are resized by their shorter side and
            centre-cropped; default the size of the first picture, which then has to be square.
        data_dir: where the files are. CIFAR: default `~/.cache/octavize`, downloaded to when absent.
            folder: required. textures: not used.
        val_fraction: share of each train class held out for validation, between 0 and 1; always the same
            pictures. Not used where validation is given: textures, and a folder with both val and test.
        limit_train: at most so many train pictures in all, equally many per class (validation and test keep
            theirs). None keeps everything.

    Raises:
        InputError: anything above is wrong, or files are missing or broken; the message says what to do.
    """
    if name not in DATA_NAMES:
        raise InputError(f"data={name!r} is unknown: choose one of {', '.join(DATA_NAMES)}")
    if not 0 < val_fraction < 1:
        raise InputError(
            f"val_fraction={val_fraction} is out of range: give a share between 0 and 1, e.g. 0.1"
        )
    if limit_train is not None and limit_train < 1:
        raise InputError(f"limit_train={limit_train} is out of range: give at least one picture per class")
    if name == "textures":
        return _load_textures(32 if size is None else size, limit_train)
    if name == "folder":
        return _load_folder(size, data_dir, val_fraction, limit_train)
    return _load_cifar(name, size, data_dir, val_fraction, limit_train)


# --- which pictures go where ----------------------------------------------------------------------


def hold_out(labels: Sequence[int], fraction: float, classes: Sequence[str]) -> tuple[list[int], list[int]]:
    """Indices of train and validation: `fraction` of every class, at least one picture, always the same ones.

    Raises:
        InputError: a class is too small to give to both.
    """
    train: list[int] = []
    val: list[int] = []
    for label, members in enumerate(_members(labels, len(classes))):
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise InputError(
                f"val_fraction={fraction} leaves nothing to train on in class {classes[label]!r} "
                f"({len(members)} pictures): lower it or add pictures"
            )
        val += members[:count]
        train += members[count:]
    return sorted(train), sorted(val)


def limit(indices: Sequence[int], labels: Sequence[int], total: int | None, n_classes: int) -> list[int]:
    """At most `total` of `indices`, equally many per class; `labels` belongs to the whole split.

    Raises:
        InputError: `total` is less than one picture per class.
    """
    if total is None:
        return list(indices)
    if total < n_classes:
        raise InputError(f"limit_train={total} is less than one picture for each of {n_classes} classes")
    groups = _members([labels[i] for i in indices], n_classes)
    count = min(total // n_classes, *(len(group) for group in groups))
    return sorted(indices[i] for group in groups for i in group[:count])


def _members(labels: Sequence[int], n_classes: int) -> list[list[int]]:
    """Positions of each class, in a fixed shuffled order."""
    groups: list[list[int]] = [[] for _ in range(n_classes)]
    for i in stable_order(len(labels), "split"):
        groups[labels[i]].append(i)
    return groups


def channel_stats(split: AnySplit) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pictures scaled to 0..1 (a sample of a `LazySplit`)."""
    step = 1 if isinstance(split, Split) else max(1, len(split) // LAZY_SAMPLE)
    index = torch.arange(0, len(split), step)
    channels = split.shape[0]
    total, squares = torch.zeros(channels).double(), torch.zeros(channels).double()
    for chunk in index.split(STATS_CHUNK):
        values = split.__getitems__(chunk)[0].double()
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = len(index) * split.shape[1] * split.shape[2]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    # A channel without any contrast must not make the normalisation divide by zero.
    std = torch.where(std > 0, std, torch.full_like(std, 255.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _assemble(name: str, classes: list[str], train: AnySplit, val: AnySplit, test: AnySplit) -> Pictures:
    mean, std = channel_stats(train)
    return Pictures(name, classes, train, val, test, mean, std)


# --- textures and CIFAR ---------------------------------------------------------------------------


def _load_textures(size: int, limit_train: int | None) -> Pictures:
    splits = {split: Split(*tensors) for split, tensors in texture_patches(size).items()}
    train = splits["train"]
    keep = limit(range(len(train)), train.labels.tolist(), limit_train, len(PHOTOGRAPHS))
    train = Split(*train.__getitems__(keep))
    return _assemble("textures", list(PHOTOGRAPHS), train, splits["val"], splits["test"])


def _load_cifar(
    name: str, size: int | None, data_dir: str | Path | None, val_fraction: float, limit_train: int | None
) -> Pictures:
    if size not in (None, 32):
        raise InputError(
            f"size={size} is not supported by {name}: its pictures are 32 pixels; leave size out"
        )
    root = Path(DEFAULT_DATA_DIR if data_dir is None else data_dir).expanduser()
    pictures, labels, classes = _read_cifar(name, root, train=True)
    train, val = hold_out(labels, val_fraction, classes)
    train = limit(train, labels, limit_train, len(classes))
    whole = Split(pictures, torch.tensor(labels))
    test_pictures, test_labels, _ = _read_cifar(name, root, train=False)
    return _assemble(
        name,
        classes,
        Split(*whole.__getitems__(train)),
        Split(*whole.__getitems__(val)),
        Split(test_pictures, torch.tensor(test_labels)),
    )


def _read_cifar(name: str, root: Path, *, train: bool) -> tuple[Tensor, list[int], list[str]]:
    """Pictures (N, 3, 32, 32) uint8, labels and class names, downloaded into `root` when not there."""
    require_extra("torchvision", "experiment")
    from torchvision import datasets

    dataset_class = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        dataset = dataset_class(str(root), train=train)
    except RuntimeError:  # torchvision's "not found or corrupted"
        try:
            dataset = dataset_class(str(root), train=train, download=True)
        except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError
            raise InputError(
                f"data_dir={root} holds no complete {name} and the download failed ({one_line(error)}): "
                f"put the folder {dataset_class.base_folder} or the file {dataset_class.filename} into {root}"
            ) from error
    pictures = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return pictures, list(dataset.targets), list(dataset.classes)


# --- a folder of pictures -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Files:
    """Picture files of one split and the label of each."""

    paths: list[Path]
    labels: list[int]

    def __getitem__(self, indices: Iterable[int]) -> _Files:
        chosen = list(indices)
        return _Files([self.paths[i] for i in chosen], [self.labels[i] for i in chosen])


def _load_folder(
    size: int | None, data_dir: str | Path | None, val_fraction: float, limit_train: int | None
) -> Pictures:
    require_extra("PIL", "experiment")
    if size is not None and size < 1:
        raise InputError(f"size={size} is not supported: give the side of a picture in pixels, e.g. 64")
    if data_dir is None:
        raise InputError("data_dir is not given: data=folder needs the folder that holds train/<class>/")
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise InputError(f"data_dir={root} is not a folder: give the one that holds train/<class>/")
    given = [split for split in ("val", "test") if (root / split).is_dir()]
    if not (root / "train").is_dir() or not given:
        missing = "val/<class>/ or test/<class>/" if (root / "train").is_dir() else "train/<class>/"
        raise InputError(f"data_dir={root} has no {missing}: add it, one folder of pictures per class")
    classes = _class_names(root / "train")
    train = _list_files(root / "train", classes)
    others = {split: _list_files(root / split, classes) for split in given}
    test = others[given[-1]]
    if len(given) == 2:
        keep, val = list(range(len(train.paths))), others["val"]
    else:
        keep, held_out = hold_out(train.labels, val_fraction, classes)
        val = train[held_out]
    train = train[limit(keep, train.labels, limit_train, len(classes))]
    size = _first_size(train.paths[0]) if size is None else size
    splits = [
        _read_split(files, size, label) for files, label in ((train, "train"), (val, "val"), (test, "test"))
    ]
    return _assemble("folder", classes, *splits)


def _class_names(folder: Path) -> list[str]:
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise InputError(f"data_dir: {folder} is empty: put one folder of pictures per class into it")
    if len(classes) == 1:
        raise InputError(f"data_dir: {folder} has only one class ({classes[0]}): two or more are needed")
    return classes


def _list_files(folder: Path, classes: list[str]) -> _Files:
    """All pictures of a split, sorted by class and name.

    Raises:
        InputError: other classes than those of train, or a class without pictures.
    """
    if folder.name != "train":
        _check_same_classes(folder, classes)
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            p
            for p in (folder / name).iterdir()
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        )
        if not found:
            raise InputError(f"data_dir: {folder / name} holds no pictures: add some or remove the class")
        paths += found
        labels += [label] * len(found)
    return _Files(paths, labels)


def _check_same_classes(folder: Path, classes: list[str]) -> None:
    here = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    parts = []
    if missing := sorted(set(classes) - here):
        parts.append(f"lacks {', '.join(missing)}")
    if extra := sorted(here - set(classes)):
        parts.append(f"has {', '.join(extra)} which train lacks")
    if parts:
        raise InputError(f"data_dir: {folder} {' and '.join(parts)}: all splits need the same classes")


def _first_size(path: Path) -> int:
    picture = open_rgb(path)
    if picture.width != picture.height:
        raise InputError(
            f"size is not given and {path} is not square ({picture.width}×{picture.height}): "
            f"give size, e.g. size={min(picture.size)}"
        )
    return picture.width


def _read_split(files: _Files, size: int, label: str) -> AnySplit:
    labels = torch.tensor(files.labels)
    if len(files.paths) * 3 * size * size > EAGER_BYTES:
        return LazySplit(files.paths, labels, size)
    return Split(decode_all(files.paths, size, progress=f"decoding {label}"), labels)
