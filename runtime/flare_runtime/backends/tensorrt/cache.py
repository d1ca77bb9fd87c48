"""TensorRT engines of this machine, each kept under everything it depends on and with what is known of it.

An engine is native code. A bundle holds none, and a file counts only where the user alone can have written it, it is
whole, and it is the one that was asked for.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import msgspec

from flare_runtime.backends.tensorrt.library import TENSORRT, Package, PackageName
from flare_runtime.backends.tensorrt.targets import target_of
from flare_runtime.compute.arrays import Shape3
from flare_runtime.errors import OutputError
from flare_runtime.files.cache_folder import read_private, write_private
from flare_runtime.files.output import check_folder
from flare_runtime.model.manifest import Agreement

_MAGIC = b"flare-lite engine 1 "
_SUFFIX = ".engine"
_MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on.

    Attributes:
        onnx_sha256: of the network it was built from.
        tensorrt: the version that built it.
        gpu: the GPU's name; empty where every GPU of the compute capability can run it.
        compute_capability: of the GPU, such as `9.0`.
        patch: the network's input size, (z, y, x).
        batch: the number of tiles it takes at once.
        version_compatible: whether later versions and the lean runtime can run it.
        package: that built it and runs it.
    """

    onnx_sha256: str
    tensorrt: str
    gpu: str
    compute_capability: str
    patch: Shape3
    batch: int
    version_compatible: bool = False
    package: PackageName = TENSORRT.name

    @classmethod
    def of(
        cls,
        package: Package,
        onnx_sha256: str,
        card: tuple[str, str],
        patch: Shape3,
        batch: int,
        *,
        version_compatible: bool = False,
    ) -> "EngineKey":
        """Return the key of an engine that an installed package builds.

        Args:
            package: the package.
            onnx_sha256: of the bundle's float16 network.
            card: the name of the GPU and its compute capability.
            patch: the network's input size, (z, y, x).
            batch: the number of tiles it takes at once.
            version_compatible: whether later versions and the lean runtime can run it.
        """
        name, compute_capability = card
        return cls(
            onnx_sha256=onnx_sha256,
            tensorrt=package.version(),
            gpu="" if package.portable else name,
            compute_capability=compute_capability,
            patch=patch,
            batch=batch,
            version_compatible=version_compatible,
            package=package.name,
        )

    @property
    def name(self) -> str:
        """The name of its files: what a person asks for, and a digest of everything."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]
        return f"{self.package}-{self.tensorrt}-{target_of(self.compute_capability)}-batch{self.batch}-{digest}"


class EngineInspection(msgspec.Struct, frozen=True, kw_only=True, tag="inspected"):
    """What the builder says of an engine that nobody has run yet.

    Attributes:
        layers: how many it has.
        convolutions: how many of them are convolutions in float16.
        inputs: name, type, format and shape of what it reads, in one line each.
        outputs: the same of what it writes.
        weights_bytes: what its weights take on the GPU.
        memory_bytes: what a run takes there beside the weights, the tiles and the logits.
    """

    layers: int
    convolutions: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights_bytes: int
    memory_bytes: int


class EngineRecord(Agreement, frozen=True, kw_only=True, tag="verified"):
    """How far an engine agrees with its reference, as measured before it was kept.

    Attributes:
        reference: what it was compared with.
        subject: what it was run on.
        tiles: how many, in batches of different tiles.
        max_logit_difference: largest absolute difference of the logits.
        relative_error: the worst tile's root mean square difference of a class's scores, over their standard deviation.
        memory_bytes: what a run takes on the GPU beside the weights, the tiles and the logits.
    """

    reference: str
    subject: str
    tiles: int
    max_logit_difference: float
    relative_error: float
    memory_bytes: int


Knowledge: TypeAlias = EngineRecord | EngineInspection


@dataclass(frozen=True)
class CachedEngine:
    """An engine whose file was checked, or was just written: its key, its bytes, what is known of it, where it lies."""

    key: EngineKey
    engine: bytes
    record: Knowledge
    path: Path


@dataclass(frozen=True)
class _Header:
    key: EngineKey
    record: Knowledge
    engine_bytes: int


class EngineCache:
    """A private folder of engines.

    Args:
        folder: from `cache_folder`.
        report: takes lines: why a file was not taken, and that another process is waited for.
    """

    def __init__(self, folder: Path, report: Callable[[str], None] = lambda _line: None) -> None:
        self._folder = folder
        self._report = report

    def find(self, key: EngineKey) -> CachedEngine | None:
        """Return the engine of exactly this key, or None where there is none that can be trusted."""
        path = self.path(key)
        content = self._read(path)
        if content is None:
            return None
        try:
            header, engine = _decode(content)
        except ValueError as error:
            self._report(f"{path.name} is not used: {error}")
            return None
        if header.key != key:
            self._report(f"{path.name} is not used: it holds the engine of another key")
            return None
        return CachedEngine(key, engine, header.record, path)

    def find_runnable(
        self, wanted: Sequence[EngineKey], *, lean: bool = False, memory_bytes: int | None = None
    ) -> list[CachedEngine]:
        """Return the best engines that this machine's TensorRT can run, all of one batch; none where one is missing.

        Larger batches come first, then engines of exactly this version, then the latest of earlier ones.

        Args:
            wanted: one key for each network, with the version that is to run it; the batch does not count.
            lean: it is the lean runtime, which runs version-compatible engines alone.
            memory_bytes: what all of them may take to run, by their records.
        """
        held = sorted(self._keys(), key=lambda key: (not key.version_compatible, _version(key.tensorrt)), reverse=True)
        for batch in sorted({key.batch for key in held}, reverse=True):
            engines = [self._first(held, replace(key, batch=batch), lean) for key in wanted]
            whole = [engine for engine in engines if engine is not None]
            if len(whole) < len(wanted):
                continue
            taken = sum(engine.record.memory_bytes for engine in whole)
            if memory_bytes is None or taken <= memory_bytes:
                return whole
            self._report(f"engines of batch {batch} are not used: they take {taken:,} bytes of {memory_bytes:,}")
        return []

    def _first(self, held: Sequence[EngineKey], wanted: EngineKey, lean: bool) -> CachedEngine | None:
        suitable = (key for key in held if _suits(key, wanted, lean))
        return next((engine for key in suitable if (engine := self.find(key))), None)

    def find_or_build(
        self, key: EngineKey, build: Callable[[], tuple[bytes, Knowledge]], *, anew: bool = False
    ) -> CachedEngine:
        """Return the engine of `key`; where there is none, build it, in one process while others wait.

        Args:
            key: of the engine.
            build: returns an engine and what is known of it; what it raises is passed on and nothing kept.
            anew: an engine that is there is dropped first, so that it does not outlive a build that is refused.

        Raises:
            OutputError: where the cache cannot be written.
        """
        path = self.path(key)
        with self._locked(key):
            if anew:
                path.unlink(missing_ok=True)
            elif found := self.find(key):
                return found
            check_folder(self._folder)  # and sweep what a killed process left half-written
            return self.keep(key, *build())

    def keep(self, key: EngineKey, engine: bytes, record: Knowledge) -> CachedEngine:
        """Write an engine in place of the one that the key had.

        Raises:
            OutputError: where it cannot be written.
        """
        path = self.path(key)
        write_private(path, *_encode(_Header(key, record, len(engine)), engine))
        return CachedEngine(key, engine, record, path)

    def path(self, key: EngineKey) -> Path:
        """Return where the engine of a key is or would be."""
        return self._folder / f"{key.name}{_SUFFIX}"

    def _keys(self) -> Iterator[EngineKey]:
        """Yield the keys of all files; only `find` says whether a file can be trusted."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            start = self._read(path, _MAX_HEADER_BYTES)
            if start is not None:
                try:
                    yield _split(start)[1].key
                except ValueError as error:
                    self._report(f"{path.name} is not used: {error}")

    def _read(self, path: Path, most: int = -1) -> bytes | None:
        try:
            return read_private(path, most)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._report(f"{path.name} is not used: {error.strerror or error}")
            return None

    @contextmanager
    def _locked(self, key: EngineKey) -> Iterator[None]:
        """Hold the key's lock, which the kernel frees with the process, however that ends."""
        path = self._folder / f"{key.name}.lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise OutputError(f"{path}: cannot be opened ({error.strerror or error})") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._report("another process builds this engine; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def is_engine_file(head: bytes) -> bool:
    """Whether a file that begins so was written here, and may be replaced."""
    return head.startswith(_MAGIC)


