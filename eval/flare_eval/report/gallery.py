"""Pictures of a method's best and worst cases, cut out around the lesion as a paper's figure shows them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flare_eval.components import label_components
from flare_eval.labels import read_labels
from flare_eval.report.overlay import draw_overlay, focus
from flare_eval.results import Accuracy, CaseAccuracy
from flare_runtime.compute.arrays import AnyArray, MaskArray, Vector3
from flare_runtime.compute.box import Box
from flare_runtime.errors import CaseError
from flare_runtime.imaging.file_names import find_image
from flare_runtime.imaging.read import read_volume
from flare_runtime.pipeline.crop import mask_box
from flare_runtime.pipeline.normalisation import AIR_HU

# Around the lesion there is this much of the body, and no cut is smaller than the second number.
_MARGIN_MM = 40.0
_SMALLEST_MM = 160.0


@dataclass(frozen=True)
class Picture:
    """One case of the gallery.

    Attributes:
        method: that made the prediction.
        rank: `best` or `worst`, with its place, such as "worst 1".
        case: its accuracy.
        png: the picture; None where there is none.
        problem: why there is none.
    """

    method: str
    rank: str
    case: CaseAccuracy
    png: bytes | None = None
    problem: str = ""


def best_and_worst(result: Accuracy, count: int) -> tuple[list[CaseAccuracy], list[CaseAccuracy]]:
    """Return at most `count` cases of the highest DSC and as many of the lowest, none in both.

    Where neither reference nor prediction holds a lesion there is nothing to see. Of cases of one DSC, the one with
    more reference is the worse failure and the better success.
    """
    seen = [case for case in result.scored if case.reference_ml or case.prediction_ml]
    order = sorted(seen, key=lambda case: (case.dsc or 0.0, -(case.reference_ml or 0.0), case.case))
    half = len(order) // 2
    best = sorted(order[half:], key=lambda case: (-(case.dsc or 0.0), -(case.reference_ml or 0.0), case.case))
    return best[:count], order[: min(count, half)]


def pictures(result: Accuracy, images: Path, count: int) -> Iterator[Picture]:
    """Draw the best and the worst cases of a method; where a file is absent or unusable the reason is given."""
    for name, cases in zip(("best", "worst"), best_and_worst(result, count), strict=True):
        for place, case in enumerate(cases, 1):
            try:
                png, problem = draw_case(case, images), ""
            except CaseError as error:
                png, problem = None, str(error)
            yield Picture(result.method, f"{name} {place}", case, png, problem)


def draw_case(case: CaseAccuracy, images: Path) -> bytes:
    """Return a PNG of the three planes through the case's lesion, the patient upright and facing the reader.

    Raises:
        CaseError: where a file is absent or cannot be read, or the grids differ.
    """
    path = find_image(images, case.case)
    if path is None:
        raise CaseError("no_image", f"{images} holds no <case>_0000.nii.gz and no <case>.nii.gz of it")
    image = read_volume(path)
    _, truth = read_labels(Path(case.reference))
    mask = read_labels(Path(case.prediction))[1] if case.prediction else np.zeros_like(truth)
    if not image.shape == truth.shape == mask.shape:
        raise CaseError(
            "geometry", f"image, reference and prediction measure {image.shape}, {truth.shape} and {mask.shape} voxels"
        )
    cube = lesion_cube(truth if truth.any() else mask, image.spacing_mm)
    box = cube.clipped(image.shape)
    beyond = np.stack([np.subtract(box.start, cube.start), np.subtract(cube.stop, box.stop)], axis=1)
    turn = _Upright(image.geometry.affine)

    def cut(voxels: AnyArray, outside: float) -> AnyArray:
        return turn.volume(np.pad(voxels, beyond, constant_values=outside))

    # Only what is cut out becomes floating point: a whole-body CT would take gigabytes.
    shown = cut(image.with_background(AIR_HU).intensities(image.voxels[box]), AIR_HU)
    return draw_overlay(shown, turn.spacing(image.spacing_mm), cut(mask[box], 0), cut(truth[box], 0))


def lesion_cube(mask: MaskArray, spacing_mm: Vector3) -> Box:
    """Return a cube in mm around the component with the largest axial section.

    All three planes then have one scale; the cube may reach beyond the image.
    """
    component = _component(mask)
    side_mm = max(float(np.max(np.multiply(component.shape, spacing_mm))) + 2 * _MARGIN_MM, _SMALLEST_MM)
    middle, half = np.add(component.start, component.stop) / 2, side_mm / np.array(spacing_mm) / 2
    return Box.between(np.floor(middle - half), np.ceil(middle + half))


def _component(mask: MaskArray) -> Box:
    """Return the box of the component with the largest axial section; the middle voxel of an empty mask."""
    from scipy.ndimage import find_objects

    centre, box = focus(mask), mask_box(mask)
    if box is None:
        return Box.between(centre, np.add(centre, 1))
    components, _ = label_components(mask[box])
    number = components[tuple(np.subtract(centre, box.start))]
    return Box(*find_objects(components, max_label=number)[number - 1]).shifted(box.start)


class _Upright:
    """Turns arrays (z, y, x) so that x grows to the patient's left, y to the back and z to the head."""

    def __init__(self, affine: Any) -> None:
        from nibabel import orientations

        self._of: Any = orientations
        wanted = self._of.axcodes2ornt(("L", "P", "S"))
        self._change = self._of.ornt_transform(self._of.io_orientation(affine), wanted)

    def volume(self, voxels: AnyArray) -> AnyArray:
        """Return the array turned."""
        return np.asarray(self._of.apply_orientation(voxels.T, self._change)).T

    def spacing(self, spacing_mm: Vector3) -> Vector3:
        """Return the spacing (z, y, x) of turned arrays."""
        turned = [0.0, 0.0, 0.0]
        for side, (axis, _) in zip(spacing_mm[::-1], self._change, strict=True):
            turned[int(axis)] = side
        x, y, z = turned
        return z, y, x
