"""The series of a study: which slices make one volume, which are left out, and what the volume is called."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from flare_runtime.compute.arrays import MaskArray
from flare_runtime.errors import CaseError, UsageError, install_hint
from flare_runtime.files.looking import looking_at
from flare_runtime.files.naming import visible
from flare_runtime.imaging.byte_stream import DEFLATE_MAX_RATIO
from flare_runtime.imaging.dicom.files import DicomFile, archive_of, find_files, let_pydicom_in
from flare_runtime.imaging.dicom.headers import Slice, read_slices
from flare_runtime.imaging.dicom.pixels import read_voxels, stored_type
from flare_runtime.imaging.dicom.stack import SAME_DIRECTION, Floats, stack, stack_tilted
from flare_runtime.imaging.dicom.tilt import on_slices, straightened
from flare_runtime.imaging.geometry import Geometry
from flare_runtime.imaging.volume import ALL_SLICES, Grid, Remark, Volume

_LOG = logging.getLogger(__name__)
_THREADS = 8
_INSTALL = f"DICOM needs pydicom; {install_hint('dicom')}"


@dataclass(frozen=True)
class DicomSeries:
    """The slices of one volume; it can be pickled for a worker process.

    Attributes:
        name: of the folder or archive that it lies in, with a number where that holds several.
        place: the folder, archive or file.
        slices: in the order of the files' names.
        remarks: what was left out.
        straightens: whether the slices of a tilted gantry are moved onto a grid at right angles.
    """

    name: str
    place: Path
    slices: tuple[Slice, ...]
    remarks: tuple[Remark, ...] = ()
    straightens: bool = False

    @property
    def modality(self) -> str:
        """CT, MR or PT."""
        return self.slices[0].modality

    @property
    def files(self) -> tuple[Path, ...]:
        """The files on disk, each once."""
        return tuple(dict.fromkeys(one.file.path for one in self.slices))

    def straightening(self) -> "DicomSeries":
        """Return the series with slices of a tilted gantry being moved onto a grid at right angles."""
        return replace(self, straightens=True)

    def ordered(self) -> tuple[Slice, ...]:
        """Return the slices in the order of the volume's.

        Raises:
            CaseError: as `stack` does.
        """
        return tuple(self._stack()[0])

    def on_slices(self, mask: MaskArray) -> MaskArray:
        """Return a mask (z, y, x) of the volume on the slices as they were taken: the same unless they were moved."""
        ordered, _, starts = self._stack()
        return mask if starts is None else on_slices(mask, starts, ordered[0].shape)

    def offsets(self) -> npt.NDArray[np.int64]:
        """Return the row and the column of the volume that each slice begins at (slices, 2): 0 unless they were moved.

        Raises:
            CaseError: as `stack` does.
        """
        starts = self._stack()[2]
        return np.zeros((len(self.slices), 2), np.int64) if starts is None else np.rint(starts).astype(np.int64)

    def check_referable(self) -> None:
        """Refuse a series that no other DICOM object can refer to.

        Raises:
            CaseError: `unreferable`.
        """
        if one := next((one for one in self.slices if one.lacks), None):
            text = f"{one.file.name} has no {' and no '.join(one.lacks)}, by which a DICOM object would refer to it"
            raise CaseError("unreferable", f"{text}; write NIfTI alone")

    def read_grid(self, max_voxels: int) -> Grid:
        """Return what the headers say of the voxels.

        Raises:
            CaseError: `too_large`, `truncated` where the files cannot hold so many pixels, or as `stack` does.
        """
        ordered, geometry, _ = self._checked(max_voxels)
        return Grid(geometry.shape, geometry.spacing_mm, stored_type(ordered).itemsize, geometry)

    def _checked(self, max_voxels: int) -> tuple[list[Slice], Geometry, Floats | None]:
        """Return the slices as they lie, after their headers were found to promise no more than there can be."""
        ordered, geometry, starts = self._stack()
        count = prod(geometry.shape)
        if count > max_voxels:
            text = f"the series has {count} voxels; at most {max_voxels} are allowed (--max-voxels)"
            raise CaseError("too_large", text)
        promised = sum(prod(one.shape) * np.dtype(one.dtype).itemsize for one in ordered)
        stored = sum(file.stat().st_size for file in self.files)
        if promised > stored * DEFLATE_MAX_RATIO:  # no scan is that empty, whatever its pixels are compressed by
            raise CaseError("truncated", f"the headers promise {promised} bytes of pixels, the files have {stored}")
        return ordered, geometry, starts

    def read_volume(self, max_voxels: int, wanted: slice = ALL_SLICES) -> Volume:
        """Read the voxels (z, y, x), first the slice that lies farthest against the slices' normal.

        Voxels of slices that are not `wanted` may be 0.

        Raises:
            CaseError: as `read_grid` and `read_voxels` do.
        """
        ordered, geometry, starts = self._checked(max_voxels)
        voxels = read_voxels(ordered, wanted if starts is None else ALL_SLICES)
        remarks = self.remarks
        if starts is not None:
            voxels = straightened(voxels, starts, geometry.shape)
            far = float((np.ptp(starts, axis=0) * ordered[0].spacing_mm).max())
            remarks = (*remarks, Remark("straightened", f"slices of a tilted gantry were moved by up to {far:.1f} mm"))
        scaled = voxels.dtype.kind == "f"
        slope, intercept = (1.0, 0.0) if scaled else (ordered[0].slope, ordered[0].intercept)
        return Volume(voxels, geometry, slope, intercept, self, remarks, modality=self.modality)

    def _stack(self) -> tuple[list[Slice], Geometry, Floats | None]:
        """Return the slices in their order, their grid, and where they begin in it if they were moved."""
        try:
            return *stack(self.slices), None
        except CaseError as error:
            if error.reason != "gantry_tilt" or not self.straightens:
                raise
        return stack_tilted(self.slices)


def find_series(source: Path, folders: Sequence[Path] | None = None) -> list[DicomSeries]:
    """Return the volumes that a DICOM file, or a folder or zip archive of them, holds; none where it holds no image.

    Where there is computed tomography, images of other modalities are left out. Scout views, and objects that are no
    images of slices, are left out as well.

    Args:
        source: the file, folder or archive.
        folders: of a tree of which DICOM is a part: its folders that are looked into. Volumes then have the path of
            their folder for a name.

    Raises:
        UsageError: where files are to be read and pydicom is not installed, the folder or archive cannot be read, or
            none of its DICOM files is an image of a slice; of `folders`, that is a warning.
    """
    files = find_files(source, folders)
    if not files:
        return []
    let_pydicom_in()
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{source}: holds {len(files)} DICOM file(s). {_INSTALL}") from error
    slices, damaged = _read_all(files)
    slices, copies = _without_copies(slices)
    scouts = [one for one in slices if one.localizer]
    kept = [one for one in slices if not one.localizer]
    wanted = [one for one in kept if one.modality == "CT"] or kept
    remarks = []
    if damaged:
        text = f"{len(damaged)} file(s) could not be read, whose slices are missing ({damaged[0]})"
        remarks.append(Remark("damaged_files", text))
    if not wanted:
        reasons = [*(remark.text for remark in remarks), *([f"{len(scouts)} localizer(s)"] if scouts else [])]
        text = f"{source}: holds {len(files)} DICOM file(s), none of them a slice of CT, MR or PET"
        text += f"{': ' if reasons else ''}{'; '.join(reasons)}"
        if source.name.upper() == "DICOMDIR":
            text += "; give the folder that it lies in"
        if folders is None:
            raise UsageError(text)
        _LOG.warning("%s", visible(text))
        return []
    if other := {one.modality for one in kept} - {one.modality for one in wanted}:
        remarks.append(Remark("other_modalities", f"images of {' and '.join(sorted(other))} beside it were left out"))
    name_of = _folder_name if folders is None else _folder_path
    volumes = _named(source, [volume for series in _by_series(wanted) for volume in _volumes(series)], name_of)
    return [replace(one, remarks=(*remarks, *_scouts_of(one, scouts), *_copies_of(one, copies))) for one in volumes]


def _read_all(files: Sequence[DicomFile]) -> tuple[list[Slice], list[str]]:
    """Return the slices of all files in order, and what was wrong with those that could not be read."""
    damaged: list[str] = []

    def read_file(file: DicomFile, archive: ZipFile | None) -> list[Slice]:
        try:
            return read_slices(file, archive)
        except CaseError as error:
            damaged.append(str(error))
        except OSError as error:
            damaged.append(f"{file.name}: {error.strerror or error}")
        return []

    with archive_of(files) as archive, ThreadPoolExecutor(_THREADS, "headers") as threads:
        read = threads.map(lambda file: read_file(file, archive), files)
        return [one for slices in looking_at(read, len(files)) for one in slices], damaged


def _without_copies(slices: Sequence[Slice]) -> tuple[list[Slice], list[Slice]]:
    """Return the slices without those of files that equal another to the last byte, and these."""
    by_instance: dict[str, dict[DicomFile, None]] = defaultdict(dict)
    for one in slices:
        by_instance[one.instance][one.file] = None
    alike = [list(files) for uid, files in by_instance.items() if uid and len(files) > 1]
    copies: set[DicomFile] = set()
    with archive_of(file for files in alike for file in files) as archive:
        for files in alike:
            firsts: dict[bytes, DicomFile] = {}
            copies |= {file for file in files if firsts.setdefault(file.sha256(archive), file) != file}
    return [one for one in slices if one.file not in copies], [one for one in slices if one.file in copies]


def _scouts_of(series: DicomSeries, scouts: Iterable[Slice]) -> list[Remark]:
    count = sum(one.series == series.slices[0].series for one in scouts)
    return [Remark("localizers", f"{count} localizer image(s) of the series were left out")] if count else []


def _copies_of(series: DicomSeries, copies: Iterable[Slice]) -> list[Remark]:
    count = len({one.file for one in copies if one.series == series.slices[0].series})
    return [Remark("copies", f"{count} file(s) that are copies of others of the series were left out")] if count else []


def _by_series(slices: Iterable[Slice]) -> list[list[Slice]]:
    by_uid: dict[tuple[str, Path | None], list[Slice]] = defaultdict(list)
    for one in slices:
        # Without a UID a folder is a series.
        by_uid[one.series, None if one.series else one.file.path.parent].append(one)
    return list(by_uid.values())


def _volumes(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Split a series where its slices have several directions, or several images of one place."""
    groups: list[list[Slice]] = []
    for one in slices:
        like = next((group for group in groups if _is_parallel(group[0], one)), None)
        if like is None:
            groups.append([one])
        else:
            like.append(one)
    return [part for group in groups for part in _apart(group)]


