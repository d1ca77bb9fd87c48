"""Connected components of a mask: voxels belong together where they touch by a face, an edge or a corner."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray

Components: TypeAlias = npt.NDArray[np.int32]


def label_components(mask: AnyArray) -> tuple[Components, int]:
    """Return each voxel's component (z, y, x), 26-connected and counted from 1, 0 outside, and how many there are."""
    from scipy.ndimage import label

    components, count = label(mask, structure=np.ones((3, 3, 3)))
    return components, int(count)
