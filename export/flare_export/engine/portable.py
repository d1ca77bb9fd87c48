"""Engines of TensorRT for RTX: built for GPUs that need not be here, inspected, and kept or written to be carried."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import msgspec

from flare_export.engine.builder import BuildOptions, build_engine
from flare_export.engine.inspection import Description, describe
from flare_export.graph.batched_graph import with_batch
from flare_runtime.backends.tensorrt.cache import (
    CachedEngine,
    EngineCache,
    EngineInspection,
    EngineKey,
    is_engine_file,
)
from flare_runtime.backends.tensorrt.library import RTX
from flare_runtime.backends.tensorrt.targets import compute_capability_of
from flare_runtime.errors import BundleError
from flare_runtime.files.cache_folder import write_private
from flare_runtime.files.output import check_folder
from flare_runtime.files.target import check_targets
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import BundleFile

_MIB = 1 << 20
# Enough to tell an engine or an inspection.
_HEAD_BYTES = 256


class InspectionFile(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside an engine, for people and their programs.

    Attributes:
        engine: the name of its file.
        sha256: of that file.
        key: everything that the engine depends on.
        summary: what was checked.
        description: every layer, in TensorRT's words.
    """

    engine: str
    sha256: str
    key: EngineKey
    summary: EngineInspection
    description: Description


@dataclass(frozen=True)
class PortableExport:
    """What exports portable engines.

    Attributes:
        cache: the folder that they go to.
        carried: whether that is no cache but a folder to be carried elsewhere, where all is written anew.
        workspace_mib: bounds the scratch memory of a layer; None leaves it to TensorRT.
        anew: whether an engine that is in the cache is built anew.
        report: takes what is done, as lines.
    """

    cache: EngineCache
    carried: bool = False
    workspace_mib: int | None = None
    anew: bool = False
    report: Callable[[str], None] = lambda _line: None

    def run(self, bundle: Bundle, targets: Sequence[str], batches: Sequence[int]) -> list[CachedEngine]:
        """Export one engine for every fold, target and batch.

        Raises:
            BundleError: where the bundle lacks a network.
            ModelError: where TensorRT cannot read a network.
            DisagreementError: where an engine is refused; those before it are kept.
            OutputError: where the folder cannot be written.
        """
        halves = bundle.networks("fp16")
        if not halves:
            raise BundleError(f"{bundle.path.name}: no fp16 network in the bundle; export it anew")
        patch = bundle.manifest.patch
        wanted = [
            (half, target, EngineKey.of(RTX, half.sha256, ("", compute_capability_of(target)), patch, batch))
            for half in halves
            for target in targets
            for batch in batches
        ]
        if self.carried:
            self._check_targets([self.cache.path(key) for _, _, key in wanted])
        return [self._export(bundle, *one) for one in wanted]

    def _check_targets(self, engines: Sequence[Path]) -> None:
        check_targets(engines, over=is_engine_file, head_bytes=_HEAD_BYTES)
        check_targets(map(_inspection_path, engines), over=_is_inspection, head_bytes=_HEAD_BYTES)
        for folder in {path.parent for path in engines}:
            check_folder(folder)

    def _export(self, bundle: Bundle, half: BundleFile, target: str, key: EngineKey) -> CachedEngine:
        name = f"{half.name}, {target}, batch {key.batch}"
        built: list[tuple[Description, EngineInspection]] = []

        def build() -> tuple[bytes, EngineInspection]:
            engine, description = self._build(bundle.read_network(half), target, key.batch, name)
            network = bundle.manifest.network
            shape = (key.batch, bundle.manifest.inputs, *key.patch)
            summary = description.check(shape, (key.batch, network.outputs, *key.patch))
            built.append((description, summary))
            return engine, summary

        kept = self.cache.keep(key, *build()) if self.carried else self.cache.find_or_build(key, build, anew=self.anew)
        if isinstance(kept.record, EngineInspection):
            for line in _summary_lines(kept.record):
                self.report(f"{name}: {line}")
        digest = hashlib.sha256(kept.path.read_bytes()).hexdigest()
        for description, summary in built:
            content = InspectionFile(
                engine=kept.path.name, sha256=digest, key=key, summary=summary, description=description
            )
            write_private(_inspection_path(kept.path), msgspec.json.format(msgspec.json.encode(content)))
        self.report(f"{name}: {'kept as' if built else 'already built,'} {kept.path}, sha256 {digest}")
        return kept

    def _build(self, onnx: bytes, target: str, batch: int, name: str) -> tuple[bytes, Description]:
        started = perf_counter()
        options = BuildOptions(workspace_mib=self.workspace_mib, target=target)
        built = build_engine(RTX, with_batch(onnx, batch), options)
        seconds, size = perf_counter() - started, len(built.engine) / _MIB
        self.report(f"{name}: built in {seconds:.1f} s, {size:.1f} MiB (ONNX {len(onnx) / _MIB:.1f} MiB)")
        return built.engine, describe(built.details)


def _summary_lines(summary: EngineInspection) -> Iterator[str]:
    memory, weights = (size / _MIB for size in (summary.memory_bytes, summary.weights_bytes))
    yield f"{summary.convolutions} convolutions in float16 among {summary.layers} layers"
    yield f"takes {memory:.0f} MiB to run and {weights:.0f} MiB of weights"
    yield "; ".join((*summary.inputs, *summary.outputs))


def _inspection_path(engine: Path) -> Path:
    return engine.with_suffix(".json")


def _is_inspection(head: bytes) -> bool:
    return b'"engine": "tensorrt-rtx-' in head
