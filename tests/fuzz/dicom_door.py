"""The door of DICOM: the series of a folder, a file or an archive, and their voxels."""

import tempfile
from pathlib import Path
from random import Random

import numpy as np

from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import find_series, read_grid, read_volume
from tests.fuzz.dicom_inputs import odd_series
from tests.fuzz.nifti_door import MAX_VOXELS
from tests.runtime.dicom_files import Series

COUNT = 20_000


class DicomDoor:
    """Finds the series and reads every one, and asserts that what was read can be computed with."""

    def make(self, rng: Random, folder: Path) -> Path:
        """Write an odd folder, file or archive."""
        return odd_series(rng, folder)

    def enter(self, path: Path) -> None:
        """Find and read; the refusal of the last series that was refused is raised."""
        refusal: CaseError | None = None
        for series in find_series(path):
            try:
                volume = read_volume(series, MAX_VOXELS)
            except CaseError as error:
                refusal = error
                continue
            assert read_grid(series, MAX_VOXELS) == volume.grid
            assert all(0.1 <= spacing <= 20 for spacing in volume.spacing_mm), volume.spacing_mm
            assert np.isfinite(volume.intensities(volume.voxels)).all(), "intensities that are not finite"
        if refusal:
            raise refusal


def open_door(_workspace: Path) -> DicomDoor:
    """Return the door, with everything imported."""
    door = DicomDoor()
    with tempfile.TemporaryDirectory() as folder:
        door.enter(Series(count=3).write(Path(folder, "scan")))
    return door
