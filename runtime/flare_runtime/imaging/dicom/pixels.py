"""The grey values of a series' slices, decoded side by side into one array."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import groupby
from zipfile import ZipFile

import numpy as np

from flare_runtime.compute.arrays import AnyArray
from flare_runtime.errors import CaseError, first_line
from flare_runtime.imaging.dicom.code_stream import check_sizes
from flare_runtime.imaging.dicom.files import DicomFile, archive_of
from flare_runtime.imaging.dicom.headers import Slice, check_unchanged
from flare_runtime.imaging.volume import ALL_SLICES

# Decoders release the interpreter; more threads than these wait for the disk.
_THREADS = 4
# By encoding. GDCM, which pydicom takes first, ends the process where a code stream is damaged. What nothing else
# decodes, such as lossless JPEG, it decodes in a process of its own.
_DECODERS = {
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
}
# Encodings by JPEG, JPEG-LS and JPEG 2000.
_CODED = "1.2.840.10008.1.2.4."
# What pydicom says of pixels that end early.
_TRUNCATED = ("cannot reshape", "less than", "not enough")


def stored_type(slices: Iterable[Slice]) -> np.dtype[np.generic]:
    """Return the type that holds the pixels of all slices: float32 where each has a scale of its own."""
    slices = list(slices)
    if len({(one.slope, one.intercept) for one in slices}) > 1:
        return np.dtype(np.float32)
    return np.result_type(*{one.dtype for one in slices})


def read_voxels(slices: Sequence[Slice], wanted: slice = ALL_SLICES) -> AnyArray:
    """Return the voxels (z, y, x) of slices of one size; intensities where their scales differ, else what is stored.

    Slices that are not `wanted` are not decoded; their voxels are 0.

    Raises:
        CaseError: `truncated` or `corrupt` where pixels are missing or cannot be decoded, `nonfinite` where their scale
            makes them infinite, `changed`, `unreadable`.
    """
    if any(one.syntax.startswith(_CODED) and one.syntax not in _DECODERS for one in slices[wanted]):
        from flare_runtime.imaging.dicom.apart import read_voxels_apart

        return read_voxels_apart(slices, wanted)
    return decode(slices, wanted)


def decode(slices: Sequence[Slice], wanted: slice) -> AnyArray:
    """Do what `read_voxels` does, in this process."""
    dtype = stored_type(slices)
    scaled = dtype.kind == "f"
    voxels = np.zeros((len(slices), *slices[0].shape), dtype)  # which takes no memory where nothing is written

    def read(numbered: Sequence[tuple[int, Slice]], archive: ZipFile | None) -> None:
        file = numbered[0][1].file
        frames = _frames([one for _, one in numbered], archive)
        for (place, one), pixels in zip(numbered, frames, strict=True):
            if pixels.shape != one.shape:
                text = f"{file.name}: {pixels.shape} pixels were decoded, the header says {one.shape}"
                raise CaseError("corrupt", text)
            with np.errstate(over="ignore"):
                voxels[place] = pixels * np.float64(one.slope) + one.intercept if scaled else pixels
            if scaled and not np.isfinite(voxels[place]).all():
                text = f"{file.name}: the slope {one.slope:g} and the intercept {one.intercept:g} make pixels infinite"
                raise CaseError("nonfinite", text)

    in_order = sorted(list(enumerate(slices))[wanted], key=_file_and_frame)
    by_file = groupby(in_order, key=lambda numbered: numbered[1].file)
    files = [list(group) for _, group in by_file]
    with archive_of(one.file for one in slices[wanted]) as archive, ThreadPoolExecutor(_THREADS, "dicom") as threads:
        for _ in threads.map(lambda numbered: read(numbered, archive), files):
            pass
    return voxels


def _file_and_frame(numbered: tuple[int, Slice]) -> tuple[DicomFile, int]:
    return numbered[1].file, numbered[1].frame


def _frames(slices: Sequence[Slice], archive: ZipFile | None) -> Iterator[AnyArray]:
    """Yield the frames of one file that slices are, which are in ascending order."""
    from pydicom import dcmread
    from pydicom.encaps import generate_fragments
    from pydicom.pixels.utils import iter_pixels

    one, frames = slices[0], [one.frame for one in slices]
    file = one.file
    try:
        with file.open(archive) as stream:
            check_unchanged(slices, archive)
            # Of a member of an archive the checksum is compared at its end.
            whole = stream if file.member is None else BytesIO(stream.read())
            if one.syntax.startswith(_CODED):
                coded = dcmread(whole, force=True, specific_tags=["PixelData"]).PixelData
                check_sizes(generate_fragments(coded), one.shape, file.name)
                whole.seek(0)
            decoder = _DECODERS.get(one.syntax, "")
            yield from iter_pixels(whole, indices=frames, raw=True, decoding_plugin=decoder)
    except CaseError:
        raise
    except OSError as error:
        raise CaseError("unreadable", f"{file.name}: {error.strerror or error}") from error
    except Exception as error:  # pydicom and its decoders raise whatever damaged pixels lead them to
        text = first_line(error)
        reason = "truncated" if any(words in text for words in _TRUNCATED) else "corrupt"
        raise CaseError(reason, f"{file.name}: its pixels cannot be read ({text}); export it anew") from error
