"""A valid manifest to start from, and networks that are plain arithmetic."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import Manifest

NETWORK = b"the network's bytes"
FILE_FIELDS = {
    "name": "network.onnx",
    "role": "network",
    "sha256": hashlib.sha256(NETWORK).hexdigest(),
    "bytes": len(NETWORK),
    "precision": "fp32",
}


def manifest_fields(**changes: Any) -> dict[str, Any]:
    """Return a manifest as JSON would hold it, with `changes` at the top level."""
    return {
        "schema_version": 1,
        "name": "hand-made",
        "licence": "CC0-1.0",
        "labels": [{"name": "lesion", "values": [1]}],
        "regions_class_order": None,
        "channels": [
            {
                "name": "CT",
                "normalisation": {"scheme": "ct", "lower": -600.0, "upper": 500.0, "mean": 40.0, "std": 120.0},
            }
        ],
        "spacing_mm": [2.5, 1.5, 1.5],
        "patch": [8, 8, 8],
        "step": 0.5,
        "transpose_forward": [0, 1, 2],
        "image_resampling": {"order": 3},
        "logits_resampling": {"order": 1},
        "mirror_axes": [0, 1, 2],
        "network": {
            "architecture": "PlainConvUNet",
            "stages": 2,
            "features": [4, 8],
            "parameters": 1000,
            "gmac": 0.1,
            "outputs": 2,
        },
        "files": [FILE_FIELDS],
        "provenance": {
            "checkpoints": {"0": "0" * 64},
            "dataset": "Dataset999_Tiny",
            "trainer": "nnUNetTrainer",
            "configuration": "3d_fullres",
            "epochs": [2],
            "exporter": {},
        },
        "parity": [],
        **changes,
    }


def make_manifest(**changes: Any) -> Manifest:
    """Return the validated manifest of `manifest_fields`."""
    return msgspec.convert(manifest_fields(**changes), Manifest)


def write_bundle(path: Path, **changes: Any) -> Path:
    """Write a bundle whose network is only bytes."""
    path.mkdir()
    (path / "manifest.json").write_text(json.dumps(manifest_fields(**changes)))
    (path / "network.onnx").write_bytes(NETWORK)
    return path


def memory_bundle(**changes: Any) -> Bundle:
    """Return a bundle that has never been on disk."""
    return Bundle(Path("nowhere"), make_manifest(**changes), "0" * 64)


class ArithmeticNetwork:
    """A network whose logits are a function of the tiles, for tests that compute them by hand.

    The two-class default prefers the lesion where the first channel is positive.
    """

    backend, device, precision, batch = "arithmetic", "cpu", "fp32", 1

    def __init__(self, function=lambda tiles: np.concatenate([-tiles[:, :1], tiles[:, :1]], axis=1)):
        self._function = function
        self.calls = 0

    def run(self, tiles):
        self.calls += 1
        return np.ascontiguousarray(self._function(tiles), dtype=np.float32)

    def release(self):
        pass
