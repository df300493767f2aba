"""Data sets: what comes out, that splits share nothing, and what every mistake says."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import time
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from octavize.data import decode, textures
from octavize.data.choice import hold_out
from octavize.data.images import LazySplit, Split, as_batch, channel_stats
from octavize.data.sets import load_data
from octavize.errors import InputError


def fails(*parts: str):
    """InputError on one line that contains every part."""
    return pytest.raises(
        InputError, match=r"\A(?=.*" + r")(?=.*".join(re.escape(p) for p in parts) + r").*\Z"
    )


# --- textures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64])
def test_textures_are_balanced_and_standardized(size: int) -> None:
    images = load_data("textures", size=size)
    counts = textures.COUNTS[size]
    assert (images.channels, images.size, len(images.classes)) == (1, size, 10)
    for name in textures.SPLITS:
        split = getattr(images, name)
        assert split.images.shape == (10 * counts[name], 1, size, size)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.bincount().tolist() == [counts[name]] * 10
        values = split.images.double().flatten(1)
        # Zero mean and unit deviation (42.5 levels); bright or dark spots beyond ±3 deviations are clipped.
        assert (values.mean(1) - 127.5).abs().max() < 5
        assert values.std(1).max() < 43
        assert values.std(1).median() > 42


def test_textures_load_fast() -> None:
    load_data("textures")  # imports
    start = time.process_time()  # of this process alone, whatever else the machine does
    load_data("textures")
    assert time.process_time() - start < 2


def test_textures_do_not_depend_on_the_random_state() -> None:
    torch.manual_seed(1)
    first = load_data("textures").train.images
    torch.manual_seed(2)
    assert torch.equal(first, load_data("textures").train.images)


def test_textures_are_the_same_bytes_everywhere() -> None:
    images = load_data("textures")
    digest = hashlib.sha256()
    for name in textures.SPLITS:
        digest.update(getattr(images, name).images.numpy().tobytes())
    assert digest.hexdigest()[:16] == "9f18e9a4f740ca17"


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", textures.PHOTOGRAPHS)
def test_texture_splits_share_no_pixel(name: str, size: int) -> None:
    height, width = textures.photograph(name).shape
    covered = {}
    for split, boxes in textures.patch_boxes(height, width, size, name).items():
        assert len(set(boxes)) == len(boxes) >= textures.COUNTS[size][split]
        mask = np.zeros((height, width), bool)
        for top, left, side in boxes:
            assert side == size
            assert 0 <= top <= height - side
            assert 0 <= left <= width - side
            mask[top : top + side, left : left + side] = True
        covered[split] = mask
    assert not (covered["train"] & covered["val"]).any()
    assert not (covered["train"] & covered["test"]).any()
    assert not (covered["val"] & covered["test"]).any()


def test_patches_come_from_their_boxes() -> None:
    boxes = textures.patch_boxes(512, 512, 32, "brick")["test"]
    top, left, side = boxes[0]
    patch = textures.photograph("brick")[top : top + side, left : left + side].astype(float)
    expected = np.clip(np.rint(((patch - patch.mean()) / patch.std() + 3) / 6 * 255), 0, 255)
    assert np.array_equal(load_data("textures").test.images[0, 0].numpy(), expected)


def test_standardize_ignores_brightness_and_contrast() -> None:
    patch = np.random.default_rng(0).integers(0, 60, (3, 8, 8), dtype=np.uint8)
    levels, std = textures.standardize(patch)
    assert np.array_equal(levels, textures.standardize(patch * 3 + 20)[0])
    assert np.allclose(std, patch.std((1, 2)))
    flat, zero = textures.standardize(np.full((1, 4, 4), 9, dtype=np.uint8))
    assert (flat == 128).all()
    assert zero.item() == 0


def test_flat_patches_are_skipped() -> None:
    image = np.zeros((8, 16), dtype=np.uint8)
    image[::2, 8:] = 200
    flat, striped = textures.Box(0, 0, 8), textures.Box(0, 8, 8)
    assert textures._take(image, [flat, striped], 1).std() > 0


# --- splits ------------------------------------------------------------------------------------------


def test_split_feeds_a_data_loader_batch_by_batch() -> None:
    split = Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    batches = list(DataLoader(split, batch_size=4, shuffle=True, collate_fn=as_batch))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(10))
    for images, labels in batches:
        assert torch.equal(images.flatten().long(), labels)
    assert split.__getitems__([3])[1].item() == 3


def test_hold_out_is_stratified_and_fixed() -> None:
    labels = [0] * 40 + [1] * 20
    train, val = hold_out(labels, 0.25, ["a", "b"])
    assert sorted(train + val) == list(range(60))
    assert [sum(labels[i] == c for i in val) for c in (0, 1)] == [10, 5]
    assert (train, val) == hold_out(labels, 0.25, ["a", "b"])


def test_limit_train_keeps_equally_many_per_class() -> None:
    images = load_data("textures", limit_train=57)
    assert images.train.labels.bincount().tolist() == [5] * 10
    assert len(images.test) == 1000


def test_statistics_are_those_of_the_train_split() -> None:
    values = torch.randint(0, 256, (30, 3, 5, 5), dtype=torch.uint8)
    mean, std = channel_stats(Split(values, torch.zeros(30).long()))
    scaled = values.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(scaled.permute(1, 0, 2, 3).flatten(1).std(1, correction=0).tolist())


def test_a_channel_without_contrast_does_not_divide_by_zero() -> None:
    _, std = channel_stats(Split(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.zeros(4).long()))
    assert std == (1.0,)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"name": "imagenet"}, ["data='imagenet'", "textures, cifar10, cifar100, folder"]),
        ({"name": "textures", "size": 48}, ["size=48", "32 or 64"]),
        ({"name": "cifar10", "size": 224}, ["size=224", "cifar10", "leave size out"]),
        ({"name": "textures", "val_fraction": 0.0}, ["val_fraction=0.0", "between 0 and 1"]),
        ({"name": "textures", "val_fraction": 1.0}, ["val_fraction=1.0", "between 0 and 1"]),
        ({"name": "textures", "limit_train": 0}, ["limit_train=0"]),
        ({"name": "textures", "limit_train": 9}, ["limit_train=9", "10 classes"]),
        ({"name": "folder"}, ["data_dir is not given", "train/<class>/"]),
        ({"name": "folder", "data_dir": "no/such/place"}, ["data_dir=", "place", "is not a folder"]),
    ],
)
def test_bad_arguments(arguments: dict, parts: list[str]) -> None:
    with fails(*parts):
        load_data(**arguments)


# --- CIFAR -------------------------------------------------------------------------------------------


def write_cifar10(root: Path, per_batch: int = 20) -> dict[str, np.ndarray]:
    """CIFAR-10's own files, made of random images."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    made = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        made[name] = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = [i % 10 for i in range(per_batch)]
        (folder / name).write_bytes(pickle.dumps({"data": made[name], "labels": labels}))
    names = [f"class{i}" for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return made


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up files cannot have the md5 sums of the real ones."""
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)


@pytest.mark.usefixtures("unchecked")
def test_cifar10_is_read_as_torchvision_stores_it(tmp_path: Path) -> None:
    made = write_cifar10(tmp_path)
    images = load_data("cifar10", data_dir=tmp_path, val_fraction=0.2)
    assert images.classes == [f"class{i}" for i in range(10)]
    assert (images.channels, images.size) == (3, 32)
    assert torch.equal(images.test.images.flatten(1), torch.from_numpy(made["test_batch"]))
    assert images.val.labels.bincount().tolist() == [2] * 10
    assert images.train.labels.bincount().tolist() == [8] * 10
    # Train and validation together are the five batches, each image once.
    parts = torch.cat([images.train.images, images.val.images]).flatten(1).numpy()
    whole = np.concatenate([made[f"data_batch_{i}"] for i in range(1, 6)])
    assert sorted(map(bytes, parts)) == sorted(map(bytes, whole))


@pytest.mark.usefixtures("unchecked")
def test_cifar10_limit_keeps_validation(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    whole = load_data("cifar10", data_dir=tmp_path)
    short = load_data("cifar10", data_dir=tmp_path, limit_train=20)
    assert short.train.labels.bincount().tolist() == [2] * 10
    assert torch.equal(short.val.images, whole.val.images)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_files_and_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    with fails(f"data_dir={tmp_path}", "download failed", "no network", folder, "tar.gz"):
        load_data(name, data_dir=tmp_path)


# --- folders -----------------------------------------------------------------------------------------


def paint(path: Path, color: object, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)  # pyright: ignore[reportArgumentType]


def make_folder(root: Path, splits: tuple[str, ...] = ("train", "val", "test"), count: int = 5) -> Path:
    """Class a is red, class b is blue; the green channel numbers the images."""
    for split in splits:
        for i in range(count):
            paint(root / split / "a" / f"{i}.png", (255, i, 0))
            paint(root / split / "b" / f"{i}.bmp", (0, i, 255))
    return root


def test_folder_with_three_splits(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    images = load_data("folder", data_dir=tmp_path)
    assert images.classes == ["a", "b"]
    assert (images.channels, images.size) == (3, 8)
    assert [len(s) for s in (images.train, images.val, images.test)] == [10, 10, 10]
    assert images.train.labels.tolist() == [0] * 5 + [1] * 5
    assert images.train.images[:, 1, 0, 0].tolist() == [0, 1, 2, 3, 4] * 2
    assert (images.train.images[:5, 0] == 255).all()
    assert images.mean == pytest.approx((0.5, 2 / 255, 0.5))


@pytest.mark.parametrize("given", ["val", "test"])
def test_folder_with_two_splits_holds_validation_out_of_train(tmp_path: Path, given: str) -> None:
    make_folder(tmp_path, ("train", given))
    images = load_data("folder", data_dir=tmp_path, val_fraction=0.2)
    assert [len(s) for s in (images.train, images.val, images.test)] == [8, 2, 10]
    assert images.val.labels.tolist() == [0, 1]
    both = torch.cat([images.train.images, images.val.images])
    assert sorted(both[:, 1, 0, 0].tolist()) == sorted([0, 1, 2, 3, 4] * 2)


def test_folder_limit_train(tmp_path: Path) -> None:
    images = load_data("folder", data_dir=make_folder(tmp_path), limit_train=5)
    assert images.train.labels.tolist() == [0, 0, 1, 1]


def test_other_shapes_are_resized_and_cropped_in_the_centre(tmp_path: Path) -> None:
    make_folder(tmp_path)
    strip = np.zeros((10, 30, 3), np.uint8)
    strip[:, 10:20] = 200
    Image.fromarray(strip).save(tmp_path / "train" / "a" / "0.png")
    image = load_data("folder", data_dir=tmp_path, size=5).train.images[0]
    assert image.shape == (3, 5, 5)
    assert (image[:, :, 1:4] == 200).all()


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("LA", (70, 255), (70, 70, 70)),
        ("I;16", 90 * 256, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_modes_become_rgb(tmp_path: Path, mode: str, color: object, expected: tuple[int, ...]) -> None:
    paint(tmp_path / "p.png", color, mode=mode)
    assert decode.decode(tmp_path / "p.png", 8)[:, 4, 4].tolist() == list(expected)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    paint(tmp_path / "p.jpg", (0, 255, 255, 0), mode="CMYK")
    red, green, blue = decode.decode(tmp_path / "p.jpg", 8)[:, 4, 4].tolist()
    assert red > 240
    assert max(green, blue) < 15


def test_float_pixels_are_refused_and_eight_bits_in_thirty_two_kept(tmp_path: Path) -> None:
    paint(tmp_path / "p.tiff", 0.5, mode="F")
    with pytest.raises(InputError, match="neither 8-bit nor 16-bit"):
        decode.decode(tmp_path / "p.tiff", 8)
    paint(tmp_path / "q.tiff", 90, mode="I")
    assert decode.decode(tmp_path / "q.tiff", 8)[:, 4, 4].tolist() == [90, 90, 90]


def test_only_the_middle_of_a_long_image_is_resized(tmp_path: Path) -> None:
    image = Image.new("RGB", (20_000, 1))
    image.paste((200, 100, 50), (9_990, 0, 10_010, 1))
    image.save(tmp_path / "long.png")
    start = time.perf_counter()
    assert decode.decode(tmp_path / "long.png", 224)[:, 112, 112].tolist() == [200, 100, 50]
    assert time.perf_counter() - start < 5


def test_a_split_too_large_is_decoded_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path)
    eager = load_data("folder", data_dir=tmp_path)
    monkeypatch.setattr("octavize.data.folder.EAGER_BYTES", 100)
    lazy = load_data("folder", data_dir=tmp_path)
    assert isinstance(lazy.train, LazySplit)
    assert (len(lazy.train), lazy.channels, lazy.size) == (10, 3, 8)
    assert lazy.mean == eager.mean
    assert torch.equal(lazy.train.__getitems__([7])[0], eager.train.__getitems__([7])[0])
    for mine, other in zip(
        lazy.train.__getitems__([7, 0, 3]), eager.train.__getitems__([7, 0, 3]), strict=True
    ):
        assert torch.equal(mine, other)
    Path(lazy.train.paths[2]).write_bytes(b"gone bad")
    with fails(str(lazy.train.paths[2]), "cannot be read"):
        lazy.train.__getitems__([0, 2])


def test_slow_decoding_tells_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("octavize.report.progress.LINES", -1.0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        paint(path, (1, 2, 3))
    with caplog.at_level(logging.INFO, "octavize"):
        decode.decode_all(paths, 8, "decoding train")
    assert caplog.messages[-1] == "decoding train: 3/3"


def test_quick_decoding_is_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "octavize"):
        load_data("folder", data_dir=make_folder(tmp_path))
    assert caplog.messages == []
    assert capsys.readouterr() == ("", "")


def test_folder_without_train_or_evaluation(tmp_path: Path) -> None:
    with fails(f"data_dir={tmp_path}", "has no train/<class>/"):
        load_data("folder", data_dir=tmp_path)
    make_folder(tmp_path, ("train",))
    with fails(f"data_dir={tmp_path}", "has no val/<class>/ or test/<class>/"):
        load_data("folder", data_dir=tmp_path)


def test_folder_empty_or_of_one_class(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with fails(f"{tmp_path / 'train'} is empty"):
        load_data("folder", data_dir=tmp_path)
    paint(tmp_path / "train" / "a" / "0.png", (1, 2, 3))
    with fails(f"{tmp_path / 'train'} has only one class (a)"):
        load_data("folder", data_dir=tmp_path)


def test_class_without_images(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "train" / "c").mkdir()
    (tmp_path / "val" / "c").mkdir()
    (tmp_path / "test" / "c").mkdir()
    with fails(f"{tmp_path / 'train' / 'c'} holds no images"):
        load_data("folder", data_dir=tmp_path)


def test_folders_below_classes_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    make_folder(tmp_path / "set")
    for split in ("train", "val", "test"):
        paint(tmp_path / "set" / split / "a" / "sub" / "deep" / "1.png", (1, 2, 3))
    paint(tmp_path / "elsewhere" / "2.png", (4, 5, 6))
    (tmp_path / "set" / "train" / "b" / "linked").symlink_to(tmp_path / "elsewhere")
    images = load_data("folder", data_dir=tmp_path / "set")
    theirs = ImageFolder(str(tmp_path / "set" / "train"))
    assert len(images.train) == len(theirs) == 12
    assert images.train.labels.tolist() == sorted(theirs.targets)
    ours = sorted(
        (label, tuple(map(int, image[:, 0, 0])))
        for image, label in zip(images.train.images, images.train.labels.tolist(), strict=True)
    )
    assert ours == sorted((label, image.getpixel((0, 0))) for image, label in theirs)


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".avif", ".jp2", ".tga", ".pbm"])
def test_further_suffixes(suffix: str, tmp_path: Path) -> None:
    make_folder(tmp_path)
    kind = {".jfif": "jpeg", ".JPE": "jpeg", ".jp2": "jpeg2000", ".pbm": "ppm"}.get(suffix, suffix[1:])
    try:
        Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "train" / "a" / f"x{suffix}", format=kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {suffix}")
    assert len(load_data("folder", data_dir=tmp_path, size=8).train) == 11


def test_files_that_are_not_read_are_counted_and_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in ("a/notes.txt", "a/.hidden.png", "b/raw.npy", "b/.DS_Store", "list.csv"):
        (tmp_path / "train" / name).write_bytes(b"")
    with pytest.warns(
        UserWarning, match=r"train: 4 not read, .*: list\.csv, a.\.hidden\.png, a.notes\.txt and 1"
    ):
        assert len(load_data("folder", data_dir=tmp_path).train) == 10


def test_classes_that_differ(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "test" / "b").rename(tmp_path / "test" / "z")
    with fails(f"{tmp_path / 'test'} lacks b and has z which train lacks"):
        load_data("folder", data_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"no image at all", "truncated"])
def test_broken_image_is_named(tmp_path: Path, content: bytes | str) -> None:
    make_folder(tmp_path)
    broken = tmp_path / "train" / "b" / "3.png"
    if isinstance(content, str):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(broken)
        content = broken.read_bytes()[:3000]
    broken.write_bytes(content)
    with fails(str(broken), "cannot be read as an image"):
        load_data("folder", data_dir=tmp_path)


def test_size_is_needed_when_images_are_not_square(tmp_path: Path) -> None:
    make_folder(tmp_path)
    paint(tmp_path / "train" / "a" / "0.png", (1, 2, 3), size=(12, 10))
    with fails("size is not given", "0.png", "12×10", "size=10"):
        load_data("folder", data_dir=tmp_path)
    with fails("size=0"):
        load_data("folder", data_dir=tmp_path, size=0)


def test_class_too_small_to_hold_out(tmp_path: Path) -> None:
    make_folder(tmp_path, ("train", "test"), count=1)
    with fails("val_fraction=0.1", "class 'a'", "1 images"):
        load_data("folder", data_dir=tmp_path)


def test_a_link_that_leads_back_is_not_followed(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in "ab":
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path / "train" / "a")
    (tmp_path / "train" / "a" / "all").symlink_to(tmp_path)
    images = load_data("folder", data_dir=tmp_path, val_fraction=0.25)
    assert (len(images.train), len(images.val)) == (6, 2)


def test_a_dark_image_of_16_bits_is_dark(tmp_path: Path) -> None:
    path = tmp_path / "dark.pgm"  # Pillow reads it into pixels of 32 bits, as it does a TIFF of 8
    path.write_bytes(b"P5 4 4 65535\n" + np.full((4, 4), 200, ">u2").tobytes())
    assert decode.decode(path, 4).max() == 0
    path.write_bytes(b"P5 4 4 65535\n" + np.full((4, 4), 100 * 257, ">u2").tobytes())
    assert decode.decode(path, 4).tolist() == np.full((3, 4, 4), 100).tolist()


def test_numbers_below_zero_are_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "below.tif"
    Image.fromarray(np.full((4, 4), -5, np.int32)).save(path)
    with pytest.raises(InputError, match="neither 8-bit nor 16-bit"):
        decode.decode(path, 4)
