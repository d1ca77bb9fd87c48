"""A picture of one case: three planes through the largest lesion, reference and prediction as outlines."""

from io import BytesIO

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import AnyArray, MaskArray, Vector3

SOFT_TISSUE_HU = (-160.0, 240.0)
REFERENCE_COLOUR = "#4cc9f0"
PREDICTION_COLOUR = "#ff9f1c"
_PLANES = ("axial", "coronal", "sagittal")


def focus(mask: MaskArray) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) of the largest axial section of `mask`, or the middle of an empty one."""
    if not mask.any():
        z, y, x = (n // 2 for n in mask.shape)
        return z, y, x
    areas = np.count_nonzero(mask, axis=(1, 2))
    z = int(areas.argmax())
    inside = np.argwhere(mask[z])
    y, x = inside[np.abs(inside - inside.mean(axis=0)).sum(axis=1).argmin()]
    return z, int(y), int(x)


def draw_overlay(
    image: AnyArray,
    spacing_mm: Vector3,
    prediction: MaskArray,
    reference: MaskArray | None = None,
    *,
    title: str = "",
    window_hu: tuple[float, float] = SOFT_TISSUE_HU,
) -> bytes:
    """Return a PNG with the axial, coronal and sagittal plane through the reference's (else prediction's) lesion.

    Args:
        image: (z, y, x) in Hounsfield units.
        spacing_mm: (z, y, x); the planes are drawn to scale.
        prediction: labels on the same grid, drawn orange and dashed.
        reference: labels on the same grid, drawn blue.
        title: above the picture.
        window_hu: the grey scale's range.
    """
    from matplotlib.figure import Figure

    centre = focus(reference if reference is not None and reference.any() else prediction)
    figure = Figure(figsize=(13, 4.6), facecolor="black", layout="constrained")
    for axis, (name, axes) in enumerate(zip(_PLANES, figure.subplots(1, 3), strict=True)):
        rows, columns = (side for side in range(3) if side != axis)

        def plane(volume: AnyArray, axis: int = axis) -> npt.NDArray[np.float32]:
            return np.asarray(np.take(volume, centre[axis], axis=axis), np.float32)

        # Feet are at the bottom: z grows upwards in the coronal and sagittal planes.
        axes.imshow(
            plane(image),
            cmap="gray",
            vmin=window_hu[0],
            vmax=window_hu[1],
            aspect=spacing_mm[rows] / spacing_mm[columns],
            origin="upper" if axis == 0 else "lower",
        )
        for mask, colour, line in ((reference, REFERENCE_COLOUR, "solid"), (prediction, PREDICTION_COLOUR, "dashed")):
            if mask is not None and plane(mask).any():
                axes.contour(plane(mask) > 0, levels=[0.5], colors=colour, linewidths=1.3, linestyles=line)
        axes.set_title(name, color="white", fontsize=10)
        axes.set_axis_off()
    legend = "blue: reference, orange: prediction"
    figure.suptitle(f"{title}\n{legend}".strip(), color="white", fontsize=11, parse_math=False)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()
