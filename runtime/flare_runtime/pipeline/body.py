"""Find the patient in a CT, so that the network need not run over the table and the air around."""

from math import ceil

import numpy as np

from flare_runtime.compute.box import Box
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.crop import mask_box

# Between lung or foam and fat, in Hounsfield units.
_TISSUE_HU = -300
# A body is found on a grid as coarse as this, on which a scan of 512 x 512 x 300 becomes a million voxels.
_GRID_MM = 4.0
# A body is thicker than this; table tops, sheets and tubes are not.
_THIN_MM = 12.0
# Arms and legs are parts of their own: of at least this size, or share of the largest part in a thin or small scan.
_PART_ML, _PART_SHARE = 20.0, 0.02
MARGIN_MM = 16.0


def body_box(volume: Volume) -> Box | None:
    """Return the box (z, y, x) that holds the patient and a margin, or None where nothing is as dense as a body.

    Args:
        volume: a CT in Hounsfield units.
    """
    strides = [max(1, round(_GRID_MM / side)) for side in volume.spacing_mm]
    z, y, x = strides
    coarse = volume.intensities(volume.voxels[::z, ::y, ::x])
    spacing = [stride * side for stride, side in zip(strides, volume.spacing_mm, strict=True)]
    box = mask_box(_parts(coarse > _TISSUE_HU, spacing))
    if box is None:
        return None
    margin = [ceil(MARGIN_MM / side) + stride for side, stride in zip(volume.spacing_mm, strides, strict=True)]
    return Box.between(*np.multiply((box.start, box.stop), strides)).grown(margin).clipped(volume.shape)


def _parts(tissue: np.ndarray, spacing_mm: list[float]) -> np.ndarray:
    """Return the thick parts of the tissue that are large enough; slice by slice, as a body may be one slice."""
    from scipy import ndimage  # takes half the time of a cold start, and only `--crop body` needs it

    ry, rx = (max(1, int(_THIN_MM / 2 / side)) for side in spacing_mm[1:])
    # Beyond the edge of the image the body goes on.
    padded = np.pad(tissue, ((0, 0), (ry, ry), (rx, rx)), mode="edge")
    thick = ndimage.binary_opening(padded, np.ones((1, 2 * ry + 1, 2 * rx + 1), bool))[:, ry:-ry, rx:-rx]
    labels, count = ndimage.label(thick)
    sizes_ml = np.bincount(labels.ravel(), minlength=count + 1) * float(np.prod(spacing_mm)) / 1000
    sizes_ml[0] = 0
    large = sizes_ml >= min(_PART_ML, _PART_SHARE * sizes_ml.max())
    large[0] = False
    return np.asarray(large[labels])
