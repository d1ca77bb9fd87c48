"""The scans that benchmarks write: one phantom, over and over where more voxels are wanted than it has."""

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from flare_phantom.phantom import make_phantom
from flare_runtime.compute.arrays import Shape3, Vector3

BLOCK: Shape3 = (100, 512, 512)


def write_scan(file: Path, shape: Shape3, spacing_mm: Vector3, kind: str = "int16") -> None:
    """Write a scan (z, y, x) whose voxels are of the type `kind`."""
    z, y, x = map(min, shape, BLOCK)
    image = np.resize(_phantom()[:z, :y, :x], shape).astype(kind, copy=False)
    z_mm, y_mm, x_mm = spacing_mm
    nib.save(nib.Nifti1Image(image.transpose(), np.diag([x_mm, y_mm, z_mm, 1])), file)


@cache
def _phantom() -> npt.NDArray[np.int16]:
    return make_phantom(1, BLOCK, (2.5, 0.8, 0.8)).image
