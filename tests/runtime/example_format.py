"""A file format of its own, to show what a new one takes: a reader or a writer, and an entry in its tuple."""

import struct

import numpy as np

from flare_runtime.errors import CaseError
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Grid, Volume

# Magic, voxel counts and spacing in mm, both (z, y, x), and the place of the first voxel (x, y, z); then the voxels.
_HEADER = struct.Struct("<4s3i3d3d")
MAGIC = {"i2": b"RAW2", "u1": b"RAW1"}


def encoded(voxels, spacing_mm, origin_mm):
    """Return a file of voxels (z, y, x), of which a scan has two bytes each and a mask one."""
    head = _HEADER.pack(MAGIC[voxels.dtype.str[1:]], *voxels.shape, *spacing_mm, *origin_mm)
    return head + np.ascontiguousarray(voxels).tobytes()


def decoded(data):
    """Return voxels, spacing and place of the first voxel."""
    magic, z, y, x, *places = _HEADER.unpack_from(data)
    (dtype,) = (kind for kind, of_kind in MAGIC.items() if of_kind == magic)
    return np.frombuffer(data, dtype, offset=_HEADER.size).reshape(z, y, x), tuple(places[:3]), tuple(places[3:])


class RawReader:
    """Reads scans in this format."""

    suffixes = (".raw3d",)

    def read_volume(self, path, max_voxels):
        """Read the header, and the voxels."""
        grid = self.read_grid(path, max_voxels)
        voxels, spacing_mm, origin_mm = decoded(path.read_bytes())
        affine = np.diag([*spacing_mm[::-1], 1.0])
        affine[:3, 3] = origin_mm
        return Volume(voxels, Geometry(affine, spacing_mm, grid.shape), source=origin_mm)

    def read_grid(self, path, max_voxels):
        """Read the header."""
        with path.open("rb") as file:
            magic, z, y, x, *places = _HEADER.unpack(file.read(_HEADER.size))
        if magic != MAGIC["i2"]:
            raise CaseError("not_raw3d", "this is not a scan in the raw format")
        if z * y * x > max_voxels:
            raise CaseError("too_large", f"the volume has {z * y * x} voxels; at most {max_voxels} are allowed")
        return Grid((z, y, x), tuple(places[:3]), 2)


class RawMaskWriter:
    """Writes masks in this format; of other formats' sources it needs the geometry alone."""

    suffixes = (".raw3d",)

    def encode(self, file, _name, mask, template, *, keep_text):
        """Write a mask."""
        del keep_text
        origin_mm = template.source if isinstance(template.source, tuple) else template.geometry.affine[:3, 3]
        file.write(encoded(mask, template.geometry.spacing_mm, origin_mm))

    def is_mask(self, head):
        """Whether it begins as a mask does."""
        return head.startswith(MAGIC["u1"])
