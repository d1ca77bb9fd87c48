"""Turns images so that the patient stands upright and faces the reader, as radiologists look at them."""

from typing import Any

import numpy as np

from flare_runtime.compute.arrays import AnyArray, Vector3
from flare_runtime.imaging.volume import Volume

_NO_ORIENTATION = "no_orientation"


class Upright:
    """Turns arrays (z, y, x) of a volume's grid so that x grows to the patient's left, y to the back and z to the head.

    Attributes:
        known: whether the volume says how the patient lies; where it does not, left and right are a guess.
    """

    def __init__(self, volume: Volume) -> None:
        from nibabel import orientations

        affine = volume.geometry.affine
        self.known = affine is not None and all(remark.code != _NO_ORIENTATION for remark in volume.remarks)
        self._of: Any = orientations
        wanted = self._of.axcodes2ornt(("L", "P", "S"))
        own = wanted if affine is None else self._of.io_orientation(affine)
        self._change = self._of.ornt_transform(own, wanted)

    def turned(self, voxels: AnyArray) -> AnyArray:
        """Return the array turned."""
        return np.asarray(self._of.apply_orientation(voxels.T, self._change)).T

    def spacing(self, spacing_mm: Vector3) -> Vector3:
        """Return the spacing (z, y, x) of turned arrays."""
        turned = [0.0, 0.0, 0.0]
        for side, (axis, _) in zip(spacing_mm[::-1], self._change, strict=True):
            turned[int(axis)] = side
        x, y, z = turned
        return z, y, x
