"""Reading images: the readers of all file formats, and which of them a file's name asks for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeAlias

from flare_runtime.errors import CaseError, UsageError
from flare_runtime.imaging.checks import check_volume
from flare_runtime.imaging.metaimage import METAIMAGE
from flare_runtime.imaging.nifti import NiftiReader
from flare_runtime.imaging.nrrd import NRRD
from flare_runtime.imaging.plausibility import USUAL, Plausibility
from flare_runtime.imaging.volume import ALL_SLICES, Grid, Volume

DEFAULT_MAX_VOXELS = 2_000_000_000


class Reader(Protocol):
    """Reads the images of one file format, strictly: what cannot be trusted is refused, never filled in.

    It raises `CaseError` for what is wrong with a file, whose name is put in front by `read_volume`, and lets `OSError`
    pass. It knows no modality: voxels that are NaN or infinite stay as they are.
    """

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The ends of its files' names, in lower case."""

    def read_volume(self, path: Path, max_voxels: int) -> Volume:
        """Read an image, whose header is tested before memory is taken for at most `max_voxels`."""

    def read_grid(self, path: Path, max_voxels: int) -> Grid:
        """Read what the header says of the voxels, and nothing of them."""


class ImageSeries(Protocol):
    """One image that is kept in many files, such as a series of DICOM; it can be pickled."""

    @property
    def name(self) -> str:
        """What it is called, and its mask."""

    @property
    def place(self) -> Path:
        """The folder, archive or file that it is in."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files on disk."""

    def check_referable(self) -> None:
        """Refuse a series that masks in its format cannot refer to."""

    def straightening(self) -> "ImageSeries":
        """Return the series with slices of a tilted gantry being moved onto a grid at right angles."""

    def read_volume(self, max_voxels: int, wanted: slice = ALL_SLICES) -> Volume:
        """Read the image, as a `Reader` does; voxels of slices (z) that are not `wanted` may be anything."""

    def read_grid(self, max_voxels: int) -> Grid:
        """Read what the headers say of the voxels, as a `Reader` does."""


# What one channel of a case is read from.
ImageSource: TypeAlias = Path | ImageSeries

READERS: tuple[Reader, ...] = (NiftiReader(), NRRD, METAIMAGE)


def image_suffixes() -> tuple[str, ...]:
    """Return the ends of the names of all files that can be read, in lower case."""
    return tuple(suffix for reader in READERS for suffix in reader.suffixes)


def read_volume(
    source: str | ImageSource,
    max_voxels: int = DEFAULT_MAX_VOXELS,
    plausible: Plausibility = USUAL,
    *,
    straighten_tilt: bool = False,
    wanted: slice = ALL_SLICES,
) -> Volume:
    """Read an image: a file in the format of its name, or a DICOM series.

    A folder, a zip archive or a DICOM file has to hold one volume. Any other name of no format is taken for NIfTI.
    Where `straighten_tilt`, the slices of a tilted gantry are moved onto a grid at right angles, with a remark. Voxels
    of slices (z) that are not `wanted` may be anything: of a series they are not decoded.

    Raises:
        CaseError: `unreadable`, `several_series`, as `check_volume` or the format's reader does; every message begins
            with the name of the file or the series.
        UsageError: for DICOM where pydicom is not installed.
    """
    source = _only_series(Path(source)) if isinstance(source, str | Path) else source
    if straighten_tilt and not isinstance(source, Path):
        source = source.straightening()
    with _naming(source):
        if isinstance(source, Path):
            return check_volume(_reader_of(source).read_volume(source, max_voxels), plausible)
        return check_volume(source.read_volume(max_voxels, wanted), plausible)


def read_nifti(path: str | Path, max_voxels: int = DEFAULT_MAX_VOXELS) -> Volume:
    """Read an image; this is `read_volume` by its name of before."""
    return read_volume(path, max_voxels)


def read_grid(source: str | ImageSource, max_voxels: int = DEFAULT_MAX_VOXELS) -> Grid:
    """Read what the header of an image says of its voxels, and nothing of them.

    Raises:
        CaseError, UsageError: as `read_volume` does for what is wrong with the header.
    """
    source = _only_series(Path(source)) if isinstance(source, str | Path) else source
    with _naming(source):
        if isinstance(source, Path):
            return _reader_of(source).read_grid(source, max_voxels)
        return source.read_grid(max_voxels)


