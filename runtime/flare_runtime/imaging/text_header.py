"""NRRD and MetaImage: a text that says what the voxels are, and the voxels behind it in the same file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import Shape3
from flare_runtime.errors import CaseError
from flare_runtime.imaging.byte_stream import ByteStream, Packing, open_regular
from flare_runtime.imaging.geometry import Geometry, checked_shape
from flare_runtime.imaging.stored_voxels import check_size, read_voxels
from flare_runtime.imaging.volume import Grid, Volume

# Enough for any image's text; some programs add what they like.
_MAX_TEXT_BYTES = 1 << 20
_PIECE = 1 << 12


@dataclass(frozen=True)
class Layout:
    """What a text says of the voxels.

    Attributes:
        counts: numbers of voxels (x, y, z).
        dtype: as stored, with the byte order.
        affine: (4, 4), from voxel (x, y, z) to place in mm, in RAS axes.
        packing: of the bytes of the voxels.
    """

    counts: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: npt.NDArray[np.float64]
    packing: Packing


class TextHeaderReader:
    """Reads images of one of these formats.

    Refuses with one of the reasons `not_a_file`, `not_nrrd` or `not_metaimage`, `truncated`, `corrupt`,
    `bad_dimensions`, `unsupported_type`, `too_large`, `bad_spacing`, `bad_orientation` and `sheared`.

    Args:
        suffixes: of the files' names.
        end: finds where the text of a file's beginning ends; None where it goes on.
        layout: reads the text.
        reason: of a file that has no such text.
    """

    def __init__(
        self,
        suffixes: tuple[str, ...],
        end: Callable[[bytes], int | None],
        layout: Callable[[bytes], Layout],
        reason: str,
    ) -> None:
        self.suffixes = suffixes
        self._end = end
        self._layout = layout
        self._reason = reason

    def read_volume(self, path: Path, max_voxels: int) -> Volume:
        """Read an image; a compressed stream is decoded to its end and the checksum compared."""
        layout, shape, start = self._read_text(path)
        with ByteStream(path, start, layout.packing) as stream:
            check_size(stream, shape, layout.dtype, max_voxels)
            geometry = Geometry.of_affine(layout.affine, shape)
            voxels, remarks = read_voxels(stream, shape, layout.dtype)
        return Volume(voxels, geometry, remarks=tuple(remarks))

    def read_grid(self, path: Path, max_voxels: int) -> Grid:
        """Read what the text says of the voxels."""
        layout, shape, start = self._read_text(path)
        with ByteStream(path, start, layout.packing) as stream:
            check_size(stream, shape, layout.dtype, max_voxels)
        geometry = Geometry.of_affine(layout.affine, shape)
        return Grid(shape, geometry.spacing_mm, layout.dtype.itemsize, geometry)

    def _read_text(self, path: Path) -> tuple[Layout, Shape3, int]:
        """Return what the text says, the shape (z, y, x), and where the voxels begin."""
        text = b""
        with open_regular(path) as file:
            while (end := self._end(text)) is None:
                piece = file.read(_PIECE)
                if not piece or len(text) > _MAX_TEXT_BYTES:
                    raise CaseError(self._reason, f"this is no {self.suffixes[0]} file with its voxels in it")
                text += piece
        layout = self._layout(text[:end])
        return layout, checked_shape(layout.counts), end


def fields_of(pairs: Iterable[tuple[str, str]], known: frozenset[str]) -> dict[str, str]:
    """Return what a text says by the names of its fields, without spaces around.

    Raises:
        CaseError: `corrupt` where it says one of the known ones twice.
    """
    fields: dict[str, str] = {}
    for name, value in ((name.strip(), value.strip()) for name, value in pairs):
        if name in fields and name in known:
            raise CaseError("corrupt", f"the field {name!r} is there twice; save the image anew")
        fields[name] = value
    return fields


def check_axes(fields: Mapping[str, str], name: str, counts: tuple[int, ...]) -> None:
    """Refuse an image that has not three axes, or whose field of this name says another number.

    Raises:
        CaseError: `bad_dimensions`.
    """
    said = fields.get(name, "")
    if len(counts) != 3 or said != "3":
        text = f"the image has {len(counts)} axes, its field {name!r} is {said!a:.20}"
        raise CaseError("bad_dimensions", f"{text}; one 3D volume is needed")


def numbers(fields: Mapping[str, str], name: str, count: int | None = None) -> list[float]:
    """Return the numbers that a field holds.

    Raises:
        CaseError: `bad_orientation` where it is absent, or does not hold so many finite numbers and nothing else.
    """
    text = fields.get(name, "")
    try:
        values = [float(word) for word in text.replace("(", " ").replace(")", " ").replace(",", " ").split()]
    except ValueError:
        values = []
    if not values or len(values) != (count or len(values)) or not np.all(np.isfinite(values)):
        raise CaseError("bad_orientation", f"the field {name!r} is {text!a:.60}; it needs {count or 'some'} numbers")
    return values


def whole_numbers(fields: Mapping[str, str], name: str) -> tuple[int, ...]:
    """Return the whole numbers of a field.

    Raises:
        CaseError: `bad_dimensions` where it holds others, or numbers that no image has.
    """
    text = fields.get(name, "")
    words = text.split()
    if not words or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise CaseError("bad_dimensions", f"the field {name!r} is {text!a:.60}; the numbers of voxels are needed")
    return tuple(map(int, words))


def affine_of(columns: npt.ArrayLike, origin: npt.ArrayLike, flipped: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return an affine (4, 4) of the ways (rows of a 3 x 3) from a voxel to its neighbours, flipping axes into RAS."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(np.asarray(columns, np.float64), (3, 3)).T
    affine[:3, 3] = origin
    affine[list(flipped)] *= -1
    return affine
