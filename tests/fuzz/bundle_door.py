"""The door that every bundle takes: opened, its networks checked and compiled by each engine, and run once."""

import tempfile
import warnings
from pathlib import Path
from random import Random

import numpy as np

from flare_runtime.backends.openvino.int8 import cpu_has_int8, encode_ranges
from flare_runtime.backends.selection import open_network
from flare_runtime.model.bundle import Bundle
from flare_runtime.options import RunOptions
from flare_runtime.segmenter import Segmenter
from tests.fuzz.bundle_inputs import Files, with_ranges, write_bundle, write_odd_bundle
from tests.runtime.nifti_files import blobs
from tests.runtime.test_openvino_int8 import ranges_of

COUNT = 10_000
_SPACING_MM = (2.5, 1.5, 1.5)


class BundleDoor:
    """Segments a small volume with what each engine makes of a bundle."""

    def __init__(self, sound: Files) -> None:
        self.sound = sound
        self._image = blobs((16, 16, 16))
        self._choices = [("openvino", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "fp16")]
        self._choices += [("openvino", "int8")] if cpu_has_int8() else []

    def make(self, rng: Random, folder: Path) -> Path:
        """Write one odd bundle."""
        return write_odd_bundle(rng, self.sound, folder)

    def enter(self, path: Path) -> None:
        """Open it, and let every engine load and run its networks."""
        bundle = Bundle.open(path)
        for file in bundle.manifest.files:
            bundle.read(file)
        volumes = np.stack([self._image] * len(bundle.manifest.channels))
        for backend, precision in self._choices:
            network = open_network(bundle, RunOptions(device="cpu", backend=backend, precision=precision, threads=1))
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                segmentation = Segmenter(bundle, network, RunOptions(threads=1)).segment(volumes, _SPACING_MM)
            assert segmentation.mask.shape == self._image.shape
            allowed = bundle.manifest.regions_class_order or range(bundle.manifest.network.outputs)
            assert set(np.unique(segmentation.mask).tolist()) <= {0, *allowed}


def open_door(workspace: Path) -> BundleDoor:
    """Return the door, every engine loaded once by the sound bundle."""
    folder = workspace / "bundle"
    sound = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    door = BundleDoor(with_ranges(sound, encode_ranges(ranges_of(folder))))
    with tempfile.TemporaryDirectory() as scratch:
        door.enter(write_bundle(door.sound, Path(scratch)))
    return door
