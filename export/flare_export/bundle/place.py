"""Decides whether a bundle may be written to a folder, and replaces the bundle that is there in one step."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flare_runtime.backends.openvino.int8 import decode_ranges
from flare_runtime.errors import BundleError, OutputError
from flare_runtime.files.naming import fitted
from flare_runtime.files.target import bundle_around
from flare_runtime.files.temporary import sweep, temporary_folder
from flare_runtime.model.bundle import MANIFEST_NAME, Bundle
from flare_runtime.model.manifest import Manifest

RANGES_SUFFIX = ".int8.json"


def bundle_at(place: Path) -> Manifest | None:
    """Return the manifest of the bundle at a place where one may be written, or None where there is none yet.

    A bundle that a killed export had taken away is put back.

    Raises:
        OutputError: where something else is there, the bundle holds files that are not its own, or the place lies in
            another bundle.
    """
    entries = entries_at(place, "a bundle")
    if not entries:
        return None
    try:
        manifest = Bundle.open(place).manifest
        check_own(entries, manifest)
    except BundleError as error:
        raise OutputError(f"{place}: exists and is not a bundle ({error}); choose another output") from error
    except OSError as error:
        raise OutputError(f"{place}: cannot be read ({error.strerror or error})") from error
    return manifest


def entries_at(place: Path, kind: str) -> list[Path]:
    """Return what is in the folder at a place where one of a kind may be written, nothing where none is there yet.

    What a killed export had taken away is put back.

    Raises:
        OutputError: where something else than a folder is there, or the place lies in a bundle.
    """
    if place.is_symlink():
        raise OutputError(f"{place}: is a symbolic link; name the folder it should become")
    if around := bundle_around(place.parent):
        raise OutputError(f"{place}: lies in the bundle {around}; choose another output")
    try:
        _put_back(place)
        if not place.exists():
            return []
        if place.is_dir():
            sweep(place)
            return sorted(place.iterdir())
    except OSError as error:
        raise OutputError(f"{place}: cannot be read ({error.strerror or error})") from error
    raise OutputError(f"{place}: exists and is not {kind}; choose another output")


def check_own(paths: Iterable[Path], manifest: Manifest) -> None:
    """Refuse what is in a bundle's folder and not the bundle's own.

    Raises:
        OutputError: naming the first.
    """
    own = {MANIFEST_NAME, *(file.name for file in manifest.all_files)}
    for path in paths:
        if path.is_symlink() or not path.is_file() or not (path.name in own or _is_ranges(path)):
            raise OutputError(f"{path}: is none of the bundle's own files; move it, or choose another output")


def _is_ranges(path: Path) -> bool:
    """Whether a file is what int8 needs, which a killed `flare-export int8` had not put into the manifest yet."""
    try:
        return path.name.endswith(RANGES_SUFFIX) and bool(decode_ranges(path.read_bytes()))
    except BundleError:
        return False


@contextmanager
def new_bundle(place: Path) -> Iterator[Path]:
    """Make an empty folder that becomes the bundle at `place`; see `new_folder`."""
    with new_folder(place, bundle_at) as fresh:
        yield fresh


@contextmanager
def new_folder(place: Path, check: Callable[[Path], object]) -> Iterator[Path]:
    """Make an empty folder that takes the place of what is at `place` when the block ends without an error.

    `check` refuses what must not be replaced.

    Raises:
        OutputError: where it cannot be written, or something else came to the place meanwhile; what was there stays.
    """
    previous = _previous(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(place.parent) as scratch:
            fresh = scratch / place.name
            fresh.mkdir()
            yield fresh
            check(place)
            if previous.exists():  # an export was killed once it was replaced
                previous.rename(scratch / fitted(place.name, ".older"))
            try:
                if place.exists():
                    place.rename(previous)
                fresh.rename(place)
            except BaseException:
                _put_back(place)
                raise
            if previous.exists():
                previous.rename(scratch / fitted(place.name, ".old"))
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror or error})") from error


def _previous(place: Path) -> Path:
    """Return where a bundle is while another takes its place; no sweep takes that for left over."""
    return place.with_name(fitted(f".{place.name}", ".flare-previous"))


def _put_back(place: Path) -> None:
    if not place.exists() and _previous(place).exists():
        _previous(place).rename(place)
