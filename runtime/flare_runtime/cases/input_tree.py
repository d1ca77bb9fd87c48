"""What of a tree of folders is to be segmented: images by their names, and folders without, which may hold DICOM."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flare_runtime.cases.input_folder import FolderContents, is_same, look_into, warn_of
from flare_runtime.errors import UsageError

# Files of these kinds may be slices of a series.
_DICOM = (".dcm", ".ima")


def find_in_tree(source: Path, target: Path) -> tuple[dict[Path, list[Path]], list[Path]]:
    """Return the images of each folder of a tree in the order of their names, and the folders in it that hold none.

    Hidden folders are left out, and a folder is looked into once, whatever links lead to it. Of what else may be meant
    a warning is logged.

    Args:
        source: the top of the tree.
        target: the folder of results, which is left out where it lies in the tree.

    Raises:
        UsageError: where a folder cannot be read.
    """
    images, without, whole = dict[Path, list[Path]](), list[Path](), FolderContents()
    for folder, found in _walk(source, target):
        if found.images:
            images[folder] = found.images
        else:
            without.append(folder)
            for kind in _DICOM:
                found.kinds.pop(kind, None)
        whole.results += found.results
        whole.kinds += found.kinds
    warn_of(source, whole)
    return images, without


def _walk(source: Path, target: Path) -> Iterator[tuple[Path, FolderContents]]:
    """Yield the folders of a tree and what they hold, those that only links lead to behind all others."""
    coming, seen = deque([source]), set[tuple[int, int]]()
    if not is_same(source, target):
        with suppress(OSError):
            seen.add(_identity(target))
    while coming:
        folder = coming.popleft()
        try:
            identity = _identity(folder)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be read ({error.strerror or error})") from error
        if identity in seen:
            continue
        seen.add(identity)
        found = look_into(folder, nested=True)
        yield folder, found
        for below in reversed(found.folders):
            if not below.is_symlink():
                coming.appendleft(below)
            elif not _leads_up(below, source):
                coming.append(below)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _leads_up(link: Path, source: Path) -> bool:
    """Whether a link leads to a folder around itself or around the tree, which would be all of a disk at worst."""
    goal = Path(os.path.realpath(link))
    return any(
        goal in (place, *place.parents) for place in (Path(os.path.realpath(one)) for one in (link.parent, source))
    )
