"""The TensorRT engines of a bundle: built, verified, and only then kept where the runtime finds them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

import msgspec

from flare_export.engine.parity import (
    EngineParity,
    Run,
    case_batches,
    check_parity,
    measure_engine,
    synthetic_batch,
)
from flare_export.engine.precision import check_layers, check_size, read_layers
from flare_runtime.backends.tensorrt.cache import CachedEngine, EngineCache, EngineKey, EngineRecord
from flare_runtime.compute.arrays import FloatArray
from flare_runtime.errors import BundleError
from flare_runtime.imaging.file_names import case_name
from flare_runtime.model.bundle import Bundle
from flare_runtime.model.manifest import BundleFile
from flare_runtime.pipeline.decoding import Decoder

_MIB = 1 << 20


class BuiltEngine(Protocol):
    """An engine just built, that takes and gives arrays of the host.

    Attributes:
        engine: its bytes.
        memory_bytes: what a run takes beside the weights, the tiles and the logits.
    """

    engine: bytes
    memory_bytes: int

    def layer_information(self) -> str:
        """Return TensorRT's description of the layers, as JSON."""
        ...

    def run(self, tiles: FloatArray) -> FloatArray:
        """Return the logits (n, outputs, z, y, x) of `tiles` (n, channels, z, y, x)."""
        ...


@dataclass(frozen=True)
class EngineExport:
    """What exports engines.

    Attributes:
        cache: where they are kept.
        key_of: the key of the engine of a network, by its sha256 and the batch.
        build: builds the engine of an ONNX network for a batch.
        cases: to verify with, each as its channels' files; without any, synthetic patches.
        anew: whether an engine that is there is built anew.
        report: takes what is done, as lines.
    """

    cache: EngineCache
    key_of: Callable[[str, int], EngineKey]
    build: Callable[[bytes, int], BuiltEngine]
    cases: Sequence[Sequence[Path]] = ()
    anew: bool = False
    report: Callable[[str], None] = lambda _line: None

    def run(self, bundle: Bundle, batches: Sequence[int]) -> list[CachedEngine]:
        """Export one engine for every fold and batch.

        Raises:
            BundleError: where the bundle lacks a network.
            DisagreementError: where an engine is refused; those before it are kept.
            OutputError: where the cache cannot be written.
        """
        halves = bundle.networks("fp16")
        if not halves:
            raise BundleError(f"{bundle.path.name}: no fp16 network in the bundle; export it anew")
        pairs = [(half, _same_fold(bundle, half)) for half in halves]
        return [self._export(bundle, half, single, batch) for half, single in pairs for batch in batches]

    def _export(self, bundle: Bundle, half: BundleFile, single: BundleFile, batch: int) -> CachedEngine:
        name = f"{half.name}, batch {batch}"
        built = False

        def build() -> tuple[bytes, EngineRecord]:
            nonlocal built
            built = True
            return self._build(bundle, half, single, batch, name)

        engine = self.cache.find_or_build(self.key_of(half.sha256, batch), build, anew=self.anew)
        self.report(f"{name}: {'kept as' if built else 'already built,'} {engine.path}")
        if not built and isinstance(engine.record, EngineRecord):
            self.report(f"{name}: {_agreement_line(engine.record)}")
        return engine

    def _build(
        self, bundle: Bundle, half: BundleFile, single: BundleFile, batch: int, name: str
    ) -> tuple[bytes, EngineRecord]:
        manifest = bundle.manifest
        # All that can be wrong with the inputs comes before the minutes of a build.
        onnx, (reference, called) = bundle.read_network(half), _reference(bundle.read_network(single))
        tiles = list(case_batches(self.cases, manifest, batch)) or [synthetic_batch(manifest, batch)]
        started = perf_counter()
        built = self.build(onnx, batch)
        self.report(
            f"{name}: built in {perf_counter() - started:.0f} s, {len(built.engine) / _MIB:.1f} MiB (ONNX "
            f"{len(onnx) / _MIB:.1f} MiB), takes {built.memory_bytes / _MIB:.0f} MiB to run"
        )
        layers = read_layers(built.layer_information())
        described = not self.key_of(half.sha256, batch).version_compatible
        self.report(f"{name}: {check_layers(layers, described=described)}")
        check_size(len(built.engine), len(onnx))
        decoder = Decoder(manifest.network.outputs, manifest.regions_class_order)
        parity = measure_engine(built.run, reference, tiles, decoder)
        record = _record(parity, called, _subject(self.cases), built.memory_bytes)
        self.report(f"{name}: {_agreement_line(record)}")
        check_parity(parity)
        return built.engine, record


def _same_fold(bundle: Bundle, half: BundleFile) -> BundleFile:
    for file in bundle.networks("fp32"):
        if file.fold == half.fold:
            return file
    raise BundleError(f"{bundle.path.name}: no fp32 network of fold {half.fold} to compare with; export it anew")


def _reference(onnx: bytes) -> tuple[Run, str]:
    from flare_runtime.backends.onnxruntime_cpu import OnnxRuntimeNetwork

    network = OnnxRuntimeNetwork(onnx)  # on the CPU, also where the installed build is the one for GPUs
    import onnxruntime

    return network.run, f"onnxruntime {onnxruntime.__version__} fp32"


def _subject(cases: Sequence[Sequence[Path]]) -> str:
    names = [case_name(files[0]) for files in cases]
    return ", ".join(names) or "synthetic patches"


def _record(parity: EngineParity, reference: str, subject: str, memory_bytes: int) -> EngineRecord:
    return EngineRecord(
        reference=reference,
        subject=subject,
        tiles=parity.tiles,
        max_logit_difference=parity.max_logit_difference,
        relative_error=parity.relative_error,
        memory_bytes=memory_bytes,
        **msgspec.structs.asdict(parity.agreement),
    )


def _agreement_line(record: EngineRecord) -> str:
    dice = f"Dice {record.dice:.6f}" if record.foreground_voxels else "no foreground in the reference"
    return (
        f"against {record.reference} on {record.tiles} tile(s) of {record.subject}: {dice}, logits within "
        f"{record.max_logit_difference:.2g}, scores of the worst tile off by {record.relative_error:.2g} of their "
        "deviation"
    )