def find_series(source: Path, folders: Sequence[Path] | None = None) -> list[ImageSeries]:
    """Return the DICOM series of a folder, a zip archive or a DICOM file; none of anything else.

    Of a tree of folders, those in some of its `folders` alone, which then have the path of their folder for a name.

    Raises:
        UsageError: where the folder or archive cannot be read, or pydicom is not installed.
    """
    if _has_format(source):
        return []
    from flare_runtime.imaging.dicom import files, series  # of use for DICOM alone

    if not (source.is_dir() or files.is_zip(source) or files.is_dicom(source)):
        return []
    return [*series.find_series(source, folders)]


def begins_as_archive(head: bytes) -> bool:
    """Whether a zip archive begins like this, which may hold DICOM series."""
    from flare_runtime.imaging.dicom.files import begins_as_zip  # of use for DICOM alone

    return begins_as_zip(head)


def dicom_instance(head: bytes) -> str | None:
    """Return the UID of the image that a DICOM file is of, by what it begins with.

    It is empty where the file says none, where it is no DICOM, and where pydicom is not installed; None where its
    header goes on.
    """
    from flare_runtime.imaging.dicom import files, headers  # of use for DICOM alone

    if not files.begins_as_dicom(head):
        return ""
    files.let_pydicom_in()
    return headers.instance_in(head) if find_spec("pydicom") else ""


@dataclass(frozen=True)
class ImageAt:
    """The image of a path whose name is of no format, such as a folder: what it is, is found out when it is asked for.

    It is an `ImageSeries`; where the path is of no DICOM, it is read as NIfTI.

    Attributes:
        place: the path.
    """

    place: Path

    @property
    def name(self) -> str:
        """The path's last part."""
        return self.place.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of its series; its path where there is none."""
        try:
            return files_of(self._image)
        except CaseError:
            return (self.place,)

    @property
    def files_there(self) -> tuple[Path, ...]:
        """All files of its folder, of which its series may leave some out; its path where it is no folder."""
        from flare_runtime.imaging.dicom.files import all_files

        try:
            return tuple(all_files(self.place)) if self.place.is_dir() else (self.place,)
        except (OSError, UsageError):
            return (self.place,)

    def check_referable(self) -> None:
        """Refuse what is no DICOM, and as its series does."""
        if isinstance(self._image, Path):
            raise CaseError(
                "unreferable", f"{self.name} is no DICOM, to which a mask in DICOM would refer; write NIfTI alone"
            )
        self._image.check_referable()

    def straightening(self) -> ImageSeries:
        """Return it as its series does."""
        return self if isinstance(self._image, Path) else self._image.straightening()

    def read_volume(self, max_voxels: int, wanted: slice = ALL_SLICES) -> Volume:
        """Read the image, as its series does, or as a `Reader` does."""
        image = self._image
        if isinstance(image, Path):
            return _reader_of(image).read_volume(image, max_voxels)
        return image.read_volume(max_voxels, wanted)

    def read_grid(self, max_voxels: int) -> Grid:
        """Read what its headers say of the voxels, as a `Reader` does."""
        image = self._image
        return (
            _reader_of(image).read_grid(image, max_voxels) if isinstance(image, Path) else image.read_grid(max_voxels)
        )

    @cached_property
    def _image(self) -> ImageSource:
        try:
            return _only_series(self.place)
        except UsageError as error:
            raise CaseError("unreadable", str(error)) from error


def image_at(path: Path) -> ImageSource:
    """Return the image of a path, which is not looked at: its file where its name is of a format."""
    return path if path.name.lower().endswith(image_suffixes()) else ImageAt(path)


def files_of(source: ImageSource) -> tuple[Path, ...]:
    """Return the files on disk that an image is read from."""
    return (source,) if isinstance(source, Path) else source.files


def _only_series(source: Path) -> ImageSource:
    """Return the one series of a folder, archive or DICOM file, and the path of anything else."""
    try:
        if _has_format(source):  # most files, which need not be opened for that
            return source
        found = find_series(source)
    except OSError as error:  # such as a name that is too long
        raise CaseError("unreadable", f"{source}: {error.strerror or error}") from error
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise CaseError("several_series", f"{source.name}: holds {len(found)} series ({names}); give one")
    return found[0] if found else source


def _has_format(path: Path) -> bool:
    return path.name.lower().endswith(image_suffixes()) and not path.is_dir()


def _reader_of(path: Path) -> Reader:
    name = path.name.lower()
    return next((reader for reader in READERS if name.endswith(reader.suffixes)), READERS[0])


@contextmanager
def _naming(path: ImageSource) -> Iterator[None]:
    """Let every error begin with the name of the file or series."""
    try:
        yield
    except OSError as error:
        place = path if isinstance(path, Path) else path.place
        raise CaseError("unreadable", f"{place}: {error.strerror or error}") from error
    except CaseError as error:
        text = str(error)
        raise CaseError(error.reason, text if text.startswith(path.name) else f"{path.name}: {text}") from error
