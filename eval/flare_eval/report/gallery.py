"""Pictures of the best and worst cases, cut out around the lesion, with the masks of all methods below each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from flare_eval.accuracy.label_image import read_label_image
from flare_eval.components import label_components
from flare_eval.report.overlay import draw_overlay, focus
from flare_eval.report.upright import Upright
from flare_eval.results import Accuracy, CaseAccuracy
from flare_runtime.compute.arrays import AnyArray, MaskArray, Vector3
from flare_runtime.compute.box import Box
from flare_runtime.errors import CaseError
from flare_runtime.imaging.file_names import find_image
from flare_runtime.imaging.plausibility import ANY_SPACING
from flare_runtime.imaging.read import read_volume
from flare_runtime.imaging.volume import Volume
from flare_runtime.pipeline.crop import mask_box
from flare_runtime.pipeline.normalisation import AIR_HU

# Around the lesion there is this much of the body, and no cut is smaller than the second number.
_MARGIN_MM = 40.0
_SMALLEST_MM = 160.0


@dataclass(frozen=True)
class Shown:
    """A case of the gallery.

    Attributes:
        case: its name.
        scores: what every method made of it.
        official: whether masks are read as the challenge's script reads them.
    """

    case: str
    scores: Mapping[str, CaseAccuracy]
    official: bool = False

    @property
    def dsc(self) -> float:
        """The mean over the methods."""
        return fmean(score.dsc or 0.0 for score in self.scores.values())

    @property
    def reference_ml(self) -> float:
        """How much there is to be found."""
        return next(iter(self.scores.values())).reference_ml or 0.0

    @property
    def seen(self) -> bool:
        """Whether there is any lesion to be seen."""
        return any(score.reference_ml or score.prediction_ml for score in self.scores.values())


@dataclass(frozen=True)
class Picture:
    """One picture of the gallery.

    Attributes:
        rank: `best` or `worst`, with its place, such as "worst 1".
        shown: the case.
        png: the picture; None where there is none.
        problems: what is not in it, and why.
    """

    rank: str
    shown: Shown
    png: bytes | None
    problems: Sequence[str] = ()


def best_and_worst(results: Sequence[Accuracy], count: int) -> tuple[list[Shown], list[Shown]]:
    """Return at most `count` cases of the highest DSC, in the mean over the methods, and as many of the lowest.

    No case is in both. Where neither reference nor prediction holds a lesion there is nothing to see. Of cases of one
    DSC, the one with more reference is the worse failure and the better success.
    """
    scores: dict[str, dict[str, CaseAccuracy]] = {}
    for result in results:
        for case in result.scored:
            scores.setdefault(case.case, {})[result.method] = case
    official = any(result.official for result in results)
    shown = [Shown(case, of_case, official) for case, of_case in scores.items()]
    order = sorted((one for one in shown if one.seen), key=lambda one: (one.dsc, -one.reference_ml, one.case))
    half = len(order) // 2
    best = sorted(order[half:], key=lambda one: (-one.dsc, -one.reference_ml, one.case))
    return best[:count], order[: min(count, half)]


def pictures(results: Sequence[Accuracy], images: Path, count: int) -> Iterator[Picture]:
    """Draw the best and the worst cases, a row a method; where a file is absent or unusable the reason is given."""
    for name, cases in zip(("best", "worst"), best_and_worst(results, count), strict=True):
        for place, shown in enumerate(cases, 1):
            rank = f"{name} {place}"
            try:
                yield Picture(rank, shown, *draw_case(shown, images))
            except CaseError as error:
                yield Picture(rank, shown, None, [str(error)])


def draw_case(shown: Shown, images: Path) -> tuple[bytes, list[str]]:
    """Return a PNG of the three planes through the case's lesion, and which masks are not in it, and why.

    The patient is upright and faces the reader.

    Raises:
        CaseError: where the image or the reference is absent or cannot be read, or no mask fits it.
    """
    path = find_image(images, shown.case)
    if path is None:
        raise CaseError("no_image", f"{images} holds no <case>_0000.nii.gz and no <case>.nii.gz of it")
    image = read_volume(path, plausible=ANY_SPACING)
    truth = _labels(Path(next(iter(shown.scores.values())).reference), image, shown.official)
    masks, problems = {}, []
    for method, score in shown.scores.items():
        try:
            mask = _labels(Path(score.prediction), image, shown.official) if score.prediction else np.zeros_like(truth)
            masks[f"{method}   DSC {score.dsc:.3f}"] = mask
        except CaseError as error:
            problems.append(f"{method}: {error}")
    if not masks:
        raise CaseError("no_mask", "; ".join(problems))
    return _draw(image, masks, truth), problems


def _labels(path: Path, image: Volume, official: bool) -> MaskArray:
    labels = read_label_image(path, official=official).labels
    if labels.shape != image.shape:
        raise CaseError("geometry", f"{path.name}: measures {labels.shape} voxels (z, y, x), the image {image.shape}")
    return labels


def _draw(image: Volume, masks: Mapping[str, MaskArray], truth: MaskArray) -> bytes:
    cube = lesion_cube(next((mask for mask in (truth, *masks.values()) if mask.any()), truth), image.spacing_mm)
    box = cube.clipped(image.shape)
    beyond = np.stack([np.subtract(box.start, cube.start), np.subtract(cube.stop, box.stop)], axis=1)
    upright = Upright(image)

    def cut(voxels: AnyArray, outside: float) -> AnyArray:
        return upright.turned(np.pad(voxels, beyond, constant_values=outside))

    # Only what is cut out becomes floating point: a whole-body CT would take gigabytes.
    shown = cut(image.with_background(AIR_HU).intensities(image.voxels[box]), AIR_HU)
    outlines = {name: cut(mask[box], 0) for name, mask in masks.items()}
    spacing_mm = upright.spacing(image.spacing_mm)
    return draw_overlay(shown, spacing_mm, outlines, cut(truth[box], 0), sides_known=upright.known)


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
