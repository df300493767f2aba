"""Energy per octave on images whose spectrum is known, the two bands, and the figure."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from octavize.data import bands
from octavize.data.bands import dataset_energy, draw_bands, octave_energy, read_image, split_bands
from octavize.data.images import Split
from octavize.errors import InputError


def cosine(frequency: float, height: int = 64, width: int = 64, rows: bool = False) -> Tensor:
    """A wave along the columns (or rows), in cycles per pixel; half-pixel phase, so mirroring is seamless."""
    length = height if rows else width
    wave = 100 + 50 * torch.cos(2 * torch.pi * frequency * (torch.arange(length) + 0.5))
    return wave[:, None].expand(height, width) if rows else wave.expand(height, width)


def slow_shares(gray: np.ndarray) -> list[float]:
    """The definition read aloud: mirror, transform, look at every frequency in turn."""
    height, width = gray.shape
    tile = np.block([[gray, gray[:, ::-1]], [gray[::-1], gray[::-1, ::-1]]]) - gray.mean()
    power = np.abs(np.fft.fft2(tile)) ** 2
    last = max(0, int(np.floor(np.log2(max(height, width)))) - 1)
    sums = np.zeros(last + 1)
    for y, row in enumerate(np.abs(np.fft.fftfreq(2 * height))):
        for x, column in enumerate(np.abs(np.fft.fftfreq(2 * width))):
            radius, octave = max(row, column), 0
            while octave < last and radius < 0.25 / 2**octave:
                octave += 1
            sums[octave] += power[y, x]
    return list(sums / sums.sum())


@pytest.mark.parametrize("shape", [(16, 16), (9, 14), (7, 7), (2, 2), (3, 20)])
def test_octave_energy_agrees_with_the_definition(shape: tuple[int, int]) -> None:
    gray = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    shares = [share for _, share in octave_energy(gray)]
    assert shares == pytest.approx(slow_shares(gray.double().numpy()), abs=1e-5)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(
    ("frequency", "name"),
    [(0.375, "1/4–1/2"), (0.25, "1/4–1/2"), (0.1875, "1/8–1/4"), (0.125, "1/8–1/4"), (1 / 16, "1/16–1/8")],
)
def test_a_wave_lies_in_its_octave(frequency: float, name: str, rows: bool) -> None:
    shares = dict(octave_energy(cosine(frequency, rows=rows)))
    assert shares[name] == pytest.approx(1, abs=1e-6)


def test_names_and_sum() -> None:
    shares = octave_energy(torch.rand(3, 32, 40))
    assert [name for name, _ in shares] == ["1/4–1/2", "1/8–1/4", "1/16–1/8", "1/32–1/16", "0–1/32"]
    assert sum(share for _, share in shares) == pytest.approx(1)


def test_white_noise_has_three_quarters_in_the_top_octave() -> None:
    noise = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    assert octave_energy(noise)[0][1] == pytest.approx(0.75, abs=0.01)


def test_brightness_contrast_and_a_slope_do_not_look_like_detail() -> None:
    noise = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    shares = [share for _, share in octave_energy(noise)]
    assert [share for _, share in octave_energy(20 + 100 * noise)] == pytest.approx(shares, abs=1e-5)
    slope = torch.arange(64.0).expand(64, 64)
    # Without mirroring, the jump at the border would put over 2 % there.
    assert octave_energy(slope)[0][1] < 1e-3


def test_enlarging_empties_the_top_octaves() -> None:
    small = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, scale_factor=4, mode="bicubic")[0]
    shares = octave_energy(large)
    # Noise as such has 94 % there; what remains is the skirt of the bicubic filter.
    assert shares[0][1] < 0.001
    assert shares[1][1] < 0.1


@pytest.mark.parametrize("value", [0.0, 255.0, 3e5])
def test_flat_images_have_no_energy(value: float) -> None:
    assert {share for _, share in octave_energy(torch.full((3, 33, 65), value))} == {0.0}


def test_dataset_energy_is_the_mean_over_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8)
    images[::2] //= 8  # contrast must not weigh
    split = Split(images, torch.zeros(300).long())
    each = torch.tensor([[share for _, share in octave_energy(p)] for p in images], dtype=torch.float64)
    assert [s for _, s in dataset_energy(split)] == pytest.approx(each.mean(0).tolist(), abs=1e-6)
    monkeypatch.setattr(bands, "SAMPLE", 3)
    assert [s for _, s in dataset_energy(split)] == pytest.approx(
        each[[0, 100, 200]].mean(0).tolist(), abs=1e-6
    )


def test_dataset_energy_leaves_flat_images_out() -> None:
    images = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    images[1] = 7
    both = dict(dataset_energy(Split(images, torch.zeros(2).long())))
    assert both == pytest.approx(dict(dataset_energy(Split(images[:1], torch.zeros(1).long()))), abs=1e-6)
    assert sum(s for _, s in dataset_energy(Split(images[1:], torch.zeros(1).long()))) == 0


@pytest.mark.parametrize("shape", [(8, 8), (7, 8), (3, 5, 9), (1, 1), (2, 3, 7, 7)])
def test_bands_add_up_and_low_is_the_window_mean(shape: tuple[int, ...]) -> None:
    image = torch.randint(0, 256, shape, dtype=torch.uint8)
    low, high = split_bands(image)
    assert low.shape == high.shape == image.shape
    torch.testing.assert_close(low + high, image.float())
    flat, flat_low = image.float().reshape(-1, *shape[-2:]), low.reshape(-1, *shape[-2:])
    for y in range(shape[-2]):
        for x in range(shape[-1]):
            window = flat[:, y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2]
            torch.testing.assert_close(flat_low[:, y, x], window.mean((1, 2)))


def test_bands_of_doubles_stay_doubles() -> None:
    low, high = split_bands(torch.rand(4, 4, dtype=torch.float64))
    assert low.dtype == high.dtype == torch.float64


@pytest.mark.parametrize("size", [(40, 30), (30, 31), (20, 60), (120, 10)])
@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_draw_bands_writes_a_figure(tmp_path: Path, size: tuple[int, int], suffix: str, magic: bytes) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in.png")
    out = tmp_path / "figures" / f"out{suffix}"
    shares = draw_bands(tmp_path / "in.png", out)
    assert out.read_bytes().startswith(magic)
    assert shares == octave_energy(torch.from_numpy(noise).permute(2, 0, 1))


def test_draw_bands_accepts_a_flat_gray_image(tmp_path: Path) -> None:
    Image.new("L", (9, 9), 50).save(tmp_path / "in.png")
    assert {share for _, share in draw_bands(tmp_path / "in.png", tmp_path / "out.png")} == {0.0}


def test_draw_bands_leaves_pyplot_alone(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    Image.new("L", (9, 9), 50).save(tmp_path / "in.png")
    draw_bands(tmp_path / "in.png", tmp_path / "out.png")
    assert plt.get_fignums() == before


def test_read_image(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3), (1, 2, 3)).save(tmp_path / "in.png")
    image = read_image(tmp_path / "in.png")
    assert image.shape == (3, 3, 5)
    assert image[:, 0, 0].tolist() == [1, 2, 3]


def test_bad_input(tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.png", tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(InputError, match=re.escape(f"{missing} does not exist")):
        draw_bands(missing, tmp_path / "out.png")
    with pytest.raises(InputError, match=re.escape(f"{broken} cannot be read as an image")):
        draw_bands(broken, tmp_path / "out.png")
    Image.new("RGB", (5, 3)).save(tmp_path / "in.png")
    with pytest.raises(InputError, match=r"out=.*out\.docx has no known suffix: use \.png"):
        draw_bands(tmp_path / "in.png", tmp_path / "out.docx")
    with pytest.raises(InputError, match=r"shape \(2, 8, 8\)"):
        octave_energy(torch.rand(2, 8, 8))
    with pytest.raises(InputError, match="at least 2×2"):
        octave_energy(torch.rand(1, 8))
    with pytest.raises(InputError, match=r"shape \(4,\)"):
        split_bands(torch.rand(4))
    split = Split(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1).long())
    with pytest.raises(InputError, match="split is empty"):
        dataset_energy(Split(split.images[:0], split.labels[:0]))
