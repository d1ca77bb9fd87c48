"""What a person may give as an image in Python: files, volumes, arrays, nibabel's and SimpleITK's images."""

import os
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from flare_runtime.compute.arrays import AnyArray, Vector3
from flare_runtime.errors import CaseError, UsageError, first_line
from flare_runtime.imaging.checks import check_volume
from flare_runtime.imaging.geometry import Geometry, checked_shape
from flare_runtime.imaging.nifti_fields import read_fields
from flare_runtime.imaging.nifti_header import header_geometry
from flare_runtime.imaging.plausibility import USUAL, Plausibility
from flare_runtime.imaging.read import DEFAULT_MAX_VOXELS, read_volume
from flare_runtime.imaging.volume import ALL_SLICES, Volume
from flare_runtime.paths import as_path

# Any: of nibabel and SimpleITK, which are not imported here, and the former of which has no types.
Image: TypeAlias = str | os.PathLike[str] | Volume | AnyArray | Any

_ALLOWED = (
    "a path, a Volume, an array (z, y, x) with spacing_mm, a nibabel or a SimpleITK image, or a list of these, "
    "one for each channel"
)


def as_volumes(
    image: Image | Sequence[Image],
    spacing_mm: Vector3 | None = None,
    max_voxels: int = DEFAULT_MAX_VOXELS,
    plausible: Plausibility = USUAL,
    *,
    straighten_tilt: bool = False,
    wanted: slice = ALL_SLICES,
) -> list[Volume]:
    """Return an image as one volume for each channel.

    Args:
        image: a file, a `Volume`, an array (z, y, x) or (channels, z, y, x), a nibabel image, a SimpleITK image, or a
            list or tuple of them with one for each channel.
        spacing_mm: of arrays, (z, y, x); the place of arrays is unknown.
        max_voxels: files that hold more are refused.
        plausible: which grids are taken, of all but arrays and volumes.
        straighten_tilt: see `read_volume`.
        wanted: see `read_volume`.

    Raises:
        UsageError: for anything else, or where an array has no spacing or something else has one.
        CaseError: as `read_volume`, or for an image in memory that no file could hold either.
    """
    images = list(image) if isinstance(image, list | tuple) else [image]
    if spacing_mm is not None:
        spacing_mm = _checked_spacing(spacing_mm)
    read = partial(
        read_volume, max_voxels=max_voxels, plausible=plausible, straighten_tilt=straighten_tilt, wanted=wanted
    )
    return [volume for one in images for volume in _volumes_of(one, spacing_mm, read, plausible)]


def _volumes_of(
    image: Image, spacing_mm: Vector3 | None, read: Callable[[Path], Volume], plausible: Plausibility
) -> list[Volume]:
    if isinstance(image, np.ndarray):
        return _of_array(image, spacing_mm)
    if spacing_mm is not None:
        kind = type(image).__qualname__
        raise UsageError(f"spacing_mm goes with arrays, not with a {kind}; a Volume has its own, and so have files")
    if isinstance(image, str | os.PathLike):
        return [read(as_path(image, "the image"))]
    if isinstance(image, Volume):
        return [image]
    simpleitk = sys.modules.get("SimpleITK")
    if _is_nibabel(image):
        return [check_volume(_of_nibabel(image), plausible)]
    if simpleitk is not None and isinstance(image, simpleitk.Image):
        return [check_volume(_of_simpleitk(image), plausible)]
    raise UsageError(f"the image is of type {type(image).__qualname__}; give {_ALLOWED}")


def files_of(image: Image | Sequence[Image]) -> tuple[Path, ...]:
    """Return the files that an image was given as, or that nibabel has loaded it from."""
    images: Sequence[Any] = image if isinstance(image, list | tuple) else [image]
    names = [one.get_filename() if _is_nibabel(one) else one for one in images]
    return tuple(Path(name) for name in names if isinstance(name, str | os.PathLike))


def _is_nibabel(image: Any) -> bool:
    nibabel = sys.modules.get("nibabel")
    return nibabel is not None and isinstance(image, nibabel.spatialimages.SpatialImage)


def _checked_spacing(spacing_mm: Vector3) -> Vector3:
    try:
        z, y, x = (float(side) for side in spacing_mm)
    except (TypeError, ValueError):
        z = y = x = np.nan
    if not all(0 < side < np.inf for side in (z, y, x)):
        raise UsageError(f"spacing_mm is {spacing_mm}; give three positive numbers, (z, y, x)")
    return z, y, x


def _of_array(array: AnyArray, spacing_mm: Vector3 | None) -> list[Volume]:
    if spacing_mm is None:
        raise UsageError("an array needs spacing_mm, in mm, (z, y, x)")
    if array.ndim not in (3, 4):
        raise UsageError(f"the array has {array.ndim} axes; give (z, y, x) or (channels, z, y, x)")
    if not array.size:
        raise UsageError(f"the array is of shape {array.shape}; it holds nothing")
    channels = array[None] if array.ndim == 3 else array
    return [Volume.of_array(_real(channel), spacing_mm) for channel in channels]


def _real(voxels: AnyArray) -> AnyArray:
    """Return voxels in the machine's own byte order; refuse what is no real number."""
    if voxels.dtype.kind not in "biuf":
        raise UsageError(f"the voxels are of type {voxels.dtype}; give real numbers")
    return voxels if voxels.dtype.isnative else voxels.astype(voxels.dtype.newbyteorder("="))


def _of_nibabel(image: Any) -> Volume:
    """Return a nibabel image as its file would be read: unscaled where it comes from a file with a slope."""
    import nibabel

    stored = image.dataobj
    slope, intercept = 1.0, 0.0
    if isinstance(stored, nibabel.arrayproxy.ArrayProxy):
        slope, intercept = float(stored.slope), float(stored.inter)
        try:
            stored = stored.get_unscaled()  # type: ignore[no-untyped-call]
        except (OSError, EOFError, zlib.error) as error:
            raise CaseError("unreadable", f"{image.get_filename()}: {first_line(error)}") from error
    z, y, x = checked_shape(image.shape)
    voxels = _real(np.asarray(stored).reshape(x, y, z).T)
    header: Any = image.header
    if isinstance(header, nibabel.Nifti1Header):
        header = header.copy()  # type: ignore[no-untyped-call]
        header["magic"] = header.single_magic  # which a header of a pair of files has not
        fields = read_fields(header.binaryblock)
        if fields is None:
            raise CaseError("not_nifti", f"the image's header says that it has {header['sizeof_hdr']} bytes; mend it")
        geometry, remarks = header_geometry(fields)
        return Volume(voxels, geometry, slope, intercept, fields, remarks)
    return Volume(voxels, Geometry.of_affine(image.affine, (z, y, x)), slope, intercept)


def _of_simpleitk(image: Any) -> Volume:
    """Return a SimpleITK image, whose axes grow to the patient's left and back."""
    from SimpleITK import GetArrayFromImage

    if image.GetNumberOfComponentsPerPixel() != 1:
        raise CaseError("unsupported_type", f"a voxel is a {image.GetPixelIDTypeAsString()}; give real numbers")
    if image.GetDimension() != 3:
        raise CaseError("bad_dimensions", f"the image has {image.GetDimension()} axes; one 3D volume is needed")
    voxels = _real(GetArrayFromImage(image))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    z, y, x = voxels.shape
    return Volume(voxels, Geometry.of_affine(affine, (z, y, x)))
