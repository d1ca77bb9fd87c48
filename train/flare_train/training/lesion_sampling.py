"""Draws every lesion of a preprocessed case as often, whatever its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flare_eval.components import label_components
from flare_runtime.compute.arrays import AnyArray
from flare_runtime.files.output import check_folder, replacing
from flare_runtime.pipeline.crop import mask_box

_LESION = 1
# Voxels kept of a case; nnU-Net draws the centre of a patch from as many of the whole class.
_VOXELS = 10_000
# Raise it where another sample is drawn from the same case.
_RULE = 1

Voxels = npt.NDArray[np.uint16]


class LesionDataset:
    """An nnU-Net dataset whose `class_locations` hold equally many voxels of every lesion of a case.

    nnU-Net centres its foreground patches on a random voxel of the class, so a lesion of 100,000 voxels is seen a
    thousand times as often as one of 100 beside it. Here both are seen as often.

    A case's lesions are found when it is first loaded and kept in a folder beside the preprocessed data, which nnU-Net
    does not list; where a case was preprocessed anew they are found anew. Nothing is held in memory.

    Attributes:
        identifiers: of the cases.
        source_folder: of the preprocessed data.

    Raises:
        OutputError: where the folder for the lesions cannot be written to.
    """

    def __init__(self, dataset: Any) -> None:
        """Wrap an `nnUNetBaseDataset`."""
        self.identifiers: list[str] = dataset.identifiers
        self.source_folder: str = dataset.source_folder
        self._dataset = dataset
        data = Path(dataset.source_folder)
        self._kept = data.with_name(f"{data.name}.lesions")
        check_folder(self._kept)

    def __getitem__(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        return self.load_case(identifier)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return image, label and former stage's label, each (c, z, y, x) or None, and the case's properties."""
        image, segmentation, former, properties = self._dataset.load_case(identifier)
        locations = properties["class_locations"]
        if len(locations.get(_LESION, ())):
            voxels = self._voxels(identifier, segmentation)
            # As nnU-Net has them: a leading channel, and signed, since half a patch is subtracted.
            ours = np.pad(voxels.astype(np.int64), ((0, 0), (1, 0)))
            properties = {**properties, "class_locations": {**locations, _LESION: ours}}
        return image, segmentation, former, properties

    def _voxels(self, identifier: str, segmentation: Any) -> Voxels:
        """Return the case's sample (n, 3), from disk if it is there and of the very file that is loaded."""
        status = Path(self.source_folder, f"{identifier}.pkl").stat()  # every format has one, written last
        made_of = np.array([_RULE, status.st_size, status.st_mtime_ns])
        file = self._kept / f"{identifier}.npz"
        if file.is_file():
            with np.load(file) as kept:
                if np.array_equal(kept["made_of"], made_of):
                    return np.asarray(kept["voxels"], np.uint16)
        voxels = equal_sample(np.asarray(segmentation[0]) == _LESION)
        with replacing(file) as target:
            np.savez(target, made_of=made_of, voxels=voxels)
        return voxels


def equal_sample(mask: AnyArray, most: int = _VOXELS) -> Voxels:
    """Return voxels (n, 3) of a mask (z, y, x), equally many of every 26-connected component.

    They are as many as the largest component has, if that makes no more than `most` in all, but one of each at least.
    A smaller component's voxels are repeated. The same mask gives the same sample.

    Args:
        mask: with a voxel at least.
        most: voxels in all.
    """
    box = mask_box(mask)
    if box is None:
        raise ValueError("the mask is empty")
    components, count = label_components(mask[box])
    inside = np.flatnonzero(components)
    belongs = components.reshape(-1)[inside]
    sizes = np.bincount(belongs, minlength=count + 1)[1:]
    each = max(min(most // count, int(sizes.max())), 1)
    rng = np.random.default_rng(0)  # of its own: the global generator is seeded by epoch
    parts = np.split(inside[np.argsort(belongs, kind="stable")], np.cumsum(sizes)[:-1])
    drawn = [
        rng.choice(part, each, replace=False) if len(part) >= each else np.resize(rng.permutation(part), each)
        for part in parts
    ]
    voxels = np.stack(np.unravel_index(np.concatenate(drawn), components.shape), axis=1)
    return np.asarray(voxels + box.start, np.uint16)
