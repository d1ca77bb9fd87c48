"""The door that every image takes: `read_volume`, and the header of the mask that goes back with it."""

import tempfile
from pathlib import Path
from random import Random

import numpy as np

from flare_runtime.imaging.nifti_mask import mask_header
from flare_runtime.imaging.read import read_volume
from tests.fuzz.nifti_inputs import odd_file
from tests.runtime.nifti_files import noise, write_nifti

COUNT = 90_000
# Nothing that is made here holds more.
MAX_VOXELS = 1 << 26


class NiftiDoor:
    """Reads a file and asserts that what was read can be computed with."""

    def make(self, rng: Random, folder: Path) -> Path:
        """Write one odd file."""
        name, data = odd_file(rng)
        path = folder / name
        path.write_bytes(data)
        return path

    def enter(self, path: Path) -> None:
        """Read it."""
        volume = read_volume(path, MAX_VOXELS)
        assert min(volume.shape) >= 1
        assert all(0.1 <= spacing <= 20 for spacing in volume.spacing_mm), volume.spacing_mm
        intensities = volume.with_background(0).intensities(volume.voxels)
        assert np.isfinite(intensities).all(), "intensities that are not finite"
        head = mask_header(volume.shape, volume.template)
        assert len(head) in (352, 544)


def open_door(_workspace: Path) -> NiftiDoor:
    """Return the door, with everything imported."""
    door = NiftiDoor()
    with tempfile.TemporaryDirectory() as folder:
        door.enter(write_nifti(Path(folder, "sound.nii.gz"), noise((3, 3, 3))))
    return door
