"""A model on disk: a directory or a zip with a manifest and the files it lists, every hash checked."""

import hashlib
import os
import shlex
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from flare_runtime.errors import BundleError, first_line
from flare_runtime.model.manifest import BundleFile, Manifest, decode_manifest
from flare_runtime.model.zip_archive import read_member
from flare_runtime.paths import as_path

MANIFEST_NAME = "manifest.json"
_MAX_MANIFEST_BYTES = 16 << 20
# The system's errors, and all that `zipfile` raises on what is no sound archive.
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, struct.error, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: the directory or zip file.
        manifest: its validated manifest.
        sha256: of the manifest, which holds the hashes of all other files and so identifies the bundle.
    """

    path: Path
    manifest: Manifest
    sha256: str

    @classmethod
    def open(cls, path: str | Path) -> "Bundle":
        """Open and validate a bundle; its networks are read and hashed only when they are needed.

        Raises:
            BundleError: naming the file that is missing or wrong.
        """
        path = Path(path)
        if not os.path.lexists(path):
            raise BundleError(f"{path}: there is no such bundle; give a folder or zip made by flare-export")
        if (path / "plans.json").is_file() and not (path / MANIFEST_NAME).exists():
            command = f"flare-export {shlex.quote(str(path))} -o BUNDLE"
            raise BundleError(f"{path}: is a model folder of nnU-Net; make a bundle of it first: {command}")
        data = _read_member(path, MANIFEST_NAME, _MAX_MANIFEST_BYTES)
        return cls(path, decode_manifest(data, f"{path.name}/{MANIFEST_NAME}"), hashlib.sha256(data).hexdigest())

    @property
    def previous_stage(self) -> "Bundle | None":
        """The model whose mask this one's network sees, of the same bundle; None where there is none."""
        previous = self.manifest.previous_stage
        return None if previous is None else replace(self, manifest=previous.model)

    @property
    def stages(self) -> "tuple[Bundle, ...]":
        """The models that segment a case one after the other; this one is the last."""
        return (self,) if self.previous_stage is None else (*self.previous_stage.stages, self)

    def networks(self, precision: str = "fp32") -> list[BundleFile]:
        """Return the network files of one precision, one per fold."""
        return [file for file in self.manifest.files if file.role == "network" and file.precision == precision]

    @property
    def folds(self) -> int:
        """How many networks the model is the mean of."""
        return len({file.fold for file in self.manifest.files if file.role == "network"})

    def activations(self) -> list[BundleFile]:
        """Return the files that the float32 networks need to be run in int8, one per fold or none."""
        return [file for file in self.manifest.files if file.role == "activations"]

    def read(self, file: BundleFile) -> bytes:
        """Return a file's bytes, which are exactly the ones the manifest was written for.

        Raises:
            BundleError: where the file is missing, or its size or hash differs.
        """
        data = _read_member(self.path, file.name, file.bytes)
        if len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256:
            raise BundleError(
                f"{self.path.name}/{file.name}: changed since export (size or sha256 differs); export it anew"
            )
        return data

    def read_network(self, file: BundleFile) -> bytes:
        """Return a network's bytes, which are one that the manifest describes and that an engine may be given.

        Raises:
            BundleError: as `read` does, and where the ONNX holds anything else.
        """
        from flare_runtime.model.onnx_file import check_network  # loads NumPy, which opening a bundle does without

        data = self.read(file)
        check_network(data, f"{self.path.name}/{file.name}", self.manifest)
        return data


def _read_member(path: Path, name: str, most: int) -> bytes:
    """Read at most `most` + 1 bytes of a bundle's file, so that a swapped giant costs nothing."""
    try:
        if path.is_dir():
            file = path / name
            if file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
                raise BundleError(f"{path.name}/{name}: links out of the bundle")
            with _open_regular(file) as stream:
                return stream.read(min(os.fstat(stream.fileno()).st_size, most) + 1)
        with _open_regular(path) as stream:
            return read_member(stream, name, most)
    except (FileNotFoundError, KeyError) as error:
        cure = "; give a folder or zip made by flare-export" if name == MANIFEST_NAME else ""
        raise BundleError(f"{path.name}/{name}: missing from the bundle{cure}") from error
    except _UNREADABLE as error:
        raise BundleError(f"{path.name}/{name}: cannot be read ({first_line(error)})") from error


def _open_regular(path: Path) -> BinaryIO:
    """Open a file, but nothing that could block or has no end."""
    stream = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError("it is not a regular file")
    return stream


def open_bundle(bundle: str | os.PathLike[str] | Bundle | None = None) -> Bundle:
    """Return a bundle that is open already, or open it; the model that is shipped where None.

    Raises:
        UsageError: where it is neither a bundle nor a path.
        BundleError: as `Bundle.open` and `default_bundle` do.
    """
    if isinstance(bundle, Bundle):
        return bundle
    return Bundle.open(default_bundle() if bundle is None else as_path(bundle, "the bundle"))


def default_bundle() -> Path:
    """Return the model that ships with the package, or with the source tree it is run from.

    Raises:
        BundleError: where neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "models" / "default", package.parents[1] / "models" / "default"):
        if (candidate / MANIFEST_NAME).is_file():
            return candidate
    raise BundleError("this installation holds no default model; name a bundle with -m")
