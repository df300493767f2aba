"""MXNet's .params files, without MXNet: arrays one after another, then their names.

A file begins with the number 0x112 and one that is reserved. Then come the count of arrays and the arrays,
the count of names and the names. An array begins with a number that tells the version of what follows:
storage kind (from version 2 on), dimensions, shape, device, dtype, and the values. All numbers are
little-endian.
"""

from __future__ import annotations

import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from octavize.errors import InputError, one_line

FILE = 0x112
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
"""By MXNet's number of a dtype."""
MOST_DIMENSIONS = 32
REMEDY = "copy it again; it has to be of save_parameters or mx.nd.save"


class _Cut(Exception):
    """The file ends early, or has what no MXNet writes."""


def read_mxnet(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `net.save_parameters(path)` or `mx.model.save_checkpoint`, as it names them.

    The prefixes `arg:` and `aux:` of the second are taken off. A .tar archive may hold the file; nothing is
    unpacked.

    Raises:
        InputError: it is missing, cut short, of another program, or has sparse arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path} does not exist: give the path of a .params file")
    try:
        return _Bytes(_content_of(path)).named_arrays()
    except _Cut as error:
        raise InputError(f"checkpoint {path} is no file of MXNet's arrays ({error}): {REMEDY}") from None


def is_archive(path: str | Path) -> bool:
    """Whether it is a .tar archive of files; the .pth.tar files of torch are none."""
    return Path(path).is_file() and tarfile.is_tarfile(path)


def _content_of(path: Path) -> bytes:
    if not is_archive(path):
        return path.read_bytes()
    try:
        with tarfile.open(path, "r:") as archive:
            found = [member for member in archive if member.isfile() and member.name.endswith(".params")]
            if len(found) != 1 or found[0].issparse():
                raise _Cut(f"the archive holds {len(found)} .params files, not a single whole one")
            file = archive.extractfile(found[0])
            return b"" if file is None else file.read()
    except (tarfile.TarError, OSError) as error:
        raise _Cut(f"the archive cannot be read: {one_line(error)}") from None


class _Bytes:
    """What is left to read."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = memoryview(content), 0

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self.content) - self.at:
            raise _Cut("it is cut short")
        self.at += count
        return self.content[self.at - count : self.at]

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))

    def named_arrays(self) -> dict[str, np.ndarray]:
        if self.numbers("QQ")[0] != FILE:
            raise _Cut("it begins otherwise")
        (count,) = self.numbers("Q")
        arrays = [self.array() for _ in range(self.at_most(count))]
        (named,) = self.numbers("Q")
        if named != count:
            raise _Cut(f"it has {count} arrays and {named} names")
        names = [self.name() for _ in arrays]
        if self.at != len(self.content):
            raise _Cut("it goes on after its end")
        return dict(zip(names, arrays, strict=True))

    def at_most(self, count: int) -> int:
        """A count of things that take at least four bytes each."""
        if count > (len(self.content) - self.at) // 4:
            raise _Cut("it is cut short")
        return count

    def array(self) -> np.ndarray:
        (version,) = self.numbers("I")
        if version in (VERSION_2, VERSION_3) and self.numbers("i")[0] != 0:
            raise _Cut("an array is sparse")
        known = version in (VERSION_1, VERSION_2, VERSION_3)
        (dimensions,) = self.numbers("I") if known else (version,)
        if not 0 < dimensions <= MOST_DIMENSIONS:
            raise _Cut(f"an array has {dimensions} dimensions")
        shape = self.numbers(f"{dimensions}{'q' if known else 'I'}")
        *_, dtype = self.numbers("iii")  # after the device's kind and number
        if not 0 <= dtype < len(DTYPES) or min(shape) < 0:
            raise _Cut(f"an array of shape {shape} has dtype {dtype}")
        size = int(np.prod(shape, dtype=object))
        values = self.take(size * np.dtype(DTYPES[dtype]).itemsize)
        return np.frombuffer(values, DTYPES[dtype]).reshape(shape)

    def name(self) -> str:
        try:
            text = bytes(self.take(self.numbers("Q")[0])).decode("utf-8")
        except UnicodeDecodeError:
            raise _Cut("a name is no text") from None
        return text.removeprefix("arg:").removeprefix("aux:")