def _is_parallel(first: Slice, second: Slice) -> bool:
    if first.orientation is None or second.orientation is None:
        return first.orientation is second.orientation
    return bool(np.abs(np.subtract(first.orientation, second.orientation)).max() <= SAME_DIRECTION)


def _apart(slices: list[Slice]) -> list[list[Slice]]:
    """Split parallel slices by echo, acquisition or time, where that leaves one image of each place."""
    if _places(slices) == len(slices):
        return [slices]
    for part in range(len(slices[0].parts)):
        groups: dict[str, list[Slice]] = defaultdict(list)
        for one in slices:
            groups[one.parts[part]].append(one)
        if len(groups) > 1 and all(_places(group) == len(group) for group in groups.values()):
            return list(groups.values())
    return [slices]


def _places(slices: Iterable[Slice]) -> int:
    return len({None if one.position_mm is None else tuple(np.round(one.position_mm, 3)) for one in slices})


def _named(
    source: Path, volumes: Sequence[list[Slice]], name_of: Callable[[Path, Sequence[Slice]], str]
) -> list[DicomSeries]:
    """Name volumes after the folder that they lie in, and those of one folder by their series' numbers as well."""
    by_name: dict[str, list[list[Slice]]] = defaultdict(list)
    for slices in volumes:
        by_name[name_of(source, slices)].append(slices)
    named, taken = [], set()
    for name, group in by_name.items():
        for slices in group:
            number = slices[0].number
            base = name if len(group) == 1 else f"{name}_series{'' if number is None else number}"
            own, count = base, 1
            while own in taken or (own in by_name and own != name):
                count += 1
                own = f"{base}_{count}"
            taken.add(own)
            named.append(DicomSeries(own, source, tuple(slices)))
    return named


def _folder_name(source: Path, slices: Sequence[Slice]) -> str:
    """Return the name of a series' folder below the source, its parts joined; the source's own where it is in none."""
    own = source.resolve().name
    if source.is_file():
        own = re.sub(r"\.(zip|dcm|ima)$", "", own, flags=re.IGNORECASE)
    folders = {_parts(source, one.file) for one in slices}
    common = next(iter(folders)) if len(folders) == 1 else ()
    return "_".join((own, *common)) or "dicom"


def _folder_path(source: Path, slices: Sequence[Slice]) -> str:
    """Return the path below the source of the folder that all of a series lies in; the source's name for itself."""
    common = os.path.commonpath([source / Path(*_parts(source, one.file)) for one in slices])
    return os.path.relpath(common, source) if Path(common) != source else source.resolve().name or "dicom"


def _parts(source: Path, file: DicomFile) -> tuple[str, ...]:
    if file.member is not None:
        return tuple(Path(file.member).parts[:-1])
    return () if source.is_file() else file.path.relative_to(source).parts[:-1]
