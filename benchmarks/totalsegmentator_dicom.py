"""What TotalSegmentator does with DICOM beside its network, by its own functions, in an environment that has it.

usage: python benchmarks/totalsegmentator_dicom.py STEP SERIES WORK, as benchmarks.dicom calls it
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

STEPS = ("read", "dicom-seg", "rtstruct")
# Of labels: where they lie and how far they reach, as shares of the scan along the patient's axes.
_ELLIPSOIDS = (
    (1, (0.4, 0.5, 0.55), (0.2, 0.2, 0.35)),
    (2, (0.65, 0.45, 0.3), (0.03, 0.04, 0.1)),
    (2, (0.6, 0.6, 0.6), (0.02, 0.02, 0.05)),
)
LABELS = {1: "liver", 2: "tumor"}


def ellipsoids(affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return a mask (x, y, z) of a liver and two tumours, which is the same in the patient however the axes point."""
    corners = np.array([affine[:3, 3], (affine @ [*(side - 1 for side in shape), 1])[:3]])
    low, extent = corners.min(axis=0), np.ptp(corners, axis=0)
    mask = np.zeros(shape, np.uint8)
    for z in range(shape[2]):
        x, y = np.ogrid[: shape[0], : shape[1]]
        places = (
            x[..., None] * affine[:3, 0] + y[..., None] * affine[:3, 1] + z * affine[:3, 2] + affine[:3, 3] - low
        ) / extent
        for label, centre, radius in _ELLIPSOIDS:
            mask[..., z][(((places - centre) / radius) ** 2).sum(axis=2) < 1] = label
    return mask


def measured(step: Any) -> dict[str, float]:
    """Do something once; return its seconds of the processor, and the MiB at most beyond what the process had."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, started = _memory_kib("VmRSS"), cpu_s()
    step()
    return {"s": cpu_s() - started, "mib": (_memory_kib("VmHWM") - before) / 1024}


def cpu_s() -> float:
    """Return the seconds of the processor that this process and those that it waited for have taken."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _memory_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main(step: str, series: Path, work: Path) -> None:
    """Print what a step takes."""
    import nibabel
    from totalsegmentator import dicom_io

    converted, mask = work / "converted.nii.gz", work / "totalsegmentator.npy"

    def read() -> None:  # as totalsegmentator.nnunet does it
        dicom_io.dcm_to_nifti(series, converted, work)
        image = nibabel.load(converted)
        nibabel.as_closest_canonical(nibabel.Nifti1Image(image.get_fdata(), image.affine))

    if step == "read":
        figures = measured(read)
        image = nibabel.load(converted)
        np.save(mask, ellipsoids(image.affine, image.shape))
    else:
        labels, affine, target = np.load(mask), nibabel.load(converted).affine, work / f"totalsegmentator.{step}.dcm"
        if step == "dicom-seg":
            figures = measured(lambda: dicom_io.save_mask_as_dicomseg(labels, LABELS, series, target, affine))
        else:
            figures = measured(lambda: dicom_io.save_mask_as_rtstruct(labels, LABELS, series, target))
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
