"""The lesions in a mask, which are its connected components: how many, how large, where, how bright."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite, prod

import numpy as np

from flare_runtime.compute.arrays import MaskArray, Vector3
from flare_runtime.errors import CaseError, first_line
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import Remark, Volume
from flare_runtime.pipeline.components import IntArray
from flare_runtime.pipeline.diameters import axial_diameters
from flare_runtime.pipeline.label_probabilities import RowSums
from flare_runtime.pipeline.lesion_runs import LesionRuns

# A network that sees lesions in noise would fill the memory, and the record, with millions of them; and measuring
# diameters takes a while.
MAX_LESIONS, MAX_DIAMETERS = 10_000, 1_000


@dataclass(frozen=True)
class Lesion:
    """One 26-connected component.

    Planes are axial: of the voxel axis that is nearest to the patient's axis from feet to head, which is z where nobody
    knows. Their numbers are voxel indices along it, from 0.

    Attributes:
        label: its value in the mask.
        voxels: how many it has.
        volume_ml: in millilitres.
        centre: its mean voxel index, (z, y, x).
        extent_mm: the sides of the smallest box along the voxel axes that holds it, (z, y, x).
        name: what its label is called; of labels that overlap, the smallest.
        centre_mm: the place of `centre`, (x, y, z), towards the patient's right, front and head (RAS+, as in NIfTI);
            None where the image's place is unknown.
        id: 1 for the largest of the case, and so on; of one size, by label and place.
        centre_lps_mm: `centre_mm` towards the patient's left, back and head (LPS+, as in DICOM).
        largest_slice: the plane in which it has the largest area, the lowest of several.
        diameter_mm, perpendicular_mm: the longest axial diameter, and the longest at right angles to it; None beyond
            MAX_DIAMETERS. See `flare_runtime.pipeline.diameters`.
        diameter_slice: the plane that they were measured in.
        mean_intensity, sd_intensity: of the first channel in its voxels, in Hounsfield units for CT; None where the
            image was not to be had, or has no number there.
        touches_border: whether it reaches a face of the scan, and so may go on beyond it.
        mean_probability: of its label in its voxels, as the network has it; None where only a mask was given.
    """

    label: int
    voxels: int
    volume_ml: float
    centre: Vector3
    extent_mm: Vector3
    name: str | None = None
    centre_mm: Vector3 | None = None
    id: int | None = None
    centre_lps_mm: Vector3 | None = None
    largest_slice: int | None = None
    diameter_mm: float | None = None
    perpendicular_mm: float | None = None
    diameter_slice: int | None = None
    mean_intensity: float | None = None
    sd_intensity: float | None = None
    touches_border: bool | None = None
    mean_probability: float | None = None


@dataclass(frozen=True)
class LabelTotal:
    """All lesions of one label, those that are not listed included."""

    label: int
    name: str | None
    lesions: int
    volume_ml: float


@dataclass(frozen=True)
class Findings:
    """What was found in a mask.

    Attributes:
        lesions: the largest first.
        totals: of every label that the mask has.
        remarks: what is not measured, and why.
    """

    lesions: list[Lesion]
    totals: tuple[LabelTotal, ...]
    remarks: tuple[Remark, ...]


def find_lesions(mask: MaskArray, spacing_mm: Vector3, most: int | None = None) -> list[Lesion]:
    """Return the components of every label of `mask` (z, y, x), the largest first, and not more than `most`."""
    z, y, x = mask.shape
    return measure_lesions(mask, Geometry(None, spacing_mm, (z, y, x)), most=most).lesions


def measure_lesions(
    mask: MaskArray,
    geometry: Geometry,
    names: Mapping[int, str] | None = None,
    *,
    most: int | None = MAX_LESIONS,
    scan: Callable[[slice], Volume] | None = None,
    rows: RowSums | None = None,
) -> Findings:
    """Return the components of every label of a mask.

    Args:
        mask: labels (z, y, x).
        geometry: of the mask.
        names: of labels.
        most: not more than so many are listed.
        scan: gives the first channel, on the mask's grid; it is asked for where there are lesions, and told which
            slices (z) hold them, as only these are looked at. Where it fails, or is None, the intensities are left out.
        rows: of the mask; where None, the probabilities are left out.
    """
    names = names or {}
    axis = geometry.axial_axis
    found = LesionRuns.of(np.moveaxis(mask, axis, 0), most)
    voxel_ml = prod(geometry.spacing_mm) / 1000
    totals = tuple(
        LabelTotal(value, names.get(value), lesions, round(voxels * voxel_ml, 3))
        for value, (lesions, voxels) in found.totals.items()
    )
    remarks = _caps(sum(total.lesions for total in totals))
    volume = _image(partial(scan, _slices(found, axis)), geometry, remarks) if scan and len(found) else None
    intensities = None if volume is None else found.intensities(volume, axis)
    probabilities = found.mean_probabilities(rows, axis) if rows is not None and len(found) else None
    lesions = []
    for i, lesion in enumerate(_sized(found, geometry, axis)):
        mean, deviation = (None, None) if intensities is None else (_finite(side[i]) for side in intensities)
        likely = None if probabilities is None else round(float(probabilities[i]), 3)
        named = replace(lesion, name=names.get(lesion.label), mean_probability=likely)
        lesions.append(replace(named, mean_intensity=mean, sd_intensity=deviation))
    return Findings(lesions, totals, tuple(remarks))


def _caps(count: int) -> list[Remark]:
    if count <= MAX_DIAMETERS:
        return []
    text = f"there are {count:,} lesions; the {MAX_DIAMETERS:,} largest have diameters"
    text += f", the {MAX_LESIONS:,} largest are listed" if count > MAX_LESIONS else ""
    return [Remark("many_lesions", text)]


def _slices(found: LesionRuns, axis: int) -> slice:
    """Return which slices (z of the mask) hold all lesions, of which z is the `axis` of the mask."""
    low, high = (side[:, _back(axis)[0]] for side in found.boxes())
    return slice(int(low.min()), int(high.max()))


def _back(axis: int) -> IntArray:
    """Return where the axes z, y, x of a mask are once its `axis` is the first."""
    return np.argsort([axis, *(other for other in range(3) if other != axis)])


def _image(scan: Callable[[], Volume], geometry: Geometry, remarks: list[Remark]) -> Volume | None:
    try:
        volume = scan()
        if volume.shape == geometry.shape:
            return volume
        why = "it was replaced"
    except (CaseError, MemoryError) as error:
        why = first_line(error)
    remarks.append(Remark("no_intensities", f"the image could not be read again for intensities of lesions: {why}"))
    return None


def _sized(found: LesionRuns, geometry: Geometry, axis: int) -> Iterator[Lesion]:
    """Yield the lesions without name and intensities; z of `found` is the `axis` of the mask."""
    if not len(found):
        return
    back = _back(axis)
    low, high = (side[:, back] for side in found.boxes())
    touching = np.any((low == 0) | (high == geometry.shape), axis=1).tolist()
    extents, centres = (high - low) * np.array(geometry.spacing_mm), found.centres()[:, back]
    largest = found.largest_planes().tolist()
    rows, columns = (other for other in range(3) if other != axis)
    in_plane = geometry.spacing_mm[rows], geometry.spacing_mm[columns]
    for i, (value, voxels) in enumerate(zip(found.values.tolist(), found.voxels.tolist(), strict=True)):
        centre = _rounded(centres[i])
        place = geometry.place_of(centre)
        measured = i < MAX_DIAMETERS
        longest, across, plane = axial_diameters(found.of_lesion(i), in_plane) if measured else (None, None, None)
        yield Lesion(
            label=value,
            voxels=voxels,
            volume_ml=round(voxels * prod(geometry.spacing_mm) / 1000, 3),
            centre=centre,
            extent_mm=_rounded(extents[i]),
            centre_mm=place and _rounded(place),
            id=i + 1,
            centre_lps_mm=place and _rounded((-place[0], -place[1], place[2])),
            largest_slice=largest[i],
            diameter_mm=longest,
            perpendicular_mm=across,
            diameter_slice=plane,
            touches_border=touching[i],
        )


def _rounded(values: Iterable[float]) -> Vector3:
    first, second, third = (round(float(value), 1) + 0.0 for value in values)  # no -0.0
    return first, second, third


def _finite(value: float) -> float | None:
    return round(float(value), 1) if isfinite(value) else None
