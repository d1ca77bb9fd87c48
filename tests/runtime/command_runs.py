"""What the tests of the command run it on, and how they read what it leaves and says."""

import subprocess
import sys

from tests.runtime.nifti_files import blobs, write_nifti

SPACING = (2.5, 1.5, 1.5)  # the tiny network's own


def write_scan(folder):
    """Write a sound scan and return its path."""
    return write_nifti(folder / "scan_0000.nii.gz", blobs((20, 30, 28)), spacing_mm=SPACING)


def write_cohort(folder):
    """Make a folder with two sound scans, `a` and `c`, and a truncated one, `b`; return it."""
    folder.mkdir()
    for seed, name in enumerate("abc"):
        write_nifti(folder / f"{name}_0000.nii.gz", blobs((16, 17, 18), seed), spacing_mm=SPACING)
    data = (folder / "b_0000.nii.gz").read_bytes()
    (folder / "b_0000.nii.gz").write_bytes(data[: len(data) // 2])
    return folder


def spawn(*arguments, **options):
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "flare_runtime.cli", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def one_line(err):
    """Return the message of a run that failed before its first case, which is one line."""
    (line,) = err.splitlines()
    assert line.startswith("flare-infer: ")
    return line
