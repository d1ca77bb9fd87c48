"""Label images for scoring: voxels by array and spacing from the header; no place in the patient is needed."""

import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from flare_eval.labels import read_labels, whole_labels
from flare_runtime.compute.arrays import AnyArray, MaskArray, Vector3
from flare_runtime.errors import CaseError, first_line
from flare_runtime.imaging.byte_stream import DEFLATE_MAX_RATIO, ByteStream
from flare_runtime.imaging.geometry import Geometry, checked_shape
from flare_runtime.imaging.nifti import NiftiReader
from flare_runtime.imaging.nifti_fields import HEADER_BYTES
from flare_runtime.imaging.read import DEFAULT_MAX_VOXELS, image_suffixes
from flare_runtime.imaging.volume import slabs

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI's metre and micrometre; unknown counts as mm
# Beyond these no area can be computed.
_SPACING_RANGE_MM = (1e-50, 1e50)
_SLAB = 8
_SILENT = logging.Logger("flare_eval.silent", logging.CRITICAL)


@dataclass(frozen=True)
class LabelImage:
    """What is scored.

    Attributes:
        labels: (z, y, x).
        geometry: its affine is None where the header holds no sound one; its spacing may be NaN.
    """

    labels: MaskArray
    geometry: Geometry

    @property
    def spacing_mm(self) -> Vector3 | None:
        """The distance of neighbouring voxels, (z, y, x); None where the header holds no numbers to compute with."""
        low, high = _SPACING_RANGE_MM
        return self.geometry.spacing_mm if all(low < side < high for side in self.geometry.spacing_mm) else None


def read_label_image(path: Path, *, official: bool = False) -> LabelImage:
    """Read a label image whose header may be odd: sheared, without an orientation, finer than any scan.

    Args:
        path: of a NIfTI file; other formats are read as images are.
        official: as the challenge's script does: a voxel that is no whole number from 0 to 255 becomes what NumPy
            makes of it as uint8, and units count as mm.

    Raises:
        CaseError: where the file is damaged or no single 3D image, or `not_labels`; it begins with the file's name.
    """
    name = path.name.lower()
    if name.endswith(image_suffixes()) and not name.endswith(NiftiReader.suffixes):
        volume, labels = read_labels(path)
        return LabelImage(labels, volume.geometry)
    try:
        return _read_nifti(path, official)
    except OSError as error:
        raise CaseError("unreadable", f"{path}: {error.strerror or error}") from error
    except CaseError as error:
        text = str(error)
        raise CaseError(error.reason, text if text.startswith(path.name) else f"{path.name}: {text}") from error


def _read_nifti(path: Path, official: bool) -> LabelImage:
    with ByteStream(path) as stream:
        header, read = _header(stream)
        shape = checked_shape(header.get_data_shape())
        dtype = header.get_data_dtype()
        if dtype.kind not in "iuf":
            raise CaseError("unsupported_type", f"voxels of the type {dtype} are no labels; convert the image")
        count = int(np.prod(shape, dtype=object))
        most = path.stat().st_size * (DEFLATE_MAX_RATIO if stream.compressed else 1)
        if count > DEFAULT_MAX_VOXELS or count * dtype.itemsize > most:
            raise CaseError("truncated", f"the header promises {count} voxels, more than the file can hold")
        stream.skip(max(header.get_data_offset() - read, 0))
        voxels = np.empty(shape, dtype)
        if missing := voxels.nbytes - stream.read_into(voxels.reshape(-1).view(np.uint8).data):
            raise CaseError("truncated", f"{missing} of {voxels.nbytes} voxel bytes are missing; copy the file anew")
        stream.drain()
    unit = 1.0 if official else _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    x, y, z = (float(side) * unit for side in header.get_zooms()[:3])
    return LabelImage(_labels(voxels, header, official), Geometry(_affine(header, unit), (z, y, x), shape))


def _header(stream: ByteStream) -> tuple[Any, int]:
    """Return the header as nibabel mends it on loading, and how many bytes it has."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    block = stream.read(4)
    sizes = {int.from_bytes(block, order) for order in ("little", "big")}
    size = next((size for size in HEADER_BYTES if size in sizes), 0)
    block += stream.read(max(size - 4, 0))
    if not size or len(block) < size:
        raise CaseError("not_nifti", "this is not a NIfTI file; give a .nii or .nii.gz volume")
    kind: Any = Nifti1Header if size == 348 else Nifti2Header
    try:
        header = kind.from_fileobj(BytesIO(block), check=False)
        header.check_fix(_SILENT)
        header.get_data_shape(), header.get_data_dtype(), header.get_data_offset()
    except (HeaderDataError, ValueError, KeyError, OverflowError) as error:
        raise CaseError("not_nifti", f"nibabel refuses the header ({first_line(error)}); mend it") from error
    return header, size


def _affine(header: Any, unit: float) -> AnyArray | None:
    with np.errstate(all="ignore"):  # of places beyond all numbers
        try:
            affine = np.array(header.get_best_affine(), np.float64)
        except ValueError:  # of a quaternion that is none
            return None
        affine[:3] *= unit
    return affine if np.isfinite(affine).all() else None


def _labels(voxels: AnyArray, header: Any, official: bool) -> MaskArray:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    elif not np.isfinite(intercept):
        intercept = 0.0
    labels = np.empty(voxels.shape, np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):  # of voxels that are no labels
        for part in slabs(len(voxels), _SLAB):
            values = voxels[part]
            if (slope, intercept) != (1.0, 0.0):
                values = values.astype(np.float64) * slope + intercept
            if official:
                labels[part] = values.astype(np.float64).astype(np.uint8)
            else:
                labels[part] = whole_labels(values)
    return labels