def _suits(key: EngineKey, wanted: EngineKey, lean: bool) -> bool:
    if key != replace(wanted, tensorrt=key.tensorrt, version_compatible=key.version_compatible):
        return False
    if not key.version_compatible:
        return key.tensorrt == wanted.tensorrt and not lean
    built, runs = _version(key.tensorrt), _version(wanted.tensorrt)
    return built[:1] == runs[:1] and built <= runs


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _encode(header: _Header, engine: bytes) -> tuple[bytes, bytes, bytes]:
    start = msgspec.json.encode(header) + b"\n"
    digest = hashlib.sha256(start)
    digest.update(engine)
    return _MAGIC + digest.hexdigest().encode() + b"\n", start, engine


def _decode(content: bytes) -> tuple[_Header, bytes]:
    """Return a file's header and engine, every byte of them checked.

    Raises:
        ValueError: that says what is wrong.
    """
    digest, header, start = _split(content)
    engine = content[start:]
    if len(engine) != header.engine_bytes:
        raise ValueError(f"it is cut short: {len(engine)} bytes of {header.engine_bytes}")
    if hashlib.sha256(memoryview(content)[len(_MAGIC) + len(digest) + 1 :]).hexdigest().encode() != digest:
        raise ValueError("it is damaged, its sha256 differs")
    return header, engine


def _split(content: bytes) -> tuple[bytes, _Header, int]:
    """Return a file's digest, its header, and where the engine starts; the digest is not compared."""
    end = content.find(b"\n", 0, _MAX_HEADER_BYTES)
    start = content.find(b"\n", end + 1, _MAX_HEADER_BYTES) + 1
    if not content.startswith(_MAGIC) or end < 0 or not start:
        raise ValueError("it is no engine file")
    try:
        header = msgspec.json.decode(content[end + 1 : start], type=_Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"its header is damaged ({error})") from error
    return content[len(_MAGIC) : end], header, start
