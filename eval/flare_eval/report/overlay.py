"""A picture of one case: three planes through the largest lesion, a row a method, masks as outlines."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from flare_runtime.compute.arrays import AnyArray, MaskArray, Vector3

SOFT_TISSUE_HU = (-160.0, 240.0)
REFERENCE_COLOUR = "#4cc9f0"
PREDICTION_COLOUR = "#ff9f1c"
# What is on the left and on the right of a plane: the patient faces the reader, or looks to the left.
_PLANES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
_WIDTH, _ROW, _HEAD = 13.0, 4.1, 0.5  # inches
# So that letters can be read over bone.
_SHADE = {"facecolor": "black", "edgecolor": "none", "alpha": 0.55, "pad": 1.5}


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
    predictions: Mapping[str, MaskArray],
    reference: MaskArray | None = None,
    *,
    title: str = "",
    sides_known: bool = True,
) -> bytes:
    """Return a PNG with the axial, coronal and sagittal plane through the reference's (else a prediction's) lesion.

    Args:
        image: (z, y, x) in Hounsfield units; x grows to the patient's left, y to the back and z to the head.
        spacing_mm: (z, y, x); the planes are drawn to scale.
        predictions: labels on the same grid by what their row is called, drawn orange and dashed.
        reference: labels on the same grid, drawn blue.
        title: above the picture.
        sides_known: whether R and L are marked.
    """
    from matplotlib.figure import Figure

    seen = [mask for mask in (reference, *predictions.values()) if mask is not None and mask.any()]
    centre = focus(seen[0] if seen else next(iter(predictions.values())))
    size = (_WIDTH, _HEAD + _ROW * len(predictions))
    figure = Figure(figsize=size, facecolor="black", layout="constrained")
    rows = figure.subplots(len(predictions), len(_PLANES), squeeze=False)
    for row, (name, mask) in zip(rows, predictions.items(), strict=True):
        outlines = ((reference, REFERENCE_COLOUR, "solid"), (mask, PREDICTION_COLOUR, "dashed"))
        for axis, axes in enumerate(row):
            _draw_plane(axes, image, spacing_mm, axis, centre[axis])
            for labels, colour, line in outlines:
                if labels is not None:
                    _outline(axes, np.take(labels, centre[axis], axis=axis), colour, line)
            _mark(axes, axis, sides_known)
        _write(row[0], 0.01, 0.99, name, fontsize=10, va="top", parse_math=False)
    legend = "orange: prediction" if reference is None else "blue: reference, orange: prediction"
    legend += "" if sides_known else "; the image does not say where left and right are"
    figure.suptitle(f"{title}\n{legend}".strip(), color="white", fontsize=11, parse_math=False)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _draw_plane(axes: Any, image: AnyArray, spacing_mm: Vector3, axis: int, at: int) -> None:
    height, width = (spacing_mm[side] for side in range(3) if side != axis)
    low, high = SOFT_TISSUE_HU
    # Feet are at the bottom: z grows upwards in the coronal and sagittal planes.
    axes.imshow(
        np.asarray(np.take(image, at, axis=axis), np.float32),
        cmap="gray",
        vmin=low,
        vmax=high,
        aspect=height / width,
        origin="upper" if axis == 0 else "lower",
    )
    axes.set_axis_off()


def _outline(axes: Any, labels: MaskArray, colour: str, line: str) -> None:
    """Draw the outline of every label of a plane."""
    for value in np.unique(labels[labels > 0]):
        axes.contour(labels == value, levels=[0.5], colors=colour, linewidths=1.3, linestyles=line)


def _mark(axes: Any, axis: int, sides_known: bool) -> None:
    name, sides = list(_PLANES.items())[axis]
    axes.set_title(name, color="white", fontsize=10)
    for side, at, align in zip(sides, (0.01, 0.99), ("left", "right"), strict=True):
        if sides_known:
            _write(axes, at, 0.5, side, fontsize=12, ha=align, va="center")


def _write(axes: Any, x: float, y: float, text: str, **how: Any) -> None:
    axes.text(x, y, text, color="white", transform=axes.transAxes, bbox=_SHADE, **how)
