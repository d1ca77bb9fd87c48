"""The whole of what `flare-infer` does with one image: found, read, segmented, written, recorded."""

import tempfile
from pathlib import Path

import msgspec

from flare_runtime.cases.finding import find_cases
from flare_runtime.errors import CaseError
from flare_runtime.imaging.read import read_volume
from flare_runtime.options import RunOptions
from flare_runtime.run.serial import segment_cases
from flare_runtime.segmenter import Segmenter
from tests.fuzz.nifti_door import MAX_VOXELS, NiftiDoor
from tests.runtime.nifti_files import blobs, write_nifti

COUNT = 10_000


class CaseDoor(NiftiDoor):
    """Segments a file with the tiny model into a folder of its own."""

    def __init__(self, bundle: Path) -> None:
        self._segmenter = Segmenter.load(
            bundle, RunOptions(device="cpu", precision="fp32", threads=1, any_intensity=True, max_voxels=MAX_VOXELS)
        )

    def enter(self, path: Path) -> None:
        """Segment it, and assert that there is a mask on its grid and its record, or neither."""
        with tempfile.TemporaryDirectory(prefix="flare-fuzz-") as folder:
            target = Path(folder)
            cases = find_cases(path, target, 1)
            (record,) = segment_cases(self._segmenter, cases)
            written = sorted(file.name for file in target.iterdir())
            msgspec.json.encode(record)
            if record.status == "refused":
                assert "scan.nii.gz" not in written, written
                raise CaseError(record.reason or "", record.message or "")
            assert record.status == "done", record
            assert written == ["scan.json", "scan.nii.gz"], written
            assert read_volume(target / "scan.nii.gz").shape == record.shape


def open_door(workspace: Path) -> CaseDoor:
    """Return the door, its network loaded."""
    door = CaseDoor(workspace / "bundle")
    with tempfile.TemporaryDirectory() as folder:
        door.enter(write_nifti(Path(folder, "scan.nii.gz"), blobs((16, 16, 16)), spacing_mm=(2.5, 1.5, 1.5)))
    return door
